"""The .safetensors format: parameters as tensors under PyTorch's names, every constructor option in the metadata.

In files of others there is no such metadata: names and shapes tell the GRU, and what they do not tell, as batch_first,
has its default.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.errors import FormatError
from cgru.formats import files, names
from cgru.model.precision import COMPUTE, PRECISIONS, Arithmetic, Matrix
from cgru.model.spec import KINDS, from_options
from cgru.model.value import Value, face

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy.typing as npt

    from cgru.gru import GRU, GRUCell
    from cgru.mingru import MinGRU
    from cgru.types import Array

STORED = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
"""The format's names of numbers."""

PLAIN = {"F32": "<f4", "F64": "<f8", "BOOL": "u1"} | {
    f"{sign}{bits}": f"<{sign.lower()}{bits // 8}" for sign in "IU" for bits in (8, 16, 32, 64)
}
"""The format's names of numbers that NumPy has, and the types that read their bytes."""

NARROW = {"float16": ("F16", "<f2"), "bfloat16": ("BF16", "<u2"), "int8": ("I8", "<i1")}
"""Of a quantized model's precisions: the format's name, and the NumPy type of the numbers."""

ARITHMETIC = {"input_limit": ("int8", None), "compute": ("bfloat16", "float32")}
"""What metadata may say besides: of which precision, and the usual, of which they say nothing."""

SCALE = ".scale"
"""What follows a weight's name in that of its scales."""

KEY = "cgru"
BLOCK = "block"
"""The option of pruned models."""

KIND = "model"
"""The option that names a model that is no GRU."""
SAVED = ("GRU", "MinGRU")
"""The metadata field that holds the options, as JSON."""

NETWORK_KEY = "cgru.network"
"""The one that holds the graph of a whole network (`network.py`)."""

VERSION_KEY, VERSION = "cgru.version", 1
"""The metadata field of the format's version, and today's. Files of before there was one have none: version 0."""


def library() -> Any:
    """The package safetensors, imported when first needed."""
    import safetensors
    import safetensors.numpy

    return safetensors


def save(value: Value, path: str | os.PathLike[str]) -> None:
    """Write a model; the file appears whole, or the one before it stays."""
    safetensors = library()
    options = {**value.spec.options, "dtype": value.spec.dtype.name, "precision": value.precision}
    if value.spec.kind != "GRU":
        options[KIND] = value.spec.kind
    if value.block is not None:
        options[BLOCK] = list(value.block)
    for option, (_, usual) in ARITHMETIC.items():
        if getattr(value.arithmetic, option) != usual:
            options[option] = getattr(value.arithmetic, option)
    tensors = {}
    for name, weights in value.parameters.items():
        tensors[name] = weights.numbers if isinstance(weights, Matrix) else weights
        if isinstance(weights, Matrix) and weights.scale is not None:
            tensors[name + SCALE] = weights.scale
    data = safetensors.numpy.save(tensors, metadata={KEY: json.dumps(options), VERSION_KEY: str(VERSION)})
    files.write(path, as_bfloat16(data, set(tensors)) if value.precision == "bfloat16" else data)


def as_bfloat16(data: bytes, names: Collection[str]) -> bytes:
    """A file in which some tensors of 16-bit integers, NumPy having no bfloat16, are called what they are."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    for name, entry in header.items():
        if name in names and entry.get("dtype") == "U16":
            entry["dtype"] = "BF16"
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[start:]


def load(path: Path, name: str | None = None) -> GRU | GRUCell | MinGRU:
    """The model in a file; see `read`."""
    model: GRU | GRUCell | MinGRU = face(read(path, name))
    return model


def read(path: Path, name: str | None = None) -> Value:
    """The GRU in a file: one that `save` wrote, or, in any other, the one whose weights have PyTorch's names."""
    files.refuse_lone_shard(path)
    weights = Weights(path)
    if NETWORK_KEY in weights.metadata:
        raise FormatError(f"{path}: expected one GRU, got a whole network; use cgru.Network.load")
    if KEY not in weights.metadata:
        weights.refuse_lost_options()
        chosen = names.choose(str(path), weights.shapes, name)
        return names.assemble(str(path), weights.arrays(chosen), {})
    check_version(str(path), weights.metadata)
    if name:
        raise FormatError(f"{path}: name: expected none, as the file holds one GRU without a name, got {name!r}")
    return _own(weights)


def holds_network(path: Path) -> bool:
    """Whether a file is a whole network."""
    return NETWORK_KEY in Weights(path).metadata


