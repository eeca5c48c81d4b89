"""Networks lowered to steps: the values' views, and the steps that every family of operators is made of.

The graph is bound first: its batch axis is 1, as rows are a program's own matter, and so is its time axis where frames
come one by one (`Compiler.streams`). Then each node becomes steps, or a view of what is there, by its operator's
function of `LOWER`.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import _program
from cgru.engines.host.program.plan import (
    Buffer,
    Kept,
    NotSoError,
    Port,
    Program,
    Ring,
    State,
    Step,
    Use,
    View,
    collapsed,
    lay_out,
    operand,
    row_major,
)
from cgru.errors import FormatError
from cgru.model.nodes.sizes import Size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from cgru.engines.host.program.fusing import Fused
    from cgru.model.graph import Graph, Node
    from cgru.types import Array

    Lower = Callable[["Compiler", Node], None]


class Compiler:
    """A graph while it becomes a program."""

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

    def view(self, name: str) -> View:
        """Where a value is, of the frame that the node in hand works on."""
        if name in self.views:
            found = self.views[name]
            late = self.late(name)
            return found if not late else self.delayed(found, late)
        array = self.constant(name)
        assert array is not None, name
        return self.put_constant(array)

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

    def put_fresh(self, array: Array, name: str) -> Buffer:
        """Numbers of a row's state, and what a row begins with."""
        buffer = Buffer(array.size, "state", name, inside=self.plain)
        self.fresh.append(np.asarray(array, np.float32).ravel())
        self.named.append(State(name, self.plain, tuple(array.shape)))
        self.plain += array.size
        return buffer

    def new(self, shape: Sequence[int], name: str = "", order: Sequence[int] | None = None) -> View:
        """A buffer of its own, and the view of all of it; axes lie in an order, the last innermost."""
        buffer = Buffer(math.prod(shape), name=name)
        if order is None:
            return View(buffer, 0, tuple(shape), row_major(shape))
        strides = [0] * len(shape)
        for axis, stride in zip(order, row_major([shape[axis] for axis in order]), strict=True):
            strides[axis] = stride
        return View(buffer, 0, tuple(shape), tuple(strides))

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

    def empty(self, view: View, value: float, name: str) -> None:
        """Say what frames of a new buffer hold that are none of the sequence's; it is as late as a value."""
        self.make_ring(view, view.delay)
        view.buffer.empty = value
        if self.steps and self.steps[-1].written.view.buffer is view.buffer and self.node:
            for step in self.steps:
                if step.written.view.buffer is view.buffer and step.title == self.title:
                    step.ahead, step.more = self.ahead[name], self.more_of(name)

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
        ahead = self.node_ahead(self.node) if self.node else 0
        step = Step(kind, self.title, written, list(read), ahead=ahead, more=self.more(), **fields)
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

    def states(self) -> list[State]:
        """The parts of a row's state, each with a name of its own."""
        rings = [
            State(buffer.name or f"window {i}", i, (buffer.history, buffer.size))
            for i, buffer in enumerate(self.rings)
            if buffer.history
        ]
        taken = set() if self.graph.states else {"frames"}  # which streams have themselves
        found = []
        for part in self.named + rings:
            name, number = part.name, 2
            while name in taken:
                name, number = f"{part.name} ({number})", number + 1
            taken.add(name)
            found.append(part._replace(name=name))
        return found

    # --- The whole ----------------------------------------------------------------------------------------------------

    def program(self) -> Program:
        """Lower all nodes."""
        from cgru.engines.host.program import fusing
        from cgru.engines.host.program.families import LOWER

        graph = self.graph
        for name in graph.constants:
            self.ahead[name] = 0
        for title, names in (("inputs", graph.inputs), ("outputs", graph.outputs)):
            if len(names) > _program.PORTS:
                raise FormatError(f"expected at most {_program.PORTS} {title} beside states, got {len(names)}")
        inputs = [self.input(name) for name in graph.inputs]
        for name in graph.states:
            self.state(name)
        missing: dict[str, list[str]] = {}
        for node in graph.nodes:
            if node.operator not in LOWER:
                missing.setdefault(node.operator, []).append(repr(node.name))
        if missing:
            listed = "; ".join(f"{operator} ({', '.join(names[:8])})" for operator, names in missing.items())
            raise FormatError(f"expected operators that are compiled here, got {listed}")
        self.fused, gone, given = fusing.find(self)
        for node in graph.nodes:
            self.node = node
            self.check_frames(node)
            ahead = self.node_ahead(node)
            for name in node.outputs:
                self.ahead[name] = ahead
            if node.name in given:
                self.views[node.outputs[0]] = self.view(node.inputs[0])
            elif node.name not in gone:
                LOWER[node.operator](self, node)
        self.node = None
        outputs = [self.output(name) for name in graph.outputs]
        for name, result in graph.states.items():
            self.keep(name, result)
        return self.finished(inputs, outputs)

    def check_frames(self, node: Node) -> None:
        """Refuse to mix what is known of all time with single frames."""
        if not self.streams:
            return
        timed = [name for name in node.inputs if self.timed(name)]
        for name in node.inputs:
            if timed and name and not self.timed(name) and self.late_still(name):
                if node.row.recurrence is not None:
                    continue
                raise NotSoError(f"{node.title} takes what is known at the end, {name!r}, at every step")

    def late_still(self, name: str) -> bool:
        """Whether a value without a time axis depends on one that has it."""
        if name in self.graph.constants or name in self.graph.inputs or name in self.graph.states:
            return False
        return name in self.depends

    @cached_property
    def depends(self) -> set[str]:
        """Values that depend on inputs with a time axis."""
        return self._behind(name for name in self.graph.inputs if self.timed(name))

    @cached_property
    def from_states(self) -> set[str]:
        """Values that depend on states that go in and come out; those are of blocks of one frame."""
        return self._behind(self.graph.states)

    def _behind(self, names: Iterable[str]) -> set[str]:
        found = set(names)
        for node in self.graph.nodes:
            if any(name in found for name in node.inputs):
                found |= set(node.outputs)
        return found

    def check_dtype(self, name: str) -> None:
        """Refuse ends of a type that no program reads or writes."""
        found = self.graph.types[name]
        if found.kind != "f" and found not in _program.NUMBERS:
            known = ", ".join(str(dtype) for dtype in _program.NUMBERS)
            raise FormatError(f"{name!r}: expected an input or output of {known}, got {found}")

    def input(self, name: str) -> Port:
        """A buffer that an input's frames are copied to."""
        self.check_dtype(name)
        view = self.new(self.shape(name), name)
        self.views[name] = view
        self.ahead[name] = 0
        if self.graph.types[name].kind in "iu" and self.graph.types[name].itemsize > 2:
            self.limits[name] = 2**24
        if self.streams and not self.timed(name):
            if any(flow.ahead < 0 for flow in self.graph.timing.flows.values()):
                raise NotSoError(f"the input {name!r} has no time axis, and there are frames before the first one")
            if self.tail:  # the last frames are computed when no input comes any more
                self.keep_view(view, self.put_fresh(np.zeros(view.shape, np.float32), name))
        return Port(name, Use(view), self.port_sizes(name), self.timed(name) or not self.streams, 0)

    @property
    def tail(self) -> int:
        """Steps behind the last frame until all values have all frames, and what has no time axis is as it ends."""
        if not self.streams:
            return 0
        found = [flow.ahead + frames_more(self.graph, name) for name, flow in self.graph.timing.flows.items()]
        outputs = [self.timed(name) for name in self.graph.outputs]
        found += [self.graph.delay + self.more_of(name) for name in self.graph.outputs if self.timed(name)]
        return max(0, int(not all(outputs)), *found)

    def more_of(self, name: str) -> int:
        """How many frames more than there are steps a value has."""
        return frames_more(self.graph, name) if self.timed(name) else 0

    def port_sizes(self, name: str) -> tuple[int, ...]:
        """The sizes of a frame's axes, without those of time and of rows."""
        time, batch = self.axes(name)
        sizes = tuple(size for axis, size in enumerate(self.shape(name)) if axis not in (time, batch))
        if len(sizes) > _program.AXES:
            raise FormatError(
                f"{name!r}: expected at most {_program.AXES} axes beside time and batch, got {len(sizes)}"
            )
        return sizes

    def axes(self, name: str) -> tuple[int | None, int | None]:
        """The axes of an input or output that are time and rows."""
        shape = self.graph.shapes[name]
        found = []
        for wanted in (self.graph.steps if self.streams else None, self.graph.batch if self.rows else None):
            axes = [axis for axis, size in enumerate(shape) if isinstance(size, Size) and wanted in size.names]
            found.append(axes[0] if axes else None)
        return found[0], found[1]

    @property
    def rows(self) -> bool:
        """Whether the batch axis is rows."""
        return self.graph.batch is not None and self.sizes[self.graph.batch] == 1 and not self.options.get("batch")

    def state(self, name: str) -> None:
        """A state that goes in and comes out."""
        shape = self.shape(name)
        buffer = self.put_fresh(np.zeros(shape, np.float32), name)
        self.views[name] = View(buffer, 0, shape, row_major(shape))
        self.ahead[name] = 0

    def output(self, name: str) -> Port:
        """A value where it is copied from."""
        self.check_dtype(name)
        view = self.view(name)
        timed = self.timed(name)
        delay = self.graph.delay if self.streams else 0
        late = delay - self.ahead[name] if timed else 0
        if late:
            view = self.delayed(self.own(view), late)
        more = frames_more(self.graph, name) if timed else 0
        if not view.contiguous or view.buffer.space in ("state", "constant"):
            view = self.copied(view)
            self.steps[-1].ahead, self.steps[-1].more = delay, more
        if timed and delay:
            self.make_ring(view, view.delay)  # what is none of its frames becomes zero
        return Port(name, Use(view), self.port_sizes(name), timed or not self.streams, more)

    def own(self, view: View) -> View:
        """A view whose frames can be kept: of a buffer that is computed."""
        return view if view.buffer.space in ("arena", "ring") else self.copied(view)

    def keep(self, name: str, result: str) -> None:
        """What a state becomes."""
        buffer = self.views[name].buffer
        view = self.view(result)
        if not view.contiguous or view.buffer.space != "arena" or view.delay:
            view = self.copied(view)
        self.kept.append(Kept(Use(view), buffer.inside, buffer.size))

    def keep_view(self, view: View, buffer: Buffer) -> None:
        """What a part of a row's state becomes."""
        self.kept.append(Kept(Use(view), buffer.inside, buffer.size))

    def finished(self, inputs: list[Port], outputs: list[Port]) -> Program:
        """Everything in its place."""
        for number, buffer in enumerate(self.rings):
            buffer.inside = number
        lasting = [port.at.view.buffer for port in outputs] + [kept.source.view.buffer for kept in self.kept]
        arena = lay_out(self.steps, [port.at.view.buffer for port in inputs], lasting)
        delay = self.graph.delay if self.streams else 0
        early = -min(0, *self.ahead.values(), 0)
        for step in self.steps:
            if step.written.view.buffer.space == "ring":
                step.clears = bool(step.ahead or step.more or self.tail or early)
            step.flat = step.flat and all(use.view.buffer.space == "arena" for use in step.uses)
            step.out = operand(step.written)
            step.operands = [operand(use) for use in step.read] + [None] * (4 - len(step.read))
        ports = [[port._replace(at=operand(port.at)) for port in ports] for ports in (inputs, outputs)]
        constants = np.zeros(self.constant_size, np.float32)
        at = 0
        for numbers in self.constants:
            constants[at : at + numbers.size] = numbers
            at += -(-numbers.size // 16) * 16
        return Program(
            self.steps,
            [kept._replace(source=operand(kept.source)) for kept in self.kept],
            [Ring(buffer.size, buffer.history, buffer.empty) for buffer in self.rings],
            ports[0],
            ports[1],
            constants,
            np.concatenate(self.fresh) if self.fresh else np.zeros(0, np.float32),
            arena,
            delay,
            early,
            self.tail,
            sum(step.work for step in self.steps) + 100.0 * len(self.steps),
            self.states(),
            len(self.named),
            self.limits,
            self.fails,
        )


def frames_more(graph: Graph, name: str) -> int:
    """How many frames more than there are steps a value has."""
    axis = graph.time[name]
    size = graph.shapes[name][axis] if axis is not None else 0
    if not isinstance(size, Size) or graph.steps is None:
        return 0
    others = dict.fromkeys(size.names, 1)
    return size.at({**others, graph.steps: 1}) - 1
