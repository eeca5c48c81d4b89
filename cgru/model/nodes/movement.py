"""Operators that move numbers about and change none: their shapes, order, number and type.

Shapes, axes and bounds are known when a network is made; they may hold names of dynamic axes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.model.nodes import sizes
from cgru.model.nodes.sizes import Size
from cgru.model.nodes.table import (
    MANY,
    Attribute,
    Operator,
    Sizes,
    axes_of,
    axis_of,
    broadcast,
    described,
    require,
    same,
    typed,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cgru.types import Array

FAR = 2**31 - 1
"""From here on a bound of a slice means an end of the axis, as exporters write it."""


# --- Shapes -----------------------------------------------------------------------------------------------------------


def reshape_shape(x: Sizes, *, shape: Sizes, allowzero: int) -> Sizes:
    """The shape asked for: 0 is the input's size there, -1 what remains."""
    result = list(shape)
    for axis, size in enumerate(result):
        if size == 0 and not allowzero:
            require(axis < len(x), f"0 in a shape for the first {len(x)} axes alone", tuple(shape))
            result[axis] = x[axis]
    open_axes = [axis for axis, size in enumerate(result) if size == -1]
    require(len(open_axes) < 2, "one -1 in a shape", tuple(shape))
    known = [size for size in result if size != -1]
    if open_axes:
        left = sizes.divided(*cancelled(x, known))
        require(left is not None, f"a shape that holds what {described(x)} has", tuple(shape))
        result[open_axes[0]] = left or 0
    elif sizes.product(x) != sizes.product(known):
        raise ValueError(f"expected a shape that holds what {described(x)} has, got {described(tuple(shape))}")
    return tuple(result)


def cancelled(a: Sequence[int | Size], b: Sequence[int | Size]) -> tuple[int | Size, int | Size]:
    """The products of two lists of sizes without what both have."""
    left, right = list(a), []
    for size in b:
        if size in left and size != 0:
            left.remove(size)
        else:
            right.append(size)
    return sizes.product(left), sizes.product(right)


def flatten_shape(x: Sizes, *, axis: int) -> Sizes:
    """Two axes: the first ones together, and those from `axis` on."""
    require(-len(x) <= axis <= len(x), f"an axis from {-len(x)} to {len(x)}", axis)
    axis += len(x) * (axis < 0)
    return sizes.product(x[:axis]), sizes.product(x[axis:])


def _flatten(x: Array, *, axis: int) -> Array:
    return x.reshape(whole(flatten_shape(x.shape, axis=axis), "axes"))


def transpose_shape(x: Sizes, *, perm: tuple[int, ...] | None) -> Sizes:
    """The axes in another order, turned round where none is given."""
    perm = tuple(reversed(range(len(x)))) if perm is None else perm
    require(sorted(perm) == list(range(len(x))), f"each of {len(x)} axes once in perm", list(perm))
    return tuple(x[axis] for axis in perm)


def squeeze_shape(x: Sizes, *, axes: tuple[int, ...] | None) -> Sizes:
    """Without axes of size 1: those named, or all."""
    found = [axis for axis, size in enumerate(x) if size == 1] if axes is None else axes_of(axes, len(x))
    require(all(x[axis] == 1 for axis in found), f"axes of size 1 of {described(x)}", list(axes or ()))
    return tuple(size for axis, size in enumerate(x) if axis not in found)


def unsqueeze_shape(x: Sizes, *, axes: tuple[int, ...]) -> Sizes:
    """With further axes of size 1."""
    found = axes_of(axes, len(x) + len(axes))
    rest = iter(x)
    return tuple(1 if axis in found else next(rest) for axis in range(len(x) + len(axes)))


def expand_shape(x: Sizes, *, shape: Sizes) -> Sizes:
    """What x and the shape broadcast to."""
    return broadcast(x, shape)


def tile_shape(x: Sizes, *, repeats: Sizes) -> Sizes:
    """Each size times its repeats."""
    require(len(repeats) == len(x), f"a repeat for each of {len(x)} axes", tuple(repeats))
    require(all(isinstance(times, Size) or times >= 0 for times in repeats), "repeats of 0 and more", tuple(repeats))
    return tuple(size * times for size, times in zip(x, repeats, strict=True))


