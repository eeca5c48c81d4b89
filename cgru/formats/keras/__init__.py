"""Keras: GRU, GRUCell, RNN(GRUCell), Bidirectional and stacks of them, as live layers and in files of Keras 2 and 3.

Live layers need Keras 3; files are read without it (`hdf5.py`). What the two share is `model.py`.
"""

from __future__ import annotations

import io
import itertools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.errors import FormatError
from cgru.formats import untrusted
from cgru.formats.keras import hdf5
from cgru.formats.keras.model import (
    FUNCTIONS,
    MODELS,
    WEIGHTS,
    Found,
    Store,
    cells_of,
    choose,
    columns,
    find,
    make,
    ours,
)
from cgru.formats.names import refuse_unknown
from cgru.model import activations
from cgru.model.value import Value, face

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from cgru.formats.keras.hdf5 import Object
    from cgru.gru import GRU, GRUCell
    from cgru.types import Array

    Place = tuple[tuple[str, ...], tuple[str, ...]]  # names and keys of a layer

MOST_UNPACKED = {"model.weights.h5": (0, 20), "config.json": (1 << 20, 2), "metadata.json": (1 << 20, 0)}
"""Of a .keras file's members: the bytes that each may unpack to, and how many times the file's own size besides. JSON
becomes objects of many times its size."""

DEPENDENCIES = "_layer_checkpoint_dependencies"
"""What Keras 2.13 to 2.15 call the group "layers"."""

# --- Live layers ------------------------------------------------------------------------------------------------------


def _library() -> Any:
    import keras

    if int(keras.__version__.split(".")[0]) < 3:
        raise ImportError(f"keras: expected version 3, got {keras.__version__}")
    return keras