class Weights:
    """What a file holds, by name; numbers are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        safetensors = library()
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        try:
            with safetensors.safe_open(path, framework="numpy") as file:  # checks the header, and the size of the file
                self.metadata: dict[str, str] = file.metadata() or {}
        except (safetensors.SafetensorError, ValueError, TypeError, AttributeError) as error:
            raise FormatError(f"{path}: expected a whole .safetensors file: {error}") from error
        self.path = path
        with path.open("rb") as file:
            self._start = 8 + int.from_bytes(file.read(8), "little")
            self._header = json.loads(file.read(self._start - 8))
        self._header.pop("__metadata__", None)
        self.shapes = {key: tuple(entry["shape"]) for key, entry in self._header.items()}

    def refuse_lost_options(self) -> None:
        """Refuse a file of others that looks like one of ours, whose options damage would turn to defaults."""
        if any('"reset_after"' in text for text in self.metadata.values()):
            raise FormatError(f"{self.path}: metadata: expected the options under {KEY!r}, got {sorted(self.metadata)}")

    def arrays(self, chosen: Mapping[str, str]) -> dict[str, Array]:
        """Some of the tensors, under other names."""
        return {short: self.tensor(full) for short, full in chosen.items()}

    def tensor(self, key: str) -> Array:
        """A tensor; float16 and bfloat16 as float32."""
        where, kind, shape, data = self._content(key)
        return files.decode(where, STORED.get(kind, kind), shape, data)

    def plain(self, key: str) -> npt.NDArray[Any]:
        """A tensor of one of NumPy's types as it is."""
        where, kind, shape, data = self._content(key)
        if kind not in PLAIN:
            raise FormatError(f"{where}: expected {', '.join(PLAIN)}, got {kind}")
        array = files.undecoded(where, PLAIN[kind], shape, data, kind)
        return array != 0 if kind == "BOOL" else array.astype(array.dtype.newbyteorder("="))

    def narrow(self, key: str, precision: str) -> npt.NDArray[Any]:
        """A tensor's numbers as they are stored."""
        where, kind, shape, data = self._content(key)
        wanted, stored = NARROW[precision]
        if kind != wanted:
            raise FormatError(f"{where}: expected {wanted} for weights of {precision}, got {kind}")
        return files.undecoded(where, stored, shape, data)

    def _content(self, key: str) -> tuple[str, str, list[int], bytes]:
        """Where a tensor stands, its dtype, shape and bytes."""
        entry = self._header[key]
        begin, end = entry["data_offsets"]
        with self.path.open("rb") as file:
            file.seek(self._start + begin)
            return f"{self.path}: {key}", entry["dtype"], entry["shape"], file.read(end - begin)


def check_version(source: str, metadata: Mapping[str, str]) -> None:
    """Refuse a file of a later version than this package knows."""
    version = metadata.get(VERSION_KEY, "0")
    if not version.isdecimal() or int(version) > VERSION:
        raise FormatError(
            f"{source}: {VERSION_KEY}: expected a version up to {VERSION}, got {version!r}; a newer cgru may read it"
        )


def _own(weights: Weights) -> Value:
    """A model of the options that `save` wrote."""
    path, keys = weights.path, weights.shapes.keys()
    try:
        options = json.loads(weights.metadata[KEY])
    except ValueError as error:
        raise FormatError(f"{path}: metadata {KEY}: expected JSON: {error}") from error
    kind = options.pop(KIND, "GRU") if isinstance(options, dict) else "GRU"
    if kind not in SAVED:
        raise FormatError(f"{path}: metadata {KEY}: {KIND}: expected one of {', '.join(SAVED)}, got {kind!r}")
    expected = {*KINDS[kind].options, "precision"}
    if isinstance(options, dict):
        expected |= {BLOCK} & set(options)
        expected |= {key for key, (precision, _) in ARITHMETIC.items() if options.get("precision") == precision} & set(
            options
        )
    if not isinstance(options, dict) or set(options) != expected:
        got = sorted(options) if isinstance(options, dict) else options
        raise FormatError(f"{path}: metadata {KEY}: expected the options {sorted(expected)}, got {got}")
    try:
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        if options["dtype"] not in ("float32", "float64"):
            raise ValueError(f"dtype: expected 'float32' or 'float64', got {options['dtype']!r}")
        precision = checks.choice("precision", options.pop("precision"), ("float32", *PRECISIONS))
        block = options.pop(BLOCK, None)
        if block is not None:
            units, inputs = (checks.integer(BLOCK, size, 1, 2**16) for size in block)
            block = units, inputs
        limit = options.pop("input_limit", None)
        if limit is not None and not (isinstance(limit, (int, float)) and 0 < limit < float("inf")):
            raise ValueError(f"input_limit: expected a positive number or null, got {limit!r}")
        compute = checks.choice("compute", options.pop("compute", "float32"), COMPUTE)
        parameters: dict[str, Array | Matrix] = {}
        for key in keys:
            if precision == "float32" or not key.startswith("weight"):
                parameters[key] = weights.tensor(key)
            elif not key.endswith(SCALE):
                scale = weights.tensor(key + SCALE) if precision == "int8" and key + SCALE in keys else None
                parameters[key] = matrix(key, precision, weights.narrow(key, precision), scale)
        options["dtype"] = np.dtype(options["dtype"])
        arithmetic = Arithmetic(compute, limit and float(limit))
        return Value.of(from_options(kind, options), parameters, arithmetic, block=block)
    except FormatError:
        raise
    except (TypeError, ValueError) as error:
        raise FormatError(f"{path}: {error}") from error


def matrix(name: str, precision: str, numbers: npt.NDArray[Any], scale: Array | None) -> Matrix:
    """Weights of a quantized model, if they are whole and finite."""
    if precision == "int8":
        if scale is None:
            raise ValueError(f"{name + SCALE}: expected the scales of int8 weights, got none")
        checks.array(name + SCALE, scale, np.dtype(np.float32), numbers.shape[:1])
    result = Matrix(precision, numbers, scale)
    finite = np.isfinite(result.wide())
    if not finite.all():
        raise ValueError(f"{name}: expected finite numbers, got {result.wide()[~finite][0]}")
    return result
