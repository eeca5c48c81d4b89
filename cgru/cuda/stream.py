"""Streams and pools of a model on a GPU: `cgru.stream`'s, with states that stay on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cgru import stream
from cgru._exclusive import Exclusive, alone
from cgru.engines.cuda import forward, intake

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cgru.cuda import GRU
    from cgru.types import Array


class Stream(Exclusive):
    """One sequence, or B in lockstep, step by step on a GPU; made by `gru.to("cuda").stream()`.

    Work goes to CuPy's current stream of each call. As a stream of the processor it belongs to one thread at a time,
    and keeps the weights that the model had when it was made.
    """

    _kind = "stream"
    _gru: GRU

    def __init__(self, gru: GRU, batch_size: int | None) -> None:
        self._gru = stream.frozen(gru, "stream")  # type: ignore[assignment]
        self._batch_size = stream.checked_batch_size(batch_size)
        with gru._device.use():
            self._states = gru._initial(None, self._batch_size or 1)  # replaced, and never written into

    def _shape(self, *sizes: int | str) -> tuple[int | str, ...]:
        """A shape with the batch axis before the last, if there is one."""
        return sizes if self._batch_size is None else (*sizes[:-1], self._batch_size, sizes[-1])

    def step(self, x: Array, out: Array | None = None) -> Array:
        """The output of one more step: (I,) -> (H,), or (B, I) -> (B, H); see `cgru.stream.Stream`."""
        return self._run("x", x, self._shape(self._gru.input_size), out, lambda array: array[None])

    def process(self, chunk: Array, out: Array | None = None) -> Array:
        """The outputs of a chunk of steps: (t, I) -> (t, H), or (t, B, I) -> (t, B, H)."""
        return self._run("chunk", chunk, self._shape("t", self._gru.input_size), out, lambda array: array)

    @alone
    def _run(self, name: str, x: Any, shape: tuple[int | str, ...], out: Any, as_steps: Any) -> Array:
        gru, device = self._gru, self._gru._device
        with device.use():
            x = intake.array(device, name, x, gru.dtype, shape)
            y_shape = (*x.shape[:-1], gru.hidden_size)
            if out is None:
                y = device.xp.empty(y_shape, gru.dtype)
            else:
                y = intake.output(device, out, gru.dtype, y_shape, {name: x})
            x_steps, y_steps = as_steps(x), as_steps(y)
            if self._batch_size is None:
                x_steps, y_steps = x_steps[:, None], y_steps[:, None]
            states = self._states.copy()
            if x_steps.size:
                forward.run(device, gru._stack, x_steps, states, y_steps, None, "auto")
        self._states = states
        return y

    @property
    @alone
    def state(self) -> Array:
        """The states of all layers, (L, H) or (L, B, H): a copy to keep, and a value to set to go back to it."""
        with self._gru._device.use():
            states = self._states.copy()
        return states[:, 0] if self._batch_size is None else states

    @state.setter
    @alone
    def state(self, value: Array) -> None:
        gru, device = self._gru, self._gru._device
        with device.use():
            state = intake.array(device, "state", value, gru.dtype, self._shape(gru.num_layers, gru.hidden_size))
            states = device.xp.array(state.reshape(self._states.shape), order="C")
        self._states = states

    @alone
    def reset(self) -> None:
        """Set all states to zero."""
        with self._gru._device.use():
            states = self._gru._initial(None, self._batch_size or 1)
        self._states = states

    def copy(self) -> Stream:
        """Another stream of the same weights and state, which goes its own way from here."""
        twin = Stream(self._gru, self._batch_size)
        twin.state = self.state
        return twin

    def __copy__(self) -> Stream:
        return self.copy()

    def __deepcopy__(self, memo: object) -> Stream:
        return self.copy()

    def __reduce__(self) -> Any:
        return stream._restore, (self._gru, self._batch_size, self.state)

    def __repr__(self) -> str:
        batch = "" if self._batch_size is None else f", batch_size={self._batch_size}"
        return f"{type(self).__name__}({self._gru!r}{batch})"


class StreamPool(stream.StreamPool):
    """Many independent streams served together on a GPU; made by `gru.to("cuda").pool(capacity)`.

    Which streams are open is kept, and numbers are checked, on the host: `ids` are a list or a NumPy array.
    """

    _gru: GRU

    def __init__(self, gru: GRU, capacity: int) -> None:
        super().__init__(gru, capacity)
        self._device = gru._device

    def _zeros(self, count: int) -> Array:
        with self._gru._device.use():
            return self._gru._initial(None, count)

    def _put(self, chosen: Array | list[int], states: Array) -> None:
        with self._device.use():
            self._states[:, self._device.xp.asarray(chosen)] = states

    def state(self, i: int) -> Array:
        """A copy of a stream's states, (L, H)."""
        with self._device.use():
            return super().state(i)

    @alone
    def set_state(self, i: int, h: Array) -> None:
        """Set a stream's states, (L, H)."""
        i, gru = self._one(i), self._gru
        with self._device.use():
            states = intake.array(self._device, "h", h, gru.dtype, (gru.num_layers, gru.hidden_size))
            self._put([i], states[:, None])

    def copy(self) -> Any:
        """Another pool of the same weights, open streams and states, which goes its own way from here."""
        with self._device.use():
            return super().copy()

    def __reduce__(self) -> Any:
        with self._device.use():
            return super().__reduce__()

    def step(
        self, ids: Iterable[int] | Array, x: Array, out: Array | None = None, *, num_threads: int | None = None
    ) -> Array:
        """One more step of the streams named, (N, I) -> (N, H); see `cgru.stream.StreamPool`."""
        if num_threads is not None:
            raise ValueError(f"num_threads: expected None for a model on {self._device.name}, got {num_threads!r}")
        if hasattr(ids, "__cuda_array_interface__"):
            raise TypeError("ids: expected (N,) integers in host memory, got an array on a GPU; use ids.get()")
        return self._step(stream.integers(ids), x, out, 1)

    @alone
    def _step(self, ids: Array, x: Array, out: Array | None, threads: int) -> Array:
        gru, device, xp = self._gru, self._device, self._device.xp
        chosen = self._many(ids)
        with device.use():
            x = intake.array(device, "x", x, gru.dtype, (len(chosen), gru.input_size))
            shape = (len(chosen), gru.hidden_size)
            y = xp.empty(shape, gru.dtype) if out is None else intake.output(device, out, gru.dtype, shape, {"x": x})
            if len(chosen):
                h = xp.take(self._states, xp.asarray(chosen), axis=1)
                forward.run(device, gru._stack, x[None], h, y[None], None, "auto")
                self._put(chosen, h)
            return y
