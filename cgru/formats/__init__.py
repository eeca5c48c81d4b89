"""Models from files and other libraries' objects, and back: one file a format, load and save side by side.

A loader refuses rather than guesses: what it cannot map exactly is a `cgru.FormatError` that names the file, the field
and what was expected. No loader unpickles or executes what a file says.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

from cgru.errors import FormatError
from cgru.gru import GRU

READERS = {".safetensors": "safetensors", ".keras": "keras", ".h5": "keras", ".hdf5": "keras", ".json": "rtneural"}
"""The module that reads files of an extension."""


def load(path: str | os.PathLike[str], name: str | None = None) -> GRU:
    """The GRU in a file of cgru (.safetensors), Keras (.keras, .h5) or RTNeural (.json).

    Parameters
    ----------
    path : path
    name : str, optional
        Which GRU, where a file holds several; the error without it lists their names.

    Raises
    ------
    cgru.FormatError
        The file is of another kind, damaged, or holds something else than a GRU.
    OSError
        The file cannot be read.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise FormatError(f"{path}: expected a {', '.join(READERS)} file, got {path.suffix or 'no'} extension")
    reader = import_module(f"cgru.formats.{READERS[path.suffix]}")
    model: GRU = reader.load(path, name)
    return model
