"""What joins a product: an addend, a factor or a BatchNormalization behind it, by its weights; and then functions.

Those are of single elements: activations, and sums and products with another value, as residuals and gates are. A chain
ends where another node reads a value of it, or where it is an output. Factors change the rounding of weights, nothing
else. An activation may also stand behind what only moves the product's numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgru.engines.host.program.elements import PARAMETERS, UNARY

if TYPE_CHECKING:
    from cgru.engines.host.program.lowering import Compiler
    from cgru.model.graph import Graph, Node
    from cgru.types import Array


MOVERS = ("Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""What changes the order of all numbers, and leaves none out."""


MOST = 3
"""Functions behind a product."""

WITH_ANOTHER = {"Add": "add", "Mul": "mul", "Sub": "sub", "PRelu": "prelu"}
"""Those of the product's result and of another value."""


class After(NamedTuple):
    """A function of a product's results."""

    code: str
    p: float = 0.0
    q: float = 0.0
    other: str = ""
    """The value that is the second operand."""


@dataclass
class Fused:
    """What a product does beside its own node."""

    result: str
    """The value that it computes in the end."""
    scale: Array | None = None
    """Of each output, float64."""
    shift: Array | None = None
    after: tuple[After, ...] = ()
    """What its results go through, one function after the other."""
    comes_at: str = ""
    """The node in whose place it is computed, where it waits for another value."""

    def weights(self, matrix: Array) -> Array:
        """Weights (outputs, ...) with the factor in them."""
        if self.scale is None:
            return matrix
        return matrix.astype(np.float64) * self.scale.reshape(-1, *(1,) * (matrix.ndim - 1))

    def bias(self, bias: Array | None) -> Array | None:
        """The bias with factor and addend."""
        if bias is None:
            return self.shift
        scaled = bias if self.scale is None else bias.astype(np.float64) * self.scale
        return scaled if self.shift is None else scaled + self.shift


def find(compiler: Compiler) -> tuple[dict[str, Fused], set[str], set[str]]:
    """By name what joins each product; the nodes that are gone so; and those that now give what they are given."""
    graph = compiler.graph
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    kept = {*graph.outputs, *graph.states.values()}
    found: dict[str, Fused] = {}
    gone: set[str] = set()
    given: set[str] = set()
    for node in graph.nodes:
        axis = _outputs_axis(graph, node)
        if axis is None or node.name in gone:
            continue
        fused = Fused(node.outputs[0])
        while fused.result not in kept and len(readers.get(fused.result, [])) == 1:
            (reader,) = readers[fused.result]
            if reader.name in gone or not _join(compiler, node, fused, reader, axis):
                break
            gone.add(reader.name)
            fused.result = reader.outputs[0]
        found[node.name] = fused
        if fused.after:
            continue
        name = fused.result
        while name not in kept and len(readers.get(name, [])) == 1 and readers[name][0].operator in MOVERS:
            name = readers[name][0].outputs[0]
        if name != fused.result and name not in kept and len(readers.get(name, [])) == 1:
            (reader,) = readers[name]
            function = _function(reader)
            if function:
                fused.after = (function,)
                given.add(reader.name)
    return found, gone, given


def _outputs_axis(graph: Graph, node: Node) -> int | None:
    """The axis of a product's outputs, counted from the end; None where a node is no product with weights."""
    if node.operator in ("MatMul", "Gemm"):
        addend = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.zeros(1)
        if addend is None or (addend.ndim == 2 and addend.shape[0] != 1):
            return None  # it comes behind the product
        weights = graph.constants.get(node.inputs[1])
        return -1 if weights is not None and weights.ndim == 2 else None
    if node.operator in ("Conv", "ConvTranspose") and node.inputs[1] in graph.constants:
        return 1 - len(graph.shapes[node.outputs[0]])
    return None


def _join(compiler: Compiler, node: Node, fused: Fused, reader: Node, axis: int) -> bool:
    """Whether a node can be part of the product before it; it is, then."""
    shape = compiler.shape(fused.result)
    if len(reader.outputs) != 1 or compiler.shape(reader.outputs[0]) != shape:
        return False
    if not fused.after and _weighed(compiler, fused, reader, axis):
        return True
    function = _function(reader) or _with_another(compiler, node, fused, reader, axis)
    if function is None or len(fused.after) == MOST:
        return False
    fused.after += (function,)
    if function.other and compiler.constant(function.other) is None:
        fused.comes_at = reader.name
    return True


