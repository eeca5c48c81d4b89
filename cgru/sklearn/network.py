"""What the estimators train: a GRU and a linear head on its states, the losses, and their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgru.gru import GRU

if TYPE_CHECKING:
    from collections.abc import Callable

    from cgru.types import Array

    Criterion = Callable[[Array], tuple[float, Array]]
    """From outputs (..., K) to the loss and its gradient by them."""

HEAD = ("head.weight", "head.bias")


class Network:
    """outputs = states @ head.weight.T + head.bias, of the states after every step or after the last one.

    The head is in float64: it costs next to nothing, and an output then does not depend on the batch it is in.
    """

    def __init__(self, gru: GRU, outputs: int, every_step: bool, rng: np.random.Generator) -> None:
        width = gru.hidden_size * (2 if gru.bidirectional else 1)
        bound = 1 / np.sqrt(width)
        self.gru, self.every_step = gru, every_step
        self.head_weight = rng.uniform(-bound, bound, (outputs, width))
        self.head_bias = np.zeros(outputs)

    @property
    def weights(self) -> dict[str, Array]:
        """Copies of all parameters by name, the head's as head.weight (K, D*H) and head.bias (K,)."""
        return {**self.gru.state_dict(), "head.weight": self.head_weight.copy(), "head.bias": self.head_bias.copy()}

    def load(self, weights: dict[str, Array]) -> None:
        """Take over parameters."""
        self.gru.load_state_dict({name: array for name, array in weights.items() if name not in HEAD})
        self.head_weight, self.head_bias = (weights[name].copy() for name in HEAD)

    def head(self, states: Array) -> Array:
        """Outputs (..., K) of states (..., D*H)."""
        # einsum sums every output alike, where a matrix product's rounding depends on how many rows there are.
        product: Array = np.einsum("...h,kh->...k", states.astype(np.float64), self.head_weight)
        return product + self.head_bias

    def __call__(self, x: Array, how: dict[str, Array], threads: int | None) -> Array:
        """Outputs (B, K), or (T, B, K) after every step, of x (T, B, I); `how` are lengths and resets."""
        y, h_n = self.gru(x, **how, num_threads=threads)  # type: ignore[arg-type]
        return self.head(y if self.every_step else self._last(h_n))

    def loss(
        self,
        x: Array,  # (T, B, I)
        how: dict[str, Array],  # lengths, resets
        criterion: Criterion,
        rng: np.random.Generator,  # of dropout between layers
        threads: int | None,
    ) -> tuple[float, dict[str, Array]]:
        """The loss, and its gradients by all parameters."""
        y, h_n, tape = self.gru.record(x, **how, rng=rng, num_threads=threads)  # type: ignore[arg-type]
        states = (y if self.every_step else self._last(h_n)).astype(np.float64)
        loss, by_outputs = criterion(states @ self.head_weight.T + self.head_bias)
        rows = by_outputs.reshape(-1, by_outputs.shape[-1])
        grads = {"head.weight": rows.T @ states.reshape(len(rows), -1), "head.bias": rows.sum(0)}
        by_states = (by_outputs @ self.head_weight).astype(self.gru.dtype)
        if self.every_step:
            found = tape.backward(by_states)
        else:
            directions = 2 if self.gru.bidirectional else 1
            by_h = np.zeros_like(h_n)
            by_h[-directions:] = by_states.reshape(len(by_states), directions, -1).swapaxes(0, 1)
            found = tape.backward(None, by_h)
        return loss, {**found, **grads}

    def _last(self, h_n: Array) -> Array:
        """The top layer's states (B, D*H) after the last step of each sequence, both directions side by side."""
        top = h_n[-2:] if self.gru.bidirectional else h_n[-1:]
        return top.swapaxes(0, 1).reshape(h_n.shape[1], -1)


def probabilities(outputs: Array) -> Array:
    """Softmax over the last axis."""
    exponentials = np.exp(outputs - outputs.max(-1, keepdims=True))
    result: Array = exponentials / exponentials.sum(-1, keepdims=True)
    return result


def cross_entropy(labels: Array, weight: Array) -> Criterion:
    """sum(weight * -log p[label]) / B, of labels (B,) from 0 to K - 1 and weight (B,)."""
    rows = np.arange(len(labels))

    def criterion(outputs: Array) -> tuple[float, Array]:
        shifted = outputs - outputs.max(-1, keepdims=True)
        logarithm = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        by_outputs = np.exp(logarithm)
        by_outputs[rows, labels] -= 1
        by_outputs *= weight[:, None] / len(labels)
        return float(-(weight @ logarithm[rows, labels]) / len(labels)), by_outputs

    return criterion


def squared_error(target: Array, weight: Array) -> Criterion:
    """sum(weight * (output - target)**2) / (K B), of target (..., B, K) and weight that broadcasts to it."""

    def criterion(outputs: Array) -> tuple[float, Array]:
        difference = outputs - target
        weighted = difference * weight / target.size
        return float((weighted * difference).sum()), 2 * weighted

    return criterion
