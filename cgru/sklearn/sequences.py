"""What fit and predict take: sequences as (N, T, I), (N, F) or a list of (t, I), checked, and given out in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import _check_feature_names, _get_feature_names, check_array, validate_data

from cgru import checks
from cgru.sklearn import scaling

if TYPE_CHECKING:
    from cgru.types import Array

FORMS = ("(N, F)", "(N, T, I) or a list of (t, I)")
"""What an estimator is fitted to: a table, or sequences."""


class Sequences:
    """N sequences of one number of features, of different lengths or not, and where they start anew."""

    def __init__(self, items: Array | list[Array], resets: list[Array] | None = None) -> None:
        self.items = items  # (N, T, I), or N times (t, I)
        self.resets = resets  # N times (t,) bool

    def __len__(self) -> int:
        return len(self.items)

    @property
    def features(self) -> int:
        """I."""
        return self.items[0].shape[-1]

    def statistics(self, weight: Array) -> tuple[Array, Array]:
        """Mean and scale (I,) of each feature over all steps; a sequence counts `weight` (N,) times."""
        exponent = scaling.exponent_of(np.max([np.abs(item).max(0) for item in self.items], axis=0))
        total = (weight * np.array([len(item) for item in self.items])).sum()

        def average(center: Array | float, power: int) -> Array:
            pairs = zip(weight, self.items, strict=True)
            return sum(w * ((np.ldexp(item, -exponent) - center) ** power).sum(0) for w, item in pairs) / total

        mean = average(0.0, 1)
        return scaling.unscaled(mean, np.sqrt(average(mean, 2)), exponent)

    def standardized(self, mean: Array, scale: Array, dtype: np.dtype[Any]) -> Sequences:
        """(x - mean) / scale, in the network's dtype."""
        if isinstance(self.items, list):
            named = ((f"X[{i}]", item) for i, item in enumerate(self.items))
            made = [scaling.scaled(name, x, mean, scale, dtype).astype(dtype) for name, x in named]
            return Sequences(made, self.resets)
        return Sequences(scaling.scaled("X", self.items, mean, scale, dtype).astype(dtype), self.resets)

    def take(self, index: Array) -> Sequences:
        """Some of the sequences."""
        resets = None if self.resets is None else [self.resets[i] for i in index]
        if isinstance(self.items, list):
            return Sequences([self.items[i] for i in index], resets)
        return Sequences(self.items[index], resets)

    def batch(self) -> tuple[Array, dict[str, Array]]:
        """x (T, N, I), padded with 0, and what else a call takes: lengths (N,) and resets (T, N), if any."""
        if not isinstance(self.items, list):
            x = np.ascontiguousarray(self.items.swapaxes(0, 1))
            return x, {} if self.resets is None else {"resets": np.stack(self.resets, axis=1)}
        lengths = np.array([len(item) for item in self.items])
        x = np.zeros((lengths.max(), len(self), self.features), self.items[0].dtype)
        for i, item in enumerate(self.items):
            x[: len(item), i] = item
        how = {"lengths": lengths}
        if self.resets is not None:
            how["resets"] = np.zeros(x.shape[:2], bool)
            for i, starts in enumerate(self.resets):
                how["resets"][: len(starts), i] = starts
        return x, how


def read(estimator: Any, X: Any, reset: bool, resets: Any = None) -> Sequences:
    """Sequences out of what a method was given; `reset` in fit, which sets n_features_in_, else that must agree.

    Rows of one axis are a table (N, F) where they are of one length, as scikit-learn has it. They are sequences (t,) of
    one feature where their lengths differ, or where fit got sequences of one feature.
    """
    rows = _rows(X)
    axes = {_axes(row) for row in rows or ()}
    flat = axes == {1}
    if rows is not None and flat:
        ragged = len({len(row) for row in rows}) > 1
        kind = ragged or (not reset and estimator._takes_sequences and estimator.n_features_in_ == 1)
    else:
        kind = _axes(X) == 3 if rows is None else max(axes) > 1
    if not reset and kind != estimator._takes_sequences:
        mend = "a table has rows of one length" if kind else "one sequence x alone is [x]"
        raise ValueError(f"X: expected {FORMS[not kind]} as in fit, got {FORMS[kind]}; {mend}")
    if not kind:
        found = _table(estimator, X, reset)
    else:
        found = _list(rows, flat) if rows is not None else _array(X)
        _check_feature_names(estimator, X if rows is None else rows[0], reset=reset)
        if reset:
            estimator.n_features_in_ = found.features
        elif found.features != estimator.n_features_in_:
            raise ValueError(
                f"X has {found.features} features, but {type(estimator).__name__} is expecting "
                f"{estimator.n_features_in_} features as input"
            )
    if reset:
        estimator._takes_sequences = kind
    found.resets = None if resets is None else _resets(resets, found)
    return found


