"""Convolutions and pooling over the axes after batch and channels: (B, C, S) or (B, C, S, S).

`Windows` has their arithmetic: where windows lie, how many there are, and what is padded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgru.model.nodes import sizes
from cgru.model.nodes.sizes import Size
from cgru.model.nodes.table import Attribute, Operator, Sizes, require, whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cgru.types import Array

MOST_AXES = 2


class Windows(NamedTuple):
    """Windows over some axes, a number for each axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]  # padding
    after: tuple[int, ...]
    counts: Sizes  # of windows

    def padded(self, x: Array, value: float) -> Array:
        """x (..., S) with its padding; negative padding takes away."""
        free = [(0, 0)] * (x.ndim - len(self.kernel))
        return np.pad(x, [*free, *zip(self.before, self.after, strict=True)], constant_values=value)

    def places(self, padded: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
        """Of each place in a window, what all windows have there: (..., counts)."""
        counts = whole(self.counts, "windows")
        for place in np.ndindex(*self.kernel):
            starts = [k * d for k, d in zip(place, self.dilations, strict=True)]
            spans = zip(starts, self.strides, counts, strict=True)
            where: Any = (Ellipsis, *(slice(start, start + (n - 1) * step + 1, step) for start, step, n in spans))
            yield place, padded[where]


def reach(kernel: int, dilation: int) -> int:
    """From the first place of a window to its last."""
    return (kernel - 1) * dilation


def _filled(
    values: Sequence[int] | None, default: int, number: int, name: str, least: int | None = 1
) -> tuple[int, ...]:
    values = tuple(values) if values is not None else (default,) * number
    require(len(values) == number, f"{number} numbers as {name}", list(values))
    require(least is None or all(value >= least for value in values), f"{name} of {least} and more", list(values))
    return values


def windows(
    spatial: Sizes,
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
    ceil_mode: int = 0,
) -> Windows:
    """Windows of a kernel over axes of these sizes."""
    number = len(spatial)
    require(1 <= number <= MOST_AXES, f"1 or {MOST_AXES} axes after batch and channels", number)
    kernel = _filled(kernel, 1, number, "kernel_shape")
    strides, dilations = _filled(strides, 1, number, "strides"), _filled(dilations, 1, number, "dilations")
    pads = _filled(pads, 0, 2 * number, "pads", least=0)
    before, after, counts = list(pads[:number]), list(pads[number:]), []
    for axis, (size, k, step, d) in enumerate(zip(spatial, kernel, strides, dilations, strict=True)):
        covered = reach(k, d) + 1
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            if isinstance(size, Size) and step != 1:
                raise ValueError(f"auto_pad: expected pads, as {auto_pad} depends on {size} where strides are {step}")
            total = covered - 1 if isinstance(size, Size) else max((-(-size // step) - 1) * step + covered - size, 0)
            less, more = total // 2, total - total // 2
            before[axis], after[axis] = (less, more) if auto_pad == "SAME_UPPER" else (more, less)
        elif auto_pad == "VALID":
            before[axis] = after[axis] = 0
        room = size + before[axis] + after[axis] - covered
        if isinstance(room, int):
            require(room >= 0, f"windows of at most {room + covered}", f"{covered} with their dilation")
        count = (room + step - 1 if ceil_mode else room) // step + 1
        if ceil_mode:
            known = whole((size, count), "ceil_mode")
            count = known[1] - ((known[1] - 1) * step >= known[0] + before[axis])  # none begins in the padding behind
            after[axis] = max(after[axis], (count - 1) * step + covered - known[0] - before[axis])
        counts.append(count)
    return Windows(kernel, strides, dilations, tuple(before), tuple(after), tuple(counts))


# --- Convolution ------------------------------------------------------------------------------------------------------


def _conv_windows(
    x: Sizes, w: Sizes, kernel_shape: Any, strides: Any, dilations: Any, pads: Any, auto_pad: str
) -> Windows:
    require(len(x) == len(w) and len(x) > 2, "weights (M, C/group, ...) of as many axes as the input (B, C, ...)", w)
    kernel = whole(w[2:], "weights")
    require(
        kernel_shape is None or tuple(kernel_shape) == kernel,
        f"kernel_shape {list(kernel)} as of the weights",
        kernel_shape,
    )
    return windows(x[2:], kernel, strides, dilations, pads, auto_pad)


def conv_shape(x: Sizes, w: Sizes, b: Sizes | None = None, *, group: int, **geometry: Any) -> Sizes:
    """(B, M, ...) of (B, C, ...) and (M, C/group, ...)."""
    places = _conv_windows(x, w, **geometry)
    (outputs, inputs), (channels,) = whole(w[:2], "weights"), whole(x[1:2], "channels")
    require(group >= 1, "a group of 1 or more", group)
    require(channels == inputs * group, f"{inputs} * {group} channels", channels)
    require(outputs % group == 0, f"a multiple of {group} outputs", outputs)
    require(b is None or b == (outputs,), f"a bias of shape ({outputs},)", b)
    return (x[0], outputs, *places.counts)


def conv(x: Array, w: Array, b: Array | None = None, *, group: int, **geometry: Any) -> Array:
    """Products of windows with weights, summed over a group's channels."""
    found = _conv_windows(x.shape, w.shape, **geometry)
    batch, channels, *_ = x.shape
    x = found.padded(x, 0)
    x = x.reshape(batch, group, channels // group, *x.shape[2:])
    w = w.reshape(group, w.shape[0] // group, *w.shape[1:])
    result = np.zeros((batch, group, w.shape[1], *whole(found.counts, "windows")), x.dtype)
    for place, values in found.places(x):
        result += np.einsum("bgc...,gmc->bgm...", values, w.transpose(*range(3, w.ndim), 0, 1, 2)[place])
    result = result.reshape(batch, -1, *result.shape[3:])
    return result if b is None else result + b.reshape(-1, *[1] * (result.ndim - 2))


def _transposed(
    x: Sizes, w: Sizes, kernel_shape: Any, strides: Any, dilations: Any, pads: Any, auto_pad: str,
    output_padding: Any, output_shape: Any,
) -> Windows:  # fmt: skip
    """The windows over the result; its `counts` are the result's sizes."""
    number = len(x) - 2
    require(len(x) == len(w) and 1 <= number <= MOST_AXES, f"(B, C, ...) of 1 or {MOST_AXES} axes, and such weights", w)
    kernel = whole(w[2:], "weights")
    require(
        kernel_shape is None or tuple(kernel_shape) == kernel,
        f"kernel_shape {list(kernel)} as of the weights",
        kernel_shape,
    )
    strides, dilations = _filled(strides, 1, number, "strides"), _filled(dilations, 1, number, "dilations")
    pads = _filled(pads, 0, 2 * number, "pads", least=0)
    extra = _filled(output_padding, 0, number, "output_padding", least=0)
    wanted = None if output_shape is None else _filled(output_shape[-number:], 0, number, "output_shape")
    before, after, counts = list(pads[:number]), list(pads[number:]), []
    for axis, (size, k, step, d) in enumerate(zip(x[2:], kernel, strides, dilations, strict=True)):
        full = (size - 1) * step + extra[axis] + reach(k, d) + 1
        if wanted is not None or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            target = size * step if wanted is None else wanted[axis]
            (total,) = whole((full - target,), "output_shape")
            full, total = full + max(-total, 0), max(total, 0)  # zeros behind, where more is asked for
            less, more = total // 2, total - total // 2
            before[axis], after[axis] = (less, more) if auto_pad == "SAME_UPPER" else (more, less)
        elif auto_pad == "VALID":
            before[axis] = after[axis] = 0
        count = full - before[axis] - after[axis]
        require(isinstance(count, Size) or count > 0, "pads that leave a result", count)
        counts.append(count)
    return Windows(kernel, strides, dilations, tuple(before), tuple(after), tuple(counts))


def conv_transpose_shape(x: Sizes, w: Sizes, b: Sizes | None = None, *, group: int, **geometry: Any) -> Sizes:
    """(B, M, ...) of (B, C, ...) and (C, M/group, ...)."""
    found = _transposed(x, w, **geometry)
    (channels, outputs), (inputs,) = whole(w[:2], "weights"), whole(x[1:2], "channels")
    require(group >= 1, "a group of 1 or more", group)
    require(channels == inputs, f"weights of {inputs} channels in {group} groups", channels)
    require(channels % group == 0, f"a multiple of {group} channels, as many as there are groups", channels)
    require(b is None or b == (outputs * group,), f"a bias of shape ({outputs * group},)", b)
    return (x[0], outputs * group, *found.counts)


def conv_transpose(x: Array, w: Array, b: Array | None = None, *, group: int, **geometry: Any) -> Array:
    """What of each input element its product with the weights adds to a window of the result."""
    found = _transposed(x.shape, w.shape, **geometry)
    batch, channels, *spatial = x.shape
    x = x.reshape(batch, group, channels // group, *spatial)
    w = w.reshape(group, channels // group, *w.shape[1:])
    counts = whole(found.counts, "results")
    spans = zip(counts, found.before, found.after, strict=True)
    full = np.zeros((batch, group, w.shape[2], *(n + first + last for n, first, last in spans)), x.dtype)
    spread = found._replace(counts=tuple(spatial))
    for place, values in spread.places(full):
        values += np.einsum("bgc...,gcm->bgm...", x, w.transpose(*range(3, w.ndim), 0, 1, 2)[place])
    inside: Any = (Ellipsis, *(slice(first, first + n) for first, n in zip(found.before, counts, strict=True)))
    result = full[inside].reshape(batch, -1, *counts)
    return result if b is None else result + b.reshape(-1, *[1] * len(counts))


# --- Pooling ----------------------------------------------------------------------------------------------------------


def _pool_windows(
    x: Sizes, kernel_shape: Any, strides: Any, dilations: Any, pads: Any, auto_pad: str, ceil_mode: int, **_: Any
) -> Windows:
    return windows(x[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)


def pool_shape(x: Sizes, **geometry: Any) -> Sizes:
    """(B, C, ...) with a place for each window."""
    return (*x[:2], *_pool_windows(x, **geometry).counts)


def max_pool(x: Array, **geometry: Any) -> Array:
    """The largest element of each window."""
    found = _pool_windows(x.shape, **geometry)
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    return np.max([values for _, values in found.places(found.padded(x, lowest))], axis=0)


def average_pool(x: Array, *, count_include_pad: int, **geometry: Any) -> Array:
    """The mean of each window, with or without its padding."""
    found = _pool_windows(x.shape, **geometry)
    sums = np.sum([values for _, values in found.places(found.padded(x, 0))], axis=0)
    counted = np.ones(x.shape[2:], x.dtype)
    if count_include_pad:  # what ceil_mode reaches behind the padding does not count
        number, pads = x.ndim - 2, geometry["pads"] or [0] * 2 * (x.ndim - 2)
        if geometry["auto_pad"] in ("SAME_UPPER", "SAME_LOWER"):
            pads = [*found.before, *found.after]
        own = found._replace(before=tuple(pads[:number]), after=tuple(pads[number:]))
        counted = np.pad(
            own.padded(counted, 1), [(0, max(0, have - pad)) for have, pad in zip(found.after, own.after, strict=True)]
        )
    else:
        counted = found.padded(counted, 0)
    return sums / np.sum([values for _, values in found.places(counted)], axis=0)


def global_shape(x: Sizes) -> Sizes:
    """(B, C, 1, ...)."""
    require(len(x) > 2, "axes after batch and channels", x)
    return (*x[:2], *[1] * (len(x) - 2))


def over_axis(operator: str, axis: int, attributes: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Along an axis of a settled node: a window's reach, the stride, the padding before and behind.

    A transposed convolution is one with the kernel turned round, whose windows reach as far as they can before the
    first element and behind the last one.
    """
    at, number = axis - 2, len(attributes["strides"])
    span = reach(attributes["kernel_shape"][at], attributes["dilations"][at])
    before, after = attributes["pads"][at], attributes["pads"][at + number]
    if operator == "ConvTranspose":
        require(attributes["strides"][at] == 1, "a stride of 1 over time", attributes["strides"][at])
        extra = attributes["output_padding"][at]
        require(extra == 0, "no output_padding over time", extra)
        before, after = span - before, span - after
    return span, attributes["strides"][at], before, after


def _settled(found: Windows) -> dict[str, Any]:
    """The attributes that say what windows were found."""
    return {
        "kernel_shape": found.kernel,
        "strides": found.strides,
        "dilations": found.dilations,
        "pads": (*found.before, *found.after),
        "auto_pad": "NOTSET",
    }


def _conv_settled(x: Sizes, w: Sizes, b: Sizes | None = None, *, group: int, **geometry: Any) -> dict[str, Any]:
    return _settled(_conv_windows(x, w, **geometry))


def _transposed_settled(x: Sizes, w: Sizes, b: Sizes | None = None, *, group: int, **geometry: Any) -> dict[str, Any]:
    found = _transposed(x, w, **geometry)
    full = [
        count + first + last - (size - 1) * step - reach(k, d) - 1
        for count, first, last, size, step, k, d in zip(
            found.counts, found.before, found.after, x[2:], found.strides, found.kernel, found.dilations, strict=True
        )
    ]
    return _settled(found) | {"output_shape": None, "output_padding": whole(full, "output_padding")}


def _pool_settled(x: Sizes, **geometry: Any) -> dict[str, Any]:
    """With ceil_mode the padding stays as given: what windows reach behind it is no padding."""
    found = _pool_windows(x, **geometry)
    own = _filled(geometry["pads"], 0, 2 * len(found.kernel), "pads", least=0)
    return _settled(found) | ({"pads": own} if geometry["ceil_mode"] else {})


# --- The table --------------------------------------------------------------------------------------------------------


def _held(padded: Windows, x: Sizes, size: int | Size) -> tuple[int | Size, int | Size]:
    """Multiplications where each of so many elements meets a window; and what the padded input has of numbers."""
    held = sizes.product(n + first + last for n, first, last in zip(x[2:], padded.before, padded.after, strict=True))
    return size * sizes.product(padded.kernel), held * x[0] * x[1]


def _conv_work(x: Sizes, w: Sizes, b: Sizes | None = None, *, group: int, **geometry: Any) -> Any:
    found = _conv_windows(x, w, **geometry)
    return _held(found, x, sizes.product(found.counts) * x[0] * sizes.product(w[:2]))


def _transposed_work(x: Sizes, w: Sizes, b: Sizes | None = None, *, group: int, **geometry: Any) -> Any:
    found = _transposed(x, w, **geometry)
    return _held(found, (*x[:2], *found.counts), sizes.product(x) * w[1])


def _pool_work(x: Sizes, **geometry: Any) -> Any:
    found = _pool_windows(x, **geometry)
    return _held(found, x, sizes.product(found.counts) * x[0] * x[1])


def _spatial(x: Sizes, *others: Any, **attributes: Any) -> tuple[int, ...]:
    return tuple(range(2, len(x)))


GEOMETRY = {
    "kernel_shape": Attribute("ints", None),
    "strides": Attribute("ints", None),
    "dilations": Attribute("ints", None),
    "pads": Attribute("ints", None),
    "auto_pad": Attribute("text", "NOTSET", choices=("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")),
}
POOL = {**GEOMETRY, "kernel_shape": Attribute("ints"), "ceil_mode": Attribute("int", 0, choices=(0, 1))}
GROUP = {"group": Attribute("int", 1)}

OPERATORS = {
    "Conv": Operator(
        conv,
        conv_shape,
        inputs=(2, 3),
        attributes=GEOMETRY | GROUP,
        over=_spatial,
        work=_conv_work,
        settled=_conv_settled,
    ),
    "ConvTranspose": Operator(
        conv_transpose,
        conv_transpose_shape,
        inputs=(2, 3),
        attributes={
            **GEOMETRY,
            **GROUP,
            "output_padding": Attribute("ints", None),
            "output_shape": Attribute("ints", None),
        },
        over=_spatial,
        work=_transposed_work,
        settled=_transposed_settled,
    ),
    "MaxPool": Operator(
        max_pool,
        pool_shape,
        ("n",),
        attributes={**POOL, "storage_order": Attribute("int", 0, choices=(0, 1))},
        over=_spatial,
        work=_pool_work,
        settled=_pool_settled,
    ),
    "AveragePool": Operator(
        average_pool,
        pool_shape,
        attributes={**POOL, "count_include_pad": Attribute("int", 0, choices=(0, 1))},
        over=_spatial,
        work=_pool_work,
        settled=_pool_settled,
    ),
    "GlobalAveragePool": Operator(
        lambda x: x.mean(tuple(range(2, x.ndim)), keepdims=True), global_shape, over=_spatial
    ),
    "GlobalMaxPool": Operator(lambda x: x.max(tuple(range(2, x.ndim)), keepdims=True), global_shape, over=_spatial),
}
