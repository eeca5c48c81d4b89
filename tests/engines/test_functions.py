"""The activation kernels against their NumPy formulas; sigmoid and tanh to the unit in the last place."""

import numpy as np
import pytest

from cgru import _blas, activations

BOUND = 3.0
"""Units in the last place, stated in src/cells/functions.h."""


def kernel(name, x, clip=np.inf):
    f = activations.parse("activation", name)
    out = np.empty_like(x)
    _blas.activate(f.code, f.alpha, f.beta, clip, x, out)
    return out


def units_in_the_last_place(name, x):
    """Errors where the true value is a normal number; elsewhere the kernel may give zero."""
    wide = np.float64 if x.dtype == np.float32 else np.longdouble
    true = activations.parse("activation", name)(x.astype(wide))
    tiny = np.finfo(x.dtype).tiny
    result = kernel(name, x)
    small = np.abs(true) < tiny
    assert (np.abs(result[small]) <= tiny).all()
    return np.abs(result - true)[~small] / np.spacing(np.abs(true[~small]).astype(x.dtype)).astype(wide)


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_error_over_a_sample_of_float32(name):
    every_997th = np.arange(0, 2**32, 997, dtype=np.uint64).astype(np.uint32).view(np.float32)
    assert units_in_the_last_place(name, every_997th[np.isfinite(every_997th)]).max() < BOUND


@pytest.mark.long
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_error_over_every_float32(name):
    worst = 0.0
    for start in range(0, 2**32, 2**25):
        x = np.arange(start, start + 2**25, dtype=np.uint64).astype(np.uint32).view(np.float32)
        x = x[np.isfinite(x)]
        if x.size:
            worst = max(worst, float(units_in_the_last_place(name, x).max(initial=0)))
    print(f"{name}: {worst:.3f} units in the last place over every float32")
    assert worst < BOUND


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
@pytest.mark.skipif(np.finfo(np.longdouble).nmant <= 52, reason="no type wider than float64 to compare with here")
def test_error_over_a_sample_of_float64(name):
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [np.linspace(-750, 750, 500_001), rng.standard_normal(500_000), np.geomspace(1e-300, 1, 100_000)]
    )
    assert units_in_the_last_place(name, x).max() < BOUND


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ends_and_nan(dtype):
    x = np.array([-np.inf, -1e30, -0.0, 0.0, 1e30, np.inf, np.nan], dtype)
    ends = kernel("sigmoid", x)
    assert (ends[:2] < np.finfo(dtype).tiny).all()
    np.testing.assert_array_equal(ends[2:], np.array([0.5, 0.5, 1, 1, np.nan], dtype))
    np.testing.assert_array_equal(kernel("tanh", x), np.array([-1, -1, 0, 0, 1, 1, np.nan], dtype))
    assert np.signbit(kernel("tanh", x)[2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("clip", [np.inf, 0.75])
@pytest.mark.parametrize(
    "name", [*activations.FUNCTIONS, ("hard_sigmoid", 1 / 6, 0.5), ("elu", 0.3, 0), ("affine", 2, -1)]
)
def test_every_activation(name, clip, dtype):
    """Over vectors and rests of vectors; values that meet a bound or threshold exactly, too."""
    rng = np.random.default_rng(0)
    x = np.concatenate([3 * rng.standard_normal(1000), [0, 1, -1, 2.5, -2.5, 60, -60, 100, -100, np.nan]]).astype(dtype)
    expected = activations.parse("activation", name)(np.clip(x.astype(np.longdouble), -clip, clip))
    tolerance = 8 * np.finfo(dtype).eps
    for size in (len(x), 1, 2, 3, 5, 7, 9, 15, 17):
        tail = x[-size:]
        np.testing.assert_allclose(kernel(name, tail.copy(), clip), expected[-size:], rtol=tolerance, atol=tolerance)
