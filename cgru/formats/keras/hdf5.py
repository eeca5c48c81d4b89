"""As much of HDF5 as Keras' files use, read without trusting the file.

The HDF5 library crashes on some damaged files and never returns from others. This reader knows groups, attributes that
are texts, and floating-point arrays stored in one piece, as h5py writes them by default (the format's specification,
version 3.0, names the structures); `chunks.py` knows those in several. Every read is checked against the file's size
and counted, so that neither wrong offsets nor circles can do harm; links and other files' data are refused.
"""

from __future__ import annotations

import functools
import math
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgru.errors import FormatError
from cgru.formats.keras import chunks

if TYPE_CHECKING:
    from collections.abc import Iterator, KeysView
    from typing import BinaryIO

    from cgru.types import Array

SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = 2**64 - 1  # an address that leads nowhere
READS = 1_000_000
"""Most pieces read of one file; a circle ends here within seconds."""

MAX_NESTING = 256
"""Of groups within each other; Keras' files have two a nested model and five more."""

MAX_NAME = 1000
"""Bytes of a group's or array's name. Names may overlap in a file, so their lengths may add up to more than it has."""

UNPACKED = (1 << 22, 64)
"""Bytes that a file's arrays may unpack to, and how many times its own size besides. Weights hardly get smaller; those
of a pruned model do, to some tenth."""

DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL, LAYOUT, PIPELINE, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE = (
    0x01, 0x02, 0x03, 0x06, 0x07, 0x08, 0x0B, 0x0C, 0x10, 0x11,
)  # fmt: skip
"""The types of an object header's messages that are understood."""

FLOATS = {  # size, then precision, exponent's place and size, mantissa's place and size, bias
    (2, 16, 10, 5, 0, 10, 15): "f2",
    (2, 16, 7, 8, 0, 7, 127): "bfloat16",
    (4, 32, 23, 8, 0, 23, 127): "f4",
    (8, 64, 52, 11, 0, 52, 1023): "f8",
}


class Type(NamedTuple):
    """A datatype: "f2", "f4", "f8", "bfloat16", "opaque", "text", "long text" or "other", and its size in bytes."""

    kind: str
    size: int
    order: str = "<"


