"""What a compiled program is made of: buffers, views of them, and steps; and where each buffer lies.

A program computes one frame of one row. A buffer holds a frame's numbers, a view is an array of some of them. Where a
buffer lies is settled last: a window that looks back turns a buffer into a ring, whoever writes to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cgru.model.layer import Layer
    from cgru.types import Array

LINE = 16
"""Numbers from which on buffers begin: a cache line's."""


class NotSoError(ValueError):
    """A network cannot be compiled in this way; why."""


@dataclass(eq=False)
class Buffer:
    """Numbers of a frame that lie beside each other."""

    size: int
    space: str = "arena"
    """arena, constant, state or ring."""
    name: str = ""
    """Of the value that it was made for."""
    history: int = 0
    """Of a ring: how many frames before the latest are looked at."""
    empty: float = 0.0
    """Of a ring: what frames hold that are none of the sequence's."""
    front: int = 0
    """How many numbers before the value's own, and how many behind them, are zeros: a window's padding."""
    behind: int = 0
    number: int = 0
    """By which addresses call it."""
    inside: int = 0
    """Where it begins: among the constants, in a row's state, or in the arena; of a ring its number."""
    first: int = 2**31
    """The first step that uses it, and the last."""
    last: int = -1


class View(NamedTuple):
    """An array in a buffer, of an earlier frame where it is delayed."""

    buffer: Buffer
    inside: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    delay: int = 0

    @property
    def size(self) -> int:
        """How many elements."""
        return math.prod(self.shape)

    @property
    def contiguous(self) -> bool:
        """Whether its elements lie side by side in their order."""
        return contiguous(self.shape, self.strides)

    def offsets(self) -> Array:
        """Where each element is in the buffer."""
        found = np.full((), self.inside, np.int64)
        for size, stride in zip(self.shape, self.strides, strict=True):
            found = found[..., None] + np.arange(size) * stride
        return found

    def with_offsets(self, offsets: Array) -> View | None:
        """The view whose elements are at these places; None where they follow no strides."""
        shape = offsets.shape
        if not offsets.size:
            return None
        corner = (0,) * offsets.ndim
        start = int(offsets[corner])
        strides = []
        for axis, size in enumerate(shape):
            following = (*corner[:axis], 1, *corner[axis + 1 :])
            strides.append(int(offsets[following]) - start if size > 1 else 0)
        found = View(self.buffer, start, shape, tuple(strides), self.delay)
        return found if np.array_equal(found.offsets(), offsets) else None

    def reshaped(self, *shape: int) -> View | None:
        """The same elements in another shape; None where strides cannot say so."""
        return self.with_offsets(self.offsets().reshape(shape))

    def transposed(self, order: Sequence[int]) -> View:
        """With axes in another order."""
        return self._replace(shape=tuple(self.shape[i] for i in order), strides=tuple(self.strides[i] for i in order))

    def broadcast(self, shape: Sequence[int]) -> View:
        """Repeated along axes that it has not, or of which it has one element."""
        missing = len(shape) - len(self.shape)
        own = ((1,) * missing + self.shape, (0,) * missing + self.strides)
        strides = [0 if size == 1 else stride for size, stride in zip(*own, strict=True)]
        return self._replace(shape=tuple(shape), strides=tuple(strides))

    def part(self, axis: int, start: int, size: int, step: int = 1) -> View:
        """Some of the elements along an axis."""
        shape = (*self.shape[:axis], size, *self.shape[axis + 1 :])
        strides = (*self.strides[:axis], self.strides[axis] * step, *self.strides[axis + 1 :])
        return self._replace(inside=self.inside + start * self.strides[axis], shape=shape, strides=strides)

    def parts(self, slices: Sequence[slice]) -> View:
        """Some of the elements along every axis; slices that say where they end."""
        found = self
        for axis, piece in enumerate(slices):
            places = range(piece.start, piece.stop, piece.step)
            found = found.part(axis, piece.start, len(places), piece.step)
        return found


def contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether elements lie side by side in their order."""
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of elements that lie side by side in their order."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def collapsed(shape: Sequence[int], *strides: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """The same elements with as few axes as all strides allow; at least one."""
    sizes: list[int] = []
    found: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        if sizes and all(own[-1] == stride[axis] * size for own, stride in zip(found, strides, strict=True)):
            sizes[-1] *= size
            for own, stride in zip(found, strides, strict=True):
                own[-1] = stride[axis]
        else:
            sizes.append(size)
            for own, stride in zip(found, strides, strict=True):
                own.append(stride[axis])
    return (sizes, found) if sizes else ([1], [[1] for _ in strides])


@dataclass(eq=False)
class Use:
    """How a step reads or writes a view."""

    view: View
    strides: Sequence[int] = ()


class Operand(NamedTuple):
    """A use as src/program/program.h has it, once every buffer has its place."""

    space: str
    offset: int
    row: int
    inside: int
    strides: tuple[int, ...]


class Lanes(NamedTuple):
    """Vectors that small recurrent layers share, as src/packed/lanes.h has them."""

    inputs: int
    hidden: int
    weights: Array
    """(patterns, 4 + 3 I + 3 H, lanes)."""
    first: Array
    """(lanes,): of each lane the first one of its slot."""
    masks: Array
    """(slots, lanes): -1 where a lane is the slot's, else 0."""


class Section(NamedTuple):
    """Some of a product's outputs, and their weights (outputs, inputs), in blocks of `vectors` vectors."""

    vectors: int
    numbers: Array
    bias: Array
    storage: str
    scale: Array | None
    limit: float | None


