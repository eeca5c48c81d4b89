"""The packed engine's door: rows in order of length, then `src/packed.pyx`. float32 inference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgru import _packed

if TYPE_CHECKING:
    from cgru.layer import Layer
    from cgru.types import Array


def weights(layer: Layer) -> _packed.Weights:
    """The layer's packed weights, made once."""
    packed: _packed.Weights | None = layer.prepared.get("packed")
    if packed is None:
        packed = layer.prepared["packed"] = _packed.Weights(layer)
    return packed


def forward(layer: Layer, x: Array, h: Array, y: Array, lengths: Array | None, reverse: bool, threads: int) -> None:
    """Run one direction of one layer; see `cgru.engines.Engine`."""
    if lengths is None:
        _packed.forward(weights(layer), x, h, y, None, None, reverse, threads)
        return
    order = np.argsort(-lengths, kind="stable")
    state = h[order]
    _packed.forward(weights(layer), x, state, y, order, lengths[order], reverse, threads)
    h[order] = state