def from_keras(layer: Any, name: str | None = None) -> GRU | GRUCell:
    """The same model as a cgru.GRU or GRUCell, its weights copied.

    Keras is batch-first, so is the model: x (B, T, I), y (B, T, D*H). It always returns the whole sequence and the last
    states, whatever `return_sequences` and `return_state` say; `gru(x, mask=mask)` is a call with a mask, with
    `mask_output="zero"` where the layer has zero_output_for_mask and in a Bidirectional. `stateful` and Keras' dropout
    on inputs and states have no part in inference and are left out; Dropout layers between the layers of a stack are
    the model's `dropout` if their rates agree. Weights of float16 and bfloat16 become float32.

    Parameters
    ----------
    layer : keras.layers.GRU, GRUCell, RNN(GRUCell), Bidirectional of GRU, or a model that holds them
        Built. In a model, layers of one size that follow each other become one GRU of several layers.
    name : str, optional
        Of the layer in a model with several, after the names of nested models: "encoder/gru_1"; or a nested model's.

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
    try:
        node = keras.saving.serialize_keras_object(layer)
        layers = choose(find(node), name)
    except NotImplementedError as error:  # a subclassed model without get_config
        raise FormatError(f"layer: expected a layer or model with a configuration: {error}") from error
    model: GRU | GRUCell = face(make(layers, _Live(keras, layer)))
    return model


class _Live:
    """Weights of layers in memory."""

    version = 3

    def __init__(self, keras: Any, root: Any) -> None:
        self.keras, self.root = keras, root

    def arrays(self, found: Found, directions: int) -> list[list[Array]]:
        layer = self.root
        if isinstance(layer, self.keras.Model):
            for name in found.names:
                layer = layer.get_layer(name)
        parts = [layer] if directions == 1 else [layer.forward_layer, layer.backward_layer]
        return [self._of_cell(found.name, getattr(part, "cell", part)) for part in parts]

    def _of_cell(self, name: str, cell: Any) -> list[Array]:
        if not cell.built:
            raise FormatError(f"{name}: expected a built layer: call it, or layer.build((None, None, I)), first")
        for field in ("activation", "recurrent_activation"):  # a function of one's own may bear a known name
            function = getattr(cell, field)
            known = getattr(self.keras.activations, getattr(function, "__name__", ""), None)
            if function is not known and getattr(function, "__name__", None) in FUNCTIONS:
                raise FormatError(f"{name}: {field}: expected Keras' own function, got another {function.__name__}")
        arrays = [np.asarray(self.keras.ops.convert_to_numpy(variable)) for variable in cell.weights]
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


# --- Files ------------------------------------------------------------------------------------------------------------


def load(
    path: str | os.PathLike[str],
    name: str | None = None,
    config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
) -> GRU:
    """The model in a file; see `read`."""
    gru: GRU = face(read(path, name, config))
    return gru


def read(
    path: str | os.PathLike[str],
    name: str | None = None,
    config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
) -> Value:
    """The GRU in a .keras file, a whole model's .h5 of Keras 2 or 3, or a file of weights alone; see `from_keras`.

    Parameters
    ----------
    path : path
        A .keras, .h5, .hdf5 or .weights.h5 file; read without Keras or an HDF5 library.
    name : str, optional
        Of the layer, where the file has several.
    config : mapping or path of its JSON, optional
        For a file of weights alone, which does not tell activations: `layer.get_config()` or `model.to_json()`.

    Raises
    ------
    cgru.FormatError
        Another kind of file, a damaged one, or one without exactly one GRU that can be mapped exactly.
    OSError
        The file cannot be read.
    """
    path = Path(path)
    given = None if config is None else _given(config)
    with untrusted.reading(path, "Keras"):
        if path.suffix == ".keras" or zipfile.is_zipfile(path):
            return _load_archive(path, name, given)
        with path.open("rb") as stream:
            return _load_h5(hdf5.File(stream, path.stat().st_size).root(), name, given)


def _given(config: Mapping[str, Any] | str | os.PathLike[str]) -> dict[str, Any]:
    """The argument `config`, as {"class_name": ..., "config": ...}."""
    if not isinstance(config, Mapping):
        path = Path(config)
        with untrusted.reading(path, "JSON"):
            config = untrusted.parse_json("config", path.read_bytes())
    if "class_name" in config:
        return dict(config)
    for field, kind in {
        "input_layers": "Functional",
        "layers": "Sequential",
        "units": "GRU",
        "cell": "RNN",
        "layer": "Bidirectional",
    }.items():
        if field in config:
            return {"class_name": kind, "config": config}
    raise FormatError(f"config: expected the configuration of a layer or model, got the fields {sorted(config)}")


def _whole(layers: Sequence[Found], store: Store) -> Value:
    value = make(layers, store)
    if not value.spec.stacked:
        raise FormatError(f"{layers[0].name}: expected a layer, got a cell")
    return value


def _refuse(given: object) -> None:
    if given is not None:
        raise FormatError("config: expected None, since the file has its own")


def _load_archive(path: Path, name: str | None, given: object) -> Value:
    """A .keras file: a zip archive of config.json, metadata.json and model.weights.h5."""
    _refuse(given)
    with zipfile.ZipFile(path) as archive:

        def member(wanted: str) -> bytes:
            info = archive.getinfo(wanted)
            fixed, ratio = MOST_UNPACKED[wanted]
            bound = fixed + ratio * path.stat().st_size
            if info.file_size > bound:
                raise FormatError(f"{wanted}: expected at most {bound} bytes, got {info.file_size}")
            if info.compress_type not in (
                zipfile.ZIP_STORED,
                zipfile.ZIP_DEFLATED,
            ):  # the others unpack without a bound
                raise FormatError(f"{wanted}: expected it stored or deflated, got compression {info.compress_type}")
            with archive.open(wanted) as file:
                return file.read(bound + 1)[:bound]

        version = _major(untrusted.parse_json("metadata.json", member("metadata.json")).get("keras_version"))
        layers = choose(find(untrusted.parse_json("config.json", member("config.json"))), name)
        weights = member("model.weights.h5")
    return _whole(layers, _ByPlace(hdf5.File(io.BytesIO(weights), len(weights)).root(), version))


def _load_h5(root: Object, name: str | None, given: dict[str, Any] | None) -> Value:
    """An HDF5 file: a whole model, or weights alone in the layout of Keras 3 or of Keras 2."""
    if (text := root.attribute("model_config")) is not None:
        _refuse(given)
        node = untrusted.parse_json("model_config", text)
        weights = root.child("model_weights")
        return _whole(choose(find(node), name), _ByName(weights, _major(root.attribute("keras_version"))))
    if given is None:
        raise FormatError(
            "config: expected a layer's or model's configuration, since the file holds weights alone and does not tell "
            "the activations: layer.get_config() or model.to_json()"
        )
    by_name = bool(_listed(root, "layer_names"))
    stated = given.get("keras_version") or root.attribute("keras_version")
    version = _major(stated) if stated or by_name else 2 if DEPENDENCIES in root.members() else 3
    store = _ByName(root, version) if by_name else _ByPlace(root, version)
    if given["class_name"] in MODELS:
        return _whole(choose(find(given), name), store)
    if not ours(given):
        raise FormatError(f"config: expected a GRU's, got {given['class_name']}")
    kind, config = given["class_name"], given["config"]
    if by_name:
        places: list[Place] = [((name or config["name"],), ())]
    else:
        places = _places(
            root, kind == "Bidirectional", cells_of(Found(("config",), (), kind, config, (), 0.0))[0]["units"]
        )
    found = [Found(names, keys, kind, config, (), 0.0) for names, keys in places]
    if name is None and len(found) > 1:
        found = [f for f in found if f.name == config["name"]] or found
    return _whole(choose(found, name), store)


def _major(version: Any) -> int:
    """Keras' major version, which decides what hard_sigmoid means."""
    match = re.match(r"([23])\.", version) if isinstance(version, str) else None
    if match is None:
        raise FormatError(f"keras_version: expected 2 or 3, got {version!r}")
    return int(match[1])


