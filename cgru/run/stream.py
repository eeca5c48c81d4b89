"""States kept between calls, for sequences that arrive step by step: what `gru.stream()` gives.

A stream keeps the model as it was when the stream was made, whatever weights the model is given later. Its outputs are
those of `gru(x)` over the whole sequence, for float32 on a processor to the last bit: there a step is compiled code
(`Stream`); float64 and a GPU take theirs through the engine (`ArrayStream`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import _packed, checks
from cgru.engines import HOST

if TYPE_CHECKING:
    from collections.abc import Callable

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


def make(gru: GRU, batch_size: int | None = None) -> Stream | ArrayStream:
    """`gru.stream(batch_size)`, which documents the arguments."""
    refuse_backwards(gru, "stream")
    if batch_size is not None:
        batch_size = checks.integer("batch_size", batch_size, 1)
    compiled = gru.engine is HOST and gru.dtype == np.float32
    return (Stream if compiled else ArrayStream)(gru, batch_size)


class _Streaming:
    """What streams share: chunks, the state as an array, and copies."""

    if TYPE_CHECKING:  # each kind of stream has its own

        def step(self, x: Any, out: Any = None) -> Array: ...
        def _read(self) -> Array: ...
        def _write(self, states: Array) -> None: ...

    _claimed: Callable[..., Any]

    def __init__(self, gru: GRU, batch_size: int | None) -> None:
        self._gru = gru.of(gru.value, gru.engine)  # of its own: the weights stay as they are
        self._batch_size = batch_size

    def _shape(self, *sizes: int | str) -> Shape:
        """A shape with the batch axis before the last, if there is one."""
        return sizes if self._batch_size is None else (*sizes[:-1], self._batch_size, sizes[-1])

    def process(self, chunk: Array, out: Array | None = None, *, num_threads: int | None = None) -> Array:
        """Return the outputs of a chunk of steps, as that many calls of `step` would give them.

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
        with self._gru.engine.use():
            x = self._gru.engine.array("chunk", chunk, self._gru.dtype, self._shape("t", self._gru.spec.input_size))
            return self._advance("chunk", x, out, lambda array: array, num_threads)

    def _advance(
        self,
        name: str,
        x: Array,  # the argument of that name, checked
        out: Any,
        as_steps: Callable[[Array], Array],  # of x, and of y: with the axis of time
        num_threads: int | None,
    ) -> Array:
        """Run the steps of x, keep the states that they lead to, and return the outputs."""
        value, engine = self._gru.value, self._gru.engine
        spec = value.spec
        how = engine.how(spec.dtype, num_threads=num_threads)
        shape = (*x.shape[:-1], spec.hidden_size)
        y = engine.xp.empty(shape, spec.dtype) if out is None else engine.output(out, spec.dtype, shape, {name: x})
        written = y if engine.strided or y.strides[-1] == y.itemsize else engine.xp.empty(shape, spec.dtype)
        steps = as_steps(x), as_steps(written)
        if self._batch_size is None:
            steps = steps[0][:, None], steps[1][:, None]

        def advance() -> None:
            states = self._read()
            engine.run(value.stack, steps[0], states, steps[1], None, how)
            self._write(states)

        self._claimed(advance)
        if written is not y:
            y[...] = written
        return y

    @property
    def state(self) -> Array:
        """The states of all layers, (L, H) or (L, B, H): a copy to keep, and a value to set to go back to it."""
        with self._gru.engine.use():
            states: Array = self._claimed(self._read)
        return states[:, 0] if self._batch_size is None else states

    @state.setter
    def state(self, value: Array) -> None:
        spec, engine = self._gru.spec, self._gru.engine
        with engine.use():
            state = engine.array("state", value, spec.dtype, self._shape(spec.num_layers, spec.hidden_size))
            self._set(state)

    def _set(self, state: Array | None) -> None:
        """Write a state as `state` has it, or zero."""
        spec, engine = self._gru.spec, self._gru.engine
        states = engine.xp.zeros((spec.num_layers, self._batch_size or 1, spec.hidden_size), spec.dtype)
        if state is not None:
            states[...] = state.reshape(states.shape)
        self._claimed(self._write, states)

    def reset(self) -> None:
        """Set all states to zero."""
        with self._gru.engine.use():
            self._set(None)

    def copy(self) -> Any:
        """Return another stream of the same model and state, which goes its own way from here."""
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


def _restore(gru: GRU, batch_size: int | None, state: Array) -> Any:
    stream = make(gru, batch_size)
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
        from cgru.engines.host import packed

        return _packed.Stream.__new__(cls, packed.prepare(gru.value.stack).weights, batch_size)

    def __init__(self, gru: GRU, batch_size: int | None) -> None:
        super().__init__(gru, batch_size)
        # A warm-up: memory is touched and code is in the caches before the first step that matters.
        zero = np.zeros((*([] if batch_size is None else [batch_size]), gru.input_size), gru.dtype)
        for _ in range(3):
            self.step(zero)
        self.reset()


class ArrayStream(_Streaming):
    """A stream of float64, or on a GPU, where its states stay and work goes to CuPy's current stream of each call."""

    def __init__(self, gru: GRU, batch_size: int | None) -> None:
        super().__init__(gru, batch_size)
        with gru.engine.use():
            self._states = gru.engine.xp.zeros((gru.num_layers, batch_size or 1, gru.hidden_size), gru.dtype)
        self._claimed = _packed.Claim("stream").run

    def step(self, x: Array, out: Array | None = None) -> Array:
        """Return the output of one more step: (I,) -> (H,), or (B, I) -> (B, H); see `Stream.step`."""
        with self._gru.engine.use():
            x = self._gru.engine.array("x", x, self._gru.dtype, self._shape(self._gru.spec.input_size))
            return self._advance("x", x, out, lambda array: array[None], None)

    def _read(self) -> Array:
        states: Array = self._states.copy()
        return states

    def _write(self, states: Array) -> None:
        self._states = states
