"""Gradients of the CUDA engine against torch's autograd in float64, and against differences, on the processor."""

import numpy as np
import pytest
import torch

import cgru
from cgru.model import activations

from ..support.cuda_on_cpu import Simulator, on_device, on_host, place
from ..support.matrix import thinned
from ..support.options import DIRECTIONS, Problem, function_points, points, relative_error

each_engine = pytest.mark.parametrize("engine", ["steps", "fused"])
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
TOLERANCE = {np.float64: 1e-12, np.float32: 5e-6}

FUNCTIONS = {
    "tanh": lambda x, a, b: torch.tanh(x),
    "sigmoid": lambda x, a, b: torch.sigmoid(x),
    "relu": lambda x, a, b: torch.relu(x),
    "hard_sigmoid": lambda x, a, b: torch.clamp(a * x + b, 0, 1),
    "softsign": lambda x, a, b: x / (1 + x.abs()),
    "softplus": lambda x, a, b: torch.nn.functional.softplus(x, threshold=40),
    "elu": lambda x, a, b: torch.where(x > 0, x, a * torch.expm1(torch.clamp(x, max=0))),
    "leaky_relu": lambda x, a, b: torch.where(x < 0, a * x, x),
    "thresholded_relu": lambda x, a, b: torch.where(x <= a, torch.zeros_like(x), x),
    "scaled_tanh": lambda x, a, b: a * torch.tanh(b * x),
    "affine": lambda x, a, b: a * x + b,
    "linear": lambda x, a, b: x,
    "g": lambda x, a, b: torch.where(x < 0, torch.sigmoid(x), x + 0.5),
}


def forward(problem, x, h0, parameters, factors=()):
    """The specification's equations on torch's tensors: y (T, B, D*H) and h_n, from x (T, B, I)."""
    gru = problem.gru
    clip = np.inf if gru.clip is None else gru.clip

    def function(option, d):
        functions = activations.parse_all("activation", option)
        activation = functions[d % len(functions)]
        formula = FUNCTIONS[activation.name]
        return lambda v: formula(torch.clamp(v, -clip, clip), activation.alpha, activation.beta)

    steps, batch, _ = x.shape
    lengths = torch.full((batch,), steps) if problem.lengths is None else torch.from_numpy(problem.lengths)
    last_states = []
    for k in range(gru.num_layers):
        outputs = []
        for d, suffix in enumerate(("", "_reverse") if gru.bidirectional else ("",)):
            w, u = (parameters[f"weight_{part}_l{k}{suffix}"].chunk(3) for part in ("ih", "hh"))
            f, g = function(gru.recurrent_activation, d), function(gru.activation, d)
            zero = torch.zeros(3 * gru.hidden_size, dtype=x.dtype)
            b, c = (parameters.get(f"bias_{part}_l{k}{suffix}", zero).chunk(3) for part in ("ih", "hh"))
            h = h0[len(last_states)]
            output = [None] * steps
            for t in reversed(range(steps)) if d or gru.reverse else range(steps):
                r = f(x[t] @ w[0].T + b[0] + h @ u[0].T + c[0])
                z = f(x[t] @ w[1].T + b[1] + h @ u[1].T + c[1])
                if gru.reset_after:
                    n = g(x[t] @ w[2].T + b[2] + r * (h @ u[2].T + c[2]))
                else:
                    n = g(x[t] @ w[2].T + b[2] + (r * h) @ u[2].T + c[2])
                new = (1 - z) * n + z * h if gru.update_gate == "state" else (1 - z) * h + z * n
                runs = (t < lengths)[:, None]
                h = torch.where(runs, new, h)
                output[t] = torch.where(runs, new, torch.zeros_like(new))
            last_states.append(h)
            outputs.append(torch.stack(output))
        x = sum(outputs) if gru.merge == "sum" else torch.cat(outputs, dim=2)
        if k < len(factors):
            x = x * factors[k]
    return x, torch.stack(last_states)


def check(problem, engine, shared_memory=1 << 20):
    gru, rng = problem.gru, np.random.default_rng(1)
    model = place(gru, Simulator(shared_memory))
    y, h_n, tape = model.record(on_device(problem.x), on_device(problem.h0), lengths=problem.lengths, engine=engine)
    expected = problem.expected()
    for got, wanted in zip((y, h_n), expected, strict=True):
        assert relative_error(on_host(got), wanted) < TOLERANCE[problem.dtype]
    by_y, by_h = (rng.standard_normal(v.shape).astype(problem.dtype) for v in (y, h_n))
    if problem.lengths is not None:  # what stands past a length is not read
        time_first = by_y.swapaxes(0, 1) if gru.batch_first else by_y
        for b, length in enumerate(problem.lengths):
            time_first[length:, b] = np.nan
    grads = tape.backward(on_device(by_y), on_device(by_h))

    time_first = lambda v: v.swapaxes(0, 1) if gru.batch_first else v  # noqa: E731
    tensor = lambda v: torch.tensor(np.nan_to_num(v), dtype=torch.float64, requires_grad=True)  # noqa: E731
    x, h0 = tensor(time_first(problem.x)), tensor(problem.h0)
    parameters = {name: tensor(v) for name, v in gru.state_dict().items()}
    y, h_n = forward(problem, x, h0, parameters)
    loss = (y * tensor(time_first(by_y)).detach()).sum() + (h_n * tensor(by_h).detach()).sum()
    loss.backward()
    wanted = {"x": x.grad.numpy(), "h0": h0.grad.numpy(), **{name: v.grad.numpy() for name, v in parameters.items()}}
    got = {"x": time_first(on_host(grads.x)), "h0": on_host(grads.h0), **{name: on_host(grads[name]) for name in grads}}
    assert set(got) == set(wanted)
    for name in wanted:
        assert got[name].dtype == problem.dtype
        assert relative_error(got[name], wanted[name]) < TOLERANCE[problem.dtype], name


