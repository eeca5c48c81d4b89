"""What goes wrong with estimators: parameters, data, losses without a number, interrupts."""

import re
import sys
import warnings

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from cgru.sklearn import GRUClassifier, GRUForecaster, GRURegressor, network

from ..support.estimators import SMALL, WAVE, problem

BAD_PARAMETERS = [
    ({"hidden_size": 0}, ValueError, "hidden_size: expected an integer from 1"),
    ({"num_layers": 1.5}, TypeError, "num_layers: expected an integer from 1"),
    ({"dropout": 1.0}, ValueError, "dropout: expected a number from 0 to below 1, got 1.0"),
    ({"max_iter": 0}, ValueError, "max_iter: expected an integer from 1"),
    ({"batch_size": "auto"}, TypeError, "batch_size: expected an integer from 1"),
    ({"learning_rate": 0}, ValueError, "learning_rate: expected a number above 0, got 0"),
    ({"learning_rate": "adaptive"}, TypeError, "learning_rate: expected a number above 0, got 'adaptive'"),
    ({"learning_rate": float("nan")}, ValueError, "learning_rate: expected a number above 0, got nan"),
    ({"schedule": "exponential"}, ValueError, "schedule: expected 'constant' or 'linear' or 'cosine', got 'exponential'"),
    ({"clip_norm": -1}, ValueError, "clip_norm: expected a number above 0, got -1"),
    ({"weight_decay": -0.1}, ValueError, "weight_decay: expected a number from 0, got -0.1"),
    ({"early_stopping": "yes"}, TypeError, "early_stopping: expected True or False, got 'yes'"),
    ({"validation_fraction": 1}, ValueError, "validation_fraction: expected a number above 0 and below 1, got 1"),
    ({"dtype": "float16"}, TypeError, "dtype: expected float32 or float64, got 'float16'"),
    ({"num_threads": 0}, ValueError, "num_threads: expected an integer from 1 to 1024, got 0"),
    ({"verbose": -1}, ValueError, "verbose: expected an integer from 0"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), BAD_PARAMETERS)
@pytest.mark.parametrize("cls", [GRUClassifier, GRURegressor, GRUForecaster])
def test_parameters(cls, change, error, message):
    X, y = problem(10)
    with pytest.raises(error, match=re.escape(message)):
        cls(**change).fit(*((WAVE,) if cls is GRUForecaster else (X, y > 0)))


def nan_in(X):
    X = [x.copy() for x in X]
    X[3][5, 1] = np.nan
    return X


