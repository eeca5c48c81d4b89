"""Cells of Equinox and Haiku and Flax' files, written by hand against the equations; themselves where they are installed.

The libraries' own cells are in `trees_itself.py`.
"""

import dataclasses
import doctest
import importlib.util
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cgru
from cgru.formats import haiku as format_haiku

from ..support.fuzz import in_proportion, mutations, survives, truncations
from ..support.options import relative_error
from .test_flax import expected_y, linen_cell, nnx_cell

WITHOUT = "JAX, Equinox, Haiku and Flax are no part of the test extra: hundreds of megabytes"


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


@dataclasses.dataclass
class EquinoxCell:
    """As equinox.nn.GRUCell, in float64."""

    weight_ih: Any
    weight_hh: Any
    bias: Any
    bias_n: Any

    def __call__(self, xs):
        """States of a sequence (T, I), from zeros."""
        h, ys = np.zeros(self.weight_hh.shape[1]), []
        bias, bias_n = (0 if array is None else array for array in (self.bias, self.bias_n))
        for x in xs:
            (i_r, i_z, i_n), (h_r, h_z, h_n) = np.split(self.weight_ih @ x + bias, 3), np.split(self.weight_hh @ h, 3)
            n = np.tanh(i_n + sigmoid(i_r + h_r) * (h_n + bias_n))
            h = n + sigmoid(i_z + h_z) * (h - n)
            ys.append(h)
        return np.array(ys)


def equinox_cell(seed=0, inputs=3, hidden=4, bias=True):
    rng = np.random.default_rng(seed)
    shapes = [(3 * hidden, inputs), (3 * hidden, hidden), (3 * hidden,), (hidden,)]
    arrays = [rng.uniform(-0.5, 0.5, shape) for shape in shapes]
    return EquinoxCell(*(arrays if bias else [*arrays[:2], None, None]))


def haiku_gru(seed=0, inputs=3, hidden=4):
    rng = np.random.default_rng(seed)
    shapes = {"w_i": (inputs, 3 * hidden), "w_h": (hidden, 3 * hidden), "b": (3 * hidden,)}
    return {key: rng.uniform(-0.5, 0.5, shape) for key, shape in shapes.items()}


def unrolled(gru, xs):
    """Of Haiku's, for a sequence (T, I), from zeros."""
    hidden = len(gru["w_h"])
    h, ys = np.zeros(hidden), []
    for x in xs:
        a = x @ gru["w_i"] + gru["b"]
        z, r = np.split(sigmoid(a[: 2 * hidden] + h @ gru["w_h"][:, : 2 * hidden]), 2)
        h = (1 - z) * h + z * np.tanh(a[2 * hidden :] + (r * h) @ gru["w_h"][:, 2 * hidden :])
        ys.append(h)
    return np.array(ys)


XS = np.random.default_rng(1).standard_normal((6, 3))


@pytest.mark.parametrize("bias", [True, False])
def test_equinox(bias):
    a, b, c = equinox_cell(0, bias=bias), equinox_cell(1, 4, bias=bias), equinox_cell(2, bias=bias)
    assert cgru.from_equinox(a).bias == bias
    for tree in (a, [a], {"x": (None, "text", a)}):
        assert relative_error(cgru.from_equinox(tree)(XS)[0], a(XS)) < 1e-13
    tree = {"cells": [a, b], "other": {"cell": c}, "array": np.ones(3), "kind": EquinoxCell}
    stack = cgru.from_equinox(tree, ["cells/0", "cells/1"])
    assert relative_error(stack(XS)[0], b(a(XS))) < 1e-13
    both = cgru.from_equinox(tree, ["cells/0", "other"], bidirectional=True)
    assert relative_error(both(XS)[0], np.hstack([a(XS), c(XS[::-1])[::-1]])) < 1e-13
    a.weight_ih[:] = 9
    assert both.state_dict()["weight_ih_l0"].max() < 9


