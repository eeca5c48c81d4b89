"""Fitted estimators as .safetensors files: arrays by name, everything else as JSON in the metadata; nothing is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.errors import FormatError
from cgru.formats import FORMATS, files, untrusted
from cgru.formats.safetensors import VERSION, VERSION_KEY, check_version, library
from cgru.gru import GRU
from cgru.model.spec import from_options
from cgru.model.value import Value
from cgru.sklearn.network import HEAD, Network
from cgru.sklearn.training import Adam

if TYPE_CHECKING:
    import os

KEY = "cgru.sklearn"
"""The metadata field."""

GRU_PREFIX = "gru."
FACTS = {"n_features_in_": int, "n_iter_": int, "best_iter_": int, "_single": bool, "_takes_sequences": bool}
"""What is fitted and no array, and its type."""

NOT_HELD = {"callback"}
"""Parameters that are no data."""

KINDS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
"""NumPy's types of classes, besides text."""

MOST_TEXT = 1 << 26
"""Bytes of an array of classes that are text."""


def save(estimator: Any, path: str | os.PathLike[str]) -> None:
    """Write a fitted estimator; the file appears whole, or the one before it stays."""
    with FORMATS["safetensors"].using():
        safetensors = library()
    weights = estimator._network.weights
    tensors = {name if name in HEAD else GRU_PREFIX + name: array for name, array in weights.items()}
    tensors |= {name: np.ascontiguousarray(array) for name, array in estimator._arrays().items()}
    description = {
        "class": type(estimator).__name__,
        "parameters": {
            name: _plain(name, value)
            for name, value in estimator.get_params(deep=False).items()
            if name not in NOT_HELD
        },
        "fitted": {name: kind(getattr(estimator, name)) for name, kind in FACTS.items() if hasattr(estimator, name)},
    }
    if hasattr(estimator, "feature_names_in_"):
        description["feature_names"] = [str(name) for name in estimator.feature_names_in_]
    if hasattr(estimator, "classes_"):
        description["classes"] = _classes(estimator.classes_)
    files.write(
        path,
        safetensors.numpy.save(
            tensors, metadata={KEY: json.dumps(description, allow_nan=False), VERSION_KEY: str(VERSION)}
        ),
    )


def _plain(name: str, value: Any) -> Any:
    """A parameter as JSON holds it."""
    if name == "dtype":
        return np.dtype(value).name
    if name == "random_state" and not isinstance(value, (int, np.integer)):
        return None  # a generator's state is one of the training
    if name == "class_weight" and isinstance(value, dict):
        return [[_plain("", label), float(weight)] for label, weight in value.items()]
    return value.item() if isinstance(value, np.generic) else value


def _classes(classes: Any) -> dict[str, Any]:
    text = all(isinstance(label, str) for label in classes)
    kind = ("object" if classes.dtype == object else "str") if text else classes.dtype.name
    if not text and kind not in KINDS:
        raise TypeError(f"classes_: expected text, numbers or truth values in a file, got {classes.dtype}")
    return {"kind": kind, "values": classes.tolist()}


def load(cls: Any, path: str | os.PathLike[str]) -> Any:
    """The estimator of a class in a file, or a FormatError."""
    path = Path(path)
    with FORMATS["safetensors"].using():
        safetensors = library()
    with untrusted.reading(path, f"{cls.__name__}'s .safetensors"):
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except safetensors.SafetensorError as error:
            raise FormatError(f"expected a whole .safetensors file: {error}") from error
        if KEY not in metadata:
            raise FormatError(f"metadata: expected {KEY!r}, as save writes it, got {sorted(metadata)}")
        check_version("metadata", metadata)
        return _restore(cls, untrusted.parse_json(f"metadata {KEY}", metadata[KEY]), tensors)


