"""Zeros around values that windows read beyond their ends: room for them in the values' own buffers.

A convolution with padding reads zeros before and behind an axis. Where channels lie innermost and the axis outermost,
those are numbers before and behind all of the value's own. So its buffer is made that much longer, and the convolution
needs no copy.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cgru.engines.host.program import windows
from cgru.engines.host.program.plan import LINE, row_major
from cgru.engines.host.program.tracing import DELAY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cgru.engines.host.program.values import Values
    from cgru.types import Array


def channels_last(shape: Sequence[int]) -> list[int]:
    """The order of axes in which channels, the second axis, lie innermost."""
    return [0, *range(2, len(shape)), 1]


def fit(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether elements of these strides have channels innermost."""
    if len(shape) < 3:
        return False
    order = channels_last(shape)
    expected = row_major([shape[axis] for axis in order])
    return all(strides[axis] == stride or shape[axis] == 1 for axis, stride in zip(order, expected, strict=True))


def wanted(values: Values) -> tuple[dict[str, tuple[int, int]], set[str]]:
    """By value how many zeros windows find before and behind it, if channels lie innermost; and all that they read."""
    found: dict[str, tuple[int, int]] = {}
    read: set[str] = set()
    for node in values.graph.nodes:
        values.node = node
        pads = windows.pads(values, node)
        if pads is None:
            continue
        places = np.pad(values.trace.places(node.inputs[0]), [(0, 0), (0, 0), *pads])
        for number in np.unique(values.trace.base_of(places)):
            name = values.trace.bases[number]
            if not isinstance(name, str) or name in {*values.graph.constants, *values.graph.states}:
                continue
            if len(values.shape(name)) < 3:
                continue
            read.add(name)
            here = values.trace.base_of(places) == number
            front, behind = _beyond(places % DELAY, here, places == 0, values.shape(name))
            if front or behind:
                before = found.get(name, (0, 0))
                found[name] = max(before[0], front), max(before[1], behind)
    values.node = None
    for node in reversed(values.graph.nodes):  # a shift's frames are its input's own
        result = node.outputs[0]
        if values.streams and values.graph.timing.roles.get(node.name) == "shift" and result in read:
            name = next(name for name in node.inputs if values.timed(name))
            if name not in values.trace.of and len(values.shape(name)) == len(values.shape(result)):
                read.add(name)
                if result in found:
                    before = found.get(name, (0, 0))
                    found[name] = max(before[0], found[result][0]), max(before[1], found[result][1])
    return found, read


def _beyond(elements: Array, own: Array, zeros: Array, shape: Sequence[int]) -> tuple[int, int]:
    """How far lines along the last axis, of a value's elements and zeros, go beyond the value's ends."""
    order = channels_last(shape)
    inner = np.arange(math.prod(shape)).reshape([shape[axis] for axis in order]).transpose(np.argsort(order)).ravel()
    first = last = 0
    steps = np.arange(elements.shape[-1])
    for line in np.ndindex(*elements.shape[:-1]):
        inside = np.flatnonzero(own[line])
        if len(inside) < 2 or not np.all(own[line] | zeros[line]):
            continue
        known = inner[elements[line][inside]]
        stride = (known[1] - known[0]) // (inside[1] - inside[0])
        expected = known[0] + (steps - inside[0]) * stride
        if np.array_equal(expected[inside], known):
            first, last = min(first, expected.min()), max(last, expected.max() - len(inner) + 1)
    return tuple(-(-int(size) // LINE) * LINE for size in (-first, last))  # type: ignore[return-value]
