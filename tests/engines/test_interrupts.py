"""Ctrl-C ends a call of many seconds soon, and nothing half done is seen."""

import signal
import threading
import time

import numpy as np
import pytest

import cgru
from cgru import _packed

F = np.float32
DELAY = 0.15
"""Seconds from the beginning of a call to the alarm."""

SOON = 1.0
"""Seconds that a call may take in all. It would take many more; with a core to spare it ends 0.05 s after the alarm."""

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that send signals")


class RungError(Exception):
    """What the handler of the alarm raises."""


def ring(*_):
    raise RungError


def interrupted(call, soon=SOON):
    """Whether a call ends by the alarm's exception, and in so many seconds, of its own where others have the cores."""
    before = signal.signal(signal.SIGALRM, ring)
    start, own = time.perf_counter(), time.process_time()
    try:
        signal.setitimer(signal.ITIMER_REAL, DELAY)
        with pytest.raises(RungError):
            call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    whole, own = time.perf_counter() - start, time.process_time() - own
    return whole >= DELAY and min(whole, own) < soon


def sequence(steps, batch, inputs, dtype=F):
    """Inputs of any length in the memory of one step."""
    row = np.random.default_rng(0).standard_normal((1, batch, inputs)).astype(dtype)
    return np.broadcast_to(row, (steps, batch, inputs))


@pytest.fixture
def way(request):
    """How threads share a call."""
    _packed.share(request.param)
    yield request.param
    _packed.share("measured")


CALLS = {
    # name: options, (T, B, H), further arguments of the call, how threads share it; outputs of at most 1 GB, hardly touched
    "one thread": ({}, (1_000_000, 1, 256), {"num_threads": 1}, "measured"),
    "few": ({}, (400_000, 5, 256), {"num_threads": 1}, "measured"),
    "many": ({}, (12_000, 40, 512), {"num_threads": 1}, "measured"),
    "reset before": ({"reset_after": False}, (1_000_000, 1, 256), {"num_threads": 1}, "measured"),
    "units": ({}, (1_000_000, 1, 256), {"num_threads": 2}, "units"),
    "units, reset before": ({"reset_after": False}, (1_000_000, 2, 256), {"num_threads": 3}, "units"),
    "rows": ({}, (6_000, 80, 512), {"num_threads": 2}, "rows"),
    "shared as measured": ({}, (1_000_000, 1, 256), {"num_threads": 2}, "measured"),
    "bidirectional": ({"num_layers": 2, "bidirectional": True}, (400_000, 1, 256), {"num_threads": 2}, "rows"),
    "bidirectional units": ({"num_layers": 2, "bidirectional": True}, (400_000, 1, 256), {"num_threads": 4}, "units"),
    "deep": ({"num_layers": 6}, (200_000, 1, 256), {"num_threads": 1}, "measured"),
    "lengths": ({}, (6_000, 80, 512), {"num_threads": 2, "lengths": np.linspace(3_000, 6_000, 80).astype(int)}, "rows"),
    "blas": ({}, (1_000_000, 1, 256), {"engine": "blas"}, "measured"),
    "blas, many": ({}, (6_000, 80, 512), {"engine": "blas"}, "measured"),
    "float64": ({"dtype": np.float64}, (400_000, 1, 256), {}, "measured"),
    "float64, many": ({"dtype": np.float64, "reset_after": False}, (6_000, 80, 512), {}, "measured"),
    "bidirectional float64": (
        {"dtype": np.float64, "num_layers": 2, "bidirectional": True}, (200_000, 1, 256), {}, "measured",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "size", "arguments", "way"), [pytest.param(*c, id=name) for name, c in CALLS.items()], indirect=["way"]
)
def test_calls(options, size, arguments, way):
    steps, batch, hidden = size
    gru = cgru.GRU(3, hidden, rng=0, **options)
    x = sequence(steps, batch, 3, gru.dtype)
    h0 = np.full((gru.num_layers * (1 + gru.bidirectional), batch, hidden), 0.5, gru.dtype)
    kept = h0.copy()
    assert interrupted(lambda: gru(x, h0, **arguments))
    np.testing.assert_array_equal(h0, kept)
    arguments = {name: value for name, value in arguments.items() if name != "lengths"}
    y, h_n = gru(x[:5], h0, **arguments)
    again, h_again = gru(np.ascontiguousarray(x[:5]), h0, **arguments)
    np.testing.assert_allclose(y, again, atol=1e-5)  # to the last bit only of the packed engine
    np.testing.assert_allclose(h_n, h_again, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"reset_after": False}, {"dtype": np.float64}])
