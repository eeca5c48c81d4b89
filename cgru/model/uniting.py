"""Names of dynamic axes that are one size: exporters give each input's axes names of their own.

Where a node's shapes agree only if one name is another, it is. A call checks it, as it checks every size of its inputs.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from cgru.model.nodes.sizes import Size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from cgru.model.nodes.table import Sizes

MOST_NAMES = 6
"""Of dynamic axes at one node, of which two may be one."""


class OneAxis(Exception):  # noqa: N818 - it asks for another try
    """Names, and those that they shall have."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = dict(names)


def renamed(shape: Sizes, names: Mapping[str, str]) -> Sizes:
    """A shape under other names."""
    return tuple(Size(names[size]) if isinstance(size, Size) and size in names else size for size in shape)


def find(
    inputs: Iterable[Sizes], shapes: Sequence[Sizes], agree: Callable[[Mapping[str, str]], bool]
) -> dict[str, str] | None:
    """The one way to rename axes with which a node's shapes agree, None where there is none, or more than one.

    Names that an input has both stay two.
    """
    for ways in _ways([set(shape) for shape in inputs], shapes):
        fitting = [way for way in ways if agree(way)]
        if fitting:
            return fitting[0] if len(fitting) == 1 else None
    return None


def _ways(together: list[set[int | Size]], shapes: Sequence[Sizes]) -> Iterator[list[dict[str, str]]]:
    """One name for another, then two for two others."""
    found = dict.fromkeys(size for shape in shapes for size in shape if isinstance(size, Size) and size.isidentifier())
    names = list(map(str, found))[:MOST_NAMES]
    pairs = [(a, b) for a, b in combinations(names, 2) if not any({a, b} <= shape for shape in together)]
    yield [{b: a} for a, b in pairs]
    yield [{b: a, d: c} for (a, b), (c, d) in combinations(pairs, 2) if len({a, b, c, d}) == 4]
