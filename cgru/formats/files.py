"""What formats share about files: writing one whole or not at all, and numbers as files store them."""

from __future__ import annotations

import math
import os
import re
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from cgru.types import Array

STORED = {
    "float16": "<f2",
    "bfloat16": "<u2",  # the upper half of a float32
    "float32": "<f4",
    "float64": "<f8",
    "int32": "<i4",
    "int64": "<i8",
}
"""Kinds of numbers, and the NumPy types that read their little-endian bytes."""

MAX_AXES = 32
"""Of an array in a file; NumPy's have up to 64."""


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file; it appears whole, or the one before it stays.

    A symbolic link stays one, and the file that it names is written; an overwritten file keeps its permissions. What is
    no regular file, a pipe or a terminal, is written to as it is.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        with target.open("wb") as file:  # IsADirectoryError for a folder
            file.write(data)
        return
    temporary = target.with_name(f".{secrets.token_hex(8)}.part")  # short: the name of the target may be of any length
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def read(path: Path) -> bytes:
    """A file's bytes; FileNotFoundError where there is no such file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return path.read_bytes()


SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.\w+)", re.DOTALL)
"""How programs call the files over which they spread a model's weights."""


def refuse_lone_shard(path: Path) -> None:
    """Refuse a part of a model, by its name: it may hold some of a GRU's layers."""
    match = SHARD.fullmatch(path.name)
    if match and int(match[2]) > 1:
        index = f"{match[1]}{match[3]}.index.json"
        raise FormatError(
            f"{path}: expected a whole model, got one of {int(match[2])} shards; load {index} beside them"
        )


def decode(where: str, kind: str, shape: Sequence[int], data: bytes | memoryview) -> Array:
    """Stored numbers as an array; float16 and bfloat16 become float32, which holds each of their values exactly."""
    if kind not in STORED:
        raise FormatError(f"{where}: expected {', '.join(STORED)}, got {kind}")
    array = undecoded(where, STORED[kind], shape, data, kind)
    if kind == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32 if kind == "float16" else kind)


def undecoded(
    where: str, stored: str, shape: Sequence[int], data: bytes | memoryview, kind: str | None = None
) -> npt.NDArray[Any]:
    """Stored numbers as they are, of NumPy's type `stored`, which messages call `kind`.

    The shape is what a file claims: it must agree with the number of bytes before anything is made of them.
    """
    if len(shape) > MAX_AXES:
        raise FormatError(f"{where}: expected at most {MAX_AXES} dimensions, got {len(shape)}")
    size = math.prod(shape) * np.dtype(stored).itemsize
    if any(dimension < 0 for dimension in shape) or size != len(data):
        kind = kind or next((name for name, known in STORED.items() if known == stored), np.dtype(stored).name)
        raise FormatError(f"{where}: expected {size} bytes for {kind} of shape {tuple(shape)}, got {len(data)}")
    try:
        return np.frombuffer(data, stored).reshape(shape)
    except ValueError as error:  # of no numbers, and of more than there could be along an axis
        raise FormatError(f"{where}: expected a shape that an array can have: {error}") from error
