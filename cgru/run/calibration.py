"""int8 weights fitted to typical inputs: rounded so that what they are multiplied with makes little of it.

A matrix of weights W meets rows x of inputs, or of states. Rounding each weight to the nearest integer is best if the
numbers of x have nothing to do with each other; most often they have. Then the columns of W are rounded one after the
other, and the error that a column leaves is made good, as far as it can be, by the columns not yet rounded: those that
minimise the mean of |W x - W' x|^2 over the given rows. This is optimal brain surgery (Hassibi and Stork 1993) as GPTQ
arranges it (Frantar et al. 2023): with C^T C the inverse of the mean of x x^T, C upper triangular, an error e in column
k asks for -e C[k, j] / C[k, k] in every later column j.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg

from cgru.engines import HOST
from cgru.model.layer import Stack
from cgru.model.precision import LARGEST, Matrix, row_scale, wide
from cgru.run import arguments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cgru.model.value import Value
    from cgru.types import Array

DAMPING = 1e-3
"""Of the mean diagonal of x x^T, added to its diagonal: what the rows do not tell shall not be made up."""

COLUMNS = 64
"""Columns after which the errors are passed on to all that follow, in one product."""


def largest(x: Array, lengths: Array | None) -> float:
    """The largest magnitude of inputs (T, B, I) within lengths (B,); 0 where there are none."""
    return float(np.abs(x[_seen(x, lengths)]).max(initial=0))


def fitted(value: Value, x: Array, h0: Array | None, lengths: Array | None) -> dict[str, Matrix]:
    """The int8 weights of a model by name, fitted to inputs (T, B, I) and the states that these lead to.

    h0 (L*D, B, H) and lengths (B,) as in a call.
    """
    scales: dict[str, Array] = {}
    numbers: dict[str, Array] = {}
    for name, rows, samples in _products(value, x, h0, lengths):
        if not np.isfinite(samples).all():  # relu's states, say, have no bound
            raise ValueError(f"calibrate: expected inputs whose states stay finite, got infinite ones to meet {name}")
        weights = wide(value.parameters[name])
        scales[name] = row_scale(weights)
        fitted_rows = fit(weights[rows], scales[name][rows], samples)
        if value.block is not None:
            fitted_rows *= weights[rows] != 0  # pruned weights stay so
        numbers[name] = np.concatenate([numbers[name], fitted_rows]) if name in numbers else fitted_rows
    return {name: Matrix("int8", numbers[name], scales[name]) for name in numbers}


def fit(weights: Array, scale: Array, samples: Array) -> Array:
    """The int8 numbers of weights (N, K) for rows of scales (N,) that do best on samples (M, K).

    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1000, 3)) @ rng.standard_normal((3, 16))      # 16 numbers that are made of 3
    >>> w = rng.standard_normal((8, 16))
    >>> scale = np.abs(w).max(axis=1) / 127
    >>> error = lambda q: np.linalg.norm((scale[:, None] * q - w) @ x.T)
    >>> bool(error(fit(w, scale, x)) < 0.3 * error(np.rint(w / scale[:, None])))
    True
    """
    count = weights.shape[1]
    samples = samples.astype(np.float64)
    moments = samples.T @ samples / max(1, len(samples))
    mean = np.trace(moments) / count
    if not mean > 0:  # nothing known of them
        moments, mean = np.eye(count), 1.0
    moments[np.diag_indices(count)] += DAMPING * mean
    order = np.argsort(-np.diag(moments), kind="stable")  # the columns that matter most come first, while all can help
    lower = linalg.cholesky(moments[np.ix_(order, order)], lower=True)
    factor = linalg.cholesky(linalg.cho_solve((lower, True), np.eye(count)))  # upper

    left = weights[:, order].astype(np.float64)
    numbers = np.empty(left.shape, np.int8)
    errors = np.empty(left.shape)
    for first in range(0, count, COLUMNS):
        last = min(count, first + COLUMNS)
        for k in range(first, last):
            rounded = np.clip(np.rint(left[:, k] / scale), -LARGEST, LARGEST)
            numbers[:, order[k]] = rounded
            errors[:, k] = (left[:, k] - rounded * scale) / factor[k, k]
            left[:, k + 1 : last] -= np.outer(errors[:, k], factor[k, k + 1 : last])
        left[:, last:] -= errors[:, first:last] @ factor[first:last, last:]
    return numbers


def _seen(x: Array, lengths: Array | None) -> Array:
    """Which steps (T, B) of sequences (T, B, I) there are."""
    return np.ones(x.shape[:2], bool) if lengths is None else np.arange(len(x))[:, None] < lengths


def _products(value: Value, x: Array, h0: Array | None, lengths: Array | None) -> Iterator[tuple[str, slice, Array]]:
    """Every product of a model's weights: the parameter's name, which of its rows, and what they are multiplied by."""
    spec = value.spec
    hidden = spec.hidden_size
    steps, batch, _ = x.shape
    last = np.full(batch, steps) if lengths is None else lengths
    seen = _seen(x, lengths)
    first = iter(arguments.states(spec, HOST, "h0", h0, batch, single=False))
    for (suffixes, _), layers in zip(spec.layers, value.stack.layers, strict=True):
        outputs = []
        for d, (suffix, layer) in enumerate(zip(suffixes, layers, strict=True)):
            start, reverse = next(first), spec.reverse or d == 1
            y = np.empty((steps, batch, hidden), x.dtype)
            one = Stack([(layer,)], reverse, value.precision, "float32")
            HOST.run(one, x, start[None].copy(), y, last, HOST.how(spec.dtype))
            outputs.append(y)
            before = np.empty_like(y)
            if reverse:
                before[:-1] = y[1:]
                before[last - 1, np.arange(batch)] = start
            else:
                before[1:] = y[:-1]
                before[0] = start
            own = {name: wide(value.parameters[name + suffix]) for name in spec.cell.PARAMETERS if "weight" in name}
            for name, rows, met in spec.cell.factors(spec.by_direction[d], layer, own, x[seen], before[seen]):
                yield name + suffix, rows, met
        x = np.concatenate(outputs, axis=-1)