# --- Parts ------------------------------------------------------------------------------------------------------------


def _bound(bound: int | Size, size: int | Size, far: int | Size, near: int | Size) -> int | Size:
    """A slice's bound counted from the front; `far` and `near` where it lies beyond the axis' ends."""
    if isinstance(bound, int):
        if bound >= FAR:
            return far
        if bound < -FAR:
            return near
    if isinstance(size, Size) or isinstance(bound, Size):
        return size + bound if isinstance(bound, int) and bound < 0 else bound
    bound += size * (bound < 0)
    return min(max(bound, near), far)


def spans(
    x: Sizes, starts: Sizes, ends: Sizes, axes: tuple[int, ...] | None, steps: tuple[int, ...] | None
) -> dict[int, tuple[int | Size, int | Size, int]]:
    """Of each axis that is sliced: the first place, how many, and the step."""
    axes = axes_of(tuple(range(len(starts))) if axes is None else axes, len(x))
    steps = (1,) * len(axes) if steps is None else steps
    require(len(starts) == len(ends) == len(axes) == len(steps), "as many starts, ends and steps as axes", len(axes))
    found = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        require(step != 0, "steps other than 0", step)
        size = x[axis]
        if step > 0:
            first, last = _bound(start, size, size, 0), _bound(end, size, size, 0)
        else:
            first, last = _bound(start, size, size - 1, -1), _bound(end, size, size - 1, -1)
        length = last - first if step > 0 else first - last
        count = (length + abs(step) - 1) // abs(step)
        found[axis] = (first, max(count, 0) if isinstance(count, int) else count, step)
    return found


def slice_shape(x: Sizes, *, starts: Any, ends: Any, axes: Any, steps: Any) -> Sizes:
    """As many along each axis as are taken."""
    found = spans(x, starts, ends, axes, steps)
    return tuple(found[axis][1] if axis in found else size for axis, size in enumerate(x))


def _slice(x: Array, *, starts: Any, ends: Any, axes: Any, steps: Any) -> Array:
    where = [slice(None)] * x.ndim
    for axis, (first, count, step) in spans(x.shape, starts, ends, axes, steps).items():
        last = first + count * step
        where[axis] = slice(first, None if last < 0 else last, step)
    return x[tuple(where)]


def gather_shape(x: Sizes, indices: Sizes, *, axis: int) -> Sizes:
    """The indices' axes in the place of one of x."""
    axis = axis_of(axis, len(x))
    return (*x[:axis], *indices, *x[axis + 1 :])


def _gather(x: Array, indices: Array, *, axis: int) -> Array:
    size = x.shape[axis]
    indices = indices.astype(np.int64)
    require(bool(np.all((indices >= -size) & (indices < size))), f"indices from {-size} to {size - 1}", "others")
    return np.asarray(np.take(x, indices, axis), x.dtype)


def split_sizes(x: Sizes, axis: int, split: Sizes | None, num_outputs: int | None, outputs: int) -> Sizes:
    """Of each part."""
    size = x[axis_of(axis, len(x))]
    if split is None:
        require(num_outputs in (None, outputs), f"{outputs} as num_outputs", num_outputs)
        even = (size + outputs - 1) // outputs
        split = (*(even,) * (outputs - 1), size - even * (outputs - 1))
    total: int | Size = 0
    for part in split:
        require(isinstance(part, Size) or part >= 0, "parts of 0 and more", tuple(split))
        total = total + part
    require(total == size and len(split) == outputs, f"{outputs} parts of {size}", tuple(split))
    return split


def split_shape(x: Sizes, *, axis: int, split: Any, num_outputs: Any, outputs: int) -> list[Sizes]:
    """Of each part, in order."""
    parts, axis = split_sizes(x, axis, split, num_outputs, outputs), axis_of(axis, len(x))
    return [(*x[:axis], part, *x[axis + 1 :]) for part in parts]


