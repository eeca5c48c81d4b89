"""ONNX models as whole networks: every node and weight of a graph as a `cgru.model.graph.Graph`.

Operators keep their names and meaning; here is what differs by version and exporter: forms of operator sets before the
newest, constants, the shapes and names of inputs.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from cgru import checks
from cgru.errors import FormatError
from cgru.formats.onnx import parsing
from cgru.formats.onnx.graph import CONSTANTS
from cgru.formats.onnx.graph import Graph as Tensors
from cgru.model.building import build
from cgru.model.graph import MAX_MEMORY, Graph, Node
from cgru.model.nodes import OPERATORS
from cgru.model.nodes.sizes import Size
from cgru.model.nodes.table import NEWEST, OLDEST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cgru.model.nodes.table import Sizes
    from cgru.types import Array

KINDS = onnx.AttributeProto.AttributeType
DOMAINS = ("", "ai.onnx")
TYPES = {
    number: np.dtype(name.lower() if name != "FLOAT" else "float32")
    for name, number in onnx.TensorProto.DataType.items()
    if name in ("FLOAT", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BOOL")
} | {onnx.TensorProto.DOUBLE: np.dtype(np.float64)}
"""Types of values: those that a network's inputs may have, and casts may make."""

DROPPED = {"Cast": ("saturate", "round_mode"), "Dropout": ("seed",)}
"""Attributes that say nothing for types that are known here."""


BESIDE_GRUS = frozenset(
    name for name, row in OPERATORS.items() if row.moves or row.counts is not None
) | {
    "Add", "And", "Cast", "CastLike", "Concat", "ConstantOfShape", "Div", "Equal", "GRU", "Greater", "Less", "Max",
    "Min", "Mod", "Mul", "Not", "Or", "Range", "ReduceProd", "Sub", "Where",
}  # fmt: skip
"""Operators of graphs of GRUs alone: besides these what shapes, the order of axes and sums of directions need."""

BODIED = ("If", "Loop", "Scan")
"""Operators with graphs within, which may be GRUs written out."""


def does_more(proto: Any) -> bool:
    """Whether a model computes more than its GRUs do; one with none does if its operators are known here."""
    found = {node.op_type for node in proto.graph.node if node.domain in DOMAINS}
    return bool(found & (OPERATORS.keys() - BESIDE_GRUS)) and ("GRU" in found or not found & {*BODIED})


def from_onnx(model: Any, states: Mapping[str, str] | None = None, max_memory: int = MAX_MEMORY) -> Graph:
    """The network of an onnx.ModelProto, or of the file at a path.

    FormatError where it holds what cgru has not, naming the nodes; see `cgru.model.building.build`.
    """
    if isinstance(model, onnx.ModelProto):
        return _network(model, "model", None, states, max_memory)
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(f"model: expected an onnx.ModelProto or a path, got {type(model).__name__}")
    path = Path(model)
    return _network(parsing.parse(path), str(path), path, states, max_memory)


def _network(proto: Any, source: str, path: Path | None, states: Mapping[str, str] | None, max_memory: int) -> Graph:
    parsing.check_text(proto, source)
    return _Model(proto, source, path).network(states, max_memory)