class File:
    """A file's bytes, handed out in pieces."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.stream, self.size, self.reads, self.budget = stream, size, 0, 4 * size + (1 << 20)
        self.unpacked = 0
        self.collections: dict[int, dict[int, tuple[int, int]]] = {}

    def read(self, at: int, count: int) -> bytes:
        """Bytes that are there; FormatError otherwise."""
        self.reads += 1
        self.budget -= count
        if at < 0 or count < 0 or at + count > self.size:
            raise FormatError(f"byte {at}: expected {count} bytes, got a file of {self.size}")
        if self.reads > READS or self.budget < 0:
            raise FormatError("expected a file without circles, got more data than it can hold")
        self.stream.seek(at)
        return self.stream.read(count)

    def spend(self, count: int) -> None:
        """Count bytes that unpacking is about to take; FormatError where they are too many for the file's size."""
        fixed, ratio = UNPACKED
        self.unpacked += count
        if self.unpacked > fixed + ratio * self.size:
            raise FormatError(
                f"expected arrays that unpack to at most {fixed + ratio * self.size} bytes, {ratio} times the file's "
                "size, got more; store them plainly: in h5py.File(path, 'r+') for each path of an array "
                "data = file[path][()]; del file[path]; file[path] = data"
            )

    def unpack(self, form: str, at: int) -> tuple[Any, ...]:
        """Little-endian numbers."""
        return struct.unpack("<" + form, self.read(at, struct.calcsize("<" + form)))

    def expect(self, at: int, signature: bytes) -> None:
        """A structure begins here."""
        got = self.read(at, len(signature))
        if got != signature:
            raise FormatError(f"byte {at}: expected {signature!r}, got {got!r}")

    def texts(self, collection: int) -> dict[int, tuple[int, int]]:
        """Of a collection of long texts: where each begins and its length, by its number; read once."""
        if collection not in self.collections:
            self.expect(collection, b"GCOL")
            (size,) = self.unpack("Q", collection + 8)
            found: dict[int, tuple[int, int]] = {}
            at = collection + 16
            while at + 16 <= collection + size:
                number, _, length = self.unpack("HH4xQ", at)
                if number == 0:
                    break
                found.setdefault(number, (at + 16, length))
                at += 16 + -(-length // 8) * 8
            self.collections[collection] = found
        return self.collections[collection]

    def root(self) -> Object:
        """The outermost group."""
        self.expect(0, SIGNATURE)
        (version,) = self.unpack("B", 8)
        if version > 3:
            raise FormatError(f"superblock: expected version 0 to 3, got {version}")
        places = {0: (13, 24, 40, 64), 1: (13, 28, 44, 68)}
        sizes, base, end, start = places.get(version, (9, 12, 28, 36))
        if self.unpack("BB", sizes) != (8, 8) or self.unpack("Q", base) != (0,):
            raise FormatError("superblock: expected offsets and lengths of 8 bytes from the file's beginning")
        (whole,) = self.unpack("Q", end)
        if whole > self.size:
            raise FormatError(f"expected {whole} bytes, got {self.size}")
        return Object(self, self.unpack("Q", start)[0], Where())


class Where(NamedTuple):
    """The names that lead to an object from the outermost group."""

    parent: Where | None = None
    key: str = ""
    depth: int = 0

    @property
    def keys(self) -> tuple[str, ...]:
        """The names in order."""
        names, where = [], self
        while where.parent is not None:
            names.append(where.key)
            where = where.parent
        return tuple(names[::-1])

    def __str__(self) -> str:
        return "/".join(("", *self.keys)) or "/"


class Object:
    """A group or an array; what it holds is looked up once."""

    def __init__(self, file: File, address: int, where: Where) -> None:
        self.file, self.address, self.where = file, address, where
        if where.depth > MAX_NESTING:
            raise FormatError(f"{'/'.join(where.keys[:5])}/...: expected groups at most {MAX_NESTING} levels deep")
        self.messages = list(self._messages())
        self._children: dict[str, Object] = {}
        self._attributes: dict[str, tuple[Type, tuple[int, ...] | None, bytes]] = {}
        self._further_attributes = _attributes(self.messages, where)

    def _messages(self) -> Iterator[tuple[int, bytes]]:
        """Type and content of each message of the header."""
        file, at = self.file, self.address
        if file.read(at, 4) == b"OHDR":
            version, flags = file.unpack("BB", at + 4)
            at += 6 + 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10)
            width = 1 << (flags & 3)
            (length,) = file.unpack({1: "B", 2: "H", 4: "I", 8: "Q"}[width], at)
            blocks = [(at + width, length)]
            head = "BHB" + "H" * bool(flags & 0x04)
        else:
            version, _, _, _, length = file.unpack("BBHII", at)
            blocks = [(at + 16, length)]
            head = "HHB3x"
        if version not in (1, 2):
            raise FormatError(f"{self.where}: expected an object header of version 1 or 2, got {version}")
        for start, length in blocks:  # grows by continuations
            at, end = start, start + length
            while at + struct.calcsize("<" + head) <= end:
                kind, size, flags = file.unpack(head, at)[:3]
                at += struct.calcsize("<" + head)
                if kind in (DATATYPE, DATASPACE) and flags & 2:
                    raise FormatError(f"{self.where}: expected a type of its own, got a shared one")
                content = file.read(at, size)
                at += size
                if kind == CONTINUATION:
                    where, length = struct.unpack_from("<QQ", content)
                    if version == 2:
                        file.expect(where, b"OCHK")
                        where, length = where + 4, length - 8
                    blocks.append((where, length))
                else:
                    yield kind, content

    def _content(self, kind: int) -> bytes | None:
        return next((content for found, content in self.messages if found == kind), None)

    # Groups

    def members(self) -> KeysView[str]:
        """The names of what the group holds."""
        return self._links.keys()

    def child(self, *names: str) -> Object | None:
        """What lies under the group by way of these names; None where there is no such thing."""
        found = self
        for name in names:
            if name not in found._children:
                address = found._links.get(name)
                if address is None:
                    return None
                if address == UNDEFINED:
                    raise FormatError(f"{Where(found.where, name)}: expected data of this file, got a link")
                found._children[name] = Object(self.file, address, Where(found.where, name, found.where.depth + 1))
            found = found._children[name]
        return found

    @functools.cached_property
    def _links(self) -> dict[str, int]:
        """The addresses of what the group holds; UNDEFINED for links to names."""
        links = {}
        for kind, content in self.messages:
            if kind == SYMBOL_TABLE:
                tree, heap = struct.unpack_from("<QQ", content)
                self.file.expect(heap, b"HEAP")
                _, size, _, names = self.file.unpack("B3xQQQ", heap + 4)
                text = self.file.read(names, size)
                links.update({_until_zero(text, at, MAX_NAME): address for at, address in self._symbols(tree, None)})
            elif kind == LINK:
                name, address = _link(content)
                links[name] = address
            elif kind == LINK_INFO:
                at = 2 + 8 * (content[1] & 1)
                if struct.unpack_from("<Q", content, at) != (UNDEFINED,):
                    raise FormatError(f"{self.where}: expected a group stored plainly, got an indexed one")
        return links

    def _symbols(self, at: int, level: int | None) -> Iterator[tuple[int, int]]:
        """Of a group's entries: where in the heap the name begins, and the address."""
        self.file.expect(at, b"TREE")
        kind, depth, used = self.file.unpack("BBH", at + 4)
        if kind != 0 or (level is not None and depth != level):
            raise FormatError(f"byte {at}: expected a group's tree, got something else")
        for k in range(used):
            (child,) = self.file.unpack("Q", at + 32 + 16 * k)
            if depth:
                yield from self._symbols(child, depth - 1)
                continue
            self.file.expect(child, b"SNOD")
            (count,) = self.file.unpack("H", child + 6)
            for n in range(count):
                yield self.file.unpack("QQ", child + 8 + 40 * n)

    # Attributes

    def attribute(self, name: str) -> Any:
        """A text or a list of texts; None where there is no such attribute."""
        while name not in self._attributes:
            found = next(self._further_attributes, None)
            if found is None:
                return None
            self._attributes.setdefault(found[0], found[1:])
        return self._texts(name, *self._attributes[name])

    def _texts(self, name: str, kind: Type, shape: tuple[int, ...] | None, data: bytes) -> Any:
        count = 0 if shape is None else math.prod(shape)
        if count and kind.kind not in ("text", "long text"):
            raise FormatError(f"{self.where}: {name}: expected text, got {kind.kind}")
        if count * max(kind.size, 1) > len(data):
            raise FormatError(
                f"{self.where}: {name}: expected {count} texts of {kind.size} bytes, got {len(data)} bytes"
            )
        items = [data[k * kind.size : (k + 1) * kind.size] for k in range(count)]
        texts = [self._long(item) if kind.kind == "long text" else item.rstrip(b"\0") for item in items]
        decoded = [text.decode() for text in texts]
        return decoded[0] if shape == () else decoded

    def _long(self, reference: bytes) -> bytes:
        """A text of any length, in a collection of them."""
        length, collection, index = struct.unpack("<IQI", reference)
        if length == 0:
            return b""
        at, stored = self.file.texts(collection).get(index, (0, -1))
        if length > stored:
            raise FormatError(f"byte {collection}: expected text number {index}, got none")
        return self.file.read(at, length)

    # Arrays

    @property
    def shape(self) -> tuple[int, ...] | None:
        """An array's shape; None for groups."""
        content = self._content(DATASPACE)
        return None if content is None else _shape(content)

    def array(self) -> Array:
        """The numbers of an array, widened to float32 or float64; bfloat16 also by the mark that Keras sets."""
        layout, datatype, shape = self._content(LAYOUT), self._content(DATATYPE), self.shape
        if layout is None or datatype is None:
            raise FormatError(f"{self.where}: expected an array, got a group")
        kind, size, order = _datatype(datatype)
        if kind == "opaque" and size == 2 and self.attribute("dtype") == "bfloat16":
            kind = "bfloat16"
        if kind not in FLOATS.values():
            raise FormatError(f"{self.where}: expected floating-point numbers, got {kind}")
        if shape is None or layout[0] not in (3, 4, 5) or layout[1] > 2 or self._content(EXTERNAL) is not None:
            raise FormatError(f"{self.where}: expected an array of numbers in the file, got none or another file's")
        expected = math.prod(shape) * size
        data: bytes | Array
        if layout[1] == 2:
            data = chunks.read(self.file, self.where, layout, self._content(PIPELINE), shape, size).reshape(-1)
        elif layout[1] == 0:
            (stored,) = struct.unpack_from("<H", layout, 2)
            data = layout[4 : 4 + stored]
        else:
            address, stored = struct.unpack_from("<QQ", layout, 2)
            data = b"" if stored != expected or address == UNDEFINED else self.file.read(address, stored)
        if len(data) != expected:
            raise FormatError(f"{self.where}: expected {expected} bytes, got {len(data)}")
        if kind == "bfloat16":
            halves = np.frombuffer(data, order + "u2").astype(np.uint32) << 16
            return halves.view(np.float32).reshape(shape)
        numbers = np.frombuffer(data, order + kind).reshape(shape)
        return numbers.astype(np.float64 if size == 8 else np.float32)


