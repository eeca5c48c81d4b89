"""Carbon dioxide in the air of Mauna Loa, half a year ahead: cgru.sklearn.GRUForecaster beside classical methods.

    python examples/forecast.py                           # trains in seconds; the table, then value by value
    python examples/forecast.py --horizon 52              # weeks ahead
    python examples/forecast.py --plot forecast.png

The series is the package statsmodels': weekly averages in ppm from 1958 to 2001, with a trend and a yearly season. All
methods learn from the first 70 percent. The rest is held out: after every week of it each method forecasts the weeks to
come, knowing all values so far, its parameters being those learned before. The table prints errors by how far ahead.
Weeks without a measurement, 59, most before 1965, are filled in on a straight line. A year is 52.18 weeks, not 52: that
costs the methods of a fixed season most.
Needs: pip install "cgru[sklearn,examples]".
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cgru.sklearn import GRUForecaster

NEEDED = 'this example needs the packages scikit-learn and statsmodels: pip install "cgru[sklearn,examples]"'
YEAR = 52
"""Weeks."""

SHARE = 0.7
"""Of the series, to learn from."""

COVERAGE = 0.8
"""Of the intervals: so many of the values are to lie within."""


def load() -> tuple[np.ndarray, np.ndarray]:
    """Dates and values of the series, week by week."""
    try:
        from statsmodels.datasets import co2
    except ImportError:
        sys.exit(NEEDED)
    series = co2.load_pandas().data["co2"].interpolate()
    return series.index.to_numpy(), series.to_numpy()


# --- Methods: from the series and the number of values learned from, forecasts (T, horizon) after every value ---------


def persistence(series: np.ndarray, learned: int, horizon: int) -> np.ndarray:
    """The last value."""
    return np.repeat(series[:, None], horizon, axis=1)


def seasonal(series: np.ndarray, learned: int, horizon: int) -> np.ndarray:
    """The value a year before; in the first year, the first."""
    weeks = np.arange(len(series))[:, None] + np.arange(1, horizon + 1)
    years = -(-np.arange(1, horizon + 1) // YEAR)  # what lies ahead more than a year before, has to be older
    return series[np.maximum(weeks - YEAR * years, 0)]


def seasonal_drift(series: np.ndarray, learned: int, horizon: int) -> np.ndarray:
    """The value a year before, and what a year has changed up to now."""
    before = series[np.maximum(np.arange(len(series)) - YEAR, 0)]
    years = -(-np.arange(1, horizon + 1) // YEAR)
    return seasonal(series, learned, horizon) + np.outer(series - before, years)


def exponential_smoothing(series: np.ndarray, learned: int, horizon: int) -> np.ndarray:
    """Holt and Winters: level, trend and season, each a running mean; statsmodels finds the shares of the new."""
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    model = ExponentialSmoothing(series[:learned], trend="add", seasonal="add", seasonal_periods=YEAR)
    found = model.fit().params
    alpha, beta, gamma = (found[f"smoothing_{part}"] for part in ("level", "trend", "seasonal"))
    level, trend, season = found["initial_level"], found["initial_trend"], list(found["initial_seasons"])
    forecasts = np.empty((len(series), horizon))
    ahead = np.arange(1, horizon + 1)
    for t, value in enumerate(series):
        before = level + trend
        level = alpha * (value - season[t]) + (1 - alpha) * before
        season.append(gamma * (value - before) + (1 - gamma) * season[t])
        trend = beta * (level - before + trend) + (1 - beta) * trend
        forecasts[t] = level + trend * ahead + np.array(season[t + 1 :])[(ahead - 1) % YEAR]
    return forecasts


def autoregression(series: np.ndarray, learned: int, horizon: int) -> np.ndarray:
    """A weighted sum of the last year and a week, and again with its own forecasts; least squares by statsmodels."""
    from statsmodels.tsa.ar_model import AutoReg

    lags = YEAR + 1
    constant, *weights = AutoReg(series[:learned], lags).fit().params  # the newest value's weight first
    padded = np.concatenate([np.repeat(series[0], lags - 1), series])
    known = np.lib.stride_tricks.sliding_window_view(padded, lags)  # (T, lags), the newest last
    for _ in range(horizon):
        known = np.hstack([known, (constant + known[:, : -lags - 1 : -1] @ np.array(weights))[:, None]])
    return known[:, lags:]


def gru(series: np.ndarray, learned: int, horizon: int, seed: int) -> tuple[np.ndarray, GRUForecaster]:
    """A GRU that reads weekly changes, trained on windows of three years; the last fifth is held out."""
    try:
        from cgru.sklearn import GRUForecaster
    except ImportError:
        sys.exit(NEEDED)

    start = time.perf_counter()
    forecaster = GRUForecaster(
        horizon,
        hidden_size=32,
        difference=True,
        window=3 * YEAR,
        batch_size=4,
        learning_rate=0.005,
        max_iter=300,
        n_iter_no_change=40,
        random_state=seed,
    ).fit(series[:learned])
    seconds = time.perf_counter() - start
    print(f"# {forecaster.gru_} trained in {seconds:.1f} s, {forecaster.n_iter_} epochs")
    return forecaster.backtest(series), forecaster


METHODS = {
    "persistence": persistence,
    "seasonal naive": seasonal,
    "seasonal naive, drift": seasonal_drift,
    "exponential smoothing": exponential_smoothing,
    "autoregression": autoregression,
}


# --- What they are worth ----------------------------------------------------------------------------------------------


def truth(series: np.ndarray, learned: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps in the part held out after which the whole horizon is known, and its values (steps, horizon)."""
    steps = np.arange(learned - 1, len(series) - horizon)
    return steps, series[steps[:, None] + np.arange(1, horizon + 1)]


