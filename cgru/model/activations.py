"""Activation functions: their names, parameters, NumPy formulas and derivatives.

The formulas here are the specification; the kernels in `src/cells/activations.h` follow them under the codes given by
the order of the table. Names, formulas and default parameters are those of the ONNX operators, but for the last.
"""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeGuard

    from cgru.types import ActivationOption, Array


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow on either side."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


class Function(NamedTuple):
    """An activation function: f(x, alpha, beta), its derivative, and the parameters it takes where none are given."""

    formula: Callable[[Array, float, float], Array]
    derivative: Callable[[Array, float, float], Array]
    alpha: float = 0.0
    beta: float = 0.0


def _derivative_of_sigmoid(x: Array) -> Array:
    return sigmoid(x) * sigmoid(-x)


def _derivative_of_tanh(x: Array) -> Array:
    return 4 * _derivative_of_sigmoid(2 * x)  # tanh(x) = 2 sigmoid(2 x) - 1; 1 - tanh(x)^2 would cancel


# Where a function has a corner, the derivative there is the one of its flat side, as in PyTorch.
FUNCTIONS: dict[str, Function] = {
    "tanh": Function(lambda x, a, b: np.tanh(x), lambda x, a, b: _derivative_of_tanh(x)),
    "sigmoid": Function(lambda x, a, b: sigmoid(x), lambda x, a, b: _derivative_of_sigmoid(x)),
    "relu": Function(lambda x, a, b: np.maximum(x, 0), lambda x, a, b: np.where(x > 0, 1, 0)),
    "hard_sigmoid": Function(
        lambda x, a, b: np.clip(a * x + b, 0, 1),
        lambda x, a, b: np.where((a * x + b > 0) & (a * x + b < 1), a, 0),
        alpha=0.2,
        beta=0.5,
    ),
    "softsign": Function(lambda x, a, b: x / (1 + np.abs(x)), lambda x, a, b: 1 / (1 + np.abs(x)) ** 2),
    "softplus": Function(
        lambda x, a, b: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
        lambda x, a, b: sigmoid(x),
    ),
    "elu": Function(
        lambda x, a, b: np.where(x > 0, x, a * np.expm1(np.minimum(x, 0))),
        lambda x, a, b: np.where(x > 0, 1, a * np.exp(np.minimum(x, 0))),
        alpha=1.0,
    ),
    "leaky_relu": Function(
        lambda x, a, b: np.where(x < 0, a * x, x),
        lambda x, a, b: np.where(x > 0, 1, a),
        alpha=0.01,
    ),
    "thresholded_relu": Function(
        lambda x, a, b: np.where(x <= a, 0, x),
        lambda x, a, b: np.where(x <= a, 0, 1),
        alpha=1.0,
    ),
    "scaled_tanh": Function(
        lambda x, a, b: a * np.tanh(b * x),
        lambda x, a, b: a * b * _derivative_of_tanh(b * x),
        alpha=1.0,
        beta=1.0,
    ),
    "affine": Function(lambda x, a, b: a * x + b, lambda x, a, b: np.full_like(x, a), alpha=1.0),
    "linear": Function(lambda x, a, b: x, lambda x, a, b: np.ones_like(x)),
    "g": Function(  # minGRU's: positive, and steady at 0 (Feng et al. 2024, appendix B)
        lambda x, a, b: np.where(x >= 0, x + 0.5, sigmoid(x)),
        lambda x, a, b: np.where(x >= 0, 1, _derivative_of_sigmoid(x)),
    ),
}
WITHIN_ONE = ("tanh", "sigmoid", "hard_sigmoid", "softsign")
"""Whose values lie between -1 and 1."""

ARGUMENTS = ("activation", "recurrent_activation")
"""Options that are functions."""

CODES = {name: code for code, name in enumerate(FUNCTIONS)}


class Activation(NamedTuple):
    """A function of the table with its parameters."""

    name: str
    alpha: float
    beta: float

    @property
    def code(self) -> int:
        """The number by which the kernels know the function."""
        return CODES[self.name]

    def __call__(self, x: Array) -> Array:
        """f(x), in the dtype of x."""
        return FUNCTIONS[self.name].formula(x, self.alpha, self.beta).astype(x.dtype, copy=False)

    def derivative(self, x: Array) -> Array:
        """f'(x), in the dtype of x."""
        return FUNCTIONS[self.name].derivative(x, self.alpha, self.beta).astype(x.dtype, copy=False)

    @property
    def option(self) -> ActivationOption:
        """The shortest way to write it as a constructor's argument."""
        function = FUNCTIONS[self.name]
        return (
            self.name
            if (self.alpha, self.beta) == (function.alpha, function.beta)
            else (self.name, self.alpha, self.beta)
        )

    @property
    def mirrored_by_negation(self) -> bool:
        """Whether f(-x) = 1 - f(x) for every x."""
        return self.name == "sigmoid" or (self.name == "hard_sigmoid" and self.beta == 0.5)

    @property
    def within_one(self) -> bool:
        """Whether |f(x)| <= 1 for every x."""
        return self.name in WITHIN_ONE or (self.name == "scaled_tanh" and abs(self.alpha) <= 1)


def parse(argument: str, value: object) -> Activation:
    """The activation that a constructor's argument means: a name, or (name, alpha, beta).

    Raises TypeError or ValueError naming `argument`; an unknown name is answered with the known ones.
    """
    name, *parameters = value if isinstance(value, (tuple, list)) and value else (value,)
    if not isinstance(name, str) or len(parameters) not in (0, 2) or not all(isinstance(p, Real) for p in parameters):
        raise TypeError(f"{argument}: expected a name or (name, alpha, beta), got {value!r}")
    if name not in FUNCTIONS:
        raise ValueError(f"{argument}: expected one of {', '.join(FUNCTIONS)}, got {name!r}")
    if not np.all(np.isfinite(parameters)):
        raise ValueError(f"{argument}: expected finite alpha and beta, got {value!r}")
    alpha, beta = parameters or (FUNCTIONS[name].alpha, FUNCTIONS[name].beta)
    return Activation(name, float(alpha), float(beta))


def parse_all(argument: str, value: object) -> tuple[Activation, ...]:
    """The activations of a constructor's argument: one for all directions, or two, the second for the reverse one.

    >>> parse_all("activation", ["tanh", "relu"])[1].name
    'relu'
    >>> len(parse_all("activation", ["tanh", "tanh"]))
    1
    """
    if not are_several(value):
        return (parse(argument, value),)
    if len(value) != 2:
        raise ValueError(f"{argument}: expected one function, or a list of one for each direction, got {value!r}")
    first, second = (parse(argument, one) for one in value)
    return (first,) if first == second else (first, second)


def are_several(value: object) -> TypeGuard[Sequence[object]]:
    """Whether an argument lists functions, each a name or (name, alpha, beta), and is not one."""
    return isinstance(value, (tuple, list)) and len(value) > 1 and all(isinstance(v, (str, tuple, list)) for v in value)


def of_direction(options: Mapping[str, Any], direction: int) -> dict[str, Any]:
    """The options of one direction, whose activations are no lists."""
    return {
        name: value[direction] if name in ARGUMENTS and are_several(value) else value for name, value in options.items()
    }
