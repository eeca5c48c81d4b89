"""Networks in float64: run by the NumPy reference itself, for results that others are held to. Slow, and exact.

The same methods as the compiled streams and pools have (`network.py`), for arrays of float64.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru._exclusive import Exclusive, alone
from cgru.engines.host.network import Axes, Ready
from cgru.engines.host.program import Compiled
from cgru.model.interpret import run
from cgru.model.nodes.sizes import resolved
from cgru.model.stepping import Stream
from cgru.run import frames
from cgru.run.numbered import integers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cgru.network import Network
    from cgru.run.frames import Form
    from cgru.types import Array


def ready(net: Network) -> Ready:
    """What tells forms of arrays apart, without a program."""
    graph = net.graph
    axes = {name: Axes(*_axes(net, name)) for name in (*graph.inputs, *graph.outputs)}
    return Ready(Compiled(None, graph.steps is not None, {}), None, axes)  # type: ignore[arg-type]


def _axes(net: Network, name: str) -> tuple[int, int]:
    from cgru.engines.host.network import axis_named

    return axis_named(net.graph, name, net.graph.steps), axis_named(net.graph, name, net.graph.batch)


def widened(form: Form) -> Form:
    """Of float64 where the compiled one is of float32."""
    return form._replace(dtype=np.dtype(np.float64)) if form.dtype == np.float32 else form


class WideStream(Exclusive):
    """A network's frames one by one, in float64; see `cgru.run.network.NetworkStream`."""

    _kind = "stream"

    def __init__(self, net: Network, batch_size: int | None = None) -> None:
        batch = 1 if batch_size is None else checks.integer("batch_size", batch_size, 1)
        graph = net.graph
        if net.runner.obstacles:
            net.runner.streaming(batch)
        self._net, self._batch_size, self._ready = net, batch_size, ready(net)
        self._inputs = [widened(frames.step(graph, self._ready, name, batch)) for name in graph.inputs]
        self._outputs = [widened(frames.step(graph, self._ready, name, batch)) for name in graph.outputs]
        self.reset()

    @property
    def delay(self) -> int:
        """Frames that outputs come after the inputs that they belong to."""
        return self._net.graph.delay

    def reset(self) -> None:
        """Begin another sequence."""
        graph = self._net.graph
        self._stream = None if graph.steps is None else Stream(graph, self._batch_size or 1)
        sizes = {} if graph.batch is None else {graph.batch: self._batch_size or 1}
        self._states = {name: np.zeros(resolved(graph.shapes[name], sizes)) for name in graph.states}

    @alone
    def step(self, x: Any, out: Any = None) -> Any:
        """Return the outputs of one more frame."""
        given = frames.named(x, tuple(self._net.graph.inputs))
        inputs = {form.name: frames.checked(form, given[form.name], {}, {}) for form in self._inputs}
        outputs = frames.written(self._outputs, out, {}, inputs)
        for name, array in self._frame(inputs).items():
            outputs[name][...] = array
        return frames.given_back(outputs)

    def _frame(self, inputs: dict[str, Array]) -> dict[str, Array]:
        if self._stream is not None:
            return self._stream.step(inputs)
        found, self._states = run(self._net.graph, inputs, self._states)
        return found

    def process(self, x: Any, out: Any = None, *, num_threads: int | None = None) -> Any:
        """Return the outputs of a chunk of frames."""
        graph, batch = self._net.graph, self._batch_size or 1
        given = frames.named(x, tuple(graph.inputs))
        forms = [widened(frames.chunk(graph, self._ready, name, batch)) for name in graph.inputs]
        results = [widened(frames.chunk(graph, self._ready, name, batch)) for name in graph.outputs]
        sizes: dict[str, int] = {}
        inputs = {form.name: frames.checked(form, given[form.name], sizes, {}) for form in forms}
        count = next((inputs[form.name].shape[form.time] for form in forms if form.time >= 0), 1)
        if graph.steps is not None:
            sizes[graph.steps] = count
        outputs = frames.written([frames.as_many(form, count) for form in results], out, sizes, inputs)
        for i in range(count):
            one = self.step(
                {f.name: np.take(inputs[f.name], i, f.time) if f.time >= 0 else inputs[f.name] for f in forms}
            )
            for form in results:
                array = one[form.name] if isinstance(one, dict) else one
                where = (slice(None),) * max(0, form.time) + ((i,) if form.time >= 0 else ())
                outputs[form.name][where] = array
        return frames.given_back(outputs)

    @alone
    def flush(self) -> Any:
        """Return the frames that are left when the sequence ends; the next step begins another."""
        if self._stream is None:
            raise ValueError("expected a network whose inputs have a time axis, got a frame graph, which has no end")
        found = self._stream.flush()
        self.reset()
        return frames.given_back(found)

    @property
    def state(self) -> dict[str, Any]:
        """What is kept between frames: a copy to keep, and a value to set to go back to it."""
        return copy.deepcopy({"stream": self._stream, **self._states})

    @state.setter
    def state(self, value: dict[str, Any]) -> None:
        known = {"stream", *self._states}
        if not isinstance(value, dict) or value.keys() != known:
            raise ValueError(f"state: expected {checks.listed(sorted(known))}, got {value!r:.80}")
        own = copy.deepcopy(value)
        self._stream = own.pop("stream")
        self._states = own

    def copy(self) -> WideStream:
        """Another stream of the same weights and state, which goes its own way from here."""
        twin = WideStream(self._net, self._batch_size)
        twin.state = self.state
        return twin

    def __reduce__(self) -> Any:
        return _restored, (self._net, self._batch_size, self.state)

    def __repr__(self) -> str:
        return f"{self._net!r}.stream({'' if self._batch_size is None else f'batch_size={self._batch_size}'})"


