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
from cgru.gru import GRU
from cgru.precision import PRECISIONS, upper_half

if TYPE_CHECKING:
    from cgru.gru import GRUCell
    from cgru.types import Array

KINDS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
"""The format's names of numbers."""

KEY = "cgru"
"""The metadata field that holds the options, as JSON."""


def _library() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            f'.safetensors files need the package safetensors: pip install "cgru[safetensors]" ({error})'
        ) from error
    return safetensors


def save(gru: GRU, path: str | os.PathLike[str]) -> None:
    """Write a model; the file appears whole, or the one before it stays."""
    safetensors = _library()
    options = {**gru.options, "dtype": gru.dtype.name, "precision": gru.precision}
    tensors = gru.state_dict()
    halves = [name for name in tensors if name.startswith("weight") and gru.precision != "float32"]
    for name in halves:
        half = gru.precision == "float16"
        tensors[name] = tensors[name].astype(np.float16) if half else upper_half(tensors[name])
    data = safetensors.numpy.save(tensors, metadata={KEY: json.dumps(options)})
    files.write(path, _as_bfloat16(data, halves) if gru.precision == "bfloat16" else data)


def _as_bfloat16(data: bytes, names: list[str]) -> bytes:
    """A file in which some tensors of 16-bit integers, NumPy having no bfloat16, are called what they are."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    for name in names:
        header[name]["dtype"] = "BF16"
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[start:]


def load(path: Path, name: str | None = None) -> GRU | GRUCell:
    """The GRU in a file: one that `save` wrote, or, in any other, the one whose weights have PyTorch's names."""
    safetensors = _library()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:  # checks the header, and the size of the file
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise FormatError(f"{path}: expected a whole .safetensors file: {error}") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)

        def tensor(key: str) -> Array:
            entry = header[key]
            begin, end = entry["data_offsets"]
            file.seek(8 + length + begin)
            kind = KINDS.get(entry["dtype"], entry["dtype"])
            return files.decode(f"{path}: {key}", kind, entry["shape"], file.read(end - begin))

        if KEY not in metadata:
            if any('"reset_after"' in text for text in metadata.values()):  # else damage would turn options to defaults
                raise FormatError(f"{path}: metadata: expected the options under {KEY!r}, got {sorted(metadata)}")
            shapes = {key: tuple(entry["shape"]) for key, entry in header.items()}
            chosen = names.choose(str(path), shapes, name)
            return names.assemble(str(path), {short: tensor(full) for short, full in chosen.items()}, {})
        if name:
            raise FormatError(f"{path}: name: expected none, as the file holds one GRU without a name, got {name!r}")
        return _own(path, metadata[KEY], {key: tensor(key) for key in header})


def _own(path: Path, text: str, tensors: dict[str, Array]) -> GRU:
    """A GRU of the options that `save` wrote."""
    try:
        options = json.loads(text)
    except ValueError as error:
        raise FormatError(f"{path}: metadata {KEY}: expected JSON: {error}") from error
    expected = {*GRU(1, 1, rng=0).options, "precision"}
    if not isinstance(options, dict) or set(options) != set(expected):
        got = sorted(options) if isinstance(options, dict) else options
        raise FormatError(f"{path}: metadata {KEY}: expected the options {sorted(expected)}, got {got}")
    try:
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        if options["dtype"] not in ("float32", "float64"):
            raise ValueError(f"dtype: expected 'float32' or 'float64', got {options['dtype']!r}")
        precision = checks.choice("precision", options.pop("precision"), ("float32", *PRECISIONS))
        gru: GRU = GRU._restore({**options, "dtype": np.dtype(options["dtype"])}, tensors, precision)
        changed = [name for name, array in gru._parameters.items() if not np.array_equal(array, tensors[name])]
        if precision != "float32" and changed:
            raise ValueError(f"{changed[0]}: expected numbers of {precision}, got others")
    except (TypeError, ValueError) as error:
        raise FormatError(f"{path}: {error}") from error
    return gru
