"""Networks that are refused, and why: operators, names, shapes, types, sizes, memory; and calls that do not fit."""

import re

import numpy as np
import pytest
from onnx import TensorProto, helper

import cgru
from cgru.formats.onnx.network import from_onnx
from cgru.model.building import build
from cgru.model.graph import Node
from cgru.model.interpret import run
from cgru.model.nodes.sizes import Size

from ..support import networks
from ..support.networks import Net

T, B = Size("T"), Size("B")


def refused(message, nodes, inputs=None, outputs=("y",), constants=None, error=cgru.FormatError, **options):
    with pytest.raises(error, match="(?s)" + re.escape(message)) as caught:
        build(nodes, constants or {}, inputs or {"x": (4,)}, outputs, **options)
    return str(caught.value)


def node(operator, inputs, outputs, **attributes):
    return Node(operator, f"{operator} of {outputs}", tuple(inputs.split()), tuple(outputs.split()), attributes)


def test_unknown_operators_are_all_listed():
    nodes = [node("Foo", "x", "a"), node("LSTM", "a", "b"), node("Foo", "b", "c"), node("Relu", "c", "y")]
    message = refused("Foo ('Foo of a', 'Foo of c'); LSTM ('LSTM of b')", nodes)
    assert "LSTM layers are not built yet" in message


def test_operators_of_other_domains():
    net = Net(0)
    net.nodes.append(helper.make_node("FusedConv", [net.input("x", [4])], ["z"], name="fused", domain="com.microsoft"))
    with pytest.raises(cgru.FormatError, match=r"com\.microsoft\.FusedConv \('fused'\)"):
        from_onnx(net.model("z"))


def test_bodies_are_refused_with_their_node():
    net = Net(0)
    body = helper.make_graph([], "body", [], [])
    net.nodes.append(
        helper.make_node("If", [net.input("x", [4])], ["z"], name="branch", then_branch=body, else_branch=body)
    )
    with pytest.raises(cgru.FormatError, match=r"If \('branch'\)"):
        from_onnx(net.model("z"))


@pytest.mark.parametrize(("nodes", "message"), [
    ([node("Add", "x b", "a"), node("Neg", "a", "b"), node("Neg", "b", "y")], "no cycle, got one among Add 'Add of a', Neg 'Neg of b'"),
    ([node("Add", "y x", "y")], "no cycle"),
    ([node("Add", "x q", "y"), node("Neg", "r", "z")], "'q' of Add 'Add of y', 'r' of Neg 'Neg of z'"),
    ([node("Neg", "x", "a")], "'y' of the outputs"),
    ([node("Neg", "x", "y"), node("Abs", "x", "y")], "new names, got 'y', as Neg 'Neg of y' has"),
    ([node("Neg", "x", "x"), node("Neg", "x", "y")], "new names, got 'x', as an input or a constant has"),
    ([node("Add", "x", "y")], "Add 'Add of y': expected 2 inputs, got 1"),
    ([node("Neg", "x x", "y")], "expected 1 inputs, got 2"),
    ([node("Neg", "x", "y z")], "expected 1 outputs, got 2"),
    ([node("Neg", "x", "y", axis=1)], "expected the attributes none, got 'axis'"),
    ([node("Concat", "x x", "y")], "expected the attribute axis, got none"),
    ([node("Concat", "x x", "y", axis="1")], "axis: expected int"),
    ([node("Concat", "x x", "y", axis=1)], "expected an axis from -1 to 0, got 1"),
    ([node("Softmax", "x", "y", axis=3)], "expected an axis from -1 to 0, got 3"),
    ([node("Not", "x", "y")], "input 0: expected bool, got float32"),
    ([node("Reshape", "x x", "y")], "shape: expected numbers that are known when the network is made, got 'x'"),
    ([node("Reshape", "x", "y", shape=(3, -1))], "expected a shape that holds what (4,) has"),
    ([node("Reshape", "x", "y", shape=(3,))], "expected a shape that holds what (4,) has, got (3,)"),
    ([node("Transpose", "x", "y", perm=(1, 0))], "each of 1 axes once in perm"),
    ([node("Pad", "x", "y", pads=(-2, -2))], "pads that leave something of each axis, got (0,)"),
    ([node("Split", "x", "y z", split=(1, 2))], "2 parts of 4, got (1, 2)"),
    ([node("Cast", "x", "y", to="float16")], "to: expected 'float32' or"),
    ([node("Squeeze", "x", "y", axes=(0,))], "axes of size 1 of (4,)"),
    ([node("Neg", "x", "y"), node("Neg", "y", "z")] * 2, "new names"),
])  # fmt: skip
def test_bad_nodes(nodes, message):
    refused(message, nodes)


