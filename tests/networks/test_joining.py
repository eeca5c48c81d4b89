"""Networks of several graphs: what joins by name, what stays an input or an output, and what does not fit."""

import numpy as np
import pytest

import cgru
from cgru.formats.onnx.network import from_onnx
from cgru.model.interpret import run
from cgru.model.joining import join
from cgru.model.nodes.sizes import Size
from cgru.model.stepping import Stream
from cgru.model.writing import Writer

from .test_real_networks import deep_filter_net, near, runner

T, B, S = Size("T"), Size("B"), Size("S")


def graph(inputs, outputs, factor=2.0, dtypes=(), states=None, shape=(T, B, 3)):
    """A network whose outputs are the sum of its inputs, times a constant of the name "factor"."""
    writer = Writer("graph")
    shapes = inputs if isinstance(inputs, dict) else dict.fromkeys(inputs, shape)
    names = [writer.input(name, size, dict(dtypes).get(name, np.float32)) for name, size in shapes.items()]
    value = names[0] if len(names) == 1 else writer.add("Sum", *names, name="inner")
    if np.dtype(writer.types[names[0]]).kind == "f":
        value = writer.add("Mul", value, writer.constant(np.float32(factor), "factor"), name="scaled")
    return writer.graph({name: writer.add("Neg", value) for name in outputs}, states=states or {})


def test_joined_by_names():
    """In any order; what nobody takes stays an output, and so does a shared input."""
    first = graph(["x"], ["a", "b"])
    second = graph(["x", "a"], ["c"], 3.0)
    third = graph(["c", "a", "z"], ["y"], 5.0)
    x, z = np.random.default_rng(0).standard_normal((2, 4, 2, 3))
    a = -2 * x
    c = -3 * (x + a)
    for graphs in ([first, second, third], [third, first, second]):
        joined = join(graphs)
        assert set(joined.inputs) == {"x", "z"}
        assert set(joined.outputs) == {"b", "y"}
        assert (joined.steps, joined.batch) == ("T", "B")
        outputs, _ = run(joined, {"x": x, "z": z})
        np.testing.assert_allclose(outputs["b"], a, atol=1e-12)
        np.testing.assert_allclose(outputs["y"], -5 * (c + a + z), atol=1e-12)
    joined = join({"one": first, "two": second})
    assert set(joined.outputs) == {"b", "c"}
    assert set(joined.constants) == {"one.factor", "two.factor"}
    assert {node.name for node in joined.nodes} == {"one.scaled", "one.Neg", "one.Neg_2", "two.inner", "two.scaled", "two.Neg"}  # fmt: skip


def test_names_that_others_have():
    """Inner values of a graph are not what others call so, and a name behind a graph's may be another's input."""
    first = graph(["scaled", "1.scaled"], ["y"])
    second = graph(["y"], ["inner"], 3.0)
    x, z = np.random.default_rng(0).standard_normal((2, 4, 2, 3))
    outputs, _ = run(join([first, second]), {"scaled": x, "1.scaled": z})
    np.testing.assert_allclose(outputs["inner"], 6 * (x + z), atol=1e-12)


def test_states_remain():
    """Also where another graph reads the state after a step."""
    fixed = (1, 3)
    first = graph({"x": fixed, "h_in": fixed}, ["y", "h_out"], states={"h_in": "h_out"})
    second = graph({"y": fixed, "h_out": fixed, "k": fixed}, ["z", "k_new"], 3.0, states={"k": "k_new"})
    joined = join([first, second])
    assert joined.states == {"h_in": "h_out", "k": "k_new"}
    assert (set(joined.inputs), set(joined.outputs), joined.kind) == ({"x"}, {"z"}, "frame")
    x, h, k = np.random.default_rng(0).standard_normal((3, 1, 3))
    outputs, states = run(joined, {"x": x}, {"h_in": h, "k": k})
    y = -2 * (x + h)
    np.testing.assert_allclose(states["h_in"], y, atol=1e-12)
    np.testing.assert_allclose(outputs["z"], -3 * (2 * y + k), atol=1e-12)
    np.testing.assert_allclose(states["k"], outputs["z"], atol=1e-12)


