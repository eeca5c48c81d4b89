"""The one door to compiled code: choose an engine, and run a stack of canonical layers through it.

An engine is a module with `run(stack, x, h, y, lengths, threads)`; it is imported when first used. The packed engine
runs a stack in compiled code; for an engine of single layers there is `layer_by_layer`. Training has kernels of its own
for both dtypes, in `cgru.engines.training`, which nothing chooses.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from cgru import checks

if TYPE_CHECKING:
    from collections.abc import Callable

    from cgru.model.layer import Stack
    from cgru.types import Array

ENGINES = ("packed", "blas")

BLOCK_BYTES = 1 << 20
"""Stacks run through time in blocks whose states between layers take about so much memory."""


class Engine(Protocol):
    """What an engine's module offers."""

    def call(self, stack: Stack, x: object, h0: object, batch_first: bool, threads: int) -> tuple[Array, Array] | None:
        """y and h_n for arguments of the usual form, by a short way if there is one; None where they need a look."""

    def run(
        self,
        stack: Stack,
        x: Array,  # (T, B, I), T and B at least 1, any strides
        h: Array,  # (L*D, B, H) contiguous; initial states on entry, last states on return
        y: Array,  # (T, B, D*H), units contiguous; written
        lengths: Array | None,  # (B,)
        threads: int,
    ) -> None:
        """Run a stack of layers; memory beyond x and y does not grow with T, unless a deep stack is bidirectional."""


def choose(name: str, dtype: np.dtype[Any]) -> Engine:
    """The engine of a call's `engine` argument: the packed one for float32 unless said otherwise, else BLAS."""
    engine = _chosen.get((name, dtype))
    if engine is None:
        checks.choice("engine", name, ("auto", *ENGINES))
        chosen = name if name != "auto" else "packed" if dtype == np.float32 else "blas"
        if chosen == "packed" and dtype != np.float32:
            raise ValueError(f"engine: 'packed' computes in float32, got a model of {dtype}; choose 'auto' or 'blas'")
        engine = _chosen[name, dtype] = cast(Engine, import_module(f"cgru.engines.{chosen}"))
    return engine


_chosen: dict[tuple[str, np.dtype[Any]], Engine] = {}


def run(engine: Engine, stack: Stack, x: Array, h: Array, y: Array, lengths: Array | None, threads: int) -> None:
    """Run a stack of layers, of which T and B may be 0; arguments as in `Engine.run`."""
    if x.shape[0] and x.shape[1]:
        engine.run(stack, x, h, y, lengths, threads)


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
) -> None:
    """Run a stack by a function of one direction of one layer: forward(layer, x, h, y, lengths, reverse, how).

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
        for k, layer in enumerate(layers):
            target = y[start : start + size] if k == len(layers) - 1 else between[k % 2][:size]
            for d, direction in enumerate(layer):
                part = target[:, :, d * hidden : (d + 1) * hidden]
                forward(direction, source, h[k * directions + d], part, remaining, stack.reverse or d == 1, how)
            source = target
