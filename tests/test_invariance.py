"""The promise of the packed engine: a sequence's result is the same to the last bit, however it is computed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cgru

OPTIONS = {
    "usual": {},
    "reset before": {"reset_after": False},
    "deep": {"num_layers": 3},
    "other functions": {"activation": "softsign", "recurrent_activation": "hard_sigmoid", "clip": 0.7},
}


def problem(kind, steps=40, batch=23, inputs=19, hidden=37):
    rng = np.random.default_rng(0)
    gru = cgru.GRU(inputs, hidden, rng=rng, **OPTIONS[kind])
    x = rng.standard_normal((steps, batch, inputs)).astype(np.float32)
    h0 = rng.uniform(-1, 1, (gru.num_layers, batch, hidden)).astype(np.float32)
    return gru, x, h0


@pytest.mark.parametrize("kind", OPTIONS)
def test_alone_or_in_any_batch(kind):
    gru, x, h0 = problem(kind)
    y, h_n = gru(x, h0)
    rng = np.random.default_rng(1)
    for size in range(1, 24):
        chosen = rng.permutation(23)[:size]
        part, h_part = gru(np.ascontiguousarray(x[:, chosen]), np.ascontiguousarray(h0[:, chosen]))
        np.testing.assert_array_equal(part, y[:, chosen])
        np.testing.assert_array_equal(h_part, h_n[:, chosen])


@pytest.mark.parametrize("kind", OPTIONS)
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
    cell = cgru.GRUCell(19, 37, **OPTIONS[kind])
    cell.load_state_dict({name.removesuffix("_l0"): array for name, array in gru.state_dict().items()})
    h = h0[0]
    for v, expected in zip(x, y, strict=True):
        h = cell(v, h)
        np.testing.assert_array_equal(h, expected)
        np.testing.assert_array_equal(cell(v[3], y[0, 3]), cell(v, y[0])[3])


@pytest.mark.parametrize("kind", OPTIONS)
def test_on_any_number_of_threads(kind):
    gru, x, h0 = problem(kind, steps=60, batch=70, hidden=70)
    y, h_n = gru(x, h0, num_threads=1)
    lengths = np.random.default_rng(2).integers(0, 61, 70)
    y_ragged, h_ragged = gru(x, h0, lengths=lengths, num_threads=1)
    for threads in (2, 3, 8, 64):
        again, h_again = gru(x, h0, num_threads=threads)
        np.testing.assert_array_equal(again, y)
        np.testing.assert_array_equal(h_again, h_n)
        again, h_again = gru(x, h0, lengths=lengths, num_threads=threads)
        np.testing.assert_array_equal(again, y_ragged)
        np.testing.assert_array_equal(h_again, h_ragged)


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("batch", [1, 3])
def test_units_split_among_threads(kind, batch):
    """Few sequences through weights so large that threads share out the units and meet at every step."""
    gru, x, h0 = problem(kind, steps=60, batch=batch, inputs=33, hidden=277)
    y, h_n = gru(x, h0, num_threads=1)
    for threads in (2, 3, 8):
        again, h_again = gru(x, h0, num_threads=threads)
        np.testing.assert_array_equal(again, y)
        np.testing.assert_array_equal(h_again, h_n)


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_cut_short_or_by_its_length(kind, bidirectional):
    rng = np.random.default_rng(3)
    gru = cgru.GRU(9, 21, bidirectional=bidirectional, rng=rng, **OPTIONS[kind])
    x = rng.standard_normal((30, 11, 9)).astype(np.float32)
    lengths = rng.integers(0, 31, 11)
    y, h_n = gru(x, lengths=lengths)
    for b, length in enumerate(lengths):
        alone, h_alone = gru(np.ascontiguousarray(x[:length, b]))
        np.testing.assert_array_equal(y[:length, b], alone)
        np.testing.assert_array_equal(h_n[:, b], h_alone)


@pytest.mark.parametrize("kind", OPTIONS)
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


@pytest.mark.parametrize("kind", OPTIONS)
def test_in_any_layout_of_memory(kind):
    gru, x, h0 = problem(kind)
    y, _ = gru(x, h0)
    wide = np.zeros((40, 23, 2 * 19), np.float32)
    wide[:, :, ::2] = x
    np.testing.assert_array_equal(gru(wide[:, :, ::2], h0)[0], y)
    turned = np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1)
    out = np.empty((23, 40, 37), np.float32).swapaxes(0, 1)
    np.testing.assert_array_equal(gru(turned, h0, out=out)[0], y)
