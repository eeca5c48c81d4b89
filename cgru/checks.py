"""Arguments checked before anything is computed; every message names the argument, what was expected and what came."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cgru.types import Array, Lengths, Shape

MAX_DIMENSION = 2**31 - 1
"""The largest dimension that BLAS's integers hold."""


def describe(shape: Iterable[object]) -> str:
    """A shape as messages print it: (T, B, 40), or (7,)."""
    parts = [str(part) for part in shape]
    return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"


def listed(names: Iterable[object], most: int = 16) -> str:
    """Names as messages list them: the first ones, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def integer(name: str, value: object, low: int, high: int = MAX_DIMENSION) -> int:
    """An integer from low to high; bool and float are refused."""
    if type(value) is int and low <= value <= high:  # the usual
        return value
    expected = f"{name}: expected an integer from {low} to {high}, got {value!r}"
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(expected)
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(expected) from None
    if not low <= number <= high:
        raise ValueError(expected)
    return number


def flag(name: str, value: object) -> bool:
    """A bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def choice(name: str, value: object, choices: Iterable[str]) -> str:
    """One of a few names."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected {' or '.join(map(repr, choices))}, got {value!r}")
    return value


def floating(name: str, value: object) -> np.dtype[Any]:
    """The dtype float32 or float64."""
    try:
        dtype = None if value is None else np.dtype(value)  # type: ignore[call-overload]
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in ("float32", "float64") or not dtype.isnative:
        raise TypeError(f"{name}: expected float32 or float64, got {value!r}")
    return np.dtype(dtype)


def plain(name: str, value: Array) -> Array:
    """An array as NumPy's own kind, of the same memory: a subclass may index and reshape in ways of its own.

    A masked array that leaves numbers out is refused, since the mask would be lost.
    """
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise TypeError(
            f"{name}: expected an array without a mask, got a masked array; give what stands for the numbers left out, "
            f"{name}.filled(0) say"
        )
    return np.asarray(value)


def array(name: str, value: object, dtype: np.dtype[Any], *shapes: Shape) -> Array:
    """A plain array of a dtype and of one of the shapes, whose names stand for any size; strides are free."""
    if isinstance(value, np.ndarray):
        value = plain(name, value)
        if value.dtype == dtype:
            for shape in shapes:
                if fits(value.shape, shape):
                    return value if value.flags.aligned else value.copy()
    raise _misfit(name, value, dtype, shapes)


def fits(shape: tuple[int, ...], expected: Shape) -> bool:
    """Whether a shape is the one expected, whose names stand for any size."""
    if len(shape) != len(expected):
        return False
    for got, wanted in zip(shape, expected):  # noqa: B905, SIM110 - every call comes through here
        if got != wanted and not isinstance(wanted, str):
            return False
    return True


def _misfit(name: str, value: object, dtype: np.dtype[Any], shapes: tuple[Shape, ...]) -> Exception:
    """What is wrong with an argument; of several shapes the message gives the one of its number of axes."""
    meant = [shape for shape in shapes if isinstance(value, np.ndarray) and len(shape) == value.ndim] or shapes
    expected = f"{name}: expected {' or '.join(map(describe, meant))} {dtype}"
    if hasattr(value, "__cuda_array_interface__"):
        mend = f"move it with cupy.asnumpy({name}), or the model with gru.to('cuda')"
        return TypeError(f"{expected}, got {type(value).__name__} in a GPU's memory; {mend}")
    if not isinstance(value, np.ndarray):
        mend = f"make an array with numpy.asarray({name}, numpy.{dtype})"
        return TypeError(f"{expected}, got {type(value).__name__}; {mend}")
    if not any(fits(value.shape, shape) for shape in shapes):
        return ValueError(f"{expected}, got {describe(value.shape)}")
    name_of_type = "bool" if dtype.kind == "b" else f"numpy.{dtype}"  # NumPy 1 has no numpy.bool
    return TypeError(f"{expected}, got {value.dtype}; convert it with {name}.astype({name_of_type})")


def output(out: object, dtype: np.dtype[Any], shape: tuple[int, ...], inputs: dict[str, Array | None]) -> Array:
    """A plain array to write a result to: writeable, without overlap of its own or with the inputs."""
    if isinstance(out, np.ndarray):
        out = plain("out", out)
        if not out.flags.aligned:
            raise ValueError("out: expected an aligned array, got an unaligned one")
    result = array("out", out, dtype, shape)
    if not result.flags.writeable:
        raise ValueError("out: expected a writeable array, got a read-only one")
    distinct("out", result)
    for name, value in inputs.items():
        if value is not None and _overlap(result, np.asarray(value)):
            raise ValueError(f"out: expected memory of its own, got an array that overlaps {name}")
    return result


def distinct(name: str, array: Array) -> None:
    """Refuse an array that has an element twice, as overlapping windows do.

    Every axis has to step over all that the axes of shorter steps reach. So it does in all that indexing, transposing
    and reshaping make of an array of distinct elements.
    """
    reach = array.itemsize  # bytes that the axes so far extend over
    for step, size in sorted((abs(step), size) for step, size in zip(array.strides, array.shape, strict=True)):
        if array.size and size > 1 and step < reach:
            raise ValueError(
                f"{name}: expected distinct elements, got an array that repeats them (strides {array.strides})"
            )
        reach += (size - 1) * step


def _overlap(a: Array, b: Array) -> bool:
    if not np.may_share_memory(a, b):  # by where they begin and end
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:  # undecided in reasonable time: refuse rather than corrupt
        return True


def lengths(value: object, batch: int, steps: int) -> Lengths:
    """(B,) integers from 0 to T, as a list or an array."""
    try:
        result = plain("lengths", value) if isinstance(value, np.ndarray) else np.asarray(value)
    except ValueError:  # lists of different lengths
        raise TypeError(f"lengths: expected {describe((batch,))} integers, got {type(value).__name__}") from None
    if result.shape != (batch,):
        raise ValueError(f"lengths: expected {describe((batch,))} integers, got {describe(result.shape)}")
    if result.dtype.kind not in "iu" and result.size:
        raise TypeError(f"lengths: expected {describe((batch,))} integers, got {result.dtype}")
    wrong = (result < 0) | (result > steps)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(f"lengths: expected integers from 0 to {steps}, got {result[at]} at position {at}")
    return result.astype(np.int64)


def generator(rng: object) -> np.random.Generator:
    """The source of random numbers that an argument `rng` means: None, an integer, or a Generator as it is."""
    if rng is None or isinstance(rng, np.random.Generator):
        return np.random.default_rng(rng)
    try:
        return np.random.default_rng(integer("rng", rng, 0, 2**63 - 1))
    except TypeError:
        raise TypeError(f"rng: expected None, an integer or a numpy.random.Generator, got {rng!r}") from None
