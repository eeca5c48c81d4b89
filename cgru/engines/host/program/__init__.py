"""Networks compiled: a graph becomes a flat program, src/program/program.h, in one of three ways.

Frames come one by one where the network can run while time passes, rows (the batch) being the program's own matter.
Where it cannot, as with a GRU that reads backwards, a program is for sequences of one length, whole; and where rows
mix, as in a mean over the batch, for one batch size, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from cgru.engines.host.program import patterns
from cgru.engines.host.program.lowering import Compiler
from cgru.engines.host.program.plan import NotSoError
from cgru.model import timing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cgru.engines.host.program.plan import Program
    from cgru.model.graph import Graph

__all__ = ["Compiled", "NotSoError", "compiled", "obstacles", "rows_apart"]


class Compiled(NamedTuple):
    """A program, and what it is for."""

    program: Program
    streams: bool
    """Whether it computes a frame at a time, of sequences of any length."""
    sizes: Mapping[str, int]
    """Dynamic axes that are part of a frame."""


def obstacles(graph: Graph) -> list[str]:
    """Why a sequence graph cannot run while time passes; none of a frame graph."""
    if graph.steps is None:
        return []
    return [f"{node} {reason}" for node, reason in graph.timing.obstacles.items()]


def rows_apart(graph: Graph) -> list[str]:
    """Why the rows of a batch do not run apart from each other; empty where they do."""
    if graph.batch is None:
        return []
    found = timing.analyse(replace(graph, steps=graph.batch, batch=graph.steps))
    return [f"{node} {reason}" for node, reason in found.obstacles.items()] + list(found.roles)


def compiled(graph: Graph, sizes: Mapping[str, int] | None = None, **options: Any) -> Compiled:
    """The program of a network; sizes are those of dynamic axes that become part of a frame."""
    sizes = dict(sizes or {})
    streams = graph.steps is not None and graph.steps not in sizes
    bound = {**dict.fromkeys(filter(None, (graph.steps, graph.batch)), 1), **sizes}
    options["batch"] = graph.batch in sizes
    compiler = Compiler(patterns.recognised(graph), bound, streams, options)
    return Compiled(compiler.program(), streams, sizes)
