"""What classifiers and regressors learn, of which inputs and weights, how training stops and goes on, and what streams say."""

import re

import numpy as np
import pandas as pd
import pytest

from cgru.sklearn import GRUClassifier, GRURegressor

from ..support.estimators import SMALL, problem


@pytest.mark.parametrize("ragged", [False, True])
def test_classifier_learns(ragged):
    X, y = problem(300, ragged=ragged)
    y = np.where(y > 0, "up", "down")
    classifier = GRUClassifier(8, max_iter=30, random_state=0).fit(X[:200], y[:200])
    assert classifier.classes_.tolist() == ["down", "up"]
    assert classifier.score(X[200:], y[200:]) > 0.9
    p = classifier.predict_proba(X[200:])
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_array_equal(classifier.classes_[p.argmax(1)], classifier.predict(X[200:]))
    np.testing.assert_array_equal(p[3], classifier.predict_proba(X[203:204])[0])  # whatever the batch


@pytest.mark.parametrize("bidirectional", [False, True])
def test_regressor_learns(bidirectional):
    X, y = problem(300, ragged=True)
    Y = np.stack([1000 * y + 7, -y], 1)
    options = {"max_iter": 40, "random_state": 0, "bidirectional": bidirectional, "schedule": "cosine"}
    regressor = GRURegressor(12, **options).fit(X[:200], Y[:200])
    assert regressor.score(X[200:], Y[200:]) > 0.9
    assert regressor.predict(X).shape == (300, 2)
    assert GRURegressor(**SMALL).fit(X, y).predict(X).shape == (300,)


def test_forms_of_input_are_equal():
    X, y = problem(40, features=1)
    as_array = GRURegressor(**SMALL).fit(X, y)
    for form in (list(X), X[:, :, 0], pd.DataFrame(X[:, :, 0], columns=[f"t{t}" for t in range(12)])):
        np.testing.assert_allclose(GRURegressor(**SMALL).fit(form, y).predict(form), as_array.predict(X), rtol=1e-5)
    ragged = np.empty(40, object)
    ragged[:] = list(X)
    np.testing.assert_allclose(as_array.predict(ragged), as_array.predict(X), rtol=1e-6)
    assert as_array.n_features_in_ == 1
    assert GRURegressor(**SMALL).fit(X[:, :, 0], y).n_features_in_ == 12


@pytest.mark.parametrize("standardize", [False, True])
def test_sample_weights_are_repeated_samples(standardize):
    X, y = problem(20, ragged=True)
    weight = np.random.default_rng(0).integers(0, 4, 20)
    repeated = np.repeat(np.arange(20), weight)
    options = {**SMALL, "dtype": "float64", "batch_size": 100, "standardize": standardize}
    one = GRURegressor(**options).fit(X, y, sample_weight=weight)
    other = GRURegressor(**options).fit([X[i] for i in repeated], y[repeated])
    np.testing.assert_allclose(one.predict(X), other.predict(X), rtol=1e-10)
    assert np.abs(one.predict(X) - GRURegressor(**options).fit(X, y).predict(X)).max() > 1e-4


def test_class_weights_are_sample_weights():
    X, y = problem(30)
    y = (y > 1).astype(int)
    one = GRUClassifier(**SMALL, class_weight={0: 1, 1: 3}).fit(X, y)
    other = GRUClassifier(**SMALL).fit(X, y, sample_weight=1 + 2 * y)
    np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(X), rtol=1e-6)
    balanced = GRUClassifier(**SMALL, class_weight="balanced").fit(X, y)
    assert np.abs(balanced.predict_proba(X) - one.predict_proba(X)).max() > 1e-4


