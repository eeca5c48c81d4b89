"""bfloat16 inputs and states, too: products of rounded numbers follow their specification."""

import pickle

import numpy as np
import pytest

import cgru
from cgru import _packed

from ..support.options import relative_error
from ..support.precisions import ERROR, F, specification


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("sizes", [(1, 1), (19, 37), (40, 64)])
def test_rounded_products_follow_their_specification(sizes, reset_after):
    rng = np.random.default_rng(11)
    gru = cgru.GRU(*sizes, reset_after=reset_after, rng=rng)
    small = gru.quantize("bfloat16", compute="bfloat16")
    for batch in (1, 2, 9):
        x = rng.standard_normal((1, batch, sizes[0])).astype(F)
        h0 = rng.uniform(-1, 1, (1, batch, sizes[1])).astype(F)
        y, _ = small(x, h0)
        expected, _ = specification(small, x, h0)
        # with the reset gate before, r * h may lie between two numbers of bfloat16
        assert relative_error(y, expected) < (1e-5 if reset_after else 3e-3)
        assert 0 < relative_error(y, gru(x, h0)[0]) < ERROR["bfloat16"]
    if sizes[1] > 1:
        assert not np.array_equal(y, gru.quantize("bfloat16")(x, h0)[0])


def test_rounded_products_alone_in_chunks_and_streamed():
    gru = cgru.GRU(19, 37, num_layers=2, rng=0).quantize("bfloat16", compute="bfloat16")
    x = np.random.default_rng(2).standard_normal((20, 13, 19)).astype(F)
    y, h_n = gru(x)
    stream = gru.stream()
    np.testing.assert_array_equal([stream.step(v) for v in x[:9, 7]], y[:9, 7])
    np.testing.assert_array_equal(stream.process(np.ascontiguousarray(x[9:, 7])), y[9:, 7])
    np.testing.assert_array_equal(stream.state, h_n[:, 7])
    try:
        for way in ("rows", "units"):
            _packed.share(way)
            np.testing.assert_array_equal(gru(x, num_threads=3)[0], y)
    finally:
        _packed.share("measured")
    x[3, 4, 5] = np.nan
    broken, _ = gru(x)
    np.testing.assert_array_equal(np.delete(broken, 4, 1), np.delete(y, 4, 1))
    assert np.isnan(broken[3:, 4]).all()


def test_rounded_products_are_kept_and_refused(tmp_path):
    gru = cgru.GRU(3, 4, rng=0)
    small = gru.quantize("bfloat16", compute="bfloat16")
    small.save(tmp_path / "m.safetensors")
    x = np.ones((5, 3), F)
    for twin in (cgru.load(tmp_path / "m.safetensors"), pickle.loads(pickle.dumps(small))):
        assert (twin.compute, repr(twin)) == ("bfloat16", "GRU(3, 4).quantize('bfloat16', compute='bfloat16')")
        np.testing.assert_array_equal(twin(x)[0], small(x)[0])
    with pytest.raises(ValueError, match="compute: expected 'float32' with int8, got 'bfloat16'"):
        gru.quantize("int8", compute="bfloat16")
    with pytest.raises(ValueError, match="compute: expected 'float32' or 'bfloat16', got 'int8'"):
        gru.quantize("bfloat16", compute="int8")
    with pytest.raises(ValueError, match="engine: 'blas' computes with float32, got a model of compute='bfloat16'"):
        small(x, engine="blas")


@pytest.mark.parametrize("options", [{"precision": "int8"}, {"precision": "bfloat16", "compute": "bfloat16"}])
def test_other_systems_have_no_such_products(options, tmp_path):
    kind = options.get("compute", "int8")
    small = cgru.GRU(3, 4, rng=0).quantize(**options)
    for system, call in {
        "ONNX": lambda: small.to_onnx(tmp_path / "m.onnx"),
        "PyTorch": small.to_torch,
        "Keras": small.to_keras,
        "RTNeural": lambda: small.to_rtneural(tmp_path / "m.json"),
    }.items():
        with pytest.raises(
            cgru.FormatError, match=f"precision: {system} would multiply float32, got a model of .*{kind}"
        ):
            call()
    assert not list(tmp_path.iterdir())
