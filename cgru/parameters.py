"""What GRU and GRUCell share: options fixed at construction, named parameters, the canonical layers made of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import activations, checks
from cgru.layer import Layer, Stack, canonical
from cgru.precision import COMPUTE, PRECISIONS, Arithmetic, Matrix, narrow

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from cgru.types import ActivationOption, Array


FLOATS = Arithmetic()


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
    _parameters: dict[str, Array | Matrix]
    _stack: Stack
    _arithmetic: Arithmetic
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

    def _set_parameters(self, parameters: Mapping[str, Array | Matrix], arithmetic: Arithmetic = FLOATS) -> None:
        """Take over the arrays and make the canonical layers of them."""
        gate = activations.parse("recurrent_activation", self.recurrent_activation)
        candidate = activations.parse("activation", self.activation)
        layers: list[tuple[Layer, ...]] = []
        limit = arithmetic.input_limit
        for suffixes, _ in self._suffixes():
            layer = []
            for suffix in suffixes:
                names = [part + suffix for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
                layer.append(
                    canonical(
                        *map(parameters.get, names),  # type: ignore[arg-type]
                        reset_after=self.reset_after,
                        update_gate=self.update_gate,
                        gate=gate,
                        candidate=candidate,
                        clip=self.clip,
                        input_limit=limit,
                        xp=self._array_module,
                    )
                )
            layers.append(tuple(layer))
            limit = None  # a layer's inputs are the states of the one below
        first = parameters[next(name for name in parameters if name.startswith("weight"))]
        precision = first.precision if isinstance(first, Matrix) else "float32"
        self.__dict__.update(
            _parameters=dict(parameters),
            _precision=precision,
            _arithmetic=arithmetic,
            _stack=Stack(layers, self.__dict__.get("reverse", False), precision, arithmetic.compute),
        )

    def _snapshot(self) -> Self:
        """This model with the weights that it has now, whatever is loaded into it later; nothing is copied.

        Loading replaces parameters and layers, and never writes into them.
        """
        snapshot = object.__new__(type(self))
        snapshot.__dict__.update(self.__dict__)
        return snapshot

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters under PyTorch's names.

        `weight_ih_l0` (3H, I), `weight_hh_l0` (3H, H), `bias_ih_l0` and `bias_hh_l0` (3H,), gates in the order r, z, n;
        further layers as `_l1`, ..., the reverse direction as `_l0_reverse`. A GRUCell's names have no `_l0`.

        >>> import cgru
        >>> {name: array.shape for name, array in cgru.GRU(4, 8).state_dict().items()}
        {'weight_ih_l0': (24, 4), 'weight_hh_l0': (24, 8), 'bias_ih_l0': (24,), 'bias_hh_l0': (24,)}
        """
        return {
            name: array.wide() if isinstance(array, Matrix) else array.copy()
            for name, array in self._parameters.items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Array]) -> None:
        """Replace all parameters by copies of those given; nothing changes if one of them does not fit.

        Streams and pools made before keep the weights that they have.

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
        self._set_parameters(self._copied(state_dict))

    def _copied(self, parameters: Mapping[str, Array | Matrix]) -> dict[str, Array | Matrix]:
        """Copies of parameters, if they are all of this model's and no others."""
        shapes = self._shapes()
        missing = [name for name in shapes if name not in parameters]
        surplus = [str(name) for name in parameters if name not in shapes]
        if missing or surplus:
            complaints = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unknown {', '.join(surplus)}"] * bool(
                surplus
            )
            raise ValueError(f"state_dict: expected {', '.join(shapes)}; {'; '.join(complaints)}")
        copies: dict[str, Array | Matrix] = {}
        for name, shape in shapes.items():
            given = parameters[name]
            if not isinstance(given, Matrix):
                copies[name] = self._parameter(name, given, shape)
            elif given.shape == shape:
                copies[name] = given
            else:
                raise ValueError(f"{name}: expected {shape} {given.precision}, got {given.shape}")
        return copies

    def _parameter(self, name: str, value: object, shape: tuple[int, ...]) -> Array:
        """A contiguous copy of an array given as a parameter."""
        return np.array(checks.array(name, value, self.dtype, shape), order="C")

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's arguments that make a model of this kind, `rng` aside."""
        return {name: self.__dict__[name] for name in _defaults(type(self))}

    @classmethod
    def _restore(
        cls, options: Mapping[str, Any], parameters: Mapping[str, Array | Matrix], arithmetic: Arithmetic = FLOATS
    ) -> Any:
        """A model of these options and parameters; no memory is asked for before both are checked."""
        model = cls.__new__(cls)
        model._set_options(options)
        model._set_parameters(model._copied(parameters), arithmetic)
        return model

    def quantize(
        self, precision: str, *, calibrate: Array | tuple[Any, ...] | None = None, compute: str = "float32"
    ) -> Self:
        """This model with weights in fewer bits, for inference; a long sequence waits less for them.

        bfloat16 and float16: weights are rounded and stored so, states, inputs and arithmetic stay float32. Results are
        to the last bit those of a float32 model with the rounded weights, which `state_dict()` gives.

        int8: weights become integers from -127 to 127 with a scale for each row. Inputs and states meet them as such
        integers, too, and sums are exact; biases, gates, and the states kept between steps are float32. 127 stands for
        the largest magnitude in a sequence's step, so states need no bound, relu's either. Inputs of calibrated models
        have one: what is beyond it is clipped.

        Of every precision, a sequence's results do not depend on batch, chunks or threads. `cgru.compare` tells the
        errors.

        Parameters
        ----------
        precision : {"bfloat16", "float16", "int8"}
            8 bits of precision with the range of float32; 11 bits up to 65504; 8 bits with a scale.
        calibrate : array, or tuple (x, h0) or (x, h0, lengths), optional
            Typical arguments of a call, for int8, the more sequences the better: the largest magnitude in x is the
            largest there is from then on, inputs beyond it are clipped, and weights are rounded for small errors on
            these inputs and the states that they lead to (cgru/calibration.py). Of a GRUCell (x, h).
        compute : {"float32", "bfloat16"}
            "bfloat16", for weights of it, rounds inputs and states for the products, too, which then may run at twice
            the rate: on processors with AVX512_BF16. Sums, gates and the states kept are float32.

        Raises
        ------
        TypeError, ValueError
            Another precision, a model that is not of float32, a weight that is not finite or too large, or calibration
            data of another shape or dtype, not finite, all zero, or leading to states that are not finite.

        Examples
        --------
        >>> import numpy as np, cgru
        >>> small = cgru.GRU(3, 8, rng=0).quantize("int8")
        >>> small
        GRU(3, 8).quantize('int8')
        >>> small(np.ones((5, 3), np.float32))[0].shape
        (5, 8)
        """
        checks.choice("precision", precision, PRECISIONS)
        if self.dtype != np.float32 or self.precision != "float32":
            held = self.precision if self.precision != "float32" else self.dtype
            raise ValueError(f"precision: expected a model of float32 to quantize, got one of {held}")
        checks.choice("compute", compute, COMPUTE)
        if compute != "float32" and precision != "bfloat16":
            raise ValueError(f"compute: expected 'float32' with {precision}, got {compute!r}")
        if calibrate is not None and precision != "int8":
            raise ValueError(f"calibrate: expected None with {precision}, whose inputs stay float32")
        parameters = dict(self._parameters)
        for name, array in self._parameters.items():
            if name.startswith("weight"):
                parameters[name] = narrow(name, array, precision)  # type: ignore[arg-type]
        limit = None
        if calibrate is not None:
            from cgru import calibration

            arguments = calibrate if isinstance(calibrate, tuple) else (calibrate,)
            if len(arguments) > 3:
                raise TypeError(f"calibrate: expected an array or up to 3 arguments of a call, got {len(arguments)}")
            x, h0, lengths = self._calibration(*arguments)
            limit = calibration.largest(x, lengths)
            if not 0 < limit < float("inf"):
                raise ValueError(f"calibrate: expected finite numbers that are not all zero, got {limit} as largest")
            if h0 is not None and not np.isfinite(h0).all():
                at = tuple(int(i) for i in np.argwhere(~np.isfinite(h0))[0])
                raise ValueError(f"calibrate: expected initial states that are finite, got {h0[at]} at {at}")
            parameters |= calibration.fitted(self, x, h0, lengths)
        return self._restore(self.options, parameters, Arithmetic(compute, limit))

    def _calibration(self, x: Array, h0: Array | None = None, lengths: Any = None) -> tuple[Array, Any, Any]:
        """Arguments of a call as x (T, B, I), h0 (L*D, B, H) and lengths (B,) or None."""
        raise TypeError(f"{type(self).__name__} cannot be called")

    @property
    def precision(self) -> str:
        """What the engine stores weights as: "float32", or of a quantized model "bfloat16", "float16" or "int8"."""
        precision: str = self.__dict__["_precision"]
        return precision

    @property
    def input_limit(self) -> float | None:
        """The largest magnitude of inputs to a calibrated int8 model, beyond which they are clipped; None: no limit."""
        return self._arithmetic.input_limit

    @property
    def compute(self) -> str:
        """What inputs and states of a bfloat16 model are rounded to for the products: "float32" or "bfloat16"."""
        return self._arithmetic.compute

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _restore, (type(self), self.options, self._parameters, self._arithmetic)

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
        compute = "" if self.compute == "float32" else f", compute={self.compute!r}"
        quantized = "" if self.precision == "float32" else f".quantize({self.precision!r}{compute})"
        return f"{type(self).__name__}({', '.join(parts)}){quantized}"


def _restore(
    cls: type[Model], options: Mapping[str, Any], parameters: Mapping[str, Array | Matrix], arithmetic: Arithmetic
) -> Any:
    return cls._restore(options, parameters, arithmetic)


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
