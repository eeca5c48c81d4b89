"""State kept between calls: `Stream`, for sequences that arrive step by step, and `StreamPool`, for many of them.

A float32 stream runs on the packed engine's kernels; a float64 one takes its steps through the BLAS engine. A stream's
outputs are those of `gru(x)` over the whole sequence, for float32 to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import _packed, checks, config, engines

if TYPE_CHECKING:
    from cgru.gru import GRU
    from cgru.types import Array, Shape


def refuse_backwards(gru: GRU, what: str) -> None:
    """A reverse direction begins at a sequence's last step, which a stream does not have."""
    if gru.bidirectional or gru.reverse:
        kind = "a bidirectional" if gru.bidirectional else "a reverse"
        raise ValueError(
            f"{what}: expected a GRU that reads forwards, got {kind} one, whose reverse direction "
            "begins at the last step of a whole sequence"
        )


class _Streaming:
    """What streams share: chunks, the state as an array, and the claim of one thread at a time."""

    _gru: GRU
    _batch_size: int | None

    if TYPE_CHECKING:  # each kind of stream has its own

        def read(self) -> Array: ...
        def write(self, states: Array) -> None: ...
        def claim(self) -> None: ...
        def release(self) -> None: ...

    def _shape(self, *sizes: int | str) -> Shape:
        """A shape with the batch axis before the last, if there is one."""
        return sizes if self._batch_size is None else (*sizes[:-1], self._batch_size, sizes[-1])

    def process(self, chunk: Array, out: Array | None = None, *, num_threads: int | None = None) -> Array:
        """The outputs of a chunk of steps, as so many calls of `step` would give them.

        Parameters
        ----------
        chunk : (t, I), or (t, B, I) for a lockstep stream; t may be 0
        out : (t, H) or (t, B, H), optional
            Where to write the outputs; must not overlap chunk.
        num_threads : int, optional
            Threads this call may use.

        Returns
        -------
        y : (t, H) or (t, B, H)

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; the state is as it was.
        RuntimeError
            Another thread is using this stream.
        """
        gru = self._gru
        threads = config.threads_for(num_threads)
        x = checks.array("chunk", chunk, gru.dtype, self._shape("t", gru.input_size))
        y_shape = (*x.shape[:-1], gru.hidden_size)
        y = np.empty(y_shape, gru.dtype) if out is None else checks.output(out, gru.dtype, y_shape, {"chunk": x})
        written = y if y.strides[-1] == y.itemsize else np.empty(y_shape, gru.dtype)
        engine = engines.choose("auto", gru.dtype)
        self.claim()
        try:
            h = self.read()
            if self._batch_size is None:
                engines.run(engine, gru.value.stack, x[:, None], h, written[:, None], None, threads)
            else:
                engines.run(engine, gru.value.stack, x, h, written, None, threads)
            self.write(h)
        finally:
            self.release()
        if written is not y:
            y[...] = written
        return y

    @property
    def state(self) -> Array:
        """The states of all layers, (L, H) or (L, B, H): a copy to keep, and a value to set to go back to it."""
        self.claim()
        try:
            states = self.read()
        finally:
            self.release()
        return states[:, 0] if self._batch_size is None else states

    @state.setter
    def state(self, value: Array) -> None:
        gru = self._gru
        state = checks.array("state", value, gru.dtype, self._shape(gru.num_layers, gru.hidden_size))
        self.claim()
        try:
            self.write(np.ascontiguousarray(state.reshape(gru.num_layers, -1, gru.hidden_size)))
        finally:
            self.release()

    def reset(self) -> None:
        """Set all states to zero."""
        self.state = np.zeros(self.state.shape, self._gru.dtype)

    def copy(self) -> Any:
        """Another stream of the same model and state, which goes its own way from here."""
        twin = self._gru.stream(batch_size=self._batch_size)
        twin.state = self.state
        return twin

    def __copy__(self) -> Any:
        return self.copy()

    def __deepcopy__(self, memo: object) -> Any:
        return self.copy()

    def __reduce__(self) -> Any:
        return _restore, (self._gru, self._batch_size, self.state)

    def __repr__(self) -> str:
        batch = "" if self._batch_size is None else f", batch_size={self._batch_size}"
        return f"{type(self).__name__}({self._gru!r}{batch})"


