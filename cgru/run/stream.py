"""States kept between calls, for sequences that arrive step by step: what `gru.stream()` gives.

A stream's outputs are those of `gru(x)` over the whole sequence, for float32 on a processor to the last bit: there a
step is compiled code (`Stream`); float64 and a GPU take theirs through the engine (`ArrayStream`). A stream keeps the
weights that its model had when it was made.

One thread at a time may be in a stream (src/exclusive.pyx). A method replaces the state last of all, so that an error
or an interrupt leaves it as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import _packed, checks
from cgru._exclusive import Exclusive, alone
from cgru.engines import HOST
from cgru.engines.host import packed

if TYPE_CHECKING:
    from collections.abc import Callable

    from cgru.recurrent import Recurrent
    from cgru.types import Array, Shape


def frozen(gru: Recurrent, what: str) -> Recurrent:
    """The model as it is now, if it can go on from step to step.

    A reverse direction begins at a sequence's last step, which a stream does not have.
    """
    if gru.bidirectional or gru.reverse:
        kind = "a bidirectional" if gru.bidirectional else "a reverse"
        raise ValueError(
            f"{what}: expected a GRU that reads forwards, got {kind} one, whose reverse direction "
            "begins at the last step of a whole sequence"
        )
    return gru.of(gru.value, gru.engine)


def make(gru: Recurrent, batch_size: int | None = None) -> Stream | ArrayStream:
    """`gru.stream(batch_size)`, which documents the arguments."""
    compiled = gru.engine is HOST and gru.dtype == np.float32
    return (Stream if compiled else ArrayStream)(gru, batch_size)


class _Streaming:
    """What streams share: chunks, the state as an array, copies."""

    _kind = "stream"
    _gru: Recurrent
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
        return self._advance("chunk", chunk, self._shape("t", self._gru.spec.input_size), out, _itself, num_threads)

    def _advance(
        self,
        name: str,  # of the argument x
        x: Any,
        x_shape: Shape,
        out: Any,
        as_steps: Callable[[Array], Array],  # of x, and of y: with the axis of time
        num_threads: int | None,
    ) -> Array:
        """Run the steps of x, replace the states by those that they lead to, and return the outputs."""
        value, engine = self._gru.value, self._gru.engine
        spec, xp = value.spec, engine.xp
        how = engine.how(spec.dtype, num_threads=num_threads)
        single = self._batch_size is None
        if out is None and as_steps is _itself:
            before = self._states
            result = engine.call(value.stack, x, before[:, 0] if single else before, False, how)
            if result is not None:  # the usual arguments: no more to check
                y, after = result
                self._states = after[:, None] if single else after
                return y
        with engine.use():
            x = engine.array(name, x, spec.dtype, x_shape)
            shape = (*x.shape[:-1], spec.hidden_size)
            y = xp.empty(shape, spec.dtype) if out is None else engine.output(out, spec.dtype, shape, {name: x})
            written = y if engine.strided or y.strides[-1] == y.itemsize else xp.empty(shape, spec.dtype)
            x_steps, y_steps = as_steps(x), as_steps(written)
            if single:
                x_steps, y_steps = x_steps[:, None], y_steps[:, None]
            states = self._states
            engine.run(value.stack, x_steps, states, y_steps, None, how)
            if written is not y:
                y[...] = written
        self._states = states
        return y

    @property
    @alone
    def state(self) -> Array:
        """The states of all layers, (L, H) or (L, B, H): a copy to keep, and a value to set to go back to it."""
        with self._gru.engine.use():
            states = self._states
        return states[:, 0] if self._batch_size is None else states

    @state.setter
    @alone
    def state(self, value: Array) -> None:
        spec, engine = self._gru.spec, self._gru.engine
        with engine.use():
            state = engine.array("state", value, spec.dtype, self._shape(spec.num_layers, spec.hidden_size))
            states = engine.xp.array(state.reshape(spec.num_layers, -1, spec.hidden_size), order="C")
        self._states = states

    @alone
    def reset(self) -> None:
        """Set all states to zero."""
        spec, engine = self._gru.spec, self._gru.engine
        with engine.use():
            states = engine.xp.zeros((spec.num_layers, self._batch_size or 1, spec.hidden_size), spec.dtype)
        self._states = states

    def copy(self) -> Any:
        """Another stream of the same weights and state, which goes its own way from here."""
        twin = make(self._gru, self._batch_size)
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
        return f"Stream({self._gru!r}{batch})"


def _restore(gru: Recurrent, batch_size: int | None, state: Array) -> Any:
    stream = make(gru, batch_size)
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

    def __new__(cls, gru: Recurrent, batch_size: int | None) -> Stream:  # noqa: D102
        gru, batch_size = frozen(gru, "stream"), checked_batch_size(batch_size)
        stream: Stream = _packed.Stream.__new__(cls, packed.prepare(gru.value.stack).weights, batch_size)
        stream._gru, stream._batch_size = gru, batch_size
        return stream

    def __init__(self, gru: Recurrent, batch_size: int | None) -> None:
        # A warm-up: memory is touched and code is in the caches before the first step that matters.
        zero = np.zeros((batch_size or 1, self._gru.input_size), np.float32)
        for _ in range(3):
            self.step(zero[0] if batch_size is None else zero)
        self.reset()


class ArrayStream(_Streaming, Exclusive):
    """A stream of float64, or on a GPU, where its states stay and work goes to CuPy's current stream of each call."""

    def __init__(self, gru: Recurrent, batch_size: int | None) -> None:
        self._gru, self._batch_size = frozen(gru, "stream"), checked_batch_size(batch_size)
        with gru.engine.use():
            self._kept = gru.engine.xp.zeros((gru.num_layers, self._batch_size or 1, gru.hidden_size), gru.dtype)

    @property
    def _states(self) -> Array:
        states: Array = self._kept.copy()
        return states

    @_states.setter
    def _states(self, states: Array) -> None:
        self._kept = states

    @alone
    def step(self, x: Array, out: Array | None = None) -> Array:
        """Return the output of one more step, (I,) -> (H,) or (B, I) -> (B, H); see `Stream.step`."""
        return self._advance("x", x, self._shape(self._gru.spec.input_size), out, _one_step, None)


def _itself(array: Array) -> Array:
    return array


def _one_step(array: Array) -> Array:
    return array[None]
