"""Fitted estimators step by step: what they predict after each step, at the cost of that step alone.

A stream is wholly the estimator as it was when the stream was made: its scaling, GRU and head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru._exclusive import Exclusive, alone
from cgru.sklearn.network import probabilities

if TYPE_CHECKING:
    from cgru.types import Array


def _frozen(estimator: Any) -> Any:
    """The estimator as it is now, whatever it is trained on later; nothing is copied.

    Training replaces what the estimator, its network and its GRU hold, and never writes into an array.
    """
    frozen, network = (object.__new__(type(part)) for part in (estimator, estimator._network))
    network.__dict__.update(vars(estimator._network))
    network.gru = network.gru.of(network.gru.value)
    frozen.__dict__.update(vars(estimator))
    frozen._set_network(network)
    return frozen


class _Stream(Exclusive):
    """A stream of the estimator's GRU with its scaling and head; belongs to one thread at a time.

    It keeps the weights that the estimator had when it was made, in every method, copy and pickle.
    """

    _kind = "stream"

    def __init__(self, estimator: Any) -> None:
        self._estimator = _frozen(estimator)
        self._features = self._estimator.gru_.input_size
        self._stream = self._estimator.gru_.stream()
        self._last: Array | None = None
        """The features (I,) of the last step, for a stream that needs them."""

    def _row(self, x: Any) -> Array:
        """One step's features (I,), in float64; of one feature a number, too."""
        row = np.asarray(checks.plain("x", x) if isinstance(x, np.ndarray) else x, np.float64)
        if row.ndim == 0 and self._features == 1:
            row = row[None]
        if row.shape != (self._features,):
            raise ValueError(f"x: expected {checks.describe((self._features,))} numbers, got {row.shape}")
        if not np.isfinite(row).all():
            raise ValueError(f"x: expected finite numbers, got {row[~np.isfinite(row)][0]}")
        return row

    def _input(self, row: Array) -> Array:
        """What the GRU reads of one step's features."""
        estimator = self._estimator
        scaled: Array = (row - estimator.input_mean_) / estimator.input_scale_
        return scaled.astype(estimator.gru_.dtype)

    def _advance(self, x: Any) -> Any:
        row = self._row(x)
        self._stream.step(self._input(row))
        self._last = row.copy()
        return self._predicted()

    def _outputs(self) -> Array:
        """Of the state there is, (K,)."""
        outputs: Array = self._estimator._network.head(self._stream.state[-1])
        return outputs

    def _several(self, rows: Any) -> list[Any]:
        """The predictions after each of several steps; should one fail, none has been taken."""
        state, last = self._stream.state, self._last
        try:
            return [self._advance(x) for x in rows]
        except BaseException:
            self._go_to(state, last)
            raise

    def _go_to(self, state: Array, last: Array | None) -> None:
        self._stream.state, self._last = state, last

    @alone
    def step(self, x: Any) -> Any:
        """Take one more step, x (I,) or of one feature a number; what `predict` says then."""
        return self._several([x])[0]

    @alone
    def process(self, chunk: Any) -> Array:
        """Take several steps, (t, I); the predictions after each of them, (t, ...)."""
        return np.array(self._several(chunk))

    @alone
    def predict(self) -> Any:
        """What the estimator predicts after the steps so far."""
        return self._predicted()

    def _predicted(self) -> Any:
        raise NotImplementedError

    @alone
    def reset(self) -> None:
        """Begin another sequence."""
        self._rewind()

    def _rewind(self) -> None:
        self._go_to(np.zeros_like(self._stream.state), None)

    @alone
    def __reduce__(self) -> Any:
        return _restore, (type(self), {**self.__dict__, "_stream": self._stream.copy()})


def _restore(kind: type[_Stream], parts: dict[str, Any]) -> _Stream:
    stream = kind.__new__(kind)
    stream.__dict__.update(parts)
    return stream


class ClassifierStream(_Stream):
    """A sequence being classified; made by `GRUClassifier.stream()`.

    After the steps x[0], ..., x[t] its predictions are those for the sequence x[: t + 1] of the classifier as it was
    when the stream was made.
    """

    def _predicted(self) -> Any:
        """The most probable class."""
        return self._estimator.classes_[self._outputs().argmax()]

    @alone
    def predict_proba(self) -> Array:
        """Each class' probability after the steps so far, (K,)."""
        return probabilities(self._outputs())


class RegressorStream(_Stream):
    """A sequence being measured; made by `GRURegressor.stream()`.

    After the steps x[0], ..., x[t] its predictions are those for the sequence x[: t + 1] of the regressor as it was
    when the stream was made.
    """

    def _predicted(self) -> Any:
        """The numbers: one, or (K,)."""
        return self._estimator._values(self._outputs())


class ForecasterStream(_Stream):
    """A series going on; made by `GRUForecaster.stream()`.

    After each value its forecasts are those for the history up to there of the forecaster as it was when the stream was
    made.
    """

    def __init__(self, estimator: Any) -> None:
        super().__init__(estimator)
        self._start: tuple[Array, Array | None] = (np.zeros_like(self._stream.state), None)

    @alone
    def resume(self, state: Array, last: Array) -> None:
        """Go on from this state, after this value; so does `reset` from then on."""
        self._start = (state, last)
        self._rewind()

    def _input(self, row: Array) -> Array:
        before = row if self._last is None else self._last
        inputs: Array = self._estimator._inputs(np.stack([before, row]))[1]
        return inputs

    def _predicted(self) -> Array:
        return self._forecast(None)

    def _forecast(self, horizon: int | None) -> Array:
        estimator = self._estimator
        steps = estimator._steps(horizon)
        forecast: Array = estimator._shaped(estimator._forecasts(self._outputs(), self._known())[:steps])
        return forecast

    @alone
    def predict(self, horizon: int | None = None) -> Array:
        """The forecast after the values so far, (horizon,) or (horizon, I)."""
        return self._forecast(horizon)

    @alone
    def predict_interval(self, horizon: int | None = None, coverage: float = 0.8) -> tuple[Array, Array]:
        """Lower and upper bounds of the forecast, each shaped as it; see `GRUForecaster.predict_interval`."""
        estimator = self._estimator
        bounds: tuple[Array, Array] = estimator._interval(
            estimator._forecasts(self._outputs(), self._known()), horizon, coverage
        )
        return bounds

    def _known(self) -> Array:
        if self._last is None:
            raise RuntimeError("stream: expected a value before a forecast; give it one with step")
        return self._last

    def _rewind(self) -> None:
        """Go back to where the stream began."""
        self._go_to(*self._start)
