"""Keras' files: .keras, a whole model's .h5, and weights alone beside a configuration; read without Keras."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgru.errors import FormatError
from cgru.formats import untrusted
from cgru.formats.keras import hdf5, legacy
from cgru.formats.keras.model import cells_of, choose, make, named
from cgru.formats.keras.stores import DEPENDENCIES, ByName, ByPlace, by_name, elsewhere, places
from cgru.formats.keras.tree import MODELS, find, ours
from cgru.model.value import Value, face

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cgru.formats.keras.hdf5 import Object
    from cgru.formats.keras.tree import Found
    from cgru.gru import GRU, GRUCell

    Config = Mapping[str, Any] | str | os.PathLike[str]

MOST_UNPACKED = {"model.weights.h5": (0, 20), "config.json": (1 << 20, 2), "metadata.json": (1 << 20, 0)}
"""Of a .keras file's members: the bytes that each may unpack to, and how many times the file's own size besides. JSON
becomes objects of many times its size."""

KINDS = {
    "input_layers": "Functional",
    "layers": "Sequential",
    "units": "GRU",
    "output_dim": "GRU",
    "cell": "RNN",
    "layer": "Bidirectional",
}
"""What a configuration without its class is of, by a field that it has."""


def load(path: str | os.PathLike[str], name: str | None = None, config: Config | None = None) -> GRU | GRUCell:
    """The model in a file; see `read`."""
    model: GRU | GRUCell = face(read(path, name, config))
    return model


def read(path: str | os.PathLike[str], name: str | None = None, config: Config | None = None) -> Value:
    """The GRU in a .keras file, a whole model's .h5 of Keras 1 to 3, or a file of weights alone; see `from_keras`.

    Parameters
    ----------
    path : path
        A .keras, .h5, .hdf5 or .weights.h5 file; read without Keras or an HDF5 library.
    name : str, optional
        Of the layer, where the file has several; or where it lies, as "layers/gru".
    config : mapping, JSON text or path of it, optional
        For a file of weights alone, and for a layer within one whose own configuration does not have it, as a
        subclassed model's: `layer.get_config()` or `model.to_json()`.

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
            return _archive(path, name, given)
        with path.open("rb") as stream:
            return _h5(hdf5.File(stream, path.stat().st_size).root(), name, given)


def _given(config: Config) -> dict[str, Any]:
    """The argument `config`, as {"class_name": ..., "config": ...}."""
    if isinstance(config, str) and config.lstrip()[:1] in ("{", "["):
        config = untrusted.parse_json("config", config)
    elif isinstance(config, (str, os.PathLike)):
        path = Path(config)
        with untrusted.reading(path, "JSON"):
            config = untrusted.parse_json("config", path.read_bytes())
    elif not isinstance(config, Mapping):
        raise TypeError(f"config: expected a mapping, JSON text or the path of it, got {type(config).__name__}")
    if "class_name" in config and "config" in config:
        return dict(config)
    for field, kind in KINDS.items():
        if field in config:
            return {"class_name": kind, "config": config}
    raise FormatError(f"config: expected the configuration of a layer or model, got the fields {sorted(config)}")


def whole(path: Path) -> tuple[dict[str, Any], ByPlace | ByName]:
    """The configuration of the whole model in a file, and its weights."""
    if path.suffix == ".keras" or zipfile.is_zipfile(path):
        metadata, config, weights = _members(path)
        root = hdf5.File(io.BytesIO(weights), len(weights)).root()
        version = _major(untrusted.parse_json("metadata.json", metadata).get("keras_version"))
        return untrusted.parse_json("config.json", config), ByPlace(root, version)
    content = path.read_bytes()
    root = hdf5.File(io.BytesIO(content), len(content)).root()
    text = root.attribute("model_config")
    if text is None:
        raise FormatError("expected a whole model, got weights alone; save the model with model.save(path)")
    version = _version(root.attribute("keras_version"), text)
    return untrusted.parse_json("model_config", text), ByName(root.child("model_weights"), version, whole=True)


