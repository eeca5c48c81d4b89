"""Forward on a device: a stack of canonical layers, for inference or recorded for the way back.

One function serves every array module: `device.xp` is CuPy, or NumPy in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.engines import layers
from cgru.engines.cuda import plan
from cgru.engines.cuda.arguments import FORWARD, Arguments
from cgru.model.precision import Matrix

if TYPE_CHECKING:
    from cgru.engines.cuda.device import Device
    from cgru.model.layer import Layer, Stack
    from cgru.types import Array

PRODUCT_BYTES = 1 << 26
"""Long sequences run in chunks whose input products take about so much memory."""

BLOCK_BYTES = 1 << 26
"""Stacks run through time in blocks whose states between layers take about so much memory."""

STORED = {"float32": "Real", "float16": "Half", "bfloat16": "Bfloat"}
"""What the kernels call a model's precision."""


class Weights:
    """A layer on a device. Weights of 16 bits lie there in half the bytes, and are widened where a product needs it.

    The layer's own arrays may be NumPy's: of a model of 16 bits they stay on the host.
    """

    def __init__(self, device: Device, layer: Layer, precision: str) -> None:
        self.device, self.layer, self.precision = device, layer, precision
        self.real, self.stored = layer.bias.dtype, STORED[precision]
        weights = [w.numbers if isinstance(w, Matrix) else w for w in (layer.w_ih, layer.w_hh)]
        self.w, self.u, self.bias = map(device.xp.asarray, (*weights, layer.bias))
        self.transposed: Array | None = None
        """(K, 3H), as stored: what the fused kernels read, where there is one."""
        hidden = layer.hidden_size
        if hidden <= plan.MAX_FUSED:
            self.transposed = device.xp.zeros((plan.depth(hidden), 3 * hidden), self.u.dtype)
            self.transposed[:hidden] = self.u.T

    def _widen(self, weights: Array) -> Array:
        if self.precision == "float32":
            return weights
        if self.precision == "float16":
            return weights.astype(np.float32)
        return (weights.astype(np.uint32) << np.uint32(16)).view(np.float32)

    @property
    def w_ih(self) -> Array:
        """(3H, I), of the dtype that is computed in."""
        return self._widen(self.w)

    @property
    def w_hh(self) -> Array:
        """(3H, H), of the dtype that is computed in."""
        return self._widen(self.u)

    def kernel(self, name: str) -> Any:
        """A kernel for this layer's types."""
        return self.device.kernel(name, self.real, self.stored)


@dataclass
class Record:
    """What one direction of one layer leaves for the way back; T, B and H as in the kernels."""

    x: Array  # (T, B, I)
    arguments: Array  # (T, B, 3H) of the three functions
    states: Array  # (T, B, H) before every step
    kept: Array  # (T, B, H): U_n h + c_n, or r * h with the reset gate before the product


def prepare(device: Device, stack: Stack) -> None:
    """Make of all layers' weights, on the current stream, what the kernels need."""
    for group in stack.layers:
        for layer in group:
            layer.prepared["cuda"] = Weights(device, layer, stack.precision)
    stack.prepared["cuda"] = device.mark()


def ready(device: Device, stack: Stack) -> None:
    """Have the current stream wait for the weights, which another stream may have brought."""
    device.wait(stack.prepared["cuda"])


def run(
    device: Device,
    stack: Stack,
    x: Array,  # (T, B, I), T and B at least 1, any strides
    h: Array,  # (L*D, B, H) contiguous; initial states on entry, last states on return
    y: Array,  # (T, B, D*H), any strides; written
    lengths: Array | None,  # (B,) int64 on the device
    engine: str,
) -> None:
    """Run a stack of layers, for inference."""
    ready(device, stack)

    def forward(layer: Layer, x: Array, h: Array, y: Array, lengths: Array | None, reverse: bool, engine: str) -> None:
        direction(layer.prepared["cuda"], x, h, y, lengths, reverse, engine)

    layers.layer_by_layer(forward, stack, x, h, y, lengths, engine, device.xp, BLOCK_BYTES)