def _restored(net: Network, batch_size: int | None, state: dict[str, Any]) -> WideStream:
    stream = WideStream(net, batch_size)
    stream.state = state
    return stream


class WidePool:
    """Streams of a network served together, in float64; see `cgru.run.network_pool.NetworkPool`."""

    def __init__(self, net: Network, capacity: int) -> None:
        self._net, self.capacity = net, checks.integer("capacity", capacity, 1)
        self._streams: dict[int, WideStream] = {}
        self._first = WideStream(net)

    def __len__(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def open(self) -> int:
        """Return the number of a new stream."""
        if len(self._streams) == self.capacity:
            raise RuntimeError(f"all {self.capacity} streams of the pool are open; close one, or make a larger pool")
        i = next(i for i in range(self.capacity) if i not in self._streams)
        self._streams[i] = WideStream(self._net)
        return i

    def _one(self, i: int) -> WideStream:
        i = checks.integer("i", i, 0, self.capacity - 1)
        if i not in self._streams:
            raise ValueError(f"i: expected the number of an open stream, got {i}, which is closed")
        return self._streams[i]

    def close(self, i: int) -> None:
        """End a stream."""
        self._one(i)
        del self._streams[i]

    def reset(self, i: int) -> None:
        """Let a stream begin another sequence."""
        self._one(i).reset()

    def state(self, i: int) -> dict[str, Any]:
        """Return what is kept of a stream: a copy."""
        return self._one(i).state

    def set_state(self, i: int, state: dict[str, Any]) -> None:
        """Set what is kept of a stream."""
        self._one(i).state = state

    def step(self, ids: Iterable[int] | Array, x: Any, out: Any = None, *, num_threads: int | None = None) -> Any:
        """Return the outputs of one more frame of the streams named."""
        chosen = integers(ids)
        if len(set(chosen.tolist())) < len(chosen):
            raise ValueError("ids: expected each stream once, got one several times")
        streams = [self._one(int(i)) for i in chosen]
        graph, form_of = self._net.graph, ready(self._net)
        forms, results = (
            [frames.of_rows(widened(frames.pooled(graph, form_of, name)), len(chosen)) for name in names]
            for names in (graph.inputs, graph.outputs)
        )
        given = frames.named(x, tuple(graph.inputs))
        inputs = {form.name: frames.checked(form, given[form.name], {}, {}) for form in forms}
        outputs = frames.written(results, out, {}, inputs)
        for row, stream in enumerate(streams):
            frame = {
                own.name: np.take(inputs[form.name], row, form.rows).reshape(own.shape)
                for form, own in zip(forms, stream._inputs, strict=True)
            }
            found = stream.step(frame)
            for form in results:
                array = found[form.name] if isinstance(found, dict) else found
                where = (slice(None),) * form.rows + (row,)
                outputs[form.name][where] = array.reshape(outputs[form.name][where].shape)
        return frames.given_back(outputs)
