"""Reading files that may be damaged: what goes wrong comes out as a FormatError naming the file."""

from __future__ import annotations

import json
import struct
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cgru.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
        raise FormatError(f"{path}: {error}") from error.__cause__
    except DAMAGE as error:
        raise FormatError(f"{path}: expected a whole {kind} file: {type(error).__name__}: {error}") from error


def parse_json(name: str, text: str | bytes) -> dict[str, Any]:
    """A JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name}: expected JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{name}: expected a JSON object, got {type(value).__name__}")
    return value
