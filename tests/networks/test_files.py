"""A network's own file: what is written is read again; damaged and hostile files, and ONNX ones, are refused or load."""

import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import cgru
from cgru.formats import network
from cgru.formats.onnx.network import from_onnx
from cgru.model.graph import Graph
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
    again = network.load(path)
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


FILES = {
    "own": (own, network.load),
    "own_sequence": (own_sequence, network.load),
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


def headers(data, count, seed):
    """Copies of an own file whose graph is damaged, and whose header is not."""
    size = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:size])
    text = header["__metadata__"][network.KEY].encode()
    for version in fuzz.mutations(text, count, seed):
        header["__metadata__"][network.KEY] = version.decode(errors="replace")
        new = json.dumps(header).encode()
        yield len(new).to_bytes(8, "little") + new + data[size:]


def values(data, count, seed):
    """Copies whose graph has other JSON in the place of one of its values."""
    size = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:size])
    text = header["__metadata__"][network.KEY]
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
        header["__metadata__"][network.KEY] = json.dumps(graph)
        new = json.dumps(header).encode()
        yield len(new).to_bytes(8, "little") + new + data[size:]


@pytest.mark.parametrize("name", ["own", "own_sequence"])
@pytest.mark.parametrize("inside", [headers, values])
def test_mutated_inside(inside, name, tmp_path):
    refused, _ = damaged(name, tmp_path, lambda data: inside(data, 600, 2))
    assert refused


@pytest.mark.long
@pytest.mark.parametrize("name", ["own", "own_sequence"])
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
