"""Equinox, Haiku and Flax' files beside cgru; `test_trees.py` runs this file in a process of its own."""

import re

import equinox
import haiku
import jax
import numpy as np
import orbax.checkpoint
import pytest
from flax import linen, serialization

import cgru

from .options import relative_error


def randomized(tree):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jax.numpy.asarray(rng.uniform(-0.5, 0.5, leaf.shape), leaf.dtype), tree)


def scanned(cell, xs):
    """A cell over a sequence (T, I)."""
    step = lambda h, x: (cell(x, h),) * 2  # noqa: E731
    return jax.lax.scan(step, jax.numpy.zeros(cell.hidden_size), xs)[1]


@pytest.mark.parametrize("use_bias", [True, False])
def test_equals_equinox(use_bias, tmp_path):
    keys = jax.random.split(jax.random.key(0), 3)
    sizes = [(3, 4), (4, 4), (3, 4)]
    cells = [equinox.nn.GRUCell(*size, use_bias, key=key) for size, key in zip(sizes, keys, strict=True)]
    x = np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32)
    assert relative_error(cgru.from_equinox(cells[0])(x)[0], scanned(cells[0], x)) < 1e-6

    class Model(equinox.Module):
        cells: list
        lstm: equinox.nn.LSTMCell
        out: equinox.nn.Linear
        name: str = equinox.field(static=True, default="model")

    model = Model(cells, equinox.nn.LSTMCell(3, 4, key=keys[0]), equinox.nn.Linear(4, 2, key=keys[0]))
    assert relative_error(cgru.from_equinox(model, "cells/0")(x)[0], scanned(cells[0], x)) < 1e-6
    stack = cgru.from_equinox(model, ["cells/0", "cells/1"])
    assert stack.bias == use_bias
    assert relative_error(stack(x)[0], scanned(cells[1], scanned(cells[0], x))) < 1e-6
    both = cgru.from_equinox(model, ["cells/0", "cells/2"], bidirectional=True)
    expected = np.hstack([scanned(cells[0], x), scanned(cells[2], x[::-1])[::-1]])
    assert relative_error(both(x)[0], expected) < 1e-6
    path = tmp_path / "m.eqx"
    equinox.tree_serialise_leaves(path, cells[0])
    with pytest.raises(cgru.FormatError) as error:
        cgru.load(path)
    call = re.search(r"; call (cgru\..*\)), like", str(error.value))[1]
    gru = eval(call, {"cgru": cgru, "equinox": equinox, "like": cells[2]})
    assert relative_error(gru(x)[0], scanned(cells[0], x)) < 1e-6


def test_equals_haiku():
    x = np.random.default_rng(1).standard_normal((6, 2, 3)).astype(np.float32)

    def network(x):
        y, _ = haiku.dynamic_unroll(haiku.GRU(4), x, haiku.GRU(4).initial_state(2))
        return haiku.dynamic_unroll(haiku.GRU(4, name="upper"), y, haiku.GRU(4).initial_state(2))[0]

    model = haiku.without_apply_rng(haiku.transform(network))
    params = randomized(model.init(jax.random.key(0), x))
    gru = cgru.from_haiku(params, ["gru", "upper"])
    assert relative_error(gru(x)[0], model.apply(params, x)) < 1e-6
    with pytest.raises(cgru.FormatError, match="expected one cell, got gru, upper; choose by name="):
        cgru.from_haiku(params)


def test_equals_files_of_flax(tmp_path, monkeypatch):
    x = np.random.default_rng(1).standard_normal((2, 6, 3)).astype(np.float32)
    rnn = linen.RNN(linen.GRUCell(4))
    params = randomized(rnn.init(jax.random.key(0), x))
    path = tmp_path / "m.msgpack"
    for piece in (2**30, 16):
        monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", piece)
        path.write_bytes(serialization.to_bytes(params))
        assert (b"__msgpack_chunked_array__" in path.read_bytes()) == (piece == 16)
        assert relative_error(cgru.load(path)(x)[0], rnn.apply(params, x)) < 1e-6
    monkeypatch.undo()
    state = {
        "step": 3,
        "done": False,
        "rate": 1e-3,
        "key": jax.random.key_data(jax.random.key(0)),
        "params": params,
        "no": None,
    }
    path.write_bytes(
        serialization.to_bytes({**state, "count": np.int64(3), "wave": 1j, "shapes": [np.ones(2), "text"]})
    )
    assert relative_error(cgru.load(path)(x)[0], rnn.apply(params, x)) < 1e-6
    narrow = jax.tree.map(lambda leaf: leaf.astype(jax.numpy.bfloat16), params)
    path.write_bytes(serialization.to_bytes(narrow))
    kernel = cgru.load(path).state_dict()["weight_ih_l0"][:4].T
    np.testing.assert_array_equal(kernel, np.asarray(narrow["params"]["cell"]["ir"]["kernel"], np.float32))


def test_checkpoints_of_orbax(tmp_path):
    x = np.random.default_rng(1).standard_normal((2, 6, 3)).astype(np.float32)
    rnn = linen.RNN(linen.GRUCell(4))
    params = randomized(rnn.init(jax.random.key(0), x))
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "m", params)
        checkpointer.wait_until_finished()
        with pytest.raises(cgru.FormatError, match=r"StandardCheckpointer\(\)\.restore\(path\)\) with the whole path"):
            cgru.load(tmp_path / "m")
        gru = cgru.from_flax(checkpointer.restore(tmp_path / "m"))
    assert relative_error(gru(x)[0], rnn.apply(params, x)) < 1e-6
