"""Every engine against the specification, over the option matrix and awkward memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cgru
from cgru.engines import layers

from ..support.matrix import thinned
from ..support.options import DIRECTIONS, Problem, function_points, points, relative_error

ENGINES = [("packed", np.float32), ("blas", np.float32), ("blas", np.float64)]
each_engine = pytest.mark.parametrize(("engine", "dtype"), ENGINES)

TOLERANCE = {np.float64: 1e-12, np.float32: 2e-6}


def check(problem, engine, **arguments):
    y, h_n = problem.gru(problem.x, problem.h0, lengths=problem.lengths, engine=engine, **arguments)
    expected_y, expected_h = problem.expected()
    assert y.dtype == h_n.dtype == problem.dtype
    assert relative_error(y, expected_y) < TOLERANCE[problem.dtype]
    assert relative_error(h_n, expected_h) < TOLERANCE[problem.dtype]


@each_engine
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_option_matrix(engine, dtype, ragged, batch):
    for options in points():
        check(Problem(options, batch=batch, ragged=ragged, dtype=dtype), engine)


@each_engine
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("reset_after", [True, False])
def test_backwards_and_added_up(engine, dtype, ragged, batch, reset_after):
    for options in DIRECTIONS:
        for batch_first in (False, True):
            problem = {"reset_after": reset_after, "batch_first": batch_first, **options}
            check(Problem(problem, batch=batch, ragged=ragged, dtype=dtype), engine)


@each_engine
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("update_gate", ["state", "candidate"])
def test_activations(engine, dtype, reset_after, update_gate):
    for options in function_points(reset_after=reset_after, update_gate=update_gate):
        for batch in (1, 4):
            check(Problem(options, steps=4, batch=batch, dtype=dtype), engine)


@each_engine
@given(
    steps=st.integers(1, 90),
    batch=st.integers(1, 20),
    inputs=st.integers(1, 40),
    hidden=st.integers(1, 70),
    ragged=st.booleans(),
    reset_after=st.booleans(),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_size(engine, dtype, steps, batch, inputs, hidden, ragged, reset_after, bidirectional, batch_first, seed):
    options = {"reset_after": reset_after, "bidirectional": bidirectional, "batch_first": batch_first}
    check(Problem(options, steps, batch, inputs, hidden, ragged, dtype, seed), engine)


@thinned(2, way=ENGINES, bidirectional=[False, True], batch=[1, 2, 40])
def test_many_chunks(way, bidirectional, batch, monkeypatch):
    """More steps than fit one chunk of input products, and more than one block of a stack."""
    engine, dtype = way
    monkeypatch.setattr(layers, "BLOCK_BYTES", 64 * 1024)
    options = {"bidirectional": bidirectional, "num_layers": 2}
    steps, hidden = 3000 // batch, 96
    assert steps * batch * hidden * 4 > 1 << 20  # what a block of the packed engine holds, in its own sources
    for ragged in (False, True):
        check(Problem(options, steps, batch, 3, hidden, ragged, dtype), engine)


@each_engine
@pytest.mark.parametrize("batch", [1, 5])
def test_strides(engine, dtype, batch):
    """x and out as any view of memory: sliced, reversed, transposed, broadcast, unaligned, read-only."""
    problem = Problem({}, steps=40, batch=batch, dtype=dtype)
    expected, _ = problem.expected()
    x = problem.x

    def sliced(array):
        big = np.full(tuple(2 * n + 1 for n in array.shape), np.nan, array.dtype)
        big[1::2, 1::2, 1::2] = array
        return big[1::2, 1::2, 1::2]

    unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(dtype).reshape(x.shape)
    unaligned[...] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    views = {
        "sliced": sliced(x),
        "reversed steps": np.ascontiguousarray(x[::-1])[::-1],
        "reversed features": np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1],
        "batch-major": np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1),
        "Fortran": np.asfortranarray(x),
        "unaligned": unaligned,
        "read-only": read_only,
    }
    for name, view in views.items():
        y, _ = problem.gru(view, problem.h0, engine=engine)
        assert relative_error(y, expected) < TOLERANCE[dtype], name
        out = sliced(np.zeros_like(expected, dtype=dtype))
        result, _ = problem.gru(view, problem.h0, engine=engine, out=out)
        assert result is out
        assert relative_error(out, expected) < TOLERANCE[dtype], name
    same = np.broadcast_to(x[:1], x.shape)
    repeated, _ = problem.gru(same, problem.h0, engine=engine)
    copied, _ = problem.gru(same.copy(), problem.h0, engine=engine)
    assert relative_error(repeated, copied) < TOLERANCE[dtype]


@each_engine
@pytest.mark.parametrize("ragged", [False, True])
def test_nan_stays_in_its_sequence(engine, dtype, ragged):
    problem = Problem({"num_layers": 2}, steps=20, batch=6, ragged=ragged, dtype=dtype)
    if ragged:
        problem.lengths = np.array([20, 3, 20, 0, 11, 7])
    clean, h_clean = problem.gru(problem.x, problem.h0, lengths=problem.lengths, engine=engine)
    problem.x[5, 2] = np.nan
    problem.x[5, 4] = np.inf
    y, h_n = problem.gru(problem.x, problem.h0, lengths=problem.lengths, engine=engine)
    others = [0, 1, 3, 5]
    np.testing.assert_array_equal(y[:, others], clean[:, others])
    np.testing.assert_array_equal(h_n[:, others], h_clean[:, others])
    assert np.isnan(y[5:, 2]).any()
    np.testing.assert_array_equal(y[:5, [2, 4]], clean[:5, [2, 4]])


@each_engine
@pytest.mark.parametrize("lengths", [[0, 0, 0], [6, 6, 6], [0, 6, 1], [1, 0, 0]])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lengths_at_their_ends(engine, dtype, lengths, bidirectional):
    problem = Problem({"bidirectional": bidirectional, "num_layers": 2}, dtype=dtype)
    problem.lengths = np.array(lengths)
    check(problem, engine)
    y, h_n = problem.gru(problem.x, problem.h0, lengths=lengths, engine=engine)
    for b, length in enumerate(lengths):
        assert not y[length:, b].any()
        if length == 0:
            np.testing.assert_array_equal(h_n[:, b], problem.h0[:, b])


@each_engine
def test_error_after_a_thousand_steps(engine, dtype):
    problem = Problem({}, steps=1000, batch=2, inputs=64, hidden=256, dtype=dtype)
    _, h_n = problem.gru(problem.x, problem.h0, engine=engine)
    assert relative_error(h_n, problem.expected()[1]) < 2e-6


@each_engine
def test_silence_is_not_slowed_by_denormals(engine, dtype):
    """A state that decays to denormal numbers becomes zero, and the thread's floating-point mode is as before."""
    steps, tiny = (130, np.float32(1e-40)) if dtype == np.float32 else (1030, np.float64(1e-310))
    gru = cgru.GRU(1, 8, bias=False, dtype=dtype, rng=0)
    gru.load_state_dict({name: np.zeros_like(array) for name, array in gru.state_dict().items()})
    y, _ = gru(np.zeros((steps + 70, 1, 1), dtype), np.ones((1, 1, 8), dtype), engine=engine)  # halves each step
    assert y[steps - 30].all()
    assert not y[steps:].any()
    assert tiny * dtype(0.5) > 0
