"""The operators cgru::gru and cgru::gru_backward: what compiled and exported programs hold in a call's place.

They are functions of tensors alone, as those programs need. A call that is to be differentiated gives what its way back
needs as tensors beside its outputs; one that did not records itself once more there, a third more work. Importing this
module registers the operators.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cgru.model.cells import CELLS
from cgru.torch.kept import Options, model_of
from cgru.torch.recording import Call, gradients, gradients_by_torch, record, run

if TYPE_CHECKING:
    from collections.abc import Sequence

INPUTS = (
    "Tensor x, Tensor? h0, Tensor[] weights, Tensor? lengths, Tensor? seed, "
    "int num_layers, bool batch_first, bool bidirectional, float dropout"
)
"""As of cgru.torch.GRU; weights in the order of torch.nn.GRU; lengths (B,); seed where outputs are dropped.

`gru` gives y, h_n and, if told to keep and without lengths, what `gru_backward` takes as `kept`.
"""


def _call(lengths: Any, seed: Any, *options: Any) -> Call:
    return Call(Options(*options), lengths, None if seed is None else int(seed))


def _run(
    x: Any, h0: Any, weights: Sequence[Any], lengths: Any, seed: Any, *rest: Any
) -> tuple[Any, Any, Sequence[Any]]:
    """y, h_n and what is kept for the way back: nothing unless that is asked for."""
    *options, keep = rest
    call = _call(lengths, seed, *options)
    if not _keeps(lengths, keep):
        return *run(call, x, h0, weights), []
    y, h_n, kept = record(model_of(call.options, weights), call, x, h0)
    return y, h_n, kept if y.numel() else _kept_shapes(x, weights, *options)


def _run_on_shapes(
    x: Any, h0: Any, weights: Sequence[Any], lengths: Any, seed: Any, *rest: Any
) -> tuple[Any, Any, Sequence[Any]]:
    *options, keep = rest
    layers, batch_first, bidirectional, _ = options
    hidden, directions = weights[1].shape[1], 1 + bidirectional
    batch = () if x.dim() == 2 else (x.shape[0 if batch_first else 1],)
    y, h_n = (*x.shape[:-1], directions * hidden), (layers * directions, *batch, hidden)
    kept = _kept_shapes(x, weights, *options) if _keeps(lengths, keep) else []
    return x.new_empty(y), x.new_empty(h_n), kept


def _keeps(lengths: Any, keep: bool) -> bool:
    """Past a sequence's length gates are not computed: no values for a program to see."""
    return keep and lengths is None


def _kept_shapes(x: Any, weights: Sequence[Any], *options: Any) -> list[Any]:
    """What `record` keeps: y, outputs between layers, then the gates of every direction of every layer."""
    layers, batch_first, bidirectional, _ = options
    hidden, directions = weights[1].shape[1], 1 + bidirectional
    rows = (x.shape[0], 1) if x.dim() == 2 else (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])
    shapes = [(*x.shape[:-1], directions * hidden)] + [(*rows, directions * hidden)] * (layers - 1)
    shapes += [(*rows, CELLS["gru"].KEPT, hidden)] * (layers * directions)
    return [x.new_empty(shape) for shape in shapes]


def _gradients(
    grad_y: Any,
    grad_h_n: Any,
    kept: Sequence[Any],
    by_x: bool,
    x: Any,
    h0: Any,
    weights: Sequence[Any],
    *rest: Any,
) -> list[Any]:
    """The gradients by x, where wanted, h0, where given, and the weights."""
    inputs = [*([x] if by_x else []), *([] if h0 is None else [h0]), *weights]
    if grad_y is None and grad_h_n is None:
        return [torch.zeros_like(tensor, memory_format=torch.contiguous_format) for tensor in inputs]
    call = _call(*rest)
    if kept and kept[0].numel():
        first = call.options.num_layers  # of the gates, which are used up
        kept = [*kept[:first], *(gates.clone() for gates in kept[first:])]
    else:
        kept = []
    needed = [by_x, h0 is not None] + [True] * len(weights)
    found = gradients(model_of(call.options, weights), call, x, h0, kept, grad_y, grad_h_n, needed)
    return [gradient for gradient in found if gradient is not None]


