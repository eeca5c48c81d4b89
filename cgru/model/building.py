"""Networks made of what files and programs say: checked, sorted, with shapes, everything folded that can be.

What depends on no input becomes a constant, arithmetic with shapes included, in which dynamic axes are names
(`nodes/sizes.py`). What is the same number everywhere, but of a dynamic shape, as initial states of a batch, becomes
that number where its reader broadcasts it, and vanishes where it is the default.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.errors import FormatError
from cgru.model import caches, ordering, timing, uniting
from cgru.model import states as pairs
from cgru.model.graph import MAX_MEMORY, Graph, Node
from cgru.model.nodes.sizes import Size, at_least
from cgru.model.nodes.table import NEWEST, OLDEST, Sizes, attributes_of, broadcast, check_types

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cgru.types import Array

WRONG = (ArithmeticError, LookupError, MemoryError, TypeError, ValueError)
"""What an operator's functions raise where a node makes no sense."""

MOST_WORK = 10**9
"""Multiplications of one node of constants that are done here; what takes more stays a node."""

MOST_TRIES = 12
"""Of building a network whose axes have more names than they need."""

MOST_AXES = 16
"""Of a value; NumPy's have at least 32."""


def build(
    nodes: Sequence[Node],
    constants: Mapping[str, Array],
    inputs: Mapping[str, Sizes],
    outputs: Sequence[str],
    *,
    types: Mapping[str, np.dtype[Any]] | None = None,
    states: Mapping[str, str] | None = None,
    opset: int = NEWEST,
    max_memory: int = MAX_MEMORY,
    source: str = "network",
) -> Graph:
    """A network of these nodes, in any order.

    Parameters
    ----------
    inputs : mapping
        Shapes by name; a `Size` is a dynamic axis. States are among them, and among the outputs.
    types : mapping, optional
        Of inputs that are not float32.
    states : mapping, optional
        Pairs {input: output}; without it they are found by shape and name.
    opset : int
        Whose defaults of attributes hold.
    max_memory : int
        Bytes that all values together may take, dynamic axes of size 1.
    source : str
        What messages begin with.

    Raises
    ------
    cgru.FormatError
        Naming the nodes, values or shapes that do not go together.
    """
    if not OLDEST <= opset <= NEWEST:
        raise FormatError(f"{source}: expected an operator set from {OLDEST} to {NEWEST}, got {opset}; convert the "
                          f"model with onnx.version_converter.convert_version(model, {NEWEST - 5})")  # fmt: skip
    ordering.refuse_unknown(nodes, source)
    ordered = ordering.ordered(nodes, {*constants, *inputs}, source)
    ordering.refuse_missing(ordered, constants, inputs, outputs, source)
    tries = MOST_TRIES
    while True:
        builder = _Builder(constants, inputs, types or {}, opset, max_memory, source, tries > 0)
        try:
            for node in ordered:
                builder.add(node, node.outputs, set(outputs))
            return builder.finished(outputs, states)
        except uniting.OneAxis as found:  # each time there are fewer names
            inputs = {name: uniting.renamed(shape, found.names) for name, shape in inputs.items()}
            tries -= 1


