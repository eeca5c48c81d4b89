"""Models from files and other libraries' objects, and back: one file a format, load and save side by side.

A loader refuses rather than guesses: what it cannot map exactly is a `cgru.FormatError` that names the file, the field
and what was expected. No loader runs what a file says.
"""

from __future__ import annotations

import contextlib
import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cgru.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cgru.gru import GRU, GRUCell
    from cgru.mingru import MinGRU
    from cgru.model.value import Value


def _safetensors() -> Any:
    from cgru.formats import safetensors

    return safetensors


def _onnx() -> Any:
    from cgru.formats import onnx

    return onnx


def _torch() -> Any:
    from cgru.formats import torch

    return torch


def _keras() -> Any:
    from cgru.formats import keras

    return keras


def _rtneural() -> Any:
    from cgru.formats import rtneural

    return rtneural


class Format(NamedTuple):
    """A kind of file: how it is recognised, and what reads and writes it."""

    title: str
    """As messages call it."""
    suffixes: tuple[str, ...]
    """Of its files."""
    written: tuple[str, ...]
    """Of these, the suffixes of what `save` writes."""
    module: Callable[[], Any]
    """Its module, which has `load(path, name)`, or `load(path, name, config)`, and `save(value, path)`; imported when
    first needed, by a statement that can be read beforehand."""
    beginning: bytes = b""
    """A regular expression of a file's first bytes, of what is no zip archive."""
    entry: str = ""
    """Of a zip archive, the file in it that tells the format."""
    configured: bool = False
    """Whether `load` takes a config, too, for files that do not tell everything."""
    needs: str = ""
    """What pip installs for it; for Keras' only to write."""

    @contextlib.contextmanager
    def using(self) -> Iterator[Any]:
        """The module; where a package is missing within, the ImportError says what to install."""
        try:
            yield self.module()
        except ModuleNotFoundError as error:
            hint = f'{self.title} needs another package: pip install "{self.needs}" ({error})'
            raise ImportError(hint, name=error.name) from error

    def save(self, value: Value, path: str | os.PathLike[str]) -> None:
        """Write a file of this format."""
        with self.using() as module:
            module.save(value, path)


ZIP = b"PK\x03\x04"
"""How zip archives begin."""

FORMATS = {
    "safetensors": Format(
        ".safetensors", (".safetensors",), (".safetensors",), _safetensors, needs="cgru[safetensors]",
        beginning=rb".{7}\x00\{",  # the header's length, then the header
    ),
    "onnx": Format(
        "ONNX", (".onnx",), (".onnx",), _onnx, needs="cgru[onnx]",
        beginning=rb"[\x08\x12\x1a\x22\x28\x32\x3a\x42\x72]",  # the tag of one of the message's fields
    ),
    "torch": Format(
        "PyTorch", (".pt", ".pth"), (".pt", ".pth"), _torch, needs="cgru[torch]",
        entry="data.pkl",
    ),
    "keras": Format(
        "Keras", (".keras", ".h5"), (".keras",), _keras, configured=True, needs="keras>=3",
        beginning=rb"\x89HDF\r\n\x1a\n", entry="model.weights.h5",
    ),
    "rtneural": Format(
        "RTNeural", (".json",), (".json",), _rtneural,
        beginning=rb"\s*\{",
    ),
}  # fmt: skip
"""Every format, by its name; a file is of the first whose beginning it has."""

KNOWN = ", ".join(
    format.title if (format.title,) == format.suffixes else f"{format.title} ({', '.join(format.suffixes)})"
    for format in FORMATS.values()
)
"""The formats as messages list them."""

WRITTEN = {suffix: format for format in FORMATS.values() for suffix in format.written}
"""What writes a file, by its suffix."""


def load(
    path: str | os.PathLike[str],
    name: str | None = None,
    config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
) -> GRU | GRUCell | MinGRU:
    """The model in a file, whose content tells the format: .safetensors, ONNX, PyTorch, Keras, RTNeural.

    Parameters
    ----------
    path : path
    name : str, optional
        Which GRU, where a file holds several: the prefix of its parameters' names (.safetensors, PyTorch), its node's
        name (ONNX), its layer's name (Keras) or position (RTNeural). Without it there must be one; in ONNX, Keras and
        RTNeural one stack.
    config : mapping, JSON text or path of it, optional
        What a file of weights alone cannot tell, as Keras' .weights.h5: a layer's `get_config()`, or a model's
        `to_json()`.

    Returns
    -------
    GRU or GRUCell; MinGRU, which .safetensors files alone hold
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
    format = FORMATS[kind(path)]
    if config is not None and not format.configured:
        raise FormatError(f"{path}: config: expected None, since {format.title} files tell all that is needed")
    with format.using() as module:
        model: GRU | GRUCell | MinGRU = module.load(path, name, *([config] if format.configured else []))
    return model


def kind(path: Path) -> str:
    """The name of a file's format, by its first bytes and for a zip archive by what it contains."""
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(ZIP):
        try:
            with zipfile.ZipFile(path) as archive:
                entries = {name.rpartition("/")[2] for name in archive.namelist()}
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise FormatError(f"{path}: expected a whole zip archive: {error}") from error
        for name, format in FORMATS.items():
            if format.entry and format.entry in entries:
                return name
        raise FormatError(
            f"{path}: expected {KNOWN}, got a zip archive of {', '.join(sorted(entries)[:5]) or 'nothing'}"
        )
    for name, format in FORMATS.items():
        if format.beginning and re.match(format.beginning, start, re.DOTALL):
            return name
    mend = "; a bare pickle? write it again with torch.save, version 1.6 on" if start[:1] == b"\x80" else ""
    raise FormatError(f"{path}: expected {KNOWN}, got a file that begins with {start!r}{mend}")
