"""Linear layers, tables and recurrent ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cgru import checks
from cgru.nodes.activations import checked_activation
from cgru.nodes.layer import Layer, Place, uniform

if TYPE_CHECKING:
    import numpy.typing as npt

    from cgru.nodes.layer import Activated
    from cgru.types import Array


@dataclass(frozen=True, eq=False, repr=False)
class Linear(Layer):
    """x W' + b along the last axis, weight (out_features, in_features) and bias (out_features,)."""

    features = "in_features"
    keeps = False

    in_features: int
    out_features: int
    bias: bool | Array = True
    activation: Activated = None
    weight: Array | None = field(default=None, kw_only=True)
    dtype: npt.DTypeLike = field(default="float32", kw_only=True)
    rng: object = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._sizes("in_features", "out_features")
        self._set(activation=checked_activation(self.activation))
        shapes = {"weight": (self.out_features, self.in_features), "bias": (self.out_features,)}
        self._hold(shapes, uniform(1 / math.sqrt(self.in_features)))

    def write(self, place: Place, x: str) -> str:
        """A product, a sum, and the activation."""
        y = place.op("MatMul", x, place.constant("weight.T", self.parameters["weight"].T))
        if "bias" in self.parameters:
            y = place.op("Add", y, place.constant("bias", self.parameters["bias"]))
        return place.activated(y, self.activation)


@dataclass(frozen=True, eq=False, repr=False)
class Embedding(Layer):
    """Rows of a table by indices: weight (num_embeddings, embedding_dim). That of padding_idx is drawn as zeros."""

    takes = "i"
    keeps = False

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None = None
    weight: Array | None = field(default=None, kw_only=True)
    dtype: npt.DTypeLike = field(default="float32", kw_only=True)
    rng: object = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._sizes("num_embeddings", "embedding_dim")
        n = self.num_embeddings
        if self.padding_idx is not None:
            self._set(padding_idx=checks.integer("padding_idx", self.padding_idx, -n, n - 1) % n)

        def draw(name: str, shape: tuple[int, ...], source: np.random.Generator) -> Array:
            table = source.standard_normal(shape)
            if self.padding_idx is not None:
                table[self.padding_idx] = 0
            return table

        self._hold({"weight": (n, self.embedding_dim)}, draw)

    def write(self, place: Place, x: str) -> str:
        """A Gather."""
        return str(place.op("Gather", place.constant("weight", self.parameters["weight"]), x, axis=0))


@dataclass(frozen=True, eq=False, repr=False)
class RNN(Layer):
    """Elman's layers, h' = tanh(W x + b + U h + c) or relu: weight_ih_l0 (H, I), weight_hh_l0 (H, H) and so on."""

    features = "input_size"
    keeps = False
    timed = True

    input_size: int
    hidden_size: int
    num_layers: int = 1
    nonlinearity: str = "tanh"
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    dtype: npt.DTypeLike = field(default="float32", kw_only=True)
    rng: object = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._sizes("input_size", "hidden_size", "num_layers")
        checks.choice("nonlinearity", self.nonlinearity, ("tanh", "relu"))
        for name in ("bias", "batch_first", "bidirectional"):
            checks.flag(name, getattr(self, name))
        hidden = self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        for number in range(self.num_layers):
            inputs = hidden * len(self._ends) if number else self.input_size
            for end in self._ends:
                own: dict[str, tuple[int, ...]] = {"weight_ih": (hidden, inputs), "weight_hh": (hidden, hidden)}
                own |= {"bias_ih": (hidden,), "bias_hh": (hidden,)} if self.bias else {}
                shapes |= {f"{name}_l{number}{end}": shape for name, shape in own.items()}
        self._hold(shapes, uniform(1 / math.sqrt(hidden)))

    @property
    def _ends(self) -> tuple[str, ...]:
        return ("", "_reverse")[: 1 + self.bidirectional]

    def write(self, place: Place, x: str) -> str:
        """A node RNN a layer, over (T, B, I), its directions put side by side."""
        directions = len(self._ends)
        y = place.op("Transpose", x, perm=(1, 0, 2)) if self.batch_first else x
        for number in range(self.num_layers):
            given = {
                name: [self.parameters[f"{name}_l{number}{end}"] for end in self._ends]
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                if self.bias or name.startswith("weight")
            }
            weights = [
                place.constant(f"{name}_l{number}", np.stack(given[name])) for name in ("weight_ih", "weight_hh")
            ]
            if self.bias:
                both = np.concatenate([np.stack(given["bias_ih"]), np.stack(given["bias_hh"])], 1)
                weights.append(place.constant(f"bias_l{number}", both))
            y, _ = place.op(
                "RNN", y, *weights, outputs=2, hidden_size=self.hidden_size,
                activations=(self.nonlinearity.capitalize(),) * directions,
                direction="bidirectional" if self.bidirectional else "forward",
            )  # fmt: skip
            if self.bidirectional:
                y = place.op("Transpose", y, perm=(0, 2, 1, 3))
                y = place.op("Reshape", y, shape=(0, 0, directions * self.hidden_size))
            else:
                y = place.op("Squeeze", y, axes=(1,))
        return str(place.op("Transpose", y, perm=(1, 0, 2)) if self.batch_first else y)
