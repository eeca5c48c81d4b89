"""Layers to make networks of: `cgru.Network([cgru.nodes.Linear(40, 64, activation="relu"), gru, ...])`.

Names and arguments are those of torch.nn, and so are parameters' names and shapes, and how they are drawn. Sequences are
(T, B, features), or (B, T, features) where a GRU among the layers is batch_first: features are always the last axis, of
convolutions, too, which run over time.

>>> import numpy as np, cgru
>>> net = cgru.Network([cgru.nodes.Conv1d(40, 32, 3, padding="causal", activation="relu", rng=0), cgru.nodes.Linear(32, 5)])
>>> net(np.zeros((100, 1, 40), np.float32)).shape
(100, 1, 5)
"""  # noqa: E501

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.model.nodes.sizes import Size
from cgru.model.writing import Writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cgru.model.graph import Graph
    from cgru.types import Array

ACTIVATIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "relu": ("Relu", {}),
    "tanh": ("Tanh", {}),
    "sigmoid": ("Sigmoid", {}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "hard_swish": ("HardSwish", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
    "elu": ("Elu", {"alpha": 1.0}),
    "selu": ("Selu", {}),
    "celu": ("Celu", {"alpha": 1.0}),
    "gelu": ("Gelu", {"approximate": "none"}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
    "silu": ("Swish", {"alpha": 1.0}),
    "mish": ("Mish", {}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "log_softmax": ("LogSoftmax", {"axis": -1}),
    "exp": ("Exp", {}),
    "abs": ("Abs", {}),
}
"""By name the operator, and attributes where torch's defaults are others than ONNX's."""


def _activated(writer: Writer, x: str, activation: str | None, name: str) -> str:
    if activation is None:
        return x
    operator, attributes = ACTIVATIONS[activation]
    result: str = writer.add(operator, x, name=f"{name}.{activation}", **attributes)
    return result


def _activation(value: str | None) -> str | None:
    return None if value is None else checks.choice("activation", value, ACTIVATIONS)


class Layer:
    """What all layers have: parameters by torch's names."""

    def __init__(self, **parameters: Array) -> None:
        self._parameters = parameters

    def state_dict(self) -> dict[str, Array]:
        """The parameters, by name: copies."""
        return {name: array.copy() for name, array in self._parameters.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Replace all parameters by arrays of the same names and shapes.

        Raises
        ------
        TypeError, ValueError
            A parameter is missing, unknown, or of another shape; none has changed then.
        """
        if state_dict.keys() != self._parameters.keys():
            raise ValueError(
                f"state_dict: expected {checks.listed(self._parameters) or 'nothing'}, got {checks.listed(state_dict)}"
            )
        self._parameters = {
            name: _numbers(name, state_dict[name], array.shape) for name, array in self._parameters.items()
        }

    def features(self) -> int | None:
        """How many features it takes; None: any number."""
        return None

    def add(self, writer: Writer, x: str, name: str, time: int) -> str:
        """Write the layer behind a value (T, B, features), or (B, T, features) where `time` is 1; its result."""
        raise NotImplementedError

    def _constant(self, writer: Writer, name: str, key: str) -> str:
        return writer.constant(self._parameters[key], f"{name}.{key}")


def _numbers(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected numbers, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name}: expected {checks.describe(shape)}, got {checks.describe(array.shape)}")
    return np.array(array, np.float32)


def _drawn(rng: Any, bound: float, **shapes: tuple[int, ...]) -> dict[str, Array]:
    """Parameters from -bound to bound."""
    source = checks.generator(rng)
    return {name: source.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}


def _given(drawn: dict[str, Array], **given: Any) -> dict[str, Array]:
    """Parameters of which some are given as arrays, and a bias may be left out by False."""
    found = {}
    for name, array in drawn.items():
        value = given.get(name)
        if value is False:
            continue
        found[name] = array if value is None or value is True else _numbers(name, value, array.shape)
    return found


class Linear(Layer):
    """y = x W^T + b, then an activation.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool or (out_features,) array
    activation : str, optional
        One of `ACTIVATIONS`.
    weight : (out_features, in_features) array, optional
        Else drawn, as the bias, from -1 / sqrt(in_features) to that.
    rng : None, int or numpy.random.Generator
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool | Array = True,
        *,
        activation: str | None = None,
        weight: Array | None = None,
        rng: Any = None,
    ) -> None:
        self.in_features = checks.integer("in_features", in_features, 1)
        self.out_features = checks.integer("out_features", out_features, 1)
        self.activation = _activation(activation)
        drawn = _drawn(rng, 1 / math.sqrt(in_features), weight=(out_features, in_features), bias=(out_features,))
        super().__init__(**_given(drawn, weight=weight, bias=bias))

    def features(self) -> int:  # noqa: D102
        return self.in_features

    def add(self, writer: Writer, x: str, name: str, time: int) -> str:  # noqa: D102
        weight = writer.constant(np.ascontiguousarray(self._parameters["weight"].T), f"{name}.weight")
        y = writer.add("MatMul", x, weight, name=f"{name}.product")
        if "bias" in self._parameters:
            y = writer.add("Add", y, self._constant(writer, name, "bias"), name=f"{name}.sum")
        return _activated(writer, y, self.activation, name)


class Embedding(Layer):
    """Rows of a table by index; the first layer of a network, whose input is (T, B) int64 then."""

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, weight: Array | None = None, rng: Any = None
    ) -> None:
        checks.integer("num_embeddings", num_embeddings, 1)
        checks.integer("embedding_dim", embedding_dim, 1)
        shape = (num_embeddings, embedding_dim)
        drawn = {"weight": checks.generator(rng).standard_normal(shape).astype(np.float32)}
        super().__init__(**_given(drawn, weight=weight))

    def add(self, writer: Writer, x: str, name: str, time: int) -> str:  # noqa: D102
        table = self._constant(writer, name, "weight")
        result: str = writer.add("Gather", table, x, name=f"{name}.rows", axis=0)
        return result


class _OverTime(Layer):
    """A layer that runs over the time axis of (B, features, T)."""

    def add(self, writer: Writer, x: str, name: str, time: int) -> str:
        there, back = ((1, 2, 0), (2, 0, 1)) if time == 0 else ((0, 2, 1), (0, 2, 1))
        x = writer.add("Transpose", x, name=f"{name}.before", perm=there)
        y = self._windows(writer, x, name)
        result: str = writer.add("Transpose", y, name=f"{name}.behind", perm=back)
        return result

    def _windows(self, writer: Writer, x: str, name: str) -> str:
        raise NotImplementedError


def _pads(padding: Any, span: int) -> tuple[int, int]:
    """Frames of zeros before and behind."""
    if isinstance(padding, str):
        checks.choice("padding", padding, ("valid", "same", "causal"))
        return {"valid": (0, 0), "same": (span // 2, span - span // 2), "causal": (span, 0)}[padding]
    if isinstance(padding, tuple) and len(padding) == 2:
        before, after = (checks.integer("padding", one, 0) for one in padding)
        return before, after
    return (checks.integer("padding", padding, 0),) * 2


class Conv1d(_OverTime):
    """A convolution over time, then an activation.

    Parameters
    ----------
    in_channels, out_channels, kernel_size : int
    stride, dilation, groups : int
    padding : int, (before, behind), "valid", "same" or "causal"
        Frames of zeros at the ends of time. What is "causal" looks back alone; frames behind are looked ahead for,
        which is the `delay` of a stream.
    bias : bool or (out_channels,) array
    activation : str, optional
    weight : (out_channels, in_channels / groups, kernel_size) array, optional
    rng : None, int or numpy.random.Generator
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool | Array = True,
        *,
        activation: str | None = None,
        weight: Array | None = None,
        rng: Any = None,
    ) -> None:
        given = {"in_channels": in_channels, "out_channels": out_channels, "kernel_size": kernel_size}
        for key, value in (given | {"stride": stride, "dilation": dilation, "groups": groups}).items():
            checks.integer(key, value, 1)
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups: expected a divisor of {in_channels} and {out_channels} channels, got {groups}")
        self.in_channels = in_channels
        self.activation = _activation(activation)
        pads = _pads(padding, (kernel_size - 1) * dilation)
        self._attributes: dict[str, Any] = {
            "strides": (stride,),
            "dilations": (dilation,),
            "pads": pads,
            "group": groups,
        }
        shape = (out_channels, in_channels // groups, kernel_size)
        drawn = _drawn(rng, 1 / math.sqrt(shape[1] * kernel_size), weight=shape, bias=(out_channels,))
        super().__init__(**_given(drawn, weight=weight, bias=bias))

    def features(self) -> int:  # noqa: D102
        return self.in_channels

    def _windows(self, writer: Writer, x: str, name: str) -> str:
        constants = [self._constant(writer, name, key) for key in self._parameters]
        kernel = self._parameters["weight"].shape[2:]
        y = writer.add("Conv", x, *constants, name=f"{name}.convolution", kernel_shape=kernel, **self._attributes)
        return _activated(writer, y, self.activation, name)


class _Pool1d(_OverTime):
    operator = ""

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int | tuple[int, int] | str = 0) -> None:
        kernel_size = checks.integer("kernel_size", kernel_size, 1)
        stride = kernel_size if stride is None else checks.integer("stride", stride, 1)
        pads = _pads(padding, kernel_size - 1)
        self._attributes: dict[str, Any] = {"kernel_shape": (kernel_size,), "strides": (stride,), "pads": pads}
        super().__init__()

    def _windows(self, writer: Writer, x: str, name: str) -> str:
        result: str = writer.add(self.operator, x, name=f"{name}.pool", **self._attributes)
        return result


class MaxPool1d(_Pool1d):
    """The largest of some frames; torch's stride is the kernel's size where none is given, 1 streams."""

    operator = "MaxPool"


class AvgPool1d(_Pool1d):
    """The mean of some frames, padding included; torch's stride is the kernel's size where none is given, 1 streams."""

    operator = "AveragePool"

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int | tuple[int, int] | str = 0) -> None:
        super().__init__(kernel_size, stride, padding)
        self._attributes["count_include_pad"] = 1


class LayerNorm(Layer):
    """Features less their mean, over their deviation, times weight plus bias (Ba et al. 2016)."""

    def __init__(
        self,
        normalized_shape: int,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool | Array = True,
        *,
        weight: Array | None = None,
    ) -> None:
        self.size = checks.integer("normalized_shape", normalized_shape, 1)
        self.eps = float(eps)
        ones = {"weight": np.ones(self.size, np.float32), "bias": np.zeros(self.size, np.float32)}
        self.affine = checks.flag("elementwise_affine", elementwise_affine)
        super().__init__(**(_given(ones, weight=weight, bias=bias) if elementwise_affine else {}))

    def features(self) -> int:  # noqa: D102
        return self.size

    def add(self, writer: Writer, x: str, name: str, time: int) -> str:  # noqa: D102
        weight = self._parameters.get("weight", np.ones(self.size, np.float32))
        constants = [writer.constant(weight, f"{name}.weight")]
        if "bias" in self._parameters:
            constants.append(self._constant(writer, name, "bias"))
        result: str = writer.add("LayerNormalization", x, *constants, name=f"{name}.norm", axis=-1, epsilon=self.eps)
        return result


class BatchNorm1d(Layer):
    """Features less a running mean, over a running deviation, times weight plus bias: as in inference."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        *,
        weight: Array | None = None,
        bias: Array | None = None,
        running_mean: Array | None = None,
        running_var: Array | None = None,
    ) -> None:
        size = self.num_features = checks.integer("num_features", num_features, 1)
        self.eps = float(eps)
        ones, zeros = np.ones(size, np.float32), np.zeros(size, np.float32)
        known = {"weight": ones, "bias": zeros, "running_mean": zeros, "running_var": ones}
        given = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
        super().__init__(**_given(known, **given))

    def features(self) -> int:  # noqa: D102
        return self.num_features

    def add(self, writer: Writer, x: str, name: str, time: int) -> str:  # noqa: D102
        weight, bias, mean, variance = (array.astype(np.float64) for array in self._parameters.values())
        factor = weight / np.sqrt(variance + self.eps)
        scale = writer.constant(factor.astype(np.float32), f"{name}.scale")
        shift = writer.constant((bias - mean * factor).astype(np.float32), f"{name}.shift")
        result: str = writer.add("Add", writer.add("Mul", x, scale, name=f"{name}.product"), shift, name=f"{name}.sum")
        return result


class PReLU(Layer):
    """x, times a learned slope where it is negative; one slope, or one a feature."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25, *, weight: Array | None = None) -> None:
        size = checks.integer("num_parameters", num_parameters, 1)
        super().__init__(**_given({"weight": np.full(size, init, np.float32)}, weight=weight))

    def add(self, writer: Writer, x: str, name: str, time: int) -> str:  # noqa: D102
        result: str = writer.add("PRelu", x, self._constant(writer, name, "weight"), name=f"{name}.prelu")
        return result


class Activation(Layer):
    """A function of single elements by name, one of `ACTIVATIONS`; softmax and log_softmax are of the features."""

    def __init__(self, activation: str) -> None:
        self.activation = checks.choice("activation", activation, ACTIVATIONS)
        super().__init__()

    def add(self, writer: Writer, x: str, name: str, time: int) -> str:  # noqa: D102
        return _activated(writer, x, self.activation, name)


class Softmax(Activation):
    """exp(x) / sum(exp(x)) over the features."""

    def __init__(self) -> None:
        super().__init__("softmax")


class LogSoftmax(Activation):
    """The logarithm of `Softmax`."""

    def __init__(self) -> None:
        super().__init__("log_softmax")


class GLU(Layer):
    """The first half of the features, times the sigmoid of the second (Dauphin et al. 2017)."""

    def add(self, writer: Writer, x: str, name: str, time: int) -> str:  # noqa: D102
        a, b = writer.add("Split", x, name=f"{name}.halves", outputs=2, axis=-1, num_outputs=2)
        result: str = writer.add("Mul", a, writer.add("Sigmoid", b, name=f"{name}.gate"), name=f"{name}.product")
        return result


class Dropout(Layer):
    """Nothing, in inference."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()

    def add(self, writer: Writer, x: str, name: str, time: int) -> str:  # noqa: D102
        return x


class RNN(Layer):
    """A plain recurrent layer: h' = f(W x + b + U h + c), f tanh or relu."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        nonlinearity: str = "tanh",
        bias: bool = True,
        *,
        rng: Any = None,
        state_dict: Mapping[str, Any] | None = None,
    ) -> None:
        self.input_size = checks.integer("input_size", input_size, 1)
        self.hidden_size = checks.integer("hidden_size", hidden_size, 1)
        self.nonlinearity = checks.choice("nonlinearity", nonlinearity, ("tanh", "relu"))
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih_l0": (hidden_size, input_size), "weight_hh_l0": (hidden_size, hidden_size),
        }  # fmt: skip
        shapes |= {"bias_ih_l0": (hidden_size,), "bias_hh_l0": (hidden_size,)} if bias else {}
        super().__init__(**_drawn(rng, 1 / math.sqrt(hidden_size), **shapes))
        if state_dict is not None:
            self.load_state_dict(state_dict)

    def features(self) -> int:  # noqa: D102
        return self.input_size

    def add(self, writer: Writer, x: str, name: str, time: int) -> str:  # noqa: D102
        if time == 1:
            x = writer.add("Transpose", x, name=f"{name}.before", perm=(1, 0, 2))
        found = self._parameters
        constants = [
            writer.constant(found[f"weight_{key}_l0"][None], f"{name}.weight_{key}_l0") for key in ("ih", "hh")
        ]
        if "bias_ih_l0" in found:
            bias = np.concatenate([found["bias_ih_l0"], found["bias_hh_l0"]])[None]
            constants.append(writer.constant(bias, f"{name}.bias"))
        function = {"tanh": "Tanh", "relu": "Relu"}[self.nonlinearity]
        y = writer.add("RNN", x, *constants, name=f"{name}.rnn", activations=(function,))
        y = writer.add("Squeeze", y, name=f"{name}.states", axes=(1,))
        if time == 1:
            y = writer.add("Transpose", y, name=f"{name}.behind", perm=(1, 0, 2))
        result: str = y
        return result


class Last(Layer):
    """The last step of a sequence: (B, features); of a stream the latest."""

    def add(self, writer: Writer, x: str, name: str, time: int) -> str:  # noqa: D102
        place = writer.constant(np.array(-1), f"{name}.place")
        result: str = writer.add("Gather", x, place, name=f"{name}.last", axis=time)
        return result


class ArgMax(Layer):
    """The place of the largest feature, int64."""

    def add(self, writer: Writer, x: str, name: str, time: int) -> str:  # noqa: D102
        result: str = writer.add("ArgMax", x, name=f"{name}.argmax", axis=-1, keepdims=0)
        return result


class Residual(Layer):
    """x + f(x), f some layers one after the other; then an activation."""

    def __init__(self, layers: Sequence[Any], *, activation: str | None = None) -> None:
        self.layers = _checked(layers)
        self.activation = _activation(activation)
        super().__init__()

    def features(self) -> int | None:  # noqa: D102
        return next((found for layer in self.layers if (found := _features(layer)) is not None), None)

    def state_dict(self) -> dict[str, Array]:  # noqa: D102
        return {f"{i}.{key}": array for i, layer in enumerate(self.layers) for key, array in layer.state_dict().items()}

    def add(self, writer: Writer, x: str, name: str, time: int) -> str:  # noqa: D102
        y = _chain(writer, self.layers, x, f"{name}.", time)
        return _activated(writer, writer.add("Add", x, y, name=f"{name}.sum"), self.activation, name)


# --- Networks ---------------------------------------------------------------------------------------------------------


def _checked(layers: Iterable[Any]) -> list[Any]:
    found = list(layers)
    for i, layer in enumerate(found):
        if not isinstance(layer, Layer) and not hasattr(getattr(layer, "value", None), "spec"):
            raise TypeError(
                f"layers[{i}]: expected a layer of cgru.nodes, a cgru.GRU or a cgru.MinGRU, got {type(layer).__name__}"
            )
    return found


def _features(layer: Any) -> int | None:
    return layer.features() if isinstance(layer, Layer) else int(layer.value.spec.input_size)


def _models(layers: Iterable[Any]) -> list[Any]:
    """The GRUs among layers, those in residual ones, too."""
    found = []
    for layer in layers:
        found += _models(layer.layers) if isinstance(layer, Residual) else [layer] * (not isinstance(layer, Layer))
    return found


def _chain(writer: Writer, layers: Iterable[Any], x: str, prefix: str, time: int) -> str:
    for i, layer in enumerate(layers):
        name = f"{prefix}{i}"
        wanted = _features(layer)
        shape = writer.shapes.get(x)
        if wanted is not None and shape is not None and shape[-1] != wanted:
            raise ValueError(f"layers[{i}]: expected {wanted} features to come, got {shape[-1]} from the layer before")
        if isinstance(layer, Layer):
            x = layer.add(writer, x, name, time)
        else:
            x, _ = writer.stack(layer.value, x, name=name)
    return x


def graph_of(layers: Iterable[Any]) -> Graph:
    """The network that layers one after the other are, from "x" to "y".

    Raises
    ------
    TypeError, ValueError
        A layer is none, or its inputs are not what the one before it gives.
    """
    found = _checked(layers)
    if not found:
        raise ValueError("layers: expected one layer or more, got none")
    for model in _models(found):
        if model.value.precision != "float32":
            raise ValueError(
                f"layers: expected GRUs of float32 weights, got one of {model.value.precision}; quantize the network"
            )
    first = {bool(model.value.spec.batch_first) for model in _models(found)}
    if len(first) > 1:
        raise ValueError("layers: expected GRUs that all are batch_first, or none, got both")
    time = int(first == {True})
    axes = (Size("B"), Size("T")) if time else (Size("T"), Size("B"))
    writer = Writer("layers")
    if isinstance(found[0], Embedding):
        x = writer.input("x", axes, np.int64)
    else:
        size = Residual(found).features()
        if size is None:
            raise ValueError("layers: expected one that says how many features it takes, got none that does")
        x = writer.input("x", (*axes, size))
    return writer.graph({"y": _chain(writer, found, x, "", time)})
