"""Operators of one element, or of elements that broadcast together: arithmetic, comparisons, activations.

Softmax and LogSoftmax, which are functions of a whole axis, are here, too, as networks use them as activations.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.model.activations import FUNCTIONS, sigmoid
from cgru.model.nodes import sizes
from cgru.model.nodes.table import (
    MANY,
    Attribute,
    Operator,
    Sizes,
    axis_of,
    broadcast,
    first_type,
    is_sizes,
    require,
    same,
    typed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cgru.types import Array

INT, FLOAT = "int", "float"


# --- Arithmetic -------------------------------------------------------------------------------------------------------


def divide(a: Array, b: Array) -> Array:
    """a / b; of integers without what follows the point."""
    if is_sizes(a) or is_sizes(b):
        return np.asarray(a // b)
    if a.dtype.kind == "f":
        with np.errstate(divide="ignore", invalid="ignore"):
            return a / b
    require(bool(np.all(b != 0)), "divisors other than 0", "0")
    return a // b + ((a % b != 0) & ((a < 0) != (b < 0)))


def modulo(a: Array, b: Array, fmod: int) -> Array:
    """The remainder: of the sign of b, or with fmod of a."""
    require(a.dtype.kind == "f" or bool(np.all(b != 0)), "divisors other than 0", "0")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.fmod(a, b) if fmod else np.mod(a, b)


def power(a: Array, b: Array) -> Array:
    """a ** b, in the type of a."""
    require(a.dtype.kind == "f" or bool(np.all(b >= 0)), "exponents of 0 and more for integers", "negative ones")
    with np.errstate(all="ignore"):
        return np.power(a, b).astype(a.dtype)


def equal(a: Array, b: Array) -> Array:
    """Whether elements are equal, sizes of axes whatever their names stand for."""
    if is_sizes(a) or is_sizes(b):
        return np.asarray(np.frompyfunc(sizes.equal, 2, 1)(a, b), dtype=bool)
    return np.equal(a, b)


def erf(x: Array) -> Array:
    """The error function."""
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x), x.dtype)


def clip(x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    """x, but not below low and not above high, which are numbers."""
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def clip_shape(x: Sizes, *bounds: Sizes | None) -> Sizes:
    """The shape of x; bounds have no axes."""
    for bound in bounds:
        require(bound is None or bound in ((), (1,)), "one number as a bound", bound)
    return x


def prelu(x: Array, slope: Array) -> Array:
    """x, times the slope where it is negative."""
    return np.where(x < 0, slope * x, x)


def prelu_shape(x: Sizes, slope: Sizes) -> Sizes:
    """The shape of x, which that of the slope broadcasts to."""
    require(broadcast(x, slope) == x, "a slope that broadcasts to x", slope)
    return x


def gelu(x: Array, approximate: str) -> Array:
    """x times the normal distribution's share below x (Hendrycks and Gimpel 2016)."""
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def celu(x: Array, alpha: float) -> Array:
    """An ELU whose slope is continuous (Barron 2017)."""
    return np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(np.minimum(x, 0) / alpha))


def shrink(x: Array, lambd: float, bias: float) -> Array:
    """x nearer to 0 by a bias, and 0 where it is nearer than lambd."""
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0)).astype(x.dtype)


# --- Of an axis -------------------------------------------------------------------------------------------------------


def _axes(axis: int, to_end: int, rank: int) -> tuple[int, ...]:
    axis = axis_of(axis, rank)
    return tuple(range(axis, rank)) if to_end else (axis,)


def log_softmax(x: Array, axis: int, to_end: int) -> Array:
    """log(exp(x) / sum(exp(x))) over an axis."""
    axes = _axes(axis, to_end, x.ndim)
    shifted = x - x.max(axes, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axes, keepdims=True))


def softmax(x: Array, axis: int, to_end: int) -> Array:
    """exp(x) / sum(exp(x)) over an axis."""
    axes = _axes(axis, to_end, x.ndim)
    e = np.exp(x - x.max(axes, keepdims=True))
    return e / e.sum(axes, keepdims=True)


def _softmax_shape(x: Sizes, axis: int, to_end: int) -> Sizes:
    _axes(axis, to_end, len(x))
    return x


# --- The table --------------------------------------------------------------------------------------------------------


def _unary(function: Callable[..., Array], takes: str = "f", **attributes: Attribute) -> Operator:
    return Operator(function, same, (takes,), attributes=attributes, pointwise=True)


def _binary(function: Callable[..., Array], *takes: str, result: Any = None, **attributes: Attribute) -> Operator:
    types = first_type if result is None else typed(result)
    return Operator(function, broadcast, takes, (2, 2), attributes=attributes, types=types, pointwise=True)


def _several(function: Callable[[Array, Array], Array], takes: str = "n") -> Operator:
    return Operator(lambda *arrays: reduce(function, arrays), broadcast, (takes,), (1, MANY), pointwise=True)


