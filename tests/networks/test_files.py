"""A network's own file: what is written is read again; damaged and hostile files, and ONNX ones, are refused or load."""

import copy
import json
import pickle

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import cgru
from cgru.formats import network, network_precision
from cgru.formats.onnx.network import from_onnx
from cgru.model.building import build
from cgru.model.graph import Graph, Node
from cgru.model.interpret import run

from ..support import fuzz, networks
from ..support.networks import Net

SEEDS = st.integers(0, 2**20)
MAX_MEMORY = 10**8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("networks")


def same(graph, again):
    assert [network._node(node) for node in again.nodes] == [network._node(node) for node in graph.nodes]
    for field in ("inputs", "outputs", "states", "shapes", "types", "steps", "batch"):
        assert getattr(again, field) == getattr(graph, field), field
    assert again.constants.keys() == graph.constants.keys()
    for name, array in graph.constants.items():
        assert again.constants[name].dtype == array.dtype
        np.testing.assert_array_equal(again.constants[name], array)


def there_and_back(graph, folder):
    path = folder / "network.safetensors"
    network.save(graph, path)
    again, quantized = network.load(path)
    assert quantized is None
    same(graph, again)
    return again


@given(st.lists(st.sampled_from(networks.LOCAL + networks.OVER_TIME + networks.WHOLE), min_size=1, max_size=8), SEEDS)
def test_sequence_graphs(folder, layers, seed):
    graph = from_onnx(networks.sequence_model(layers, seed))
    again = there_and_back(graph, folder)
    x = np.random.default_rng(seed).standard_normal((2, 3, 4))
    for name, array in run(graph, {"x": x})[0].items():
        np.testing.assert_array_equal(run(again, {"x": x})[0][name], array)


@given(st.lists(st.sampled_from(networks.FRAMES), min_size=1, max_size=8), SEEDS)
def test_frame_graphs(folder, layers, seed):
    there_and_back(from_onnx(networks.frame_model(layers, seed)), folder)


def everything():
    """A network with every kind of attribute: states, sizes of dynamic axes, numbers, arrays, integers and flags."""
    net = Net(0)
    x, h = net.input("x", ["B", 3]), net.input("h", ["B", 4])
    tokens = net.input("tokens", ["B"], TensorProto.INT64)
    y = net.op("Add", net.op("MatMul", x, net.weight(3, 4)), net.op("Gather", net.weight(5, 4), tokens))
    y = net.op("Where", net.op("Greater", y, net.constant(np.float32(0))), y, net.op("LeakyRelu", h, alpha=0.3))
    ones = net.op("ConstantOfShape", net.op("Shape", x), value=helper.make_tensor("v", TensorProto.FLOAT, [1], [2.5]))
    flag = net.op("Cast", net.op("ReduceMax", net.op("Concat", x, ones, axis=1), axes=[1]), to=TensorProto.BOOL)
    y = net.op("Where", net.op("And", flag, net.constant(np.array(True))), y, h)
    y = net.op("Reshape", net.op("Unsqueeze", y, net.constant(np.array([0]))), net.constant(np.array([-1, 2, 2])))
    index = net.op("ArgMax", net.op("Reshape", y, net.constant(np.array([0, 4]))), axis=1, keepdims=0)
    h_out = net.op(
        "Einsum", net.op("Reshape", y, net.constant(np.array([0, 4]))), net.weight(4, 4), equation="bi,ij->bj"
    )
    model = net.model(h_out, index, names=["h_out", "y"])
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.INT64
    return model


def test_everything(tmp_path):
    graph = from_onnx(everything())
    assert graph.states == {"h": "h_out"}
    assert any(node.operator == "ConstantOfShape" for node in graph.nodes)
    again = there_and_back(graph, tmp_path)
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((3, 3)), "tokens": np.array([0, 4, 1])}
    (first, states), (second, others) = (run(g, inputs, {"h": np.ones((3, 4))}) for g in (graph, again))
    np.testing.assert_array_equal(first["y"], second["y"])
    np.testing.assert_array_equal(states["h"], others["h"])


# --- Damage -----------------------------------------------------------------------------------------------------------


def own(path):
    network.save(from_onnx(everything()), path)
    return path.read_bytes()


def own_sequence(path):
    network.save(from_onnx(networks.sequence_model([networks.gru, networks.late_residual, networks.heads], 1)), path)
    return path.read_bytes()


def onnx_sequence(path):
    return networks.sequence_model([networks.gru, networks.late_residual, networks.heads], 1).SerializeToString()


def onnx_everything(path):
    return everything().SerializeToString()


