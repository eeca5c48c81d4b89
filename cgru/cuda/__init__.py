"""A GRU on a GPU: what `gru.to("cuda")` gives. CuPy arrays in, CuPy arrays out, on CuPy's current stream.

A call puts work on the stream and returns without waiting for it. Its parameters lie on the device; what concerns files
and other frameworks goes through `gru.to("cpu")`. Needs CuPy: pip install "cgru[cuda12]" or "cgru[cuda13]".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import cgru
from cgru import checks
from cgru.engines.cuda import device as devices
from cgru.engines.cuda import forward, intake, plan
from cgru.model.precision import wide
from cgru.model.value import Value

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from cgru.cuda.stream import Stream, StreamPool
    from cgru.cuda.training import Tape
    from cgru.engines.cuda.device import Device
    from cgru.types import Array


def move(gru: cgru.GRU, device: object) -> cgru.GRU:
    """The model on a device, itself where it is there; see `cgru.GRU.to`."""
    index = devices.parse(device)
    if gru.device == ("cpu" if index is None else f"cuda:{index}"):
        return gru
    if index is not None:
        return place(gru, devices.find(index))
    return gru._on_cpu() if isinstance(gru, GRU) else gru


def place(gru: cgru.GRU, device: Device) -> GRU:
    """A copy of the model, its parameters on the device."""
    if isinstance(gru, GRU):
        gru = gru._on_cpu()
    if gru.compute != "float32":
        raise ValueError(f"device: expected a model that computes in float32, got one of compute={gru.compute!r}")
    if gru.precision not in forward.STORED:
        raise ValueError(f"device: expected a model of {' or '.join(forward.STORED)}, got one of {gru.precision}")
    model = GRU.__new__(GRU)
    model.__dict__["_device"] = device
    value = gru.value
    with device.use():
        if gru.precision == "float32":
            arrays = {name: device.xp.asarray(array) for name, array in value.parameters.items()}
            value = Value(value.spec, arrays, value.arithmetic, device.xp)
        else:  # float32 arrays would take more than the weights of 16 bits: they stay on the host
            value = Value(value.spec, value.parameters, value.arithmetic)
        model._hold(value)
    return model


class GRU(cgru.GRU):
    """A GRU on a GPU, made by `gru.to("cuda")`; its options are those of the model it was made from.

    It is called as a `cgru.GRU` is, with CuPy arrays in place of NumPy's, or others in the device's memory that offer
    DLPack or the `__cuda_array_interface__`; results are CuPy arrays. An array in host memory, or on another device, is
    an error. Lengths are checked, so they stay on the host.
    """

    _device: Device

    def _hold(self, value: Value) -> None:
        if "_device" not in self.__dict__:
            raise TypeError("cgru.cuda.GRU: made by gru.to('cuda') of a cgru.GRU")
        forward.prepare(self._device, value.stack)
        super()._hold(value)

    @property
    def device(self) -> str:
        """Where the model is: "cuda:0"."""
        return self._device.name

    def _on_cpu(self) -> cgru.GRU:
        """A copy of the model in host memory; waits for the device."""
        with self._device.use():
            parameters = self.value.parameters
            if self.precision == "float32":
                parameters = {name: self._device.to_host(array) for name, array in parameters.items()}  # type: ignore[arg-type]
        return cgru.GRU.of(Value(self.spec, parameters, self.value.arithmetic))

    def __call__(
        self,
        x: Array,
        h0: Array | None = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        mask_output: str = "repeat",
        out: Array | None = None,
        engine: str = "auto",
        num_threads: int | None = None,
    ) -> tuple[Array, Array]:
        """Run sequences through the layers; shapes and results as of `cgru.GRU`.

        Parameters
        ----------
        x : (T, B, I), with batch_first (B, T, I), or (T, I)
            On the model's device; any strides.
        h0 : (L*D, B, H) or (L*D, H), optional
        lengths : (B,) integers, a list or a NumPy array, optional
        out : CuPy array of y's shape, optional
            Its memory must not lie between the first and the last element of x or h0.
        engine : {"auto", "steps", "fused"}
            "steps" makes a product and a kernel at every step; "fused" makes all steps one launch, for H up to 512.
        mask, num_threads
            Not on a GPU: None.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; nothing has been written then.
        """
        if mask is not None or num_threads is not None:
            name = "num_threads" if mask is None else "mask"
            raise ValueError(f"{name}: expected None for a model on {self.device}; gru.to('cpu') takes it")
        checks.choice("engine", engine, plan.ENGINES)
        device, xp = self._device, self._device.xp
        with device.use():
            x, h0, single, x_steps, last = self._inputs(x, h0, lengths)
            y_shape = (*x.shape[:-1], self.spec.width)
            if out is None:
                y = xp.empty(y_shape, self.dtype)
            else:
                y = intake.output(device, out, self.dtype, y_shape, {"x": x, "h0": h0})
            h_n = self._initial(h0, x_steps.shape[1])
            if x_steps.size:
                forward.run(device, self.value.stack, x_steps, h_n, self._time_first(y), last, engine)
            return y, h_n[:, 0] if single else h_n

    def record(  # type: ignore[override]
        self,
        x: Any,
        h0: Any = None,
        *,
        lengths: Any = None,
        rng: int | np.random.Generator | None = None,
        memory: None = None,
        num_threads: None = None,
        engine: str = "auto",
    ) -> tuple[Array, Array, Tape]:
        """Run sequences as a call does, and keep on the device what their gradients need.

        Dropout between layers acts here; its masks are drawn on the device, with a seed from `rng`.

        Returns
        -------
        y, h_n
            As of a call.
        tape : Tape
            `grads = tape.backward(grad_y, grad_h_n)`: CuPy arrays `grads.x`, `grads.h0`, `grads["weight_ih_l0"]`, ...

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; `memory` and `num_threads` are None on a GPU.
        RuntimeError
            The model is quantized.
        """
        from cgru.cuda import training

        for name, value in {"memory": memory, "num_threads": num_threads}.items():
            if value is not None:
                raise ValueError(f"{name}: expected None for a model on {self.device}, got {value!r}")
        return training.record(self, x, h0, lengths=lengths, rng=rng, engine=engine)

    def _inputs(self, x: Any, h0: Any, lengths: Any) -> tuple[Array, Array | None, bool, Array, Array | None]:
        """The arguments, checked: x and h0 as given, whether x is one sequence, x as (T, B, I), lengths there."""
        device = self._device
        batched = ("B", "T", self.input_size) if self.batch_first else ("T", "B", self.input_size)
        x = intake.array(device, "x", x, self.dtype, batched, ("T", self.input_size))
        single = x.ndim == 2
        x_steps = self._time_first(x)
        steps, batch, _ = x_steps.shape
        if batch > checks.MAX_DIMENSION or steps > checks.MAX_DIMENSION:
            raise ValueError(f"x: expected T and B up to {checks.MAX_DIMENSION}, got {steps} and {batch}")
        if h0 is not None:
            shape = self._state_shape(batch)
            h0 = intake.array(device, "h0", h0, self.dtype, shape[::2] if single else shape)
        last = None
        if lengths is not None:
            if hasattr(lengths, "__cuda_array_interface__"):
                raise TypeError(
                    "lengths: expected (B,) integers in host memory, got an array on a GPU; use lengths.get()"
                )
            checked = checks.lengths([lengths] if single and np.ndim(lengths) == 0 else lengths, batch, steps)
            last = device.xp.asarray(checked)
        return x, h0, single, x_steps, last

    def _time_first(self, array: Array) -> Array:
        """An input or output as (T, B, ...)."""
        return array[:, None] if array.ndim == 2 else array.swapaxes(0, 1) if self.batch_first else array

    def _state_shape(self, batch: int) -> tuple[int, int, int]:
        return self.num_layers * (2 if self.bidirectional else 1), batch, self.hidden_size

    def _initial(self, h0: Array | None, batch: int) -> Array:
        """A new array of the initial states, (L*D, B, H)."""
        states: Array = self._device.xp.zeros(self._state_shape(batch), self.dtype)
        if h0 is not None:
            states[...] = h0.reshape(states.shape)
        return states

    def stream(self, batch_size: int | None = None) -> Stream:  # type: ignore[override]
        """A stream whose state stays on the device; see `cgru.GRU.stream`."""
        from cgru.cuda import stream

        return stream.Stream(self, batch_size)

    def pool(self, capacity: int) -> StreamPool:
        """A pool of streams whose states stay on the device; see `cgru.GRU.pool`."""
        from cgru.cuda import stream

        return stream.StreamPool(self, capacity)

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters, on the device, under PyTorch's names; see `cgru.GRU.state_dict`."""
        with self._device.use():
            return {name: self._device.xp.array(wide(array)) for name, array in self.value.parameters.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Replace all parameters by copies of arrays on the device; see `cgru.GRU.load_state_dict`."""
        with self._device.use():
            super().load_state_dict(state_dict)

    def _taken(self, parameters: Mapping[str, Array]) -> Value:
        xp = self._device.xp

        def take(name: str, array: Any, shape: tuple[int, ...]) -> Array:
            copy: Array = xp.array(intake.array(self._device, name, array, self.dtype, shape), order="C")
            return copy

        return Value.of(self.spec, parameters, take=take, xp=xp)

    def quantize(self, precision: str, *, calibrate: Any = None, compute: str = "float32") -> GRU:
        """This model with weights of 16 bits; see `cgru.GRU.quantize`. Products of fewer bits are not on a GPU."""
        return place(self._on_cpu().quantize(precision, calibrate=calibrate, compute=compute), self._device)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .safetensors file; see `cgru.GRU.save`."""
        self._on_cpu().save(path)

    def to_torch(self) -> Any:
        """A torch.nn.GRU of the same parameters, in host memory; see `cgru.GRU.to_torch`."""
        return self._on_cpu().to_torch()

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write an ONNX model; see `cgru.GRU.to_onnx`."""
        self._on_cpu().to_onnx(path)

    def to_keras(self) -> Any:
        """A Keras layer of the same parameters; see `cgru.GRU.to_keras`."""
        return self._on_cpu().to_keras()

    def to_rtneural(self, path: str | os.PathLike[str]) -> None:
        """Write a .json file that RTNeural reads; see `cgru.GRU.to_rtneural`."""
        self._on_cpu().to_rtneural(path)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return place, (self._on_cpu(), self._device)

    def __repr__(self) -> str:
        return f"{super().__repr__()}.to({self.device!r})"
