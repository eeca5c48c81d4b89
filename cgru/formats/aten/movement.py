"""ATen's operators that move numbers about, and those that make new ones of a shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.model.nodes.sizes import Size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cgru.formats.aten.program import Program, Tensor

MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
"""Of padding: torch's names and ONNX's."""

END = 2**63 - 1


# --- Shapes -----------------------------------------------------------------------------------------------------------


def shaped(p: Program, x: Tensor, *arguments: Any, **options: Any) -> Any:
    """The same numbers in the result's shape, which torch knows."""
    return p.op("Reshape", x, shape=p.shape, allowzero=1)


def same(p: Program, x: Tensor, *arguments: Any, **options: Any) -> Any:
    """What changes nothing of values."""
    return p.cast(x, p.dtype)


def dropped(p: Program, x: Tensor, rate: float, train: bool) -> Any:
    """Dropout, which does nothing at inference."""
    if train and rate > 0:
        raise p.refused("dropout with training=self.training", "training=True")
    return p.op("Identity", x)


def permuted(p: Program, x: Tensor, axes: Sequence[int]) -> Any:
    """The axes in another order."""
    return p.op("Transpose", x, perm=tuple(axis % len(x.shape) for axis in axes))


def swapped(p: Program, x: Tensor, first: int = 0, second: int = 1) -> Any:
    """Two axes in each other's place."""
    order = list(range(len(x.shape)))
    if len(order) > 1:
        order[first], order[second] = order[second], order[first]
    return permuted(p, x, order)


def moved(p: Program, x: Tensor, sources: Any, targets: Any) -> Any:
    """Some axes in other places."""
    rank = len(x.shape)
    sources = [axis % rank for axis in ([sources] if isinstance(sources, int) else sources)]
    targets = [axis % rank for axis in ([targets] if isinstance(targets, int) else targets)]
    rest = iter(axis for axis in range(rank) if axis not in sources)
    return permuted(p, x, [sources[targets.index(axis)] if axis in targets else next(rest) for axis in range(rank)])


def expanded(p: Program, x: Tensor, *arguments: Any, **options: Any) -> Any:
    """Axes of size 1 repeated."""
    return p.op("Expand", x, shape=p.shape)


def repeated(p: Program, x: Tensor, times: Sequence[int]) -> Any:
    """Axes repeated as wholes, further ones before them."""
    more = len(times) - len(x.shape)
    value = p.op("Reshape", x, shape=(*(1,) * more, *x.shape), allowzero=1) if more else x
    return p.op("Tile", value, repeats=p.sizes(times))


# --- Parts ------------------------------------------------------------------------------------------------------------


