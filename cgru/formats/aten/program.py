"""A program of torch.export as a network: its ATen operators one after the other, by the table of this folder.

Sizes need no operators here: torch.export knows each as an expression of the dynamic axes' symbols, and a network's
sizes are such expressions (`cgru/model/nodes/sizes.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgru import checks
from cgru.errors import FormatError
from cgru.formats.aten import activations, arithmetic, layers, movement
from cgru.model.nodes import REFUSED
from cgru.model.nodes.sizes import Size
from cgru.model.writing import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cgru.model.graph import Graph
    from cgru.model.nodes.table import Sizes
    from cgru.types import Array

TABLE: dict[str, Callable[..., Any]] = {
    name: write for family in (activations, arithmetic, layers, movement) for name, write in family.OPERATORS.items()
}
"""By an operator's name, with its overload where these differ: (program, *arguments, **options) -> value or values."""

GETITEM = "_operator.getitem"
"""One of several results."""

TYPES = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")


class Tensor(NamedTuple):
    """A value of the network, as operators' functions see it."""

    name: str
    shape: Sizes
    dtype: np.dtype[Any]
    array: Array | None = None
    """Of a parameter or a constant."""


def dtype_of(what: str, dtype: Any) -> np.dtype[Any]:
    """NumPy's type for one of torch."""
    name = str(dtype).removeprefix("torch.")
    if name not in TYPES:
        mend = "; convert the module with .float()" if "float" in name else ""
        raise FormatError(f"{what}: expected {', '.join(TYPES)}, got {name}{mend}")
    return np.dtype(name)


def operator_of(node: Any) -> str:
    """The name of what a node calls, with its overload: "aten.add.Tensor" is "add.Tensor"."""
    target = node.target
    return str(target).removeprefix("aten.") if hasattr(target, "_schema") else f"{target.__module__}.{target.__name__}"


def is_size(node: Any) -> bool:
    """Whether a node's result is a number that the sizes of inputs decide."""
    return not isinstance(node.meta.get("val"), (tuple, list)) and not hasattr(node.meta.get("val"), "dtype")


def row_of(node: Any) -> Callable[..., Any] | None:
    """What writes the operator that a node calls."""
    name = operator_of(node)
    return TABLE.get(name) or TABLE.get(name.rpartition(".")[0])


def unknown(graph: Any) -> dict[str, list[Any]]:
    """The nodes of a program whose operators the table has not, by operator."""
    found: dict[str, list[Any]] = {}
    for node in graph.nodes:
        called = node.op == "call_function" and not is_size(node) and operator_of(node) != GETITEM
        if called and row_of(node) is None:
            found.setdefault(operator_of(node), []).append(node)
    return found


def is_lstm(node: Any) -> bool:
    """Whether a node is an LSTM or its cell."""
    return operator_of(node).startswith("lstm")


def refuse_unknown(program: Any, source: str) -> None:
    """One error for all operators that are not in the table."""
    found = unknown(program.graph)
    for node in program.graph.nodes:
        if node.op == "call_function" and is_lstm(node):
            raise FormatError(f"{source}: {operator_of(node)}: {REFUSED['LSTM']}")
    if found:
        listed = "; ".join(
            f"{name} ({checks.listed([node.name for node in nodes], 8)})" for name, nodes in found.items()
        )
        raise FormatError(
            f"{source}: expected operators that networks have here, got {listed}; torch.onnx.export and "
            "cgru.Network.from_onnx know other ones"
        )


