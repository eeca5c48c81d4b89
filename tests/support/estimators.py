"""Small problems for cgru.sklearn's estimators, and estimators fitted to them."""

import numpy as np
import pandas as pd

from cgru.sklearn import GRUClassifier, GRUForecaster, GRURegressor

SMALL = {"hidden_size": 6, "max_iter": 4, "random_state": 0}


WAVE = np.sin(np.arange(300) / 4) + np.arange(300) / 50


def problem(n=120, steps=12, features=2, seed=0, ragged=False):
    """Whether the first feature's sum over a sequence is positive."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, steps, features))
    y = X[:, :, 0].sum(1)
    if ragged:
        X = [x[: rng.integers(3, steps + 1)] for x in X]
        y = np.array([x[:, 0].sum() for x in X])
    return X, y


def fitted():
    X, y = problem(30)
    table = pd.DataFrame(X[:, :, 0], columns=[f"t{t}" for t in range(12)])
    labels = np.where(y > 0, "up", "down")
    yield GRUClassifier(**SMALL, class_weight={"up": 2, "down": 1}).fit(X, labels), X
    yield GRUClassifier(**SMALL, bidirectional=True, num_layers=2).fit(X, labels.astype(object)), X
    yield GRUClassifier(**SMALL, dtype=np.float64).fit(table, y > 0), table
    yield GRURegressor(**SMALL, learning_rate=np.float64(0.01)).fit(list(X), y), X
    yield GRURegressor(**SMALL).fit(X, np.stack([y, y], 1)), X
    yield GRUForecaster(3, **SMALL).fit(WAVE), WAVE
    yield (
        GRUForecaster(3, **SMALL, difference=True, dtype="float64").fit(np.stack([WAVE, WAVE], 1)),
        np.stack([WAVE, WAVE], 1),
    )


def answers(estimator, X):
    if isinstance(estimator, GRUForecaster):
        return [estimator.backtest(X), estimator.predict(), *estimator.predict_interval()]
    extra = [estimator.predict_proba(X), estimator.classes_] if isinstance(estimator, GRUClassifier) else []
    return [estimator.predict(X), *extra]
