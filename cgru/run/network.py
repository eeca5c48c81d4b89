"""Networks while time passes: states kept between frames, of one sequence or several in lockstep, or of a pool.

Outputs are those of `net(x)` over the whole sequence, to the last bit; with a look-ahead they come `delay` frames late.
A method replaces the state last of all, so that an error or an interrupt leaves it as it was. One thread at a time may
use a stream or a pool.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import _program, checks, config
from cgru._exclusive import alone
from cgru.run import frames
from cgru.run.pool import integers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from cgru.engines.host.network import Ready
    from cgru.engines.host.program.plan import State
    from cgru.network import Network
    from cgru.run.frames import Form
    from cgru.types import Array

BLOCK = 64
"""Frames that a stream's chunk runs at once."""

BLOCK_ROWS = 128
"""Rows of a pool that run at once, and fewer where their arena would be too large for a core's caches."""

BLOCK_BYTES = 2**20
"""Of such an arena."""

PIECE = 2e9
"""Operations of a chunk after which signals are looked at."""


class _States(_program.States):
    """What streams and pools share: states by name."""

    _net: Network
    _ready: Ready

    def _one_frame(self, rows: Any, call: Callable[[], None]) -> None:
        """Let rows go on by a frame: one act, as nothing is kept before a row's frame is whole, if it cannot fail."""
        if self._ready.compiled.program.fails:
            self._all_or_nothing(rows, 1, call)
        else:
            call()

    def _all_or_nothing(self, rows: Any, count: int, call: Callable[[], None]) -> None:
        """Let rows go on by so many frames; where that fails they are as they were.

        Of one frame it is enough to keep the plain numbers: windows still hold the frames before it.
        """
        part = slice(len(self._ready.compiled.program.fresh)) if count == 1 else slice(None)
        numbers, places = np.array(self.numbers[rows, part]), np.array(self.places[rows])
        try:
            call()
        except BaseException:
            if count == 1:
                places[:, 0] = self.places[rows, 0] - (self.places[rows, 1] - places[:, 1])
            self.numbers[rows, part], self.places[rows] = numbers, places
            raise

    def _frames_of(self, rows: slice) -> dict[str, Array]:
        """Every part of some rows' states, the rows first."""
        program = self._ready.compiled.program
        numbers, places = self.numbers[rows], self.places[rows]
        found = {"frames": places[:, 1].copy()} if program.counts else {}
        for part in program.named[: program.plain]:
            size = math.prod(part.shape)
            found[part.name] = numbers[:, part.at : part.at + size].reshape(-1, *part.shape).copy()
        for part in program.named[program.plain :]:
            history, size = part.shape
            first = self.ring_start(part.at)
            found[part.name] = np.stack(
                [
                    row[first + at * size : first + (at + history) * size].reshape(history, size)
                    for row, at in zip(numbers, places[:, 0], strict=True)
                ]
            )
        return found

    def _out_of_range(self, step: int) -> None:
        title = self._ready.compiled.program.steps[step].title
        raise ValueError(f"{title}: expected indices within its table, got others")

    def _with(self, rows: slice, state: Any) -> tuple[Array, Array]:
        """The numbers and places that states of this form mean."""
        program = self._ready.compiled.program
        numbers, places = self.numbers[rows].copy(), self.places[rows].copy()
        parts: dict[str, State | None] = {part.name: part for part in program.named}
        if program.counts:
            parts["frames"] = None
        if not isinstance(state, dict) or state.keys() != parts.keys():
            got = checks.listed(state) or "none" if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"state: expected {checks.listed(parts) or 'an empty dict'}, got {got}")
        places[:, 0] = 0
        for number, (name, part) in enumerate(parts.items()):
            if part is None:
                places[:, 1] = checks.array(name, state[name], np.dtype(np.int64), (len(places),))
                continue
            given = checks.array(name, state[name], np.dtype(np.float32), (len(numbers), *part.shape))
            first = part.at if number < program.plain else self.ring_start(part.at)
            numbers[:, first : first + given[0].size] = given.reshape(len(given), -1)
        return numbers, places


