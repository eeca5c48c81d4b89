"""Models from files and other libraries' objects, and back: one file a format, load and save side by side.

A loader refuses rather than guesses: what it cannot map exactly is a `cgru.FormatError` that names the file, the field
and what was expected. No loader runs what a file says.
"""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgru.errors import FormatError

if TYPE_CHECKING:
    from cgru.gru import GRU, GRUCell

KNOWN = ".safetensors, ONNX (.onnx), PyTorch (.pt, .pth), Keras (.keras, .h5), RTNeural (.json)"

BEGINNINGS = (
    (rb".{7}\x00\{", "safetensors"),  # the header's length, then the header
    (rb"\x89HDF\r\n\x1a\n", "keras"),
    (rb"\s*\{", "rtneural"),
    (rb"[\x08\x12\x1a\x22\x28\x32\x3a\x42\x72]", "onnx"),  # the tag of one of the message's fields
)
"""How files of a format begin, and the module that reads them."""

ENTRIES = (("data.pkl", "torch"), ("model.weights.h5", "keras"))
"""Of a zip archive: the file in it that tells the format, and the module that reads it."""


def _safetensors() -> Any:
    from cgru.formats import safetensors

    return safetensors


def _keras() -> Any:
    from cgru.formats import keras

    return keras


def _rtneural() -> Any:
    from cgru.formats import rtneural

    return rtneural


def _onnx() -> Any:
    from cgru.formats import onnx

    return onnx


def _torch() -> Any:
    from cgru.formats import torch

    return torch


READERS = {"safetensors": _safetensors, "keras": _keras, "rtneural": _rtneural, "onnx": _onnx, "torch": _torch}
"""The modules that read files, each imported when first needed, by a statement that can be read beforehand."""


def load(path: str | os.PathLike[str], name: str | None = None) -> GRU | GRUCell:
    """The GRU in a file, whose content tells the format: .safetensors, ONNX, PyTorch, Keras, RTNeural.

    Parameters
    ----------
    path : path
    name : str, optional
        Which GRU, where a file holds several: the prefix of its parameters' names (.safetensors, PyTorch), its node's
        name (ONNX), its layer's name (Keras) or position (RTNeural). Without it there must be one; in ONNX, Keras and
        RTNeural one stack.

    Returns
    -------
    GRU or GRUCell
        What a file does not tell, as batch_first in one of PyTorch's names, has the constructor's default.

    Raises
    ------
    cgru.FormatError
        The file is of another kind, damaged, or holds no GRU or several; the message lists their names.
    OSError
        The file cannot be read.
    ImportError
        The format needs a package that is missing; the message says which.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    model: GRU | GRUCell = READERS[kind(path)]().load(path, name)
    return model


def kind(path: Path) -> str:
    """The module for a file, by its first bytes and for a zip archive by what it contains."""
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(path) as archive:
                entries = {name.rpartition("/")[2] for name in archive.namelist()}
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise FormatError(f"{path}: expected a whole zip archive: {error}") from error
        for entry, module in ENTRIES:
            if entry in entries:
                return module
        raise FormatError(
            f"{path}: expected {KNOWN}, got a zip archive of {', '.join(sorted(entries)[:5]) or 'nothing'}"
        )
    for beginning, module in BEGINNINGS:
        if re.match(beginning, start, re.DOTALL):
            return module
    mend = "; a bare pickle? write it again with torch.save, version 1.6 on" if start[:1] == b"\x80" else ""
    raise FormatError(f"{path}: expected {KNOWN}, got a file that begins with {start!r}{mend}")