def _attributes(
    messages: list[tuple[int, bytes]], where: Where
) -> Iterator[tuple[str, Type, tuple[int, ...] | None, bytes]]:
    """Name, type, shape and bytes of each attribute, as far as somebody looks for one."""
    for kind, content in messages:
        if kind != ATTRIBUTE:
            continue
        version, flags, *sizes = struct.unpack_from("<BBHHH", content)
        if version not in (1, 2, 3) or (version > 1 and flags & 3):
            raise FormatError(f"{where}: expected attributes of version 1 to 3 with types of their own")
        at, parts = 9 if version == 3 else 8, []
        for size in sizes:
            parts.append(content[at : at + size])
            at += -(-size // 8) * 8 if version == 1 else size
        yield _until_zero(parts[0], 0), _datatype(parts[1]), _shape(parts[2]), content[at:]


def _until_zero(text: bytes, at: int, longest: int | None = None) -> str:
    end = text.find(b"\0", at, None if longest is None else at + longest + 1)
    if end < 0:
        raise FormatError(f"expected a name that ends after at most {longest or len(text)} bytes")
    return text[at:end].decode()


def _link(content: bytes) -> tuple[str, int]:
    """Name and address of a link message; UNDEFINED for links to names."""
    flags = content[1]
    kind = content[2] if flags & 8 else 0
    at = 2 + bool(flags & 8) + 8 * bool(flags & 4) + bool(flags & 16)
    width = 1 << (flags & 3)
    length = int.from_bytes(content[at : at + width], "little")
    at += width
    name = content[at : at + length].decode()
    return name, struct.unpack_from("<Q", content, at + length)[0] if kind == 0 else UNDEFINED


def _datatype(content: bytes) -> Type:
    number, size = content[0] & 15, struct.unpack_from("<I", content, 4)[0]
    order = ">" if content[1] & 1 else "<"
    if number == 1 and not content[1] & 0x40:
        _, precision, *rest = struct.unpack_from("<HHBBBBI", content, 8)
        return Type(FLOATS.get((size, precision, *rest), "other numbers"), size, order)
    if number == 9:
        return Type("long text" if content[1] & 15 == 1 and size == 16 else "lists", size)
    kinds = {0: "integers", 3: "text", 5: "opaque"}
    return Type(kinds.get(number, "another type"), size)


def _shape(content: bytes) -> tuple[int, ...] | None:
    """A shape; None for nothing at all."""
    version, rank, _, kind = struct.unpack_from("<BBBB", content)
    if version not in (1, 2) or rank > 32:
        raise FormatError(f"expected a shape of version 1 or 2 and up to 32 axes, got {version} and {rank}")
    if version == 2 and kind == 2:
        return None
    return struct.unpack_from(f"<{rank}Q", content, 8 if version == 1 else 4)
