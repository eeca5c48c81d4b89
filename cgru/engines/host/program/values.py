"""Where a graph's values are while it is lowered, and the steps that are written so far.

A value has a view of a buffer; one that is only moved has the places of its elements, of which a view is made where
strides can say them, and else a buffer. Where frames come one by one a value may be late, and is then read at a frame
before its latest.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import _program
from cgru.engines.host.program import assembling, margins
from cgru.engines.host.program.plan import Buffer, Kept, State, Step, Use, View, collapsed, row_major
from cgru.errors import FormatError
from cgru.model.nodes.sizes import Size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cgru.engines.host.program.fusing import Fused
    from cgru.engines.host.program.tracing import Trace
    from cgru.model.graph import Graph, Node
    from cgru.types import Array

SHORT = 4
"""Elements of a line that is better no line."""


class Values:
    """The values and the steps of a graph that becomes a program."""

    def __init__(self, graph: Graph, sizes: Mapping[str, int], streams: bool, options: Mapping[str, Any]) -> None:
        self.graph, self.sizes, self.streams, self.options = graph, sizes, streams, options
        self.views: dict[str, View] = {}
        self.steps: list[Step] = []
        self.kept: list[Kept] = []
        self.rings: list[Buffer] = []
        self.constants: list[Array] = []
        self.constant_size = 0
        self.known: dict[tuple[bytes, tuple[int, ...]], View] = {}
        self.fresh: list[Array] = []
        self.named: list[State] = []
        self.limits: dict[str, int] = {}
        self.fails = False
        self.fused: dict[str, Fused] = {}
        """By name what joins products."""
        self.trace: Trace
        self.margins: dict[str, tuple[int, int]] = {}
        """Of values that windows read beyond their ends: the zeros before and behind them."""
        self.in_windows: set[str] = set()
        """Values that windows read: channels had better lie innermost."""
        self.buffers = [Buffer(1, "constant")]
        """By number; the first stands for the number 0."""
        self.assembled: dict[tuple[Any, ...], View] = {}
        self.as_of: tuple[int, int] | None = None
        """How late the results of steps are that assemble a value, and how many frames more they have."""
        self.plain = 0
        self.ahead: dict[str, int] = {}
        """Of values how many frames they come late."""
        self.node: Node | None = None

    # --- Values -------------------------------------------------------------------------------------------------------

    def shape(self, name: str) -> tuple[int, ...]:
        """A value's shape, a frame of a row."""
        return tuple(self.size(size) for size in self.graph.shapes[name])

    def size(self, size: int | Size) -> int:
        """A size; where it grows with time, what a frame has of it."""
        if not isinstance(size, Size):
            return int(size)
        if self.streams and self.graph.steps in size.names:
            one, two = (size.at({**self.sizes, str(self.graph.steps): steps}) for steps in (1, 2))
            return two - one
        return size.at(self.sizes)

    def attributes(self, node: Node) -> dict[str, Any]:
        """A node's, with sizes that are known."""
        return {
            key: tuple(map(self.size, value))
            if isinstance(value, tuple) and any(isinstance(v, Size) for v in value)
            else value
            for key, value in node.attributes.items()
        }

    def constant(self, name: str) -> Array | None:
        """The numbers of a value that is a constant."""
        return self.graph.constants.get(name)

    def number(self, name: str) -> float | None:
        """The number that a value is everywhere."""
        array = self.constant(name)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def view(self, name: str, order: Sequence[int] | None = None) -> View:
        """Where a value is, of the frame that the node in hand works on.

        What has to be brought together for that has its axes in an order, the last innermost.
        """
        ahead = self.ahead[name] + self.late(name)
        if name not in self.trace.of:
            return self.base(name, ahead)
        wanted = assembling.resolved(self, self.trace.of[name], ahead)
        view = assembling.as_view(self, wanted)
        return self.assemble(name, wanted, order) if view is None else view

    def beside(self, name: str) -> View:
        """Where a value is, of the frame of the results of the node in hand, also where that is a window."""
        node = self.node
        assert node is not None
        if not self.timed(name):
            return self.view(name)
        ahead = self.node_ahead(node)
        if name not in self.trace.of:
            return self.base(name, ahead)
        wanted = assembling.resolved(self, self.trace.of[name], ahead)
        return assembling.as_view(self, wanted) or assembling.copied(self, wanted)

    def base(self, name: str, ahead: int | None = None) -> View:
        """Where a value is that is not just moved, read so late."""
        if name in self.trace.gathered and name not in self.views:
            wanted = assembling.resolved(self, self.trace.gathered[name], self.ahead[name])
            self.views[name] = self.assemble(name, wanted, margins.channels_last(wanted.shape))
        if name not in self.views:
            array = self.constant(name)
            assert array is not None, name
            return self.put_constant(array)
        late = 0 if ahead is None or not self.timed(name) else ahead - self.ahead[name]
        return self.delayed(self.views[name], late) if late else self.views[name]

    def assemble(self, name: str, wanted: Array, order: Sequence[int] | None = None) -> View:
        """A buffer with a value's elements, from their addresses; the same for all who want the same."""
        if order is None and self.node is not None:
            order = assembling.nearest_order(wanted)
        key = wanted.shape, wanted.tobytes(), None if order is None else tuple(order)
        if key not in self.assembled:
            late = 0 if name in self.trace.gathered else self.late(name)
            self.as_of = self.ahead[name] + late, self.more_of(name)
            self.assembled[key] = assembling.copied(self, wanted, order)
            self.as_of = None
        return self.assembled[key]

    def parts(self, name: str) -> list[tuple[tuple[slice, ...], View]] | None:
        """Of a value that would have to be brought together: the places that it is in; None of any other."""
        if name not in self.trace.of:
            return None
        wanted = assembling.resolved(self, self.trace.of[name], self.ahead[name] + self.late(name))
        if assembling.as_view(self, wanted) is not None or self.is_assembled(wanted):
            return None
        zero = self.put_constant(np.float32(0))
        found = assembling.boxes(self, wanted)
        return None if found is None else [(at, view or zero.broadcast(wanted[at].shape)) for at, view in found]

    def is_assembled(self, wanted: Array) -> bool:
        """Whether there is a buffer with the elements of these addresses."""
        key = wanted.shape, wanted.tobytes()
        return any(known[:2] == key for known in self.assembled)

    def number_of(self, buffer: Buffer) -> int:
        """The number by which addresses call a buffer."""
        if not buffer.number:
            buffer.number = len(self.buffers)
            self.buffers.append(buffer)
        return buffer.number

    def put_constant(self, array: Array) -> View:
        """Numbers among the constants."""
        numbers = np.ascontiguousarray(array, np.float32)
        key = (numbers.tobytes(), numbers.shape)
        if key not in self.known:
            if numbers.size > 2**24 or (array.dtype.kind in "iu" and np.any(np.abs(array.astype(np.float64)) > 2**24)):
                self.refuse("constants of at most 2^24, which float32 has exactly", "others")
            buffer = Buffer(numbers.size, "constant", inside=self.constant_size)
            self.constants.append(numbers.ravel())
            self.constant_size += -(-numbers.size // 16) * 16
            self.known[key] = View(buffer, 0, numbers.shape, row_major(numbers.shape))
        return self.known[key]

    def numbers(self, view: View) -> Array | None:
        """The numbers of a view that `put_constant` gave; None of any other."""
        for (numbers, shape), known in self.known.items():
            if known == view:
                return np.frombuffer(numbers, np.float32).reshape(shape)
        return None

    def put_fresh(self, array: Array, name: str) -> Buffer:
        """Numbers of a row's state, and what a row begins with."""
        buffer = Buffer(array.size, "state", name, inside=self.plain)
        self.fresh.append(np.asarray(array, np.float32).ravel())
        self.named.append(State(name, self.plain, tuple(array.shape)))
        self.plain += array.size
        return buffer

    def new(self, shape: Sequence[int], name: str = "", order: Sequence[int] | None = None) -> View:
        """A buffer of its own, and the view of all of it; axes lie in an order, the last innermost."""
        strides = list(row_major(shape))
        if order is not None:
            for axis, stride in zip(order, row_major([shape[axis] for axis in order]), strict=True):
                strides[axis] = stride
        front, behind = self.margins.get(name, (0, 0)) if margins.fit(shape, strides) else (0, 0)
        buffer = Buffer(front + math.prod(shape) + behind, name=name, front=front, behind=behind)
        if front or behind:
            self.empty_margins(buffer)
        return View(buffer, front, tuple(shape), tuple(strides))

    def empty_margins(self, buffer: Buffer) -> None:
        """Let the numbers before a value's own and behind them be zeros."""
        first = View(buffer, 0, (buffer.front,), (1,))
        last = View(buffer, buffer.size - buffer.behind, (buffer.behind,), (1,))
        parts = [first, last]
        if buffer.front == buffer.behind:
            parts = [View(buffer, 0, (2, buffer.front), (last.inside, 1))]
        for part in parts:
            if part.size:
                self.filled(part, 0.0)
                self.steps[-1].margin = True

    # --- Time ---------------------------------------------------------------------------------------------------------

    def timed(self, name: str) -> bool:
        """Whether a value has a frame for each step."""
        return self.streams and name in self.graph.timing.flows

    def node_ahead(self, node: Node) -> int:
        """How many frames a node's results come late."""
        if not self.streams:
            return 0
        flows = self.graph.timing.flows
        for name in node.outputs:
            if name in flows:
                return flows[name].ahead
        return max((self.ahead.get(name, 0) for name in node.inputs), default=0)

    def late(self, name: str) -> int:
        """How many frames before its latest one a value is read at by the node in hand."""
        if self.node is None or not self.timed(name):
            return 0
        role = self.graph.timing.roles.get(self.node.name, "")
        if role in ("window", "shift", "last"):
            return 0  # they have their own rules
        return self.node_ahead(self.node) - self.ahead[name]

    def delayed(self, view: View, frames: int) -> View:
        """A view of so many frames before."""
        self.make_ring(view, view.delay + frames)
        return view._replace(delay=view.delay + frames)

    def make_ring(self, view: View, history: int) -> None:
        """Keep a buffer's frames, so many before the latest."""
        buffer = view.buffer
        if buffer.space == "arena":
            buffer.space = "ring"
            self.rings.append(buffer)
        assert buffer.space == "ring", buffer.space
        buffer.history = max(buffer.history, history)

    def empty(self, view: View, value: float) -> None:
        """Say what frames of a buffer hold that are none of the sequence's."""
        self.make_ring(view, view.delay)
        view.buffer.empty = value

    # --- Steps --------------------------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """Of the node in hand."""
        return self.node.title if self.node else "the network"

    def refuse(self, expected: str, got: object) -> Any:
        """A node that no program can have."""
        raise FormatError(f"{self.title}: expected {expected}, got {got}")

    def emit(self, kind: str, written: Use, *read: Use | None, **fields: Any) -> Step:
        """Add a step."""
        if len(fields.get("sizes", ())) > _program.AXES:
            self.refuse(f"elements along at most {_program.AXES} axes", len(fields["sizes"]))
        ahead, more = self.as_of or (self.node_ahead(self.node) if self.node else 0, self.more())
        step = Step(kind, self.title, written, list(read), ahead=ahead, more=more, **fields)
        self.steps.append(step)
        return step

    def more(self) -> int:
        """How many frames more than steps the results of the node in hand have."""
        if not self.streams or self.node is None:
            return 0
        outputs = [name for name in self.node.outputs if self.timed(name)]
        # of a recurrent layer whose last states alone are wanted, what it reads
        return max((self.more_of(name) for name in outputs or self.node.inputs if self.timed(name)), default=0)

    def elementwise(self, code: str, out: View, *operands: View, p: float = 0.0, q: float = 0.0) -> View:
        """out := f(operands), which broadcast to it."""
        views = [view.broadcast(out.shape) for view in operands]
        # the innermost axis is the one along which `out` lies side by side
        order = sorted(range(len(out.shape)), key=lambda axis: (-abs(out.strides[axis]), axis))
        shape = [out.shape[axis] for axis in order]
        sizes, strides = collapsed(shape, *([view.strides[axis] for axis in order] for view in (out, *views)))
        longest = max(range(len(sizes)), key=lambda axis: sizes[axis])
        if sizes[-1] < SHORT and sizes[longest] > SHORT:  # long lines with gaps are better than many short ones
            for own in (sizes, *strides):
                own.append(own.pop(longest))
        whole = all(view.contiguous and view.size == view.buffer.size == out.size for view in (out, *operands))
        self.emit(
            "elementwise", Use(out, strides[0]), *(Use(v, s) for v, s in zip(operands, strides[1:], strict=True)),
            code=code, sizes=sizes, p=p, q=q, flat=whole, work=float(out.size),
        )  # fmt: skip
        return out

    def copied(self, view: View, order: Sequence[int] | None = None) -> View:
        """A copy that lies side by side, axes in their order or in another."""
        return self.elementwise("copy", self.new(view.shape, order=order), view)

    def dense(self, view: View) -> View:
        """The view, or a copy of it, whose elements lie side by side in their order."""
        return view if view.contiguous else self.copied(view)

    def filled(self, view: View, value: float) -> View:
        """All elements one number."""
        sizes, (strides,) = collapsed(view.shape, view.strides)
        self.emit("fill", Use(view, strides), sizes=sizes, p=value)
        return view

    def listed(self, out: View, to: Array, view: View, source: Array) -> None:
        """out[to] := view's buffer[source]."""
        self.emit("list", Use(out), Use(view._replace(inside=0)), sizes=[len(to)], to=to, source=source)

    def own(self, view: View) -> View:
        """A view whose frames can be kept: of a buffer that is computed."""
        return view if view.buffer.space in ("arena", "ring") else self.copied(view)

    def more_of(self, name: str) -> int:
        """How many frames more than there are steps a value has."""
        return frames_more(self.graph, name) if self.timed(name) else 0


def frames_more(graph: Graph, name: str) -> int:
    """How many frames more than there are steps a value has."""
    axis = graph.time[name]
    size = graph.shapes[name][axis] if axis is not None else 0
    if not isinstance(size, Size) or graph.steps is None:
        return 0
    others = dict.fromkeys(size.names, 1)
    return size.at({**others, graph.steps: 1}) - 1
