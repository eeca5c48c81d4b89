"""One thread at a time in a stream, a pool, a tape: others are refused, and interrupts and forks leave nothing behind.

A model of linear units counts: every step adds one to every unit, so a state that has been disturbed shows.
"""

import contextlib
import copy
import gc
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import cgru
from cgru._exclusive import Exclusive, alone
from cgru.engines import HOST

from ..support.concurrency import fails_behind, held

F = np.float32
BUSY = "in use by another thread"


def counter(hidden, layers=1, dtype=F):
    """A model whose every unit counts the steps."""
    gru = cgru.GRU(8, hidden, layers, activation="linear", rng=0, dtype=dtype)
    weights = {name: np.zeros_like(array) for name, array in gru.state_dict().items()}
    for layer in range(layers):
        weights[f"weight_hh_l{layer}"][2 * hidden :] = np.eye(hidden)
        weights[f"bias_ih_l{layer}"][:] = np.repeat([100, -100, 1], hidden)  # r = 1, z = 0: h' = h + 1
    gru.load_state_dict(weights)
    return gru


def stream_calls(stream, inputs, hidden, dtype):
    """Everything that touches a stream's state, with usual arguments and others."""
    x, wide = np.ones(inputs, dtype), np.ones((3, 2 * inputs), dtype)[:, ::2]
    return {
        "step": lambda: stream.step(x),
        "step, out": lambda: stream.step(x, np.empty(hidden, dtype)),
        "step, strided": lambda: stream.step(wide[0]),
        "step, strided out": lambda: stream.step(x, np.empty(2 * hidden, dtype)[::2]),
        "step, wrong": lambda: stream.step(x[1:].tolist()),
        "process": lambda: stream.process(x[None]),
        "process, strided": lambda: stream.process(wide, np.empty((3, 2 * hidden), dtype)[:, ::2]),
        "get state": lambda: stream.state,
        "set state": lambda: setattr(stream, "state", np.zeros((1, hidden), dtype)),
        "reset": stream.reset,
        "copy": stream.copy,
        "copy.copy": lambda: copy.copy(stream),
        "copy.deepcopy": lambda: copy.deepcopy(stream),
        "pickle": lambda: pickle.dumps(stream),
    }


def pool_calls(pool, inputs, hidden, dtype):
    x = np.ones((1, 2 * inputs), dtype)[:, ::2]
    return {
        "step": lambda: pool.step([0], x.copy()),
        "step, strided": lambda: pool.step([0], x, np.empty((1, 2 * hidden), dtype)[:, ::2]),
        "open": pool.open,
        "close": lambda: pool.close(0),
        "reset": lambda: pool.reset(0),
        "state": lambda: pool.state(0),
        "set_state": lambda: pool.set_state(0, np.zeros((1, hidden), dtype)),
        "copy": pool.copy,
        "copy.copy": lambda: copy.copy(pool),
        "copy.deepcopy": lambda: copy.deepcopy(pool),
        "pickle": lambda: pickle.dumps(pool),
    }


@pytest.mark.parametrize("hidden", [5, 600])  # a step of the larger lets other threads run
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_stream_in_use_refuses_everything(hidden, dtype):
    stream = counter(hidden, dtype=dtype).stream()
    stream.step(np.ones(8, dtype))
    calls = stream_calls(stream, 8, hidden, dtype)
    with held(stream):
        for name, call in calls.items():
            if dtype == np.float64 and name == "step, wrong":
                continue  # it is refused for its argument
            with pytest.raises(RuntimeError, match=f"this stream is {BUSY}: a stream belongs to one thread at a time"):
                call()
    assert (stream.state == 1).all()
    for name, call in calls.items():
        if name != "step, wrong":
            call()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_pool_in_use_refuses_everything(dtype):
    pool = counter(5, dtype=dtype).pool(3)
    pool.step([pool.open()], np.ones((1, 8), dtype))
    calls = pool_calls(pool, 8, 5, dtype)
    with held(pool):
        for call in calls.values():
            with pytest.raises(RuntimeError, match=f"this pool is {BUSY}: a pool belongs to one thread at a time"):
                call()
        assert len(pool) == 1
    assert (pool.state(0) == 1).all()
    for name, call in calls.items():
        if name != "close":
            call()