def table(errors: dict[str, np.ndarray]) -> str:
    """Root mean squared errors by weeks ahead, and of all."""
    horizon = next(iter(errors.values())).shape[1]
    weeks = sorted({week for week in (1, 4, 13, 26, 52) if week < horizon} | {horizon})
    lines = [" " * 22 + "".join(f"{f'week {week}':>9}" for week in weeks) + f"{'all':>9}"]
    for name, error in errors.items():
        means = [np.sqrt(np.mean(error[:, week - 1] ** 2)) for week in weeks] + [np.sqrt(np.mean(error**2))]
        lines.append(f"{name:22}" + "".join(f"{mean:9.2f}" for mean in means))
    return "\n".join(lines)


def covered(
    forecaster: GRUForecaster, series: np.ndarray, steps: np.ndarray, errors: np.ndarray
) -> dict[str, np.ndarray]:
    """Shares (horizon,) of the values within intervals of fit, and of those calibrated anew every horizon weeks."""
    horizon, held = errors.shape[1], len(forecaster.residuals_)
    anew = copy.copy(forecaster)
    hits: dict[str, list[np.ndarray]] = {"before": [], "known by then": []}
    for first in range(0, len(steps), horizon):
        known = series[: steps[first] + 1]
        anew.calibrate(known, start=max(steps[0] + 1 - held, len(known) - 2 * held))  # the last ones, none trained on
        for origin, used in (("before", forecaster), ("known by then", anew)):
            lower, upper = used.predict_interval(coverage=COVERAGE)  # of one width after every value
            hits[origin].extend(np.abs(errors[first : first + horizon]) <= (upper - lower) / 2)
    return {origin: np.mean(hit, axis=0) for origin, hit in hits.items()}


def run_live(forecaster: GRUForecaster, series: np.ndarray, learned: int, forecasts: np.ndarray) -> bool:
    """Give the part held out value by value; print what a step takes; whether forecasts are those of the whole."""
    stream = forecaster.stream()  # goes on where the part learned from ended
    seconds, largest = [], 0.0
    for t in range(learned, len(series)):
        start = time.perf_counter()
        forecast = stream.step(series[t])
        seconds.append(time.perf_counter() - start)
        largest = max(largest, float(np.abs(forecast - forecasts[t]).max()))
    same = largest <= 1e-4
    verdict = "the same as" if same else "DIFFERENT from"
    print(
        f"# {len(seconds)} values streamed: forecasts {verdict} those of the whole series (largest difference "
        f"{largest:.1g}), {statistics.median(seconds) * 1e6:.0f} us a value"
    )
    return same


