"""Values that are only moved, as a view of what is there; where no view can say it, as copies into a buffer.

`tracing` says which element of which value each element is. Once those values have their buffers, elements have
addresses: the number of a buffer, and a place in it, or in its frames before. Addresses that follow strides are a view.
Others are taken apart into boxes that do, and each is copied to where it is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgru.engines.host.program.plan import View
from cgru.engines.host.program.tracing import BASE, DELAY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cgru.engines.host.program.values import Values
    from cgru.types import Array

SPACE = 2**40
"""An address: the number of a buffer times `SPACE`, and its place there from the middle on; below are frames before."""
MIDDLE = SPACE // 2
MOST_BOXES = 24
"""With more boxes a list of places is made."""


def addresses(values: Values, view: View) -> Array:
    """Of each element of a view; 0 where it is the number 0."""
    return values.number_of(view.buffer) * SPACE + MIDDLE + view.offsets() - view.delay * view.buffer.size


def resolved(values: Values, places: Array, ahead: int | None) -> Array:
    """The addresses of places; values that have a time axis are read as late as `ahead` says."""
    trace = values.trace
    found = np.zeros(places.shape, np.int64)
    numbers = trace.base_of(places)
    for number in np.unique(numbers):
        base = trace.bases[number]
        here = numbers == number
        if number == 0:
            continue
        if isinstance(base, float):
            found[here] = addresses(values, values.put_constant(np.float32(base)))
            continue
        delay = places[here] % BASE // DELAY
        view = values.base(str(base), ahead)
        if delay.any():
            view = values.views[str(base)] = values.own(view)
        own = addresses(values, view).ravel()
        found[here] = own[places[here] % DELAY] - delay * view.buffer.size
    return found


def as_view(values: Values, wanted: Array) -> View | None:
    """The view of these addresses; None where they follow no strides. Zeros may be those of a buffer's margins."""
    if not wanted.size:
        return None
    known = wanted != 0
    if not known.any():
        return values.put_constant(np.float32(0)).broadcast(wanted.shape)
    whole = bool(known.all())
    corner = (0,) * wanted.ndim if whole else tuple(np.argwhere(known)[0])
    number = wanted[corner] // SPACE
    buffer = values.buffers[int(number)]
    if np.any(wanted[known] // SPACE != number):
        return None
    if not whole and not (buffer.front or buffer.behind):
        return None
    place = wanted - number * SPACE - MIDDLE
    strides = []
    for axis, size in enumerate(wanted.shape):
        stride = 0
        if size > 1:
            first, second = (np.take(known, range(start, start + size - 1), axis) for start in (0, 1))
            both = np.argwhere(first & second)
            if not len(both):
                return None
            at = tuple(both[0])
            after = (*at[:axis], at[axis] + 1, *at[axis + 1 :])
            stride = int(place[after] - place[at])
        strides.append(stride)
    start = int(place[corner]) - sum(i * stride for i, stride in zip(corner, strides, strict=True))
    expected = View(buffer, start, wanted.shape, tuple(strides)).offsets()
    if not np.array_equal(expected[known], place[known]):
        return None
    inside = expected % buffer.size
    if not whole and not np.all((inside[~known] < buffer.front) | (inside[~known] >= buffer.size - buffer.behind)):
        return None
    frames = expected // buffer.size
    if frames.max() > 0 or (buffer.space in ("constant", "state") and frames.min() < 0):
        return None
    delay = -int(frames.min())
    view = View(buffer, start + delay * buffer.size, wanted.shape, tuple(strides), delay)
    if delay:
        values.make_ring(view, delay)
    return view


def boxes(values: Values, wanted: Array) -> list[tuple[tuple[slice, ...], View | None]] | None:
    """Parts of an array of addresses, each a view or (None) zeros; None where they would be too many."""
    found: list[tuple[tuple[slice, ...], View | None]] = []

    def add(at: tuple[slice, ...]) -> bool:
        part = wanted[at]
        if not part.any():
            found.append((at, None))
            return len(found) <= MOST_BOXES
        view = as_view(values, part) if part.all() else None
        if view is not None:
            found.append((at, view))
            return len(found) <= MOST_BOXES
        axis, groups = _split(part)
        return bool(groups) and all(
            add((*at[:axis], _within(at[axis], wanted.shape[axis], group), *at[axis + 1 :])) for group in groups
        )

    return found if add(tuple(slice(0, size, 1) for size in wanted.shape)) else None


def _within(outer: slice, size: int, inner: slice) -> slice:
    """A slice of a slice."""
    own = range(*outer.indices(size))[inner]
    return slice(own.start, own.stop, own.step)


def _split(part: Array) -> tuple[int, list[slice]]:
    """An axis along which to take an array of addresses apart, and how: by buffers, or by jumps."""
    buffers = part // SPACE
    best: tuple[int, list[slice]] = (0, [])
    for axis, size in enumerate(part.shape):
        if size == 1:
            continue
        lines = np.moveaxis(part, axis, 0).reshape(size, -1)
        own = np.moveaxis(buffers, axis, 0).reshape(size, -1)
        kinds = np.unique(own, axis=0, return_inverse=True)[1].ravel()
        jumps = np.diff(lines, axis=0)
        groups = _by_kind(kinds) or list(_runs(kinds, jumps))
        if 1 < len(groups) <= MOST_BOXES and (not best[1] or len(groups) < len(best[1])):
            best = axis, groups
    return best


def _by_kind(kinds: Array) -> list[slice]:
    """For each kind its indices, if they follow a step; empty where there is one kind, or they do not."""
    groups = []
    for kind in dict.fromkeys(kinds.tolist()):
        own = np.flatnonzero(kinds == kind)
        steps = np.diff(own)
        if len(own) > 1 and np.any(steps != steps[0]):
            return []
        groups.append(slice(int(own[0]), int(own[-1]) + 1, int(steps[0]) if len(own) > 1 else 1))
    return groups if len(groups) > 1 else []


def _runs(kinds: Array, jumps: Array) -> Iterator[slice]:
    """Stretches along which the kind stays, and all lines go on by one stride, the same all the while."""
    first, stride = 0, None
    for i in range(len(jumps)):
        own = jumps[i, 0] if np.all(jumps[i] == jumps[i, 0]) and kinds[i] == kinds[i + 1] else None
        if own is None or (stride is not None and own != stride):
            yield slice(first, i + 1, 1)
            first, stride = i + 1, None
        else:
            stride = own
    yield slice(first, len(kinds), 1)


def copied(values: Values, wanted: Array, order: Sequence[int] | None = None) -> View:
    """A buffer with the elements of these addresses; its axes lie in an order, the last innermost."""
    out = values.new(wanted.shape, order=order)
    if wanted.size:
        write(values, out, wanted)
    return out


def write(values: Values, out: View, wanted: Array) -> None:
    """out := the elements of these addresses."""
    parts = boxes(values, wanted)
    if parts is not None:
        for at, view in parts:
            if view is None:
                values.filled(out.parts(at), 0.0)
            else:
                values.elementwise("copy", out.parts(at), view)
        return
    zero = addresses(values, values.put_constant(np.float32(0)))
    wanted = np.where(wanted == 0, zero, wanted)
    targets, numbers = out.offsets() - out.inside, wanted // SPACE
    for number in np.unique(numbers):
        buffer = values.buffers[int(number)]
        here = numbers == number
        places = wanted[here] - number * SPACE - MIDDLE
        frames = np.unique(places // buffer.size)
        for frame in frames:
            own = places // buffer.size == frame
            source = View(buffer, 0, (buffer.size,), (1,), -int(frame))
            if frame:
                values.make_ring(source, source.delay)
            values.listed(out, targets[here][own], source, places[own] - frame * buffer.size)


def nearest_order(wanted: Array) -> list[int] | None:
    """The order of axes in which most elements lie in memory, the last innermost; None where there is no such."""
    numbers = wanted // SPACE
    kinds, counts = np.unique(numbers[wanted != 0], return_counts=True)
    if not len(kinds):
        return None
    most = kinds[counts.argmax()]
    strides = []
    for axis, size in enumerate(wanted.shape):
        lower, upper = (np.take(numbers, range(start, start + size - 1), axis) == most for start in (0, 1))
        both = np.argwhere(lower & upper)
        if size == 1 or not len(both):
            strides.append(0)
            continue
        one = tuple(both[len(both) // 2])
        after = (*one[:axis], one[axis] + 1, *one[axis + 1 :])
        strides.append(abs(int(wanted[after] - wanted[one])))
    axes = range(len(strides))
    return sorted(axes, key=lambda axis: (-strides[axis] if wanted.shape[axis] > 1 else -(2**62), axis))


def order_along(wanted: Array, axis: int) -> Array:
    """The order of an array's parts along an axis in which they lie in memory, at the middle of the other axes."""
    middle = tuple(slice(None) if i == axis else size // 2 for i, size in enumerate(wanted.shape))
    return np.argsort(wanted[middle], kind="stable")


def runs(wanted: Array) -> list[tuple[int, int]]:
    """Where elements in their order lie side by side: (start, end) of each stretch."""
    flat = wanted.ravel()
    ends = [*(np.flatnonzero(np.diff(flat) != 1) + 1).tolist(), len(flat)]
    return list(zip([0, *ends[:-1]], ends, strict=True))
