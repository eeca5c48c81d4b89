"""`cgru.compare`: its figures are those that NumPy gives for the outputs, in every layout; and what it refuses."""

import builtins
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

import cgru
from cgru.comparison import weight_bytes
from cgru.precision import PRECISIONS

from ..support.options import Problem

F = np.float32

LAYOUTS = {
    "plain": {},
    "batch_first": {"batch_first": True},
    "layers": {"num_layers": 2},
    "both ways": {"bidirectional": True, "num_layers": 2},
    "sum": {"bidirectional": True, "merge": "sum"},
    "reverse": {"reverse": True},
    "conventions": {"reset_after": False, "update_gate": "candidate", "activation": "relu", "clip": 2.0, "bias": False},
}


def both(problem, precision):
    return problem.gru, problem.gru.quantize(precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
def test_figures_are_numpys(options, ragged, precision):
    problem = Problem(options, steps=23, dtype=F, ragged=ragged)
    gru, small = both(problem, precision)
    expected, expected_state = problem.expected()
    comparison = cgru.compare(gru, small, problem.x, problem.h0, lengths=problem.lengths)
    np.testing.assert_array_equal(comparison.y, expected)
    np.testing.assert_array_equal(comparison.h_n, expected_state)
    axes = (1, 2) if not gru.batch_first else (0, 2)
    for errors, model in ((comparison.gru, gru), (comparison.small, small)):
        y, h_n = model(problem.x, problem.h0, lengths=problem.lengths)
        np.testing.assert_array_equal(errors.y, y)
        np.testing.assert_array_equal(errors.h_n, h_n)
        sizes = np.linalg.norm(expected, axis=axes)
        np.testing.assert_allclose(errors.steps * sizes, np.linalg.norm(y - expected, axis=axes), rtol=1e-9)
        np.testing.assert_allclose(errors.largest, np.abs(y - expected).max(axis=axes), rtol=1e-12)
        states = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(h_n, expected_state, strict=True)]
        np.testing.assert_allclose(errors.states, states, rtol=1e-9)
        ratio = np.linalg.norm(expected) / np.linalg.norm(y - expected)
        assert errors.signal_to_error == pytest.approx(20 * np.log10(ratio))
        assert errors.precision == model.precision
    assert 0 < comparison.gru.steps.max() < 1e-6 < comparison.small.steps.max() < 0.1
    assert comparison.inputs == (problem.x.size if problem.lengths is None else problem.lengths.sum() * 5)


@pytest.mark.parametrize("lengths", [None, 7, [7]])
def test_one_sequence(lengths):
    gru = cgru.GRU(5, 11, num_layers=2, bidirectional=True, rng=0)
    x, h0 = np.ones((9, 5), F), np.full((4, 11), 0.5, F)
    alone = cgru.compare(gru, gru.quantize(PRECISIONS[0]), x, h0, lengths=lengths)
    last = None if lengths is None else [7]
    batch = cgru.compare(gru, gru.quantize(PRECISIONS[0]), x[:, None], h0[:, None], lengths=last)
    assert (alone.y.shape, alone.h_n.shape) == ((9, 22), (4, 11))
    np.testing.assert_array_equal(alone.y, batch.y[:, 0])
    np.testing.assert_array_equal(alone.h_n, batch.h_n[:, 0])
    np.testing.assert_array_equal(alone.small.steps, batch.small.steps)
    np.testing.assert_array_equal(alone.small.states, batch.small.states)
    assert alone.points == [1, 7 if lengths else 9]


