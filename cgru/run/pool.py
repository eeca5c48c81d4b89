"""Many independent streams served together, any of them at a time: what `gru.pool(capacity)` gives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import _packed, checks
from cgru.run.stream import refuse_backwards

if TYPE_CHECKING:
    import numpy.typing as npt

    from cgru.gru import GRU
    from cgru.types import Array


class StreamPool:
    """Many independent streams served together, any of them at a time; made by `gru.pool(capacity)`.

    A pool keeps the model as it was when the pool was made. It belongs to one thread at a time. On a GPU states stay
    there, while numbers of streams are a list or an array in host memory.

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
        capacity = checks.integer("capacity", capacity, 1)
        self._gru = gru.of(gru.value, gru.engine)  # of its own: the weights stay as they are
        with gru.engine.use():
            self._states = gru.engine.xp.zeros((gru.num_layers, capacity, gru.hidden_size), gru.dtype)
        self._open = np.zeros(capacity, bool)
        self._free = list(range(capacity - 1, -1, -1))
        self._claimed = _packed.Claim("pool").run

    @property
    def capacity(self) -> int:
        """How many streams may be open at once."""
        return len(self._open)

    def __len__(self) -> int:
        """How many streams are open."""
        return self.capacity - len(self._free)

    def open(self) -> int:
        """Open a new stream in the zero state; its number is that of a closed one where there is one.

        Raises
        ------
        RuntimeError
            `capacity` streams are open, or another thread is using this pool.
        """

        def opened() -> int:
            if not self._free:
                raise RuntimeError(
                    f"all {self.capacity} streams of the pool are open; close one, or make a larger pool"
                )
            i = self._free[-1]
            self._states[:, i] = 0
            self._open[i] = True
            del self._free[-1]
            return i

        with self._gru.engine.use():
            number: int = self._claimed(opened)
        return number

    def close(self, i: int) -> None:
        """End a stream; its number may be given to another."""

        def closed(i: int) -> None:
            self._open[i] = False
            self._free.append(i)

        self._on_one(i, closed)

    def reset(self, i: int) -> None:
        """Set a stream's state to zero."""

        def zero(i: int) -> None:
            self._states[:, i] = 0

        self._on_one(i, zero)

    def state(self, i: int) -> Array:
        """Return a copy of a stream's states, (L, H)."""
        copy: Array = self._on_one(i, lambda i: self._states[:, i].copy())
        return copy

    def set_state(self, i: int, h: Array) -> None:
        """Set a stream's states, (L, H)."""
        spec, engine = self._gru.spec, self._gru.engine
        with engine.use():
            states = engine.array("h", h, spec.dtype, (spec.num_layers, spec.hidden_size))

        def put(i: int) -> None:
            self._states[:, i] = states

        self._on_one(i, put)

    def _on_one(self, i: int, function: Any) -> Any:
        """function(i) for the number of an open stream, with the pool claimed."""
        i = checks.integer("i", i, 0, self.capacity - 1)

        def checked() -> Any:
            if not self._open[i]:
                raise ValueError(f"i: expected the number of an open stream, got {i}, which is closed")
            return function(i)

        with self._gru.engine.use():
            return self._claimed(checked)

    def step(
        self, ids: Iterable[int] | Array, x: Array, out: Array | None = None, *, num_threads: int | None = None
    ) -> Array:
        """Take one more step of the streams named, and return their outputs.

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
        value, engine = self._gru.value, self._gru.engine
        spec = value.spec
        how = engine.how(spec.dtype, num_threads=num_threads)
        chosen = self._numbers(ids)
        with engine.use():
            x = engine.array("x", x, spec.dtype, (len(chosen), spec.input_size))
            shape = (len(chosen), spec.hidden_size)
            y = engine.xp.empty(shape, spec.dtype) if out is None else engine.output(out, spec.dtype, shape, {"x": x})
            written = y if engine.strided or y.strides[-1] == y.itemsize else engine.xp.empty(shape, spec.dtype)

            def advance() -> None:
                closed = ~self._open[chosen]
                if closed.any():
                    raise ValueError(f"ids: expected open streams, got {chosen[closed][0]}, which is closed")
                if len(chosen):
                    rows = engine.xp.asarray(chosen)
                    states = engine.xp.take(self._states, rows, axis=1)
                    engine.run(value.stack, x[None], states, written[None], None, how)
                    self._states[:, rows] = states

            self._claimed(advance)
            if written is not y:
                y[...] = written
            return y

    def _numbers(self, ids: Iterable[int] | Array) -> npt.NDArray[np.intp]:
        """The argument `ids` as an array, if these may be numbers of streams, each there once."""
        if hasattr(ids, "__cuda_array_interface__"):
            raise TypeError("ids: expected (N,) integers in host memory, got an array on a GPU; use ids.get()")
        given = np.array(ids if isinstance(ids, np.ndarray) else list(ids))
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise TypeError(f"ids: expected (N,) integers, got {checks.describe(given.shape)} {given.dtype}")
        wrong = (given < 0) | (given >= self.capacity)
        if wrong.any():
            raise ValueError(f"ids: expected integers from 0 to {self.capacity - 1}, got {given[wrong][0]}")
        chosen = given.astype(np.intp)
        named = np.bincount(chosen, minlength=1)
        if named.max() > 1:
            raise ValueError(f"ids: expected each stream once, got {named.argmax()} {named.max()} times")
        return chosen

    def copy(self) -> StreamPool:
        """Return another pool with the same streams, which go their own way from here."""
        return _restore(*self.__reduce__()[1])

    def __copy__(self) -> StreamPool:
        return self.copy()

    def __deepcopy__(self, memo: object) -> StreamPool:
        return self.copy()

    def __reduce__(self) -> Any:
        def taken() -> tuple[Any, ...]:
            return self._gru, self._states.copy(), self._open.copy(), list(self._free)

        with self._gru.engine.use():
            return _restore, self._claimed(taken)

    def __repr__(self) -> str:
        return f"StreamPool({self._gru!r}, {self.capacity})"


def _restore(gru: GRU, states: Array, opened: npt.NDArray[np.bool_], free: list[int]) -> StreamPool:
    pool = StreamPool(gru, len(opened))
    pool._states, pool._open, pool._free = states, opened.copy(), list(free)
    return pool
