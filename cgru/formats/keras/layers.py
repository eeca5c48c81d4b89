"""Keras' layers as nodes: for each class a function of its configuration, its inputs and its weights.

Keras has channels last, ONNX's operators have them second: layers with windows turn their input and their result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.formats.keras import activating, recurrent
from cgru.formats.keras.tree import ours, own

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cgru.formats.keras.network import Layer
    from cgru.types import Array

Results = str | tuple[str, ...]


# --- Products ---------------------------------------------------------------------------------------------------------


def biased(layer: Layer, y: str, bias: Sequence[Array]) -> str:
    """With its bias, if there is one, and through the layer's activation."""
    y = layer.op("Add", y, layer.constant(bias[0])) if bias else y
    return activating.applied(layer, y, layer.config.get("activation"))


def dense(layer: Layer, x: str) -> Results:
    """x W + b, over the last axis."""
    kernel, *bias = layer.weights(2 if layer.config.get("use_bias", True) else 1)
    return biased(layer, layer.op("MatMul", x, layer.constant(kernel)), bias)


def embedding(layer: Layer, x: str) -> Results:
    """Rows of a table; Keras takes indices as any numbers."""
    (table,) = layer.weights(1)
    if layer.type(x).kind == "f":
        x = layer.op("Cast", x, to="int64")
    return layer.op("Gather", layer.constant(table), x, axis=0)


# --- Windows ----------------------------------------------------------------------------------------------------------


def several(value: Any, number: int) -> tuple[int, ...]:
    """A number for each axis, of a list of as many or of one for all."""
    return tuple(value) if isinstance(value, (list, tuple)) else (value,) * number


def turned(layer: Layer, x: str, spatial: int) -> str:
    """(B, ..., C) as (B, C, ...)."""
    return x if _first(layer) else layer.op("Transpose", x, perm=(0, spatial + 1, *range(1, spatial + 1)))


def turned_back(layer: Layer, x: str, spatial: int) -> str:
    """(B, C, ...) as (B, ..., C)."""
    return x if _first(layer) else layer.op("Transpose", x, perm=(0, *range(2, spatial + 2), 1))


def _first(layer: Layer) -> bool:
    return layer.config.get("data_format") == "channels_first"


def geometry(layer: Layer, kernel: Sequence[int], strides: Any) -> dict[str, Any]:
    """Strides, dilations and padding of windows, "causal" those before the first element alone."""
    number = len(kernel)
    dilations = several(layer.config.get("dilation_rate", 1), number)
    found: dict[str, Any] = {"strides": several(strides, number)}
    if any(dilation != 1 for dilation in dilations):
        found["dilations"] = dilations
    padding = layer.config.get("padding", "valid")
    if padding == "causal":
        return {**found, "pads": (*((k - 1) * d for k, d in zip(kernel, dilations, strict=True)), *[0] * number)}
    layer.expect(padding in ("same", "valid"), "padding: expected 'causal', 'same' or 'valid'", padding)
    return {**found, "auto_pad": "SAME_UPPER" if padding == "same" else "NOTSET"}


def convolution(layer: Layer, x: str) -> Results:
    """A kernel (..., inputs, outputs) over one or two axes, perhaps in groups."""
    kernel, *bias = layer.weights(2 if layer.config.get("use_bias", True) else 1)
    spatial = kernel.ndim - 2
    y = layer.op(
        "Conv",
        turned(layer, x, spatial),
        layer.constant(np.moveaxis(kernel, (-1, -2), (0, 1))),
        *map(layer.constant, bias),
        group=layer.config.get("groups", 1),
        **geometry(layer, kernel.shape[:spatial], layer.config.get("strides", 1)),
    )
    return activating.applied(layer, turned_back(layer, y, spatial), layer.config.get("activation"))


def by_channel(layer: Layer, x: str, kernel: Array, *bias: str) -> str:
    """A kernel (..., inputs, multiplier), each channel on its own; x and the result have channels second."""
    spatial, channels = kernel.ndim - 2, kernel.shape[-2]
    weights = np.moveaxis(kernel, (-2, -1), (0, 1)).reshape(-1, 1, *kernel.shape[:spatial])
    where = geometry(layer, kernel.shape[:spatial], layer.config.get("strides", 1))
    return layer.op("Conv", x, layer.constant(weights), *bias, group=channels, **where)