def _split(x: Array, *, axis: int, split: Any, num_outputs: Any, outputs: int) -> tuple[Array, ...]:
    parts = whole(split_sizes(x.shape, axis, split, num_outputs, outputs), "split")
    return tuple(np.split(x, np.cumsum(parts)[:-1], axis))


def concat_shape(*shapes: Sizes, axis: int) -> Sizes:
    """The sizes along one axis added up; the others are the same."""
    axis = axis_of(axis, len(shapes[0]))
    rest = [(*shape[:axis], *shape[axis + 1 :]) for shape in shapes]
    require(all(one == rest[0] for one in rest) and {*map(len, shapes)} == {len(shapes[0])},
            f"inputs alike but along axis {axis}", " and ".join(map(described, shapes)))  # fmt: skip
    total: int | Size = 0
    for shape in shapes:
        total = total + shape[axis]
    return (*shapes[0][:axis], total, *shapes[0][axis + 1 :])


# --- Padding and writing ----------------------------------------------------------------------------------------------


def paddings(x: Sizes, pads: tuple[int, ...], axes: tuple[int, ...] | None) -> list[tuple[int, int]]:
    """Before and behind each axis."""
    axes = tuple(range(len(x))) if axes is None else axes_of(axes, len(x))
    require(len(pads) == 2 * len(axes), f"{2 * len(axes)} pads, a start and an end for each axis", list(pads))
    result = [(0, 0)] * len(x)
    for i, axis in enumerate(axes):
        result[axis] = (pads[i], pads[i + len(axes)])
    return result


def pad_shape(x: Sizes, *, pads: Any, axes: Any, **_: Any) -> Sizes:
    """Each size with what is added; negative pads take away."""
    result = tuple(size + first + last for size, (first, last) in zip(x, paddings(x, pads, axes), strict=True))
    require(
        all(isinstance(size, Size) or size > 0 for size in result), "pads that leave something of each axis", result
    )
    return result


def _pad(x: Array, *, pads: Any, axes: Any, mode: str, value: float | None) -> Array:
    found = paddings(x.shape, pads, axes)
    added = [(max(0, first), max(0, last)) for first, last in found]
    cut = [(max(0, -first), max(0, -last)) for first, last in found]
    if mode == "constant":  # what is cut off may be padding
        x = np.pad(x, added, constant_values=np.asarray(value or 0).astype(x.dtype))
    inside = tuple(slice(first, max(0, n - last)) for n, (first, last) in zip(x.shape, cut, strict=True))
    return x[inside] if mode == "constant" else np.pad(x[inside], added, mode=mode)  # type: ignore[call-overload]


def scatter_shape(x: Sizes, indices: Sizes, updates: Sizes, *, reduction: str) -> Sizes:
    """That of x."""
    require(len(indices) > 0 and isinstance(indices[-1], int) and indices[-1] <= len(x), "indices of x's axes", indices)
    expected = (*indices[:-1], *x[int(indices[-1]) :])
    require(updates == expected, f"updates {described(expected)}", updates)
    return x


REDUCTIONS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _scatter(x: Array, indices: Array, updates: Array, *, reduction: str) -> Array:
    result, last = x.copy(), x.shape[: indices.shape[-1]]
    inside = np.all((indices >= -np.array(last)) & (indices < np.array(last)))
    require(bool(inside), f"indices within {described(last)}", "others")
    where = tuple(np.moveaxis(indices, -1, 0))
    if reduction == "none":
        result[where] = updates
    else:
        REDUCTIONS[reduction].at(result, where, updates)
    return result


# --- New numbers ------------------------------------------------------------------------------------------------------


def range_shape(*, start: Array, limit: Array, delta: Array) -> Sizes:
    """As many as there are from start to below the limit."""
    for array in (start, limit, delta):
        require(array.size == 1 and array.dtype.kind in "iuf", "numbers that are known", array)
    require(bool(np.all(delta != 0)), "a delta other than 0", 0)
    steps = np.ceil((limit.ravel()[0] - start.ravel()[0]) / delta.ravel()[0])
    require(bool(np.isfinite(steps)), "a range that ends", steps)
    return (max(0, int(steps)),)


