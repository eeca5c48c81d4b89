"""Arrays in chunks and through filters: what h5py writes is read to the last bit, tables that lie are refused."""

import json
import re
import struct
import tracemalloc
import zlib

import h5py
import numpy as np
import pytest

import cgru
from cgru.formats import keras as format_keras

from ..support import fuzz

CONFIG = {
    "class_name": "GRU",
    "config": {
        "name": "gru", "units": 4, "use_bias": True, "reset_after": True, "return_sequences": True,
        "activation": "tanh", "recurrent_activation": "sigmoid",
    },
}  # fmt: skip
VARS = "layers/gru/cell/vars"


def arrays(inputs=30, units=4, dtype="f4"):
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal(shape).astype(dtype) for shape in [(inputs, 3 * units), (units, 3 * units), (2, 3 * units)]
    ]


def write(path, how, given=None, libver=None):
    """A file of weights; the kernel stored as said."""
    kernel, *others = arrays() if given is None else given
    with h5py.File(path, "w", libver=libver) as file:
        for k, array in enumerate([kernel, *others]):
            file.create_dataset(f"{VARS}/{k}", data=array, **(how if k == 0 else {}))
    return path


def load(path):
    return format_keras.load(path, config=CONFIG)


def kernel(gru):
    r, z, n = np.split(gru.state_dict()["weight_ih_l0"], 3)
    return np.concatenate([z, r, n]).T


FILTERS = {
    "plain": {},
    "gzip": {"compression": "gzip"},
    "most": {"compression": "gzip", "compression_opts": 9},
    "least": {"compression": "gzip", "compression_opts": 0},
    "shuffle": {"shuffle": True},
    "both": {"compression": "gzip", "shuffle": True},
    "checksum": {"fletcher32": True},
    "all": {"compression": "gzip", "shuffle": True, "fletcher32": True},
}


@pytest.mark.parametrize("chunks", [True, (1, 1), (7, 5), (30, 12), (64, 64), (29, 1)])
@pytest.mark.parametrize("filters", FILTERS)
def test_filters(filters, chunks, tmp_path):
    given = arrays()
    how = {"chunks": chunks, "maxshape": (None, None), **FILTERS[filters]}
    np.testing.assert_array_equal(kernel(load(write(tmp_path / "m.h5", how))), given[0])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">f8"])
def test_types(dtype, tmp_path):
    given = arrays(dtype=dtype)
    gru = load(write(tmp_path / "m.h5", {"chunks": (4, 4), **FILTERS["all"]}, given))
    np.testing.assert_array_equal(kernel(gru), given[0])
    assert gru.dtype == (np.float64 if dtype[-1] == "8" else np.float32)


@pytest.mark.parametrize("values", ["zeros", "ones", "odd", "many"])
def test_checksums(values, tmp_path):
    """Of sums that are 0, or would be 0 of a byte's bits all set; of odd sizes after gzip; of many words."""
    given = arrays(40_000 if values == "many" else 100)
    if values in ("zeros", "ones"):
        given[0].view(np.uint32)[:] = 0 if values == "zeros" else 2**32 - 1  # not a number, and yet kept
    how = {"chunks": (40_000, 12) if values == "many" else (1, 5), "maxshape": (None, None), "fletcher32": True}
    path = write(tmp_path / "m.h5", {**how, "compression": "gzip" if values == "odd" else None}, given)
    np.testing.assert_array_equal(kernel(load(path)), given[0])


def test_a_tree_of_several_levels(tmp_path):
    given = arrays(3000)
    np.testing.assert_array_equal(kernel(load(write(tmp_path / "m.h5", {"chunks": (1, 12)}, given))), given[0])


def test_chunks_that_left_out_filters(tmp_path):
    given = arrays()
    path = write(tmp_path / "m.h5", {"chunks": (15, 12), "compression": "gzip", "shuffle": True})
    with h5py.File(path, "r+") as file:
        data = file[f"{VARS}/0"]
        data.id.write_direct_chunk((0, 0), given[0][:15].tobytes(), 0b11)
        halves = np.frombuffer(given[0][15:].tobytes(), np.uint8).reshape(-1, 4).T.tobytes()
        data.id.write_direct_chunk((15, 0), halves, 0b10)
    np.testing.assert_array_equal(kernel(load(path)), given[0])


def test_a_whole_model(tmp_path):
    given = arrays()
    path = tmp_path / "m.h5"
    names = ["gru/kernel:0", "gru/recurrent_kernel:0", "gru/bias:0"]
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"], file.attrs["model_config"] = (
            "2.15.0",
            json.dumps({"class_name": "Sequential", "config": [CONFIG]}),
        )
        group = file.create_group("model_weights/gru")
        group.attrs["weight_names"] = names
        for name, array in zip(names, given, strict=True):
            group.create_dataset(name, data=array, **FILTERS["both"])
    np.testing.assert_array_equal(kernel(cgru.load(path)), given[0])