def test_haiku():
    a, b, c = haiku_gru(0), haiku_gru(1, 4), haiku_gru(2)
    gru = cgru.from_haiku(a)
    assert (gru.reset_after, gru.update_gate, gru.batch_first) == (False, "candidate", False)
    for tree in (a, {"gru": a}, {"net/~/gru": a, "linear": {"w": np.ones((4, 2)), "b": np.ones(2)}}):
        assert relative_error(cgru.from_haiku(tree)(XS)[0], unrolled(a, XS)) < 1e-13
    tree = {"gru": a, "gru_1": b, "back/~/gru": c}
    assert relative_error(cgru.from_haiku(tree, ["gru", "gru_1"])(XS)[0], unrolled(b, unrolled(a, XS))) < 1e-13
    both = cgru.from_haiku(tree, ["gru", "back"], bidirectional=True)
    assert relative_error(both(XS)[0], np.hstack([unrolled(a, XS), unrolled(c, XS[::-1])[::-1]])) < 1e-13
    narrow = {key: array.astype(np.float16) for key, array in a.items()}
    assert cgru.from_haiku(narrow).dtype == np.float32


def test_refusals():
    cell, gru = equinox_cell(), haiku_gru()
    circle = []
    circle.append(circle)
    foreign = "expected a tree with GRU cells in it, got one without; from_flax, from_equinox and from_haiku each read trees of their own library"
    cases = [
        (cgru.from_equinox, 3, foreign),
        (cgru.from_equinox, {"gru": gru}, foreign),
        (cgru.from_equinox, EquinoxCell, foreign),
        (cgru.from_equinox, [cell, cell], "expected one cell, got 0, 1; choose by name="),
        (cgru.from_equinox, circle, "expected a tree at most 100 levels deep"),
        (cgru.from_equinox, {"a": dataclasses.replace(cell, bias_n=None)}, "a: expected the arrays of a GRUCell, but bias_n missing"),
        (cgru.from_equinox, dataclasses.replace(cell, bias=np.zeros(4)), "tree/bias: expected (12,), got (4,)"),
        (cgru.from_equinox, dataclasses.replace(cell, weight_hh=np.zeros((16, 4))), "tree/weight_hh: expected (12, 4), got (16, 4)"),
        (cgru.from_equinox, dataclasses.replace(cell, weight_ih=np.zeros((2, 12, 3))), "tree/weight_ih: expected (12, 0), got (2, 12, 3)"),
        (cgru.from_equinox, dataclasses.replace(cell, bias="text"), "tree/bias: expected an array of floating-point numbers"),
        (cgru.from_haiku, 3, "params: expected a mapping of parameters, got int"),
        (cgru.from_haiku, {"cell": linen_cell()}, foreign),
        (cgru.from_haiku, {"a": gru, "b": gru}, "expected one cell, got a, b; choose by name="),
        (cgru.from_haiku, {"a": {"w_i": gru["w_i"], "w_h": gru["w_h"]}}, "a: expected the arrays of a GRU, but b missing or unknown"),
        (cgru.from_haiku, {**gru, "c": gru["b"]}, "params: expected the arrays of a GRU, but c missing or unknown"),
        (cgru.from_haiku, {**gru, "b": gru["b"][:4]}, "params/b: expected (12,), got (4,)"),
        (cgru.from_haiku, {**gru, "w_i": gru["w_i"].astype(int)}, "params/w_i: expected an array of floating-point numbers, got int64"),
        (cgru.from_flax, {"gru": gru}, foreign),
    ]  # fmt: skip
    for load, tree, message in cases:
        with pytest.raises(cgru.FormatError, match=re.escape(message)):
            load(tree)
    with pytest.raises(cgru.FormatError, match="name: expected 2 cells a layer, got gru"):
        cgru.from_haiku({"gru": gru}, bidirectional=True)


# --- Flax' msgpack files ----------------------------------------------------------------------------------------------