def onnx_frame(path):
    return networks.frame_model(networks.FRAMES, 3).SerializeToString()


def own_quantized(path):
    quantized_network("int8").save(path)
    return path.read_bytes()


def own_halves(path):
    quantized_network("bfloat16").save(path)
    return path.read_bytes()


def loaded(path, max_memory=MAX_MEMORY):
    return network.load(path, max_memory)[0]


FILES = {
    "own": (own, loaded),
    "own_sequence": (own_sequence, loaded),
    "own_quantized": (own_quantized, loaded),
    "own_halves": (own_halves, loaded),
    "onnx_sequence": (onnx_sequence, from_onnx),
    "onnx_everything": (onnx_everything, from_onnx),
    "onnx_frame": (onnx_frame, from_onnx),
}


def damaged(name, tmp_path, versions):
    make, load = FILES[name]
    path = tmp_path / "network"
    data = make(path)
    path.write_bytes(data)
    assert isinstance(load(path), Graph)
    return fuzz.survives(path, versions(data), lambda path: load(path, max_memory=MAX_MEMORY), Graph)


@pytest.mark.parametrize("name", FILES)
def test_truncated(name, tmp_path):
    refused, _ = damaged(name, tmp_path, fuzz.truncations)
    assert refused


@pytest.mark.parametrize("name", FILES)
def test_mutated(name, tmp_path):
    refused, loaded = damaged(name, tmp_path, lambda data: fuzz.mutations(data, 400, 1))
    assert refused
    assert loaded


@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
def test_mutated_at_length(name, tmp_path):
    damaged(name, tmp_path, lambda data: fuzz.mutations(data, 15_000, 3))


def field_of(header):
    """What is damaged: how weights are held, where a file says so, else the graph."""
    return next(key for key in (network_precision.KEY, network.KEY) if key in header["__metadata__"])


def headers(data, count, seed):
    """Copies of an own file whose graph is damaged, and whose header is not."""
    size = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:size])
    field = field_of(header)
    text = header["__metadata__"][field].encode()
    for version in fuzz.mutations(text, count, seed):
        header["__metadata__"][field] = version.decode(errors="replace")
        new = json.dumps(header).encode()
        yield len(new).to_bytes(8, "little") + new + data[size:]


def values(data, count, seed):
    """Copies whose graph has other JSON in the place of one of its values."""
    size = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:size])
    field = field_of(header)
    text = header["__metadata__"][field]
    rng = np.random.default_rng(seed)
    others = [None, True, -1, 0, 3, 2**31, 2**63, 1e300, "", "T", "T*T", "x", [], [1], ["T", 2], {}, {"a": 1}, [[1]]]
    for _ in range(count):
        graph = json.loads(text)
        at = graph
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            key = keys[rng.integers(len(keys))]
            if not isinstance(at[key], (dict, list)) or not at[key] or rng.integers(6) == 0:
                break
            at = at[key]
        at[key] = others[rng.integers(len(others))]
        header["__metadata__"][field] = json.dumps(graph)
        new = json.dumps(header).encode()
        yield len(new).to_bytes(8, "little") + new + data[size:]


@pytest.mark.parametrize("name", ["own", "own_sequence", "own_quantized"])
@pytest.mark.parametrize("inside", [headers, values])
def test_mutated_inside(inside, name, tmp_path):
    refused, _ = damaged(name, tmp_path, lambda data: inside(data, 600, 2))
    assert refused


@pytest.mark.long
@pytest.mark.parametrize("name", ["own", "own_sequence", "own_quantized"])
@pytest.mark.parametrize("inside", [headers, values])
def test_mutated_inside_at_length(inside, name, tmp_path):
    damaged(name, tmp_path, lambda data: inside(data, 15_000, 4))


def rewritten(path, change):
    """The file with another graph."""
    tensors = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    graph = json.loads(metadata[network.KEY])
    change(graph)
    metadata[network.KEY] = json.dumps(graph)
    path.write_bytes(safetensors.numpy.save(tensors, metadata))


