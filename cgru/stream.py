"""State kept between calls: `Stream`, for sequences that arrive step by step, and `StreamPool`, for many of them.

A float32 stream runs on the packed engine's kernels; a float64 one takes its steps through the BLAS engine. A stream's
outputs are those of `gru(x)` over the whole sequence, for float32 to the last bit. It keeps the weights that its model
had when it was made.

One thread at a time may be in a stream or a pool (src/exclusive.pyx). A method replaces the state last of all, so that
an error or an interrupt leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import _packed, checks, config, engines
from cgru._exclusive import Exclusive, alone
from cgru.engines import packed

if TYPE_CHECKING:
    from cgru.gru import GRU
    from cgru.types import Array, Shape


def frozen(gru: GRU, what: str) -> GRU:
    """The model as it is now, if it can go on from step to step.

    A reverse direction begins at a sequence's last step, which a stream does not have.
    """
    if gru.bidirectional or gru.reverse:
        kind = "a bidirectional" if gru.bidirectional else "a reverse"
        raise ValueError(
            f"{what}: expected a GRU that reads forwards, got {kind} one, whose reverse direction "
            "begins at the last step of a whole sequence"
        )
    return gru._snapshot()


class _Streaming:
    """What streams share: chunks, the state as an array, copies."""

    _kind = "stream"
    _gru: GRU
    _batch_size: int | None
    _states: Array  # a copy of the states (L, B, H); set, they are replaced

    def _shape(self, *sizes: int | str) -> Shape:
        """A shape with the batch axis before the last, if there is one."""
        return sizes if self._batch_size is None else (*sizes[:-1], self._batch_size, sizes[-1])

    @alone
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
        h = self._states
        if self._batch_size is None:
            engines.run(engine, gru._stack, x[:, None], h, written[:, None], None, threads)
        else:
            engines.run(engine, gru._stack, x, h, written, None, threads)
        if written is not y:
            y[...] = written
        self._states = h
        return y

    @property
    @alone
    def state(self) -> Array:
        """The states of all layers, (L, H) or (L, B, H): a copy to keep, and a value to set to go back to it."""
        states = self._states
        return states[:, 0] if self._batch_size is None else states

    @state.setter
    @alone
    def state(self, value: Array) -> None:
        gru = self._gru
        state = checks.array("state", value, gru.dtype, self._shape(gru.num_layers, gru.hidden_size))
        self._states = np.array(state.reshape(gru.num_layers, -1, gru.hidden_size), order="C")

    @alone
    def reset(self) -> None:
        """Set all states to zero."""
        self._states = np.zeros_like(self._states)

    def copy(self) -> Any:
        """Another stream of the same weights and state, which goes its own way from here."""
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


def checked_batch_size(value: int | None) -> int | None:
    """How many sequences are in lockstep; None for one without an axis of its own."""
    return None if value is None else checks.integer("batch_size", value, 1)


class Stream(_Streaming, _packed.Stream):
    """One sequence, or B in lockstep, step by step; made by `gru.stream()`, float32.

    It keeps the weights that the model had then, whatever is loaded into the model later.

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
        gru, batch_size = frozen(gru, "stream"), checked_batch_size(batch_size)
        stream: Stream = _packed.Stream.__new__(cls, packed.prepare(gru._stack).weights, batch_size)
        stream._gru, stream._batch_size = gru, batch_size
        return stream

    def __init__(self, gru: GRU, batch_size: int | None) -> None:
        # A warm-up: memory is touched and code is in the caches before the first step that matters.
        zero = np.zeros((batch_size or 1, self._gru.input_size), np.float32)
        for _ in range(3):
            self.step(zero[0] if batch_size is None else zero)
        self.reset()


class DoubleStream(_Streaming, Exclusive):
    """The float64 stream: the same face on the BLAS engine."""

    def __init__(self, gru: GRU, batch_size: int | None) -> None:
        self._gru, self._batch_size = frozen(gru, "stream"), checked_batch_size(batch_size)
        self._states = np.zeros((gru.num_layers, self._batch_size or 1, gru.hidden_size), gru.dtype)

    @property
    def _states(self) -> Array:
        return self._kept.copy()

    @_states.setter
    def _states(self, states: Array) -> None:
        self._kept = states

    def step(self, x: Array, out: Array | None = None) -> Array:
        """The output of one more step; see `Stream.step`."""
        gru = self._gru
        x = checks.array("x", x, gru.dtype, self._shape(gru.input_size))
        if out is None:
            return self.process(x[None])[0]
        out = checks.output(out, gru.dtype, (*x.shape[:-1], gru.hidden_size), {"x": x})
        self.process(x[None], out[None])
        return out


