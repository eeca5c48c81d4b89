"""What of a network runs over time: which dynamic axis it is, how far nodes look ahead, what needs all of a sequence.

A frame of a value is what it has at one place of its time axis. Most nodes compute a frame from a frame. Recurrent
layers keep a state, windows and shifts need frames before and behind, and the rest, as a mean over all time, needs the
end of the sequence: those are obstacles to a stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from cgru import checks
from cgru.errors import FormatError
from cgru.model.nodes import OPERATORS, convolution, movement
from cgru.model.nodes.dense import parts
from cgru.model.nodes.sizes import Size, divided, product

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cgru.model.graph import Graph, Node
    from cgru.model.nodes.table import Sizes

WINDOWS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")
RECURRENT = tuple(name for name, row in OPERATORS.items() if row.recurrence is not None)
FAMILIES = (RECURRENT, (*WINDOWS, "GlobalAveragePool", "GlobalMaxPool"), tuple(OPERATORS))
"""Operators that tell by what they run over which dynamic axis is time, the surest first."""


class Flow(NamedTuple):
    """How a value's frames follow from those of the network's input."""

    ahead: int = 0
    """Its frame j can be computed once the input's frame `every` * j + `ahead` has come."""
    every: int = 1
    """Of so many of the input's frames it has one."""
    outer: int | Size = 1
    """Where other axes are merged with time: the sizes of those outside of it."""


class Timing(NamedTuple):
    """What `analyse` finds."""

    flows: dict[str, Flow]
    """Of values that have a time axis."""
    roles: dict[str, str]
    """Of nodes by name that do more than compute a frame from a frame: recurrent, window, shift, last."""
    ahead: dict[str, int]
    """Of nodes by name that look ahead: the frames."""
    obstacles: dict[str, str]
    """Nodes, as messages call them, that cannot run while time passes, and why."""
    delay: int
    """Frames that the outputs come after the inputs they belong to."""
    waits: dict[str, int]
    """Of shifts by name: the frames for which they wait to see whether the sequence goes on."""


def axis_of(shape: Sizes, steps: str | None) -> int | None:
    """The first axis whose size time decides."""
    return next((axis for axis, size in enumerate(shape) if isinstance(size, Size) and steps in size.names), None)


def dynamic_axes(
    inputs: Mapping[str, Sizes], nodes: Iterable[Node], shapes: Mapping[str, Sizes], source: str
) -> tuple[str | None, str | None]:
    """The names of the dynamic axes that are time and batch; FormatError where there are others.

    Time is what recurrent layers run over, else convolutions, else any operator that runs over an axis; where none
    does, an axis of the name T, or else one that is not an input's first.
    """
    names = sorted({str(size) for shape in inputs.values() for size in shape if isinstance(size, Size)})
    if not names:
        return None, None
    run_over: list[set[str]] = [set(), set(), set()]
    for node in nodes:
        over = node.row.over
        if over is None or not node.inputs:
            continue
        given = [shapes[name] if name else None for name in node.inputs]
        for axis in over(*given, **node.attributes):
            size = given[0][axis] if given[0] is not None else 1
            if isinstance(size, Size) and len(size.names) == 1:
                for found, family in zip(run_over, FAMILIES, strict=True):
                    if node.operator in family:
                        found |= size.names
    times = next(filter(None, run_over), set())
    if not times and "T" in names:
        times = {"T"}
    if not times:
        leading = {str(shape[0]) for shape in inputs.values() if shape}
        times = set(names) - leading if len(names) > 1 or names[0] not in leading else set()
    others = set(names) - times
    if len(times) > 1 or len(others) > 1:
        told = (
            f"over {checks.listed(sorted(times))} run recurrent layers, convolutions or the like"
            if times
            else "none is time"
        )
        raise FormatError(
            f"{source}: expected one dynamic axis that is time and perhaps one that is the batch, got "
            f"{checks.listed(names)}, where {told}; fix the others, as with "
            "python -m onnxruntime.tools.make_dynamic_shape_fixed --dim_param NAME --dim_value SIZE"
        )
    return next(iter(times), None), next(iter(others), None)


