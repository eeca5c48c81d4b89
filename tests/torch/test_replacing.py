"""cgru.torch.replace and restore, and cgru.torch.GRUCell beside torch.nn.GRUCell."""

import copy
import pickle

import pytest
import torch
from torch.nn.utils import parametrizations

import cgru.torch as bridge

from ..support.bridge import same


class Own(torch.nn.GRU):
    def forward(self, input, hx=None):
        return input * 2, hx


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.GRU(3, 4, 2, bidirectional=True, batch_first=True)
        self.inside = torch.nn.ModuleDict({"cell": torch.nn.GRUCell(8, 4), "own": Own(4, 4)})
        self.normed = parametrizations.weight_norm(torch.nn.GRU(4, 4), "weight_hh_l0")
        self.again = self.first

    def forward(self, x):
        y, _ = self.again(x)
        h = torch.zeros(len(x), 4)
        for t in range(x.shape[1]):
            h = self.inside["cell"](y[:, t], h)
        return self.normed(h)[0] + self.inside["own"](h)[0]


def test_a_model_is_exchanged_in_place_and_back():
    model = Model()
    reference = copy.deepcopy(model)
    state = {name: (tensor.data_ptr(), tensor) for name, tensor in model.state_dict().items()}
    seen = []
    model.first.register_forward_hook(lambda *_: seen.append("hook"))
    model.first.eval()
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    modules = list(model.modules())
    x = torch.randn(2, 5, 3)

    assert bridge.replace(model) is model
    assert [type(m) for m in (model.first, model.inside["cell"], model.inside["own"])] == [
        bridge.GRU, bridge.GRUCell, Own,
    ]  # fmt: skip
    assert isinstance(model.normed, bridge.GRU)
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == {
        name: pointer for name, (pointer, _) in state.items()
    }
    assert not model.first.training
    assert model.normed.training

    for one in (model, reference):
        one.zero_grad()
        one(x).square().sum().backward()
    assert seen == ["hook"]
    same([p.grad for p in model.parameters() if p.grad is not None],
         [p.grad for p in reference.parameters() if p.grad is not None], 1e-4)  # fmt: skip
    sgd.step()
    reference.load_state_dict(model.state_dict())
    with torch.no_grad():
        same([model(x)], [reference(x)], 1e-5)

    assert bridge.restore(model) is model
    assert [type(m) for m in (model.first, model.inside["cell"])] == [torch.nn.GRU, torch.nn.GRUCell]
    assert not isinstance(model.normed, bridge.GRU)
    with torch.no_grad():
        assert torch.equal(model(x), reference(x))
    torch.nn.utils.parametrize.remove_parametrizations(bridge.replace(model).normed, "weight_hh_l0")
    assert type(model.normed) is bridge.GRU
    with torch.no_grad():
        same([model(x)], [reference(x)], 1e-5)


def test_a_module_alone_and_misuse():
    gru = torch.nn.GRU(3, 4, dtype=torch.float64)
    assert type(bridge.replace(gru)) is bridge.GRU
    assert gru.weight_hh_l0.dtype == torch.float64
    assert type(bridge.replace(gru)) is bridge.GRU
    assert type(pickle.loads(pickle.dumps(gru))) is bridge.GRU
    linear = torch.nn.Linear(2, 2)
    assert bridge.replace(linear) is linear
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got dict"):
        bridge.replace({})


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_pickles_of_every_version(kind):
    """Whole modules, by the names that their class has had."""
    module = getattr(bridge, kind)(3, 4)
    now = pickle.dumps(module, protocol=2)
    name = f"cgru.torch.modules\n{kind}\n".encode()
    assert name in now
    for path in ("cgru.torch.modules", "cgru.torch"):
        loaded = pickle.loads(now.replace(name, f"{path}\n{kind}\n".encode()))
        assert type(loaded) is type(module)
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), module.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_quantized_by_pytorch_once_restored():
    model = torch.nn.Sequential(torch.nn.GRU(8, 16, 2, bidirectional=True))
    quantize, x = torch.ao.quantization.quantize_dynamic, torch.randn(5, 2, 8)
    expected = quantize(model, dtype=torch.qint8)
    bridge.replace(model)
    found = quantize(bridge.restore(copy.deepcopy(model)), dtype=torch.qint8)
    assert type(found[0]) is type(expected[0]) is torch.ao.nn.quantized.dynamic.GRU
    assert all(torch.equal(a, b) for a, b in zip(found(x), expected(x), strict=True))
    assert type(model[0]) is bridge.GRU


def cells(**options):
    theirs = torch.nn.GRUCell(3, 4, **options)
    ours = bridge.GRUCell(3, 4, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(), (5,), (0,)])
@pytest.mark.parametrize("state", [False, True])
def test_cells(shape, bias, state, dtype, tolerance):
    """Steps, gradients through three of them, outputs that are written to, weights that change unseen."""
    ours, theirs = cells(bias=bias, dtype=dtype)
    x = torch.randn(3, *shape, 3, dtype=dtype, requires_grad=True)
    h0 = torch.randn(*shape, 4, dtype=dtype, requires_grad=True) if state else None
    for _ in range(2):
        found = []
        for cell in (ours, theirs):
            h = h0
            for step in x:
                h = cell(step, h)
            result = h.detach().clone()
            h.mul_(2)
            leaves = [x, *cell.parameters(), *([h0] if state else [])]
            found.append([result, *torch.autograd.grad(h.square().sum(), leaves)])
            with torch.no_grad():
                found[-1].append(cell(x[0], h0))
            cell.weight_hh.data.mul_(0.5)
        if shape != (0,):
            same(*found, tolerance)
        assert [tensor.shape for tensor in found[0]] == [tensor.shape for tensor in found[1]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_cells_of_graphs():
    """Scripted, traced, transformed, compiled, twice differentiated."""
    torch._dynamo.reset()
    ours, theirs = cells(dtype=torch.float64)
    x, h = torch.randn(5, 3, dtype=torch.float64, requires_grad=True), torch.randn(5, 4, dtype=torch.float64)
    expected = theirs(x, h)
    ways = {
        "script": lambda: torch.jit.script(ours),
        "trace": lambda: torch.jit.trace(ours, (torch.randn_like(x), torch.randn_like(h))),
        "fx": lambda: torch.fx.symbolic_trace(torch.nn.Sequential(ours)),
        "compile": lambda: torch.compile(ours, fullgraph=True, backend="aot_eager"),
        "export": lambda: torch.export.export(ours, (x.detach(), h)).module(),
    }
    for name, way in ways.items():
        same([way()(x) if name == "fx" else way()(x, h)], [theirs(x) if name == "fx" else expected], 1e-12)
    found = []
    for cell in (ours, theirs):
        (first,) = torch.autograd.grad(cell(x, h).square().sum(), x, create_graph=True)
        found.append([first, *torch.autograd.grad(first.square().sum(), [x, *cell.parameters()])])
        found[-1].append(torch.func.hessian(lambda x, cell=cell: cell(x, h).square().sum())(x))
    same(*found, 1e-10)


def test_cells_refuse_as_torchs():
    for cell in cells():
        with pytest.raises(ValueError, match="1D or 2D"):
            cell(torch.zeros(1, 1, 3))
        with pytest.raises(RuntimeError):
            cell(torch.zeros(2, 5))
        with pytest.raises(RuntimeError):
            cell(torch.zeros(2, 3), torch.zeros(3, 4))
