"""RTNeural's JSON as a whole network: every layer of the chain, as RTNeural itself runs it, frame by frame.

Its layers have Keras' weights. Convolutions over time are causal, whatever the padding was in Keras, and zeros stand
before the first frame. Two-dimensional ones run over time and features, (B, T, F, C).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.errors import FormatError
from cgru.formats import untrusted
from cgru.formats.keras.model import make
from cgru.formats.keras.tree import find
from cgru.formats.rtneural import Weights, as_keras
from cgru.model.graph import MAX_MEMORY
from cgru.model.nodes import REFUSED
from cgru.model.nodes.sizes import Size
from cgru.model.writing import Writer

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from cgru.model.graph import Graph
    from cgru.types import Array

T, B = Size("T"), Size("B")

ACTIVATIONS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "tanh": ("Tanh", {}),
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "elu": ("Elu", {"alpha": 1.0}),
}


def network_of(path: str | os.PathLike[str], max_memory: int = MAX_MEMORY) -> Graph:
    """The network in a file of RTNeural, in float32, from "x" (B, T, I), or (B, T, F, C), to "y".

    Parameters
    ----------
    path : path
        A .json file of up to 256 MiB.
    max_memory : int
        Bytes that all values of the network may take; see `cgru.model.building.build`.

    Raises
    ------
    cgru.FormatError
        Another kind of file, a damaged one, or one with layers that are not known here; all are listed.
    OSError
        The file cannot be read.
    """
    path = Path(path)
    with untrusted.reading(path, "RTNeural"):
        content = untrusted.load_json(path)
        layers = content.get("layers")
        if not isinstance(layers, list) or not layers or not all(isinstance(layer, dict) for layer in layers):
            raise FormatError("layers: expected RTNeural's list of layers, got none")
        refuse_unknown(layers)
        chain = _Chain(layers, _shape("in_shape", content.get("in_shape")), str(path))
        for position, layer in enumerate(layers):
            chain.add(position, layer)
        return chain.writer.graph({"y": chain.value}, max_memory=max_memory)


def refuse_unknown(layers: Sequence[Mapping[str, Any]]) -> None:
    """One error for all layers that are not known."""
    unknown = [
        f"{layer.get('type')} (layers[{i}])" for i, layer in enumerate(layers) if layer.get("type") not in LAYERS
    ]
    if unknown:
        told = f"; {REFUSED['LSTM']}" if any(layer.get("type") == "lstm" for layer in layers) else ""
        raise FormatError(f"expected layers of the types {', '.join(LAYERS)}, got {checks.listed(unknown)}{told}")


def _shape(field: str, shape: Any) -> tuple[int, ...]:
    """The sizes of a frame: features, or features and channels; of [null, null, 8] (8,)."""
    sizes = shape[2:] if isinstance(shape, list) and len(shape) == 4 else shape[-1:] if isinstance(shape, list) else []
    if not sizes or not all(type(size) is int and size > 0 for size in sizes):
        raise FormatError(f"{field}: expected a list such as [null, null, 8], got {shape!r}")
    return tuple(sizes)


class _Chain:
    """The network while its layers are added: the value that the last one gave, (B, T, ...), and what a frame holds."""

    def __init__(self, layers: Sequence[Mapping[str, Any]], frame: tuple[int, ...], source: str) -> None:
        self.layers, self.frame = layers, frame
        self.writer = Writer(source)
        self.value = self.writer.input("x", (B, T, *frame))
        self.where, self.layer = "", layers[0]

    def add(self, position: int, layer: Mapping[str, Any]) -> None:
        """One layer with its activation."""
        self.where, self.layer = f"layers[{position}]", layer
        frame = _shape(f"{self.where}: shape", layer.get("shape"))
        LAYERS[layer["type"]](self)
        if self.frame != frame:
            raise FormatError(f"{self.where}: shape: expected {list(self.frame)} as of the weights, got {list(frame)}")
        activation = layer.get("activation", "")
        if activation and layer["type"] != "gru":  # a GRU's is within
            if activation not in ACTIVATIONS:
                raise FormatError(
                    f"{self.where}: activation: expected '' or one of {', '.join(ACTIVATIONS)}, got {activation!r}"
                )
            operator, attributes = ACTIVATIONS[activation]
            if activation == "softmax" and len(self.frame) > 1:
                raise FormatError(f"{self.where}: activation: expected softmax of one axis, got a frame {self.frame}")
            self.op(operator, self.value, **attributes)

    # --- What the layers call -----------------------------------------------------------------------------------------

    def op(self, operator: str, *inputs: str, **attributes: Any) -> None:
        """Write a node that gives the next value."""
        self.value = self.writer.add(operator, *inputs, name=f"{self.where}.{operator}", **attributes)

    def constant(self, array: Array) -> str:
        """The name of a constant."""
        return self.writer.constant(np.asarray(array, np.float32), f"{self.where}.weights")

    def weights(self, *expected: tuple[int | str, ...], least: int | None = None) -> list[Array]:
        """The layer's arrays, of these shapes, whose letters stand for any size; the last ones may be absent."""
        found = self.layer.get("weights")
        least = len(expected) if least is None else least
        if not isinstance(found, list) or not least <= len(found) <= len(expected):
            got = len(found) if isinstance(found, list) else "none"
            raise FormatError(f"{self.where}: weights: expected {len(expected)} arrays, got {got}")
        arrays = [untrusted.numbers(f"{self.where}: weights[{n}]", part) for n, part in enumerate(found)]
        for n, (array, shape) in enumerate(zip(arrays, expected, strict=False)):
            if not checks.fits(array.shape, shape):
                raise FormatError(
                    f"{self.where}: weights[{n}]: expected {checks.describe(shape)}, got {checks.describe(array.shape)}"
                )
        return arrays

    def integer(self, field: str, default: int | None = None) -> int:
        """A field that is an integer, or a list that ends with it."""
        value = self.layer.get(field, default)
        value = value[-1] if isinstance(value, list) and value else value
        if type(value) is not int or value < 1:
            raise FormatError(
                f"{self.where}: {field}: expected an integer of 1 and more, got {self.layer.get(field)!r}"
            )
        return value

    @property
    def epsilon(self) -> float:
        """Of a normalization."""
        value: Any = self.layer.get("epsilon")
        if type(value) not in (int, float) or not value >= 0:
            raise FormatError(f"{self.where}: epsilon: expected a number of 0 and more, got {value!r}")
        return float(value)

    def flat(self) -> int:
        """Give a frame one axis, and its size."""
        size = int(np.prod(self.frame))
        if len(self.frame) > 1:
            self.op("Reshape", self.value, shape=(0, 0, size))
            self.frame = (size,)
        return size

    def channels_first(self) -> None:
        """From (B, T, ..., C) to (B, C, T, ...)."""
        self.op("Transpose", self.value, perm=(0, len(self.frame) + 1, *range(1, len(self.frame) + 1)))

    def channels_last(self) -> None:
        """And back."""
        self.op("Transpose", self.value, perm=(0, *range(2, len(self.frame) + 2), 1))