def _with_another(compiler: Compiler, node: Node, fused: Fused, reader: Node, axis: int) -> After | None:
    """The function of a product's result and of another value that a node is."""
    if reader.operator not in WITH_ANOTHER or len(reader.inputs) != 2:
        return None
    place = reader.inputs.index(fused.result)
    other = reader.inputs[1 - place]
    if other == fused.result or (place and reader.operator not in ("Add", "Mul")):
        return None
    shape, own = compiler.shape(fused.result), compiler.shape(other)
    if compiler.constant(other) is not None:
        alone = len(own) <= len(shape) and all(
            size == 1 for place, size in enumerate(own, len(shape) - len(own)) if place != len(shape) + axis
        )
        if not alone:
            return None
    elif own != shape or not _same_frames(compiler, node, reader, other):
        return None
    return After(WITH_ANOTHER[reader.operator], other=other)


def _same_frames(compiler: Compiler, node: Node, reader: Node, other: str) -> bool:
    """Whether a product and a node behind it, which reads another value, too, compute the same frames."""
    result, own = reader.outputs[0], node.outputs[0]
    return not compiler.streams or (
        compiler.timed(other) == compiler.timed(own) == compiler.timed(result)
        and compiler.node_ahead(node) == compiler.node_ahead(reader)
        and compiler.more_of(own) == compiler.more_of(result)
    )


def _weighed(compiler: Compiler, fused: Fused, reader: Node, axis: int) -> bool:
    """Whether a node is a factor and an addend of each output, which its weights can have; they have them, then."""
    shape = compiler.shape(fused.result)
    constants = [compiler.constant(name) for name in reader.inputs]
    if reader.operator == "BatchNormalization":
        if axis != 1 - len(shape) or any(array is None for array in constants[1:]):
            return False
        scale, bias, mean, variance = (np.asarray(array, np.float64) for array in constants[1:])
        factor = scale / np.sqrt(variance + reader.attributes["epsilon"])
        _affine(fused, factor, bias - mean * factor)
        return True
    if reader.operator not in ("Add", "Sub", "Mul", "Div") or (
        constants[0] is not None and reader.operator in ("Sub", "Div")
    ):
        return False
    known = constants[0] if constants[0] is not None else constants[1]
    vector = None if known is None else _vector(known, shape, axis)
    if vector is None:
        return False
    if reader.operator == "Div" and not np.all(vector):
        return False
    one, zero = np.ones_like(vector), np.zeros_like(vector)
    pairs: dict[str, Any] = {
        "Add": lambda: (one, vector),
        "Sub": lambda: (one, -vector),
        "Mul": lambda: (vector, zero),
        "Div": lambda: (1 / vector, zero),
    }
    _affine(fused, *pairs[reader.operator]())
    return True


def _function(node: Node) -> After | None:
    """The function of single elements that a node is."""
    if node.operator in UNARY or node.operator in PARAMETERS:
        code, *names = PARAMETERS.get(node.operator) or (UNARY[node.operator],)
        values = [float(node.attributes[name]) for name in names] + [0.0, 0.0]
        return After(code, values[0], values[1])
    if node.operator == "Gelu":
        return After("gelu_tanh" if node.attributes["approximate"] == "tanh" else "gelu")
    return None


def _affine(fused: Fused, scale: Array, shift: Array) -> None:
    if np.any(scale != 1):
        fused.scale = scale if fused.scale is None else fused.scale * scale
        fused.shift = None if fused.shift is None else fused.shift * scale
    fused.shift = shift if fused.shift is None else fused.shift + shift


def _vector(array: Array, shape: tuple[int, ...], axis: int) -> Array | None:
    """A constant as a number for each output; None where it is none."""
    axes = (1,) * (len(shape) - array.ndim) + array.shape
    if len(axes) != len(shape) or array.dtype.kind != "f":
        return None
    at = len(shape) + axis
    if any(size != 1 for place, size in enumerate(axes) if place != at):
        return None
    found: Array = np.broadcast_to(array.astype(np.float64).reshape(-1), (shape[at],)).copy()
    return found
