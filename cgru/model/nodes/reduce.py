"""Operators that reduce axes: sums, means, extremes, and where an extreme is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.model.nodes.table import Attribute, Operator, Sizes, axes_of, axis_of, require, typed

if TYPE_CHECKING:
    from collections.abc import Callable

    from cgru.types import Array


def reduced_axes(x: Sizes, axes: tuple[int, ...] | None, noop_with_empty_axes: int, **_: Any) -> tuple[int, ...]:
    """Those that are reduced: all where none are named, unless that shall mean none."""
    if not axes:
        return () if noop_with_empty_axes else tuple(range(len(x)))
    return axes_of(axes, len(x))


def reduce_shape(x: Sizes, *, axes: Any, keepdims: int, noop_with_empty_axes: int) -> Sizes:
    """That of x without the reduced axes, or with 1 in their place."""
    found = reduced_axes(x, axes, noop_with_empty_axes)
    return tuple(1 if axis in found else size for axis, size in enumerate(x) if keepdims or axis not in found)


def _reduce(function: Callable[..., Array], takes: str = "n") -> Operator:
    def run(x: Array, *, axes: Any, keepdims: int, noop_with_empty_axes: int) -> Array:
        found = reduced_axes(x.shape, axes, noop_with_empty_axes)
        with np.errstate(divide="ignore"):
            return np.asarray(function(x, axis=found, keepdims=bool(keepdims))).astype(x.dtype, copy=False)

    attributes = {
        "axes": Attribute("ints", None),
        "keepdims": Attribute("int", 1, choices=(0, 1)),
        "noop_with_empty_axes": Attribute("int", 0, choices=(0, 1)),
    }
    return Operator(
        run, reduce_shape, (takes, "i"), (1, 2), attributes=attributes, known={1: "axes"}, over=reduced_axes
    )


def largest(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    """The largest element; of none the lowest there is."""
    lowest = -np.inf if x.dtype.kind == "f" else False if x.dtype.kind == "b" else np.iinfo(x.dtype).min
    return x.max(axis, keepdims=keepdims, initial=lowest)


def smallest(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    """The smallest element; of none the highest there is."""
    highest = np.inf if x.dtype.kind == "f" else True if x.dtype.kind == "b" else np.iinfo(x.dtype).max
    return x.min(axis, keepdims=keepdims, initial=highest)


def log_sum_exp(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    """log(sum(exp(x))), without overflow."""
    most = largest(x, axis, True)
    most = np.where(np.isfinite(most), most, 0).astype(x.dtype)
    result = np.log(np.exp(x - most).sum(axis, keepdims=True)) + most
    return result if keepdims else result.squeeze(axis)


def _index(function: Callable[..., Array]) -> Operator:
    def run(x: Array, *, axis: int, keepdims: int, select_last_index: int) -> Array:
        if select_last_index:
            result = x.shape[axis] - 1 - function(np.flip(x, axis), axis=axis, keepdims=bool(keepdims))
        else:
            result = function(x, axis=axis, keepdims=bool(keepdims))
        return np.asarray(result, np.int64)

    def shape(x: Sizes, *, axis: int, keepdims: int, select_last_index: int) -> Sizes:
        axis = axis_of(axis, len(x))
        require(x[axis] != 0, "an axis that is not empty", x)
        return (*x[:axis], *(1,) * keepdims, *x[axis + 1 :])

    attributes = {
        "axis": Attribute("int", 0),
        "keepdims": Attribute("int", 1, choices=(0, 1)),
        "select_last_index": Attribute("int", 0, choices=(0, 1)),
    }
    over = lambda x, *, axis, **_: (axis_of(axis, len(x)),)  # noqa: E731
    return Operator(run, shape, ("n",), attributes=attributes, types=typed(np.int64), over=over)


OPERATORS = {
    "ReduceSum": _reduce(np.sum),
    "ReduceMean": _reduce(np.mean),
    "ReduceMax": _reduce(largest, "a"),
    "ReduceMin": _reduce(smallest, "a"),
    "ReduceProd": _reduce(np.prod),
    "ReduceL1": _reduce(lambda x, **axes: np.abs(x).sum(**axes)),
    "ReduceL2": _reduce(lambda x, **axes: np.sqrt((x * x).sum(**axes))),
    "ReduceSumSquare": _reduce(lambda x, **axes: (x * x).sum(**axes)),
    "ReduceLogSum": _reduce(lambda x, **axes: np.log(x.sum(**axes)), "f"),
    "ReduceLogSumExp": _reduce(log_sum_exp, "f"),
    "ArgMax": _index(np.argmax),
    "ArgMin": _index(np.argmin),
}
