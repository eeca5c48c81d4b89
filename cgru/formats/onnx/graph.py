"""An ONNX graph as the loader needs it: constants as arrays, what a value comes from, how one GRU feeds the next.

A value counts as constant where it is written in the file, or made of such by moving numbers about; what is computed
from the graph's inputs is an argument of the call.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections import ChainMap
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from cgru.errors import FormatError
from cgru.formats import files
from cgru.formats.onnx.fold import FOLDS, Cost, fold

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cgru.types import Array

    Axes = tuple[tuple[str, ...], ...]
    """What the axes of a tensor count: (("T",), ("B",), ("D", "H")) has directions and hidden units in its last."""

TENSORS = {
    onnx.TensorProto.FLOAT: ("float32", "float_data", "<f4"),
    onnx.TensorProto.DOUBLE: ("float64", "double_data", "<f8"),
    onnx.TensorProto.FLOAT16: ("float16", "int32_data", "<u2"),
    onnx.TensorProto.BFLOAT16: ("bfloat16", "int32_data", "<u2"),
    onnx.TensorProto.INT32: ("int32", "int32_data", "<i4"),
    onnx.TensorProto.INT64: ("int64", "int64_data", "<i8"),
}
"""Kinds of tensors; where they are not raw bytes, the field that holds their numbers and what each number is."""

KINDS = onnx.AttributeProto.AttributeType
CONSTANTS = {
    "value_float": (KINDS.FLOAT, np.float32),
    "value_floats": (KINDS.FLOATS, np.float32),
    "value_int": (KINDS.INT, np.int64),
    "value_ints": (KINDS.INTS, np.int64),
}
"""Attributes of the operator Constant beside `value`: their types, and those of the constant."""

MOVES = ("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile",
         "Transpose", "Unsqueeze")  # fmt: skip
"""Operators whose results hold no other numbers than their first input (Concat: than all of them)."""

DEPTH = 100
"""Of nodes in a row that are followed, where exporters write a few; a damaged file may hold a ring of them."""

FOLDED = 12
"""Of nodes in a row that make a constant of constants; exporters write four or five."""

MAX_USES = 64
"""Of one tensor by the GRUs of a file: what it takes in memory stays in proportion to its size."""

MAX_COST = 16
"""Bytes that making one constant takes, to those of the tensors that it is made of."""


def is_gru(node: Any) -> bool:
    """Whether a node is the standard's GRU operator."""
    return node.op_type == "GRU" and node.domain in ("", "ai.onnx")


def decisive(node: Any) -> list[str]:
    """The inputs of a node whose numbers decide those of its results."""
    if node.op_type in ("Shape", "Size", "ConstantOfShape"):
        return []
    return list(node.input[:1] if node.op_type in MOVES and node.op_type != "Concat" else node.input)