class _Model:
    """A model while it is read."""

    def __init__(self, proto: Any, source: str, path: Path | None) -> None:
        self.source, self.graph = source, proto.graph
        self.opset = _opset(proto, source)
        self.tensors = Tensors(proto.graph, source, path)
        self.constants: dict[str, Array] = {}
        self.names: dict[str, str] = {}
        """Names of dynamic axes there, and here."""
        self.taken: set[str] = set()

    def network(self, states: Mapping[str, str] | None, max_memory: int) -> Graph:
        """The network."""
        if self.graph.sparse_initializer:
            raise FormatError(
                f"{self.source}: expected dense tensors, got {len(self.graph.sparse_initializer)} sparse ones"
            )
        names = Counter(tensor.name for tensor in self.graph.initializer)
        twice = [repr(name) for name, number in names.items() if number > 1]
        if twice:
            raise FormatError(f"{self.source}: expected tensors of different names, got {checks.listed(twice)} twice")
        self.constants = {tensor.name: self.tensors.array(tensor) for tensor in self.graph.initializer}
        inputs: dict[str, Sizes] = {}
        types = {}
        for value in self.graph.input:
            if value.name in self.constants:
                continue
            if value.name in inputs:
                raise FormatError(f"{self.source}: expected inputs of different names, got {value.name!r} twice")
            inputs[value.name], types[value.name] = self._input(value)
        nodes = [made for node in self.graph.node if (made := self._node(node)) is not None]
        outputs = [value.name for value in self.graph.output]
        return build(
            nodes, self.constants, inputs, outputs, types=types, states=states, opset=self.opset, max_memory=max_memory,
            source=self.source,
        )  # fmt: skip

    def _input(self, value: Any) -> tuple[Sizes, np.dtype[Any]]:
        """An input's shape and type."""
        where, kind = f"{self.source}: input {value.name!r}", value.type.tensor_type
        if value.type.WhichOneof("value") != "tensor_type" or kind.elem_type not in TYPES:
            known = ", ".join(dtype.name for dtype in TYPES.values())
            names = {number: name for name, number in onnx.TensorProto.DataType.items()}
            raise FormatError(f"{where}: expected an array of {known}, got {names.get(kind.elem_type, kind.elem_type)}")
        if not kind.HasField("shape"):
            raise FormatError(f"{where}: expected a shape, got none; set it in the model, names for dynamic axes")
        shape: list[int | Size] = []
        for axis, dim in enumerate(kind.shape.dim):
            if dim.dim_value > 0:
                shape.append(dim.dim_value)
            else:
                shape.append(Size(self._axis(dim.dim_param or f"{value.name}_{axis}")))
        return tuple(shape), TYPES[kind.elem_type]

    def _axis(self, name: str) -> str:
        """A dynamic axis' name as an identifier, as other names are not."""
        if name not in self.names:
            short = re.sub(r"\W", "_", name, flags=re.ASCII)[:40]
            short = short if re.match(r"[A-Za-z_]", short) else f"_{short}"
            while short in self.taken:
                short = f"{short[:40]}_{len(self.taken)}"
            self.taken.add(short)
            self.names[name] = short
        return self.names[name]

    def _node(self, node: Any) -> Node | None:
        """A node in today's form; None for one that is a constant, which is kept."""
        name = node.name or next(filter(None, node.output), "")
        operator = node.op_type if node.domain in DOMAINS else f"{node.domain}.{node.op_type}"
        inputs = list(node.input)
        if operator == "Constant":
            (result,) = self._one(node, name)
            if result in self.constants:
                raise FormatError(f"{self.source}: Constant {name!r}: expected an output of a new name, got {result!r}")
            self.constants[result] = self._constant(node, name)
            return None
        if any(field.type in BODIES for field in node.attribute):
            return Node(operator, name, tuple(inputs), tuple(node.output))
        attributes = {
            key: value for key, value in self._attributes(node, name).items() if key not in DROPPED.get(operator, ())
        }
        if operator == "Cast" and "to" in attributes:
            attributes["to"] = (
                TYPES[attributes["to"]].name if attributes["to"] in TYPES else self._type(attributes["to"])
            )
        if operator == "Clip" and self.opset < 11:  # its bounds were attributes
            for bound in ("min", "max"):
                inputs.append(self._bound(node, attributes.pop(bound, None)))
        while inputs and not inputs[-1]:
            inputs.pop()
        return Node(operator, name, tuple(inputs), tuple(node.output), attributes)

    def _one(self, node: Any, name: str) -> list[str]:
        if len(node.output) != 1 or not node.output[0]:
            raise FormatError(f"{self.source}: {node.op_type} {name!r}: expected one output, got {len(node.output)}")
        return list(node.output)

    @staticmethod
    def _type(number: Any) -> str:
        names = {value: name for name, value in onnx.TensorProto.DataType.items()}
        return names.get(number, str(number)).lower()

    def _bound(self, node: Any, value: float | None) -> str:
        """The name of a constant that an attribute gives."""
        if value is None:
            return ""
        name = f"{next(iter(node.output), '')}:{value!r}"
        self.constants[name] = np.array(value, np.float32)
        return name

    def _constant(self, node: Any, name: str) -> Array:
        fields = {field.name: field for field in node.attribute}
        kinds = {key: kind for key, (kind, _) in CONSTANTS.items()} | {"value": KINDS.TENSOR}
        ((key, field),) = fields.items() if len(fields) == 1 else [("", None)]
        if field is None or kinds.get(key) != field.type:
            expected = ", ".join(kinds)
            raise FormatError(
                f"{self.source}: Constant {name!r}: expected one attribute of {expected}, got {checks.listed(fields)}"
            )
        if key == "value":
            return self.tensors.array(field.t, node)
        return np.array(onnx.helper.get_attribute_value(field), CONSTANTS[key][1])

    def _attributes(self, node: Any, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for field in node.attribute:
            where = f"{self.source}: {node.op_type} {name!r}: {field.name}"
            if field.name in found:
                raise FormatError(f"{where}: expected once, got twice")
            if field.ref_attr_name or field.type not in READ:
                raise FormatError(f"{where}: expected numbers or text, got {KINDS.Name(field.type)}")
            if field.type == KINDS.TENSOR:
                found[field.name] = self.tensors.array(field.t, node)
                continue
            value = onnx.helper.get_attribute_value(field)
            values = list(value) if field.type in (KINDS.INTS, KINDS.FLOATS, KINDS.STRINGS) else [value]
            try:
                values = [one.decode() if isinstance(one, bytes) else one for one in values]
            except UnicodeDecodeError as error:
                raise FormatError(f"{where}: expected UTF-8, got {value!r}") from error
            found[field.name] = (
                values[0] if values and not isinstance(value, list) and field.type in SINGLE else tuple(values)
            )
        return found


BODIES = (KINDS.GRAPH, KINDS.GRAPHS)
SINGLE = (KINDS.INT, KINDS.FLOAT, KINDS.STRING)
READ = (*SINGLE, KINDS.INTS, KINDS.FLOATS, KINDS.STRINGS, KINDS.TENSOR)


def _opset(proto: Any, source: str) -> int:
    """The version of the standard's operators."""
    versions = [entry.version for entry in proto.opset_import if entry.domain in DOMAINS]
    if len(versions) != 1:
        raise FormatError(f"{source}: expected one operator set of ONNX's own, got {len(versions)}")
    if not OLDEST <= versions[0] <= NEWEST:
        raise FormatError(
            f"{source}: expected an operator set from {OLDEST} to {NEWEST}, got {versions[0]}; convert it with "
            f"onnx.version_converter.convert_version(model, 17)"
        )
    return int(versions[0])