@pytest.mark.parametrize(("operator", "shapes", "attributes", "message"), [
    ("Add", [(2, 3), (4, 3)], {}, "shapes that broadcast together, got (2, 3) and (4, 3)"),
    ("MatMul", [(2, 3), (4, 3)], {}, "3 rows of the second input, as the first has columns, got (4, 3)"),
    ("Gemm", [(2, 3), (4, 3)], {}, "3 rows of B as A has columns, got 4"),
    ("Gemm", [(2, 3), (3, 4), (5,)], {}, "shapes that broadcast together, got (2, 4) and (5,)"),
    ("Einsum", [(2, 3), (4, 3)], {"equation": "ab,bc->ac"}, "b of one size, got 3 and 4"),
    ("Einsum", [(2, 3), (4, 3)], {"equation": "ii,ij->j"}, "an equation of letters"),
    ("Conv", [(1, 4, 9), (6, 3, 3)], {"group": 2}, "3 * 2 channels, got 4"),
    ("Conv", [(1, 4, 9), (5, 2, 3)], {"group": 2}, "a multiple of 2 outputs, got 5"),
    ("Conv", [(1, 4, 2), (5, 4, 3)], {}, "windows of at most 2, got 3 with their dilation"),
    ("Conv", [(1, 4, 9), (5, 4, 3)], {"strides": (0,)}, "strides of 1 and more, got [0]"),
    ("Conv", [(1, 4, 9), (5, 4, 3)], {"pads": (1,)}, "2 numbers as pads, got [1]"),
    ("Conv", [(1, 4, 9, 9, 9), (5, 4, 3, 3, 3)], {}, "1 or 2 axes after batch and channels, got 3"),
    ("ConvTranspose", [(1, 4, 9), (5, 2, 3)], {}, "weights of 4 channels in 1 groups, got 5"),
    ("BatchNormalization", [(1, 4, 9), (4,), (4,), (3,), (4,)], {}, "a parameter of shape (4,), one for each channel, got (3,)"),
    ("LayerNormalization", [(2, 1), (1, 4)], {}, "scale and bias that broadcast to x, got (1, 4)"),
    ("GRU", [(5, 1, 3), (1, 12, 3), (1, 12, 5)], {}, "R (1, 3*H, H), got (1, 12, 5)"),
    ("GRU", [(5, 1, 3), (1, 12, 2), (1, 12, 4)], {}, "W (1, 12, 3) for X of 3 inputs, got (1, 12, 2)"),
    ("GRU", [(5, 1, 3), (1, 12, 3), (1, 12, 4)], {"activations": ("Tanh",)}, "activations: expected 2 of"),
    ("GRU", [(5, 1, 3), (1, 12, 3), (1, 12, 4)], {"direction": "up"}, "direction: expected 'forward' or"),
    ("RNN", [(5, 1, 3), (1, 4, 3), (1, 4, 4)], {"activations": ("Sigmoid",)}, "activations Tanh or Relu, got Sigmoid"),
    ("Concat", [(2, 3), (4, 3)], {"axis": 1}, "inputs alike but along axis 1, got (2, 3) and (4, 3)"),
    ("Where", [(2, 3), (4, 3), (2, 3)], {}, "input 0: expected bool"),
    ("PRelu", [(2, 3), (2,)], {}, "shapes that broadcast together"),
])  # fmt: skip
def test_shapes_that_disagree(operator, shapes, attributes, message):
    names = [f"i{k}" for k in range(len(shapes))]
    text = refused(message, [node(operator, " ".join(names), "y", **attributes)], dict(zip(names, shapes, strict=True)))
    assert f"network: {operator} '{operator} of y': " in text


def test_negative_axes_and_sizes_of_data():
    refused("got 'n', which depends on the size of a dynamic axis (N)", [
        node("Size", "x", "n"), node("Mul", "n k", "y"),
    ], {"x": (Size("N"),), "k": (1,)}, types={"k": np.dtype(np.int64)})  # fmt: skip
    refused("output 'y': expected numbers, got sizes of dynamic axes", [node("Shape", "x", "y")], {"x": (Size("N"),)})