def sliced(p: Program, x: Tensor, axis: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    """Elements of an axis from one to before another."""
    start, end = p.size(0 if start is None else start), p.size(END if end is None else end)
    return p.op("Slice", x, starts=(start,), ends=(end,), axes=(axis,), steps=(step,))


def selected(p: Program, x: Tensor, axis: int, index: Any) -> Any:
    """One element of an axis, without the axis."""
    index = p.size(index)
    if isinstance(index, Size):
        part = p.op("Slice", x, starts=(index,), ends=(index + 1,), axes=(axis,), steps=(1,))
        return p.op("Squeeze", part, axes=(axis,))
    return p.op("Gather", x, p.constant(index, np.int64), axis=axis)


def split(p: Program, x: Tensor, *arguments: Any, **options: Any) -> Any:
    """An axis in parts, whose sizes torch knows."""
    axis = {**dict(zip(("sizes", "dim"), arguments, strict=False)), **options}.get("dim", 0)
    sizes = [p.sizes(part.shape)[axis] for part in p.node.meta["val"]]
    found = p.op("Split", x, outputs=len(sizes), axis=axis, split=tuple(sizes))
    return found if len(sizes) > 1 else (found,)


def unbound(p: Program, x: Tensor, axis: int = 0) -> Any:
    """Each element of an axis."""
    return tuple(selected(p, x, axis, index) for index in range(len(p.node.meta["val"])))


def taken(p: Program, x: Tensor, axis: int, indices: Tensor) -> Any:
    """Elements of an axis by their indices."""
    return p.op("Gather", x, indices, axis=axis)


def indexed(p: Program, x: Tensor, indices: Sequence[Tensor | None]) -> Any:
    """Elements of one axis by their indices."""
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(given) != 1 or given[0][1].dtype.kind == "b":
        raise p.refused("integers as the index of one axis", "others")
    ((axis, index),) = given
    return p.op("Gather", x, index, axis=axis)


def joined(p: Program, values: Sequence[Tensor], axis: int = 0) -> Any:
    """Values one behind the other, those left out that torch's cat leaves out, of the shape (0,)."""
    held = [p.cast(value, p.dtype) for value in values if value.shape != (0,)]
    return p.op("Concat", *held, axis=axis)


def stacked(p: Program, values: Sequence[Tensor], axis: int = 0) -> Any:
    """Values along a new axis."""
    axis %= len(values[0].shape) + 1
    return p.op("Concat", *(p.op("Unsqueeze", p.cast(value, p.dtype), axes=(axis,)) for value in values), axis=axis)


def flipped(p: Program, x: Tensor, axes: Sequence[int]) -> Any:
    """Axes from the last element to the first."""
    number = len(axes)
    far = (-(2**31 - 1) - 1,) * number
    return p.op("Slice", x, starts=(-1,) * number, ends=far, axes=tuple(axes), steps=(-1,) * number)


def rolled(p: Program, x: Tensor, shifts: Sequence[int], axes: Sequence[int] = ()) -> Any:
    """Axes turned: what leaves at the end comes in front."""
    if len(shifts) != len(axes):
        raise p.refused("an axis for each shift", axes)
    value: Any = x
    for shift, axis in zip(shifts, axes, strict=True):
        size = x.shape[axis]
        cut = -shift % size if isinstance(size, int) else -shift
        back = p.op("Slice", value, starts=(cut,), ends=(END,), axes=(axis,), steps=(1,))
        front = p.op("Slice", value, starts=(0,), ends=(cut,), axes=(axis,), steps=(1,))
        value = p.op("Concat", back, front, axis=axis)
    return value


def slice_written(p: Program, x: Tensor, source: Tensor, axis: int = 0, start: Any = None, end: Any = None,
                  step: int = 1) -> Any:  # fmt: skip
    """A value with another in the place of a slice: what x[:, a:b] = y becomes."""
    if step != 1:
        raise p.refused("a step of 1", step)
    first, last = p.size(0 if start is None else start), p.size(END if end is None else end)
    size, axis = x.shape[axis], axis % len(x.shape)
    length = source.shape[axis]
    if isinstance(first, int) and first < 0:
        first = size + first
    last = first + length
    parts = [source.name]
    if first != 0:
        parts.insert(0, p.op("Slice", x, starts=(0,), ends=(first,), axes=(axis,), steps=(1,)))
    if last != size:
        parts.append(p.op("Slice", x, starts=(last,), ends=(END,), axes=(axis,), steps=(1,)))
    return p.op("Concat", *parts, axis=axis)


def select_written(p: Program, x: Tensor, source: Tensor, axis: int, index: Any) -> Any:
    """A value with another in the place of one element of an axis: what x[:, i] = y becomes."""
    axis %= len(x.shape)
    part = source._replace(
        name=p.op("Unsqueeze", source, axes=(axis,)), shape=(*source.shape[:axis], 1, *source.shape[axis:])
    )
    return slice_written(p, x, part, axis, index)


def copied(p: Program, x: Tensor, source: Tensor, *arguments: Any) -> Any:
    """Another value in this one's shape and type."""
    return p.op("Expand", p.cast(source, p.dtype), shape=p.shape)


def padded(p: Program, x: Tensor, pads: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Numbers before and behind axes; torch begins with the last one."""
    rank = len(x.shape)
    before, after = [0] * rank, [0] * rank
    for i in range(len(pads) // 2):
        before[rank - 1 - i], after[rank - 1 - i] = p.number(pads[2 * i]), p.number(pads[2 * i + 1])
    return p.op("Pad", x, pads=(*before, *after), mode=MODES[mode], value=float(value or 0))


# --- New numbers ------------------------------------------------------------------------------------------------------


def filled(value: float) -> Callable[..., Any]:
    """One number everywhere, in the result's shape and type."""

    def write(p: Program, *arguments: Any, **options: Any) -> Any:
        return p.op("ConstantOfShape", shape=p.shape, value=np.full((1,), value, p.dtype))

    return write


def full(p: Program, *arguments: Any, **options: Any) -> Any:
    """The last argument everywhere."""
    return filled(p.number(arguments[-1]))(p)


def number(p: Program, value: Any, **options: Any) -> Any:
    """One number."""
    return p.constant(p.number(value), p.dtype)


def arange(p: Program, *bounds: Any, **options: Any) -> Any:
    """Numbers from a start to below an end."""
    known = [p.number(p.size(bound) if not isinstance(bound, float) else bound) for bound in bounds]
    return p.constant(np.arange(*known), p.dtype)


OPERATORS = {
    **dict.fromkeys(
        ("view", "_unsafe_view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "view_as", "reshape_as"),
        shaped,
    ),
    **dict.fromkeys(
        ("alias", "clone", "contiguous", "detach", "lift_fresh_copy", "to", "_to_copy", "type_as"), same
    ),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), dropped),
    "t": swapped,
    "transpose": swapped,
    "swapaxes": swapped,
    "mT": lambda p, x: swapped(p, x, -2, -1),
    "numpy_T": lambda p, x: permuted(p, x, range(len(x.shape))[::-1]),
    "permute": permuted,
    "movedim": moved,
    "expand": expanded,
    "expand_as": expanded,
    "broadcast_to": expanded,
    "repeat": repeated,
    "tile": repeated,
    "slice.Tensor": sliced,
    "narrow": lambda p, x, axis, start, length: sliced(p, x, axis, start, start + length),
    "select.int": selected,
    "split": split,
    "split_with_sizes": split,
    "chunk": split,
    "unbind": unbound,
    "index_select": taken,
    "index.Tensor": indexed,
    "cat": joined,
    "concat": joined,
    "stack": stacked,
    "flip": flipped,
    "roll": rolled,
    "slice_scatter": slice_written,
    "select_scatter": select_written,
    "copy": copied,
    "pad": padded,
    "constant_pad_nd": lambda p, x, pads, value=0: padded(p, x, pads, "constant", value),
    "reflection_pad1d": lambda p, x, pads: padded(p, x, pads, "reflect"),
    "reflection_pad2d": lambda p, x, pads: padded(p, x, pads, "reflect"),
    "replication_pad1d": lambda p, x, pads: padded(p, x, pads, "replicate"),
    "replication_pad2d": lambda p, x, pads: padded(p, x, pads, "replicate"),
    **dict.fromkeys(("zeros", "zeros_like", "new_zeros"), filled(0)),
    **dict.fromkeys(("ones", "ones_like", "new_ones"), filled(1)),
    **dict.fromkeys(("full", "full_like", "new_full"), full),
    "scalar_tensor": number,
    "arange": arange,
}  # fmt: skip
