"""What fit and predict take: sequences as (N, T, I), (N, F) or a list of (t, I), checked, and given out in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_array, validate_data

if TYPE_CHECKING:
    from cgru.types import Array, Lengths


class Sequences:
    """N sequences of one number of features, of different lengths or not."""

    def __init__(self, items: Array | list[Array]) -> None:
        self.items = items  # (N, T, I), or N times (t, I)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def features(self) -> int:
        """I."""
        return self.items[0].shape[-1]

    def statistics(self, weight: Array) -> tuple[Array, Array]:
        """Mean and standard deviation (I,) of each feature over all steps; a sequence counts `weight` (N,) times."""
        counts = weight * np.array([len(item) for item in self.items])
        mean = sum(w * item.sum(0) for w, item in zip(weight, self.items, strict=True)) / counts.sum()
        squares = sum(w * ((item - mean) ** 2).sum(0) for w, item in zip(weight, self.items, strict=True))
        return mean, scale_of(np.sqrt(squares / counts.sum()), mean)

    def standardized(self, mean: Array, scale: Array, dtype: np.dtype[Any]) -> Sequences:
        """(x - mean) / scale, in the network's dtype."""
        if isinstance(self.items, list):
            return Sequences([((item - mean) / scale).astype(dtype) for item in self.items])
        return Sequences(((self.items - mean) / scale).astype(dtype))

    def take(self, index: Array) -> Sequences:
        """Some of the sequences."""
        if isinstance(self.items, list):
            return Sequences([self.items[i] for i in index])
        return Sequences(self.items[index])

    def batch(self) -> tuple[Array, Lengths | None]:
        """x (T, N, I), padded with 0, and lengths (N,), or None where all have the same."""
        if not isinstance(self.items, list):
            return np.ascontiguousarray(self.items.swapaxes(0, 1)), None
        lengths = np.array([len(item) for item in self.items])
        x = np.zeros((lengths.max(), len(self), self.features), self.items[0].dtype)
        for i, item in enumerate(self.items):
            x[: len(item), i] = item
        return x, lengths


def scale_of(deviation: Array, mean: Array) -> Array:
    """What to divide by: the deviation, and 1 where it is nothing but rounding, as of a constant."""
    return np.where(deviation > 1e-12 * np.maximum(np.abs(mean), 1e-300), deviation, 1.0)


def read(estimator: Any, X: Any, reset: bool) -> Sequences:
    """Sequences out of what a method was given; `reset` in fit, which sets n_features_in_, else that must agree."""
    several = isinstance(X, (list, tuple)) or (isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1)
    several = several and any(_axes(item) > 1 for item in X)
    kind = several or _axes(X) == 3
    if not reset and kind != estimator._takes_sequences:
        forms = ("(N, F)", "(N, T, I) or a list of (t, I)")
        raise ValueError(f"X: expected {forms[not kind]} as in fit, got {forms[kind]}")
    if kind:
        found = _list(X) if several else _array(X)
        if reset:
            estimator.n_features_in_ = found.features
            estimator.__dict__.pop("feature_names_in_", None)
        elif found.features != estimator.n_features_in_:
            raise ValueError(
                f"X has {found.features} features, but {type(estimator).__name__} is expecting "
                f"{estimator.n_features_in_} features as input"
            )
    else:
        found = Sequences(validate_data(estimator, X, reset=reset, dtype=np.float64)[:, :, None])
    if reset:
        estimator._takes_sequences = kind
    return found


def _axes(value: Any) -> int:
    try:
        return int(value.ndim if hasattr(value, "ndim") else np.asarray(value).ndim)
    except ValueError:  # lists of different lengths
        return 1


def _array(X: Any) -> Sequences:
    items = check_array(X, allow_nd=True, dtype=np.float64, input_name="X")
    if 0 in items.shape:
        raise ValueError(f"X: expected (N, T, I) with at least one step and one feature, got {items.shape}")
    return Sequences(items)


def _list(X: Any) -> Sequences:
    items: list[Array] = []
    for i, given in enumerate(X):
        expected = f"X[{i}]: expected an array (t, I) of numbers"
        try:
            item = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{expected}: {error}") from error
        if np.iscomplexobj(given):
            raise ValueError(f"{expected}, got complex ones: Complex data not supported")
        if item.ndim != 2:
            raise ValueError(f"{expected}, got {item.shape}; one feature is (t, 1)")
        if 0 in item.shape:
            raise ValueError(f"{expected} with at least one step and one feature, got {item.shape}")
        if items and item.shape[1] != items[0].shape[1]:
            raise ValueError(f"{expected} with {items[0].shape[1]} features as X[0], got {item.shape[1]}")
        wrong = np.argwhere(~np.isfinite(item))
        if len(wrong):
            step, feature = wrong[0]
            raise ValueError(
                f"{expected}, got {item[step, feature]} at step {step}, feature {feature}; X has NaN or inf"
            )
        items.append(item)
    return Sequences(items)
