"""Networks lowered to steps: the values' views, and the steps that every family of operators is made of.

The graph is bound first: its batch axis is 1, as rows are a program's own matter, and so is its time axis where frames
come one by one (`Compiler.streams`). Then each node becomes steps, or a view of what is there, by its operator's
function of `LOWER`.
"""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from cgru import _program
from cgru.engines.host.program import assembling, fusing, margins, side_by_side
from cgru.engines.host.program.plan import (
    Buffer,
    Kept,
    NotSoError,
    Port,
    Program,
    Ring,
    State,
    Use,
    View,
    lay_out,
    operand,
    row_major,
)
from cgru.engines.host.program.tracing import Trace
from cgru.engines.host.program.values import Values, frames_more
from cgru.errors import FormatError
from cgru.model.nodes.sizes import Size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cgru.model.graph import Node
    from cgru.types import Array

    Lower = Callable[["Compiler", Node], None]


MOST_STRETCHES = 24
"""In so many a state is kept from where its parts are; with more they are brought together first."""


class Compiler(Values):
    """A graph while it becomes a program."""

    def states(self) -> list[State]:
        """The parts of a row's state, each with a name of its own."""
        rings = [
            State(buffer.name or f"window {i}", i, (buffer.history, buffer.size))
            for i, buffer in enumerate(self.rings)
            if buffer.history and self.streams
        ]
        rings += [State(name, -1, places.shape, self.in_rings(places)) for name, places in self.trace.states.items()]
        taken = set() if self.graph.states else {"frames"}  # which streams have themselves
        found = []
        for part in self.named + rings:
            name, number = part.name, 2
            while name in taken:
                name, number = f"{part.name} ({number})", number + 1
            taken.add(name)
            found.append(part._replace(name=name))
        return found

    def in_rings(self, places: Array) -> tuple[Array, Array]:
        """Where the elements of a state are that are frames of values."""
        wanted = assembling.resolved(self, places, None).ravel()
        buffers = [self.buffers[number] for number in (wanted // assembling.SPACE).tolist()]
        inside = wanted % assembling.SPACE - assembling.MIDDLE
        rings = np.array([buffer.inside for buffer in buffers])
        return rings, inside + np.array([buffer.history * buffer.size for buffer in buffers])

    # --- The whole ----------------------------------------------------------------------------------------------------

    def program(self) -> Program:
        """Lower all nodes."""
        from cgru.engines.host.program.families import LOWER

        graph = self.graph
        for name in graph.constants:
            self.ahead[name] = 0
        for title, names in (("inputs", graph.inputs), ("outputs", graph.outputs)):
            if len(names) > _program.PORTS:
                raise FormatError(f"expected at most {_program.PORTS} {title} beside states, got {len(names)}")
        missing: dict[str, list[str]] = {}
        for node in graph.nodes:
            if node.operator not in LOWER:
                missing.setdefault(node.operator, []).append(repr(node.name))
        if missing:
            listed = "; ".join(f"{operator} ({', '.join(names[:8])})" for operator, names in missing.items())
            raise FormatError(f"expected operators that are compiled here, got {listed}")
        self.fused, gone, given = fusing.find(self)
        self.trace = Trace(self, gone, given)
        self.margins, self.in_windows = margins.wanted(self)
        inputs = [self.input(name) for name in graph.inputs]
        for name in graph.states:
            self.state(name)
        # products by the node in whose place they come, as another value is there only then
        waiting = {fused.comes_at: name for name, fused in self.fused.items() if fused.comes_at}
        products = {node.name: node for node in graph.nodes if node.name in waiting.values()}
        for node in graph.nodes:
            self.node = node
            self.check_frames(node)
            ahead = self.node_ahead(node)
            for name in node.outputs:
                self.ahead[name] = ahead
            if node.name in waiting:
                self.node = products[waiting[node.name]]
                LOWER[self.node.operator](self, self.node)
            elif node.name not in gone | self.trace.nodes | products.keys():
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
        shape = self.shape(name)
        lasts = self.timed(name) or not self.streams
        view = self.new(shape, name, margins.channels_last(shape) if name in self.in_windows and lasts else None)
        self.views[name] = view
        self.ahead[name] = 0
        if self.graph.types[name].kind in "iu" and self.graph.types[name].itemsize > 2:
            self.limits[name] = 2**24
        if self.streams and not self.timed(name):
            if any(flow.ahead < 0 for flow in self.graph.timing.flows.values()):
                raise NotSoError(f"the input {name!r} has no time axis, and there are frames before the first one")
            if self.tail:  # the last frames are computed when no input comes any more
                self.keep_view(view, self.put_fresh(np.zeros(view.shape, np.float32), name))
        return self.port(name, view, self.timed(name) or not self.streams, 0)

    @property
    def tail(self) -> int:
        """Steps behind the last frame until all values have all frames, and what has no time axis is as it ends."""
        if not self.streams:
            return 0
        found = [flow.ahead + frames_more(self.graph, name) for name, flow in self.graph.timing.flows.items()]
        outputs = [self.timed(name) for name in self.graph.outputs]
        found += [self.graph.delay + self.more_of(name) for name in self.graph.outputs if self.timed(name)]
        return max(0, int(not all(outputs)), *found)

    def port(self, name: str, view: View, over_time: bool, more: int) -> Port:
        """Where a value's frames go in or come out, without the axes of time and of rows."""
        kept = [axis for axis in range(len(view.shape)) if axis not in self.axes(name)]
        if len(kept) > _program.AXES:
            raise FormatError(f"{name!r}: expected at most {_program.AXES} axes beside time and batch, got {len(kept)}")
        strides = [view.strides[axis] for axis in kept]
        return Port(name, Use(view, strides), tuple(view.shape[axis] for axis in kept), over_time, more)

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
        self.ahead[name] = 0
        if name not in self.trace.states:
            shape = self.shape(name)
            buffer = self.put_fresh(np.zeros(shape, np.float32), name)
            self.views[name] = View(buffer, 0, shape, row_major(shape))

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
        if view.buffer.space in ("state", "constant"):
            view = self.copied(view)
            self.steps[-1].ahead, self.steps[-1].more = delay, more
        if timed and delay:
            self.make_ring(view, view.delay)  # what is none of its frames becomes zero
        return self.port(name, view, timed or not self.streams, more)

    def keep(self, name: str, result: str) -> None:
        """What a state becomes, stretch by stretch; what stands still is left alone."""
        if name in self.trace.states:
            return
        buffer = self.views[name].buffer
        wanted = assembling.resolved(self, self.trace.places(result), None)
        own = assembling.addresses(self, self.views[name])
        numbers = np.unique(wanted[wanted != own] // assembling.SPACE)
        lasting = any(self.buffers[int(number)].space != "arena" for number in numbers)
        if lasting or len(assembling.runs(wanted)) > MOST_STRETCHES:
            wanted = assembling.addresses(self, assembling.copied(self, wanted))
        for first, last in assembling.runs(wanted):
            stretch = wanted.ravel()[first:last]
            if not np.array_equal(stretch, own.ravel()[first:last]):
                view = assembling.as_view(self, stretch)
                assert view is not None
                self.kept.append(Kept(Use(view), buffer.inside + first, last - first))

    def keep_view(self, view: View, buffer: Buffer) -> None:
        """What a part of a row's state becomes."""
        self.kept.append(Kept(Use(view), buffer.inside, buffer.size))

    def leave_out(self, ports: Iterable[Port]) -> None:
        """Drop rows that are looked up and that nobody reads, as others took their place."""
        read = {use.view.buffer for step in self.steps for use in step.read if use}
        read |= {port.at.view.buffer for port in ports} | {kept.source.view.buffer for kept in self.kept}
        read |= set(self.rings)
        self.steps = [step for step in self.steps if step.kind != "lookup" or step.written.view.buffer in read]

    def finished(self, inputs: list[Port], outputs: list[Port]) -> Program:
        """Everything in its place."""
        for places in self.trace.states.values():
            wanted = assembling.resolved(self, places, None)
            for number in np.unique(wanted // assembling.SPACE):
                buffer = self.buffers[int(number)]
                oldest = wanted[wanted // assembling.SPACE == number].min() % assembling.SPACE - assembling.MIDDLE
                self.make_ring(View(buffer, 0, (), ()), -int(oldest // buffer.size))
        self.steps = [step for step in self.steps if not step.margin or step.written.view.buffer.space == "arena"]
        self.leave_out(ports=(*inputs, *outputs))
        self.steps = side_by_side.merged(self.steps)
        for number, buffer in enumerate(self.rings):
            buffer.inside = number
        lasting = [port.at.view.buffer for port in outputs] + [kept.source.view.buffer for kept in self.kept]
        arena = lay_out(self.steps, [port.at.view.buffer for port in inputs], lasting)
        delay = self.graph.delay if self.streams else 0
        early = -min(0, *self.ahead.values(), 0)
        for step in itertools.chain(self.steps, *(step.members for step in self.steps)):
            if step.written.view.buffer.space == "ring" and not step.members:
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