def _restore(cls: Any, description: dict[str, Any], tensors: dict[str, Any]) -> Any:
    if description.get("class") != cls.__name__:
        raise FormatError(f"class: expected {cls.__name__}, got {description.get('class')!r}")
    parameters, fitted = description["parameters"], description["fitted"]
    estimator = cls()
    expected = set(estimator.get_params(deep=False)) - NOT_HELD
    if set(parameters) != expected:
        raise FormatError(f"parameters: expected {sorted(expected)}, got {sorted(parameters)}")
    if isinstance(parameters.get("class_weight"), list):
        parameters["class_weight"] = dict(parameters["class_weight"])
    estimator.set_params(**parameters)
    estimator._check_parameters()

    if set(fitted) != set(cls._facts):
        raise FormatError(f"fitted: expected {sorted(cls._facts)}, got {sorted(fitted)}")
    for name, value in fitted.items():
        if type(value) is not FACTS[name]:
            raise FormatError(f"{name}: expected {FACTS[name].__name__}, got {value!r}")
        setattr(estimator, name, checks.integer(name, value, 0) if FACTS[name] is int else value)
    estimator.loss_curve_, estimator.validation_curve_ = [], []
    estimator._adam, estimator._rng = Adam(), estimator._generator()
    features = checks.integer("n_features_in_", fitted["n_features_in_"], 1)
    if "feature_names" in description:
        names = description["feature_names"]
        if len(names) != features or not all(isinstance(name, str) for name in names):
            raise FormatError(f"feature_names: expected {features} names, got {names!r}")
        estimator.feature_names_in_ = np.array(names, dtype=object)
    _restore_network(estimator, features if fitted.get("_takes_sequences", True) else 1, tensors)
    outputs = len(estimator.head_bias_)
    if hasattr(cls, "predict_proba"):
        estimator.classes_ = _read_classes(description["classes"], outputs)
    return estimator


def _restore_network(estimator: Any, inputs: int, tensors: dict[str, Any]) -> None:
    """The GRU, the head and the other arrays, if they are all there, fit together and are finite."""
    parameters = {name[len(GRU_PREFIX) :]: tensors[name] for name in tensors if name.startswith(GRU_PREFIX)}
    gru = GRU.of(Value.of(from_options("GRU", estimator._gru_options(inputs)), parameters))
    sizes = {"I": inputs, "K": len(tensors["head.bias"]), "L": gru.num_layers, "H": gru.hidden_size}
    width = gru.hidden_size * (2 if gru.bidirectional else 1)
    shapes = {"head.weight": ("K", width), "head.bias": ("K",), **estimator._array_shapes()}
    others = {name for name in tensors if not name.startswith(GRU_PREFIX)}
    if others != set(shapes):
        raise FormatError(f"tensors: expected {sorted(shapes)} beside those of the GRU, got {sorted(others)}")
    for name, shape in shapes.items():
        dtype = gru.dtype if name == "state_" else np.dtype(np.float64)
        checks.array(name, tensors[name], dtype, tuple(sizes.get(str(size), size) for size in shape))
        if not name.startswith("head."):
            setattr(estimator, name, tensors[name])
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise FormatError(f"{name}: expected finite numbers, got {array[~np.isfinite(array)][0]}")
    network = Network(gru, 1, estimator._every_step, np.random.default_rng(0))
    network.head_weight, network.head_bias = (tensors[name] for name in HEAD)
    estimator._set_network(network)


def _read_classes(saved: dict[str, Any], count: int) -> Any:
    kind, values = saved["kind"], saved["values"]
    if kind not in ("object", "str", *KINDS) or not isinstance(values, list) or len(values) != count:
        raise FormatError(f"classes: expected {count} of text, numbers or truth values, got {saved!r}")
    if kind in ("object", "str") and not all(isinstance(value, str) for value in values):
        raise FormatError(f"classes: expected text, got {values!r}")
    size = 4 * count * max(map(len, values), default=0) if kind == "str" else 0
    if size > MOST_TEXT:  # an array of text has room for the longest in every place
        raise FormatError(f"classes: expected text of at most {MOST_TEXT} bytes as an array, got {size}")
    classes = np.array(values, dtype=kind)
    if not np.array_equal(np.unique(classes), classes):
        raise FormatError(f"classes: expected them in order, each once, got {values!r}")
    return classes