def depthwise(layer: Layer, x: str) -> Results:
    """A convolution of each channel on its own."""
    kernel, *bias = layer.weights(2 if layer.config.get("use_bias", True) else 1)
    y = by_channel(layer, turned(layer, x, kernel.ndim - 2), kernel, *map(layer.constant, bias))
    return activating.applied(layer, turned_back(layer, y, kernel.ndim - 2), layer.config.get("activation"))


def separable(layer: Layer, x: str) -> Results:
    """A convolution of each channel on its own, and one of all channels at each place."""
    kernel, pointwise, *bias = layer.weights(3 if layer.config.get("use_bias", True) else 2)
    spatial = kernel.ndim - 2
    y = by_channel(layer, turned(layer, x, spatial), kernel)
    y = layer.op(
        "Conv", y, layer.constant(np.moveaxis(pointwise, (-1, -2), (0, 1))), *map(layer.constant, bias)
    )  # fmt: skip
    return activating.applied(layer, turned_back(layer, y, spatial), layer.config.get("activation"))


def pooling(operator: str, spatial: int) -> Callable[..., Results]:
    """The largest element or the mean of each window; without strides windows lie side by side."""

    def write(layer: Layer, x: str) -> Results:
        size = several(layer.config["pool_size"], spatial)
        strides = layer.config.get("strides") or size
        y = layer.op(operator, turned(layer, x, spatial), kernel_shape=size, **geometry(layer, size, strides))
        return turned_back(layer, y, spatial)

    return write


def global_pooling(operator: str, spatial: int) -> Callable[..., Results]:
    """The largest element or the mean of all places."""

    def write(layer: Layer, x: str) -> Results:
        axes = tuple(range(2, spatial + 2) if _first(layer) else range(1, spatial + 1))
        return layer.op(operator, x, axes=axes, keepdims=int(bool(layer.config.get("keepdims", False))))

    return write


# --- Normalization ----------------------------------------------------------------------------------------------------


def batch_normalization(layer: Layer, x: str) -> Results:
    """By the statistics that training kept: a factor and a summand of each channel."""
    flags = [layer.config.get(flag, True) for flag in ("scale", "center")]
    arrays = [array.astype(np.float64) for array in layer.weights(2 + sum(map(bool, flags)))]
    mean, variance = arrays[-2:]
    gamma = arrays[0] if flags[0] else 1
    beta = arrays[-3] if flags[1] else 0
    factor = gamma / np.sqrt(variance + layer.number("epsilon", 1e-3))
    axis = layer.config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    layer.expect(type(axis) is int, "axis: expected one", axis)
    rank = len(layer.shape(x))
    shape = [1] * (rank - axis % rank)
    shape[0] = -1
    y = layer.op("Mul", x, layer.constant(factor.reshape(shape)))
    return layer.op("Add", y, layer.constant((beta - mean * factor).reshape(shape)))


def layer_normalization(layer: Layer, x: str) -> Results:
    """Over the last axes."""
    layer.expect(not layer.config.get("rms_scaling", False), "rms_scaling: expected False", True)
    axes, rank = layer.config.get("axis", -1), len(layer.shape(x))
    found = sorted(axis % rank for axis in (axes if isinstance(axes, list) else [axes]))
    layer.expect(found == list(range(found[0], rank)), "axis: expected the last axes", axes)
    flags = [layer.config.get(flag, True) for flag in ("scale", "center")]
    arrays = layer.weights(sum(map(bool, flags)))
    sizes = layer.shape(x)[found[0] :]
    gamma = arrays[0] if flags[0] else np.ones([int(size) for size in sizes])
    beta = [layer.constant(arrays[-1])] if flags[1] else []
    return layer.op(
        "LayerNormalization", x, layer.constant(gamma), *beta, axis=found[0], epsilon=layer.number("epsilon", 1e-3)
    )


def rescaling(layer: Layer, x: str) -> Results:
    """x * scale + offset."""
    y = layer.op("Mul", x, layer.constant(np.asarray(layer.config["scale"], float)))
    offset = np.asarray(layer.config.get("offset", 0), float)
    return layer.op("Add", y, layer.constant(offset)) if offset.any() else y


# --- Shapes -----------------------------------------------------------------------------------------------------------


