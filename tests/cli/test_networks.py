"""The command line of whole networks: what counts as one, and numbers that are the API's."""

import json
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import cgru
from cgru import nodes
from cgru.bench import networks as benchmark
from cgru.cli import frames

from ..support import networks as models
from ..support.commands import command, random, refused, saved


def policy(**options):
    return cgru.Network([nodes.Linear(3, 4, activation="relu", rng=0), cgru.GRU(4, 5, rng=1, **options)])


def looking_ahead():
    """A network whose outputs come a frame late."""
    return cgru.Network([nodes.Conv1d(3, 4, 3, padding="same", rng=0), cgru.GRU(4, 5, rng=1)])


@pytest.fixture
def net(tmp_path):
    made = policy()
    made.save(tmp_path / "n.safetensors")
    return made, tmp_path / "n.safetensors"


@pytest.fixture
def graph(tmp_path):
    """The same as an ONNX graph, which holds a GRU and more."""
    made = policy()
    made.to_onnx(tmp_path / "n.onnx")
    return cgru.Network.load(tmp_path / "n.onnx"), tmp_path / "n.onnx"


@pytest.fixture
def frame(tmp_path):
    """A frame graph: a state goes in and comes out, added to the input."""
    written = models.Net(0)
    x, h = written.input("x", [1, 3]), written.input("h", [1, 3])
    y = written.op("Tanh", written.op("Add", written.op("MatMul", x, written.weight(3, 3)), h))
    onnx.save(written.model(y, y, names=["y", "h_out"]), tmp_path / "f.onnx")
    return cgru.Network.load(tmp_path / "f.onnx"), tmp_path / "f.onnx"


# --- What counts as a network -----------------------------------------------------------------------------------------


def kind(path, *options):
    return json.loads(command("info", path, "--json", *options).stdout)["model"]


def test_what_a_file_holds(net, graph, frame, tmp_path):
    gru = cgru.GRU(3, 5, num_layers=2, bidirectional=True, rng=0)
    gru.to_onnx(tmp_path / "g.onnx")
    assert kind(net[1]) == kind(graph[1]) == "a network, sequence graph"
    assert kind(frame[1]) == "a network, frame graph"
    assert kind(tmp_path / "g.onnx") == repr(gru)
    assert kind(tmp_path / "g.onnx", "--network") == "a network, sequence graph"
    assert kind(saved(gru, tmp_path)) == repr(gru)
    (name,) = (node.name for node in onnx.load(graph[1]).graph.node if node.op_type == "GRU")
    assert kind(graph[1], "--name", name) == repr(cgru.load(graph[1]))


@pytest.mark.parametrize("operator", ["RNN", "Relu", "Conv", "LayerNormalization"])
def test_operators_that_make_a_graph_more_than_its_grus(operator, tmp_path):
    from cgru.formats.onnx.network import does_more

    def model(*operators):
        made = [helper.make_node(name, ["x"], [f"y{i}"]) for i, name in enumerate(operators)]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
        return helper.make_model(helper.make_graph(made, "g", [x], []))

    assert not does_more(model("Shape", "Gather", "Add", "Transpose", "GRU", "Squeeze", "Add"))
    assert does_more(model("Shape", "Gather", "Add", "Transpose", "GRU", "Squeeze", operator))
    assert does_more(model(operator))
    assert not does_more(model(operator, "Loop"))  # perhaps a GRU written out, of which `cgru.load` knows what to say
    assert not does_more(model("Unknown", "GRU"))


def test_what_networks_do_not_have_is_listed(tmp_path):
    written = models.Net(0)
    x = written.input("x", ["T", 1, 4])
    y = written.op("Hardmax", written.op("Relu", x))
    onnx.save(written.model(y), tmp_path / "n.onnx")
    refused(1, "Hardmax", "info", tmp_path / "n.onnx")
    refused(1, "a GRU in the file is taken alone by its --name", "info", tmp_path / "n.onnx")
    refused(1, "Hardmax", "info", tmp_path / "n.onnx", "--network")


# --- info -------------------------------------------------------------------------------------------------------------