@pytest.mark.parametrize(("change", "message"), [
    (lambda graph: graph.pop("nodes"), "expected the fields nodes, inputs, outputs, states"),
    (lambda graph: graph["nodes"].append(3), "expected a JSON object, got 3"),
    (lambda graph: graph["nodes"][0].update(operator="Foo"), "Foo"),
    (lambda graph: graph["nodes"][0].update(outputs=["h"]), "expected outputs of new names, got 'h'"),
    (lambda graph: graph["inputs"]["x"].update(type="complex64"), "expected a type of float32"),
    (lambda graph: graph["inputs"]["x"].update(shape=[-1, 3]), "positive sizes and names"),
    (lambda graph: graph["inputs"]["x"].update(shape=["B+1", 3]), "positive sizes and names"),
    (lambda graph: graph["inputs"]["x"].update(shape=["B", 2**40]), "max_memory"),
    (lambda graph: graph.update(states={"h": "y"}), "states: expected 'h' and 'y' of one shape"),
    (lambda graph: graph.update(outputs=["z"]), "'z' of the outputs"),
])  # fmt: skip
def test_graphs_that_are_none(change, message, tmp_path):
    path = tmp_path / "network.safetensors"
    own(path)
    rewritten(path, change)
    with pytest.raises(cgru.FormatError, match="(?s)" + str(path) + ".*" + message):
        network.load(path)


def test_files_of_other_kinds(tmp_path):
    path = tmp_path / "gru.safetensors"
    cgru.GRU(3, 4).save(path)
    with pytest.raises(
        cgru.FormatError, match=r"expected a network under 'cgru.network', got cgru.*; cgru.load reads one GRU"
    ):
        network.load(path)
    with pytest.raises(FileNotFoundError):
        network.load(tmp_path / "none")
    with pytest.raises(TypeError, match=r"expected an onnx\.ModelProto"):
        from_onnx(3)


# --- Proportion -------------------------------------------------------------------------------------------------------


def chain(number):
    net = Net(0)
    x = net.input("x", [4])
    for _ in range(number):
        x = net.op("Neg", x)
    return net.model(x)


def constants(number):
    """Long arithmetic with shapes, of which nothing is left."""
    net = Net(0)
    x = net.input("x", ["N", 4])
    n = net.op("Shape", x)
    for _ in range(number):
        n = net.op("Mul", net.op("Add", n, net.constant(np.array([0, 0]))), net.constant(np.array([1, 1])))
    return net.model(net.op("Expand", x, n))


def many_inputs(number):
    net = Net(0)
    names = [net.input(f"h{k}", [2]) for k in range(number)]
    return net.model(*(net.op("Neg", name) for name in names), names=[f"h{k}_out" for k in range(number)])


def one_reader(number):
    net = Net(0)
    names = [net.op("Neg", net.input(f"x{k}", [2])) for k in range(number)]
    return net.model(net.op("Concat", *names, axis=0))


def a_name_each(number):
    """Axes that nodes make one, one after the other."""
    net = Net(0)
    x = net.input("x", ["N", 4])
    for k in range(number):
        x = net.op("Add", x, net.input(f"x{k}", [f"N{k}", 4]))
    return net.model(x)


@pytest.mark.parametrize("make", [chain, constants, many_inputs, one_reader, a_name_each])
def test_time_and_memory_in_proportion(make, tmp_path):
    path = tmp_path / "model.onnx"

    def write(number):
        path.write_bytes(make(number).SerializeToString())
        return path

    fuzz.in_proportion(write, 300, 3000, from_onnx)


def test_a_network_is_no_gru(tmp_path):
    """`cgru.load`, which reads GRUs, says where whole networks are read."""
    path = tmp_path / "net.safetensors"
    net = cgru.Network([cgru.nodes.Linear(3, 4, rng=0), cgru.GRU(4, 4, rng=0)])
    net.save(path)
    with pytest.raises(cgru.FormatError, match=r"expected one GRU, got a whole network; use cgru\.Network\.load"):
        cgru.load(path)
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    assert np.array_equal(cgru.Network.load(path)(x), net(x))


# --- Quantized networks -----------------------------------------------------------------------------------------------


def quantized_network(precision, calibrate=True):
    """A GRU of ONNX's in both directions and a whole model, between products; another reader of the GRU's R."""
    net = Net(3)
    x = net.input("x", ["T", "B", 4])
    x = net.op("Relu", net.op("MatMul", x, net.weight(4, 5)))
    r = net.weight(2, 9, 3)
    y = net.op("GRU", x, net.weight(2, 9, 5), r, net.weight(2, 18), "", "", direction="bidirectional", hidden_size=3,
               linear_before_reset=1, outputs=2)[0]  # fmt: skip
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.constant(np.array([0, 0, 6])))
    scale = net.op(
        "ReduceMax", net.op("Abs", net.op("Add", r, net.constant(np.float32(1)))), axes=[0, 1, 2], keepdims=0
    )
    first = cgru.Network.from_onnx(net.model(net.op("Mul", y, scale), names=["x2"]))
    second = cgru.Network([cgru.GRU(6, 4, num_layers=2, rng=0), cgru.nodes.Linear(4, 3, rng=1, activation="tanh")])
    joined = cgru.Network.join([first, cgru.Network(renamed(second.graph, "x", "x2"))])
    x = np.random.default_rng(0).standard_normal((9, 2, 4)).astype(np.float32)
    return joined.quantize(precision, calibrate=x if precision == "int8" and calibrate else None)


