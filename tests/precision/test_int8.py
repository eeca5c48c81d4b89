"""int8 follows the specification in integers, on every instruction set, and in float32 where it is a float."""

import dataclasses
import json
import re

import numpy as np
import pytest

import cgru
from cgru.model.precision import PRECISIONS, Matrix, integers
from cgru.model.value import Value

from ..support.options import BOUNDED, UNBOUNDED, points, relative_error, with_parameters
from ..support.precisions import ERROR, F, specification


def with_integers(q, scale=1.0, **options):
    """A GRU without biases of int8 weights (3H, H) that are numbers times a scale, recurrent ones zero or the same."""
    hidden = q.shape[0] // 3
    gru = cgru.GRU(q.shape[1], hidden, bias=False, **options)
    weights = {
        name: Matrix("int8", np.zeros(array.shape, np.int8), np.ones(3 * hidden, F))
        for name, array in gru.state_dict().items()
    }
    weights["weight_ih_l0"] = Matrix("int8", q, np.full(3 * hidden, scale, F))
    return gru, weights


@pytest.mark.parametrize(
    ("inputs", "hidden"), [(1, 1), (3, 5), (4, 16), (5, 17), (21, 9), (32, 8), (66, 33), (513, 40)]
)
@pytest.mark.parametrize("batch", [1, 2, 3, 8, 13])
def test_sums_are_those_of_integers(inputs, hidden, batch):
    """Candidates of linear functions are the sums themselves: exact, also with all weights at their ends."""
    rng = np.random.default_rng(inputs)
    linear = {"activation": "linear", "recurrent_activation": "linear"}
    p = rng.integers(-127, 128, (batch, inputs)).astype(np.int64)
    p[:, rng.integers(inputs)] = 127  # the scale of every row is 1
    for low, high in ((-128, 127), (-128, -128), (127, 127), (-1, 1)):
        q = rng.integers(low, high + 1, (3 * hidden, inputs)).astype(np.int8)
        q[: 2 * hidden] = 0  # z = 0: h' = n
        gru, weights = with_integers(q, **linear)
        small = with_parameters(gru, weights)
        y, _ = small(p[None].astype(F))
        np.testing.assert_array_equal(y[0], p @ q[2 * hidden :].T.astype(np.int64))


def test_the_largest_sums_are_within_their_bits():
    count = 65_793
    q = np.full((3, count), -128, np.int8)
    q[:2] = 0
    gru, weights = with_integers(q, activation="linear", recurrent_activation="linear")
    small = with_parameters(gru, weights)
    for x in (127, -127):
        y, _ = small(np.full((1, 1, count), x, F))
        np.testing.assert_array_equal(y.ravel(), F(x * -128 * count))


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("hidden", [1, 5, 16, 40, 130])
@pytest.mark.parametrize("batch", [1, 2, 11])
def test_sums_over_states_are_those_of_integers(reset_after, hidden, batch):
    rng = np.random.default_rng(hidden)
    gru = cgru.GRU(1, hidden, activation="linear", recurrent_activation="linear", reset_after=reset_after)
    q = rng.integers(-128, 128, (3 * hidden, hidden)).astype(np.int8)
    q[: 2 * hidden] = 0
    state = rng.integers(-127, 128, (1, batch, hidden))
    state[..., rng.integers(hidden)] = -127
    parameters = {
        "weight_ih_l0": Matrix("int8", np.zeros((3 * hidden, 1), np.int8), np.ones(3 * hidden, F)),
        "weight_hh_l0": Matrix("int8", q, np.ones(3 * hidden, F)),
        "bias_ih_l0": np.repeat(np.array([1, 0, 0], F), hidden),  # r = 1, z = 0: h' = n = U h
        "bias_hh_l0": np.zeros(3 * hidden, F),
    }
    small = with_parameters(gru, parameters)
    y, _ = small(np.zeros((1, batch, 1), F), state.astype(F))
    np.testing.assert_array_equal(y, state @ q[2 * hidden :].T.astype(np.int64))


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("activation", [*BOUNDED, *UNBOUNDED])
def test_int8_follows_its_specification(activation, calibrated):
    rng = np.random.default_rng(4)
    ways = {"reverse": [False, True], "bidirectional": [False, True], "recurrent_activation": ["sigmoid", "softsign"]}
    for options in points("reset_after", "update_gate", **ways):
        if options["reverse"] and options["bidirectional"]:
            continue
        options["clip"] = 3.0 if options["reset_after"] else None
        gru = cgru.GRU(7, 13, activation=activation, rng=rng, **options)
        x = rng.standard_normal((1, 5, 7)).astype(F)
        h0 = rng.uniform(-2, 2, (1 + gru.bidirectional, 5, 13)).astype(F)
        small = gru.quantize("int8", calibrate=x[:, :4] if calibrated else None)
        for result, expected in zip(small(x, h0), specification(small, x, h0), strict=True):
            assert relative_error(result, expected) < 1e-5
        seen = np.clip(x, -small.input_limit, small.input_limit) if calibrated else x
        y, expected = small(x, h0)[0], gru(seen, h0)[0]
        assert 0 < relative_error(y, expected) < ERROR["int8"]


