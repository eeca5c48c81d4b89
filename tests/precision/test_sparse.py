"""Pruned models: which weights stay, sparse kernels against the reference and dense ones, training, files."""

import copy
import pickle

import numpy as np
import pytest

import cgru
from cgru import _packed
from cgru.engines.host import packed
from cgru.model import sparsity

from ..support.options import KINDS, Problem, relative_error

SIZES = [(1, 1), (3, 8), (5, 20), (19, 37), (64, 64), (33, 130)]  # I, H


def dense(gru):
    """The same model on dense kernels."""
    other = copy.deepcopy(gru)
    stack = other.value.stack
    weights = [_packed.Weights(layer, stack.precision) for directions in stack.layers for layer in directions]
    stack.prepared["packed"] = _packed.Stack(weights, len(stack.layers[0]), stack.reverse)
    return other


def storages(gru):
    stack = gru.value.stack
    return {packed.storage(stack, layer) for directions in stack.layers for layer in directions}


def sparse_problem(options=None, inputs=19, hidden=37, batch=23, density=0.2, **more):
    problem = Problem(options or {}, steps=7, batch=batch, inputs=inputs, hidden=hidden, dtype=np.float32, **more)
    problem.gru = problem.gru.prune(density)
    return problem


# --- What stays -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [(8, 4), (1, 1), (16, 8)])
@pytest.mark.parametrize("density", [0.1, 0.3, 1.0])
def test_the_largest_blocks_stay(density, block):
    gru = cgru.GRU(24, 32, 2, bidirectional=True, rng=0)
    sparse = gru.prune(density, block)
    for name, before in gru.state_dict().items():
        after = sparse.state_dict()[name]
        if name.startswith("bias"):
            np.testing.assert_array_equal(after, before)
            continue
        units, inputs = block

        def by_block(matrix):
            return matrix.reshape(3, 32 // units, units, -1, inputs).transpose(0, 1, 3, 2, 4)  # noqa: B023

        kept = by_block(after).any(axis=(3, 4))
        np.testing.assert_array_equal(by_block(after), np.where(kept[..., None, None], by_block(before), 0))
        sizes, free = np.square(by_block(before)).sum((3, 4)), np.ones(kept.shape, bool)
        if name.startswith("weight_hh"):
            for unit in range(32):
                free[:, unit // units, unit // inputs] = False
            assert kept[~free].all()
        assert kept.sum() == max(round(density * kept.size), np.count_nonzero(~free))
        if (kept & free).any() and not kept.all():
            assert sizes[kept & free].min() >= sizes[~kept].max()
    assert sparse.density >= density - 0.01
    assert gru.density == 1


def test_sizes_that_are_no_multiples_of_blocks():
    sparse = cgru.GRU(5, 11, rng=0).prune(0.25)
    for name, columns in (("weight_ih_l0", 5), ("weight_hh_l0", 11)):
        blocks = sparsity.squares(sparse.state_dict()[name], 11, (8, 4)) > 0
        assert blocks.shape == (3, 2, -(-columns // 4))
    assert sparse.state_dict()["weight_hh_l0"].reshape(3, 11, 11)[:, range(11), range(11)].all()


# --- What runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("inputs", "hidden"), SIZES)
def test_float32_against_the_reference(inputs, hidden, kind):
    for batch in (1, 2, 23):
        problem = sparse_problem(KINDS[kind], inputs, hidden, batch, ragged=True)
        y, h_n = problem.gru(problem.x, problem.h0, **problem.how)
        wanted, last = problem.expected()
        assert relative_error(y, wanted) < 2e-5
        assert relative_error(h_n, last) < 2e-5
    if hidden > 20:
        assert storages(problem.gru) == {"sparse float32"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("inputs", "hidden"), SIZES)
def test_int8_has_the_bits_of_dense_kernels(inputs, hidden, kind):
    for batch in (1, 2, 23):
        problem = sparse_problem(KINDS[kind], inputs, hidden, batch)
        small = problem.gru.quantize("int8")
        for found, wanted in zip(small(problem.x, problem.h0), dense(small)(problem.x, problem.h0), strict=True):
            np.testing.assert_array_equal(found, wanted)
    if hidden > 20:
        assert storages(small) == {"sparse int8"}


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("kind", [*KINDS, "mingru"])
def test_bits_alone_batched_chunked_streamed_pooled_threaded(kind, precision):
    if kind == "mingru":
        problem = sparse_problem(hidden=64, kind=cgru.MinGRU)
    else:
        problem = sparse_problem(KINDS[kind], hidden=64)
    gru, x = problem.gru, problem.x
    if precision != "float32":
        gru = gru.quantize(precision)
    y, _ = gru(x)
    for b in range(0, 23, 5):
        np.testing.assert_array_equal(gru(x[:, b])[0], y[:, b])
    for way in ("rows", "units"):
        _packed.share(way)
        try:
            np.testing.assert_array_equal(gru(x, num_threads=2)[0], y)
            np.testing.assert_array_equal(gru(x[:, :2], num_threads=2)[0], y[:, :2])
        finally:
            _packed.share("measured")
    stream, lockstep, pool = gru.stream(), gru.stream(23), gru.pool(23)
    ids = [pool.open() for _ in range(23)]
    for t in range(len(x)):
        np.testing.assert_array_equal(stream.step(x[t, 3]), y[t, 3])
        np.testing.assert_array_equal(lockstep.step(x[t]), y[t])
        np.testing.assert_array_equal(pool.step(ids, x[t]), y[t])
    first, h = gru(x[:3])
    np.testing.assert_array_equal(np.concatenate([first, gru(x[3:], h)[0]]), y)


def test_nan_stays_in_its_sequence():
    problem = sparse_problem(hidden=64)
    clean, _ = problem.gru(problem.x)
    problem.x[2, 1] = np.nan
    y, _ = problem.gru(problem.x)
    others = [b for b in range(23) if b != 1]
    np.testing.assert_array_equal(y[:, others], clean[:, others])
    assert np.isnan(y[2:, 1]).any()


def test_what_is_hardly_sparse_stays_dense():
    assert storages(cgru.GRU(64, 64, rng=0).prune(0.8)) == {"float32"}
    assert storages(cgru.GRU(64, 64, rng=0)) == {"float32"}
    assert storages(cgru.GRU(64, 64, rng=0).prune(0.2).quantize("bfloat16")) == {"bfloat16"}
    loaded = cgru.GRU(64, 64)
    loaded.load_state_dict(cgru.GRU(64, 64, rng=0).prune(0.2).state_dict())
    assert storages(loaded) == {"sparse float32"}  # whoever made the zeros


# --- Training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_leave_pruned_weights_zero(dtype):
    gru = cgru.GRU(12, 24, 2, rng=0, dtype=dtype)
    sparse = gru.prune(0.3)
    x = np.random.default_rng(0).standard_normal((5, 4, 12)).astype(dtype)
    same = cgru.GRU(12, 24, 2, dtype=dtype)
    same.load_state_dict(sparse.state_dict())
    found = []
    for model in (sparse, same):
        y, _, tape = model.record(x)
        found.append(tape.backward(y - dtype(0.5)))
    for name, weights in sparse.state_dict().items():
        kept = sparsity.held(weights, 24, (8, 4)) if name.startswith("weight") else np.ones(weights.shape, bool)
        np.testing.assert_array_equal(found[0][name], np.where(kept, found[1][name], 0))
    assert not np.array_equal(found[0]["weight_hh_l0"], found[1]["weight_hh_l0"])
    sparse.load_state_dict({name: w - dtype(0.1) * found[0][name] for name, w in sparse.state_dict().items()})
    assert sparse.density == gru.prune(0.3).density < 0.4


# --- Objects and files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float64", "int8", "bfloat16"])
def test_objects_and_files(precision, tmp_path):
    gru = cgru.GRU(16, 32, rng=0, dtype="float64" if precision == "float64" else "float32").prune(0.2)
    if precision in ("int8", "bfloat16"):
        gru = gru.quantize(precision)
    gru.save(tmp_path / "m.safetensors")
    x = np.random.default_rng(0).standard_normal((5, 16)).astype(gru.dtype)
    for other in (
        copy.copy(gru),
        copy.deepcopy(gru),
        pickle.loads(pickle.dumps(gru)),
        cgru.load(tmp_path / "m.safetensors"),
    ):
        assert repr(other) == repr(gru)
        assert other.density == gru.density
        assert other.value.block == (8, 4)
        np.testing.assert_array_equal(other(x)[0], gru(x)[0])
    assert ".prune(0.24)" in repr(gru)  # of U the diagonal is a quarter


def test_calibration_leaves_zeros():
    gru = cgru.GRU(16, 32, rng=0).prune(0.2)
    x = np.random.default_rng(0).standard_normal((20, 8, 16)).astype(np.float32)
    small = gru.quantize("int8", calibrate=x)
    for name, weights in gru.state_dict().items():
        if name.startswith("weight"):
            assert not small.state_dict()[name][weights == 0].any()


def test_compare():
    gru = cgru.GRU(16, 32, rng=0)
    x = np.random.default_rng(0).standard_normal((20, 8, 16)).astype(np.float32)
    found = [cgru.compare(gru, gru.prune(density), x).small.signal_to_error for density in (0.2, 0.8)]
    wanted, _ = gru(x)
    for decibels, density in zip(found, (0.2, 0.8), strict=True):
        y, _ = gru.prune(density)(x)
        assert decibels == pytest.approx(10 * np.log10(np.square(wanted).sum() / np.square(y - wanted).sum()), abs=0.01)
    assert found[0] < found[1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "density: expected a number above 0 and up to 1, got 0"),
        ((1.5,), ValueError, "density: expected a number above 0 and up to 1, got 1.5"),
        (("0.2",), TypeError, "density: expected a number above 0 and up to 1, got '0.2'"),
        ((True,), TypeError, "density: expected a number above 0 and up to 1, got True"),
        ((0.2, 8), ValueError, r"block: expected units and inputs, as \(8, 4\), got 8"),
        ((0.2, (8, 0)), ValueError, "block: expected an integer from 1 to 65536, got 0"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        cgru.GRU(3, 8).prune(*arguments)


def test_a_quantized_model_is_refused():
    with pytest.raises(RuntimeError, match="prune: this model's weights are stored as int8"):
        cgru.GRU(3, 8).quantize("int8").prune(0.2)


@pytest.mark.parametrize("block", [[8], [8, 0], "84", [8, 4, 2], [8.5, 4], {"a": 1}, 8])
def test_a_damaged_block_in_a_file_is_refused(block, tmp_path, monkeypatch):
    gru = cgru.GRU(4, 8, rng=0).prune(0.5)
    path = tmp_path / "m.safetensors"
    gru.save(path)
    import json

    text = path.read_bytes()
    size = int.from_bytes(text[:8], "little")
    header = json.loads(text[8 : 8 + size])
    options = json.loads(header["__metadata__"]["cgru"])
    header["__metadata__"]["cgru"] = json.dumps({**options, "block": block})
    new = json.dumps(header).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + text[8 + size :])
    with pytest.raises(cgru.FormatError, match="block"):
        cgru.load(path)