@pytest.mark.parametrize("wide", [False, True])
def test_one_step_of_very_many_sequences(options, wide):
    """Kernels of seconds run in pieces, which leave the same numbers."""
    inputs, hidden, batch = (1500, 1500, 3000) if wide else (48, 192, 50_000)
    gru = cgru.GRU(inputs, hidden, rng=0, **options)
    row = np.random.default_rng(1).standard_normal((1, 1, inputs)).astype(gru.dtype)
    x = np.broadcast_to(row, (20, batch, inputs))
    assert interrupted(lambda: gru(x, num_threads=1))
    y, _ = gru(x[:1, :3000], num_threads=1)
    few, _ = gru(x[:1, :40], num_threads=1)
    if gru.dtype == F:
        np.testing.assert_array_equal(y, np.broadcast_to(few[:, :1], y.shape))
    else:
        np.testing.assert_allclose(y, np.broadcast_to(few[:, :1], y.shape), rtol=1e-12)


@pytest.mark.parametrize("dtype", [F, np.float64])
@pytest.mark.parametrize("batch", [None, 3])
def test_streams(dtype, batch):
    gru = cgru.GRU(3, 256, dtype=dtype, rng=0)
    stream, twin = gru.stream(batch_size=batch), gru.stream(batch_size=batch)
    x = sequence(600_000 // (batch or 1), batch or 1, 3, dtype)
    x = x[:, 0] if batch is None else x
    stream.process(x[:20])
    state = stream.state
    assert interrupted(lambda: stream.process(x))
    np.testing.assert_array_equal(stream.state, state)
    twin.process(x[:20])
    np.testing.assert_array_equal(stream.process(x[:20]), twin.process(x[:20]))


RECORDED = {
    "one thread": ({}, (40_000, 1), {"num_threads": 1}),
    "rows on 2 threads": ({"reset_after": False}, (2000, 32), {"num_threads": 2}),
    "deep": ({"num_layers": 2, "bidirectional": True, "dtype": np.float64}, (2500, 2), {"memory": 1 << 22}),
}
recorded = pytest.mark.parametrize(
    ("options", "size", "arguments"), [pytest.param(*c, id=name) for name, c in RECORDED.items()]
)


@recorded
def test_record(options, size, arguments):
    gru = cgru.GRU(3, 256, rng=0, **options)
    x = sequence(8 * size[0], size[1], 3, gru.dtype)
    assert interrupted(lambda: gru.record(x, **arguments))
    y, _, _ = gru.record(x[:5])
    np.testing.assert_array_equal(y, gru.record(x[:5])[0])


@recorded
def test_backward(options, size, arguments):
    """Interrupted, a tape is as it was, and gives the same gradients the next time."""
    gru = cgru.GRU(3, 256, rng=0, **options)
    x = sequence(*size, 3, gru.dtype)
    y, _, tape = gru.record(x, **arguments)
    e = np.broadcast_to(gru.dtype.type(1), y.shape)
    start = time.perf_counter()
    expected = tape.backward(e)
    whole = time.perf_counter() - start
    _, _, tape = gru.record(x, **arguments)
    assert interrupted(lambda: tape.backward(e), DELAY + whole / 2)
    again = tape.backward(e)
    np.testing.assert_array_equal(again.x, expected.x)
    for name, gradient in again.items():
        np.testing.assert_array_equal(gradient, expected[name])


def test_other_threads_are_left_alone():
    """An alarm's handler runs in the main thread; a call of another one goes on to its end."""
    gru = cgru.GRU(3, 256, rng=0)
    x = sequence(100_000, 1, 3)
    expected, _ = gru(x)
    results, done = [], threading.Event()

    def work():
        results.append(gru(x)[0])
        done.set()

    def start_and_wait():
        threading.Thread(target=work).start()
        done.wait()

    assert interrupted(start_and_wait)
    done.wait()
    np.testing.assert_array_equal(results[0], expected)


def test_handlers_that_return_change_nothing():
    gru = cgru.GRU(3, 256, rng=0)
    x = sequence(100_000, 1, 3)
    expected, _ = gru(x)
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.perf_counter()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.06, 0.06)
        y, _ = gru(x)
        end = time.perf_counter()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    np.testing.assert_array_equal(y, expected)
    assert rung
    assert rung[0] < end - 0.01
