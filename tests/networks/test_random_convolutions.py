"""Random convolutional networks over time and bands, beside ONNX Runtime and float64; the same bits in whatever way they run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cgru
from cgru.model.interpret import run

from ..support import compiled, convolutional, onnx_graphs

SEEDS = st.integers(0, 2**20)
LAYERS = st.lists(st.sampled_from(convolutional.LAYERS), min_size=1, max_size=7)
CHUNKS = st.lists(st.integers(1, 30), min_size=1, max_size=4)
F = np.float32


def a_sequence(layers, seed, chunks, batch=1):
    """Whole beside ONNX Runtime and the specification; steps, chunks, rows alone and a pool to the last bit as the whole."""
    model, _ = convolutional.model(layers, seed, batch="B" if batch > 1 else 1)
    net, steps = cgru.Network.from_onnx(model), sum(chunks)
    rng = np.random.default_rng(seed)
    x = {"x": rng.standard_normal((batch, net.inputs["x"][1], steps, net.inputs["x"][3])).astype(F)}
    whole = compiled.as_specified(net, x, model)
    if net.graph.steps is None:  # nothing runs over time
        return
    stream = net.stream(batch if batch > 1 else None)
    for title, (lengths, by_step) in {
        "chunks": (chunks, False), "one": ([steps], False), "steps": ([1] * steps, True)
    }.items():  # fmt: skip
        got = compiled.streamed(stream, net, x, lengths, by_step)
        stream.reset()
        compiled.same(got["y"], whole["y"], title)
    compiled.same(compiled.by_name(net, net(x, num_threads=2))["y"], whole["y"], "threads")
    for row in range(batch if batch > 1 else 0):
        compiled.same(compiled.by_name(net, net({"x": x["x"][row : row + 1]}))["y"], whole["y"][row : row + 1], "alone")
    rows = compiled.pooled(net, x, rng, batch, steps) if batch > 1 else []
    for row, frames in enumerate(rows):
        got = np.stack([frame["y"] for frame in frames], 2)[:, :, net.delay :]
        compiled.same(got, whole["y"][row : row + 1, :, : max(0, steps - net.delay)], "pool")


def a_frame(layers, seed, steps):
    """Frame by frame beside ONNX Runtime, whose caches are handed on, and float64; chunks and pools to the last bit."""
    model, states = convolutional.model(layers, seed, frame=True)
    net, session = cgru.Network.from_onnx(model, states=states), onnx_graphs.session(model)
    rng, names = np.random.default_rng(seed), [value.name for value in session.get_outputs()]
    frames = rng.standard_normal((steps, *net.inputs["x"])).astype(F)
    caches = {name: np.zeros(shape, F) for name, shape in net.states.items()}
    taken = {value.name for value in session.get_inputs()}
    stream, kept, found = net.stream(), None, []
    for frame in frames:
        found.append(stream.step(frame).copy())
        given = {name: array for name, array in {"x": frame, **caches}.items() if name in taken}
        expected = dict(zip(names, session.run(None, given), strict=True))
        caches = {name: expected[states[name]] for name in caches}
        precise, kept = run(net.graph, {"x": frame.astype(np.float64)}, kept, dtype=np.float64)
        compiled.near(found[-1], precise["y"], "float64")
        compiled.near(found[-1], expected["y"], "ONNX Runtime")
    whole = np.stack(found)
    compiled.same(net(frames[0]), whole[0], "whole")
    compiled.same(net.stream().process(frames), whole, "chunk")
    if net.states:
        pool, at = net.pool(3), np.zeros(3, int)
        ids = [pool.open() for _ in at]
        while (at < steps).any():
            waiting = np.flatnonzero(at < steps)
            chosen = rng.permutation(waiting)[: rng.integers(1, len(waiting) + 1)]
            got = pool.step([ids[k] for k in chosen], frames[at[chosen], 0])
            compiled.same(got, whole[at[chosen], 0].reshape(got.shape), "pool")
            at[chosen] += 1


@settings(max_examples=25)
@given(LAYERS, SEEDS, CHUNKS)
def test_sequences(layers, seed, chunks):
    a_sequence(layers, seed, chunks)


@settings(max_examples=15)
@given(LAYERS, SEEDS, CHUNKS, st.sampled_from([2, 5, 17]))
def test_batches(layers, seed, chunks, batch):
    a_sequence(layers, seed, chunks, batch)


@settings(max_examples=25)
@given(LAYERS, SEEDS, st.integers(1, 8))
def test_frames_with_caches(layers, seed, steps):
    a_frame(layers, seed, steps)


@pytest.mark.long
@settings(max_examples=1000)
@given(LAYERS, SEEDS, CHUNKS, st.integers(1, 33))
def test_many(layers, seed, chunks, batch):
    a_sequence(layers, seed, chunks)
    a_sequence(layers, seed, chunks, batch)
    a_frame(layers, seed, 1 + sum(chunks) % 12)
