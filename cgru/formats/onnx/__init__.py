"""ONNX: GRU operators of a model as one cgru.GRU, and a GRU as a model that any runtime of the standard runs.

The operator's conventions are gates in the order z, r, h and the reset gate before the product unless
`linear_before_reset` says otherwise. What a graph computes around its GRUs is not loaded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from cgru import checks
from cgru.errors import FormatError
from cgru.formats import files
from cgru.formats.onnx import bodies, layers, operator, order, parsing
from cgru.formats.onnx.graph import MAX_USES, Graph
from cgru.model.spec import from_options
from cgru.model.value import Value, face

if TYPE_CHECKING:
    from cgru.gru import GRU
    from cgru.types import Array

OPSET, IR_VERSION = 14, 8
"""What `to_onnx` writes: the operator's version of 2021, which runtimes since then read."""


def from_onnx(model: Any, name: str | None = None) -> GRU:
    """The GRU in an ONNX model, its parameters copied.

    Parameters
    ----------
    model : onnx.ModelProto or path
        Weights may be float32, float64, float16 or bfloat16, of which the last two are widened exactly to float32.
        Where all are int8 behind DequantizeLinear, about zero, with a scale for all or for each row, they stay int8
        with the same integers and scales, and inputs and states are rounded, too (`GRU.quantize`). Other quantized
        weights become the float32 numbers that they stand for.
    name : str, optional
        The name of one GRU node, or of its output. Without it all GRUs in the model must form one stack, each reading
        what the one before it wrote; they become the layers of one GRU.

    Returns
    -------
    GRU
        Initial states and lengths that the graph computes from its inputs are `h0` and `lengths` of a call, except
        lengths that are all of the input's steps. `reverse` is also set where the graph turns sequences round before
        the GRU and back after it.
        `batch_first` is the operator's `layout`; it is also set for a stack whose graph's own input and output are
        (B, T, ...) by a Transpose each.

    Raises
    ------
    cgru.FormatError
        No ONNX model, several GRUs that form no stack (the message lists them), or one that no `cgru.GRU` can equal.
    OSError
        The file cannot be read.
    ImportError
        The package onnx is missing.

    Examples
    --------
    >>> import cgru, tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "model.onnx")
    >>> cgru.GRU(4, 8, num_layers=2, reset_after=False).to_onnx(path)
    >>> cgru.from_onnx(path)
    GRU(4, 8, num_layers=2, reset_after=False)
    >>> cgru.from_onnx(path, "gru_l1")
    GRU(8, 8, reset_after=False)
    """
    if isinstance(model, onnx.ModelProto):
        gru: GRU = face(_load(model, "model", None, name))
        return gru
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(f"model: expected an onnx.ModelProto or a path, got {type(model).__name__}")
    return load(Path(model), name)


def holds_network(path: Path) -> bool:
    """Whether a file is a network that does more than its GRUs."""
    from cgru.formats.onnx.network import does_more

    return does_more(parsing.parse(path))


def load(path: Path, name: str | None = None) -> GRU:
    """`from_onnx` of a file."""
    gru: GRU = face(read(path, name))
    return gru


def read(path: Path, name: str | None = None) -> Value:
    """The value of the GRU in a file."""
    return _load(parsing.parse(path), str(path), path, name)


def _load(proto: Any, source: str, path: Path | None, name: str | None) -> Value:
    parsing.check_text(proto, source)
    graph = Graph(proto.graph, source, path)
    found = graph.grus()
    bodies.refuse(proto, source, found, name)
    if not found:
        raise FormatError(f"{source}: expected a GRU among the graph's nodes, got none")
    names = checks.listed(repr(operator.name_of(node)) for node in found)
    if name is not None:
        fitting = [node for node in found if operator.is_named(node, name)]
        if len(fitting) != 1:
            raise FormatError(f"{source}: name: expected one GRU of {names}, got {len(fitting)} of name {name!r}")
        return _build(source, [operator.read(graph, fitting[0])])
    units = [operator.read(graph, found[0])] if len(found) == 1 else _stack(graph, found, names)
    return _build(source, units, _batch_major(units))


def _stack(graph: Graph, found: list[Any], names: str) -> list[operator.Unit]:
    """All GRUs in the order in which each reads the one before it."""
    units, held, source = [], 0, graph.source
    for node in found:
        units.append(operator.read(graph, node))
        held += sum(part.nbytes for parts in units[-1].weights for part in parts if part is not None)
        if held > MAX_USES * graph.cost.stored:
            raise FormatError(
                f"{source}: expected a tensor to serve {MAX_USES} GRUs at most; choose one by its name: {names}"
            )
    writer = {unit.y: unit for unit in units}
    above: dict[str, list[operator.Unit]] = {unit.y: [] for unit in units}
    stack = []
    for unit in units:
        y, moves = unit.graph.moves_from_gru(unit.x) or ("", [])
        if y in writer and writer[y].moved(moves) == writer[y].layered(unit.options["batch_first"], unit.turned):
            above[y].append(unit)
        else:
            stack.append(unit)
    roots = len(stack)
    while 0 < len(stack) < len(units) and len(above[stack[-1].y]) == 1:
        stack += above[stack[-1].y]
    if roots != 1 or len(stack) != len(units):
        raise FormatError(f"{source}: expected GRUs that form one stack; choose one by its name: {names}")
    return stack


