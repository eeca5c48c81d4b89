"""Reading files that may be damaged or hostile: JSON and HDF5, with nothing allocated that the file does not hold.

What goes wrong inside `reading` comes out as a FormatError naming the file. h5py is imported by those who need it.
"""

from __future__ import annotations

import json
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
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)
"""What the libraries raise on a damaged file."""


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


def h5py() -> Any:
    """The package h5py."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f'Keras files need the package h5py: pip install "cgru[keras]" ({error})') from error
    return h5py


def h5_child(group: Any, *keys: str) -> Any:
    """What lies under `group` by way of these names, or None; links out of the file are refused."""
    for key in keys:
        link = group.get(key, getlink=True) if isinstance(group, h5py().Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py().HardLink):
            raise FormatError(f"{group.name}/{key}: expected data of this file, got a link")
        group = group[key]
    return group


def h5_array(dataset: Any, size: int) -> Array:
    """A dataset's numbers, widened to float32 or float64; `size` is the file's, in bytes.

    Only data stored as it is can be read, so that a small file cannot ask for much memory; bfloat16 is recognised by
    the mark that Keras sets.
    """
    h5 = h5py()
    if not isinstance(dataset, h5.Dataset):
        raise FormatError(f"{getattr(dataset, 'name', None)}: expected an array, got {type(dataset).__name__}")
    name = dataset.name
    plain = dataset.id.get_create_plist().get_layout() in (h5.h5d.CONTIGUOUS, h5.h5d.COMPACT)
    if not plain or dataset.external or dataset.shape is None:
        raise FormatError(f"{name}: expected an array stored in one piece, got chunks, compression or another file's")
    narrow = dataset.attrs.get("dtype") == "bfloat16" and dataset.dtype.itemsize == 2
    if not narrow and (dataset.dtype.kind != "f" or dataset.dtype.itemsize not in (2, 4, 8)):
        raise FormatError(f"{name}: expected floating-point numbers, got {dataset.dtype}")
    wanted = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize
    if wanted > size or wanted != dataset.id.get_storage_size():
        raise FormatError(f"{name}: expected {wanted} bytes, got {min(size, dataset.id.get_storage_size())}")
    if narrow:
        halves: Array = np.frombuffer(dataset[()].tobytes(), "<u2").reshape(dataset.shape)
        return (halves.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(dataset[()], np.float64 if dataset.dtype.itemsize == 8 else np.float32)
