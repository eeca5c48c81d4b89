"""The unsimplified twin of a simplified ONNX model: python benchmarks/unsimplified.py SIMPLE.onnx TWIN.onnx

torch's older exporter writes numbers that a model is called with as arithmetic: a shape is Shape, Gather, Unsqueeze
and Concat, an assignment to a slice is a grid of Range, Expand, Where and Equal before ScatterND, padding is
ConstantOfShape, Slice and Transpose. A simplifier folds it. Packages carry folded models; this puts the arithmetic
back, and the twin computes the same. Shapes must be fixed, and the operator set 11 or 12, where Squeeze and Unsqueeze
have attributes.
"""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

HUGE = 1 << 31
"""Ends of slices that mean the end of the axis are over it."""


class Twin:
    """Nodes of the twin while they are written; `shapes` and `known` are of the simplified model's values."""

    def __init__(self, model):
        inferred = shape_inference.infer_shapes(model, strict_mode=True)
        values = [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]
        self.shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in values}
        self.known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.nodes = []

    def op(self, operator, *inputs, **attributes):
        """Append a node; the name of its output."""
        name = f"unsimplified_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"{operator}_{name}", **attributes))
        return name

    def constant(self, array):
        """Integers that a node is written for."""
        return self.op("Constant", value=numpy_helper.from_array(np.asarray(array, np.int64)))

    def vector(self, *numbers):
        """Numbers side by side, as a shape."""
        return self.op("Concat", *(self.op("Unsqueeze", number, axes=[0]) for number in numbers), axis=0)

    def size(self, value, axis):
        """A number: the size of an axis."""
        return self.op("Gather", self.op("Shape", value), self.constant(axis), axis=0)

    def number(self, n, value):
        """n from the sizes of a value, where it is one, a product of two neighbours, or a half."""
        shape = self.shapes[value]
        if n in shape:
            return self.size(value, shape.index(n))
        for axis in range(len(shape) - 1):
            if shape[axis] * shape[axis + 1] == n:
                return self.op("Mul", self.size(value, axis), self.size(value, axis + 1))
        if 2 * n in shape:
            return self.op("Div", self.size(value, shape.index(2 * n)), self.constant(2))
        return self.constant(n)

    def expanded(self, value, shape):
        """Expand, its shape without the -1 that a caller may have written."""
        minus = self.op("Mul", self.op("ConstantOfShape", self.op("Shape", shape), value=_tensor(1)), self.constant(-1))
        ones = self.op("ConstantOfShape", self.op("Shape", shape), value=_tensor(1))
        return self.op("Expand", value, self.op("Where", self.op("Equal", shape, minus), ones, shape))

    def range(self, start, stop, step=1):
        """Numbers from one to another."""
        return self.op("Range", self.constant(start), self.constant(stop), self.constant(step))


def _tensor(number):
    return helper.make_tensor("value", TensorProto.INT64, [1], [number])


def _reshape(twin, node):
    target = twin.known[node.input[1]].tolist()
    numbers = [twin.constant(n) if n < 1 else twin.number(n, node.input[0]) for n in target]
    return [node.input[0], twin.vector(*numbers)]


def _slice(twin, node):
    value, starts, ends, *others = node.input
    axes = twin.known[others[0]].tolist() if others else range(len(twin.known[starts]))
    numbers = []
    for axis, end in zip(axes, twin.known[ends].tolist(), strict=True):
        size = twin.shapes[value][axis]
        if 0 < end <= size and 2 * end == size:
            half = twin.op("Div", twin.op("Add", twin.size(value, axis), twin.constant(1)), twin.constant(2))
            numbers.append(twin.op("Mul", half, twin.constant(1)))
        elif 0 < end <= size:
            numbers.append(twin.op("Sub", twin.size(value, axis), twin.constant(size - end)))
        else:
            numbers.append(twin.constant(end))
    return [value, starts, twin.vector(*numbers), *others]


