"""The CUDA engine against the specification, on a device made of the processor: the kernels' own text, CuPy's rules."""

import copy
import ctypes
import dataclasses
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import cgru
from cgru import bench, cli
from cgru.bench import cuda as bench_cuda
from cgru.engines.cuda import device as devices
from cgru.engines.cuda import forward, intake, plan

from ..support.concurrency import held
from ..support.cuda_on_cpu import (
    KERNELS,
    SOURCE,
    STRUCTURES,
    DeviceArray,
    Simulator,
    library,
    on_device,
    on_host,
    place,
    xp,
)
from ..support.options import BOUNDED, UNBOUNDED, Problem, relative_error

TOLERANCE = {np.float64: 1e-12, np.float32: 2e-6}
SMALL = 0  # bytes of shared memory beyond what every block has: no weights fit

WAYS = {"steps": ("steps", 232_448), "resident": ("fused", 1 << 20), "streamed": ("fused", SMALL)}
LAUNCHED = {"steps": "step", "resident": "resident", "streamed": "streamed"}  # the part of a kernel's name that tells
each_way = pytest.mark.parametrize("way", WAYS)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def call(gru, x, h0=None, way="steps", out=None, **arguments):
    """y and h_n of a model on the processor's memory, by way of the device."""
    engine, shared_memory = WAYS.get(way, (way, 232_448))
    simulator = Simulator(shared_memory)
    model = place(gru, simulator)
    y, h_n = model(on_device(x), on_device(h0), engine=engine, out=on_device(out), **arguments)
    assert type(y) is type(h_n) is DeviceArray
    if way in WAYS and y.size:
        assert {name.split("_")[0 if way == "steps" else 2] for name in simulator.launches} == {LAUNCHED[way]}
    return on_host(y), on_host(h_n)


def check(problem, way, tolerance=None, **arguments):
    y, h_n = call(problem.gru, problem.x, problem.h0, way, lengths=problem.lengths, **arguments)
    expected_y, expected_h = problem.expected()
    assert y.dtype == h_n.dtype == problem.dtype
    assert relative_error(y, expected_y) < (tolerance or TOLERANCE[problem.dtype])
    assert relative_error(h_n, expected_h) < (tolerance or TOLERANCE[problem.dtype])


MATRIX = {
    "reset_after": [True, False],
    "update_gate": ["state", "candidate"],
    "num_layers": [1, 2],
    "bidirectional": [False, True],
    "batch_first": [False, True],
    "bias": [True, False],
    "clip": [None, 0.5],
}


@each_way
@each_dtype
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("batch", [1, 5])
def test_option_matrix(way, dtype, ragged, batch):
    for values in itertools.product(*MATRIX.values()):
        options = dict(zip(MATRIX, values, strict=True))
        check(Problem(options, steps=4, batch=batch, ragged=ragged, dtype=dtype), way)


@each_way
@each_dtype
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("reset_after", [True, False])
def test_backwards_and_added_up(way, dtype, ragged, reset_after):
    for options in ({"reverse": True}, {"reverse": True, "num_layers": 3}, {"bidirectional": True, "merge": "sum"}):
        for batch_first in (False, True):
            problem = {"reset_after": reset_after, "batch_first": batch_first, **options}
            check(Problem(problem, batch=3, ragged=ragged, dtype=dtype), way)


@each_way
@each_dtype
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("update_gate", ["state", "candidate"])
def test_activations(way, dtype, reset_after, update_gate):
    pairs = [(f, "sigmoid") for f in BOUNDED + UNBOUNDED] + [("tanh", g) for g in BOUNDED + UNBOUNDED]
    for activation, recurrent_activation in pairs:
        options = {
            "reset_after": reset_after,
            "update_gate": update_gate,
            "activation": activation,
            "recurrent_activation": recurrent_activation,
        }
        for clip in (None, 0.3):
            check(Problem({**options, "clip": clip}, steps=4, batch=2, dtype=dtype), way)


@each_way
@each_dtype
@given(
    steps=st.integers(1, 12),
    batch=st.integers(1, 20),
    inputs=st.integers(1, 40),
    hidden=st.integers(1, 140),
    ragged=st.booleans(),
    reset_after=st.booleans(),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30)
def test_any_size(way, dtype, steps, batch, inputs, hidden, ragged, reset_after, bidirectional, batch_first, seed):
    options = {"reset_after": reset_after, "bidirectional": bidirectional, "batch_first": batch_first}
    check(Problem(options, steps, batch, inputs, hidden, ragged, dtype, seed), way)


@each_way
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("reset_after", [True, False])
def test_weights_of_16_bits(way, precision, reset_after):
    """Stored in half the bytes, computed in float32: results are those of float32 with the rounded weights."""
    for batch in (1, 6):
        problem = Problem({"reset_after": reset_after, "num_layers": 2}, batch=batch, hidden=37, dtype=np.float32)
        problem.gru = problem.gru.quantize(precision)
        check(problem, way)
        model = place(problem.gru, Simulator())
        weights = model.value.stack.layers[0][0].prepared["cuda"]
        assert weights.u.itemsize == weights.transposed.itemsize == 2
        on_the_device = [
            v for v in [*vars(weights).values(), *model.value.parameters.values()] if type(v) is DeviceArray
        ]
        large = [v for v in on_the_device if v.size > 4 * 37]
        assert len(large) == 3  # W, U, and U for the fused kernels
        assert all(v.itemsize == 2 for v in large)
        assert all(type(array) is DeviceArray for array in model.state_dict().values())
        assert repr(model) == f"{problem.gru!r}.to('cuda:0')"
        back = model.to("cpu")
        assert back.precision == precision
        for name, array in problem.gru.state_dict().items():
            np.testing.assert_array_equal(back.state_dict()[name], array)


