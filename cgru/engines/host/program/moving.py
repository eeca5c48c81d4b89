"""Operators that move numbers, where more than a view is needed: over time, or by places that are data.

All others are followed by `tracing`, and are no steps at all.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cgru.engines.host.program.plan import NotSoError, Use
from cgru.model.nodes import movement

if TYPE_CHECKING:
    from cgru.engines.host.program.lowering import Compiler, Lower
    from cgru.model.graph import Node


def over_time(compiler: Compiler, node: Node) -> None:
    """What an operator does with frames: it takes the latest, or calls them by other numbers."""
    role = compiler.graph.timing.roles.get(node.name, "") if compiler.streams else ""
    if role == "last":
        latest(compiler, node)
    elif role == "shift":
        shifted(compiler, node)
    else:
        compiler.refuse("places that are constant", "data")


def latest(compiler: Compiler, node: Node) -> None:
    """The latest frame of a value, kept where none comes."""
    x = compiler.dense(compiler.view(node.inputs[0]))
    shape = compiler.shape(node.outputs[0])
    kept = compiler.put_fresh(np.zeros(x.size, np.float32), node.name)
    out = compiler.new(shape, node.outputs[0])
    state = out._replace(buffer=kept)
    step = compiler.emit("latest", Use(out), Use(x), Use(state), sizes=(x.size,))
    step.more = compiler.more_of(node.inputs[0])
    step.ahead = compiler.ahead[node.inputs[0]]
    compiler.keep_view(out, kept)
    compiler.views[node.outputs[0]] = out


def shifted(compiler: Compiler, node: Node) -> None:
    """Frames before the first, or fewer of them: the same frames, that others call by other numbers."""
    name = next(name for name in node.inputs if compiler.timed(name))
    rest = [compiler.constant(other) for other in node.inputs if other != name]
    if node.operator == "Concat" and any(array is None or np.any(array) for array in rest):
        raise NotSoError(f"{node.title} puts numbers other than 0 before frames")
    if node.operator == "Pad" and node.attributes["value"]:
        raise NotSoError(f"{node.title} pads time by {node.attributes['value']}")
    x = compiler.view(name)
    wait = compiler.graph.timing.waits.get(node.name, 0)
    x = compiler.delayed(compiler.own(x), wait)  # in a ring, so that what is no frame of its is zero
    if node.operator == "Concat":
        compiler.views[node.outputs[0]] = x
        return
    axis = compiler.graph.time[name]
    assert axis is not None
    if node.operator == "Pad" and _only_before_and_behind(compiler, node, axis):
        compiler.views[node.outputs[0]] = x  # under other numbers; what is no frame of x is zero, as padding is
        return
    # what the node does along the other axes
    attributes = compiler.attributes(node)
    if node.operator == "Pad":
        pads = movement.paddings(x.shape, attributes["pads"], attributes["axes"])
        pads[axis] = (0, 0)
        out = compiler.new(compiler.shape(node.outputs[0]), node.outputs[0])
        part = out
        for place, (before, _) in enumerate(pads):
            part = part.part(place, before, x.shape[place])
        if part.shape != out.shape:
            compiler.filled(out, 0.0)
        compiler.elementwise("copy", part, x)
        compiler.views[node.outputs[0]] = out
        return
    found = x
    for place, (first, count, step) in movement.spans(x.shape, **attributes).items():
        if place != axis:
            found = found.part(place, int(first), int(count), step)
    compiler.views[node.outputs[0]] = compiler.copied(found)


def _only_before_and_behind(compiler: Compiler, node: Node, axis: int) -> bool:
    """Whether a Pad adds frames, and does nothing along other axes."""
    attributes = compiler.attributes(node)
    pads = movement.paddings(compiler.shape(node.inputs[0]), attributes["pads"], attributes["axes"])
    return all(pad == (0, 0) if i != axis else min(pad) >= 0 for i, pad in enumerate(pads))


def gather(compiler: Compiler, node: Node) -> None:
    """Rows of a table by index."""
    table, indices = (compiler.constant(name) for name in node.inputs)
    if indices is not None:
        over_time(compiler, node)
        return
    if table is None:
        given_rows = compiler.view(node.inputs[0])
        axis = node.attributes["axis"] % len(given_rows.shape)
        rows = compiler.dense(given_rows.transposed([axis, *(a for a in range(len(given_rows.shape)) if a != axis)]))
    else:
        axis = node.attributes["axis"] % table.ndim
        moved = np.moveaxis(table, axis, 0)
        rows = compiler.put_constant(np.ascontiguousarray(moved))
    count, *rest = rows.shape
    if count > 2**24:
        compiler.refuse("a table of at most 2^24 rows", count)
    x = compiler.dense(compiler.view(node.inputs[1]))
    width = math.prod(rest)
    given = [name for name in compiler.graph.inputs if x.buffer is compiler.views[name].buffer]
    for name in given:
        compiler.limits[name] = min(count, compiler.limits.get(name, count))
    compiler.fails |= not given
    out = compiler.new((*x.shape, *rest), node.outputs[0])
    compiler.emit("lookup", Use(out), Use(x, (1,)), Use(rows), sizes=(x.size, width, count))
    # the axes of the indices stand where the table's axis was
    order = [*range(x_rank := len(x.shape), x_rank + axis), *range(x_rank), *range(x_rank + axis, len(out.shape))]
    compiler.views[node.outputs[0]] = out.transposed(order)


def scatter(compiler: Compiler, node: Node) -> None:
    """An array with some of its elements replaced: what `tracing` does not follow has none that could be."""
    compiler.refuse("indices that are constant, and reduction 'none'", node.attributes["reduction"])


LOWER: dict[str, Lower] = {
    **dict.fromkeys(("Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Expand"), over_time),
    **dict.fromkeys(("Tile", "Slice", "Split", "Concat", "Pad", "ConstantOfShape", "Dropout"), over_time),
    "Gather": gather,
    "ScatterND": scatter,
}