@pytest.mark.parametrize(("nodes", "inputs"), [
    ([node("ConstantOfShape", "", "y", shape=(10**6, 10**6))], {}),
    ([node("Expand", "x", "y", shape=(10**9, 4))], {}),
    ([node("Tile", "x", "y", repeats=(2**40,))], {}),
    ([node("Pad", "x", "y", pads=(2**62, 0))], {}),
    ([node("MatMul", "a b", "y")], {"a": (10**5, 1), "b": (1, 10**5)}),
    ([node("Range", "", "y", start=np.array(0), limit=np.array(2**62), delta=np.array(1))], {}),
    ([node("Conv", "a b", "y", pads=(2**40, 2**40), dilations=(2**41,))], {"a": (1, 1, 2), "b": (1, 1, 2)}),
    ([node("MaxPool", "a", "y", kernel_shape=(2**41,), pads=(2**40, 2**40))], {"a": (1, 1, 2)}),
    ([node("Neg", "x", "y")], {"x": (2**62, 2**62)}),
])  # fmt: skip
def test_planned_memory_is_bounded(nodes, inputs):
    refused("expected values of at most max_memory=1,000,000,000 bytes in all", nodes, inputs or {"x": (4,)})


def test_memory_counts_all_values():
    nodes = [node("Neg", f"v{i}", f"v{i + 1}") for i in range(10)]
    build(nodes, {}, {"v0": (100, T)}, ["v10"], max_memory=11 * 400)
    refused("max_memory=4,399 bytes in all, got 4,400", nodes, {"v0": (100, T)}, ["v10"], max_memory=11 * 400 - 1)


def test_dynamic_axes():
    def conv(shape):
        return [node("Conv", "x w", "y")], {"x": shape}, ["y"], {"w": np.zeros((2, 3, 3, 3), np.float32)}

    H, W = Size("H"), Size("W")
    refused("expected one dynamic axis that is time and perhaps one that is the batch, got H, W", *conv((1, 3, H, W)))
    refused("got B, H, N", [node("Neg", "x", "y")], {"x": (B, H, 3, Size("N"))})
    nodes, inputs, outputs, constants = conv((B, 3, T, 8))
    graph = build(nodes, constants, inputs, outputs)
    assert (graph.steps, graph.batch, graph.outputs["y"]) == ("T", "B", ("B", 2, "T-2", 6))