def packed(value):
    """As msgpack writes it, with the extension of Flax for arrays."""
    if isinstance(value, dict):
        head = bytes([0x80 + len(value)]) if len(value) < 16 else b"\xde" + struct.pack(">H", len(value))
        return head + b"".join(packed(part) for item in value.items() for part in item)
    if isinstance(value, list):
        return b"\xdc" + struct.pack(">H", len(value)) + b"".join(map(packed, value))
    if isinstance(value, str):
        text = value.encode()
        return (bytes([0xA0 + len(text)]) if len(text) < 32 else b"\xda" + struct.pack(">H", len(text))) + text
    if isinstance(value, bytes):
        return b"\xc6" + struct.pack(">I", len(value)) + value
    if isinstance(value, (np.ndarray, np.generic)):
        content = b"\x93" + packed(list(value.shape)) + packed(value.dtype.name) + packed(value.tobytes())
        return b"\xc9" + struct.pack(">Ib", len(content), 1) + content
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    return (
        {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
        if value in (None, False, True)
        else b"\xd3" + struct.pack(">q", value)
    )


def file(path, tree):
    path.write_bytes(packed(tree))
    return path


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_msgpack(dtype, tmp_path):
    cell, x = linen_cell(dtype=dtype), XS[None]
    for tree in (cell, {"params": {"cell": cell}}, {"params": {"encoder": {"cell": cell}}, "step": 3, "rate": 0.5, "key": np.ones(2, np.uint32), "list": [{"a": None}]}):  # fmt: skip
        gru = cgru.load(file(tmp_path / "m.msgpack", tree))
        assert gru.batch_first
        wide = {name: {key: array.astype(np.float64) for key, array in dense.items()} for name, dense in cell.items()}
        assert relative_error(gru(x.astype(gru.dtype))[0], expected_y([wide], x)) < (
            1e-13 if dtype == "float64" else 1e-6
        )
    two = {"a": cell, "b": nnx_cell()}
    with pytest.raises(cgru.FormatError, match="expected one cell, got a, b; choose by name="):
        cgru.load(file(tmp_path / "m.msgpack", two))
    np.testing.assert_array_equal(
        cgru.load(tmp_path / "m.msgpack", "b").state_dict()["weight_ih_l0"].T, two["b"]["dense_i"]["kernel"]
    )


def test_refused_msgpack(tmp_path):
    path = tmp_path / "m.msgpack"
    good = packed(linen_cell())
    deep = {}
    for _ in range(150):
        deep = {"a": deep}
    cases = [
        (good + b"\xc0", "expected one tree, got 1 bytes behind it"),
        (good[:-1], "expected 58 bytes at 1203, got 57"),
        (b"\x82" + packed("a") + b"\xc0" + packed("a") + b"\xc0", "expected names, each once, as keys, got 'a'"),
        (b"\x82" + packed("a") + b"\xc0" + packed(3) + b"\xc0", "expected names, each once, as keys, got 3"),
        (b"\x81" + packed("a") + b"\xc1", "expected a value of msgpack at 3, got the byte 0xc1"),
        (packed(deep), "expected a tree at most 100 levels deep"),
        (b"\x81" + packed("a") + b"\xdd\xff\xff\xff\xff", "expected 1 bytes at"),
        (b"\xdf\xff\xff\xff\xff" + packed("a") + b"\xc0", "expected 1 bytes at"),
        (b"\x81" + packed("a") + b"\xc9\xff\xff\xff\xff\x01", "expected 4294967295 bytes at"),
        (b"\x81" + packed("a") + b"\xd4\x01\xc0", "a: expected the shape, type and bytes of an array, got others"),
        (packed({"a": np.ones((3, 4))}).replace(b"\xdc\x00\x02", b"\xdc\x00\x01", 1), "expected"),
        (packed({"a": 3}), "expected a tree with GRU cells in it, got one without"),
    ]  # fmt: skip
    for data, message in cases:
        path.write_bytes(data)
        with pytest.raises(cgru.FormatError, match=re.escape(f"{path}: ") + ".*" + re.escape(message)):
            cgru.load(path)
    data = packed({"params": {"cell": linen_cell()}, "step": 3})
    refused, loaded = survives(path, [*truncations(data), *mutations(data, 400, 0)])
    assert refused > 100
    assert loaded > 10


def test_msgpack_in_proportion(tmp_path):
    path = tmp_path / "m.msgpack"
    in_proportion(lambda number: file(path, {"a": [None] * number}), 1000, 32_000)
    in_proportion(lambda number: file(path, {str(k): {"x": {}} for k in range(number)}), 500, 16_000)
    in_proportion(lambda number: file(path, {f"c{k}": nnx_cell() for k in range(number)}), 20, 640)


def test_equals_the_libraries_themselves():
    """In a process of its own: once imported, JAX objects to every fork."""
    if not all(importlib.util.find_spec(name) for name in ("jax", "equinox", "haiku", "flax", "orbax")):
        pytest.skip(WITHOUT)
    root = Path(__file__).parents[2]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(root / "tests/support/trees_itself.py"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert result.returncode == 0, result.stdout + result.stderr


def test_examples_in_docstrings():
    result = doctest.testmod(format_haiku)
    assert result.attempted > 0
    assert result.failed == 0
