"""Weights in fewer bits.

Halves are rounded as PyTorch rounds, and then exactly the float32 model of the rounded weights.
"""

import json
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cgru
from cgru import _packed, _threads
from cgru.model.precision import narrow

from ..support.options import points, relative_error
from ..support.precisions import ERROR, F, each_half, each_precision, pair, torch_tensors


@each_half
@given(st.lists(st.floats(-60000, 60000, width=32), min_size=1, max_size=50))
def test_rounding_is_pytorchs(precision, values):
    array = np.array([values], F)
    expected = torch.from_numpy(array).to(getattr(torch, precision)).float().numpy()
    np.testing.assert_array_equal(narrow("x", array, precision).wide().view(np.uint32), expected.view(np.uint32))


@each_half
@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (19, 37), (40, 64)])
def test_every_option_to_the_last_bit(precision, sizes):
    rng = np.random.default_rng(1)
    for options in points("reset_after", "num_layers", reverse=[False, True], bidirectional=[False, True]):
        if options["reverse"] and options["bidirectional"]:
            continue
        gru, small, same = pair(precision, *sizes, **options, activation="softsign")
        for batch in (1, 2, 3, 9):
            x = rng.standard_normal((6, batch, sizes[0])).astype(F)
            h0 = rng.uniform(-1, 1, (gru.num_layers * (1 + gru.bidirectional), batch, sizes[1])).astype(F)
            lengths = rng.integers(0, 7, batch)
            for limits in (None, lengths):
                for result, expected in zip(small(x, h0, lengths=limits), same(x, h0, lengths=limits), strict=True):
                    np.testing.assert_array_equal(result, expected)
        assert 0 < relative_error(small(x, h0)[0], gru(x, h0)[0]) < ERROR[precision]


@each_precision
@pytest.mark.parametrize("reset_after", [True, False])
def test_alone_in_chunks_streamed_pooled_and_threaded(precision, reset_after):
    _, small, _ = pair(precision, num_layers=2, reset_after=reset_after)
    x = np.random.default_rng(2).standard_normal((20, 13, 19)).astype(F)
    y, h_n = small(x)
    for b in (0, 7):
        stream = small.stream()
        np.testing.assert_array_equal([stream.step(v) for v in x[:9, b]], y[:9, b])
        np.testing.assert_array_equal(stream.process(np.ascontiguousarray(x[9:, b])), y[9:, b])
        np.testing.assert_array_equal(stream.state, h_n[:, b])
    pool = small.pool(13)
    ids = [pool.open() for _ in range(13)]
    for t in range(20):
        np.testing.assert_array_equal(pool.step(ids, np.ascontiguousarray(x[t])), y[t])
    try:
        for way in ("rows", "units"):
            _packed.share(way)
            before = _packed.counts()[0]
            np.testing.assert_array_equal(small(x, num_threads=3)[0], y)
            assert _packed.counts()[0] > before or not _threads.OPENMP
    finally:
        _packed.share("measured")


def test_all_bits_of_float16_are_widened_exactly():
    """Every half but infinity and NaN as a weight, denormal ones too: x = 1 and linear functions give it back."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(F)
    halves = halves[np.isfinite(halves)]
    hidden = 1 << 7
    linear = {"activation": "linear", "recurrent_activation": "linear", "bias": False}
    for part in np.split(halves, len(halves) // hidden):
        gru = cgru.GRU(1, hidden, **linear)
        weights = {name: np.zeros_like(array) for name, array in gru.state_dict().items()}
        weights["weight_ih_l0"][2 * hidden :, 0] = part  # n = W_n x, z = 0: h' = n
        gru.load_state_dict(weights)
        y, _ = gru.quantize("float16")(np.ones((1, 1), F))
        np.testing.assert_array_equal(y[0], part)


@each_precision
def test_files_pickles_and_reprs(precision, tmp_path):
    gru, small, _ = pair(precision, num_layers=2)
    x = np.random.default_rng(3).standard_normal((5, 19)).astype(F)
    paths = tmp_path / "small.safetensors", tmp_path / "large.safetensors"
    small.save(paths[0])
    gru.save(paths[1])
    weights = sum(array.size for name, array in gru.state_dict().items() if name.startswith("weight"))
    saved = {"int8": 3 * weights - 4 * 4 * 3 * 37}.get(precision, 2 * weights)  # int8 has four matrices' scales
    assert abs(paths[1].stat().st_size - paths[0].stat().st_size - saved) < 600
    tensors = torch_tensors(paths[0])
    assert tensors["weight_ih_l0"].dtype == getattr(torch, precision)
    assert tensors["bias_ih_l0"].dtype == torch.float32
    for twin in (cgru.load(paths[0]), pickle.loads(pickle.dumps(small))):
        assert (twin.precision, repr(twin)) == (precision, f"GRU(19, 37, num_layers=2).quantize({precision!r})")
        np.testing.assert_array_equal(twin(x)[0], small(x)[0])


@pytest.mark.parametrize("said", ["int4", None, 3, "float16"])
def test_files_that_say_another_precision(said, tmp_path):
    path = tmp_path / "m.safetensors"
    _, small, _ = pair("bfloat16")
    small.save(path)
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    options = json.loads(header["__metadata__"]["cgru"])
    header["__metadata__"]["cgru"] = json.dumps({**options, "precision": said})
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[start:])
    message = f"precision: expected 'float32' or 'bfloat16' or 'float16' or 'int8', got {said!r}"
    if said == "float16":
        message = "expected F16 for weights of float16, got BF16"
    with pytest.raises(cgru.FormatError, match=re.escape(message)):
        cgru.load(path)


def test_refusals():
    gru = cgru.GRU(3, 4)
    with pytest.raises(ValueError, match="precision: expected 'bfloat16' or 'float16' or 'int8', got 'int4'"):
        gru.quantize("int4")
    with pytest.raises(ValueError, match="precision: expected a model of float32 to quantize, got one of float64"):
        cgru.GRU(3, 4, dtype=np.float64).quantize("float16")
    small = gru.quantize("float16")
    with pytest.raises(ValueError, match="precision: expected a model of float32 to quantize, got one of float16"):
        small.quantize("float16")
    with pytest.raises(
        RuntimeError, match="state_dict: this model's weights are stored as float16, for inference only"
    ):
        small.load_state_dict(gru.state_dict())
    for value, precision in (
        (np.nan, "bfloat16"), (np.inf, "float16"), (1e5, "float16"), (3.4e38, "bfloat16"), (np.nan, "int8"), (np.inf, "int8")
    ):  # fmt: skip
        weights = gru.state_dict()
        weights["weight_hh_l0"][5, 1] = value
        broken = cgru.GRU(3, 4)
        broken.load_state_dict(weights)
        with pytest.raises(ValueError, match=f"weight_hh_l0: expected finite numbers that {precision} holds, got"):
            broken.quantize(precision)
