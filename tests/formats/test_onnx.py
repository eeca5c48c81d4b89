"""ONNX in and out: the standard's own cases, ONNX Runtime over the operator's attributes, exporters' stacks."""

import io

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import cgru

from ..support import onnx_graphs as graphs
from ..support.onnx_cases import node_cases
from ..support.options import BOUNDED, relative_error
from ..support.options import UNBOUNDED as ALL_UNBOUNDED

TOLERANCE = 3e-6
UNBOUNDED = [f for f in ALL_UNBOUNDED if f != "g"]  # which ONNX does not have


STANDARD = {case.name: case for case in node_cases() if case.name.startswith("test_gru")}


def test_the_standard_has_its_cases():
    assert {"test_gru_defaults", "test_gru_with_initial_bias", "test_gru_seq_length", "test_gru_batchwise"} <= set(
        STANDARD
    )


@pytest.mark.parametrize("name", STANDARD)
def test_standard_case(name):
    """The standard feeds weights as inputs; here they become constants, as in every trained model."""
    case = STANDARD[name]
    for inputs, outputs in case.data_sets:
        model = onnx.ModelProto.FromString(case.model.SerializeToString())
        names = [value.name for value in model.graph.input]
        arrays = dict(zip(names, inputs, strict=True))
        model.graph.initializer.extend(numpy_helper.from_array(arrays[n], n) for n in names if n in "WRB")
        gru = cgru.from_onnx(model)
        y, h_n = gru(arrays["X"])
        expected = dict(zip([value.name for value in model.graph.output], outputs, strict=True))
        assert gru.batch_first == (name == "test_gru_batchwise")
        for key, result in expected.items():
            if key == "Y" and gru.batch_first:  # (B, T, D, H)
                assert relative_error(y, result.reshape(y.shape)) < TOLERANCE
            elif key == "Y":
                assert relative_error(y, graphs.side_by_side(result)) < TOLERANCE
            else:
                assert relative_error(h_n, result.swapaxes(0, 1) if gru.batch_first else result) < TOLERANCE


FUNCTIONS = [f if isinstance(f, tuple) else (f, 0.2, 0.5) for f in [*BOUNDED, *UNBOUNDED] if f != "linear"]
TAKES = {"hard_sigmoid": 2, "scaled_tanh": 2, "affine": 2, "elu": 1, "leaky_relu": 1, "thresholded_relu": 1}


def written(name):
    return "".join(word.capitalize() for word in name.split("_"))


