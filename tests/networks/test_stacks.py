"""GRUs as nodes: a whole cgru.GRU or cgru.MinGRU in a network, and the GRU that a node stands for."""

import numpy as np
import pytest

import cgru
from cgru.formats import network
from cgru.formats.onnx.network import from_onnx
from cgru.model.building import build
from cgru.model.graph import Node
from cgru.model.interpret import run
from cgru.model.nodes.sizes import Size
from cgru.model.stacks import node_of, value_of
from cgru.model.stepping import Stream
from cgru.model.value import face

from ..support import networks
from ..support.networks import Net

T, B = Size("T"), Size("B")
MODELS = [
    cgru.GRU(4, 3, num_layers=2, rng=0),
    cgru.GRU(4, 3, batch_first=True, reset_after=False, update_gate="candidate", clip=0.7, rng=0),
    cgru.GRU(4, 3, bidirectional=True, merge="sum", activation=["relu", ("elu", 0.5, 0.0)], rng=0),
    cgru.GRU(4, 3, reverse=True, bias=False, rng=0),
    cgru.MinGRU(4, 3, num_layers=2, rng=0),
]


def around(model):
    node, constants = node_of(model._value, "gru", "x", "y", "h0", "h_n")
    after = Node("Tanh", "tanh", ("y",), ("z",))
    x = (B, T, 4) if model.batch_first else (T, B, 4)
    state = (model.num_layers * model._value.spec.directions, B, 3)
    return build([after, node], constants, {"x": x, "h0": state}, ["z", "h_n"], states={})


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_models_as_nodes(model, tmp_path):
    graph = around(model)
    assert (graph.steps, graph.batch) == ("T", "B")
    path = tmp_path / "network.safetensors"
    network.save(graph, path)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 4) if model.batch_first else (5, 2, 4)).astype(np.float32)
    h0 = rng.standard_normal((graph.shapes["h0"][0], 2, 3)).astype(np.float32)
    y, h_n = model(x, h0)
    for same in (graph, network.load(path)[0]):
        outputs, _ = run(same, {"x": x, "h0": h0})
        np.testing.assert_allclose(outputs["z"], np.tanh(y), atol=1e-5)
        np.testing.assert_allclose(outputs["h_n"], h_n, atol=1e-5)
        (node,) = [node for node in same.nodes if node.operator == "cgru.Stack"]
        again = face(value_of(same, node))
        assert repr(again) == repr(model)
        np.testing.assert_array_equal(again(x, h0)[0], y)


def test_a_model_in_a_stream():
    model = cgru.GRU(4, 3, num_layers=2, batch_first=True, dtype="float64", rng=0)
    node, constants = node_of(model._value, "gru", "x", "y")
    graph = build([node], constants, {"x": (1, T, 4)}, ["y"], types={"x": np.dtype(np.float64)})
    x = np.random.default_rng(0).standard_normal((1, 6, 4))
    stream = Stream(graph)
    steps = [stream.step({"x": x[:, t]})["y"] for t in range(6)]
    np.testing.assert_allclose(np.stack(steps, 1), model(x)[0], atol=1e-12)
    h0 = np.random.default_rng(1).standard_normal((2, 1, 3))
    given = around(MODELS[0])
    stream, x = Stream(given), np.random.default_rng(0).standard_normal((6, 1, 4))
    whole, _ = run(given, {"x": x, "h0": h0})
    steps = [stream.step({"x": x[t], "h0": h0}) for t in range(6)]  # the first of which begins at h0
    np.testing.assert_allclose(np.stack([step["z"] for step in steps]), whole["z"], atol=1e-12)
    np.testing.assert_allclose(steps[-1]["h_n"], whole["h_n"], atol=1e-12)
    with pytest.raises(ValueError, match=r"cgru\.Stack 'gru' reads sequences from the last step"):
        Stream(around(MODELS[3]))


@pytest.mark.parametrize("layer", [networks.gru, networks.both_ways])
def test_nodes_as_models(layer):
    net = Net(3)
    x, _ = layer(net, net.input("x", ["B", "T", 4]), 4)
    graph = from_onnx(net.model(x))
    (node,) = [node for node in graph.nodes if node.operator == "GRU"]
    x = np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)
    y, _ = face(value_of(graph, node))(x.swapaxes(0, 1))
    np.testing.assert_allclose(y.swapaxes(0, 1), run(graph, {"x": x})[0]["y0"], atol=1e-5)


@pytest.mark.parametrize(("options", "message"), [
    ("[]", "options as a JSON object"),
    ("{", "Expecting property name"),
    ('{"input_size": 4, "hidden_size": 3, "dtype": "float16"}', "the dtype float32 or float64, got float16"),
    ('{"input_size": 4, "hidden_size": -3}', "hidden_size: expected an integer"),
    ('{"input_size": 4, "hidden_size": 3, "gates": 4}', "got gates"),
    ('{"input_size": 5, "hidden_size": 3}', "sequences of 5 inputs"),
    ('{"input_size": 4, "hidden_size": 3}', "4 parameters, got 0"),
])  # fmt: skip
def test_options_that_are_wrong(options, message):
    node = Node("cgru.Stack", "gru", ("x",), ("y",), {"kind": "GRU", "options": options})
    with pytest.raises(cgru.FormatError, match=f"cgru.Stack 'gru': .*{message}"):
        build([node], {}, {"x": (T, B, 4)}, ["y"])
