"""Programs as text: a line a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cgru import checks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cgru.engines.host.program.plan import Program
    from cgru.network import Network

FLOPS = 40e9
"""Operations a second of one core, about: what estimated times are reckoned by."""

STEP = 0.02
"""Microseconds of a step beside its arithmetic, about."""


def lines(program: Program) -> Iterator[tuple[str, str, str, int, float]]:
    """Of each step: what it comes from, what it does, the shape that it writes, bytes of weights, microseconds."""
    for step in program.steps:
        what = ", ".join([step.code if step.kind == "elementwise" else step.kind, *(code for code, *_ in step.after)])
        if step.members:
            what = f"recurrent, {len(step.members)} side by side" if len(step.members) > 1 else "recurrent"
        shape = "x".join(str(size) for size in step.written.view.shape if size != 1) or "1"
        yield step.title, what, shape, step.weight_bytes, step.work / FLOPS * 1e6 + STEP


def described(net: Network) -> str:
    """A network and its program; one for whole sequences alone is not made for that."""
    graph = net.graph
    ends = [
        ", ".join(f"{name} {checks.describe(shape)}" for name, shape in of.items())
        for of in (graph.inputs, graph.outputs)
    ]
    head = f"Network({ends[0]} -> {ends[1]}, {graph.weights:,} weights)"
    if net.runner.obstacles:
        return f"{head}\n  whole sequences alone: {net.runner.obstacles[0]}"
    program = net.runner.streaming(1).compiled.program
    found = list(lines(program))
    widths = [max((len(str(line[i])) for line in found), default=0) for i in range(3)]
    rows = [
        f"  {title:<{widths[0]}}  {what:<{widths[1]}}  {shape:>{widths[2]}}  {size:>11,} B  {time:7.2f} us"
        for title, what, shape, size, time in found
    ]
    moves = sum(step.moves for step in program.steps)
    return "\n".join([head, *rows, f"  steps: {len(rows)}, of which {moves} only move numbers"])
