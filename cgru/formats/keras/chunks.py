"""HDF5 arrays stored in chunks, plainly or through the filters gzip, shuffle and fletcher32; without trusting the file.

A table, a tree of nodes, lists where each chunk of an array lies. Before memory is asked for, the table must have every
chunk once, in bytes of its own; what a file's chunks may unpack to is bounded by the file's size (`File.spend`).
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgru.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cgru.formats.keras.hdf5 import File, Where
    from cgru.types import Array

UNDEFINED = 2**64 - 1  # an address that leads nowhere

GZIP, SHUFFLE, FLETCHER32 = 1, 2, 3
OTHERS = {4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf", 32001: "blosc", 32004: "lz4", 32015: "zstd"}
"""Filters that are known by name alone."""

MOST_FILTERS = 32

BLOCK = 1 << 16
"""Words of a checksum that are added up at a time."""


class Chunk(NamedTuple):
    """Where a chunk begins in its array, in elements, and where its bytes lie."""

    offset: tuple[int, ...]
    address: int
    stored: int
    skipped: int
    """A bit for each filter that this chunk did not go through."""


Filter = tuple[int, tuple[int, ...]]
"""A filter's number and parameters."""


def read(file: File, where: Where, layout: bytes, pipeline: bytes | None, shape: tuple[int, ...], size: int) -> Array:
    """The bytes (..., size) of an array of elements of that size."""
    filters = [] if pipeline is None else _filters(where, pipeline)
    sides, chunks = _table(file, where, layout)
    if len(sides) != len(shape) + 1 or sides[-1] != size or 0 in sides:
        raise FormatError(f"{where}: expected chunks of {len(shape)} axes of {size} bytes, got {(*sides,)}")
    counts = [-(-length // side) for length, side in zip(shape, sides, strict=False)]
    number, bytes_each = math.prod(counts), math.prod(sides)
    if number > file.size:  # an entry of the table takes more than a byte
        raise FormatError(f"{where}: expected at most {file.size} chunks, got {number}")
    found: dict[tuple[int, ...], Chunk] = {}
    for chunk in chunks:
        place = tuple(at // side for at, side in zip(chunk.offset, sides, strict=False))
        exact = all(k * side == at for k, side, at in zip(place, sides, chunk.offset, strict=False))
        if not exact or place in found or any(k >= count for k, count in zip(place, counts, strict=True)):
            raise FormatError(f"{where}: expected chunks side by side, got one at {chunk.offset}")
        found[place] = chunk
    if len(found) != number:
        raise FormatError(f"{where}: expected {number} chunks, got {len(found)}: some were never written")
    end = 0
    for chunk in sorted(found.values(), key=lambda chunk: chunk.address):
        if chunk.address < end:
            raise FormatError(f"{where}: expected chunks in bytes of their own, got two at byte {chunk.address}")
        end = chunk.address + chunk.stored
    file.spend(math.prod(shape) * size)
    result = np.empty((*shape, size), np.uint8)
    for place, chunk in found.items():
        data = _unfiltered(file, where, chunk, filters, bytes_each)
        starts = [k * side for k, side in zip(place, sides, strict=False)]
        target = result[tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=False))]
        target[...] = data.reshape(sides)[tuple(map(slice, target.shape))]
    return result


def _plainly(where: Where) -> str:
    """What makes an array readable that is stored in another way."""
    path = "/".join(where.keys)
    return (
        f"store the array plainly, in h5py.File(path, 'r+'): data = file[{path!r}][()]; del file[{path!r}]; "
        f"file[{path!r}] = data"
    )


# --- The table --------------------------------------------------------------------------------------------------------


def _table(file: File, where: Where, layout: bytes) -> tuple[tuple[int, ...], Iterator[Chunk]]:
    """The lengths of a chunk's sides, the last one an element's bytes, and the chunks that are listed."""
    if layout[0] == 3:
        rank = layout[2]
        (address,) = struct.unpack_from("<Q", layout, 3)
        return struct.unpack_from(f"<{rank}I", layout, 11), _tree(file, address, rank)
    flags, rank, width = layout[2:5]
    at = 5 + rank * width
    sides = tuple(int.from_bytes(layout[k : k + width], "little") for k in range(5, at, width or 1))
    if layout[at] != 1 or flags & ~2:
        raise FormatError(
            f"{where}: expected chunks listed as h5py does by default, got another list; {_plainly(where)}"
        )
    stored, skipped = struct.unpack_from("<QI", layout, at + 1) if flags & 2 else (math.prod(sides), 0)
    (address,) = struct.unpack_from("<Q", layout, at + 1 + 12 * bool(flags & 2))
    one = [] if address == UNDEFINED else [Chunk((0,) * (rank - 1), address, stored, skipped)]
    return sides, iter(one)


def _tree(file: File, address: int, rank: int) -> Iterator[Chunk]:
    """The chunks that a tree of nodes lists; each node is read once."""
    entry = struct.Struct(f"<II{rank}QQ")
    seen = set()
    todo: list[tuple[int, int | None]] = [] if address == UNDEFINED else [(address, None)]
    while todo:
        at, level = todo.pop()
        if at in seen:
            raise FormatError(f"byte {at}: expected a tree of chunks, got a circle")
        seen.add(at)
        file.expect(at, b"TREE")
        kind, depth, used = file.unpack("BBH", at + 4)
        if kind != 1 or (level is not None and depth != level):
            raise FormatError(f"byte {at}: expected a tree of chunks, got something else")
        for stored, skipped, *offset, child in entry.iter_unpack(file.read(at + 24, used * entry.size)):
            if depth:
                todo.append((child, depth - 1))
            else:
                yield Chunk(tuple(offset[:-1]), child, stored, skipped)


# --- Filters ----------------------------------------------------------------------------------------------------------


def _filters(where: Where, content: bytes) -> list[Filter]:
    """Those that an array's chunks went through, in their order."""
    version, count = content[:2]
    if version not in (1, 2) or count > MOST_FILTERS:
        raise FormatError(f"{where}: expected at most {MOST_FILTERS} filters, got {count} of version {version}")
    filters: list[Filter] = []
    at = 8 if version == 1 else 2
    for _ in range(count):
        (number,) = struct.unpack_from("<H", content, at)
        named = version == 1 or number >= 256
        length, _, values = struct.unpack_from("<HHH" if named else "<0sHH", content, at + 2)
        at += (8 if named else 6) + (length if named else 0)
        filters.append((number, struct.unpack_from(f"<{values}I", content, at)))
        at += 4 * (values + values % 2 if version == 1 else values)
        if number not in (GZIP, SHUFFLE, FLETCHER32):
            raise FormatError(
                f"{where}: expected the filters gzip, shuffle and fletcher32 or none, got "
                f"{OTHERS.get(number, f'number {number}')}; {_plainly(where)}"
            )
    return filters


def _unfiltered(file: File, where: Where, chunk: Chunk, filters: list[Filter], size: int) -> Array:
    """The bytes of a chunk, so many of them."""
    if chunk.stored > size + 4 * len(filters) and not any(number == GZIP for number, _ in filters):
        raise FormatError(f"{where}: expected chunks of {size} bytes, got {chunk.stored}")
    data = file.read(chunk.address, chunk.stored)
    for k, (number, values) in reversed(list(enumerate(filters))):
        if chunk.skipped >> k & 1:
            continue
        if number == GZIP:
            data = _inflated(file, where, data, size + 4 * k)  # fletcher32 before it may have added 4 bytes each
        elif number == SHUFFLE:
            data = _unshuffled(data, *values)
        else:
            data = _checked(where, data)
    if len(data) != size:
        raise FormatError(f"{where}: expected chunks of {size} bytes, got {len(data)}")
    return np.frombuffer(data, np.uint8)


def _inflated(file: File, where: Where, data: bytes, most: int) -> bytes:
    file.spend(most)
    stream = zlib.decompressobj()
    try:
        result = stream.decompress(data, most + 1)
    except zlib.error as error:
        raise FormatError(f"{where}: expected a chunk that gzip wrote: {error}") from error
    if len(result) > most or not stream.eof:
        raise FormatError(f"{where}: expected a chunk that unpacks to {most} bytes at most, got another")
    return result


def _unshuffled(data: bytes, size: int) -> bytes:
    """Elements of bytes, of which the first of all came first, then the second of all; what is over came last."""
    whole = len(data) // size * size
    return np.frombuffer(data, np.uint8, whole).reshape(size, -1).T.tobytes() + data[whole:]


def _checked(where: Where, data: bytes) -> bytes:
    """The bytes before a checksum of Fletcher's, over words of two bytes with the high one first."""
    body, stored = data[:-4], data[-4:]
    words = np.frombuffer(body + b"\0" * (len(body) % 2), ">u2")
    first = second = 0  # the sum, and the sum of the sums so far
    for start in range(0, len(words), BLOCK):
        block = words[start : start + BLOCK].astype(np.int64)
        second += first * len(block) + int((block * np.arange(len(block), 0, -1)).sum())
        first += int(block.sum())
    first, second = (total % 65535 or (65535 if total else 0) for total in (first, second))
    if len(stored) < 4 or stored != struct.pack("<HH", first, second):
        raise FormatError(f"{where}: expected a chunk that agrees with its checksum, got another")
    return body
