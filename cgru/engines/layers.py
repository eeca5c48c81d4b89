"""A stack run layer by layer, for engines whose loops know one direction of one layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from cgru.engines.restarts import Restarts
    from cgru.model.layer import Stack
    from cgru.types import Array

BLOCK_BYTES = 1 << 20
"""Stacks run through time in blocks whose states between layers take about so much memory."""


def layer_by_layer(
    forward: Callable[..., None],
    stack: Stack,
    x: Array,
    h: Array,
    y: Array,
    lengths: Array | None,
    how: Any,
    xp: Any = np,
    block_bytes: int | None = None,
    restarts: Restarts | None = None,
) -> None:
    """Run a stack by a function of one direction of one layer: forward(layer, x, h, y, lengths, reverse, how).

    Where sequences start anew it takes the restarts of its direction and steps, too.

    `how` is the engine's own: its threads, say. `xp` is the module of the arrays.
    """
    steps, batch, _ = x.shape
    layers = stack.layers
    hidden, directions = h.shape[2], len(layers[0])
    block = steps
    if len(layers) > 1 and directions == 1:
        block = min(steps, max(1, (block_bytes or BLOCK_BYTES) // (batch * hidden * x.itemsize)))
    between = [xp.empty((block, batch, directions * hidden), x.dtype) for _ in range(min(2, len(layers) - 1))]

    for done in range(0, steps, block):
        size = min(block, steps - done)
        start = steps - done - size if stack.reverse else done
        remaining = None if lengths is None else xp.clip(lengths - start, 0, size)
        source = x[start : start + size]
        some = None if restarts is None else restarts.part(slice(start, start + size))
        for k, layer in enumerate(layers):
            target = y[start : start + size] if k == len(layers) - 1 else between[k % 2][:size]
            for d, direction in enumerate(layer):
                part = target[:, :, d * hidden : (d + 1) * hidden]
                more = () if some is None else (some.at(k, d),)
                forward(direction, source, h[k * directions + d], part, remaining, stack.reverse or d == 1, how, *more)
            source = target