class Program:
    """A network while it is written, for the functions of the table."""

    def __init__(self, source: str, axes: Mapping[str, str]) -> None:
        self.source, self.axes = source, axes
        """Names of dynamic axes by torch's symbols."""
        self.writer = Writer(source)
        self.values: dict[Any, Any] = {}
        self.node: Any = None
        """That is being written."""

    # --- What functions of the table call -----------------------------------------------------------------------------

    def op(self, operator: str, *inputs: Tensor | str | None, outputs: int = 1, **attributes: Any) -> Any:
        """Write a node; the name of what it gives, or a tuple of them."""
        names = [one.name if isinstance(one, Tensor) else one or "" for one in inputs]
        return self.writer.add(operator, *names, name=self.node.name, outputs=outputs, **attributes)

    def constant(self, array: Any, dtype: Any = None) -> str:
        """The name of a constant."""
        return self.writer.constant(np.asarray(array, dtype))

    @property
    def shape(self) -> Sizes:
        """Of the result of the node that is being written."""
        return self.sizes(self.node.meta["val"].shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of that result."""
        return self.type_of(self.node.meta["val"].dtype)

    def type_of(self, dtype: Any) -> np.dtype[Any]:
        """NumPy's type for one of torch."""
        return dtype_of(f"{self.source}: {self.node.name}", dtype)

    def cast(self, value: Any, dtype: np.dtype[Any]) -> str:
        """A value, or a number, in a type."""
        if not isinstance(value, Tensor):
            return self.constant(self.number(value), dtype)
        return value.name if value.dtype == dtype else str(self.op("Cast", value, to=dtype.name))

    def number(self, value: Any) -> Any:
        """A number that is known."""
        if isinstance(value, (Size, Tensor)):
            raise self.refused("numbers that are known when the network is made", value)
        return value

    def refused(self, expected: str, got: Any) -> FormatError:
        """The error of a node whose arguments have no counterpart."""
        got = checks.describe(got.shape) if isinstance(got, Tensor) else got
        return FormatError(
            f"{self.source}: {operator_of(self.node)} {self.node.name!r}: expected {expected}, got {got}"
        )

    def sizes(self, shape: Sequence[Any]) -> Sizes:
        """A shape, or a list of sizes, in names of dynamic axes."""
        return tuple(self.size(size) for size in shape)

    def size(self, size: Any) -> int | Size:
        """A size in names of dynamic axes."""
        return size if isinstance(size, (int, Size)) else self._expression(size.node.expr)

    def _expression(self, expression: Any) -> int | Size:
        kind = type(expression).__name__
        if expression.is_Integer:
            return int(expression)
        if expression.is_Symbol:
            return Size(self.axes[str(expression)])
        parts: list[Any] = [self._expression(part) for part in expression.args]
        if kind in ("Add", "Mul"):
            total: int | Size = parts[0]
            for part in parts[1:]:
                total = total + part if kind == "Add" else total * part
            return total
        if kind in ("FloorDiv", "CleanDiv"):
            quotient: int | Size = parts[0] // parts[1]
            return quotient
        raise FormatError(f"{self.source}: {self.node.name}: expected a size as T+1, got {expression}")

    # --- The walk -----------------------------------------------------------------------------------------------------

    def given(self, node: Any, name: str) -> None:
        """An input of the network."""
        self.node = node
        value = node.meta["val"]
        shape, dtype = self.sizes(value.shape), self.type_of(value.dtype)
        self.values[node] = Tensor(self.writer.input(name, shape, dtype), shape, dtype)

    def known(self, node: Any, name: str, tensor: Any) -> None:
        """A parameter, a buffer or a constant."""
        self.node = node
        dtype = dtype_of(f"{self.source}: {name}", tensor.dtype)
        array = tensor.detach().cpu().numpy().astype(dtype, copy=True)
        self.values[node] = Tensor(self.writer.constant(array, name), array.shape, dtype, array)

    def call(self, node: Any) -> None:
        """An operator."""
        self.node = node
        result = node.meta.get("val")
        if operator_of(node) == GETITEM:
            self.values[node] = self.values[node.args[0]][node.args[1]]
            return
        if is_size(node):
            if type(result).__name__ in ("int", "SymInt"):  # others belong to assertions
                self.values[node] = self.size(result)
            return
        write = row_of(node)
        assert write is not None
        arguments, options = ([*map(self._resolved, node.args)], {k: self._resolved(v) for k, v in node.kwargs.items()})
        written = write(self, *arguments, **options)
        several = isinstance(result, (tuple, list))
        tensors = [
            Tensor(value, self.sizes(like.shape), self.type_of(like.dtype))
            for value, like in zip(written if several else [written], result if several else [result], strict=False)
        ]
        self.values[node] = tensors if several else tensors[0]

    def _resolved(self, argument: Any) -> Any:
        """An argument with values in the place of the nodes that give them."""
        if isinstance(argument, (list, tuple)):
            return [self._resolved(part) for part in argument]
        if hasattr(argument, "op") and hasattr(argument, "meta"):
            if argument not in self.values:
                raise self.refused("tensors and integers", operator_of(argument))
            return self.values[argument]
        return argument

    def graph(self, outputs: Mapping[str, str], states: Mapping[str, str] | None, max_memory: int) -> Graph:
        """The whole."""
        return self.writer.graph(outputs, states=states, max_memory=max_memory)