def renamed(graph, old, new):
    """A graph whose input has another name."""
    nodes = [
        Node(n.operator, n.name, tuple(new if i == old else i for i in n.inputs), n.outputs, n.attributes)
        for n in graph.nodes
    ]
    return build(nodes, graph.constants, {new: graph.inputs[old]}, list(graph.outputs))


@pytest.mark.parametrize(("precision", "calibrate"), [("int8", True), ("int8", False), ("bfloat16", 0), ("float16", 0)])
def test_quantized_networks(precision, calibrate, tmp_path):
    """Loaded again, saved again, copied or pickled: the same bits; recurrent weights take their bytes."""
    path, again = tmp_path / "net.safetensors", tmp_path / "again.safetensors"
    net = quantized_network(precision, calibrate)
    net.save(path)
    x = np.random.default_rng(1).standard_normal((20, 3, 4)).astype(np.float32) * 2
    expected = net(x)
    assert not np.array_equal(expected, cgru.Network(net.graph)(x))
    read = cgru.Network.load(path)
    assert read.precision == precision
    for other in (read, copy.copy(net), copy.deepcopy(read), pickle.loads(pickle.dumps(net))):
        assert other.precision == precision
        np.testing.assert_array_equal(other(x), expected)
    read.save(again)
    np.testing.assert_array_equal(cgru.Network.load(again)(x), expected)
    with pytest.raises(ValueError, match=f"expected float32 for a network of {precision}, got float64"):
        cgru.Network.load(path, dtype=np.float64)
    with pytest.raises(cgru.FormatError, match=r"use cgru\.Network\.load"):
        cgru.load(path)


def test_quantized_streams_and_sizes(tmp_path):
    net = cgru.Network([cgru.GRU(64, 64, rng=0), cgru.nodes.Linear(64, 3, rng=1)]).quantize("int8")
    path = tmp_path / "net.safetensors"
    net.save(path)
    assert path.stat().st_size < 2 * 192 * 64 + 12_000  # a byte a weight, not four
    x = np.random.default_rng(1).standard_normal((20, 1, 64)).astype(np.float32)
    read = cgru.Network.load(path)
    one, other = net.stream(), read.stream()
    for frame in x:
        np.testing.assert_array_equal(one.step(frame), other.step(frame))


@pytest.mark.parametrize(("change", "message"), [
    (lambda told, first: told.pop("nodes"), "expected the fields precision, nodes"),
    (lambda told, first: told.update(precision="int4"), "expected one of bfloat16, float16, int8, got 'int4'"),
    (lambda told, first: told.update(precision="float16"), "for each matrix of int8 and for no other|limit of int8"),
    (lambda told, first: told["nodes"].pop(next(iter(told["nodes"]))), "expected"),
    (lambda told, first: told["nodes"].update(other=first), "expected the nodes"),
    (lambda told, first: first.update(limit=-1.0), "expected a positive limit of int8, or null, got -1.0"),
    (lambda told, first: first.update(limit=float("nan")), "expected a positive limit"),
    (lambda told, first: first["weights"].update(weight_ih_l0="none"), "expected a tensor of the file, got 'none'"),
    (lambda told, first: first["scales"].pop("weight_ih_l0"), "one for each matrix of int8"),
    (lambda told, first: first["weights"].update(weight_ih_l0=first["scales"]["weight_ih_l0"]), "expected I8 for weights"),
    (lambda told, first: first["weights"].update(weight_ih_l0=first["weights"]["weight_hh_l0"]), "expected"),
    (lambda told, first: [first[k].update(more=first[k]["weight_hh_l0"]) for k in ("weights", "scales")], "got .'more'."),
])  # fmt: skip
def test_weights_that_are_none(change, message, tmp_path):
    path = tmp_path / "net.safetensors"
    own_quantized(path)
    tensors = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    told = json.loads(metadata[network_precision.KEY])
    change(told, next(iter(told["nodes"].values())))
    metadata[network_precision.KEY] = json.dumps(told)
    path.write_bytes(safetensors.numpy.save(tensors, metadata))
    with pytest.raises(cgru.FormatError, match="(?s)" + str(path) + ".*(" + message + ")"):
        cgru.Network.load(path)
