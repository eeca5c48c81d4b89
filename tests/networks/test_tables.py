"""Embeddings before a GRU: its input products are a table, where that is no larger than the weights it stands for."""

import numpy as np
import pytest

import cgru
from cgru import nodes

from ..support import compiled

ROWS, HIDDEN = 20, 24


def network(rng, inputs, rows=ROWS, **options):
    gru = cgru.GRU(inputs, HIDDEN, **options)
    table = rng.standard_normal((rows, inputs)).astype(np.float32)
    return cgru.Network([nodes.Embedding(rows, inputs, weight=table), gru]), gru, table


def steps_of(net):
    return net.runner.whole(4, 1).compiled.program.steps


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reset_after": False},
        {"bidirectional": True},
        {"bidirectional": True, "merge": "sum"},
        {"bidirectional": True, "num_layers": 2},
        {"num_layers": 2, "batch_first": True},
        {"bias": False},
        {"reverse": True},
        {"activation": "relu"},
    ],
    ids=str,
)
@pytest.mark.parametrize("inputs", [20, 37])
def test_the_bits_are_those_of_the_inputs(options, inputs):
    rng = np.random.default_rng(inputs)
    net, gru, table = network(rng, inputs, **options)
    steps = steps_of(net)
    assert [step.made for step in steps if step.kind == "recurrent"][: (1 + gru.bidirectional)] == [True] * (
        1 + gru.bidirectional
    )
    assert sum(step.kind == "lookup" for step in steps) == (
        1 + gru.bidirectional
    )  # the rows themselves are read by nobody
    shape = (3, 7) if gru.batch_first else (7, 3)
    x = rng.integers(-ROWS, ROWS, shape)
    expected, _ = gru(table[x])
    compiled.same(net(x), expected)
    compiled.same(net(x, num_threads=2), expected)


def test_streams_pools_and_fewer_bits():
    rng = np.random.default_rng(1)
    net, gru, table = network(rng, 32)
    x = rng.integers(0, ROWS, (9, 2))
    whole = net(x)
    stream, pool = net.stream(2), net.pool(2)
    ids = [pool.open(), pool.open()]
    for t, frame in enumerate(x):
        compiled.same(stream.step(frame), whole[t])
        compiled.same(pool.step(ids, frame), whole[t])
    half = net.quantize("bfloat16")
    compiled.same(half(x), gru.quantize("bfloat16")(table[x])[0])
    assert any(step.made for step in steps_of(half))
    small = net.quantize("int8")  # rounds inputs row by row: no table
    assert not any(step.made for step in steps_of(small))


def test_what_has_no_table():
    rng = np.random.default_rng(2)
    assert not any(step.made for step in steps_of(network(rng, ROWS - 1)[0]))  # larger than what it stands for
    net = cgru.Network([nodes.Linear(32, 32), cgru.GRU(32, HIDDEN)])
    assert not any(step.made for step in net.runner.whole(1, 1).compiled.program.steps)


def test_an_index_beyond_the_table():
    net, *_ = network(np.random.default_rng(3), 32)
    with pytest.raises(ValueError, match="expected"):
        net(np.full((2, 1), ROWS))