def test_a_tape_in_use_refuses():
    y, _, tape = cgru.GRU(3, 4, rng=0).record(np.ones((5, 3), F))
    with held(tape), pytest.raises(RuntimeError, match=f"this tape is {BUSY}"):
        tape.backward(y)
    tape.backward(y)


def test_one_of_many_threads_goes_back():
    gru = cgru.GRU(8, 64, rng=0)
    x = np.random.default_rng(0).standard_normal((200, 4, 8)).astype(F)
    y, _, tape = gru.record(x)
    expected = tape.backward(y)
    for _ in range(10):
        _, _, tape = gru.record(x)
        start, results = threading.Barrier(6), []

        def back(tape=tape, start=start, results=results):
            start.wait()
            with contextlib.suppress(RuntimeError):
                results.append(tape.backward(y))

        threads = [threading.Thread(target=back) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 1
        for name, gradient in expected.items():
            np.testing.assert_array_equal(results[0][name], gradient)


def test_a_call_within_a_call_is_refused():
    pool = counter(5).pool(3)

    @alone
    def within(pool):
        pool.open()

    with pytest.raises(RuntimeError, match="this pool is in use by this thread itself"):
        within(pool)
    ids = (pool.open() for _ in range(3))  # read before the pool is taken
    assert (pool.step(ids, np.ones((3, 8), F)) == 1).all()
    with pytest.raises(TypeError):
        within(cgru.GRU(3, 4))


def tried(call, *arguments):
    """How often a call was refused before it was let in."""
    refused = 0
    while True:
        try:
            call(*arguments)
            return refused
        except RuntimeError as error:
            assert BUSY in str(error)
            refused += 1


@pytest.mark.parametrize(("hidden", "dtype"), [(8, F), (600, F), (8, np.float64), (100, np.float64)])
@pytest.mark.parametrize("strided", [False, True])
def test_threads_count_together(hidden, dtype, strided):
    """Steps of several threads are all there in the end, none lost and none half done, whatever was refused."""
    stream = counter(hidden, dtype=dtype).stream()
    x = np.ones((3, 16), dtype)[:, ::2] if strided else np.ones((3, 8), dtype)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work():
        for _ in range(60):
            tried(stream.step, x[0])
            tried(stream.process, x)

    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert (stream.state == 4 * 60 * 4).all()


def test_a_pool_beside_its_own_step():
    """Streams opened, closed, set and copied beside a step of the others keep their states, and so do the others."""
    hidden = 512
    pool = counter(hidden).pool(16)
    ids = [pool.open() for _ in range(12)]
    x, steps, stop = np.ones((12, 8), F), [0], threading.Event()

    def step():
        while not stop.is_set():
            with contextlib.suppress(RuntimeError):
                pool.step(ids, x)
                steps[0] += 1
            time.sleep(1e-5)  # or the others would never find the pool free

    def again(call, *arguments):
        while True:
            try:
                return call(*arguments)
            except RuntimeError as error:
                assert BUSY in str(error)

    thread = threading.Thread(target=step)
    thread.start()
    try:
        for n in range(200):
            i = again(pool.open)
            assert i not in ids
            assert not again(pool.state, i).any()
            again(pool.set_state, i, np.full((1, hidden), n, F))
            assert (again(pool.state, i) == n).all()
            again(pool.reset, i)
            twin = again(copy.copy, pool) if n % 2 else again(lambda: pickle.loads(pickle.dumps(pool)))
            assert len(twin) == 13
            counted = {float(v) for k in ids for v in np.unique(twin.state(k))}
            assert len(counted) == 1
            again(pool.close, i)
    finally:
        stop.set()
        thread.join()
    assert len(pool) == 12
    for k in ids:
        assert (pool.state(k) == steps[0]).all()


def test_copies_of_a_pool_go_their_own_ways():
    pool = counter(5).pool(4)
    for _ in range(3):
        pool.open()
    pool.close(1)
    pool.step([0, 2], np.ones((2, 8), F))
    for twin in (pool.copy(), copy.copy(pool), copy.deepcopy(pool), pickle.loads(pickle.dumps(pool))):
        assert (twin.capacity, len(twin)) == (4, 2)
        assert (twin.step([2, 0], np.ones((2, 8), F)) == 2).all()
        with pytest.raises(ValueError, match="closed"):
            twin.state(1)
        assert twin.open() == 1
    assert len(pool) == 2
    assert (pool.state(0) == 1).all()
    with pytest.raises(TypeError, match="cannot pickle 'Tape' object"):
        copy.copy(cgru.GRU(3, 4).record(np.ones((2, 3), F))[2])


# ----------------------------------------------------------------------------------------------------------------------
# Interrupts


MOST_CALLS = 20_000
"""A signal that the system hands to another thread than the main one may wait for ever: CPython 3.11 does not notice."""


class Interrupt(Exception):  # noqa: N818
    """What the timer raises."""


@pytest.fixture
def interrupted():
    """A function of a call: it is repeated until a timer interrupts it; how often it returned."""
    armed = [False]

    def stop(*_):
        if armed[0]:
            armed[0] = False
            raise Interrupt

    def run(call, longest):
        returned = 0
        try:
            armed[0] = True
            signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-6, longest))
            while armed[0] and returned < MOST_CALLS:
                call()
                returned += 1
        except Interrupt:
            pass
        finally:
            armed[0] = False
        return returned

    before = signal.signal(signal.SIGALRM, stop)
    gc.collect()
    gc.disable()  # what is raised in a finalizer is lost
    yield run
    gc.enable()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


