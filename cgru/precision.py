"""Weights in half the bytes: float32 rounded to bfloat16 or float16, and kept as float32 arrays of such values.

The packed engine stores what these types hold exactly and computes in float32, so a rounded model's results are, to the
last bit, those of a float32 model with its weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cgru.types import Array

PRECISIONS = ("bfloat16", "float16")


def rounded(name: str, array: Array, precision: str) -> Array:
    """A float32 array rounded to nearest, ties to even; ValueError where a number is not finite or too large.

    >>> rounded("w", np.array([1.0009765625, 1.001953125], np.float32), "float16")
    array([1.0009766, 1.0019531], dtype=float32)
    >>> rounded("w", np.array([1.00390625, 1.01171875], np.float32), "bfloat16")
    array([1.      , 1.015625], dtype=float32)
    """
    if precision == "float16":
        with np.errstate(over="ignore"):
            result = array.astype(np.float16).astype(np.float32)
    else:
        bits = array.view(np.uint32)
        with np.errstate(over="ignore"):
            result = ((bits + (0x7FFF + (bits >> 16 & 1))) & 0xFFFF0000).view(np.float32)
    wrong = ~np.isfinite(array) | ~np.isfinite(result)
    if wrong.any():
        raise ValueError(f"{name}: expected finite numbers that {precision} holds, got {array[wrong][0]}")
    return result


def upper_half(array: Array) -> Array:
    """The 16 bits of each number of an array of bfloat16 values."""
    return (np.ascontiguousarray(array).view(np.uint32) >> 16).astype(np.uint16)