def _restore(gru: GRU, batch_size: int | None, state: Array) -> Any:
    stream = gru.stream(batch_size=batch_size)
    stream.state = state
    return stream


class Stream(_Streaming, _packed.Stream):
    """One sequence, or B in lockstep, step by step; made by `gru.stream()`, float32.

    >>> import numpy as np, cgru
    >>> stream = cgru.GRU(3, 8, rng=0).stream()
    >>> y = np.empty(8, np.float32)
    >>> for x in np.ones((5, 3), np.float32):
    ...     _ = stream.step(x, out=y)      # allocates nothing
    >>> ys = stream.process(np.ones((10, 3), np.float32))
    >>> ys.shape, stream.state.shape
    ((10, 8), (1, 8))
    """

    def __new__(cls, gru: GRU, batch_size: int | None) -> Stream:  # noqa: D102
        from cgru.engines import packed

        return _packed.Stream.__new__(cls, packed.prepare(gru.value.stack).weights, batch_size)

    def __init__(self, gru: GRU, batch_size: int | None) -> None:
        self._gru, self._batch_size = gru, batch_size
        # A warm-up: memory is touched and code is in the caches before the first step that matters.
        zero = np.zeros(gru.input_size if batch_size is None else (batch_size, gru.input_size), gru.dtype)
        for _ in range(3):
            self.step(zero)
        self.reset()


class DoubleStream(_Streaming):
    """The float64 stream: the same face on the BLAS engine."""

    def __init__(self, gru: GRU, batch_size: int | None) -> None:
        self._gru, self._batch_size = gru, batch_size
        self._states = np.zeros((gru.num_layers, batch_size or 1, gru.hidden_size), gru.dtype)
        self._busy = False

    def step(self, x: Array, out: Array | None = None) -> Array:
        """The output of one more step; see `Stream.step`."""
        gru = self._gru
        x = checks.array("x", x, gru.dtype, self._shape(gru.input_size))
        if out is not None:
            checks.output(out, gru.dtype, (*x.shape[:-1], gru.hidden_size), {"x": x})
        y: Array = self.process(x[None])[0]
        if out is None:
            return y
        out[...] = y
        return out

    def read(self) -> Array:
        """A copy of the states (L, B, H)."""
        return self._states.copy()

    def write(self, states: Array) -> None:
        """Set the states (L, B, H)."""
        self._states[...] = states

    def claim(self) -> None:
        """Mark the stream as in use by this thread until `release`."""
        if self._busy:
            raise RuntimeError("this stream is in use by another thread: a stream belongs to one thread at a time")
        self._busy = True

    def release(self) -> None:
        """Mark the stream as free."""
        self._busy = False


