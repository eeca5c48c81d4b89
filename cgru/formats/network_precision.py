"""The part of a network's own file that says how a quantized one's weights are held.

Of recurrent layers the file has the numbers in fewer bits, their scales and the bounds of inputs, by node; the graph's
constants in float32, which these stand for, are left out and made of them again. Products round their weights when they
are compiled, after factors behind them have joined them; so theirs stay float32, and give the same bits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.errors import FormatError
from cgru.formats import safetensors
from cgru.model.nodes import recurrent, stack
from cgru.model.precision import PRECISIONS, Arithmetic, Matrix
from cgru.model.stacks import value_of
from cgru.model.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cgru.model.graph import Graph, Node
    from cgru.types import Array

KEY = "cgru.network.precision"
"""The metadata field that holds all this."""

SLOTS = {"weight_ih": 1, "weight_hh": 2}
"""Of ONNX's GRU, by how a parameter's name begins, the input that it is a part of."""


def parts(node: Node) -> dict[str, list[str]]:
    """By constant of a recurrent node the names of the matrices that it is made of."""
    if node.operator == stack.NAME:
        names = stack.spec_of(**node.attributes).shapes
        return {own: [name] for name, own in zip(names, node.inputs[2:], strict=True) if name.startswith("weight")}
    ends = ("_l0", "_l0_reverse")[: recurrent.directions(node.attributes["direction"])]
    return {node.inputs[slot]: [name + end for end in ends] for name, slot in SLOTS.items()}


def written(
    graph: Graph, precision: str, values: Mapping[str, Value]
) -> tuple[dict[str, Any], dict[str, Array], set[str], set[str]]:
    """Metadata, tensors, the names of those that are bfloat16, and the constants that need not be written."""
    readers: dict[str, int] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers[name] = readers.get(name, 0) + 1
    entries, tensors, spared = {}, dict[str, Any](), set()
    for node in graph.nodes:
        if node.name not in values:
            continue
        value = values[node.name]
        entry: dict[str, Any] = {"limit": value.arithmetic.input_limit, "weights": {}, "scales": {}}
        for constant, names in parts(node).items():
            if readers[constant] == 1:
                spared.add(constant)
            for name in names:
                matrix = value.parameters[name]
                assert isinstance(matrix, Matrix)
                for kind, array in (("weights", matrix.numbers), ("scales", matrix.scale)):
                    if array is not None:
                        tensor = f"quantized {len(tensors)}"
                        while tensor in graph.constants:
                            tensor += "'"
                        tensors[tensor], entry[kind][name] = np.ascontiguousarray(array), tensor
        entries[node.name] = entry
    halves = {name for name, array in tensors.items() if array.dtype == np.uint16}
    return {"precision": precision, "nodes": entries}, tensors, halves, spared


class Stored:
    """What a file says of a quantized network; FormatError where it makes no sense."""

    def __init__(self, found: Mapping[str, Any], weights: safetensors.Weights) -> None:
        expect(found.keys() == {"precision", "nodes"}, KEY, "the fields precision, nodes", sorted(found))
        expect(found["precision"] in PRECISIONS, KEY, f"one of {', '.join(PRECISIONS)}", found["precision"])
        expect(isinstance(found["nodes"], dict), KEY, "nodes by name", found["nodes"])
        self.precision: str = found["precision"]
        self.limits: dict[str, float | None] = {}
        self.matrices: dict[str, dict[str, Matrix]] = {}
        self.tensors: set[str] = set()
        """The file's tensors that are no constants."""
        for name, entry in found["nodes"].items():
            self._node(name, entry, weights)

    def _node(self, name: str, entry: Any, weights: safetensors.Weights) -> None:
        where = f"{KEY}: {name!r}"
        fields = isinstance(entry, dict) and entry.keys() == {"limit", "weights", "scales"}
        expect(fields, where, "the fields limit, weights, scales", entry)
        limit = entry["limit"]
        good = limit is None or (type(limit) in (int, float) and 0 < limit < math.inf and self.precision == "int8")
        expect(good, where, "a positive limit of int8, or null", limit)
        for kind in ("weights", "scales"):
            texts = isinstance(entry[kind], dict) and all(isinstance(one, str) for one in entry[kind].values())
            expect(texts, f"{where}: {kind}", "tensors by name", entry[kind])
            for tensor in entry[kind].values():
                expect(tensor in weights.shapes, f"{where}: {kind}", "a tensor of the file", tensor)
                self.tensors.add(tensor)
        integer = self.precision == "int8"
        same = entry["scales"].keys() == (entry["weights"].keys() if integer else set())
        expect(same, f"{where}: scales", "one for each matrix of int8 and for no other", sorted(entry["scales"]))
        self.limits[name] = None if limit is None else float(limit)
        self.matrices[name] = {
            key: safetensors.matrix(
                key, self.precision, weights.narrow(tensor, self.precision),
                weights.tensor(entry["scales"][key]) if integer else None,
            )
            for key, tensor in entry["weights"].items()
        }  # fmt: skip

    def constants(self, nodes: Iterable[Node]) -> dict[str, Array]:
        """The float32 constants that matrices stand for."""
        found: dict[str, Array] = {}
        for node in nodes:
            if node.name not in self.matrices:
                continue
            own = self.matrices[node.name]
            expect(node.operator in ("GRU", stack.NAME), KEY, "recurrent nodes", node.title)
            for constant, names in parts(node).items():
                expect(set(names) <= own.keys(), f"{KEY}: {node.name!r}", f"matrices {', '.join(names)}", sorted(own))
                arrays = [own[name].wide() for name in names]
                if node.operator != stack.NAME:
                    arrays = [np.stack([recurrent.reordered(array) for array in arrays])]
                found[constant] = arrays[0]
        return found

    def values(self, graph: Graph) -> dict[str, Value]:
        """The models of a network's recurrent nodes."""
        nodes = {node.name: node for node in graph.nodes if node.operator in ("GRU", stack.NAME)}
        expect(nodes.keys() == self.matrices.keys(), KEY, f"the nodes {sorted(nodes)}", sorted(self.matrices))
        found = {}
        for name, node in nodes.items():
            value, own = value_of(graph, node), self.matrices[name]
            unknown = own.keys() - value.parameters.keys()
            expect(not unknown, f"{KEY}: {name!r}", f"matrices of {checks.listed(value.parameters)}", sorted(unknown))
            found[name] = Value.of(value.spec, {**value.parameters, **own}, Arithmetic(input_limit=self.limits[name]))
        return found


def expect(condition: bool, where: str, expected: str, got: object) -> None:
    """FormatError where a condition does not hold."""
    if not condition:
        raise FormatError(f"{where}: expected {expected}, got {got!r}")
