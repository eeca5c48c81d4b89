"""cgru.torch.GRU against the torch.nn.GRU that it is: results, packed sequences, changed weights, gradients."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import cgru
import cgru.torch as bridge
from cgru.torch import recording

from ..support.bridge import gradients, pair, same

TORCHS_GRU = torch._VF.gru
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13}


@pytest.fixture
def calls(monkeypatch):
    """The inputs that reach cgru."""
    seen = []
    call = cgru.GRU.__call__
    monkeypatch.setattr(cgru.GRU, "__call__", lambda self, x, *a, **k: (seen.append(x), call(self, x, *a, **k))[1])
    return seen


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("layers", "bias", "batch_first", "bidirectional"), list(itertools.product([1, 2], *[[False, True]] * 3))
)
def test_results(layers, bias, batch_first, bidirectional, dtype, calls):
    ours, theirs = pair(5, 7, layers, bias, batch_first, 0.0, bidirectional, dtype=dtype)
    h0 = torch.randn(layers * (1 + bidirectional), 3, 7, dtype=dtype)
    with torch.no_grad():
        x = torch.randn(3, 4, 5, dtype=dtype) if batch_first else torch.randn(4, 3, 5, dtype=dtype)
        same(ours(x), theirs(x), TOLERANCE[dtype])
        same(ours(x, h0), theirs(x, h0), TOLERANCE[dtype])
        one = torch.randn(4, 5, dtype=dtype)
        same(ours(one), theirs(one), TOLERANCE[dtype])
        same(ours(one, h0[:, 0]), theirs(one, h0[:, 0]), TOLERANCE[dtype])
    assert len(calls) == 4


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("in_order", [False, True])
def test_packed_sequences(bidirectional, batch_first, in_order, calls):
    ours, theirs = pair(5, 7, 2, batch_first=batch_first, bidirectional=bidirectional)
    lengths = [6, 4, 4, 1] if in_order else [4, 1, 6, 4]
    sequences = [torch.randn(length, 5) for length in lengths]
    packed = pack_sequence(sequences, enforce_sorted=in_order)
    h0 = torch.randn(2 * (1 + bidirectional), 4, 7)
    for state in (None, h0):
        with torch.no_grad():
            (y, h_n), (expected, expected_h) = ours(packed, state), theirs(packed, state)
        same([y.data, h_n], [expected.data, expected_h], 2e-6)
        for field in ("batch_sizes", "sorted_indices", "unsorted_indices"):
            a, b = getattr(y, field), getattr(expected, field)
            assert (a is None and b is None) or torch.equal(a, b)
        padded, counts = pad_packed_sequence(y, batch_first)
        assert counts.tolist() == lengths
        assert torch.equal(pack_padded_sequence(padded, counts, batch_first, enforce_sorted=in_order).data, y.data)
    assert len(calls) == 2


def test_parameters_that_change_are_seen():
    ours, theirs = pair(3, 4)
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        before = ours(x)[0]
        for module in (ours, theirs):
            module.weight_hh_l0 += 0.25
        same(ours(x), theirs(x), 2e-6)
        assert not torch.equal(ours(x)[0], before)
        ours.load_state_dict(pair(3, 4)[1].state_dict())
        theirs.load_state_dict(ours.state_dict())
        same(ours(x), theirs(x), 2e-6)
        for module in (ours, theirs):
            module.double()
        same(ours(x.double()), theirs(x.double()), 1e-13)


@pytest.fixture
def recorded(monkeypatch):
    """The inputs that are recorded by cgru, and none by torch's kernels."""
    seen = []
    record = recording.record
    monkeypatch.setattr(recording, "record", lambda model, call, x, h0: (seen.append(x), record(model, call, x, h0))[1])
    monkeypatch.setattr(torch._VF, "gru", None)
    return seen


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize(
    ("layers", "bias", "batch_first", "bidirectional"), list(itertools.product([1, 2], *[[False, True]] * 3))
)
def test_gradients(layers, bias, batch_first, bidirectional, dtype, tolerance):
    ours, theirs = pair(5, 7, layers, bias, batch_first, 0.0, bidirectional, dtype=dtype)
    x = torch.randn((3, 4, 5) if batch_first else (4, 3, 5), dtype=dtype, requires_grad=True)
    h0 = torch.randn(layers * (1 + bidirectional), 3, 7, dtype=dtype, requires_grad=True)
    one, one_h = x[:, 0].detach().clone().requires_grad_(), h0[:, 0].detach().clone().requires_grad_()
    for inputs in ((x,), (x, h0), (one, one_h)):
        outputs = theirs(*inputs)
        weights = [torch.randn_like(output) for output in outputs]
        same(gradients(ours, inputs, weights), gradients(theirs, inputs, weights), tolerance)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("in_order", [False, True])
