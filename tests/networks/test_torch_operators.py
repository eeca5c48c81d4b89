"""PyTorch's operators as nodes: functions of tensors, followed by torch.export and compared with PyTorch."""

import pytest
import torch
from torch import nn

from cgru.formats.aten import network_of

from .test_torch_networks import Of, compared


def written(x, w):
    y = x.clone()
    y[:, 1:, :2] = x[:, 1:, 2:] * 2
    y[:, 0] = 1.5
    y.mul_(2).add_(1)
    return torch.relu_(y)


def normed(x, w):
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (
        (x - mean) / torch.sqrt(variance + 1e-2)
        + x.std(-1, keepdim=True)
        + torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    )


def images(x, w):
    """Convolutions and pooling over two axes, features the last one."""
    y = nn.functional.conv2d(
        x[:, None], w[:, :3, None, None].expand(4, 3, 3, 2)[:, :1], stride=(1, 2), padding=(1, 0), dilation=(1, 2)
    )
    y = nn.functional.conv_transpose2d(y, w[:, :, None, None].expand(4, 4, 1, 3), stride=(1, 2), padding=(0, 1))
    y = nn.functional.max_pool2d(y, (2, 1), 1, (1, 0))[:, :, 1:] + nn.functional.avg_pool2d(y, (3, 1), 1, (1, 0))
    return torch.cat([y.flatten(1).mean(1)[:, None], nn.functional.adaptive_avg_pool2d(y, 1)[:, :, 0, 0]], 1)


ACTIVATIONS = [
    nn.LeakyReLU(0.2), nn.ELU(0.7), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Hardswish(), nn.Hardsigmoid(),
    nn.Softplus(2.0), nn.Softplus(), nn.Softsign(), nn.CELU(0.5), nn.SELU(), nn.Mish(), nn.Hardtanh(-0.5, 0.4), nn.ReLU6(),
    nn.Softshrink(0.1), nn.Hardshrink(0.1), nn.Tanhshrink(), nn.LogSigmoid(), nn.Threshold(-0.6, 0.3), nn.Softmax(-1),
    nn.LogSoftmax(-1), nn.Sigmoid(), nn.Softmin(-1), nn.Tanh(), nn.ReLU(), nn.GLU(),
]  # fmt: skip

FUNCTIONS = {
    "activations": lambda x, w: torch.cat([layer(x * 2) for layer in ACTIVATIONS], -1),
    "arithmetic": lambda x, w: (2 - x) / (x.abs() + 1.5) * 3 - torch.add(x, w[0], alpha=2) ** 2 + x.exp().log1p().sqrt() - x.square().rsqrt().clamp(max=2),
    "bounds": lambda x, w: x.clamp(-0.5, 0.7) + x.clamp_min(0.1) + torch.maximum(x, w[1]) + torch.minimum(x, -x) + x.sign() + x.floor() + x.ceil() + x.round(),
    "conditions": lambda x, w: torch.where((x > 0) & (x <= 1), x, 0.5) + x.masked_fill(x < -0.3, 2.0) + torch.where(~(x == x), x, w[2]) * (x != 0).double() + ((x >= 0.5) | (x < 0)).to(x.dtype),
    "products": lambda x, w: x @ w + torch.einsum("bti,ij->btj", x, w) + torch.bmm(x, w.expand(x.shape[0], 4, 4)) + nn.functional.linear(x, w.t()) + torch.addmm(w[0], x[:, 0], w)[:, None],
    "parts": lambda x, w: torch.cat([x[..., 1:3], x[:, :, -1:], *x.chunk(2, -1), *x.split([1, 3], -1), *(y.unsqueeze(-1) for y in x.unbind(-1))], -1),
    "shapes": lambda x, w: x.transpose(1, 2).permute(0, 2, 1).unflatten(-1, (2, 2)).movedim(-1, -2).flip(-1).flatten(2).reshape(x.shape[0], x.shape[1], 1, 4).squeeze(2).expand(-1, -1, 4).repeat(1, 1, 2).roll(1, -1),
    "stacked": lambda x, w: torch.stack([x, x * 2], -1).sum(-1) + torch.stack([x, x], 0).amax(0) + x.index_select(-1, torch.tensor([3, 0, 1, 2])) + x[:, :, torch.tensor([1, 1, 0, 2])],
    "reduced": lambda x, w: torch.cat([x.sum(-1, keepdim=True), x.amax(-1, keepdim=True), x.amin(-1, keepdim=True), x.prod(-1, keepdim=True), x.logsumexp(-1, keepdim=True), x.max(-1, keepdim=True)[0], x.norm(dim=-1, keepdim=True), x.argmax(-1, keepdim=True).double(), x.min(-1, keepdim=True).indices.to(x.dtype)], -1),
    "norms": normed,
    "written": written,
    "padded": lambda x, w: nn.functional.pad(x, (1, 2)) + nn.functional.pad(x, (0, 3), value=1.5) + nn.functional.pad(x, (2, 1), mode="replicate") + nn.functional.pad(x, (1, 2), mode="reflect") + nn.functional.pad(x, (3, 3, 2, 0))[:, 2:, 3:10],
    "new": lambda x, w: x + torch.zeros_like(x) + x.new_ones(x.shape[0], 1, 4) * 2 + torch.full((4,), 0.5, dtype=x.dtype) + torch.arange(4) + torch.ones(x.shape[0], x.shape[1], 1, dtype=x.dtype) * torch.tensor(3.0, dtype=x.dtype),
    "divided": lambda x, w: torch.floor_divide(x, 0.3) + torch.remainder(x, 0.7) + torch.div(x, 0.4, rounding_mode="floor") + x.neg().reciprocal().clamp(-3, 3) + x.erf() + 2 * x.sigmoid().log(),
    "more products": lambda x, w: torch.baddbmm(x, x, w.expand(x.shape[0], 4, 4), beta=0.5, alpha=2) + (x @ w[0])[..., None] + torch.mv(w, w[0]) + torch.dot(w[0], w[1]) + (w @ w)[0],
    "more shapes": lambda x, w: x.tile(1, 1, 2).narrow(-1, 2, 4) + x.view_as(x).broadcast_to(x.shape) + x.swapaxes(0, 1).swapaxes(0, 1).contiguous() + x.unsqueeze(-2).squeeze(-2) + x[:, :, 1].unsqueeze(-1) + x.mT.mT.detach(),
    "wholes": lambda x, w: x + w.sum() + w.mean() + w.max() - w.min() + w.prod() + w.argmax() + w.std() + w.var(0) + w.argmin(1),
    "glu": lambda x, w: torch.cat([nn.functional.glu(x, -1), nn.functional.silu(x), nn.functional.hardtanh(x), nn.functional.relu6(x * 5)], -1),
    "images": images,
    "attention": lambda x, w: torch.softmax(x @ x.transpose(1, 2) / 2, -1) @ x,
    "decomposed": lambda x, w: nn.functional.pairwise_distance(x, x * 2, keepdim=True) + torch.addcmul(x, x, x, value=0.5) + nn.functional.softplus(x) + torch.lerp(x, w[0], 0.3),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operators(name):
    module = Of(FUNCTIONS[name]).double()
    graph = network_of(module, torch.randn(3, 6, 4).double(), axes={"x": ("B", "T", None)})
    assert graph.inputs == {"x": ("B", "T", 4)}
    for shape in ((2, 7, 4), (4, 3, 4)):
        compared(graph, module, torch.randn(shape, dtype=torch.float64))
