"""Layers without arithmetic of their own: functions of each element or of an axis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cgru import checks
from cgru.nodes.activations import checked_activation
from cgru.nodes.layer import Layer, Place, Plain, filled, known_axis

if TYPE_CHECKING:
    import numpy.typing as npt

    from cgru.types import Array


class Activation(Layer):
    """A function of each element, by the name that `activation` arguments have, and its parameters.

    >>> Activation("leaky_relu", alpha=0.2)
    Activation('leaky_relu', alpha=0.2)
    """

    def __init__(self, name: str, **parameters: Any) -> None:
        if not isinstance(name, str):
            raise TypeError(f"activation: expected a name, got {name!r}")
        self.name = name
        self.function = checked_activation((name, parameters) if parameters else name)
        self.parameters = {}

    def write(self, place: Place, x: str) -> str:
        """One node, or none."""
        return place.activated(x, self.function)

    def __repr__(self) -> str:
        given = self.function[1] if isinstance(self.function, tuple) else {}
        return f"Activation({', '.join([repr(self.name), *(f'{key}={value!r}' for key, value in given.items())])})"


@dataclass(frozen=True, eq=False, repr=False)
class PReLU(Layer):
    """x, times a weight (num_parameters,) where it is negative; one for each feature, or one for all."""

    num_parameters: int = 1
    init: float = 0.25
    weight: Array | None = field(default=None, kw_only=True)
    dtype: npt.DTypeLike = field(default="float32", kw_only=True)

    def __post_init__(self) -> None:
        self._sizes("num_parameters")
        self._hold({"weight": (self.num_parameters,)}, filled(weight=self.init))

    def write(self, place: Place, x: str) -> str:
        """A PRelu of the last axis."""
        if self.num_parameters not in (1, place.shape(x)[-1]):
            raise place.refused(f"a layer of {place.shape(x)[-1]} features, or of 1 for all", repr(self))
        return str(place.op("PRelu", x, place.constant("weight", self.parameters["weight"])))


@dataclass(frozen=True, eq=False, repr=False)
class GLU(Plain):
    """The first half of the features times the sigmoid of the second (Dauphin et al. 2016)."""

    keeps = False

    dim: int = -1

    def write(self, place: Place, x: str) -> str:
        """A Split, a Sigmoid and a product."""
        axis = known_axis(place, self, x, self.dim)
        if place.shape(x)[axis] % 2:
            raise place.refused(f"an even number of features for {self!r}", place.shape(x)[axis])
        a, b = place.op("Split", x, outputs=2, axis=axis, num_outputs=2)
        return str(place.op("Mul", a, place.op("Sigmoid", b)))


@dataclass(frozen=True, eq=False, repr=False)
class Softmax(Plain):
    """exp(x) / sum(exp(x)) along an axis, the last one if none is given."""

    dim: int = -1

    def write(self, place: Place, x: str) -> str:
        """One node."""
        return str(place.op("Softmax", x, axis=known_axis(place, self, x, self.dim)))


@dataclass(frozen=True, eq=False, repr=False)
class LogSoftmax(Plain):
    """log(exp(x) / sum(exp(x))) along an axis, the last one if none is given."""

    dim: int = -1

    def write(self, place: Place, x: str) -> str:
        """One node."""
        return str(place.op("LogSoftmax", x, axis=known_axis(place, self, x, self.dim)))


@dataclass(frozen=True, eq=False, repr=False)
class ArgMax(Plain):
    """Where the largest element along an axis is, as int64; the axis vanishes, or with keepdim becomes 1."""

    keeps = False

    dim: int = -1
    keepdim: bool = False

    def write(self, place: Place, x: str) -> str:
        """One node."""
        axis, keeps = known_axis(place, self, x, self.dim), checks.flag("keepdim", self.keepdim)
        y = str(place.op("ArgMax", x, axis=axis, keepdims=int(keeps)))
        place.integers.add(y)
        return y


@dataclass(frozen=True, eq=False, repr=False)
class Dropout(Plain):
    """Nothing: networks are for inference."""

    takes = "a"

    p: float = 0.5

    def write(self, place: Place, x: str) -> str:
        """No node."""
        return x
