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

from .options import relative_error

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13}


@pytest.fixture
def calls(monkeypatch):
    """The inputs that reach cgru."""
    seen = []
    call = cgru.GRU.__call__
    monkeypatch.setattr(cgru.GRU, "__call__", lambda self, x, *a, **k: (seen.append(x), call(self, x, *a, **k))[1])
    return seen


def pair(*arguments, **options):
    theirs = torch.nn.GRU(*arguments, **options)
    ours = bridge.GRU(*arguments, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours.eval(), theirs.eval()


def same(results, expected, tolerance):
    for result, value in zip(results, expected, strict=True):
        assert result.shape == value.shape
        assert result.dtype == value.dtype
        assert relative_error(result.numpy(), value.numpy()) < tolerance


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
        assert ours._model() is ours._model()
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


def test_gradients_and_dropout_are_torchs(calls):
    ours, theirs = pair(3, 4, 2, dropout=0.5)
    x = torch.randn(5, 2, 3, requires_grad=True)
    for module in (ours, theirs):
        module(x)[0].square().sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad)
    ours.train()
    with torch.no_grad():
        assert not torch.equal(ours(x)[0], ours(x)[0])
    assert not calls
    ours.eval()
    with torch.inference_mode():
        same(ours(x), theirs(x), 2e-6)
    assert len(calls) == 1


def test_copies_pickles_and_misuse():
    ours, _ = pair(3, 4)
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        y = ours(x)[0]
        for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            assert torch.equal(twin(x)[0], y)
        assert cgru.from_torch(ours)(x.numpy())[0].tolist() == y.tolist()
        with pytest.raises(ValueError, match=r"x: expected \(T, B, 3\) float32, got \(5, 2, 4\)"):
            ours(torch.randn(5, 2, 4))
        with pytest.raises(ValueError, match=r"h0: expected \(1, 2, 4\) float32, got \(1, 3, 4\)"):
            ours(x, torch.randn(1, 3, 4))
        with pytest.raises(Exception, match="list"):
            ours([1, 2])
        assert np.isnan(ours(torch.full((1, 1, 3), torch.nan))[0].numpy()).all()
