"""GRUForecaster's intervals: the shares that make them, how much they cover, and when they are infinite."""

import json

import numpy as np
import pytest
from scipy.stats import binom

from cgru.sklearn import GRUForecaster

OPTIONS = {"hidden_size": 3, "max_iter": 3, "learning_rate": 0.02, "batch_size": 4, "window": 16}
LEVELS = (0.5, 0.8, 0.95)
HORIZON = 3
RUNS = 1000
HELD, COUNT = 80, 160
"""Values held out, of so many; half of those held out calibrate: 40."""


def noise(rng, steps):
    """Independent values with heavy tails."""
    return 5 + rng.standard_t(3, steps)


def autoregression(rng, steps):
    """x[t] = 0.6 x[t - 1] + a normal number."""
    series = rng.standard_normal(steps + 50)
    for t in range(1, len(series)):
        series[t] += 0.6 * series[t - 1]
    return series[50:]


@pytest.mark.parametrize("process", [noise, pytest.param(autoregression, marks=pytest.mark.full)])
def test_intervals_cover_what_they_promise(process):
    hits = np.zeros((len(LEVELS), HORIZON), int)
    for seed in range(RUNS):
        series = process(np.random.default_rng(seed), COUNT + HORIZON)
        options = {**OPTIONS, "validation_fraction": HELD / COUNT, "random_state": seed}
        forecaster = GRUForecaster(HORIZON, **options).fit(series[:COUNT])
        for level, coverage in enumerate(LEVELS):
            lower, upper = forecaster.predict_interval(coverage=coverage)
            hits[level] += (lower <= series[COUNT:]) & (series[COUNT:] <= upper)
    errors = HELD // 2
    for coverage, found in zip(LEVELS, hits, strict=True):
        # Exchangeable errors lie within with a probability from coverage to coverage + 1 / (n + 1), each step ahead.
        low, high = binom.ppf(1e-4, RUNS, coverage), binom.ppf(1 - 1e-4, RUNS, coverage + 1 / (errors + 1))
        assert ((low <= found) & (found <= high)).all(), (coverage, found / RUNS)


def test_what_calibrates_does_not_train():
    series = autoregression(np.random.default_rng(0), 100)
    options = {**OPTIONS, "max_iter": 30, "n_iter_no_change": 3, "validation_fraction": 0.4, "random_state": 0}
    one = GRUForecaster(HORIZON, **options).fit(series)
    changed = np.where(np.arange(100) < 80, series, -3 * series)  # 60 train, 20 stop, 20 calibrate
    other = GRUForecaster(HORIZON, **options).fit(changed)
    np.testing.assert_array_equal(one.backtest(series), other.backtest(series))
    assert one.validation_curve_ == other.validation_curve_
    assert one.residuals_.shape == other.residuals_.shape == (20, HORIZON)
    assert np.abs(one.residuals_ - other.residuals_).min() > 0
    changed = np.where(np.arange(100) < 79, series, -3 * series)  # one that stops training
    assert one.validation_curve_ != GRUForecaster(HORIZON, **options).fit(changed).validation_curve_


def test_errors_are_of_each_step_ahead():
    series = np.stack([autoregression(np.random.default_rng(seed), 100) for seed in range(2)], 1)
    forecaster = GRUForecaster(HORIZON, **OPTIONS, random_state=0).fit(series)
    forecasts = forecaster.backtest(series)  # (T, horizon, I)
    errors = [[series[t] - forecasts[t - k, k - 1] for k in range(1, HORIZON + 1)] for t in range(90, 100)]
    np.testing.assert_allclose(forecaster.residuals_, np.reshape(errors, (10, -1)), rtol=1e-6, atol=1e-6)
    lower, upper = forecaster.predict_interval(coverage=0.5)  # ceil(11 * 0.5) = 6
    np.testing.assert_allclose((upper - lower) / 2, np.sort(np.abs(errors), axis=0)[5], rtol=1e-5)
    np.testing.assert_allclose((upper + lower) / 2, forecaster.predict(), rtol=1e-9)


@pytest.mark.parametrize(("coverage", "needed"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_too_few_errors_are_no_narrow_interval(coverage, needed):
    forecaster = GRUForecaster(2, **OPTIONS, random_state=0).fit(np.sin(np.arange(60)))
    for count in {needed - 1, needed, needed + 1}:
        forecaster.residuals_ = np.random.default_rng(0).standard_normal((count, 2))
        lower, upper = forecaster.predict_interval(coverage=coverage)
        assert np.isfinite([lower, upper]).all() == (count >= needed)
        if count == needed:
            np.testing.assert_allclose(upper - forecaster.predict(), np.abs(forecaster.residuals_).max(0))
        elif count < needed:
            assert (lower == -np.inf).all()
            assert (upper == np.inf).all()


def test_calibrate(tmp_path):
    series = autoregression(np.random.default_rng(0), 200)
    forecaster = GRUForecaster(HORIZON, **OPTIONS, random_state=0, early_stopping=False).fit(series[:100])
    expected = forecaster.predict()
    path = tmp_path / "forecaster.safetensors"
    forecaster.save(path)
    for estimator in (forecaster, GRUForecaster.load(path)):
        assert estimator.residuals_.shape == (0, HORIZON)
        assert np.isinf(estimator.predict_interval(coverage=0.01)).all()
    forecasts = forecaster.backtest(series)
    errors = np.array([[series[t] - forecasts[t - k, k - 1] for k in (1, 2, 3)] for t in range(100, 200)])
    assert forecaster.calibrate(series, start=100) is forecaster
    np.testing.assert_allclose(forecaster.residuals_, errors, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(forecaster.predict(), expected)
    stream = forecaster.stream()
    np.testing.assert_array_equal(stream.predict_interval(), forecaster.predict_interval())
    assert np.isfinite(forecaster.predict_interval(coverage=0.95)).all()
    assert len(forecaster.calibrate(series[100:]).residuals_) == 97  # not all forecasts exist of the first three
    for start, error, message in [
        (200, ValueError, "series: expected more than 200 values, of which errors are known, got 200"),
        (-1, ValueError, "start: expected an integer from 0"),
        (1.5, TypeError, "start: expected an integer from 0"),
    ]:
        with pytest.raises(error, match=message):
            forecaster.calibrate(series, start=start)


def test_a_file_with_errors_of_the_whole_share_held_out_loads(tmp_path):
    import safetensors.numpy

    path = tmp_path / "forecaster.safetensors"
    forecaster = GRUForecaster(2, **OPTIONS, random_state=0).fit(np.sin(np.arange(60)))
    forecaster.save(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert "residuals_" not in json.loads(metadata["cgru.sklearn"])["fitted"]  # an array beside the others
    tensors = safetensors.numpy.load_file(path)
    tensors["residuals_"] = np.random.default_rng(0).standard_normal((12, 2))  # more than half of 12 held out
    safetensors.numpy.save_file(tensors, path, metadata=metadata)
    loaded = GRUForecaster.load(path)
    np.testing.assert_array_equal(loaded.predict(), forecaster.predict())
    assert np.isfinite(loaded.predict_interval(coverage=0.9)).all()