def _members(path: Path) -> tuple[bytes, bytes, bytes]:
    """Of a .keras file, a zip archive: metadata.json, config.json and model.weights.h5."""
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

        return member("metadata.json"), member("config.json"), member("model.weights.h5")


def _archive(path: Path, name: str | None, given: dict[str, Any] | None) -> Value:
    """A .keras file."""
    metadata, config, weights = _members(path)
    own = _own(untrusted.parse_json("config.json", config), name, given)
    root = hdf5.File(io.BytesIO(weights), len(weights)).root()
    version = _major(untrusted.parse_json("metadata.json", metadata).get("keras_version"))
    return _whole(own, ByPlace(root, version), root, name, given)


def _h5(root: Object, name: str | None, given: dict[str, Any] | None) -> Value:
    """An HDF5 file: a whole model, or weights alone in the layout of Keras 3 or of those before."""
    if (text := root.attribute("model_config")) is not None:
        own = _own(untrusted.parse_json("model_config", text), name, given)
        version = _version(root.attribute("keras_version"), text)
        return _whole(own, ByName(root.child("model_weights"), version, whole=True), root, name, given)
    if given is None:
        raise FormatError(
            "config: expected a layer's or model's configuration, since the file holds weights alone and does not tell "
            "the activations: cgru.load(path, config=layer.get_config()) or config=model.to_json(), on the command "
            "line --config of a file with this JSON"
        )
    stated = given.get("keras_version") or root.attribute("keras_version")
    if by_name(root):
        return _alone(ByName(root, _version(stated, given["config"]), whole=False), root, name, given)
    version = _major(stated) if stated else 2 if DEPENDENCIES in root.members() else 3
    return _alone(ByPlace(root, version), root, name, given)


def _own(tree: dict[str, Any], name: str | None, given: dict[str, Any] | None) -> Sequence[Found]:
    """The layers that are meant of a file's own configuration; none where it does not have them."""
    found = list(find(tree))
    if given is None:
        return choose(found, name) if found else []
    if found and (name is None or named(found, name)):
        raise FormatError("config: expected None, since the file has its own")
    return []


def _whole(
    own: Sequence[Found], store: ByPlace | ByName, root: Object, name: str | None, given: dict[str, Any] | None
) -> Value:
    """Of a file with a configuration, or by the given one where that does not have the layer."""
    if own:
        return make(own, store)
    if given is None:
        raise FormatError(
            "expected a GRU, RNN(GRUCell) or Bidirectional(GRU) layer, got none in the model's configuration"
            + (elsewhere(root) if isinstance(store, ByPlace) else "")
        )
    return _alone(store, root, name, given)


def _alone(store: ByPlace | ByName, root: Object, name: str | None, given: dict[str, Any]) -> Value:
    """Of a file of weights, by a configuration."""
    if given["class_name"] in MODELS:
        return make(choose(list(find(given)), name), store)
    if not ours(given):
        raise FormatError(f"config: expected a GRU's, got {given['class_name']}")
    (first, *_) = find(given)
    if isinstance(store, ByName):
        return make(choose(list(find(given, tuple((name or first.names[0]).split("/")))), None), store)
    side = ("forward_layer",) if first.kind == "Bidirectional" else ()
    units = cells_of(first)[0]["units"]
    found = [
        each
        for own, keys in places(root, (*first.keys, *side, *first.inner, "1"), units)
        for each in find(given, (own,), keys)
    ]
    if name is None and len(found) > 1:
        found = [each for each in found if each.names[0] == first.names[0]] or found
    return make(choose(found, name), store)


def _major(version: Any) -> int:
    """Keras' major version, which decides what hard_sigmoid means."""
    match = re.match(r"([123])\.", version) if isinstance(version, str) else None
    if match is None:
        raise FormatError(f"keras_version: expected 1, 2 or 3, got {version!r}")
    return int(match[1])


def _version(stated: Any, config: Any) -> int:
    """Keras' major version, which the files of the first one do not state everywhere."""
    return 1 if stated is None and any(field in config for field in legacy.RENAMED) else _major(stated)
