"""What the cells' equations share: bounded functions, and products with weights of any precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgru.model.precision import Arithmetic, Matrix, integers, upper_half, wide

if TYPE_CHECKING:
    from cgru.model import activations
    from cgru.types import Array

EXACT = Arithmetic()


class Bounded(NamedTuple):
    """An activation whose argument is bounded to [-bound, bound]."""

    function: activations.Activation
    bound: float

    def __call__(self, x: Array) -> Array:
        """f(x)."""
        return self.function(np.clip(x, -self.bound, self.bound))

    def derivative(self, x: Array) -> Array:
        """f'(x)."""
        return np.where(np.abs(x) > self.bound, 0, self.function.derivative(x))


def product(x: Array, weights: Array | Matrix, arithmetic: Arithmetic) -> Array:
    """W x for rows x (B, K) and weights (H, K)."""
    if isinstance(weights, Matrix) and weights.scale is not None:
        numbers, scale = integers(x.astype(np.float32), arithmetic.input_limit)
        sums = numbers.astype(np.int64) @ weights.numbers.T.astype(np.int64)
        return sums * (scale[:, None].astype(x.dtype) * weights.scale)
    if arithmetic.compute == "bfloat16":
        x = Matrix("bfloat16", upper_half(x.astype(np.float32))).wide().astype(x.dtype)
    return x @ wide(weights).T
