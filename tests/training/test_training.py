"""Training: the specification's gradients against differences and torch, the engine's against the specification."""

import re
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cgru
from cgru import reference

from ..support.matrix import thinned
from ..support.options import DIRECTIONS, Problem, function_points, points, relative_error


def activation_options():
    return (options for point in points("reset_after", "update_gate") for options in function_points(**point))


class Gradients:
    """A problem with a loss, sum(y weights) + sum(h_n weights), and the specification's gradients of it."""

    def __init__(self, problem, seed=1):
        rng = np.random.default_rng(seed)
        self.problem = problem
        self.options = problem.specified
        self.lengths = problem.lengths
        self.parameters = {name: array.astype(np.float64) for name, array in problem.gru.state_dict().items()}
        self.x = problem.time_first(problem.x).astype(np.float64)
        self.h0 = problem.h0.astype(np.float64)
        shape = (*self.x.shape[:2], problem.gru.spec.width)
        # numbers that float32 holds, so that both precisions have the same problem
        self.by_y = rng.standard_normal(shape).astype(problem.dtype).astype(np.float64)
        self.by_h_n = rng.standard_normal(self.h0.shape).astype(problem.dtype).astype(np.float64)

    def loss(self, x, h0, parameters):
        y, h_n = reference.forward(x, parameters, h0, **self.options)
        return float(np.sum(y * self.by_y) + np.sum(h_n * self.by_h_n))

    def expected(self, **more):
        return reference.backward(self.x, self.parameters, self.h0, self.by_y, self.by_h_n, **self.options, **more)


def directional_error(gradients, seed=2, epsilon=1e-6):
    """The worst derivative along random directions, by central differences, beside the gradients'.

    Steps are short: where an activation has a corner between its two ends a difference means nothing.
    """
    rng = np.random.default_rng(seed)
    by_x, by_h0, by_parameters = gradients.expected()
    given = {"x": gradients.x, "h0": gradients.h0, **gradients.parameters}
    by = {"x": by_x, "h0": by_h0, **by_parameters}
    worst = 0.0
    for name in given:
        direction = rng.standard_normal(given[name].shape)
        shifted = [
            {**given, name: given[name] + step * direction} for step in (epsilon, -epsilon, epsilon / 2, -epsilon / 2)
        ]
        ends = [gradients.loss(values.pop("x"), values.pop("h0"), values) for values in shifted]
        coarse, fine = (ends[0] - ends[1]) / (2 * epsilon), (ends[2] - ends[3]) / epsilon
        derivative = (4 * fine - coarse) / 3  # Richardson: the error falls with epsilon's fourth power
        wanted = float(np.sum(by[name] * direction))
        worst = max(worst, abs(derivative - wanted) / max(1.0, abs(wanted)))
    return worst


@pytest.mark.parametrize("ragged", [False, True])
def test_specification_by_differences(ragged):
    for options in [*points(batch_first=[False]), *DIRECTIONS]:
        gradients = Gradients(Problem(options, steps=4, hidden=5, inputs=3, ragged=ragged))
        assert directional_error(gradients) < 1e-7, options


def test_specification_of_every_activation_by_differences():
    for options in activation_options():
        gradients = Gradients(Problem(options, steps=3, hidden=4, inputs=3))
        assert directional_error(gradients) < 1e-7, options


def torch_gradients(gradients, dtype, bidirectional=False, num_layers=1, bias=True, batch_first=False):
    """Those of torch.nn.GRU in a dtype: of x (T, B, I), h0 and the parameters."""
    problem = gradients.problem
    module = torch.nn.GRU(problem.inputs, problem.hidden, num_layers, bias, bidirectional=bidirectional, dtype=dtype)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in gradients.parameters.items()})
    x, h0 = (torch.tensor(array, dtype=dtype, requires_grad=True) for array in (gradients.x, gradients.h0))
    given = x
    if gradients.lengths is not None:
        given = torch.nn.utils.rnn.pack_padded_sequence(x, torch.from_numpy(gradients.lengths), enforce_sorted=False)
    y, h_n = module(given, h0)
    if gradients.lengths is not None:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=problem.steps)
    loss = (y * torch.tensor(gradients.by_y, dtype=dtype)).sum()
    (loss + (h_n * torch.tensor(gradients.by_h_n, dtype=dtype)).sum()).backward()
    return x.grad.numpy(), h0.grad.numpy(), {name: p.grad.numpy() for name, p in module.named_parameters()}


