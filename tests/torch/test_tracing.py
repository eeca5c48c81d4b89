"""Traced, scripted, exported to ONNX: the graph computes what torch.nn.GRU's would, for other inputs and lengths too."""

import io

import onnxruntime
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import cgru.torch as bridge

from ..support.bridge import pair, same

pytestmark = [  # PyTorch's own tracers warn of each other
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("DeprecationWarning", "UserWarning", "FutureWarning", "torch.jit.TracerWarning")
]


class Model(torch.nn.Module):
    def __init__(self, gru):
        super().__init__()
        self.gru, self.head = gru, torch.nn.Linear(8, 2)
        torch.nn.init.constant_(self.head.weight, 0.1)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, x):
        y, h_n = self.gru(x)
        return self.head(y), h_n


def models():
    ours, theirs = pair(3, 4, 2, bidirectional=True)
    return Model(ours).eval(), Model(theirs).eval()


def traced(model, x):
    return torch.jit.trace(model, (x,))


def scripted(model, x):
    return torch.jit.script(model)


def frozen(model, x):
    return torch.jit.freeze(torch.jit.trace(model, (x,)))


def through_a_file(model, x):
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(model), file)
    file.seek(0)
    return torch.jit.load(file)


def symbolically(model, x):
    return torch.fx.symbolic_trace(model)


def from_operators(model, x):
    return make_fx(model)(x)


def exported_to_onnx(model, x, **options):
    file = io.BytesIO()
    torch.onnx.export(model, (x,), file, input_names=["x"], **options)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    return lambda x: tuple(torch.from_numpy(array) for array in session.run(None, {"x": x.numpy()}))


def exporter(model, x):
    return exported_to_onnx(model, x, dynamo=True, verbose=False)


def earlier_exporter(model, x):
    return exported_to_onnx(model, x, dynamo=False)


def earlier_exporter_of_a_script(model, x):
    return exported_to_onnx(torch.jit.script(model), x, dynamo=False)


WAYS = [
    traced, scripted, frozen, through_a_file, symbolically, from_operators, exporter, earlier_exporter,
    earlier_exporter_of_a_script,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_graphs(way):
    ours, theirs = models()
    first, second = torch.randn(2, 5, 2, 3)
    with torch.no_grad():
        graph = way(ours, first)
        for x in (first, second):
            same(graph(x), theirs(x), 2e-6)


@pytest.mark.parametrize("way", [traced, scripted, symbolically])
def test_graphs_hold_the_parameters(way):
    """Their state_dict is the model's, and gradients reach the parameters."""
    ours, theirs = models()
    x = torch.randn(5, 2, 3)
    graph = way(ours, x)
    assert list(graph.state_dict()) == list(theirs.state_dict())
    for model in (graph, theirs):
        model(x)[0].square().sum().backward()
    same([p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()], 2e-5)


def test_traced_with_a_state():
    ours, theirs = pair(3, 4)
    x, h0 = torch.randn(5, 2, 3), torch.randn(1, 2, 4)
    with torch.no_grad():
        same(torch.jit.script(torch.nn.Sequential(ours))(x), theirs(x), 2e-6)
        same(torch.jit.trace(ours, (x, h0))(x, h0), theirs(x, h0), 2e-6)


def test_symbolic_tracing_leaves_the_module_whole():
    ours, _ = models()
    graph = torch.fx.symbolic_trace(ours)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["gru", "head"]
    assert type(graph.gru) is bridge.GRU


def test_modes_see_the_same_operators():
    """Who counts operations counts torch.nn.GRU's."""
    counts = []
    x = torch.randn(5, 2, 3)
    for model in models():
        with FlopCounterMode(display=False) as counter:
            model(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_autocast():
    """In bfloat16 as far as torch.nn.GRU is, gradients too."""
    ours, theirs = pair(3, 4)
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        for results, expected in ((ours(x), theirs(x)), (ours(x.bfloat16()), theirs(x.bfloat16()))):
            for result, value in zip(results, expected, strict=True):
                assert torch.equal(result, value)
                assert result.dtype == value.dtype
        for module in (ours, theirs):
            module(x)[0].float().square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