class StreamPool(Exclusive):
    """Many independent streams served together, any of them at a time; made by `gru.pool(capacity)`.

    It keeps the weights that the model had then, whatever is loaded into the model later. One thread at a time may use
    it, whichever of its streams.

    >>> import numpy as np, cgru
    >>> pool = cgru.GRU(3, 8, rng=0).pool(1000)
    >>> a, b = pool.open(), pool.open()
    >>> y = pool.step([b, a], np.ones((2, 3), np.float32))     # a row for each stream named
    >>> y.shape
    (2, 8)
    >>> pool.close(a)
    """

    _kind = "pool"

    def __init__(self, gru: GRU, capacity: int) -> None:
        self._gru = frozen(gru, "pool")
        capacity = checks.integer("capacity", capacity, 1)
        self._states = self._zeros(capacity)  # (L, capacity, H)
        self._open = np.zeros(capacity + 1, bool)
        """By number; one more, which is never open, ends a search."""
        self._lowest = 0
        """No closed stream has a lower number."""
        self._engine = engines.choose("auto", gru.dtype)

    def _zeros(self, count: int) -> Array:
        """The zero states (L, N, H) of so many streams."""
        return np.zeros((self._gru.num_layers, count, self._gru.hidden_size), self._gru.dtype)

    def _put(self, chosen: Array | list[int], states: Array) -> None:
        """Replace the states (L, N, H) of some streams."""
        _packed.put(self._states, np.asarray(chosen, np.intp), states)

    @property
    def capacity(self) -> int:
        """How many streams may be open at once."""
        return len(self._open) - 1

    def __len__(self) -> int:
        """How many streams are open."""
        return int(np.count_nonzero(self._open))

    @alone
    def open(self) -> int:
        """A new stream in the zero state; its number is that of a closed one where there is one.

        Raises
        ------
        RuntimeError
            `capacity` streams are open, or another thread is using this pool.
        """
        i = self._lowest + int(self._open[self._lowest :].argmin())
        if i == self.capacity:
            raise RuntimeError(f"all {self.capacity} streams of the pool are open; close one, or make a larger pool")
        self._put([i], self._zeros(1))
        self._open[i] = True
        self._lowest = i + 1
        return i

    @alone
    def close(self, i: int) -> None:
        """End a stream; its number may be given to another."""
        i = self._one(i)
        self._lowest = min(self._lowest, i)
        self._open[i] = False

    @alone
    def reset(self, i: int) -> None:
        """Set a stream's state to zero."""
        self._put([self._one(i)], self._zeros(1))

    @alone
    def state(self, i: int) -> Array:
        """A copy of a stream's states, (L, H)."""
        return self._states[:, self._one(i)].copy()

    @alone
    def set_state(self, i: int, h: Array) -> None:
        """Set a stream's states, (L, H)."""
        i, gru = self._one(i), self._gru
        states = checks.array("h", h, gru.dtype, (gru.num_layers, gru.hidden_size))
        self._put([i], np.array(states[:, None], order="C"))

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
        return self._step(integers(ids), x, out, config.threads_for(num_threads))

    @alone
    def _step(self, ids: Array, x: Array, out: Array | None, threads: int) -> Array:
        gru, chosen = self._gru, self._many(ids)
        x = checks.array("x", x, gru.dtype, (len(chosen), gru.input_size))
        shape = (len(chosen), gru.hidden_size)
        y = np.empty(shape, gru.dtype) if out is None else checks.output(out, gru.dtype, shape, {"x": x})
        written = y if y.strides[-1] == y.itemsize else np.empty(shape, gru.dtype)
        h = np.take(self._states, chosen, axis=1)
        engines.run(self._engine, gru._stack, x[None], h, written[None], None, threads)
        if written is not y:
            y[...] = written
        self._put(chosen, h)
        return y

    def _many(self, ids: Array) -> Array:
        """Numbers of open streams, each once, as (N,) intp."""
        wrong = (ids < 0) | (ids >= self.capacity)
        if wrong.any():
            raise ValueError(f"ids: expected integers from 0 to {self.capacity - 1}, got {ids[wrong][0]}")
        chosen = ids.astype(np.intp)
        closed = ~self._open[chosen]
        if closed.any():
            raise ValueError(f"ids: expected open streams, got {chosen[closed][0]}, which is closed")
        named = np.bincount(chosen, minlength=1)
        if named.max() > 1:
            raise ValueError(f"ids: expected each stream once, got {named.argmax()} {named.max()} times")
        return chosen

    @alone
    def copy(self) -> Any:
        """Another pool of the same weights, open streams and states, which goes its own way from here."""
        return _restore_pool(self._gru, self._open.copy(), self._states.copy())

    def __copy__(self) -> Any:
        return self.copy()

    def __deepcopy__(self, memo: object) -> Any:
        return self.copy()

    @alone
    def __reduce__(self) -> Any:
        return _restore_pool, (self._gru, self._open.copy(), self._states.copy())


def _restore_pool(gru: GRU, is_open: Array, states: Array) -> Any:
    pool = gru.pool(len(is_open) - 1)
    pool._open, pool._states = is_open, states
    return pool


def integers(ids: Iterable[int] | Array) -> Array:
    """The numbers (N,) that a caller names; read before the pool is taken, since an iterator may use it."""
    numbers = np.array(checks.plain("ids", ids) if isinstance(ids, np.ndarray) else list(ids))
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise TypeError(f"ids: expected (N,) integers, got {checks.describe(numbers.shape)} {numbers.dtype}")
    return numbers