def test_repeatable_by_random_state():
    X, y = problem(40)
    options = {**SMALL, "num_layers": 2, "dropout": 0.3, "early_stopping": True}
    one, other = (GRURegressor(**options).fit(X, y).predict(X) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert (GRURegressor(**{**options, "random_state": 1}).fit(X, y).predict(X) != one).any()


def test_early_stopping_keeps_the_best():
    X, y = problem(60)
    y = y + 3 * np.random.default_rng(1).standard_normal(60)  # much to learn by heart
    options = {
        "hidden_size": 16,
        "early_stopping": True,
        "n_iter_no_change": 5,
        "validation_fraction": 0.3,
        "random_state": 0,
    }
    stopped = GRURegressor(max_iter=200, learning_rate=0.02, **options).fit(X, y)
    assert stopped.n_iter_ < 200
    assert stopped.best_iter_ == 1 + int(np.argmin(stopped.validation_curve_)) == stopped.n_iter_ - 5
    again = GRURegressor(max_iter=stopped.best_iter_, learning_rate=0.02, **options).fit(X, y)
    np.testing.assert_array_equal(again.predict(X), stopped.predict(X))


def test_warm_start_and_partial_fit_go_on():
    X, y = problem(40)
    whole = GRURegressor(**{**SMALL, "max_iter": 6}).fit(X, y)
    parts = GRURegressor(**SMALL)
    for _ in range(6):
        parts.partial_fit(X, y)
    np.testing.assert_array_equal(parts.predict(X), whole.predict(X))
    warm = GRURegressor(**SMALL, warm_start=True).fit(X, y)
    first = warm.loss_curve_
    assert warm.fit(X, y).loss_curve_[-1] < first[-1]
    cold = GRURegressor(**SMALL).fit(X, y)
    assert cold.fit(X, y).loss_curve_ == first
    with pytest.raises(ValueError, match="hidden_size: expected 6 as in the network there is, got 7"):
        warm.set_params(hidden_size=7).fit(X, y)


def test_partial_fit_of_classes():
    X, y = problem(40)
    y = np.where(y > 0, 5, 3)
    classifier = GRUClassifier(**SMALL)
    with pytest.raises(ValueError, match="classes: expected all of them at the first call of partial_fit, got None"):
        classifier.partial_fit(X, y)
    classifier.partial_fit(X[y == 3], y[y == 3], classes=[5, 4, 3])
    assert classifier.classes_.tolist() == [3, 4, 5]
    classifier.partial_fit(X, y)
    assert classifier.predict_proba(X).shape == (40, 3)
    with pytest.raises(ValueError, match=re.escape("classes: expected [3 4 5] as at the first call, got [3 4]")):
        classifier.partial_fit(X, y, classes=[3, 4])
    with pytest.raises(ValueError, match=re.escape("y: expected the classes [3 4 5], as at the first fit, got [9]")):
        classifier.partial_fit(X, np.full(40, 9))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_streams_say_what_predict_says(dtype):
    X, y = problem(40)
    classifier = GRUClassifier(**SMALL, dtype=dtype, num_layers=2).fit(X, np.where(y > 0, "up", "down"))
    regressor = GRURegressor(**SMALL, dtype=dtype).fit(X, np.stack([y, y], 1))
    labels, numbers = classifier.stream(), regressor.stream()
    for t, row in enumerate(X[0]):
        assert labels.step(row) == classifier.predict(X[:1, : t + 1])[0]
        np.testing.assert_allclose(labels.predict_proba(), classifier.predict_proba(X[:1, : t + 1])[0], rtol=1e-12)
        np.testing.assert_allclose(numbers.step(row), regressor.predict(X[:1, : t + 1])[0], rtol=1e-12)
    labels.reset()
    assert labels.process(X[1])[-1] == classifier.predict(X[1:2])[0]
    for wrong, message in [
        ([1.0], "x: expected (2,) numbers, got (1,)"),
        ([1, np.nan], "x: expected finite numbers, got nan"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            labels.step(wrong)
    with pytest.raises(ValueError, match="expected a GRU that reads forwards"):
        GRURegressor(**SMALL, bidirectional=True).fit(X, y).stream()