def errors(result, expected):
    """The relative errors of gradients, by name."""
    by_x, by_h0, by_parameters = result
    wanted_x, wanted_h0, wanted = expected
    assert by_parameters.keys() == wanted.keys()
    compared = {"x": (by_x, wanted_x), "h0": (by_h0, wanted_h0)}
    compared.update({name: (by_parameters[name], wanted[name]) for name in wanted})
    return {name: relative_error(*pair) for name, pair in compared.items()}


TORCH = ("num_layers", "bidirectional", "bias")  # the options that it has


@pytest.mark.parametrize("ragged", [False, True])
def test_specification_equals_torch(ragged):
    for options in points(*TORCH):
        problem = Problem(options)
        if ragged:
            problem.lengths = np.array([4, 6, 1])  # torch knows no length of 0
        gradients = Gradients(problem)
        found = errors(gradients.expected(), torch_gradients(gradients, torch.float64, **options))
        assert max(found.values()) < 1e-12, (options, found)


TOLERANCE = {np.float64: 1e-12, np.float32: 2e-5}


def check(problem, memory=None, num_threads=None):
    """gru.record and its tape against the specification."""
    gradients = Gradients(problem)
    y, h_n, tape = problem.gru.record(problem.x, problem.h0, **problem.how, memory=memory, num_threads=num_threads)
    grad_y = np.ascontiguousarray(gradients.problem.time_first(gradients.by_y)).astype(problem.dtype)
    grads = tape.backward(grad_y, gradients.by_h_n.astype(problem.dtype))
    assert grads.x.shape == problem.x.shape
    assert {grads.x.dtype, grads.h0.dtype, *(array.dtype for array in grads.values())} == {np.dtype(problem.dtype)}
    found = errors((gradients.problem.time_first(grads.x), grads.h0, dict(grads)), gradients.expected())
    for name, result, expected in zip(("y", "h_n"), (y, h_n), problem.expected(), strict=True):
        found[name] = relative_error(result, expected)
    assert max(found.values()) < TOLERANCE[problem.dtype], (problem.options, found)


each_dtype = pytest.mark.parametrize("dtype", TOLERANCE)
each_form = thinned(3, dtype=[*TOLERANCE], ragged=[False, True], batch=[1, 3], memory=[None, 0, 2000])


@each_form
def test_option_matrix(dtype, ragged, batch, memory):
    for options in points():
        check(Problem(options, steps=5, batch=batch, hidden=9, ragged=ragged, dtype=dtype), memory)


@each_form
def test_backwards_and_added_up(dtype, ragged, batch, memory):
    for options in DIRECTIONS:
        for more in points("reset_after", "batch_first"):
            check(Problem({**options, **more}, batch=batch, ragged=ragged, dtype=dtype), memory)


@each_dtype
def test_activations(dtype):
    for options in activation_options():
        for batch in (1, 4):
            check(Problem(options, steps=4, batch=batch, hidden=18, dtype=dtype))