def direction(
    weights: Weights,
    x: Array,  # (T, B, I)
    h: Array,  # (B, H) contiguous; changed
    y: Array,  # (T, B, H), any strides; written
    lengths: Array | None,
    reverse: bool,
    engine: str,
    *,
    recording: bool = False,
) -> Record | None:
    """Run one direction of one layer; while recording, give back what the way back needs."""
    device, layer, xp = weights.device, weights.layer, weights.device.xp
    steps, batch, _ = x.shape
    hidden = layer.hidden_size
    sizes = weights.real.itemsize, weights.u.dtype.itemsize
    launch = plan.choose(engine, device, hidden, batch, *sizes, layer.cell == "gru_after")
    arguments = Arguments(device, FORWARD, layer, batch)
    arguments.set(reverse=reverse)
    arguments.arrays(bias=weights.bias, state=h)
    loop = _Fused(weights, launch, arguments) if launch else _Steps(weights, h, arguments)

    w_ih = weights.w_ih
    chunk = steps if recording else min(steps, max(1, PRODUCT_BYTES // (batch * 3 * hidden * weights.real.itemsize)))
    record = None
    for done in range(0, steps, chunk):
        size = min(chunk, steps - done)
        start = steps - done - size if reverse else done
        part = x[start : start + size]
        product = _input_product(xp, part, w_ih)
        arguments.strided("input", product, "input", "step row")
        arguments.strided("output", y[start : start + size], "output", "step row unit")
        if lengths is not None:
            arguments.arrays(lengths=lengths if chunk == steps else xp.clip(lengths - start, 0, size))
        if recording:
            states, kept = (xp.empty((size, batch, hidden), weights.real) for _ in range(2))
            arguments.arrays(states=states, kept=kept)
            record = Record(x, product, states, kept)
        loop(size, reverse)
    return record


def _input_product(xp: Any, x: Array, w_ih: Array) -> Array:
    """W x of all steps, (T, B, 3H): laid out by steps, or by sequences where x is, so that x need not be copied."""
    steps, batch, inputs = x.shape
    by_sequence = not x.flags.c_contiguous and x.swapaxes(0, 1).flags.c_contiguous
    rows = (x.swapaxes(0, 1) if by_sequence else x).reshape(steps * batch, inputs)
    product = xp.empty((steps * batch, len(w_ih)), w_ih.dtype)
    xp.matmul(rows, w_ih.T, out=product)
    return product.reshape(batch, steps, -1).swapaxes(0, 1) if by_sequence else product.reshape(steps, batch, -1)


class _Fused:
    """All steps in one launch."""

    def __init__(self, weights: Weights, launch: plan.Fused, arguments: Arguments) -> None:
        self.launch, self.arguments = launch, arguments
        self.kernel = weights.kernel(launch.name)
        arguments.arrays(weights=weights.transposed)

    def __call__(self, steps: int, reverse: bool) -> None:
        self.arguments.set(steps=steps)
        launch = self.launch
        self.kernel(launch.grid, launch.block, (self.arguments.structure,), shared_mem=launch.shared_memory)


class _Steps:
    """A product and a kernel at every step; with the reset gate before the product, two of each."""

    def __init__(self, weights: Weights, h: Array, arguments: Arguments) -> None:
        self.xp, self.state, self.arguments = weights.device.xp, h, arguments
        batch, hidden = h.shape
        self.shape = plan.elementwise(batch, hidden)
        u = weights.w_hh

        def empty(width: int) -> Array:
            array: Array = self.xp.empty((batch, width), h.dtype)
            return array

        self.reset_after = weights.layer.cell == "gru_after"
        if self.reset_after:
            self.u, self.product = u.T, empty(3 * hidden)
            self.kernel = weights.kernel("step_after")
            arguments.arrays(product=self.product)
        else:
            self.u, self.product = u[: 2 * hidden].T, empty(2 * hidden)
            self.u_n, self.candidate = u[2 * hidden :].T, empty(hidden)
            self.reset_state = empty(hidden)
            self.gates, self.kernel = weights.kernel("step_before_gates"), weights.kernel("step_before_state")
            arguments.arrays(product=self.product, candidate=self.candidate)
            arguments.arrays(reset_state=self.reset_state, update=empty(hidden))

    def __call__(self, steps: int, reverse: bool) -> None:
        structure = self.arguments.structure
        for step in reversed(range(steps)) if reverse else range(steps):
            structure["step"] = step
            self.xp.matmul(self.state, self.u, out=self.product)
            if not self.reset_after:
                self.gates(*self.shape, (structure,))
                self.xp.matmul(self.reset_state, self.u_n, out=self.candidate)
            self.kernel(*self.shape, (structure,))
