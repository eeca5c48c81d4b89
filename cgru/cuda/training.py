"""Training on a GPU: a call recorded, and its gradients; `gru.record` of a model there, and its tape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru._exclusive import Exclusive, alone
from cgru.engines.cuda import backward, forward, intake
from cgru.parameters import _generator
from cgru.training import Gradients

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cgru.cuda import GRU
    from cgru.engines.cuda.backward import Gradient
    from cgru.engines.cuda.forward import Record
    from cgru.layer import Layer
    from cgru.types import Array


def record(gru: GRU, x: Any, h0: Any, *, lengths: Any, rng: object, engine: str) -> tuple[Array, Array, Tape]:
    """`gru.record(x, h0, ...)`, which documents the arguments."""
    if gru.precision != "float32":
        raise RuntimeError(
            f"record: this model's weights are stored as {gru.precision}, for inference only; train the float32 model "
            "and quantize that"
        )
    device, xp = gru._device, gru._device.xp
    generator = _generator(rng)
    with device.use():
        x, h0, single, x_steps, last = gru._inputs(x, h0, lengths)
        y = xp.empty((*x.shape[:-1], gru._width), gru.dtype)
        h_n = gru._initial(h0, x_steps.shape[1])
        tape = Tape(gru, x.shape, y.shape, h_n.shape, last)
        if x_steps.size:
            forward.ready(device, gru._stack)
            tape._run(x_steps, h_n, gru._time_first(y), generator, engine)
        return y, h_n[:, 0] if single else h_n, tape


class Tape(Exclusive):
    """What a recorded call leaves on the device for its way back, which can be gone once; `gru.record` makes it."""

    _kind = "tape"

    def __init__(
        self,
        gru: GRU,
        x_shape: tuple[int, ...],
        y_shape: tuple[int, ...],
        h_shape: tuple[int, ...],
        lengths: Array | None,
    ) -> None:
        self._gru, self._stack = gru, gru._stack
        self._x_shape, self._y_shape, self._h_shape, self._lengths = x_shape, y_shape, h_shape, lengths
        self._records: list[list[Record]] | None = []  # of each layer, of each direction; none if there was no step
        self._factors: list[Array] = []  # of each layer but the last: what its outputs were multiplied by

    def _directions(self, k: int) -> Iterator[tuple[int, Layer, int, bool, slice]]:
        """Of each direction of a layer: its number, layer, place among the states, order, and part of the output."""
        hidden, added = self._gru.hidden_size, self._gru.merge == "sum"
        group = self._stack.layers[k]
        for d, layer in enumerate(group):
            part = slice(0, hidden) if added else slice(d * hidden, (d + 1) * hidden)
            yield d, layer, k * len(group) + d, self._stack.reverse or d == 1, part

    def _run(self, x: Array, h: Array, y: Array, generator: np.random.Generator, engine: str) -> None:
        """Run x (T, B, I) through the layers, from the states h (L*D, B, H) to y (T, B, D*H)."""
        gru, xp = self._gru, self._gru._device.xp
        steps, batch, _ = x.shape
        if self._lengths is None:
            x = xp.array(x, order="C")
        else:  # what stands past a sequence's length, NaN perhaps, has no part in the weights' gradients
            runs = xp.arange(steps)[:, None] < self._lengths
            x = xp.where(runs[:, :, None], x, x.dtype.type(0))
        records: list[list[Record]] = []
        layers = len(self._stack.layers)
        for k in range(layers):
            output = y if k == layers - 1 else xp.empty((steps, batch, h.shape[0] // layers * gru.hidden_size), x.dtype)
            records.append([])
            for d, layer, row, reverse, part in self._directions(k):
                passed = forward.direction(
                    layer.prepared["cuda"], x, h[row], output[:, :, part], self._lengths,
                    reverse, engine, accumulate=d == 1 and gru.merge == "sum", recording=True,
                )  # fmt: skip
                assert passed is not None
                records[-1].append(passed)
            x = output
            if gru.dropout and k < layers - 1:
                device_generator = xp.random.default_rng(int(generator.integers(2**63)))
                kept = device_generator.random(x.shape, np.float32) >= np.float32(gru.dropout)
                self._factors.append(kept * x.dtype.type(1 / (1 - gru.dropout)))
                x = x * self._factors[-1]
        self._records = records

    @alone
    def backward(self, grad_y: Any = None, grad_h_n: Any = None) -> Gradients:
        """A loss' gradients by everything the call took, from those by what it gave; arrays on the device.

        Parameters
        ----------
        grad_y : of y's shape, optional
            The loss' gradient by y; absent, y does not enter the loss. Past a sequence's length it is not read.
        grad_h_n : of h_n's shape, optional
            The same by h_n.

        Raises
        ------
        TypeError, ValueError
            A gradient does not fit, or there is none; the tape is as it was.
        RuntimeError
            The tape has been used, another thread is using it, or the model has got other weights since.
        """
        gru, device = self._gru, self._gru._device
        if self._records is None:
            raise RuntimeError("tape: backward has been called before and has used it up; record again")
        if gru._stack is not self._stack:
            raise RuntimeError("tape: the model's weights have been replaced since the call was recorded; record again")
        if grad_y is None and grad_h_n is None:
            raise ValueError("grad_y: expected an array for it or for grad_h_n, got None for both")
        single = len(self._x_shape) == 2
        with device.use():
            grad: Array | None = None
            if grad_y is not None:
                grad = gru._time_first(intake.array(device, "grad_y", grad_y, gru.dtype, self._y_shape))
            if grad_h_n is not None:
                expected = self._h_shape[::2] if single else self._h_shape
                grad_h_n = intake.array(device, "grad_h_n", grad_h_n, gru.dtype, expected)
            records, self._records = self._records, None
            grad_h = gru._initial(grad_h_n, self._h_shape[1])
            by_x, parameters = self._back(records, grad, grad_h)
            return Gradients(by_x, grad_h[:, 0] if single else grad_h, parameters)

    def _back(self, records: list[list[Record]], grad: Array | None, grad_h: Array) -> tuple[Array, dict[str, Array]]:
        """The gradients by x and the parameters; `grad_h` becomes that by h0."""
        gru, device = self._gru, self._gru._device
        xp = device.xp
        parameters = {name: xp.zeros(shape, gru.dtype) for name, shape in gru._shapes().items()}
        by_x = xp.zeros(self._x_shape, gru.dtype)
        for k in reversed(range(len(records))):
            suffixes = gru._suffixes()[k][0]
            below: Array | None = None
            for d, layer, row, reverse, part in self._directions(k):
                by_output = None if grad is None else grad[:, :, part]
                found = backward.direction(
                    layer.prepared["cuda"], records[k][d], by_output, grad_h[row], self._lengths, reverse
                )
                below = found.x if below is None else below + found.x
                self._keep(parameters, suffixes[d], layer, found)
            records.pop()
            grad = below * self._factors[k - 1] if k and gru.dropout else below
            if k == 0:
                gru._time_first(by_x)[...] = grad
        return by_x, parameters

    def _keep(self, parameters: dict[str, Array], suffix: str, layer: Layer, found: Gradient) -> None:
        """A canonical layer's gradients as those by the parameters that it was made of (cgru/layer.py)."""
        hidden = self._gru.hidden_size
        negated = self._gru.update_gate == "candidate" and not layer.flip  # the update gate's rows were
        names = {"weight_ih": found.w_ih, "weight_hh": found.w_hh, "bias_ih": found.b_ih, "bias_hh": found.b_hh}
        for name, gradient in names.items():
            if negated:
                gradient[hidden : 2 * hidden] *= -1
            if name + suffix in parameters:
                parameters[name + suffix] = gradient
