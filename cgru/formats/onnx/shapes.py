"""What an ONNX graph says of shapes before its inputs are there: sizes are integers, or symbols of a value's axis.

Exporters compute sequences' lengths and shapes from the Shape of an input: here it shows which of them are its steps.
What is not known is None. Two sizes are equal only where the graph says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgru.errors import FormatError
from cgru.formats import files
from cgru.formats.onnx.fold import FOLDS, Call, distinct, fold, shaped

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from cgru.formats.onnx.graph import Graph

    Dims = tuple[Any, ...]  # an int or a Size an axis

ALIKE = ("Cast", "Clip", "Dropout", "Elu", "Identity", "LayerNormalization", "LeakyRelu", "PRelu", "Relu",
         "ReverseSequence", "Selu", "Sigmoid", "Softplus", "Tanh")  # fmt: skip
"""Operators whose first output has the shape of their first input."""

BROADCAST = ("Add", "Div", "Mul", "Sub")

EXACT = ("Add", "Cast", "Mul", "Neg", "Sub")
"""Operators that make one number of one, or of one each; quotients may be of floating point numbers."""

MOVES = ("Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
"""Operators whose results are numbers of their first input."""

REPEATS = ("Expand", "Tile")
"""Operators of which each number is one of the first input's."""

MOST = 64
"""Numbers of one value that are followed one by one; more only where all are the same."""

DEPTH = 100
"""Nodes in a row that are followed."""


class Size:
    """How long an axis of a value is, which a call decides."""

    def __init__(self, value: str, axis: int) -> None:
        self.of = (value, axis)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Size) and self.of == other.of

    def __hash__(self) -> int:
        return hash(self.of)

    def __mul__(self, other: object) -> Any:
        return self if other == 1 else NotImplemented

    def __add__(self, other: object) -> Any:
        return self if other == 0 else NotImplemented

    __rmul__, __radd__, __sub__ = __mul__, __add__, __add__


class Numbers(NamedTuple):
    """Integers and sizes: one by one, or one that all are, in whatever shape."""

    array: npt.NDArray[np.object_]
    uniform: bool = False