def test_int8_over_many_steps_and_lengths():
    """Each step from the state that the kernels reached, so that no rounded state is taken the other way."""
    rng = np.random.default_rng(5)
    gru = cgru.GRU(19, 37, rng=rng)
    x = rng.standard_normal((50, 9, 19)).astype(F)
    lengths = rng.integers(0, 51, 9)
    small = gru.quantize("int8")
    y, h_n = small(x, lengths=lengths)
    before = np.zeros((1, 9, 37), F)
    for t in range(50):
        runs = t < lengths
        expected, _ = specification(small, x[t : t + 1], before, lengths=runs.astype(int))
        assert relative_error(y[t], expected[0]) < 1e-5
        before = np.where(runs[:, None], y[t], before).astype(F)
    np.testing.assert_array_equal(before, h_n)
    assert relative_error(y, gru(x, lengths=lengths)[0]) < ERROR["int8"]


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_layers_and_directions_are_models_of_their_own(activation):
    """To the last bit."""
    rng = np.random.default_rng(6)
    gru = cgru.GRU(9, 20, num_layers=2, bidirectional=True, activation=activation, rng=rng)
    small = gru.quantize("int8")
    x, lengths = rng.standard_normal((12, 3, 9)).astype(F), np.array([12, 0, 7])
    y, h_n = small(x, lengths=lengths)
    below = x
    for layer in range(2):
        outputs = []
        for d, suffix in enumerate((f"_l{layer}", f"_l{layer}_reverse")):
            options = {"num_layers": 1, "bidirectional": False, "reverse": d == 1, "input_size": below.shape[2]}
            own = {n.removesuffix(suffix) + "_l0": a for n, a in small.value.parameters.items() if n.endswith(suffix)}
            one = cgru.GRU.of(Value.of(dataclasses.replace(gru.spec, **options), own))
            alone, last = one(below, lengths=lengths)
            outputs.append(alone)
            np.testing.assert_array_equal(last[0], h_n[2 * layer + d])
        below = np.concatenate(outputs, axis=-1)
    np.testing.assert_array_equal(below, y)


def test_inputs_beyond_the_calibrated_range_are_clipped():
    gru = cgru.GRU(6, 10, rng=0)
    x = np.random.default_rng(7).standard_normal((8, 4, 6)).astype(F)
    small = gru.quantize("int8", calibrate=x / 2)
    assert small.input_limit == np.abs(x / 2).max()
    assert gru.quantize("int8").input_limit is None
    clipped = np.clip(x, -small.input_limit, small.input_limit)
    assert (clipped != x).any()
    np.testing.assert_array_equal(small(x)[0], small(clipped)[0])


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_sequence(value, calibrated):
    gru = cgru.GRU(19, 37, num_layers=2, rng=0)
    x = np.random.default_rng(8).standard_normal((6, 12, 19)).astype(F)
    small = gru.quantize("int8", calibrate=x if calibrated else None)
    y, _ = small(x)
    x[2, 5, 18] = value
    broken, _ = small(x)
    np.testing.assert_array_equal(np.delete(broken, 5, 1), np.delete(y, 5, 1))
    np.testing.assert_array_equal(broken[:2, 5], y[:2, 5])
    assert np.isnan(broken[2:, 5]).all()


