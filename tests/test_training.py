"""Training: the specification's gradients against differences and torch, the engine's against the specification."""

import itertools

import numpy as np
import pytest
import torch

from cgru import reference

from .options import BOUNDED, UNBOUNDED, Problem, relative_error

MATRIX = {
    "reset_after": [True, False],
    "update_gate": ["state", "candidate"],
    "num_layers": [1, 2],
    "bidirectional": [False, True],
    "bias": [True, False],
    "clip": [None, 0.5],
}
KEPT = ("reset_after", "update_gate", "activation", "recurrent_activation", "clip", "reverse", "merge")


def every(matrix):
    return (dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values()))


def activation_options():
    for reset_after, update_gate in itertools.product([True, False], ["state", "candidate"]):
        for function, clip in itertools.product(BOUNDED + UNBOUNDED, [None, 0.3]):
            options = {"reset_after": reset_after, "update_gate": update_gate, "clip": clip}
            yield {**options, "activation": function}
            yield {**options, "recurrent_activation": function}


class Gradients:
    """A problem with a loss, sum(y weights) + sum(h_n weights), and the specification's gradients of it."""

    def __init__(self, problem, seed=1):
        rng = np.random.default_rng(seed)
        self.problem = problem
        self.options = {name: value for name, value in problem.options.items() if name in KEPT}
        self.lengths = problem.lengths
        self.parameters = {name: array.astype(np.float64) for name, array in problem.gru.state_dict().items()}
        self.x = self.time_first(problem.x).astype(np.float64)
        self.h0 = problem.h0.astype(np.float64)
        shape = (*self.x.shape[:2], problem.gru._width)
        # numbers that float32 holds, so that both precisions have the same problem
        self.by_y = rng.standard_normal(shape).astype(problem.dtype).astype(np.float64)
        self.by_h_n = rng.standard_normal(self.h0.shape).astype(problem.dtype).astype(np.float64)

    def time_first(self, array):
        return array.swapaxes(0, 1) if self.problem.gru.batch_first else array

    def loss(self, x, h0, parameters):
        y, h_n = reference.forward(x, parameters, h0, lengths=self.lengths, **self.options)
        return float(np.sum(y * self.by_y) + np.sum(h_n * self.by_h_n))

    def expected(self, **more):
        return reference.backward(
            self.x, self.parameters, self.h0, self.by_y, self.by_h_n, lengths=self.lengths, **self.options, **more
        )


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
    extra = [{"reverse": True}, {"reverse": True, "num_layers": 2}, {"bidirectional": True, "merge": "sum"}]
    for options in [*every(MATRIX), *extra]:
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


TORCH = {"num_layers": [1, 2], "bidirectional": [False, True], "bias": [True, False]}


@pytest.mark.parametrize("ragged", [False, True])
def test_specification_equals_torch(ragged):
    for options in every(TORCH):
        problem = Problem(options)
        if ragged:
            problem.lengths = np.array([4, 6, 1])  # torch knows no length of 0
        gradients = Gradients(problem)
        found = errors(gradients.expected(), torch_gradients(gradients, torch.float64, **options))
        assert max(found.values()) < 1e-12, (options, found)
