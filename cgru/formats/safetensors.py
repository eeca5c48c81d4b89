"""The .safetensors format: parameters as tensors under PyTorch's names, every constructor option in the metadata."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.errors import FormatError
from cgru.formats._writing import write
from cgru.gru import GRU

if TYPE_CHECKING:
    import os
    from pathlib import Path

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
    options = {**gru.options, "dtype": gru.dtype.name}
    data = safetensors.numpy.save(gru.state_dict(), metadata={KEY: json.dumps(options)})
    write(path, data)


def load(path: Path, name: str | None = None) -> GRU:
    """Read a model that `save` wrote; it has no name."""
    safetensors = _library()
    if name is not None:
        raise FormatError(f"{path}: name: expected None, since the file holds one model without a name, got {name!r}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (safetensors.SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise FormatError(f"{path}: expected a whole .safetensors file with tensors NumPy knows: {error}") from error
    if KEY not in metadata:
        raise FormatError(f"{path}: metadata: expected the field {KEY!r} that gru.save writes, got {sorted(metadata)}")
    try:
        options = json.loads(metadata[KEY])
    except ValueError as error:
        raise FormatError(f"{path}: metadata {KEY}: expected JSON: {error}") from error
    expected = GRU(1, 1, rng=0).options
    if not isinstance(options, dict) or set(options) != set(expected):
        got = sorted(options) if isinstance(options, dict) else options
        raise FormatError(f"{path}: metadata {KEY}: expected the options {sorted(expected)}, got {got}")
    try:
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        if options["dtype"] not in ("float32", "float64"):
            raise ValueError(f"dtype: expected 'float32' or 'float64', got {options['dtype']!r}")
        gru: GRU = GRU._restore({**options, "dtype": np.dtype(options["dtype"])}, tensors)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{path}: {error}") from error
    return gru
