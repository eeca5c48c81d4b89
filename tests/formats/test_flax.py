"""Flax' cells: trees written by hand against the specification, and Flax' own (`flax_itself.py`) where it is installed."""

import doctest
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cgru
from cgru import reference
from cgru.formats import flax as format_flax

from ..support.options import relative_error

WITHOUT = "Flax and JAX are no part of the test extra: hundreds of megabytes"


def linen_cell(seed=0, inputs=3, hidden=4, dtype=np.float64):
    rng = np.random.default_rng(seed)
    cell = {name: {"kernel": rng.uniform(-0.5, 0.5, (inputs, hidden))} for name in ("ir", "iz", "in")}
    cell |= {name: {"kernel": rng.uniform(-0.5, 0.5, (hidden, hidden))} for name in ("hr", "hz", "hn")}
    for name in ("ir", "iz", "in", "hn"):
        cell[name]["bias"] = rng.uniform(-0.5, 0.5, hidden)
    return {name: {key: array.astype(dtype) for key, array in dense.items()} for name, dense in cell.items()}


def nnx_cell(seed=0, inputs=3, hidden=4):
    rng = np.random.default_rng(seed)
    return {
        "dense_i": {"kernel": rng.uniform(-0.5, 0.5, (inputs, 3 * hidden)), "bias": rng.uniform(-0.5, 0.5, 3 * hidden)},
        "dense_h": {"kernel": rng.uniform(-0.5, 0.5, (hidden, 3 * hidden))},
    }


def expected_y(cells, x, directions=1, **options):
    """The specification's answer for a stack of linen's cells, (B, T, I) -> (B, T, D*H)."""
    parameters = {}
    for k, cell in enumerate(cells):
        end = f"_l{k // directions}" + "_reverse" * (k % directions)
        parameters["weight_ih" + end] = np.hstack([cell[name]["kernel"] for name in ("ir", "iz", "in")]).T
        parameters["weight_hh" + end] = np.hstack([cell[name]["kernel"] for name in ("hr", "hz", "hn")]).T
        parameters["bias_ih" + end] = np.hstack([cell[name]["bias"] for name in ("ir", "iz", "in")])
        parameters["bias_hh" + end] = np.hstack([np.zeros(8), cell["hn"]["bias"]])
    return reference.forward(x.swapaxes(0, 1), parameters, **options)[0].swapaxes(0, 1)


def test_trees_written_by_hand():
    x = np.random.default_rng(1).standard_normal((2, 6, 3))
    a, b = linen_cell(0), linen_cell(1)
    c, d = linen_cell(2, 8), linen_cell(3, 8)
    for tree in (a, {"params": a}, {"params": {"encoder": {"cell": a}, "Dense_0": {"kernel": np.ones((4, 2))}}}):
        assert relative_error(cgru.from_flax(tree)(x)[0], expected_y([a], x)) < 1e-14
    y = cgru.from_flax(a, activation="relu", recurrent_activation=("hard_sigmoid", 1 / 6, 0.5))(x)[0]
    options = {"activation": "relu", "recurrent_activation": ("hard_sigmoid", 1 / 6, 0.5)}
    assert relative_error(y, expected_y([a], x, **options)) < 1e-14
    upper = linen_cell(4, 4)
    tree = {"GRUCell_1": upper, "GRUCell_0": a}
    assert relative_error(cgru.from_flax(tree, ["GRUCell_0", "GRUCell_1"])(x)[0], expected_y([a, upper], x)) < 1e-14
    tree = {"one": {"backward_rnn": {"cell": b}, "forward_rnn": {"cell": a}}, "two": c, "three": d}
    both = cgru.from_flax(tree, "one", bidirectional=True)
    assert relative_error(both(x)[0], expected_y([a, b], x, 2)) < 1e-14
    assert relative_error(cgru.from_flax({"one": tree["one"]}, bidirectional=True)(x)[0], both(x)[0]) == 0
    stack = cgru.from_flax(tree, ["one", "two", "three"], bidirectional=True)
    assert stack.num_layers == 2
    assert relative_error(stack(x)[0], expected_y([a, b, c, d], x, 2)) < 1e-14
    assert cgru.from_flax(tree, "one/backward_rnn").state_dict()["bias_hh_l0"][-1] == b["hn"]["bias"][-1]


