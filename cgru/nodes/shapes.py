"""Layers that change shapes, and layers of layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.model.nodes.sizes import Size, product
from cgru.nodes.activations import checked_activation
from cgru.nodes.layer import Layer, Place, Plain, expect_names
from cgru.nodes.lists import checked, write_all

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cgru.nodes.layer import Activated
    from cgru.types import Array


@dataclass(frozen=True, eq=False, repr=False)
class Flatten(Plain):
    """Make one axis of those from start_dim to end_dim, which must be of known sizes where there are several."""

    keeps = False
    takes = "a"

    start_dim: int = 1
    end_dim: int = -1

    def write(self, place: Place, x: str) -> str:
        """A Reshape."""
        shape = place.shape(x)
        bounds = -len(shape), len(shape) - 1
        first = checks.integer("start_dim", self.start_dim, *bounds) % len(shape)
        last = checks.integer("end_dim", self.end_dim, *bounds) % len(shape)
        if last <= first:
            return x
        if any(isinstance(size, Size) for size in shape[first : last + 1]):
            raise place.refused(f"axes of known sizes for {self!r}", shape)
        found = (*shape[:first], product(shape[first : last + 1]), *shape[last + 1 :])
        return str(place.op("Reshape", x, shape=found))


@dataclass(frozen=True, eq=False, repr=False)
class LastStep(Plain):
    """The last frame of a sequence: (B, F) of (T, B, F). In a stream it is the latest one."""

    takes = "a"

    def write(self, place: Place, x: str) -> str:
        """A Gather of the index -1."""
        axis = place.time(x)
        if axis is None:
            raise place.refused(f"sequences for {self!r}", place.shape(x))
        return str(place.op("Gather", x, place.constant("last", np.array(-1)), axis=axis))


@dataclass(frozen=True, eq=False, repr=False)
class Residual(Layer):
    """x plus what a list of layers makes of it, and an activation; parameters are called "0.weight" and so on."""

    layers: Sequence[Any]
    activation: Activated = None

    def __post_init__(self) -> None:
        self._set(layers=checked(self.layers), activation=checked_activation(self.activation))

    def write(self, place: Place, x: str) -> str:
        """The layers, a sum, and the activation."""
        y = write_all(place, self.layers, x, f"{place.name}.")
        if place.shape(y) != place.shape(x) or y in place.integers:
            raise place.refused(
                f"layers that give {', '.join(map(str, place.shape(x)))} as they take it", place.shape(y)
            )
        return place.activated(str(place.op("Add", x, y)), self.activation)

    def state_dict(self) -> dict[str, Array]:
        """Copies of all layers' parameters, their names behind the layer's position."""
        return {
            f"{i}.{name}": array
            for i, element in enumerate(self.layers)
            for name, array in element.state_dict().items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Array]) -> None:
        """Replace all layers' parameters; see `Linear.load_state_dict`. Names and shapes are checked before any is."""
        own = self.state_dict()
        expect_names({name: 0 for name in state_dict if not name.endswith("num_batches_tracked")}, own)
        for name, array in own.items():
            checks.array(name, state_dict[name], array.dtype, array.shape)
        for i, element in enumerate(self.layers):
            element.load_state_dict({name: state_dict[f"{i}.{name}"] for name in element.state_dict()})