needs_timers = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")


@needs_timers
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("call", ["step, out", "step, strided out", "process", "process, strided", "copy", "pickle"])
def test_interrupts_leave_a_stream_free_and_whole(call, dtype, interrupted):
    stream = counter(6, dtype=dtype).stream()
    calls = stream_calls(stream, 8, 6, dtype)
    each = {"process, strided": 3, "copy": 0, "pickle": 0}.get(call, 1)
    for _ in range(1500):
        stream.reset()  # it is free
        returned = interrupted(calls[call], 5e-5)
        state = stream.state
        assert (state == state[0, 0]).all()
        assert state[0, 0] in (each * returned, each * (returned + 1))  # an interrupt may come after the last return


@needs_timers
def test_interrupts_leave_a_pool_free_and_whole(interrupted):
    pool = counter(6).pool(8)
    ids = [pool.open() for _ in range(3)]
    x = np.ones((3, 8), F)
    wide = np.empty((3, 12), F)[:, ::2]
    for _ in range(1500):
        for i in ids:
            pool.reset(i)
        returned = interrupted(lambda: pool.step(ids, x, wide), 5e-5)
        states = np.array([pool.state(i) for i in ids])
        assert (states == states[0, 0, 0]).all()
        assert states[0, 0, 0] in (returned, returned + 1)
        opened = []
        interrupted(lambda: (opened.append(pool.open()), pool.close(opened.pop())), 5e-5)  # noqa: B023
        assert len(pool) in (3, 4)
        for i in range(8):
            if i not in ids:
                with contextlib.suppress(ValueError):
                    pool.close(i)
        assert len(pool) == 3
    assert sorted(pool.open() for _ in range(5)) == sorted(set(range(8)) - set(ids))


@needs_timers
def test_interrupts_leave_a_tape_usable(interrupted):
    x = np.random.default_rng(0).standard_normal((6, 8)).astype(F)
    gru = cgru.GRU(8, 5, 2, rng=0)
    y, _, tape = gru.record(x)
    expected = tape.backward(y)
    tapes, within, again = [gru.record(x)[2]], False, 0

    def train():
        nonlocal within
        within = True
        tapes[-1].backward(y)
        within = False
        tapes.append(gru.record(x)[2])

    for _ in range(600):
        interrupted(train, 2e-4)
        if within:
            try:
                found = tapes[-1].backward(y)
            except RuntimeError as error:  # it came to its end
                assert "has used it up" in str(error)
            else:
                again += 1
                for name, gradient in expected.items():
                    np.testing.assert_array_equal(found[name], gradient)
        within, tapes[:] = False, [gru.record(x)[2]]
    assert again


