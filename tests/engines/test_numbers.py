"""Numbers at their ends: huge candidates beside small states, and NaN, whose bits a result's neighbours do not decide."""

import itertools

import numpy as np
import pytest

import cgru
from cgru import _packed, reference

F = np.float32

HUGE = {np.float32: 1e8, np.float64: 1e17}
"""Candidates beside which the dtype rounds a state of 3 away."""


def whole(engine):
    def run(gru, x, h0):
        return gru(x, h0, engine=engine)[0]

    return run


def recorded(gru, x, h0):
    return gru.record(x, h0)[0]


def streamed(gru, x, h0):
    stream = gru.stream(batch_size=x.shape[1])
    stream.state = h0
    return np.array([stream.step(v) for v in x])


def processed(gru, x, h0):
    stream = gru.stream(batch_size=x.shape[1])
    stream.state = h0
    return stream.process(x)


def pooled(gru, x, h0):
    pool = gru.pool(x.shape[1] + 1)
    ids = [pool.open() for _ in range(x.shape[1])]
    for b, i in enumerate(ids):
        pool.set_state(i, h0[:, b])
    return np.array([pool.step(ids, v) for v in x])


WAYS = {
    "packed": (whole("packed"), np.float32),
    "stream": (streamed, np.float32),
    "process": (processed, np.float32),
    "pool": (pooled, np.float32),
    "record": (recorded, np.float32),
    "blas": (whole("blas"), np.float32),
    "blas float64": (whole("blas"), np.float64),
    "stream float64": (streamed, np.float64),
    "record float64": (recorded, np.float64),
}
each_way = pytest.mark.parametrize("way", WAYS)


def one_sided(dtype, hidden, update, size, **options):
    """A GRU whose every weight is 0: an update gate of sigmoid(update), a candidate of g(size)."""
    gru = cgru.GRU(2, hidden, dtype=dtype, rng=0, **options)
    weights = {name: np.zeros_like(array) for name, array in gru.state_dict().items()}
    weights["bias_ih_l0"][hidden : 2 * hidden], weights["bias_ih_l0"][2 * hidden :] = update, size
    gru.load_state_dict(weights)
    return gru


@each_way
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("activation", ["relu", "linear", ("leaky_relu", 0.5, 0), ("scaled_tanh", 1e20, 1)])
@pytest.mark.parametrize("hidden", [1, 37])
def test_a_state_survives_a_huge_candidate(way, reset_after, activation, hidden):
    """Where z is 1, or 0 if it weighs the candidate: whole vectors and parts of them, one sequence and many."""
    run, dtype = WAYS[way]
    for update_gate, sign in (("state", 1), ("candidate", -1)):
        options = {"activation": activation, "reset_after": reset_after, "update_gate": update_gate}
        gru = one_sided(dtype, hidden, sign * 800, HUGE[dtype], **options)
        for batch in (1, 5, 11):
            h0 = np.linspace(1, 3, batch * hidden, dtype=dtype).reshape(1, batch, hidden)
            y = run(gru, np.zeros((3, batch, 2), dtype), h0)
            np.testing.assert_array_equal(y, np.broadcast_to(h0, y.shape))


@each_way
def test_a_huge_candidate_survives_a_small_weight(way):
    """A share of 1e-10 in a candidate of 1e12 is 100, however near 1 the state's share is."""
    run, dtype = WAYS[way]
    for activation in ("relu", ("scaled_tanh", 1e12, 1)):
        gru = one_sided(dtype, 19, np.log(1e-10), 1e12, activation=activation, update_gate="candidate")
        y = run(gru, np.zeros((1, 3, 2), dtype), np.full((1, 3, 19), 3, dtype))
        np.testing.assert_allclose(y, 103, rtol=1e-5)


ENDS = (0.0, -0.0, 1.0, -2.5, 1e30, -1e30, np.inf, -np.inf, np.nan)


