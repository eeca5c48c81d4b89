"""An ONNX graph as the loader needs it: constants as arrays, what a value comes from, how one GRU feeds the next.

A value counts as constant where it is written in the file, or made of such by moving numbers about; what is computed
from the graph's inputs is an argument of the call.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx

from cgru.errors import FormatError
from cgru.formats import files
from cgru.formats.onnx.axes import MOVERS, turned
from cgru.formats.onnx.fold import BFLOAT16, FOLDS, Call, Cost, distinct, fold, widened
from cgru.formats.onnx.shapes import Shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from cgru.formats.onnx.axes import Axes, Sizes
    from cgru.types import Array

Kinds = Mapping[int, tuple[str, str, str]]

TENSORS: Kinds = {
    onnx.TensorProto.FLOAT: ("float32", "float_data", "<f4"),
    onnx.TensorProto.DOUBLE: ("float64", "double_data", "<f8"),
    onnx.TensorProto.FLOAT16: ("float16", "int32_data", "<u2"),
    onnx.TensorProto.BFLOAT16: ("bfloat16", "int32_data", "<u2"),
    onnx.TensorProto.INT8: ("int8", "int32_data", "i1"),
    onnx.TensorProto.UINT8: ("uint8", "int32_data", "u1"),
    onnx.TensorProto.INT16: ("int16", "int32_data", "<i2"),
    onnx.TensorProto.UINT16: ("uint16", "int32_data", "<u2"),
    onnx.TensorProto.INT32: ("int32", "int32_data", "<i4"),
    onnx.TensorProto.INT64: ("int64", "int64_data", "<i8"),
}
"""Kinds of tensors; where they are not raw bytes, the field that holds their numbers and what each number is."""

FURTHER: Kinds = {
    onnx.TensorProto.BOOL: ("bool", "int32_data", "u1"),
    onnx.TensorProto.UINT32: ("uint32", "uint64_data", "<u4"),
    onnx.TensorProto.UINT64: ("uint64", "uint64_data", "<u8"),
}
"""Kinds that whole networks have besides."""

HALVES: dict[str, np.dtype[Any]] = {"float16": np.dtype(np.float16), "bfloat16": BFLOAT16}
"""Of 16 bits, which are stored as integers."""

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


def _names_read(node: Any) -> list[str]:
    """The values that a node, or a node in its bodies, reads."""
    names, todo = list(node.input), [node]
    while todo:
        for field in todo.pop().attribute:
            for inner in [field.g] * field.HasField("g") + list(field.graphs):
                names += [value.name for value in inner.output]
                names += [name for below in inner.node for name in below.input]
                todo += inner.node
    return names


class Turn(NamedTuple):
    """A node that turns its input round along an axis."""

    axis: int
    batch: int | None = None  # of ReverseSequence, the axis of the sequences,
    lengths: str = ""  # and the value that says how many steps of each are turned


class Graph:
    """The graph of a model."""

    def __init__(self, proto: Any, source: str, path: Path | None) -> None:
        self.proto, self.source, self.path = proto, source, path
        self.tensors = {tensor.name: tensor for tensor in proto.initializer}
        self.producers = {name: node for node in proto.node for name in node.output if name}
        self.inputs = {value.name: value for value in proto.input if value.name not in self.tensors}
        self.outputs = {value.name for value in proto.output}
        self.cost = Cost(MAX_COST * MAX_USES)
        ranks = {
            v.name: len(v.type.tensor_type.shape.dim) for v in proto.value_info if v.type.tensor_type.HasField("shape")
        }
        ranks |= {self.root(node.input[0]): 3 for node in proto.node if is_gru(node) and node.input}
        self.shapes = Shapes(self, ranks)
        self._operands: dict[int, list[Any] | None] = {}
        self.backwards: dict[int, bool | None] = {}
        """Of GRU nodes, by their id: what `order` has found."""
        self._turns: dict[int, tuple[Turn | None, str]] = {}

    def attribute(self, node: Any, name: str, kind: int, default: Any = None) -> Any:
        """A node's attribute, which must be of this kind; the default where it is absent."""
        for field in node.attribute:
            if field.name == name:
                if field.type != kind or field.ref_attr_name:
                    expected = KINDS.Name(kind)
                    raise FormatError(f"{self.source}: {node.op_type} {node.name!r}: {name}: expected {expected}")
                return onnx.helper.get_attribute_value(field)
        return default

    def attributes(self, node: Any) -> dict[str, Any]:
        """A node's attributes as they are, tensors as arrays."""
        found = {field.name: onnx.helper.get_attribute_value(field) for field in node.attribute}
        with self._making(next(iter(node.output), "")):
            return {
                name: self._array(value, Cost(MAX_COST, self.cost), node)
                if isinstance(value, onnx.TensorProto)
                else value
                for name, value in found.items()
            }

    def grus(self) -> list[Any]:
        """Every GRU node of the graph."""
        return [node for node in self.proto.node if is_gru(node)]

    def root(self, name: str) -> str:
        """The value that a name stands for, behind Identity nodes."""
        for _ in range(DEPTH):
            node = None if name in self.tensors else self.producers.get(name)
            if node is None or node.op_type != "Identity" or not node.input:
                break
            name = node.input[0]
        return name

    def counts(self, name: str) -> str:
        """The value that integers come from, of whatever type: operators want them of 32 bits, and of 64."""
        for _ in range(DEPTH):
            node = self.producer(name)
            if node is None or node.op_type != "Cast" or not node.input:
                break
            if self.attribute(node, "to", KINDS.INT) not in (onnx.TensorProto.INT32, onnx.TensorProto.INT64):
                break
            name = node.input[0]
        return self.root(name)

    def producer(self, name: str) -> Any:
        """The node that computes a value, Identity aside; None for an initialiser and an input."""
        name = self.root(name)
        return None if name in self.tensors else self.producers.get(name)

    def constant(self, name: str) -> Array | None:
        """The array that the file has under a name or makes of such, None where inputs decide it.

        It may be a view that repeats what it has, of any shape.
        """
        name = self.root(name)
        if name in self._variable:
            return None
        with self._making(name):
            array = self._fold(name, Cost(MAX_COST, self.cost), FOLDED)
        return None if array is None else widened(array)

    def whole(self, name: str) -> Array | None:
        """`constant`, whose size is one that the file explains."""
        array = self.constant(name)
        if array is not None and distinct(array).size < array.size:
            with self._making(name):
                self.cost.add(array.nbytes)
        return array

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
        output, outputs = list(node.output).index(name), len(node.output)
        return fold(Call(node.op_type, operands, self.attributes(node), output, outputs, cost.add))

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

    def array(self, tensor: Any, holder: Any = None) -> Array:
        """The array of a tensor of any kind that a network has, 16 bits widened; it may be that of a Constant node."""
        with self._making(tensor.name):
            array = widened(self._array(tensor, Cost(MAX_COST, self.cost), holder, {**TENSORS, **FURTHER}))
        return array != 0 if tensor.data_type == onnx.TensorProto.BOOL else array

    def _array(self, tensor: Any, cost: Cost, holder: Any = None, kinds: Kinds = TENSORS) -> Array:
        """The array of a tensor, which may be that of a Constant node."""
        where = f"{self.source}: tensor {tensor.name!r}"
        if tensor.data_type not in kinds:
            names = {number: name for name, number in onnx.TensorProto.DataType.items()}
            expected = ", ".join(kind for kind, *_ in kinds.values())
            raise FormatError(f"{where}: expected {expected}, got {names.get(tensor.data_type, tensor.data_type)}")
        kind, field, stored = kinds[tensor.data_type]
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            size = math.prod(tensor.dims[: files.MAX_AXES]) * np.dtype(stored).itemsize
            data = self._external(tensor, where, size, cost)
        else:
            cost.add(tensor.ByteSize(), id(holder or tensor))
            data = tensor.raw_data if tensor.HasField("raw_data") else self._listed(where, tensor, field, stored)
        array = files.undecoded(where, stored, tensor.dims, data, kind)
        return array.view(HALVES.get(kind, array.dtype))

    @staticmethod
    def _listed(where: str, tensor: Any, field: str, stored: str) -> bytes:
        """The bytes of numbers that are written one by one."""
        numbers, kind = getattr(tensor, field), np.dtype(stored)
        if kind.kind != "f" and not all(np.iinfo(kind).min <= number <= np.iinfo(kind).max for number in numbers):
            raise FormatError(f"{where}: {field}: expected numbers of {8 * kind.itemsize} bits")
        return np.array(numbers, kind).tobytes()

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

    def origin(self, name: str) -> tuple[str, str]:
        """What decides a value: "input", where a graph's input does, "zero", or "constant", any other fixed numbers.

        With the name of those other numbers, or of what is computed from them.
        """
        if self.root(name) in self._from_inputs:
            return "input", name
        seen, todo = {""}, [name]
        while todo:
            name = self.root(todo.pop())
            if name in seen or name in self._zero:
                continue
            seen.add(name)
            array, node = self.constant(name), self.producer(name)
            if array is None and node is not None:
                todo += decisive(node)
                if node.op_type == "ConstantOfShape":
                    array = self.attributes(node).get("value")
                elif node.op_type not in MOVES:
                    return "constant", name
            if array is not None and distinct(array).any():
                return "constant", name
        self._zero |= seen
        return "zero", name

    @functools.cached_property
    def _zero(self) -> set[str]:
        """What is known to be zero."""
        return set()

    @functools.cached_property
    def _from_inputs(self) -> set[str]:
        """The values that inputs decide; those that nothing in the graph makes among them."""
        made = self.tensors.keys() | self.producers.keys()
        absent = {name for node in self.proto.node for name in node.input if name and name not in made}
        return self._reached(absent | self.inputs.keys(), decisive)

    @functools.cached_property
    def _variable(self) -> set[str]:
        """The values that are no constants, nor made of such by operators that are known here."""
        unknown = {
            name
            for node in self.proto.node
            if node.op_type not in FOLDS and node.op_type not in ("Constant", "Identity")
            for name in node.output
        }
        return self._reached(unknown | self._from_inputs, lambda node: node.input)

    def _reached(self, start: set[str], inputs: Callable[[Any], Iterable[str]]) -> set[str]:
        """The values that are computed from some; found in one pass."""
        readers = self._readers(inputs)
        found, todo = set(start), list(start)
        passed: set[int] = set()
        while todo:
            for node in readers.pop(todo.pop(), ()):
                if id(node) not in passed:
                    passed.add(id(node))
                    results = set(node.output) - found
                    found |= results
                    todo += results
        return found - self.tensors.keys()

    def _readers(self, inputs: Callable[[Any], Iterable[str]]) -> dict[str, list[Any]]:
        readers: dict[str, list[Any]] = {}
        for node in self.proto.node:
            for name in inputs(node):
                readers.setdefault(name, []).append(node)
        return readers

    @functools.cached_property
    def readers(self) -> dict[str, list[Any]]:
        """The nodes that read each value, or have a body that does."""
        return self._readers(_names_read)

    def shape_of_input(self, name: str) -> list[int | None] | None:
        """The sizes that the graph gives one of its inputs, None for each that a call decides."""
        if name not in self.inputs or not self.inputs[name].type.tensor_type.HasField("shape"):
            return None
        return [dim.dim_value if dim.dim_value > 0 else None for dim in self.inputs[name].type.tensor_type.shape.dim]

    def moves_from_gru(self, name: str) -> tuple[str, list[Any]] | None:
        """The first output of a GRU that becomes the value `name` by moves of axes alone, and these nodes in order."""
        moves: list[Any] = []
        while (node := self.producer(name)) is not None and len(moves) < DEPTH:
            name = self.root(name)
            if is_gru(node):
                return (name, moves[::-1]) if name == node.output[0] else None
            if (node.op_type not in MOVERS and self.turn(node) is None) or not node.input:
                break
            moves.append(node)
            name = node.input[0]
        return None

    def turn(self, node: Any) -> Turn | None:
        """What a node turns round, None where it is no such node."""
        return self._turning(node)[0]

    def _turning(self, node: Any) -> tuple[Turn | None, str]:
        """What a node turns round, and what to call it where it reads an axis backwards."""
        if id(node) not in self._turns:
            found: tuple[Turn | None, str] = (None, "")
            if node.op_type == "ReverseSequence" and len(node.input) == 2:
                names = ("time_axis", "batch_axis")
                axis, batch = (self.attribute(node, name, KINDS.INT, i) for i, name in enumerate(names))
                found = Turn(axis, batch, node.input[1]), "ReverseSequence"
            elif node.op_type == "Slice" and len(node.input) == 5 and node.input[4]:
                start, end, axes, step = (self._integers(name) for name in node.input[1:])
                if step and min(step) < 0:
                    found = None, "Slice with a negative step"
                    whole = start in ([-1], [2**31 - 1], [2**63 - 1]) and end and end[0] <= 1 - 2**31
                    if whole and axes and len(axes) == 1 and step == [-1]:
                        found = Turn(axes[0]), found[1]
            self._turns[id(node)] = found
        return self._turns[id(node)]

    def _integers(self, name: str) -> list[int] | None:
        """A short constant, None where a value is none."""
        array = self.constant(name) if name else None
        return array.ravel().tolist() if array is not None and array.size <= files.MAX_AXES else None

    def turned(self, name: str) -> str:
        """The operator that turns a graph's input round in time on its way to a value by moves; "" where none does."""
        for _ in range(DEPTH):
            node = self.producer(name)
            if node is None or not node.input:
                break
            if self._turning(node)[1]:
                return self._turning(node)[1]
            if node.op_type not in MOVES or node.op_type == "Concat":
                break
            name = node.input[0]
        return ""

    def moved(self, axes: Axes, sizes: Sizes, moves: Sequence[Any]) -> Axes | None:
        """The axes after these nodes, None where that cannot be told; `sizes` has H and D, perhaps T and B."""
        found: Axes | None = axes
        for node in moves:
            if found is None:
                return None
            turn = self.turn(node)
            if turn is not None:
                found = turned(found, turn.axis)
                continue
            operand = self.operand(node)
            if operand is not None and len(operand) > files.MAX_AXES:
                return None
            found = MOVERS[node.op_type](found, operand, sizes)
        return found

    def operand(self, node: Any) -> list[Any] | None:
        """The axes or the shape that a move is given, looked up once, as many GRUs may be behind it."""
        if id(node) not in self._operands:  # which self.producers holds
            operand = self.attribute(node, "perm" if node.op_type == "Transpose" else "axes", KINDS.INTS)
            if len(node.input) > 1 and node.op_type != "Transpose":
                operand = self.shapes.list(node.input[1])
            if node.op_type == "Reshape" and self.attribute(node, "allowzero", KINDS.INT):
                operand = None
            self._operands[id(node)] = operand
        return self._operands[id(node)]