@each_dtype
@given(
    steps=st.integers(1, 70),
    batch=st.integers(1, 40),
    inputs=st.integers(1, 50),
    hidden=st.integers(1, 70),
    ragged=st.booleans(),
    reset_after=st.booleans(),
    bidirectional=st.booleans(),
    threads=st.integers(1, 3),
    memory=st.sampled_from([None, 0, 10_000, 100_000]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_any_size(dtype, steps, batch, inputs, hidden, ragged, reset_after, bidirectional, threads, memory, seed):
    options = {"reset_after": reset_after, "bidirectional": bidirectional}
    check(Problem(options, steps, batch, inputs, hidden, ragged, dtype, seed), memory, threads)


@each_dtype
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("ragged", [False, True])
def test_many_threads(dtype, reset_after, ragged):
    """Enough work for threads; one run is to the last bit the next, and states and inputs do not depend on threads."""
    problem = Problem({"reset_after": reset_after}, 40, 24, 30, 110, ragged, dtype)
    grad_y = np.ones((40, 24, 110), dtype)
    results = []
    check(problem, num_threads=2)
    for threads in (2, 2, 1):
        y, h_n, tape = problem.gru.record(problem.x, problem.h0, lengths=problem.lengths, num_threads=threads)
        grads = tape.backward(grad_y)
        results.append([y, h_n, grads.x, grads.h0, grads["weight_ih_l0"], grads["weight_hh_l0"], *grads.values()])
    for first, second in zip(*results[:2], strict=True):
        np.testing.assert_array_equal(first, second)
    for first, second in zip(results[0][:6], results[2][:6], strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("ragged", [False, True])
def test_equals_torch(dtype, tolerance, ragged):
    for options in points(*TORCH):
        kind = np.float64 if dtype == torch.float64 else np.float32
        problem = Problem(options, steps=20, batch=5, inputs=24, hidden=40, dtype=kind)
        problem.lengths = np.array([13, 20, 1, 7, 20]) if ragged else None
        gradients = Gradients(problem)
        _, _, tape = problem.gru.record(problem.x, problem.h0, lengths=problem.lengths)
        grads = tape.backward(gradients.by_y.astype(kind), gradients.by_h_n.astype(kind))
        found = errors((grads.x, grads.h0, dict(grads)), torch_gradients(gradients, dtype, **options))
        assert max(found.values()) < tolerance, (options, found)


@each_dtype
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [[0, 0, 0], [6, 6, 6], [0, 6, 1], [1, 0, 0]])
def test_lengths_at_their_ends(dtype, bidirectional, lengths):
    problem = Problem({"bidirectional": bidirectional, "num_layers": 2}, dtype=dtype)
    problem.lengths = np.array(lengths)
    check(problem)
    _, h_n, tape = problem.gru.record(problem.x, problem.h0, lengths=lengths)
    grads = tape.backward(np.ones((6, 3, problem.gru.spec.width), dtype), np.ones_like(h_n))
    for b, length in enumerate(lengths):
        assert not grads.x[length:, b].any()
        if length == 0:
            np.testing.assert_array_equal(grads.h0[:, b], 1)


def test_what_stands_past_a_length_is_not_read():
    problem = Problem({"bidirectional": True}, steps=6, batch=3)
    lengths = np.array([2, 6, 0])
    grad_y = np.ones((6, 3, 22))
    results = []
    for filler in (0.0, np.nan):
        for b, length in enumerate(lengths):
            grad_y[length:, b] = filler
            problem.x[length:, b] = filler
        _, _, tape = problem.gru.record(problem.x, problem.h0, lengths=lengths)
        grads = tape.backward(grad_y)
        results.append([grads.x, grads.h0, *grads.values()])
    for zero, nan in zip(*results, strict=True):
        np.testing.assert_array_equal(zero, nan)


@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (0, 0)])
def test_nothing_to_do(shape):
    gru = cgru.GRU(4, 6, 2, bidirectional=True, rng=0)
    h0 = np.ones((4, shape[1], 6), np.float32)
    y, h_n, tape = gru.record(np.ones((*shape, 4), np.float32), h0)
    assert y.shape == (*shape, 12)
    np.testing.assert_array_equal(h_n, h0)
    grads = tape.backward(np.ones_like(y), 2 * np.ones_like(h_n))
    assert grads.x.shape == (*shape, 4)
    np.testing.assert_array_equal(grads.h0, 2 * h0)
    assert list(grads) == list(gru.state_dict())
    assert not any(array.any() for array in grads.values())


def test_one_sequence_and_strides():
    """(T, I) is B 1; inputs and gradients may be any views, and x's memory may be used again."""
    gru = cgru.GRU(5, 7, 2, bidirectional=True, dtype=np.float64, rng=0)
    rng = np.random.default_rng(1)
    x, h0, grad_y = rng.standard_normal((9, 5)), rng.standard_normal((4, 7)), rng.standard_normal((9, 14))
    y, h_n, tape = gru.record(x[:, None], h0[:, None])
    expected = tape.backward(grad_y[:, None], 2 * h_n)
    views = [np.asfortranarray(array) for array in (x, h0, grad_y)]
    for given_x, given_h0, given_grad in ((x, h0, grad_y), views):
        mine = given_x.copy("K")
        y_one, h_one, tape = gru.record(mine, given_h0, lengths=9)
        mine[...] = np.nan
        np.testing.assert_array_equal(y_one, y[:, 0])
        grads = tape.backward(given_grad, 2 * h_one)
        np.testing.assert_allclose(grads.x, expected.x[:, 0], rtol=0, atol=1e-14)
        np.testing.assert_allclose(grads.h0, expected.h0[:, 0], rtol=0, atol=1e-14)
        for name in grads:
            np.testing.assert_allclose(grads[name], expected[name], rtol=0, atol=1e-13)
    broadcast = gru.record(x, h0)[2].backward(np.broadcast_to(np.float64(1), (9, 14)))
    dense = gru.record(x, h0)[2].backward(np.ones((9, 14)))
    np.testing.assert_array_equal(broadcast.x, dense.x)


