"""The operators cgru::gru and cgru::gru_backward: what compiled and exported programs hold in a call's place.

They are functions of tensors alone, as those programs need: the way back records the call once more, since a tape is no
tensor. That costs a third more work than a call outside of them. Importing this module registers the operators.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cgru.torch.kept import Options
from cgru.torch.recording import Call, gradients_by_torch, record, run

if TYPE_CHECKING:
    from collections.abc import Sequence

INPUTS = (
    "Tensor x, Tensor? h0, Tensor[] weights, Tensor? lengths, Tensor? seed, "
    "int num_layers, bool batch_first, bool bidirectional, float dropout"
)
"""As of cgru.torch.GRU; weights in the order of torch.nn.GRU; lengths (B,); seed where outputs are dropped."""


def _call(lengths: Any, seed: Any, *options: Any) -> Call:
    return Call(Options(*options), lengths, None if seed is None else int(seed))


def _run(x: Any, h0: Any, weights: Sequence[Any], lengths: Any, seed: Any, *options: Any) -> tuple[Any, Any]:
    """y and h_n."""
    return run(_call(lengths, seed, *options), x, h0, weights)


def _run_on_shapes(x: Any, h0: Any, weights: Sequence[Any], lengths: Any, seed: Any, *options: Any) -> tuple[Any, Any]:
    layers, batch_first, bidirectional, _ = options
    hidden, directions = weights[1].shape[1], 1 + bidirectional
    batch = () if x.dim() == 2 else (x.shape[0 if batch_first else 1],)
    y, h_n = (*x.shape[:-1], directions * hidden), (layers * directions, *batch, hidden)
    return x.new_empty(y), x.new_empty(h_n)


def _gradients(grad_y: Any, grad_h_n: Any, x: Any, h0: Any, weights: Sequence[Any], *rest: Any) -> list[Any]:
    """The gradients by x, h0, where that is given, and the weights."""
    inputs = [x, *([] if h0 is None else [h0]), *weights]
    if grad_y is None and grad_h_n is None:
        return [torch.zeros_like(tensor, memory_format=torch.contiguous_format) for tensor in inputs]
    _, _, way = record(_call(*rest), x, h0, weights)
    found = way.gradients(grad_y, grad_h_n, [True, h0 is not None] + [True] * len(weights))
    return [gradient for gradient in found if gradient is not None]


def _gradients_on_shapes(grad_y: Any, grad_h_n: Any, x: Any, h0: Any, weights: Sequence[Any], *rest: Any) -> list[Any]:
    return [tensor.new_empty(tensor.shape) for tensor in (x, *([] if h0 is None else [h0]), *weights)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """What the way back through `gru` takes: tensors as such."""
    x, h0, weights, lengths, seed, *ctx.options = inputs
    ctx.save_for_backward(x, h0, lengths, seed, *weights)
    ctx.set_materialize_grads(False)


def _back(ctx: Any, grad_y: Any, grad_h_n: Any) -> tuple[Any, ...]:
    x, h0, lengths, seed, *weights = ctx.saved_tensors
    by_x, *found = gru_backward(grad_y, grad_h_n, x, h0, weights, lengths, seed, *ctx.options)
    by_h0 = None if h0 is None else found.pop(0)
    return by_x, by_h0, found, None, None, None, None, None, None


def _keep_again(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """What the way back through `gru_backward` takes."""
    grad_y, grad_h_n, x, h0, weights, lengths, seed, *ctx.options = inputs
    ctx.save_for_backward(grad_y, grad_h_n, x, h0, lengths, seed, *weights)


def _back_again(ctx: Any, by_gradients: list[Any]) -> tuple[Any, ...]:
    """Second derivatives, by PyTorch's operators."""
    grad_y, grad_h_n, x, h0, lengths, seed, *weights = ctx.saved_tensors
    needed = [True, h0 is not None] + [True] * len(weights)
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
    return by_y, by_h_n, by_x, by_h0, by_weights, None, None, None, None, None, None


gru = torch.library.custom_op("cgru::gru", _run, mutates_args=(), schema=f"({INPUTS}) -> (Tensor, Tensor)")
gru.register_fake(_run_on_shapes)
gru.register_autograd(_back, setup_context=_keep)

gru_backward = torch.library.custom_op(
    "cgru::gru_backward",
    _gradients,
    mutates_args=(),
    schema=f"(Tensor? grad_y, Tensor? grad_h_n, {INPUTS}) -> Tensor[]",
)
gru_backward.register_fake(_gradients_on_shapes)
gru_backward.register_autograd(_back_again, setup_context=_keep_again)
