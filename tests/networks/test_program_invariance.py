"""Compiled networks beside ONNX Runtime and the specification, and the same bits in whatever way they run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cgru

from ..support import compiled, networks

SEEDS = st.integers(0, 2**20)
SEQUENCES = st.lists(st.sampled_from(networks.LOCAL + networks.OVER_TIME + networks.WHOLE), min_size=1, max_size=8)
STREAMS = st.lists(st.sampled_from(networks.LOCAL + networks.OVER_TIME), min_size=1, max_size=8)
FRAMES = st.lists(st.sampled_from(networks.FRAMES), min_size=1, max_size=8)
CHUNKS = st.lists(st.integers(1, 40), min_size=1, max_size=4)


def a_sequence(layers, seed, steps=5, batch=2):
    model = networks.sequence_model(layers, seed)
    x = np.random.default_rng(seed).standard_normal((batch, steps, 4)).astype(np.float32)
    compiled.as_specified(cgru.Network.from_onnx(model), {"x": x}, model)


def a_frame(layers, seed):
    model = networks.frame_model(layers, seed)
    x = np.random.default_rng(seed).standard_normal((1, 3, 5, 6)).astype(np.float32)
    net = cgru.Network.from_onnx(model)
    got = compiled.as_specified(net, {"x": x}, model)
    stream = net.stream()
    assert stream.process(x[None])[0].tobytes() == stream.step(x).tobytes() == next(iter(got.values())).tobytes()


def a_stream(layers, seed, chunks, batch):
    """Whole, stepped, in chunks, in a pool and beside other rows: the same bits."""
    net = cgru.Network.from_onnx(networks.sequence_model(layers, seed, batch="B" if batch > 1 else 1))
    if net.graph.steps is None:  # nothing runs over time
        return
    rng, steps = np.random.default_rng(seed), sum(chunks)
    x = {"x": rng.standard_normal((batch, steps, 4)).astype(np.float32)}
    whole = compiled.by_name(net, net(x))
    stream = net.stream(batch if batch > 1 else None)
    ways = {"chunks": (chunks, False), "one": ([steps], False), "steps": ([1] * steps, True)}
    for title, (lengths, by_step) in ways.items():
        got = compiled.streamed(stream, net, x, lengths, by_step)
        for name, array in whole.items():
            compiled.same(got[name], array, f"{title}, {name}")
    if batch > 1:
        alone = compiled.by_name(net, net({"x": x["x"][:1]}))
        for name, array in whole.items():
            compiled.same(alone[name], array[:1], f"alone, {name}")
        for row, frames in enumerate(compiled.pooled(net, x, rng, batch, steps)):
            for name, array in whole.items():
                delay = net.delay
                if net.graph.time[name] is None or array.shape[1] < steps - delay:
                    continue
                got = np.concatenate([np.expand_dims(frame[name], 1) for frame in frames], 1)
                compiled.same(got[:, delay:], array[row : row + 1, : steps - delay], f"pool, {name}")


@settings(max_examples=20)
@given(SEQUENCES, SEEDS)
def test_sequence_graphs(layers, seed):
    a_sequence(layers, seed)


@settings(max_examples=20)
@given(FRAMES, SEEDS)
def test_frame_graphs(layers, seed):
    a_frame(layers, seed)


@settings(max_examples=20)
@given(STREAMS, SEEDS, CHUNKS, st.sampled_from([1, 2, 5, 70]))
def test_streams(layers, seed, chunks, batch):
    a_stream(layers, seed, chunks, batch)


@pytest.mark.long
@settings(max_examples=500)
@given(SEQUENCES, FRAMES, STREAMS, SEEDS, CHUNKS, st.integers(1, 70))
def test_many(sequences, frames, streams, seed, chunks, batch):
    a_sequence(sequences, seed, 1 + seed % 7, 1 + seed % 3)
    a_frame(frames, seed)
    a_stream(streams, seed, chunks, batch)