BAD_DATA = {
    "too few labels": (lambda X, y: (X, y[:-1]), "inconsistent numbers of samples: [10, 9]"),
    "no labels": (lambda X, y: (X, None), "requires y to be passed, but the target y is None"),
    "nan in a list": (lambda X, y: (nan_in(X), y), "X[3]: expected an array (t, I) of numbers, got nan at step 5, feature 1"),
    "nan in an array": (lambda X, y: (np.array(nan_in(X)), y), "Input X contains NaN"),
    "nan in a table": (lambda X, y: (np.full((10, 3), np.nan), y), "Input X contains NaN"),
    "empty sequence": (lambda X, y: ([*X[:9], X[9][:0]], y), "X[9]: expected an array (t, I) of numbers with at least one step and one feature, got (0, 2)"),
    "empty sequences": (lambda X, y: (X[:, :0], y), "X: expected (N, T, I) with at least one step and one feature, got (10, 0, 2)"),
    "no sequences": (lambda X, y: (X[:0], y[:0]), "0 sample(s)"),
    "an empty list": (lambda X, y: ([], []), "X: expected at least one sequence, got none"),
    "other features": (lambda X, y: ([*X[:9], X[9][:, :1]], y), "X[9]: expected an array (t, I) of numbers with 2 features as X[0], got 1"),
    "one axis in a list": (lambda X, y: ([*X[:9], X[9][:, 0]], y), "X[9]: expected an array (t, I) of numbers, got (12,); one feature is (t, 1)"),
    "words": (lambda X, y: ([*X[:9], [["a", "b"]]], y), "X[9]: expected an array (t, I) of numbers: could not convert"),
    "four axes": (lambda X, y: (X[..., None], y), "4"),
    "complex": (lambda X, y: (X + 1j, y), "Complex data not supported"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_DATA)
@pytest.mark.parametrize("cls", [GRUClassifier, GRURegressor])
def test_data(cls, case):
    change, message = BAD_DATA[case]
    X, y = problem(10)
    with pytest.raises(ValueError, match=re.escape(message)):
        cls(**SMALL).fit(*change(X, (y > 0).astype(int)))


def test_targets_and_weights():
    X, y = problem(10)
    for estimator, target, message in [
        (GRURegressor(**SMALL), np.where(np.arange(10) == 4, np.nan, y), "Input y contains NaN"),
        (GRUClassifier(**SMALL), np.where(np.arange(10) == 4, np.nan, y > 0), "Input y contains NaN"),
        (GRUClassifier(**SMALL), y, "Unknown label type: continuous"),
        (GRURegressor(**SMALL), np.zeros((10, 2, 2)), "dim 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            estimator.fit(X, target)
    for weight, message in [
        (np.full(10, np.nan), "Input sample_weight contains NaN"),
        (np.full(9, 1.0), r"sample_weight.shape == \(9,\), expected \(10,\)"),
        (-np.ones(10), "sample_weight: expected numbers from 0, got -1"),
        (np.zeros(10), "(?i)sample.?weight"),
    ]:
        with pytest.raises(ValueError, match=message):
            GRURegressor(**SMALL).fit(X, y, sample_weight=weight)
    with pytest.raises(ValueError, match=r"validation_fraction: cannot hold out 0\.1 of 2 sequences"):
        GRUClassifier(**SMALL, early_stopping=True).fit(X[:2], [0, 1])
    two = GRURegressor(**SMALL).fit(X, np.stack([y, y], 1))
    with pytest.raises(ValueError, match=re.escape("y: expected (N, 2) as at the first fit, got (10,)")):
        two.partial_fit(X, y)


def test_predict_wants_what_fit_got():
    X, y = problem(10)
    with pytest.raises(NotFittedError):
        GRURegressor().predict(X)
    with pytest.raises(NotFittedError):
        GRUForecaster().predict()
    with pytest.raises(NotFittedError):
        GRUClassifier().stream()
    regressor = GRURegressor(**SMALL).fit(X, y)
    with pytest.raises(ValueError, match="X has 3 features, but GRURegressor is expecting 2 features as input"):
        regressor.predict(np.zeros((4, 5, 3)))
    with pytest.raises(ValueError, match=re.escape("X: expected (N, T, I) or a list of (t, I) as in fit, got (N, F)")):
        regressor.predict(X[:, :, 0])
    with pytest.raises(ValueError, match=re.escape("X: expected (N, F) as in fit, got (N, T, I) or a list of (t, I)")):
        GRURegressor(**SMALL).fit(X[:, :, 0], y).predict(X)


def test_a_refused_fit_changes_nothing():
    X, y = problem(20)
    for estimator, target, wrong in [
        (GRUClassifier(**SMALL), y > 0, np.arange(20)),
        (GRURegressor(**SMALL), y, np.stack([y, y], 1)),
    ]:
        expected = estimator.fit(X, target).predict(X)
        for bad in [(X[:, :, :1], wrong[:-1]), (X[:, :, 0], wrong, -np.ones(20)), (nan_in(X), wrong)]:
            with pytest.raises(ValueError):
                estimator.fit(*bad)
            np.testing.assert_array_equal(estimator.predict(X), expected)
        for parameters in ({"dropout": 2}, {"early_stopping": True, "validation_fraction": 0.99}):
            with pytest.raises(ValueError):
                estimator.set_params(**parameters).fit(X[:2, :, :1], wrong[:2])
            np.testing.assert_array_equal(estimator.predict(X), expected)
            estimator.set_params(dropout=0.0)
    forecaster = GRUForecaster(3, **SMALL).fit(WAVE)
    expected = forecaster.backtest(WAVE)
    with pytest.raises(ValueError):
        forecaster.fit(np.ones((4, 2)))
    np.testing.assert_array_equal(forecaster.backtest(WAVE), expected)


def test_series():
    for series, message in [
        (WAVE[:4], "series: expected 6 values or more for a horizon of 3 (1 held out), got 4"),
        (np.where(np.arange(300) == 7, np.nan, WAVE), "Input series contains NaN"),
        (np.zeros((5, 2, 2)), "3"),
        ([], "0"),
    ]:
        options = {"early_stopping": True, "validation_fraction": 0.2}
        if len(series) == 4:
            message = "validation_fraction: expected to hold out 3 values, the horizon, or more, got 1 of 4"
        with pytest.raises(ValueError, match=re.escape(message)):
            GRUForecaster(3, **SMALL, **options).fit(series)
    with pytest.raises(
        ValueError, match=re.escape("series: expected 5 values or more for a horizon of 3 (0 held out), got 4")
    ):
        GRUForecaster(3, **SMALL, early_stopping=False).fit(WAVE[:4])
    short = GRUForecaster(3, **SMALL, early_stopping=False).fit(WAVE[:5])
    assert short.predict_interval()[0].shape == (3,)
    for call, message in [
        (lambda: short.predict(4), "horizon: expected an integer from 1 to 3, got 4"),
        (lambda: short.predict_interval(coverage=1), "coverage: expected a number above 0 and below 1, got 1"),
        (lambda: short.predict(history=np.zeros((9, 2))), "history has 2 features, but GRUForecaster is expecting 1"),
        (lambda: short.score(WAVE[:3]), "series: expected more values than the horizon, 3, got 3"),
        (lambda: GRUForecaster(0).fit(WAVE), "horizon: expected an integer from 1"),
        (lambda: GRUForecaster(window=1).fit(WAVE), "window: expected an integer from 2"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()


def broken_at(monkeypatch, count, what):
    """Let the computation of the loss go wrong at its count-th call."""
    loss, calls = network.Network.loss, []

    def breaking(self, *arguments):
        calls.append(1)
        if len(calls) == count:
            if what is KeyboardInterrupt:
                raise KeyboardInterrupt
            value, grads = loss(self, *arguments)
            grads["weight_hh_l0"][0, 0] = what
            return value, grads
        return loss(self, *arguments)

    monkeypatch.setattr(network.Network, "loss", breaking)


def test_a_loss_that_is_no_number_any_more(monkeypatch):
    X, y = problem(40)
    expected = GRURegressor(**{**SMALL, "max_iter": 2}).fit(X, y).predict(X)
    regressor = GRURegressor(**SMALL)
    broken_at(monkeypatch, 6, np.nan)  # two batches an epoch
    message = r"in step 6, epoch 3; the gradient by weight_hh_l0 is not finite; the largest gradient in the step before: \d\S*, of \S+\. The estimator keeps the weights of epoch 2"
    with pytest.raises(FloatingPointError, match=message):
        regressor.fit(X, y)
    np.testing.assert_array_equal(regressor.predict(X), expected)
    broken_at(monkeypatch, 1, np.inf)
    fresh = GRURegressor(**SMALL)
    with pytest.raises(FloatingPointError, match=r"in step 1, epoch 1.*keeps nothing of this training"):
        fresh.fit(X, y)
    with pytest.raises(NotFittedError):
        fresh.predict(X)
    forecaster = GRUForecaster(3, **SMALL)
    broken_at(monkeypatch, 4, np.nan)
    with pytest.raises(FloatingPointError):
        forecaster.fit(WAVE)
    assert forecaster.predict().shape == (3,)


def test_diverges_in_earnest():
    X, y = problem(40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of overflow
        with pytest.raises(FloatingPointError, match="loss: "):
            GRURegressor(8, learning_rate=1e200, random_state=0, clip_norm=None).fit(X, y)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_interrupted(monkeypatch, early_stopping):
    X, y = problem(40)
    options = {**SMALL, "early_stopping": early_stopping, "max_iter": 9, "learning_rate": 0.003}
    whole = GRURegressor(**{**options, "max_iter": 3}).fit(X, y)
    regressor = GRURegressor(**options)
    broken_at(monkeypatch, 7, KeyboardInterrupt)  # at the start of the fourth epoch
    which = "best epoch, 3" if early_stopping else "last step before it"
    with pytest.warns(
        UserWarning,
        match=f"GRURegressor: training was interrupted in epoch 4; the estimator keeps the weights of the {which}",
    ):
        regressor.fit(X, y)
    np.testing.assert_array_equal(regressor.predict(X), whole.predict(X))
    assert regressor.n_iter_ == 3


def test_progress(capsys, monkeypatch):
    X, y = problem(20)
    GRURegressor(**SMALL).fit(X, y)
    assert capsys.readouterr().err == ""
    GRURegressor(**SMALL, verbose=1, early_stopping=True).fit(X, y)
    assert re.search(r"GRURegressor: 100%.*4/4.*loss \S+, held out \d", capsys.readouterr().err)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r'pip install "cgru\[sklearn\]"'):
        GRURegressor(**SMALL, verbose=True).fit(X, y)
