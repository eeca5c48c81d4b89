"""Networks as exporters write them, unsimplified: PyTorch's two run here, others' patterns rebuilt."""

import io

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from cgru.formats.onnx.network import from_onnx
from cgru.model.interpret import run
from cgru.model.stepping import Stream

from ..formats.test_onnx_exporters import loops_of_tensorflow, stacks_of_paddle
from ..support import onnx_graphs

ABOUT_SHAPES = {"Shape", "Range", "ConstantOfShape", "Identity", "Equal", "Where", "Expand", "Cast"}


class Dense(nn.Module):
    """Linear layers, a GRU with an initial state of zeros, and a mask."""

    def __init__(self):
        super().__init__()
        self.before = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.LayerNorm(7), nn.Dropout(0.5))
        self.gru = nn.GRU(7, 6, num_layers=2, batch_first=True)
        self.after = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 5), nn.Sigmoid())

    def forward(self, x):
        h0 = x.new_zeros(2, x.shape[0], 6)
        y, _ = self.gru(self.before(x), h0)
        return x * self.after(y)


class Convolutions(nn.Module):
    """Causal convolutions over time, dilated and depthwise, with a residual and a batch norm; (B, T, F)."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(5, 8, 3, dilation=2)
        self.norm = nn.BatchNorm1d(8)
        self.second = nn.Conv1d(8, 8, 3, groups=8, padding=1)
        self.act = nn.PReLU(8)
        self.gru = nn.GRU(8, 4, batch_first=True)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        y = nn.functional.pad(x.transpose(1, 2), (4, 0))
        y = self.act(self.norm(self.first(y)))
        y = y + self.second(y)
        y, _ = self.gru(y.transpose(1, 2))
        return nn.functional.silu(y)


class Grouped(nn.Module):
    """Reshapes by the input's sizes, a grouped linear layer, GRUs of groups, and statistics of a frame."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3, 4) * 0.5)
        self.left, self.right = nn.GRU(4, 3, batch_first=True), nn.GRU(4, 3, batch_first=True)

    def forward(self, x):
        b, t, _ = x.shape
        x = torch.cat([x, x.mean(-1, keepdim=True)], dim=-1)
        y = torch.einsum("btgi,gih->btgh", x.view(b, t, 2, 3), self.weight).flatten(2)
        left, right = torch.chunk(y, 2, dim=-1)
        y = torch.cat([self.left(left)[0], self.right(right)[0]], dim=-1)
        y = y.view(b, t, 2, 3).transpose(2, 3).reshape(b, t, 6)
        scale = torch.sqrt(torch.mean(y * y, dim=-1, keepdim=True) + 1e-3)
        return torch.softmax(y / scale, dim=-1)


def exported(module, x, dynamo, dynamic=True):
    if dynamo:
        free = torch.export.Dim.AUTO
        shapes = ({0: free, 1: free},) if dynamic else None
        return torch.onnx.export(
            module, (x,), dynamo=True, verbose=False, dynamic_shapes=shapes, input_names=["x"]
        ).model_proto
    file = io.BytesIO()
    axes = {"x": {0: "B", 1: "T"}} if dynamic else None
    torch.onnx.export(module, (x,), file, dynamo=False, dynamic_axes=axes, input_names=["x"], do_constant_folding=False)
    return onnx.load_from_string(file.getvalue())


@pytest.mark.parametrize("make", [Dense, Convolutions, Grouped])
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.filterwarnings("ignore")  # torch warns of its own exporters
def test_sequence_graphs_of_torch(make, dynamo):
    torch.manual_seed(0)
    module = make().eval()
    model = exported(module, torch.randn(3, 6, 5), dynamo)
    graph = from_onnx(model)
    assert graph.kind == "sequence"
    assert graph.batch is not None
    assert not {node.operator for node in graph.nodes} & ABOUT_SHAPES
    assert all(len(node.inputs) == 4 for node in graph.nodes if node.operator == "GRU")
    x = torch.randn(2, 9, 5)
    with torch.no_grad():
        expected = module(x).numpy()
    (name,) = graph.outputs
    np.testing.assert_allclose(run(graph, {"x": x.numpy()})[0][name], expected, atol=1e-5)
    stream = Stream(graph, batch_size=2)
    steps = [stream.step({"x": x.numpy()[:, t]})[name] for t in range(9)]
    steps = np.concatenate([np.stack(steps, 1), stream.flush()[name]], axis=1)
    assert stream.delay == (make is Convolutions)
    np.testing.assert_allclose(steps[:, stream.delay :], expected, atol=1e-5)


