"""Recording a call for training, and gradients by backpropagation through time: `gru.record` and its tape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from cgru import checks, config
from cgru.engines.training import Gradient, Pass
from cgru.parameters import _generator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cgru.gru import GRU
    from cgru.types import Array, Lengths


def record(
    gru: GRU,
    x: object,
    h0: object,
    *,
    lengths: object,
    rng: object,
    memory: int | None,
    num_threads: int | None,
    drop: bool = True,
    own: bool = False,
) -> tuple[Array, Array, Tape]:
    """`gru.record(x, h0, ...)`, which documents the arguments.

    Without `drop` nothing is dropped between layers. With `own` the caller sees to it that x and y stay as they are
    until the way back: x is not copied, y is writeable.
    """
    if gru.precision != "float32":
        raise RuntimeError(
            f"record: this model's weights are stored as {gru.precision}, for inference only; train the float32 model "
            "and quantize that"
        )
    threads = config.threads_for(num_threads)
    if memory is not None:
        memory = checks.integer("memory", memory, 0, 2**63 - 1)
    generator = _generator(rng)
    x, h, last = gru._arguments(x, h0, lengths)
    tape = Tape(gru, x.ndim == 2, gru.dropout if drop else 0.0)
    y = np.empty((*x.shape[:-1], gru.hidden_size * (2 if gru.bidirectional else 1)), gru.dtype)
    x_steps = tape.time_first(x)
    if not own or (x.size and x_steps.strides[-1] != x.itemsize):
        x_steps = np.array(x_steps, order="C")
    tape._run(x_steps, h, tape.time_first(y), last, generator, memory, threads)
    if gru.merge == "sum":
        y = y[..., : gru.hidden_size] + y[..., gru.hidden_size :]
    elif not own:
        y.flags.writeable = False
    tape._shapes = (y.shape, x.shape)
    return y, h[:, 0] if x.ndim == 2 else h, tape


class Gradients(Mapping[str, "Array"]):
    """A loss' gradients: `x` and `h0`, shaped as in the call, and each parameter's by its name, as a mapping."""

    def __init__(self, x: Array, h0: Array, parameters: dict[str, Array]) -> None:
        self.x, self.h0, self._parameters = x, h0, parameters

    def __getitem__(self, name: str) -> Array:
        return self._parameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)

    def __repr__(self) -> str:
        return f"<Gradients by x, h0, {', '.join(self)}>"


class Tape:
    """What a recorded call leaves for its way back, which can be gone once; `gru.record` makes it."""

    def __init__(self, gru: GRU, single: bool, dropout: float) -> None:
        self._gru, self._stack, self._single, self._dropout = gru, gru._stack, single, dropout
        self._shapes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())  # of y and x, as given
        self._passes: list[list[Pass]] | None = []  # of each layer, of each direction; none if there was nothing to do
        self._masks: list[Array] = []  # of each layer but the last: which of its outputs went on to the next

    def time_first(self, array: Array) -> Array:
        """A view (T, B, ...) of x, y or their gradients."""
        return array[:, None] if self._single else array.swapaxes(0, 1) if self._gru.batch_first else array

    def _run(
        self,
        x: Array,  # (T, B, I), features contiguous
        h: Array,  # (L*D, B, H); h0 on entry, h_n on return
        y: Array,  # (T, B, D*H), both directions side by side, units contiguous; written
        lengths: Lengths | None,
        generator: np.random.Generator,
        memory: int | None,
        threads: int,
    ) -> None:
        steps, batch, _ = x.shape
        if steps == 0 or batch == 0:
            return
        passes: list[list[Pass]] = []
        gru, layers = self._gru, self._stack.layers
        hidden, directions = gru.hidden_size, len(layers[0])
        step_bytes = 4 * batch * hidden * x.itemsize
        chunk = steps
        if memory is not None and memory < steps * step_bytes * len(h):
            chunk = min(steps, max(1, memory // step_bytes))
        for k, layer in enumerate(layers):
            last = k == len(layers) - 1
            output = y if last else np.empty((steps, batch, directions * hidden), x.dtype)
            passes.append([])
            for d, direction in enumerate(layer):
                part, row = output[:, :, d * hidden : (d + 1) * hidden], k * directions + d
                backwards = self._stack.reverse or d == 1
                passed = Pass(direction, x, h[row].copy(), part, lengths, backwards, threads, chunk)
                h[row] = passed.h_n
                passes[-1].append(passed)
            x = output
            if self._dropout and not last:
                self._masks.append(generator.random(output.shape, np.float32) >= self._dropout)
                x = self._dropped(output.copy(), k)
        self._passes = passes

    def _dropped(self, values: Array, layer: int) -> Array:
        """Values (T, B, D*H) after a layer's dropout, in place: some zero, the others larger to make up for it."""
        values *= self._masks[layer]
        values *= values.dtype.type(1 / (1 - self._dropout))
        return values

    def backward(self, grad_y: Array | None = None, grad_h_n: Array | None = None) -> Gradients:
        """A loss' gradients by everything the call took, from those by what it gave.

        Parameters
        ----------
        grad_y : array of y's shape, optional
            The loss' gradient by y; absent, y does not enter the loss. Past a sequence's length y is constant, and
            what stands here is not read.
        grad_h_n : array of h_n's shape, optional
            The same by h_n.

        Returns
        -------
        Gradients
            `.x` and `.h0` of those arguments' shapes, and by parameter `["weight_ih_l0"]`, ...: new arrays of the
            model's dtype. The same to the last bit in every run on as many threads.

        Raises
        ------
        TypeError, ValueError
            A gradient does not fit, or there is none; the tape is as it was.
        RuntimeError
            The tape has been used, or the model has got other weights since.

        Examples
        --------
        >>> import numpy as np, cgru
        >>> gru = cgru.GRU(3, 8, rng=0)
        >>> y, h_n, tape = gru.record(np.ones((5, 4, 3), np.float32))
        >>> grads = tape.backward(2 * y)                 # of the loss (y ** 2).sum()
        >>> grads.x.shape, grads.h0.shape, grads["weight_ih_l0"].shape
        ((5, 4, 3), (1, 4, 8), (24, 3))
        """
        return self._backward(grad_y, grad_h_n)

    def _backward(
        self, grad_y: Array | None, grad_h_n: Array | None, by_x: bool = True, again: bool = False
    ) -> Gradients:
        """As `backward`; not `by_x`, that gradient is left unwritten; `again` leaves the tape good for another time."""
        gru, stack = self._gru, self._stack
        if self._passes is None:
            raise RuntimeError("tape: backward has been called before and has used it up; record again")
        if gru._stack is not stack:
            raise RuntimeError("tape: the model's weights have been replaced since the call was recorded; record again")
        if grad_y is None and grad_h_n is None:
            raise ValueError("grad_y: expected an array for it or for grad_h_n, got None for both")
        y_shape, x_shape = self._shapes
        batch = 1 if self._single else x_shape[0 if gru.batch_first else 1]
        directions, hidden = len(stack.layers[0]), gru.hidden_size
        h_shape = (len(stack.layers) * directions, batch, hidden)
        grad: Array | None = None
        if grad_y is not None:
            grad = self.time_first(checks.array("grad_y", grad_y, gru.dtype, y_shape))
            if grad.strides[-1] != grad.itemsize:
                grad = np.ascontiguousarray(grad)
        grad_h = np.zeros(h_shape, gru.dtype)
        if grad_h_n is not None:
            expected = h_shape[::2] if self._single else h_shape
            grad_h[...] = checks.array("grad_h_n", grad_h_n, gru.dtype, expected).reshape(h_shape)

        passes = self._passes
        if not again:
            self._passes = None
        try:
            return self._through(passes, grad, grad_h, by_x)
        except BaseException:  # an interrupt, or no memory: what a pass has used up it can compute again
            self._passes = passes
            raise

    def _through(self, passes: list[list[Pass]], grad: Array | None, grad_h: Array, by_x: bool) -> Gradients:
        """The gradients by way of all passes, from those by y (T, B, D*H) and h_n (L*D, B, H), which is written to."""
        gru, stack = self._gru, self._stack
        (_, x_shape), hidden, directions = self._shapes, gru.hidden_size, len(stack.layers[0])
        found = [[Gradient.zero(direction) for direction in layer] for layer in stack.layers]
        grad_x = np.empty(x_shape, gru.dtype)
        for k in reversed(range(len(passes))):
            by_input = self.time_first(grad_x)
            if k:
                by_input = np.empty((*by_input.shape[:2], directions * hidden), gru.dtype)
            for d, passed in enumerate(passes[k]):
                part = None
                if grad is not None:
                    part = grad if gru.merge == "sum" else grad[:, :, d * hidden : (d + 1) * hidden]
                row = k * directions + d
                passed.backward(part, grad_h[row], by_input if k or by_x else None, d > 0, found[k][d])
            grad = self._dropped(by_input, k - 1) if k and self._dropout else by_input
        return Gradients(grad_x, grad_h[:, 0] if self._single else grad_h, self._by_parameters(found))

    def _by_parameters(self, found: list[list[Gradient]]) -> dict[str, Array]:
        """The gradients by the parameters, which the canonical layers were made of (cgru/layer.py)."""
        gru = self._gru
        hidden = gru.hidden_size
        by_name = {}
        for (suffixes, _), layer, gradients in zip(gru._suffixes(), self._stack.layers, found, strict=True):
            for suffix, direction, (w_ih, w_hh, bias) in zip(suffixes, layer, gradients, strict=True):
                product, r, z, n = bias
                if gru.update_gate == "candidate" and not direction.flip:  # the update gate's rows were negated
                    for by_update in (w_ih[hidden : 2 * hidden], w_hh[hidden : 2 * hidden], z):
                        np.negative(by_update, out=by_update)
                by_name["weight_ih" + suffix], by_name["weight_hh" + suffix] = w_ih, w_hh
                if gru.bias:
                    by_name["bias_ih" + suffix] = np.concatenate([r, z, n])
                    by_name["bias_hh" + suffix] = np.concatenate([r, z, product if gru.reset_after else n])
        return by_name
