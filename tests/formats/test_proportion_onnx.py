"""Time and memory of loading an ONNX model, or of refusing it, are in proportion to its size."""

import numpy as np
import pytest
from onnx import TensorProto, helper

import cgru

from ..support import onnx_graphs as graphs
from ..support.fuzz import in_proportion

node = helper.make_node


def grus(number, weights=lambda k: ["W", "R", ""], lengths="", initial="", x="X"):
    """Nodes that form no stack."""
    return [node("GRU", [x, *weights(k), lengths, initial], [f"Y{k}"], name=f"g{k}") for k in range(number)]


def onnx_model(nodes, inputs=1, **constants):
    weights = {"W": np.ones((1, 3, inputs), np.float32), "R": np.ones((1, 3, 1), np.float32), **constants}
    given = {"X": ([None, None, inputs], TensorProto.FLOAT), "L": ([None], TensorProto.INT32)}
    return graphs.model(nodes, given, ["Y0"], weights)


def own(number):
    """Weights of each of many GRUs; where they shared them, they would be refused for that."""
    return {f"{part}{k}": np.ones((1, 3, 1), np.float32) for k in range(number) for part in "WR"}


def own_names(k):
    return [f"W{k}", f"R{k}", ""]


def lengths_far_from_the_input(number):
    chain = [node("Neg", [f"l{k}"], [f"l{k + 1}"]) for k in range(number)]
    first = node("Identity", ["L"], ["l0"])
    return onnx_model([first, *chain, *grus(number, own_names, lengths=f"l{number}")], **own(number))


def states_far_from_zero(number):
    chain = [node("Flatten", [f"s{k}"], [f"s{k + 1}"]) for k in range(number)]
    first = node("ConstantOfShape", ["shape"], ["s0"])
    nodes = [first, *chain, *grus(number, own_names, initial=f"s{number}")]
    return onnx_model(nodes, shape=np.array([1, 1, 1]), **own(number))


def calls_on_many_of_many(number):
    """Nodes that each read what all of the one before wrote."""
    width = number // 4
    nodes = [node("Sum", [f"{k}_{n}" for n in range(width)], [f"{k + 1}_{n}" for n in range(width)]) for k in range(4)]
    first = [node("Identity", ["L"], [f"0_{n}"]) for n in range(width)]
    return onnx_model([*first, *nodes, *grus(2, lengths="4_0")])


def graphs_in_nodes(number):
    """And as many tensors around them."""
    inner = helper.make_graph([], "then", [], [])
    nodes = [node("If", ["C"], [f"Z{k}"], then_branch=inner) for k in range(number)]
    model = onnx_model([*nodes, *grus(2)])
    model.graph.initializer.extend(TensorProto(name=f"t{k}") for k in range(number))
    return model


def weights_used_by_many(number):
    return onnx_model(grus(number), inputs=20 * number, W=np.ones((1, 3, 20 * number), np.float32))


def weights_reshaped_for_many(number):
    nodes = [node("Reshape", ["V", "shape"], [f"W{k}"]) for k in range(number)]
    constants = {"V": np.ones(60 * number, np.float32), "shape": np.array([1, 3, -1])}
    recurrent = {name: array for name, array in own(number).items() if name.startswith("R")}
    return onnx_model([*nodes, *grus(number, own_names)], inputs=20 * number, **constants, **recurrent)


def weights_split_for_many(number):
    """As exporters might, where a number of layers share a tensor."""
    split = node("Split", ["V"], [f"W{k}" for k in range(number)], axis=0)
    constants = {"V": np.ones((number, 3, 20), np.float32)}
    recurrent = {name: array for name, array in own(number).items() if name.startswith("R")}
    return onnx_model([split, *grus(number, own_names)], inputs=20, **constants, **recurrent)


def a_move_of_many_axes(number):
    """Between a GRU and many others."""
    move = node("Transpose", ["Y0"], ["moved"], perm=[0] * (200 * number))
    return onnx_model([*grus(1, own_names), move, *grus(number, own_names, x="moved")[1:]], **own(number))


def lengths_far_from_a_shape(number):
    chain = [node("Cast", [f"l{k}"], [f"l{k + 1}"], to=TensorProto.INT32) for k in range(number)]
    first = node("Shape", ["X"], ["l0"])
    return onnx_model([first, *chain, *grus(number, own_names, lengths=f"l{number}")], **own(number))


def shapes_of_many_shapes(number):
    """Each concatenated with itself."""
    chain = [node("Concat", [f"l{k}", f"l{k}"], [f"l{k + 1}"], axis=0) for k in range(number)]
    moves = [node("Reshape", ["Y0", f"l{k}"], [f"moved{k}"]) for k in range(number)]
    others = [grus(k + 1, own_names, x=f"moved{k}")[k] for k in range(1, number)]
    return onnx_model([node("Shape", ["X"], ["l0"]), *chain, *grus(1, own_names), *moves, *others], **own(number))


def weights_added_to_themselves(number):
    chain = [node("Add", [f"w{k}", f"w{k}"], [f"w{k + 1}"]) for k in range(12)]
    chain += [node("Add", [f"w{k}", f"w{k}"], [f"v{k}"]) for k in range(12)]
    nodes = [*chain, *grus(2, lambda k: ["w12", "R", ""])]
    return onnx_model(nodes, inputs=20 * number, w0=np.ones((1, 3, 20 * number), np.float32))


GRAPHS = {
    lengths_far_from_a_shape: (50, 800),
    shapes_of_many_shapes: (50, 800),
    weights_added_to_themselves: (100, 800),
    lengths_far_from_the_input: (50, 800),
    states_far_from_zero: (30, 960),
    calls_on_many_of_many: (1000, 8000),
    graphs_in_nodes: (200, 6400),
    weights_used_by_many: (100, 800),
    weights_reshaped_for_many: (100, 800),
    weights_split_for_many: (100, 1600),
    a_move_of_many_axes: (50, 800),
}


@pytest.mark.parametrize("make", GRAPHS, ids=lambda make: make.__name__)
def test_onnx_graphs(make, tmp_path):
    def write(number):
        path = tmp_path / "m.onnx"
        path.write_bytes(make(number).SerializeToString())
        return path

    in_proportion(write, *GRAPHS[make])
    with pytest.raises(
        cgru.FormatError,
        match=r"choose one by its name: 'g0', 'g1'|more memory than its parts explain|'g0': sequence_lens: expected",
    ):
        cgru.load(write(GRAPHS[make][1]))


def test_tensors_of_many_axes():
    axes = helper.make_tensor("W", TensorProto.FLOAT, [1] * 33, [1.0])
    with pytest.raises(cgru.FormatError, match="tensor 'W': expected at most 32 dimensions, got 33"):
        cgru.from_onnx(onnx_model(grus(1), W=axes))


def test_a_tensor_may_serve_some():
    for make in (weights_used_by_many, weights_reshaped_for_many, weights_split_for_many):
        with pytest.raises(cgru.FormatError, match="expected GRUs that form one stack"):
            cgru.from_onnx(make(30))
