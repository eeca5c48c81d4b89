"""Gradients of calls in which sequences start anew: by differences, and the engine's against the specification's."""

import numpy as np
import pytest

import cgru

from ..support.matrix import thinned
from ..support.options import DIRECTIONS, KINDS, WAYS_OF_TIME, Problem, points
from .test_training import Gradients, check, directional_error

WAYS = [*points("reset_after", "num_layers", "bidirectional", "batch_first"), *DIRECTIONS, *KINDS.values()]
KINDS_OF_MODELS = [cgru.GRU, cgru.MinGRU]
STARTS = ["zero", "h0"]


@thinned(2, kind=KINDS_OF_MODELS, ragged=[False, True], resets_to=STARTS)
def test_specification_by_differences(kind, ragged, resets_to):
    for options in WAYS if kind is cgru.GRU else [{}, *WAYS_OF_TIME]:
        problem = Problem(
            options | {"batch_first": False}, steps=6, hidden=5, inputs=3, ragged=ragged, kind=kind, resets_to=resets_to
        )
        assert problem.resets.any()
        assert directional_error(Gradients(problem)) < 1e-7, options


@thinned(
    3,
    kind=KINDS_OF_MODELS,
    memory=[None, 0, 2000],
    dtype=[np.float64, np.float32],
    ragged=[False, True],
    resets_to=STARTS,
)
def test_engine_equals_specification(kind, memory, dtype, ragged, resets_to):
    for options in WAYS if kind is cgru.GRU else [{}, *WAYS_OF_TIME]:
        for batch in (1, 5):
            problem = Problem(
                options, steps=9, batch=batch, hidden=9, ragged=ragged, dtype=dtype, kind=kind, resets_to=resets_to
            )
            check(problem, memory)


@pytest.mark.parametrize("resets_to", STARTS)
def test_threads(resets_to):
    check(Problem({}, 40, 24, 30, 110, True, np.float32, resets_to=resets_to), num_threads=2)


def test_dropout_is_between_the_layers_alone():
    """The same masks drop with resets as without: where nothing starts anew, all is as it was."""
    gru = cgru.GRU(3, 8, num_layers=2, dropout=0.5, rng=0, dtype=np.float64)
    x, resets = np.random.default_rng(0).standard_normal((6, 2, 3)), np.zeros((6, 2), bool)
    resets[4, 1] = True
    whole, _, _ = gru.record(x, rng=1)
    y, _, _ = gru.record(x, resets=resets, rng=1)
    assert np.array_equal(y[:, 0], whole[:, 0])
    assert np.array_equal(y[:4], whole[:4])
    assert not np.allclose(y[4:, 1], whole[4:, 1])


def test_no_gradient_goes_back_past_a_restart():
    gru = cgru.GRU(3, 8, rng=0, dtype=np.float64)
    x, resets = np.random.default_rng(0).standard_normal((6, 2, 3)), np.zeros((6, 2), bool)
    resets[3, 0] = True
    for resets_to in ("zero", "h0"):
        _, h_n, tape = gru.record(x, np.ones((1, 2, 8)), resets=resets, resets_to=resets_to)
        grads = tape.backward(None, np.ones_like(h_n))
        assert not grads.x[:3, 0].any()
        assert grads.x[3:, 0].all()
        assert grads.x[:, 1].all()
        assert grads.h0[0, 0].any() == (resets_to == "h0")
