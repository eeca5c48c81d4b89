"""Streams and pools of networks while something else happens: interrupts, failures, threads, forks, other rows."""

import os
import signal
import threading
import tracemalloc

import numpy as np
import pytest

import cgru

from ..support import compiled
from ..support.concurrency import held
from ..support.networks import Net
from .test_network_streams import (
    F,
    at,
    conv,
    frame_graph,
    given,
    gru,
    longer,
    looking_ahead,
    numbers,
    same_states,
    simple,
    started,
)

# --- What comes in between --------------------------------------------------------------------------------------------


class RungError(Exception):
    """What the handler of the alarm raises."""


def ring(*_):
    raise RungError


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that send signals")
def test_an_interrupt_leaves_a_stream_as_it_was():
    """The alarm rings while compiled code runs: behind it Python raises, and the chunk has not been."""
    net = Net(0)
    y, _ = gru(net, conv(net, net.input("x", ["T", "B", 64]), 64, 2, 0), 3, 256)
    net = cgru.Network.from_onnx(net.model(y))
    stream, x = net.stream(1), np.broadcast_to(numbers(1, 1, 64), (200_000, 1, 64))
    stream.process(numbers(5, 1, 64))
    before, found = stream.state, signal.signal(signal.SIGALRM, ring)
    try:
        for call in (stream.process, net):
            for delay in (0.005, 0.1):
                signal.setitimer(signal.ITIMER_REAL, delay)
                with pytest.raises(RungError):
                    call(x)
                same_states(stream.state, before)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, found)


def test_a_failure_behind_the_program_leaves_states_as_they_were(monkeypatch):
    """As an interrupt that comes when all rows have gone on by a chunk; a single frame is one act."""
    net = started()
    x = given(net, 100)
    stream, pool = net.stream(2), net.pool(3)
    ids = [pool.open() for _ in range(2)]
    for t in range(3):
        stream.step(at(net, x, t))
        pool.step(ids, at(net, x, t))

    def fails(self, *arguments):
        super(type(self), self).advance(*arguments)
        raise KeyboardInterrupt

    calls = (
        lambda t: stream.process({key: compiled.frames(net, key, array, t, 9) for key, array in x.items()}),
        lambda t: stream.flush(),
    )
    for t in range(3, 90):  # so that windows are moved now and then
        kept, pooled = stream.state, [pool.state(i) for i in ids]
        with monkeypatch.context() as patch:
            for owner in (type(stream), type(pool)):
                patch.setattr(owner, "advance", fails, raising=False)
            for call in calls:
                with pytest.raises(KeyboardInterrupt):
                    call(t)
        same_states(stream.state, kept)
        for i, state in zip(ids, pooled, strict=True):
            same_states(pool.state(i), state)
        expected = stream.copy().step(at(net, x, t))
        for got in (stream.step(at(net, x, t)), pool.step(ids, at(net, x, t))):
            for key, array in got.items():
                compiled.same(array, expected[key], key)


def test_one_thread_at_a_time():
    net = simple()
    stream, pool = net.stream(2), net.pool(2)
    ids = [pool.open(), pool.open()]
    x = numbers(2, 4)
    for owner, calls in (
        (stream, [lambda: stream.step(x), lambda: stream.process(x[None]), stream.flush, stream.reset, stream.copy]),
        (pool, [lambda: pool.step(ids, x), pool.open, lambda: pool.state(0), lambda: pool.reset(0), pool.copy]),
    ):
        before = owner.state if owner is stream else owner.state(0)
        with held(owner):
            for call in calls:
                with pytest.raises(RuntimeError, match="in use by another thread"):
                    call()
        same_states(owner.state if owner is stream else owner.state(0), before)


