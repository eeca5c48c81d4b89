"""The gated recurrent unit (Cho et al. 2014, section 2.3).

One step of one layer, from the input x and the previous state h:

    r = f(W_r x + b_r + U_r h + c_r)                       reset gate
    z = f(W_z x + b_z + U_z h + c_z)                       update gate
    n = g(W_n x + b_n + r * (U_n h + c_n))                 candidate, reset gate after the product
    n = g(W_n x + b_n + U_n (r * h) + c_n)                 candidate, reset gate before the product
    h' = (1 - z) * n + z * h                               z weighs the state
    h' = (1 - z) * h + z * n                               z weighs the candidate

f is the recurrent activation (sigmoid), g the activation (tanh); `clip` bounds their arguments.

The gradient of a loss, backwards through the same step (the chain rule applied to the equations line by line, from
the last one up; through time as in Werbos 1990). With e the loss' gradient by h', and d_v its gradient by v:

    d_n = e * (1 - z)       d_z = e * (h - n)       d_h = e * z             z weighs the state
    d_n = e * z             d_z = e * (n - h)       d_h = e * (1 - z)       z weighs the candidate
    a_n = d_n * g'          a_z = d_z * f'                                  by the arguments of g and f
    d_r = a_n * (U_n h + c_n)     p = a_n * r                               reset gate after; p: by U_n h + c_n
    d_r = (U_n' a_n) * h          p = a_n      d_h += (U_n' a_n) * r        reset gate before
    a_r = d_r * f'
    d_x  = W_r' a_r + W_z' a_z + W_n' a_n
    d_h += U_r' a_r + U_z' a_z (+ U_n' p after)
    d_W = [a_r, a_z, a_n] x'      d_b = [a_r, a_z, a_n]
    d_U = [a_r, a_z, p] h'        d_c = [a_r, a_z, p]                       U_n before: p (r * h)'

A bounded argument that lies outside [-clip, clip] has the derivative 0.

Shapes: B sequences, I inputs, H hidden units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.model import activations
from cgru.model.cells.common import EXACT, Bounded, product
from cgru.model.layer import Layer
from cgru.model.precision import Matrix, negated

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cgru.model.layer import Gradient
    from cgru.model.precision import Arithmetic
    from cgru.model.spec import Spec
    from cgru.types import ActivationOption, Array

GATES = 3
"""r, z, n: the order of the rows of weights and biases."""

KEPT = 4
"""Of a recorded step: r, z, n, and the candidate's recurrent product or r * h."""

PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
"""W, U, b and c."""