def test_info(net, frame):
    facts = json.loads(command("info", net[1], "--json").stdout)
    assert facts.pop("microseconds_a_step") > 0
    program = facts.pop("program")
    assert [step["bytes"] for step in program] == [4 * 3 * 4, 4 * 3 * 5 * (4 + 5)]
    assert [step["shape"] for step in program] == ["4", "5"]
    assert all(step["microseconds"] > 0 for step in program)
    assert facts == {
        "file": str(net[1]), "file_bytes": net[1].stat().st_size, "format": "safetensors",
        "model": "a network, sequence graph", "inputs": {"x": ["T", "B", 3]}, "outputs": {"y": ["T", "B", 5]}, "states": {},
        "delay": 0, "streams": True, "obstacles": [], "nodes": len(net[0].graph.nodes),
        "parameters": 3 * 4 + 4 + 3 * 5 * (4 + 5 + 2), "parameter_bytes": 4 * 181, "timed": "a step of a stream, one sequence",
    }  # fmt: skip
    text = command("info", net[1]).stdout
    lines = {line[:22].strip(): line[22:] for line in text.splitlines() if line[:1].strip()}
    assert (lines["inputs"], lines["outputs"], lines["states"]) == ("x (T, B, 3)", "y (T, B, 5)", "none")
    assert (lines["streams"], lines["parameters"]) == ("yes", "181")
    assert [step["node"] in text for step in program] == [True, True]
    facts = json.loads(command("info", frame[1], "--json").stdout)
    assert (facts["inputs"], facts["states"]) == ({"x": [1, 3]}, {"h": [1, 3]})


def test_info_says_why_a_network_cannot_stream(tmp_path):
    policy(bidirectional=True).save(tmp_path / "n.safetensors")
    facts = json.loads(command("info", tmp_path / "n.safetensors", "--json").stdout)
    assert (facts["streams"], facts["delay"], facts["timed"]) == (False, None, "a call of 100 steps, one sequence")
    (obstacle,) = facts["obstacles"]
    assert "reads sequences from the last step to the first" in obstacle
    assert "100x5" in {step["shape"] for step in facts["program"]}
    text = command("info", tmp_path / "n.safetensors").stdout
    assert "streams               no, whole sequences alone" in text
    assert obstacle in text
    looking_ahead().save(tmp_path / "late.safetensors")
    assert json.loads(command("info", tmp_path / "late.safetensors", "--json").stdout)["delay"] == 1