def _pad(twin, node):
    """The last axis first, as torch's pad has it; zeros for the others; then turned round."""
    pads = twin.known[node.input[1]]
    number = len(pads) // 2
    turned = np.stack([pads[:number], pads[number:]], 1)[::-1].ravel()
    least = next(n for n in range(2, len(turned) + 1, 2) if not turned[n:].any())
    rest = twin.op("Sub", twin.constant(len(turned)), twin.constant(least))
    zeros = twin.op("ConstantOfShape", twin.op("Unsqueeze", rest, axes=[0]), value=_tensor(0))
    pairs = twin.op("Concat", twin.constant(turned[:least]), zeros, axis=0)
    pairs = twin.op("Reshape", pairs, twin.constant([-1, 2]))
    pairs = twin.op("Slice", pairs, *map(twin.constant, ([-1], [-HUGE], [0], [-1])))
    flat = twin.op("Reshape", twin.op("Transpose", pairs, perm=[1, 0]), twin.constant([-1]))
    return [node.input[0], twin.op("Cast", flat, to=TensorProto.INT64), *node.input[2:]]


def _gather(twin, node):
    """Windows along an axis: the places where they begin, and those within one, added."""
    places = twin.known[node.input[1]]
    if places.ndim != 2 or min(places.shape) < 2:
        return list(node.input)
    column, row = places[:, 0], places[0] - places[0, 0]
    steps = [np.diff(part) for part in (column, row)]
    if (places != column[:, None] + row).any() or any(len(set(step)) > 1 or step[0] < 1 for step in steps):
        return list(node.input)
    parts = [
        twin.op("Unsqueeze", twin.range(int(part[0]), int(part[-1] + 1), int(step[0])), axes=[axis])
        for part, step, axis in ((column, steps[0], 1), (row, steps[1], 0))
    ]
    return [node.input[0], twin.op("Add", *parts)]


def _scatter(twin, node):
    """A grid of indices: along each axis a range, expanded to all, and all of them side by side."""
    data, indices, updates = node.input
    grid = twin.known[indices]
    *lengths, depth = grid.shape
    places = []
    for axis in range(depth):
        along = [n for n in range(len(lengths)) if lengths[n] > 1 and (np.diff(grid[..., axis], axis=n) != 0).any()]
        n = along[0] if along else axis
        values = np.moveaxis(grid[..., axis], n, 0).reshape(lengths[n], -1)[:, 0]
        numbers = twin.range(0, twin.shapes[data][axis])
        numbers = twin.op(
            "Slice", numbers, twin.constant([values[0]]), twin.constant([values[-1] + 1]), twin.constant([0])
        )
        numbers = twin.op("Reshape", numbers, twin.constant([-1, *[1] * (len(lengths) - 1 - n)]))
        shape = twin.vector(*(twin.number(length, data) for length in lengths))
        shape = twin.op("Add", shape, twin.constant(0))
        places.append(twin.op("Unsqueeze", twin.expanded(numbers, shape), axes=[len(lengths)]))
    return [data, twin.op("Concat", *places, axis=-1), updates]


def _gru(twin, node):
    """A first state of zeros, of the size that the input has rows."""
    first = node.input[5] if len(node.input) > 5 else ""
    if first not in twin.known or twin.known[first].any():
        return list(node.input)
    directions, _, units = twin.known[first].shape
    shape = twin.vector(twin.constant(directions), twin.size(node.input[0], 1), twin.constant(units))
    zeros = twin.op("ConstantOfShape", shape, value=helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0]))
    return [*node.input[:5], zeros]


WRITTEN = {"Reshape": _reshape, "Slice": _slice, "Pad": _pad, "Gather": _gather, "ScatterND": _scatter, "GRU": _gru}


def unsimplified(model):
    """The twin of a model: the same inputs, outputs, weights and nodes, with more before some of them."""
    versions = [entry.version for entry in model.opset_import if entry.domain == ""]
    if versions not in ([11], [12]):
        raise ValueError(f"model: expected the operator set 11 or 12, got {versions}")
    twin = Twin(model)
    for node in model.graph.node:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        known = all(name in twin.known for name in node.input[1:] if name)
        if node.op_type in WRITTEN and (known or node.op_type in ("ScatterND", "GRU")):
            inputs = WRITTEN[node.op_type](twin, node)
            del copy.input[:]
            copy.input.extend(inputs)
        twin.nodes.append(copy)
    used = {name for node in twin.nodes for name in node.input}
    result = onnx.ModelProto.FromString(model.SerializeToString())
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del result.graph.node[:], result.graph.initializer[:], result.graph.value_info[:]
    result.graph.node.extend(twin.nodes)
    result.graph.initializer.extend(kept)
    onnx.checker.check_model(result)
    return result


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    onnx.save(unsimplified(onnx.load(sys.argv[1])), sys.argv[2])
