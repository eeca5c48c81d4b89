"""Networks written node by node, by programs that read other formats: names are found, shapes are known at once."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.model.building import WRONG, build
from cgru.model.graph import MAX_MEMORY, Graph, Node
from cgru.model.nodes import OPERATORS
from cgru.model.nodes.table import NEWEST, attributes_of
from cgru.model.stacks import node_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from cgru.model.nodes.table import Sizes
    from cgru.model.value import Value
    from cgru.types import Array


class Writer:
    """Nodes and constants until they are a network.

    >>> import numpy as np
    >>> from cgru.model.nodes.sizes import Size
    >>> writer = Writer("example")
    >>> x = writer.input("x", (Size("T"), 3))
    >>> y = writer.add("MatMul", x, writer.constant(np.ones((3, 2), np.float32)), name="dense")
    >>> writer.shapes[y]
    ('T', 2)
    >>> graph = writer.graph({"y": writer.add("Relu", y)})
    >>> graph.outputs, [node.name for node in graph.nodes]
    ({'y': ('T', 2)}, ['dense', 'Relu'])
    """

    def __init__(self, source: str) -> None:
        self.source = source
        """What messages begin with."""
        self.nodes: list[Node] = []
        self.constants: dict[str, Array] = {}
        self.inputs: dict[str, Sizes] = {}
        self.types: dict[str, np.dtype[Any]] = {}
        """Of inputs."""
        self.shapes: dict[str, Sizes] = {}
        """Of the values whose shapes follow from those of inputs; building a network finds all, and what is wrong."""
        self._counts: dict[str, int] = {}

    def _new(self, name: str) -> str:
        """The name, with a number where something has it."""
        found = name
        while found in self._counts:
            self._counts[name] += 1
            found = f"{name}_{self._counts[name]}"
        self._counts[found] = 1
        return found

    def input(self, name: str, shape: Sizes, dtype: npt.DTypeLike = np.float32) -> str:
        """A further input; its name, which stays as it is. A `Size` is a dynamic axis."""
        if name in self._counts:
            raise ValueError(f"{self.source}: expected inputs of new names, got {name!r} again")
        self._counts[name] = 1
        self.inputs[name], self.types[name] = tuple(shape), np.dtype(dtype)
        self.shapes[name] = self.inputs[name]
        return name

    def constant(self, array: Array, name: str = "constant") -> str:
        """The name of an array, which is not copied."""
        name = self._new(name)
        self.constants[name] = np.asarray(array)
        self.shapes[name] = self.constants[name].shape
        return name

    def add(self, operator: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: Any) -> Any:
        """Write a node of an operator of ONNX's name and meaning, "" where an input is absent.

        Returns
        -------
        str or tuple of str
            The names of what it gives: one, or as many as `outputs` says.
        """
        name = self._new(name or operator)
        names = (name, *(self._new(f"{name}.{i}") for i in range(1, outputs)))
        return self._append(Node(operator, name, inputs, names, attributes))

    def stack(self, value: Value, x: str, h0: str = "", name: str = "gru") -> tuple[str, str]:
        """Write a whole GRU or MinGRU; the names of its last layer's states and of all layers' last ones."""
        name = self._new(name)
        last = self._new(f"{name}.h_n")
        node, constants = node_of(value, name, x, name, h0, last)
        for key, array in constants.items():
            self._counts[key] = 1
            self.constants[key], self.shapes[key] = array, array.shape
        y, h_n = self._append(node)
        return y, h_n

    def _append(self, node: Node) -> Any:
        """Keep a node, and note the shapes of what it gives."""
        self.nodes.append(node)
        with contextlib.suppress(*WRONG):
            self.shapes |= self._shapes_of(node)
        return node.outputs[0] if len(node.outputs) == 1 else node.outputs

    def _shapes_of(self, node: Node) -> dict[str, Sizes]:
        """The shapes of what a node gives; one of `WRONG` where it makes no sense, or not yet."""
        row = OPERATORS[node.operator]
        more = {"outputs": len(node.outputs)} if row.counted else {}
        shapes = [self.shapes[name] if name else None for name in node.inputs]
        found = row.shape(*shapes, **attributes_of(row, node.attributes, NEWEST), **more)
        return dict(zip(node.outputs, found if isinstance(found, list) else [found], strict=False))

    def graph(
        self,
        outputs: Mapping[str, str],
        states: Mapping[str, str] | None = None,
        max_memory: int = MAX_MEMORY,
    ) -> Graph:
        """The network, its outputs the values of these names; see `cgru.model.building.build`.

        What else has the name of an output gets another one.
        """
        written = {name for node in self.nodes for name in node.outputs} | self.constants.keys()
        other = {name: self._new(name) for name in outputs if name in written}
        nodes = [
            Node(
                node.operator,
                node.name,
                tuple(other.get(name, name) for name in node.inputs),
                tuple(other.get(name, name) for name in node.outputs),
                node.attributes,
            )
            for node in self.nodes
        ]
        nodes += [
            Node("Identity", f"output {name}", (other.get(value, value),), (name,)) for name, value in outputs.items()
        ]
        return build(
            nodes,
            {other.get(name, name): array for name, array in self.constants.items()},
            self.inputs,
            list(outputs),
            types=self.types,
            states=states,
            max_memory=max_memory,
            source=self.source,
        )
