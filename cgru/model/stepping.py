"""Networks in NumPy while time passes: the specification of streams. Clear, not fast.

Every node computes as many frames as its inputs allow. Recurrent layers keep their state, windows the frames that later
ones need; a value whose partner is late waits. What is put together of all steps is what `interpret.run` gives of the
whole.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.model.interpret import _as, evaluate
from cgru.model.nodes import convolution, movement
from cgru.model.nodes.sizes import Size, resolved
from cgru.model.timing import axis_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from cgru.model.graph import Graph, Node
    from cgru.types import Array


class Stream:
    """A sequence graph while time passes; ValueError, naming the node, where it cannot run so.

    An output's frames come `delay` steps after the input's that they belong to.
    """

    def __init__(self, graph: Graph, batch_size: int = 1, dtype: npt.DTypeLike = np.float64) -> None:
        if graph.steps is None:
            raise ValueError(
                "graph: expected one whose inputs have a time axis, got a frame graph; give its states to run"
            )
        obstacles = [f"{node} {reason}" for node, reason in graph.timing.obstacles.items()]
        if obstacles:
            raise ValueError(f"expected nodes that run while time passes, got {checks.listed(obstacles)}")
        if graph.states:
            raise ValueError(f"expected a network that keeps its states, got the states {checks.listed(graph.states)}")
        self.graph, self.delay = graph, graph.delay
        self.precision = np.dtype(dtype)
        self.sizes = {} if graph.batch is None else {graph.batch: batch_size}
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        constants = {name: _as(array, self.precision) for name, array in self.graph.constants.items()}
        self._queues = {
            (node.outputs, name): Queue(self._axis(name)) for node in self.graph.nodes for name in self._timed(node)
        }
        self._windows = {node.outputs: _Window(self, node) for node in self.graph.nodes if self._role(node) == "window"}
        self._shifts = {node.outputs: _Shift(self, node) for node in self.graph.nodes if self._role(node) == "shift"}
        self._states: dict[tuple[str, ...], Array] = {}
        self._pending = {name: Queue(self._axis(name)) for name in self._outputs}
        self._still: dict[str, Array] = constants
        """Values without a time axis: constants, and what the latest steps gave."""
        self._seen = 0

    @property
    def _outputs(self) -> list[str]:
        """The outputs that have a time axis."""
        return [name for name in self.graph.outputs if self.graph.time[name] is not None]

    def _axis(self, name: str) -> int:
        axis = axis_of(self.graph.shapes[name], self.graph.steps)
        assert axis is not None
        return axis

    def _timed(self, node: Node) -> list[str]:
        return list(dict.fromkeys(name for name in node.inputs if name in self.graph.timing.flows))

    def _role(self, node: Node) -> str:
        return self.graph.timing.roles.get(node.name, "")

    # --- What users of it call ----------------------------------------------------------------------------------------

    def step(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One frame of each output from one of each input, without their time axis."""
        frames = {
            name: array if self.graph.time[name] is None else np.expand_dims(array, self._axis(name))
            for name, array in inputs.items()
        }
        outputs = self.process(frames)
        return {
            name: array if self.graph.time[name] is None else array.squeeze(self._axis(name))
            for name, array in outputs.items()
        }

    def process(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As many frames of each output as came of each input; the first `delay` of a stream are zeros.

        What has no time axis is as it is after these frames.
        """
        given = {name: _as(np.asarray(array), self.precision) for name, array in inputs.items()}
        frames = {name: array for name, array in given.items() if self.graph.time.get(name) is not None}
        counts = {array.shape[self._axis(name)] for name, array in frames.items()}
        if given.keys() != self.graph.inputs.keys() or len(counts) != 1:
            raise ValueError(f"inputs: expected {checks.listed(self.graph.inputs)} of as many frames each, got others")
        (count,) = counts
        self._still |= {name: array for name, array in given.items() if name not in frames}
        self._advance(frames, ending=False)
        silent = min(count, max(0, self.delay - self._seen))
        self._seen += count
        outputs = {}
        for name in self.graph.outputs:
            outputs[name] = self._still[name] if self.graph.time[name] is None else self._emitted(name, silent, count)
        return outputs

    def _emitted(self, name: str, silent: int, count: int) -> Array:
        """Frames of an output, of which the first are zeros."""
        axis = self._axis(name)
        shape = list(resolved(self.graph.shapes[name], {**self.sizes, self.graph.steps or "": 1}))
        shape[axis] = silent
        zeros = np.zeros(shape, _as(np.zeros(0, self.graph.types[name]), self.precision).dtype)
        return zeros if silent == count else np.concatenate([zeros, self._pending[name].take(count - silent)], axis)

    def flush(self) -> dict[str, Array]:
        """The frames that are left when the sequence ends: `delay` of them, where outputs are as long as inputs."""
        self._advance({}, ending=True)
        found = {name: self._pending[name].rest() for name in self._outputs}
        return found | {name: self._still[name] for name in self.graph.outputs if name not in found}

    # --- Nodes --------------------------------------------------------------------------------------------------------

    def _advance(self, frames: dict[str, Array], ending: bool) -> None:
        """Give inputs' new frames to the nodes, and these what they make of them."""
        new: dict[str, Array] = dict(frames)
        for node in self.graph.nodes:
            queues = {name: self._queues[node.outputs, name] for name in self._timed(node)}
            for name, queue in queues.items():
                if name in new:
                    queue.put(new[name])
            still = [name for name in node.inputs if name and name not in queues]
            if any(name not in self._still for name in still) or any(queue.known is None for queue in queues.values()):
                continue  # the first frame has not come
            count = min([queue.frames for queue in queues.values()], default=1)
            own = {name: queue.take(count) for name, queue in queues.items()}
            if count or ending:
                for name, array in self._run(node, self._still | own, list(queues), ending).items():
                    (self._still if self.graph.time[name] is None else new)[name] = array
        for name in self._outputs:
            if name in new:
                self._pending[name].put(new[name])

    def _run(self, node: Node, values: dict[str, Array], timed: list[str], ending: bool) -> dict[str, Array]:
        role = self._role(node)
        if role == "window":
            return self._windows[node.outputs].run(values, ending)
        if role == "shift":
            return self._shifts[node.outputs].run(values, ending)
        if timed and values[timed[0]].shape[self._axis(timed[0])] == 0:
            return {}
        sizes = self.bound(timed[0], values[timed[0]]) if timed else self.sizes
        if role != "recurrent":
            return evaluate(node, values, sizes, self.precision)
        recurrence = node.row.recurrence
        inputs = list(node.inputs)
        if recurrence is not None and node.outputs in self._states:
            inputs += [""] * (recurrence.initial + 1 - len(inputs))
            inputs[recurrence.initial] = "the state"
            values = {**values, "the state": self._states[node.outputs]}
        written = (node.outputs[0], "the state after")
        results = evaluate(replace(node, inputs=tuple(inputs), outputs=written), values, sizes, self.precision)
        state = self._states[node.outputs] = results.pop("the state after")
        return results | ({node.outputs[1]: state} if len(node.outputs) > 1 and node.outputs[1] else {})

    def bound(self, name: str, array: Array) -> dict[str, int]:
        """The sizes of dynamic axes for which a value has as many frames as an array."""
        axis, steps = self._axis(name), self.graph.steps or ""
        size = self.graph.shapes[name][axis]
        assert isinstance(size, Size)
        none, one = (size.at({**self.sizes, steps: frames}) for frames in (0, 1))
        return {**self.sizes, steps: (array.shape[axis] - none) // (one - none)}


class Queue:
    """Frames of a value that wait."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.known: Array | None = None

    @property
    def frames(self) -> int:
        """How many elements there are along the axis of time."""
        return 0 if self.known is None else self.known.shape[self.axis]

    def put(self, array: Array) -> None:
        """Add frames behind the others."""
        self.known = array if self.known is None else np.concatenate([self.known, array], self.axis)

    def take(self, count: int) -> Array:
        """The first ones, which then wait no longer."""
        if self.known is None:
            raise ValueError("expected a first frame, got none")
        taken, self.known = np.split(self.known, [count], self.axis)
        return taken

    def rest(self) -> Array:
        """All that are left."""
        return self.take(self.frames)


class _Window:
    """A convolution or a pooling over time: a ring of the frames that windows to come need."""

    def __init__(self, stream: Stream, node: Node) -> None:
        self.stream, self.node = stream, node
        self.name = node.inputs[0]
        self.axis = stream._axis(self.name)
        found = convolution.over_axis(node.operator, self.axis, node.attributes)
        self.span, self.stride, self.before, self.after = found
        self.held = Queue(self.axis)

    def run(self, values: dict[str, Array], ending: bool) -> dict[str, Array]:
        """The windows that are complete."""
        self.held.put(values[self.name])
        after = self.after if ending else 0
        room = self.before + self.held.frames + after - self.span - 1
        count = room // self.stride + 1
        if count <= 0:
            return {}
        frames: Any = self.held.known
        if self.before < 0:  # negative padding takes away
            frames = np.split(frames, [-self.before], self.axis)[1]
        pads = [max(0, self.before), after]
        if self.node.operator == "ConvTranspose":
            pads = [self.span - pad for pad in pads]
        node = replace(self.node, attributes=self._attributes(pads))
        results = evaluate(node, {**values, self.name: frames}, self.stream.sizes, self.stream.precision)
        start = count * self.stride - self.before
        if start > 0:
            self.held.take(min(start, self.held.frames))
        self.before = max(0, -start)
        return results

    def _attributes(self, pads: list[int]) -> dict[str, Any]:
        """The node's, with this padding of time."""
        own = list(self.node.attributes["pads"])
        own[self.axis - 2 :: len(own) // 2] = pads
        return {**self.node.attributes, "pads": tuple(own)}


class _Shift:
    """A Pad, Slice or Concat along time: frames before, frames behind, or fewer of either."""

    def __init__(self, stream: Stream, node: Node) -> None:
        self.stream, self.node = stream, node
        (self.name,) = stream._timed(node)
        self.axis = stream._axis(self.name)
        self.held = Queue(self.axis)
        self.begun = False
        shape = stream.graph.shapes[self.name]
        if node.operator == "Pad":
            self.first, self.last = movement.paddings(shape, node.attributes["pads"], node.attributes["axes"])[
                self.axis
            ]
        elif node.operator == "Slice":
            first, count, _ = movement.spans(shape, **node.attributes)[self.axis]
            self.first, self.last = -int(first), -int(shape[self.axis] - first - count)
        else:
            self.first = self.last = 0
        self.skip = max(0, -self.first)

    def run(self, values: dict[str, Array], ending: bool) -> dict[str, Array]:
        """The frames that are known to be in the result."""
        self.held.put(values[self.name])
        if self.skip:
            gone = min(self.skip, self.held.frames)
            self.held.take(gone)
            self.skip -= gone
        wait = self.stream.graph.timing.waits[self.node.name]
        count = max(0, self.held.frames - (max(0, -self.last) if ending else wait))
        frames = self.held.take(count)
        parts = [frames]
        if self.node.operator == "Concat":
            at = self.node.inputs.index(self.name)
            if not self.begun:
                parts = [*(values[name] for name in self.node.inputs[:at]), *parts]
            if ending:
                parts += [values[name] for name in self.node.inputs[at + 1 :]]
        else:
            frames = self._other_axes(frames)
            parts = [self._padding(frames, self.first if not self.begun else 0), frames]
            parts += [self._padding(frames, self.last if ending else 0)]
        self.begun = True
        return {self.node.outputs[0]: np.concatenate(parts, self.axis)}

    def _padding(self, frames: Array, count: int) -> Array:
        shape = list(frames.shape)
        shape[self.axis] = max(0, count)
        return np.full(shape, self.node.attributes.get("value") or 0, frames.dtype)

    def _other_axes(self, frames: Array) -> Array:
        """What the node does along the other axes."""
        attributes = dict(self.node.attributes)
        rank = frames.ndim
        if self.node.operator == "Pad":
            found = movement.paddings(frames.shape, attributes["pads"], attributes["axes"])
            found[self.axis] = (0, 0)
            attributes |= {"pads": tuple(p for side in zip(*found, strict=True) for p in side), "axes": None}
        else:
            axes = attributes["axes"] or tuple(range(len(attributes["starts"])))
            kept = [i for i, axis in enumerate(axes) if axis % rank != self.axis]
            for key in ("starts", "ends", "steps"):
                if attributes[key] is not None:
                    attributes[key] = tuple(attributes[key][i] for i in kept)
            attributes["axes"] = tuple(axes[i] for i in kept)
        sizes = self.stream.sizes
        attributes = {
            key: resolved(value, sizes)
            if isinstance(value, tuple) and any(isinstance(v, Size) for v in value)
            else value
            for key, value in attributes.items()
        }
        return self.node.row.run(frames, **attributes)
