"""Streams and pools: the same bits as whole sequences, states in and out, memory, misuse."""

import copy
import pickle
import re
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cgru

from ..support.options import Problem, relative_error

F = np.float32
KINDS = {
    "usual": {},
    "reset before": {"reset_after": False, "update_gate": "candidate"},
    "deep": {"num_layers": 3},
    "other functions": {"activation": "softsign", "recurrent_activation": "hard_sigmoid", "clip": 0.7},
    "batch_first": {"batch_first": True},
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_batch = pytest.mark.parametrize("batch", [None, 1, 3, 9])


def make(kind, batch, steps=30, dtype=F, inputs=7, hidden=13):
    rng = np.random.default_rng(0)
    gru = cgru.GRU(inputs, hidden, dtype=dtype, rng=rng, **KINDS[kind])
    x = rng.standard_normal((steps, inputs) if batch is None else (steps, batch, inputs)).astype(dtype)
    whole = x.swapaxes(0, 1) if gru.batch_first and batch is not None else x
    y, h_n = gru(whole)
    return gru, x, (y.swapaxes(0, 1) if gru.batch_first and batch is not None else y), h_n


@each_kind
@each_batch
def test_step_by_step_is_the_whole_to_the_last_bit(kind, batch):
    gru, x, y, h_n = make(kind, batch)
    stream = gru.stream(batch_size=batch)
    np.testing.assert_array_equal([stream.step(v) for v in x], y)
    np.testing.assert_array_equal(stream.state, h_n)
    stream.reset()
    assert not stream.state.any()
    out = np.empty_like(y)
    for t, v in enumerate(x):
        assert stream.step(v, out=out[t]).base is out
    np.testing.assert_array_equal(out, y)


@each_kind
@each_batch
@given(cuts=st.sets(st.integers(0, 30)), stepping=st.booleans())
def test_any_chunks_are_the_whole_to_the_last_bit(kind, batch, cuts, stepping):
    gru, x, y, h_n = make(kind, batch)
    stream = gru.stream(batch_size=batch)
    parts = []
    for chunk in np.split(x, sorted(cuts)):
        if stepping and len(chunk) % 2:
            parts += [stream.step(v)[None] for v in chunk]
        else:
            parts.append(stream.process(chunk))
    np.testing.assert_array_equal(np.concatenate(parts), y)
    np.testing.assert_array_equal(stream.state, h_n)


@each_batch
def test_float64(batch):
    gru, x, y, h_n = make("deep", batch, dtype=np.float64)
    stream = gru.stream(batch_size=batch)
    assert relative_error(np.array([stream.step(v) for v in x[:10]]), y[:10]) < 1e-14
    assert relative_error(stream.process(x[10:]), y[10:]) < 1e-14
    assert relative_error(stream.state, h_n) < 1e-14
    out = np.empty_like(y[0])
    assert stream.copy().step(x[0], out=out) is out
    with pytest.raises(TypeError, match=re.escape("float64, got float32; convert it with x.astype(numpy.float64)")):
        stream.step(x[0].astype(F))


def test_any_size_against_the_reference():
    for inputs, hidden, batch in [(1, 1, 1), (3, 8, 2), (16, 32, 4), (5, 33, 5), (40, 70, 8), (9, 129, 13)]:
        problem = Problem({}, steps=12, batch=batch, inputs=inputs, hidden=hidden, dtype=F)
        stream = problem.gru.stream(batch_size=batch)
        stream.state = problem.h0
        y = np.array([stream.step(x) for x in problem.x])
        assert relative_error(y, problem.expected()[0]) < 2e-6


@each_batch
def test_states_in_and_out_and_copies(batch):
    gru, x, y, _ = make("deep", batch)
    stream = gru.stream(batch_size=batch)
    stream.process(x[:11])
    kept = stream.state
    twins = [stream.copy(), copy.copy(stream), copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))]
    rest = stream.process(x[11:])
    np.testing.assert_array_equal(rest, y[11:])
    for twin in twins:
        np.testing.assert_array_equal(twin.process(x[11:]), rest)
        assert repr(twin) == repr(stream)
    stream.state = kept
    kept += 1  # a copy: the stream does not see it
    np.testing.assert_array_equal(stream.process(x[11:]), rest)