# --- run --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [policy, looking_ahead, lambda: policy(bidirectional=True)])
@pytest.mark.parametrize("shape", [(50, 1, 3), (50, 4, 3), (50, 3), (1, 1, 3)])
def test_run_equals_the_call(make, shape, tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "CHUNK", 16)
    net, x = make(), random(*shape)
    net.save(tmp_path / "n.safetensors")
    np.save(tmp_path / "x.npy", x)
    for target in ("y.npy", "y.npz"):
        command("run", tmp_path / "n.safetensors", tmp_path / "x.npy", "-o", tmp_path / target, "--threads", "2")
    expected = net(x) if x.ndim == 3 else net(x[:, None])[:, 0]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)
    with np.load(tmp_path / "y.npz") as written:
        assert set(written) == {"y"}
        np.testing.assert_array_equal(written["y"], expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n.safetensors", "x.npy", "y.npy", "y.npz"]


@pytest.mark.parametrize("alone", [False, True])
def test_run_of_frames(alone, frame, tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "CHUNK", 16)
    net, path = frame
    x = random(50, 1, 3)
    np.save(tmp_path / "x.npy", x[:, 0] if alone else x)
    command("run", path, tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    stream = net.stream()
    expected = np.stack([stream.step(one) for one in x])
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected[:, 0] if alone else expected)


def test_run_of_several_inputs_and_outputs(tmp_path):
    written = models.Net(0)
    a, b = written.input("a", ["T", "B", 3]), written.input("b", ["T", "B", 4])
    joined = written.op("Concat", a, b, axis=2)
    last = written.op("GRU", joined, written.weight(1, 15, 7), written.weight(1, 15, 5), outputs=2)
    y = written.op("Squeeze", last[0], written.constant(np.array([1])))
    onnx.save(written.model(y, last[1], written.op("Relu", a), names=["y", "h", "c"]), tmp_path / "n.onnx")
    net = cgru.Network.load(tmp_path / "n.onnx")
    given = {"a": random(40, 2, 3), "b": random(40, 2, 4)}
    np.savez(tmp_path / "in.npz", **given)
    command("run", tmp_path / "n.onnx", tmp_path / "in.npz", "-o", tmp_path / "y.npz")
    with np.load(tmp_path / "y.npz") as results:
        assert set(results) == {"y", "h", "c"}
        for name, array in net(given).items():
            np.testing.assert_array_equal(results[name], array, err_msg=name)
    refused(1, "expected .npz, as there are the outputs y, h, c, got .npy",
            "run", tmp_path / "n.onnx", tmp_path / "in.npz", "-o", tmp_path / "y.npy")  # fmt: skip
    np.save(tmp_path / "x.npy", given["a"])
    refused(1, "expected a, b, got x", "run", tmp_path / "n.onnx", tmp_path / "x.npy", "-o", tmp_path / "z.npz")
    refused(1, "expected one input and one output", "run", tmp_path / "n.onnx", "-", input=b"")
    np.savez(tmp_path / "in.npz", a=given["a"], b=given["b"][1:])
    refused(1, "of each input as many, got [39, 40]",
            "run", tmp_path / "n.onnx", tmp_path / "in.npz", "-o", tmp_path / "z.npz")  # fmt: skip
    assert not (tmp_path / "z.npz").exists()


def test_run_through_a_pipe(net, frame, tmp_path):
    x = random(20, 3)
    for made, path in (net, frame):
        stream = made.stream()
        expected = np.stack([stream.step(one[None])[0] for one in x])
        for chunk in (1, 7):
            result = command("run", path, "-", "--chunk", chunk, input=x.astype("<f4").tobytes())
            got = np.frombuffer(result.stdout_bytes, "<f4").reshape(20, -1)
            np.testing.assert_array_equal(got, expected)
    late = looking_ahead()
    late.save(tmp_path / "late.safetensors")
    result = command("run", tmp_path / "late.safetensors", "-", "--chunk", "6", input=x.astype("<f4").tobytes())
    got = np.frombuffer(result.stdout_bytes, "<f4").reshape(20, 5)
    np.testing.assert_array_equal(got, np.concatenate([np.zeros((1, 5)), late(x[:, None])[:-1, 0]]))
    assert result.stderr == "cgru: frames come 1 late; the first 1 are zeros\n"
    result = command("run", net[1], "-", input=x.astype("<f4").tobytes()[:-3], code=1)
    assert "expected frames of 12 bytes, 9 bytes left over" in result.stderr


def test_run_refuses(net, tmp_path):
    x, out = tmp_path / "x.npy", ["-o", tmp_path / "y.npy"]
    np.save(x, random(4, 2, 4))
    refused(1, "x: expected (T, 2, 3) float32, got (4, 2, 4)", "run", net[1], x, *out)
    np.save(x, random(0, 2, 3))
    refused(1, "expected one frame or more", "run", net[1], x, *out)
    np.save(x, random(4, 2, 3))
    refused(2, "--h0: expected none", "run", net[1], x, *out, "--h0", x)
    refused(1, "expected another file than", "run", net[1], x, "-o", x)
    refused(2, "--config: expected no --network beside it", "run", net[1], x, *out, "--network", "--config", x)
    np.save(x, np.array([["a"]]))
    refused(1, "x: expected real numbers", "run", net[1], x, *out)
    assert not (tmp_path / "y.npy").exists()


def test_run_takes_indices(tmp_path):
    net = cgru.Network([nodes.Embedding(9, 3, rng=0), cgru.GRU(3, 4, rng=0)])
    net.save(tmp_path / "n.safetensors")
    x = np.random.default_rng(0).integers(0, 9, (20, 2))
    np.save(tmp_path / "x.npy", x.astype(np.int32))
    command("run", tmp_path / "n.safetensors", tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), net(x))
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    refused(1, "x: expected int64, got float32",
            "run", tmp_path / "n.safetensors", tmp_path / "x.npy", "-o", tmp_path / "y.npy")  # fmt: skip


