"""Constants that an ONNX graph makes of its constants: the reordering of gates, quantized weights and what they mean.

Each operator is a function of a few lines of NumPy; a node that says something unusual is not folded. What repeats
numbers gives a view of them, which takes no memory whatever its shape; what makes numbers claims their bytes before.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    import numpy.typing as npt

    from cgru.types import Array

KIND = onnx.TensorProto
NUMBERS: dict[int, npt.DTypeLike] = {
    KIND.FLOAT: np.float32,
    KIND.DOUBLE: np.float64,
    KIND.FLOAT16: np.float16,
    KIND.INT8: np.int8,
    KIND.UINT8: np.uint8,
    KIND.INT16: np.int16,
    KIND.UINT16: np.uint16,
    KIND.INT32: np.int32,
    KIND.INT64: np.int64,
}
"""What Cast and DequantizeLinear make."""

BFLOAT16 = np.dtype([("bfloat16", "<u2")])
"""The upper halves of float32 numbers: they can be moved about, but NumPy has no arithmetic for them."""


class Cost:
    """What constants take, held in proportion to the tensors they are made of."""

    def __init__(self, most: int, whole: Cost | None = None) -> None:
        self.most, self.whole = most, whole
        self.spent = self.stored = 0
        self._sources: set[Hashable] = set()

    def add(self, size: int, source: Hashable = None, stored: int | None = None) -> None:
        """Count bytes that are made, perhaps of what a file stores (of so many bytes, else the same).

        MemoryError where a graph multiplies what it has.
        """
        size = max(size, 64)
        if source is not None and source not in self._sources:
            self._sources.add(source)
            self.stored += size if stored is None else stored
        self.spent += size
        if self.spent > 2**16 + self.most * self.stored:
            raise MemoryError("a constant takes more memory than its parts explain")
        if self.whole is not None:
            self.whole.add(size, source, stored)


class Call(NamedTuple):
    """A node whose inputs are known."""

    operator: str
    operands: list[Array | None]  # None where an optional one is absent
    attributes: dict[str, Any]
    output: int  # which of its outputs is wanted,
    outputs: int  # and of how many
    claim: Callable[[int], None]  # to call with a number of bytes before they are made

    @property
    def data(self) -> Array:
        """The first input."""
        return self.given(0)

    def given(self, position: int) -> Array:
        """An input that the operator needs."""
        array = self.operands[position] if position < len(self.operands) else None
        if array is None:
            raise ValueError(f"{self.operator}: expected an input {position}, got none")
        return array

    def make(self, *shape: int) -> None:
        """Claim an array of this shape."""
        self.claim(8 * math.prod(shape))

    def list(self, name: str, position: int) -> list[int] | None:
        """Integers that an operator has as an input, or in its older versions as an attribute."""
        array = self.operands[position] if position < len(self.operands) else None
        if array is None:
            found: list[int] | None = self.attributes.get(name)
            return found
        self.make(array.size)
        if not all(isinstance(number, int) for number in array.ravel().tolist()):
            raise TypeError(f"{self.operator}: {name}: expected integers, got {array.dtype}")
        return [int(number) for number in array.ravel()]


def fold(call: Call) -> Array | None:
    """One output of a node whose inputs are constants, or None where it says something that is not known here."""
    with np.errstate(over="ignore", under="ignore", invalid="raise", divide="raise"):
        result: Array | None = FOLDS[call.operator](call)
        return result


def distinct(array: Array) -> Array:
    """An array without what a view repeats."""
    once: list[Any] = [slice(0, 1) if stride == 0 else slice(None) for stride in array.strides]
    where = (*once, Ellipsis)
    return array[where]


def widened(array: Array) -> Array:
    """Numbers of 16 bits as float32, which holds each exactly; others as they are."""
    if array.dtype == BFLOAT16:
        return (array["bfloat16"].astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if array.dtype == np.float16 else array


# --- Moves ------------------------------------------------------------------------------------------------------------


def _cast(call: Call) -> Array | None:
    kind = NUMBERS.get(call.attributes["to"])
    if call.data.dtype == object:  # sizes, which any of these hold: a float32 up to 2^24 steps
        return call.data if kind in (np.float32, np.float64, np.int32, np.int64) else None
    if kind is None:
        return None
    call.make(call.data.size)
    return widened(call.data).astype(kind)


def _concat(call: Call) -> Array:
    arrays = [operand for operand in call.operands if operand is not None]
    call.make(sum(array.size for array in arrays))
    return np.concatenate(arrays, call.attributes["axis"])


def _constant_of_shape(call: Call) -> Array:
    value = call.attributes.get("value", np.zeros(1, np.float32))
    return np.broadcast_to(value.reshape(()), call.list("input", 0) or [])


def _expand(call: Call) -> Array:
    shape = call.list("shape", 1) or []
    return np.broadcast_to(call.data, np.broadcast_shapes(call.data.shape, tuple(shape)))


def _gather(call: Call) -> Array:
    axis, indices = call.attributes.get("axis", 0), call.given(1)
    call.make(call.data.size // max(call.data.shape[axis], 1), indices.size)
    if indices.dtype.kind not in "iO":
        raise TypeError(f"Gather: expected integers as indices, got {indices.dtype}")
    return np.asarray(np.take(call.data, indices.astype(np.int64), axis), call.data.dtype)


def _reshape(call: Call) -> Array | None:
    shape = call.list("shape", 1)
    if call.attributes.get("allowzero") or shape is None:
        return None
    call.make(call.data.size)
    return call.data.reshape([call.data.shape[i] if size == 0 else size for i, size in enumerate(shape)])


def _slice(call: Call) -> Array:
    names = ("starts", "ends", "axes", "steps")  # inputs since operator set 10, attributes before
    starts, ends, axes, steps = (call.list(name, i + 1) or [] for i, name in enumerate(names))
    where = [slice(None)] * call.data.ndim
    axes = axes or list(range(len(starts)))
    for axis, start, end, step in zip(axes, starts, ends, steps or [1] * len(axes), strict=True):
        where[axis] = slice(start, end, step)
    return call.data[tuple(where)]


def _split(call: Call) -> Array:
    """One of the parts."""
    axis, outputs = call.attributes.get("axis", 0), call.outputs
    size = call.data.shape[axis]
    sizes = call.list("split", 1) or [size // outputs] * outputs
    if sum(sizes) != size or min(sizes) < 0 or len(sizes) != outputs:
        raise ValueError(f"Split: expected {outputs} parts of {size}, got {sizes}")
    start = sum(sizes[: call.output])
    where = [slice(None)] * call.data.ndim
    where[axis] = slice(start, start + sizes[call.output])
    return call.data[tuple(where)]


def _squeeze(call: Call) -> Array:
    axes = call.list("axes", 1)
    return np.squeeze(call.data, None if axes is None else tuple(axes))


def _tile(call: Call) -> Array:
    repeats = call.list("repeats", 1) or []
    if len(repeats) != call.data.ndim or min(repeats, default=1) < 0:
        raise ValueError(f"Tile: expected a repeat for each of {call.data.ndim} axes, got {repeats}")
    call.make(call.data.size, *repeats)
    return np.tile(call.data, repeats)


# --- Arithmetic -------------------------------------------------------------------------------------------------------


def _binary(function: Callable[[Array, Array], Array]) -> Callable[[Call], Array]:
    """The operator of two arrays of one type, which ONNX broadcasts as NumPy does."""

    def run(call: Call) -> Array:
        a, b = call.given(0), call.given(1)
        if a.dtype != b.dtype:
            raise TypeError(f"{call.operator}: expected inputs of one type, got {a.dtype} and {b.dtype}")
        call.make(*np.broadcast_shapes(a.shape, b.shape))
        return function(a, b)

    return run


def _quotient(a: Array, b: Array) -> Array:
    """a / b, of integers without what follows the point."""
    if a.dtype.kind == "f":
        with np.errstate(divide="ignore"):
            return a / b
    return a // b + ((a % b != 0) & ((a < 0) != (b < 0)))


def _negative(call: Call) -> Array:
    call.make(call.data.size)
    return np.negative(call.data)


def _dequantized(call: Call) -> Array | None:
    """(x - zero) * scale, in the type of the scales, which are one, or one a row of an axis, or one a block of it."""
    scale = _spread(call, call.given(1))
    if call.attributes.get("output_dtype") or scale.dtype.kind != "f" or call.data.dtype.kind not in "iu":
        return None
    call.make(call.data.size)
    numbers = call.data.astype(np.int32)
    if len(call.operands) > 2:
        numbers = numbers - _spread(call, call.given(2)).astype(np.int32)
    return numbers.astype(scale.dtype) * scale


def _spread(call: Call, part: Array) -> Array:
    """Scales or zero points as they belong to the numbers."""
    shape, axis, block = call.data.shape, call.attributes.get("axis", 1), call.attributes.get("block_size", 0)
    if part.size == 1 and not block:
        return part.reshape(())
    axis = range(len(shape))[axis]
    if not block:
        return part.reshape([part.size if i == axis else 1 for i in range(len(shape))])
    if block < 0 or part.ndim != len(shape) or part.shape[axis] != -(-shape[axis] // block):
        raise ValueError(f"DequantizeLinear: expected a scale for each {block} of axis {axis}, got {part.shape}")
    call.make(part.size, min(block, shape[axis]))
    return np.repeat(part, min(block, shape[axis]), axis)[tuple(map(slice, shape))]


def shaped(call: Call, shape: tuple[Any, ...]) -> list[Any]:
    """What a Shape node gives of a shape."""
    return list(shape[call.attributes.get("start", 0) : call.attributes.get("end")])


FOLDS: dict[str, Callable[[Call], Array | None]] = {
    "Add": _binary(np.add),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DequantizeLinear": _dequantized,
    "Div": _binary(_quotient),
    "Expand": _expand,
    "Gather": _gather,
    "Mul": _binary(np.multiply),
    "Neg": _negative,
    "Reshape": _reshape,
    "Shape": lambda call: np.array(shaped(call, call.data.shape), np.int64),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _binary(np.subtract),
    "Tile": _tile,
    "Transpose": lambda call: call.data.transpose(call.attributes.get("perm")),
    "Unsqueeze": lambda call: np.expand_dims(call.data, tuple(call.list("axes", 1) or [])),
}
"""One output from the inputs and attributes; None where a node says something that is not known here."""