def in_threads(work, count=4):
    found, threads = [None] * count, []

    def run(i):
        try:
            found[i] = work(i)
        except BaseException as error:
            found[i] = error

    for i in range(count):
        threads.append(threading.Thread(target=run, args=(i,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


def test_threads_share_a_network():
    """Calls of different lengths and batches, streams of their own, networks that are compiled for each length."""
    net, mixed = simple(), Net(1)
    x = mixed.input("x", ["T", "B", 4])
    whole = cgru.Network.from_onnx(
        mixed.model(mixed.op("Sub", x, mixed.op("ReduceMean", gru(mixed, x, 4, 4)[0], axes=[0])))
    )
    given = [numbers(5 + i, 1 + i, 4) for i in range(12)]
    expected = [(net(x), whole(x)) for x in given]

    def work(i):
        for k in range(60):
            j = (i * 5 + k) % 12
            compiled.same(net(given[j], num_threads=1 + k % 3), expected[j][0])
            compiled.same(whole(given[j]), expected[j][1])
            compiled.same(net.stream(1 + j).process(given[j]), expected[j][0])

    in_threads(work)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_goes_on():
    net = simple()
    stream, x = net.stream(2), numbers(40, 2, 4)
    big, many = net(numbers(300, 64, 4), num_threads=3), numbers(300, 64, 4)
    whole = net(x)
    compiled.same(stream.process(x[:20]), whole[:20])
    expected = net(many, num_threads=3)
    child = os.fork()
    if child == 0:
        good = np.array_equal(stream.process(x[20:]), whole[20:]) and np.array_equal(net(many, num_threads=3), expected)
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    compiled.same(stream.process(x[20:]), whole[20:])
    assert big.shape == expected.shape


# --- Rows and threads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 7, 8, 16, 31, 64, 65, 70])
def test_rows_do_not_touch_each_other(batch):
    """NaN and infinities beside a row, other rows, other numbers of threads: the same bits."""
    for make in (simple, looking_ahead, longer):
        net = make()
        x = np.random.default_rng(batch).standard_normal((20, batch, 4)).astype(F)
        expected = [compiled.by_name(net, net(x[:, b : b + 1])) for b in range(batch)]
        x[:, 1::3] = np.nan
        x[:, 2::5] = np.inf
        for threads in (1, 2, 3):
            got = compiled.by_name(net, net(x, num_threads=threads))
            stream = compiled.streamed(net.stream(batch), net, {"x": x}, [7, 13])
            for key, array in got.items():
                axis = net.graph.shapes[key].index("B")
                for b in range(batch):
                    if np.isfinite(x[:, b]).all():
                        compiled.same(array.take([b], axis), expected[b][key], key)
                        compiled.same(stream[key].take([b], axis), expected[b][key], key)


def large():
    """Work enough for several threads."""
    net = Net(7)
    y, last = gru(net, conv(net, net.input("x", ["T", "B", 40]), 40, 4, 1), 3, 64)
    return cgru.Network.from_onnx(net.model(net.op("MatMul", y, net.weight(64, 50)), last))


@pytest.mark.parametrize("batch", [2, 5, 9, 70])
def test_threads_share_rows(batch):
    net = large()
    x = {"x": np.random.default_rng(batch).standard_normal((40, batch, 40)).astype(F)}
    expected = net(x, num_threads=1)
    for threads in (2, 3, 7):
        for got in (net(x, num_threads=threads), compiled.streamed(net.stream(batch), net, x, [25, 15])):
            for key, array in expected.items():
                compiled.same(got[key], array, key)


def test_threads_share_a_pools_streams():
    net, rng = large(), np.random.default_rng(0)
    pools = [net.pool(200) for _ in range(3)]
    for pool in pools:
        for _ in range(200):
            pool.open()
    for _ in range(30):
        ids = rng.permutation(200)[: rng.integers(1, 201)]
        x = numbers(len(ids), 40)
        got = [pool.step(ids, x, num_threads=threads) for threads, pool in enumerate(pools, 1)]
        for other in got[1:]:
            for key, array in got[0].items():
                compiled.same(other[key], array, key)


# --- Memory -----------------------------------------------------------------------------------------------------------


def test_a_step_allocates_nothing():
    for make in (simple, frame_graph):
        net = make()
        stream = net.stream()
        x = numbers(*([1, 4] if make is simple else [1, 2, 6]))
        out = np.empty_like(stream.step(x))
        for _ in range(20):
            stream.step(x, out=out)
        tracemalloc.start()
        stream.step(x, out=out)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(200):
            stream.step(x, out=out)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak - before < 200, peak - before