def test_gradients_through_packed_sequences(bidirectional, batch_first, in_order):
    ours, theirs = pair(5, 7, 2, batch_first=batch_first, bidirectional=bidirectional, dtype=torch.float64)
    lengths = [6, 4, 4, 1] if in_order else [4, 1, 6, 4]
    x = torch.randn((4, 6, 5) if batch_first else (6, 4, 5), dtype=torch.float64, requires_grad=True)
    h0 = torch.randn(2 * (1 + bidirectional), 4, 7, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(15, 7 * (1 + bidirectional)), torch.randn_like(h0)

    def through(module):
        packed = pack_padded_sequence(x, lengths, batch_first, enforce_sorted=in_order)
        y, h_n = module(packed, h0)
        loss = (y.data * weights[0]).sum() + (h_n * weights[1]).sum()
        return torch.autograd.grad(loss, [x, h0, *module.parameters()])

    same(through(ours), through(theirs), 1e-12)


def test_gradcheck():
    for bidirectional in (False, True):
        module = bridge.GRU(3, 4, 2, bidirectional=bidirectional, dtype=torch.float64)
        x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
        h0 = torch.randn(2 * (1 + bidirectional), 2, 4, dtype=torch.float64, requires_grad=True)

        def function(x, h0, *weights, module=module):
            names = [name for name, _ in module.named_parameters()]
            return torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (x, h0))

        assert torch.autograd.gradcheck(function, (x, h0, *module.parameters()))


@pytest.mark.parametrize("optimizer", ["SGD", "through .data"])
def test_a_training_run_follows_torchs(optimizer, recorded):
    """The loss of 200 steps from the same weights, step by step."""
    ours, theirs = pair(6, 16, 2, dtype=torch.float64)
    recorded.clear()
    x, target = torch.randn(12, 5, 6, dtype=torch.float64), torch.rand(12, 5, 16, dtype=torch.float64) - 0.5
    losses = []
    for module in (ours.train(), theirs.train()):
        torch._VF.gru = TORCHS_GRU if module is theirs else None
        sgd = torch.optim.SGD(module.parameters(), 0.5, momentum=0.5)
        losses.append([])
        for _ in range(200):
            loss = (module(x)[0] - target).square().mean()
            losses[-1].append(loss.item())
            sgd.zero_grad()
            loss.backward()
            if optimizer == "SGD":
                sgd.step()
            else:
                for parameter in module.parameters():
                    parameter.data -= 0.5 * parameter.grad
    assert len(recorded) == 200
    assert losses[0][-1] < 0.8 * losses[0][0]
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-8)


def test_dropout(recorded):
    """Masks follow torch's seed; the gradient is that of the outputs; nothing is dropped in evaluation."""
    ours = bridge.GRU(3, 40, 2, dropout=0.5, dtype=torch.float64)
    x = torch.randn(6, 4, 3, dtype=torch.float64, requires_grad=True)

    def seeded(x):
        torch.manual_seed(3)
        return ours(x)[0]

    assert torch.equal(seeded(x), seeded(x))
    assert not torch.equal(ours(x)[0], ours(x)[0])
    assert torch.autograd.gradcheck(seeded, x)
    with torch.no_grad():
        assert not torch.equal(ours(x)[0], ours(x)[0])
        torch.manual_seed(3)
        assert torch.equal(ours(x)[0], seeded(x))
    ours.eval()
    assert torch.equal(ours(x)[0], ours(x)[0])
    assert len(recorded) > 8


def test_what_autograd_may_ask(recorded):
    ours = bridge.GRU(3, 4, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    loss = ours(x)[0].square().sum()
    loss.backward(retain_graph=True)
    first = x.grad.clone()
    loss.backward()  # accumulates the same once more
    assert torch.allclose(x.grad, 2 * first, rtol=0, atol=1e-14)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()

    for parameter in ours.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    y, h_n = ours(x)
    (by_x,) = torch.autograd.grad(h_n.sum(), x)  # y does not enter the loss
    assert by_x.any()
    with torch.no_grad():
        assert not ours(x)[0].requires_grad
    assert not ours(x.detach())[0].requires_grad

    ours.weight_hh_l0.requires_grad_(True)
    y, _ = ours(x)
    with torch.no_grad():
        ours.weight_hh_l0 += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_two_calls_before_a_step(recorded):
    """Gradients of calls that are recorded side by side, on tensors whose memory cgru shares."""
    ours = bridge.GRU(3, 4, dtype=torch.float64)
    a, b = torch.randn(2, 5, 2, 3, dtype=torch.float64)
    (ours(a)[0].sum() + ours(b)[0].sum()).backward()
    together = [parameter.grad.clone() for parameter in ours.parameters()]
    ours.zero_grad()
    for x in (a, b):
        ours(x)[0].sum().backward()
    same([parameter.grad for parameter in ours.parameters()], together, 1e-14)
    assert recorded[0].data_ptr() == a.data_ptr()


def test_copies_pickles_and_misuse():
    ours, _ = pair(3, 4)
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        y = ours(x)[0]
        for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            assert torch.equal(twin(x)[0], y)
        assert cgru.from_torch(ours)(x.numpy())[0].tolist() == y.tolist()
        with pytest.raises(Exception, match="list"):
            ours([1, 2])
        assert np.isnan(ours(torch.full((1, 1, 3), torch.nan))[0].numpy()).all()
