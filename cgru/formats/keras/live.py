"""Live Keras layers and models to values and back, and .keras files written; this needs Keras 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.errors import FormatError
from cgru.formats.keras.model import FUNCTIONS, choose, columns, make
from cgru.formats.keras.tree import PASSED_OVER, RECURRENT, find, ours
from cgru.formats.names import refuse_unknown
from cgru.model import activations
from cgru.model.value import Value, face

if TYPE_CHECKING:
    import os

    from cgru.formats.keras.tree import Found
    from cgru.gru import GRU, GRUCell
    from cgru.types import Array


def _library() -> Any:
    import keras

    if int(keras.__version__.split(".")[0]) < 3:
        raise ImportError(f"keras: expected version 3, got {keras.__version__}")
    return keras


def from_keras(layer: Any, name: str | None = None) -> GRU | GRUCell:
    """The same model as a cgru.GRU or GRUCell, its weights copied.

    Keras is batch-first, so is the model: x (B, T, I), y (B, T, D*H). It always returns the whole sequence and the last
    states, whatever `return_sequences` and `return_state` say. With `go_backwards` it is a GRU of `reverse=True`, whose
    y is in the order of x: Keras' is y[:, ::-1]. `gru(x, mask=mask)` is a call with a mask, with
    `mask_output="zero"` where the layer has zero_output_for_mask and in a Bidirectional. `stateful` and Keras' dropout
    on inputs and states have no part in inference and are left out; Dropout layers between the layers of a stack are
    the model's `dropout` if their rates agree. Weights of float16 and bfloat16 become float32.

    Parameters
    ----------
    layer : keras.layers.GRU, GRUCell, RNN of one GRUCell or a list, Bidirectional of GRU, or what holds them
        Built. What holds them is any model or layer, subclassed ones and TimeDistributed too. In a Sequential or
        Functional model, layers of one size that follow each other become one GRU of several layers.
    name : str, optional
        Of the layer where there are several, after the names of what holds it: "encoder/gru_1"; or one of these.

    Raises
    ------
    cgru.FormatError
        There is no such layer, several that are no plain stack, or an option without an exact counterpart.

    Examples
    --------
    >>> import keras, cgru
    >>> layer = keras.layers.Bidirectional(keras.layers.GRU(8))
    >>> layer.build((None, None, 4))
    >>> cgru.from_keras(layer)
    GRU(4, 8, batch_first=True, bidirectional=True)
    """
    keras = _library()
    if not isinstance(layer, (keras.layers.Layer, keras.Model)):
        raise FormatError(f"layer: expected a Keras layer or model, got {type(layer).__name__}")
    found = {id(each.layer): each for each in find(_node(keras, layer))}  # once, however many models hold it
    model: GRU | GRUCell = face(make(choose(list(found.values()), name), _Live(keras)))
    return model


def _node(keras: Any, layer: Any) -> dict[str, Any]:
    """What `find` reads: the configuration of a layer that it knows, and of any other one the layers within it."""
    kind = type(layer).__name__
    node: dict[str, Any] = {"class_name": kind, "module": type(layer).__module__, "layer": layer}
    if kind in (*RECURRENT, *PASSED_OVER) and node["module"].startswith("keras."):
        try:
            node["config"] = keras.saving.serialize_keras_object(layer)["config"]
        except NotImplementedError:  # a cell of somebody's own without get_config
            node["config"] = {}
        if ours(node) or kind in PASSED_OVER:
            return node
    node["config"] = {"name": layer.name}
    if isinstance(layer, keras.Sequential) and type(layer).call is keras.Sequential.call:
        node["class_name"], node["module"] = "Sequential", "keras"
        node["config"]["layers"] = [_node(keras, part) for part in layer.layers]
        return node
    if kind == "Functional" and node["module"].startswith("keras."):
        try:
            wired = layer.get_config()["layers"]
        except NotImplementedError:  # a layer of somebody's own without get_config
            wired = None
        if wired is not None:
            layers = {part.name: _node(keras, part) for part in layer.layers}  # and there are operations without one
            node["config"]["layers"] = [{**part, **layers.get(part["name"], {})} for part in wired]
            return node
    if isinstance(layer, keras.layers.Bidirectional):
        sides = [_node(keras, side) for side in (layer.forward_layer, layer.backward_layer)]
        node["children"] = sides if all(map(ours, sides)) and type(layer) is keras.layers.Bidirectional else []
    elif isinstance(layer, keras.layers.RNN):  # its cell has no meaning of its own
        node["children"] = []
    else:
        node["children"] = [_node(keras, part) for part in layer._flatten_layers(include_self=False, recursive=False)]
    return node


def described(model: Any) -> dict[str, Any]:
    """A model's configuration as files have it, with the live layers beside their own; TypeError of something else."""
    keras = _library()
    if not isinstance(model, keras.Model):
        raise TypeError(f"model: expected a keras.Model, got {type(model).__name__}")
    return _described(keras, model)