def test_calls_that_do_not_fit():
    graph = from_onnx(networks.sequence_model([networks.gru], 0))
    x = np.zeros((2, 3, 4), np.float32)
    for inputs, states, message in [
        ({}, None, "inputs: expected x, got none"),
        ({"x": x, "z": x}, None, "inputs: expected x, got x, z"),
        ({"x": x}, {"h": x}, "states: expected none, got h"),
        ({"x": x[0]}, None, "x: expected (B, T, 4), got (3, 4)"),
        ({"x": x[..., :3]}, None, "x: expected (B, T, 4), got (2, 3, 3)"),
        ({"x": x.astype(int)}, None, "x: expected float32, got int64"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            run(graph, inputs, states)


def test_sequences_that_are_too_short():
    net = Net(0)
    x = net.op("Transpose", net.input("x", [1, "T", 4]), perm=[0, 2, 1])
    graph = from_onnx(net.model(net.op("Conv", x, net.weight(4, 4, 5))))
    with pytest.raises(ValueError, match="at most 3, got 5"):
        run(graph, {"x": np.zeros((1, 3, 4))})


@pytest.mark.parametrize("opset", [1, 6, 23])
def test_operator_sets(opset):
    net = Net(0, opset)
    with pytest.raises(cgru.FormatError, match=f"operator set from 7 to 22, got {opset}"):
        from_onnx(net.model(net.op("Relu", net.input("x", [4]))))


def test_inputs_that_are_no_arrays():
    net = Net(0)
    net.inputs["x"] = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [4])
    with pytest.raises(cgru.FormatError, match="input 'x': expected an array"):
        from_onnx(net.model(net.op("Relu", "x")))
    net.inputs["x"] = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    with pytest.raises(cgru.FormatError, match="input 'x': expected a shape"):
        from_onnx(net.model(net.op("Relu", "x")))
    net.inputs["x"] = helper.make_tensor_value_info("x", TensorProto.FLOAT16, [4])
    with pytest.raises(cgru.FormatError, match=r"input 'x': expected an array of .*, got FLOAT16"):
        from_onnx(net.model(net.op("Relu", "x")))


@pytest.mark.parametrize(
    ("opset", "attributes", "constants"), [(7, {"min": 0.0, "max": 6.0}, 0), (10, {"max": 6.0}, 0), (13, {}, 2)]
)
def test_clip_of_all_versions(opset, attributes, constants):
    net = Net(0, opset)
    x = net.input("x", [5])
    bounds = [net.constant(np.float32(0)), net.constant(np.float32(6))][:constants]
    graph = from_onnx(net.model(net.op("Clip", x, *bounds, **attributes)))
    x = np.array([-3.0, 1, 5, 7, 9])
    low = -np.inf if opset == 10 else 0
    np.testing.assert_array_equal(run(graph, {"x": x})[0]["y0"], np.clip(x, low, 6))


@pytest.mark.parametrize("opset", [7, 11, 13])
def test_softmax_of_all_versions(opset):
    """Before operator set 13 it is over all axes from one on, the second if none is named."""
    net = Net(0, opset)
    graph = from_onnx(net.model(net.op("Softmax", net.input("x", [2, 3, 4]))))
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    axes = (1, 2) if opset < 13 else (2,)
    np.testing.assert_allclose(run(graph, {"x": x})[0]["y0"].sum(axes), 1)


def test_names_of_tensors_and_inputs_twice():
    net = Net(0)
    model = net.model(net.op("Add", net.input("x", [4]), net.weight(4)))
    model.graph.initializer.append(model.graph.initializer[0])
    with pytest.raises(cgru.FormatError, match="tensors of different names, got 'w0' twice"):
        from_onnx(model)
    del model.graph.initializer[1]
    model.graph.input.append(model.graph.input[0])
    with pytest.raises(cgru.FormatError, match="inputs of different names, got 'x' twice"):
        from_onnx(model)


def test_many_names_of_axes():
    net = Net(0)
    names = [net.input(f"x{k}", [f"a{'+' * (k % 7)}", 2]) for k in range(7)]
    with pytest.raises(cgru.FormatError, match=r"one dynamic axis that is time .* got a, a_, a__, a___, a____"):
        from_onnx(net.model(*(net.op("Neg", name) for name in names)))


def test_a_number_in_the_place_of_what_a_function_needs_whole():
    """PRelu's first input gives the result's shape, so that it stays; a divisor of 0 is found when it is folded."""
    net = Net(0)
    x = net.input("x", ["N", 4])
    threes = net.op(
        "ConstantOfShape", net.op("Shape", x), value=helper.make_tensor("v", TensorProto.FLOAT, [1], [-3.0])
    )
    graph = from_onnx(net.model(net.op("PRelu", threes, x)))
    np.testing.assert_array_equal(run(graph, {"x": np.ones((2, 4))})[0]["y0"], np.full((2, 4), -3.0))
    zeros = net.op("ConstantOfShape", net.op("Shape", x), value=helper.make_tensor("v", TensorProto.INT64, [1], [0]))
    with pytest.raises(cgru.FormatError, match="Mod 'n5': expected divisors other than 0"):
        from_onnx(net.model(net.op("Mod", zeros, zeros)))


def test_axes_that_a_node_makes_one():
    shapes = {"x": (B, T, 4), "y": (Size("N"), Size("S"), 4)}
    graph = build([node("Concat", "x y", "z", axis=2)], {}, shapes, ["z"])
    assert graph.inputs == {"x": ("B", "T", 4), "y": ("B", "T", 4)}
    graph = build([node("Add", "x y", "z")], {}, {"x": (B, 4), "y": (Size("N"), 4)}, ["z"])
    assert graph.inputs["y"] == ("B", 4)
    refused(
        "shapes that broadcast together, got (B, T) and (T, B)",
        [node("Add", "x y", "z")],
        {"x": (B, T), "y": (T, B)},
        ["z"],
    )


def test_types_that_differ():
    types = {"k": np.dtype(np.int64)}
    inputs = {"x": (4,), "k": (4,)}
    refused(
        "input 1: expected float32 as the inputs before it, got int64", [node("Add", "x k", "y")], inputs, types=types
    )
    refused(
        "input 2: expected float32",
        [node("Where", "b x k", "y")],
        inputs | {"b": (4,)},
        types=types | {"b": np.dtype(bool)},
    )


def test_parts_that_a_short_sequence_has_not():
    graph = build([node("Slice", "x", "y", starts=(0,), ends=(3,))], {}, {"x": (T, 2)}, ["y"])
    assert run(graph, {"x": np.ones((5, 2))})[0]["y"].shape == (3, 2)
    with pytest.raises(ValueError, match=r"Slice 'Slice of y': expected \(3, 2\), got \(2, 2\); T = 2 is too short"):
        run(graph, {"x": np.ones((2, 2))})
