"""Constants that an ONNX graph makes of its constants: exporters may leave the reordering of gates to such nodes.

Only operators that move numbers about, each a line of NumPy; a node that says something unusual is not folded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

if TYPE_CHECKING:
    from collections.abc import Hashable

    from cgru.types import Array

    Operands = list[Array | None]  # a node's inputs; None where an optional one is absent

NUMBERS = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.DOUBLE: np.float64, onnx.TensorProto.INT64: np.int64}


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


def fold(operator: str, attributes: dict[str, Any], operands: Operands, output: int, outputs: int) -> Array | None:
    """One output of a node whose inputs are constants, or None where it is not one of the few that are known."""
    data, *rest = operands
    if data is None or operator not in FOLDS:
        return None
    if operator == "Concat":
        return np.concatenate([operand for operand in operands if operand is not None], attributes["axis"])
    lists = [None if operand is None else [int(number) for number in operand.ravel()] for operand in rest]
    if operator == "Split":
        return _split(data, attributes, lists, output, outputs)
    return FOLDS[operator](data, attributes, [*lists, *[None] * 4])


def _cast(data: Array, attributes: dict[str, Any], lists: list[Any]) -> Array | None:
    kind = NUMBERS.get(attributes["to"])
    return None if kind is None else data.astype(kind)


def _slice(data: Array, attributes: dict[str, Any], lists: list[Any]) -> Array | None:
    names = ("starts", "ends", "axes", "steps")  # inputs since operator set 10, attributes before
    starts, ends, axes, steps = (lists[i] or attributes.get(name) or [] for i, name in enumerate(names))
    if set(steps) - {1}:
        return None
    where = [slice(None)] * data.ndim
    for axis, start, end in zip(axes or range(len(starts)), starts, ends, strict=True):
        where[axis] = slice(start, end)
    return data[tuple(where)]


def _reshape(data: Array, attributes: dict[str, Any], lists: list[Any]) -> Array | None:
    shape = lists[0]
    if attributes.get("allowzero") or not shape:
        return None
    return data.reshape([data.shape[i] if size == 0 else size for i, size in enumerate(shape)])


def _split(data: Array, attributes: dict[str, Any], lists: list[Any], output: int, outputs: int) -> Array:
    """One of the parts."""
    axis = attributes.get("axis", 0)
    sizes = (lists[0] if lists else None) or attributes.get("split") or [data.shape[axis] // outputs] * outputs
    if sum(sizes) != data.shape[axis] or min(sizes) < 0 or len(sizes) != outputs:
        raise ValueError(f"Split: expected {outputs} parts of {data.shape[axis]}, got {sizes}")
    start = sum(sizes[:output])
    where = [slice(None)] * data.ndim
    where[axis] = slice(start, start + sizes[output])
    return data[tuple(where)]


def _axes(attributes: dict[str, Any], lists: list[Any]) -> tuple[int, ...]:
    return tuple(lists[0] or attributes["axes"])


FOLDS: dict[str, Any] = {
    "Cast": _cast,
    "Concat": None,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": None,
    "Squeeze": lambda data, attributes, lists: np.squeeze(data, _axes(attributes, lists)),
    "Transpose": lambda data, attributes, lists: data.transpose(attributes.get("perm")),
    "Unsqueeze": lambda data, attributes, lists: np.expand_dims(data, _axes(attributes, lists)),
}
"""From the first input, the attributes and the other inputs as lists of integers."""
