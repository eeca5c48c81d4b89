"""What GRU and GRUCell share: options fixed at construction, named parameters, the canonical layers made of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import activations, checks
from cgru.layer import Stack, canonical
from cgru.precision import rounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from cgru.types import ActivationOption, Array


class Model:
    """A set of parameters under PyTorch's names, in the order r, z, n, and the options that say how to read them."""

    input_size: int
    hidden_size: int
    bias: bool
    reset_after: bool
    update_gate: str
    activation: ActivationOption
    recurrent_activation: ActivationOption
    clip: float | None
    dtype: np.dtype[Any]
    _parameters: dict[str, Array]
    _stack: Stack
    _array_module: Any = np
    """Of the parameters: NumPy, or CuPy for a model on a GPU."""

    def __init__(self, options: Mapping[str, Any], rng: object) -> None:
        self._set_options(options)
        bound = 1 / np.sqrt(self.hidden_size)
        generator = _generator(rng)
        self._set_parameters(
            {name: generator.uniform(-bound, bound, shape).astype(self.dtype) for name, shape in self._shapes().items()}
        )

    def _set_options(self, options: Mapping[str, Any]) -> None:
        """Check the options that all models share, and keep all of them."""
        checked = dict(options)
        checked["input_size"] = checks.integer("input_size", options["input_size"], 1)
        checked["hidden_size"] = checks.integer(
            "hidden_size", options["hidden_size"], 1, checks.MAX_DIMENSION // 3
        )  # 3H, too
        for name in ("bias", "reset_after"):
            checked[name] = checks.flag(name, options[name])
        checked["update_gate"] = checks.choice("update_gate", options["update_gate"], ("state", "candidate"))
        for name in ("activation", "recurrent_activation"):
            checked[name] = activations.parse(name, options[name]).option
        checked["clip"] = _clip(options["clip"])
        checked["dtype"] = checks.floating("dtype", options["dtype"])
        self.__dict__.update(checked)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name}: a {type(self).__name__} keeps the options it was made with; make another one")

    def _suffixes(self) -> list[tuple[tuple[str, ...], int]]:
        """Of each layer: the suffixes of its directions' parameters, and the size of its input."""
        raise TypeError(f"{type(self).__name__} has no parameters of its own")

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters' names and shapes."""
        width = 3 * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        for suffixes, inputs in self._suffixes():
            for suffix in suffixes:
                shapes["weight_ih" + suffix] = (width, inputs)
                shapes["weight_hh" + suffix] = (width, self.hidden_size)
                if self.bias:
                    shapes["bias_ih" + suffix] = (width,)
                    shapes["bias_hh" + suffix] = (width,)
        return shapes

    def _set_parameters(self, parameters: dict[str, Array]) -> None:
        """Take over the arrays and make the canonical layers of them, both in one assignment each."""
        options = {
            "reset_after": self.reset_after,
            "update_gate": self.update_gate,
            "gate": activations.parse("recurrent_activation", self.recurrent_activation),
            "candidate": activations.parse("activation", self.activation),
            "clip": self.clip,
            "xp": self._array_module,
        }
        layers = []
        for suffixes, _ in self._suffixes():
            names = [
                [part + suffix for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")] for suffix in suffixes
            ]
            layers.append(tuple(canonical(*map(parameters.get, group), **options) for group in names))  # type: ignore[arg-type]
        self.__dict__.update(
            _parameters=parameters, _stack=Stack(layers, self.__dict__.get("reverse", False), self.precision)
        )

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters under PyTorch's names.

        `weight_ih_l0` (3H, I), `weight_hh_l0` (3H, H), `bias_ih_l0` and `bias_hh_l0` (3H,), gates in the order r, z, n;
        further layers as `_l1`, ..., the reverse direction as `_l0_reverse`. A GRUCell's names have no `_l0`.

        >>> import cgru
        >>> {name: array.shape for name, array in cgru.GRU(4, 8).state_dict().items()}
        {'weight_ih_l0': (24, 4), 'weight_hh_l0': (24, 8), 'bias_ih_l0': (24,), 'bias_hh_l0': (24,)}
        """
        return {name: array.copy() for name, array in self._parameters.items()}

    def load_state_dict(self, state_dict: Mapping[str, Array]) -> None:
        """Replace all parameters by copies of those given; nothing changes if one of them does not fit.

        Raises
        ------
        ValueError
            A parameter is missing, unknown or of another shape; the message names it.
        TypeError
            A parameter is no array, or of another dtype than the model.
        """
        if self.precision != "float32":
            raise RuntimeError(
                f"state_dict: this model's weights are stored as {self.precision}, for inference only; load into a "
                f"float32 model and quantize that"
            )
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: expected a mapping of names to arrays, got {type(state_dict).__name__}")
        shapes = self._shapes()
        missing = [name for name in shapes if name not in state_dict]
        surplus = [str(name) for name in state_dict if name not in shapes]
        if missing or surplus:
            complaints = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unknown {', '.join(surplus)}"] * bool(
                surplus
            )
            raise ValueError(f"state_dict: expected {', '.join(shapes)}; {'; '.join(complaints)}")
        self._set_parameters({name: self._parameter(name, state_dict[name], shape) for name, shape in shapes.items()})

    def _parameter(self, name: str, value: object, shape: tuple[int, ...]) -> Array:
        """A contiguous copy of an array given as a parameter."""
        return np.array(checks.array(name, value, self.dtype, shape), order="C")

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's arguments that make a model of this kind, `rng` aside."""
        return {name: self.__dict__[name] for name in _defaults(type(self))}

    @classmethod
    def _restore(cls, options: Mapping[str, Any], state_dict: Mapping[str, Array], precision: str = "float32") -> Any:
        """A model of these options and parameters; no memory is asked for before both are checked."""
        model = cls.__new__(cls)
        model._set_options(options)
        model.load_state_dict(state_dict)
        return model if precision == "float32" else model._rounded(precision)

    def _rounded(self, precision: str) -> Any:
        """This model with weights rounded to a precision; biases stay float32."""
        model = type(self).__new__(type(self))
        model._set_options(self.options)
        model.__dict__["_precision"] = precision
        model._set_parameters(
            {
                name: rounded(name, array, precision) if name.startswith("weight") else array
                for name, array in self._parameters.items()
            }
        )
        return model

    @property
    def precision(self) -> str:
        """What the engine stores weights as: "float32", or of a quantized model "bfloat16" or "float16"."""
        return self.__dict__.get("_precision", "float32")

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _restore, (type(self), self.options, self._parameters, self.precision)

    def __repr__(self) -> str:
        parts = []
        for name, default in _defaults(type(self)).items():
            value = self.__dict__[name]
            if default is inspect.Parameter.empty:
                parts.append(repr(value))
            elif name == "dtype":
                parts += [] if value == default else [f"dtype={value.name}"]
            elif value != default:
                parts.append(f"{name}={value!r}")
        quantized = "" if self.precision == "float32" else f".quantize({self.precision!r})"
        return f"{type(self).__name__}({', '.join(parts)}){quantized}"


def _restore(
    cls: type[Model], options: Mapping[str, Any], parameters: Mapping[str, Array], precision: str = "float32"
) -> Any:
    return cls._restore(options, parameters, precision)


def _defaults(cls: type[Model]) -> dict[str, Any]:
    """The constructor's arguments and their defaults."""
    parameters = inspect.signature(cls).parameters
    return {name: p.default for name, p in parameters.items() if name != "rng"}


def _generator(rng: object) -> np.random.Generator:
    if rng is None or isinstance(rng, np.random.Generator):
        return np.random.default_rng(rng)
    try:
        return np.random.default_rng(checks.integer("rng", rng, 0, 2**63 - 1))
    except TypeError:
        raise TypeError(f"rng: expected None, an integer or a numpy.random.Generator, got {rng!r}") from None


def _clip(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"clip: expected a positive number or None, got {value!r}")
    if not 0 < value < float("inf"):
        raise ValueError(f"clip: expected a positive number or None, got {value!r}")
    return float(value)
