"""The engine of a device: CuPy arrays in, CuPy arrays out, on CuPy's current stream."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.engines.cuda import backward, forward, intake, plan
from cgru.engines.cuda import device as devices
from cgru.model.value import Value

if TYPE_CHECKING:
    import contextlib

    from cgru.engines.cuda.device import Device
    from cgru.engines.restarts import OfDirection, Restarts
    from cgru.model.layer import Gradient, Layer, Stack
    from cgru.types import Array, Lengths, Shape


KINDS = ("GRU", "GRUCell")
"""Models whose cell has kernels here."""


class Cuda:
    """One GPU; see `cgru.engines.interface.Engine`."""

    strided = True
    most_steps = checks.MAX_DIMENSION

    def __init__(self, device: Device) -> None:
        self.device = device
        self.name, self.xp = device.name, device.xp

    def use(self) -> contextlib.AbstractContextManager[Any]:
        """Make the device current within a `with` block; work goes to its current stream."""
        return self.device.use()

    def refuse(self, **arguments: object) -> None:
        """What is for the processor alone must be None."""
        for name, value in arguments.items():
            if value is not None:
                raise ValueError(f"{name}: expected None for a model on {self.name}; gru.to('cpu') takes it")

    def how(self, dtype: np.dtype[Any], engine: str = "auto", num_threads: object = None) -> str:
        """The way a layer runs: "auto", "steps" or "fused" (`plan.py`)."""
        self.refuse(num_threads=num_threads)
        return checks.choice("engine", engine, plan.ENGINES)

    how_to_record = how

    def take(self, value: Value) -> Value:
        """See `Engine.take`. Weights of 16 bits stay that on the device, and the value's own stay on the host."""
        if value.spec.kind not in KINDS:
            raise ValueError(f"device: expected a {' or '.join(KINDS)} to run on a GPU, got a {value.spec.kind}")
        if value.arithmetic.compute != "float32":
            raise ValueError(
                f"device: expected a model that computes in float32, got one of compute={value.arithmetic.compute!r}"
            )
        if value.precision not in forward.STORED:
            raise ValueError(f"device: expected a model of {' or '.join(forward.STORED)}, got one of {value.precision}")
        xp = self.xp
        with self.use():
            if value.precision == "float32" and not all(isinstance(a, xp.ndarray) for a in value.parameters.values()):
                arrays = {name: xp.asarray(array) for name, array in value.parameters.items()}
                value = Value(value.spec, arrays, value.arithmetic, xp, value.block)
            forward.prepare(self.device, value.stack)
        return value

    def to_host(self, value: Value) -> Value:
        """The value in host memory; waits for the device."""
        if value.precision != "float32":
            return Value(value.spec, value.parameters, value.arithmetic, block=value.block)
        with self.use():
            arrays = {name: self.device.to_host(array) for name, array in value.wide().items()}
        return Value(value.spec, arrays, value.arithmetic, block=value.block)

    def ready(self, stack: Stack) -> None:
        """See `Engine.ready`: another stream may have brought the weights."""
        forward.ready(self.device, stack)

    def parameter(self, dtype: np.dtype[Any], name: str, value: Any, shape: tuple[int, ...]) -> Array:
        """See `Engine.parameter`."""
        copy: Array = self.xp.array(self.array(name, value, dtype, shape), order="C")
        return copy

    def array(self, name: str, value: Any, dtype: np.dtype[Any], *shapes: Shape) -> Array:
        """See `Engine.array`; arrays of other libraries on the device are taken without a copy."""
        return intake.array(self.device, name, value, dtype, *shapes)

    def output(self, out: Any, dtype: np.dtype[Any], shape: tuple[int, ...], inputs: dict[str, Array | None]) -> Array:
        """See `Engine.output`."""
        return intake.output(self.device, out, dtype, shape, inputs)

    def lengths(self, value: Any, batch: int, steps: int) -> Lengths:
        """See `Engine.lengths`."""
        if hasattr(value, "__cuda_array_interface__"):
            raise TypeError("lengths: expected (B,) integers in host memory, got an array on a GPU; use lengths.get()")
        result: Lengths = self.xp.asarray(checks.lengths(value, batch, steps))
        return result

    def call(self, stack: Stack, x: Any, h0: Any, batch_first: bool, how: str) -> None:
        """There is no short way."""

    def run(
        self,
        stack: Stack,
        x: Array,
        h: Array,
        y: Array,
        lengths: Lengths | None,
        how: str,
        restarts: Restarts | None = None,
    ) -> None:
        """See `Engine.run`; there are no restarts here."""
        if x.size:
            forward.run(self.device, stack, x, h, y, lengths, how)

    def keep(self, x: Array, lengths: Lengths | None) -> Array:
        """See `Engine.keep`. What stands past a sequence's length, NaN perhaps, has no part in weights' gradients."""
        if lengths is None:
            kept: Array = self.xp.array(x, order="C")
            return kept
        runs = self.xp.arange(len(x))[:, None] < lengths
        return self.xp.where(runs[:, :, None], x, x.dtype.type(0))

    def dropout(self, generator: np.random.Generator, shape: tuple[int, ...], share: float) -> Array:
        """See `Engine.dropout`. Drawn on the device, with a seed from the generator."""
        drawn = self.xp.random.default_rng(int(generator.integers(2**63))).random(shape, np.float32)
        kept: Array = drawn >= np.float32(share)
        return kept

    def record(
        self,
        layer: Layer,
        x: Array,
        h: Array,
        y: Array,
        lengths: Lengths | None,
        reverse: bool,
        how: str,
        chunk: int,
        gates: Array | None = None,
        restarts: OfDirection | None = None,
        by_start: bool = False,
    ) -> Pass:
        """See `Engine.record`; the gates of all steps are in memory at once, whatever `chunk` says, and stay there."""
        assert gates is None, "a device gives no gates out"
        assert restarts is None, "a device has no restarts"
        weights = layer.prepared["cuda"]
        record = forward.direction(weights, x, h, y, lengths, reverse, how, recording=True)
        assert record is not None
        return Pass(weights, record, lengths, reverse)

    def __reduce__(self) -> tuple[Any, ...]:
        return engine_of, (self.device,)


class Pass:
    """One direction of one layer, recorded on a device; see `cgru.engines.interface.Pass`."""

    gates: Array | None = None

    def __init__(
        self, weights: forward.Weights, record: forward.Record, lengths: Lengths | None, reverse: bool
    ) -> None:
        self.weights, self.record, self.lengths, self.reverse = weights, record, lengths, reverse

    def backward(self, grad_y: Array | None, grad_h: Array, grad_x: Array | None, add: bool) -> Gradient:
        """See `cgru.engines.interface.Pass.backward`."""
        by_x, gradient = backward.direction(self.weights, self.record, grad_y, grad_h, self.lengths, self.reverse)
        if grad_x is not None:
            grad_x[...] = grad_x + by_x if add else by_x
        return gradient


def engine_of(device: Device) -> Cuda:
    """The one engine of a device."""
    return _engine_of(device)  # type: ignore[arg-type] # devices are equal to themselves alone


@cache
def _engine_of(device: Device) -> Cuda:
    return Cuda(device)


def find(device: object) -> Cuda:
    """The engine of a GPU's name.

    Raises
    ------
    ValueError
        No name of a device.
    RuntimeError
        CuPy, a driver or the device is missing; the message says which, and what to do.
    """
    return engine_of(devices.find(devices.parse(device)))
