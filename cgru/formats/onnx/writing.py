"""Whole networks as ONNX models that any runtime of the standard runs.

Operators have ONNX's names and meaning, so most nodes are written as they are. What is an attribute here and an input
there becomes an initializer, or where it depends on a dynamic axis, arithmetic with shapes. A whole GRU becomes one
node GRU a layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from cgru import checks
from cgru.errors import FormatError
from cgru.formats import files
from cgru.formats.onnx import layers
from cgru.model.graph import Graph, Node
from cgru.model.nodes import movement, stack
from cgru.model.nodes.sizes import Quotient, Size
from cgru.model.nodes.table import axis_of
from cgru.model.stacks import value_of
from cgru.version import __version__

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence


OLDEST = 17
"""The operator set that is written where nothing needs a newer one: of 2022."""

LEFT_OUT = {
    "BatchNormalization": ("spatial",),
    "Softmax": ("to_end",),
    "LogSoftmax": ("to_end",),
    "Split": ("num_outputs",),
}
"""Attributes that earlier operator sets had, or that say the same as others."""

REDUCED = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
           "ReduceLogSum", "ReduceLogSumExp")  # fmt: skip
"""Whose axes are an attribute before operator set 18."""


def to_onnx(graph: Graph, path: str | os.PathLike[str] | None = None) -> onnx.ModelProto:
    """The network as a model; also written to a path, where one is given.

    Inputs, outputs, states and dynamic axes keep their names; states are inputs and outputs. The operator set is 17,
    or the first one that has what a node needs.

    Raises
    ------
    cgru.FormatError
        ONNX cannot say a node, as a MinGRU; or the weights are more than a file holds.
    """
    if graph.nbytes > layers.MAX_BYTES:
        raise FormatError(f"an ONNX file holds up to {layers.MAX_BYTES} bytes of weights; save a .safetensors file")
    model = _Model(graph).proto()
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise FormatError(f"{path or 'network'}: ONNX's checker does not take what was written: {error}") from error
    if path is not None:
        files.write(path, model.SerializeToString())
    return model


class _Model:
    """A model while it is written."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.opset = max([OLDEST, *(needed(graph, node) for node in graph.nodes)])
        self.nodes: list[onnx.NodeProto] = []
        self.constants = dict(graph.constants)
        self.taken = {*graph.shapes, *(name for node in graph.nodes for name in (node.name, *node.outputs))}
        self.sizes: dict[str, str] = {}
        """Values that are sizes of dynamic axes, by what they are."""

    def proto(self) -> onnx.ModelProto:
        """The whole."""
        graph = self.graph
        for node in graph.nodes:
            try:
                WRITERS.get(node.operator, plain)(self, node)
            except FormatError as error:
                raise FormatError(f"{node.title}: {error}") from error
        outputs = [*graph.outputs, *graph.states.values()]
        for name in outputs:
            if name in self.constants:
                held = self.new(f"{name}.value")
                self.constants[held] = self.constants.pop(name)
                self.nodes = [_renamed(node, name, held) for node in self.nodes]
                self.add("Identity", [held], [name], name)
        used = {name for node in self.nodes for name in node.input}
        written = onnx.helper.make_graph(
            self.nodes,
            "network",
            [self.value(name) for name in (*graph.inputs, *graph.states)],
            [self.value(name) for name in outputs],
            [
                onnx.numpy_helper.from_array(np.asarray(array, order="C"), name)
                for name, array in self.constants.items()
                if name in used
            ],
        )
        opset = onnx.helper.make_opsetid("", self.opset)
        version = onnx.helper.find_min_ir_version_for([opset], ignore_unknown=True)
        return onnx.helper.make_model(
            written, opset_imports=[opset], ir_version=version, producer_name="cgru", producer_version=__version__
        )

    def value(self, name: str) -> onnx.ValueInfoProto:
        """An input's or output's type and shape."""
        kind = onnx.helper.np_dtype_to_tensor_dtype(self.graph.types[name])
        shape = [str(size) if isinstance(size, Size) else size for size in self.graph.shapes[name]]
        return onnx.helper.make_tensor_value_info(name, kind, shape)

    # --- What writers use ---------------------------------------------------------------------------------------------

    def new(self, name: str) -> str:
        """A name that nothing has."""
        found, number = name, 1
        while found in self.taken:
            number += 1
            found = f"{name}_{number}"
        self.taken.add(found)
        return found

    def constant(self, array: Any, name: str) -> str:
        """The name of an initializer."""
        name = self.new(name)
        self.constants[name] = np.asarray(array)
        return name

    def add(self, operator: str, inputs: Sequence[str], outputs: Sequence[str], name: str, **attributes: Any) -> None:
        """Write a node."""
        self.nodes.append(onnx.helper.make_node(operator, inputs, outputs, name=name, **attributes))

    def op(self, node: Node, operator: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        """Write a node that is a part of one; the name of what it gives."""
        name = to or self.new(f"{node.name}.{operator}")
        self.add(operator, inputs, [name], self.new(f"{node.name}.{operator}") if to else name, **attributes)
        return name

    def shape(self, node: Node, key: str, values: Iterable[int | Size]) -> str:
        """The name of a list of sizes, computed where axes are dynamic."""
        values = tuple(values)
        if not any(isinstance(value, Size) for value in values):
            return self.constant(np.array(values, np.int64).reshape(-1), f"{node.name}.{key}")
        parts = [self.size(value) for value in values]
        return parts[0] if len(parts) == 1 else self.op(node, "Concat", *parts, axis=0)

    def size(self, value: int | Size) -> str:
        """The name of a size (1,): sums of products of the sizes of inputs' axes."""
        key = str(value)
        if key not in self.sizes:
            at = Node("Shape", f"size {key}", (), ())
            if not isinstance(value, Size):
                self.sizes[key] = self.constant(np.array([value]), at.name)
            elif value.isidentifier():
                self.sizes[key] = self._axis(at, value)
            else:
                self.sizes[key] = self._sum(at, value)
        return self.sizes[key]

    def _axis(self, at: Node, axis: Size) -> str:
        for name in (*self.graph.inputs, *self.graph.states):
            if axis in self.graph.shapes[name]:
                position = self.constant(np.array([self.graph.shapes[name].index(axis)]), f"{at.name}.axis")
                return self.op(at, "Gather", self.op(at, "Shape", name), position, axis=0)
        raise FormatError(f"expected an input with an axis {axis}, got none")

    def _sum(self, at: Node, value: Size) -> str:
        total = ""
        for factors, count in value.terms.items():
            part = self.size(count)
            for factor in factors:
                if isinstance(factor, Quotient):
                    own = self.op(at, "Div", self.size(factor.size), self.size(factor.divisor))
                else:
                    own = self.size(Size(factor))
                part = own if count == 1 and part == self.size(1) else self.op(at, "Mul", part, own)
            total = self.op(at, "Add", total, part) if total else part
        return total


def to_type(name: str) -> int:
    """ONNX's number of a type."""
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name)))


