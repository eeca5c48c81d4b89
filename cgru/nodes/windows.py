"""Convolutions and poolings, which run over time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cgru import checks
from cgru.nodes.activations import checked_activation
from cgru.nodes.layer import Layer, Place, uniform

if TYPE_CHECKING:
    import numpy.typing as npt

    from cgru.nodes.layer import Activated

    Padding = int | str | tuple[int, int]
    from cgru.types import Array


def paddings(padding: object, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Steps of zeros before and behind a sequence: of an integer both, of a pair these, or by name.

    "valid" has none; "same" gives as many frames as came, "causal", too, and all zeros before them, so that no frame
    depends on a later one.
    """
    if isinstance(padding, str):
        span = dilation * (kernel - 1)
        named = {"valid": (0, 0), "same": (span // 2, span - span // 2), "causal": (span, 0)}
        if padding == "same" and stride != 1:
            raise ValueError(f"padding: expected numbers with a stride of {stride}, got 'same'")
        return named[checks.choice("padding", padding, named)]
    pair = padding if isinstance(padding, (tuple, list)) else (padding, padding)
    if len(pair) != 2:
        raise ValueError(
            f"padding: expected an integer, (before, behind), 'same', 'valid' or 'causal', got {padding!r}"
        )
    before, behind = (checks.integer("padding", size, 0) for size in pair)
    return before, behind


MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
"""What convolutions pad with: torch's names, and those of Pad."""


@dataclass(frozen=True, eq=False, repr=False)
class Conv1d(Layer):
    """A convolution over time: weight (out_channels, in_channels / groups, kernel_size) and bias (out_channels,).

    `padding` is torch's integer, "same" or "valid", or (before, behind), or "causal" for all of it before.
    """

    features = "in_channels"
    keeps = False
    timed = True

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    padding: Padding = 0
    dilation: int = 1
    groups: int = 1
    bias: bool | Array = True
    padding_mode: str = "zeros"
    activation: Activated = None
    weight: Array | None = field(default=None, kw_only=True)
    dtype: npt.DTypeLike = field(default="float32", kw_only=True)
    rng: object = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._sizes("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups")
        paddings(self.padding, self.kernel_size, self.stride, self.dilation)
        checks.choice("padding_mode", self.padding_mode, MODES)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"groups: expected a divisor of {self.in_channels} and of {self.out_channels}, got {self.groups}"
            )
        self._set(activation=checked_activation(self.activation))
        shape = (self.out_channels, self.in_channels // self.groups, self.kernel_size)
        bound = 1 / math.sqrt(shape[1] * self.kernel_size)
        self._hold({"weight": shape, "bias": (self.out_channels,)}, uniform(bound))

    def write(self, place: Place, x: str) -> str:
        """A Conv over (B, C, T)."""
        y, back = place.channels_first(x)
        pads = paddings(self.padding, self.kernel_size, self.stride, self.dilation)
        if self.padding_mode != "zeros":
            y = place.op("Pad", y, pads=(0, 0, pads[0], 0, 0, pads[1]), mode=MODES[self.padding_mode])
            pads = (0, 0)
        weights = [place.constant(name, array) for name, array in self.parameters.items()]
        y = place.op(
            "Conv", y, *weights, kernel_shape=(self.kernel_size,), strides=(self.stride,), pads=pads,
            dilations=(self.dilation,), group=self.groups,
        )  # fmt: skip
        return place.activated(place.op("Transpose", y, perm=back), self.activation)


class _Pool(Layer):
    """What poolings over time share."""

    timed = True

    kernel_size: int
    stride: int | None
    padding: Any

    def _window(self, dilation: int = 1) -> dict[str, Any]:
        """The window's attributes, checked; without a stride windows stand side by side."""
        self._set(parameters={})
        self._sizes("kernel_size")
        if self.stride is not None:
            self._sizes("stride")
        stride = self.stride or self.kernel_size
        pads = paddings(self.padding, self.kernel_size, stride, dilation)
        reach = dilation * (self.kernel_size - 1)
        if max(pads) > reach:
            raise ValueError(
                f"padding: expected at most {reach}, as windows lie over the sequence, got {self.padding!r}"
            )
        return {"kernel_shape": (self.kernel_size,), "strides": (stride,), "dilations": (dilation,), "pads": pads}

    def _pooled(self, place: Place, x: str, operator: str, **attributes: Any) -> str:
        y, back = place.channels_first(x)
        return str(place.op("Transpose", place.op(operator, y, **attributes), perm=back))


@dataclass(frozen=True, eq=False, repr=False)
class MaxPool1d(_Pool):
    """The largest element in a window over time, of each feature; `padding` as Conv1d has it."""

    kernel_size: int
    stride: int | None = None
    padding: Padding = 0
    dilation: int = 1

    def __post_init__(self) -> None:
        self._sizes("dilation")
        self._window(self.dilation)

    def write(self, place: Place, x: str) -> str:
        """A MaxPool over (B, C, T)."""
        return self._pooled(place, x, "MaxPool", **self._window(self.dilation))


@dataclass(frozen=True, eq=False, repr=False)
class AvgPool1d(_Pool):
    """The mean of a window over time, of each feature; `padding` as Conv1d has it, counted or not."""

    kernel_size: int
    stride: int | None = None
    padding: Padding = 0
    count_include_pad: bool = True

    def __post_init__(self) -> None:
        checks.flag("count_include_pad", self.count_include_pad)
        self._window()

    def write(self, place: Place, x: str) -> str:
        """An AveragePool over (B, C, T)."""
        return self._pooled(
            place, x, "AveragePool", count_include_pad=int(self.count_include_pad), **self._window()
        )  # fmt: skip