def analyse(graph: Graph) -> Timing:
    """What runs over time in a network, and how."""
    found = Timing({}, {}, {}, {}, 0, {})
    steps = graph.steps
    if steps is None:
        return found
    for name, shape in graph.inputs.items() | {(name, graph.shapes[name]) for name in graph.states}:
        if axis_of(shape, steps) is not None:
            found.flows[name] = Flow()
    fewer: list[str] = []  # nodes that stride over time
    for node in graph.nodes:
        timed = [name for name in node.inputs if name in found.flows]
        try:
            flow = _Node(graph, node, found).flow(timed) if timed else None
            reason = ""
        except ValueError as error:
            flow, reason = Flow(max(found.flows[name].ahead for name in timed)), str(error)
        written = [name for name in node.outputs if name and axis_of(graph.shapes[name], steps) is not None]
        if flow is None and written:
            flow, reason = Flow(), "makes as many frames as there are steps"
        if reason:
            found.obstacles.setdefault(node.title, reason)
        if flow is not None:
            for name in written:
                found.flows[name] = flow
            if flow.every != max([1, *(found.flows[name].every for name in timed)]):
                fewer.append(node.title)
            own = max(0, flow.ahead) - max([0, *(found.flows[name].ahead for name in timed)])
            if own > 0:
                found.ahead[node.name] = own
    outputs = [found.flows[name] for name in graph.outputs if name in found.flows]
    for name in graph.outputs:
        axis = axis_of(graph.shapes[name], steps)
        every = found.flows[name].every if axis is not None else 1
        if every != 1:
            found.obstacles.setdefault(
                f"output {name!r}",
                f"has one frame for {every} of the input, as {checks.listed(fewer)} strides over time",
            )
        elif axis is not None and not _pure(graph.shapes[name][axis], steps):
            found.obstacles.setdefault(f"output {name!r}", "has no axis that is time alone")
    return found._replace(delay=max([0, *(flow.ahead for flow in outputs)]))


