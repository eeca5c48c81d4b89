"""Models from files and other libraries' objects, and back: one file a format, load and save side by side.

A loader refuses rather than guesses: what it cannot map exactly is a `cgru.FormatError` that names the file, the field
and what was expected. No loader runs what a file says.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cgru import checks
from cgru.errors import FormatError
from cgru.formats import others

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


def _shards() -> Any:
    from cgru.formats import shards

    return shards


def _lists() -> Any:
    from cgru.formats import lists

    return lists


def _msgpack() -> Any:
    from cgru.formats import msgpack

    return msgpack


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
    holds: bytes = b""
    """And one of what such a file has somewhere, where others begin alike."""
    entry: str = ""
    """Of a zip archive, the file in it that tells the format."""
    shared: bool = False
    """Whether files of other kinds may begin, or be made, like these: they are told first."""
    configured: bool = False
    """Whether `load` takes a config, too, for files that do not tell everything."""
    networks: bool = False
    """Whether files may be whole networks: the module's `holds_network(path)` tells."""
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


MODEL = re.compile(r"(?:pytorch_)?model(?:_\d+)?\.(?:safetensors|bin)(?:\.index\.json)?")
"""How accelerate and Hugging Face's programs call the file of a model in its folder."""

ZIP = b"PK\x03\x04"
"""How zip archives begin."""

FORMATS = {
    "safetensors": Format(
        ".safetensors", (".safetensors",), (".safetensors",), _safetensors, networks=True, needs="cgru[safetensors]",
        beginning=rb".{7}\x00\{",  # the header's length, then the header
    ),
    "onnx": Format(
        "ONNX", (".onnx",), (".onnx",), _onnx, shared=True, networks=True, needs="cgru[onnx]",
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
    "flax": Format(
        "Flax", (".msgpack",), (), _msgpack,
        beginning=rb"(?:[\x81-\x8f]|\xde..|\xdf....)[\xa0-\xbf\xd9-\xdb]",  # a map whose first key is text
    ),
    "shards": Format(
        "an index of shards", (".index.json",), (), _shards, needs="cgru[safetensors,torch]",
        beginning=rb"\s*\{", holds=rb'"weight_map"\s*:\s*\{',
    ),
    "lists": Format(
        "a state_dict as JSON", (".json",), (), _lists,
        beginning=rb"\s*\{", holds=rb'weight_(?:ih|hh)[^"]{0,30}"\s*:\s*\[',
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
    """The model in a file, whose content tells the format: .safetensors, ONNX, PyTorch, Keras, Flax, RTNeural.

    Parameters
    ----------
    path : path
        Of a file, of the index of shards, or of a folder with one model in it.
    name : str, optional
        Which GRU, where a file holds several: the prefix of its parameters' names (.safetensors, PyTorch, JSON), its
        node's name (ONNX), its layer's name (Keras), path (Flax) or position (RTNeural). Without it there must be one;
        in ONNX, Keras and RTNeural one stack.
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
        The file is of another kind, damaged, or holds no GRU or several; the message lists their names. A whole
        network that `cgru.Network.save` wrote is for `cgru.Network.load`.
    OSError
        The file cannot be read.
    ImportError
        The format needs a package that is missing; the message says which.
    """
    path = located(Path(path))
    format = FORMATS[kind(path)]
    if config is not None and not format.configured:
        raise FormatError(f"{path}: config: expected None, since {format.title} files tell all that is needed")
    with format.using() as module:
        model: GRU | GRUCell | MinGRU = module.load(path, name, *([config] if format.configured else []))
    return model


def holds_network(path: Path) -> bool:
    """Whether a file is a whole network: cgru's own, or an ONNX graph that does more than its GRUs.

    `load` takes GRUs out of the latter; `cgru.Network.load` takes all of it.
    """
    path = located(path)
    format = FORMATS[kind(path)]
    if not format.networks:
        return False
    with format.using() as module:
        found: bool = module.holds_network(path)
    return found


def located(path: Path) -> Path:
    """The file that a path means: itself, or the one model in a folder as accelerate and Hugging Face leave it."""
    if path.is_dir():
        found = [entry for entry in path.iterdir() if MODEL.fullmatch(entry.name) and entry.is_file()]
        if len(found) == 1:
            return found[0]
        if found:
            listed = checks.listed(sorted(entry.name for entry in found))
            raise FormatError(f"{path}: expected one model in the folder, got {listed}; load one by its path")
        others.refuse_folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return path


def kind(path: Path) -> str:
    """The name of a file's format, by its first bytes and for a zip archive by what it contains."""
    path = located(path)
    with path.open("rb") as file:
        start = file.read(others.BEGINNING)
    entries: list[str] = []
    if start.startswith(ZIP):
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.namelist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise FormatError(f"{path}: expected a whole zip archive: {error}") from error
    last = {entry.rpartition("/")[2] for entry in entries}
    name = next((n for n, f in FORMATS.items() if f.entry in last or (f.beginning and _has(path, start, f))), None)
    if name is None or FORMATS[name].shared:
        others.refuse(path, start, entries)
    if name is None:
        got = f"a zip archive of {checks.listed(entries, 5)}" if entries else f"a file that begins with {start[:16]!r}"
        raise FormatError(f"{path}: expected {KNOWN}, got {got}")
    return name


def _has(path: Path, start: bytes, format: Format) -> bool:
    """Whether a file begins as those of a format do, and holds what they hold."""
    if not re.match(format.beginning, start, re.DOTALL):
        return False
    if not format.holds:
        return True
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return re.search(format.holds, content) is not None