def _rows(X: Any) -> list[Any] | None:
    """What a list, a tuple or a column of objects (NumPy's, pandas' or polars') holds; None of anything else."""
    if hasattr(X, "__next__"):
        raise TypeError(f"X: expected {' or '.join(FORMS)}, got a {type(X).__name__}; make a list of it: list(X)")
    if not isinstance(X, (list, tuple)):
        if len(getattr(X, "shape", ())) != 1:
            return None
        X = np.asarray(X)
        if X.dtype != object:
            return None
    if len(X) == 0:
        raise ValueError("X: expected at least one sequence, got none")
    return list(X)


def _axes(value: Any) -> int:
    try:
        return int(value.ndim if hasattr(value, "ndim") else np.asarray(value).ndim)
    except ValueError:  # lists of different lengths
        return 1


def _table(estimator: Any, X: Any, reset: bool) -> Sequences:
    """Rows of F numbers, each a sequence of F steps of one feature."""
    cell = X.iloc[0, 0] if hasattr(X, "iloc") and X.ndim == 2 and X.size else None
    if _axes(cell) > 0:
        raise ValueError(
            f"X: expected numbers in a table, got {type(cell).__name__}; of sequences give their column alone"
        )
    with scaling.sums_overflow():
        return Sequences(validate_data(estimator, X, reset=reset, dtype=np.float64)[:, :, None])


def _array(X: Any) -> Sequences:
    with scaling.sums_overflow():
        items = check_array(X, allow_nd=True, dtype=np.float64, input_name="X")
    if 0 in items.shape:
        raise ValueError(f"X: expected (N, T, I) with at least one step and one feature, got {items.shape}")
    return Sequences(items)


def _list(rows: list[Any], flat: bool) -> Sequences:
    """Sequences (t, I); where they are `flat`, (t,), of one feature."""
    items: list[Array] = []
    names = _names(rows[0])
    for i, given in enumerate(rows):
        expected = f"X[{i}]: expected an array (t, I) of numbers"
        try:
            item = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{expected}: {error}") from error
        if np.iscomplexobj(given):
            raise ValueError(f"{expected}, got complex ones: Complex data not supported")
        if flat and item.ndim == 1:
            item = item[:, None]
        if item.ndim != 2:
            raise ValueError(f"{expected}, got {item.shape}; one feature is (t, 1)")
        if 0 in item.shape:
            raise ValueError(f"{expected} with at least one step and one feature, got {item.shape}")
        if items and item.shape[1] != items[0].shape[1]:
            raise ValueError(f"{expected} with {items[0].shape[1]} features as X[0], got {item.shape[1]}")
        if _names(given) != names:
            raise ValueError(f"X[{i}]: expected columns {names} as X[0], got {_names(given)}; order them alike")
        wrong = np.argwhere(~np.isfinite(item))
        if len(wrong):
            step, feature = wrong[0]
            raise ValueError(
                f"{expected}, got {item[step, feature]} at step {step}, feature {feature}; X has NaN or inf"
            )
        items.append(item)
    return Sequences(items)


def _resets(resets: Any, given: Sequences) -> list[Array]:
    """Where each sequence starts anew (t,), as (N, T) or a list."""
    count = len(resets) if hasattr(resets, "__len__") else None
    if count != len(given):
        got = repr(resets) if count is None else count
        raise ValueError(f"resets: expected (N, T) or a list of (t,), for {len(given)} sequences, got {got}")
    found = []
    for i, (starts, item) in enumerate(zip(resets, given.items, strict=True)):
        starts = np.asarray(starts)
        expected = f"resets[{i}]: expected {checks.describe((len(item),))} bool as X[{i}]"
        if starts.dtype != bool:
            raise TypeError(f"{expected}, got {starts.dtype}")
        if starts.shape != (len(item),):
            raise ValueError(f"{expected}, got {checks.describe(starts.shape)}")
        found.append(starts)
    return found


def _names(item: Any) -> list[str] | None:
    """The names of a frame's columns; None of an array, which has none."""
    names = None if isinstance(item, (np.ndarray, list, tuple)) else _get_feature_names(item)
    return None if names is None else list(names)
