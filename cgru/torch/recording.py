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

    from cgru.gru import GRU
    from cgru.types import Array


class Call(NamedTuple):
    """What a recorded call takes beside x, h0 and weights."""

    options: Options
    lengths: Any  # (B,) a tensor, or None
    seed: int | None  # of dropout; None: there is none
    resets: Any = None  # a tensor of x's shape without features, or None
    resets_to: str = "zero"


def run(call: Call, x: Any, h0: Any, weights: Sequence[Any]) -> tuple[Any, Any]:
    """y and h_n."""
    model = model_of(call.options, weights)
    if call.seed is not None:  # only a recording drops outputs
        y, h_n, _ = _recorded(model, call, x, h0, memory=0)
    else:
        y, h_n = model(array(x), _array(h0), **_how(call))
    return torch.from_numpy(y), torch.from_numpy(h_n)


def record(model: GRU, call: Call, x: Any, h0: Any) -> tuple[Any, Any, list[Any]]:
    """y, h_n and what the way back needs beside the arguments: y itself, outputs between layers, gates.

    The first y is a copy, which a program may write to.
    """
    y, h_n, recorded = _recorded(model, call, x, h0)
    kept = [torch.from_numpy(array) for array in (y, *recorded.kept())]
    return kept[0].clone(), torch.from_numpy(h_n), kept


def gradients(
    model: GRU,
    call: Call,
    x: Any,
    h0: Any,
    kept: Sequence[Any],  # by `record`, gates to be used up; nothing: the call runs here once more
    grad_y: Any,
    grad_h_n: Any,
    needed: Sequence[bool],
) -> list[Any]:
    """The gradients by x, h0 and the weights, None where not needed."""
    by_x, by_h0, *by_weights = needed
    arrays = [array(tensor) for tensor in kept]
    _, _, recorded = _recorded(model, call, x, h0, (arrays[0], arrays[1:]) if arrays else None)
    found = recorded.run_back(_array(grad_y), _array(grad_h_n), by_x)
    values = [found.x if by_x else None, found.h0 if by_h0 else None]
    values += [found[name] if wanted else None for name, wanted in zip(model.spec.shapes, by_weights, strict=True)]
    return [None if value is None else torch.from_numpy(value) for value in values]


def _recorded(
    model: GRU,
    call: Call,
    x: Any,
    h0: Any,
    earlier: tuple[Array, Sequence[Array]] | None = None,
    memory: int | None = None,
) -> tuple[Array, Array, tape.Tape]:
    """See `cgru.run.tape.record`."""
    return tape.record(
        model, array(x), _array(h0), **_how(call), rng=call.seed, memory=memory, num_threads=None,
        drop=call.seed is not None, own=True, earlier=earlier,
    )  # fmt: skip


def _how(call: Call) -> dict[str, Any]:
    """The arguments of a call that say where its sequences begin and end."""
    return {"lengths": _array(call.lengths), "resets": _array(call.resets), "resets_to": call.resets_to}


def _array(tensor: Any) -> Array | None:
    return None if tensor is None else array(tensor)


class Recorded(torch.autograd.Function):  # type: ignore[misc] # PyTorch is not checked
    """y and h_n, a function of x, h0 and the weights in the order of torch.nn.GRU."""

    @staticmethod
    def forward(ctx: Any, call: Call, x: Any, h0: Any, *weights: Any) -> tuple[Any, Any]:
        """Run and record."""
        ctx.model = model_of(call.options, weights)
        y, h_n, kept = record(ctx.model, call, x, h0)
        # All of it, for PyTorch to notice a change before the way back, and for checkpoints to drop it.
        ctx.save_for_backward(x, h0, *weights, *kept)
        ctx.set_materialize_grads(False)
        ctx.call, ctx.count, ctx.fresh = call, 2 + len(weights), True
        return y, h_n

    @staticmethod
    def backward(ctx: Any, grad_y: Any, grad_h_n: Any) -> tuple[Any, ...]:
        """The gradients by what `forward` took."""
        saved, needed = ctx.saved_tensors, ctx.needs_input_grad[1:]
        inputs, kept = saved[: ctx.count], saved[ctx.count :]
        if grad_y is None and grad_h_n is None:
            return (None,) * len(ctx.needs_input_grad)
        if torch.is_grad_enabled():  # create_graph=True: they are to be differentiated in turn
            return None, *gradients_by_torch(ctx.call, inputs, grad_y, grad_h_n, needed)
        kept, ctx.fresh = kept if ctx.fresh else (), False  # the gates are good for one time
        return None, *gradients(ctx.model, ctx.call, inputs[0], inputs[1], kept, grad_y, grad_h_n, needed)


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
        if call.resets is None:
            steps, state = _layer(steps, h[k], own, call.lengths)
        else:
            steps, state = _restarting_layer(steps, h[k], own, call)
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


def _restarting_layer(steps: Any, h: Any, weights: Sequence[Any], call: Call) -> tuple[Any, Any]:
    """One layer whose sequences start anew, step by step: from states h (D, B, H)."""
    count, batch, _ = steps.shape
    lengths = torch.full((batch,), count) if call.lengths is None else call.lengths
    resets = call.resets.reshape(count, 1) if call.resets.dim() == 1 else call.resets
    if call.options.batch_first and call.resets.dim() == 2:
        resets = resets.transpose(0, 1)
    firsts = torch.zeros(count + 1, batch, 1, dtype=torch.bool)  # of pieces, none past a sequence's end
    firsts[:-1, :, 0] = resets & (torch.arange(count)[:, None] < lengths)
    each, outputs, states = len(weights) // len(h), [], []
    for d, state in enumerate(h):
        start = state if call.resets_to == "h0" else torch.zeros_like(state)
        made = [state] * count
        for t in reversed(range(count)) if d else range(count):
            state = torch.where(firsts[t + d], start, state)
            after = torch._VF.gru_cell(steps[t], state, *weights[d * each : (d + 1) * each])
            runs = (t < lengths)[:, None]
            made[t] = torch.where(runs, after, torch.zeros_like(after))
            state = torch.where(runs, after, state)
        outputs.append(torch.stack(made))
        states.append(state)
    return torch.cat(outputs, dim=2), torch.stack(states)