def shapes(inputs: int, hidden: int, bias: bool) -> dict[str, tuple[int, ...]]:
    """W (3H, I), U (3H, H), and b and c (3H,) if there are biases."""
    rows = GATES * hidden
    found: dict[str, tuple[int, ...]] = {"weight_ih": (rows, inputs), "weight_hh": (rows, hidden)}
    return found | ({"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {})


def conventions(
    *,
    reset_after: bool = True,
    update_gate: str = "state",
    activation: ActivationOption = "tanh",
    recurrent_activation: ActivationOption = "sigmoid",
    clip: float | None = None,
) -> dict[str, Any]:
    """The options as a step takes them."""
    bound = np.inf if clip is None else clip
    return {
        "reset_after": reset_after,
        "update_gate": update_gate,
        "f": Bounded(activations.parse("recurrent_activation", recurrent_activation), bound),
        "g": Bounded(activations.parse("activation", activation), bound),
    }


# --- The specification ------------------------------------------------------------------------------------------------


def step(
    x: Array,  # (B, I)
    h: Array,  # (B, H)
    w: Array | Matrix,  # (3H, I), gates r, z, n
    u: Array | Matrix,  # (3H, H)
    b: Array,  # (3H,)
    c: Array,  # (3H,)
    *,
    reset_after: bool,
    update_gate: str,
    f: Bounded,
    g: Bounded,
    arithmetic: Arithmetic = EXACT,
) -> Array:
    """The state (B, H) after one step."""
    hidden = h.shape[-1]
    gates = [slice(k * hidden, (k + 1) * hidden) for k in range(3)]
    w_r, w_z, w_n = (w[rows] for rows in gates)
    u_r, u_z, u_n = (u[rows] for rows in gates)
    b_r, b_z, b_n = (b[rows] for rows in gates)
    c_r, c_z, c_n = (c[rows] for rows in gates)
    of_states = arithmetic._replace(input_limit=None)

    r = f(product(x, w_r, arithmetic) + b_r + product(h, u_r, of_states) + c_r)
    z = f(product(x, w_z, arithmetic) + b_z + product(h, u_z, of_states) + c_z)
    if reset_after:
        n = g(product(x, w_n, arithmetic) + b_n + r * (product(h, u_n, of_states) + c_n))
    else:
        n = g(product(x, w_n, arithmetic) + b_n + product(r * h, u_n, of_states) + c_n)
    if update_gate == "state":
        return (1 - z) * n + z * h
    return (1 - z) * h + z * n


def step_backward(
    e: Array,  # (B, H), the loss' gradient by the state after the step
    x: Array,  # (B, I)
    h: Array,  # (B, H), the state before it
    w: Array,  # (3H, I), gates r, z, n
    u: Array,  # (3H, H)
    b: Array,  # (3H,)
    c: Array,  # (3H,)
    *,
    reset_after: bool,
    update_gate: str,
    f: Bounded,
    g: Bounded,
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """The loss' gradients by x, h, w, u, b and c."""
    w_r, w_z, w_n = np.split(w, 3)
    u_r, u_z, u_n = np.split(u, 3)
    b_r, b_z, b_n = np.split(b, 3)
    c_r, c_z, c_n = np.split(c, 3)

    at_r = x @ w_r.T + b_r + h @ u_r.T + c_r
    at_z = x @ w_z.T + b_z + h @ u_z.T + c_z
    r, z = f(at_r), f(at_z)
    if reset_after:
        product = h @ u_n.T + c_n
        at_n = x @ w_n.T + b_n + r * product
    else:
        at_n = x @ w_n.T + b_n + (r * h) @ u_n.T + c_n
    n = g(at_n)

    if update_gate == "state":
        d_n, d_z, d_h = e * (1 - z), e * (h - n), e * z
    else:
        d_n, d_z, d_h = e * z, e * (n - h), e * (1 - z)
    a_n = d_n * g.derivative(at_n)
    a_z = d_z * f.derivative(at_z)
    if reset_after:
        d_r, p = a_n * product, a_n * r
    else:
        d_r, p = (a_n @ u_n) * h, a_n
    a_r = d_r * f.derivative(at_r)
    d_h = d_h + a_r @ u_r + a_z @ u_z + (p @ u_n if reset_after else (a_n @ u_n) * r)

    d_b = np.concatenate([a_r, a_z, a_n], axis=1)
    d_c = np.concatenate([a_r, a_z, p], axis=1)
    d_u = np.concatenate([a_r.T @ h, a_z.T @ h, p.T @ (h if reset_after else r * h)])
    return d_b @ w, d_h, d_b.T @ x, d_u, d_b.sum(axis=0), d_c.sum(axis=0)


# --- The canonical layer, and back ------------------------------------------------------------------------------------


def weighing_the_other(parameters: Mapping[str, Any], hidden: int) -> dict[str, Any]:
    """Parameters, or gradients by them, of the GRU whose update gate weighs the state where it weighed the candidate.

    The update gate's rows are negated, for 1 - f(a) = f(-a); it is for gates of which that holds
    (`Activation.mirrored_by_negation`), and it is its own inverse.
    """
    return {name: negated(array, slice(hidden, 2 * hidden)) for name, array in parameters.items()}


def _is_negated(spec: Spec) -> bool:
    """Whether the canonical layer's update gate has rows of the other sign than the parameters.

    Not for unbounded candidates: where 1 - f(x) is rounded to 1, one of 1e9 still counts.
    """
    return spec.update_gate == "candidate" and spec.gate.mirrored_by_negation and spec.candidate.within_one


def canonical(spec: Spec, parameters: Mapping[str, Array | Matrix], input_limit: float | None, xp: Any) -> Layer:
    """The canonical layer of PyTorch-shaped parameters under any convention of the contract.

    PyTorch's parameters are canonical but for the biases, which are added up where the equations allow it.
    """
    if _is_negated(spec):
        parameters = weighing_the_other(parameters, spec.hidden_size)
    w_ih, w_hh = parameters["weight_ih"], parameters["weight_hh"]
    zero = xp.zeros(3 * spec.hidden_size, w_ih.dtype)
    b_r, b_z, b_n = xp.split(parameters.get("bias_ih", zero), 3)
    c_r, c_z, c_n = xp.split(parameters.get("bias_hh", zero), 3)
    sums = [b_r + c_r, b_z + c_z]
    return Layer(
        w_ih,
        w_hh,
        xp.stack([*sums, b_n, c_n] if spec.reset_after else [*sums, b_n + c_n, zero[: spec.hidden_size]]),
        cell="gru_after" if spec.reset_after else "gru_before",
        flip=spec.update_gate == "candidate" and not _is_negated(spec),
        gate=spec.gate,
        candidate=spec.candidate,
        clip=spec.bound,
        input_limit=input_limit,
    )


def by_parameters(spec: Spec, layer: Layer, found: Gradient, xp: Any) -> dict[str, Array]:
    """The gradients by the parameters, from those by the canonical layer's arrays."""
    product, r, z, n = (found.bias[row] for row in range(4))
    gradients = {
        "weight_ih": found.w_ih,
        "weight_hh": found.w_hh,
        "bias_ih": xp.concatenate([r, z, n]),
        "bias_hh": xp.concatenate([r, z, product if spec.reset_after else n]),
    }
    if _is_negated(spec):
        gradients = weighing_the_other(gradients, spec.hidden_size)
    return {name: gradients[name] for name in shapes(1, 1, spec.bias)}


def factors(
    spec: Spec, layer: Layer, parameters: Mapping[str, Array], x: Array, h: Array
) -> Iterator[tuple[str, slice, Array]]:
    """What weights are multiplied by in steps from x (N, I) and h (N, H): parameter, which rows, factor."""
    hidden, every = spec.hidden_size, slice(None)
    yield "weight_ih", every, x
    if spec.reset_after:
        yield "weight_hh", every, h
        return
    yield "weight_hh", slice(2 * hidden), h
    sums = x @ parameters["weight_ih"][:hidden].T + h @ parameters["weight_hh"][:hidden].T + layer.bias[0]
    yield "weight_hh", slice(2 * hidden, None), spec.gate(np.clip(sums, -spec.bound, spec.bound)) * h