def plot(
    path: Path,
    dates: np.ndarray,
    series: np.ndarray,
    learned: int,
    forecaster: GRUForecaster,
    errors: dict[str, np.ndarray],
) -> None:
    """Forecasts with intervals over the last years, and errors by weeks ahead."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        sys.exit('--plot needs the package matplotlib: pip install "cgru[examples]"')
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(3, 2))
    horizon, shown = forecaster.horizon, slice(max(learned, len(series) - 4 * YEAR), None)
    above.plot(dates[shown], series[shown], color="black", linewidth=1, label="measured")
    for k, origin in enumerate(range(shown.start, len(series) - horizon, horizon)):
        history = series[: origin + 1]
        lower, upper = forecaster.predict_interval(coverage=COVERAGE, history=history)
        weeks = dates[origin + 1 : origin + 1 + horizon]
        first = k == 0
        label = f"{COVERAGE:.0%} interval" if first else None
        above.fill_between(weeks, lower, upper, color="tab:blue", alpha=0.25, linewidth=0, label=label)
        forecast = forecaster.predict(history=history)
        above.plot(weeks, forecast, color="tab:blue", linewidth=1.4, label="GRU" if first else None)
        above.plot(dates[origin], series[origin], "o", color="tab:blue", markersize=4)
    above.set(ylabel="CO2, ppm", title=f"Forecasts of {horizon} weeks, each made at its dot")
    above.legend()
    colors = ("tab:gray", "tab:olive", "tab:green", "tab:red", "tab:purple", "tab:blue")
    for (name, error), color in zip(errors.items(), colors, strict=True):
        style = "-" if name == "GRU" else "--"
        below.plot(np.arange(1, horizon + 1), np.sqrt(np.mean(error**2, axis=0)), style, label=name, color=color)
    below.set(xlabel="weeks ahead", ylabel="RMSE, ppm", ylim=(0, 3), xlim=(1, max(2, horizon)))
    below.legend(ncols=2)
    try:
        figure.savefig(path, dpi=90)
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: {error}")


def main(arguments: Any = None) -> None:
    parser = argparse.ArgumentParser(description="Forecast carbon dioxide in the air with a GRU.")
    parser.add_argument("--horizon", type=int, default=26, help="weeks ahead (default: 26)")
    parser.add_argument("--seed", type=int, default=0, help="of the training (default: 0)")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw forecasts and errors: .png, .jpg")
    arguments = parser.parse_args(arguments)
    if not 1 <= arguments.horizon <= 2 * YEAR:
        parser.error(f"--horizon: expected 1 to {2 * YEAR} weeks, got {arguments.horizon}")
    if not 0 <= arguments.seed < 2**32:
        parser.error(f"--seed: expected 0 to {2**32 - 1}, got {arguments.seed}")
    dates, series = load()
    learned = int(SHARE * len(series))
    steps, true = truth(series, learned, arguments.horizon)

    forecasts, forecaster = gru(series, learned, arguments.horizon, arguments.seed)
    errors = {name: true - method(series, learned, arguments.horizon)[steps] for name, method in METHODS.items()}
    errors["GRU"] = true - forecasts[steps]
    print(f"# root mean squared error in ppm, of {len(steps)} forecasts from {dates[learned - 1]:.10} on")
    print(table(errors))
    for origin, within in covered(forecaster, series, steps, errors["GRU"]).items():
        found = (
            f"{within.mean():.0%} of the values lie within ({within.min():.0%} to {within.max():.0%} by weeks ahead)"
        )
        print(f"# intervals of {COVERAGE:.0%} from errors {origin}: {found}")
    same = run_live(forecaster, series, learned, forecasts)
    if arguments.plot:
        plot(arguments.plot, dates, series, learned, forecaster, errors)
    sys.exit(not same)


if __name__ == "__main__":
    main()
