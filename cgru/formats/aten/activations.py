"""ATen's activations and normalizing functions of an axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from cgru.formats.aten.program import Program, Tensor


def plain(operator: str, *names: str, **fixed: Any) -> Callable[..., Any]:
    """An operator of the network, with the arguments after the first as its attributes of these names."""

    def write(p: Program, x: Tensor, *arguments: Any, **options: Any) -> Any:
        given = {name: p.number(value) for name, value in zip(names, arguments, strict=False)}
        given |= {name: p.number(value) for name, value in options.items() if name in names}
        return p.op(operator, x, **fixed, **given)

    return write


def clip(p: Program, x: Tensor, low: Any = None, high: Any = None) -> Any:
    """Not below low and not above high."""
    bounds = ["" if bound is None else p.constant(p.number(bound), p.dtype) for bound in (low, high)]
    return p.op("Clip", p.cast(x, p.dtype), *bounds)


def along(operator: str) -> Callable[..., Any]:
    """Softmax and LogSoftmax."""

    def write(p: Program, x: Tensor, axis: int, dtype: Any = None) -> Any:
        return p.op(operator, p.cast(x, p.dtype), axis=axis)

    return write


def elu(p: Program, x: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    """ELU; scaled ones are SELU."""
    if input_scale != 1:
        raise p.refused("an input_scale of 1", input_scale)
    y = p.op("Elu", x, alpha=float(alpha))
    return y if scale == 1 else p.op("Mul", y, p.constant(scale, x.dtype))


def gelu(p: Program, x: Tensor, approximate: str = "none") -> Any:
    """GELU, exact or with tanh."""
    return p.op("Gelu", x, approximate=approximate)


def glu(p: Program, x: Tensor, axis: int = -1) -> Any:
    """One half of the features, gated by the other."""
    a, b = p.op("Split", x, outputs=2, axis=axis)
    return p.op("Mul", a, p.op("Sigmoid", b))


def log_sigmoid(p: Program, x: Tensor) -> Any:
    """log(sigmoid(x))."""
    return p.op("Neg", p.op("Softplus", p.op("Neg", x)))


def prelu(p: Program, x: Tensor, slope: Tensor) -> Any:
    """Slopes of channels, the second axis, or one slope."""
    if slope.shape and slope.shape[0] != 1 and len(x.shape) > 2:
        slope = p.op("Reshape", slope, shape=(*slope.shape, *(1,) * (len(x.shape) - 2)))
    return p.op("PRelu", x, slope)


def softplus(p: Program, x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """log(1 + exp(beta x)) / beta; above the threshold torch has x, which is the same in float32."""
    if threshold < 15:
        raise p.refused("a threshold of 15 or more", threshold)
    if beta == 1:
        return p.op("Softplus", x)
    factor = p.constant(beta, x.dtype)
    return p.op("Div", p.op("Softplus", p.op("Mul", x, factor)), factor)


def shrink(p: Program, x: Tensor, lambd: float = 0.5) -> Any:
    """x, and 0 where it is near 0."""
    return p.op("Shrink", x, lambd=float(lambd), bias=0.0)


def soft_shrink(p: Program, x: Tensor, lambd: float = 0.5) -> Any:
    """x nearer to 0."""
    return p.op("Shrink", x, lambd=float(lambd), bias=float(lambd))


def tanh_shrink(p: Program, x: Tensor) -> Any:
    """x - tanh(x)."""
    return p.op("Sub", x, p.op("Tanh", x))


def threshold(p: Program, x: Tensor, bound: float, value: float) -> Any:
    """x above a bound, else a value."""
    above = p.op("Greater", x, p.constant(p.number(bound), x.dtype))
    return p.op("Where", above, x, p.constant(p.number(value), x.dtype))


OPERATORS = {
    "relu": plain("Relu"),
    "relu6": lambda p, x: clip(p, x, 0, 6),
    "tanh": plain("Tanh"),
    "sigmoid": plain("Sigmoid"),
    "silu": plain("Swish"),
    "mish": plain("Mish"),
    "hardswish": plain("HardSwish"),
    "hardsigmoid": plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hardtanh": lambda p, x, low=-1.0, high=1.0: clip(p, x, low, high),
    "clamp.default": lambda p, x, min=None, max=None: clip(p, x, min, max),
    "clamp_min.default": lambda p, x, min: clip(p, x, min),
    "clamp_max.default": lambda p, x, max: clip(p, x, None, max),
    "leaky_relu": plain("LeakyRelu", "alpha"),
    "celu": plain("Celu", "alpha"),
    "selu": plain("Selu"),
    "softsign": plain("Softsign"),
    "elu": elu,
    "gelu": gelu,
    "glu": glu,
    "log_sigmoid": log_sigmoid,
    "prelu": prelu,
    "_prelu_kernel": lambda p, x, slope: p.op("PRelu", x, slope),
    "softplus": softplus,
    "hardshrink": shrink,
    "softshrink": soft_shrink,
    "tanhshrink": tanh_shrink,
    "threshold": threshold,
    "softmax.int": along("Softmax"),
    "log_softmax.int": along("LogSoftmax"),
    "_softmax": lambda p, x, axis, half: along("Softmax")(p, x, axis),
    "_log_softmax": lambda p, x, axis, half: along("LogSoftmax")(p, x, axis),
}