def reshape(layer: Layer, x: str) -> Results:
    """Other axes behind the batch."""
    return layer.op("Reshape", x, shape=(layer.shape(x)[0], *layer.config["target_shape"]))


def flatten(layer: Layer, x: str) -> Results:
    """One axis behind the batch."""
    layer.expect(not _first(layer), "data_format: expected 'channels_last'", "channels_first")
    return layer.op("Reshape", x, shape=(layer.shape(x)[0], -1))


def permute(layer: Layer, x: str) -> Results:
    """The axes behind the batch in another order."""
    return layer.op("Transpose", x, perm=(0, *layer.config["dims"]))


def repeat_vector(layer: Layer, x: str) -> Results:
    """(B, F) as (B, n, F)."""
    return layer.op("Expand", layer.op("Unsqueeze", x, axes=(1,)), shape=(1, layer.config["n"], 1))


def up_sampling(layer: Layer, x: str) -> Results:
    """Each step several times."""
    (size,) = several(layer.config.get("size", 2), 1)
    batch, steps, features = layer.shape(x)
    y = layer.op("Expand", layer.op("Unsqueeze", x, axes=(2,)), shape=(1, 1, size, 1))
    return layer.op("Reshape", y, shape=(batch, steps * size, features))


def zero_padding(layer: Layer, x: str) -> Results:
    """Zeros before the first step and behind the last."""
    before, after = several(layer.config.get("padding", 1), 2)
    return layer.op("Pad", x, pads=(0, before, 0, 0, after, 0))


def cropping(layer: Layer, x: str) -> Results:
    """Without the first steps and the last ones."""
    before, after = several(layer.config.get("cropping", 1), 2)
    return layer.op("Slice", x, starts=(before,), ends=(-after if after else 2**31 - 1,), axes=(1,))


# --- Of several inputs ------------------------------------------------------------------------------------------------


def merged(operator: str) -> Callable[..., Results]:
    """Elements of all inputs together."""

    def write(layer: Layer, *inputs: str) -> Results:
        ranks = {len(layer.shape(x)) for x in inputs}
        layer.expect(len(ranks) == 1, "inputs of as many axes each", sorted(ranks))
        layer.expect(operator != "Sub" or len(inputs) == 2, "two inputs", len(inputs))
        if operator != "Mul":
            return layer.op(operator, *inputs)
        y = inputs[0]
        for x in inputs[1:]:
            y = layer.op("Mul", y, x)
        return y

    return write


def concatenate(layer: Layer, *inputs: str) -> Results:
    """One behind the other."""
    return layer.op("Concat", *inputs, axis=layer.config.get("axis", -1))


def identity(layer: Layer, x: str) -> Results:
    """What does nothing at inference."""
    return x


# --- Wrappers ---------------------------------------------------------------------------------------------------------


def time_distributed(layer: Layer, x: str) -> Results:
    """A layer at each step."""
    inner = layer.inner("layer")
    if inner.kind in OF_LAST_AXIS:
        return inner.run(x)
    batch, steps, *rest = layer.shape(x)
    y = inner.run(layer.op("Reshape", x, shape=(batch * steps, *rest)))
    layer.expect(isinstance(y, str), "a layer of one result", "several")
    return layer.op("Reshape", str(y), shape=(batch, steps, *layer.shape(str(y))[1:]))


OF_LAST_AXIS = ("Dense", "Activation", "ReLU", "LeakyReLU", "ELU", "Dropout", "GaussianNoise", "Identity")
"""Layers that a TimeDistributed leaves as they are."""

IDLE = (
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "AlphaDropout", "Identity",
    "ActivityRegularization", "InputLayer",
)  # fmt: skip