def test_two_models_of_float64():
    problem = Problem({}, dtype=np.float64)
    comparison = cgru.compare(problem.gru, problem.gru, problem.x)
    assert comparison.small.steps.max() < 1e-14
    assert comparison.gru.precision == comparison.small.precision == "float64"
    assert comparison.small.weight_bytes == 3 * 11 * (5 + 11) * 8


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bytes_of_weights(precision):
    gru = cgru.GRU(6, 8, num_layers=2, bidirectional=True)
    rows, numbers = 4 * 24, 2 * 24 * 6 + 2 * 24 * 16 + 4 * 24 * 8
    expected = {"bfloat16": 2 * numbers, "float16": 2 * numbers, "int8": numbers + 4 * 2 * rows}
    assert weight_bytes(gru) == 4 * numbers
    assert weight_bytes(gru.quantize(precision)) == expected[precision]


def test_clipped_inputs_are_counted(monkeypatch):
    monkeypatch.setattr(cgru.GRU, "input_limit", 2.0)
    gru = cgru.GRU(3, 4, batch_first=True)
    x = np.zeros((2, 10, 3), F)
    x[0, 0] = [2, -2, 2.5]
    x[0, 9] = [-3, 0, 4]
    x[1, 5] = [9, 9, 9]
    x[1, 0, 0] = np.nan
    small = gru.quantize(PRECISIONS[0])
    comparison = cgru.compare(gru, small, x, lengths=[10, 5])
    assert (comparison.clipped, comparison.inputs, comparison.clipped_share) == (3, 45, 3 / 45)
    assert str(comparison).splitlines()[-1].endswith("3 (6.67%) beyond 2")
    assert cgru.compare(gru, small, x[:, :0]).clipped_share == 0
    monkeypatch.setattr(cgru.GRU, "input_limit", None)
    comparison = cgru.compare(gru, small, x)
    assert (comparison.clipped, comparison.clipped_share, comparison.input_limit) == (0, 0, None)


def test_text():
    gru = cgru.GRU(6, 8, bidirectional=True, rng=0)
    comparison = cgru.compare(gru, gru.quantize("bfloat16"), np.ones((1234, 2, 6), F))
    title, header, *lines = str(comparison).splitlines()
    assert title == "GRU(6, 8, bidirectional=True), 1,234 steps of 2 sequences, error against float64"
    assert header.split() == ["float32", "bfloat16"]
    rows = {re.split(r"  +", line)[0]: re.split(r"  +", line)[1:] for line in lines}
    assert list(rows) == [
        *(f"relative error, step {t}" for t in ("1", "10", "100", "1,000", "1,234")), "worst of all steps",
        "last state, layer 0", "last state, layer 0, reverse", "largest absolute error", "signal to error, dB",
        "bytes of weights", "inputs clipped",
    ]  # fmt: skip
    for name, errors in zip((0, 1), (comparison.gru, comparison.small), strict=True):
        assert float(rows["relative error, step 1,000"][name]) == pytest.approx(errors.steps[999], rel=0.06)
        assert float(rows["worst of all steps"][name]) == pytest.approx(errors.steps.max(), rel=0.06)
        assert float(rows["last state, layer 0, reverse"][name]) == pytest.approx(errors.states[1], rel=0.06)
    assert rows["bytes of weights"] == ["2,688", "1,344"]
    assert repr(comparison) == str(comparison)
    assert len({len(line) for line in (header, *lines)}) == 1


@pytest.mark.parametrize(("steps", "points"), [(0, []), (1, [1]), (9, [1, 9]), (10, [1, 10]), (101, [1, 10, 100, 101])])
def test_points(steps, points):
    gru = cgru.GRU(2, 3)
    comparison = cgru.compare(gru, gru.quantize(PRECISIONS[0]), np.zeros((steps, 2), F))
    assert comparison.points == points
    assert str(comparison).count("relative error, step") == len(points)


