"""Weights in fewer bits: matrices of bfloat16, float16 or int8 numbers, and how float32 ones become that.

The two halves of a float32 are rounded and later widened exactly: a model in them computes, to the last bit, what the
float32 model of the rounded weights does; unless inputs and states are rounded to bfloat16 for its products, too.

int8 weights have a scale for each row, an output's weights: w = scale * q, q from -127 to 127. There, inputs and states
meet the weights as integers from -127 to 127, too, of a scale that belongs to the sequence and step (`integers`), and
sums of products are exact; gates and states are float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from cgru.types import Array

PRECISIONS = ("bfloat16", "float16", "int8")

COMPUTE = ("float32", "bfloat16")
"""What inputs and states are rounded to before they are multiplied by weights of bfloat16."""

BITS = {"float32": 32, "float64": 64, "bfloat16": 16, "float16": 16, "int8": 8}
"""Of a weight."""

LARGEST = 127
"""The largest int8 number in use, so that the numbers lie evenly about zero."""

MOST_COLUMNS = (2**31 - 1) // (255 * 128)
"""Of int8 weights: so many products, an input being a byte without a sign, have a sum of 32 bits."""

LEAST = np.float32(1e-30)
"""Where all numbers are smaller than this, they count as zero."""


class Arithmetic(NamedTuple):
    """How a quantized model multiplies."""

    compute: str = "float32"
    """What inputs and states are rounded to before they meet weights of bfloat16."""
    input_limit: float | None = None
    """What inputs are clipped to, and to its negative, before they meet weights of int8; None: nothing."""


class Matrix:
    """The weights of a layer, (3H, K), in a precision; nothing is written after construction."""

    dtype = np.dtype(np.float32)
    """Of the numbers that it stands for."""

    def __init__(self, precision: str, numbers: npt.NDArray[Any], scale: Array | None = None) -> None:
        if precision == "int8" and numbers.shape[-1] > MOST_COLUMNS:
            raise ValueError(
                f"precision: expected at most {MOST_COLUMNS:,} inputs or units in int8, got {numbers.shape[-1]:,}"
            )
        self.precision = precision
        self.numbers = numbers
        """(3H, K): int8, float16, or the upper halves of float32 as uint16."""
        self.scale = scale
        """(3H,) float32, of int8 numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(3H, K)."""
        return self.numbers.shape

    def __getitem__(self, rows: slice) -> Matrix:
        """Some of the rows."""
        return Matrix(self.precision, self.numbers[rows], None if self.scale is None else self.scale[rows])

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers and their scales."""
        return self.numbers.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def wide(self) -> Array:
        """The numbers in float32: exactly, but for an int8 one rounded once more."""
        if self.scale is not None:
            return self.numbers * self.scale[:, None]
        if self.precision == "bfloat16":
            return (self.numbers.astype(np.uint32) << 16).view(np.float32)
        return self.numbers.astype(np.float32)

    def __reduce__(self) -> tuple[Any, ...]:
        return Matrix, (self.precision, self.numbers, self.scale)


def narrow(name: str, array: Array, precision: str) -> Matrix:
    """A float32 matrix in a precision, rounded to nearest, ties to even.

    ValueError where a number is not finite or too large.

    >>> narrow("w", np.array([[1.0009765625, 1.001953125]], np.float32), "float16").wide()
    array([[1.0009766, 1.0019531]], dtype=float32)
    >>> narrow("w", np.array([[1.00390625, 1.01171875]], np.float32), "bfloat16").wide()
    array([[1.      , 1.015625]], dtype=float32)
    >>> narrow("w", np.array([[0.5, -0.1], [8, 127]], np.float32), "int8").numbers
    array([[127, -25],
           [  8, 127]], dtype=int8)
    """
    with np.errstate(over="ignore"):
        if precision == "float16":
            matrix = Matrix(precision, array.astype(np.float16))
        elif precision == "bfloat16":
            matrix = Matrix(precision, upper_half(array))
        else:
            finite = np.where(np.isfinite(array), array, 0)
            scale = row_scale(finite)
            matrix = Matrix(precision, np.rint(finite / scale[:, None]).astype(np.int8), scale)
        wrong = ~np.isfinite(array) | ~np.isfinite(matrix.wide())
    if wrong.any():
        raise ValueError(f"{name}: expected finite numbers that {precision} holds, got {array[wrong][0]}")
    return matrix


def upper_half(array: Array) -> npt.NDArray[np.uint16]:
    """Finite float32 numbers rounded to bfloat16, to nearest, ties to even: their bits."""
    bits = np.ascontiguousarray(array).view(np.uint32)
    return (bits + (0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def row_scale(array: Array) -> Array:
    """What 1 means in the int8 numbers of each row of weights: the largest magnitude, not 0, becomes 127."""
    return np.maximum(np.abs(array).max(axis=1, initial=0) / np.float32(LARGEST), LEAST)


def integers(x: Array, limit: float | None) -> tuple[npt.NDArray[np.int8], Array]:
    """Rows of float32 numbers (..., K) as the int8 kernels see them: integers, and each row's scale (...).

    A row's largest magnitude becomes 127, but at most `limit`, which larger ones become, too. A row that is not finite
    has a scale of NaN.

    >>> integers(np.array([[0.5, -2, 0.1]], np.float32), 1.0)
    (array([[  64, -127,   13]], dtype=int8), array([0.00787402], dtype=float32))
    >>> integers(np.array([[0.5, -2, 0.1]], np.float32), None)[0]
    array([[  32, -127,    6]], dtype=int8)
    """
    largest = np.abs(x).max(axis=-1, initial=0)
    bound = np.maximum(largest if limit is None else np.minimum(largest, np.float32(limit)), LEAST)
    with np.errstate(invalid="ignore"):
        scaled = np.clip(x * (np.float32(LARGEST) / bound)[..., None], -LARGEST, LARGEST)
        numbers = np.nan_to_num(np.rint(scaled)).astype(np.int8)
    return numbers, np.where(np.isfinite(largest), bound / np.float32(LARGEST), np.float32(np.nan))


def wide(weights: Array | Matrix) -> Array:
    """Weights as an array."""
    return weights.wide() if isinstance(weights, Matrix) else weights


def negated(weights: Array | Matrix, rows: slice) -> Array | Matrix:
    """Weights of which some rows have the other sign."""
    if not isinstance(weights, Matrix):
        result = weights.copy()
        result[rows] *= -1
        return result
    if weights.scale is not None:
        scale = weights.scale.copy()
        scale[rows] *= -1
        return Matrix(weights.precision, weights.numbers, scale)
    bits = weights.numbers.view(np.uint16).copy()
    bits[rows] ^= 0x8000
    return Matrix(weights.precision, bits.view(weights.numbers.dtype))
