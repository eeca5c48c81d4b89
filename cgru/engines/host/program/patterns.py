"""Layers that a file writes out in many nodes, found before the graph is lowered: each becomes one node.

Only the last node of a pattern is replaced. The others go where nothing else reads them. The graph that a user holds,
and with it the reference, keeps what the file says.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgru.model.graph import Graph, Node

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cgru.model.nodes.table import Sizes
    from cgru.types import Array

DEEPEST = 6
"""Nodes above one another in the formula of an activation."""

CUBE = 3
"""The highest power in a formula."""

CLOSE = 1e-6
"""How far, relatively, a constant may be from what a formula says; float32 rounds it."""

POLYNOMIAL = dict[int, float]
"""By power of x its factor."""


def recognised(graph: Graph) -> Graph:
    """The graph with a node for each layer that is written out."""
    patterns = _Patterns(graph)
    patterns.find()
    return patterns.graph()


class Norm(NamedTuple):
    """(x - mean) / sqrt(variance + epsilon), times a gain, plus a bias."""

    x: str
    axes: tuple[int, ...]
    epsilon: float
    gain: Array | None = None
    bias: Array | None = None


class _Patterns:
    """A graph, and what is found in it so far."""

    def __init__(self, graph: Graph) -> None:
        self.given = graph
        self.made = graph.producers
        self.kept = {*graph.outputs, *graph.states.values()}
        self.readers: dict[str, int] = {}
        for node in graph.nodes:
            for name in node.inputs:
                self.readers[name] = self.readers.get(name, 0) + 1
        self.names = {*graph.shapes, *(node.name for node in graph.nodes)}
        self.norms: dict[str, Norm] = {}
        """By value the normalization that it is."""
        self.instead: dict[str, list[Node]] = {}
        """By the name of the last node of a pattern what replaces it."""
        self.constants: dict[str, Array] = {}
        self.shapes: dict[str, Sizes] = {}

    def find(self) -> None:
        """Look at each node as the last one of a pattern; later nodes take longer patterns."""
        for node in self.given.nodes:
            if len(node.outputs) != 1 or self.given.types[node.outputs[0]].kind != "f":
                continue
            norm = self._norm(node) or self._joined(node) or self._affine_norm(node)
            if norm is not None:
                self.norms[node.outputs[0]] = norm
                self._write_norm(node, norm)
            elif node.operator in ("Mul", "Div"):
                for x in self._gates(node):
                    found = self._activation(node, x)
                    if found is not None:
                        self.instead[node.name] = [Node(found[0], node.name, (x,), node.outputs, found[1])]
                        break

    def graph(self) -> Graph:
        """The graph with what was found, without nodes that nothing reads any more."""
        if not self.instead:
            return self.given
        nodes = [one for node in self.given.nodes for one in self.instead.get(node.name, [node])]
        read, alive = set(self.kept), []
        for node in reversed(nodes):
            if any(name in read for name in node.outputs):
                read |= set(node.inputs)
                alive.append(node)
        old = self.given
        types = dict(old.types)
        types.update({name: array.dtype for name, array in self.constants.items()})
        types.update({name: np.dtype(np.float32) for name in self.shapes})
        constants = {name: array for name, array in {**old.constants, **self.constants}.items() if name in read}
        shapes = {**old.shapes, **self.shapes, **{name: array.shape for name, array in self.constants.items()}}
        return replace(old, nodes=tuple(reversed(alive)), constants=constants, shapes=shapes, types=types)

    # --- Parts of formulas --------------------------------------------------------------------------------------------

    def maker(self, name: str, *operators: str) -> Node | None:
        """The node that gives a value, if it is of one of these operators."""
        node = self.made.get(name)
        return node if node is not None and node.operator in operators else None

    def number(self, name: str) -> float | None:
        """The number that a constant is."""
        array = self.given.constants.get(name)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def _pairs(self, node: Node | None) -> Iterator[tuple[str, str]]:
        """Both orders of the operands of a sum or a product."""
        if node is not None and len(node.inputs) == 2:
            yield node.inputs[0], node.inputs[1]
            yield node.inputs[1], node.inputs[0]

    def _same_shape(self, *names: str) -> bool:
        return len({self.given.shapes[name] for name in names}) == 1

    # --- Normalization ------------------------------------------------------------------------------------------------

    def _mean(self, name: str) -> tuple[str, tuple[int, ...]] | None:
        """What a value is the mean of, and over which axes; they are kept."""
        node = self.maker(name, "ReduceMean")
        if node is None or not node.attributes["keepdims"] or not node.attributes["axes"]:
            return None
        rank = len(self.given.shapes[node.inputs[0]])
        return node.inputs[0], tuple(sorted(axis % rank for axis in node.attributes["axes"]))

    def _centred(self, name: str) -> tuple[str, tuple[int, ...]] | None:
        """x and axes of x - mean(x)."""
        node = self.maker(name, "Sub")
        mean = self._mean(node.inputs[1]) if node is not None else None
        return mean if node is not None and mean is not None and mean[0] == node.inputs[0] else None

    def _squared(self, name: str) -> str | None:
        """What a value is the square of."""
        node = self.maker(name, "Pow", "Mul")
        if node is None:
            return None
        if node.operator == "Pow":
            return node.inputs[0] if self.number(node.inputs[1]) == 2 else None
        return node.inputs[0] if node.inputs[0] == node.inputs[1] else None

    def _variance(self, name: str) -> Norm | None:
        """x, axes and epsilon of variance(x) + epsilon."""
        for inner, number in self._pairs(self.maker(name, "Add")):
            epsilon = self.number(number)
            mean = self._mean(inner) if epsilon is not None and epsilon > 0 else None
            squared = self._squared(mean[0]) if mean is not None else None
            centred = self._centred(squared) if squared is not None else None
            if epsilon is not None and mean is not None and centred is not None and centred[1] == mean[1]:
                return Norm(*centred, epsilon)
        return None

    def _deviation(self, name: str) -> Norm | None:
        """The same of the root of that."""
        node = self.maker(name, "Sqrt", "Pow")
        if node is None or (node.operator == "Pow" and self.number(node.inputs[1]) != 0.5):
            return None
        return self._variance(node.inputs[0])

    def _inverse(self, name: str) -> Norm | None:
        """The same of 1 over the root of that."""
        node = self.maker(name, "Reciprocal", "Div", "Pow")
        if node is None:
            return None
        if node.operator == "Pow":
            return self._variance(node.inputs[0]) if self.number(node.inputs[1]) == -0.5 else None
        if node.operator == "Div" and self.number(node.inputs[0]) != 1:
            return None
        return self._deviation(node.inputs[-1])

    def _norm(self, node: Node) -> Norm | None:
        """A node that divides what is centred by its deviation."""
        if node.operator == "Div":
            norm = self._deviation(node.inputs[1])
            return norm if norm is not None and self._centred(node.inputs[0]) == norm[:2] else None
        if node.operator == "Mul":
            for centred, inverse in self._pairs(node):
                norm = self._scaled_inverse(inverse)
                if norm is not None and self._centred(centred) == norm[:2]:
                    return norm
        return None

    def _scaled_inverse(self, name: str) -> Norm | None:
        """1 over a deviation, perhaps times a gain."""
        norm = self._inverse(name)
        if norm is not None:
            return norm
        for inverse, gain in self._pairs(self.maker(name, "Mul")):
            norm = self._inverse(inverse)
            array = self._parameter(norm, gain) if norm is not None else None
            if norm is not None and array is not None:
                return norm._replace(gain=array)
        return None

    def _affine_norm(self, node: Node) -> Norm | None:
        """x * s + (bias - mean * s) where s is the gain over the deviation, as TensorFlow and Keras write it."""
        for product, rest in self._pairs(node if node.operator == "Add" else None):
            for x, scale in self._pairs(self.maker(product, "Mul")):
                norm = self._scaled_inverse(scale)
                if norm is None or norm.x != x:
                    continue
                bias = self._bias_less(rest, norm, scale)
                if bias is not None:
                    return norm._replace(bias=bias)
        return None

    def _bias_less(self, name: str, norm: Norm, scale: str) -> Array | None:
        """The bias of bias - mean * s."""
        node = self.maker(name, "Sub", "Add")
        if node is None:
            return None
        pairs = [node.inputs[:2]] if node.operator == "Sub" else list(self._pairs(node))
        for bias, other in pairs:
            array = self._parameter(norm, bias)
            product = self.maker(other, "Mul")
            if array is None or product is None:
                continue
            for mean, factor in self._pairs(product):
                if node.operator == "Add":
                    negative = self.maker(mean, "Neg")
                    mean = negative.inputs[0] if negative is not None else ""
                if factor == scale and mean and self._mean(mean) == norm[:2]:
                    return array
        return None

    def _joined(self, node: Node) -> Norm | None:
        """A gain or a bias behind a normalization that nothing else reads."""
        if node.operator not in ("Mul", "Add"):
            return None
        for inner, constant in self._pairs(node):
            norm = self.norms.get(inner)
            if norm is None or self.readers[inner] > 1 or inner in self.kept or norm.bias is not None:
                continue
            if node.operator == "Mul" and norm.gain is not None:
                continue
            array = self._parameter(norm, constant)
            if array is not None:
                return norm._replace(gain=array) if node.operator == "Mul" else norm._replace(bias=array)
        return None

    def _parameter(self, norm: Norm, name: str) -> Array | None:
        """A constant as a gain or a bias over the axes of a normalization, in their order; None where it is none."""
        array, shape = self.given.constants.get(name), self.given.shapes[norm.x]
        if array is None or array.dtype.kind != "f" or array.ndim > len(shape):
            return None
        whole = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
        sizes: tuple[int, ...] = whole.shape
        if any(size != 1 and (axis not in norm.axes or shape[axis] != size) for axis, size in enumerate(sizes)):
            return None
        return whole.reshape([whole.shape[axis] for axis in norm.axes])

    def _write_norm(self, node: Node, norm: Norm) -> None:
        """Put a LayerNormalization in the place of a node, its axes moved to the end where they are elsewhere."""
        name, shape = node.outputs[0], self.given.shapes[norm.x]
        rank, result, nodes = len(shape), node.outputs[0], []
        first = rank - len(norm.axes)
        gain = np.ones((1,) * len(norm.axes)) if norm.gain is None and norm.bias is not None else norm.gain
        parameters = [self._put(f"{name} {kind}", array) for kind, array in (("gain", gain), ("bias", norm.bias))]
        x = norm.x
        order = [axis for axis in range(rank) if axis not in norm.axes] + list(norm.axes)
        if order != list(range(rank)):
            x, result = self._fresh(f"{name} before"), self._fresh(f"{name} behind")
            self.shapes.update(dict.fromkeys((x, result), tuple(shape[axis] for axis in order)))
            nodes.append(Node("Transpose", self._fresh(f"{node.name} before"), (norm.x,), (x,), {"perm": tuple(order)}))
        inputs = (x, *parameters)[: 3 if parameters[1] else 2]
        attributes = {"axis": first, "epsilon": norm.epsilon, "stash_type": 1}
        nodes.append(Node("LayerNormalization", node.name, inputs, (result,), attributes))
        if result != name:
            back = tuple(order.index(axis) for axis in range(rank))
            nodes.append(Node("Transpose", self._fresh(f"{node.name} behind"), (result,), (name,), {"perm": back}))
        self.instead[node.name] = nodes

    def _put(self, name: str, array: Array | None) -> str:
        """A constant of the new graph; "" where there is none."""
        if array is None:
            return ""
        name = self._fresh(name)
        self.constants[name] = np.ascontiguousarray(array)
        return name

    def _fresh(self, name: str) -> str:
        """A name that no value and no node has."""
        while name in self.names:
            name += "'"
        self.names.add(name)
        return name

    # --- Activations --------------------------------------------------------------------------------------------------

    def _gates(self, node: Node) -> list[str]:
        """Values that a product may be an activation of: they stand among its factors, and in another one of them."""
        found: dict[str, None] = {}
        self._ancestors(node, 0, found)
        return [name for name in found if self._same_shape(name, node.outputs[0])]

    def _ancestors(self, node: Node, depth: int, found: dict[str, None]) -> None:
        """The operands of a product, and of products and quotients that are its operands."""
        for name in node.inputs:
            if name not in self.given.constants:
                found[name] = None
                inner = self.maker(name, "Mul", "Div")
                if inner is not None and depth < 2:
                    self._ancestors(inner, depth + 1, found)

    def _factors(self, name: str, x: str, depth: int = 0) -> tuple[float, list[str]] | None:
        """A value as a number times other values."""
        if name == x:
            return 1.0, [name]
        number = self.number(name)
        if number is not None:
            return number, []
        node = self.maker(name, "Mul", "Div")
        if node is None or depth > DEEPEST:
            return 1.0, [name]
        parts = [self._factors(one, x, depth + 1) for one in node.inputs]
        if any(part is None for part in parts):
            return None
        (first, values), (second, others) = ((part[0], part[1]) for part in parts if part is not None)
        if node.operator == "Mul":
            return first * second, values + others
        return (first / second, values) if not others and second else None

    def _activation(self, node: Node, x: str) -> tuple[str, Mapping[str, object]] | None:
        """The operator that a product is of x, and its attributes."""
        found = self._factors(node.outputs[0], x)
        if found is None or sorted(name == x for name in found[1]) != [False, True]:
            return None
        share = found[0]
        (gate,) = [name for name in found[1] if name != x]
        return self._by_sigmoid(share, gate, x) or self._by_bounds(share, gate, x) or self._gelu(share, gate, x)

    def _by_sigmoid(self, share: float, gate: str, x: str) -> tuple[str, Mapping[str, object]] | None:
        """Swish, HardSwish and Mish: x times a function of x."""
        node = self.maker(gate, "Sigmoid", "HardSigmoid", "Tanh")
        if node is None or share != 1:
            return None
        if node.operator == "Sigmoid":
            inside = self._polynomial(node.inputs[0], x)
            return ("Swish", {"alpha": inside[1]}) if inside is not None and inside.keys() == {1} else None
        if node.operator == "Tanh":
            inner = self.maker(node.inputs[0], "Softplus")
            return ("Mish", {}) if inner is not None and inner.inputs[0] == x else None
        known = _near(node.attributes["alpha"], 1 / 6) and node.attributes["beta"] == 0.5
        return ("HardSwish", {}) if known and node.inputs[0] == x else None

    def _by_bounds(self, share: float, gate: str, x: str) -> tuple[str, Mapping[str, object]] | None:
        """HardSwish: x min(max(x + 3, 0), 6) / 6."""
        node = self.maker(gate, "Clip")
        if node is None or len(node.inputs) != 3 or not _near(share, 1 / 6):
            return None
        bounds = [self.number(name) for name in node.inputs[1:]]
        inside = self._polynomial(node.inputs[0], x)
        return ("HardSwish", {}) if bounds == [0, 6] and inside == {0: 3, 1: 1} else None

    def _gelu(self, share: float, gate: str, x: str) -> tuple[str, Mapping[str, object]] | None:
        """0.5 x (1 + erf(x / sqrt 2)), or with tanh(sqrt(2 / pi) (x + 0.044715 x^3)) instead."""
        for name in self._inside(gate):
            outer = self._polynomial(gate, name)
            if outer is None or not _alike(
                {power: share * factor for power, factor in outer.items()}, {0: 0.5, 1: 0.5}
            ):
                continue
            node = self.made[name]
            inside = self._polynomial(node.inputs[0], x)
            slope = math.sqrt(0.5 if node.operator == "Erf" else 2 / math.pi)
            wanted = {1: slope} if node.operator == "Erf" else {1: slope, 3: 0.044715 * slope}
            if inside is not None and _alike(inside, wanted):
                return "Gelu", {"approximate": "none" if node.operator == "Erf" else "tanh"}
        return None

    def _inside(self, name: str, depth: int = 0) -> Iterator[str]:
        """Values of Erf and Tanh in a sum or a product."""
        if self.maker(name, "Erf", "Tanh"):
            yield name
        node = self.maker(name, "Add", "Mul")
        for one in node.inputs if node is not None and depth < 2 else ():
            yield from self._inside(one, depth + 1)

    def _polynomial(self, name: str, x: str, depth: int = 0) -> POLYNOMIAL | None:
        """A value as a polynomial of x; None where it is none."""
        if name == x:
            return {1: 1.0}
        number = self.number(name)
        if number is not None:
            return {0: number}
        node = self.maker(name, "Add", "Sub", "Mul", "Div", "Pow", "Neg")
        if node is None or depth > DEEPEST:
            return None
        parts = [self._polynomial(one, x, depth + 1) for one in node.inputs]
        if any(part is None for part in parts):
            return None
        return _combined(node.operator, [part for part in parts if part is not None])


def _combined(operator: str, parts: Sequence[POLYNOMIAL]) -> POLYNOMIAL | None:
    """The polynomial that an operator makes of polynomials."""
    first = parts[0]
    if operator == "Neg":
        return {power: -factor for power, factor in first.items()}
    second = parts[1]
    if operator in ("Add", "Sub"):
        sign = 1 if operator == "Add" else -1
        return {p: first.get(p, 0.0) + sign * second.get(p, 0.0) for p in {**first, **second}}
    if operator == "Mul":
        if max(first) + max(second) > CUBE:
            return None
        found: POLYNOMIAL = {}
        for p, a in first.items():
            for q, b in second.items():
                found[p + q] = found.get(p + q, 0.0) + a * b
        return found
    if second.keys() != {0} or (operator == "Div" and not second[0]):
        return None
    if operator == "Div":
        return {power: factor / second[0] for power, factor in first.items()}
    if second[0] not in (2, 3):
        return None
    squared = _combined("Mul", [first, first])
    return squared if second[0] == 2 or squared is None else _combined("Mul", [squared, first])


def _near(got: float, wanted: float) -> bool:
    return math.isclose(got, wanted, rel_tol=CLOSE)


def _alike(got: POLYNOMIAL, wanted: POLYNOMIAL) -> bool:
    return got.keys() == wanted.keys() and all(_near(got[power], wanted[power]) for power in wanted)
