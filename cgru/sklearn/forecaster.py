"""GRUForecaster: the next values of a series, all of the horizon at once, and intervals around them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.utils.validation import _check_feature_names, check_is_fitted

from cgru import checks
from cgru.sklearn.base import Estimator
from cgru.sklearn.network import squared_error
from cgru.sklearn.scaling import exponent_of, numbers, scaled, standardization
from cgru.sklearn.streams import ForecasterStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

    from cgru.sklearn.training import Batch, History
    from cgru.types import Array


class GRUForecaster(Estimator):
    """The future of a series: a GRU reads it value by value, a linear head on its state gives the next `horizon`.

    It learns from windows of the series, by the squared error of all forecasts after each of a window's values. The end
    of the series is held out: its first half tells when to stop, its second how large errors are, which makes the
    intervals; see `predict_interval`.

    Parameters
    ----------
    horizon : int
        Values forecast at a time, K.
    hidden_size, num_layers, dropout
        Of the `cgru.GRU`.
    difference : bool
        Whether the GRU reads changes from value to value, and forecasts changes from the last value on: for a series
        with a trend. Inputs and targets are standardized in any case.
    window : int
        Values in a window; longer than the memory that forecasts need, as two seasons.
    max_iter, batch_size, learning_rate, schedule, clip_norm, weight_decay
        As in GRURegressor; a batch is of windows.
    early_stopping : bool
        Whether to hold out the last validation_fraction of the series. Without, no errors are known but those in
        training, which are too small, and intervals are infinite until `calibrate`.
    validation_fraction, n_iter_no_change, tol, warm_start, dtype, random_state, num_threads, verbose, callback
        As in GRURegressor.

    Attributes
    ----------
    gru_ : cgru.GRU
    residuals_ : (n, K * I)
        Of each of the last n values held out, what it differs by from the forecasts of it 1 to K steps before.
    n_features_in_ : int
        I.
    loss_curve_, validation_curve_, n_iter_, best_iter_
        As in GRURegressor.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru.sklearn import GRUForecaster
    >>> series = np.sin(np.arange(400) / 5)
    >>> forecaster = GRUForecaster(horizon=10, hidden_size=16, max_iter=150, random_state=0).fit(series)
    >>> float(np.abs(forecaster.predict() - np.sin(np.arange(400, 410) / 5)).max()) < 0.2
    True
    >>> lower, upper = forecaster.predict_interval(coverage=0.8)
    >>> stream = forecaster.stream()                    # goes on where the series ended
    >>> stream.step(np.sin(400 / 5)).shape
    (10,)
    """

    _every_step: ClassVar[bool] = True
    _facts: ClassVar[tuple[str, ...]] = ("n_features_in_", "n_iter_", "best_iter_", "_single")

    def __init__(
        self,
        horizon: int = 1,
        hidden_size: int = 32,
        num_layers: int = 1,
        *,
        dropout: float = 0.0,
        difference: bool = False,
        window: int = 64,
        max_iter: int = 200,
        batch_size: int = 16,
        learning_rate: float = 0.01,
        schedule: str = "cosine",
        clip_norm: float | None = 1.0,
        weight_decay: float = 0.0,
        early_stopping: bool = True,
        validation_fraction: float = 0.2,
        n_iter_no_change: int = 20,
        tol: float = 0.0,
        warm_start: bool = False,
        dtype: str = "float32",
        random_state: Any = None,
        num_threads: int | None = None,
        verbose: int = 0,
        callback: Any = None,
    ) -> None:
        self.horizon = horizon
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.dropout = dropout
        self.difference = difference
        self.window = window
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.clip_norm = clip_norm
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.dtype = dtype
        self.random_state = random_state
        self.num_threads = num_threads
        self.verbose = verbose
        self.callback = callback

    def _check_parameters(self) -> None:
        super()._check_parameters()
        checks.integer("horizon", self.horizon, 1)
        checks.integer("window", self.window, 2)

    # --- Fitting ------------------------------------------------------------------------------------------------------

    def fit(self, series: Any, y: Any = None) -> Self:
        """Train on a series.

        Parameters
        ----------
        series : (T,) or (T, I)
            Values at even intervals, the oldest first; of several series beside each other all are forecast.
        y : ignored

        Raises
        ------
        TypeError, ValueError
            The series is too short or not finite, or a parameter does not fit; the message names it.
        FloatingPointError
            The loss is no number any more; the estimator keeps the weights of the best epoch before.
        KeyboardInterrupt
            As in GRURegressor.fit; so it is that the estimator stays as it was, whatever else is raised.
        """
        return self._refit(series, self.warm_start and hasattr(self, "gru_"), once=False)

    def partial_fit(self, series: Any, y: Any = None) -> Self:
        """One epoch on this series, from the weights that there are; what is held out, and y, are as in fit."""
        return self._refit(series, hasattr(self, "gru_"), once=True)

    def _fit(self, series: Any, again: bool, once: bool) -> History:
        self._check_parameters()
        values = self._read("series", series, reset=not again)
        held = self._held_out(len(values))
        end = len(values) - held  # of what is trained on
        calibrated = len(values) - held // 2  # from here on, what training is not stopped by either
        self._rng = rng = self._generator(proceed=once and again)
        ahead = np.arange(len(values))[:, None] + np.arange(1, self.horizon + 1)  # (T, horizon): of which value
        trained = np.repeat(ahead < end, values.shape[1], axis=1)  # (T, K)
        judged = np.repeat((ahead >= end) & (ahead < calibrated), values.shape[1], axis=1)
        targets = self._targets(values, ahead)
        if again:
            network = self._trained_before(values.shape[1], targets.shape[1])
        else:
            self.input_mean_, self.input_scale_ = standardization(self._changes(values[:end]), lambda v: v.mean(0))
            self.target_mean_, self.target_scale_ = standardization(targets, lambda v: v.mean(0, where=trained))
            network = self._make(values.shape[1], targets.shape[1], rng)
        self._set_network(network)
        x = self._checked("series", values)
        targets = scaled("series", targets, self.target_mean_, self.target_scale_, x.dtype)  # that of gradients, too
        window = min(self.window, end)

        def batches() -> Iterator[Batch]:
            stride = max(1, window // 4)
            starts = np.arange(rng.integers(stride) if end > window else 0, end - window + 1, stride)
            starts = rng.permutation(starts if len(starts) else np.array([end - window]))
            for first in range(0, len(starts), self.batch_size):
                steps = np.arange(window)[:, None] + starts[first : first + self.batch_size]  # (window, B)
                criterion = squared_error(targets[steps], trained[steps])
                yield np.ascontiguousarray(x[steps]), {}, criterion, steps.shape[1] / len(starts)

        def validate() -> float:
            outputs = network(x[:, None], {}, self._threads())[:, 0]
            return squared_error(targets, judged / judged.mean())(outputs)[0]

        history = self._train(network, batches, validate if held and not once else None, rng, again, once)
        states, h_n = self.gru_(x[:, None], num_threads=self._threads())
        self.state_, self.last_ = h_n[:, 0], values[-1]
        self.residuals_ = self._errors(network.head(states[:, 0]), values, calibrated)
        return history

    def _held_out(self, count: int) -> int:
        """How many of so many values are not trained on; refuses too short a series."""
        held = int(np.ceil(self.validation_fraction * count)) if self.early_stopping else 0
        if self.early_stopping and held < self.horizon:
            raise ValueError(
                f"validation_fraction: expected to hold out {self.horizon} values, the horizon, or more, "
                f"got {held} of {count}"
            )
        if count - held < self.horizon + 2:
            raise ValueError(
                f"series: expected {self.horizon + 2 + held} values or more for a horizon of {self.horizon} "
                f"({held} held out), got {count}"
            )
        return held

    def _errors(self, outputs: Array, values: Array, first: int) -> Array:
        """Values (n, K) less what was forecast of them 1 to horizon steps before; of those from value `first` on."""
        steps = np.arange(first, len(values))[:, None] - np.arange(1, self.horizon + 1)  # (n, horizon)
        forecasts = self._forecasts(outputs, values)[steps, np.arange(self.horizon)]  # (n, horizon, I)
        return (values[first:, None] - forecasts).reshape(len(steps), self.horizon * values.shape[1])

    def _read(self, name: str, series: Any, reset: bool = False) -> Array:
        """A series as (T, I), in float64."""
        values = numbers(name, series)
        _check_feature_names(self, series, reset=reset)
        single = values.ndim == 1
        values = values.reshape(len(values), -1)
        if reset:
            self._single, self.n_features_in_ = single, values.shape[1]
        elif values.shape[1] != self.n_features_in_:
            raise ValueError(
                f"{name} has {values.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features as input"
            )
        return values

    def _changes(self, values: Array) -> Array:
        """What the GRU reads, before scaling; of differences the first, which is not known, is 0."""
        return np.diff(values, axis=0, prepend=values[:1]) if self.difference else values

    def _inputs(self, values: Array) -> Array:
        """What the GRU reads, (T, I)."""
        return ((self._changes(values) - self.input_mean_) / self.input_scale_).astype(self.gru_.dtype)

    def _checked(self, name: str, values: Array) -> Array:
        """What the GRU reads, (T, I), of a series that may be too large for it."""
        dtype = self.gru_.dtype
        return scaled(name, self._changes(values), self.input_mean_, self.input_scale_, dtype).astype(dtype)

    def _targets(self, values: Array, ahead: Array) -> Array:
        """The values (T, K) that lie `ahead`, of each step, or what they differ by from it; the last where unknown."""
        targets = values[np.minimum(ahead, len(values) - 1)]  # (T, horizon, I)
        if self.difference:
            targets = targets - values[:, None]
        return targets.reshape(len(values), -1)

    # --- Forecasts ----------------------------------------------------------------------------------------------------

    def predict(self, horizon: int | None = None, history: Any = None) -> Array:
        """The next values.

        Parameters
        ----------
        horizon : int, optional
            How many, up to the estimator's horizon, which it is where absent.
        history : (T,) or (T, I), optional
            What they follow; the series of fit where absent.

        Returns
        -------
        forecast : (horizon,), or (horizon, I) where fit got (T, I)
        """
        steps = self._steps(horizon)
        return self._shaped(self._next(history)[:steps])

    def predict_interval(
        self, horizon: int | None = None, coverage: float = 0.8, history: Any = None
    ) -> tuple[Array, Array]:
        """Bounds between which each of the next values lies with a probability of `coverage` or more.

        The forecast plus and minus the ceil((n + 1) * coverage)-th smallest of the n errors in size, each number of
        steps ahead by itself: split conformal prediction (Vovk, Gammerman and Shafer, 2005; Lei et al., 2018, theorem
        2.2; for forecasts of several steps Stankeviciute et al., 2021, who also divide 1 - coverage by the horizon to
        cover all of it at once). The errors are those of the values held out last, which neither weights nor the
        epoch kept depend on.

        The promise holds, on average over series, if the error to come and those n are exchangeable: in any order
        they are equally likely. Errors of a series are so only roughly, since neighbours are alike; where it changes
        its nature, errors grow and the intervals cover less, until `calibrate` measures them anew. Where n is too
        small for the coverage, below coverage / (1 - coverage), the bounds are infinite: no finite ones keep the
        promise. For 0.8 n is 4 or more, for 0.95 it is 19.

        Returns
        -------
        lower, upper : (horizon,) or (horizon, I)
        """
        self._steps(horizon)
        return self._interval(self._next(history), horizon, coverage)

    def calibrate(self, series: Any, start: int = 0) -> Self:
        """Take the errors that intervals are made of from a newer series; weights and forecasts stay as they are.

        Parameters
        ----------
        series : (T,) or (T, I)
            Values that fit has not seen, at even intervals, with or without those before them.
        start : int
            How many of them, from the first, only lead up to the others, as those that fit has seen; the errors are
            of all that follow. Of the first horizon values not all forecasts exist, so they are left out, too.
        """
        check_is_fitted(self)
        values = self._read("series", series)
        first = max(checks.integer("start", start, 0), self.horizon)
        if first >= len(values):
            raise ValueError(f"series: expected more than {first} values, of which errors are known, got {len(values)}")
        outputs = self._network(self._checked("series", values)[:, None], {}, self._threads())[:, 0]
        self.residuals_ = self._errors(outputs, values, first)
        return self

    def backtest(self, series: Any) -> Array:
        """The forecasts after every value of a series, (T, horizon) or (T, horizon, I); none has seen what follows."""
        check_is_fitted(self)
        values = self._read("series", series)
        outputs = self._network(self._checked("series", values)[:, None], {}, self._threads())[:, 0]
        forecasts = self._forecasts(outputs, values)
        return forecasts[..., 0] if self._single else forecasts

    def score(self, series: Any, y: Any = None) -> float:
        """1 less the ratio of squared errors to those of persistence, which forecasts the last value.

        Over all forecasts of the horizon within the series: 1 is perfect, 0 as good as persistence. Where persistence
        is perfect, as of a constant series, it is 1 or 0.
        """
        check_is_fitted(self)
        values = self._read("series", series)
        if len(values) <= self.horizon:
            raise ValueError(f"series: expected more values than the horizon, {self.horizon}, got {len(values)}")
        origins = np.arange(len(values) - self.horizon)
        true = values[origins[:, None] + np.arange(1, self.horizon + 1)]  # (T - horizon, horizon, I)
        forecasts = self.backtest(values).reshape(len(values), self.horizon, -1)[origins]
        errors, changes = true - forecasts, true - values[origins, None]
        if not changes.any():
            return float(not errors.any())
        exponent = -exponent_of(max(np.abs(errors).max(), np.abs(changes).max()))  # so that squares are finite
        with np.errstate(divide="ignore"):  # -inf, where forecasts are that far off
            return float(1 - np.sum(np.ldexp(errors, exponent) ** 2) / np.sum(np.ldexp(changes, exponent) ** 2))

    def stream(self, history: Any = None) -> ForecasterStream:
        """The forecasts after each new value of a series; see `ForecasterStream`.

        Parameters
        ----------
        history : (T,) or (T, I), optional
            What the new values follow, T from 0; the series of fit where absent.
        """
        check_is_fitted(self)
        stream = ForecasterStream(self)
        if history is None:
            stream.resume(self.state_, self.last_)
        elif len(history):
            values = self._read("history", history)
            _, h_n = self.gru_(self._checked("history", values)[:, None], num_threads=self._threads())
            stream.resume(h_n[:, 0], values[-1])
        return stream

    def _steps(self, horizon: int | None) -> int:
        check_is_fitted(self)
        return self.horizon if horizon is None else checks.integer("horizon", horizon, 1, self.horizon)

    def _next(self, history: Any) -> Array:
        """Forecasts (horizon, I)."""
        if history is None:
            return self._forecasts(self._network.head(self.state_[-1]), self.last_)
        values = self._read("history", history)
        outputs = self._network(self._checked("history", values)[:, None], {}, self._threads())[-1, 0]
        return self._forecasts(outputs, values[-1])

    def _forecasts(self, outputs: Array, last: Array) -> Array:
        """Values (..., horizon, I) of outputs (..., K), after the last ones (..., I)."""
        scaled = self.target_mean_ + self.target_scale_ * outputs
        values = scaled.reshape(*outputs.shape[:-1], -1, self.n_features_in_)
        return values + last[..., None, :] if self.difference else values

    def _interval(self, forecasts: Array, horizon: int | None, coverage: float) -> tuple[Array, Array]:
        if isinstance(coverage, bool) or not isinstance(coverage, (int, float, np.number)) or not 0 < coverage < 1:
            raise ValueError(f"coverage: expected a number above 0 and below 1, got {coverage!r}")
        steps, count = self._steps(horizon), len(self.residuals_)
        rank = math.ceil((count + 1) * coverage - 1e-9)  # 1e-9: for 19 errors and 0.95 it is 19, however it is rounded
        margin = np.full(forecasts.shape, np.inf)
        if rank <= count:
            sizes = np.abs(self.residuals_).reshape(count, *forecasts.shape)
            margin = np.partition(sizes, rank - 1, axis=0)[rank - 1]
        return self._shaped((forecasts - margin)[:steps]), self._shaped((forecasts + margin)[:steps])

    def _shaped(self, values: Array) -> Array:
        return values[..., 0] if self._single else values

    def _array_shapes(self) -> dict[str, tuple[int | str, ...]]:
        return {
            "input_mean_": ("I",),
            "input_scale_": ("I",),
            "target_mean_": ("K",),
            "target_scale_": ("K",),
            "residuals_": ("n", "K"),
            "state_": ("L", "H"),
            "last_": ("I",),
        }
