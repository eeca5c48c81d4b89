"""`resets`: sequences that start anew within a call, against the reference and against their pieces alone."""

import itertools

import numpy as np
import pytest

import cgru

from ..support.options import DIRECTIONS, KINDS, Problem, points, relative_error

WAYS = [("blas", np.float64, 1e-12), ("blas", np.float32, 2e-5), ("packed", np.float32, 2e-5)]
POINTS = [*points("reset_after", "num_layers", "bidirectional", "batch_first"), *DIRECTIONS, *KINDS.values()]


def pieces(firsts):
    """The pieces [start, stop) of one sequence's steps, from the first steps of the later ones."""
    edges = [0, *(t for t in np.flatnonzero(firsts) if t), len(firsts)]
    return list(itertools.pairwise(edges))


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("options", [*POINTS, {"kind": cgru.MinGRU}], ids=str)
def test_engines_agree_with_the_reference(options, ragged):
    options = dict(options)
    kind = options.pop("kind", cgru.GRU)
    for (engine, dtype, tolerance), resets_to in itertools.product(WAYS, ("zero", "h0")):
        problem = Problem(options, steps=9, batch=5, ragged=ragged, dtype=dtype, kind=kind, resets_to=resets_to)
        assert problem.resets.any()
        result = problem.gru(problem.x, problem.h0, **problem.how, engine=engine)
        for got, wanted in zip(result, problem.expected(), strict=True):
            assert relative_error(got, wanted) <= tolerance


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": True}, {"reverse": True, "num_layers": 2}])
def test_the_reference_agrees_with_pieces_run_alone(options):
    problem = Problem(options, steps=11, batch=3, resets_to="zero")
    y, h_n = problem.expected()
    resets = problem.resets
    gru, h0 = problem.gru, problem.h0
    for b in range(3):
        cuts = pieces(resets[:, b])
        for start, stop in cuts:
            states = np.zeros_like(h0[:, b])
            for row in range(len(states)):  # of each layer, of each direction
                backwards = gru.reverse or (gru.bidirectional and row % 2 == 1)
                if stop == 11 if backwards else start == 0 and not resets[0, b]:
                    states[row] = h0[row, b]
            alone, last = gru(problem.x[start:stop, b], states)
            np.testing.assert_allclose(y[start:stop, b], alone, rtol=0, atol=1e-13)
            for row in range(len(states)):
                backwards = gru.reverse or (gru.bidirectional and row % 2 == 1)
                if start == 0 if backwards else stop == 11:
                    np.testing.assert_allclose(h_n[row, b], last[row], rtol=0, atol=1e-13)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("hidden", [11, 64])
def test_pieces_have_the_bits_they_have_alone(precision, hidden):
    problem = Problem({"num_layers": 2}, steps=40, batch=7, hidden=hidden, dtype=np.float32)
    resets = np.random.default_rng(5).random((40, 7)) < 0.1
    gru = problem.gru if precision == "float32" else problem.gru.quantize(precision)
    for threads in (1, 2):
        y, _ = gru(problem.x, resets=resets, num_threads=threads)
        for b in range(7):
            for start, stop in pieces(resets[:, b]):
                alone, _ = gru(problem.x[start:stop, b])
                assert np.array_equal(y[start:stop, b], alone)


@pytest.mark.parametrize("way", ["rows", "units"])
def test_threads_that_share_a_call(way):
    from cgru import _packed

    problem = Problem({}, steps=30, batch=20, hidden=64, dtype=np.float32, resets_to="h0")
    alone = problem.gru(problem.x, problem.h0, **problem.how, num_threads=1)
    _packed.share(way)
    try:
        shared = problem.gru(problem.x, problem.h0, **problem.how, num_threads=2)
    finally:
        _packed.share("measured")
    for one, other in zip(alone, shared, strict=True):
        assert np.array_equal(one, other)


def test_a_deep_stack_runs_in_blocks_of_time():
    """Between the layers of deep stacks stand a megabyte of states: here 1,170 of the steps."""
    problem = Problem({"num_layers": 2}, steps=3000, batch=2, inputs=2, hidden=112, dtype=np.float32, resets_to="h0")
    problem.resets &= np.random.default_rng(0).random(problem.resets.shape) < 0.01  # long pieces: 300 steps
    wanted, last = problem.expected()
    for engine in ("packed", "blas"):
        y, h_n = problem.gru(problem.x, problem.h0, **problem.how, engine=engine)
        assert relative_error(y, wanted) <= 2e-5
        assert relative_error(h_n, last) <= 2e-5


def test_one_sequence_and_what_states_become():
    gru = cgru.GRU(3, 8, num_layers=2, rng=0, dtype=np.float64)
    x, h0 = np.random.default_rng(0).standard_normal((6, 3)), np.full((2, 8), 0.5)
    resets = np.array([False, False, True, False, False, False])
    y, _ = gru(x, h0, resets=resets)
    np.testing.assert_allclose(y[2:], gru(x[2:])[0], rtol=0, atol=1e-14)
    np.testing.assert_allclose(y[:2], gru(x[:2], h0)[0], rtol=0, atol=1e-14)
    y, _ = gru(x, h0, resets=resets, resets_to="h0")
    np.testing.assert_allclose(y[2:], gru(x[2:], h0)[0], rtol=0, atol=1e-14)
    resets[:] = False
    resets[0] = True
    np.testing.assert_allclose(gru(x, h0, resets=resets)[0], gru(x)[0], rtol=0, atol=1e-14)


def test_nan_ends_where_a_sequence_starts_anew():
    gru = cgru.GRU(3, 8, rng=0)
    x = np.random.default_rng(0).standard_normal((9, 2, 3)).astype(np.float32)
    x[2, 1] = np.nan
    resets = np.zeros((9, 2), bool)
    resets[5, 1] = True
    for engine in ("packed", "blas"):
        y, h_n = gru(x, resets=resets, engine=engine)
        assert np.isnan(y[2:5, 1]).all()
        assert np.isfinite(y[5:]).all()
        assert np.isfinite(h_n).all()


@pytest.mark.parametrize(("steps", "batch"), [(0, 2), (3, 0)])
def test_nothing_to_run(steps, batch):
    y, h_n = cgru.GRU(3, 8)(np.zeros((steps, batch, 3), np.float32), resets=np.zeros((steps, batch), bool))
    assert y.shape == (steps, batch, 8)
    assert not h_n.any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"resets": np.zeros((4, 3), bool)}, ValueError, r"resets: expected .*\(5, 2\).*got \(4, 3\)"),
        (
            {"resets": np.zeros((5, 2))},
            TypeError,
            "resets: expected (5, 2) bool, got float64".replace("(", r"\(").replace(")", r"\)"),
        ),
        ({"resets": np.zeros((5, 2), bool), "resets_to": "h_0"}, ValueError, "resets_to: expected 'zero' or 'h0'"),
        ({"resets_to": "h0"}, ValueError, "resets: expected a bool array beside resets_to='h0', got None"),
        (
            {"resets": np.zeros((5, 2), bool), "mask": np.ones((5, 2), bool)},
            ValueError,
            "resets: expected None beside mask",
        ),
    ],
    ids=["shape", "dtype", "choice", "choice alone", "mask"],
)
def test_bad_input(arguments, error, message):
    gru, x = cgru.GRU(3, 8), np.ones((5, 2, 3), np.float32)
    out = np.full((5, 2, 8), 7, np.float32)
    with pytest.raises(error, match=message):
        gru(x, out=out, **arguments)
    assert (out == 7).all()
    if "mask" not in arguments:
        with pytest.raises(error, match=message):
            gru.record(x, **arguments)