LAYERS: Mapping[str, Callable[..., Results]] = {
    **dict.fromkeys(IDLE, identity),
    "Dense": dense,
    "Embedding": embedding,
    "Conv1D": convolution,
    "Conv2D": convolution,
    "DepthwiseConv1D": depthwise,
    "DepthwiseConv2D": depthwise,
    "SeparableConv1D": separable,
    "SeparableConv2D": separable,
    "MaxPooling1D": pooling("MaxPool", 1),
    "MaxPooling2D": pooling("MaxPool", 2),
    "AveragePooling1D": pooling("AveragePool", 1),
    "AveragePooling2D": pooling("AveragePool", 2),
    "GlobalMaxPooling1D": global_pooling("ReduceMax", 1),
    "GlobalMaxPooling2D": global_pooling("ReduceMax", 2),
    "GlobalAveragePooling1D": global_pooling("ReduceMean", 1),
    "GlobalAveragePooling2D": global_pooling("ReduceMean", 2),
    "BatchNormalization": batch_normalization,
    "LayerNormalization": layer_normalization,
    "Rescaling": rescaling,
    "Reshape": reshape,
    "Flatten": flatten,
    "Permute": permute,
    "RepeatVector": repeat_vector,
    "UpSampling1D": up_sampling,
    "ZeroPadding1D": zero_padding,
    "Cropping1D": cropping,
    "Concatenate": concatenate,
    "Add": merged("Sum"),
    "Subtract": merged("Sub"),
    "Multiply": merged("Mul"),
    "Average": merged("Mean"),
    "Maximum": merged("Max"),
    "Minimum": merged("Min"),
    "TimeDistributed": time_distributed,
    **activating.LAYERS,
    **recurrent.LAYERS,
}

# --- Operators between a Functional model's tensors -------------------------------------------------------------------


def binary(operator: str) -> Callable[..., Results]:
    """Of two values, one of them perhaps a number."""

    def write(layer: Layer, *values: Any) -> Results:
        layer.expect(len(values) == 2, "two values", len(values))
        names = [value if isinstance(value, str) else layer.constant(np.asarray(value, float)) for value in values]
        return layer.op(operator, *names)

    return write


def item(layer: Layer, x: str, *indices: Any) -> Results:
    """x[a, b:c], of integers and slices."""
    parts = [index.get("config") if isinstance(index, Mapping) else index for index in indices]
    known = all(type(part) is int or (isinstance(part, Mapping) and "start" in part) for part in parts)
    layer.expect(known, "integers and slices as indices", indices)
    slices = [(axis, part) for axis, part in enumerate(parts) if isinstance(part, Mapping) and any(part.values())]
    if slices:
        steps = tuple(1 if part["step"] is None else part["step"] for _, part in slices)
        layer.expect(all(step > 0 for step in steps), "slices with steps of 1 and more", steps)
        x = layer.op(
            "Slice", x, starts=tuple(part["start"] or 0 for _, part in slices),
            ends=tuple(2**31 - 1 if part["stop"] is None else part["stop"] for _, part in slices),
            axes=tuple(axis for axis, _ in slices), steps=steps,
        )  # fmt: skip
    for axis in reversed(range(len(parts))):
        if type(parts[axis]) is int:
            x = layer.op("Gather", x, layer.constant(np.asarray(parts[axis])), axis=axis)
    return x


OPERATIONS: Mapping[str, Callable[..., Results]] = {
    "Add": binary("Add"),
    "Subtract": binary("Sub"),
    "Multiply": binary("Mul"),
    "Divide": binary("Div"),
    "TrueDivide": binary("Div"),
    "Maximum": binary("Max"),
    "Minimum": binary("Min"),
    "Negative": activating.plain("Neg"),
    "Absolute": activating.plain("Abs"),
    "Exp": activating.plain("Exp"),
    "Log": activating.plain("Log"),
    "Sqrt": activating.plain("Sqrt"),
    "Tanh": activating.plain("Tanh"),
    "Sigmoid": activating.plain("Sigmoid"),
    "Relu": activating.plain("Relu"),
    "GetItem": item,
}
"""Classes of keras.ops, as a + b and a[:, -1] in a Functional model are."""


def writer_of(node: Mapping[str, Any]) -> Callable[..., Results] | None:
    """What writes a layer of a configuration; None where its class is not known."""
    kind, config = str(node.get("class_name")), node.get("config")
    if not own(node):
        return None
    if isinstance(config, Mapping) and set(config) <= {"name"}:  # layers say more, InputLayers too
        return OPERATIONS.get(kind)
    if ".ops." in str(node.get("module")):
        return None
    if kind in ("RNN", "GRU", "CuDNNGRU"):
        return recurrent.LAYERS["GRU"] if ours(node) else None
    if kind == "Bidirectional":
        return recurrent.LAYERS[kind] if recurrent.bidirectional_kind(node) else None
    return LAYERS.get(kind)
