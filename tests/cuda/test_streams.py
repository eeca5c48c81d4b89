"""Streams, pools and tapes on the device."""

import copy
import re

import numpy as np
import pytest

import cgru
from cgru.engines.cuda import forward

from ..support.concurrency import held
from ..support.cuda_calls import F, each_dtype
from ..support.cuda_on_cpu import (
    Simulator,
    on_device,
    on_host,
    place,
)
from ..support.options import relative_error


@pytest.mark.parametrize("batch", [None, 1, 5])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("reset_after", [True, False])
def test_streams(batch, precision, reset_after):
    rng = np.random.default_rng(0)
    gru = cgru.GRU(7, 13, num_layers=2, reset_after=reset_after, rng=rng)
    gru = gru if precision == "float32" else gru.quantize(precision)
    x = rng.standard_normal((20, 7) if batch is None else (20, batch, 7)).astype(F)
    expected, h_n = gru(x)
    stream = place(gru, Simulator()).stream(batch_size=batch)
    y = [on_host(stream.step(on_device(v))) for v in x[:7]]
    twin = copy.copy(stream)
    out = np.empty_like(expected[7:12])
    assert on_host(stream.process(on_device(x[7:12]), out=on_device(out))).base is out
    y += [*out]
    kept = stream.state
    y += [*on_host(stream.process(on_device(x[12:])))]
    assert relative_error(np.array(y), expected) < 2e-6
    assert relative_error(on_host(stream.state), h_n) < 2e-6
    assert relative_error(on_host(twin.process(on_device(x[7:]))), expected[7:]) < 2e-6
    stream.state = kept
    assert relative_error(on_host(stream.process(on_device(x[12:]))), expected[12:]) < 2e-6
    assert stream.process(on_device(x[:0])).shape == expected[:0].shape
    stream.reset()
    assert not on_host(stream.state).any()
    out = np.empty_like(expected[0])
    stream.step(on_device(x[0]), out=on_device(out))
    assert relative_error(out, expected[0]) < 2e-6
    assert repr(stream).startswith("Stream(GRU(7, 13, num_layers=2")


def test_bad_steps_leave_the_state():
    stream = place(cgru.GRU(7, 13), Simulator()).stream()
    stream.step(on_device(np.ones(7, F)))
    before = on_host(stream.state)
    for bad, error, message in [
        (
            lambda: stream.step(np.ones(7, F)),
            TypeError,
            "x: expected (7,) float32 on cuda:0, got ndarray in host memory",
        ),
        (lambda: stream.step(on_device(np.ones(8, F))), ValueError, "x: expected (7,) float32 on cuda:0, got (8,)"),
        (
            lambda: stream.process(on_device(np.ones(7, F))),
            ValueError,
            "chunk: expected (t, 7) float32 on cuda:0, got (7,)",
        ),
        (lambda: stream.step(on_device(np.ones(7, F)), on_device(np.ones(12, F))), ValueError, "out: expected (13,)"),
        (lambda: setattr(stream, "state", np.ones((1, 13), F)), TypeError, "state: expected (1, 13) float32 on cuda:0"),
    ]:
        with pytest.raises(error, match=re.escape(message)):
            bad()
    np.testing.assert_array_equal(on_host(stream.state), before)
    with held(stream):
        for call in (
            lambda: stream.step(on_device(np.ones(7, F))),
            lambda: stream.process(on_device(np.ones((2, 7), F))),
            lambda: stream.state,
            lambda: setattr(stream, "state", on_device(before)),
            stream.reset,
            stream.copy,
        ):
            with pytest.raises(RuntimeError, match="this stream is in use by another thread"):
                call()
    np.testing.assert_array_equal(on_host(stream.state), before)
    for gru in (cgru.GRU(3, 4, bidirectional=True), cgru.GRU(3, 4, reverse=True)):
        model = place(gru, Simulator())
        for make in (model.stream, lambda: model.pool(4)):  # noqa: B023
            with pytest.raises(ValueError, match="begins at the last step"):
                make()