@dataclass(eq=False)
class Step:
    """One step; what its fields mean is written in src/program/program.h."""

    kind: str
    title: str
    """Of what it comes from."""
    written: Use
    read: list[Use | None]
    code: Any = None
    sizes: Sequence[int] = ()
    strides: Sequence[int] = ()
    p: float = 0.0
    q: float = 0.0
    flat: bool = False
    ahead: int = 0
    more: int = 0
    clears: bool = False
    sections: list[Section] = field(default_factory=list)
    outputs: int = 0
    pieces: tuple[int, int] = (0, 0)
    distances: tuple[int, int] = (0, 0)
    length: int = 0
    groups: tuple[int, int, int] = (0, 0, 0)
    after: list[tuple[str, float, float, int]] = field(default_factory=list)
    """Functions that a product's results go through: code, p, q, and which operand is the other one; 0: none."""
    weights: Any = None
    made: bool = False
    """Whether a recurrent layer reads the products of its inputs, as `Weights.products` makes them."""
    margin: bool = False
    """Whether it makes a buffer's margins zero, as a ring's are from the beginning."""
    layer: Layer | None = None
    """Of a recurrent step that may share vectors with others (side_by_side.py)."""
    members: Sequence[Step] = ()
    """Recurrent steps that run side by side."""
    lanes: Lanes | None = None
    """How they share vectors."""
    over_time: bool = False
    reverse: bool = False
    to: Array | None = None
    source: Array | None = None
    work: float = 0.0
    """Operations a frame, a multiplication and an addition being two."""
    weight_bytes: int = 0
    out: Operand | None = None
    operands: list[Operand | None] = field(default_factory=list)

    @property
    def uses(self) -> Iterator[Use]:
        """What it reads and writes."""
        for step in self.members or (self,):
            yield step.written
            yield from filter(None, step.read)

    @property
    def moves(self) -> bool:
        """Whether it changes no number."""
        return self.kind in ("list", "fill", "latest") or (self.kind == "elementwise" and self.code == "copy")


class Kept(NamedTuple):
    """What goes to a row's state when a frame has been computed."""

    source: Any  # Use, then Operand
    to: int
    size: int


class Ring(NamedTuple):
    """A window over the latest frames of a buffer."""

    frame: int
    history: int
    empty: float


class Port(NamedTuple):
    """A value that goes in or comes out."""

    name: str
    at: Any  # Use, then Operand
    sizes: tuple[int, ...]
    over_time: bool
    more: int


class State(NamedTuple):
    """A part of a row's state that has a name: some of its plain numbers, or the frames of a ring."""

    name: str
    at: int
    """Among the plain numbers; of a ring its number."""
    shape: tuple[int, ...]
    where: tuple[Array, Array] | None = None
    """Of a state whose elements are in rings: the number of each one's ring, and its place there."""


class Program(NamedTuple):
    """A compiled network, as src/network.pyx takes it."""

    steps: list[Step]
    kept: list[Kept]
    rings: list[Ring]
    inputs: list[Port]
    outputs: list[Port]
    constants: Array
    fresh: Array
    arena: int
    delay: int
    early: int
    tail: int
    """Steps behind the last frame until every value has all of its frames."""
    flops: float
    named: list[State]
    """Plain parts, and behind them rings."""
    plain: int
    """How many of them are plain."""
    limits: dict[str, int]
    """Of inputs that are integers: of indices how many rows the smallest table has, else what float32 has exactly."""
    fails: bool
    """Whether a call may meet an index out of range that the inputs do not show."""

    @property
    def counts(self) -> bool:
        """Whether what a row does depends on how many frames it has seen."""
        layers = (one for step in self.steps for one in (step.members or (step,)) if one.kind == "recurrent")
        initial = (step.operands[3] is not None for step in layers)
        return bool(self.tail or self.early or any(initial))


def operand(use: Use | None) -> Operand | None:
    """Where a use is."""
    if use is None:
        return None
    view, buffer = use.view, use.view.buffer
    strides = tuple(use.strides)
    if buffer.space == "ring":
        inside = (buffer.history - view.delay) * buffer.size + view.inside
        return Operand("ring", buffer.inside, buffer.size, inside, strides)
    assert not view.delay
    if buffer.space == "arena":
        return Operand("arena", buffer.inside, buffer.size, view.inside, strides)
    return Operand(buffer.space, 0, 0, buffer.inside + view.inside, strides)


def lay_out(steps: list[Step], inputs: Sequence[Buffer], lasting: Sequence[Buffer]) -> int:
    """Give the buffers of the arena their places, those that are not used at once the same; how large it is."""
    buffers: list[Buffer] = []
    for buffer in inputs:
        buffer.first = -1
        buffers.append(buffer)
    for i, step in enumerate(steps):
        for use in step.uses:
            buffer = use.view.buffer
            if buffer.first == 2**31:
                buffers.append(buffer)
            buffer.first, buffer.last = min(buffer.first, i), max(buffer.last, i)
    for buffer in lasting:
        buffer.last = len(steps)
        if buffer.first == 2**31:
            buffer.first = -1
            buffers.append(buffer)
    placed: list[Buffer] = []
    end = 0
    for buffer in sorted((b for b in dict.fromkeys(buffers) if b.space == "arena"), key=lambda b: (-b.size, b.first)):
        at = 0
        room = -(-buffer.size // LINE) * LINE
        for other in sorted(placed, key=lambda b: b.inside):
            if other.last < buffer.first or other.first > buffer.last:
                continue
            if at + room <= other.inside:
                break
            at = max(at, other.inside + -(-other.size // LINE) * LINE)
        buffer.inside = at
        placed.append(buffer)
        end = max(end, at + room)
    return end
