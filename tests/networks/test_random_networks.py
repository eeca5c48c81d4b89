"""Random networks: whole beside ONNX Runtime, and stepped, in chunks, beside whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgru.formats.onnx.network import from_onnx
from cgru.model.interpret import run
from cgru.model.stepping import Stream

from ..support import networks, onnx_graphs

SEEDS = st.integers(0, 2**20)
SEQUENCES = st.lists(st.sampled_from(networks.LOCAL + networks.OVER_TIME + networks.WHOLE), min_size=1, max_size=8)
STREAMS = st.lists(st.sampled_from(networks.LOCAL + networks.OVER_TIME), min_size=1, max_size=8)
FRAMES = st.lists(st.sampled_from(networks.FRAMES), min_size=1, max_size=8)


def same_as_onnxruntime(model, graph, inputs):
    session = onnx_graphs.session(model)
    expected = dict(zip([value.name for value in session.get_outputs()], session.run(None, inputs), strict=True))
    for dtype in (np.float64, np.float32):
        got, _ = run(graph, inputs, dtype=dtype)
        for name, array in got.items():
            assert array.shape == expected[name].shape
            scale = max(1, np.abs(expected[name]).max(initial=0))
            np.testing.assert_allclose(array / scale, expected[name] / scale, atol=2e-5, rtol=0)


def a_sequence(layers, seed):
    model = networks.sequence_model(layers, seed)
    x = np.random.default_rng(seed).standard_normal((2, 5, 4)).astype(np.float32)
    same_as_onnxruntime(model, from_onnx(model), {"x": x})


def a_frame(layers, seed):
    model = networks.frame_model(layers, seed)
    x = np.random.default_rng(seed).standard_normal((1, 3, 5, 6)).astype(np.float32)
    same_as_onnxruntime(model, from_onnx(model), {"x": x})


def a_stream(layers, seed, chunks, batch):
    """Steps and chunks of any length, put together, are the whole; the first `delay` frames are zeros."""
    graph = from_onnx(networks.sequence_model(layers, seed, batch="B" if batch > 1 else 1))
    if graph.steps is None:  # nothing runs over time
        return
    x = np.random.default_rng(seed).standard_normal((batch, sum(chunks), 4))
    whole, _ = run(graph, {"x": x})
    stream = Stream(graph, batch_size=batch)
    assert stream.delay == graph.delay
    for way in (chunks, [1] * sum(chunks)):
        stream.reset()
        pieces = []
        for piece in np.split(x, np.cumsum(way)[:-1], axis=1):
            if piece.shape[1] == 1:
                pieces.append({k: v[:, None] for k, v in stream.step({"x": piece[:, 0]}).items()})
            else:
                pieces.append(stream.process({"x": piece}))
        pieces.append(stream.flush())
        for name, array in whole.items():
            got = np.concatenate([piece[name] for piece in pieces], axis=1)
            silent = min(graph.delay, sum(chunks))
            assert not got[:, :silent].any()
            np.testing.assert_allclose(got[:, silent:], array, atol=1e-12)


@given(SEQUENCES, SEEDS)
def test_sequence_graphs(layers, seed):
    a_sequence(layers, seed)


@given(FRAMES, SEEDS)
def test_frame_graphs(layers, seed):
    a_frame(layers, seed)


@given(STREAMS, SEEDS, st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 2))
def test_streams(layers, seed, chunks, batch):
    a_stream(layers, seed, chunks, batch)


@given(SEQUENCES.filter(lambda layers: len(layers) > 1), SEEDS)
def test_shape_arithmetic_vanishes(layers, seed):
    """Nothing that only looks at shapes is left."""
    graph = from_onnx(networks.sequence_model(layers, seed))
    left = {node.operator for node in graph.nodes}
    assert not left & {"Shape", "ConstantOfShape", "Identity", "Unsqueeze", "Gather"}
    assert all(array.dtype.kind in "fiub" for array in graph.constants.values())


@pytest.mark.long
@settings(max_examples=500)
@given(SEQUENCES, FRAMES, STREAMS, SEEDS)
def test_many(sequences, frames, streams, seed):
    a_sequence(sequences, seed)
    a_frame(frames, seed)
    a_stream(streams, seed, [1 + seed % 3, 2, 1 + seed % 5], 1 + seed % 2)
