"""Chains of layers, torch.nn.Sequential: they tell the shape of their input, and recurrent layers hand on sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH = 2
CHANNELS_FIRST = (
    nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d, nn.GroupNorm,
)  # fmt: skip
SPANS = (nn.Conv1d, nn.MaxPool1d, nn.AvgPool1d)
"""Layers for which an example must be long enough."""


def is_chain(module: Any) -> bool:
    """Whether a module is a torch.nn.Sequential or one recurrent layer, and not somebody's subclass of it."""
    return type(module) is nn.Sequential or isinstance(module, (nn.GRU, nn.RNN, nn.LSTM))


class _Sequence(nn.Module):  # type: ignore[misc]
    """A recurrent layer without its last states."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Any) -> Any:
        return self.layer(x)[0]


def sequences(module: Any, after: Any = None) -> Any:
    """A chain whose recurrent layers hand on their sequences; the layers are the same objects.

    Before a layer of somebody's own, which may be there to take the sequence, they hand on the states, too.
    """
    if type(module) is nn.Sequential:
        parts = list(module)
        return nn.Sequential(*(sequences(part, next_) for part, next_ in zip(parts, [*parts[1:], after], strict=True)))
    while type(after) is nn.Sequential and len(after):
        after = after[0]
    known = after is None or type(after).__module__.startswith("torch.nn.")
    return _Sequence(module) if isinstance(module, nn.RNNBase) and known else module


def _layers(module: Any) -> Iterator[Any]:
    if type(module) is nn.Sequential:
        for part in module:
            yield from _layers(part)
    else:
        yield module


def example(module: Any) -> tuple[Any, tuple[str | None, ...]]:
    """An input of a chain's shape, and the names of its axes; TypeError where the layers do not tell it."""
    layers = list(_layers(module))
    first = next((layer for layer in layers if shape_of(layer) is not None), None)
    told = next((layer for layer in layers if any(True for _ in layer.parameters())), first)
    if first is None or layers.index(first) > layers.index(told):
        raise TypeError(
            "example: expected an input, since the Sequential's first layer with parameters does not tell its shape, "
            "got None; give a tensor of the shape that it is called with"
        )
    recurrent = next((layer for layer in layers if isinstance(layer, nn.RNNBase)), None)
    flat = any(isinstance(layer, nn.BatchNorm1d) for layer in layers)
    size = shape_of(first)
    parameter = next(module.parameters(), torch.zeros(0))
    steps = length(layers)
    if isinstance(first, CHANNELS_FIRST):
        sizes: tuple[int, ...] = (BATCH, int(size or 0), steps)
        layout: tuple[str | None, ...] = ("B", None, "T")
    elif recurrent is None and flat:  # features are the second axis only if there are two
        sizes, layout = (BATCH, int(size or 0)), ("B", None)
    else:
        batch_first = recurrent is not None and recurrent.batch_first
        sizes, layout = ((BATCH, steps), ("B", "T")) if batch_first else ((steps, BATCH), ("T", "B"))
        if not isinstance(first, nn.Embedding):
            sizes, layout = (*sizes, int(size or 0)), (*layout, None)
    if isinstance(first, nn.Embedding):
        return torch.zeros(sizes, dtype=torch.int64, device=parameter.device), layout
    return torch.zeros(sizes, dtype=parameter.dtype, device=parameter.device), layout


def shape_of(layer: Any) -> int | None:
    """The number of features or channels that a layer takes; None where it does not tell."""
    if isinstance(layer, nn.LayerNorm):
        return int(layer.normalized_shape[0]) if len(layer.normalized_shape) == 1 else None
    for kind, field in SIZES.items():
        if isinstance(layer, kind):
            return int(getattr(layer, field))
    return None


SIZES = {
    nn.Linear: "in_features",
    nn.RNNBase: "input_size",
    nn.Embedding: "num_embeddings",
    nn.Conv1d: "in_channels",
    nn.ConvTranspose1d: "in_channels",
    nn.BatchNorm1d: "num_features",
    nn.InstanceNorm1d: "num_features",
    nn.GroupNorm: "num_channels",
}


def length(layers: list[Any]) -> int:
    """Steps that are enough for all windows, and another number than the batch's."""
    steps, stride = BATCH + 3, 1
    for layer in layers:
        if isinstance(layer, SPANS):
            kernel, step, dilation = (_first(getattr(layer, name, 1)) for name in ("kernel_size", "stride", "dilation"))
            steps += ((kernel - 1) * dilation + 1) * stride
            stride *= step
    return steps


def _first(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)