def test_rows_of_zeros_and_of_tiny_numbers():
    gru = cgru.GRU(4, 6, rng=0)
    weights = gru.state_dict()
    weights["weight_hh_l0"][3] = 0
    weights["weight_ih_l0"][:] *= F(1e-36)
    gru.load_state_dict(weights)
    small = gru.quantize("int8")
    assert not small.state_dict()["weight_hh_l0"][3].any()
    for size in (0, 1e-40, 1e-20, 1e20):
        x = np.full((5, 2, 4), size, F)
        assert relative_error(small(x)[0], gru(x)[0]) < ERROR["int8"]


def test_integers_of_rows():
    x = np.array([[0, 1, -3, 0.5], [1e-35, 0, 0, 0], [np.nan, 1, 1, 1], [0, np.inf, 0, 0]], F)
    numbers, scale = integers(x, None)
    np.testing.assert_array_equal(numbers[:2], [[0, 42, -127, 21], [0, 0, 0, 0]])
    np.testing.assert_array_equal(scale[:2], np.array([3, 1e-30], F) / F(127))
    assert np.isnan(scale[2:]).all()


def test_int8_refusals(tmp_path):
    gru = cgru.GRU(3, 4)
    x = np.ones((5, 3), F)
    small = gru.quantize("int8")
    with pytest.raises(ValueError, match="engine: 'blas' computes with float32, got a model of int8; choose 'auto' or"):
        small(x, engine="blas")
    with pytest.raises(ValueError, match="calibrate: expected None with float16, whose inputs stay float32"):
        gru.quantize("float16", calibrate=x)
    with pytest.raises(ValueError, match=re.escape("x: expected (T, 3) float32, got (5, 2)")):
        gru.quantize("int8", calibrate=x[:, :2])
    with pytest.raises(TypeError, match=re.escape("x: expected (T, 3) float32, got float64; convert it with")):
        gru.quantize("int8", calibrate=x.astype(float))
    with pytest.raises(ValueError, match=re.escape("h0: expected (1, 4) float32, got (1, 3)")):
        gru.quantize("int8", calibrate=(x, np.zeros((1, 3), F)))
    with pytest.raises(ValueError, match="lengths: expected integers from 0 to 5, got 6 at position 0"):
        gru.quantize("int8", calibrate=(x, None, [6]))
    with pytest.raises(
        TypeError, match=re.escape("calibrate: expected an array or up to 3 arguments of a call, got 4")
    ):
        gru.quantize("int8", calibrate=(x, None, None, 3))
    for value in (0, np.nan, np.inf):
        with pytest.raises(
            ValueError, match=f"calibrate: expected finite numbers that are not all zero, got {float(value)} as"
        ):
            gru.quantize("int8", calibrate=x * F(value))
    for value in (np.nan, np.inf, -np.inf):
        h0 = np.zeros((1, 2, 4), F)
        h0[0, 1, 2] = value
        message = f"calibrate: expected initial states that are finite, got {value} at (0, 1, 2)"
        with pytest.raises(ValueError, match=re.escape(message)):
            gru.quantize("int8", calibrate=(np.ones((5, 2, 3), F), h0))
        message = f"calibrate: expected initial states that are finite, got {value} at (0, 0, 2)"
        with pytest.raises(ValueError, match=re.escape(message)):
            cgru.GRUCell(3, 4).quantize("int8", calibrate=(x[:1], h0[0, 1:]))


