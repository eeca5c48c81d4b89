"""The packed engine's door: rows in order of length, then `src/packed.pyx`. float32 inference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgru import _packed
from cgru.model import sparsity
from cgru.model.precision import Matrix

if TYPE_CHECKING:
    from cgru.engines.restarts import Restarts
    from cgru.model.layer import Layer, Stack
    from cgru.types import Array


SPARSE = {"float32": "sparse float32", "int8": "sparse int8"}
"""The storage of sparse weights, by precision."""


def storage(stack: Stack, layer: Layer) -> str:
    """How the kernels hold the weights of a direction of a layer."""
    if stack.compute == "bfloat16":
        return "bfloat16 products"
    sparse = SPARSE.get(stack.precision)
    return sparse if sparse and _is_sparse(layer) else stack.precision


def _is_sparse(layer: Layer) -> bool:
    """Whether skipping blocks pays: of both matrices together."""
    matrices = [m.numbers if isinstance(m, Matrix) else m for m in (layer.w_ih, layer.w_hh)]
    sizes = [m.size for m in matrices]
    if sum(map(np.count_nonzero, matrices)) >= sparsity.SKIPS_BELOW * sum(sizes):
        return False
    shares = [sparsity.share(m, layer.hidden_size, sparsity.BLOCK) for m in matrices]
    return float(np.dot(shares, sizes)) < sparsity.SKIPS_BELOW * sum(sizes)


def prepare(stack: Stack) -> _packed.Stack:
    """The layers' packed weights, made once."""
    packed: _packed.Stack | None = stack.prepared.get("packed")
    if packed is None:
        weights = [
            _packed.Weights(direction, storage(stack, direction)) for layer in stack.layers for direction in layer
        ]
        packed = stack.prepared["packed"] = _packed.Stack(weights, len(stack.layers[0]), stack.reverse)
    return packed


def call(stack: Stack, x: object, h0: object, batch_first: bool, threads: int) -> tuple[Array, Array] | None:
    """Run a stack on arguments of the usual form, checked where they are used; see `cgru.engines.host.Kernels`."""
    return prepare(stack).call(x, h0, batch_first, threads)


def run(
    stack: Stack, x: Array, h: Array, y: Array, lengths: Array | None, threads: int, restarts: Restarts | None = None
) -> None:
    """Run a stack of layers; see `cgru.engines.host.Kernels`."""
    packed = prepare(stack)
    order = None if lengths is None else np.argsort(-lengths, kind="stable")
    state = h if order is None else np.take(h, order, axis=1)
    lasting = None if lengths is None else lengths[order]
    fresh, start = (None, None) if restarts is None else restarts.ordered(order)
    packed.run(x, state, y, order, lasting, fresh, start, threads)
    if order is not None:
        h[:, order] = state