def test_any_layout_of_memory():
    gru, x, y, _ = make("usual", 3)
    wide = np.zeros((30, 3, 14), F)
    wide[:, :, ::2] = x
    stream = gru.stream(batch_size=3)
    np.testing.assert_array_equal([stream.step(v) for v in wide[:, :, ::2]], y)
    stream.reset()
    backwards = np.ascontiguousarray(x[:, ::-1])
    np.testing.assert_array_equal([stream.step(v[::-1]) for v in backwards], y)
    stream.reset()
    padded = np.zeros((30, 3, 20), F)
    out = np.zeros((30, 3, 26), F)[:, :, ::2]
    padded[:, :, :7] = x
    for t in range(30):
        stream.step(padded[t, :, :7], out=out[t])
    np.testing.assert_array_equal(out, y)
    unaligned = np.zeros(7 * 4 + 1, np.uint8)[1:].view(F)
    unaligned[...] = x[0, 0]
    np.testing.assert_array_equal(gru.stream().step(unaligned), y[0, 0])


def test_step_allocates_nothing():
    gru, x, _, _ = make("deep", None)
    stream, out = gru.stream(), np.empty(13, F)
    v = x[0].copy()
    tracemalloc.start()
    try:
        stream.step(v, out=out)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(100):
            stream.step(v, out=out)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before <= 64  # the loop's own counter
    assert peak - before <= 128


def test_floating_point_mode_is_restored():
    gru = cgru.GRU(4, 8)
    gru.stream().step(np.zeros(4, F))
    assert F(1e-40) * F(0.5) > 0


BAD_STEPS = [
    (lambda s: s.step(np.zeros(8, F)), ValueError, "x: expected (7,) float32, got (8,)"),
    (lambda s: s.step(np.zeros((1, 7), F)), ValueError, "x: expected (7,) float32, got (1, 7)"),
    (lambda s: s.step(np.zeros(7)), TypeError, "x: expected (7,) float32, got float64; convert it with x.astype(numpy.float32)"),
    (lambda s: s.step(np.zeros(7, ">f4")), TypeError, "x: expected (7,) float32, got >f4"),
    (lambda s: s.step([0.0] * 7), TypeError, "x: expected (7,) float32, got list"),
    (lambda s: s.step(None), TypeError, "x: expected (7,) float32, got NoneType"),
    (lambda s: s.step(np.zeros(7, F), np.zeros(12, F)), ValueError, "out: expected (13,) float32, got (12,)"),
    (lambda s: s.step(np.zeros(7, F), np.zeros(13)), TypeError, "out: expected (13,) float32, got float64"),
    (lambda s: s.step(np.zeros(7, F), [0.0] * 13), TypeError, "out: expected (13,) float32, got list"),
    (lambda s: s.process(np.zeros(7, F)), ValueError, "chunk: expected (t, 7) float32, got (7,)"),
    (lambda s: s.process(np.zeros((2, 7))), TypeError, "chunk: expected (t, 7) float32, got float64"),
    (lambda s: s.process(np.zeros((2, 7), F), np.zeros((3, 13), F)), ValueError, "out: expected (2, 13) float32, got (3, 13)"),
    (lambda s: setattr(s, "state", np.zeros((2, 13), F)), ValueError, "state: expected (1, 13) float32, got (2, 13)"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), BAD_STEPS)
def test_bad_steps_leave_the_state(call, error, message):
    gru, x, _, _ = make("usual", None)
    stream = gru.stream()
    stream.process(x)
    before = stream.state
    with pytest.raises(error, match=re.escape(message)):
        call(stream)
    np.testing.assert_array_equal(stream.state, before)


