"""Networks with weights in fewer bits: which recurrent layers become which, and what the compiler is told.

Products round their weights by themselves; recurrent layers are models of their own, and are quantized as such, to
inputs that the calibration leads to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgru import checks
from cgru.model.interpret import values_of
from cgru.model.nodes import stack
from cgru.model.precision import PRECISIONS, Arithmetic, narrow
from cgru.model.stacks import value_of
from cgru.model.value import Value
from cgru.run import calibration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cgru.model.graph import Graph, Node
    from cgru.types import Array

RECURRENT = ("GRU", stack.NAME)


class Precision(NamedTuple):
    """What a quantized network's weights are."""

    name: str
    """bfloat16, float16 or int8."""
    values: Mapping[str, Value]
    """The recurrent layers' models, by node."""

    def storage(self, node: Node | None) -> tuple[str, float | None]:
        """How a product's weights are held, and what bounds its inputs."""
        return self.name, None

    def options(self, graph: Graph) -> dict[str, Any]:
        """What the compiler is told."""
        return {"storage": self.storage, "values": self.values}


def quantized(graph: Graph, precision: str, calibrate: Any) -> Precision:
    """A network's precision; ValueError or TypeError where an argument does not fit."""
    checks.choice("precision", precision, PRECISIONS)
    if calibrate is not None and precision != "int8":
        raise ValueError(f"calibrate: expected None with {precision}, whose inputs stay float32")
    nodes = [node for node in graph.nodes if node.operator in RECURRENT]
    met = _met(graph, nodes, calibrate) if calibrate is not None else {}
    values = {}
    for node in nodes:
        value = value_of(graph, node)
        limit, parameters = None, dict(value.parameters)
        for name, array in value.parameters.items():
            if name.startswith("weight"):
                parameters[name] = narrow(name, array, precision)  # type: ignore[arg-type]
        if node.name in met:
            x = met[node.name]
            limit = calibration.largest(x, None) or None
            parameters |= calibration.fitted(value, x, None, None)
        values[node.name] = Value(value.spec, parameters, Arithmetic(input_limit=limit))
    return Precision(precision, values)


def _met(graph: Graph, nodes: list[Node], calibrate: Any) -> dict[str, Array]:
    """What each recurrent layer meets, (T, B, I), on the inputs given, one after the other in the batch."""
    names = tuple(graph.inputs)
    found: dict[str, list[Array]] = {node.name: [] for node in nodes}
    for one in calibrate if isinstance(calibrate, list) else [calibrate]:
        given: dict[str, Any] = one if isinstance(one, dict) else dict.fromkeys(names, one)
        for name, array in given.items():
            if not isinstance(array, np.ndarray) or (array.dtype.kind == "f" and not np.isfinite(array).all()):
                raise ValueError(f"calibrate: expected finite arrays, got another {name!r}")
        values = values_of(graph, given, {}, np.dtype(np.float32))
        for node in nodes:
            x = values[node.inputs[0]]
            spec_first = value_of(graph, node).spec.batch_first
            found[node.name].append(x.swapaxes(0, 1) if spec_first else x)
    most = {name: min(len(x) for x in arrays) for name, arrays in found.items() if arrays}
    return {
        name: np.ascontiguousarray(np.concatenate([x[: most[name]] for x in arrays], axis=1))
        for name, arrays in found.items()
        if arrays
    }
