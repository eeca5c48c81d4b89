"""GRU and GRUCell as objects: shapes, parameters, options, copies, and what calls leave alone."""

import copy
import doctest
import importlib
import pickle
import pkgutil
import subprocess
import sys

import numpy as np
import pytest

import cgru
from cgru import activations

from ..support.options import UNUSUAL, Problem, relative_error


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("batch_first", [False, True])
def test_shapes(directions, batch_first):
    gru = cgru.GRU(3, 5, 2, batch_first=batch_first, bidirectional=directions == 2)
    x = np.zeros((4, 7, 3) if batch_first else (7, 4, 3), np.float32)
    y, h_n = gru(x)
    assert y.shape == (*x.shape[:2], 5 * directions)
    assert h_n.shape == (2 * directions, 4, 5)
    y, h_n = gru(np.zeros((7, 3), np.float32))
    assert y.shape == (7, 5 * directions)
    assert h_n.shape == (2 * directions, 5)


def test_one_sequence_is_a_batch_of_one():
    for batch_first in (False, True):
        gru = cgru.GRU(3, 5, 2, batch_first=batch_first, bidirectional=True, rng=0)
        rng = np.random.default_rng(0)
        x, h0 = rng.standard_normal((7, 3)).astype(np.float32), rng.standard_normal((4, 5)).astype(np.float32)
        batch_axis = 0 if batch_first else 1
        y, h_n = gru(x, h0, lengths=5)
        y_batch, h_batch = gru(np.expand_dims(x, batch_axis), h0[:, None], lengths=[5])
        np.testing.assert_array_equal(y, y_batch.squeeze(batch_axis))
        np.testing.assert_array_equal(h_n, h_batch[:, 0])


@pytest.mark.parametrize("shape", [(0, 3, 4), (5, 0, 4), (0, 0, 4), (0, 4)])
def test_empty(shape):
    gru = cgru.GRU(4, 6, 2, bidirectional=True)
    h0 = np.ones((4, *shape[1:-1], 6), np.float32)
    y, h_n = gru(np.zeros(shape, np.float32), h0)
    assert y.shape == (*shape[:-1], 12)
    np.testing.assert_array_equal(h_n, h0)
    y, h_n = gru(np.zeros(shape, np.float32), lengths=None if len(shape) == 2 else [0] * shape[1])
    assert not h_n.any()


def test_out_and_arguments_left_alone():
    problem = Problem({"num_layers": 2}, dtype=np.float32)
    x, h0, lengths = problem.x.copy(), problem.h0.copy(), np.array([6, 2, 4])
    y, h_n = problem.gru(problem.x, problem.h0, lengths=lengths)
    out = np.full_like(y, np.nan)
    result, h_out = problem.gru(problem.x, problem.h0, lengths=lengths, out=out)
    assert result is out
    np.testing.assert_array_equal(out, y)
    np.testing.assert_array_equal(h_out, h_n)
    np.testing.assert_array_equal(problem.x, x)
    np.testing.assert_array_equal(problem.h0, h0)
    np.testing.assert_array_equal(lengths, [6, 2, 4])


def test_state_passed_on_continues_the_sequence():
    problem = Problem({"num_layers": 3}, steps=20, dtype=np.float64)
    y, h_n = problem.gru(problem.x, problem.h0)
    first, h = problem.gru(problem.x[:7], problem.h0)
    second, h = problem.gru(problem.x[7:], h)
    assert relative_error(np.concatenate([first, second]), y) < 1e-14
    assert relative_error(h, h_n) < 1e-14


