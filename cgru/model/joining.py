"""Several networks that are one: an output of one is the input of the same name of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cgru import checks
from cgru.errors import FormatError
from cgru.model.building import build
from cgru.model.graph import MAX_MEMORY, Graph, Node

if TYPE_CHECKING:
    import numpy as np

    from cgru.model.nodes.table import Sizes
    from cgru.types import Array


def join(graphs: Sequence[Graph] | Mapping[str, Graph], max_memory: int = MAX_MEMORY) -> Graph:
    """The network that several make together, in any order.

    An output that another graph takes as its input becomes an inner value; all others remain outputs. Inputs of one
    name are one input. States remain. Nodes, constants and inner values are called as before, behind the name of their
    graph, or its position in the sequence: "enc.conv.weight", "0.conv.weight".

    Parameters
    ----------
    graphs : sequence or mapping
        Two or more, by name where it is a mapping.
    max_memory : int
        As `cgru.model.building.build` has it.

    Raises
    ------
    cgru.FormatError
        Two graphs give the same output or have the same state; inputs and outputs of one name differ in shape or type;
        graphs have different names for time or for the batch; graphs need each other's outputs.
    """
    named = dict(graphs) if isinstance(graphs, Mapping) else {str(i): graph for i, graph in enumerate(graphs)}
    if not named or not all(isinstance(graph, Graph) for graph in named.values()):
        raise TypeError(f"graphs: expected graphs, got {checks.listed(type(one).__name__ for one in named.values())}")
    _refuse_axes(named)
    givers = _givers(named)
    takers = _takers(named, givers)
    _refuse_circles(named, givers)
    inputs: dict[str, Sizes] = {}
    types: dict[str, np.dtype[Any]] = {}
    for graph in named.values():
        for name in (*graph.inputs, *graph.states):
            if name not in givers:
                inputs[name], types[name] = graph.shapes[name], graph.types[name]
    ends = {*inputs, *givers}
    nodes: list[Node] = []
    constants: dict[str, Array] = {}
    for title, graph in named.items():
        own = {*graph.inputs, *graph.states, *graph.outputs, *graph.states.values()}
        new = {"": ""} | {name: name if name in own else _new(f"{title}.{name}", ends) for name in graph.shapes}
        constants |= {new[name]: array for name, array in graph.constants.items()}
        nodes += [
            Node(
                node.operator,
                f"{title}.{node.name}",
                tuple(new[name] for name in node.inputs),
                tuple(new[name] for name in node.outputs),
                node.attributes,
            )
            for node in graph.nodes
        ]
    states = {name: result for graph in named.values() for name, result in graph.states.items()}
    outputs = [name for name in givers if name not in takers or name in states.values()]
    return build(
        nodes, constants, inputs, outputs, types=types, states=states, max_memory=max_memory, source="joined network"
    )


def _new(name: str, taken: set[str]) -> str:
    """The name, or one like it that no input or output has; inner names of different graphs begin differently."""
    while name in taken:
        name += "'"
    return name


def _refused(message: str) -> FormatError:
    return FormatError(f"graphs: expected {message}")


def _refuse_axes(named: Mapping[str, Graph]) -> None:
    """Refuse axes of different names, and names that mean time in one graph and the batch in another."""
    found: list[dict[str, str]] = []
    for attribute, meaning in (("steps", "time"), ("batch", "the batch")):
        names = {getattr(graph, attribute): title for title, graph in reversed([*named.items()])}
        names.pop(None, None)
        if len(names) > 1:
            told = checks.listed(
                f"{name} of {title!r}" for name, title in sorted(names.items(), key=lambda one: one[1])
            )
            raise _refused(f"one name of the axis that is {meaning}, got {told}; make the models with the same names")
        found.append(names)
    steps, batch = found
    for name in steps.keys() & batch.keys():
        raise _refused(f"one meaning of the axis {name}, got time in {steps[name]!r} and the batch in {batch[name]!r}")


def _givers(named: Mapping[str, Graph]) -> dict[str, str]:
    """By output the graph that gives it."""
    found: dict[str, str] = {}
    states: dict[str, str] = {}
    for title, graph in named.items():
        for name in (*graph.outputs, *graph.states.values()):
            if found.setdefault(name, title) != title:
                raise _refused(f"outputs of different names, got {name!r} of {found[name]!r} and of {title!r}")
        for name in graph.states:
            if states.setdefault(name, title) != title:
                raise _refused(f"states of different names, got {name!r} of {states[name]!r} and of {title!r}")
    for title, graph in named.items():
        for name in graph.states.keys() & found.keys():
            raise _refused(f"states and outputs of different names, got {name!r} of {title!r} and of {found[name]!r}")
        for name in graph.inputs.keys() & states.keys():
            raise _refused(f"states and inputs of different names, got {name!r} of {states[name]!r} and of {title!r}")
    return found


def _takers(named: Mapping[str, Graph], givers: Mapping[str, str]) -> set[str]:
    """The outputs that other graphs take; FormatError where what has one name is not alike."""
    first = {name: title for title, graph in reversed([*named.items()]) for name in graph.inputs} | dict(givers)
    for title, graph in named.items():
        for name in graph.inputs:
            other = named[first[name]]
            both = [f"{checks.describe(one.shapes[name])} {one.types[name]}" for one in (other, graph)]
            if both[0] != both[1]:
                raise _refused(
                    f"{name!r} of one shape and type, got {both[0]} of {first[name]!r} and {both[1]} of {title!r}"
                )
    return {name for graph in named.values() for name in graph.inputs if name in givers}


def _refuse_circles(named: Mapping[str, Graph], givers: Mapping[str, str]) -> None:
    """Refuse graphs of which none can run first."""
    left = dict(named)
    while left:
        ready = [title for title, graph in left.items() if not any(givers.get(name) in left for name in graph.inputs)]
        if not ready:
            told = [
                f"{title!r} takes {name!r} of {givers[name]!r}"
                for title, graph in left.items()
                for name in graph.inputs
                if givers.get(name) in left
            ]
            raise _refused(f"graphs that run one after the other, got a circle: {checks.listed(told)}")
        for title in ready:
            del left[title]
