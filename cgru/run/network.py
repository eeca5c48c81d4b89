"""Networks while time passes: states kept between frames, of one sequence or several in lockstep.

Outputs are those of `net(x)` over the whole sequence, to the last bit; with a look-ahead they come `delay` frames late.
A method replaces the state last of all, so that an error or an interrupt leaves it as it was. One thread at a time may
use a stream.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks, config
from cgru._exclusive import alone
from cgru.run import frames
from cgru.run.network_states import States

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cgru.network import Network
    from cgru.run.frames import Form
    from cgru.types import Array

BLOCK = 64
"""Frames that a stream's chunk runs at once."""

PIECE = 2e9
"""Operations of a chunk after which signals are looked at."""


class NetworkStream(States):
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
            Threads this call may use; results do not depend on it.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; the state is as it was.
        RuntimeError
            Another thread is using this stream.
        """
        threads = config.threads_for(num_threads)
        result = self.chunk(x, out, threads)
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
