"""Bad input: the type of the error, the argument it names, what it expected and what came; and nothing written."""

import re

import numpy as np
import pytest

import cgru

F = np.float32


def zeros(*shape, dtype=F):
    return np.zeros(shape, dtype)


BAD_CALLS = {
    "x of one axis": (lambda: {"x": zeros(4)}, ValueError, "x: expected (T, B, 4) or (T, 4) float32, got (4,)"),
    "x of four axes": (lambda: {"x": zeros(1, 2, 3, 4)}, ValueError, "x: expected (T, B, 4) or (T, 4) float32, got (1, 2, 3, 4)"),
    "features": (lambda: {"x": zeros(5, 3, 7)}, ValueError, "x: expected (T, B, 4) float32, got (5, 3, 7)"),
    "features of one sequence": (lambda: {"x": zeros(5, 7)}, ValueError, "x: expected (T, 4) float32, got (5, 7)"),
    "x float64": (lambda: {"x": zeros(5, 3, 4, dtype=np.float64)}, TypeError, "x: expected (T, B, 4) float32, got float64; convert it with x.astype(numpy.float32)"),
    "x integer": (lambda: {"x": zeros(5, 3, 4, dtype=int)}, TypeError, "x: expected (T, B, 4) float32, got int64; convert it with x.astype(numpy.float32)"),
    "x float16": (lambda: {"x": zeros(5, 3, 4, dtype=np.float16)}, TypeError, "got float16; convert it"),
    "x complex": (lambda: {"x": zeros(5, 3, 4, dtype=complex)}, TypeError, "got complex128; convert it"),
    "x object": (lambda: {"x": zeros(5, 3, 4, dtype=object)}, TypeError, "got object; convert it"),
    "x of the other byte order": (lambda: {"x": zeros(5, 3, 4, dtype=">f4")}, TypeError, "got >f4; convert it"),
    "x a list": (lambda: {"x": [[1.0, 2, 3, 4]]}, TypeError, "x: expected (T, B, 4) or (T, 4) float32, got list; make an array with numpy.asarray(x, numpy.float32)"),
    "x None": (lambda: {"x": None}, TypeError, "got NoneType"),
    "h0 of another batch": (lambda: {"h0": zeros(2, 2, 6)}, ValueError, "h0: expected (2, 3, 6) float32, got (2, 2, 6)"),
    "h0 without layers": (lambda: {"h0": zeros(3, 6)}, ValueError, "h0: expected (2, 3, 6) float32, got (3, 6)"),
    "h0 float64": (lambda: {"h0": zeros(2, 3, 6, dtype=np.float64)}, TypeError, "h0: expected (2, 3, 6) float32, got float64; convert it with h0.astype(numpy.float32)"),
    "lengths of another count": (lambda: {"lengths": [1, 2]}, ValueError, "lengths: expected (3,) integers, got (2,)"),
    "lengths negative": (lambda: {"lengths": [1, -2, 3]}, ValueError, "lengths: expected integers from 0 to 5, got -2 at position 1"),
    "lengths above T": (lambda: {"lengths": [1, 5, 6]}, ValueError, "lengths: expected integers from 0 to 5, got 6 at position 2"),
    "lengths fractional": (lambda: {"lengths": [1.5, 2, 3]}, TypeError, "lengths: expected (3,) integers, got float64"),
    "lengths of truth values": (lambda: {"lengths": [True, False, True]}, TypeError, "lengths: expected (3,) integers, got bool"),
    "lengths ragged": (lambda: {"lengths": [[1], [2, 3], 4]}, TypeError, "lengths: expected (3,) integers, got list"),
    "out of another shape": (lambda: {"out": zeros(5, 3, 7)}, ValueError, "out: expected (5, 3, 6) float32, got (5, 3, 7)"),
    "out float64": (lambda: {"out": zeros(5, 3, 6, dtype=np.float64)}, TypeError, "out: expected (5, 3, 6) float32, got float64"),
    "out a list": (lambda: {"out": []}, TypeError, "out: expected (5, 3, 6) float32, got list"),
    "engine": (lambda: {"engine": "cudnn"}, ValueError, "engine: expected 'auto'"),
    "num_threads 0": (lambda: {"num_threads": 0}, ValueError, "num_threads: expected an integer from 1 to 1024, got 0"),
    "num_threads a float": (lambda: {"num_threads": 2.0}, TypeError, "num_threads: expected an integer from 1 to 1024, got 2.0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CALLS)
def test_calls(case):
    change, error, message = BAD_CALLS[case]
    gru = cgru.GRU(4, 6, 2)
    out = np.full((5, 3, 6), 7, F)
    arguments = {"x": zeros(5, 3, 4), "h0": zeros(2, 3, 6), "lengths": [5, 5, 5], "out": out, **change()}
    with pytest.raises(error, match=re.escape(message)):
        gru(arguments.pop("x"), arguments.pop("h0"), **arguments)
    assert (out == 7).all()


def test_batch_first_names_its_axes():
    with pytest.raises(ValueError, match=re.escape("x: expected (B, T, 4) float32, got (5, 3, 7)")):
        cgru.GRU(4, 6, batch_first=True)(zeros(5, 3, 7))


def test_out_read_only_overlapping_or_repeating():
    gru = cgru.GRU(4, 4)
    memory = np.ones((6, 3, 4), F)
    kept = memory.copy()
    read_only = zeros(5, 3, 4)
    read_only.flags.writeable = False
    h0 = np.ones((1, 3, 4), F)
    repeating = np.lib.stride_tricks.as_strided(np.ones(4, F), (5, 3, 4), (0, 0, 4))
    unaligned = np.zeros(5 * 3 * 4 * 4 + 1, np.uint8)[1:].view(F).reshape(5, 3, 4)
    cases = [
        (memory[1:], memory[:-1], h0, "out: expected memory of its own, got an array that overlaps x"),
        (memory[:5], memory[:5], h0, "out: expected memory of its own, got an array that overlaps x"),
        (zeros(5, 3, 4), memory[:5], memory[4:5], "out: expected memory of its own, got an array that overlaps h0"),
        (zeros(5, 3, 4), read_only, h0, "out: expected a writeable array, got a read-only one"),
        (zeros(5, 3, 4), repeating, h0, "out: expected distinct elements, got an array that repeats them"),
        (zeros(5, 3, 4), unaligned, h0, "out: expected an aligned array, got an unaligned one"),
    ]
    for x, out, state, message in cases:
        before = out.copy()
        with pytest.raises(ValueError, match=re.escape(message)):
            gru(x, state, out=out)
        np.testing.assert_array_equal(out, before)
    np.testing.assert_array_equal(memory, kept)
    interleaved = np.zeros((5, 3, 8), F)  # overlapping extents without a common element are fine
    gru(interleaved[:, :, ::2], out=interleaved[:, :, 1::2])


BAD_OPTIONS = [
    ({"hidden_size": 0}, ValueError, "hidden_size: expected an integer from 1 to 715827882, got 0"),
    ({"hidden_size": -3}, ValueError, "hidden_size: expected an integer from 1 to 715827882, got -3"),
    ({"hidden_size": 715827883}, ValueError, "hidden_size: expected an integer from 1 to 715827882, got 715827883"),
    ({"hidden_size": 4.0}, TypeError, "hidden_size: expected an integer from 1 to 715827882, got 4.0"),
    ({"hidden_size": True}, TypeError, "hidden_size: expected an integer from 1 to 715827882, got True"),
    ({"input_size": 0}, ValueError, "input_size: expected an integer from 1 to 2147483647, got 0"),
    ({"input_size": 2**31}, ValueError, "input_size: expected an integer from 1 to 2147483647, got 2147483648"),
    ({"input_size": "4"}, TypeError, "input_size: expected an integer from 1 to 2147483647, got '4'"),
    ({"reverse": 1}, TypeError, "reverse: expected True or False, got 1"),
    ({"reverse": True, "bidirectional": True}, ValueError, "reverse: expected False with bidirectional=True"),
    ({"merge": "mul"}, ValueError, "merge: expected 'concat' or 'sum', got 'mul'"),
    ({"merge": "sum"}, ValueError, "merge: expected 'concat' unless there is one layer of two directions, got 'sum'"),
    ({"num_layers": 0}, ValueError, "num_layers: expected an integer from 1 to 10000, got 0"),
    ({"bias": 1}, TypeError, "bias: expected True or False, got 1"),
    ({"batch_first": "no"}, TypeError, "batch_first: expected True or False, got 'no'"),
    ({"bidirectional": None}, TypeError, "bidirectional: expected True or False, got None"),
    ({"dropout": 1.0}, ValueError, "dropout: expected a number from 0 to below 1, got 1.0"),
    ({"dropout": float("nan")}, ValueError, "dropout: expected a number from 0 to below 1, got nan"),
    ({"dropout": "0"}, TypeError, "dropout: expected a number from 0 to below 1, got '0'"),
    ({"reset_after": 0}, TypeError, "reset_after: expected True or False, got 0"),
    ({"update_gate": "keep"}, ValueError, "update_gate: expected 'state' or 'candidate', got 'keep'"),
    ({"activation": "gelu"}, ValueError, "activation: expected one of tanh, sigmoid, relu, hard_sigmoid, softsign, softplus, elu, leaky_relu, thresholded_relu, scaled_tanh, affine, linear, g, got 'gelu'"),
    ({"activation": ("elu", 1)}, TypeError, "activation: expected a name or (name, alpha, beta), got ('elu', 1)"),
    ({"activation": ("elu", 1, float("inf"))}, ValueError, "activation: expected finite alpha and beta"),
    ({"activation": ["tanh", "relu"]}, ValueError, "activation: expected one function with bidirectional=False, got ['tanh', 'relu']"),
    ({"recurrent_activation": ("tanh", "tanh")}, ValueError, "recurrent_activation: expected one function with bidirectional=False, got ('tanh', 'tanh')"),
    ({"activation": ["tanh", "relu", "relu"], "bidirectional": True}, ValueError, "activation: expected one function, or a list of one for each direction, got ['tanh', 'relu', 'relu']"),
    ({"activation": ["tanh", "gelu"], "bidirectional": True}, ValueError, "activation: expected one of tanh, "),
    ({"activation": ["tanh", 3], "bidirectional": True}, TypeError, "activation: expected a name or (name, alpha, beta), got ['tanh', 3]"),
    ({"recurrent_activation": None}, TypeError, "recurrent_activation: expected a name or (name, alpha, beta), got None"),
    ({"clip": 0}, ValueError, "clip: expected a positive number or None, got 0"),
    ({"clip": -1.0}, ValueError, "clip: expected a positive number or None, got -1.0"),
    ({"clip": "1"}, TypeError, "clip: expected a positive number or None, got '1'"),
    ({"dtype": np.float16}, TypeError, "dtype: expected float32 or float64, got <class 'numpy.float16'>"),
    ({"dtype": "spam"}, TypeError, "dtype: expected float32 or float64, got 'spam'"),
    ({"dtype": None}, TypeError, "dtype: expected float32 or float64, got None"),
    ({"rng": "seed"}, TypeError, "rng: expected None, an integer or a numpy.random.Generator, got 'seed'"),
    ({"rng": -1}, ValueError, "rng: expected an integer from 0"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "message"), BAD_OPTIONS, ids=lambda v: str(v)[:40] if isinstance(v, dict) else ""
)
def test_options(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        cgru.GRU(**{"input_size": 4, "hidden_size": 6, **options})


def test_load_state_dict_changes_all_or_nothing():
    gru = cgru.GRU(4, 6, rng=0)
    good = {name: np.ones_like(array) for name, array in gru.state_dict().items()}
    without = {name: array for name, array in good.items() if name != "bias_hh_l0"}
    cases = [
        (without, ValueError, "state_dict: expected weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0; missing bias_hh_l0"),
        ({**good, "weight_ih_l1": good["weight_ih_l0"]}, ValueError, "unknown weight_ih_l1"),
        ({**good, "bias_hh_l0": zeros(17)}, ValueError, "bias_hh_l0: expected (18,) float32, got (17,)"),
        ({**good, "bias_hh_l0": zeros(18, dtype=np.float64)}, TypeError, "bias_hh_l0: expected (18,) float32, got float64; convert it with"),
        ({**good, "bias_hh_l0": [0.0] * 18}, TypeError, "bias_hh_l0: expected (18,) float32, got list"),
        ([good], TypeError, "state_dict: expected a mapping of names to arrays, got list"),
    ]  # fmt: skip
    before = gru.state_dict()
    y = gru(np.ones((3, 4), F))[0]
    for state, error, message in cases:
        with pytest.raises(error, match=re.escape(message)):
            gru.load_state_dict(state)
        for name, array in gru.state_dict().items():
            np.testing.assert_array_equal(array, before[name])
        np.testing.assert_array_equal(gru(np.ones((3, 4), F))[0], y)


def test_cell():
    cell = cgru.GRUCell(4, 6)
    cases = [
        (lambda: cell(zeros(3, 5)), ValueError, "x: expected (B, 4) float32, got (3, 5)"),
        (lambda: cell(zeros(1, 3, 4)), ValueError, "x: expected (4,) or (B, 4) float32, got (1, 3, 4)"),
        (lambda: cell(zeros(3, 4), zeros(2, 6)), ValueError, "h: expected (3, 6) float32, got (2, 6)"),
        (lambda: cell(zeros(4), zeros(1, 6)), ValueError, "h: expected (6,) float32, got (1, 6)"),
        (lambda: cell(zeros(4, dtype=int)), TypeError, "x: expected (4,) float32, got int64"),
        (lambda: cell(zeros(4), engine=3), ValueError, "engine: expected 'auto'"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=re.escape(message)):
            call()


def test_packed_engine_is_for_float32():
    gru = cgru.GRU(4, 6, dtype=np.float64)
    with pytest.raises(ValueError, match=re.escape("engine: 'packed' computes in float32, got a model of float64")):
        gru(zeros(5, 4, dtype=np.float64), engine="packed")


def test_threads():
    for value, error in [(0, ValueError), (-1, ValueError), (1.5, TypeError), (None, TypeError), (10**6, ValueError)]:
        with pytest.raises(error, match=re.escape(f"n: expected an integer from 1 to 1024, got {value!r}")):
            cgru.set_num_threads(value)
