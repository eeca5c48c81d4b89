"""The CUDA engine against the specification, on a device made of the processor: the kernels' own text, CuPy's rules."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cgru
from cgru.engines.cuda import forward

from ..support.cuda_calls import TOLERANCE, call, check, each_dtype, each_way
from ..support.cuda_on_cpu import (
    DeviceArray,
    Simulator,
    on_device,
    on_host,
    place,
)
from ..support.options import DIRECTIONS, Problem, function_points, points, relative_error


@each_way
@each_dtype
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("batch", [1, 5])
def test_option_matrix(way, dtype, ragged, batch):
    for options in points():
        check(Problem(options, steps=4, batch=batch, ragged=ragged, dtype=dtype), way)


@each_way
@each_dtype
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("reset_after", [True, False])
def test_backwards_and_added_up(way, dtype, ragged, reset_after):
    for options in DIRECTIONS:
        for batch_first in (False, True):
            problem = {"reset_after": reset_after, "batch_first": batch_first, **options}
            check(Problem(problem, batch=3, ragged=ragged, dtype=dtype), way)


@each_way
@each_dtype
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("update_gate", ["state", "candidate"])
def test_activations(way, dtype, reset_after, update_gate):
    for options in function_points(reset_after=reset_after, update_gate=update_gate):
        check(Problem(options, steps=4, batch=2, dtype=dtype), way)


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