@each_way
@pytest.mark.parametrize("update_gate", ["state", "candidate"])
def test_infinite_numbers_as_specified(way, update_gate):
    """Every state beside every candidate, at z of 0, 1 and between: infinities and NaN where the equations give them."""
    run, dtype = WAYS[way]
    for update, (candidate, reset_after) in itertools.product(
        (-800, -2, 0.5, 800), itertools.product(ENDS, (True, False))
    ):
        options = {"activation": "linear", "update_gate": update_gate, "reset_after": reset_after}
        gru = one_sided(dtype, 1, update, 0, **options)
        weights = gru.state_dict()
        weights["weight_ih_l0"][2] = 1, 0
        gru.load_state_dict(weights)
        h0 = np.array(ENDS[:-3], dtype).reshape(1, -1, 1)  # an infinite state makes NaN of weights of zero
        x = np.zeros((1, h0.size, 2), dtype)
        x[..., 0] = candidate
        if not np.isfinite(candidate):  # 0 times it is NaN in the gates, but as a bias it is the candidate's alone
            x[..., 0] = 0
            weights["bias_ih_l0"][2] = candidate
            gru.load_state_dict(weights)
        with np.errstate(all="ignore"):
            expected, _ = reference.forward(x, weights, h0, **options)
        np.testing.assert_allclose(run(gru, x, h0), expected, rtol=1e-6 if dtype is F else 1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("update_gate", ["state", "candidate"])
def test_gradients_by_a_small_share(dtype, update_gate):
    """The candidate's share 1 - z, near z = 1, reaches its gradient without cancellation."""
    epsilon = np.finfo(dtype).eps
    z = 1 - epsilon
    gate = ("affine", 0, float(z if update_gate == "state" else epsilon))
    gru = one_sided(dtype, 5, 0, 0, activation="linear", recurrent_activation=gate, update_gate=update_gate)
    x, e = np.ones((1, 3, 2), dtype), np.full((1, 3, 5), 1.3, dtype)
    _, _, tape = gru.record(x)
    bias = tape.backward(e)["bias_ih_l0"][-5:]
    np.testing.assert_allclose(bias, 3 * 1.3 * epsilon, rtol=4 * epsilon)


# NaN ----------------------------------------------------------------------------------------------------------------

NANS = np.array([0x7FC00000, 0xFFC00000, 0x7FC00001, 0xFFC12345, 0x7F812345, 0xFF800001, 0x7FFFFFFF], np.uint32).view(F)
"""Quiet and signalling, positive and negative, of several payloads."""

KINDS = {
    "usual": {},
    "reset before": {"reset_after": False},
    "deep": {"num_layers": 2},
    "other functions": {"activation": "relu", "recurrent_activation": "hard_sigmoid", "update_gate": "candidate"},
}
STORAGES = {
    "float32": {},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "int8": {"precision": "int8"},
    "bfloat16 products": {"precision": "bfloat16", "compute": "bfloat16"},
}
each_storage = pytest.mark.parametrize("storage", STORAGES)
each_kind = pytest.mark.parametrize("kind", KINDS)


def dirty_problem(kind, storage, batch=23, steps=12, inputs=9, hidden=37):
    """A model of the kind and numbers for it: NaN and infinities in inputs and states; in weights, where those may be."""
    rng = np.random.default_rng(0)
    gru = cgru.GRU(inputs, hidden, rng=rng, **KINDS[kind])
    if storage == "float32":
        weights = gru.state_dict()
        for name in ("weight_ih_l0", "weight_hh_l0"):
            weights[name].reshape(-1)[rng.permutation(weights[name].size)[:3]] = rng.permutation(NANS)[:3]
        weights["bias_ih_l0"][7], weights["bias_hh_l0"][5] = np.inf, NANS[1]
        gru.load_state_dict(weights)
    else:
        gru = gru.quantize(**STORAGES[storage])
    x = rng.standard_normal((steps, batch, inputs)).astype(F)
    h0 = rng.uniform(-1, 1, (gru.num_layers, batch, hidden)).astype(F)
    bad = np.concatenate([NANS, F([np.inf, -np.inf])])
    for array in (x, h0):
        places = np.flatnonzero(rng.random(array.shape) < (0.01 if array is x else 0.03))
        array.reshape(-1)[places] = rng.choice(bad, places.size)
    return gru, x, h0


def same_bits(a, b):
    np.testing.assert_array_equal(np.ascontiguousarray(a).view(np.uint32), np.ascontiguousarray(b).view(np.uint32))


def only_one_nan(array):
    bits = np.ascontiguousarray(array).view(np.uint32 if array.dtype == F else np.uint64)[np.isnan(array)]
    assert bits.size
    assert (bits == (0x7FC00000 if array.dtype == F else 0x7FF8 << 48)).all()


@each_kind
@each_storage
def test_bits_of_nan_alone_and_batched(kind, storage):
    gru, x, h0 = dirty_problem(kind, storage)
    y, h_n = gru(x, h0, num_threads=1)
    only_one_nan(y)
    only_one_nan(h_n)
    for size in (1, 2, 3, 5, 8, 13):
        for first in range(0, 24 - size, size):
            part, h_part = gru(x[:, first : first + size], h0[:, first : first + size])
            same_bits(part, y[:, first : first + size])
            same_bits(h_part, h_n[:, first : first + size])


@each_kind
@each_storage
def test_bits_of_nan_in_chunks_streams_and_pools(kind, storage):
    gru, x, h0 = dirty_problem(kind, storage)
    for batch in (1, 3, 23):
        some, start = x[:, :batch], np.ascontiguousarray(h0[:, :batch])
        y, h_n = gru(some, start)
        for run in (streamed, processed, pooled):
            same_bits(run(gru, some, start), y)
        first, h = gru(some[:5], start)
        last, h = gru(some[5:], h)
        same_bits(np.concatenate([first, last]), y)
        same_bits(h, h_n)


@each_kind
@pytest.mark.parametrize("sharing", ["rows", "units"])
def test_bits_of_nan_on_threads(kind, sharing):
    gru, x, h0 = dirty_problem(kind, "float32")
    y, h_n = gru(x, h0, num_threads=1)
    _packed.share(sharing)
    try:
        for threads in (2, 3):
            again, h_again = gru(x, h0, num_threads=threads)
            same_bits(again, y)
            same_bits(h_again, h_n)
    finally:
        _packed.share("measured")


@each_kind
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_other_engines_have_one_nan_too(kind, dtype):
    gru, x, h0 = dirty_problem(kind, "float32")
    other = cgru.GRU(x.shape[2], h0.shape[2], dtype=dtype, **KINDS[kind])
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes another
        other.load_state_dict({name: array.astype(dtype) for name, array in gru.state_dict().items()})
        x, h0 = x.astype(dtype), h0.astype(dtype)
    for batch in (1, 23):
        some, start = x[:, :batch], np.ascontiguousarray(h0[:, :batch])
        for run in (whole("blas"), recorded):
            y = run(other, some, start)
            only_one_nan(y)