def test_nnx_tree_written_by_hand():
    x = np.random.default_rng(1).standard_normal((2, 6, 3))
    cell = nnx_cell()
    names = {"dense_i": ("ir", "iz", "in"), "dense_h": ("hr", "hz", "hn")}
    split = {
        gate: {"kernel": kernel}
        for dense, gates in names.items()
        for gate, kernel in zip(gates, np.split(cell[dense]["kernel"], 3, axis=1), strict=True)
    }
    for gate, bias in zip(names["dense_i"], np.split(cell["dense_i"]["bias"], 3), strict=True):
        split[gate]["bias"] = bias
    split["hn"]["bias"] = np.zeros(4)
    simple = {"dense_i": cell["dense_i"], "dense_h": {"kernel": np.ones((4, 4))}}  # nnx.SimpleCell's
    tree = {"rnn": {"cell": cell}, "simple": simple}
    assert relative_error(cgru.from_flax(tree)(x)[0], expected_y([split], x)) < 1e-14


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtypes(dtype):
    cell = linen_cell(dtype=dtype)
    gru = cgru.from_flax(cell)
    assert gru.dtype == (np.float64 if dtype == "float64" else np.float32)
    np.testing.assert_array_equal(gru.state_dict()["bias_ih_l0"][8:], cell["in"]["bias"])
    cell["in"]["bias"][:] = 9
    assert gru.state_dict()["bias_ih_l0"].max() < 9


def test_refusals():
    good = linen_cell()

    def changed(dense, **arrays):
        return {**good, dense: {**good[dense], **arrays}}

    deep = good
    for _ in range(200):
        deep = {"a": deep}
    circle = {}
    circle["a"] = circle
    without_bias = {**good, "hn": {"kernel": good["hn"]["kernel"]}}
    pair = {"forward_rnn": good, "backward_rnn": linen_cell(1)}
    cases = [
        (3, {}, "params: expected a mapping of parameters or a flax.nnx.Module, got int"),
        ({}, {}, "expected a tree with GRU cells in it, got one without"),
        ({name: good[name] for name in ("ir", "in", "hr", "hn")}, {}, "expected a tree with GRU cells in it, got one without"),
        ({"a": good, "b": good}, {}, "expected one cell, got a, b; choose by name="),
        ({"a": good, "b": good}, {"name": "c"}, "name: expected one of the GRU cells a, b, got 'c'"),
        ({"a": good, "b": good}, {"name": ["a", "b"]}, "weight_ih_l1: expected (12, 4) float64, got (12, 3)"),
        (pair, {}, "expected one cell, got backward_rnn, forward_rnn"),
        (good, {"bidirectional": True}, "name: expected 2 cells a layer, got "),
        ({"a": pair, "b": pair}, {"bidirectional": True}, "expected one cell, or the two of a Bidirectional, got a/"),
        ({"a": without_bias}, {}, "a: expected the arrays of a GRUCell, but hn/bias missing or unknown"),
        (changed("hr", bias=np.zeros(4)), {}, "params: expected the arrays of a GRUCell, but hr/bias missing or unknown"),
        (changed("hz", kernel=np.zeros((4, 5))), {}, "params/hz/kernel: expected (4, 4), got (4, 5)"),
        (changed("iz", kernel=np.zeros((2, 4))), {}, "params/iz/kernel: expected (3, 4), got (2, 4)"),
        (changed("iz", bias=np.float64(1)), {}, "params/iz/bias: expected (4,), got ()"),
        (changed("iz", bias=[1, 2, 3, 4]), {}, "params/iz/bias: expected an array of floating-point numbers, got int64"),
        (changed("iz", bias="abc"), {}, "params/iz/bias: expected an array of floating-point numbers, got "),
        (changed("iz", bias=[[1.0], [1.0, 2.0]]), {}, "params/iz/bias: expected an array"),
        (good, {"activation": "gelu"}, "activation: expected one of tanh, "),
        (good, {"recurrent_activation": 3}, "recurrent_activation: expected a name or"),
        (deep, {}, "params: expected a tree at most 100 levels deep, got a/a/a/a/a/..."),
        (circle, {}, "params: expected a tree at most 100 levels deep"),
    ]  # fmt: skip
    for params, arguments, message in cases:
        with pytest.raises(cgru.FormatError, match=re.escape(message)):
            cgru.from_flax(params, **arguments)


def test_equals_flax_itself():
    """In a process of its own: once imported, JAX objects to every fork."""
    if not (importlib.util.find_spec("jax") and importlib.util.find_spec("flax")):
        pytest.skip(WITHOUT)
    root = Path(__file__).parents[2]
    file = root / "tests" / "support" / "flax_itself.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert result.returncode == 0, result.stdout + result.stderr


def test_examples_in_docstrings():
    result = doctest.testmod(format_flax)
    assert result.attempted > 0
    assert result.failed == 0
