"""A cgru.torch.GRU beside the torch.nn.GRU that it is, and whether two results are the same."""

import torch

import cgru.torch as bridge

from .options import relative_error


def pair(*arguments, **options):
    """Ours and torch's, of the same weights, in evaluation."""
    theirs = torch.nn.GRU(*arguments, **options)
    ours = bridge.GRU(*arguments, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours.eval(), theirs.eval()


def same(results, expected, tolerance):
    for result, value in zip(results, expected, strict=True):
        assert result.shape == value.shape
        assert result.dtype == value.dtype
        assert relative_error(result.detach().numpy(), value.detach().numpy()) < tolerance


def gradients(module, inputs, weights):
    """The gradients of sum(outputs weights) by inputs and parameters."""
    outputs = module(*inputs)
    outputs = [o.data if isinstance(o, torch.nn.utils.rnn.PackedSequence) else o for o in outputs]
    loss = sum((o * w[: len(o)]).sum() for o, w in zip(outputs, weights, strict=True))
    leaves = [leaf for leaf in inputs if isinstance(leaf, torch.Tensor)]
    return torch.autograd.grad(loss, [*leaves, *module.parameters()])