def test_one_of_two_gradients():
    gru = cgru.GRU(3, 5, 2, dtype=np.float64, rng=0)
    x = np.random.default_rng(1).standard_normal((6, 2, 3))
    y, h_n, _ = gru.record(x)
    by_y = gru.record(x)[2].backward(np.ones_like(y))
    by_h = gru.record(x)[2].backward(grad_h_n=np.ones_like(h_n))
    both = gru.record(x)[2].backward(np.ones_like(y), np.ones_like(h_n))
    np.testing.assert_allclose(by_y.x + by_h.x, both.x, rtol=0, atol=1e-14)
    for name in both:
        np.testing.assert_allclose(by_y[name] + by_h[name], both[name], rtol=0, atol=1e-13)


@each_dtype
def test_equals_a_call(dtype):
    gru = cgru.GRU(20, 50, 2, bidirectional=True, dtype=dtype, rng=0)
    x = np.random.default_rng(1).standard_normal((30, 9, 20)).astype(dtype)
    y, h_n = gru(x)
    for memory in (None, 0):
        recorded = gru.record(x, memory=memory)
        assert relative_error(recorded[0], y) < {np.float64: 1e-13, np.float32: 1e-6}[dtype]
        assert relative_error(recorded[1], h_n) < {np.float64: 1e-13, np.float32: 1e-6}[dtype]


def test_memory_is_bounded():
    """Gates of a long sequence take what they may; the peak without bound shows that it would have been more."""
    gru = cgru.GRU(2, 32, rng=0)
    x = np.random.default_rng(1).standard_normal((4000, 4, 2), np.float32)
    everything = 4 * 4 * 4000 * 4 * 32
    peaks = {}
    for memory in (None, 100_000):
        tracemalloc.start()
        y, _, tape = gru.record(x, memory=memory)
        tape.backward(y)
        peaks[memory] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[None] > everything
    # x and its gradient, y, the gates of a chunk and its states once more
    assert peaks[100_000] < 2 * x.nbytes + y.nbytes + 2 * 100_000


def test_pieces_of_a_sequence():
    """h_n passed on: the pieces' gradients, chained by hand, are those of the whole."""
    gru = cgru.GRU(3, 6, 2, dtype=np.float64, rng=0)
    x = np.random.default_rng(1).standard_normal((10, 2, 3))
    y, _, tape = gru.record(x)
    grads = tape.backward(np.ones_like(y))
    y1, h1, first = gru.record(x[:4])
    y2, _, second = gru.record(x[4:], h1)
    np.testing.assert_allclose(np.concatenate([y1, y2]), y, rtol=0, atol=1e-15)
    later = second.backward(np.ones_like(y2))
    earlier = first.backward(np.ones_like(y1), later.h0)
    np.testing.assert_allclose(np.concatenate([earlier.x, later.x]), grads.x, rtol=0, atol=1e-14)
    for name in grads:
        np.testing.assert_allclose(earlier[name] + later[name], grads[name], rtol=0, atol=1e-13)