def test_a_failure_after_the_outputs_leaves_the_state(monkeypatch):
    """process computes, and then fails."""
    for dtype in (np.float32, np.float64):
        stream = counter(6, dtype=dtype).stream()
        stream.process(np.ones((4, 8), dtype))
        for out in (None, np.empty((4, 6), dtype)):
            with monkeypatch.context() as patch:
                for way in ("run", "call"):
                    patch.setattr(HOST, way, fails_behind(getattr(HOST, way)))
                with pytest.raises(KeyboardInterrupt):
                    stream.process(np.ones((4, 8), dtype), out)
            assert (stream.state == 4).all()


# ----------------------------------------------------------------------------------------------------------------------
# Forks

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

FORK = """
import os, pickle, signal, sys, threading, time
import numpy as np
from tests.streams.test_concurrency import counter
hidden, layers, rows = {hidden}, {layers}, {rows}
gru = counter(hidden, layers)
pool, stream, big = gru.pool(rows), gru.stream(), gru.stream(batch_size=rows)
ids = [pool.open() for _ in range(rows)]
x, chunk = np.ones((rows, 8), np.float32), np.ones((3000, 8), np.float32)
work = {{
    "process": lambda: stream.process(chunk, num_threads=1),
    "step": lambda: big.step(x),
    "pool": lambda: pool.step(ids, x, num_threads=1),
}}["{what}"]
stop = threading.Event()

def loop():
    while not stop.is_set():
        work()

def whole(states):
    return (states == states.flat[0]).all()

thread = threading.Thread(target=loop)
thread.start()
failures = 0
for n in range({forks}):
    time.sleep(0.003 * np.random.random())
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a hanging child dies of it
        try:
            good = whole(stream.state) and whole(big.state) and whole(pool._states)
            good = good and stream.state.flat[0] % len(chunk) == 0
            before = stream.state.flat[0], big.state.flat[0], pool.state(0).flat[0]
            stream.process(chunk[:2]), stream.step(chunk[0]), big.step(x), pool.step(ids, x)
            after = stream.state.flat[0], big.state.flat[0], pool.state(0).flat[0]
            good = good and np.array_equal(np.subtract(after, before), [3, 1, 1])
            pickle.dumps(pool), pickle.dumps(stream), stream.reset(), pool.close(0)
            os._exit(0 if good else 1)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(2)
    failures += os.waitpid(child, 0)[1] != 0
stop.set()
thread.join()
print("failures", failures)
"""


@needs_fork
@pytest.mark.parametrize(
    ("what", "hidden", "layers", "rows", "forks"),
    [("process", 200, 1, 4, 30), ("step", 400, 3, 40, 40), ("pool", 8, 1, 20_000, 40)],
)
def test_a_fork_beside_a_busy_thread(what, hidden, layers, rows, forks):
    """In the child, what was busy is free, and its state is that before the call or after it."""
    code = FORK.format(what=what, hidden=hidden, layers=layers, rows=rows, forks=forks)
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert run.stdout.split() == ["failures", "0"], run.stderr


@needs_fork
def test_a_fork_within_a_call():
    """The one thread that lives on in the child still has what it took; what others took is free."""

    class Thing(Exclusive):
        @alone
        def fork(self, other):
            child = os.fork()
            if child:
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            try:
                self.touch()
            except RuntimeError:
                refused = []

                def touch():
                    try:
                        self.touch()
                    except RuntimeError:
                        refused.append(True)

                thread = threading.Thread(target=touch)
                thread.start()
                thread.join()
                other.touch()
                os._exit(0 if refused else 1)
            os._exit(2)

        @alone
        def touch(self):
            pass

    thing, other = Thing(), Thing()
    with held(other):
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, from Python 3.12 on
            assert thing.fork(other) == 0
    thing.touch()
