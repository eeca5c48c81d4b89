"""The first checks of a network's nodes: operators that exist, values that something gives, an order to run them in."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from cgru import checks
from cgru.errors import FormatError
from cgru.model.nodes import OPERATORS, REFUSED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cgru.model.graph import Node
    from cgru.model.nodes.table import Sizes
    from cgru.types import Array


def refuse_unknown(nodes: Iterable[Node], source: str) -> None:
    """One error for all operators that are not in the table."""
    unknown: dict[str, list[str]] = {}
    for node in nodes:
        if node.operator not in OPERATORS:
            unknown.setdefault(node.operator, []).append(repr(node.name))
    if unknown:
        listed = "; ".join(f"{operator} ({checks.listed(names, 8)})" for operator, names in unknown.items())
        told = "".join(f". {operator}: {REFUSED[operator]}" for operator in unknown if operator in REFUSED)
        raise FormatError(f"{source}: expected operators that networks have here, got {listed}{told}")


def ordered(nodes: Sequence[Node], given: set[str], source: str) -> list[Node]:
    """The nodes in an order in which each finds what it reads: the given one, as far as it is such."""
    writers: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in filter(None, node.outputs):
            if name in writers or name in given:
                other = nodes[writers[name]].title if name in writers else "an input or a constant"
                raise FormatError(
                    f"{source}: {node.title}: expected outputs of new names, got {name!r}, as {other} has"
                )
            writers[name] = i
    readers: dict[int, list[int]] = {}
    waiting = []
    for i, node in enumerate(nodes):
        needed = {writers[name] for name in node.inputs if name in writers}
        waiting.append(len(needed))
        for writer in needed:
            readers.setdefault(writer, []).append(i)
    ready, order = [i for i, count in enumerate(waiting) if not count], []  # sorted, so a heap
    while ready:
        i = heapq.heappop(ready)
        order.append(nodes[i])
        for reader in readers.get(i, ()):
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = [node.title for i, node in enumerate(nodes) if waiting[i]]
        raise FormatError(f"{source}: expected no cycle, got one among {checks.listed(stuck)}")
    return order


def refuse_missing(
    nodes: Sequence[Node],
    constants: Mapping[str, Array],
    inputs: Mapping[str, Sizes],
    outputs: Sequence[str],
    source: str,
) -> None:
    """Refuse names that nothing gives, and outputs and inputs that have others' names."""
    both = constants.keys() & inputs.keys()
    if both:
        raise FormatError(
            f"{source}: expected inputs and constants of different names, got {checks.listed(sorted(both))}"
        )
    made = {name for node in nodes for name in node.outputs} | constants.keys() | inputs.keys()
    missing = [f"{name!r} of {node.title}" for node in nodes for name in node.inputs if name and name not in made]
    missing += [f"{name!r} of the outputs" for name in outputs if name not in made]
    if missing:
        raise FormatError(
            f"{source}: expected values that a node, a constant or an input gives, got {checks.listed(missing)}"
        )
    if not outputs or len(set(outputs)) < len(outputs):
        raise FormatError(f"{source}: expected outputs of different names, got {checks.listed(outputs) or 'none'}")
