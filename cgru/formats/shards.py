"""Weights spread over several files, by the index that Hugging Face's programs write beside them.

The index tells which name stands in which file. Files are named, never placed: they stand beside the index.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cgru import checks
from cgru.errors import FormatError
from cgru.formats import names, safetensors, torch, untrusted
from cgru.model.value import Value, face

if TYPE_CHECKING:
    from pathlib import Path

    from cgru.gru import GRU, GRUCell
    from cgru.types import Array

FILE = re.compile(r"(?!\.\.?$)[^/\\:\x00-\x1f]{1,255}")
"""A file's name without a path."""

ARCHIVE = b"PK"
"""How PyTorch's shards begin; others are .safetensors."""


def load(path: Path, name: str | None = None) -> GRU | GRUCell:
    """The model in the files of an index; see `read`."""
    model: GRU | GRUCell = face(read(path, name))
    return model


def read(path: Path, name: str | None = None) -> Value:
    """The GRU whose weights stand in the files that an index names: model.safetensors.index.json, *.bin.index.json."""
    with untrusted.reading(path, "index of shards"):
        homes = _homes(untrusted.load_json(path))
        shards = {path.with_name(file) for file in homes.values()}
        missing = [shard.name for shard in sorted(shards) if not shard.is_file()]
        if missing:
            raise FormatError(f"expected its shards beside it, but {checks.listed(missing)} missing")
        weights: dict[str, Any] = {}
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(homes, ())
        recurrent: dict[str, set[str]] = {}
        for key, file in homes.items():
            if names.LIKE.search(key):
                recurrent.setdefault(file, set()).add(key)
        for file, expected in recurrent.items():
            weights[file] = _open(path.with_name(file))
            got = {key for key in weights[file].shapes if names.LIKE.search(key)}
            if got != expected:
                raise FormatError(
                    f"weight_map: expected what {file} holds, but {checks.listed(sorted(got ^ expected))} "
                    "stands in one of the two alone"
                )
            shapes |= {key: weights[file].shapes[key] for key in expected}
        chosen = names.choose(str(path), shapes, name)
        arrays: dict[str, Array] = {}
        for file in dict.fromkeys(homes[full] for full in chosen.values()):
            arrays |= weights[file].arrays({short: full for short, full in chosen.items() if homes[full] == file})
        return names.assemble(str(path), {short: arrays[short] for short in chosen}, {})


def _homes(content: dict[str, Any]) -> dict[str, str]:
    """The file of each name."""
    homes = content.get("weight_map")
    if not isinstance(homes, dict) or not homes:
        raise FormatError(f"weight_map: expected names and their files, got {type(homes).__name__}")
    for key, file in homes.items():
        if not isinstance(file, str) or not FILE.fullmatch(file):
            raise FormatError(f"weight_map: {key}: expected the name of a file beside the index, got {file!r}")
    return homes


def _open(shard: Path) -> safetensors.Weights | torch.Weights:
    with shard.open("rb") as file:
        archive = file.read(2) == ARCHIVE
    if archive:
        return torch.Weights(shard)
    weights = safetensors.Weights(shard)
    weights.refuse_lost_options()
    return weights
