"""The kernels' argument structures: twins of those in `gru.cu`, whose comments say what every field means.

A launch passes one structure by value, as a NumPy array of size one. Its fields have the C types, so that a Python
number cannot arrive in the wrong width; the tests compare sizes and offsets with the compiler's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cgru.engines.cuda.device import Device
    from cgru.model.activations import Activation
    from cgru.model.layer import Layer
    from cgru.types import Array

_FUNCTION = np.dtype([("code", "i4"), ("alpha", "f8"), ("beta", "f8"), ("clip", "f8")], align=True)


def _structure(*fields: tuple[str, Any]) -> np.dtype[Any]:
    """Fields given as ("names of one type", type)."""
    return np.dtype([(name, kind) for names, kind in fields for name in names.split()], align=True)


POINTER = np.uintp

FORWARD = _structure(
    ("input bias state output product candidate reset_state update weights states kept lengths", POINTER),
    ("input_step input_row output_step output_row output_unit", np.int64),
    ("steps step reverse batch hidden flip", np.int32),
    ("gate function", _FUNCTION),
)

BACKWARD = _structure(
    ("arguments states kept output_gradient state_gradient through input_gradient recurrent_gradient", POINTER),
    ("gate_gradient candidate_gradient reset_gradient lengths", POINTER),
    ("output_step output_row output_unit", np.int64),
    ("step batch hidden flip", np.int32),
    ("gate function", _FUNCTION),
)


class Arguments:
    """A structure under construction: arrays become their addresses, and stay alive as long as it does."""

    def __init__(self, device: Device, structure: np.dtype[Any], layer: Layer, batch: int) -> None:
        self.device = device
        self.structure = np.zeros((), structure)
        self.kept: dict[str, Array] = {}
        self.set(batch=batch, hidden=layer.hidden_size, flip=layer.flip)
        self.structure["gate"] = _function(layer.gate, layer.clip)
        self.structure["function"] = _function(layer.candidate, layer.clip)

    def set(self, **numbers: int) -> None:
        """Set fields that hold numbers."""
        for name, value in numbers.items():
            self.structure[name] = value

    def arrays(self, **arrays: Array | None) -> None:
        """Set fields that hold addresses of contiguous arrays; None is the null pointer."""
        for name, array in arrays.items():
            if array is not None:
                self._set(name, self.device.address(name, array), array)

    def strided(self, name: str, array: Array, prefix: str, axes: str) -> None:
        """Set an address and, in numbers of elements, the strides along the first axes: `output`, "step row unit"."""
        self._set(name, self.device.address(name, array, contiguous=False), array)
        for axis, stride in zip(axes.split(), array.strides, strict=False):
            self.structure[f"{prefix}_{axis}"] = stride // array.itemsize

    def _set(self, name: str, address: int, array: Array) -> None:
        self.structure[name] = address
        self.kept[name] = array


def _function(activation: Activation, clip: float) -> tuple[int, float, float, float]:
    return activation.code, activation.alpha, activation.beta, clip
