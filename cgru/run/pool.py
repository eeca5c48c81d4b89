"""Many independent streams served together, any of them at a time: what `gru.pool(capacity)` gives.

One thread at a time may be in a pool (src/exclusive.pyx). A method replaces states last of all, so that an error or an
interrupt leaves them as they were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import _packed, checks
from cgru._exclusive import Exclusive, alone
from cgru.engines import HOST
from cgru.run.numbered import Numbered, integers
from cgru.run.stream import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cgru.engines.interface import How
    from cgru.recurrent import Recurrent
    from cgru.types import Array


class StreamPool(Numbered, Exclusive):
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

    def __init__(self, gru: Recurrent, capacity: int) -> None:
        self._gru = frozen(gru, "pool")
        capacity = checks.integer("capacity", capacity, 1)
        self._states = self._zeros(capacity)  # (L, capacity, H)
        self._number(capacity)

    def _zeros(self, count: int) -> Array:
        """The zero states (L, N, H) of so many streams."""
        spec, engine = self._gru.spec, self._gru.engine
        with engine.use():
            zeros: Array = engine.xp.zeros((spec.num_layers, count, spec.hidden_size), spec.dtype)
        return zeros

    def _put(self, chosen: Array | list[int], states: Array) -> None:
        """Replace the states (L, N, H) of some streams."""
        engine = self._gru.engine
        if engine is HOST:  # in one act, as a fork sees it
            _packed.put(self._states, np.asarray(chosen, np.intp), states)
            return
        with engine.use():
            self._states[:, engine.xp.asarray(chosen)] = states

    def _begin(self, i: int) -> None:
        self._put([i], self._zeros(1))

    @alone
    def state(self, i: int) -> Array:
        """A copy of a stream's states, (L, H)."""
        with self._gru.engine.use():
            states: Array = self._states[:, self._one(i)].copy()
        return states

    @alone
    def set_state(self, i: int, h: Array) -> None:
        """Set a stream's states, (L, H)."""
        i, spec, engine = self._one(i), self._gru.spec, self._gru.engine
        with engine.use():
            states = engine.array("h", h, spec.dtype, (spec.num_layers, spec.hidden_size))
            states = engine.xp.array(states[:, None], order="C")
        self._put([i], states)

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
        return self._step(integers(ids), x, out, self._gru.engine.how(self._gru.dtype, num_threads=num_threads))

    @alone
    def _step(self, ids: Array, x: Array, out: Array | None, how: How) -> Array:
        chosen, value, engine = self._many(ids), self._gru.value, self._gru.engine
        spec, xp = value.spec, engine.xp
        with engine.use():
            x = engine.array("x", x, spec.dtype, (len(chosen), spec.input_size))
            shape = (len(chosen), spec.hidden_size)
            y = xp.empty(shape, spec.dtype) if out is None else engine.output(out, spec.dtype, shape, {"x": x})
            written = y if engine.strided or y.strides[-1] == y.itemsize else xp.empty(shape, spec.dtype)
            states = xp.take(self._states, xp.asarray(chosen), axis=1)
            engine.run(value.stack, x[None], states, written[None], None, how)
            if written is not y:
                y[...] = written
        if len(chosen):
            self._put(chosen, states)
        return y

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


def _restore_pool(gru: Recurrent, is_open: Array, states: Array) -> Any:
    pool = StreamPool(gru, len(is_open) - 1)
    pool._open, pool._states = is_open, states
    return pool
