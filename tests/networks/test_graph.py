"""Networks as values: what is folded, which axis is time, which inputs are states."""

import pickle

import numpy as np
import pytest
from onnx import TensorProto, helper

from cgru.formats.onnx.network import from_onnx
from cgru.model.building import build
from cgru.model.interpret import run
from cgru.model.nodes.sizes import Size, parse
from cgru.model.stepping import Stream

from ..support import networks, onnx_graphs
from ..support.networks import Net
from .test_refused import node, refused

T, B = Size("T"), Size("B")


def small(*layers, batch="B", seed=0):
    return from_onnx(networks.sequence_model(layers, seed, batch))


# --- Sizes ------------------------------------------------------------------------------------------------------------


def test_sizes():
    assert T == "T"
    assert 2 * T + 3 - T == "T+3"
    assert T - T == 0
    assert (T + 1) * B == T * B + B
    assert parse(str((T * B + 3) // 2 - 1)) == (T * B + 3) // 2 - 1
    assert ((T + 5) // 2).at({"T": 4}) == 4
    assert pickle.loads(pickle.dumps(T + 1)) == "T+1"
    assert T + 1 > 1
    with pytest.raises(TypeError, match="depends on T"):
        assert T > 3


@pytest.mark.parametrize("text", ["T**9", "T(1)", "T" * 300, "(" * 150 + "T", "T/2", "T//0", "", "1.5", "T//B"])
def test_sizes_that_are_none(text):
    with pytest.raises((ValueError, TypeError)):
        parse(text)


# --- What a graph says ------------------------------------------------------------------------------------------------


def test_a_sequence_graph():
    graph = small(networks.gru, networks.linear)
    assert graph.kind == "sequence"
    assert (graph.steps, graph.batch) == ("T", "B")
    assert graph.inputs == {"x": ("B", "T", 4)}
    assert graph.time["x"] == graph.time["y0"] == 1
    (recurrent,) = [node for node in graph.nodes if node.operator == "GRU"]
    assert graph.time[recurrent.inputs[0]] == 0
    assert len(recurrent.inputs) == 4  # neither lengths nor the zeros of an initial state
    assert graph.shapes[recurrent.outputs[0]][:3] == ("T", 1, "B")
    assert not graph.timing.obstacles
    assert graph.timing.roles == {recurrent.name: "recurrent"}


def test_a_frame_graph():
    net = Net(0)
    x, cache = net.input("mix", [1, 2, 1, 5]), net.input("conv_cache", [1, 2, 2, 5])
    joined = net.op("Concat", cache, x, axis=2)
    y = net.op("Conv", joined, net.weight(2, 2, 3, 1))
    after = net.op("Slice", joined, *(net.constant(np.array([n])) for n in (1, 2**31 - 1, 2)))
    model = net.model(y, after, names=["enh", "conv_cache_out"])
    graph = from_onnx(model)
    assert graph.kind == "frame"
    assert (graph.inputs, graph.outputs) == ({"mix": (1, 2, 1, 5)}, {"enh": (1, 2, 1, 5)})
    assert graph.states == {"conv_cache": "conv_cache_out"}
    frames = np.random.default_rng(0).standard_normal((6, 1, 2, 1, 5))
    states, got = None, []
    for frame in frames:
        outputs, states = run(graph, {"mix": frame}, states)
        got.append(outputs["enh"])
    whole = from_onnx(model, states={})
    padded = np.concatenate([np.zeros((2, 1, 2, 1, 5)), frames])
    for t in range(6):
        history = np.concatenate([padded[t], padded[t + 1]], axis=2)
        expected, _ = run(whole, {"mix": frames[t], "conv_cache": history})
        np.testing.assert_array_equal(got[t], expected["enh"])
    with pytest.raises(ValueError, match="frame graph"):
        Stream(graph)


def test_a_batch_alone_is_no_time():
    net = Net(0)
    x = net.input("x", ["N", 4])
    graph = from_onnx(net.model(networks.linear(net, x, 4)[0]))
    assert (graph.kind, graph.batch) == ("frame", "N")


def test_time_by_its_name():
    """Where nothing runs over an axis: T is time, also in front."""
    for shape, batch in (((T, B, 3), "B"), ((T, 3), None), ((B, T, 3), "B")):
        graph = build([node("Tanh", "x", "y")], {}, {"x": shape}, ["y"])
        assert (graph.steps, graph.batch) == ("T", batch)


def test_numbers_for_each_step_cannot_stream():
    nodes = [node("ConstantOfShape", "", "ones", shape=(T, 1)), node("Concat", "x ones", "y", axis=1)]
    graph = build(nodes, {}, {"x": (T, 2)}, ["y"])
    with pytest.raises(ValueError, match=r"ConstantOfShape .* makes as many frames as there are steps"):
        Stream(graph)


def test_time_that_nothing_runs_over():
    net = Net(0)
    x = net.input("x", [1, "T", 4])
    graph = from_onnx(net.model(networks.linear(net, x, 4)[0]))
    assert (graph.kind, graph.steps, graph.batch) == ("sequence", "T", None)


@pytest.mark.parametrize(
    ("name", "here"), [("time steps", "time_steps"), ("", "x_1"), ("2*s0", "_2_s0"), ("unk__6", "unk__6")]
)
def test_names_of_axes(name, here):
    net = Net(0)
    x = net.input("x", [1, name or None, 4])
    assert from_onnx(net.model(networks.gru(net, x, 4)[0])).inputs["x"] == (1, here, 4)


def test_look_ahead():
    net = Net(0)
    x = net.op("Transpose", net.input("x", [1, "T", 4]), perm=[0, 2, 1])
    padded = net.op("Pad", x, net.constant(np.array([0, 0, -2, 0, 0, 2])))  # as DeepFilterNet writes it
    y = net.op("Add", net.op("Conv", padded, net.weight(4, 4, 3), pads=[2, 0]), x)
    graph = from_onnx(net.model(y))
    assert graph.delay == 2
    assert graph.timing.ahead == {"n1": 2}


def test_stride_over_time():
    net = Net(0)
    x = net.op("Transpose", net.input("x", [1, "T", 4]), perm=[0, 2, 1])
    graph = from_onnx(net.model(net.op("Conv", x, net.weight(4, 4, 2), strides=[2])))
    assert graph.outputs["y0"] == (1, 4, "(T//2)")
    assert graph.timing.flows["y0"].every == 2
    with pytest.raises(
        ValueError, match="output 'y0' has one frame for 2 of the input, as Conv 'n1' strides over time"
    ):
        Stream(graph)


def test_last_step():
    net = Net(0)
    x, size = networks.gru(net, net.input("x", [1, "T", 4]), 4)
    y = net.op("Gather", x, net.constant(np.array(-1)), axis=1)
    graph = from_onnx(net.model(net.op("MatMul", y, net.weight(size, 3))))
    stream, x = Stream(graph), np.random.default_rng(0).standard_normal((1, 5, 4))
    for t in range(5):
        expected, _ = run(graph, {"x": x[:, : t + 1]})
        np.testing.assert_allclose(stream.step({"x": x[:, t]})["y0"], expected["y0"], atol=1e-12)


@pytest.mark.parametrize(("layer", "operator", "reason"), [
    (networks.both_ways, "GRU", "from the last step to the first"),
    (networks.mean_over_time, "ReduceMean", "runs over all steps"),
    (networks.attention, "MatMul", "relates each step to all others"),
])  # fmt: skip
def test_what_cannot_stream(layer, operator, reason):
    graph = small(networks.gru, layer)
    with pytest.raises(ValueError, match=f"{operator} 'n[0-9]+' .*{reason}"):
        Stream(graph)
    run(graph, {"x": np.zeros((2, 3, 4))})


def test_softmax_over_time_cannot_stream():
    net = Net(0)
    x, _ = networks.gru(net, net.input("x", ["B", "T", 4]), 4)
    assert "runs over all steps" in from_onnx(net.model(net.op("Softmax", x, axis=1))).timing.obstacles.popitem()[1]


def test_a_reshape_that_mixes_steps_cannot_stream():
    net = Net(0)
    x, size = networks.gru(net, net.input("x", [1, "T", 4]), 4)
    y = net.op("Reshape", net.op("MatMul", x, net.weight(size, 2)), net.constant(np.array([1, 2, -1])))
    assert "mixes steps" in from_onnx(net.model(net.op("Tanh", y))).timing.obstacles.popitem()[1]


# --- Folding ----------------------------------------------------------------------------------------------------------


def test_unsimplified_assignments_vanish():
    """x[:, 1:3] = 0 as torch exports it: some thirty nodes that make indices of shapes."""
    net = Net(0)
    x = net.input("x", [1, 6, 4])
    shape = net.op("Shape", x)
    sizes = [net.op("Gather", shape, net.constant(np.array(axis)), axis=0) for axis in range(3)]
    grids = []
    for axis, (first, last) in enumerate([(0, None), (1, 3), (0, None)]):
        end = sizes[axis] if last is None else net.constant(np.array(last))
        steps = net.op("Range", net.constant(np.array(first)), end, net.constant(np.array(1)))
        grids.append(net.op("Reshape", steps, net.constant(np.array([-1] + [1] * (2 - axis)))))
    full = net.constant(np.array([1, 2, 4]))
    expanded = [net.op("Unsqueeze", net.op("Expand", grid, full), net.constant(np.array([-1]))) for grid in grids]
    at = net.op("Concat", *expanded, axis=-1)
    zeros = net.op("Expand", net.constant(np.zeros((1, 1, 1), np.float32)), full)
    where = net.op(
        "Where", net.op("Equal", full, net.constant(np.array([-1, 2, 4]))), full, net.constant(np.array([1, 1, 1]))
    )
    zeros = net.op("Mul", zeros, net.op("Cast", net.op("ReduceMax", where, keepdims=0), to=TensorProto.FLOAT))
    graph = from_onnx(net.model(net.op("ScatterND", x, at, zeros)))
    assert [node.operator for node in graph.nodes] == ["ScatterND"]
    array = np.random.default_rng(0).standard_normal((1, 6, 4))
    expected = array.copy()
    expected[:, 1:3] = 0
    np.testing.assert_array_equal(run(graph, {"x": array})[0]["y0"], expected)


def test_numbers_of_a_dynamic_shape_become_scalars():
    net = Net(0)
    x = net.input("x", ["N", 4])
    ones = net.op("ConstantOfShape", net.op("Shape", x), value=helper.make_tensor("v", TensorProto.FLOAT, [1], [3.0]))
    moved = net.op("Squeeze", net.op("Unsqueeze", ones, c0(net)), c0(net))
    graph = from_onnx(net.model(net.op("Mul", x, net.op("Neg", moved))))
    assert [node.operator for node in graph.nodes] == ["Mul"]
    x = np.ones((2, 4))
    np.testing.assert_array_equal(run(graph, {"x": x})[0]["y0"], -3 * x)


def c0(net):
    return net.constant(np.array([0]))


def test_dead_nodes_and_dropout_vanish():
    net = Net(0)
    x = net.input("x", [2, 4])
    net.op("Relu", net.op("Tanh", x))
    y = net.op("Dropout", net.op("Identity", net.op("Exp", x)))
    graph = from_onnx(net.model(y))
    assert [node.operator for node in graph.nodes] == ["Exp"]
    assert graph.nodes[0].outputs == ("y0",)


def test_graphs_are_values():
    graph = small(networks.gru, networks.heads)
    again = pickle.loads(pickle.dumps(graph))
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    np.testing.assert_array_equal(run(again, {"x": x})[0]["y0"], run(graph, {"x": x})[0]["y0"])
    with pytest.raises(AttributeError):
        graph.nodes = ()
    with pytest.raises(TypeError):
        graph.nodes[0].attributes["axis"] = 3


# --- States -----------------------------------------------------------------------------------------------------------


def stateful(*names, shape=(2,)):
    """Inputs and outputs of these names, each the other's double."""
    nodes = [node("Add", f"{a} {a}", b) for a, b in names]
    return nodes, {a: shape for a, _ in names}, [b for _, b in names]


@pytest.mark.parametrize(
    ("before", "after"), [("h_in", "h_out"), ("h", "h_out"), ("h", "new_h"), ("in.h", "out.h"), ("h", "H.new")]
)
def test_pairs_by_name(before, after):
    nodes, inputs, outputs = stateful((before, after), ("x", "y"))
    assert build(nodes, {}, inputs, outputs).states == {before: after}


def test_no_pairs():
    for names in (("x", "y"), ("in", "out"), ("h_prev", "h_next"), ("input", "output")):
        nodes, inputs, outputs = stateful(names)
        assert build(nodes, {}, inputs, outputs).states == {}
    nodes, inputs, outputs = stateful(("h", "h_out"))
    assert build(nodes, {}, inputs, outputs, states={}).states == {}


def test_ambiguous_pairs():
    nodes, inputs, outputs = stateful(("h", "h_out"), ("g", "h_new"))
    refused(
        "states: expected one partner of 'h', got the outputs 'h_out', 'h_new'; say which, as in states={'h': 'h_out'}",
        nodes,
        inputs,
        outputs,
    )
    nodes, inputs, outputs = stateful(("h", "h_out"), ("h_in", "g"))
    refused("states: expected one partner of 'h_out', got the inputs 'h', 'h_in'", nodes, inputs, outputs)
    assert build(nodes, {}, inputs, outputs, states={"h_in": "h_out"}).states == {"h_in": "h_out"}


def test_wrong_pairs():
    nodes, inputs, outputs = stateful(("h", "h_out"), ("x", "y"))
    refused("states: expected names of h, x, got 'g'", nodes, inputs, outputs, states={"g": "h_out"})
    refused("states: expected names of h_out, y, got 'z'", nodes, inputs, outputs, states={"h": "z"})
    refused("a different output for each input", nodes, inputs, outputs, states={"h": "y", "x": "y"})
    refused(
        "of one shape and type, got (3,) float32 and (2,) float32",
        nodes,
        inputs | {"x": (3,)},
        outputs,
        states={"x": "h_out"},
    )


def test_learnt_initial_states_stay():
    net = Net(0)
    x = net.op("Transpose", net.input("x", ["B", "T", 4]), perm=[1, 0, 2])
    batch = net.op("Gather", net.op("Shape", x), net.constant(np.array([1])), axis=0)
    ones = net.op("Expand", net.constant(np.ones((1, 1, 3), np.float32)),
                  net.op("Concat", net.constant(np.array([1])), batch, net.constant(np.array([3])), axis=0))  # fmt: skip
    weights = [net.weight(1, 9, 4), net.weight(1, 9, 3)]
    y, _ = net.op("GRU", x, *weights, "", "", ones, outputs=2, hidden_size=3)
    model = net.model(y)
    graph = from_onnx(model)
    assert [node.operator for node in graph.nodes] == ["Transpose", "ConstantOfShape", "GRU"]
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    got = run(graph, {"x": x})[0]["y0"]
    np.testing.assert_allclose(got, onnx_graphs.session(model).run(None, {"x": x})[0], atol=1e-5)
    stream = Stream(graph, batch_size=2)
    steps = [stream.step({"x": x[:, t]})["y0"] for t in range(3)]
    np.testing.assert_allclose(np.stack(steps), got, atol=1e-12)


FAR = 2**31 - 1


@pytest.mark.parametrize(("start", "end", "step", "part", "size", "delay"), [
    (1, FAR, 1, slice(1, None), "T-1", 1),
    (0, -2, 1, slice(0, -2), "T-2", 2),
    (1, -1, 1, slice(1, -1), "T-2", 2),
    (-1, FAR, 1, slice(-1, None), 1, None),
    (-3, -1, 1, slice(-3, -1), 2, "both ends"),
    (-1, -FAR - 1, -1, slice(None, None, -1), "T", "both ends"),
    (0, FAR, 2, slice(None, None, 2), "((T+1)//2)", "both ends"),
    (0, 3, 1, slice(0, 3), 3, "both ends"),
])  # fmt: skip
def test_parts_of_time(start, end, step, part, size, delay):
    net = Net(0)
    x, _ = networks.convolution(net, net.input("x", [1, "T", 4]), 4)
    y = net.op("Slice", x, *(net.constant(np.array([value])) for value in (start, end, 1, step)))
    model = net.model(net.op("Tanh", y), x)
    graph = from_onnx(model)
    assert graph.shapes["y0"][1] == size
    x = np.random.default_rng(0).standard_normal((1, 7, 4)).astype(np.float32)
    outputs, _ = run(graph, {"x": x})
    np.testing.assert_array_equal(outputs["y0"], np.tanh(outputs["y1"][:, part]))
    np.testing.assert_allclose(outputs["y0"], onnx_graphs.session(model).run(None, {"x": x})[0], atol=1e-5)
    if isinstance(delay, str):
        assert delay in next(iter(graph.timing.obstacles.values()))
        return
    stream = Stream(graph)
    steps = [stream.step({"x": x[:, t]}) for t in range(7)]
    assert stream.delay == (delay or 0)
    if delay is None:
        np.testing.assert_allclose(steps[-1]["y0"], outputs["y0"], atol=1e-12)
        return
    got = np.concatenate([np.stack([frame["y0"] for frame in steps], 1), stream.flush()["y0"]], axis=1)
    np.testing.assert_allclose(got[:, delay:], outputs["y0"], atol=1e-12)