def _range(*, start: Array, limit: Array, delta: Array) -> Array:
    (steps,) = whole(range_shape(start=start, limit=limit, delta=delta), "range")
    return (start.ravel()[0] + np.arange(steps) * delta.ravel()[0]).astype(start.dtype)


def _constant(*, shape: tuple[int, ...], value: Array | None) -> Array:
    return np.broadcast_to(np.zeros((), np.float32) if value is None else value.reshape(()), shape)


def _constant_shape(*, shape: Sizes, value: Array | None) -> Sizes:
    require(value is None or value.size == 1, "one number as value", () if value is None else value.shape)
    require(all(isinstance(size, Size) or size >= 0 for size in shape), "sizes of 0 and more", tuple(shape))
    return tuple(shape)


def _shape(x: Sizes, *, start: int, end: int | None) -> Array:
    found = np.empty(len(x[start:end]), object)
    found[:] = x[start:end]
    return found


def _size(x: Sizes) -> Array:
    found = np.empty((), object)
    found[()] = sizes.product(x)
    return found


TYPES = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")


def _cast(x: Array, *, to: str) -> Array:
    dtype = np.dtype(to)
    if x.dtype == object:  # sizes, which exporters also have as floating point on their way to integers
        require(dtype.kind in "iuf", "numbers of sizes", to)
        numbers = [size if isinstance(size, Size) else int(size) for size in x.ravel()]
        result = np.empty(len(numbers), object)
        result[:] = numbers
        return result.reshape(x.shape)
    if dtype.kind == x.dtype.kind == "f":  # the caller says in which of them a network is computed
        return x
    with np.errstate(invalid="ignore"):
        return x.astype(np.float64 if dtype.kind == "f" else dtype)


def _dropout(x: Array, *, ratio: float, training_mode: int) -> tuple[Array, Array]:
    return x, np.ones(x.shape, bool)


# --- The table --------------------------------------------------------------------------------------------------------

AXES = Attribute("ints", None)
SIZES = Attribute("sizes")
AXIS = Attribute("int", 0)

