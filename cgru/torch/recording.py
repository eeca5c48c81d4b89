"""A call as PyTorch's autograd sees it: recorded by cgru, differentiated by cgru, and a second time by PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from cgru import checks
from cgru.engines import HOST
from cgru.run import tape
from cgru.torch.kept import Options, array, model_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cgru.types import Array


class Call(NamedTuple):
    """What a recorded call takes beside x, h0 and weights."""

    options: Options
    lengths: Any  # (B,) a tensor, or None
    seed: int | None  # of dropout; None: there is none


class Way(NamedTuple):
    """The way back through a recorded call."""

    tape: tape.Tape
    names: list[str]  # of the weights, in their order

    def gradients(self, grad_y: Any, grad_h_n: Any, needed: Sequence[bool]) -> list[Any]:
        """The gradients by x, h0 and the weights, None where not needed."""
        by_x, by_h0, *by_weights = needed
        found = self.tape.run_back(_array(grad_y), _array(grad_h_n), by_x, again=True)
        arrays = [found.x if by_x else None, found.h0 if by_h0 else None]
        arrays += [found[name] if wanted else None for name, wanted in zip(self.names, by_weights, strict=True)]
        return [None if values is None else torch.from_numpy(values) for values in arrays]


def record(call: Call, x: Any, h0: Any, weights: Sequence[Any], keep: bool = True) -> tuple[Any, Any, Way]:
    """y, h_n and the way back, which reads x and y; unless `keep`, it holds as little as it can."""
    model = model_of(call.options, weights)
    y, h_n, recorded = tape.record(
        model, array(x), _array(h0), lengths=_array(call.lengths), rng=call.seed, memory=None if keep else 0,
        num_threads=None, drop=call.seed is not None, own=True,
    )  # fmt: skip
    return torch.from_numpy(y), torch.from_numpy(h_n), Way(recorded, list(model.spec.shapes))


def run(call: Call, x: Any, h0: Any, weights: Sequence[Any]) -> tuple[Any, Any]:
    """y and h_n."""
    if call.seed is not None:  # only a recording drops outputs
        return record(call, x, h0, weights, keep=False)[:2]
    y, h_n = model_of(call.options, weights)(array(x), _array(h0), lengths=_array(call.lengths))
    return torch.from_numpy(y), torch.from_numpy(h_n)


def _array(tensor: Any) -> Array | None:
    return None if tensor is None else array(tensor)


class Recorded(torch.autograd.Function):  # type: ignore[misc] # PyTorch is not checked
    """y and h_n, a function of x, h0 and the weights in the order of torch.nn.GRU."""

    @staticmethod
    def forward(ctx: Any, call: Call, x: Any, h0: Any, *weights: Any) -> tuple[Any, Any]:
        """Run and record."""
        y, h_n, ctx.way = record(call, x, h0, weights)
        ctx.save_for_backward(x, h0, *weights)  # for PyTorch to notice when one is changed before the way back
        ctx.set_materialize_grads(False)
        ctx.call = call
        return y.clone(), h_n  # the way back reads y; a program may write to its own

    @staticmethod
    def backward(ctx: Any, grad_y: Any, grad_h_n: Any) -> tuple[Any, ...]:
        """The gradients by what `forward` took."""
        inputs, needed = ctx.saved_tensors, ctx.needs_input_grad[1:]
        if grad_y is None and grad_h_n is None:
            return (None,) * len(ctx.needs_input_grad)
        if torch.is_grad_enabled():  # create_graph=True: they are to be differentiated in turn
            return None, *gradients_by_torch(ctx.call, inputs, grad_y, grad_h_n, needed)
        return None, *ctx.way.gradients(grad_y, grad_h_n, needed)


def gradients_by_torch(
    call: Call, inputs: Sequence[Any], grad_y: Any, grad_h_n: Any, needed: Sequence[bool]
) -> list[Any]:
    """The same gradients by PyTorch's operators, which have gradients themselves; inputs are x, h0 and the weights."""
    with torch.enable_grad():
        # Views: where one input was computed from another, the gradient by that one must not go through it.
        views = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
        outputs = by_torch(call, views[0], views[1], views[2:])
        outputs, grads = zip(
            *((y, grad) for y, grad in zip(outputs, (grad_y, grad_h_n), strict=True) if grad is not None), strict=True
        )
        leaves = [view for view, wanted in zip(views, needed, strict=True) if wanted]
        found = iter(torch.autograd.grad(outputs, leaves, grads, create_graph=True))
    return [next(found) if wanted else None for wanted in needed]


def by_torch(call: Call, x: Any, h0: Any, weights: Sequence[Any]) -> tuple[Any, Any]:
    """The call by PyTorch's operators, with the same dropout masks."""
    layers, batch_first, bidirectional, dropout = call.options
    single, directions = x.dim() == 2, 1 + bidirectional
    steps = x.unsqueeze(1) if single else x.transpose(0, 1) if batch_first else x
    states = (layers, directions, steps.shape[1], weights[1].shape[1])
    h = steps.new_zeros(states) if h0 is None else h0.reshape(states)
    generator = checks.generator(call.seed)
    each = len(weights) // layers
    last = []
    for k in range(layers):
        own = weights[k * each : (k + 1) * each]
        steps, state = _layer(steps, h[k], own, call.lengths)
        last.append(state)
        if call.seed is not None and k < layers - 1:
            mask = HOST.dropout(generator, tuple(steps.shape), dropout)
            steps = steps * torch.from_numpy(mask) / (1 - dropout)
    h_n = torch.cat(last)
    if single:
        return steps.squeeze(1), h_n.squeeze(1)
    return steps.transpose(0, 1) if batch_first else steps, h_n


def _layer(steps: Any, h: Any, weights: Sequence[Any], lengths: Any) -> tuple[Any, Any]:
    """One layer over steps (T, B, I) from states h (D, B, H)."""
    how = (len(weights) > 2 * len(h), 1, 0.0, False, len(h) == 2)  # bias, layers, dropout, training, bidirectional
    if lengths is None:
        return torch._VF.gru(steps, h, weights, *how, False)
    packed = pack_padded_sequence(steps, lengths, enforce_sorted=False)
    data, state = torch._VF.gru(packed.data, packed.batch_sizes, h[:, packed.sorted_indices], weights, *how)
    y, _ = pad_packed_sequence(packed._replace(data=data), total_length=len(steps))
    return y, state[:, packed.unsorted_indices]
