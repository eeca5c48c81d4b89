"""Keras' activations as nodes: functions that layers name, and layers of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cgru.formats.keras.network import Layer

    Written = Callable[[Layer, str], str]


def plain(operator: str, **attributes: Any) -> Written:
    """One node."""
    return lambda layer, x: layer.op(operator, x, **attributes)


def clip(layer: Layer, x: str, low: float | None, high: float | None) -> str:
    """Not below low and not above high."""
    bounds = ["" if bound is None else layer.constant(np.asarray(bound, float)) for bound in (low, high)]
    return layer.op("Clip", x, *bounds)


def hard_sigmoid(layer: Layer, x: str) -> str:
    """Of another slope before Keras 3."""
    return layer.op("HardSigmoid", x, alpha=1 / 6 if layer.version >= 3 else 0.2, beta=0.5)


def hard_silu(layer: Layer, x: str) -> str:
    """x times its hard sigmoid."""
    return layer.op("HardSwish", x)


def log_sigmoid(layer: Layer, x: str) -> str:
    """log(sigmoid(x))."""
    return layer.op("Neg", layer.op("Softplus", layer.op("Neg", x)))


def tanh_shrink(layer: Layer, x: str) -> str:
    """x - tanh(x)."""
    return layer.op("Sub", x, layer.op("Tanh", x))


def glu(layer: Layer, x: str) -> str:
    """One half of the features, gated by the other."""
    a, b = layer.several("Split", x, outputs=2, axis=-1)
    return layer.op("Mul", a, layer.op("Sigmoid", b))


FUNCTIONS: Mapping[str, Written] = {
    "linear": lambda layer, x: x,
    "relu": plain("Relu"),
    "relu6": lambda layer, x: clip(layer, x, 0, 6),
    "tanh": plain("Tanh"),
    "sigmoid": plain("Sigmoid"),
    "hard_sigmoid": hard_sigmoid,
    "softmax": plain("Softmax", axis=-1),
    "log_softmax": plain("LogSoftmax", axis=-1),
    "elu": plain("Elu", alpha=1.0),
    "selu": plain("Selu"),
    "celu": plain("Celu", alpha=1.0),
    "gelu": plain("Gelu", approximate="none"),
    "silu": plain("Swish"),
    "swish": plain("Swish"),
    "hard_silu": hard_silu,
    "hard_swish": hard_silu,
    "mish": plain("Mish"),
    "leaky_relu": plain("LeakyRelu", alpha=0.2),
    "softplus": plain("Softplus"),
    "softsign": plain("Softsign"),
    "exponential": plain("Exp"),
    "log_sigmoid": log_sigmoid,
    "tanh_shrink": tanh_shrink,
    "hard_tanh": lambda layer, x: clip(layer, x, -1, 1),
    "hard_shrink": plain("Shrink", lambd=0.5, bias=0.0),
    "soft_shrink": plain("Shrink", lambd=0.5, bias=0.5),
    "glu": glu,
}
"""By the names that configurations have."""


def applied(layer: Layer, x: str, activation: Any) -> str:
    """A value through the activation that a configuration names; None is none."""
    if activation is None:
        return x
    if isinstance(activation, Mapping) and activation.get("class_name") in PLAIN:
        return PLAIN[activation["class_name"]](layer.of(activation["config"]), x)
    name = activation.get("config") if isinstance(activation, Mapping) else activation
    known = isinstance(activation, str) and activation in FUNCTIONS
    layer.expect(known, f"activation: expected one of {', '.join(FUNCTIONS)}", name)
    return FUNCTIONS[activation](layer, x)


# --- Layers -----------------------------------------------------------------------------------------------------------


def relu(layer: Layer, x: str) -> str:
    """x above a threshold, bounded, and with a slope below it: slope * (x - threshold)."""
    slope, threshold = (layer.number(name, 0.0) for name in ("negative_slope", "threshold"))
    bound = layer.config.get("max_value")
    if threshold == 0:
        y = layer.op("LeakyRelu", x, alpha=slope) if slope else layer.op("Relu", x)
    else:
        limit = layer.constant(np.asarray(threshold))
        below = layer.constant(np.asarray(0.0))
        if slope:
            below = layer.op("Mul", layer.op("Sub", x, limit), layer.constant(np.asarray(slope)))
        y = layer.op("Where", layer.op("GreaterOrEqual", x, limit), x, below)
    return y if bound is None else clip(layer, y, None, layer.number("max_value", 0.0))


def leaky_relu(layer: Layer, x: str) -> str:
    """With one slope; Keras 2 calls it alpha."""
    return layer.op("LeakyRelu", x, alpha=layer.number("alpha" if "alpha" in layer.config else "negative_slope", 0.3))


def prelu(layer: Layer, x: str) -> str:
    """With a slope for each place of some axes."""
    (slopes,) = layer.weights(1)
    return layer.op("PRelu", x, layer.constant(slopes))


def softmax(layer: Layer, x: str) -> str:
    """Over an axis."""
    axis = layer.config.get("axis", -1)
    layer.expect(type(axis) is int, "axis: expected one", axis)
    return layer.op("Softmax", x, axis=axis)


PLAIN: Mapping[str, Written] = {
    "ReLU": relu,
    "LeakyReLU": leaky_relu,
    "ELU": lambda layer, x: layer.op("Elu", x, alpha=layer.number("alpha", 1.0)),
    "ThresholdedReLU": lambda layer, x: layer.op("ThresholdedRelu", x, alpha=layer.number("theta", 1.0)),
    "Softmax": softmax,
}
"""Layers without weights, which are activations of others, too."""

LAYERS: Mapping[str, Written] = {
    "Activation": lambda layer, x: applied(layer, x, layer.config.get("activation")),
    "PReLU": prelu,
    **PLAIN,
}
