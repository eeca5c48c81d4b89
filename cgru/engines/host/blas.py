"""The BLAS engine's door: rows in order of length, then `src/blas.pyx`. For float32 and float64, any machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgru import _blas
from cgru.engines import layers

if TYPE_CHECKING:
    from cgru.engines.restarts import OfDirection, Restarts
    from cgru.model.layer import Layer, Stack
    from cgru.types import Array

PARALLEL_UNITS = 1 << 21
"""Units in a step (rows times H) from which its elementwise loops run in parallel.

OpenMP's waiting threads and those of a threaded BLAS fight for the cores: alternating them costs a scheduler's time
slice, some 10 ms a step on two cores (benchmarks/blas_threads.py), which only loops of that length repay.
"""


FORWARD = {np.dtype(np.float32): _blas.forward["float"], np.dtype(np.float64): _blas.forward["double"]}
"""The compiled loop by dtype; chosen here, since Cython takes microseconds to do it from the arguments."""


def call(stack: Stack, x: object, h0: object, batch_first: bool, threads: int) -> tuple[Array, Array] | None:
    """There is no short way; see `cgru.engines.host.Kernels`."""
    return None


def run(
    stack: Stack, x: Array, h: Array, y: Array, lengths: Array | None, threads: int, restarts: Restarts | None = None
) -> None:
    """Run a stack of layers; see `cgru.engines.host.Kernels`."""
    if stack.precision == "int8" or stack.compute != "float32":
        kind = stack.precision if stack.precision == "int8" else f"compute={stack.compute!r}"
        raise ValueError(f"engine: 'blas' computes with float32, got a model of {kind}; choose 'auto' or 'packed'")
    layers.layer_by_layer(forward, stack, x, h, y, lengths, threads, restarts=restarts)


def forward(
    layer: Layer,
    x: Array,
    h: Array,
    y: Array,
    lengths: Array | None,
    reverse: bool,
    threads: int,
    restarts: OfDirection | None = None,
) -> None:
    """Run one direction of one layer.

    Sequences that still run stand together at the head of the state, longest first, so that every product of a step is
    one product of just those. The state is worked on as (H, B).
    """
    loop = FORWARD[x.dtype]
    kind = "blas single" if x.shape[1] == 1 else "blas"
    weights = layer.prepared.get(kind)
    if weights is None:
        weights = layer.prepared[kind] = _blas.Weights(layer, x.shape[1] == 1)
    order = None if lengths is None else np.argsort(-lengths, kind="stable")
    fresh, start = (None, None) if restarts is None else restarts.ordered(order)
    state = np.ascontiguousarray(h.T if order is None else h[order].T)  # h itself if B is 1
    lasting = None if lengths is None else lengths[order]
    loop(weights, x, state, y, order, lasting, fresh, start, reverse, threads, PARALLEL_UNITS)
    if order is not None:
        h[order] = state.T
    elif len(h) > 1:
        h[...] = state.T