@pytest.mark.parametrize("options", [{}, {"reset_after": False, "update_gate": "candidate", "clip": 0.5}])
def test_cell_is_one_step(options):
    problem = Problem(options, dtype=np.float32)
    cell = cgru.GRUCell(5, 11, **options)
    cell.load_state_dict({name.removesuffix("_l0"): array for name, array in problem.gru.state_dict().items()})
    h = problem.h0[0]
    for x in problem.x:
        h = cell(x, h)
    assert relative_error(h, problem.expected()[1][0]) < 2e-6
    kept = h.copy()
    one = cell(problem.x[0, 1], h[1])
    assert one.shape == (11,)
    np.testing.assert_allclose(one, cell(problem.x[0], h)[1], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(h, kept)
    np.testing.assert_array_equal(cell(problem.x[0]), cell(problem.x[0], np.zeros_like(h)))
    assert cell(problem.x[0, :0]).shape == (0, 11)


def test_state_dict_names_shapes_and_copies():
    gru = cgru.GRU(3, 4, 2, bidirectional=True)
    state = gru.state_dict()
    assert {name: array.shape for name, array in state.items()} == {
        f"{part}_l{layer}{d}": shape
        for layer in (0, 1)
        for d in ("", "_reverse")
        for part, shape in {
            "weight_ih": (12, 8 if layer else 3),
            "weight_hh": (12, 4),
            "bias_ih": (12,),
            "bias_hh": (12,),
        }.items()
    }
    before = gru(np.ones((2, 3), np.float32))[0]
    for array in state.values():
        array[...] = 0  # a copy: the model does not see it
    np.testing.assert_array_equal(gru(np.ones((2, 3), np.float32))[0], before)
    gru.load_state_dict(state)
    state["bias_ih_l1"][...] = 1
    assert not gru(np.ones((2, 3), np.float32))[0].any()
    assert "bias_ih" not in "".join(cgru.GRU(3, 4, bias=False).state_dict())


def test_initial_weights():
    a, b = cgru.GRU(30, 100, rng=5), cgru.GRU(30, 100, rng=np.random.default_rng(5))
    for name, array in a.state_dict().items():
        np.testing.assert_array_equal(array, b.state_dict()[name])
        assert 0.095 < np.abs(array).max() <= 0.1
    assert any((a.state_dict()[n] != array).any() for n, array in cgru.GRU(30, 100).state_dict().items())


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda gru: pickle.loads(pickle.dumps(gru))])
@pytest.mark.parametrize("kind", [cgru.GRU, cgru.GRUCell])
def test_copies(duplicate, kind):
    options = UNUSUAL
    if kind is cgru.GRUCell:
        options = {
            name: value
            for name, value in UNUSUAL.items()
            if name not in cgru.GRU(1, 1).options or name in cgru.GRUCell(1, 1).options
        }
    model = kind(3, 4, rng=0, **options)
    twin = duplicate(model)
    assert repr(twin) == repr(model)
    assert twin.options == model.options
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(twin.state_dict()[name], array)
    twin.load_state_dict({name: 0 * array for name, array in model.state_dict().items()})
    assert model.state_dict()["weight_ih_l0" if kind is cgru.GRU else "weight_ih"].any()


def test_repr_tells_options_and_builds_again():
    assert repr(cgru.GRU(3, 4)) == "GRU(3, 4)"
    assert repr(cgru.GRUCell(3, 4, False)) == "GRUCell(3, 4, bias=False)"
    gru = cgru.GRU(3, 4, **UNUSUAL)
    expected = {name: np.dtype(value) if name == "dtype" else value for name, value in UNUSUAL.items()}
    assert gru.options == {"input_size": 3, "hidden_size": 4, **expected}
    rebuilt = eval(repr(gru).replace("float64", "'float64'"), {"GRU": cgru.GRU})
    assert rebuilt.options == gru.options
    assert repr(cgru.GRU(3, 4, activation=("elu", 1.0, 0.0))) == "GRU(3, 4, activation='elu')"


def test_options_cannot_be_changed_afterwards():
    gru = cgru.GRU(3, 4)
    with pytest.raises(AttributeError, match="batch_first: a GRU keeps the options it was made with"):
        gru.batch_first = True


def test_activation_names_and_defaults():
    assert list(activations.FUNCTIONS) == [
        "tanh", "sigmoid", "relu", "hard_sigmoid", "softsign", "softplus", "elu", "leaky_relu", "thresholded_relu",
        "scaled_tanh", "affine", "linear", "g",
    ]  # fmt: skip
    assert activations.parse("activation", "hard_sigmoid") == ("hard_sigmoid", 0.2, 0.5)


def test_import_is_light():
    """SciPy and the frameworks are imported when they are first needed, not by `import cgru`."""
    code = "import sys, numpy; before = set(sys.modules); import cgru; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"scipy", "torch", "click", "rich", "safetensors", "onnx", "cgru._blas", "json"} & set(loaded), loaded


MODULES = ["cgru", *(module.name for module in pkgutil.walk_packages(cgru.__path__, "cgru."))]
MODULES.remove("cgru.cli.__main__")  # which runs when it is imported


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")  # of Keras' own
@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name, monkeypatch):
    """All of them run, wherever they stand."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    threads = cgru.get_num_threads()
    try:
        result = doctest.testmod(importlib.import_module(name))
    finally:
        cgru.set_num_threads(threads)
    assert result.failed == 0
