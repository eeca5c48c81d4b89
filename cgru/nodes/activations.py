"""Activations by name, and the operators that they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Function(NamedTuple):
    """An operator of one input, and its parameters with their defaults."""

    operator: str
    parameters: Mapping[str, Any] = {}
    constant: tuple[str, ...] = ()
    """Parameters that the operator takes as inputs."""


FUNCTIONS = {
    "relu": Function("Relu"),
    "tanh": Function("Tanh"),
    "sigmoid": Function("Sigmoid"),
    "relu6": Function("Clip", {"min": 0.0, "max": 6.0}, ("min", "max")),
    "hardtanh": Function("Clip", {"min": -1.0, "max": 1.0}, ("min", "max")),
    "hard_sigmoid": Function("HardSigmoid", {"alpha": 0.2, "beta": 0.5}),
    "hard_swish": Function("HardSwish"),
    "leaky_relu": Function("LeakyRelu", {"alpha": 0.01}),
    "thresholded_relu": Function("ThresholdedRelu", {"alpha": 1.0}),
    "elu": Function("Elu", {"alpha": 1.0}),
    "selu": Function("Selu"),
    "celu": Function("Celu", {"alpha": 1.0}),
    "gelu": Function("Gelu", {"approximate": "none"}),
    "silu": Function("Swish"),
    "swish": Function("Swish", {"alpha": 1.0}),
    "mish": Function("Mish"),
    "softplus": Function("Softplus"),
    "softsign": Function("Softsign"),
    "exp": Function("Exp"),
    "log": Function("Log"),
    "sqrt": Function("Sqrt"),
    "abs": Function("Abs"),
    "softmax": Function("Softmax", {"axis": -1}),
    "log_softmax": Function("LogSoftmax", {"axis": -1}),
}
"""Activations by name. Names that cgru.GRU has, too, mean the same there, with the same parameters."""

LINEAR = ("linear", "identity")
"""Names of the function that changes nothing."""


def checked_activation(value: object) -> str | tuple[str, dict[str, Any]] | None:
    """An argument `activation`: None, a name, or a name with parameters as (name, {parameter: number}).

    ValueError naming the known functions or parameters, TypeError for what is of another kind.
    """
    if value is None or value in LINEAR:
        return None
    name, given = value if isinstance(value, tuple) and len(value) == 2 else (value, {})
    if not isinstance(name, str) or not isinstance(given, Mapping):
        raise TypeError(f"activation: expected a name, or (name, {{parameter: number}}), got {value!r}")
    if name not in FUNCTIONS:
        raise ValueError(f"activation: expected one of {', '.join((*FUNCTIONS, *LINEAR))}, got {name!r}")
    known = FUNCTIONS[name].parameters
    for key, number in given.items():
        if key not in known:
            raise ValueError(
                f"activation: expected of {name!r} the parameters {', '.join(known) or 'none'}, got {key!r}"
            )
        if isinstance(number, bool) or not isinstance(
            number, (str, int) if type(known[key]) is not float else (int, float)
        ):
            raise TypeError(f"activation: expected {key} as {known[key]!r}, got {number!r}")
    return (name, dict(given)) if given else name