class _Builder:
    """A network while its nodes are added one after the other."""

    def __init__(
        self, constants: Mapping[str, Array], inputs: Mapping[str, Sizes], types: Mapping[str, np.dtype[Any]],
        opset: int, max_memory: int, source: str, unites: bool,
    ) -> None:  # fmt: skip
        self.opset, self.max_memory, self.source, self.unites = opset, max_memory, source, unites
        self.inputs = dict(inputs)
        self.constants: dict[str, Array] = {}
        self.shapes: dict[str, Sizes] = {}
        self.types: dict[str, np.dtype[Any]] = {}
        self.fills: dict[str, Array] = {}
        """Values of a dynamic shape that are one number everywhere: that number."""
        self.same: dict[str, str] = {}
        """Values that are another one."""
        self.nodes: list[Node] = []
        self.spent = 0
        for name, array in constants.items():
            self._note(f"constant {name!r}", name, array.shape, array.dtype)
            self.constants[name] = array
        for name, shape in inputs.items():
            self._note(f"input {name!r}", name, tuple(shape), np.dtype(types.get(name, np.float32)))

    def _note(self, what: str, name: str, shape: Sizes, dtype: np.dtype[Any], more: int | Size = 0) -> None:
        """Keep a value's shape and type, and count its bytes."""
        if len(shape) > MOST_AXES:
            raise FormatError(f"{self.source}: {what}: expected at most {MOST_AXES} axes, got {len(shape)}")
        numbers = math.prod(max(0, at_least(size)) for size in shape) + max(0, at_least(more))
        self.spent += numbers * dtype.itemsize
        if self.spent > self.max_memory:
            raise FormatError(
                f"{self.source}: {what}: expected values of at most max_memory={self.max_memory:,} bytes in all, got "
                f"{self.spent:,} with this one {checks.describe(shape)}; give a larger max_memory if that is meant"
            )
        if name:
            self.shapes[name], self.types[name] = shape, dtype

    # --- A node -------------------------------------------------------------------------------------------------------

    def add(self, node: Node, written: Sequence[str], outputs: set[str]) -> None:
        """Complete a node, and fold it or keep it."""
        row = node.row
        names = [self.same.get(name, name) for name in node.inputs]
        while names and not names[-1]:
            names.pop()
        try:
            if not row.inputs[0] <= len(names) <= row.inputs[1] or not all(names[: row.inputs[0]]):
                raise ValueError(f"expected {_range(row.inputs)} inputs, got {sum(map(bool, names))}")
            if not row.outputs[0] <= len(written) <= row.outputs[1]:
                raise ValueError(f"expected {_range(row.outputs)} outputs, got {len(written)}")
            names, attributes = self._known(node, names)
            kinds = [self.types[name] if name else None for name in names]
            check_types(row, kinds)
            shapes = [self.shapes[name] if name else None for name in names]
            more = {"outputs": len(written)} if row.counted else {}
            shape = row.shape(*shapes, **attributes, **more)
            found = row.types(kinds, **attributes, **more)
            work, held = row.work(*shapes, **attributes) if row.work else (0, 0)
            if row.settled:
                attributes |= row.settled(*shapes, **attributes)
        except WRONG as error:
            if self.unites:
                found = [self.shapes[name] for name in names if name]
                axes = uniting.find(self.inputs.values(), found, lambda axes: self._agree(node, names, axes))
                if axes is not None:
                    raise uniting.OneAxis(axes) from error
            raise FormatError(f"{self.source}: {node.title}: {error}") from error
        results = shape if isinstance(shape, list) else [shape]
        dtypes = found if isinstance(found, list) else [found] * len(results)
        for name, result, dtype in zip(written, results, dtypes, strict=False):
            self._note(node.title, name, result, dtype, held)
        done = Node(node.operator, node.name, tuple(names), tuple(written), attributes)
        self._place(done, work, outputs)

    def _agree(self, node: Node, names: list[str], axes: Mapping[str, str]) -> bool:
        """Whether a node's shapes agree once axes are renamed."""
        try:
            names, attributes = self._known(node, list(names))
            shapes = [uniting.renamed(self.shapes[name], axes) if name else None for name in names]
            node.row.shape(*shapes, **attributes, **({"outputs": len(node.outputs)} if node.row.counted else {}))
        except WRONG:
            return False
        return True

    def _known(self, node: Node, names: list[str]) -> tuple[list[str], dict[str, Any]]:
        """A node's inputs without those that are attributes here, and all attributes."""
        given = {key: value for key, value in node.attributes.items() if value is not None}
        for position, key in node.row.known.items():
            name = names[position] if position < len(names) else ""
            if not name:
                continue
            if name not in self.constants:
                raise ValueError(f"{key}: expected numbers that are known when the network is made, got {name!r}, "
                                 "which inputs decide; make the model's shapes fixed")  # fmt: skip
            array = self.constants[name]
            kind = node.row.attributes[key].kind
            if kind in ("int", "float"):
                if array.size != 1:
                    raise ValueError(f"{key}: expected one number, got {checks.describe(array.shape)}")
                given[key] = array.reshape(-1)[0] if array.dtype == object else array.reshape(-1)[0].item()
            else:
                given[key] = array
            names[position] = ""
        while names and not names[-1]:
            names.pop()
        return names, attributes_of(node.row, given, self.opset)

    def _place(self, node: Node, work: Any, outputs: set[str]) -> None:
        """Fold a node, or keep it."""
        if node.operator == "CastLike":
            to = {"to": self.types[node.inputs[1]].name}
            node = Node("Cast", node.name, node.inputs[:1], node.outputs, to)
        if self._changes_nothing(node) and not any(node.outputs[1:]):
            (source, *_), (result, *_) = node.inputs, node.outputs
            if result in outputs:
                node = Node("Identity", node.name, (source,), (result,))
            else:
                self.same[result] = source
                if source in self.fills:
                    self.fills[result] = self.fills[source]
                return
        if self._fold(node, work):
            return
        node = self._plain(node)
        fill = self._fill(node)
        if fill is not None:
            (result,) = node.outputs
            self.fills[result] = fill
            if fill.dtype == object:  # every reader that can use it leaves it out
                return
            shape = {"shape": self.shapes[result], "value": fill}
            node = Node("ConstantOfShape", node.name, (), node.outputs, shape)
        for name in node.inputs:
            array = self.constants.get(name, self.fills.get(name))
            if array is not None and array.dtype == object:
                found = checks.listed([size for size in array.ravel() if isinstance(size, Size)], 4)
                raise FormatError(
                    f"{self.source}: {node.title}: expected inputs that are data or known, got {name!r}, which depends "
                    f"on the size of a dynamic axis ({found}); make the model's shapes fixed"
                )
        self.nodes.append(node)

    def _changes_nothing(self, node: Node) -> bool:
        """Whether a node's first output is its first input."""
        given = node.attributes
        same = bool(node.inputs) and self.shapes[node.inputs[0]] == self.shapes.get(node.outputs[0])
        if node.operator in ("Identity", "Dropout"):
            return True
        if node.operator in ("Expand", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Tile"):
            return same
        if node.operator in ("Concat", "Sum", "Mean", "Max", "Min"):
            return len(node.inputs) == 1
        if node.operator == "Slice":
            return same and all(step > 0 for step in given["steps"] or ())
        if node.operator == "Transpose":
            return given["perm"] == tuple(range(len(given["perm"])))
        if node.operator == "Pad":
            return not any(given["pads"])
        return node.operator == "Cast" and self.types[node.inputs[0]] == np.dtype(given["to"])

    def _fold(self, node: Node, work: Any) -> bool:
        """Compute a node of constants; whether that could be done."""
        row = node.row
        more = {"outputs": len(node.outputs)} if row.counted else {}
        dynamic = any(
            isinstance(one, Size) for value in node.attributes.values() if isinstance(value, tuple) for one in value
        )
        constant = all(name in self.constants for name in node.inputs if name)
        if row.counts is None and (dynamic or not constant or isinstance(work, Size) or work > MOST_WORK):
            return False
        if any(isinstance(size, Size) for name in node.outputs if name for size in self.shapes[name]):
            return False
        sizes = [name for name in node.inputs if constant and name and self.constants[name].dtype == object]
        whole = row.moves or node.operator in ("Cast", "Concat")
        if not whole and any(self.types[name].kind == "f" for name in sizes):  # T / 2 is no integer
            return False
        try:
            if row.counts is not None:
                results: Any = row.counts(self.shapes[node.inputs[0]], **node.attributes)
            else:
                arrays = [self.constants[name] if name else None for name in node.inputs]
                with np.errstate(all="ignore"):
                    results = row.run(*arrays, **node.attributes, **more)
        except WRONG as error:
            raise FormatError(f"{self.source}: {node.title}: {error}") from error
        results = results if isinstance(results, tuple) else (results,)
        for name, array in zip(node.outputs, results, strict=False):
            if name:
                self.constants[name] = _plainly(np.asarray(array), self.types[name])
        return True

    def _plain(self, node: Node) -> Node:
        """A node without inputs that are defaults, and with a number where an array has no other."""
        names = list(node.inputs)
        recurrence = node.row.recurrence
        if recurrence is not None:
            steps = self.shapes[names[0]][recurrence.time(**node.attributes)]
            for position, usual in ((recurrence.lengths, steps), (recurrence.initial, 0)):
                given = position is not None and position < len(names) and names[position]
                number = self._uniform(given) if given else None
                if position is not None and number is not None and number.reshape(-1)[0] == usual:
                    names[position] = ""
        elif node.row.shape is broadcast:
            for position, name in enumerate(names):
                rest = [self.shapes[other] for i, other in enumerate(names) if other and i != position]
                if name in self.fills and rest and broadcast(*rest) == self.shapes[node.outputs[0]]:
                    names[position] = self._number(self.fills[name], self.types[name])
        while names and not names[-1]:
            names.pop()
        return Node(node.operator, node.name, tuple(names), node.outputs, node.attributes)

    def _uniform(self, name: str) -> Array | None:
        """The number that a value is everywhere."""
        if name in self.fills:
            return self.fills[name]
        array = self.constants.get(name)
        if array is None or not array.size or not np.all(array == array.reshape(-1)[0]):
            return None
        return array.reshape(-1)[:1]

    def _number(self, array: Array, dtype: np.dtype[Any]) -> str:
        """The name of a constant that is this number."""
        number = array.reshape(())
        name = f"{dtype}:{number}"
        while name in self.shapes and not (name in self.constants and np.array_equal(self.constants[name], number)):
            name += "'"
        if name not in self.shapes:
            self._note("number", name, (), dtype)
            self.constants[name] = number
        return name

    def _fill(self, node: Node) -> Array | None:
        """The number that a node's result is everywhere, where its shape is dynamic."""
        if len(node.outputs) != 1 or not (node.row.moves or node.row.pointwise or node.operator == "ConstantOfShape"):
            return None
        if node.operator == "ConstantOfShape":
            value = node.attributes["value"]
            return np.zeros((), np.float32) if value is None else value.reshape(())
        data = node.inputs if node.row.pointwise else node.inputs[:1]
        numbers = [self._uniform(name) if name else None for name in data]
        if any(number is None for number, name in zip(numbers, data, strict=True) if name):
            return None
        if node.row.moves:
            return None if numbers[0] is None else numbers[0].reshape(())
        arrays = [None if number is None else number.reshape(()) for number in numbers]
        if any(array is not None and array.dtype == object for array in arrays):
            return arrays[0] if node.operator == "Cast" else None
        try:
            with np.errstate(all="ignore"):
                result = node.row.run(*arrays, **node.attributes)
        except WRONG as error:
            raise FormatError(f"{self.source}: {node.title}: {error}") from error
        return np.asarray(result, self.types[node.outputs[0]])

    # --- The whole ----------------------------------------------------------------------------------------------------

    def _rename(self, outputs: Sequence[str]) -> None:
        """Give what an Identity makes an output the output's name, and leave the Identity out."""
        written = {name for node in self.nodes for name in node.outputs if name} - set(outputs)
        new: dict[str, str] = {}
        for node in self.nodes:
            if node.operator == "Identity" and node.inputs[0] in written:
                new.setdefault(node.inputs[0], node.outputs[0])
        gone = set(new.items())
        self.nodes = [
            Node(
                node.operator,
                node.name,
                tuple(new.get(name, name) for name in node.inputs),
                tuple(new.get(name, name) for name in node.outputs),
                node.attributes,
            )
            for node in self.nodes
            if (*node.inputs[:1], *node.outputs[:1]) not in gone
        ]

    def finished(self, outputs: Sequence[str], states: Mapping[str, str] | None) -> Graph:
        """The network without what no output needs."""
        for name in outputs:
            array = self.constants.get(name, self.fills.get(name))
            if array is not None and array.dtype == object:
                raise FormatError(f"{self.source}: output {name!r}: expected numbers, got sizes of dynamic axes")
        self._rename(outputs)
        needed, kept = set(outputs), []
        for node in reversed(self.nodes):
            if needed & set(filter(None, node.outputs)):
                written = tuple(name if name in needed else "" for name in node.outputs)
                kept.append(Node(node.operator, node.name, node.inputs, written, node.attributes))
                needed |= {*filter(None, node.inputs)}
        nodes = tuple(reversed(kept))
        shapes = {name: self.shapes[name] for name in self.shapes if name in needed or name in self.inputs}
        results = {name: self.shapes[name] for name in outputs}
        found = pairs.paired(self.inputs, results, self.types, states, self.source)
        steps, batch = timing.dynamic_axes(self.inputs, nodes, self.shapes, self.source)
        if steps is None:
            caches.check(nodes, self.shapes, found, self.source)
        return Graph(
            nodes,
            {name: array for name, array in self.constants.items() if name in needed},
            {name: shape for name, shape in self.inputs.items() if name not in found},
            {name: shape for name, shape in results.items() if name not in found.values()},
            found,
            shapes,
            {name: self.types[name] for name in shapes},
            steps,
            batch,
        )


def _range(bounds: tuple[int, int]) -> str:
    least, most = bounds
    return str(least) if least == most else f"{least} to {most}" if most < 2**31 else f"{least} or more"


def _plainly(array: Array, dtype: np.dtype[Any]) -> Array:
    """An array of its type, where its elements are no names."""
    if array.dtype == object and any(isinstance(size, Size) for size in array.ravel()):
        return array
    return array.astype(dtype, copy=False)
