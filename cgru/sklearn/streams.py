"""Fitted estimators step by step: what they predict after each step, at the cost of that step alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.sklearn.network import probabilities

if TYPE_CHECKING:
    from cgru.types import Array


class _Stream:
    """A stream of the estimator's GRU with its scaling and head; belongs to one thread at a time."""

    def __init__(self, estimator: Any) -> None:
        self._estimator, self._network = estimator, estimator._network
        self._features = estimator.gru_.input_size
        self._stream = estimator.gru_.stream()

    def _row(self, x: Any) -> Array:
        """One step's features (I,), in float64; of one feature a number, too."""
        row = np.asarray(x, np.float64)
        if row.ndim == 0 and self._features == 1:
            row = row[None]
        if row.shape != (self._features,):
            raise ValueError(f"x: expected {checks.describe((self._features,))} numbers, got {row.shape}")
        if not np.isfinite(row).all():
            raise ValueError(f"x: expected finite numbers, got {row[~np.isfinite(row)][0]}")
        return row

    def _advance(self, x: Any) -> None:
        estimator = self._estimator
        row = (self._row(x) - estimator.input_mean_) / estimator.input_scale_
        self._stream.step(row.astype(estimator.gru_.dtype))

    def _outputs(self) -> Array:
        """Of the state there is, (K,)."""
        return self._network.head(self._stream.state[-1])

    def step(self, x: Any) -> Any:
        """Take one more step, x (I,) or of one feature a number; what `predict` says then."""
        self._advance(x)
        return self.predict()

    def process(self, chunk: Any) -> Array:
        """Take several steps, (t, I); the predictions after each of them, (t, ...)."""
        return np.array([self.step(x) for x in chunk])

    def predict(self) -> Any:
        raise NotImplementedError

    def reset(self) -> None:
        """Begin another sequence."""
        self._stream.reset()


class ClassifierStream(_Stream):
    """A sequence being classified; made by `GRUClassifier.stream()`.

    After the steps x[0], ..., x[t] its predictions are the classifier's for the sequence x[: t + 1].
    """

    def predict(self) -> Any:
        """The most probable class after the steps so far."""
        return self._estimator.classes_[self._outputs().argmax()]

    def predict_proba(self) -> Array:
        """Each class' probability after the steps so far, (K,)."""
        return probabilities(self._outputs())


class RegressorStream(_Stream):
    """A sequence being measured; made by `GRURegressor.stream()`.

    After the steps x[0], ..., x[t] its predictions are the regressor's for the sequence x[: t + 1].
    """

    def predict(self) -> Any:
        """The numbers after the steps so far: one, or (K,)."""
        return self._estimator._values(self._outputs())


class ForecasterStream(_Stream):
    """A series going on; made by `GRUForecaster.stream()`.

    After each value its forecasts are the forecaster's for the history up to there.
    """

    def __init__(self, estimator: Any) -> None:
        super().__init__(estimator)
        self._start: tuple[Array, Array | None] = (np.zeros_like(self._stream.state), None)
        self._last: Array | None = None

    def resume(self, state: Array, last: Array) -> None:
        """Go on from this state, after this value; so does `reset` from then on."""
        self._start = (state, last)
        self.reset()

    def _advance(self, x: Any) -> None:
        row = self._row(x)
        before = row if self._last is None else self._last
        self._stream.step(self._estimator._inputs(np.stack([before, row]))[1])
        self._last = row

    def predict(self, horizon: int | None = None) -> Array:
        """The forecast after the values so far, (horizon,) or (horizon, I)."""
        estimator = self._estimator
        return estimator._shaped(estimator._forecasts(self._outputs(), self._known())[: estimator._steps(horizon)])

    def predict_interval(self, horizon: int | None = None, coverage: float = 0.8) -> tuple[Array, Array]:
        """Lower and upper bounds of the forecast, each shaped as it; see `GRUForecaster.predict_interval`."""
        estimator = self._estimator
        return estimator._interval(estimator._forecasts(self._outputs(), self._known()), horizon, coverage)

    def _known(self) -> Array:
        if self._last is None:
            raise RuntimeError("stream: expected a value before a forecast; give it one with step")
        return self._last

    def reset(self) -> None:
        """Go back to where the stream began."""
        state, last = self._start
        self._stream.state = state
        self._last = last
