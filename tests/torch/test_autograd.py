"""What programs ask of autograd beyond a gradient: writing to outputs, second derivatives, torch.func, checkpoints."""

import weakref

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

import cgru.torch as bridge
from cgru.run import tape as tapes

from ..support.bridge import pair, same

# PyTorch's own way of forward mode warns.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def doubles(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize(
    "write",
    [
        lambda y, x: y.add_(x),
        lambda y, x: torch.relu_(y),
        lambda y, x: torch.nn.functional.dropout(y.mul_(2), 0.5, inplace=True),
        lambda y, x: y[1:].zero_(),
        lambda y, x: y.sigmoid_(),
    ],
)
def test_writing_to_the_output(write, state):
    ours, theirs = pair(4, 4, dtype=torch.float64)
    found = []
    for module in (ours, theirs):
        torch.manual_seed(0)
        x = doubles(5, 3, 4)
        y, h_n = module(x)
        write(y, x.detach())
        if state:
            h_n *= y[0]
        loss = (y.square().sum() + h_n.sum()) if state else y.square().sum()
        found.append([y, h_n, *torch.autograd.grad(loss, [x, *module.parameters()])])
    same(*found, 1e-11)


@pytest.mark.parametrize("written", ["x", "h0", "weight_hh_l0"])
def test_writing_to_an_input_before_the_way_back_is_refused(written):
    for module in pair(4, 4):
        tensors = {"x": torch.randn(5, 3, 4), "h0": torch.randn(1, 3, 4), **dict(module.named_parameters())}
        y, _ = module(tensors["x"], tensors["h0"])
        with torch.no_grad():
            tensors[written] += 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


@pytest.mark.parametrize(("bidirectional", "batch_first", "bias"), [(0, 0, 1), (1, 0, 1), (0, 1, 0), (1, 1, 1)])
@pytest.mark.parametrize("kind", ["batch", "one", "packed"])
def test_second_derivatives(kind, bidirectional, batch_first, bias):
    """A gradient penalty: gradients of the norm of gradients, by the input, the state and the weights."""
    options = {"bidirectional": bool(bidirectional), "batch_first": bool(batch_first), "bias": bool(bias)}
    ours, theirs = pair(3, 4, 2, **options, dtype=torch.float64)
    x, h0 = doubles(3, 3, 3), doubles(2 * (1 + bidirectional), 3, 4)
    found = []
    for module in (ours, theirs):
        if kind == "packed":
            packed = pack_padded_sequence(x, [1, 3, 2], bool(batch_first), enforce_sorted=False)
            y, h_n = module(packed, h0)
            y = y.data
        elif kind == "one":
            y, h_n = module(x[0], h0[:, 0])
        else:
            y, h_n = module(x, h0)
        leaves = [x, h0, *module.parameters()]
        first = torch.autograd.grad(y.square().sum() + h_n.sin().sum(), leaves, create_graph=True)
        penalty = sum(gradient.square().sum() for gradient in first)
        found.append([*first, *torch.autograd.grad(penalty, leaves)])
    same(*found, 1e-9)


def test_second_derivatives_where_inputs_depend_on_each_other():
    ours, theirs = pair(4, 4, dtype=torch.float64)
    x = doubles(5, 3, 4)
    found = []
    for module in (ours, theirs):
        y, _ = module(x * x[0].exp(), x[:1].sin())
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
        found.append([first, second, *torch.autograd.grad(second.sum(), x)])
    same(*found, 1e-9)


