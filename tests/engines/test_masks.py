"""Masks: the specification beside Keras, every engine beside the specification, and what a mask is not."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cgru
from cgru import reference

from ..support.keras_models import KERAS_WARNINGS, keras, output, randomized
from ..support.options import Problem, relative_error

L = keras.layers
HOLES = np.array(
    [
        [1, 1, 1, 1, 1, 1],  # nothing left out
        [1, 1, 1, 0, 0, 0],  # the end
        [0, 0, 1, 1, 1, 1],  # the beginning
        [0, 1, 0, 0, 1, 0],  # both, and a hole
        [1, 0, 1, 0, 1, 1],
        [0, 0, 0, 0, 0, 0],  # everything
    ],
    bool,
)  # (B, T)


@pytest.mark.filterwarnings(*KERAS_WARNINGS)
@pytest.mark.parametrize("mask_output", ["repeat", "zero"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_equals_keras(mask_output, bidirectional, num_layers):
    gru = cgru.GRU(3, 4, num_layers, bidirectional=bidirectional, batch_first=True, rng=0)
    x = np.random.default_rng(1).standard_normal((6, 6, 3)).astype(np.float32)
    layers = gru.to_keras()
    layers = [layers] if num_layers == 1 else layers.layers
    y = x
    for layer in layers:
        parts = [layer.forward_layer, layer.backward_layer] if bidirectional else [layer]
        for part in parts:
            assert (
                part.zero_output_for_mask == bidirectional
            )  # a Bidirectional's layers give zeros unless told otherwise
            part.zero_output_for_mask = mask_output == "zero"
            part.return_state = True
        layer.return_state = True
        y, *states = layer(y, mask=HOLES)
    parameters, options = gru.state_dict(), {"mask": HOLES.T, "mask_output": mask_output}
    expected, h_n = reference.forward(x.swapaxes(0, 1), parameters, **options)
    assert relative_error(keras.ops.convert_to_numpy(y), expected.swapaxes(0, 1)) < 1e-6
    for ours, theirs in zip(h_n[-len(states) :], states, strict=True):
        assert relative_error(keras.ops.convert_to_numpy(theirs), ours) < 1e-6
    ours, _ = gru(x, mask=HOLES, mask_output=mask_output)
    assert relative_error(ours, keras.ops.convert_to_numpy(y)) < 1e-6


@pytest.mark.filterwarnings(*KERAS_WARNINGS)
def test_masking_layers_of_keras():
    """Masks that Keras itself makes and hands on, by way of the layers' defaults."""
    x = np.random.default_rng(1).standard_normal((6, 6, 3)).astype(np.float32) * HOLES[..., None]
    for layers, mask_output in [
        ([L.GRU(4, return_sequences=True), L.GRU(4, return_sequences=True)], "repeat"),
        ([L.Bidirectional(L.GRU(4, return_sequences=True)), L.Bidirectional(L.GRU(4, return_sequences=True))], "zero"),
    ]:
        model = randomized(keras.Sequential([keras.Input((None, 3)), L.Masking(), *layers]))
        y, _ = cgru.from_keras(model)(x, mask=HOLES, mask_output=mask_output)
        assert relative_error(y, output(model, x)) < 1e-6


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["repeat", "zero"]),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from(["forward", "reverse", "bidirectional", "sum"]),
    st.booleans(),
    st.integers(1, 3),
    st.floats(0, 1),
)
def test_equals_the_specification(seed, mask_output, dtype, direction, batch_first, num_layers, share):
    options = {"num_layers": num_layers, "reverse": direction == "reverse", "batch_first": batch_first}
    options["bidirectional"] = direction in ("bidirectional", "sum")
    if direction == "sum":
        options.update(num_layers=1, merge="sum")
        mask_output = "zero"
    rng = np.random.default_rng(seed)
    steps, batch = rng.integers(0, 9), rng.integers(0, 5)
    problem = Problem(options, steps, batch, 3, 5, dtype=dtype, seed=seed)
    mask = rng.random((steps, batch)) < share
    double = {name: array.astype(np.float64) for name, array in problem.gru.state_dict().items()}
    x = problem.x.swapaxes(0, 1) if batch_first else problem.x
    expected, expected_h = reference.forward(
        x.astype(np.float64), double, problem.h0.astype(np.float64), mask=mask, mask_output=mask_output,
        reverse=problem.gru.reverse, merge=problem.gru.merge,
    )  # fmt: skip
    given_mask = mask.T if batch_first else mask
    y, h_n = problem.gru(problem.x, problem.h0, mask=given_mask, mask_output=mask_output)
    tolerance = 2e-6 if dtype == np.float32 else 1e-13
    assert relative_error(y.swapaxes(0, 1) if batch_first else y, expected) < tolerance
    assert relative_error(h_n, expected_h) < tolerance
    out = np.full_like(y, np.nan)
    assert problem.gru(problem.x, problem.h0, mask=given_mask, mask_output=mask_output, out=out)[0] is out
    np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize("engine", ["packed", "blas"])
