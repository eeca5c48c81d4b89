"""Numbers of any size brought to the size of 1: what they are scaled by, and which are too large for a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_array

if TYPE_CHECKING:
    from collections.abc import Callable

    from cgru.types import Array

LARGEST = 1e300
"""Of targets and series: forecasts, errors and their sums are then finite in float64, too."""


def standardization(values: Array, average: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Return the mean and the scale (K,) of values (n, K); `average` takes the mean over the first axis.

    Squares of 1e300 are infinite and those of 1e-200 are 0, so the values are first divided by a power of two. That is
    exact: other values get the same mean and deviation as without it.
    """
    exponent = exponent_of(np.abs(values).max(0))
    values = np.ldexp(values, -exponent)
    mean = average(values)
    deviation = np.sqrt(average((values - mean) ** 2))
    return unscaled(mean, deviation, exponent)


def exponent_of(size: Any) -> Any:
    """The integers by which to shift numbers of this size to 0.5 to 1: size = fraction * 2**exponent."""
    return np.frexp(size)[1]


def unscaled(mean: Array, deviation: Array, exponent: Array) -> tuple[Array, Array]:
    """Return mean and scale of numbers whose mean and deviation are those of numbers * 2**-exponent."""
    mean, deviation = np.ldexp(mean, exponent), np.ldexp(deviation, exponent)
    return mean, scale_of(deviation, mean)


def scale_of(deviation: Array, mean: Array) -> Array:
    """What to divide by: the deviation; where it is only rounding, as of a constant, 1 or more than the rounding."""
    rounding = 1e-12 * np.abs(mean)
    return np.where(deviation > np.maximum(rounding, 1e-300), deviation, np.maximum(rounding, 1.0))


def scaled(name: str, values: Array, mean: Array, scale: Array, dtype: np.dtype[Any]) -> Array:
    """Return (values - mean) / scale, in float64; refuse values too large for a network of a dtype."""
    limit = np.sqrt(np.finfo(dtype).max)  # gates and gradients are sums of products with weights
    with np.errstate(over="ignore"):
        result = (values - mean) / scale
    if result.max() > limit or result.min() < -limit:
        at = np.unravel_index(np.abs(result).argmax(), result.shape)
        got, less, by = (array[at] for array in np.broadcast_arrays(values, mean, scale))
        raise ValueError(
            f"{name}: expected numbers up to {limit:.2g} in size once scaled, as {dtype} needs, got {got:.3g}, to be "
            f"taken less {less:.3g} and divided by {by:.3g}; scale {name.partition('[')[0]} first"
        )
    return result


def numbers(name: str, value: Any) -> Array:
    """An array (n,) or (n, K) of finite numbers, in float64; text is refused, digits too."""
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"{name}: expected numbers in one array: {error}") from error
    if array.dtype.kind == "O" and not any(isinstance(item, (str, bytes)) for item in array.flat):
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: expected numbers: {error}") from error
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{name}: expected numbers, got {'text' if array.dtype.kind in 'OSTU' else array.dtype}")
    with sums_overflow():
        array = check_array(array, ensure_2d=False, dtype=np.float64, input_name=name)
    if array.ndim > 2 or 0 in array.shape:
        raise ValueError(f"{name}: expected (n,) or (n, K), got {array.shape}")
    size = np.abs(array).max()
    if size > LARGEST:
        raise ValueError(f"{name}: expected numbers up to {LARGEST:g} in size, got {size:g}; scale {name} first")
    return array


def sums_overflow() -> np.errstate:
    """Return a context without warnings of infinite sums: scikit-learn adds all numbers to see whether one is NaN."""
    return np.errstate(over="ignore", invalid="ignore")
