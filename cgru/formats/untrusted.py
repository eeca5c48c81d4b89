"""Reading files that may be damaged: what goes wrong comes out as a FormatError naming the file."""

from __future__ import annotations

import json
import struct
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cgru.types import Array

DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,  # RecursionError too
    struct.error,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)
"""What reading a damaged file may raise."""


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Say of whatever fails within that the file is not what it was taken for."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb"):  # an unreadable file is no damaged one
        pass
    try:
        yield
    except FormatError as error:
        message = str(error) if str(error).startswith(f"{path}: ") else f"{path}: {error}"
        raise FormatError(message) from error.__cause__
    except DAMAGE as error:
        raise FormatError(f"{path}: expected a whole {kind} file: {type(error).__name__}: {error}") from error


MAX_JSON = 1 << 28
"""Bytes of the largest text that is read; as JSON they are some 12 million weights."""


def load_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    if path.stat().st_size > MAX_JSON:
        raise FormatError(f"expected at most {MAX_JSON} bytes, got {path.stat().st_size}")
    return parse_json("content", path.read_bytes())


def parse_json(name: str, text: str | bytes) -> dict[str, Any]:
    """A JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name}: expected JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{name}: expected a JSON object, got {type(value).__name__}")
    return value


def numbers(name: str, lists: Any) -> Array:
    """Nested lists of JSON as an array of float32."""
    rows = [lists]
    while all(isinstance(row, list) for row in rows) and any(isinstance(part, list) for row in rows for part in row):
        rows = [part for row in rows for part in row]
    if not all(isinstance(row, list) and set(map(type, row)) <= {int, float} for row in rows):
        # Of text NumPy would make an array in which each is as wide as the longest.
        raise FormatError(f"{name}: expected finite numbers of float32, got others")
    try:
        array = np.asarray(lists)
    except ValueError as error:  # lists of different lengths
        raise FormatError(f"{name}: expected lists of numbers of one length: {error}") from error
    if array.dtype.kind not in "if" or not np.all(np.abs(array) <= np.finfo(np.float32).max):
        raise FormatError(f"{name}: expected finite numbers of float32, got others")
    return array.astype(np.float32)
