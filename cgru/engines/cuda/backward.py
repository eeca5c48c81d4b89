"""The way back on a device: one direction of one layer, from the gradient by its outputs to those by all it took."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cgru.engines.cuda import plan
from cgru.engines.cuda.arguments import BACKWARD, Arguments
from cgru.model.layer import Gradient

if TYPE_CHECKING:
    from cgru.engines.cuda.forward import Record, Weights
    from cgru.types import Array


def direction(
    weights: Weights,
    record: Record,
    output_gradient: Array | None,  # (T, B, H), any strides; zero where absent
    state_gradient: Array,  # (B, H) contiguous; by the last states on entry, by the initial ones on return
    lengths: Array | None,
    reverse: bool,
) -> tuple[Array, Gradient]:
    """The gradients of one direction of one layer, by x (T, B, I) and its arrays; past a length nothing counts."""
    device, layer, xp = weights.device, weights.layer, weights.device.xp
    steps, batch, hidden = record.states.shape
    real = weights.real
    arguments = Arguments(device, BACKWARD, layer, batch)
    arguments.arrays(arguments=record.arguments, states=record.states, kept=record.kept, lengths=lengths)
    if output_gradient is not None:
        arguments.strided("output_gradient", output_gradient, "output", "step row unit")
    through = xp.zeros((batch, hidden), real)
    by_input = xp.empty((steps, batch, 3 * hidden), real)
    arguments.arrays(state_gradient=state_gradient, through=through, input_gradient=by_input)
    back = _After if layer.cell == "gru_after" else _Before
    loop = back(weights, arguments, through, by_input)
    for step in range(steps) if reverse else reversed(range(steps)):
        arguments.set(step=step)
        loop.step(step)
    state_gradient += through

    rows = by_input.reshape(steps * batch, 3 * hidden)
    states = record.states.reshape(steps * batch, hidden)
    by_x = _product(xp, rows, weights.w_ih).reshape(steps, batch, -1)
    by_w_ih = _product(xp, rows.T, record.x.reshape(steps * batch, -1))
    by_bias = xp.sum(rows, axis=0)  # r, z and n's input part
    by_w_hh, by_product = loop.recurrent(states, record.kept.reshape(states.shape), by_bias)
    return by_x, Gradient(by_w_ih, by_w_hh, xp.concatenate([by_product, by_bias]).reshape(4, hidden))


def _product(xp: Any, a: Array, b: Array) -> Array:
    result: Array = xp.empty((len(a), b.shape[1]), a.dtype)
    xp.matmul(a, b, out=result)
    return result


class _After:
    """Steps with the reset gate after the product: a kernel and a product each."""

    def __init__(self, weights: Weights, arguments: Arguments, through: Array, by_input: Array) -> None:
        self.xp, self.arguments, self.through = weights.device.xp, arguments, through
        self.shape = plan.elementwise(*through.shape)
        self.u = weights.w_hh
        self.by_product = self.xp.empty(by_input.shape, by_input.dtype)
        self.kernel = weights.kernel("gradient_after")
        arguments.arrays(recurrent_gradient=self.by_product)

    def step(self, step: int) -> None:
        """One step back."""
        self.kernel(*self.shape, (self.arguments.structure,))
        self.xp.matmul(self.by_product[step], self.u, out=self.through)

    def recurrent(self, states: Array, kept: Array, by_bias: Array) -> tuple[Array, Array]:
        """By U (3H, H), and by the candidate's recurrent product (H,)."""
        rows = self.by_product.reshape(len(states), -1)
        hidden = states.shape[1]
        return _product(self.xp, rows.T, states), self.xp.sum(rows[:, 2 * hidden :], axis=0)


class _Before:
    """Steps with the reset gate before the product: two kernels and two products each."""

    def __init__(self, weights: Weights, arguments: Arguments, through: Array, by_input: Array) -> None:
        self.xp, self.arguments, self.through = weights.device.xp, arguments, through
        batch, hidden = through.shape
        self.shape = plan.elementwise(batch, hidden)
        u = weights.w_hh
        self.u_gates, self.u_n = u[: 2 * hidden], u[2 * hidden :]
        self.by_input, self.hidden = by_input, hidden
        self.by_gates = self.xp.empty((batch, 2 * hidden), u.dtype)
        self.by_candidate, self.by_reset = (self.xp.empty((batch, hidden), u.dtype) for _ in range(2))
        self.state, self.gates = weights.kernel("gradient_before_state"), weights.kernel("gradient_before_gates")
        arguments.arrays(
            gate_gradient=self.by_gates, candidate_gradient=self.by_candidate, reset_gradient=self.by_reset
        )

    def step(self, step: int) -> None:
        """One step back."""
        self.state(*self.shape, (self.arguments.structure,))
        self.xp.matmul(self.by_candidate, self.u_n, out=self.by_reset)
        self.gates(*self.shape, (self.arguments.structure,))
        self.xp.matmul(self.by_gates, self.u_gates, out=self.through)

    def recurrent(self, states: Array, kept: Array, by_bias: Array) -> tuple[Array, Array]:
        """By U (3H, H), and by the candidate's recurrent product (H,), which here is a part of its whole argument."""
        rows, hidden = self.by_input.reshape(len(states), -1), self.hidden
        by_gates = _product(self.xp, rows[:, : 2 * hidden].T, states)
        by_candidate = _product(self.xp, rows[:, 2 * hidden :].T, kept)
        return self.xp.concatenate([by_gates, by_candidate]), by_bias[2 * hidden :]