class NetworkStream(_States):
    """A network's frames one by one, of one sequence or several in lockstep; made by `net.stream()`.

    It keeps the weights that the network had then.
    """

    _kind = "stream"

    def __new__(cls, net: Network, batch_size: int | None = None) -> NetworkStream:  # noqa: D102
        batch = 1 if batch_size is None else checks.integer("batch_size", batch_size, 1)
        graph = net.graph
        if batch_size is not None and graph.batch is None:
            raise ValueError(
                f"batch_size: expected None, as no axis of {checks.listed(graph.inputs)} is a dynamic batch, "
                f"got {batch}"
            )
        ready = net.runner.streaming(batch)
        one_by_one = not ready.compiled.streams or bool(graph.states)
        rows = batch if any(axes.rows >= 0 for axes in ready.axes.values()) else 1
        block = 1 if one_by_one else max(1, BLOCK // rows)
        stream: NetworkStream = super().__new__(cls, ready.door, rows, rows, block, max(4, 2 * block))
        stream._net, stream._ready, stream._batch_size = net, ready, batch_size
        stream._inputs = [frames.step(graph, ready, name, batch) for name in graph.inputs]
        stream._outputs = [frames.step(graph, ready, name, batch) for name in graph.outputs]
        forms = [*stream._inputs, *stream._outputs]
        if len(forms) == 2 and all(form.dtype == np.float32 for form in forms):
            x, y = forms
            ends = [frames.chunk(graph, ready, form.name, batch).time for form in forms]
            stream.simply(x.shape, x.rows, ends[0], y.shape, y.rows, ends[1])
        return stream

    _batch_size: int | None
    _twin: NetworkStream | None = None
    """Of a network that gives its logits, too, for sampling."""
    _inputs: list[Form]
    _outputs: list[Form]

    def __init__(self, net: Network, batch_size: int | None = None) -> None:
        # A warm-up: memory is touched and code is in the caches before the first step that matters.
        zeros = {form.name: np.zeros(tuple(map(int, form.shape)), form.dtype) for form in self._inputs}
        for _ in range(3):
            self.step(zeros)
        self.reset()

    @property
    def delay(self) -> int:
        """Frames that outputs come after the inputs that they belong to: what the network looks ahead."""
        return self._ready.compiled.program.delay

    # step(x, out=None) is src/network.pyx's, which comes here where arguments need a look
    def _step(self, x: Any, out: Any) -> Any:
        given = frames.named(x, tuple(self._net.graph.inputs))
        limits = self._ready.compiled.program.limits
        inputs = {form.name: frames.checked(form, given[form.name], {}, limits) for form in self._inputs}
        outputs = frames.written(self._outputs, out, {}, inputs)
        self._one_frame(slice(None), lambda: self._go(inputs, outputs, self._inputs, self._outputs, 1, 1))
        return frames.given_back(outputs)

    def _go(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], reading: list[Form], writing: list[Form],
        count: int, threads: int, **ends: Any,
    ) -> None:  # fmt: skip
        reads = [form.port(inputs[form.name]) for form in reading]
        writes = [form.port(outputs[form.name]) for form in writing]
        known = {"given": None, "end": None, "late": 0} | ends
        wrong = self.advance(None, reads, writes, count, known["given"], known["end"], known["late"], threads)
        if wrong >= 0:
            self._out_of_range(wrong)

    @alone
    def process(self, x: Any, out: Any = None, *, num_threads: int | None = None) -> Any:
        """The outputs of a chunk of frames, as so many calls of `step` would give them.

        Parameters
        ----------
        x : array, or dict of arrays
            As the network takes it, any number of frames; of a frame graph on a new first axis.
        out : array, or dict of arrays, optional
            Where to write the outputs; must not overlap x.
        num_threads : int, optional
            Threads this call may use: for rows in lockstep.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; the state is as it was.
        RuntimeError
            Another thread is using this stream.
        """
        threads = config.threads_for(num_threads)
        result = self.chunk(x, out)
        if result is not None:  # the usual arguments: no more to check
            return result
        graph, ready = self._net.graph, self._ready
        batch = self._batch_size or 1
        forms = [frames.chunk(graph, ready, name, batch) for name in graph.inputs]
        results = [frames.chunk(graph, ready, name, batch) for name in graph.outputs]
        given = frames.named(x, tuple(graph.inputs))
        sizes: dict[str, int] = {}
        limits = ready.compiled.program.limits
        inputs = {form.name: frames.checked(form, given[form.name], sizes, limits) for form in forms}
        count = next((inputs[form.name].shape[form.time] for form in forms if form.time >= 0), 1)
        if graph.steps is not None:
            sizes[graph.steps] = count
        results = [frames.as_many(form, count) for form in results]
        outputs = frames.written(results, out, sizes, inputs)
        if count == 0:
            return frames.given_back(outputs)
        each = max(1, int(PIECE / max(1.0, ready.compiled.program.flops * batch)))

        def go() -> None:
            for first in range(0, count, each):
                size = min(each, count - first)
                pieces = [
                    {form.name: _piece(arrays[form.name], form.time, first, size) for form in of}
                    for of, arrays in ((forms, inputs), (results, outputs))
                ]
                self._go(pieces[0], pieces[1], forms, results, size, threads)

        self._all_or_nothing(slice(None), count, go)
        return frames.given_back(outputs)

    @alone
    def flush(self) -> Any:
        """The frames that are left when the sequence ends, `delay` of them where outputs are as long as inputs.

        The next step begins another sequence.
        """
        graph, ready = self._net.graph, self._ready
        program = ready.compiled.program
        seen, delay, batch = int(self.places[0, 1]), program.delay, self._batch_size or 1
        forms = [frames.chunk(graph, ready, name, batch) for name in graph.inputs]
        results = [frames.chunk(graph, ready, name, batch) for name in graph.outputs]
        lengths = {
            port.name: max(0, seen + port.more - max(0, seen - delay)) if form.time >= 0 else 0
            for port, form in zip(program.outputs, results, strict=True)
        }
        results = [frames.as_many(form, lengths[form.name]) for form in results]
        outputs = frames.written(results, None, {}, {})
        late = max(0, delay - seen)
        if program.tail and seen:
            shapes = {form.name: tuple(1 if isinstance(size, str) else size for size in form.shape) for form in forms}
            inputs = {form.name: np.zeros(shapes[form.name], form.dtype) for form in forms}
            for form in forms:
                if form.time < 0:
                    inputs[form.name] = self._last(form)
            ends = {"given": 0, "end": seen, "late": late}
            self._all_or_nothing(
                slice(None), program.tail, lambda: self._go(inputs, outputs, forms, results, program.tail, 1, **ends)
            )
        self._begin()
        return frames.given_back(outputs)

    def decode(
        self, start: Any, stop: int | None, limit: int, *, seed: int | None = None, temperature: float | None = None
    ) -> Any:
        """Feed the network the index that it gives, from `start` on.

        Its one input is an index, and one of its outputs an ArgMax. The state goes on from where it is.

        Parameters
        ----------
        start : int, or (B,) integers
            The first input.
        stop : int or None
            The index that ends a sequence; it is not among those returned.
        limit : int
            Indices at most.
        seed, temperature : optional
            Draw indices by the softmax of what ArgMax sees, divided by the temperature, 1 where it is not given; the
            same seed gives the same indices.

        Returns
        -------
        indices : (n,) int64, or a list of them for a batch

        Raises
        ------
        ValueError
            The network is not such, or an argument does not fit; the state is as it was.
        """
        from cgru.run.decoding import decode

        return decode(self, start, stop, limit, seed, temperature)

    @alone
    def _decode(self, limit: int, *arguments: Any) -> Array:
        lengths: list[Array] = []
        self._all_or_nothing(slice(None), limit + 1, lambda: lengths.append(self.decode_rows(*arguments)))
        return lengths[0]

    def _last(self, form: Form) -> Array:
        """An input without a time axis, as it was given last."""
        program = self._ready.compiled.program
        part = next(part for part in program.named if part.name == form.name)
        kept = self.numbers[:, part.at : part.at + math.prod(part.shape)].reshape(-1, *part.shape)
        sizes = tuple(size for axis, size in enumerate(form.shape) if axis != form.rows)
        rows = kept.reshape(len(kept), *sizes)
        array = np.moveaxis(rows, 0, form.rows) if form.rows >= 0 else rows[0]
        return array.astype(form.dtype)

    def _begin(self) -> None:
        for row in range(len(self.numbers)):
            self.begin(row)

    @alone
    def reset(self) -> None:
        """Begin another sequence."""
        self._begin()

    @property
    @alone
    def state(self) -> dict[str, Array]:
        """What is kept between frames, by name: a copy to keep, and a value to set to go back to it.

        The rows in lockstep are the first axis; of windows over time the second is their frames, the latest last.
        """
        return self._frames_of(slice(None))

    @state.setter
    @alone
    def state(self, value: dict[str, Array]) -> None:
        self.replace(*self._with(slice(None), value))

    def copy(self) -> NetworkStream:
        """Another stream of the same weights and state, which goes its own way from here."""
        return _restore(self._net, self._batch_size, self.state)

    def __copy__(self) -> NetworkStream:
        return self.copy()

    def __deepcopy__(self, memo: object) -> NetworkStream:
        return self.copy()

    def __reduce__(self) -> Any:
        return _restore, (self._net, self._batch_size, self.state)

    def __repr__(self) -> str:
        batch = "" if self._batch_size is None else f"batch_size={self._batch_size}"
        return f"{self._net!r}.stream({batch})"


