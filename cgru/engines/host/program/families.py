"""By operator what lowers it; one file a family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cgru.engines.host.program import along, dense, elements, moving, recurrence, windows

if TYPE_CHECKING:
    from cgru.engines.host.program.lowering import Lower

LOWER: dict[str, Lower] = {
    name: lower
    for family in (elements, dense, moving, along, windows, recurrence)
    for name, lower in family.LOWER.items()
}