def _dense(chain: _Chain) -> None:
    kernel, *bias = chain.weights((chain.flat(), "O"), ("O",), least=1)
    chain.frame = (kernel.shape[1],)
    chain.op("MatMul", chain.value, chain.constant(kernel))
    if bias:
        chain.op("Add", chain.value, chain.constant(_of_size(chain, bias[0])))


def _of_size(chain: _Chain, bias: Array) -> Array:
    if bias.shape != chain.frame[-1:]:
        raise FormatError(f"{chain.where}: weights[1]: expected ({chain.frame[-1]},), got {bias.shape}")
    return bias


def _conv1d(chain: _Chain) -> None:
    kernel_size, dilation, groups = (
        chain.integer(*field) for field in (("kernel_size",), ("dilation",), ("groups", 1))
    )
    inputs = chain.flat()
    if inputs % groups:
        raise FormatError(f"{chain.where}: groups: expected a divisor of {inputs} channels, got {groups}")
    kernel, *bias = chain.weights((kernel_size, inputs // groups, "O"), ("O",), least=1)
    chain.channels_first()
    _convolved(chain, kernel, bias, (kernel.shape[2],), group=groups, dilations=(dilation,),
               pads=((kernel_size - 1) * dilation, 0))  # fmt: skip


def _conv2d(chain: _Chain) -> None:
    time, features = chain.integer("kernel_size_time"), chain.integer("kernel_size_feature")
    dilation, stride = chain.integer("dilation"), chain.integer("strides")
    padding, size = chain.layer.get("padding"), chain.integer("num_features_in")
    if padding not in ("same", "valid"):
        raise FormatError(f"{chain.where}: padding: expected 'same' or 'valid', got {padding!r}")
    _spread(chain)
    kernel, *bias = chain.weights((time, features, chain.frame[1], "O"), ("O",), least=1)
    places = -(-(size if padding == "same" else size - features + 1) // stride)
    total = max(0, (places - 1) * stride + features - size) if padding == "same" else 0
    chain.channels_first()
    _convolved(chain, kernel, bias, (places, kernel.shape[3]), dilations=(dilation, 1), strides=(1, stride),
               pads=((time - 1) * dilation, total // 2, 0, total - total // 2))  # fmt: skip


def _convolved(chain: _Chain, kernel: Array, bias: list[Array], frame: tuple[int, ...], **geometry: Any) -> None:
    """A convolution by a kernel (..., inputs, outputs), and what a frame holds behind it."""
    weights = chain.constant(np.moveaxis(kernel, (-1, -2), (0, 1)))
    chain.frame = frame
    more = [chain.constant(_of_size(chain, bias[0]))] if bias else []
    chain.op("Conv", chain.value, weights, *more, **geometry)
    chain.channels_last()


def _spread(chain: _Chain) -> None:
    """Give a frame its features and channels, as the layer counts them."""
    frame = (chain.integer("num_features_in"), chain.integer("num_filters_in"))
    if int(np.prod(chain.frame)) != frame[0] * frame[1]:
        raise FormatError(
            f"{chain.where}: num_features_in, num_filters_in: expected a frame of {chain.frame}, got {frame}"
        )
    if chain.frame != frame:
        chain.op("Reshape", chain.value, shape=(0, 0, *frame))
        chain.frame = frame


def _batchnorm(chain: _Chain) -> None:
    if chain.layer["type"] == "batchnorm2d":
        _spread(chain)
    else:
        chain.flat()
    size = chain.frame[-1]
    given = chain.layer.get("weights")
    affine = isinstance(given, list) and len(given) == 4
    arrays = chain.weights(*[(size,)] * (4 if affine else 2))
    scale, shift = arrays[:2] if affine else (np.ones(size), np.zeros(size))
    chain.channels_first()
    parameters = (scale, shift, *arrays[-2:])
    chain.op("BatchNormalization", chain.value, *map(chain.constant, parameters), epsilon=chain.epsilon)
    chain.channels_last()


def _prelu(chain: _Chain) -> None:
    (slopes,) = chain.weights((1, "S"))
    size = int(np.prod(chain.frame))
    if slopes.size not in (1, size):
        raise FormatError(f"{chain.where}: weights[0]: expected 1 or {size} slopes, got {slopes.size}")
    chain.op("PRelu", chain.value, chain.constant(slopes.reshape(chain.frame if slopes.size > 1 else (1,))))


def _gru(chain: _Chain) -> None:
    position = chain.where[len("layers[") : -1]
    inputs = chain.flat()
    (found,) = [each for each in find(as_keras(chain.layers)) if each.name == position]
    value = make([found._replace(config={**found.config, "time_major": False})], Weights(chain.layers))
    if value.spec.input_size != inputs:
        raise FormatError(f"{chain.where}: weights[0]: expected {inputs} rows, got {value.spec.input_size}")
    chain.value, _ = chain.writer.stack(value, chain.value, name=chain.where)
    chain.frame = (value.spec.hidden_size,)


def _activation(chain: _Chain) -> None:
    """Nothing but the activation."""


LAYERS: Mapping[str, Callable[[_Chain], None]] = {
    "dense": _dense,
    "time-distributed-dense": _dense,
    "conv1d": _conv1d,
    "conv2d": _conv2d,
    "gru": _gru,
    "batchnorm": _batchnorm,
    "batchnorm2d": _batchnorm,
    "prelu": _prelu,
    "activation": _activation,
}
