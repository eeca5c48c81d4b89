"""The promise of the packed engine: a sequence's result is the same to the last bit, however it is computed."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cgru
from cgru import _packed, _threads

from ..support.options import KINDS


def problem(kind, steps=40, batch=23, inputs=19, hidden=37, bidirectional=False):
    rng = np.random.default_rng(0)
    gru = cgru.GRU(inputs, hidden, bidirectional=bidirectional, rng=rng, **KINDS[kind])
    x = rng.standard_normal((steps, batch, inputs)).astype(np.float32)
    h0 = rng.uniform(-1, 1, (gru.num_layers * (1 + bidirectional), batch, hidden)).astype(np.float32)
    return gru, x, h0


@pytest.mark.parametrize("kind", KINDS)
def test_alone_or_in_any_batch(kind):
    gru, x, h0 = problem(kind)
    y, h_n = gru(x, h0)
    rng = np.random.default_rng(1)
    for size in range(1, 24):
        chosen = rng.permutation(23)[:size]
        part, h_part = gru(np.ascontiguousarray(x[:, chosen]), np.ascontiguousarray(h0[:, chosen]))
        np.testing.assert_array_equal(part, y[:, chosen])
        np.testing.assert_array_equal(h_part, h_n[:, chosen])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3, 9])
@given(cuts=st.sets(st.integers(1, 39)))
def test_whole_or_in_any_chunks(kind, batch, cuts):
    gru, x, h0 = problem(kind, batch=batch)
    y, h_n = gru(x, h0)
    h, parts = h0, []
    for chunk in np.split(x, sorted(cuts)):
        part, h = gru(chunk, h)
        parts.append(part)
    np.testing.assert_array_equal(np.concatenate(parts), y)
    np.testing.assert_array_equal(h, h_n)


@pytest.mark.parametrize("kind", ["usual", "reset before", "other functions"])
def test_cell_by_cell(kind):
    gru, x, h0 = problem(kind)
    y, _ = gru(x, h0)
    cell = cgru.GRUCell(19, 37, **KINDS[kind])
    cell.load_state_dict({name.removesuffix("_l0"): array for name, array in gru.state_dict().items()})
    h = h0[0]
    for v, expected in zip(x, y, strict=True):
        h = cell(v, h)
        np.testing.assert_array_equal(h, expected)
        np.testing.assert_array_equal(cell(v[3], y[0, 3]), cell(v, y[0])[3])


@pytest.fixture(params=["rows", "units", "measured"])
def way(request):
    """How calls are shared among threads: in one way wherever it can be, or as the rule of the package decides."""
    _packed.share(request.param)
    yield request.param
    _packed.share("measured")


def shared(call):
    """The result of a call, and whether it ran on several threads."""
    before = _packed.counts()[0]
    result = call()
    return result, _packed.counts()[0] > before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_on_any_number_of_threads(kind, bidirectional, way):
    gru, x, h0 = problem(kind, steps=60, batch=70, hidden=70, bidirectional=bidirectional)
    y, h_n = gru(x, h0, num_threads=1)
    lengths = np.random.default_rng(2).integers(0, 61, 70)
    y_ragged, h_ragged = gru(x, h0, lengths=lengths, num_threads=1)
    for threads in (2, 3, 8, 64):
        (again, h_again), in_parts = shared(lambda: gru(x, h0, num_threads=threads))  # noqa: B023
        np.testing.assert_array_equal(again, y)
        np.testing.assert_array_equal(h_again, h_n)
        assert in_parts or way == "measured" or not _threads.OPENMP
        again, h_again = gru(x, h0, lengths=lengths, num_threads=threads)
        np.testing.assert_array_equal(again, y_ragged)
        np.testing.assert_array_equal(h_again, h_ragged)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_units_split_among_threads(kind, batch, bidirectional, way):
    """Few sequences: threads share out the units and meet at every step."""
    gru, x, h0 = problem(kind, steps=60, batch=batch, inputs=33, hidden=277, bidirectional=bidirectional)
    y, h_n = gru(x, h0, num_threads=1)
    for threads in (2, 3, 8):
        (again, h_again), in_parts = shared(lambda: gru(x, h0, num_threads=threads))  # noqa: B023
        np.testing.assert_array_equal(again, y)
        np.testing.assert_array_equal(h_again, h_n)
        assert in_parts or way != "units" or not _threads.OPENMP


ONE_CORE = """
import os, sys
import numpy as np, cgru
from cgru import _packed, _threads
gru = cgru.GRU(64, 300, rng=0)
x = np.random.default_rng(0).standard_normal((400, 64)).astype(np.float32)
expected, _ = gru(x, num_threads=1)
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
_packed.share("units")
y, _ = gru(x, num_threads=2)                     # two threads that meet 400 times, on one core
shared, abandoned = _packed.counts()
assert np.array_equal(y, expected)
assert shared == 1 and abandoned == 1, (shared, abandoned)
_packed.share("measured")
y, _ = gru(x, num_threads=2)
assert _packed.counts() == (1, 1)                # and the next calls stay on one thread for a while
assert np.array_equal(y, expected)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
@pytest.mark.skipif(not _threads.OPENMP, reason="this build has no threads")
def test_threads_without_cores_are_given_up():
    run = subprocess.run([sys.executable, "-c", ONE_CORE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_cut_short_or_by_its_length(kind, bidirectional):
    rng = np.random.default_rng(3)
    gru = cgru.GRU(9, 21, bidirectional=bidirectional, rng=rng, **KINDS[kind])
    x = rng.standard_normal((30, 11, 9)).astype(np.float32)
    lengths = rng.integers(0, 31, 11)
    y, h_n = gru(x, lengths=lengths)
    for b, length in enumerate(lengths):
        alone, h_alone = gru(np.ascontiguousarray(x[:length, b]))
        np.testing.assert_array_equal(y[:length, b], alone)
        np.testing.assert_array_equal(h_n[:, b], h_alone)


@pytest.mark.parametrize("engine", ["packed", "blas"])
def test_backwards_is_forwards_on_turned_sequences(engine):
    """Also for a stack so long that it runs through time in blocks; BLAS promises no equal bits."""
    gru, x, h0 = problem("deep", steps=3000, batch=3, inputs=5, hidden=48)
    backwards = cgru.GRU(5, 48, reverse=True, **KINDS["deep"])
    backwards.load_state_dict(gru.state_dict())
    y, h_n = gru(x[::-1], h0, engine=engine)
    again, h_again = backwards(x, h0, engine=engine)
    tolerance = 0 if engine == "packed" else 2e-6
    np.testing.assert_allclose(again[::-1], y, rtol=0, atol=tolerance)
    np.testing.assert_allclose(h_again, h_n, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_beside_sequences_of_nan(kind):
    gru, x, h0 = problem(kind)
    y, h_n = gru(x, h0)
    dirty = np.full_like(x, np.nan)
    for b in range(23):
        alone = dirty.copy()
        alone[:, b] = x[:, b]
        y_b, h_b = gru(alone, h0)
        np.testing.assert_array_equal(y_b[:, b], y[:, b])
        np.testing.assert_array_equal(h_b[:, b], h_n[:, b])


@pytest.mark.parametrize("kind", KINDS)
def test_in_any_layout_of_memory(kind):
    gru, x, h0 = problem(kind)
    y, _ = gru(x, h0)
    wide = np.zeros((40, 23, 2 * 19), np.float32)
    wide[:, :, ::2] = x
    np.testing.assert_array_equal(gru(wide[:, :, ::2], h0)[0], y)
    turned = np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1)
    out = np.empty((23, 40, 37), np.float32).swapaxes(0, 1)
    np.testing.assert_array_equal(gru(turned, h0, out=out)[0], y)