def _gradients_on_shapes(
    grad_y: Any,
    grad_h_n: Any,
    kept: Sequence[Any],
    by_x: bool,
    x: Any,
    h0: Any,
    weights: Sequence[Any],
    *rest: Any,
) -> list[Any]:
    inputs = [*([x] if by_x else []), *([] if h0 is None else [h0]), *weights]
    return [tensor.new_empty(tensor.shape) for tensor in inputs]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """What the way back through `gru` takes: tensors as such."""
    x, h0, weights, lengths, seed, *ctx.options, _ = inputs
    _, _, kept = output
    ctx.weights = len(weights)
    ctx.save_for_backward(x, h0, lengths, seed, *weights, *kept)
    ctx.set_materialize_grads(False)


def _back(ctx: Any, grad_y: Any, grad_h_n: Any, _: Any) -> tuple[Any, ...]:
    x, h0, lengths, seed, *rest = ctx.saved_tensors
    weights, kept = rest[: ctx.weights], rest[ctx.weights :]
    wanted = ctx.needs_input_grad[0]
    found = gru_backward(grad_y, grad_h_n, kept, wanted, x, h0, weights, lengths, seed, *ctx.options)
    by_x = found.pop(0) if wanted else None
    by_h0 = None if h0 is None else found.pop(0)
    return by_x, by_h0, found, None, None, None, None, None, None, None


def _keep_again(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """What the way back through `gru_backward` takes."""
    grad_y, grad_h_n, kept, ctx.by_x, x, h0, weights, lengths, seed, *ctx.options = inputs
    ctx.kept = len(kept)
    ctx.save_for_backward(grad_y, grad_h_n, x, h0, lengths, seed, *weights)


def _back_again(ctx: Any, by_gradients: list[Any]) -> tuple[Any, ...]:
    """Second derivatives, by PyTorch's operators, as of a function of the call's arguments: what is kept follows."""
    grad_y, grad_h_n, x, h0, lengths, seed, *weights = ctx.saved_tensors
    needed = [ctx.by_x, h0 is not None] + [True] * len(weights)
    with torch.enable_grad():
        inputs = [None if t is None else t.view_as(t) for t in (grad_y, grad_h_n, x, h0, *weights)]
        leaves = [t if t is None or t.requires_grad else t.requires_grad_() for t in inputs]
        first = gradients_by_torch(_call(lengths, seed, *ctx.options), leaves[2:], leaves[0], leaves[1], needed)
        found = iter(
            torch.autograd.grad(
                [gradient for gradient in first if gradient is not None],
                [leaf for leaf in leaves if leaf is not None],
                by_gradients,
                create_graph=True,
                allow_unused=True,
            )
        )
    by_y, by_h_n, by_x, by_h0, *by_weights = (None if leaf is None else next(found) for leaf in leaves)
    return by_y, by_h_n, [None] * ctx.kept, None, by_x, by_h0, by_weights, None, None, None, None, None, None


gru = torch.library.custom_op(
    "cgru::gru", _run, mutates_args=(), schema=f"({INPUTS}, bool keep) -> (Tensor, Tensor, Tensor[])"
)
gru.register_fake(_run_on_shapes)
gru.register_autograd(_back, setup_context=_keep)

gru_backward = torch.library.custom_op(
    "cgru::gru_backward",
    _gradients,
    mutates_args=(),
    schema=f"(Tensor? grad_y, Tensor? grad_h_n, Tensor[] kept, bool by_x, {INPUTS}) -> Tensor[]",
)
gru_backward.register_fake(_gradients_on_shapes)
gru_backward.register_autograd(_back_again, setup_context=_keep_again)