class Graph:
    """A graph, or one inside a node of another (`outer`), whose values it sees."""

    def __init__(self, proto: Any, source: str, path: Path | None, outer: Graph | None = None) -> None:
        self.proto, self.source, self.path, self.outer = proto, source, path, outer
        self.tensors: ChainMap[str, Any] = outer.tensors.new_child() if outer else ChainMap()
        self.tensors.update({tensor.name: tensor for tensor in proto.initializer})
        self.producers: ChainMap[str, Any] = outer.producers.new_child() if outer else ChainMap()
        self.producers.update({name: node for node in proto.node for name in node.output if name})
        self.inputs = {value.name for value in proto.input if value.name not in self.tensors}
        self.cost: Cost = outer.cost if outer else Cost(MAX_COST * MAX_USES)
        self._operands: dict[int, list[int] | None] = outer._operands if outer else {}
        self._roots: dict[str, str] = {}
        self._zero: set[str] = set()

    def attribute(self, node: Any, name: str, kind: int, default: Any = None) -> Any:
        """A node's attribute, which must be of this kind; the default where it is absent."""
        for field in node.attribute:
            if field.name == name:
                if field.type != kind or field.ref_attr_name:
                    expected = KINDS.Name(kind)
                    raise FormatError(f"{self.source}: {node.op_type} {node.name!r}: {name}: expected {expected}")
                return onnx.helper.get_attribute_value(field)
        return default

    def grus(self) -> Iterator[tuple[Graph, Any]]:
        """Every GRU node in this graph and in those inside its nodes, with the graph that it stands in."""
        for node in self.proto.node:
            if is_gru(node):
                yield self, node
            for field in node.attribute:
                for inner in [field.g] * field.HasField("g") + list(field.graphs):
                    yield from Graph(inner, self.source, self.path, self).grus()

    def root(self, name: str) -> str:
        """The value that a name stands for, behind Identity nodes."""
        if self.outer is not None and not self._own(name):
            return self.outer.root(name)
        if name not in self._roots:
            root = name
            for _ in range(DEPTH):
                node = None if root in self.tensors else self.producers.get(root)
                if node is None or node.op_type != "Identity" or not node.input:
                    break
                root = node.input[0]
            self._roots[name] = root
        return self._roots[name]

    def producer(self, name: str) -> Any:
        """The node that computes a value, Identity aside; None for an initialiser and an input."""
        name = self.root(name)
        return None if name in self.tensors else self.producers.get(name)

    def constant(self, name: str) -> Array | None:
        """The array that the file has under a name or makes of such by moves, None where inputs decide it."""
        with self._making(name):
            return self._fold(name, Cost(MAX_COST, self.cost), FOLDED)

    @contextlib.contextmanager
    def _making(self, name: str) -> Iterator[None]:
        """Say of whatever fails within that it does not make a constant."""
        try:
            yield
        except FormatError:
            raise
        except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as error:
            raise FormatError(
                f"{self.source}: constant {name!r}: expected one that can be computed: {error}"
            ) from error

    def _fold(self, name: str, cost: Cost, depth: int) -> Array | None:
        name = self.root(name)
        node = self.producers.get(name)
        if name in self.tensors:
            return self._array(self.tensors[name], cost)
        if node is None:
            return None
        if node.op_type == "Constant":
            return self._value(node, cost)
        if node.op_type not in FOLDS or depth == 0:
            return None
        cost.add(node.ByteSize())
        operands: list[Array | None] = []
        for operand in node.input:
            operands.append(self._fold(operand, cost, depth - 1) if operand else None)
            if operand and operands[-1] is None:
                return None
        attributes = {field.name: onnx.helper.get_attribute_value(field) for field in node.attribute}
        array = fold(node.op_type, attributes, operands, list(node.output).index(name), len(node.output))
        if array is not None:
            cost.add(array.nbytes)
        return array

    def _value(self, node: Any, cost: Cost) -> Array | None:
        """The array of a Constant node."""
        cost.add(node.ByteSize(), id(node))  # which self.producers holds
        tensor = self.attribute(node, "value", KINDS.TENSOR)
        if tensor is not None:
            return self._array(tensor, cost, node)
        for name, (kind, dtype) in CONSTANTS.items():
            value = self.attribute(node, name, kind)
            if value is not None:
                return np.array(value, dtype)
        return None

    def _array(self, tensor: Any, cost: Cost, holder: Any = None) -> Array:
        """The array of a tensor, which may be that of a Constant node."""
        where = f"{self.source}: tensor {tensor.name!r}"
        if tensor.data_type not in TENSORS:
            names = {number: name for name, number in onnx.TensorProto.DataType.items()}
            expected = ", ".join(kind for kind, *_ in TENSORS.values())
            raise FormatError(f"{where}: expected {expected}, got {names.get(tensor.data_type, tensor.data_type)}")
        kind, field, stored = TENSORS[tensor.data_type]
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            data = self._external(
                tensor, where, math.prod(tensor.dims[: files.MAX_AXES]) * np.dtype(stored).itemsize, cost
            )
            return files.decode(where, kind, tensor.dims, data)
        cost.add(tensor.ByteSize(), id(holder or tensor))
        if tensor.HasField("raw_data"):
            data = tensor.raw_data
        else:
            numbers = getattr(tensor, field)
            if stored == "<u2" and not all(0 <= number < 2**16 for number in numbers):
                raise FormatError(f"{where}: {field}: expected numbers of 16 bits")
            data = np.array(numbers, stored).tobytes()
        return files.decode(where, kind, tensor.dims, data)

    def _external(self, tensor: Any, where: str, size: int, cost: Cost) -> bytes:
        """The bytes of a tensor kept in another file, which must lie in the model's folder.

        Where model and data are links, as in a download cache, that may be the folder they both point to.
        """
        fields = {entry.key: entry.value for entry in tensor.external_data}
        location = fields.get("location", "")
        if self.path is None:
            raise FormatError(
                f"{where}: expected its data in the model, got the file {location!r}; give the model's path"
            )
        outside = "\0" in location or ".." in location.split("/")  # a link out of the folder shows once resolved
        file = self.path if outside else (self.path.parent / location).resolve()
        folders = (self.path.parent.resolve(), self.path.resolve().parent)
        if outside or not any(map(file.is_relative_to, folders)) or not file.is_file():
            raise FormatError(f"{where}: expected its data in a file beside the model, got {location!r}")
        try:
            offset, length = int(fields.get("offset", 0)), int(fields.get("length", size))
        except ValueError as error:
            raise FormatError(f"{where}: offset and length: expected integers: {error}") from error
        if offset < 0 or length != size or offset + size > file.stat().st_size:
            raise FormatError(f"{where}: expected {size} bytes in {location}, got {length} from {offset}")
        cost.add(size, file, file.stat().st_size)
        with file.open("rb") as opened:
            opened.seek(offset)
            return opened.read(size)

    def origin(self, name: str) -> str:
        """What decides a value: "input", where a graph's input does, "zero", or "constant", any other fixed numbers."""
        if self.from_input(name):
            return "input"
        seen, todo = {""}, [name]
        while todo:
            name = todo.pop()
            if name in seen or name in self._zero:
                continue
            seen.add(name)
            if self.outer is not None and not self._own(name):
                if self.outer.origin(name) == "constant":
                    return "constant"
                continue
            array, node = self.constant(name), self.producer(name)
            if array is None and node is not None:
                todo += decisive(node)
                if node.op_type == "ConstantOfShape":
                    array = self._filling(node)
                elif node.op_type not in MOVES:
                    return "constant"
            if array is not None and array.any():
                return "constant"
        self._zero |= seen
        return "zero"

    def _filling(self, node: Any) -> Array | None:
        """What a ConstantOfShape repeats, zero where it does not say."""
        value = self.attribute(node, "value", KINDS.TENSOR)
        with self._making(node.output[0]):
            return None if value is None else self._array(value, Cost(MAX_COST, self.cost), node)

    def _own(self, name: str) -> bool:
        """Whether a value is of this graph, not of one around it."""
        return name in self.tensors.maps[0] or name in self.producers.maps[0] or name in self.inputs

    def from_input(self, name: str) -> bool:
        """Whether a graph's input decides a value."""
        if not name or name in self.tensors.maps[0]:
            return False
        if name in self.producers.maps[0]:
            return name in self._from_inputs
        return self.outer is None or name in self.inputs or self.outer.from_input(name)

    @functools.cached_property
    def _from_inputs(self) -> set[str]:
        """Of what this graph's own nodes compute, the values that inputs decide; found in one pass."""
        readers: dict[str, list[Any]] = {}
        for node in self.proto.node:
            for name in decisive(node):
                readers.setdefault(name, []).append(node)
        found: set[str] = set()
        passed: set[int] = set()
        todo = [name for name in readers if name not in self.producers.maps[0] and self.from_input(name)]
        while todo:
            for node in readers.pop(todo.pop(), ()):
                if id(node) not in passed:
                    passed.add(id(node))
                    results = set(node.output) - found
                    found |= results
                    todo += results
        return found

    def moves_from_gru(self, name: str) -> tuple[str, list[Any]] | None:
        """The first output of a GRU that becomes the value `name` by moves of axes alone, and these nodes in order."""
        moves: list[Any] = []
        while (node := self.producer(name)) is not None and len(moves) < DEPTH:
            name = self.root(name)
            if is_gru(node):
                return (name, moves[::-1]) if name == node.output[0] else None
            if node.op_type not in MOVERS or not node.input:
                break
            moves.append(node)
            name = node.input[0]
        return None

    def turned(self, name: str) -> str:
        """The operator that turns a graph's input round in time on its way to a value by moves; "" where none does."""
        for _ in range(DEPTH):
            node = self.producer(name)
            if node is None or not node.input:
                break
            if node.op_type == "ReverseSequence":
                return "ReverseSequence"
            if node.op_type == "Slice":
                steps = self.constant(node.input[4]) if len(node.input) > 4 and node.input[4] else None
                if steps is not None and (steps < 0).any():
                    return "Slice with a negative step"
            if node.op_type not in MOVES or node.op_type == "Concat":
                break
            name = node.input[0]
        return ""

    def lasting(self, name: str) -> dict[str, int]:
        """T and B where the graph's inputs have fixed ones, of a value (T, B, I) that one of them is, or Transpose."""
        node, axes = self.producer(name), {"T": 0, "B": 1}
        if node is not None and node.op_type == "Transpose" and node.input:
            if self._operand(node) != [1, 0, 2]:
                return {}
            name, axes = node.input[0], {"T": 1, "B": 0}
        for value in self.proto.input:
            dims = value.type.tensor_type.shape.dim
            if value.name == self.root(name) and len(dims) == 3:
                return {count: dims[i].dim_value for count, i in axes.items() if dims[i].dim_value > 0}
        return {}

    def moved(self, axes: Axes, sizes: dict[str, int], moves: Sequence[Any]) -> Axes | None:
        """The axes after these nodes, None where that cannot be told; `sizes` has H and D, perhaps T and B."""
        for node in moves:
            operand = self._operand(node)
            if operand is not None and len(operand) > files.MAX_AXES:
                return None
            result = MOVERS[node.op_type](axes, operand, sizes)
            if result is None:
                return None
            axes = result
        return axes

    def _operand(self, node: Any) -> list[int] | None:
        """The axes or the shape that a move is given, looked up once, as many GRUs may be behind it."""
        if id(node) not in self._operands:  # which self.producers holds
            operand = self.attribute(node, "perm" if node.op_type == "Transpose" else "axes", KINDS.INTS)
            if len(node.input) > 1 and node.op_type != "Transpose":
                array = self.constant(node.input[1])
                operand = None if array is None else [int(number) for number in array.ravel()]
            if node.op_type == "Reshape" and self.attribute(node, "allowzero", KINDS.INT):
                operand = None
            self._operands[id(node)] = operand
        return self._operands[id(node)]