class _Node:
    """A node among values that have time axes; ValueError says why it cannot run while time passes."""

    def __init__(self, graph: Graph, node: Node, found: Timing) -> None:
        self.node, self.found, self.steps = node, found, graph.steps
        self.constants = graph.constants
        self.shapes = [graph.shapes[name] if name else None for name in node.inputs]
        self.results = [graph.shapes[name] if name else None for name in node.outputs]

    def flow(self, timed: list[str]) -> Flow | None:
        """The flow of the results' frames."""
        for shape in (*self.shapes, *self.results):
            if sum(isinstance(size, Size) and self.steps in size.names for size in shape or ()) > 1:
                raise ValueError("relates each step to all others")
        flows = [self.found.flows[name] for name in timed]
        flow = Flow(max(one.ahead for one in flows), flows[0].every, flows[0].outer)
        if any(one.every != flow.every or one.outer != flow.outer for one in flows):
            raise ValueError("joins values of different numbers of frames")
        if flow.outer != 1 and any(one.ahead != flow.ahead for one in flows):
            raise ValueError("joins frames of different times, merged with other axes")
        for position, shape in enumerate(self.shapes):
            axis = None if shape is None else axis_of(shape, self.steps)
            if axis is not None and shape is not None:
                changed = self._over(position, axis, shape, flow)
                if changed is not None:
                    return changed
        if self.node.operator in ("Reshape", "Flatten"):
            return self._reshaped(flow)
        return flow

    def _over(self, position: int, axis: int, shape: Sizes, flow: Flow) -> Flow | None:
        """The flow where the node runs over the time axis of an input; None where it does not."""
        node = self.node
        if position > 0 and not self._local(position, axis, shape):
            raise ValueError(f"takes what changes with time as its input {position}")
        over = node.row.over
        runs = (
            axis in over(*self.shapes, **node.attributes)
            if over and (position == 0 or node.operator == "Concat")
            else False
        )
        if not runs:
            return None
        if flow.outer != 1 or not _pure(shape[axis], self.steps):
            raise ValueError("runs over time and other axes, merged into one")
        if node.operator in RECURRENT:
            return self._recurrent(flow)
        if node.operator in WINDOWS:
            return self._window(axis, flow)
        moved = {"Pad": self._pad, "Slice": self._slice, "Concat": self._concat, "Gather": self._gather}
        if node.operator in moved:
            return moved[node.operator](axis, shape, flow)
        raise ValueError("runs over all steps, the last ones too")

    def _local(self, position: int, axis: int, shape: Sizes) -> bool:
        """Whether a further input's frames are used for the same frames of the result."""
        node = self.node
        if node.operator == "Einsum":
            letters, result = parts(node.attributes["equation"], len(node.inputs))
            return letters[position][axis] in result
        if node.operator == "MatMul":
            return axis < len(shape) - 2
        if node.row.recurrence is not None and position == node.row.recurrence.initial:
            return True  # its dynamic axis is the batch
        return node.row.pointwise or node.operator in ("Concat", "Gather")

    def _role(self, role: str, flow: Flow) -> Flow:
        self.found.roles[self.node.name] = role
        return flow

    def _recurrent(self, flow: Flow) -> Flow:
        recurrence, inputs = self.node.row.recurrence, self.node.inputs
        if recurrence is None or recurrence.backwards(**self.node.attributes):
            raise ValueError("reads sequences from the last step to the first")
        if recurrence.lengths is not None and any(inputs[recurrence.lengths : recurrence.lengths + 1]):
            raise ValueError("takes sequence_lens")
        return self._role("recurrent", flow)

    def _window(self, axis: int, flow: Flow) -> Flow | None:
        if self.node.attributes.get("ceil_mode"):
            raise ValueError("has ceil_mode over time")
        span, stride, before, after = convolution.over_axis(self.node.operator, axis, self.node.attributes)
        if (span, stride, before, after) == (0, 1, 0, 0):
            return None
        return self._role("window", Flow(flow.ahead + (span - before) * flow.every, flow.every * stride))

    def _pad(self, axis: int, shape: Sizes, flow: Flow) -> Flow:
        first, last = movement.paddings(shape, self.node.attributes["pads"], self.node.attributes["axes"])[axis]
        if self.node.attributes["mode"] != "constant":
            raise ValueError(f"pads time in the mode {self.node.attributes['mode']}")
        return self._shifted(shape[axis], flow, first, max(0, -last))

    def _shifted(self, size: int | Size, flow: Flow, first: int, cut: int) -> Flow:
        """The flow behind a shift: so many frames before the first, and so many cut off behind the last.

        What is cut off is waited for, but for frames that come at the end of the sequence alone: those of windows that
        look ahead, or beyond it.
        """
        late = flow.ahead
        if flow.every == 1 and isinstance(size, Size):
            beyond = size - Size(self.steps or "")
            late += beyond if isinstance(beyond, int) else 0
        wait = max(0, cut - max(0, late))
        self.found.waits[self.node.name] = wait
        return self._role("shift", Flow(flow.ahead + (wait - first) * flow.every, flow.every))

    def _slice(self, axis: int, shape: Sizes, flow: Flow) -> Flow:
        first, count, step = movement.spans(shape, **self.node.attributes)[axis]
        left: Any = shape[axis] - first - count
        if left == 0 and count == 1:
            return self._role("last", flow)
        if step != 1 or not isinstance(first, int) or not isinstance(left, int):
            raise ValueError("takes steps that are counted from both ends, or some of them")
        return self._shifted(shape[axis], flow, -first, left)

    def _concat(self, axis: int, shape: Sizes, flow: Flow) -> Flow:
        timed = [axis_of(own or (), self.steps) is not None for own in self.shapes]
        rest = [name for name, own in zip(self.node.inputs, timed, strict=True) if not own]
        if sum(timed) != 1 or any(name not in self.constants for name in rest):
            raise ValueError("puts sequences one behind the other")
        before = sum(own[axis] for own in self.shapes[: timed.index(True)] if own)
        return self._shifted(shape[axis], flow, int(before), 0)

    def _gather(self, axis: int, shape: Sizes, flow: Flow) -> Flow:
        indices = self.constants.get(self.node.inputs[1])
        if indices is None or indices.size != 1 or indices.reshape(-1)[0] != -1:
            raise ValueError("takes some of the steps")
        return self._role("last", flow)

    def _reshaped(self, flow: Flow) -> Flow:
        """The flow behind a new shape, if it leaves the elements of a frame together."""
        (shape, result) = (self.shapes[0] or (), self.results[0] or ())
        axis, to = axis_of(shape, self.steps), axis_of(result, self.steps)
        if axis is None or to is None:
            raise ValueError("leaves no axis for time")
        outer = divided(product(shape[:axis]) * flow.outer, product(result[:to]))
        whole = None if outer is None else divided(result[to], outer)
        if outer is None or whole is None:
            raise ValueError("mixes steps with other axes")
        return flow._replace(outer=outer)


def _pure(size: int | Size, steps: str | None) -> bool:
    """Whether a size is time's, or that and an integer more or less."""
    return isinstance(size, Size) and size.names == {steps} and isinstance(size - Size(steps or ""), int)