def test_lengths_and_whole_sequences_are_masks(engine):
    gru = cgru.GRU(3, 5, 2, bidirectional=True, rng=0)
    x = np.random.default_rng(0).standard_normal((7, 4, 3)).astype(np.float32)
    lengths = np.array([7, 0, 3, 5])
    mask = np.arange(7)[:, None] < lengths
    expected = gru(x, lengths=lengths, engine=engine)
    for ours, theirs in zip(gru(x, mask=mask, mask_output="zero", engine=engine), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for mask_output in ("repeat", "zero"):
        whole = gru(x, mask=np.ones((7, 4), bool), mask_output=mask_output, engine=engine)
        for ours, theirs in zip(whole, gru(x, engine=engine), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_one_sequence_and_what_stands_at_steps_left_out():
    """NaN at a step left out goes nowhere; a sequence's result is the same bits alone and in a batch."""
    gru = cgru.GRU(3, 5, 2, bidirectional=True, rng=0)
    rng = np.random.default_rng(0)
    x, h0 = rng.standard_normal((6, 6, 3)).astype(np.float32), rng.uniform(-1, 1, (4, 6, 5)).astype(np.float32)
    expected, expected_h = gru(x, h0, mask=HOLES.T)
    x[~HOLES.T] = np.nan
    y, h_n = gru(x, h0, mask=HOLES.T)
    np.testing.assert_array_equal(y, expected)
    for b in range(6):
        y_one, h_one = gru(x[:, b], h0[:, b], mask=HOLES[b])
        np.testing.assert_array_equal(y_one, y[:, b])
        np.testing.assert_array_equal(h_one, expected_h[:, b])
    np.testing.assert_array_equal(h_n[:, 5], h0[:, 5])
    np.testing.assert_array_equal(y[:, 5], 0)  # as in Keras, the initial state is no output


def test_refusals():
    gru = cgru.GRU(3, 5, batch_first=True)
    x, mask = np.zeros((2, 4, 3), np.float32), np.ones((2, 4), bool)
    cases = [
        (x, {"mask": mask, "lengths": [1, 2]}, ValueError, "lengths: expected None beside mask"),
        (x, {"mask": mask.T}, ValueError, "mask: expected (2, 4) bool, got (4, 2)"),
        (x, {"mask": mask[..., None]}, ValueError, "mask: expected (2, 4) bool, got (2, 4, 1)"),
        (x, {"mask": mask.astype(int)}, TypeError, "mask: expected (2, 4) bool, got int64; convert it with mask.astype(bool)"),
        (x, {"mask": [[True] * 4] * 2}, TypeError, "mask: expected (2, 4) bool, got list"),
        (x, {"mask": mask, "mask_output": "hold"}, ValueError, "mask_output: expected 'repeat' or 'zero', got 'hold'"),
        (x[..., :2], {"mask": mask}, ValueError, "x: expected (B, T, 3) float32, got (2, 4, 2)"),
        (x[0], {"mask": mask}, ValueError, "mask: expected (4,) bool, got (2, 4)"),
        (x, {"mask": mask, "h0": x}, ValueError, "h0: expected (1, 2, 5) float32"),
        (x, {"mask": mask, "engine": "fast"}, ValueError, "engine: expected"),
        (x, {"mask": mask, "num_threads": 0}, ValueError, "num_threads: expected"),
    ]  # fmt: skip
    for given_x, arguments, error, message in cases:
        out = np.full((*given_x.shape[:-1], 5), 7, np.float32)
        with pytest.raises(error, match=re.escape(message)):
            gru(given_x, out=out, **arguments)
        assert (out == 7).all()
    with pytest.raises(ValueError, match="out: expected memory of its own, got an array that overlaps x"):
        cgru.GRU(3, 3, batch_first=True)(x, mask=mask, out=x)


def test_repeated_outputs_of_added_directions_are_refused():
    gru = cgru.GRU(3, 5, bidirectional=True, merge="sum")
    with pytest.raises(ValueError, match="mask_output: expected 'zero' for a GRU with merge='sum'"):
        gru(np.zeros((4, 3), np.float32), mask=np.ones(4, bool))
