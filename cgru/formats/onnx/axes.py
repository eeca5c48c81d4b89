"""What the axes of a GRU's output count, and what becomes of that where a graph transposes, reshapes or turns it.

(("T",), ("B",), ("D", "H")) has steps, sequences, and in its last axis directions and hidden units. "-T" are steps from
the last to the first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    Axes = tuple[tuple[str, ...], ...]
    Sizes = Mapping[str, Any]
    """How many of each there are, where that is known: an integer, or what stands for one."""


def transposed(axes: Axes, perm: list[int] | None, sizes: Sizes) -> Axes | None:
    """The axes in another order."""
    perm = list(range(len(axes)))[::-1] if perm is None else perm
    return tuple(axes[i] for i in perm) if sorted(perm) == list(range(len(axes))) else None


def squeezed(axes: Axes, which: list[int] | None, sizes: Sizes) -> Axes | None:
    """Axes of size 1 leave; without `which` those would, too, that happen to be 1 in a call."""
    if which is None or any(not -len(axes) <= i < len(axes) or axes[i] != () for i in which):
        return None
    gone = {i % len(axes) for i in which}
    return tuple(axis for i, axis in enumerate(axes) if i not in gone)


def turned(axes: Axes, which: int) -> Axes | None:
    """The steps in the other order, if `which` is their axis."""
    other: dict[tuple[str, ...], tuple[str, ...]] = {("T",): ("-T",), ("-T",): ("T",)}
    which = which + len(axes) if which < 0 else which
    if not 0 <= which < len(axes) or axes[which] not in other:
        return None
    return (*axes[:which], other[axes[which]], *axes[which + 1 :])


def reshaped(axes: Axes, shape: list[Any] | None, sizes: Sizes) -> Axes | None:
    """The same counts in the same order, grouped anew: 0 keeps an axis, -1 takes what the others leave."""
    if shape is None or shape.count(-1) > 1:
        return None
    counts = [count for axis in axes for count in axis]
    hole = shape.index(-1) if -1 in shape else len(shape)
    known = {count: size for count, size in sizes.items() if isinstance(size, int)}

    def take(i: int, end: int) -> tuple[str, ...] | None:
        """What dimension i takes from the start (0) or the end (-1) of the counts left."""
        if shape[i] == 0:
            group = axes[i] if i < len(axes) else None
            left = None if group is None else counts[: len(group)] if end == 0 else counts[len(counts) - len(group) :]
            if group is None or tuple(left or ()) != group:
                return None
            del counts[slice(0, len(group)) if end == 0 else slice(len(counts) - len(group), None)]
            return group
        if counts and sizes.get(counts[end].lstrip("-")) == shape[i]:
            return (counts.pop(end),)
        if not isinstance(shape[i], int):
            return None
        taken: list[str] = []
        while counts and counts[end] in known and math.prod(known[c] for c in taken) < shape[i]:
            taken.append(counts.pop(end))
        if math.prod(known[c] for c in taken) != shape[i]:
            return None
        return tuple(taken if end == 0 else taken[::-1])

    front = [take(i, 0) for i in range(hole)]
    back = [take(i, -1) for i in range(len(shape) - 1, hole, -1)][::-1]
    if -1 in shape:
        front.append(tuple(counts))
    elif counts:
        return None
    groups = [*front, *back]
    return None if None in groups else tuple(group for group in groups if group is not None)


MOVERS = {"Transpose": transposed, "Squeeze": squeezed, "Reshape": reshaped}
"""By operator: the axes after a node, or None where that cannot be told."""
