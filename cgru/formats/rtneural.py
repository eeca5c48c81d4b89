"""RTNeural's JSON: a chain of layers with Keras' weights as nested lists, load and save side by side.

A GRU there always has tanh and sigmoid, two biases and the reset gate after the product. Else it is Keras' layer, and
is read as one (`keras/model.py`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.errors import FormatError
from cgru.formats import files, untrusted
from cgru.formats.keras.model import choose, columns, make
from cgru.formats.keras.tree import Found, find
from cgru.formats.names import refuse_unknown
from cgru.model.value import Value, face

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from cgru.gru import GRU
    from cgru.types import Array

OPTIONS = {"reset_after": True, "activation": "tanh", "recurrent_activation": "sigmoid"}
"""What a GRU of RTNeural is, whatever the file says."""


def load(path: str | os.PathLike[str], name: str | None = None) -> GRU:
    """The model in a file; see `read`."""
    gru: GRU = face(read(path, name))
    return gru


def read(path: str | os.PathLike[str], name: str | None = None) -> Value:
    """The GRU in a file of RTNeural, in float32: the file does not tell in which precision it was trained.

    Parameters
    ----------
    path : path
        A .json file of up to 256 MiB.
    name : str, optional
        Position of the layer in the file's list, "0" for the first, where it has GRUs that are no plain stack.

    Raises
    ------
    cgru.FormatError
        Another kind of file, a damaged one, or one without exactly one GRU or stack of them.
    OSError
        The file cannot be read.
    """
    path = Path(path)
    with untrusted.reading(path, "RTNeural"):
        content = untrusted.load_json(path)
        layers = content.get("layers")
        if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
            raise FormatError(
                "layers: expected RTNeural's list of layers, or a state_dict's weight_ih_l0, ..., got none"
            )
        weights = Weights(layers)
        chosen = choose(list(find(as_keras(layers))), name)
        value = make(chosen, weights)
        if chosen[0].name == "0" and _width(content, "in_shape") != value.spec.input_size:
            raise FormatError(f"in_shape: expected {value.spec.input_size} inputs, got {content['in_shape']}")
        return value


def as_keras(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The layers as Keras would describe them, named by their positions."""
    described = []
    for position, layer in enumerate(layers):
        config: dict[str, Any] = {"name": str(position)}
        if layer.get("type") == "gru":
            if layer.get("activation", "") not in ("", "tanh"):
                raise FormatError(f"layers[{position}]: activation: expected '' or 'tanh', got {layer['activation']!r}")
            config |= OPTIONS | {"use_bias": True, "return_sequences": True, "time_major": True}
            config["units"] = _width(layer, "shape")
        described.append({"class_name": "GRU" if layer.get("type") == "gru" else "Other", "config": config})
    return {"class_name": "Sequential", "config": {"layers": described}}


def _width(layer: Mapping[str, Any], field: str) -> Any:
    """The last of a shape such as [null, null, 8]."""
    shape = layer.get(field)
    if not isinstance(shape, list) or not shape:
        raise FormatError(f"{field}: expected a list such as [null, null, 8], got {shape!r}")
    return shape[-1]


class Weights:
    """The layers' lists of numbers."""

    version = 3
    reset_after: bool | None = None

    def __init__(self, layers: Sequence[Mapping[str, Any]]) -> None:
        self.layers = layers

    def arrays(self, found: Found, directions: int) -> list[list[Array]]:
        """Kernel, recurrent kernel and bias of a GRU."""
        weights = self.layers[int(found.name)].get("weights")
        if not isinstance(weights, list) or len(weights) != 3:
            raise FormatError(f"layers[{found.name}]: weights: expected kernel, recurrent kernel and bias, got others")
        return [[untrusted.numbers(f"layers[{found.name}]: weights[{n}]", part) for n, part in enumerate(weights)]]


def save(value: Value, path: str | os.PathLike[str]) -> None:
    """Write a model as RTNeural reads it, a layer each; the file appears whole or not at all."""
    refuse_unknown(value, "RTNeural")
    model = value.spec
    for option, known in {**OPTIONS, "clip": None, "bidirectional": False, "reverse": False}.items():
        if getattr(model, option) != known:
            raise FormatError(f"{option}: RTNeural knows {known!r} only, got {getattr(model, option)!r}")
    layers = []
    for k in range(model.num_layers):
        kernel, recurrent, *bias = columns(value, f"_l{k}")
        weights = [kernel, recurrent, *(bias or [np.zeros((2, 3 * model.hidden_size))])]
        shape = [None, None, model.hidden_size]
        entry = {"type": "gru", "activation": "", "shape": shape, "weights": [array.tolist() for array in weights]}
        layers.append(entry)
    content = {"in_shape": [None, None, model.input_size], "layers": layers}
    try:
        text = json.dumps(content, allow_nan=False)
    except ValueError as error:
        raise FormatError(f"parameters: RTNeural's JSON knows finite numbers only: {error}") from error
    files.write(path, text.encode())