def test_out_read_only_or_overlapping():
    gru = cgru.GRU(8, 8)
    stream = gru.stream()
    memory = np.ones(20, F)
    read_only = np.ones(8, F)
    read_only.flags.writeable = False
    for out, message in [
        (memory[4:12], "out: expected memory of its own, got an array that overlaps x"),
        (read_only, "out: expected a writeable array, got a read-only one"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            stream.step(memory[:8], out=out)
        assert (out == 1).all()
    assert not stream.state.any()


def test_lockstep_shapes():
    stream = cgru.GRU(7, 13).stream(batch_size=3)
    for x in (np.zeros((2, 7), F), np.zeros(7, F), np.zeros((3, 8), F)):
        with pytest.raises(ValueError, match=re.escape("x: expected (3, 7) float32, got")):
            stream.step(x)
    for size, error in [(0, ValueError), (-1, ValueError), (1.0, TypeError)]:
        with pytest.raises(error, match="batch_size: expected an integer from 1"):
            cgru.GRU(7, 13).stream(batch_size=size)


def test_bidirectional_is_refused_with_the_reason():
    for gru in (cgru.GRU(3, 4, bidirectional=True), cgru.GRU(3, 4, reverse=True)):
        for make_it, name in ((gru.stream, "stream"), (lambda: gru.pool(4), "pool")):  # noqa: B023
            with pytest.raises(ValueError, match=f"{name}: .* whose reverse direction begins at the last step"):
                make_it()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_thread_at_a_time(dtype):
    """A call during another thread's call is refused; the other's result is as if it had not come."""
    gru = cgru.GRU(8, 200, dtype=dtype, rng=0)
    x = np.random.default_rng(0).standard_normal((20_000, 8)).astype(dtype)
    expected = gru(x)[0]
    stream = gru.stream()
    results = []
    worker = threading.Thread(target=lambda: results.append(stream.process(x)))
    worker.start()
    refused = 0
    while worker.is_alive():
        for call in (lambda: stream.step(x[0]), lambda: stream.process(x[:1]), lambda: stream.state, stream.reset):
            try:
                if refused or worker.is_alive():
                    call()
                    assert not worker.is_alive() or not refused
            except RuntimeError as error:
                assert "in use by another thread" in str(error)
                refused += 1
        if refused:
            break
    worker.join()
    assert refused
    if relative_error(results[0], expected) > 1e-12:  # a call slipped in before the worker began
        pytest.fail("the worker's result was disturbed")


def replace_weights(gru):
    gru.load_state_dict({name: np.zeros_like(array) for name, array in gru.state_dict().items()})


def test_a_stream_keeps_the_weights_it_was_made_with():
    gru, x, y, _ = make("usual", None)
    stream = gru.stream()
    replace_weights(gru)
    np.testing.assert_array_equal([stream.step(v) for v in x], y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@each_batch
def test_weights_are_kept_in_every_method_and_copy(batch, dtype):
    gru, x, y, _ = make("deep", batch, dtype=dtype)
    stream = gru.stream(batch_size=batch)
    replace_weights(gru)
    ways = {
        "step": lambda s: np.array([s.step(v) for v in x]),
        "step, strided": lambda s: np.array([s.step(np.repeat(v, 2, axis=-1)[..., ::2]) for v in x]),
        "process": lambda s: s.process(x),
    }
    copies = {
        "itself": lambda s: s,
        "copy": lambda s: s.copy(),
        "copy of a copy": lambda s: s.copy().copy(),
        "copy.copy": copy.copy,
        "copy.deepcopy": copy.deepcopy,
        "pickle": lambda s: pickle.loads(pickle.dumps(s)),
    }
    for made in copies.values():
        for way in ways.values():
            stream.reset()
            assert relative_error(way(made(stream)), y) < 1e-14
    assert not gru(x)[0].any()  # the model has the new ones
    assert not gru.stream(batch_size=batch).process(x).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_pool_keeps_the_weights_it_was_made_with(dtype):
    gru, x, y, _ = make("deep", None, dtype=dtype)
    pool = gru.pool(2)
    i = pool.open()
    replace_weights(gru)
    for twin in (pool.copy(), copy.copy(pool), copy.deepcopy(pool), pickle.loads(pickle.dumps(pool)), pool):
        assert relative_error(np.array([twin.step([i], v[None])[0] for v in x]), y) < 1e-14


def test_a_snapshot_copies_nothing():
    gru = cgru.GRU(3, 8, rng=0)
    gru.stream()
    assert gru.stream()._gru.value is gru.value
    assert repr(gru.stream()) == f"Stream({gru!r})"


@each_kind
def test_pool_is_so_many_streams_to_the_last_bit(kind):
    gru, _, _, _ = make(kind, None)
    rng = np.random.default_rng(1)
    pool = gru.pool(40)
    streams = {}
    for _ in range(300):
        action = rng.random()
        if action < 0.15 and len(pool) < 40:
            i = pool.open()
            assert i not in streams
            streams[i] = gru.stream()
        elif action < 0.2 and streams:
            i = int(rng.choice(list(streams)))
            pool.close(i)
            del streams[i]
        elif action < 0.25 and streams:
            i = int(rng.choice(list(streams)))
            pool.reset(i)
            streams[i].reset()
        elif action < 0.3 and len(streams) > 1:
            i, j = (int(v) for v in rng.choice(list(streams), 2, replace=False))
            pool.set_state(i, pool.state(j))
            streams[i].state = streams[j].state
        elif streams:
            ids = rng.permutation(list(streams))[: rng.integers(0, len(streams) + 1)]
            x = rng.standard_normal((len(ids), 7)).astype(F)
            out = np.empty((len(ids), 13), F) if action < 0.6 else None
            y = pool.step(ids, x, out)
            assert out is None or y is out
            for i, v, row in zip(ids, x, y, strict=True):
                np.testing.assert_array_equal(row, streams[int(i)].step(v))
        assert len(pool) == len(streams)
    for i, stream in streams.items():
        np.testing.assert_array_equal(pool.state(i), stream.state)


def test_pool_on_any_number_of_threads():
    gru = cgru.GRU(40, 80, 2, rng=0)
    x = np.random.default_rng(0).standard_normal((500, 40)).astype(F)
    results = []
    for threads in (1, 2, 7):
        pool = gru.pool(500)
        ids = [pool.open() for _ in range(500)]
        pool.step(ids, x, num_threads=threads)
        results.append(pool.step(ids, x, num_threads=threads))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_pool_misuse():
    pool = cgru.GRU(7, 13).pool(3)
    a, b = pool.open(), pool.open()
    x = np.ones((2, 7), F)
    pool.step([a, b], x)
    before = pool.state(a), pool.state(b)
    cases = [
        (lambda: pool.step([a, a], x), ValueError, "ids: expected each stream once, got 0 2 times"),
        (lambda: pool.step([a, 2], x), ValueError, "ids: expected open streams, got 2, which is closed"),
        (lambda: pool.step([a, 3], x), ValueError, "ids: expected integers from 0 to 2, got 3"),
        (lambda: pool.step([a, -1], x), ValueError, "ids: expected integers from 0 to 2, got -1"),
        (lambda: pool.step([0.0, 1.0], x), TypeError, "ids: expected (N,) integers, got (2,) float64"),
        (lambda: pool.step([a], x), ValueError, "x: expected (1, 7) float32, got (2, 7)"),
        (lambda: pool.step([a, b], x, x), ValueError, "out: expected (2, 13) float32, got (2, 7)"),
        (lambda: pool.close(2), ValueError, "i: expected the number of an open stream, got 2, which is closed"),
        (lambda: pool.state(7), ValueError, "i: expected an integer from 0 to 2, got 7"),
        (lambda: pool.set_state(a, np.zeros(13, F)), ValueError, "h: expected (1, 13) float32, got (13,)"),
        (lambda: cgru.GRU(7, 13).pool(0), ValueError, "capacity: expected an integer from 1"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=re.escape(message)):
            call()
    np.testing.assert_array_equal(pool.state(a), before[0])
    np.testing.assert_array_equal(pool.state(b), before[1])
    assert pool.step([], np.zeros((0, 7), F)).shape == (0, 13)
    c = pool.open()
    with pytest.raises(RuntimeError, match="all 3 streams of the pool are open; close one, or make a larger pool"):
        pool.open()
    pool.close(c)
    assert not pool.state(pool.open()).any()


@each_kind
def test_pool_streams_beside_a_stream_of_nan(kind):
    """What one stream of a pool is fed stays in that stream: the others keep their bits."""
    gru, _, _, _ = make(kind, None)
    x = np.random.default_rng(4).standard_normal((5, 9, 7)).astype(F)
    results = []
    for dirty in (False, True):
        pool = gru.pool(9)
        ids = [pool.open() for _ in range(9)]
        fed = x.copy()
        if dirty:
            fed[2, 4] = np.nan
        y = np.array([pool.step(ids, v) for v in fed])
        results.append((np.delete(y, 4, axis=1), [pool.state(i) for i in ids if i != 4], y[2:, 4]))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])
    assert np.isnan(results[1][2]).any()
    assert not np.isnan(results[0][2]).any()


def test_states_of_the_wrong_dtype_are_refused():
    gru, x, _, _ = make("usual", None)
    stream, pool = gru.stream(), gru.pool(2)
    i = pool.open()
    stream.process(x)
    pool.set_state(i, stream.state)
    before = stream.state
    with pytest.raises(TypeError, match=re.escape("state: expected (1, 13) float32, got float64")):
        stream.state = np.zeros((1, 13))
    with pytest.raises(TypeError, match=re.escape("h: expected (1, 13) float32, got float64")):
        pool.set_state(i, np.zeros((1, 13)))
    with pytest.raises(TypeError, match=re.escape("x: expected (1, 7) float32, got float64")):
        pool.step([i], np.zeros((1, 7)))
    np.testing.assert_array_equal(stream.state, before)
    np.testing.assert_array_equal(pool.state(i), before)