def test_pool():
    gru = cgru.GRU(7, 13, num_layers=2, rng=0)
    pool = place(gru, Simulator()).pool(9)
    rng = np.random.default_rng(1)
    streams = {pool.open(): gru.stream() for _ in range(9)}
    for _ in range(20):
        ids = rng.permutation(9)[: rng.integers(0, 10)]
        x = rng.standard_normal((len(ids), 7)).astype(F)
        out = np.empty((len(ids), 13), F)
        pool.step(ids, on_device(x), out=on_device(out))
        for i, v, row in zip(ids, x, out, strict=True):
            assert relative_error(row, streams[int(i)].step(v)) < 2e-6
    pool.set_state(3, pool.state(4))
    np.testing.assert_array_equal(on_host(pool.state(3)), on_host(pool.state(4)))
    pool.reset(3)
    assert not on_host(pool.state(3)).any()
    before = on_host(pool.state(4))
    for bad, error, message in [
        (lambda: pool.step([4, 4], on_device(np.ones((2, 7), F))), ValueError, "ids: expected each stream once"),
        (lambda: pool.step([4], np.ones((1, 7), F)), TypeError, "x: expected (1, 7) float32 on cuda:0, got ndarray"),
        (
            lambda: pool.step([4], on_device(np.ones((1, 7), F)), num_threads=1),
            ValueError,
            "num_threads: expected None",
        ),
        (lambda: pool.set_state(4, np.ones((2, 13), F)), TypeError, "h: expected (2, 13) float32 on cuda:0"),
    ]:
        with pytest.raises(error, match=re.escape(message)):
            bad()
    np.testing.assert_array_equal(on_host(pool.state(4)), before)
    pool.close(4)
    assert pool.open() == 4
    assert not on_host(pool.state(4)).any()
    with held(pool):
        for call in (
            lambda: pool.step([4], on_device(np.ones((1, 7), F))),
            pool.open,
            lambda: pool.close(4),
            lambda: pool.reset(4),
            lambda: pool.state(4),
            lambda: pool.set_state(4, on_device(np.ones((2, 13), F))),
            pool.copy,
        ):
            with pytest.raises(RuntimeError, match="this pool is in use by another thread"):
                call()


@each_dtype
def test_streams_and_pools_keep_their_weights(dtype):
    gru = cgru.GRU(7, 13, num_layers=2, rng=0, dtype=dtype)
    x = np.random.default_rng(0).standard_normal((6, 7)).astype(dtype)
    expected, _ = gru(x)
    model = place(gru, Simulator())
    stream, pool = model.stream(), model.pool(2)
    i = pool.open()
    model.load_state_dict({name: on_device(np.zeros_like(w)) for name, w in gru.state_dict().items()})
    for twin in (stream.copy(), copy.copy(stream), copy.deepcopy(stream), stream):
        assert relative_error(on_host(twin.copy().process(on_device(x))), expected) < 2e-6
        assert relative_error(np.array([on_host(twin.step(on_device(v))) for v in x]), expected) < 2e-6
    for twin in (pool.copy(), copy.copy(pool), copy.deepcopy(pool), pool):
        y = np.array([on_host(twin.step([i], on_device(v[None])))[0] for v in x])
        assert relative_error(y, expected) < 2e-6
    assert not on_host(model(on_device(x))[0]).any()


def test_a_failure_leaves_the_state(monkeypatch):
    """A call that fails between two layers, or after the last."""
    model = place(cgru.GRU(7, 13, num_layers=2, rng=0), Simulator())
    stream, pool = model.stream(), model.pool(2)
    i = pool.open()
    x = np.random.default_rng(0).standard_normal((4, 7)).astype(F)
    stream.process(on_device(x))
    pool.step([i], on_device(x[:1]))
    before = on_host(stream.state), on_host(pool.state(i))
    direction = forward.direction
    for last in (1, 2):
        for call in (
            lambda: stream.step(on_device(x[0])),
            lambda: stream.process(on_device(x)),
            lambda: pool.step([i], on_device(x[:1])),
        ):
            calls = []

            def failing(*arguments, calls=calls, last=last, **options):
                direction(*arguments, **options)
                calls.append(None)
                if len(calls) == last:
                    raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(forward, "direction", failing)
                with pytest.raises(KeyboardInterrupt):
                    call()
            np.testing.assert_array_equal(on_host(stream.state), before[0])
            np.testing.assert_array_equal(on_host(pool.state(i)), before[1])


def test_a_tape_in_use_refuses():
    y, _, tape = place(cgru.GRU(7, 13), Simulator()).record(on_device(np.ones((5, 7), F)))
    with held(tape), pytest.raises(RuntimeError, match="this tape is in use by another thread"):
        tape.backward(y)
    tape.backward(y)
