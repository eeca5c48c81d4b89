"""In which order a GRU reads its steps, where a graph turns its input round and its output back.

A GRU that reads sequences turned round, and whose outputs are turned back or not read, reads them from the last step to
the first: that is `reverse`. What turns the steps is ReverseSequence, or Slice with a step of -1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from cgru.formats.onnx.axes import MOVERS, turned
from cgru.formats.onnx.graph import DEPTH, KINDS

if TYPE_CHECKING:
    from cgru.formats.onnx.axes import Axes, Sizes
    from cgru.formats.onnx.graph import Graph


class Way(NamedTuple):
    """How a GRU's X comes from another value by nodes that exchange or turn its axes."""

    source: str
    axes: tuple[int, int]  # of the source: which counts steps, and which sequences
    turns: list[Any]  # nodes that turn the steps


def way(graph: Graph, node: Any) -> Way:
    """The way to a GRU's X, from as far as only Transpose and nodes that turn its steps lead."""
    layout = graph.attribute(node, "layout", KINDS.INT, 0)
    name, steps, batch, turns = node.input[0], layout, 1 - layout, []
    for _ in range(DEPTH):
        before = graph.producer(name)
        if before is None or not before.input:
            break
        turn = graph.turn(before)
        if before.op_type == "Transpose":
            perm = graph.operand(before) or [2, 1, 0]
            if len(perm) != 3 or sorted(perm) != [0, 1, 2]:
                break
            steps, batch = perm[steps], perm[batch]
        elif turn is not None and turn.axis % 3 == steps and (turn.batch is None or turn.batch % 3 == batch):
            turns.append(before)
        else:
            break
        name = before.input[0]
    return Way(graph.root(name), (steps, batch), turns)


def reads_backwards(graph: Graph, node: Any) -> bool | None:
    """Whether a GRU reads the steps of the graph's input from the last to the first; None where that cannot be told."""
    known, chain = graph.backwards, []
    last: bool | None = None  # where a damaged graph comes back to where it was
    while id(node) not in known:
        found = way(graph, node)
        known[id(node)] = None
        chain.append((id(node), len(found.turns) % 2 == 1))
        below = graph.moves_from_gru(found.source)
        if below is None:
            last = None if graph.turned(found.source) else False
            break
        if any(graph.turn(move) is not None for move in below[1]):
            break
        node = graph.producers[below[0]]
    else:
        last = known[id(node)]
    for key, turns in chain[::-1]:
        last = known[key] = None if last is None else last ^ turns
    return last


def lengths_turned(graph: Graph, node: Any) -> str:
    """The value that says how many steps of each sequence a node turns, "" where it turns all."""
    turn, dims = graph.turn(node), graph.shapes.dims(node.input[0])
    if turn is None or not turn.lengths or (dims is not None and graph.shapes.all_are(turn.lengths, dims[turn.axis])):
        return ""
    return graph.counts(turn.lengths)


def is_turned_back(graph: Graph, name: str, axes: Axes, sizes: Sizes, lengths: str) -> bool:
    """Whether everything that reads a value of these axes reads its steps in the other order, or only its shape."""
    todo, seen = [(name, axes)], set()
    while todo:
        name, axes = todo.pop()
        if name in graph.outputs or name in seen:
            return False
        seen.add(name)
        for node in graph.readers.get(name, ()):
            turn = graph.turn(node)
            if node.op_type in ("Shape", "Size"):
                continue
            if turn is not None and name == node.input[0]:
                whole = turned(axes, turn.axis)
                beside = turn.batch is None or (0 <= turn.batch < len(axes) and axes[turn.batch] == ("B",))
                if whole is None or ("T",) not in whole or not beside or lengths_turned(graph, node) != lengths:
                    return False
                continue
            moves = [] if node.op_type == "Identity" else [node]
            if (moves and node.op_type not in MOVERS) or name != node.input[0]:
                return False
            after = graph.moved(axes, sizes, moves)
            if after is None:
                return False
            todo.append((node.output[0], after))
    return True


def turning(graph: Graph, node: Any, lengths: str) -> bool | None:
    """Whether X has its steps turned round, of each sequence those that the GRU reads; None where none can tell."""
    same = all(lengths_turned(graph, turn) == lengths for turn in way(graph, node).turns)
    return reads_backwards(graph, node) if same else None
