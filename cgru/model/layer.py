"""The canonical layer: the one form of a recurrent layer that engines know, whatever model it came from.

A GRU's has its gates in the order r, z, n, weights (3H, I) and (3H, H), and the update gate weighs the state. Which
convention becomes what is written once, beside a cell's equations (`cells/`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from cgru.model.activations import Activation
    from cgru.model.precision import Matrix
    from cgru.types import Array


class Layer:
    """One direction of one layer; arrays are contiguous, and nothing is written after construction."""

    def __init__(
        self,
        w_ih: Array | Matrix,  # (G*H, I), of G gates
        w_hh: Array | Matrix,  # (G*H, H), of those gates that have a recurrent product; maybe none
        bias: Array,  # (G, H) or more rows. GRU: b_r + c_r, b_z + c_z, b_n, c_n; reset before: b_n + c_n, 0 at the end
        *,
        cell: str,  # "gru_after", "gru_before", "mingru": a row of src/cells/cell.h
        flip: bool,  # z weighs the candidate: only where negating the update gate does not express it
        gate: Activation,
        candidate: Activation,
        clip: float,  # infinity: no bound
        input_limit: float | None,  # for int8: what inputs are clipped to
    ) -> None:
        self.w_ih, self.w_hh, self.bias = w_ih, w_hh, bias
        self.cell, self.flip = cell, flip
        self.gate, self.candidate, self.clip = gate, candidate, clip
        self.input_limit = input_limit
        self.prepared: dict[str, Any] = {}
        """What engines make of the weights, once: by engine's name."""

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.w_hh.shape[1]


class Gradient(NamedTuple):
    """A loss' gradients by the arrays of a canonical layer."""

    w_ih: Array  # as the layer's
    w_hh: Array
    bias: Array  # (K, H), by the K values that a recorded step keeps. GRU: the candidate's recurrent product, r, z, n


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