def test_recurrent_layers_in_a_stream():
    gru, head = cgru.GRU(3, 4, rng=0), cgru.GRU(4, 2, rng=1)
    parts = []
    for model, x, y in ((gru, "x", "y"), (head, "y", "z")):
        writer = Writer("part")
        value, _ = writer.stack(model.value, writer.input(x, (T, B, model.input_size)))
        parts.append(writer.graph({y: value}))
    joined = join(parts)
    assert {"0.gru.weight_ih_l0", "1.gru.weight_ih_l0"} <= set(joined.constants)
    x = np.random.default_rng(0).standard_normal((6, 1, 3)).astype(np.float32)
    expected = head(gru(x)[0])[0]
    stream = Stream(joined)
    np.testing.assert_allclose(np.stack([stream.step({"x": x[t]})["z"] for t in range(6)]), expected, atol=1e-6)


def test_deep_filter_net(tmp_path):
    """Its encoder and two decoders, as one, against the three one after the other."""
    pytest.importorskip("onnxruntime")
    paths = deep_filter_net(tmp_path)
    parts = {path.stem: from_onnx(path) for path in paths}
    joined = join(parts)
    assert joined.inputs == {"feat_erb": (1, 1, "S", 32), "feat_spec": (1, 2, "S", 96)}
    assert set(joined.outputs) == {"lsnr", "m", "coefs", "235"}
    assert len(joined.nodes) == sum(len(part.nodes) for part in parts.values())
    assert joined.nbytes == sum(part.nbytes for part in parts.values())
    rng = np.random.default_rng(0)
    values = {
        name: rng.standard_normal([12 if n == "S" else n for n in shape]).astype(np.float32)
        for name, shape in joined.inputs.items()
    }
    x = dict(values)
    for path in paths:
        values |= runner(path)({name: values[name] for name in parts[path.stem].inputs})
    outputs, _ = run(joined, x)
    stream = Stream(joined)
    assert stream.delay == 0
    steps = [stream.step({name: array.take(t, joined.time[name]) for name, array in x.items()}) for t in range(12)]
    for name, array in outputs.items():
        near(array, values[name])
        near(np.stack([step[name] for step in steps], joined.time[name]), values[name])


@pytest.mark.parametrize(("graphs", "message"), [
    ([graph(["b"], ["a"]), graph(["a"], ["b"])], "run one after the other, got a circle: '0' takes 'b' of '1', '1' takes 'a' of '0'"),
    ([graph(["x"], ["y"]), graph(["z"], ["y"])], "outputs of different names, got 'y' of '0' and of '1'"),
    ([graph(["x"], ["y"]), graph({"y": (T, B, 4)}, ["z"])], r"'y' of one shape and type, got \(T, B, 3\) float32 of '0' and \(T, B, 4\) float32 of '1'"),
    ([graph({"y": (T, B, 4)}, ["z"]), graph(["x"], ["y"])], r"'y' of one shape and type, got \(T, B, 3\) float32 of '1' and \(T, B, 4\) float32 of '0'"),
    ([graph(["x"], ["y"]), graph(["x"], ["z"], shape=(T, B, 5))], "'x' of one shape and type"),
    ([graph(["x"], ["y"]), graph(["y"], ["z"], dtypes={"y": np.int64})], "'y' of one shape and type, got .* float32 of '0' and .* int64 of '1'"),
    ([graph(["x"], ["y"]), graph(["y"], ["z"], shape=(1, S, 3))], "one name of the axis that is time, got T of '0', S of '1'"),
    ([graph(["x"], ["y"]), graph(["w"], ["z"], shape=(T, S, 3))], "one name of the axis that is the batch, got B of '0', S of '1'"),
    ([graph(["x"], ["y"], shape=(S, 3)), graph(["w"], ["z"], shape=(1, S, 3))], "one meaning of the axis S, got time in '1' and the batch in '0'"),
    ([graph(["x", "h"], ["y", "k"], states={"h": "k"}), graph(["x", "h"], ["z", "l"], states={"h": "l"})], "states of different names, got 'h'"),
    ([graph(["x", "h"], ["y", "k"], states={"h": "k"}), graph(["x", "h"], ["z"])], "states and inputs of different names, got 'h' of '0' and of '1'"),
    ([graph(["x", "h"], ["y", "k"], states={"h": "k"}), graph(["x"], ["h"])], "states and outputs of different names, got 'h' of '0' and of '1'"),
])  # fmt: skip
def test_refused(graphs, message):
    with pytest.raises(cgru.FormatError, match=message):
        join(graphs)


def test_no_graphs():
    for graphs in ([], ["model.onnx"]):
        with pytest.raises(TypeError, match="graphs: expected graphs, got"):
            join(graphs)
