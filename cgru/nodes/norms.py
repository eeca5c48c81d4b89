"""Normalizations, each along features or time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cgru import checks
from cgru.nodes.activations import checked_activation
from cgru.nodes.layer import Layer, Place, filled, positive

if TYPE_CHECKING:
    import numpy.typing as npt

    from cgru.nodes.layer import Activated
    from cgru.types import Array


@dataclass(frozen=True, eq=False, repr=False)
class LayerNorm(Layer):
    """Normalize each frame over its features; weight and bias (normalized_shape,)."""

    features = "normalized_shape"

    normalized_shape: int
    eps: float = 1e-5
    elementwise_affine: bool = True
    bias: bool | Array = True
    activation: Activated = None
    weight: Array | None = field(default=None, kw_only=True)
    dtype: npt.DTypeLike = field(default="float32", kw_only=True)

    def __post_init__(self) -> None:
        shape = self.normalized_shape
        if isinstance(shape, (tuple, list)) and len(shape) == 1:
            self._set(normalized_shape=shape[0])
        self._sizes("normalized_shape")
        self._set(eps=positive("eps", self.eps), activation=checked_activation(self.activation))
        size = (self.normalized_shape,)
        shapes = {"weight": size, "bias": size} if checks.flag("elementwise_affine", self.elementwise_affine) else {}
        self._hold(shapes, filled(weight=1, bias=0))

    def write(self, place: Place, x: str) -> str:
        """A LayerNormalization of the last axis."""
        ones = np.ones(self.normalized_shape, place.dtype)
        weights = [place.constant("weight", self.parameters.get("weight", ones))]
        weights += [place.constant("bias", array) for name, array in self.parameters.items() if name == "bias"]
        return place.activated(place.op("LayerNormalization", x, *weights, axis=-1, epsilon=self.eps), self.activation)


@dataclass(frozen=True, eq=False, repr=False)
class BatchNorm1d(Layer):
    """Normalize features by the mean and variance that training kept: running_mean and running_var (num_features,)."""

    features = "num_features"

    num_features: int
    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = True
    activation: Activated = None
    weight: Array | None = field(default=None, kw_only=True)
    bias: Array | None = field(default=None, kw_only=True)
    running_mean: Array | None = field(default=None, kw_only=True)
    running_var: Array | None = field(default=None, kw_only=True)
    dtype: npt.DTypeLike = field(default="float32", kw_only=True)

    def __post_init__(self) -> None:
        self._sizes("num_features")
        self._set(eps=positive("eps", self.eps), activation=checked_activation(self.activation))
        names = ("weight", "bias") * checks.flag("affine", self.affine) + ("running_mean", "running_var")
        shapes = dict.fromkeys(names, (self.num_features,))
        self._hold(shapes, filled(weight=1, bias=0, running_mean=0, running_var=1))

    def write(self, place: Place, x: str) -> str:
        """A difference, a product and a sum; the factor is computed in float64."""
        own = {name: array.astype(np.float64) for name, array in self.parameters.items()}
        scale = own.get("weight", 1.0) / np.sqrt(own["running_var"] + self.eps)
        y = place.op("Sub", x, place.constant("running_mean", self.parameters["running_mean"]))
        y = place.op("Mul", y, place.constant("scale", scale.astype(place.dtype)))
        if self.affine:
            y = place.op("Add", y, place.constant("bias", self.parameters["bias"]))
        return place.activated(y, self.activation)


@dataclass(frozen=True, eq=False, repr=False)
class InstanceNorm1d(Layer):
    """Normalize each feature of each sequence over time, all of it; so it runs in no stream."""

    features = "num_features"
    timed = True

    num_features: int
    eps: float = 1e-5
    momentum: float = 0.1
    affine: bool = False
    activation: Activated = None
    weight: Array | None = field(default=None, kw_only=True)
    bias: Array | None = field(default=None, kw_only=True)
    dtype: npt.DTypeLike = field(default="float32", kw_only=True)

    def __post_init__(self) -> None:
        self._sizes("num_features")
        self._set(eps=positive("eps", self.eps), activation=checked_activation(self.activation))
        size = (self.num_features,)
        shapes = {"weight": size, "bias": size} if checks.flag("affine", self.affine) else {}
        self._hold(shapes, filled(weight=1, bias=0))

    def write(self, place: Place, x: str) -> str:
        """An InstanceNormalization of (B, C, T)."""
        y, back = place.channels_first(x)
        plain = filled(weight=1, bias=0)
        weights = [
            place.constant(name, self.parameters.get(name, plain(name, (self.num_features,), None).astype(place.dtype)))
            for name in ("weight", "bias")
        ]
        y = place.op("InstanceNormalization", y, *weights, epsilon=self.eps)
        return place.activated(place.op("Transpose", y, perm=back), self.activation)