def test_every_value_of_16_bits_is_widened_exactly():
    """The fused kernels read U_n in every row's own value: h' = z h + (1 - z) U_n h shows it."""
    halves = np.arange(0x10000, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)].astype(np.float32)
    for precision, values in {
        "float16": finite,
        "bfloat16": (np.arange(0, 0x7F80, 7, dtype=np.uint32) << 16).view(np.float32),
    }.items():
        values = np.resize(values, -(-len(values) // 400) * 400).reshape(-1, 400)
        for row in values[:: max(1, len(values) // 40)]:
            gru = cgru.GRU(1, 20, bias=False, reset_after=False, activation="linear", recurrent_activation="linear")
            weights = {name: np.zeros_like(array) for name, array in gru.state_dict().items()}
            weights["weight_hh_l0"][40:] = row.reshape(20, 20)
            weights["weight_ih_l0"][:20] = 1  # r = x, z = 0: n = U_n (x h)
            gru.load_state_dict(weights)
            h0 = np.eye(20, dtype=np.float32)[None]
            x = np.ones((1, 20, 1), np.float32)
            y, _ = call(gru.quantize(precision), x, h0, "resident")
            np.testing.assert_array_equal(y[0].T, row.reshape(20, 20))


@each_way
@each_dtype
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("update_gate", ["state", "candidate"])
def test_states_beside_huge_candidates(way, dtype, reset_after, update_gate):
    """A state survives one where z is 1, and one survives where its share is 1e-10."""
    gru = cgru.GRU(2, 9, dtype=dtype, activation="relu", reset_after=reset_after, update_gate=update_gate)
    sign, x, h0 = (1 if update_gate == "state" else -1), np.zeros((3, 5, 2), dtype), np.full((1, 5, 9), 3, dtype)
    for update, candidate, expected in ((800, 1e17, 3), (-np.log(1e-10), 1e12, 103)):
        if update_gate == "state" and expected > 3:
            continue  # 1 - sigmoid(23) is not 1e-10 in float32
        weights = {name: np.zeros_like(array) for name, array in gru.state_dict().items()}
        weights["bias_ih_l0"][9:18], weights["bias_ih_l0"][18:] = sign * update, candidate
        gru.load_state_dict(weights)
        y, _ = call(gru, x, h0, way)
        np.testing.assert_allclose(y[0], expected, rtol=1e-5)
        if expected == 3:
            np.testing.assert_array_equal(y, expected)


@each_way
def test_many_chunks(way, monkeypatch):
    monkeypatch.setattr(forward, "PRODUCT_BYTES", 20_000)
    monkeypatch.setattr(forward, "BLOCK_BYTES", 9_000)
    for options in ({"bidirectional": True, "num_layers": 2}, {"num_layers": 3}, {"reverse": True, "num_layers": 2}):
        for ragged in (False, True):
            check(Problem(options, 90, 3, 4, 17, ragged, np.float64), way)


@each_way
def test_strides_and_out(way):
    problem = Problem({}, steps=10, batch=5)
    expected, _ = problem.expected()
    x = problem.x
    big = np.full((21, 11, 11), np.nan)
    big[1::2, 1::2, 1::2] = x
    views = {
        "sliced": big[1::2, 1::2, 1::2],
        "reversed steps": np.ascontiguousarray(x[::-1])[::-1],
        "reversed features": np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1],
        "batch-major": np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1),
        "Fortran": np.asfortranarray(x),
    }
    for name, view in views.items():
        for target in (
            np.empty((10, 5, 11)),
            np.full((20, 10, 22), np.nan)[::2, ::2, ::2],
            np.asfortranarray(expected * 0),
        ):
            target[...] = np.nan
            y, _ = call(problem.gru, view, problem.h0, way, out=target)
            assert relative_error(target, expected) < 1e-12, name
            np.testing.assert_array_equal(y, target)
    both = Problem({"bidirectional": True, "merge": "sum"}, steps=10, batch=5)
    out = np.full((10, 5, 22), np.nan)[..., ::2]
    call(both.gru, both.x, both.h0, way, out=out)
    assert relative_error(out, both.expected()[0]) < 1e-12


def test_batch_first_is_not_copied():
    """The product of all inputs is laid out as they are; nothing else of their size is made."""
    gru = cgru.GRU(5, 11, batch_first=True, dtype=np.float64)
    model = place(gru, Simulator())
    seen = []
    model.engine.device.xp.matmul, before = (
        (lambda a, b, out: (seen.append(a), before(a, b, out))[1]),
        model.engine.device.xp.matmul,
    )
    try:
        x = on_device(np.ones((3, 6, 5)))
        model(x, engine="steps")
    finally:
        model.engine.device.xp.matmul = before
    assert np.shares_memory(on_host(seen[0]), on_host(x))


@each_way
@each_dtype
@pytest.mark.parametrize("ragged", [False, True])
def test_nan_stays_in_its_sequence(way, dtype, ragged):
    problem = Problem({"num_layers": 2}, steps=12, batch=6, ragged=ragged, dtype=dtype)
    if ragged:
        problem.lengths = np.array([12, 3, 12, 0, 11, 7])
    arguments = {"lengths": problem.lengths, "way": way}
    clean, h_clean = call(problem.gru, problem.x, problem.h0, **arguments)
    problem.x[5, 2] = np.nan
    problem.x[5, 4] = np.inf
    y, h_n = call(problem.gru, problem.x, problem.h0, **arguments)
    others = [0, 1, 3, 5]
    np.testing.assert_array_equal(y[:, others], clean[:, others])
    np.testing.assert_array_equal(h_n[:, others], h_clean[:, others])
    assert np.isnan(y[5:, 2]).any()


@each_way
@pytest.mark.parametrize("lengths", [[0, 0, 0], [6, 6, 6], [0, 6, 1], [1, 0, 0]])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lengths_at_their_ends(way, lengths, bidirectional):
    problem = Problem({"bidirectional": bidirectional, "num_layers": 2})
    problem.lengths = np.array(lengths)
    check(problem, way)


@each_way
@each_dtype
def test_error_after_many_steps(way, dtype):
    problem = Problem({}, steps=300, batch=2, inputs=16, hidden=100, dtype=dtype)
    _, h_n = call(problem.gru, problem.x, problem.h0, way)
    assert relative_error(h_n, problem.expected()[1]) < TOLERANCE[dtype]


def test_one_sequence_and_nothing():
    problem = Problem({"num_layers": 2}, batch=1, ragged=True)
    y, h_n = call(problem.gru, problem.x[:, 0], problem.h0[:, 0], lengths=int(problem.lengths[0]))
    np.testing.assert_array_equal(y, call(problem.gru, problem.x, problem.h0, lengths=problem.lengths)[0][:, 0])
    assert h_n.shape == (2, 11)
    for shape in ((0, 3, 5), (6, 0, 5), (0, 5)):
        y, h_n = call(problem.gru, np.zeros(shape), way="auto")
        assert y.shape == (*shape[:-1], 11)
        assert not h_n.any()


def test_without_a_state_and_the_arguments_stay_as_they_are():
    problem = Problem({"bidirectional": True})
    kept = problem.x.copy(), problem.h0.copy()
    call(problem.gru, problem.x, problem.h0)
    np.testing.assert_array_equal(problem.x, kept[0])
    np.testing.assert_array_equal(problem.h0, kept[1])
    problem.h0 = problem.h0 * 0
    y, _ = call(problem.gru, problem.x)
    assert relative_error(y, problem.expected()[0]) < 1e-12


def test_every_call_waits_for_the_weights():
    """They may have come by another of the device's streams."""
    model = place(cgru.GRU(3, 4), Simulator())
    x = on_device(np.ones((5, 2, 3), np.float32))
    pool = model.pool(2)
    ids = [pool.open(), pool.open()]
    calls = (
        lambda: model(x),
        lambda: model.record(x),
        lambda: model.stream(2).process(x),
        lambda: pool.step(ids, x[0]),
    )
    for n, work in enumerate(calls):
        work()
        assert model.engine.device.waits == n + 1


# ----------------------------------------------------------------------------------------------------------------------
# The plan


def test_what_is_fused():
    small, large = Simulator(101_376, 108), Simulator(232_448, 132)
    choose = lambda device, hidden, batch, **k: plan.choose(  # noqa: E731
        "auto", device, hidden, batch, k.get("real", 4), k.get("stored", 4), True
    )
    assert choose(large, 128, 1).name == "fused_after_resident_1"
    assert choose(large, 128, 64).name == "fused_after_resident_4"
    assert choose(small, 128, 1).name == "fused_after_streamed_1"
    assert choose(small, 128, 1, stored=2).name == "fused_after_resident_1"
    assert choose(large, 136, 1).name == "fused_after_resident_1"
    assert choose(large, 400, 1, stored=2).name == "fused_after_streamed_1"
    assert choose(large, 400, 1) is None  # weights take longer than launches
    assert choose(large, 128, 10_000) is None  # more blocks than run at once
    assert choose(large, 513, 1) is None
    with pytest.raises(ValueError, match="engine: 'fused' takes H up to 512, got 513"):
        plan.choose("fused", large, 513, 1, 4, 4, True)
    with pytest.raises(ValueError, match="engine: expected 'auto' or 'steps' or 'fused', got 'packed'"):
        plan.choose("packed", large, 8, 1, 4, 4, True)


@pytest.mark.parametrize("real", [4, 8])
@pytest.mark.parametrize("stored", [2, 4, 8])
def test_launches_fit_every_size(real, stored):
    for shared_memory in (0, 101_376, 232_448):
        device = Simulator(shared_memory)
        for hidden, batch in itertools.product(
            (1, 3, 31, 32, 33, 97, 128, 255, 256, 257, 511, 512), (1, 3, 4, 5, 63, 1000)
        ):
            launch = plan.fused(device, hidden, batch, real, stored, True)
            width, groups = launch.block
            assert width >= plan.depth(hidden)
            rows = 4 if batch >= 4 else 1
            weights = 3 * hidden * plan.depth(hidden) * stored
            states = 2 * groups * rows * plan.depth(hidden) * real
            resident = weights + states <= shared_memory
            assert launch.name == f"fused_after_{'resident' if resident else 'streamed'}_{rows}"
            assert launch.shared_memory == states + (weights if resident else 0)
            assert width * groups <= KERNELS[launch.name]
            assert launch.shared_memory <= max(49_152, shared_memory)
            assert launch.grid[0] * groups * int(launch.name[-1]) >= batch
            assert (launch.grid[0] - 1) * groups * int(launch.name[-1]) < batch


def test_structures_are_the_compilers():
    loaded = library("float32", "Real")
    for name, dtype in STRUCTURES.items():
        fields = [
            number for field in dtype.names for number in (dtype.fields[field][1], dtype.fields[field][0].itemsize)
        ]
        expected = [dtype.itemsize, *fields]
        assert list((ctypes.c_size_t * len(expected)).in_dll(loaded, f"layout_{name}")) == expected


# ----------------------------------------------------------------------------------------------------------------------
# Do the checks see a mistake?

BARRIERS = [match.start() for match in re.finditer(r"__syncthreads\(\);", SOURCE)]


def without(n):
    """The kernels with one barrier less."""
    at = BARRIERS[n]
    return SOURCE[:at] + SOURCE[at:].replace("__syncthreads();", "", 1)


def differs(source, reset_after, **changes):
    problem = Problem({"reset_after": reset_after}, steps=6, batch=9, hidden=41, dtype=np.float64)
    simulator = Simulator(1 << 20, source=source)
    y, _ = place(problem.gru, simulator)(on_device(problem.x), on_device(problem.h0), engine="fused")
    return not relative_error(on_host(y), problem.expected()[0]) < 1e-9


def test_four_barriers():
    assert len(BARRIERS) == 4
    assert not differs(SOURCE, True)
    assert not differs(SOURCE, False)


@pytest.mark.parametrize(("n", "reset_after"), [(0, True), (0, False), (1, True), (2, False), (3, False)])
def test_a_missing_barrier_is_seen(n, reset_after):
    assert differs(without(n), reset_after)


MISTAKES = {
    "uninitialised shared memory": ("other[at(r)] = Real(0);", "", True),
    "a wrong bias": ("f.bias[gate * f.hidden + unit]", "f.bias[unit]", True),
    "padding of the states": ("now[at(r)] = holds(r) ?", "if (holds(r)) now[at(r)] = holds(r) ?", True),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_seen(mistake):
    old, new, reset_after = MISTAKES[mistake]
    assert SOURCE.count(old) == 1
    assert differs(SOURCE.replace(old, new), reset_after)


def test_writing_behind_shared_memory_is_seen():
    source = SOURCE.replace("other[at(r)] = Real(0);", "other[at(r)] = Real(0); other[depth + 1] = 1;")
    problem = Problem({}, batch=1, hidden=20)
    model = place(problem.gru, Simulator(SMALL, source=source))
    with pytest.raises(AssertionError, match="written behind"):
        model(on_device(problem.x), engine="fused")


def test_a_thread_that_leaves_before_a_barrier_is_seen():
    source = SOURCE.replace(
        "    tile.load(now, other);\n", "    tile.load(now, other);\n    if (tile.unit == 7) return;\n"
    )
    assert source != SOURCE
    model = place(Problem({}).gru, Simulator(source=source))
    with pytest.raises(AssertionError, match="some threads of a block ended"):
        model(on_device(Problem({}).x), engine="fused")


# ----------------------------------------------------------------------------------------------------------------------
# Objects and errors


def test_parameters_move_and_come_back():
    gru = cgru.GRU(3, 4, num_layers=2, bidirectional=True, dropout=0.1, rng=0)
    model = place(gru, Simulator())
    assert isinstance(model, cgru.GRU)
    assert model.device == "cuda:0"
    assert gru.device == "cpu"
    assert gru.to("cpu") is gru
    assert repr(model) == repr(gru) + ".to('cuda:0')"
    assert model.options == gru.options
    back = model.to("cpu")
    assert type(back) is cgru.GRU
    for name, array in gru.state_dict().items():
        assert type(model.state_dict()[name]) is DeviceArray
        np.testing.assert_array_equal(on_host(model.state_dict()[name]), array)
        np.testing.assert_array_equal(back.state_dict()[name], array)
    assert model.to("cuda") is model
    assert model.to("cuda:0") is model


def test_new_weights_are_used():
    gru = cgru.GRU(3, 4, rng=0)
    model = place(gru, Simulator())
    x = np.ones((5, 2, 3), np.float32)
    before = on_host(model(on_device(x))[0])
    model.load_state_dict({name: array * np.float32(0.5) for name, array in model.state_dict().items()})
    gru.load_state_dict({name: array * np.float32(0.5) for name, array in gru.state_dict().items()})
    after = on_host(model(on_device(x))[0])
    assert relative_error(after, gru(x)[0]) < 2e-6
    assert np.any(after != before)
    with pytest.raises(TypeError, match=r"weight_ih_l0: expected .* on cuda:0, got ndarray in host memory"):
        model.load_state_dict(gru.state_dict())
    np.testing.assert_array_equal(on_host(model(on_device(x))[0]), after)
    with pytest.raises(ValueError, match=r"state_dict: .* missing bias_hh_l0"):
        model.load_state_dict({name: v for name, v in model.state_dict().items() if name != "bias_hh_l0"})


def test_copies_and_files(tmp_path):
    gru = cgru.GRU(3, 4, rng=0)
    model = place(gru, Simulator())
    x = on_device(np.ones((5, 2, 3), np.float32))
    for twin in (copy.copy(model), copy.deepcopy(model)):
        np.testing.assert_array_equal(on_host(twin(x)[0]), on_host(model(x)[0]))
    model.save(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(
        cgru.load(tmp_path / "m.safetensors").state_dict()["weight_ih_l0"], gru.state_dict()["weight_ih_l0"]
    )
    assert model.quantize("float16").device == "cuda:0"
    assert model.to_torch().hidden_size == 4


F = np.float32
X = np.zeros((6, 2, 3), F)
BAD_CALLS = [
    (lambda m: m(X), TypeError, "x: expected (T, B, 3) float32 on cuda:0, got ndarray in host memory; move it with cupy.asarray(x)"),
    (lambda m: m([[1.0]]), TypeError, "x: expected (T, B, 3) or (T, 3) float32 on cuda:0, got list; move it with cupy.asarray(x)"),
    (lambda m: m(on_device(np.zeros((6, 2, 4), F))), ValueError, "x: expected (T, B, 3) float32 on cuda:0, got (6, 2, 4)"),
    (lambda m: m(on_device(np.zeros((6, 2, 3)))), TypeError, "x: expected (T, B, 3) float32 on cuda:0, got float64; convert it with x.astype(numpy.float32)"),
    (lambda m: m(on_device(X), np.zeros((1, 2, 4), F)), TypeError, "h0: expected (1, 2, 4) float32 on cuda:0, got ndarray in host memory"),
    (lambda m: m(on_device(X), on_device(np.zeros((1, 3, 4), F))), ValueError, "h0: expected (1, 2, 4) float32 on cuda:0, got (1, 3, 4)"),
    (lambda m: m(on_device(X), out=np.zeros((6, 2, 4), F)), TypeError, "out: expected (6, 2, 4) float32 on cuda:0, got numpy.ndarray; make it with cupy.empty"),
    (lambda m: m(on_device(X), out=on_device(np.zeros((6, 2, 5), F))), ValueError, "out: expected (6, 2, 4) float32 on cuda:0, got (6, 2, 5)"),
    (lambda m: m(on_device(X), out=on_device(np.broadcast_to(np.zeros(4, F), (6, 2, 4)))), ValueError, "out: expected distinct elements"),
    (lambda m: m(on_device(X), out=on_device(np.lib.stride_tricks.as_strided(np.zeros(60, F), (6, 2, 4), (28, 12, 4)))), ValueError, "out: expected distinct elements"),
    (lambda m: m(on_device(X), lengths=[1]), ValueError, "lengths: expected (2,) integers, got (1,)"),
    (lambda m: m(on_device(X), lengths=[1, 7]), ValueError, "lengths: expected integers from 0 to 6, got 7 at position 1"),
    (lambda m: m(on_device(X), engine="packed"), ValueError, "engine: expected 'auto' or 'steps' or 'fused', got 'packed'"),
    (lambda m: m(on_device(X), num_threads=2), ValueError, "num_threads: expected None for a model on cuda:0; gru.to('cpu') takes it"),
    (lambda m: m(on_device(X), mask=np.ones((6, 2), bool)), ValueError, "mask: expected None for a model on cuda:0; gru.to('cpu') takes it"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "error", "message"), BAD_CALLS)
def test_bad_calls(bad, error, message):
    simulator = Simulator()
    with pytest.raises(error, match=re.escape(message)):
        bad(place(cgru.GRU(3, 4), simulator))
    assert not simulator.launches


def test_out_that_overlaps():
    gru = cgru.GRU(4, 4)
    memory = np.ones(80, F)
    model = place(gru, Simulator())
    with pytest.raises(ValueError, match="out: expected memory of its own, got an array that overlaps x"):
        model(on_device(memory[:40].reshape(5, 2, 4)), out=on_device(memory[39:79].reshape(5, 2, 4)))
    assert (memory == 1).all()
    y, _ = model(on_device(memory[:40].reshape(5, 2, 4)), out=on_device(memory[40:].reshape(5, 2, 4)))
    np.testing.assert_array_equal(on_host(y).ravel(), memory[40:])


class OnGpu:
    """An array of some library in a GPU's memory, as far as its attributes tell."""

    shape, ndim, dtype = (6, 2, 3), 3, np.dtype(F)
    __cuda_array_interface__ = {"shape": (6, 2, 3), "typestr": "<f4", "data": (0, False), "version": 3}  # noqa: RUF012


class Elsewhere(Simulator):
    def holds(self, array):
        return False


def test_arrays_of_a_gpu_in_a_model_of_the_processor():
    gru = cgru.GRU(3, 4)
    message = "got OnGpu in a GPU's memory; move it with cupy.asnumpy(x), or the model with gru.to('cuda')"
    for bad in (lambda: gru(OnGpu()), lambda: gru(OnGpu(), lengths=[1, 2]), lambda: gru.stream().step(OnGpu())):
        with pytest.raises(TypeError, match=re.escape(message)):
            bad()
    with pytest.raises(
        TypeError, match=re.escape("lengths: expected (B,) integers in host memory, got an array on a GPU")
    ):
        place(gru, Simulator())(on_device(X), lengths=OnGpu())
    pool = place(gru, Simulator()).pool(3)
    with pytest.raises(TypeError, match=re.escape("ids: expected (N,) integers in host memory, got an array on a GPU")):
        pool.step(OnGpu(), on_device(X[0]))


def test_arrays_of_another_device(monkeypatch):
    monkeypatch.setattr(DeviceArray, "device", type("Device", (), {"id": 1}), raising=False)
    model = place(cgru.GRU(3, 4), Elsewhere())
    with pytest.raises(
        ValueError, match=r"x: expected \(T, B, 3\) float32 on cuda:0, got an array on cuda:1; move it or the model"
    ):
        model(on_device(X))


class Tensor:
    """Another library's array: what DLPack asks of it."""

    def __init__(self, array, device=2, refuses=None):
        self.array, self.device, self.refuses = array, device, refuses
        self.ndim = array.ndim

    def __dlpack_device__(self):
        return (self.device, 0)

    def __dlpack__(self, **kwargs):
        return self.array.__dlpack__(**kwargs)


def test_dlpack_is_taken_without_a_copy(monkeypatch):
    gru = cgru.GRU(3, 4, rng=0)
    model = place(gru, Simulator())
    x = np.random.default_rng(0).standard_normal((6, 2, 3)).astype(F)
    monkeypatch.setattr(model.engine.device.xp, "from_dlpack", lambda tensor: on_device(tensor.array))
    assert relative_error(on_host(model(Tensor(x))[0]), gru(x)[0]) < 2e-6
    taken = intake.array(model.engine.device, "x", Tensor(x), x.dtype, ("T", "B", 3))
    assert np.shares_memory(on_host(taken), x)
    with pytest.raises(TypeError, match=r"x: .* got Tensor in host memory"):
        model(Tensor(x, device=1))

    def refuse(tensor):
        raise BufferError("Can't export tensors that require gradient")

    monkeypatch.setattr(model.engine.device.xp, "from_dlpack", refuse)
    with pytest.raises(TypeError, match="x: expected an array to take by DLPack, got one that refuses: Can't export"):
        model(Tensor(x))


def test_the_cuda_array_interface_is_taken(monkeypatch):
    model = place(cgru.GRU(3, 4, rng=0), Simulator())
    monkeypatch.setattr(
        model.engine.device.xp, "asarray", lambda value: on_device(X) if isinstance(value, OnGpu) else None
    )
    assert model(OnGpu())[0].shape == (6, 2, 4)


# ----------------------------------------------------------------------------------------------------------------------
# Streams and pools


@pytest.mark.parametrize("batch", [None, 1, 5])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("reset_after", [True, False])
def test_streams(batch, precision, reset_after):
    rng = np.random.default_rng(0)
    gru = cgru.GRU(7, 13, num_layers=2, reset_after=reset_after, rng=rng)
    gru = gru if precision == "float32" else gru.quantize(precision)
    x = rng.standard_normal((20, 7) if batch is None else (20, batch, 7)).astype(F)
    expected, h_n = gru(x)
    stream = place(gru, Simulator()).stream(batch_size=batch)
    y = [on_host(stream.step(on_device(v))) for v in x[:7]]
    twin = copy.copy(stream)
    out = np.empty_like(expected[7:12])
    assert on_host(stream.process(on_device(x[7:12]), out=on_device(out))).base is out
    y += [*out]
    kept = stream.state
    y += [*on_host(stream.process(on_device(x[12:])))]
    assert relative_error(np.array(y), expected) < 2e-6
    assert relative_error(on_host(stream.state), h_n) < 2e-6
    assert relative_error(on_host(twin.process(on_device(x[7:]))), expected[7:]) < 2e-6
    stream.state = kept
    assert relative_error(on_host(stream.process(on_device(x[12:]))), expected[12:]) < 2e-6
    assert stream.process(on_device(x[:0])).shape == expected[:0].shape
    stream.reset()
    assert not on_host(stream.state).any()
    out = np.empty_like(expected[0])
    stream.step(on_device(x[0]), out=on_device(out))
    assert relative_error(out, expected[0]) < 2e-6
    assert repr(stream).startswith("Stream(GRU(7, 13, num_layers=2")


def test_bad_steps_leave_the_state():
    stream = place(cgru.GRU(7, 13), Simulator()).stream()
    stream.step(on_device(np.ones(7, F)))
    before = on_host(stream.state)
    for bad, error, message in [
        (
            lambda: stream.step(np.ones(7, F)),
            TypeError,
            "x: expected (7,) float32 on cuda:0, got ndarray in host memory",
        ),
        (lambda: stream.step(on_device(np.ones(8, F))), ValueError, "x: expected (7,) float32 on cuda:0, got (8,)"),
        (
            lambda: stream.process(on_device(np.ones(7, F))),
            ValueError,
            "chunk: expected (t, 7) float32 on cuda:0, got (7,)",
        ),
        (lambda: stream.step(on_device(np.ones(7, F)), on_device(np.ones(12, F))), ValueError, "out: expected (13,)"),
        (lambda: setattr(stream, "state", np.ones((1, 13), F)), TypeError, "state: expected (1, 13) float32 on cuda:0"),
    ]:
        with pytest.raises(error, match=re.escape(message)):
            bad()
    np.testing.assert_array_equal(on_host(stream.state), before)
    with held(stream):
        for call in (
            lambda: stream.step(on_device(np.ones(7, F))),
            lambda: stream.process(on_device(np.ones((2, 7), F))),
            lambda: stream.state,
            lambda: setattr(stream, "state", on_device(before)),
            stream.reset,
            stream.copy,
        ):
            with pytest.raises(RuntimeError, match="this stream is in use by another thread"):
                call()
    np.testing.assert_array_equal(on_host(stream.state), before)
    for gru in (cgru.GRU(3, 4, bidirectional=True), cgru.GRU(3, 4, reverse=True)):
        model = place(gru, Simulator())
        for make in (model.stream, lambda: model.pool(4)):  # noqa: B023
            with pytest.raises(ValueError, match="begins at the last step"):
                make()


def test_pool():
    gru = cgru.GRU(7, 13, num_layers=2, rng=0)
    pool = place(gru, Simulator()).pool(9)
    rng = np.random.default_rng(1)
    streams = {pool.open(): gru.stream() for _ in range(9)}
    for _ in range(20):
        ids = rng.permutation(9)[: rng.integers(0, 10)]
        x = rng.standard_normal((len(ids), 7)).astype(F)
        out = np.empty((len(ids), 13), F)
        pool.step(ids, on_device(x), out=on_device(out))
        for i, v, row in zip(ids, x, out, strict=True):
            assert relative_error(row, streams[int(i)].step(v)) < 2e-6
    pool.set_state(3, pool.state(4))
    np.testing.assert_array_equal(on_host(pool.state(3)), on_host(pool.state(4)))
    pool.reset(3)
    assert not on_host(pool.state(3)).any()
    before = on_host(pool.state(4))
    for bad, error, message in [
        (lambda: pool.step([4, 4], on_device(np.ones((2, 7), F))), ValueError, "ids: expected each stream once"),
        (lambda: pool.step([4], np.ones((1, 7), F)), TypeError, "x: expected (1, 7) float32 on cuda:0, got ndarray"),
        (
            lambda: pool.step([4], on_device(np.ones((1, 7), F)), num_threads=1),
            ValueError,
            "num_threads: expected None",
        ),
        (lambda: pool.set_state(4, np.ones((2, 13), F)), TypeError, "h: expected (2, 13) float32 on cuda:0"),
    ]:
        with pytest.raises(error, match=re.escape(message)):
            bad()
    np.testing.assert_array_equal(on_host(pool.state(4)), before)
    pool.close(4)
    assert pool.open() == 4
    assert not on_host(pool.state(4)).any()
    with held(pool):
        for call in (
            lambda: pool.step([4], on_device(np.ones((1, 7), F))),
            pool.open,
            lambda: pool.close(4),
            lambda: pool.reset(4),
            lambda: pool.state(4),
            lambda: pool.set_state(4, on_device(np.ones((2, 13), F))),
            pool.copy,
        ):
            with pytest.raises(RuntimeError, match="this pool is in use by another thread"):
                call()


@each_dtype
def test_streams_and_pools_keep_their_weights(dtype):
    gru = cgru.GRU(7, 13, num_layers=2, rng=0, dtype=dtype)
    x = np.random.default_rng(0).standard_normal((6, 7)).astype(dtype)
    expected, _ = gru(x)
    model = place(gru, Simulator())
    stream, pool = model.stream(), model.pool(2)
    i = pool.open()
    model.load_state_dict({name: on_device(np.zeros_like(w)) for name, w in gru.state_dict().items()})
    for twin in (stream.copy(), copy.copy(stream), copy.deepcopy(stream), stream):
        assert relative_error(on_host(twin.copy().process(on_device(x))), expected) < 2e-6
        assert relative_error(np.array([on_host(twin.step(on_device(v))) for v in x]), expected) < 2e-6
    for twin in (pool.copy(), copy.copy(pool), copy.deepcopy(pool), pool):
        y = np.array([on_host(twin.step([i], on_device(v[None])))[0] for v in x])
        assert relative_error(y, expected) < 2e-6
    assert not on_host(model(on_device(x))[0]).any()


def test_a_failure_leaves_the_state(monkeypatch):
    """A call that fails between two layers, or after the last."""
    model = place(cgru.GRU(7, 13, num_layers=2, rng=0), Simulator())
    stream, pool = model.stream(), model.pool(2)
    i = pool.open()
    x = np.random.default_rng(0).standard_normal((4, 7)).astype(F)
    stream.process(on_device(x))
    pool.step([i], on_device(x[:1]))
    before = on_host(stream.state), on_host(pool.state(i))
    direction = forward.direction
    for last in (1, 2):
        for call in (
            lambda: stream.step(on_device(x[0])),
            lambda: stream.process(on_device(x)),
            lambda: pool.step([i], on_device(x[:1])),
        ):
            calls = []

            def failing(*arguments, calls=calls, last=last, **options):
                direction(*arguments, **options)
                calls.append(None)
                if len(calls) == last:
                    raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(forward, "direction", failing)
                with pytest.raises(KeyboardInterrupt):
                    call()
            np.testing.assert_array_equal(on_host(stream.state), before[0])
            np.testing.assert_array_equal(on_host(pool.state(i)), before[1])


class Stubborn(DeviceArray):
    """An array that stays two-dimensional."""

    def __getitem__(self, index):
        found = np.asarray(self)[index]
        return np.atleast_2d(found).view(Stubborn)


def test_arrays_of_subclasses_are_taken_as_plain_ones():
    gru = cgru.GRU(7, 13, rng=0)
    model, x, h = place(gru, Simulator()), np.ones((5, 7), F), np.ones((1, 13), F)
    expected, h_n = gru(x, h)
    out = np.zeros((5, 13), F)
    y, last = model(x.view(Stubborn), h.view(Stubborn), out=out.view(Stubborn))
    assert type(y) is type(last) is DeviceArray
    assert relative_error(out, expected) < 2e-6
    assert relative_error(on_host(last), h_n) < 2e-6
    stream = model.stream(batch_size=5)
    assert relative_error(on_host(stream.step(x.view(Stubborn))), gru.stream(batch_size=5).step(x)) < 2e-6
    y, _, tape = model.record(x.view(Stubborn))
    assert type(tape.backward(y.view(Stubborn)).x) is DeviceArray


def test_a_tape_in_use_refuses():
    y, _, tape = place(cgru.GRU(7, 13), Simulator()).record(on_device(np.ones((5, 7), F)))
    with held(tape), pytest.raises(RuntimeError, match="this tape is in use by another thread"):
        tape.backward(y)
    tape.backward(y)


# ----------------------------------------------------------------------------------------------------------------------
# What is missing


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "mps", None, 0])
def test_names_of_devices(name):
    with pytest.raises(ValueError, match="device: expected 'cpu', 'cuda' or 'cuda:N', got"):
        cgru.GRU(3, 4).to(name)
    assert devices.parse("cuda:12") == 12


def in_a_new_process(code):
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    return run.stderr.strip().splitlines()[-1]


def test_without_cupy():
    code = "import sys; sys.modules['cupy'] = None; import cgru; cgru.GRU(3, 4).to('cuda')"
    expected = 'RuntimeError: device: \'cuda\' needs CuPy: pip install "cgru[cuda12]" or "cgru[cuda13]"'
    assert in_a_new_process(code).startswith(expected)


def test_with_cupy_and_no_driver():
    cupy = pytest.importorskip("cupy", exc_type=ImportError)
    try:
        cupy.cuda.runtime.getDeviceCount()
        pytest.skip("there is a GPU here")
    except cupy.cuda.runtime.CUDARuntimeError:
        pass
    code = "import cgru; cgru.GRU(3, 4).to('cuda')"
    line = in_a_new_process(code)
    assert line.startswith("RuntimeError: device: 'cuda' needs an NVIDIA GPU and its driver; CuPy ")
    assert "cudaErrorInsufficientDriver" in line or "cudaErrorNoDevice" in line


def test_cupy_has_what_the_engine_calls():
    cupy = pytest.importorskip("cupy", exc_type=ImportError)
    for name in vars(xp):
        assert hasattr(cupy, name), name
    assert hasattr(cupy.random, "default_rng")
    for name in ("asnumpy", "RawModule"):
        assert hasattr(cupy, name), name


def test_a_device_that_is_not_there(monkeypatch):
    module = type("cupy", (), {})()
    runtime = type("runtime", (), {"getDeviceCount": staticmethod(lambda: 1), "CUDARuntimeError": RuntimeError})
    module.cuda = type("cuda", (), {"runtime": runtime})
    monkeypatch.setitem(sys.modules, "cupy", module)
    with pytest.raises(RuntimeError, match="device: 'cuda:1' is not here; this machine has cuda:0"):
        cgru.GRU(3, 4).to("cuda:1")


def test_importing_cgru_imports_no_cupy():
    code = "import sys, cgru; cgru.GRU(3, 4).to('cpu'); assert 'cupy' not in sys.modules; raise SystemExit('fine')"
    assert in_a_new_process(code) == "fine"


# ----------------------------------------------------------------------------------------------------------------------
# The benchmark


@pytest.mark.parametrize("case", bench_cuda.cases((24,)), ids=lambda case: case.name)
def test_bench_measures(case):
    case = dataclasses.replace(case, steps=min(case.steps, 5), batch=min(case.batch, 9))
    row = bench_cuda.measure(case, Simulator(), 0.001, 2)
    ways = {"cgru, stream"} if case.steps == 0 else {"cgru, steps", "cgru, fused"}
    assert ways | {"cgru, processor"} <= set(row.seconds) == set(row.memory)
    assert all(value > 0 for value in row.seconds.values())


def test_bench_checks_results_before_it_times(monkeypatch):
    def wrong(problem, device):
        right = before(problem, device)
        found = right["cgru, steps"]
        return {"wrong": dataclasses.replace(found, result=lambda y: found.result(y) + 1e-3)}

    before = bench_cuda.contenders
    monkeypatch.setattr(bench_cuda, "contenders", wrong)
    with pytest.raises(RuntimeError, match=r"wrong, .* differs from the reference by 0.001"):
        bench_cuda.measure(bench_cuda.cases((8,))[1], Simulator(), 0.001, 2)


def test_bench_on_the_command_line(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "find", lambda index: Simulator())
    monkeypatch.setattr(bench_cuda, "cases", lambda sizes: [bench.Case("B 2, T 3", 3, 2, h, h) for h in sizes])
    path = str(tmp_path / "times.json")
    arguments = ["bench", "--device", "cuda", "--hidden", "8", "--seconds", "0.01", "--json", path]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.output
    assert "B 2, T 3" in result.output
    (row,) = json.loads(Path(path).read_text())["rows"]
    assert row["case"]["hidden"] == 8
    assert set(row["seconds"]) >= {"cgru, steps", "cgru, fused"}
    assert CliRunner().invoke(cli.main, ["bench", "--device", "cuda", "--threads", "2"]).exit_code == 2


def test_bench_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    devices.find.cache_clear()
    result = CliRunner().invoke(cli.main, ["bench", "--device", "cuda"])
    assert result.exit_code == 1
    assert "device: 'cuda' needs CuPy" in result.output
    result = CliRunner().invoke(cli.main, ["bench", "--device", "tpu"])
    assert result.exit_code == 1
    assert "device: expected 'cpu', 'cuda' or 'cuda:N', got 'tpu'" in result.output
