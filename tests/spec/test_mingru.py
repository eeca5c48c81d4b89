"""MinGRU: the specification against the paper's equations, every engine against the specification, and what is around."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import cgru
from cgru import cli, reference
from cgru.engines.cuda.engine import engine_of

from ..support.cuda_on_cpu import Simulator
from ..support.keras_models import KERAS_WARNINGS
from ..support.options import BOUNDED, UNBOUNDED, Problem, points, relative_error
from ..training.test_training import Gradients, directional_error

each_engine = pytest.mark.parametrize(
    ("engine", "dtype"), [("packed", np.float32), ("blas", np.float32), ("blas", np.float64)]
)
TOLERANCE = {np.float64: 1e-12, np.float32: 2e-6}
NAMES = ("num_layers", "bidirectional", "bias", "clip")
FUNCTIONS = ["g", "linear", "tanh"]


def problem(options=(), *sizes, **more):
    return Problem(dict(options), *sizes, kind=cgru.MinGRU, **more)


def paper(x, h, w, b, g):
    """The outputs (T, B, H), as the paper writes them, by torch: gates and candidates of all steps, then the recursion."""
    z, n = (x @ w.T + b).chunk(2, dim=-1)
    z = torch.sigmoid(z)
    n = torch.where(n >= 0, n + 0.5, torch.sigmoid(n)) if g else n
    outputs = []
    for t in range(len(x)):
        h = (1 - z[t]) * h + z[t] * n[t]
        outputs.append(h)
    return torch.stack(outputs)


@pytest.mark.parametrize("activation", ["g", "linear"])
def test_the_papers_equations_and_their_gradients(activation):
    rng = np.random.default_rng(0)
    shapes = {"x": (9, 4, 3), "h": (4, 6), "w": (12, 3), "b": (12,)}
    given = {name: torch.tensor(rng.standard_normal(shape), requires_grad=True) for name, shape in shapes.items()}
    x, h, w, b = (given[name].detach().numpy() for name in shapes)
    parameters = {"weight_ih_l0": w, "bias_ih_l0": b}
    options = {"cell": "mingru", "activation": activation}
    y, h_n = reference.forward(x, parameters, h[None], **options)
    expected = paper(**given, g=activation == "g")
    assert relative_error(y, expected.detach().numpy()) < 1e-12
    assert relative_error(h_n[0], y[-1]) == 0
    by_y = rng.standard_normal(y.shape)
    (expected * torch.tensor(by_y)).sum().backward()
    by_x, by_h0, by = reference.backward(x, parameters, h[None], by_y, np.zeros((1, 4, 6)), **options)
    found = {"x": by_x, "h": by_h0[0], "w": by["weight_ih_l0"], "b": by["bias_ih_l0"]}
    for name, gradient in found.items():
        assert relative_error(gradient, given[name].grad.numpy()) < 1e-12, name


def test_the_positive_function():
    x = np.array([-800, -1, -0.0, 0.0, 1, 800])
    with np.errstate(under="ignore"):
        y, _ = reference.forward(
            x[None, :, None],
            {"weight_ih_l0": np.array([[0.0], [1.0]]), "bias_ih_l0": np.array([800.0, 0])},
            cell="mingru",
        )  # z = 1
    np.testing.assert_allclose(y[0, :, 0], [0, 1 / (1 + np.e), 0.5, 0.5, 1.5, 800.5], rtol=1e-15, atol=1e-300)


@each_engine
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 9])
def test_option_matrix(engine, dtype, ragged, batch):
    more = [{"reverse": True, "num_layers": 2}, {"bidirectional": True, "merge": "sum"}]
    for options in [*points(*NAMES, "batch_first", activation=FUNCTIONS), *more]:
        one = problem(options, batch=batch, ragged=ragged, dtype=dtype)
        y, h_n = one.gru(one.x, one.h0, lengths=one.lengths, engine=engine)
        expected_y, expected_h = one.expected()
        assert relative_error(y, expected_y) < TOLERANCE[dtype], options
        assert relative_error(h_n, expected_h) < TOLERANCE[dtype], options


@each_engine
def test_activations(engine, dtype):
    for function in BOUNDED + UNBOUNDED:
        for options in ({"activation": function}, {"recurrent_activation": function, "activation": "tanh"}):
            one = problem(options, steps=4, dtype=dtype)
            y, _ = one.gru(one.x, one.h0, engine=engine)
            assert relative_error(y, one.expected()[0]) < TOLERANCE[dtype], options


@each_engine
@given(
    steps=st.integers(1, 90),
    batch=st.integers(1, 20),
    inputs=st.integers(1, 40),
    hidden=st.integers(1, 70),
    ragged=st.booleans(),
    layers=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_any_size(engine, dtype, steps, batch, inputs, hidden, ragged, layers, seed):
    one = problem({"num_layers": layers}, steps, batch, inputs, hidden, ragged, dtype, seed)
    y, h_n = one.gru(one.x, one.h0, lengths=one.lengths, engine=engine)
    expected_y, expected_h = one.expected()
    assert relative_error(y, expected_y) < TOLERANCE[dtype]
    assert relative_error(h_n, expected_h) < TOLERANCE[dtype]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "int8"])
def test_the_same_bits_alone_batched_chunked_streamed_and_on_threads(precision):
    one = problem({"num_layers": 2}, 40, 23, 19, 37, dtype=np.float32)
    model = one.gru if precision == "float32" else one.gru.quantize(precision)
    y, h_n = model(one.x, one.h0, num_threads=1)
    for size in (1, 2, 7, 8, 16):
        part, h_part = model(one.x[:, :size], np.ascontiguousarray(one.h0[:, :size]), num_threads=2)
        np.testing.assert_array_equal(part, y[:, :size])
        np.testing.assert_array_equal(h_part, h_n[:, :size])
    stream, single, pool = model.stream(23), model.stream(), model.pool(23)
    stream.state, single.state = one.h0, one.h0[:, 4]
    chunks = [stream.process(chunk) for chunk in np.split(one.x, [1, 9, 30])]
    np.testing.assert_array_equal(np.concatenate(chunks), y)
    np.testing.assert_array_equal(stream.state, h_n)
    ids = [pool.open() for _ in range(23)]
    for row, name in enumerate(ids):
        pool.set_state(name, one.h0[:, row])
    for t, x in enumerate(one.x):
        np.testing.assert_array_equal(single.step(x[4]), y[t, 4])
        np.testing.assert_array_equal(pool.step(ids, x), y[t])


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "int8"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_quantized(precision, calibrated):
    one = problem({"bidirectional": True}, dtype=np.float32, batch=5, inputs=12)
    if calibrated and precision != "int8":
        return
    model = one.gru.quantize(precision, calibrate=one.x if calibrated else None)
    expected, _ = reference.forward(
        one.x.astype(np.float64), model.value.parameters, one.h0.astype(np.float64), arithmetic=model.value.arithmetic,
        **model.spec.equations,
    )  # fmt: skip
    y, _ = model(one.x, one.h0)
    assert relative_error(y, expected) < 2e-6
    assert 0 < relative_error(y, one.expected()[0]) < {"bfloat16": 2e-2, "float16": 2e-3, "int8": 2e-2}[precision]


@pytest.mark.parametrize("ragged", [False, True])
def test_gradients_of_the_specification_by_differences(ragged):
    for options in points(*NAMES, activation=["linear", "tanh"]):
        assert directional_error(Gradients(problem(options, steps=4, hidden=5, inputs=3, ragged=ragged))) < 1e-7, (
            options
        )


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-4)])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("memory", [None, 0])
def test_gradients(dtype, tolerance, ragged, memory):
    for options in [*points(*NAMES, activation=FUNCTIONS), {"bidirectional": True, "merge": "sum"}, {"reverse": True}]:
        for batch in (1, 9):
            one = problem(options, batch=batch, ragged=ragged, dtype=dtype)
            wanted = Gradients(one)
            by_x, by_h0, by = wanted.expected()
            y, _, tape = one.gru.record(one.x, one.h0, lengths=one.lengths, memory=memory)
            assert relative_error(y, one.expected()[0]) < TOLERANCE[dtype]
            found = tape.backward(wanted.by_y.astype(dtype), wanted.by_h_n.astype(dtype))
            assert relative_error(found.x, by_x) < tolerance, options
            assert relative_error(found.h0, by_h0) < tolerance, options
            assert list(found) == list(by)
            for name, gradient in by.items():
                assert relative_error(found[name], gradient) < tolerance, (options, name)


def test_masks_are_the_specifications():
    one = problem({"num_layers": 2}, dtype=np.float32)
    mask = np.random.default_rng(3).random(one.x.shape[:2]) < 0.6
    y, h_n = one.gru(one.x, one.h0, mask=mask)
    double = {name: array.astype(np.float64) for name, array in one.gru.state_dict().items()}
    expected = reference.forward(
        one.x.astype(np.float64), double, one.h0.astype(np.float64), mask=mask, **one.gru.spec.equations
    )
    assert relative_error(y, expected[0]) < 2e-6
    assert relative_error(h_n, expected[1]) < 2e-6


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "int8"])
def test_saved_loaded_pickled_and_copied(tmp_path, precision):
    one = problem({"num_layers": 2, "activation": "linear", "batch_first": True}, dtype=np.float32)
    model = one.gru if precision == "float32" else one.gru.quantize(precision)
    path = tmp_path / "model.safetensors"
    model.save(path)
    y, _ = model(one.x)
    for other in (cgru.load(path), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert type(other) is cgru.MinGRU
        assert other.options == model.options
        np.testing.assert_array_equal(other(one.x)[0], y)


def test_what_it_is_and_what_it_refuses():
    model = cgru.MinGRU(3, 8, 2, dropout=0.5, rng=0)
    assert repr(model) == "MinGRU(3, 8, num_layers=2, dropout=0.5)"
    assert repr(cgru.MinGRU(3, 8, activation="tanh")) == "MinGRU(3, 8, activation='tanh')"
    assert {name: array.shape for name, array in model.state_dict().items()} == {
        "weight_ih_l0": (16, 3), "bias_ih_l0": (16,), "weight_ih_l1": (16, 8), "bias_ih_l1": (16,)
    }  # fmt: skip
    for absent in ("reset_after", "update_gate", "to_torch", "to_onnx", "to_keras"):
        assert not hasattr(model, absent), absent
    with pytest.raises(TypeError, match="reset_after"):
        cgru.MinGRU(3, 8, reset_after=True)
    wrong = {**model.state_dict(), "weight_ih_l0": np.zeros((24, 3), np.float32)}
    with pytest.raises(ValueError, match=re.escape("weight_ih_l0: expected (16, 3) float32, got (24, 3)")):
        model.load_state_dict(wrong)
    with pytest.raises(ValueError, match="device: expected a GRU or GRUCell to run on a GPU, got a MinGRU"):
        model.on(engine_of(Simulator()))
    with pytest.raises(TypeError, match="value: expected one of a GRU, got one of a MinGRU"):
        cgru.GRU.of(model.value)


def test_compared_and_described(tmp_path):
    one = problem({}, dtype=np.float32)
    result = cgru.compare(one.gru, one.gru.quantize("int8"), one.x)
    assert "int8" in str(result)
    path = tmp_path / "model.safetensors"
    one.gru.save(path)
    shown = CliRunner().invoke(cli.main, ["info", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "MinGRU(5, 11)" in shown.output
    np.save(tmp_path / "x.npy", one.x)
    ran = CliRunner().invoke(cli.main, ["run", str(path), str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npy")])
    assert ran.exit_code == 0, ran.output
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), one.gru(one.x)[0])


@pytest.mark.filterwarnings(*KERAS_WARNINGS)
@pytest.mark.parametrize("suffix", [".onnx", ".json", ".pt", ".keras"])
def test_formats_of_others_have_no_such_layer(suffix, tmp_path):
    """Whatever its functions are: a GRU of the same names would be something else."""
    one = problem({"activation": "tanh"}, dtype=np.float32)
    one.gru.save(tmp_path / "m.safetensors")
    target = tmp_path / f"m{suffix}"
    shown = CliRunner().invoke(cli.main, ["convert", str(tmp_path / "m.safetensors"), str(target)])
    assert shown.exit_code == 1
    assert "has no such layer: expected a GRU, got a MinGRU" in shown.output
    assert not target.exists()