def _renamed(node: onnx.NodeProto, name: str, new: str) -> onnx.NodeProto:
    inputs = [new if own == name else own for own in node.input]
    del node.input[:]
    node.input.extend(inputs)
    return node


# --- Operator sets ----------------------------------------------------------------------------------------------------


def needed(graph: Graph, node: Node) -> int:
    """The first operator set, from the oldest that is written, that has a node."""
    given = node.attributes
    kind = graph.types[node.inputs[0]].kind if node.inputs and node.inputs[0] else ""
    found = {
        "Gelu": 20,
        "Mish": 18,
        "Pad": 19 if given.get("mode") == "wrap" else OLDEST,
        "AveragePool": 19 if any(step != 1 for step in given.get("dilations") or ()) else OLDEST,
        "ScatterND": 18 if given.get("reduction") in ("min", "max") else OLDEST,
    }.get(node.operator, OLDEST)
    if given.get("ceil_mode"):  # whose windows that begin in the padding were counted before
        found = 22
    if node.operator in REDUCED:
        found = 20 if kind == "b" else 18 if given["noop_with_empty_axes"] and not given["axes"] else OLDEST
    return found


# --- Nodes ------------------------------------------------------------------------------------------------------------


def plain(model: _Model, node: Node) -> None:
    """A node as it is, with inputs for what is known here."""
    left_out = LEFT_OUT.get(node.operator, ())
    given = {key: value for key, value in node.attributes.items() if value is not None and key not in left_out}
    inputs = list(node.inputs)
    for position, key in sorted(node.row.known.items()):
        if key in given:
            inputs += [""] * (position + 1 - len(inputs))
            inputs[position] = known(model, node, key, given.pop(key))
    model.add(node.operator, inputs, node.outputs, node.name, **attributes(given))