def test_second_derivatives_with_dropout():
    """The masks of a call, again on the way back: gradients of the first kind, and of the second by gradgradcheck."""
    ours = bridge.GRU(3, 5, 3, dropout=0.4, dtype=torch.float64)
    x = doubles(2, 2, 3)

    def seeded(x, *weights):
        torch.manual_seed(3)
        return ours(x)[0]

    y = seeded(x)
    (once,) = torch.autograd.grad(y.square().sum(), x, retain_graph=True)
    (again,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    same([again], [once], 1e-12)
    assert again.requires_grad
    assert torch.autograd.gradgradcheck(seeded, (x, *ours.parameters()))


FUNCTIONS = {
    "grad": lambda f, x: torch.func.grad(lambda z: f(z).sum())(x),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](torch.ones_like(x))[0],
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
    "jacrev": lambda f, x: torch.func.jacrev(lambda z: f(z).sum(0))(x),
    "jacfwd": lambda f, x: torch.func.jacfwd(lambda z: f(z).sum(0))(x),
    "hessian": lambda f, x: torch.func.hessian(lambda z: f(z).square().sum())(x),
    "autograd.hessian": lambda f, x: torch.autograd.functional.hessian(lambda z: f(z).square().sum(), x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_torch_func(name):
    ours, theirs = pair(4, 4, dtype=torch.float64)
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    same(*([FUNCTIONS[name](lambda z, module=module: module(z)[0], x)] for module in (ours, theirs)), 1e-11)


def test_torch_func_over_the_weights():
    ours, theirs = pair(4, 4, dtype=torch.float64)
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    found = []
    for module in (ours, theirs):

        def loss(weights, module=module):
            return torch.func.functional_call(module, weights, (x,))[0].square().sum()

        found.append(list(torch.func.grad(loss)(dict(module.named_parameters())).values()))
    same(*found, 1e-11)


def test_forward_mode():
    ours, theirs = pair(4, 4, dtype=torch.float64)
    x, tangent = torch.randn(2, 3, 2, 4, dtype=torch.float64)
    found = []
    for module in (ours, theirs):
        with forward_ad.dual_level():
            y, h_n = module(forward_ad.make_dual(x, tangent))
            found.append([forward_ad.unpack_dual(y).tangent, forward_ad.unpack_dual(h_n).tangent])
    same(*found, 1e-11)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(reentrant):
    ours, theirs = pair(4, 4, 2, dtype=torch.float64)
    x = doubles(5, 3, 4)
    found = []
    for module in (ours, theirs):
        y, h_n = checkpoint(module, x, use_reentrant=reentrant)
        found.append(torch.autograd.grad(y.sum() + h_n.sum(), [x]) if not reentrant else [y])
        module.zero_grad()
        x.grad = None
        checkpoint(module, x, use_reentrant=reentrant)[0].square().sum().backward()
        found[-1] = [*found[-1], x.grad, *(parameter.grad for parameter in module.parameters())]
    same(*found, 1e-11)


def test_checkpoints_hold_nothing(monkeypatch):
    """Until the way back, of what a call keeps for it."""
    kept, taken = [], tapes.Tape.kept

    def watched(tape):
        arrays = taken(tape)
        kept.extend(weakref.ref(array) for array in arrays)
        return arrays

    monkeypatch.setattr(tapes.Tape, "kept", watched)
    gru = bridge.GRU(4, 4, 2, bidirectional=True)
    x = torch.randn(5, 3, 4, requires_grad=True)
    y, _ = gru(x)
    assert len(kept) == 5
    assert all(array() is not None for array in kept)
    kept.clear()
    z, _ = checkpoint(gru, x, use_reentrant=False)
    assert len(kept) == 5
    assert all(array() is None for array in kept)
    leaves = [x, *gru.parameters()]
    same(torch.autograd.grad(z.sum(), leaves), torch.autograd.grad(y.sum(), leaves), 1e-7)


def test_saved_tensors_that_a_program_stores_elsewhere():
    """Hooks that copy them, and give them back as often as they are asked for."""
    gru = bridge.GRU(4, 4, 2)
    x = torch.randn(5, 3, 4, requires_grad=True)
    leaves = [x, *gru.parameters()]
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.numpy(force=True).copy(), torch.from_numpy):
        loss = gru(x)[0].square().sum()
    expected = torch.autograd.grad(gru(x)[0].square().sum(), leaves)
    for _ in range(3):
        same(torch.autograd.grad(loss, leaves, retain_graph=True), expected, 1e-6)


def test_hooks_and_gradients_in_part():
    """Hooks of tensors and modules run; who needs no gradient gets none."""
    ours, theirs = pair(4, 4, dtype=torch.float64)
    seen = []
    for module in (ours, theirs):
        x = doubles(5, 3, 4)
        with torch.no_grad():
            x.copy_(torch.arange(60.0).reshape(5, 3, 4) / 60)
        module.weight_ih_l0.requires_grad_(False)
        module.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
        module.register_forward_hook(lambda module, inputs, outputs: (outputs[0] + 1, outputs[1]))
        module.weight_hh_l0.register_hook(lambda gradient: gradient * 3)
        y, _ = module(x)
        y.square().sum().backward()
        assert module.weight_ih_l0.grad is None
        seen.append([y, x.grad, module.weight_hh_l0.grad, module.bias_hh_l0.grad])
    same(*seen, 1e-11)
