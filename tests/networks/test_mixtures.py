"""Random mixtures of operators, compiled: beside the specification and ONNX Runtime, and over time in every way."""

import numpy as np
import pytest

import cgru

from ..support import compiled, mixtures


def a_frame(seed, peer):
    model, given = mixtures.frame_model(seed)
    try:
        net = cgru.Network.from_onnx(model)
    except cgru.FormatError as error:
        assert "axes beside time and batch" in str(error), seed
        return False
    compiled.as_specified(net, given, model if peer else None)
    return True


def a_sequence(seed, peer):
    """How many ways it ran in."""
    model, rng = mixtures.sequence_model(seed), np.random.default_rng(seed)
    try:
        net = cgru.Network.from_onnx(model)
    except cgru.FormatError as error:
        assert "broadcast" in str(error) or "one dynamic axis" in str(error), seed  # sequences of two lengths, or none
        return 0
    steps, batch = int(rng.integers(8, 80)), 3
    given = {
        name: rng.standard_normal([{"T": steps, "B": batch}.get(size, size) for size in shape]).astype(np.float32)
        for name, shape in net.inputs.items()
    }
    whole = compiled.as_specified(net, given, model if peer else None)
    if net.graph.steps != "T":  # nothing tells which axis is time
        return 1
    try:
        stream = net.stream(batch if net.graph.batch else None)
    except ValueError as error:
        assert "frames before the first one" in str(error), seed
        return 1
    lengths = np.diff([0, *sorted(rng.choice(steps - 1, 3, replace=False) + 1), steps]).tolist()
    for way, by_step in ((lengths, False), ([steps], False), ([1] * steps, True)):
        got = compiled.streamed(stream, net, given, way, by_step)
        for name, array in whole.items():
            compiled.same(got[name], array, f"{seed}, {name}, {way[:4]}")
    return 4


def test_frames():
    assert sum(a_frame(seed, seed % 20 == 0) for seed in range(300)) > 280


def test_sequences():
    assert sum(a_sequence(seed, seed % 10 == 0) == 4 for seed in range(80)) > 55


@pytest.mark.long
def test_many():
    assert sum(a_frame(seed, seed % 20 == 0) for seed in range(300, 6000)) > 5000
    assert sum(a_sequence(seed, seed % 20 == 0) == 4 for seed in range(80, 2000)) > 1300