class _ByPlace:
    """Weights in the layout of Keras 3: groups named by a layer's class and number, arrays by their own."""

    def __init__(self, root: Object, version: int) -> None:
        self.root, self.version = root, version

    def arrays(self, found: Found, directions: int) -> list[list[Array]]:
        sides = [[]] if directions == 1 else [["forward_layer"], ["backward_layer"]]
        renamed = DEPENDENCIES in self.root.members()
        keys = [DEPENDENCIES if key == "layers" and renamed else key for key in found.keys]
        result = []
        for side in sides:
            path = [*keys, *side, "cell", "vars"]
            group = self.root.child(*path)
            if group is None:
                raise FormatError(f"{found.name}: expected weights in {'/'.join(path)}, got none")
            result.append([_array(group, str(number)) for number in range(len(group.members()))])
        return result


class _ByName:
    """Weights in the layout of Keras 2: a group a layer of the outermost model, which lists its arrays' names."""

    def __init__(self, root: Object | None, version: int) -> None:
        self.root, self.version = root, version
        self.paths: dict[str, dict[str | None, list[list[str]]]] = {}

    def arrays(self, found: Found, directions: int) -> list[list[Array]]:
        group = None if self.root is None else self.root.child(found.names[0])
        if group is None:
            raise FormatError(f"{found.name}: expected a group of weights of its name, got none")
        paths = self._paths(found.names[0], group).get(found.names[-1] if len(found.names) > 1 else None, [])
        count = len(paths) // directions
        kinds = [path[-1].split(":")[0] for path in paths]
        if not 2 <= count <= 3 or kinds != [*WEIGHTS[:count]] * directions:
            got = ["/".join(path) for path in paths]
            raise FormatError(f"{found.name}: expected kernel, recurrent_kernel, bias a direction, got {got}")
        arrays = [_array(group, *path) for path in paths]
        return [arrays[k * count : (k + 1) * count] for k in range(directions)]

    def _paths(self, name: str, group: Object) -> dict[str | None, list[list[str]]]:
        """The paths of a group's arrays: under None all of them, under a part's name those with that part."""
        if name not in self.paths:
            paths: dict[str | None, list[list[str]]] = {None: []}
            for listed in _listed(group, "weight_names"):
                path = listed.split("/")
                for part in (None, *dict.fromkeys(path)):
                    paths.setdefault(part, []).append(path)
            self.paths[name] = paths
        return self.paths[name]


def _array(group: Object, *path: str) -> Array:
    child = group.child(*path)
    if child is None:
        raise FormatError(f"{'/'.join((*group.where.keys, *path))}: expected an array, got nothing")
    return child.array()


def _listed(group: Object, attribute: str) -> list[str]:
    """A list attribute, which Keras splits into parts numbered from 0 where it is long."""
    whole = group.attribute(attribute)
    if whole is not None:
        return list(whole)
    parts: list[str] = []
    for number in itertools.count():
        part = group.attribute(f"{attribute}{number}")
        if part is None:
            break
        parts += part
    return parts


def _places(root: Object, bidirectional: bool, units: int) -> list[Place]:
    """Names and keys of the groups with weights of GRUs of so many units, in a file in Keras 3's layout."""
    found: list[Place] = []
    seen = set()  # groups may lie within each other
    inside = ("forward_layer", "cell", "vars", "1") if bidirectional else ("cell", "vars", "1")
    waiting = [root]
    for group in waiting:
        if group.address in seen:
            continue
        seen.add(group.address)
        recurrent, own = group.child(*inside), group.child("vars")
        if recurrent is None:
            waiting += filter(None, map(group.child, group.members()))
        elif recurrent.shape == (units, 3 * units):
            keys = group.where.keys
            found.append((((own and own.attribute("name")) or keys[-1],), keys))
    return found