def _restore(net: Network, batch_size: int | None, state: dict[str, Array]) -> NetworkStream:
    stream = NetworkStream(net, batch_size)
    stream.state = state
    return stream


def _piece(array: Array, axis: int, first: int, size: int) -> Array:
    if axis < 0:
        return array
    return array[(slice(None),) * axis + (slice(first, first + size),)]


class NetworkPool(_States):
    """Many streams of a network served together, any of them at a time; made by `net.pool(capacity)`.

    It keeps the weights that the network had then. Frames of the streams named stand in the place of the batch, or
    before all axes where there is none.
    """

    _kind = "pool"

    def __new__(cls, net: Network, capacity: int) -> NetworkPool:  # noqa: D102
        capacity = checks.integer("capacity", capacity, 1)
        ready = net.runner.streaming(1)
        if net.graph.batch is not None and net.runner.mixed:
            raise ValueError(f"expected a network whose rows run apart, got {'; '.join(net.runner.mixed[:4])}")
        fitting = BLOCK_BYTES // (4 * max(1, ready.compiled.program.arena))
        block = min(capacity, BLOCK_ROWS, max(8, fitting))
        pool: NetworkPool = super().__new__(cls, ready.door, capacity, block, 1, 4)
        pool._net, pool._ready = net, ready
        pool._inputs = [frames.pooled(net.graph, ready, name) for name in net.graph.inputs]
        pool._outputs = [frames.pooled(net.graph, ready, name) for name in net.graph.outputs]
        pool._open = np.zeros(capacity + 1, bool)
        pool._lowest = 0
        return pool

    def __init__(self, net: Network, capacity: int) -> None: ...

    _inputs: list[Form]
    _outputs: list[Form]
    _open: Array
    _lowest: int

    @property
    def capacity(self) -> int:
        """How many streams may be open at once."""
        return len(self._open) - 1

    @property
    def delay(self) -> int:
        """Frames that outputs come after the inputs that they belong to."""
        return self._ready.compiled.program.delay

    def __len__(self) -> int:
        """How many streams are open."""
        return int(np.count_nonzero(self._open))

    @alone
    def open(self) -> int:
        """A new stream that begins; its number is that of a closed one where there is one.

        Raises
        ------
        RuntimeError
            `capacity` streams are open, or another thread is using this pool.
        """
        i = self._lowest + int(self._open[self._lowest :].argmin())
        if i == self.capacity:
            raise RuntimeError(f"all {self.capacity} streams of the pool are open; close one, or make a larger pool")
        self.begin(i)
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
        """Let a stream begin another sequence."""
        self.begin(self._one(i))

    @alone
    def state(self, i: int) -> dict[str, Array]:
        """What is kept of a stream, by name: a copy."""
        i = self._one(i)
        return {name: array[0] for name, array in self._frames_of(slice(i, i + 1)).items()}

    @alone
    def set_state(self, i: int, state: dict[str, Array]) -> None:
        """Set what is kept of a stream."""
        i = self._one(i)
        rows = {name: np.asarray(array)[None] for name, array in state.items()} if isinstance(state, dict) else state
        numbers, places = self._with(slice(i, i + 1), rows)
        self.numbers[i], self.places[i] = numbers[0], places[0]

    def _one(self, i: int) -> int:
        i = checks.integer("i", i, 0, self.capacity - 1)
        if not self._open[i]:
            raise ValueError(f"i: expected the number of an open stream, got {i}, which is closed")
        return i

    def step(  # type: ignore[override]
        self, ids: Iterable[int] | Array, x: Any, out: Any = None, *, num_threads: int | None = None
    ) -> Any:
        """One more frame of the streams named.

        Parameters
        ----------
        ids : (N,) integers
            Numbers of open streams, each at most once, in any order.
        x : array, or dict of arrays
            A frame for each.
        out : array, or dict of arrays, optional
            Where to write the outputs; must not overlap x.
        num_threads : int, optional
            Threads this call may use.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; no state has changed then.
        RuntimeError
            Another thread is using this pool.
        """
        return self._many_step(integers(ids), x, out, config.threads_for(num_threads))

    @alone
    def _many_step(self, ids: Array, x: Any, out: Any, threads: int) -> Any:
        chosen = self._many(ids)
        given = frames.named(x, tuple(self._net.graph.inputs))
        limits = self._ready.compiled.program.limits
        forms = [frames.of_rows(form, len(chosen)) for form in self._inputs]
        results = [frames.of_rows(form, len(chosen)) for form in self._outputs]
        inputs = {form.name: frames.checked(form, given[form.name], {}, limits) for form in forms}
        outputs = frames.written(results, out, {}, inputs)
        if len(chosen):
            reads = [form.port(inputs[form.name]) for form in forms]
            writes = [form.port(outputs[form.name]) for form in results]

            def go() -> None:
                wrong = self.advance(chosen, reads, writes, 1, None, None, 0, threads)
                if wrong >= 0:
                    self._out_of_range(wrong)

            self._one_frame(chosen, go)
        return frames.given_back(outputs)

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
    def copy(self) -> NetworkPool:
        """Another pool of the same weights, open streams and states, which goes its own way from here."""
        return _restore_pool(self._net, self._open.copy(), self.numbers.copy(), self.places.copy())

    def __copy__(self) -> NetworkPool:
        return self.copy()

    def __deepcopy__(self, memo: object) -> NetworkPool:
        return self.copy()

    @alone
    def __reduce__(self) -> Any:
        return _restore_pool, (self._net, self._open.copy(), self.numbers.copy(), self.places.copy())

    def __repr__(self) -> str:
        return f"{self._net!r}.pool({self.capacity})"


def _restore_pool(net: Network, is_open: Array, numbers: Array, places: Array) -> NetworkPool:
    pool = NetworkPool(net, len(is_open) - 1)
    pool._open = is_open
    pool.replace(numbers, places)
    return pool
