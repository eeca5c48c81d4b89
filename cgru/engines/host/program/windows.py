"""Convolutions and pooling: products, or sums, of windows over rows of channels.

Channels lie innermost, so that a row of a window is one piece of memory. Windows over time look into the frames that a
ring keeps; along other axes a padded copy is made where windows reach beyond the ends.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgru.engines.host.program import assembling
from cgru.engines.host.program.dense import finish, in_groups, product
from cgru.engines.host.program.plan import NotSoError, Use, View
from cgru.model.nodes import convolution

if TYPE_CHECKING:
    from cgru.engines.host.program.lowering import Compiler, Lower
    from cgru.engines.host.program.values import Values
    from cgru.model.graph import Node
    from cgru.types import Array

MEAN, MOST = 1, 2
"""Kinds of windows, after products, as in src/nodes/node.h."""


class _Axis:
    """Windows along one axis: how many, and how they step."""

    def __init__(self, count: int, taps: int, stride: int = 1, dilation: int = 1) -> None:
        self.count, self.taps, self.stride, self.dilation = count, taps, stride, dilation
        self.step = self.tap = 0  # distances in memory, of windows and of taps


def pads(compiler: Values, node: Node) -> list[tuple[int, int]] | None:
    """What windows read before and behind each axis but batch and channels; None of a node that has no windows."""
    if node.operator == "ConvTranspose":
        return _pads_transposed(compiler, node)
    if node.operator not in LOWER:
        return None
    attributes, shape, results = node.attributes, compiler.shape(node.inputs[0]), compiler.shape(node.outputs[0])
    time, number, kernel = _time(compiler, node), len(shape) - 2, attributes["kernel_shape"]
    found = []
    for i in range(number):
        covered = (results[i + 2] - 1) * attributes["strides"][i] + (kernel[i] - 1) * attributes["dilations"][i] + 1
        before = attributes["pads"][i]
        found.append((0, 0) if i + 2 == time else (before, max(0, covered - before - shape[i + 2])))
    return found  # behind no more than windows see


def _time(compiler: Values, node: Node) -> int | None:
    """The axis along which windows look into frames that came before."""
    role = compiler.graph.timing.roles.get(node.name, "") if compiler.streams else ""
    return compiler.graph.time[node.inputs[0]] if role == "window" else None


def _read(compiler: Compiler, node: Node, fill: float, mixes: bool = False) -> tuple[View, Array]:
    """The input as windows read it, padded and with channels innermost; and their order, where all are mixed."""
    name, time = node.inputs[0], _time(compiler, node)
    places = compiler.trace.places(name)
    wanted = assembling.resolved(compiler, places, compiler.ahead[name] + compiler.late(name))
    around = compiler.put_constant(np.float32(fill))
    beyond = assembling.addresses(compiler, around).item() if fill else 0
    wanted = np.pad(wanted, [(0, 0), (0, 0), *(pads(compiler, node) or [])], constant_values=beyond)
    x = assembling.as_view(compiler, wanted)
    order = np.arange(wanted.shape[1])
    if mixes and (x is None or (x.strides[1] != 1 and x.shape[1] > 1)):
        order = assembling.order_along(wanted, 1)
        wanted = np.take(wanted, order, 1)
        x = assembling.as_view(compiler, wanted)
    kept = time is None or (x is not None and not fill and x.buffer.space in ("arena", "ring"))
    if x is None or not kept or (x.strides[1] != 1 and x.shape[1] > 1):
        x = compiler.assemble(name, wanted, (0, *range(2, wanted.ndim), 1))
    if time is not None:
        compiler.empty(x, fill)
    return x, order


def _placed(compiler: Compiler, node: Node, fill: float, mixes: bool = False) -> tuple[View, list[_Axis], Array]:
    """The input as windows read it, the windows along each axis, and the order of channels."""
    attributes = node.attributes
    out_shape = compiler.shape(node.outputs[0])
    if len(out_shape) > 4:
        compiler.refuse("windows over one axis or two", len(out_shape) - 2)
    time = _time(compiler, node)
    x, order = _read(compiler, node, fill, mixes)
    axes = []
    for i, taps in enumerate(attributes["kernel_shape"]):
        axis = _Axis(out_shape[i + 2], taps, attributes["strides"][i], attributes["dilations"][i])
        axis.step, axis.tap = axis.stride * x.strides[i + 2], axis.dilation * x.strides[i + 2]
        axes.append(axis)
    if time is not None:
        axis = axes[time - 2]
        x = compiler.delayed(x, (axis.taps - 1) * axis.dilation)
        axis.count, axis.step, axis.tap = 1, 0, axis.dilation * x.buffer.size
    return x, axes, order


def _channels_last(compiler: Compiler, name: str) -> View:
    shape = compiler.shape(name)
    return compiler.new(shape, name, (0, *range(2, len(shape)), 1))


def conv(compiler: Compiler, node: Node) -> None:
    """A convolution; each group's is a product, and where a group is a channel, sums along channels."""
    weights = compiler.constant(node.inputs[1])
    bias = compiler.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    if weights is None or (bias is None and len(node.inputs) > 2 and node.inputs[2]):
        compiler.refuse("weights that are constant", "data")
    assert weights is not None
    groups = node.attributes["group"]
    x, axes, order = _placed(compiler, node, 0.0, groups == 1)
    fused = compiler.fused[node.name]
    out = _channels_last(compiler, fused.result)
    if groups == 1:
        weights = np.take(weights, order, 1)
    at_once = x.shape[0] == 1 and run_at_once(compiler, weights.shape, groups)
    run_windows(compiler, x, out, axes, fused.weights(weights), fused.bias(bias), groups, out if at_once else None)
    if not at_once:
        finish(compiler, node, out)
    compiler.views[fused.result] = out


