"""Functions of axes: reductions, softmax, the largest one's place, normalisations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cgru.engines.host.program.plan import Use, View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cgru.engines.host.program.lowering import Compiler, Lower
    from cgru.model.graph import Node

REDUCTIONS = ("sum", "mean", "max", "min", "prod", "sum_square")
"""In the order of src/nodes/node.h."""

REDUCED = {
    "ReduceSum": ("", "sum", ""), "ReduceMean": ("", "mean", ""), "ReduceMax": ("", "max", ""),
    "ReduceMin": ("", "min", ""), "ReduceProd": ("", "prod", ""), "ReduceL1": ("abs", "sum", ""),
    "ReduceL2": ("", "sum_square", "sqrt"), "ReduceSumSquare": ("", "sum_square", ""),
    "ReduceLogSum": ("", "sum", "log"),
}  # fmt: skip
"""What is done before a reduction, the reduction, and what behind it."""


def middle(compiler: Compiler, view: View, axes: Sequence[int]) -> tuple[View, tuple[int, int, int], list[int]]:
    """The view, or a copy, in which axes lie together: (outer, count, inner), and the order of its axes."""
    order = sorted(range(len(view.shape)), key=lambda axis: (-abs(view.strides[axis]) * (view.shape[axis] > 1), axis))
    if not _together(order, axes) or not view.transposed(order).contiguous:
        order = list(range(len(view.shape)))
        if not _together(order, axes) or not view.contiguous:
            order = [axis for axis in order if axis not in axes] + list(axes)
    view = compiler.dense(view.transposed(order))
    places = [order.index(axis) for axis in axes] or [len(order)]
    first, last = min(places), max(places) if axes else len(order) - 1
    shape = view.shape
    return view, (math.prod(shape[:first]), math.prod(shape[first : last + 1]), math.prod(shape[last + 1 :])), order


def _together(order: Sequence[int], axes: Sequence[int]) -> bool:
    """Whether axes follow each other in an order, as they do."""
    places = [order.index(axis) for axis in axes]
    return places == list(range(places[0], places[0] + len(places))) if places else True


def _axes(compiler: Compiler, node: Node, rank: int) -> tuple[int, ...]:
    attributes = node.attributes
    if not attributes["axes"]:
        return () if attributes["noop_with_empty_axes"] else tuple(range(rank))
    return tuple(sorted(axis % rank for axis in attributes["axes"]))


def reduced(compiler: Compiler, view: View, code: str, axes: Sequence[int], name: str = "") -> View:
    """A reduction that keeps its axes, of size 1."""
    view, sizes, order = middle(compiler, view, axes)
    kept = [1 if axis in axes else size for axis, size in zip(order, view.shape, strict=True)]
    out = compiler.new(kept, name)
    compiler.emit("reduce", Use(out), Use(view), code=REDUCTIONS.index(code), sizes=sizes, work=float(math.prod(sizes)))
    return out.transposed([order.index(axis) for axis in range(len(order))])


def squeezed(view: View, axes: Sequence[int]) -> View:
    """Without axes of size 1."""
    kept = [axis for axis in range(len(view.shape)) if axis not in axes]
    return view.transposed([*kept, *axes])._replace(
        shape=tuple(view.shape[axis] for axis in kept), strides=tuple(view.strides[axis] for axis in kept)
    )


def reduce(compiler: Compiler, node: Node) -> None:
    """A reduction over some axes, or all."""
    x, name = compiler.view(node.inputs[0]), node.outputs[0]
    axes = _axes(compiler, node, len(x.shape))
    if compiler.graph.types[node.inputs[0]].kind != "f":
        compiler.refuse("reductions of floating point numbers", compiler.graph.types[node.inputs[0]])
    if node.operator == "ReduceLogSumExp":
        most = reduced(compiler, x, "max", axes)
        for bound, code in ((np.finfo(np.float32).max, "min"), (np.finfo(np.float32).min, "max")):
            compiler.elementwise(code, most, most, compiler.put_constant(np.float32(bound)))  # inf - inf would be NaN
        shifted = compiler.elementwise("sub", compiler.new(x.shape), x, most)
        total = reduced(compiler, compiler.elementwise("exp", shifted, shifted), "sum", axes)
        out = compiler.elementwise("log", compiler.new(total.shape), total)
        out = compiler.elementwise("add", out, out, most)
    else:
        before, code, after = REDUCED[node.operator]
        if before:
            x = compiler.elementwise(before, compiler.new(x.shape), x)
        out = reduced(compiler, x, code, axes, name)
        if after:
            out = compiler.elementwise(after, out, out)
    compiler.views[name] = out if node.attributes["keepdims"] else squeezed(out, axes)


def softmax(compiler: Compiler, node: Node) -> None:
    """Softmax, or its logarithm."""
    x = compiler.view(node.inputs[0])
    axis = node.attributes["axis"] % len(x.shape)
    axes = tuple(range(axis, len(x.shape))) if node.attributes["to_end"] else (axis,)
    view, sizes, order = middle(compiler, x, axes)
    out = compiler.new(view.shape, node.outputs[0])
    kind = "softmax" if node.operator == "Softmax" else "log_softmax"
    compiler.emit(kind, Use(out), Use(view), sizes=sizes, work=20.0 * math.prod(sizes))
    compiler.views[node.outputs[0]] = out.transposed([order.index(axis) for axis in range(len(order))])


def arg_max(compiler: Compiler, node: Node) -> None:
    """The place of the largest one, or of the smallest."""
    x = compiler.view(node.inputs[0])
    axis = node.attributes["axis"] % len(x.shape)
    if node.operator == "ArgMin":
        x = compiler.elementwise("neg", compiler.new(x.shape), x)
    view, sizes, order = middle(compiler, x, (axis,))
    if sizes[1] > 2**24:
        compiler.refuse("an axis of at most 2^24", sizes[1])
    kept = [1 if place == axis else size for place, size in zip(order, view.shape, strict=True)]
    out = compiler.new(kept, node.outputs[0])
    last = node.attributes["select_last_index"]
    compiler.emit("arg_max", Use(out), Use(view), code=last, sizes=sizes, work=float(math.prod(sizes)))
    out = out.transposed([order.index(place) for place in range(len(order))])
    compiler.views[node.outputs[0]] = out if node.attributes["keepdims"] else squeezed(out, (axis,))


def layer_norm(compiler: Compiler, node: Node) -> None:
    """Over the last axes from one on."""
    x = compiler.view(node.inputs[0])
    axis = node.attributes["axis"] % len(x.shape)
    view = compiler.dense(x)
    count = math.prod(view.shape[axis:])
    parameters = [
        compiler.dense(compiler.view(name).broadcast(view.shape[axis:])) if name else None for name in node.inputs[1:]
    ]
    out = compiler.new(view.shape, node.outputs[0])
    compiler.emit(
        "normalise", Use(out), Use(view), *(None if p is None else Use(p) for p in parameters),
        sizes=(view.size // count, count), p=node.attributes["epsilon"], work=6.0 * view.size,
    )  # fmt: skip
    compiler.views[node.outputs[0]] = out
    if any(node.outputs[1:]):
        _statistics(compiler, node, view, tuple(range(axis, len(x.shape))))


def _statistics(compiler: Compiler, node: Node, x: View, axes: tuple[int, ...]) -> None:
    """The mean, and 1 over the deviation, for who wants them beside the result."""
    mean = reduced(compiler, x, "mean", axes, node.outputs[1])
    if node.outputs[1]:
        compiler.views[node.outputs[1]] = mean
    if len(node.outputs) > 2 and node.outputs[2]:
        centred = compiler.elementwise("sub", compiler.new(x.shape), x, mean)
        squared = compiler.elementwise("square", centred, centred)
        inverse = reduced(compiler, squared, "mean", axes, node.outputs[2])
        epsilon = compiler.put_constant(np.float32(node.attributes["epsilon"]))
        inverse = compiler.elementwise("add", inverse, inverse, epsilon)
        inverse = compiler.elementwise("sqrt", inverse, inverse)
        compiler.views[node.outputs[2]] = compiler.elementwise("reciprocal", inverse, inverse)


def instance_norm(compiler: Compiler, node: Node) -> None:
    """Each channel over its other axes."""
    x = compiler.dense(compiler.view(node.inputs[0]))
    batch, channels, *rest = x.shape
    out = compiler.new(x.shape, node.outputs[0])
    compiler.emit(
        "normalise", Use(out), Use(x), sizes=(batch * channels, math.prod(rest)), p=node.attributes["epsilon"],
        work=6.0 * x.size,
    )  # fmt: skip
    own = [compiler.view(name).reshaped(channels, *(1,) * len(rest)) for name in node.inputs[1:]]
    assert own[0] is not None
    assert own[1] is not None
    compiler.views[node.outputs[0]] = compiler.elementwise("multiply_add", out, out, own[0], own[1])


def batch_norm(compiler: Compiler, node: Node) -> None:
    """A factor and an addend for each channel."""
    x = compiler.view(node.inputs[0])
    known = [compiler.constant(name) for name in node.inputs[1:]]
    if any(array is None for array in known):
        compiler.refuse("parameters that are constant", "data")
    scale, bias, mean, variance = (np.asarray(array, np.float64) for array in known)
    factor = scale / np.sqrt(variance + node.attributes["epsilon"])
    shape = (len(factor), *(1,) * (len(x.shape) - 2))
    order = sorted(range(len(x.shape)), key=lambda axis: (-abs(x.strides[axis]) * (x.shape[axis] > 1), axis))
    out = compiler.new(x.shape, node.outputs[0], order)
    compiler.views[node.outputs[0]] = compiler.elementwise(
        "multiply_add", out, x, compiler.put_constant(factor.reshape(shape)),
        compiler.put_constant((bias - mean * factor).reshape(shape)),
    )  # fmt: skip


def global_pool(compiler: Compiler, node: Node) -> None:
    """The mean, or the largest, of all that a channel has."""
    x = compiler.view(node.inputs[0])
    code = "mean" if node.operator == "GlobalAveragePool" else "max"
    compiler.views[node.outputs[0]] = reduced(compiler, x, code, tuple(range(2, len(x.shape))), node.outputs[0])


LOWER: dict[str, Lower] = {
    **dict.fromkeys((*REDUCED, "ReduceLogSumExp"), reduce),
    **dict.fromkeys(("Softmax", "LogSoftmax"), softmax),
    **dict.fromkeys(("ArgMax", "ArgMin"), arg_max),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), global_pool),
    "LayerNormalization": layer_norm,
    "InstanceNormalization": instance_norm,
    "BatchNormalization": batch_norm,
}
