"""GRUs as nodes of networks, and the values that such nodes stand for: what engines take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cgru.model.graph import Node
from cgru.model.nodes import recurrent, stack
from cgru.model.spec import from_options
from cgru.model.value import Value

if TYPE_CHECKING:
    from cgru.model.graph import Graph
    from cgru.types import Array


def node_of(value: Value, name: str, x: str, y: str, h0: str = "", h_n: str = "") -> tuple[Node, dict[str, Array]]:
    """A model as a node that reads and writes values of these names, and its parameters as constants."""
    constants = {f"{name}.{key}": array for key, array in value.wide().items()}
    inputs = (x, h0, *(f"{name}.{key}" for key in value.spec.shapes))
    return Node(stack.NAME, name, inputs, (y, h_n) if h_n else (y,), stack.written(value.spec)), constants


def value_of(graph: Graph, node: Node) -> Value:
    """The model that a node GRU or cgru.Stack is; KeyError where its parameters are no constants."""
    if node.operator == stack.NAME:
        spec = stack.spec_of(**node.attributes)
        return Value.of(
            spec, {key: graph.constants[name] for key, name in zip(spec.shapes, node.inputs[2:], strict=True)}
        )
    w, r, b = (graph.constants[name] if name else None for name in (*node.inputs[1:4], "")[:3])
    assert w is not None
    assert r is not None
    parameters = recurrent.gru_parameters(w, r, b)
    options = recurrent.gru_options(**node.attributes)
    options |= {
        "input_size": w.shape[2],
        "hidden_size": r.shape[2],
        "bias": b is not None,
        "batch_first": node.attributes["layout"] == 1,
        "bidirectional": len(w) == 2,
        "dtype": w.dtype,
    }
    return Value.of(from_options("GRU", options), parameters)
