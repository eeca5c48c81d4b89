"""Normalizations: by a layer's own statistics, by those of an instance, by a batch's that training kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.model.nodes.table import Attribute, Operator, Sizes, axis_of, broadcast, require

if TYPE_CHECKING:
    from cgru.types import Array


def normalized(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array]:
    """(x - mean) / sqrt(variance + epsilon) over some axes, with the mean and 1 / sqrt(variance + epsilon)."""
    mean = x.mean(axes, keepdims=True)
    scale = 1 / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + np.asarray(epsilon, x.dtype))
    return (x - mean) * scale, mean, scale


def _axes(x: Sizes, axis: int) -> tuple[int, ...]:
    return tuple(range(axis_of(axis, len(x)), len(x)))


def layer_norm(
    x: Array, scale: Array, bias: Array | None = None, *, axis: int, epsilon: float, stash_type: int
) -> tuple[Array, ...]:
    """Normalize over the axes from one to the last (Ba et al. 2016)."""
    result, mean, inverse = normalized(x, _axes(x.shape, axis), epsilon)
    return result * scale + (0 if bias is None else bias), mean, inverse


def layer_norm_shape(
    x: Sizes, scale: Sizes, bias: Sizes | None = None, *, axis: int, epsilon: float, stash_type: int
) -> list[Sizes]:
    """That of x, and those of the statistics."""
    axes = _axes(x, axis)
    for shape in (scale, bias):
        require(shape is None or broadcast(x, shape) == x, "scale and bias that broadcast to x", shape)
    statistics = tuple(1 if i in axes else size for i, size in enumerate(x))
    return [x, statistics, statistics]


def channels(x: Array, values: Array) -> Array:
    """(C,) as it belongs to the second axis of x."""
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


def batch_norm(x: Array, scale: Array, bias: Array, mean: Array, variance: Array, *, epsilon: float, **_: Any) -> Array:
    """Normalize channels by the statistics that training kept (Ioffe and Szegedy 2015)."""
    factor = scale / np.sqrt(variance + np.asarray(epsilon, x.dtype))
    return (x - channels(x, mean)) * channels(x, factor) + channels(x, bias)


def _per_channel(x: Sizes, *parameters: Sizes, **attributes: Any) -> Sizes:
    require(len(x) >= 2, "a batch and channels", x)
    for shape in parameters:
        require(shape == (x[1],), f"a parameter of shape ({x[1]},), one for each channel", shape)
    return x


def instance_norm(x: Array, scale: Array, bias: Array, *, epsilon: float) -> Array:
    """Normalize each channel of each instance (Ulyanov et al. 2016)."""
    result, _, _ = normalized(x, tuple(range(2, x.ndim)), epsilon)
    return result * channels(x, scale) + channels(x, bias)


EPSILON = Attribute("float", 1e-5)

OPERATORS = {
    "LayerNormalization": Operator(
        layer_norm,
        layer_norm_shape,
        inputs=(2, 3),
        outputs=(1, 3),
        attributes={"axis": Attribute("int", -1), "epsilon": EPSILON, "stash_type": Attribute("int", 1)},
        types=lambda types, **attributes: [types[0]] * 3,
        over=lambda x, *others, axis, **attributes: _axes(x, axis),
    ),
    "BatchNormalization": Operator(
        batch_norm,
        _per_channel,
        inputs=(5, 5),
        attributes={
            "epsilon": EPSILON,
            "momentum": Attribute("float", 0.9),  # of training
            "training_mode": Attribute("int", 0, choices=(0,)),
            "spatial": Attribute("int", 1, choices=(1,)),  # until operator set 8
        },
    ),
    "InstanceNormalization": Operator(
        instance_norm,
        _per_channel,
        inputs=(3, 3),
        attributes={"epsilon": EPSILON},
        over=lambda x, *others, **attributes: tuple(range(2, len(x))),
    ),
}
