"""Threads that run a network's blocks together: the same bits on any number, and calls that end whatever happens."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cgru
from cgru import _packed, nodes

from ..support import compiled, networks
from ..support.networks import Net

F = np.float32
THREADS = (2, 3, 5)
WAYS = ("rows", "units", "measured")


@pytest.fixture(autouse=True)
def as_measured():
    yield
    _packed.share("measured")


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(F)


def in_all_ways(call, title="", shares=True):
    """Whatever `call(threads)` returns, on several threads in each way, has the bits that it has on one.

    `shares`: calls are to run on threads wherever ways are forced.
    """
    _packed.share("none")
    expected = call(1)
    for way in WAYS:
        _packed.share(way)
        for threads in THREADS:
            before = _packed.counts()[0]
            got = call(threads)
            for name, array in expected.items():
                compiled.same(got[name], array, f"{title} {way}, {threads} threads, {name}")
            if shares and way != "measured":
                assert _packed.counts()[0] > before, f"{title} {way}: ran on one thread"


# --- Networks of every kind -------------------------------------------------------------------------------------------


def keyword():
    """Windows of its own over time, a small layer."""
    return [
        nodes.Conv1d(6, 20, 3, padding="causal", activation="relu", rng=0),
        nodes.Conv1d(20, 24, 3, padding="causal", dilation=2, activation="relu", rng=1),
        cgru.GRU(24, 24, rng=2),
        nodes.Linear(24, 12, activation="softmax", rng=3),
    ]


def ahead():
    """A delay, norms, states that do not move beyond the edges."""
    return [
        nodes.Conv1d(6, 30, 5, padding="same", activation="tanh", rng=0),
        nodes.LayerNorm(30),
        cgru.GRU(30, 40, 2, reset_after=False, rng=1),
        nodes.Conv1d(40, 9, 3, padding="same", rng=2),
    ]


def both_ways():
    """Two directions: it runs whole, its frames being a block of one."""
    return [
        nodes.Linear(6, 33, activation="relu", rng=0),
        cgru.GRU(33, 40, bidirectional=True, rng=1),
        cgru.GRU(80, 20, bidirectional=True, reset_after=False, rng=2),
        nodes.Linear(40, 17, activation="tanh", rng=3),
    ]


def backwards():
    """Outputs enough that threads share them where there is one frame, and a function behind them."""
    wide = nodes.Linear(33, 150, activation="sigmoid", rng=2)
    return [cgru.MinGRU(6, 50, rng=0), cgru.GRU(50, 33, reverse=True, rng=1), wide]


LISTS = {"keyword": keyword, "ahead": ahead, "both ways": both_ways, "backwards": backwards}


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("precision", [None, "int8", "bfloat16"])
@pytest.mark.parametrize("name", LISTS)
def test_sequences(name, precision, batch):
    net = cgru.Network(LISTS[name]())
    net = net.quantize(precision) if precision else net
    for steps in (1, 70, 150):
        x = numbers(steps, batch, 6, seed=steps)
        in_all_ways(lambda threads, x=x: {"y": net(x, num_threads=threads)}, f"{name}, {steps} steps,")


def attention(net, x):
    """Products of data, a softmax over all time, a mean over it."""
    a, b = (net.op("MatMul", x, net.weight(6, 16)) for _ in range(2))
    weights = net.op("Softmax", net.op("MatMul", a, net.op("Transpose", b, perm=[0, 2, 1])), axis=-1)
    y = net.op("MatMul", weights, b)
    centred = net.op("Sub", y, net.op("ReduceMean", y, axes=[1]))
    pooled = net.op("MaxPool", net.op("Transpose", centred, perm=[0, 2, 1]), kernel_shape=[3], strides=[2])
    return pooled, net.op("ReduceMax", centred, axes=[2])


@pytest.mark.parametrize("batch", [1, 2])
def test_attention(batch):
    net = Net(0)
    whole = cgru.Network.from_onnx(net.model(*attention(net, net.input("x", ["B", "T", 6]))))
    assert whole.runner.obstacles
    for steps in (5, 90):
        x = numbers(batch, steps, 6)
        in_all_ways(lambda threads, x=x: whole(x, num_threads=threads), f"{steps} steps,")


def test_a_batch_that_mixes():
    """Rows that depend on each other are lines of one frame."""
    net = Net(1)
    x = net.input("x", ["T", "B", 6])
    y = net.op("Sub", x, net.op("ReduceMean", x, axes=[1]))
    y, _ = net.op("GRU", y, net.weight(1, 120, 6), net.weight(1, 120, 40), outputs=2, hidden_size=40)
    mixed = cgru.Network.from_onnx(net.model(y))
    for batch in (1, 2, 9):
        x = numbers(20, batch, 6)
        in_all_ways(lambda threads, x=x: {"y": mixed(x, num_threads=threads)}, f"batch {batch},", batch < 5)


def test_frames_of_images():
    """A frame graph: one call is one frame."""
    for seed in range(6):
        net = cgru.Network.from_onnx(networks.frame_model(networks.FRAMES[seed::6], seed))
        x = numbers(1, 3, 5, 6, seed=seed)
        in_all_ways(lambda threads, x=x, net=net: compiled.by_name(net, net(x, num_threads=threads)))


@settings(max_examples=15)
@given(
    st.lists(st.sampled_from(networks.LOCAL + networks.OVER_TIME + networks.WHOLE), min_size=1, max_size=7),
    st.integers(0, 2**20),
    st.sampled_from([1, 2, 40, 130]),
    st.sampled_from([1, 2, 4]),
)
def test_random_networks(layers, seed, steps, batch):
    net = cgru.Network.from_onnx(networks.sequence_model(layers, seed))
    x = numbers(batch, steps, 4, seed=seed)
    in_all_ways(lambda threads: compiled.by_name(net, net(x, num_threads=threads)))


# --- Streams and pools ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["keyword", "ahead"])
def test_chunks(name, batch):
    """Chunks of a stream are shared, too, from a million operations on; windows move between them."""
    net = cgru.Network(LISTS[name]())
    x = numbers(500, batch, 6)

    def call(threads):
        stream = net.stream(batch)
        parts = [stream.process(part, num_threads=threads) for part in np.split(x, [200, 201, 430])]
        return {"y": np.concatenate([*parts, stream.flush()])[net.delay :], **stream.state}

    in_all_ways(call)


@pytest.mark.parametrize("rows", [1, 2, 5, 20])
def test_steps_of_a_pool(rows):
    net = cgru.Network(keyword())
    x = numbers(12, rows, 6)

    def call(threads):
        pool = net.pool(20)
        ids = [pool.open() for _ in range(rows)]
        return {str(t): pool.step(ids, frame, num_threads=threads) for t, frame in enumerate(x)}

    in_all_ways(call)


# --- What comes in between --------------------------------------------------------------------------------------------


def test_an_index_out_of_range():
    """All threads leave where one has met it, and the next call is as any."""
    net = Net(2)
    x = net.input("x", ["T", "B", 4])
    index = net.op("Cast", net.op("ReduceSum", x, net.constant(np.array([2])), keepdims=0), to=7)
    table = cgru.Network.from_onnx(net.model(net.op("Gather", net.weight(5, 8), index)))
    good = np.zeros((200, 2, 4), F)
    good[::3, 0, 0] = 4
    bad = good.copy()
    bad[130, 1, 2] = 7
    expected = table(good, num_threads=1)
    for way in WAYS:
        _packed.share(way)
        for threads in (1, *THREADS):
            with pytest.raises(ValueError, match="expected indices within its table"):
                table(bad, num_threads=threads)
            compiled.same(table(good, num_threads=threads), expected)


class RungError(Exception):
    """What the handler of the alarm raises."""


def ring(*_):
    raise RungError


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that send signals")
@pytest.mark.parametrize(("way", "threads"), [("none", 1), ("units", 2), ("units", 3), ("rows", 2), ("rows", 5)])
@pytest.mark.parametrize("whole", [False, True])
def test_interrupts(whole, way, threads):
    """Also within a block: a network that runs whole is one."""
    layers = [nodes.Linear(3, 256, rng=0), cgru.GRU(256, 256, bidirectional=whole, rng=1)]
    net, steps = cgru.Network(layers), 30_000 if whole else 300_000
    x = np.broadcast_to(numbers(1, 1, 3), (steps, 1, 3))
    net.runner.whole(steps, 1)  # compiled before the alarm is set
    _packed.share(way)
    before = signal.signal(signal.SIGALRM, ring)
    start, own = time.perf_counter(), time.process_time()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.15)
        with pytest.raises(RungError):
            net(x, num_threads=threads)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert min(time.perf_counter() - start, time.process_time() - own) < 0.15 + 0.5  # it would take a second or more
    x = numbers(40, 1, 3)
    _packed.share("none")
    expected = net(x)
    _packed.share(way)
    compiled.same(net(x, num_threads=threads), expected)


FEWER = """
import numpy as np, cgru
from cgru import _packed, nodes
net = cgru.Network([nodes.Linear(6, 40, rng=0), cgru.GRU(40, 40, rng=1), nodes.Linear(40, 8, rng=2)])
both = cgru.Network([cgru.GRU(6, 40, bidirectional=True, rng=1)])
x = np.random.default_rng(0).standard_normal((150, 1, 6)).astype(np.float32)
for one in (net, both):
    expected = one(x, num_threads=1)
    for way in ("rows", "units"):
        _packed.share(way)
        assert np.array_equal(one(x, num_threads=3), expected)
assert _packed.counts()[0] == 0, _packed.counts()
"""


def test_fewer_threads_than_asked_for():
    """Where OpenMP gives no third thread, a call runs on one."""
    environment = {**os.environ, "OMP_THREAD_LIMIT": "2"}
    run = subprocess.run([sys.executable, "-c", FEWER], env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