def test_newer_files(tmp_path):
    """Which list one chunk in another way."""
    given = arrays()
    for filters in FILTERS.values():
        path = write(tmp_path / "m.h5", {"chunks": (30, 12), **filters}, libver="latest")
        np.testing.assert_array_equal(kernel(load(path)), given[0])


REFUSED = {
    "lzf": ({"compression": "lzf"}, None, "the filters gzip, shuffle and fletcher32 or none, got lzf"),
    "scaleoffset": ({"scaleoffset": 3}, None, "the filters gzip, shuffle and fletcher32 or none, got scaleoffset"),
    "fixed": ({"compression": "gzip"}, "latest", "chunks listed as h5py does by default, got another list"),
    "growing": ({"maxshape": (None, 12)}, "latest", "chunks listed as h5py does by default, got another list"),
    "growing twice": ({"maxshape": (None, None)}, "latest", "chunks listed as h5py does by default, got another list"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind, tmp_path):
    """The message says what stores the array plainly."""
    how, libver, message = REFUSED[kind]
    path = write(tmp_path / "m.h5", {"chunks": (7, 5), **how}, libver=libver)
    with pytest.raises(cgru.FormatError, match=f"/{VARS}/0: expected {message}; store the array plainly") as caught:
        load(path)
    with h5py.File(path, "r+") as file:
        stored = file[f"{VARS}/0"][()]
        exec(str(caught.value).partition("'r+'): ")[2])
    np.testing.assert_array_equal(kernel(load(path)), stored)


# --- Damage -----------------------------------------------------------------------------------------------------------


def node_of(data):
    """Where the table of the kernel's chunks begins."""
    at = data.index(b"TREE\x01")
    assert data.count(b"TREE\x01") == 1
    return at


def entries(data, at):
    """The places of a node's entries of two axes: stored size, skipped filters, three offsets, an address."""
    (used,) = struct.unpack_from("<H", data, at + 6)
    return [at + 24 + 40 * k for k in range(used)]


def patched(data, at, form, *values):
    changed = bytearray(data)
    struct.pack_into("<" + form, changed, at, *values)
    return bytes(changed)


def twice(data, at, rows):
    (address,) = struct.unpack_from("<Q", data, rows[0] + 32)
    return patched(data, rows[1] + 32, "Q", address)


LIES = {
    "twice the same place": (lambda d, at, rows: patched(d, rows[1] + 8, "QQ", 0, 0), "expected chunks side by side, got one at (0, 0)"),
    "between places": (lambda d, at, rows: patched(d, rows[1] + 8, "QQ", 1, 0), "expected chunks side by side, got one at (1, 0)"),
    "beyond the array": (lambda d, at, rows: patched(d, rows[1] + 8, "QQ", 2**62, 0), "expected chunks side by side, got one at"),
    "shared bytes": (twice, "expected chunks in bytes of their own, got two at byte"),
    "one too few": (lambda d, at, rows: patched(d, at + 6, "H", len(rows) - 1), "chunks, got 2: some were never written"),
    "one too many": (lambda d, at, rows: patched(d, at + 6, "H", len(rows) + 1), ""),
    "as many as there may be": (lambda d, at, rows: patched(d, at + 6, "H", 65535), ""),
    "no bytes": (lambda d, at, rows: patched(d, rows[0], "I", 0), ""),
    "bytes beyond the file": (lambda d, at, rows: patched(d, rows[0], "I", 2**32 - 1), ""),
    "an address beyond the file": (lambda d, at, rows: patched(d, rows[-1] + 32, "Q", 2**63), "expected"),
    "a deeper node that leads to itself": (lambda d, at, rows: patched(patched(d, at + 5, "BH", 1, 1), rows[0] + 32, "Q", at), "expected a tree of chunks, got"),
    "another level": (lambda d, at, rows: patched(d, at + 5, "B", 255), ""),
    "another kind": (lambda d, at, rows: patched(d, at + 4, "B", 0), "expected a tree of chunks, got something else"),
    "all filters skipped": (lambda d, at, rows: patched(d, rows[0] + 4, "I", 2**32 - 1), "expected chunks of 480 bytes, got"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("filters", ["gzip", "all"])
def test_tables_that_lie(lie, filters, tmp_path):
    path = write(tmp_path / "m.h5", {"chunks": (10, 12), **FILTERS[filters]})
    data = path.read_bytes()
    at = node_of(data)
    change, message = LIES[lie]
    path.write_bytes(change(data, at, entries(data, at)))
    with pytest.raises(cgru.FormatError, match=re.escape(str(path)) + ".*" + re.escape(message)):
        load(path)


def test_a_node_of_levels_in_a_circle(tmp_path):
    """Each entry of it leads to the same node below, which would be read again and again."""
    path = write(tmp_path / "m.h5", {"chunks": (1, 12)}, arrays(3000))
    data = path.read_bytes()
    (root,) = [m.start() for m in re.finditer(rb"TREE\x01\x01", data)]
    rows = entries(data, root)
    (below,) = struct.unpack_from("<Q", data, rows[0] + 32)
    for row in rows[1:]:
        data = patched(data, row + 32, "Q", below)
    path.write_bytes(data)
    with pytest.raises(cgru.FormatError, match=f"byte {below}: expected a tree of chunks, got a circle"):
        load(path)


def direct(path, chunks, data, how, mask=0):
    """A file whose kernel has these bytes as its one chunk."""
    write(path, {"chunks": chunks, **how})
    with h5py.File(path, "r+") as file:
        file[f"{VARS}/0"].id.write_direct_chunk((0, 0), data, mask)
    return path


def test_chunks_that_unpack_to_something_else(tmp_path):
    size = 30 * 12 * 4
    cases = [
        (zlib.compress(bytes(size - 1)), f"expected chunks of {size} bytes, got {size - 1}"),
        (zlib.compress(bytes(size + 1)), f"expected a chunk that unpacks to {size} bytes at most, got another"),
        (zlib.compress(bytes(10**8)), f"expected a chunk that unpacks to {size} bytes at most, got another"),
        (zlib.compress(bytes(size))[:-5], "expected a chunk that unpacks to"),
        (b"nothing", "expected a chunk that gzip wrote"),
    ]
    for data, message in cases:
        path = direct(tmp_path / "m.h5", (30, 12), data, {"compression": "gzip"})
        tracemalloc.start()
        with pytest.raises(cgru.FormatError, match=re.escape(message)):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 3e6
        tracemalloc.stop()
    good = arrays()[0].tobytes()
    path = direct(tmp_path / "m.h5", (30, 12), good + b"abcd", {"fletcher32": True})
    with pytest.raises(cgru.FormatError, match="expected a chunk that agrees with its checksum, got another"):
        load(path)
    path = direct(tmp_path / "m.h5", (30, 12), good[:-1], {"shuffle": True})
    with pytest.raises(cgru.FormatError, match=f"expected chunks of {size} bytes, got {size - 1}"):
        load(path)


def test_arrays_that_are_much_larger_than_the_file(tmp_path):
    """As zeros, which unpack to a thousand times their size."""
    given = arrays()
    path = write(
        tmp_path / "m.h5",
        {"chunks": (10_000, 12), "compression": "gzip"},
        [np.zeros((1_000_000, 12), "f4"), *given[1:]],
    )
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(
        cgru.FormatError, match=r"expected arrays that unpack to at most \d+ bytes, 64 times the file's size, got more"
    ):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
    path = write(tmp_path / "m.h5", {"chunks": True, "compression": "gzip"}, [np.zeros((10_000, 12), "f4"), *given[1:]])
    assert load(path).input_size == 10_000  # what is small may


@pytest.mark.parametrize("filters", ["plain", "all"])
def test_many_chunks(filters, tmp_path):
    def make(number):
        return write(tmp_path / "m.h5", {"chunks": (1, 12), **FILTERS[filters]}, arrays(number))

    fuzz.in_proportion(make, 50, 1600, load)


def test_many_levels(tmp_path):
    """A chain of nodes, each above the one before."""

    def make(number):
        path = write(tmp_path / "m.h5", {"chunks": (30, 12)})
        data = bytearray(path.read_bytes())
        at = node_of(bytes(data))
        row = bytes(data[at + 24 : at + 24 + 32])
        first = len(data)
        for k in range(number):  # the levels, of one byte, do not go on
            child = at if k == number - 1 else first + (k + 1) * 64
            data += (
                b"TREE"
                + struct.pack("<BBHQQ", 1, max(number - k, 1) % 256, 1, 2**64 - 1, 2**64 - 1)
                + row
                + struct.pack("<Q", child)
            )
        layout = bytes(data).index(struct.pack("<BBB", 3, 2, 3) + struct.pack("<Q", at))
        struct.pack_into("<Q", data, layout + 3, first)
        path.write_bytes(bytes(data))
        return path

    assert load(make(200)).input_size == 30
    fuzz.in_proportion(make, 100, 3200, load)


@pytest.mark.parametrize("filters", ["plain", "both", "all"])
def test_damaged(filters, tmp_path):
    path = write(tmp_path / "m.h5", {"chunks": (7, 5), **FILTERS[filters]})
    data = path.read_bytes()
    refused, loaded = fuzz.survives(path, fuzz.truncations(data), load)
    assert (refused > 0, loaded) == (True, 0)
    refused, loaded = fuzz.survives(path, fuzz.mutations(data, 400, 3), load)
    assert refused > 20


@pytest.mark.long
@pytest.mark.parametrize("filters", ["plain", "both", "all"])
def test_damaged_at_length(filters, tmp_path):
    path = write(tmp_path / "m.h5", {"chunks": (7, 5), **FILTERS[filters]})
    fuzz.survives(path, fuzz.mutations(path.read_bytes(), 15_000, 4), load)