class Frame(nn.Module):
    """One frame of a network with caches: a convolution over time and bands, and a GRU along the bands."""

    def __init__(self):
        super().__init__()
        self.conv, self.deconv = (
            nn.Conv2d(2, 4, (3, 3), padding=(0, 1), stride=(1, 2)),
            nn.ConvTranspose2d(4, 2, (1, 3), stride=(1, 2), padding=(0, 1)),
        )
        self.bands = nn.GRU(4, 2, batch_first=True, bidirectional=True)
        self.time = nn.GRU(4, 4, batch_first=True)

    def forward(self, mix, conv_cache, inter_cache):
        joined = torch.cat([conv_cache[0], mix], dim=2)
        conv_cache = conv_cache.clone()
        conv_cache[0] = joined[:, :, 1:]
        y = torch.relu(self.conv(joined))  # (1, 4, 1, 5)
        b, c, t, f = y.shape
        y = y.permute(0, 2, 3, 1).reshape(b * t, f, c)
        y = self.bands(y)[0].view(b, t, f, c)
        z, inter_cache = self.time(y.permute(0, 2, 1, 3).reshape(b * f, t, c), inter_cache)
        y = (y + z.view(b, f, t, c).permute(0, 2, 1, 3)).permute(0, 3, 1, 2)
        y = self.deconv(y)
        out = torch.zeros_like(mix)
        out[:, :, :, 1:5] = torch.tanh(y)[:, :, :, 1:5]
        return out, conv_cache, inter_cache


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.filterwarnings("ignore")
def test_frame_graphs_of_torch(opset):
    """Assignments to slices, which the exporter writes as dozens of nodes about shapes."""
    torch.manual_seed(0)
    module = Frame().eval()
    frame, caches = torch.randn(1, 2, 1, 9), [torch.zeros(1, 1, 2, 2, 9), torch.zeros(1, 5, 4)]
    file = io.BytesIO()
    torch.onnx.export(
        module, (frame, *caches), file, dynamo=False, opset_version=opset, do_constant_folding=False,
        input_names=["mix", "conv_cache", "inter_cache"], output_names=["enh", "conv_cache_out", "inter_cache_out"],
    )  # fmt: skip
    model = onnx.load_from_string(file.getvalue())
    before = sum(node.op_type in ABOUT_SHAPES | {"Constant"} for node in model.graph.node)
    graph = from_onnx(model)
    assert before > 50
    assert not {node.operator for node in graph.nodes} & ABOUT_SHAPES
    assert graph.kind == "frame"
    assert graph.states == {"conv_cache": "conv_cache_out", "inter_cache": "inter_cache_out"}
    states = None
    for _ in range(5):
        frame = torch.randn(1, 2, 1, 9)
        with torch.no_grad():
            expected, *caches = module(frame, *caches)
        outputs, states = run(graph, {"mix": frame.numpy()}, states)
        np.testing.assert_allclose(outputs["enh"], expected.numpy(), atol=1e-5)
        for cache, name in zip(caches, graph.states, strict=True):
            np.testing.assert_allclose(states[name], cache.numpy(), atol=1e-5)


# --- Others' patterns -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_major", [False, True])
def test_loops_of_tensorflow(batch_major):
    """Lengths and an initial state that are made of the input's shape, in floating point on the way, vanish."""
    model = loops_of_tensorflow(batch_major)
    graph = from_onnx(model)
    (node,) = [node for node in graph.nodes if node.operator == "GRU"]
    assert len(node.inputs) == 4
    assert {node.operator for node in graph.nodes} <= {"GRU", "Squeeze", "Transpose"}
    x = np.random.default_rng(1).standard_normal((2, 5, 3) if batch_major else (5, 2, 3)).astype(np.float32)
    outputs, _ = run(graph, {"X": x})
    for array, expected in zip(outputs.values(), onnx_graphs.session(model).run(None, {"X": x}), strict=True):
        np.testing.assert_allclose(array, expected, atol=1e-5)
    assert Stream(graph).delay == 0


@pytest.mark.parametrize("batch_major", [False, True])
def test_given_states_of_paddle(batch_major):
    """Inputs whose batch axes have names of their own, which a GRU makes one."""
    model = stacks_of_paddle(False, batch_major, "given")
    graph = from_onnx(model)
    x, h0 = graph.inputs["X"], graph.inputs["H0"]
    assert h0 == (2, x[0] if batch_major else x[1], 4)
    assert (graph.kind, graph.batch) == ("sequence", h0[1])
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 5, 3) if batch_major else (5, 2, 3)).astype(np.float32)
    feed = {"X": x, "H0": rng.standard_normal((2, 2, 4)).astype(np.float32)}
    np.testing.assert_allclose(run(graph, feed)[0]["out"], onnx_graphs.session(model).run(None, feed)[0], atol=1e-5)
    with pytest.raises(ValueError, match="H0: expected"):
        run(graph, feed | {"H0": feed["H0"][:, :1]})


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_major", [False, True])
def test_stacks_of_paddle(bidirectional, batch_major):
    """Weights put in order by nodes, and states of zeros that are cut, vanish."""
    model = stacks_of_paddle(bidirectional, batch_major, "zeros")
    graph = from_onnx(model)
    assert {node.operator for node in graph.nodes} <= {"GRU", "Reshape", "Transpose"}
    assert all(len(node.inputs) == 4 for node in graph.nodes if node.operator == "GRU")
    x = np.random.default_rng(1).standard_normal((2, 5, 3) if batch_major else (5, 2, 3)).astype(np.float32)
    np.testing.assert_allclose(
        run(graph, {"X": x})[0]["out"], onnx_graphs.session(model).run(None, {"X": x})[0], atol=1e-5
    )