class StreamPool:
    """Many independent streams served together, any of them at a time; made by `gru.pool(capacity)`.

    >>> import numpy as np, cgru
    >>> pool = cgru.GRU(3, 8, rng=0).pool(1000)
    >>> a, b = pool.open(), pool.open()
    >>> y = pool.step([b, a], np.ones((2, 3), np.float32))     # a row for each stream named
    >>> y.shape
    (2, 8)
    >>> pool.close(a)
    """

    def __init__(self, gru: GRU, capacity: int) -> None:
        refuse_backwards(gru, "pool")
        self._gru = gru
        self._states = np.zeros((gru.num_layers, checks.integer("capacity", capacity, 1), gru.hidden_size), gru.dtype)
        self._open = np.zeros(capacity, bool)
        self._free = list(range(capacity - 1, -1, -1))
        self._engine = engines.choose("auto", gru.dtype)
        self._busy = False

    @property
    def capacity(self) -> int:
        """How many streams may be open at once."""
        return len(self._open)

    def __len__(self) -> int:
        """How many streams are open."""
        return self.capacity - len(self._free)

    def open(self) -> int:
        """A new stream in the zero state; its number is that of a closed one where there is one.

        Raises
        ------
        RuntimeError
            `capacity` streams are open.
        """
        if not self._free:
            raise RuntimeError(f"all {self.capacity} streams of the pool are open; close one, or make a larger pool")
        i = self._free.pop()
        self._open[i] = True
        self._states[:, i] = 0
        return i

    def close(self, i: int) -> None:
        """End a stream; its number may be given to another."""
        i = self._one(i)
        self._open[i] = False
        self._free.append(i)

    def reset(self, i: int) -> None:
        """Set a stream's state to zero."""
        self._states[:, self._one(i)] = 0

    def state(self, i: int) -> Array:
        """A copy of a stream's states, (L, H)."""
        return self._states[:, self._one(i)].copy()

    def set_state(self, i: int, h: Array) -> None:
        """Set a stream's states, (L, H)."""
        i = self._one(i)
        self._states[:, i] = checks.array("h", h, self._gru.dtype, (self._gru.num_layers, self._gru.hidden_size))

    def _one(self, i: int) -> int:
        i = checks.integer("i", i, 0, self.capacity - 1)
        if not self._open[i]:
            raise ValueError(f"i: expected the number of an open stream, got {i}, which is closed")
        return i

    def step(
        self, ids: Iterable[int] | Array, x: Array, out: Array | None = None, *, num_threads: int | None = None
    ) -> Array:
        """One more step of the streams named.

        Parameters
        ----------
        ids : (N,) integers
            Numbers of open streams, each at most once, in any order.
        x : (N, I)
            A row for each.
        out : (N, H), optional
            Where to write the outputs; must not overlap x.
        num_threads : int, optional
            Threads this call may use.

        Returns
        -------
        y : (N, H)
            In the order of ids.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; no state has changed then.
        RuntimeError
            Another thread is using this pool.
        """
        gru = self._gru
        threads = config.threads_for(num_threads)
        chosen = self._many(ids)
        x = checks.array("x", x, gru.dtype, (len(chosen), gru.input_size))
        shape = (len(chosen), gru.hidden_size)
        y = np.empty(shape, gru.dtype) if out is None else checks.output(out, gru.dtype, shape, {"x": x})
        written = y if y.strides[-1] == y.itemsize else np.empty(shape, gru.dtype)
        if self._busy:
            raise RuntimeError("this pool is in use by another thread: a pool belongs to one thread at a time")
        self._busy = True
        try:
            h = np.take(self._states, chosen, axis=1)
            engines.run(self._engine, gru.value.stack, x[None], h, written[None], None, threads)
            self._states[:, chosen] = h
        finally:
            self._busy = False
        if written is not y:
            y[...] = written
        return y

    def _many(self, ids: Iterable[int] | Array) -> Array:
        chosen = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids))
        if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
            raise TypeError(f"ids: expected (N,) integers, got {checks.describe(chosen.shape)} {chosen.dtype}")
        chosen = chosen.astype(np.intp)
        wrong = (chosen < 0) | (chosen >= self.capacity)
        if wrong.any():
            raise ValueError(f"ids: expected integers from 0 to {self.capacity - 1}, got {chosen[wrong][0]}")
        closed = ~self._open[chosen]
        if closed.any():
            raise ValueError(f"ids: expected open streams, got {chosen[closed][0]}, which is closed")
        named = np.bincount(chosen, minlength=1)
        if named.max() > 1:
            raise ValueError(f"ids: expected each stream once, got {named.argmax()} {named.max()} times")
        return chosen
