"""What GRU and GRUCell share: a model's value, its options as attributes, and its parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cgru import checks
from cgru.engines import HOST
from cgru.model import sparsity
from cgru.model.precision import COMPUTE, PRECISIONS, Arithmetic, Matrix, narrow
from cgru.model.sparsity import BLOCK
from cgru.model.spec import KINDS, Spec, defaults, from_options
from cgru.model.value import FLOATS, Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from cgru.engines.interface import Engine
    from cgru.types import ActivationOptions, Array


class Model:
    """A value (`cgru.model.value`) with a face: its options are attributes, its parameters have PyTorch's names."""

    kind: ClassVar[str]
    """Of the specification."""

    _value: Value
    _engine: Engine = HOST

    input_size: int
    hidden_size: int
    bias: bool
    reset_after: bool
    update_gate: str
    activation: ActivationOptions
    recurrent_activation: ActivationOptions
    clip: float | None
    dtype: np.dtype[Any]

    def __init__(self, options: Mapping[str, Any], rng: object) -> None:
        spec = from_options(self.kind, {name: options[name] for name in KINDS[self.kind].options})
        self._hold(Value(spec, spec.initial(rng)))

    def _hold(self, value: Value) -> None:
        """Take over a value, in one act: who calls the model meanwhile runs the one before or this one."""
        self.__dict__["_value"] = value

    @classmethod
    def of(cls, value: Value, engine: Engine = HOST) -> Self:
        """The model that holds a value, whose parameters the engine took (`Engine.take`).

        >>> import cgru
        >>> gru = cgru.GRU(3, 8)
        >>> cgru.GRU.of(gru.value)
        GRU(3, 8)
        """
        if value.spec.kind != cls.kind:
            raise TypeError(f"value: expected one of a {cls.kind}, got one of a {value.spec.kind}")
        model = cls.__new__(cls)
        if engine is not HOST:
            model.__dict__["_engine"] = engine
        model._hold(value)
        return model

    @property
    def value(self) -> Value:
        """What the model is at present: its specification and parameters, which are not to be written to."""
        return self._value

    @property
    def engine(self) -> Engine:
        """What the model runs on."""
        return self._engine

    def _on_host(self) -> Value:
        """The value in host memory, for files and other systems."""
        return self._engine.to_host(self._value)

    @property
    def spec(self) -> Spec:
        """The model's options, and what follows from them."""
        return self._value.spec

    def __getattr__(self, name: str) -> Any:
        value = self.__dict__.get("_value")
        if value is not None and name in KINDS[self.kind].options:
            return getattr(value.spec, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name}: a {type(self).__name__} keeps the options it was made with; make another one")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *KINDS[self.kind].options})

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's arguments that make a model of this kind, `rng` aside."""
        return self.spec.options

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters under PyTorch's names.

        `weight_ih_l0` (3H, I), `weight_hh_l0` (3H, H), `bias_ih_l0` and `bias_hh_l0` (3H,), gates in the order r, z, n;
        further layers as `_l1`, ..., the reverse direction as `_l0_reverse`. A GRUCell's names have no `_l0`.

        >>> import cgru
        >>> {name: array.shape for name, array in cgru.GRU(4, 8).state_dict().items()}
        {'weight_ih_l0': (24, 4), 'weight_hh_l0': (24, 8), 'bias_ih_l0': (24,), 'bias_hh_l0': (24,)}
        """
        with self._engine.use():
            return {name: self._engine.xp.array(array) for name, array in self._value.wide().items()}

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
        spec, engine = self._value.spec, self._engine
        with engine.use():
            take = partial(engine.parameter, spec.dtype)
            value = Value.of(spec, state_dict, take=take, xp=engine.xp, block=self._value.block)
            self._hold(engine.take(value))

    def prune(self, density: float, block: tuple[int, int] = BLOCK) -> Self:
        """This model with a share of its weights, the largest ones, in blocks; the others are zero.

        Each matrix W and U keeps so many of its blocks, those of the largest mean square; in U the ones that hold its
        diagonal, what a unit's own state meets, come first, and all of them stay. Inference skips blocks of zeros where
        they are most of a layer. `record` gives no gradient by them, so that training goes on with the weights there
        are; `save` and `quantize` keep them. Train on after pruning, or prune while training (`cgru.sklearn.Prune`);
        `cgru.compare` tells the error.

        Parameters
        ----------
        density : float
            The share that stays, above 0 and up to 1.
        block : (units, inputs)
            The engines skip blocks of 8 by 4 and multiples of them.

        Raises
        ------
        TypeError, ValueError
            Another density or block.
        RuntimeError
            The model is quantized: prune the float32 one and quantize that.

        Examples
        --------
        >>> import cgru
        >>> sparse = cgru.GRU(64, 128, rng=0).prune(0.2)
        >>> sparse
        GRU(64, 128).prune(0.2)
        """
        expected = f"density: expected a number above 0 and up to 1, got {density!r}"
        if isinstance(density, (bool, np.bool_)) or not isinstance(density, (int, float, np.integer, np.floating)):
            raise TypeError(expected)
        if not 0 < density <= 1:
            raise ValueError(expected)
        if not isinstance(block, (tuple, list)) or len(block) != 2:
            raise ValueError(f"block: expected units and inputs, as {BLOCK}, got {block!r}")
        units, inputs = (checks.integer("block", size, 1, 2**16) for size in block)
        if self.precision != "float32":
            raise RuntimeError(
                f"prune: this model's weights are stored as {self.precision}, for inference only; prune the float32 "
                "model and quantize that"
            )
        value = self._on_host().pruned(float(density), (units, inputs))
        return type(self).of(self._engine.take(value), self._engine)

    @property
    def density(self) -> float:
        """The share of weights in blocks that are not zero; 1 of a model that was not pruned."""
        return self._on_host().density

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
        value = self._on_host()
        parameters = dict(value.parameters)
        for name, array in value.parameters.items():
            if name.startswith("weight"):
                parameters[name] = narrow(name, array, precision)  # type: ignore[arg-type]
        limit = None
        if calibrate is not None:
            from cgru.run import calibration

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
            parameters |= calibration.fitted(value, x, h0, lengths)
        small = Value.of(value.spec, parameters, Arithmetic(compute, limit), block=value.block)
        return type(self).of(self._engine.take(small), self._engine)

    def _calibration(self, x: Array, h0: Array | None = None, lengths: Any = None) -> tuple[Array, Any, Any]:
        """Arguments of a call as x (T, B, I), h0 (L*D, B, H) and lengths (B,) or None."""
        raise TypeError(f"{type(self).__name__} cannot be called")

    @property
    def precision(self) -> str:
        """What the engine stores weights as: "float32", or of a quantized model "bfloat16", "float16" or "int8"."""
        return self.value.precision

    @property
    def input_limit(self) -> float | None:
        """The largest magnitude of inputs to a calibrated int8 model, beyond which they are clipped; None: no limit."""
        return self.value.arithmetic.input_limit

    @property
    def compute(self) -> str:
        """What inputs and states of a bfloat16 model are rounded to for the products: "float32" or "bfloat16"."""
        return self.value.arithmetic.compute

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        value = self._on_host()
        engine = None if self._engine is HOST else self._engine
        held = (type(self), value.spec.options, value.parameters, value.arithmetic, engine, value.block)
        return _restore, held if engine is not None or value.block is not None else held[:4]

    def __repr__(self) -> str:
        parts = []
        for name, default in defaults(self.kind).items():
            value = getattr(self.spec, name)
            if default is dataclasses.MISSING:
                parts.append(repr(value))
            elif value != default:
                parts.append(f"{name}={value.name if name == 'dtype' else repr(value)}")
        compute = "" if self.compute == "float32" else f", compute={self.compute!r}"
        quantized = "" if self.precision == "float32" else f".quantize({self.precision!r}{compute})"
        device = "" if self._engine is HOST else f".to({self._engine.name!r})"
        return f"{type(self).__name__}({', '.join(parts)}){self._pruning()}{quantized}{device}"

    def _pruning(self) -> str:
        block = self._value.block
        if block is None:
            return ""
        return f".prune({self.density:.2g}{'' if block == BLOCK else f', block={block}'})"


def _restore(
    cls: type[Model],
    options: Mapping[str, Any],
    parameters: Mapping[str, Array | Matrix],
    arithmetic: Arithmetic = FLOATS,
    engine: Engine | None = None,
    block: sparsity.Block | None = None,
) -> Any:
    """A model from what a pickle of it holds, those of earlier versions too."""
    value = Value.of(from_options(cls.kind, options), parameters, arithmetic, block=block)
    engine = engine or HOST
    return cls.of(engine.take(value), engine)