def _described(keras: Any, layer: Any) -> dict[str, Any]:
    try:
        node = dict(keras.saving.serialize_keras_object(layer))
    except (NotImplementedError, TypeError, ValueError):  # a layer of somebody's own without get_config
        return {"class_name": type(layer).__name__, "module": type(layer).__module__, "config": {"name": layer.name}}
    node |= {"module": type(layer).__module__, "class_name": type(layer).__name__, "layer": layer}
    if not isinstance(node.get("config"), dict):
        node["config"] = {"name": layer.name}
    config = node["config"] = dict(node["config"])
    if isinstance(layer, keras.Model) and isinstance(config.get("layers"), list):
        parts = {part.name: part for part in layer.layers} | {part.name: part for part in getattr(layer, "_layers", [])}
        config["layers"] = [
            {**part, **_described(keras, parts[name])} if (name := _name_of(part)) in parts else part
            for part in config["layers"]
        ]
    elif isinstance(layer, keras.layers.TimeDistributed):
        config["layer"] = _described(keras, layer.layer)
    return node


def _name_of(part: Any) -> Any:
    return part.get("name") or part["config"].get("name")


def store() -> _Live:
    """Weights of the live layers that configurations have beside them."""
    return _Live(_library())


class _Live:
    """Weights of layers in memory."""

    version = 3
    reset_after: bool | None = None

    def __init__(self, keras: Any) -> None:
        self.keras = keras

    def arrays(self, found: Found, directions: int) -> list[list[Array]]:
        layer = found.layer
        parts = [layer] if directions == 1 else [layer.forward_layer, layer.backward_layer]
        return [self._of_cell(found.name, getattr(part, "cell", part)) for part in parts]

    def _of_cell(self, name: str, cell: Any) -> list[Array]:
        if not cell.built:
            raise FormatError(f"{name}: expected a built layer: call it, or layer.build((None, None, I)), first")
        for field in ("activation", "recurrent_activation"):  # a function of one's own may bear a known name
            function = getattr(cell, field, None)
            known = getattr(self.keras.activations, getattr(function, "__name__", ""), None)
            own = getattr(function, "__name__", None)
            if function is not known and own in FUNCTIONS:
                raise FormatError(f"{name}: {field}: expected Keras' own function, got another {own}")
        return self._arrays(cell)

    def own(self, layer: Any) -> list[Array]:
        """All arrays of a layer that is not recurrent, in Keras' order."""
        if not layer.live.built:
            raise FormatError(f"{layer.title}: expected a built layer: call the model first")
        return self._arrays(layer.live)

    def _arrays(self, layer: Any) -> list[Array]:
        arrays = [np.asarray(self.keras.ops.convert_to_numpy(variable)) for variable in layer.weights]
        return [array if array.dtype == np.float64 else array.astype(np.float32) for array in arrays]


def to_keras(value: Value) -> Any:
    """The same model as a built Keras layer, several layers as a keras.Sequential; both return whole sequences."""
    refuse_unknown(value, "Keras")
    keras = _library()
    model = value.spec
    options = {"reset_after": model.reset_after, "use_bias": model.bias, "dtype": model.dtype.name}
    for field, function in {"activation": model.candidate, "recurrent_activation": model.gate}.items():
        names = [name for name, option in FUNCTIONS.items() if activations.parse(field, option) == function]
        if not names:
            raise FormatError(
                f"{field}: Keras knows {', '.join(FUNCTIONS)} with its parameters, got {function.option!r}"
            )
        options[field] = names[0]
    if model.reverse:
        raise FormatError(
            "reverse: Keras leaves the outputs of go_backwards reversed, so it knows False only, got True"
        )
    if model.clip is not None:
        raise FormatError(f"clip: Keras knows None only, got {model.clip}")
    if model.update_gate == "candidate" and not model.gate.mirrored_by_negation:
        raise FormatError(f"update_gate: with {model.gate.option!r} Keras knows 'state' only, got 'candidate'")
    if not model.stacked:
        cell = keras.layers.GRUCell(model.hidden_size, **options)
        cell.build((None, model.input_size))
        cell.set_weights(columns(value, ""))
        return cell
    layers = []
    for k, (suffixes, inputs) in enumerate(model.layers):
        layer = keras.layers.GRU(model.hidden_size, return_sequences=True, **options)
        if model.bidirectional:
            layer = keras.layers.Bidirectional(layer, merge_mode=model.merge, dtype=model.dtype.name)
        layer.build((None, None, inputs))
        layer.set_weights([array for suffix in suffixes for array in columns(value, suffix)])
        if k > 0 and model.dropout > 0:
            layers.append(keras.layers.Dropout(model.dropout, dtype=model.dtype.name))
        layers.append(layer)
    if len(layers) == 1:
        return layers[0]
    return keras.Sequential([keras.Input((None, model.input_size), dtype=model.dtype.name), *layers])


def save(value: Value, path: str | os.PathLike[str]) -> None:
    """Write a .keras file of a keras.Sequential; keras.saving.load_model reads it."""
    keras, layer = _library(), to_keras(value)
    if not isinstance(layer, keras.Sequential):
        layer = keras.Sequential([keras.Input((None, value.spec.input_size), dtype=value.spec.dtype.name), layer])
    layer.save(path)
