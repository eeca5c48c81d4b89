"""Streams and pools of a model on a GPU: `cgru.stream`'s, with states that stay on the device."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from cgru import checks, stream
from cgru.engines.cuda import forward, intake

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cgru.cuda import GRU
    from cgru.types import Array


@contextlib.contextmanager
def _alone(user: Any, what: str) -> Iterator[None]:
    """A block that one thread at a time may be in, on the stream's or pool's device."""
    if user._busy:
        raise RuntimeError(f"this {what} is in use by another thread: a {what} belongs to one thread at a time")
    user._busy = True
    try:
        with user._gru._device.use():
            yield
    finally:
        user._busy = False


class Stream:
    """One sequence, or B in lockstep, step by step on a GPU; made by `gru.to("cuda").stream()`.

    Work goes to CuPy's current stream of each call. As a stream of the processor it belongs to one thread at a time.
    """

    def __init__(self, gru: GRU, batch_size: int | None) -> None:
        stream.refuse_backwards(gru, "stream")
        self._gru, self._busy = gru, False
        self._batch_size = None if batch_size is None else checks.integer("batch_size", batch_size, 1)
        with gru._device.use():
            self._states = gru._initial(None, self._batch_size or 1)

    def _shape(self, *sizes: int | str) -> tuple[int | str, ...]:
        """A shape with the batch axis before the last, if there is one."""
        return sizes if self._batch_size is None else (*sizes[:-1], self._batch_size, sizes[-1])

    def step(self, x: Array, out: Array | None = None) -> Array:
        """The output of one more step: (I,) -> (H,), or (B, I) -> (B, H); see `cgru.stream.Stream`."""
        return self._run("x", x, self._shape(self._gru.input_size), out, lambda array: array[None])

    def process(self, chunk: Array, out: Array | None = None) -> Array:
        """The outputs of a chunk of steps: (t, I) -> (t, H), or (t, B, I) -> (t, B, H)."""
        return self._run("chunk", chunk, self._shape("t", self._gru.input_size), out, lambda array: array)

    def _run(self, name: str, x: Any, shape: tuple[int | str, ...], out: Any, as_steps: Any) -> Array:
        gru, device = self._gru, self._gru._device
        with _alone(self, "stream"):
            x = intake.array(device, name, x, gru.dtype, shape)
            y_shape = (*x.shape[:-1], gru.hidden_size)
            if out is None:
                y = device.xp.empty(y_shape, gru.dtype)
            else:
                y = intake.output(device, out, gru.dtype, y_shape, {name: x})
            x_steps, y_steps = as_steps(x), as_steps(y)
            if self._batch_size is None:
                x_steps, y_steps = x_steps[:, None], y_steps[:, None]
            if x_steps.size:
                forward.run(device, gru.value.stack, x_steps, self._states, y_steps, None, "auto")
            return y

    @property
    def state(self) -> Array:
        """The states of all layers, (L, H) or (L, B, H): a copy to keep, and a value to set to go back to it."""
        with _alone(self, "stream"):
            states = self._states.copy()
        return states[:, 0] if self._batch_size is None else states

    @state.setter
    def state(self, value: Array) -> None:
        gru = self._gru
        with _alone(self, "stream"):
            state = intake.array(gru._device, "state", value, gru.dtype, self._shape(gru.num_layers, gru.hidden_size))
            self._states[...] = state.reshape(self._states.shape)

    def reset(self) -> None:
        """Set all states to zero."""
        with _alone(self, "stream"):
            self._states.fill(0)

    def copy(self) -> Stream:
        """Another stream of the same model and state, which goes its own way from here."""
        twin = Stream(self._gru, self._batch_size)
        twin.state = self.state
        return twin

    def __copy__(self) -> Stream:
        return self.copy()

    def __deepcopy__(self, memo: object) -> Stream:
        return self.copy()

    def __repr__(self) -> str:
        batch = "" if self._batch_size is None else f", batch_size={self._batch_size}"
        return f"{type(self).__name__}({self._gru!r}{batch})"


class StreamPool(stream.StreamPool):
    """Many independent streams served together on a GPU; made by `gru.to("cuda").pool(capacity)`.

    Which streams are open is kept, and numbers are checked, on the host: `ids` are a list or a NumPy array.
    """

    def __init__(self, gru: GRU, capacity: int) -> None:
        super().__init__(gru, capacity)
        self._device = gru._device
        with self._device.use():
            self._states = gru._initial(None, self.capacity)

    def open(self) -> int:
        """A new stream in the zero state; see `cgru.stream.StreamPool`."""
        with self._device.use():
            return super().open()

    def reset(self, i: int) -> None:
        """Set a stream's state to zero."""
        with self._device.use():
            super().reset(i)

    def state(self, i: int) -> Array:
        """A copy of a stream's states, (L, H)."""
        with self._device.use():
            return super().state(i)

    def set_state(self, i: int, h: Array) -> None:
        """Set a stream's states, (L, H)."""
        i, gru = self._one(i), self._gru
        with self._device.use():
            self._states[:, i] = intake.array(self._device, "h", h, gru.dtype, (gru.num_layers, gru.hidden_size))

    def step(
        self, ids: Iterable[int] | Array, x: Array, out: Array | None = None, *, num_threads: int | None = None
    ) -> Array:
        """One more step of the streams named, (N, I) -> (N, H); see `cgru.stream.StreamPool`."""
        if num_threads is not None:
            raise ValueError(f"num_threads: expected None for a model on {self._device.name}, got {num_threads!r}")
        gru, device, xp = self._gru, self._device, self._device.xp
        if hasattr(ids, "__cuda_array_interface__"):
            raise TypeError("ids: expected (N,) integers in host memory, got an array on a GPU; use ids.get()")
        chosen = self._many(ids)
        with _alone(self, "pool"):
            x = intake.array(device, "x", x, gru.dtype, (len(chosen), gru.input_size))
            shape = (len(chosen), gru.hidden_size)
            y = xp.empty(shape, gru.dtype) if out is None else intake.output(device, out, gru.dtype, shape, {"x": x})
            if len(chosen):
                rows = xp.asarray(chosen)
                h = xp.take(self._states, rows, axis=1)
                forward.run(device, gru.value.stack, x[None], h, y[None], None, "auto")
                self._states[:, rows] = h
            return y