def _batch_major(units: list[operator.Unit]) -> bool:
    """Whether the graph's own input and output are (B, T, ...), by a Transpose on either side of the stack."""
    first, last = units[0], units[-1]
    graph, way = first.graph, order.way(first.graph, first.node)
    swapped = way.axes == (1, 0) and way.source in graph.inputs and not first.options["batch_first"]
    paths = [graph.moves_from_gru(output.name) or ("", []) for output in graph.proto.output]
    results = [last.moved(moves) for y, moves in paths if y == last.y]
    return swapped and last.layered(True) in results


def _build(source: str, units: list[operator.Unit], batch_major: bool = False) -> Value:
    """The value of the GRU whose layers these are."""
    first = units[0]
    for unit in units[1:]:
        expected = {**first.options, "input_size": first.options["hidden_size"] * len(first.weights)}
        different = [option for option, value in unit.options.items() if value != expected[option]]
        different += ["sequence_lens"] * (unit.lengths != first.lengths)
        if different:
            raise FormatError(
                f"{source}: expected layers alike to make one GRU of them, got {first.name!r} and {unit.name!r} that "
                f"differ in {', '.join(different)}; load each by its name"
            )
    bias = any(b is not None for unit in units for *_, b in unit.weights)
    zero = np.zeros((2, 3 * first.options["hidden_size"]), first.options["dtype"])
    integers = all(unit.narrow is not None for unit in units)  # a model's weights are all of int8, or none
    arrays: dict[str, Any] = {}
    for layer, unit in enumerate(units):
        for d, (w, r, b) in enumerate(unit.weights):
            end = f"_l{layer}" + "_reverse" * d
            arrays["weight_ih" + end], arrays["weight_hh" + end] = (
                unit.narrow[d] if integers and unit.narrow else (w, r)
            )
            if bias:
                arrays["bias_ih" + end], arrays["bias_hh" + end] = zero if b is None else b
    options = {**first.options, "num_layers": len(units), "bias": bias}
    options["batch_first"] |= batch_major
    try:
        return Value.of(from_options("GRU", options), arrays)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{source}: GRU {first.name!r}: {error}") from error


def save(value: Value, path: str | os.PathLike[str]) -> None:
    """Write a model of one GRU operator a layer; see `GRU.to_onnx`."""
    layers.refuse(value)
    model = _model(value)
    onnx.checker.check_model(model)
    files.write(path, model.SerializeToString())


to_onnx = save
"""The name of earlier versions."""


def _model(value: Value) -> Any:
    """x -> [Transpose] -> a GRU a layer, each with its directions put side by side -> [Transpose] -> y, h_n."""
    gru = value.spec
    directions, number, hidden = gru.directions, gru.num_layers, gru.hidden_size
    kind = onnx.helper.np_dtype_to_tensor_dtype(gru.dtype)
    attributes = layers.attributes_of(gru)
    nodes: list[Any] = []
    constants: dict[str, Array] = {
        "h0": np.zeros((number * directions, 1, hidden), gru.dtype),  # for a session's call without h0
        "batch_axis": np.array([0 if gru.batch_first else 1]),
        "one": np.array([1]),
        "side_by_side": np.array([0, 0, directions * hidden]),
    }

    def node(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        nodes.append(onnx.helper.make_node(operator, inputs, outputs, name=outputs[0], **attributes))

    node("Shape", ["x"], ["x_shape"])
    node("Gather", ["x_shape", "batch_axis"], ["batch"], axis=0)
    node("Concat", ["one", "batch", "one"], ["state_shape"], axis=0)
    node("Expand", ["h0", "state_shape"], ["h0_all"])
    node("Split", ["h0_all"], [f"h0_l{k}" for k in range(number)], axis=0)
    below = "x"
    if gru.batch_first:
        node("Transpose", ["x"], ["x_steps"], perm=[1, 0, 2])
        below = "x_steps"
    for k, parts in enumerate(layers.weights_of(value)):
        constants.update({f"{part}_l{k}": array for part, array in parts.items()})
        weights = [f"{part}_l{k}" if part in parts else "" for part in "WRB"]
        nodes.append(
            onnx.helper.make_node(
                "GRU", [below, *weights, "", f"h0_l{k}"], [f"Y_l{k}", f"h_n_l{k}"], name=f"gru_l{k}", **attributes
            )
        )
        last = k == number - 1
        below = "y" if last and not gru.batch_first else f"y_l{k}"
        node("Transpose", [f"Y_l{k}"], [f"Y_l{k}_steps"], perm=[0, 2, 1, 3])
        node("Reshape", [f"Y_l{k}_steps", "side_by_side"], [below])
    if gru.batch_first:
        node("Transpose", [below], ["y"], perm=[1, 0, 2])
    node("Concat", [f"h_n_l{k}" for k in range(number)], ["h_n"], axis=0)
    if sum(array.nbytes for array in constants.values()) > layers.MAX_BYTES:
        raise FormatError(f"an ONNX file holds up to {layers.MAX_BYTES} bytes of weights; save a .safetensors file")

    steps = ["B", "T"] if gru.batch_first else ["T", "B"]
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "gru",
        [tensor("x", kind, [*steps, gru.input_size]), tensor("h0", kind, [number * directions, "B0", hidden])],
        [tensor("y", kind, [*steps, directions * hidden]), tensor("h_n", kind, [number * directions, "B", hidden])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="cgru")
