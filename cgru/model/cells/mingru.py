"""The minimal gated recurrent unit, minGRU ("Were RNNs all we needed?", Feng et al. 2024, section 3.1 and appendix B).

One step of one layer, from the input x and the previous state h; gates and candidate do not depend on h:

    z = f(W_z x + b_z)                                     update gate
    n = g(W_n x + b_n)                                     candidate
    h' = (1 - z) * h + z * n

f is the recurrent activation (sigmoid); g the activation: the paper's positive function of that name, x + 1/2 from 0 on
and sigmoid(x) left of it, or "linear" for its simpler form. `clip` bounds their arguments.

The gradient of a loss, backwards through the same step. With e the loss' gradient by h', and a_v that by the argument
of v's function:

    a_n = e * z * g'       a_z = e * (n - h) * f'       d_h = e * (1 - z)
    d_x = W_z' a_z + W_n' a_n       d_W = [a_z, a_n] x'       d_b = [a_z, a_n]

Shapes: B sequences, I inputs, H hidden units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.model import activations
from cgru.model.cells.common import EXACT, Bounded, product
from cgru.model.layer import Layer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cgru.model.layer import Gradient
    from cgru.model.precision import Arithmetic, Matrix
    from cgru.model.spec import Spec
    from cgru.types import ActivationOption, Array

GATES = 2
"""z, n: the order of the rows of weights and biases."""

KEPT = 2
"""Of a recorded step: the arguments of z and n."""

PARAMETERS = ("weight_ih", "bias_ih")
"""W and b."""


def shapes(inputs: int, hidden: int, bias: bool) -> dict[str, tuple[int, ...]]:
    """W (2H, I), and b (2H,) if there is a bias."""
    rows = GATES * hidden
    found: dict[str, tuple[int, ...]] = {"weight_ih": (rows, inputs)}
    return found | ({"bias_ih": (rows,)} if bias else {})


def conventions(
    *, activation: ActivationOption = "g", recurrent_activation: ActivationOption = "sigmoid", clip: float | None = None
) -> dict[str, Any]:
    """The options as a step takes them."""
    bound = np.inf if clip is None else clip
    return {
        "f": Bounded(activations.parse("recurrent_activation", recurrent_activation), bound),
        "g": Bounded(activations.parse("activation", activation), bound),
    }


# --- The specification ------------------------------------------------------------------------------------------------


def step(
    x: Array,  # (B, I)
    h: Array,  # (B, H)
    w: Array | Matrix,  # (2H, I), gates z, n
    b: Array,  # (2H,)
    *,
    f: Bounded,
    g: Bounded,
    arithmetic: Arithmetic = EXACT,
) -> Array:
    """The state (B, H) after one step."""
    hidden = h.shape[-1]
    z = f(product(x, w[:hidden], arithmetic) + b[:hidden])
    n = g(product(x, w[hidden:], arithmetic) + b[hidden:])
    return (1 - z) * h + z * n


def step_backward(
    e: Array,  # (B, H), the loss' gradient by the state after the step
    x: Array,  # (B, I)
    h: Array,  # (B, H), the state before it
    w: Array,  # (2H, I), gates z, n
    b: Array,  # (2H,)
    *,
    f: Bounded,
    g: Bounded,
) -> tuple[Array, Array, Array, Array]:
    """The loss' gradients by x, h, w and b."""
    at_z, at_n = np.split(x @ w.T + b, 2, axis=1)
    z, n = f(at_z), g(at_n)
    a_z = e * (n - h) * f.derivative(at_z)
    a_n = e * z * g.derivative(at_n)
    d_b = np.concatenate([a_z, a_n], axis=1)
    return d_b @ w, e * (1 - z), d_b.T @ x, d_b.sum(axis=0)


# --- The canonical layer, and back ------------------------------------------------------------------------------------


def canonical(spec: Spec, parameters: Mapping[str, Array | Matrix], input_limit: float | None, xp: Any) -> Layer:
    """The canonical layer: the parameters as they are, and recurrent weights of no gate."""
    w_ih, hidden = parameters["weight_ih"], spec.hidden_size
    bias = parameters.get("bias_ih", xp.zeros(GATES * hidden, spec.dtype))
    return Layer(
        w_ih,
        xp.zeros((0, hidden), spec.dtype),
        xp.reshape(bias, (GATES, hidden)),
        cell="mingru",
        flip=True,
        gate=spec.gate,
        candidate=spec.candidate,
        clip=spec.bound,
        input_limit=input_limit,
    )


def by_parameters(spec: Spec, layer: Layer, found: Gradient, xp: Any) -> dict[str, Array]:
    """The gradients by the parameters, from those by the canonical layer's arrays."""
    gradients = {"weight_ih": found.w_ih, "bias_ih": xp.reshape(found.bias, -1)}
    return {name: gradients[name] for name in shapes(1, 1, spec.bias)}


def factors(
    spec: Spec, layer: Layer, parameters: Mapping[str, Array], x: Array, h: Array
) -> Iterator[tuple[str, slice, Array]]:
    """What weights are multiplied by in steps from x (N, I) and h (N, H): the inputs alone."""
    yield "weight_ih", slice(None), x