def run_at_once(compiler: Compiler, shape: tuple[int, ...], groups: int) -> bool:
    """Whether windows by weights of this shape, (M, C / groups, ...), are one product, for a batch of one."""
    by_channel = groups > 1 and shape[0] == groups and shape[1] == 1
    return groups == 1 or (not by_channel and in_groups(compiler, shape[0] // groups))


def run_windows(
    compiler: Compiler, x: View, out: View, axes: list[_Axis], weights: Array, bias: Array | None, groups: int,
    whole: View | None,
) -> None:  # fmt: skip
    """Products of windows with weights (M, C / groups, ...), batches one after the other."""
    outputs, inputs = weights.shape[0] // groups, weights.shape[1]
    taps_first = np.moveaxis(weights, 1, -1)  # (M, ..., C / groups)
    for b in range(x.shape[0]):
        own, to = x.part(0, b, 1), out.part(0, b, 1)
        if inputs == 1 and outputs == 1 and groups > 1:
            _by_channel(compiler, own, to, axes, taps_first.reshape(groups, -1).T, bias)
            continue
        pieces, distances, length = _pieces(axes, inputs)
        positions = [axis.count for axis in axes], [axis.step for axis in axes], to.strides[2:]
        if groups > 1 and in_groups(compiler, outputs):
            product(
                compiler, taps_first.reshape(groups, outputs, -1), None if bias is None else bias.reshape(groups, -1),
                own, to, positions=positions, pieces=pieces, distances=distances, length=length,
                next_group=(inputs * own.strides[1], outputs), whole=whole, axis=1,
            )  # fmt: skip
            continue
        for g in range(groups):
            held = slice(g * outputs, (g + 1) * outputs)
            part = own.part(1, g * inputs, inputs)
            written = to.part(1, g * outputs, outputs)
            product(
                compiler, np.ascontiguousarray(taps_first[held].reshape(outputs, -1)),
                None if bias is None else bias[held], part, written, positions=positions, pieces=pieces,
                distances=distances, length=length, whole=whole if groups == 1 else None, axis=1,
            )  # fmt: skip


def _pieces(axes: list[_Axis], inputs: int) -> tuple[tuple[int, int], tuple[int, int], int]:
    """How a window's numbers lie: a grid of pieces of so many, side by side; (0, 0): one piece."""
    length = inputs
    grid: list[tuple[int, int]] = []
    for axis in reversed(axes):
        if axis.taps == 1:
            continue
        if not grid and axis.tap == length:
            length *= axis.taps
        else:
            grid.insert(0, (axis.taps, axis.tap))
    if not grid:
        return (0, 0), (0, 0), length
    grid = [(1, 0)] * (2 - len(grid)) + grid
    return (grid[0][0], grid[1][0]), (grid[0][1], grid[1][1]), length


def _grid(axes: list[_Axis]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Positions, their distances, taps, and theirs, of two axes."""
    missing = 2 - len(axes)
    return (
        [1] * missing + [axis.count for axis in axes],
        [0] * missing + [axis.step for axis in axes],
        [1] * missing + [axis.taps for axis in axes],
        [0] * missing + [axis.tap for axis in axes],
    )


def _by_channel(
    compiler: Compiler, x: View, out: View, axes: list[_Axis], weights: Array | None, bias: Array | None,
    kind: int = 0, scale: float = 1.0,
) -> None:  # fmt: skip
    counts, steps, taps, tap = _grid(axes)
    to = [0] * (2 - len(axes)) + list(out.strides[2:])
    channels = x.shape[1]
    known = [None if array is None else Use(compiler.put_constant(array)) for array in (weights, bias)]
    compiler.emit(
        "window", Use(out, to), Use(x, steps), *known, code=kind, sizes=(*counts, *taps, channels), strides=tap,
        p=scale, work=2.0 * math.prod(counts) * math.prod(taps) * channels,
    )  # fmt: skip


def pool(compiler: Compiler, node: Node) -> None:
    """The mean, or the largest, of windows."""
    mean = node.operator == "AveragePool"
    attributes = node.attributes
    x, axes, _ = _placed(compiler, node, 0.0 if mean else -np.inf)
    out = _channels_last(compiler, node.outputs[0])
    taps = math.prod(axis.taps for axis in axes)
    counted = mean and (
        bool(attributes["ceil_mode"]) or (any(attributes["pads"]) and not attributes["count_include_pad"])
    )
    for b in range(x.shape[0]):
        own, to = x.part(0, b, 1), out.part(0, b, 1)
        _by_channel(
            compiler, own, to, axes, None, None, MEAN if mean else MOST, 1.0 if counted or not mean else 1 / taps
        )
    if counted:
        _share(compiler, node, out, axes)
    compiler.views[node.outputs[0]] = out


def _share(compiler: Compiler, node: Node, out: View, axes: list[_Axis]) -> None:
    """Divide sums by how many elements each window counts."""
    shape = compiler.shape(node.inputs[0])
    attributes = compiler.attributes(node)
    if _time(compiler, node) is None:
        ones = np.ones((1, 1, *shape[2:]))
        found = convolution.windows(
            shape[2:],
            *(attributes[key] for key in ("kernel_shape", "strides", "dilations", "pads", "auto_pad", "ceil_mode")),
        )
        there = np.sum([values for _, values in found.places(found.padded(ones, 0))], axis=0)
        shares = node.row.run(ones, **attributes)  # of what a window counts, what is there
        compiler.elementwise("mul", out, out, compiler.put_constant(shares / there))
        return
    if len(shape) > 3:
        raise NotSoError(f"{node.title} counts what is there at the ends of time and of another axis")
    compiler.as_of = compiler.ahead[node.inputs[0]], compiler.more_of(node.inputs[0])
    frame = compiler.filled(compiler.new((1, 1, 1), f"{node.name}: frames"), 1.0)  # zero where there is no frame
    compiler.as_of = None
    compiler.empty(frame, 0.0)
    frame = compiler.delayed(frame, (axes[0].taps - 1) * axes[0].dilation)
    counts = compiler.new((1, 1, 1))
    own = _Axis(1, axes[0].taps)
    own.tap = axes[0].dilation * frame.buffer.size
    _by_channel(compiler, frame, counts, [own], None, None, MEAN, 1.0)
    compiler.elementwise("div", out, out, counts)


def conv_transpose(compiler: Compiler, node: Node) -> None:
    """A transposed convolution: for each place in a stride a convolution with the taps that meet it, turned round."""
    attributes = node.attributes
    weights = compiler.constant(node.inputs[1])
    bias = compiler.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    if weights is None:
        compiler.refuse("weights that are constant", "data")
    assert weights is not None
    time = _time(compiler, node)
    groups = attributes["group"]
    x, order = _read(compiler, node, 0.0, groups == 1)
    before = [pad[0] for pad in _pads_transposed(compiler, node)]
    number = len(x.shape) - 2
    if groups == 1:
        weights = np.take(weights, order, 0)
    fused = compiler.fused[node.name]
    out = _channels_last(compiler, fused.result)
    # (C, M / groups, ...) as (M, C / groups, ...)
    split = weights.reshape(groups, weights.shape[0] // groups, *weights.shape[1:])
    turned = split.swapaxes(1, 2).reshape(-1, weights.shape[0] // groups, *weights.shape[2:])
    turned, bias = fused.weights(turned), fused.bias(bias)
    choices = [_phases(attributes, i, out.shape[i + 2], i + 2 == time) for i in range(number)]
    if time is not None:
        span = convolution.over_axis(node.operator, time, attributes)[0]
        x = compiler.delayed(x, span)
    at_once = x.shape[0] == math.prod(map(len, choices)) == 1 and run_at_once(compiler, turned.shape, groups)
    for index in np.ndindex(*(len(phases) for phases in choices)):
        axes, own, from_x, to = [], turned, x, out
        for i, (phases, number_of) in enumerate(zip(choices, index, strict=True)):
            phase = phases[number_of]
            axis = _Axis(phase.outputs, len(phase.taps))
            if i + 2 == time:
                axis.tap = attributes["dilations"][i] * x.buffer.size
            else:
                first = before[i] + phase.first
                axis.step, axis.tap = x.strides[i + 2], phase.between * x.strides[i + 2]
                from_x = from_x.part(i + 2, first, x.shape[i + 2] - first)
                to = to.part(i + 2, phase.place, phase.outputs, attributes["strides"][i])
            own = np.take(own, np.array(phase.taps, np.intp), axis=i + 2)
            axes.append(axis)
        if 0 in own.shape:
            compiler.filled(to, 0.0)
            if bias is not None:
                compiler.elementwise("copy", to, compiler.put_constant(bias.reshape(1, -1, *(1,) * number)))
            at_once = False
            continue
        run_windows(
            compiler, from_x, to, axes, np.ascontiguousarray(own), bias, groups, out if at_once else None
        )  # fmt: skip
    if not at_once:
        finish(compiler, node, out)
    compiler.views[fused.result] = out


def _pads_transposed(compiler: Values, node: Node) -> list[tuple[int, int]]:
    """What the windows of a transposed convolution read before and behind each axis."""
    shape, results = compiler.shape(node.inputs[0]), compiler.shape(node.outputs[0])
    time, found = _time(compiler, node), []
    for i, size in enumerate(shape[2:]):
        phases = _phases(node.attributes, i, results[i + 2], i + 2 == time)
        before = max(0, *(-own.first for own in phases), 0)
        found.append((before, 0 if i + 2 == time else max(0, *(own.last - (size - 1) for own in phases), 0)))
    return found


class _Phase(NamedTuple):
    """The outputs of a transposed convolution at one place in a stride, along one axis."""

    taps: list[int]
    """Those that meet inputs there, in the inputs' order."""
    place: int
    outputs: int
    first: int
    """The first output's first input."""
    between: int
    """How far apart inputs are from tap to tap."""

    @property
    def last(self) -> int:
        """The last output's last input."""
        return self.first + self.outputs - 1 + (len(self.taps) - 1) * self.between


def _phases(attributes: Any, i: int, outputs: int, time: bool) -> list[_Phase]:
    """The phases along an axis."""
    stride, dilation = attributes["strides"][i], attributes["dilations"][i]
    taps, pad = attributes["kernel_shape"][i], attributes["pads"][i]
    if time:
        return [_Phase(list(reversed(range(taps))), 0, 1, 0, 1)]
    found = []
    for place in range(min(stride, outputs)):
        met = [k for k in reversed(range(taps)) if (place + pad - k * dilation) % stride == 0]
        count = -(-(outputs - place) // stride)
        inputs = [(place + pad - k * dilation) // stride for k in met]
        between = inputs[1] - inputs[0] if len(met) > 1 else 1
        found.append(_Phase(met, place, count, inputs[0] if met else 0, between))
    return found


LOWER: dict[str, Lower] = {
    "Conv": conv, "ConvTranspose": conv_transpose, "MaxPool": pool, "AveragePool": pool,
}  # fmt: skip