@pytest.mark.parametrize("memory", [None, 0])
def test_dropout(memory):
    """The masks of a seed: the same again, of the share asked for, and with the specification's gradients."""
    gru = cgru.GRU(4, 30, 3, bidirectional=True, dropout=0.3, dtype=np.float64, rng=0)
    rng = np.random.default_rng(1)
    x, h0 = rng.standard_normal((8, 5, 4)), rng.uniform(-1, 1, (6, 5, 30))
    y, h_n, tape = gru.record(x, h0, rng=7, memory=memory)
    same, _, _ = gru.record(x, h0, rng=np.random.default_rng(7))
    np.testing.assert_array_equal(y, same)
    assert not np.array_equal(y, gru.record(x, h0, rng=8)[0])
    assert not np.array_equal(gru.record(x, h0)[0], gru.record(x, h0)[0])
    np.testing.assert_array_equal(gru(x, h0)[0], gru(x, h0)[0])

    factors = [mask / 0.7 for mask in tape._masks]
    assert [mask.shape for mask in factors] == [(8, 5, 60)] * 2
    assert all(abs(np.mean(mask > 0) - 0.7) < 0.03 for mask in factors)
    expected_y, expected_h = reference.forward(x, gru.state_dict(), h0, factors=factors)
    assert relative_error(y, expected_y) < 1e-13
    assert relative_error(h_n, expected_h) < 1e-13
    grad_y, grad_h_n = rng.standard_normal(y.shape), rng.standard_normal(h_n.shape)
    grads = tape.backward(grad_y, grad_h_n)
    expected = reference.backward(x, gru.state_dict(), h0, grad_y, grad_h_n, factors=factors)
    assert max(errors((grads.x, grads.h0, dict(grads)), expected).values()) < 1e-12


def test_bad_calls():
    gru = cgru.GRU(4, 6, 2)
    x = np.ones((5, 3, 4), np.float32)
    cases = [
        (lambda: gru.record(x[..., :3]), ValueError, "x: expected (T, B, 4) float32, got (5, 3, 3)"),
        (lambda: gru.record(x, np.ones((2, 2, 6), np.float32)), ValueError, "h0: expected (2, 3, 6) float32, got (2, 2, 6)"),
        (lambda: gru.record(x, lengths=[1, 2, 6]), ValueError, "lengths: expected integers from 0 to 5, got 6 at position 2"),
        (lambda: gru.record(x, memory=-1), ValueError, "memory: expected an integer from 0"),
        (lambda: gru.record(x, memory=1e6), TypeError, "memory: expected an integer from 0"),
        (lambda: gru.record(x, rng="seed"), TypeError, "rng: expected None, an integer or a numpy.random.Generator"),
        (lambda: gru.record(x, num_threads=0), ValueError, "num_threads: expected an integer from 1 to 1024, got 0"),
        (lambda: gru.quantize("bfloat16").record(x), RuntimeError, "record: this model's weights are stored as bfloat16, for inference only; train the float32 model"),
    ]  # fmt: skip
    for call, error, message in cases:
        with pytest.raises(error, match=re.escape(message)):
            call()


def test_bad_gradients_leave_the_tape():
    gru = cgru.GRU(4, 6, 2)
    y, h_n, tape = gru.record(np.ones((5, 3, 4), np.float32))
    cases = [
        ((), ValueError, "grad_y: expected an array for it or for grad_h_n, got None for both"),
        ((np.ones((5, 3, 7), np.float32),), ValueError, "grad_y: expected (5, 3, 6) float32, got (5, 3, 7)"),
        ((y.astype(np.float64),), TypeError, "grad_y: expected (5, 3, 6) float32, got float64; convert it with"),
        (([1.0],), TypeError, "grad_y: expected (5, 3, 6) float32, got list"),
        ((y, h_n[0]), ValueError, "grad_h_n: expected (2, 3, 6) float32, got (3, 6)"),
        ((None, h_n.astype(int)), TypeError, "grad_h_n: expected (2, 3, 6) float32, got int64"),
    ]
    for arguments, error, message in cases:
        with pytest.raises(error, match=re.escape(message)):
            tape.backward(*arguments)
    assert tape.backward(y)["weight_hh_l1"].any()
    with pytest.raises(RuntimeError, match="tape: backward has been called before and has used it up; record again"):
        tape.backward(y)


def test_weights_replaced_and_outputs_protected():
    gru = cgru.GRU(4, 6)
    x = np.ones((5, 3, 4), np.float32)
    y, _, tape = gru.record(x)
    with pytest.raises(ValueError, match="read-only"):
        y *= 2
    gru.load_state_dict(gru.state_dict())
    with pytest.raises(RuntimeError, match="tape: the model's weights have been replaced since the call was recorded"):
        tape.backward(y)