def _transpose(axes: Axes, perm: list[int] | None, sizes: dict[str, int]) -> Axes | None:
    perm = list(range(len(axes)))[::-1] if perm is None else perm
    return tuple(axes[i] for i in perm) if sorted(perm) == list(range(len(axes))) else None


def _squeeze(axes: Axes, which: list[int] | None, sizes: dict[str, int]) -> Axes | None:
    """Axes of size 1 leave; without `which` those would, too, that happen to be 1 in a call."""
    if which is None or any(not -len(axes) <= i < len(axes) or axes[i] != () for i in which):
        return None
    gone = {i % len(axes) for i in which}
    return tuple(axis for i, axis in enumerate(axes) if i not in gone)


def _reshape(axes: Axes, shape: list[int] | None, sizes: dict[str, int]) -> Axes | None:
    """The same counts in the same order, grouped anew: 0 keeps an axis, -1 takes what the others leave."""
    if shape is None or shape.count(-1) > 1:
        return None
    counts = [count for axis in axes for count in axis]
    hole = shape.index(-1) if -1 in shape else len(shape)

    def take(i: int, end: int) -> tuple[str, ...] | None:
        """What dimension i takes from the start (0) or the end (-1) of the counts left."""
        if shape[i] == 0:
            group = axes[i] if i < len(axes) else None
            left = None if group is None else counts[: len(group)] if end == 0 else counts[len(counts) - len(group) :]
            if group is None or tuple(left or ()) != group:
                return None
            del counts[slice(0, len(group)) if end == 0 else slice(len(counts) - len(group), None)]
            return group
        if counts and sizes.get(counts[end]) == shape[i]:
            return (counts.pop(end),)
        taken: list[str] = []
        while counts and counts[end] in sizes and math.prod(sizes[c] for c in taken) < shape[i]:
            taken.append(counts.pop(end))
        if math.prod(sizes[c] for c in taken) != shape[i]:
            return None
        return tuple(taken if end == 0 else taken[::-1])

    front = [take(i, 0) for i in range(hole)]
    back = [take(i, -1) for i in range(len(shape) - 1, hole, -1)][::-1]
    if -1 in shape:
        front.append(tuple(counts))
    elif counts:
        return None
    groups = [*front, *back]
    return None if None in groups else tuple(group for group in groups if group is not None)


MOVERS = {"Transpose": _transpose, "Squeeze": _squeeze, "Reshape": _reshape}
