"""A network's own .safetensors file: the graph as JSON in the metadata, its constants as tensors.

Nodes are written with complete attributes, so that a file means the same whatever defaults later versions have. Nothing
in a file is believed: a network is built of it as of any other, by `cgru.model.building.build`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.errors import FormatError
from cgru.formats import files, network_precision, safetensors, untrusted
from cgru.formats.network_precision import expect as _expect
from cgru.model.building import build
from cgru.model.graph import MAX_MEMORY, Graph, Node
from cgru.model.nodes import OPERATORS
from cgru.model.nodes.movement import TYPES
from cgru.model.nodes.sizes import Size, parse

if TYPE_CHECKING:
    from cgru.model.nodes.table import Sizes
    from cgru.model.value import Value
    from cgru.types import Array

KEY = safetensors.NETWORK_KEY
"""The metadata field that holds the graph."""

Quantized = tuple[str, Mapping[str, "Value"]]
"""What weights are stored as, and the models of recurrent nodes by name."""

FIELDS = ("nodes", "inputs", "outputs", "states")


def save(graph: Graph, path: str | os.PathLike[str], quantized: Quantized | None = None) -> None:
    """Write a network; the file appears whole, or the one before it stays."""
    written = {
        "nodes": [_node(node) for node in graph.nodes],
        "inputs": {
            name: {"shape": [_size(size) for size in graph.shapes[name]], "type": graph.types[name].name}
            for name in (*graph.inputs, *graph.states)
        },
        "outputs": [*graph.outputs, *graph.states.values()],
        "states": dict(graph.states),
    }
    metadata = {KEY: json.dumps(written), safetensors.VERSION_KEY: str(safetensors.VERSION)}
    narrow, halves, spared = dict[str, Any](), set[str](), set[str]()
    if quantized is not None:
        told, narrow, halves, spared = network_precision.written(graph, *quantized)
        metadata[network_precision.KEY] = json.dumps(told)
    kept = {name: np.asarray(array, order="C") for name, array in graph.constants.items() if name not in spared}
    data = safetensors.library().numpy.save({**kept, **narrow}, metadata=metadata)
    files.write(path, safetensors.as_bfloat16(data, halves) if halves else data)


def _size(size: int | Size) -> int | str:
    return str(size) if isinstance(size, Size) else int(size)


def _node(node: Node) -> dict[str, Any]:
    return {
        "operator": node.operator,
        "name": node.name,
        "inputs": list(node.inputs),
        "outputs": list(node.outputs),
        "attributes": {name: _written(value) for name, value in node.attributes.items() if value is not None},
    }


def _written(value: Any) -> Any:
    """An attribute as JSON has it: of an array, type, shape and numbers."""
    if isinstance(value, np.ndarray):
        return {"type": value.dtype.name, "shape": list(value.shape), "numbers": value.ravel().tolist()}
    return [_size(one) if isinstance(one, int | Size) else one for one in value] if isinstance(value, tuple) else value


# --- Reading ----------------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str], max_memory: int = MAX_MEMORY) -> tuple[Graph, Quantized | None]:
    """The network in a file that `save` wrote, and what it is quantized to; FormatError where it is none."""
    path = Path(path)
    weights = safetensors.Weights(path)
    safetensors.check_version(str(path), weights.metadata)
    if KEY not in weights.metadata:
        known = checks.listed(sorted(weights.metadata)) or "none"
        raise FormatError(f"{path}: metadata: expected a network under {KEY!r}, got {known}; cgru.load reads one GRU")
    with untrusted.reading(path, "network"):
        found = untrusted.parse_json(f"metadata {KEY}", weights.metadata[KEY])
        _expect(found.keys() == set(FIELDS), "metadata", f"the fields {', '.join(FIELDS)}", sorted(found))
        inputs, types = _inputs(found["inputs"])
        nodes = [_read(i, node) for i, node in enumerate(_list("nodes", found["nodes"]))]
        stored, constants = None, dict[str, Any]()
        if network_precision.KEY in weights.metadata:
            text = weights.metadata[network_precision.KEY]
            told = untrusted.parse_json(f"metadata {network_precision.KEY}", text)
            stored = network_precision.Stored(told, weights)
            constants = stored.constants(nodes)
        constants |= {name: weights.plain(name) for name in weights.shapes if not stored or name not in stored.tensors}
        graph = build(
            nodes,
            constants,
            inputs,
            _texts("outputs", found["outputs"]),
            types=types,
            states=dict(
                zip(_object("states", found["states"]), _texts("states", [*found["states"].values()]), strict=True)
            ),
            max_memory=max_memory,
            source=str(path),
        )
        return graph, (stored.precision, stored.values(graph)) if stored else None


def _object(where: str, value: Any) -> dict[str, Any]:
    _expect(isinstance(value, dict), where, "a JSON object", value)
    return dict(value)


def _list(where: str, value: Any) -> list[Any]:
    _expect(isinstance(value, list), where, "a list", value)
    return list(value)


def _texts(where: str, value: Any) -> list[str]:
    _expect(isinstance(value, list) and all(isinstance(one, str) for one in value), where, "a list of names", value)
    return list(value)


def _sizes(where: str, value: Any) -> Sizes:
    """Integers, and texts that are sizes."""
    found: list[int | Size] = []
    for size in _list(where, value):
        _expect(type(size) in (int, str), where, "sizes of axes", size)
        found.append(parse(size) if isinstance(size, str) else size)
    return tuple(found)


def _inputs(value: Any) -> tuple[dict[str, Sizes], dict[str, np.dtype[Any]]]:
    shapes, types = {}, {}
    for name, entry in _object("inputs", value).items():
        where = f"input {name!r}"
        _expect(_object(where, entry).keys() == {"shape", "type"}, where, "a shape and a type", entry)
        _expect(entry["type"] in TYPES, where, f"a type of {', '.join(TYPES)}", entry["type"])
        shape = _sizes(where, entry["shape"])
        plain = all(size.isidentifier() if isinstance(size, Size) else size > 0 for size in shape)
        _expect(plain, where, "a shape of positive sizes and names", entry["shape"])
        shapes[name], types[name] = shape, np.dtype(entry["type"])
    return shapes, types


def _read(position: int, value: Any) -> Node:
    """A node; of which sort its attributes are, its operator's row says."""
    where = f"node {position}"
    node = _object(where, value)
    _expect(
        node.keys() == {"operator", "name", "inputs", "outputs", "attributes"}, where, "a node's fields", sorted(node)
    )
    operator, name = node["operator"], node["name"]
    _expect(isinstance(operator, str) and isinstance(name, str), where, "an operator and a name", operator)
    row = OPERATORS.get(operator)
    attributes = {}
    for key, given in _object(where, node["attributes"]).items():
        kind = row.attributes[key].kind if row is not None and key in row.attributes else ""
        inside = f"{operator} {name!r}: {key}"
        attributes[key] = READERS[kind](inside, given) if kind in READERS else given
    inputs, outputs = _texts(where, node["inputs"]), _texts(where, node["outputs"])
    return Node(operator, name, tuple(inputs), tuple(outputs), attributes)


def _array(where: str, value: Any) -> Array:
    """One number of a type, as all arrays are that remain attributes."""
    entry = _object(where, value)
    _expect(entry.keys() == {"type", "shape", "numbers"}, where, "an array", value)
    _expect(entry["type"] in TYPES, where, f"a type of {', '.join(TYPES)}", entry["type"])
    numbers, shape = _list(where, entry["numbers"]), _sizes(where, entry["shape"])
    single = len(numbers) == 1 and type(numbers[0]) in (int, float, bool) and all(size == 1 for size in shape)
    _expect(single and len(shape) <= files.MAX_AXES, where, "one number", value)
    return np.array(numbers, entry["type"]).reshape((1,) * len(shape))


READERS: Mapping[str, Any] = {
    "sizes": _sizes,
    "array": _array,
    "float": lambda where, value: float(value) if type(value) in (int, float) else value,
    "floats": lambda where, value: tuple(
        float(one) if type(one) in (int, float) else one for one in _list(where, value)
    ),
}
"""By kind of attribute: what makes of JSON's values those of a node. The others are checked by the operator's row."""
