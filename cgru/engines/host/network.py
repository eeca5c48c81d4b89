"""Networks on the processor: which program runs a call, and programs kept for the next one."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgru import _program
from cgru.engines.host.program import Compiled, NotSoError, compiled, obstacles, rows_apart
from cgru.model.nodes.sizes import Size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cgru.model.graph import Graph

KEPT = 8
"""Programs for sequences of one length, or batches of one size, that are kept."""


class Axes(NamedTuple):
    """The axes of an input or output that are time and rows for a program; -1: none is."""

    time: int
    rows: int


class Ready(NamedTuple):
    """A program to be called."""

    compiled: Compiled
    door: _program.Program
    axes: Mapping[str, Axes]
    """Of inputs and outputs."""


class Runner:
    """What runs a network: made once, used by calls, streams and pools from any thread."""

    def __init__(self, graph: Graph, options: Mapping[str, Any]) -> None:
        self.graph, self.options = graph, dict(options)
        self.mixed = rows_apart(graph)
        """Why rows do not run apart."""
        self._obstacles = obstacles(graph)
        self._programs: OrderedDict[tuple[tuple[str, int], ...], Ready] = OrderedDict()
        if not self._obstacles:  # so that what no program can have is refused when the network is made
            try:
                self._ready({})
            except NotSoError as error:
                self._obstacles = [str(error)]

    def check(self) -> None:
        """Refuse what no program can have as soon as the network is made, where no size has to be known for that."""
        if self.graph.steps is None or not self._obstacles:
            self._ready({})

    @property
    def obstacles(self) -> list[str]:
        """Why the network cannot run while time passes."""
        return self._obstacles

    def whole(self, steps: int, batch: int) -> Ready:
        """The program for whole sequences of so many steps and rows."""
        sizes: dict[str, int] = {}
        if self.graph.steps is not None and (self._obstacles or self.graph.states):
            sizes[self.graph.steps] = steps
        return self._ready(sizes, batch)

    def streaming(self, batch: int) -> Ready:
        """The program for frames that come one by one; ValueError, naming the nodes, where there is none."""
        if self._obstacles:
            raise ValueError(
                f"expected a network that can run while time passes, got {'; '.join(self._obstacles[:4])}; call it on "
                "whole sequences"
            )
        return self._ready({}, batch)

    def _ready(self, sizes: dict[str, int], batch: int = 1) -> Ready:
        graph = self.graph
        if graph.batch is not None and self.mixed:
            sizes[graph.batch] = batch
        key = tuple(sorted(sizes.items()))
        found = self._programs.get(key)
        if found is None:
            made = compiled(graph, sizes, **self.options)
            names = [graph.steps if made.streams else None, None if graph.batch in sizes else graph.batch]
            axes = {
                name: Axes(*(axis_named(graph, name, one) for one in names)) for name in (*graph.inputs, *graph.outputs)
            }
            found = Ready(made, _program.Program(made.program), axes)
            self._programs[key] = found
            kept = [old for old in list(self._programs) if old]  # a copy, as other threads add to it
            for oldest in kept[: max(0, len(kept) - KEPT)]:
                self._programs.pop(oldest, None)
        return found


def axis_named(graph: Graph, name: str, wanted: str | None) -> int:
    """The axis of a value whose size a dynamic axis decides; -1: none."""
    shape = graph.shapes[name]
    return next((i for i, size in enumerate(shape) if isinstance(size, Size) and wanted in size.names), -1)


def dtype_of(graph: Graph, name: str) -> np.dtype[Any]:
    """What an input or output is for callers: float32 for every floating point one."""
    found = graph.types[name]
    return np.dtype(np.float32) if found.kind == "f" else found