class Shapes:
    """The shapes of a graph's values and the integers made of them, each worked out once."""

    def __init__(self, graph: Graph, rank_of: dict[str, int]) -> None:
        self.graph, self.rank_of = graph, rank_of
        self._dims: dict[str, Dims | None] = {}
        self._numbers: dict[str, Numbers | None] = {}
        self._depth = 0

    def dims(self, name: str) -> Dims | None:
        """A value's shape, None where not even its rank is known."""
        name = self.graph.root(name)
        if name not in self._dims:
            self._dims[name] = None  # where a damaged graph comes back here
            found = self._deeper(self._find_dims, name)
            if found is None and name in self.rank_of:
                found = self._new(name, self.rank_of[name])
            self._dims[name] = found if found is None or len(found) <= files.MAX_AXES else None
        return self._dims[name]

    def numbers(self, name: str) -> Numbers | None:
        """The integers of a value, None where an input may decide them."""
        name = self.graph.root(name)
        if name not in self._numbers:
            self._numbers[name] = None
            self._numbers[name] = self._deeper(self._find_numbers, name)
        return self._numbers[name]

    def list(self, name: str) -> list[Any] | None:
        """The integers and sizes of a value, one by one."""
        found = self.numbers(name)
        return None if found is None or found.uniform else found.array.ravel().tolist()

    def all_are(self, name: str, size: Any) -> bool:
        """Whether each number of a value is this size."""
        found = self.numbers(name)
        return found is not None and all(number == size for number in found.array.ravel().tolist())

    def _deeper(self, find: Any, name: str) -> Any:
        if self._depth == DEPTH:
            return None
        self._depth += 1
        try:
            return find(name)
        except (ArithmeticError, FormatError, LookupError, MemoryError, TypeError, ValueError):
            return None
        finally:
            self._depth -= 1

    def _new(self, name: str, rank: int) -> Dims:
        return tuple(Size(name, axis) for axis in range(rank))

    def _find_dims(self, name: str) -> Dims | None:
        node = self.graph.producer(name)
        if name in self.graph.tensors:
            return tuple(self.graph.tensors[name].dims)
        if node is None:
            sizes = self.graph.shape_of_input(name)
            return None if sizes is None else tuple(size or Size(name, axis) for axis, size in enumerate(sizes))
        operator = node.op_type
        first = self.dims(node.input[0]) if node.input and node.input[0] else None
        if first is None:
            return None
        if operator in ALIKE and name == node.output[0]:
            return first
        if operator in ("Transpose", "Squeeze", "Unsqueeze"):
            return self._moved(operator, node, first)
        if operator in BROADCAST:
            return self._broadcast(name, first, self.dims(node.input[1]))
        if operator == "MatMul":
            second = self.dims(node.input[1])
            return None if second is None or len(second) != 2 or len(first) < 2 else (*first[:-1], second[1])
        if operator == "Gather":
            indices, axis = self.dims(node.input[1]), self.graph.attributes(node).get("axis", 0)
            axis = range(len(first))[axis]
            return None if indices is None else (*first[:axis], *indices, *first[axis + 1 :])
        if operator == "Reshape":
            shape = self.list(node.input[1])
            if shape is None or self.graph.attributes(node).get("allowzero"):
                return None
            return tuple(
                first[i] if size == 0 else Size(name, i) if size == -1 else size for i, size in enumerate(shape)
            )
        if operator == "GRU":
            return self._of_gru(node, name, first)
        if operator == "Slice" and self.graph.turn(node) is not None:
            return first
        return self._new(name, len(first)) if operator in ("Slice", "Conv", "Pad") else None

    def _moved(self, operator: str, node: Any, sizes: Dims) -> Dims | None:
        attributes = self.graph.attributes(node)
        if operator == "Transpose":
            perm = attributes.get("perm") or list(range(len(sizes)))[::-1]
            return tuple(sizes[axis] for axis in perm) if sorted(perm) == list(range(len(sizes))) else None
        axes = self.list(node.input[1]) if len(node.input) > 1 else attributes.get("axes")
        if axes is None:
            return None
        if operator == "Squeeze":
            gone = {range(len(sizes))[axis] for axis in axes}
            return tuple(size for axis, size in enumerate(sizes) if axis not in gone)
        rank = len(sizes) + len(axes)
        new, rest = {range(rank)[axis] for axis in axes}, iter(sizes)
        return tuple(1 if axis in new else next(rest) for axis in range(rank))

    def _broadcast(self, name: str, a: Dims, b: Dims | None) -> Dims | None:
        if b is None:
            return None
        rank = max(len(a), len(b))
        pairs = zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True)
        return tuple(x if x == y or y == 1 else y if x == 1 else Size(name, i) for i, (x, y) in enumerate(pairs))

    def _of_gru(self, node: Any, name: str, first: Dims) -> Dims | None:
        r = self.dims(node.input[2])
        if (
            r is None
            or len(r) != 3
            or len(first) != 3
            or self.graph.attributes(node).get("layout")
            or name != node.output[0]
        ):
            return None
        return first[0], r[0], first[1], r[2]

    def _find_numbers(self, name: str) -> Numbers | None:
        array = self.graph.constant(name)
        if array is not None:
            return self._of_constant(array)
        node = self.graph.producer(name)
        if node is None or node.op_type not in FOLDS:
            return None
        operator, attributes = node.op_type, self.graph.attributes(node)
        if operator == "Shape":
            dims = self.dims(node.input[0])
            return None if dims is None else Numbers(_objects(shaped(self._call(node, attributes, []), dims)))
        if operator == "ConstantOfShape":
            return self._of_constant(np.asarray(attributes.get("value", np.zeros(1, np.float32))), uniform=True)
        given = [self.numbers(operand) if operand else None for operand in node.input]
        first = given[0]
        if first is not None and self._same(first) and (operator in REPEATS or (first.uniform and operator in MOVES)):
            return Numbers(first.array.ravel()[:1], uniform=True)
        if operator == "Div" or any(found is None for found, operand in zip(given, node.input, strict=True) if operand):
            return None
        uniform = any(found is not None and found.uniform for found in given)
        if uniform and not (operator in EXACT and all(found is not None and self._same(found) for found in given)):
            return None
        result = fold(self._call(node, attributes, [None if found is None else found.array for found in given], name))
        if result is None or result.size > MOST or any(isinstance(n, int) and abs(n) >= 2**63 for n in result.flat):
            return None
        return Numbers(result.ravel()[:1] if uniform else result, uniform)

    def _call(self, node: Any, attributes: dict[str, Any], operands: Sequence[Any], name: str = "") -> Call:
        output = list(node.output).index(name) if name else 0
        return Call(node.op_type, list(operands), attributes, output, len(node.output), _bounded)

    @staticmethod
    def _same(found: Numbers) -> bool:
        """Whether all numbers are one."""
        numbers = found.array.ravel().tolist()
        return bool(numbers) and all(number == numbers[0] for number in numbers)

    @staticmethod
    def _of_constant(array: npt.NDArray[Any], uniform: bool = False) -> Numbers | None:
        uniform = uniform or array.size > MOST
        array = distinct(array) if uniform else array
        if array.dtype.kind == "f" and array.size and (array == np.floor(array)).all() and (abs(array) < 2**24).all():
            array = array.astype(np.int64)
        if array.dtype.kind not in "iu" or not array.size:
            return None
        if uniform:
            return Numbers(_objects([int(array.flat[0])]), uniform=True) if (array == array.flat[0]).all() else None
        return Numbers(_objects(array.ravel().tolist()).reshape(array.shape))


def _objects(values: Sequence[Any]) -> npt.NDArray[np.object_]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _bounded(size: int) -> None:
    if size > 8 * MOST:
        raise MemoryError("more numbers than are followed one by one")
