"""Recording a call for training, and gradients by backpropagation through time: `gru.record` and its tape.

Written for any engine: layers, directions, dropout and the way back through them are here; a direction of a layer is
the engine's (`Engine.record`, `Pass.backward`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from cgru import checks
from cgru._exclusive import Exclusive, alone
from cgru.model import sparsity
from cgru.run import arguments

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from cgru.engines.interface import Engine, How, Pass
    from cgru.engines.restarts import Restarts
    from cgru.model.layer import Gradient
    from cgru.model.value import Value
    from cgru.parameters import Model
    from cgru.types import Array, Lengths


def record(
    model: Model,
    x: Any,
    h0: Any = None,
    *,
    lengths: Any = None,
    resets: Any = None,
    resets_to: str = "zero",
    rng: object = None,
    memory: int | None = None,
    engine: str = "auto",
    num_threads: int | None = None,
    drop: bool = True,
    own: bool = False,
    earlier: tuple[Array, Sequence[Array]] | None = None,
) -> tuple[Array, Array, Tape]:
    """`gru.record(x, h0, ...)`, which documents the arguments.

    Without `drop` nothing is dropped between layers. With `own` the caller sees to it that x and y stay as they are
    until the way back: x is not copied, y is writeable. With `earlier`, y and `Tape.kept()` of the same call, nothing
    runs and h_n is not computed: that gives its tape once more. The way back uses those gates up.
    """
    value, device = model.value, model.engine
    spec = value.spec
    if value.precision != "float32":
        raise RuntimeError(
            f"record: this model's weights are stored as {value.precision}, for inference only; train the float32 "
            "model and quantize that"
        )
    device.refuse(memory=memory)
    how = device.how_to_record(spec.dtype, engine, num_threads)
    if memory is not None:
        memory = checks.integer("memory", memory, 0, 2**63 - 1)
    generator = checks.generator(rng)
    with device.use():
        x, h, last = arguments.of_call(spec, device, x, h0, lengths)
        restarts = arguments.restarts(spec, device, resets, resets_to, x, h, last)
        wide = (*x.shape[:-1], spec.directions * spec.hidden_size)
        y, kept = (device.xp.empty(wide, spec.dtype), None) if earlier is None else earlier
        x_steps = arguments.time_first(spec, x)
        if not own or (x.size and x_steps.strides[-1] != x.itemsize):
            x_steps = device.keep(x_steps, last)
        tape = Tape(model, spec.dropout if drop else 0.0, x.shape)
        tape._run(
            x_steps, h, arguments.time_first(spec, y), last, generator, memory, how, kept, restarts, resets_to == "h0"
        )
        if spec.merge == "sum":
            y = y[..., : spec.hidden_size] + y[..., spec.hidden_size :]
        elif not own and hasattr(y.flags, "writeable"):  # CuPy's arrays cannot be locked
            y.flags.writeable = False
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


class Tape(Exclusive):
    """What a recorded call leaves for its way back, which can be gone once; `gru.record` makes it."""

    _kind = "tape"

    def __init__(self, model: Model, dropout: float, x_shape: tuple[int, ...]) -> None:
        self._model, self._dropout, self._x_shape = model, dropout, x_shape
        self._value: Value = model.value
        self._passes: list[list[Pass]] | None = []  # of each layer, of each direction; none if there was nothing to do
        self._between: list[Array] = []  # of each layer but the last: its outputs (T, B, D*H)
        self._masks: list[Array] = []  # of each layer but the last: which of its outputs went on to the next

    @property
    def _engine(self) -> Engine:
        return self._model.engine

    def _run(
        self,
        x: Array,  # (T, B, I), features contiguous
        h: Array,  # (L*D, B, H); h0 on entry, h_n on return
        y: Array,  # (T, B, D*H), both directions side by side; written
        lengths: Lengths | None,
        generator: np.random.Generator,
        memory: int | None,
        how: How,
        kept: Sequence[Array] | None,  # of an earlier run, which then is not repeated
        restarts: Restarts | None,
        by_start: bool,
    ) -> None:
        steps, batch, _ = x.shape
        if steps == 0 or batch == 0:
            return
        passes: list[list[Pass]] = []
        self._engine.ready(self._value.stack)
        device, layers, reverse = self._engine, self._value.stack.layers, self._value.stack.reverse
        hidden, directions = h.shape[2], len(layers[0])
        step_bytes = self._value.spec.cell.KEPT * batch * hidden * x.itemsize
        chunk = steps
        if memory is not None and memory < steps * step_bytes * len(h):
            chunk = min(steps, max(1, memory // step_bytes))
        between, gates = (kept[: len(layers) - 1], iter(kept[len(layers) - 1 :])) if kept is not None else ((), None)
        for k, layer in enumerate(layers):
            last = k == len(layers) - 1
            output = y
            if not last:
                output = between[k] if between else device.xp.empty((steps, batch, directions * hidden), x.dtype)
                self._between.append(output)
            passes.append([])
            for d, direction in enumerate(layer):
                part = output[:, :, d * hidden : (d + 1) * hidden]
                state, ready = h[k * directions + d], None if gates is None else next(gates)
                again = None if restarts is None else restarts.at(k, d)
                passed = device.record(
                    direction, x, state, part, lengths, reverse or d == 1, how, chunk, ready, again, by_start
                )
                passes[-1].append(passed)
            x = output
            if self._dropout and not last:
                self._masks.append(device.dropout(generator, output.shape, self._dropout))
                x = self._dropped(output, k)
        self._passes = passes

    def kept(self) -> list[Array]:
        """What the way back needs beside the call's arguments and y: outputs between layers, then all gates.

        For a tape whose gates are all in memory, of an engine that gives them out.
        """
        passes = self._passes or []
        return [*self._between, *(cast("Array", passed.gates) for directions in passes for passed in directions)]

    def _dropped(self, values: Array, layer: int) -> Array:
        """Values (T, B, D*H) after a layer's dropout: some zero, the others larger to make up for it."""
        kept: Array = values * self._masks[layer]
        kept *= values.dtype.type(1 / (1 - self._dropout))
        return kept

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
            The tape has been used, another thread is using it, or the model has got other weights since.

        Examples
        --------
        >>> import numpy as np, cgru
        >>> gru = cgru.GRU(3, 8, rng=0)
        >>> y, h_n, tape = gru.record(np.ones((5, 4, 3), np.float32))
        >>> grads = tape.backward(2 * y)                 # of the loss (y ** 2).sum()
        >>> grads.x.shape, grads.h0.shape, grads["weight_ih_l0"].shape
        ((5, 4, 3), (1, 4, 8), (24, 3))
        """
        return self.run_back(grad_y, grad_h_n)

    @alone
    def run_back(self, grad_y: Array | None, grad_h_n: Array | None, by_x: bool = True) -> Gradients:
        """As `backward`; not `by_x`, that gradient is zero."""
        value, device = self._value, self._engine
        spec = value.spec
        passes = self._passes
        if passes is None:
            raise RuntimeError("tape: backward has been called before and has used it up; record again")
        if self._model.value is not value:
            raise RuntimeError("tape: the model's weights have been replaced since the call was recorded; record again")
        if grad_y is None and grad_h_n is None:
            raise ValueError("grad_y: expected an array for it or for grad_h_n, got None for both")
        single = len(self._x_shape) == 2
        batch = 1 if single else self._x_shape[0 if spec.batch_first else 1]
        with device.use():
            grad: Array | None = None
            if grad_y is not None:
                grad = device.array("grad_y", grad_y, spec.dtype, (*self._x_shape[:-1], spec.width))
                grad = arguments.time_first(spec, grad)
                if not device.strided and grad.strides[-1] != grad.itemsize:
                    grad = device.xp.ascontiguousarray(grad)
            grad_h = arguments.states(spec, device, "grad_h_n", grad_h_n, batch, single)
            grad_x = device.xp.zeros(self._x_shape, spec.dtype)
            by_name = {name: device.xp.zeros(shape, spec.dtype) for name, shape in spec.shapes.items() if not passes}
            found = self._back(passes, grad, grad_h, arguments.time_first(spec, grad_x), by_x)
            for (ends, _), directions, gradients in zip(spec.layers, value.stack.layers, found):  # noqa: B905 - or none
                for end, own_spec, layer, gradient in zip(ends, spec.by_direction, directions, gradients, strict=True):
                    own = spec.cell.by_parameters(own_spec, layer, gradient, device.xp)
                    by_name.update({name + end: array for name, array in own.items()})
            if value.block is not None:
                for name in by_name:
                    if name.startswith("weight"):
                        parameter = value.parameters[name]
                        by_name[name] *= sparsity.held(parameter, spec.hidden_size, value.block)  # type: ignore[arg-type]
            self._passes = None  # last of all: an interrupt leaves the tape as it was
            return Gradients(grad_x, grad_h[:, 0] if single else grad_h, by_name)

    def _back(
        self,
        passes: list[list[Pass]],
        grad: Array | None,  # (T, B, D*H), or (T, B, H) where directions are added; by y
        grad_h: Array,  # (L*D, B, H); by h_n on entry, by h0 on return
        grad_x: Array,  # (T, B, I), zero; written
        by_x: bool,
    ) -> list[list[Gradient]]:
        """The gradients by the arrays of every direction of every layer."""
        spec = self._value.spec
        found: list[list[Gradient]] = []
        hidden, directions = spec.hidden_size, spec.directions
        for k in reversed(range(len(passes))):
            by_input = grad_x
            if k:
                by_input = self._engine.xp.empty((*grad_x.shape[:2], directions * hidden), spec.dtype)
            gradients = []
            for d, passed in enumerate(passes[k]):
                part = grad
                if grad is not None and spec.merge != "sum":
                    part = grad[:, :, d * hidden : (d + 1) * hidden]
                target = by_input if k or by_x else None
                gradients.append(passed.backward(part, grad_h[k * directions + d], target, d > 0))
            found.insert(0, gradients)
            grad = self._dropped(by_input, k - 1) if k and self._dropout else by_input
        return found