@st.composite
def operators(draw):
    """Attributes of one GRU node, which of its optional inputs it has, and a seed for the numbers."""
    directions = draw(st.sampled_from([1, 2]))
    attributes = {"direction": draw(st.sampled_from([["forward", "reverse"], ["bidirectional"]][directions - 1]))}
    if draw(st.booleans()):
        used = [draw(st.sampled_from(FUNCTIONS)) for _ in range(2 * directions)]
        attributes["activations"] = [draw(st.sampled_from([written, str.upper]))(written(name)) for name, *_ in used]
        for key, least, value in (("activation_alpha", 1, 1), ("activation_beta", 2, 2)):
            values = [function[value] for function in used if TAKES.get(function[0], 0) >= least]
            attributes.update({key: values} if values else {})
    if draw(st.booleans()):
        attributes["clip"] = draw(st.sampled_from([0.3, 1.5]))
    attributes["linear_before_reset"] = draw(st.sampled_from([0, 1]))
    attributes["hidden_size"] = hidden = draw(st.integers(1, 9))
    return {
        "attributes": attributes,
        "hidden": hidden,
        "directions": directions,
        "bias": draw(st.booleans()),
        "silent": draw(st.booleans()),
        "lengths": draw(st.booleans()),
        "h0": draw(st.booleans()),
        "zeros": draw(st.booleans()),
        "opset": draw(st.sampled_from([7, 13, 14, 21])),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


def check_operator(case):
    """One node by ONNX Runtime and by cgru, which is given as arguments what the graph has as inputs."""
    rng = np.random.default_rng(case["seed"])
    steps, batch, hidden, directions = (
        int(rng.integers(1, 6)),
        int(rng.integers(1, 4)),
        case["hidden"],
        case["directions"],
    )
    bound = 0.7 if "activations" not in case["attributes"] else 0.2  # unbounded gates let states run away
    arrays = graphs.weights(rng, 3, hidden, directions, case["bias"], bound)
    feed = {"X": rng.standard_normal((steps, batch, 3)).astype(np.float32)}
    inputs = ["X", "W", "R", "B", "", ""]
    if case["lengths"]:
        inputs[4], feed["L"] = "L", rng.integers(1, steps + 1, batch).astype(np.int32)
    if case["h0"]:
        inputs[5], feed["H0"] = "H0", rng.uniform(-1, 1, (directions, batch, hidden)).astype(np.float32)
    elif case["zeros"]:
        inputs[5], arrays["H0"] = "H0", np.zeros((directions, batch, hidden), np.float32)
    model = graphs.one_gru(arrays, inputs, case["opset"], **case["attributes"])
    expected_y, expected_h = graphs.session(model).run(None, feed)
    if case["silent"]:  # ONNX Runtime needs hidden_size, the standard does not
        del model.graph.node[0].attribute[[a.name for a in model.graph.node[0].attribute].index("hidden_size")]
    gru = cgru.from_onnx(model)
    y, h_n = gru(feed["X"], feed.get("H0"), lengths=feed.get("L"))
    assert relative_error(y, graphs.side_by_side(expected_y)) < TOLERANCE
    assert relative_error(h_n, expected_h) < TOLERANCE


@given(operators())
def test_from_onnx_equals_onnxruntime(case):
    check_operator(case)


@pytest.mark.long
@settings(max_examples=1500)
@given(operators())
def test_from_onnx_equals_onnxruntime_at_length(case):
    check_operator(case)


@st.composite
def models(draw):
    """Options of a cgru.GRU that ONNX can express."""
    gate = draw(st.sampled_from([*BOUNDED, *UNBOUNDED]))
    update_gate = draw(st.sampled_from(["state", "candidate"]))
    direction = draw(st.sampled_from(["bidirectional", "reverse", None]))
    several = direction == "bidirectional" and draw(st.booleans())
    of_direction = {"activation": [draw(st.sampled_from([*BOUNDED, *UNBOUNDED])) for _ in range(2)]} if several else {}
    if several and draw(st.booleans()):
        of_direction["recurrent_activation"] = ["sigmoid", draw(st.sampled_from(["hard_sigmoid", "sigmoid"]))]
    return {
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": direction == "bidirectional",
        "reverse": direction == "reverse",
        "reset_after": draw(st.booleans()),
        "update_gate": update_gate,
        "activation": draw(st.sampled_from([*BOUNDED, *UNBOUNDED])),
        "recurrent_activation": draw(st.sampled_from(["sigmoid", "hard_sigmoid"]))
        if update_gate == "candidate"
        else gate,
        "clip": draw(st.sampled_from([None, 0.4])),
        "rng": draw(st.integers(0, 2**32 - 1)),
        **of_direction,
    }


def check_model(options, path):
    """A GRU written, run by ONNX Runtime with and without h0, and read back."""
    gru = cgru.GRU(3, 5, **options)
    gru.load_state_dict({name: array * np.float32(0.7) for name, array in gru.state_dict().items()})
    gru.to_onnx(path)
    session = graphs.session(str(path))
    back = cgru.load(path)
    rng = np.random.default_rng(0)
    assert [value.name for value in session.get_inputs()] == ["x"]
    assert [value.name for value in session.get_overridable_initializers()] == ["h0"]
    for steps, batch in ((1, 1), (4, 3)):
        x = rng.standard_normal((batch, steps, 3) if gru.batch_first else (steps, batch, 3)).astype(np.float32)
        h0 = rng.uniform(-1, 1, (gru.num_layers * (2 if gru.bidirectional else 1), batch, 5)).astype(np.float32)
        for state in (None, h0):
            expected = gru(x, state)
            result = session.run(["y", "h_n"], {"x": x} if state is None else {"x": x, "h0": state})
            for ours, theirs, again in zip(expected, result, back(x, state), strict=True):
                assert ours.shape == theirs.shape
                assert relative_error(theirs, ours) < TOLERANCE
                assert relative_error(again, ours) < TOLERANCE


@given(models())
def test_to_onnx_equals_onnxruntime(tmp_path_factory, options):
    check_model(options, tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.mark.long
@settings(max_examples=500)
@given(models())
def test_to_onnx_equals_onnxruntime_at_length(tmp_path_factory, options):
    check_model(options, tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_options_come_back(dtype, tmp_path):
    options = {
        "num_layers": 2, "batch_first": True, "bidirectional": True, "reset_after": False, "clip": 0.5,
        "activation": ("relu", ("scaled_tanh", 0.75, 0.5)), "recurrent_activation": "hard_sigmoid", "dtype": dtype,
    }  # fmt: skip
    if dtype == np.float64:
        options["recurrent_activation"] = ("hard_sigmoid", 0.25, 0.5)  # 0.2 is none of float32's numbers
    gru = cgru.GRU(3, 4, **options)
    path = tmp_path / "model.onnx"
    gru.to_onnx(path)
    back = cgru.from_onnx(path)
    assert back.options == gru.options
    for name, array in gru.state_dict().items():
        np.testing.assert_array_equal(back.state_dict()[name], array)


def test_to_onnx_refuses(tmp_path):
    path = tmp_path / "model.onnx"
    for options, message in [
        (
            {"update_gate": "candidate", "recurrent_activation": "tanh"},
            "update_gate: ONNX has 'candidate' only for sigmoid",
        ),
        (
            {"update_gate": "candidate", "recurrent_activation": ["sigmoid", "tanh"], "bidirectional": True},
            "update_gate: ONNX has 'candidate' only for sigmoid",
        ),
        ({"dtype": np.float64, "clip": 0.1}, "float32, which does not have 0.1"),
        ({"dtype": np.float64, "recurrent_activation": "hard_sigmoid"}, "float32, which does not have 0.2"),
    ]:
        with pytest.raises(cgru.FormatError, match=message):
            cgru.GRU(3, 4, **options).to_onnx(path)
    assert not path.exists()


@pytest.mark.parametrize("options", [
    {}, {"batch_first": True}, {"num_layers": 3}, {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "bidirectional": True, "batch_first": True, "bias": False},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("given_state", [False, True])
@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.filterwarnings("ignore")  # torch warns of its own exporter
def test_what_torch_exports(options, given_state, folded):
    module = torch.nn.GRU(4, 6, **options).eval()
    x = torch.randn(3, 3, 4)
    h0 = torch.randn(module.num_layers * (1 + module.bidirectional), 3, 6)
    file = io.BytesIO()
    arguments = (x, h0) if given_state else (x,)
    names = ["x", "h0"][: len(arguments)]
    torch.onnx.export(module, arguments, file, dynamo=False, input_names=names, do_constant_folding=folded)
    gru = cgru.from_onnx(onnx.load_from_string(file.getvalue()))
    assert repr(gru) == repr(cgru.from_torch(module))
    with torch.no_grad():
        expected = module(*arguments)
    for ours, theirs in zip(gru(*(a.numpy() for a in arguments)), expected, strict=True):
        assert relative_error(ours, theirs.numpy()) < TOLERANCE