OPERATORS = {
    "Identity": Operator(lambda x: x, same, ("a",), moves=True, pointwise=True),
    "Dropout": Operator(
        _dropout,
        lambda x, **_: [x, x],
        ("f", "x"),
        (1, 3),
        (1, 2),
        {"ratio": Attribute("float", 0.5), "training_mode": Attribute("int", 0, choices=(0,))},
        {1: "ratio", 2: "training_mode"},
        types=lambda types, **_: [types[0], np.dtype(bool)],
        moves=True,
    ),
    "Cast": Operator(
        _cast, same, ("a",), attributes={"to": Attribute("text", choices=TYPES)},
        types=lambda types, to: np.dtype(to), pointwise=True,
    ),
    "CastLike": Operator(
        lambda x, like: _cast(x, to=like.dtype.name), lambda x, like: x, ("a", "x"), (2, 2),
        types=lambda types: types[1], pointwise=True,
    ),
    "Reshape": Operator(
        lambda x, shape, allowzero: x.reshape(whole(reshape_shape(x.shape, shape=shape, allowzero=allowzero), "shape")),
        reshape_shape, ("a", "i"), (1, 2),
        attributes={"shape": SIZES, "allowzero": Attribute("int", 0, choices=(0, 1))}, known={1: "shape"}, moves=True,
        settled=lambda x, **given: {"shape": reshape_shape(x, **given), "allowzero": 1},
    ),
    "Flatten": Operator(_flatten, flatten_shape, ("a",), attributes={"axis": Attribute("int", 1)}, moves=True),
    "Transpose": Operator(
        lambda x, perm: x.transpose(perm), transpose_shape, ("a",), attributes={"perm": AXES}, moves=True,
        settled=lambda x, perm: {"perm": tuple(reversed(range(len(x)))) if perm is None else perm},
    ),
    "Squeeze": Operator(
        lambda x, axes: x.reshape(whole(squeeze_shape(x.shape, axes=axes), "axes")),
        squeeze_shape, ("a", "i"), (1, 2), attributes={"axes": AXES}, known={1: "axes"}, moves=True,
        settled=lambda x, axes: {"axes": tuple(i for i, n in enumerate(x) if n == 1) if axes is None else axes},
    ),
    "Unsqueeze": Operator(
        lambda x, axes: np.expand_dims(x, axes),
        unsqueeze_shape, ("a", "i"), (1, 2), attributes={"axes": Attribute("ints")}, known={1: "axes"}, moves=True,
    ),
    "Expand": Operator(
        lambda x, shape: np.broadcast_to(x, np.broadcast_shapes(x.shape, shape)),
        expand_shape, ("a", "i"), (1, 2), attributes={"shape": SIZES}, known={1: "shape"}, moves=True,
    ),
    "Tile": Operator(
        lambda x, repeats: np.tile(x, repeats),
        tile_shape, ("a", "i"), (1, 2), attributes={"repeats": SIZES}, known={1: "repeats"}, moves=True,
        over=lambda x, *, repeats: [axis for axis, times in enumerate(repeats) if times != 1],
    ),
    "Slice": Operator(
        _slice, slice_shape, ("a", "i"), (1, 5),
        attributes={"starts": SIZES, "ends": SIZES, "axes": AXES, "steps": AXES},
        known={1: "starts", 2: "ends", 3: "axes", 4: "steps"}, moves=True,
        over=lambda x, *, starts, ends, axes, steps: list(spans(x, starts, ends, axes, steps)),
    ),
    "Gather": Operator(
        _gather, gather_shape, ("a", "i"), (2, 2), attributes={"axis": AXIS}, moves=True,
        over=lambda x, indices, *, axis: (axis_of(axis, len(x)),),
    ),
    "Split": Operator(
        _split, split_shape, ("a", "i"), (1, 2), (1, MANY),
        attributes={"axis": AXIS, "split": Attribute("sizes", None), "num_outputs": Attribute("int", None)},
        known={1: "split"}, moves=True, counted=True,
        types=lambda types, outputs, **_: [types[0]] * outputs, over=lambda x, *, axis, **_: (axis_of(axis, len(x)),),
    ),
    "Concat": Operator(
        lambda *arrays, axis: np.concatenate(arrays, axis), concat_shape, ("a",), (1, MANY),
        attributes={"axis": Attribute("int")}, over=lambda x, *others, axis: (axis_of(axis, len(x)),),
    ),
    "Pad": Operator(
        _pad, pad_shape, ("a", "i", "x", "i"), (1, 4),
        attributes={
            "pads": Attribute("ints"), "value": Attribute("float", None), "axes": AXES,
            "mode": Attribute("text", "constant", choices=("constant", "reflect", "edge", "wrap")),
        },
        known={1: "pads", 2: "value", 3: "axes"},
        over=lambda x, *, pads, axes, **_: [axis for axis, pad in enumerate(paddings(x, pads, axes)) if any(pad)],
    ),
    "ScatterND": Operator(
        _scatter, scatter_shape, ("a", "i", "a"), (3, 3),
        attributes={"reduction": Attribute("text", "none", choices=("none", *REDUCTIONS))},
        over=lambda x, *others, **_: range(len(x)),
    ),
    "Shape": Operator(
        lambda x, **_: x, lambda x, start, end: (len(x[start:end]),), ("x",),
        attributes={"start": AXIS, "end": Attribute("int", None)}, types=typed(np.int64), counts=_shape,
    ),
    "Size": Operator(lambda x: x, lambda x: (), ("x",), types=typed(np.int64), counts=_size),
    "Range": Operator(
        _range, range_shape, ("x",), (0, 3),
        attributes={name: Attribute("array") for name in ("start", "limit", "delta")},
        known={0: "start", 1: "limit", 2: "delta"}, types=lambda types, start, **_: start.dtype,
    ),
    "ConstantOfShape": Operator(
        _constant, _constant_shape, ("i",), (0, 1), attributes={"shape": SIZES, "value": Attribute("array", None)},
        known={0: "shape"}, types=lambda types, shape, value: np.dtype(np.float32) if value is None else value.dtype,
    ),
}  # fmt: skip
