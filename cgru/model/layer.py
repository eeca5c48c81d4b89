"""The canonical layer: the one form of a recurrent layer that engines know, whatever model it came from.

Gates in the order r, z, n, weights (3H, I) and (3H, H), the update gate weighing the state. Which convention becomes
what is written once, beside a cell's equations (`cells/`).
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


class Gradient(NamedTuple):
    """A loss' gradients by the arrays of a canonical layer."""

    w_ih: Array  # (3H, I)
    w_hh: Array  # (3H, H)
    bias: Array  # (4, H), by what is added to: the candidate's recurrent product, r, z, the candidate's input product


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
