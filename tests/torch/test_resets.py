"""`resets` of the modules: outputs, gradients and second derivatives beside torch.nn.GRU on the pieces."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import cgru.torch

from ..support.matrix import thinned

T, B, INPUTS, H = 7, 3, 4, 5
RESETS = torch.tensor([[0, 0, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
FIRSTS = [[t for t in range(T) if RESETS[t, b]] for b in range(B)]


def modules(**options):
    torch.manual_seed(0)
    ours = cgru.torch.GRU(INPUTS, H, dtype=torch.float64, **options)
    theirs = torch.nn.GRU(INPUTS, H, dtype=torch.float64, **options)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(T, B, INPUTS, dtype=torch.float64)
    h0 = torch.randn(ours.num_layers * (1 + ours.bidirectional), B, H, dtype=torch.float64)
    return ours, theirs, x, h0


def by_pieces(module, x, h0, resets_to):
    """y of (T, B, I) by a module of one direction that runs every piece alone."""
    columns = []
    for b in range(B):
        edges = [0, *(t for t in FIRSTS[b] if t), T]
        parts = []
        for start, stop in itertools.pairwise(edges):
            anew = start in FIRSTS[b] and resets_to == "zero"
            parts.append(module(x[start:stop, b], torch.zeros_like(h0[:, b]) if anew else h0[:, b])[0])
        columns.append(torch.cat(parts))
    return torch.stack(columns, 1)


@pytest.mark.parametrize("resets_to", ["zero", "h0"])
@pytest.mark.parametrize("layers", [1, 2])
def test_outputs_and_gradients_are_those_of_the_pieces(layers, resets_to):
    ours, theirs, x, h0 = modules(num_layers=layers)
    weigh = torch.randn(T, B, H, dtype=torch.float64)
    found = []
    for module in (ours, theirs):
        given, state = x.clone().requires_grad_(), h0.clone().requires_grad_()
        if module is ours:
            y, h_n = module(given, state, resets=RESETS, resets_to=resets_to)
            torch.testing.assert_close(h_n[-1], y[-1], rtol=0, atol=0)
        else:
            y = by_pieces(module, given, state, resets_to)
        (y * weigh).sum().backward()
        found.append([y.detach(), given.grad, state.grad, *(p.grad for p in module.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forms_of_input(dtype, packed, batch_first):
    torch.manual_seed(0)
    module = cgru.torch.GRU(INPUTS, H, 2, batch_first=batch_first, bidirectional=True, dtype=dtype)
    x = torch.randn(T, B, INPUTS, dtype=dtype)
    given, resets = (x.transpose(0, 1), RESETS.T) if batch_first else (x, RESETS)
    lengths = torch.tensor([4, 7, 5]) if packed else None
    if packed:
        given = pack_padded_sequence(given, lengths, batch_first, enforce_sorted=False)
    y, h_n = module(given, resets=resets)
    if packed:
        y, _ = pad_packed_sequence(y, batch_first)
    model = cgru.from_torch(torch.nn.GRU(INPUTS, H, 2, bidirectional=True, dtype=dtype))
    model.load_state_dict({name: p.detach().numpy() for name, p in module.named_parameters()})
    wanted = model(x.numpy(), lengths=None if lengths is None else lengths.numpy(), resets=RESETS.numpy())
    y = y.transpose(0, 1) if batch_first else y
    np.testing.assert_allclose(y.detach().numpy(), wanted[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(h_n.detach().numpy(), wanted[1], rtol=0, atol=1e-6)


def test_one_sequence_and_arrays():
    ours, _, x, _ = modules()
    single, _ = ours(x[:, 0], resets=RESETS[:, 0])
    batch, _ = ours(x, resets=RESETS.numpy())
    torch.testing.assert_close(single, batch[:, 0], rtol=0, atol=1e-14)


@thinned(2, options=[{}, {"bidirectional": True, "batch_first": True}, {"num_layers": 2}], resets_to=["zero", "h0"])
def test_second_derivatives(options, resets_to):
    ours, _, x, h0 = modules(**options)
    resets = RESETS[:4]
    x = x[:4]
    if ours.batch_first:
        x, resets = x.transpose(0, 1), resets.T

    def run(x, h0):
        return ours(x, h0, resets=resets, resets_to=resets_to)

    inputs = (x.clone().requires_grad_(), h0.clone().requires_grad_())
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def test_second_derivatives_of_packed_sequences_and_dropout():
    ours, _, x, _ = modules(num_layers=2, dropout=0.5)
    resets, lengths = RESETS[:4], torch.tensor([2, 4, 3])

    def run(x):
        torch.manual_seed(1)
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        return ours(packed, resets=resets)[0].data

    x = x[:4].clone().requires_grad_()
    assert torch.autograd.gradcheck(run, (x,))
    assert torch.autograd.gradgradcheck(run, (x,))


def test_a_compiled_program_breaks_its_graph():
    ours, _, x, _ = modules()
    compiled = torch.compile(lambda x: 2 * ours(x, resets=RESETS)[0], backend="eager")
    torch.testing.assert_close(compiled(x), 2 * ours(x, resets=RESETS)[0], rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
def test_refusals():
    ours, _, x, h0 = modules()
    with pytest.raises(ValueError, match=r"resets: expected \(7, 3\) bool, got \(7, 2\) torch.bool"):
        ours(x, resets=RESETS[:, :2])
    with pytest.raises(ValueError, match=r"resets: expected \(7, 3\) bool, got \(7, 3\) torch.int64"):
        ours(x, resets=RESETS.long())
    with pytest.raises(ValueError, match="resets_to: expected 'zero' or 'h0', got 'hx'"):
        ours(x, resets=RESETS, resets_to="hx")
    with pytest.raises(ValueError, match="resets: expected a bool tensor beside resets_to='h0', got None"):
        ours(x, h0, resets_to="h0")
    with pytest.raises(RuntimeError, match=r"input\.size"):
        ours(x[..., :3], resets=RESETS)
    with pytest.raises(RuntimeError):
        torch.compile(ours, backend="eager", fullgraph=True)(x, resets=RESETS)
    with pytest.raises(RuntimeError, match="resets: expected None in calls that PyTorch's kernels run"):
        torch.jit.trace(lambda x: ours(x, resets=RESETS)[0], x)
    with pytest.raises(RuntimeError, match="resets: expected None in calls"), torch.autocast("cpu", torch.bfloat16):
        ours(x, resets=RESETS)
    with pytest.raises(RuntimeError, match="resets: expected None in calls"):
        torch.func.vmap(lambda x: ours(x, resets=RESETS)[0])(x[None])