def test_nothing_and_what_is_not_finite():
    gru = cgru.GRU(2, 3, rng=0)
    small = gru.quantize(PRECISIONS[0])
    empty = cgru.compare(gru, small, np.zeros((4, 0, 2), F))
    assert (empty.small.steps.tolist(), empty.small.signal_to_error, empty.inputs) == ([0] * 4, np.inf, 0)
    x = np.ones((4, 2, 2), F)
    x[2, 0] = np.nan
    comparison = cgru.compare(gru, small, x)
    assert np.isfinite(comparison.small.steps).tolist() == [True, True, False, False]
    assert "nan" in str(comparison)
    figures = json.loads(json.dumps(comparison.as_dict(), allow_nan=False))
    assert figures["models"][1]["steps"][1:3] == [comparison.small.steps[1], None]
    assert figures["models"][1]["signal_to_error"] is None
    assert figures["title"] == comparison.title


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_plot_to_a_file(suffix, tmp_path):
    gru = cgru.GRU(2, 3, rng=0)
    comparison = cgru.compare(gru, gru.quantize(PRECISIONS[0]), np.ones((20, 2), F))
    comparison.plot(tmp_path / f"p.{suffix}")
    assert (tmp_path / f"p.{suffix}").read_bytes()[:4] in (b"\x89PNG", b"<?xm", b"%PDF")


def test_plot_in_axes():
    gru = cgru.GRU(2, 3, rng=0)
    comparison = cgru.compare(gru, gru.quantize(PRECISIONS[0]), np.ones((20, 2), F))
    axes = Figure().subplots()
    assert comparison.plot(axes) is axes
    for line, errors in zip(axes.lines, (comparison.gru, comparison.small), strict=True):
        drawn = errors.steps > 0
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 21)[drawn])
        np.testing.assert_array_equal(line.get_ydata(), errors.steps[drawn])
        assert line.get_label() == errors.precision
    assert comparison.plot() is not axes
    assert len(comparison.plot().lines) == 2


def test_plot_names_what_to_install(monkeypatch):
    gru = cgru.GRU(2, 3)
    comparison = cgru.compare(gru, gru.quantize(PRECISIONS[0]), np.ones((20, 2), F))
    imported = builtins.__import__

    def missing(name, *arguments):
        if name.startswith("matplotlib"):
            raise ImportError("No module named matplotlib")
        return imported(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r'pip install "cgru\[bench\]"'):
        comparison.plot("p.png")


def test_refusals():
    gru = cgru.GRU(5, 8)
    small = gru.quantize(PRECISIONS[0])
    x = np.zeros((4, 2, 5), F)
    for arguments, error, message in [
        ((gru, np.zeros(3), x), TypeError, "small: expected a cgru.GRU, got ndarray"),
        ((cgru.GRUCell(5, 8), small, x), TypeError, "gru: expected a cgru.GRU, got GRUCell"),
        ((gru, cgru.GRU(5, 9), x), ValueError, "small: expected a model with hidden_size=8, as gru, got 9"),
        ((gru, cgru.GRU(5, 8, 2), x), ValueError, "small: expected a model with num_layers=1, as gru, got 2"),
        ((gru, cgru.GRU(5, 8, clip=1), x), ValueError, "small: expected a model with clip=None, as gru, got 1.0"),
        ((gru, small, x[..., :4]), ValueError, "x: expected (T, B, 5) float32, got (4, 2, 4)"),
        ((gru, small, x.astype(float)), TypeError, "convert it with x.astype(numpy.float32)"),
        ((gru, small, x, x), ValueError, "h0: expected (1, 2, 8) float32, got (4, 2, 5)"),
    ]:
        with pytest.raises(error, match=re.escape(message)):
            cgru.compare(*arguments)
    with pytest.raises(ValueError, match="lengths: expected integers from 0 to 4, got 5 at position 1"):
        cgru.compare(gru, small, x, lengths=[1, 5])
    assert cgru.compare(cgru.GRU(5, 8, dropout=0.5), small, x).small.steps.shape == (4,)  # nothing to inference


def test_it_is_imported_when_used():
    code = "import sys, cgru; a = 'cgru.comparison' in sys.modules; cgru.compare; print(a, 'cgru.comparison' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True"]
