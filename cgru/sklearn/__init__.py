"""Estimators for scikit-learn: sequences to classes, to numbers, and series to their future, by a GRU.

Compiled kernels train and run them; see `cgru.GRU.record`. Needs scikit-learn: pip install "cgru[sklearn]".

>>> import numpy as np
>>> from cgru.sklearn import GRUClassifier
>>> rng = np.random.default_rng(0)
>>> X = rng.standard_normal((200, 20, 2))                   # N sequences, T steps, I features
>>> y = np.where(X[:, :, 0].sum(1) > 0, "up", "down")
>>> classifier = GRUClassifier(8, max_iter=30, random_state=0).fit(X[:150], y[:150])
>>> classifier.score(X[150:], y[150:]) > 0.8
True
"""

from __future__ import annotations

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(f'cgru.sklearn needs scikit-learn: pip install "cgru[sklearn]" ({error})') from error

from cgru.sklearn.forecaster import GRUForecaster
from cgru.sklearn.pruning import Prune
from cgru.sklearn.supervised import GRUClassifier, GRURegressor

__all__ = ["GRUClassifier", "GRUForecaster", "GRURegressor", "Prune"]