def test_calibration_on_states_that_run_away_is_refused():
    gru = cgru.GRU(3, 4, activation="relu", rng=0)
    weights = {name: np.full_like(array, 9) for name, array in gru.state_dict().items()}
    for array in weights.values():
        array[4:8] = 0  # z is 1/2
    gru.load_state_dict(weights)
    with pytest.raises(
        ValueError, match="calibrate: expected inputs whose states stay finite, got infinite ones to meet"
    ):
        gru.quantize("int8", calibrate=np.ones((200, 3), F))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_limit": -1.0}, "input_limit: expected a positive number or null, got -1.0"),
        ({"input_limit": "wide"}, "input_limit: expected a positive number or null, got 'wide'"),
        ({"drop": "weight_hh_l0.scale"}, "weight_hh_l0.scale: expected the scales of int8 weights, got none"),
        ({"scale": np.nan}, "weight_hh_l0: expected finite numbers, got nan"),
        ({"shape": True}, "weight_hh_l0.scale: expected (12,) float32, got (6, 2)"),
    ],
)
def test_damaged_int8_files(change, message, tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    path = tmp_path / "m.safetensors"
    cgru.GRU(3, 4, rng=0).quantize("int8", calibrate=np.ones((1, 3), F)).save(path)
    assert cgru.load(path).input_limit == 1
    with safe_open(path, "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - its own method
        options = json.loads(file.metadata()["cgru"])
    if "input_limit" in change:
        options |= change
    tensors.pop(change.get("drop"), None)
    if "scale" in change:
        tensors["weight_hh_l0.scale"][1] = change["scale"]
    if "shape" in change:
        tensors["weight_hh_l0.scale"] = tensors["weight_hh_l0.scale"].reshape(6, 2)
    save_file(tensors, path, {"cgru": json.dumps(options)})
    with pytest.raises(cgru.FormatError, match=re.escape(message)):
        cgru.load(path)


@pytest.mark.parametrize("reset_after", [True, False])
def test_weights_fitted_to_inputs_make_smaller_errors(reset_after):
    """On other inputs of the same kind; and W x is as good as rounding can be where x lies in few dimensions."""
    rng = np.random.default_rng(9)
    gru = cgru.GRU(30, 40, num_layers=2, bidirectional=True, reset_after=reset_after, batch_first=True, rng=rng)
    x = np.maximum(rng.standard_normal((40, 60, 4)) @ rng.standard_normal((4, 30)), 0).astype(F)
    seen, other = x[:30], x[30:]
    expected = gru(other)[0]
    small = gru.quantize("int8", calibrate=seen)
    plain = with_parameters(gru, gru.quantize("int8").value.parameters, small.value.arithmetic)
    errors = [np.linalg.norm(model(other)[0] - expected) for model in (plain, small)]
    assert errors[1] < 0.95 * errors[0]  # rounding the inputs makes most of it
    exact, rounded, fitted = (model.state_dict()["weight_ih_l0"] for model in (gru, plain, small))
    error, best = (np.linalg.norm(other @ (weights - exact).T) for weights in (rounded, fitted))
    assert best < 0.4 * error


def test_typical_states_and_lengths():
    """The fit knows initial states, and does not look past a sequence's length."""
    rng = np.random.default_rng(12)
    for options in ({}, {"reverse": True}, {"bidirectional": True, "num_layers": 2, "reset_after": False}):
        gru = cgru.GRU(8, 16, rng=1, **options)
        x = rng.standard_normal((9, 30, 8)).astype(F)
        lengths = rng.integers(0, 10, 30)
        directions = gru.num_layers * (1 + gru.bidirectional)
        h0 = (rng.standard_normal((directions, 30, 2)) @ rng.standard_normal((2, 16)) / 4).astype(F)
        small = gru.quantize("int8", calibrate=(x, h0, lengths))
        x[np.arange(9)[:, None] >= lengths] *= F(0.5)  # what is not seen makes no difference
        same = gru.quantize("int8", calibrate=(x, h0, lengths))
        for name, array in small.state_dict().items():
            np.testing.assert_array_equal(array, same.state_dict()[name])
        other = gru.quantize("int8", calibrate=x)
        error, best = (
            np.linalg.norm(h0[0] @ (model.state_dict()["weight_hh_l0"] - gru.state_dict()["weight_hh_l0"]).T)
            for model in (other, small)
        )
        assert best < 0.9 * error


def test_a_cell_is_quantized_as_a_layer_is():
    rng = np.random.default_rng(10)
    gru = cgru.GRU(9, 21, rng=rng)
    cell = cgru.GRUCell(9, 21)
    cell.load_state_dict({name.removesuffix("_l0"): array for name, array in gru.state_dict().items()})
    x, h = rng.standard_normal((5, 9)).astype(F), rng.uniform(-1, 1, (5, 21)).astype(F)
    for precision in PRECISIONS:
        np.testing.assert_array_equal(cell.quantize(precision)(x, h), gru.quantize(precision)(x[None], h[None])[0][0])
    small = cell.quantize("int8", calibrate=(x, h))
    assert small.input_limit == np.abs(x).max()
    assert relative_error(small(x, h), cell(x, h)) < ERROR["int8"]
