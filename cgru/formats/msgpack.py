"""Flax' msgpack files, `flax.serialization.to_bytes`: a tree of parameters, which `from_flax` reads.

The parser knows what Flax writes: maps, lists, numbers, text, and arrays as an extension. A size that a file claims is
believed when the bytes are there.
"""

from __future__ import annotations

import collections
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.errors import FormatError
from cgru.formats import files, trees, untrusted
from cgru.formats.flax import from_flax

if TYPE_CHECKING:
    from pathlib import Path

    from cgru.gru import GRU

FIXED = {
    0xCA: ">f", 0xCB: ">d",
    0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
"""Numbers: how their bytes are read."""

SIZED = {
    0xC4: ("bytes", ">B"), 0xC5: ("bytes", ">H"), 0xC6: ("bytes", ">I"),
    0xC7: ("extension", ">B"), 0xC8: ("extension", ">H"), 0xC9: ("extension", ">I"),
    0xD9: ("text", ">B"), 0xDA: ("text", ">H"), 0xDB: ("text", ">I"),
    0xDC: ("list", ">H"), 0xDD: ("list", ">I"),
    0xDE: ("map", ">H"), 0xDF: ("map", ">I"),
}  # fmt: skip
"""What comes with a size, and how that is read."""

SMALL = ((0x80, 0x8F, "map"), (0x90, 0x9F, "list"), (0xA0, 0xBF, "text"))
"""What has its size in the first byte."""

CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}

ARRAYS = (1, 3)
"""Flax' extensions of an array, and of one number as an array."""

CHUNKED = "__msgpack_chunked_array__"
"""The key of an array in pieces, as those beyond a gigabyte are."""


def load(path: Path, name: str | None = None) -> GRU:
    """The GRU in a file, with Flax' usual functions; `from_flax` tells what `name` may be."""
    with untrusted.reading(path, "msgpack"):
        reader = _Reader(path.read_bytes())
        tree = reader.value(())
        if reader.left():
            raise FormatError(f"expected one tree, got {reader.left()} bytes behind it")
        return from_flax(tree, name)


class _Reader:
    """Values from bytes, one after the other."""

    def __init__(self, data: bytes | memoryview, lists: bool = False) -> None:
        self.data = memoryview(data)
        self.at = 0
        self.lists = lists  # or they are left out: Flax keeps parameters in maps

    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, size: int) -> memoryview:
        if size > self.left():
            raise FormatError(f"expected {size} bytes at {self.at}, got {self.left()}")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, how: str) -> Any:
        return struct.unpack(how, self.take(struct.calcsize(how)))[0]

    def value(self, path: tuple[str, ...]) -> Any:
        """The next value; `path` leads to it."""
        trees.check_depth(path)
        first = self.number(">B")
        if first < 0x80 or first >= 0xE0:
            return first if first < 0x80 else first - 0x100
        if first in CONSTANTS:
            return CONSTANTS[first]
        if first in FIXED:
            return self.number(FIXED[first])
        for low, high, kind in SMALL:
            if low <= first <= high:
                return self.sized(kind, first - low, path)
        if 0xD4 <= first <= 0xD8:
            return self.sized("extension", 1 << (first - 0xD4), path)
        if first not in SIZED:
            raise FormatError(f"expected a value of msgpack at {self.at - 1}, got the byte {first:#x}")
        kind, how = SIZED[first]
        return self.sized(kind, self.number(how), path)

    def sized(self, kind: str, size: int, path: tuple[str, ...]) -> Any:
        if kind == "bytes":
            return self.take(size)
        if kind == "text":
            return str(self.take(size), "utf-8")
        if kind == "list":
            items = (self.value((*path, str(k))) for k in range(size))
            return list(items) if self.lists else collections.deque(items, 0) and None
        if kind == "map":
            return self.map(size, path)
        code = self.number(">B")
        content = self.take(size)
        return _array("/".join(path), content) if code in ARRAYS else None

    def map(self, size: int, path: tuple[str, ...]) -> Any:
        tree: dict[str, Any] = {}
        for _ in range(size):
            key = self.value(path)
            if not isinstance(key, str) or key in tree:
                raise FormatError(f"{'/'.join(path)}: expected names, each once, as keys, got {key!r}")
            tree[key] = self.value((*path, key))
        return _whole(tree) if CHUNKED in tree else tree


def _array(name: str, content: memoryview) -> Any:
    """An array: its shape, the name of its type, its bytes. Those of other types than a GRU's are left out."""
    reader = _Reader(content, lists=True)
    match reader.value(()):
        case [[*shape], str() | memoryview() as kind, memoryview() as data] if all(type(n) is int for n in shape):
            kind = kind if isinstance(kind, str) else str(kind, "utf-8")
            return files.decode(name, kind, shape, data) if kind in files.STORED else None
    raise FormatError(f"{name}: expected the shape, type and bytes of an array, got others")


def _whole(tree: dict[str, Any]) -> Any:
    """An array of its pieces."""
    shape, pieces = ([tree[part][str(k)] for k in range(len(tree[part]))] for part in ("shape", "chunks"))
    return np.concatenate(pieces).reshape(shape)