def attributes(given: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as ONNX has them: arrays of one number are tensors."""
    return {
        key: onnx.numpy_helper.from_array(value.reshape(1)) if isinstance(value, np.ndarray) else value
        for key, value in given.items()
    }


def known(model: _Model, node: Node, key: str, value: Any) -> str:
    """The input that an attribute is there."""
    if isinstance(value, tuple):
        return model.shape(node, key, value)
    if isinstance(value, np.ndarray):
        (number,) = value.ravel()
        if isinstance(number, Size):
            return model.op(node, "Squeeze", model.size(number))
        return model.constant(value.reshape(()), f"{node.name}.{key}")
    dtype = np.dtype(bool) if key == "training_mode" else model.graph.types[node.inputs[0]]
    return model.constant(np.asarray(value, dtype), f"{node.name}.{key}")


def reduction(model: _Model, node: Node) -> None:
    """Axes as an input, or as an attribute of earlier operator sets."""
    axes, given = node.attributes["axes"], {"keepdims": node.attributes["keepdims"]}
    inputs = [node.inputs[0]]
    empty = bool(node.attributes["noop_with_empty_axes"]) and not axes
    if empty:
        given["noop_with_empty_axes"] = 1
    elif axes and (node.operator == "ReduceSum" or model.opset >= 18):
        inputs.append(model.shape(node, "axes", axes))
    elif axes:
        given["axes"] = axes
    model.add(node.operator, inputs, node.outputs, node.name, **given)


def reshape(model: _Model, node: Node) -> None:
    """A shape with 0 where a size stays, and -1 for the one that is left; computed where more are dynamic."""
    shape, given = node.attributes["shape"], model.graph.shapes[node.inputs[0]]
    short = [
        0 if isinstance(size, Size) and given[axis : axis + 1] == (size,) else size for axis, size in enumerate(shape)
    ]
    dynamic = [axis for axis, size in enumerate(short) if isinstance(size, Size)]
    if 0 in shape or len(dynamic) > 1:
        target, options = model.shape(node, "shape", shape), {"allowzero": 1} if 0 in shape else {}
    else:
        target, options = model.shape(node, "shape", (-1 if axis in dynamic else n for axis, n in enumerate(short))), {}
    model.add("Reshape", [node.inputs[0], target], node.outputs, node.name, **options)


def split(model: _Model, node: Node) -> None:
    """With the sizes of its parts, all of which have names."""
    x = model.graph.shapes[node.inputs[0]]
    axis = axis_of(node.attributes["axis"], len(x))
    given = node.attributes
    parts = movement.split_sizes(x, axis, given["split"], given["num_outputs"], len(node.outputs))
    names = [name or model.new(f"{node.name}.{i}") for i, name in enumerate(node.outputs)]
    model.add("Split", [node.inputs[0], model.shape(node, "split", parts)], names, node.name, axis=axis)


def average(model: _Model, node: Node) -> None:
    """Without dilations of 1, which operator sets before 19 have not."""
    given = {key: value for key, value in node.attributes.items() if value is not None}
    if all(step == 1 for step in given.get("dilations", ())):
        given.pop("dilations", None)
    model.add("AveragePool", node.inputs, node.outputs, node.name, **given)


def pad(model: _Model, node: Node) -> None:
    """With pads for all axes."""
    x = node.inputs[0]
    pairs = movement.paddings(model.graph.shapes[x], node.attributes["pads"], node.attributes["axes"])
    inputs = [x, model.shape(node, "pads", (*(first for first, _ in pairs), *(last for _, last in pairs)))]
    if node.attributes["value"] is not None:
        inputs.append(known(model, node, "value", node.attributes["value"]))
    model.add("Pad", inputs, node.outputs, node.name, mode=node.attributes["mode"])


def cast(model: _Model, node: Node) -> None:
    """With ONNX's number of the type."""
    model.add("Cast", node.inputs, node.outputs, node.name, to=to_type(node.attributes["to"]))


def clip(model: _Model, node: Node) -> None:
    """With bounds that have no axes."""
    inputs = list(node.inputs)
    for position, name in enumerate(inputs[1:], 1):
        if name and model.graph.shapes[name]:
            inputs[position] = model.op(node, "Squeeze", name)
    model.add("Clip", inputs, node.outputs, node.name)


def modulo(model: _Model, node: Node) -> None:
    """Of floating point numbers with the remainder of the first one's sign, and b added where that is not b's."""
    dtype = model.graph.types[node.inputs[0]]
    if dtype.kind != "f" or node.attributes["fmod"]:
        plain(model, node)
        return
    a, b = node.inputs
    zero = model.constant(np.zeros((), dtype), f"{node.name}.zero")
    rest = model.op(node, "Mod", a, b, fmod=1)
    signs = [model.op(node, "Less", value, zero) for value in (rest, b)]
    some = model.op(node, "Not", model.op(node, "Equal", rest, zero))
    other = model.op(node, "And", some, model.op(node, "Xor", *signs))
    model.op(node, "Where", other, model.op(node, "Add", rest, b), rest, to=node.outputs[0])


def swish(model: _Model, node: Node) -> None:
    """x times a Sigmoid: the operator itself is of operator set 24."""
    (x,) = node.inputs
    alpha = node.attributes["alpha"]
    scaled = x
    if alpha != 1:
        factor = model.constant(np.asarray(alpha, model.graph.types[x]), f"{node.name}.alpha")
        scaled = model.op(node, "Mul", x, factor)
    model.op(node, "Mul", x, model.op(node, "Sigmoid", scaled), to=node.outputs[0])


def softmax(model: _Model, node: Node) -> None:
    """Over several axes, as before operator set 13, by way of a matrix."""
    (x,) = node.inputs
    shape = model.graph.shapes[x]
    axis = axis_of(node.attributes["axis"], len(shape))
    if not node.attributes["to_end"] or axis == len(shape) - 1:
        plain(model, node)
        return
    rows = model.op(node, node.operator, model.op(node, "Flatten", x, axis=axis), axis=1)
    model.op(node, "Reshape", rows, model.op(node, "Shape", x), to=node.outputs[0])


def indexed(model: _Model, node: Node) -> None:
    """With indices of a type that ONNX takes."""
    types = ("int64",) if node.operator == "ScatterND" else ("int64", "int32")
    x, indices, *rest = node.inputs
    given = {key: value for key, value in node.attributes.items() if value != "none"}
    inputs = [x, _cast(model, node, indices, types), *rest]
    model.add(node.operator, inputs, node.outputs, node.name, **given)


def _cast(model: _Model, node: Node, name: str, types: Sequence[str]) -> str:
    """A value as the first of some types, if it is of none of them."""
    if model.graph.types[name].name in types:
        return name
    result = model.new(f"{node.name}.Cast")
    model.add("Cast", [name], [result], result, to=to_type(types[0]))
    return result


# --- Recurrent layers -------------------------------------------------------------------------------------------------


def recurrent(model: _Model, node: Node) -> None:
    """Over (T, B, I): runtimes refuse layout 1, so that sequences are turned round before and after."""
    given = {key: value for key, value in node.attributes.items() if value is not None and key != "layout"}
    inputs = list(node.inputs)
    if inputs[4:] and inputs[4]:
        inputs[4] = _cast(model, node, inputs[4], ("int32",))
    if node.attributes["layout"] == 0:
        model.add(node.operator, inputs, node.outputs, node.name, **given)
        return
    for position in (0, 5):
        if inputs[position:] and inputs[position]:
            inputs[position] = model.op(node, "Transpose", inputs[position], perm=(1, 0, 2))
    outputs = [name and model.new(f"{node.name}.steps") for name in node.outputs]
    model.add(node.operator, inputs, outputs, node.name, **given)
    for result, name, order in zip(outputs, node.outputs, ((2, 0, 1, 3), (1, 0, 2)), strict=False):
        if name:
            model.op(node, "Transpose", result, to=name, perm=order)


def whole_gru(model: _Model, node: Node) -> None:
    """A node GRU a layer, each with its directions put side by side, or added."""
    computed = [repr(name) for name in node.inputs[2:] if name not in model.graph.constants]
    if computed:
        raise FormatError(f"expected parameters that are constants, got {checks.listed(computed)}")
    value = value_of(model.graph, node)
    layers.refuse(value, beside=True)
    spec = value.spec
    directions, options = spec.directions, layers.attributes_of(spec)
    x, h0, *_ = node.inputs
    y, h_n = (*node.outputs, "")[:2]
    initial = [""] * spec.num_layers
    if h0:
        initial = [model.new(f"{node.name}.h0_l{k}") for k in range(spec.num_layers)]
        parts = model.shape(node, "split", [directions] * spec.num_layers)
        model.add("Split", [h0, parts], initial, model.new(f"{node.name}.Split"), axis=0)
    below = model.op(node, "Transpose", x, perm=(1, 0, 2)) if spec.batch_first else x
    last = []
    for k, weights in enumerate(layers.weights_of(value)):
        inputs = [
            model.constant(weights[part], f"{node.name}.{part}_l{k}") if part in weights else "" for part in "WRB"
        ]
        states, end = model.new(f"{node.name}.Y_l{k}"), model.new(f"{node.name}.h_l{k}") if h_n else ""
        model.add("GRU", [below, *inputs, "", initial[k]], [states, end], model.new(f"{node.name}.gru_l{k}"), **options)
        last.append(end)
        to = y if k == spec.num_layers - 1 and not spec.batch_first else ""
        if directions == 1:
            axes = model.constant(np.array([1]), f"{node.name}.direction")
            below = model.op(node, "Squeeze", states, axes, to=to)
        elif spec.merge == "sum":
            axes = model.constant(np.array([1]), f"{node.name}.direction")
            below = model.op(node, "ReduceSum", states, axes, to=to, keepdims=0)
        else:
            turned = model.op(node, "Transpose", states, perm=(0, 2, 1, 3))
            shape = model.constant(np.array([0, 0, directions * spec.hidden_size]), f"{node.name}.side_by_side")
            below = model.op(node, "Reshape", turned, shape, to=to)
    if y and spec.batch_first:
        model.op(node, "Transpose", below, to=y, perm=(1, 0, 2))
    if h_n:
        model.op(node, "Concat", *last, to=h_n, axis=0)


WRITERS: dict[str, Callable[[_Model, Node], None]] = {
    **dict.fromkeys(("ReduceSum", *REDUCED), reduction),
    **dict.fromkeys(("Softmax", "LogSoftmax"), softmax),
    **dict.fromkeys(("Gather", "ScatterND"), indexed),
    **dict.fromkeys(("GRU", "RNN"), recurrent),
    "AveragePool": average,
    "Cast": cast,
    "Clip": clip,
    "Mod": modulo,
    "Pad": pad,
    "Reshape": reshape,
    "Split": split,
    "Swish": swish,
    stack.NAME: whole_gru,
}
"""Operators that are not written as they are."""