@thinned(2, engine=["steps", "fused"], dtype=[np.float32, np.float64], ragged=[False, True])
def test_option_matrix(engine, dtype, ragged):
    for options in points():
        check(Problem(options, steps=4, batch=3, hidden=7, ragged=ragged, dtype=dtype), engine)


@each_engine
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("reset_after", [True, False])
def test_backwards_and_added_up(engine, ragged, reset_after):
    for options in DIRECTIONS:
        check(Problem({"reset_after": reset_after, **options}, batch=5, ragged=ragged), engine)


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("update_gate", ["state", "candidate"])
def test_activations(reset_after, update_gate):
    for options in function_points(reset_after=reset_after, update_gate=update_gate):
        check(Problem(options, steps=3, batch=2), "steps")


@each_engine
def test_padding_of_nan_has_no_part(engine):
    problem = Problem({"num_layers": 2, "bidirectional": True}, batch=4)
    problem.lengths = np.array([6, 0, 3, 5])
    for b, length in enumerate(problem.lengths):
        problem.x[length:, b] = np.nan
    clean = Problem({"num_layers": 2, "bidirectional": True}, batch=4)
    results = []
    for p in (problem, clean):
        model = place(p.gru, Simulator())
        y, _, tape = model.record(on_device(p.x), on_device(p.h0), lengths=problem.lengths, engine=engine)
        results.append(tape.backward(y * 2))
    for name in results[0]:
        np.testing.assert_array_equal(on_host(results[0][name]), on_host(results[1][name]))
        assert np.isfinite(on_host(results[0][name])).all()


def test_dropout_is_what_the_gradient_saw():
    """The same rng gives the same masks, so differences of the loss are those that the gradient foretells."""
    problem = Problem({"num_layers": 2, "dropout": 0.5}, steps=4, batch=2)
    model = place(problem.gru, Simulator())
    y, _, tape = model.record(on_device(problem.x), rng=3)
    gradient = on_host(tape.backward(y * 0 + 1).x)
    assert np.any(on_host(model.record(on_device(problem.x), rng=4)[0]) != on_host(y))
    rng = np.random.default_rng(0)
    for _ in range(5):
        direction = rng.standard_normal(problem.x.shape)
        up, down = (on_host(model.record(on_device(problem.x + s * direction), rng=3)[0]).sum() for s in (1e-5, -1e-5))
        assert (up - down) / 2e-5 == pytest.approx(np.sum(gradient * direction), rel=1e-6)


def test_one_sequence_and_one_gradient_of_the_two():
    problem = Problem({}, batch=1)
    model = place(problem.gru, Simulator())
    whole = model.record(on_device(problem.x), on_device(problem.h0))[2]
    one = model.record(on_device(problem.x[:, 0]), on_device(problem.h0[:, 0]))
    assert one[0].shape == (6, 11)
    by_h = np.ones((1, 1, 11))
    grads, single = whole.backward(grad_h_n=on_device(by_h)), one[2].backward(grad_h_n=on_device(by_h[:, 0]))
    assert single.x.shape == (6, 5)
    assert single.h0.shape == (1, 11)
    np.testing.assert_array_equal(on_host(grads.x)[:, 0], on_host(single.x))
    assert repr(grads).startswith("<Gradients by x, h0, weight_ih_l0")


def test_nothing_to_do():
    model = place(cgru.GRU(3, 4, dtype=np.float64), Simulator())
    for shape in ((0, 2, 3), (2, 0, 3)):
        y, h_n, tape = model.record(on_device(np.zeros(shape)))
        grads = tape.backward(y, h_n + 1)
        assert grads.x.shape == shape
        assert (on_host(grads.h0) == 1).all()
        assert not on_host(grads["weight_ih_l0"]).any()


def test_training_lowers_the_loss():
    gru = cgru.GRU(3, 8, rng=0)
    model = place(gru, Simulator())
    x = on_device(np.ones((5, 4, 3), np.float32))
    losses = []
    for _ in range(20):
        y, _, tape = model.record(x)
        losses.append(float(np.sum((on_host(y) - 0.5) ** 2)))
        grads = tape.backward((y - np.float32(0.5)) * np.float32(2))
        model.load_state_dict({name: w - grads[name] * np.float32(0.01) for name, w in model.state_dict().items()})
    assert losses[-1] < 0.3 * losses[0]


def test_misuse_leaves_the_tape():
    problem = Problem({})
    model = place(problem.gru, Simulator())
    y, _, tape = model.record(on_device(problem.x))
    with pytest.raises(ValueError, match="grad_y: expected an array for it or for grad_h_n"):
        tape.backward()
    with pytest.raises(ValueError, match=r"grad_y: expected \(6, 3, 11\) float64 on cuda:0, got \(6, 3, 1\)"):
        tape.backward(y[..., :1])
    with pytest.raises(TypeError, match=r"grad_h_n: .* got ndarray in host memory"):
        tape.backward(y, np.zeros((1, 3, 11)))
    tape.backward(y)
    with pytest.raises(RuntimeError, match="has used it up"):
        tape.backward(y)
    tape = model.record(on_device(problem.x))[2]
    model.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match="weights have been replaced"):
        tape.backward(y)
    for name in ("memory", "num_threads"):
        with pytest.raises(ValueError, match=f"{name}: expected None for a model on cuda:0; gru.to"):
            model.record(on_device(problem.x), **{name: 1})
    small = place(Problem({}, dtype=np.float32).gru.quantize("float16"), Simulator())
    with pytest.raises(RuntimeError, match="record: this model's weights are stored as float16"):
        small.record(on_device(np.zeros((2, 3, 5), np.float32)))
