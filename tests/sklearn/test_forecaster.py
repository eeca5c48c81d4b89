"""The forecaster: what it learns and has not seen, its intervals, its streams."""

import numpy as np
import pytest

from cgru.sklearn import GRUForecaster

from ..support.estimators import SMALL, WAVE


@pytest.fixture(scope="module")
def forecaster():
    return GRUForecaster(6, 12, difference=True, window=50, max_iter=80, random_state=0).fit(WAVE[:260])


def test_forecaster_learns(forecaster):
    np.testing.assert_allclose(forecaster.predict(), WAVE[260:266], atol=0.35)
    assert forecaster.score(WAVE) > 0.9
    forecasts = forecaster.backtest(WAVE)
    np.testing.assert_allclose(forecasts[259], forecaster.predict(), rtol=1e-6)
    true = np.stack([WAVE[t + 1 : t + 7] for t in range(294)])
    error = ((true - forecasts[:294]) ** 2).sum() / ((true - WAVE[:294, None]) ** 2).sum()
    assert forecaster.score(WAVE) == pytest.approx(1 - error)


def test_forecaster_has_seen_nothing_later(forecaster):
    changed = WAVE.copy()
    changed[200:] += 5
    before, after = forecaster.backtest(WAVE), forecaster.backtest(changed)
    np.testing.assert_array_equal(before[:200], after[:200])
    assert np.abs(before[200:] - after[200:]).min() > 0.01
    # Held out is held out: other values there, other errors, but not one weight.
    options = {
        "horizon": 4,
        "hidden_size": 4,
        "max_iter": 3,
        "n_iter_no_change": 99,
        "random_state": 0,
        "learning_rate": 1e-3,
    }
    one = GRUForecaster(**options).fit(WAVE)
    other = GRUForecaster(**options).fit(np.where(np.arange(300) < 240, WAVE, WAVE + 0.1))
    for name in ("input_mean_", "target_scale_", "loss_curve_"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_forecaster_of_several_series():
    series = np.stack([WAVE, 100 * np.cos(np.arange(300) / 4)], 1)
    both = GRUForecaster(6, 16, window=50, max_iter=60, random_state=0).fit(series[:260])
    assert both.predict().shape == (6, 2)
    assert both.backtest(series).shape == (300, 6, 2)
    assert np.abs(both.predict(3)[:, 1] - series[260:263, 1]).max() < 40
    lower, upper = both.predict_interval(2)
    assert lower.shape == upper.shape == (2, 2)
    assert (lower <= upper).all()
    assert GRUForecaster(2, **SMALL).fit(WAVE[:, None]).predict().shape == (2, 1)


def test_intervals_are_quantiles_of_errors(forecaster):
    held = 26  # half of the fifth of 260 held out; the other half stops training
    forecasts = forecaster.backtest(WAVE[:260])
    errors = np.array([[WAVE[t] - forecasts[t - k, k - 1] for k in range(1, 7)] for t in range(260 - held, 260)])
    np.testing.assert_allclose(forecaster.residuals_, errors, atol=1e-6)
    sizes = np.sort(np.abs(errors), axis=0)
    for coverage, rank in [(0.6, 17), (0.8, 22), (0.96, 26)]:  # ceil(27 * coverage)
        lower, upper = forecaster.predict_interval(coverage=coverage)
        np.testing.assert_allclose(lower, forecaster.predict() - sizes[rank - 1], atol=1e-6)
        np.testing.assert_allclose(upper, forecaster.predict() + sizes[rank - 1], atol=1e-6)
    assert forecaster.predict_interval(4, coverage=0.95)[0].shape == (4,)
    lower, upper = forecaster.predict_interval(coverage=0.97)  # ceil(27 * 0.97) > 26
    assert (lower == -np.inf).all()
    assert (upper == np.inf).all()


def test_forecaster_streams(forecaster):
    stream = forecaster.stream()
    whole = forecaster.backtest(WAVE)
    np.testing.assert_array_equal(stream.predict(), forecaster.predict())
    for t in range(260, 280):
        np.testing.assert_array_equal(stream.step(WAVE[t]), whole[t])
    for ours, theirs in zip(
        stream.predict_interval(3), forecaster.predict_interval(3, history=WAVE[:280]), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    stream.reset()
    np.testing.assert_array_equal(stream.predict(2), forecaster.predict(2))
    fresh = forecaster.stream(history=[])
    with pytest.raises(RuntimeError, match="stream: expected a value before a forecast"):
        fresh.predict()
    np.testing.assert_array_equal(fresh.process(WAVE[:9]), whole[:9])
    np.testing.assert_array_equal(forecaster.stream(history=WAVE[:9]).predict(), whole[8])