def _activation(name: str, **attributes: float) -> Operator:
    """A function of the GRU's table, with ONNX's names and defaults of its parameters."""
    formula = FUNCTIONS[name].formula

    def run(x: Array, alpha: float = 0.0, beta: float = 0.0) -> Array:
        return formula(x, alpha, beta).astype(x.dtype, copy=False)

    parameters = {key: Attribute(FLOAT, value) for key, value in attributes.items()}
    return Operator(run, same, attributes=parameters, pointwise=True)


def _quiet(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """What is beyond a function's domain is infinite or not a number, without NumPy's warnings."""

    def run(x: Array) -> Array:
        with np.errstate(all="ignore"):
            return function(x)

    return run


def _selu(x: Array, alpha: float, gamma: float) -> Array:
    return gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


ALONG = {
    "axis": Attribute(INT, -1, {7: 1, 13: -1}),
    "to_end": Attribute(INT, 0, {7: 1, 13: 0}, choices=(0, 1)),  # before operator set 13 all axes from that one on
}


def _over(x: Sizes, axis: int, to_end: int) -> tuple[int, ...]:
    return _axes(axis, to_end, len(x))


OPERATORS = {
    "Add": _binary(np.add, "n"),
    "Sub": _binary(np.subtract, "n"),
    "Mul": _binary(np.multiply, "n"),
    "Div": _binary(divide, "n"),
    "Mod": _binary(modulo, "n", fmod=Attribute(INT, 0, choices=(0, 1))),
    "Pow": _binary(power, "n", "m"),
    "Sum": _several(np.add, "f"),
    "Mean": Operator(lambda *arrays: sum(arrays) / len(arrays), broadcast, ("f",), (1, MANY), pointwise=True),
    "Max": _several(np.maximum),
    "Min": _several(np.minimum),
    "Neg": _unary(np.negative, "n"),
    "Abs": _unary(np.abs, "n"),
    "Sign": _unary(np.sign, "n"),
    "Sqrt": _unary(_quiet(np.sqrt)),
    "Exp": _unary(_quiet(np.exp)),
    "Log": _unary(_quiet(np.log)),
    "Reciprocal": _unary(_quiet(np.reciprocal)),
    "Erf": _unary(erf),
    "Floor": _unary(np.floor),
    "Ceil": _unary(np.ceil),
    "Round": _unary(np.rint),
    "Clip": Operator(clip, clip_shape, ("n",), (1, 3), pointwise=True),
    "Where": Operator(
        np.where, broadcast, ("b", "a"), (3, 3), types=lambda types, **attributes: types[1], pointwise=True
    ),
    "Equal": _binary(equal, "a", result=bool),
    "Greater": _binary(np.greater, "n", result=bool),
    "GreaterOrEqual": _binary(np.greater_equal, "n", result=bool),
    "Less": _binary(np.less, "n", result=bool),
    "LessOrEqual": _binary(np.less_equal, "n", result=bool),
    "And": _binary(np.logical_and, "b"),
    "Or": _binary(np.logical_or, "b"),
    "Xor": _binary(np.logical_xor, "b"),
    "Not": _unary(np.logical_not, "b"),
    "Sigmoid": _unary(sigmoid),
    "Tanh": _unary(np.tanh),
    "Relu": _unary(lambda x: np.maximum(x, 0), "n"),
    "LeakyRelu": _activation("leaky_relu", alpha=0.01),
    "PRelu": Operator(prelu, prelu_shape, ("n",), (2, 2), pointwise=True),
    "Elu": _activation("elu", alpha=1.0),
    "Selu": _unary(_selu, alpha=Attribute(FLOAT, 1.6732631921768188), gamma=Attribute(FLOAT, 1.0507010221481323)),
    "Celu": _unary(celu, alpha=Attribute(FLOAT, 1.0)),
    "HardSigmoid": _activation("hard_sigmoid", alpha=0.2, beta=0.5),
    "HardSwish": _unary(lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "Softplus": _activation("softplus"),
    "Softsign": _activation("softsign"),
    "ThresholdedRelu": _activation("thresholded_relu", alpha=1.0),
    "Shrink": _unary(shrink, "f", lambd=Attribute(FLOAT, 0.5), bias=Attribute(FLOAT, 0.0)),
    "Gelu": _unary(gelu, approximate=Attribute("text", "none", choices=("none", "tanh"))),
    "Swish": _unary(lambda x, alpha: x * sigmoid(alpha * x), alpha=Attribute(FLOAT, 1.0)),
    "Mish": _unary(lambda x: x * np.tanh(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))),
    "Softmax": Operator(softmax, _softmax_shape, attributes=ALONG, over=_over),
    "LogSoftmax": Operator(log_softmax, _softmax_shape, attributes=ALONG, over=_over),
}  # fmt: skip
