"""A network as a value: nodes of ONNX's operators over named values, its constants, inputs, outputs and states.

`building.build` makes one of what a file or a program says, with everything known that can be: shapes of all values,
constants folded, nothing left that no output needs. Who compiles a network walks `nodes`, whose order is one in which
they can run, and looks up `shapes`, `types` and `constants`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.model import timing
from cgru.model.nodes import OPERATORS
from cgru.model.nodes.sizes import Size, at_least, resolved

if TYPE_CHECKING:
    from cgru.model.nodes.table import Operator, Sizes
    from cgru.types import Array

MAX_MEMORY = 10**9
"""Bytes that the values of a network may take where nothing else is said, dynamic axes of size 1."""


@dataclass(frozen=True)
class Node:
    """An operator with the values that it reads and writes; "" is an input or output that is absent."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Node, (self.operator, self.name, self.inputs, self.outputs, dict(self.attributes))

    @property
    def row(self) -> Operator:
        """The operator's row of the table."""
        return OPERATORS[self.operator]

    @property
    def title(self) -> str:
        """As messages call it."""
        return f"{self.operator} {self.name!r}"


@dataclass(frozen=True)
class Graph:
    """A network; `building.build` checks and completes what it is made of."""

    nodes: tuple[Node, ...]
    """In an order in which they can run; attributes are complete, with today's names and meaning."""
    constants: Mapping[str, Array]
    inputs: Mapping[str, Sizes]
    """Shapes by name, without states; a dynamic axis is a name."""
    outputs: Mapping[str, Sizes]
    """Shapes by name, without states."""
    states: Mapping[str, str]
    """Inputs that are the states before a step, and the outputs that are those after it."""
    shapes: Mapping[str, Sizes]
    """Of every value: constants, inputs, and what nodes write."""
    types: Mapping[str, np.dtype[Any]]
    """Of every value."""
    steps: str | None
    """The name of the dynamic axis that is time, None where a call is one frame."""
    batch: str | None
    """The name of the dynamic axis that is the batch."""

    @property
    def kind(self) -> str:
        """ "frame", where a call is one frame and states are explicit, or "sequence", where an axis is time."""
        return "frame" if self.steps is None else "sequence"

    @cached_property
    def time(self) -> dict[str, int | None]:
        """Of each value the axis that is time, None where it has none."""
        return {name: timing.axis_of(shape, self.steps) for name, shape in self.shapes.items()}

    @cached_property
    def timing(self) -> timing.Timing:
        """What runs over time: how far nodes look ahead, and which cannot run while time passes."""
        return timing.analyse(self)

    @property
    def delay(self) -> int:
        """Frames that an output comes after the input it belongs to, in a stream."""
        return self.timing.delay

    @property
    def producers(self) -> dict[str, Node]:
        """By value the node that writes it."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    @cached_property
    def shrinking(self) -> tuple[tuple[Node, Sizes, int], ...]:
        """Nodes whose results a step alone leaves nothing of, with their shapes and the least size of an axis."""
        found = []
        for node in self.nodes:
            least = 1 if node.operator in ("Pad", *timing.WINDOWS) else 0
            for name in node.outputs:
                shape = self.shapes[name] if name else ()
                if any(isinstance(size, Size) and at_least(size) < least for size in shape):
                    found.append((node, shape, least))
        return tuple(found)

    def check_length(self, sizes: Mapping[str, int]) -> None:
        """Refuse sequences that are too short for some node, by its name."""
        for node, shape, least in self.shrinking:
            got = resolved(shape, sizes)
            if min(got) < least:
                told = checks.listed(f"{name} = {number}" for name, number in sizes.items())
                raise ValueError(f"{node.title}: expected longer sequences, got {told}, which leaves {got}")

    @property
    def weights(self) -> int:
        """Numbers among the constants that are no indices, which exporters write in many ways."""
        return sum(array.size for array in self.constants.values() if array.dtype.kind == "f")

    @property
    def nbytes(self) -> int:
        """Bytes of the constants."""
        return sum(array.nbytes for array in self.constants.values())