# --- compare and bench ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["net", "graph", "frame"])
def test_compare(which, request, tmp_path, monkeypatch):
    monkeypatch.setattr("cgru.cli.compare.SECONDS", 0.01)
    net, path = request.getfixturevalue(which)
    x = random(30, 1, 3)
    np.save(tmp_path / "x.npy", x)
    arguments = ["compare", path, tmp_path / "x.npy", "--precision", "float16"]
    facts = json.loads(command(*arguments, "--json").stdout)
    peers = [] if which == "net" else ["onnxruntime"]
    assert facts["frames"] == 30
    assert list(facts["contenders"]) == ["cgru float32", "cgru float16", *peers]
    wide = cgru.Network(net.graph, dtype=np.float64)
    run = {"frame": lambda one, x: one.stream().process(x)}.get(which, lambda one, x: one(x))
    expected = run(wide, x.astype(np.float64))
    for title, one in (("cgru float32", net), ("cgru float16", net.quantize("float16"))):
        error = np.abs(run(one, x) - expected)
        row = facts["contenders"][title]
        assert row["largest_error"] == error.max()
        assert row["relative_error"] == pytest.approx(np.linalg.norm(error) / np.linalg.norm(expected))
        assert row["microseconds_a_frame"] > 0
    assert 0 < facts["contenders"]["cgru float32"]["largest_error"] < 2e-6
    assert 1e-5 < facts["contenders"]["cgru float16"]["largest_error"] < 1e-2
    if peers:
        assert 0 < facts["contenders"]["onnxruntime"]["largest_error"] < 2e-6
    text = command("compare", path).stdout
    assert text.startswith(f"{path}, 100 frames, one thread, error against float64\n")
    assert ("onnxruntime" in text) == bool(peers)


def test_calls_that_are_timed_begin_anew(frame):
    """Of a frame graph every call runs the frames from states of zero, cgru's and ONNX Runtime's."""
    net, path = frame
    given = {"x": random(5, 1, 3)}
    for call in (benchmark.whole_call(net, given), benchmark.Peer(path, net, 1).whole(given)):
        first = call()["y"].copy()
        assert np.abs(np.diff(first, axis=0)).min() > 0
        np.testing.assert_array_equal(call()["y"], first)
    stepped = benchmark.step_call(net, {"x": given["x"][0]})
    np.testing.assert_allclose(stepped()["y"], first[0], rtol=0, atol=1e-6)


def test_compare_refuses(net, tmp_path):
    refused(2, "--plot: expected none", "compare", net[1], "--plot", tmp_path / "p.png")
    refused(2, "--calibrate: expected --precision", "compare", net[1], "--calibrate", tmp_path / "x.npy")
    gru = saved(cgru.GRU(3, 4), tmp_path)
    refused(2, "Missing argument 'INPUT'", "compare", gru, "--precision", "int8")


def test_compare_says_what_to_install(graph, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(1, 'pip install "cgru[bench]"', "compare", graph[1])


@pytest.mark.parametrize("which", ["net", "graph", "frame"])
def test_bench(which, request, tmp_path):
    _, path = request.getfixturevalue(which)
    result = command("bench", path, "--seconds", "0.01", "--json", tmp_path / "t.json")
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["a step", "100 steps"][: 1 if which == "frame" else 2]
    contenders = {"cgru"} if which == "net" else {"cgru", "onnxruntime"}
    assert all(row["seconds"].keys() == contenders for row in rows)
    assert all(time > 0 for row in rows for time in (row["floor"], *row["seconds"].values()))
    assert "of the floor" in result.stdout


def test_bench_of_grus_and_precisions(tmp_path):
    path = saved(cgru.GRU(3, 16, bidirectional=True, rng=0), tmp_path)
    command("bench", path, "--seconds", "0.01", "--json", tmp_path / "t.json")
    assert [row["name"] for row in json.loads((tmp_path / "t.json").read_text())["rows"]] == ["100 steps"]
    policy().save(tmp_path / "n.safetensors")
    result = command("bench", tmp_path / "n.safetensors", "--seconds", "0.01", "--precision", "int8")
    assert "cgru int8" in " ".join(result.stdout.split())


def test_bench_checks_results_before_it_times(monkeypatch, graph):
    net, path = graph
    right = benchmark.Peer.whole

    def wrong(self, inputs):
        call = right(self, inputs)
        return lambda: {name: array + 1e-3 for name, array in call().items()}

    monkeypatch.setattr(benchmark.Peer, "whole", wrong)
    with pytest.raises(RuntimeError, match=r"onnxruntime, 100 steps: differs from float64 by 0.001"):
        benchmark.measure(net, path, 1, 0.01)


def test_bench_refuses(net):
    for options in (["--hidden", "8"], ["--plot", "p.png"], ["--device", "cuda"]):
        refused(2, "expected no FILE beside them", "bench", net[1], *options)
    refused(2, "expected a FILE beside them", "bench", "--network")
