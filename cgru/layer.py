"""The canonical layer: the one GRU that engines know, and the changes of convention that lead to it.

Every model, whatever its origin, is a stack of these: gates in the order r, z, n, weights (3H, I) and (3H, H), the
update gate weighing the state. PyTorch's parameters are canonical but for the biases, which are added up where the
equations allow it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.precision import Matrix, negated

if TYPE_CHECKING:
    from cgru.activations import Activation
    from cgru.types import Array


class Layer:
    """One direction of one layer; arrays are contiguous, and nothing is written after construction."""

    def __init__(
        self,
        w_ih: Array | Matrix,  # (3H, I)
        w_hh: Array | Matrix,  # (3H, H)
        bias: Array,  # (4, H): b_r + c_r, b_z + c_z, b_n, c_n; the last added to the third and zero if reset before
        *,
        reset_after: bool,
        flip: bool,  # z weighs the candidate: only where negating the update gate does not express it
        gate: Activation,
        candidate: Activation,
        clip: float,  # infinity: no bound
        input_limit: float | None,  # for int8: what inputs are clipped to
    ) -> None:
        self.w_ih, self.w_hh, self.bias = w_ih, w_hh, bias
        self.reset_after, self.flip = reset_after, flip
        self.gate, self.candidate, self.clip = gate, candidate, clip
        self.input_limit = input_limit
        self.prepared: dict[str, Any] = {}
        """What engines make of the weights, once: by engine's name."""

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.w_hh.shape[1]


class Stack:
    """The layers of a model, of each its directions, and what engines make of them."""

    def __init__(self, layers: list[tuple[Layer, ...]], reverse: bool, precision: str, compute: str) -> None:
        self.layers = layers
        self.reverse = reverse
        """Whether the one direction reads from the last step to the first."""
        self.precision = precision
        """What the packed engine stores weights as."""
        self.compute = compute
        """What it rounds inputs and states to before they meet weights of bfloat16."""
        self.prepared: dict[str, Any] = {}
        """By engine's name."""


def canonical(
    w_ih: Array | Matrix,
    w_hh: Array | Matrix,
    b_ih: Array | None,
    b_hh: Array | None,
    *,
    reset_after: bool,
    update_gate: str,
    gate: Activation,
    candidate: Activation,
    clip: float | None,
    input_limit: float | None,
    xp: Any = np,  # the module of the arrays
) -> Layer:
    """The canonical layer of PyTorch-shaped parameters under any convention of the contract.

    `update_gate="candidate"` is the canonical layer with the update gate's rows negated, since f(-x) = 1 - f(x) for the
    usual gate functions; for the others the layer keeps a flag. Unbounded candidates have it, too:
    where 1 - f(x) is rounded to 1, a candidate of 1e9 still counts.
    """
    hidden = w_hh.shape[1]
    zero = xp.zeros(3 * hidden, w_ih.dtype)
    b_r, b_z, b_n = xp.split(zero if b_ih is None else b_ih, 3)
    c_r, c_z, c_n = xp.split(zero if b_hh is None else b_hh, 3)
    bias = xp.stack(
        [b_r + c_r, b_z + c_z, b_n, c_n] if reset_after else [b_r + c_r, b_z + c_z, b_n + c_n, zero[:hidden]]
    )
    flip = update_gate == "candidate"
    if flip and gate.mirrored_by_negation and candidate.within_one:
        update = slice(hidden, 2 * hidden)
        w_ih, w_hh = negated(w_ih, update), negated(w_hh, update)
        bias[1] *= -1
        flip = False
    return Layer(
        w_ih,
        w_hh,
        bias,
        reset_after=reset_after,
        flip=flip,
        gate=gate,
        candidate=candidate,
        clip=float("inf") if clip is None else clip,
        input_limit=input_limit,
    )
