"""Exporters: a small network through both of PyTorch's, in every operator set that each can write; a file of tf2onnx's."""

import io
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import cgru

from ..support import compiled


class Small(nn.Module):
    """(B, T, 6) to (B, T, 5): a causal convolution, norm, GRU, residual and GELU."""

    def __init__(self, approximate="none"):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(6, 8, 3, dilation=2), nn.LayerNorm(8)
        self.gru, self.inner, self.last = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 8), nn.Linear(8, 5)
        self.gelu = nn.GELU(approximate)

    def forward(self, x):
        y = self.conv(nn.functional.pad(x.transpose(1, 2), (4, 0))).transpose(1, 2)
        y = self.gru(self.norm(y))[0]
        y = y + self.inner(self.gelu(y))
        return self.last(nn.functional.silu(y))


@cache
def module(approximate):
    torch.manual_seed(0)
    return Small(approximate).eval()


def exported(module, opset, dynamo):
    """What one of the exporters makes of the module."""
    x = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            free = torch.export.Dim.AUTO
            return torch.onnx.export(
                module, (x,), dynamo=True, verbose=False, opset_version=opset, input_names=["x"],
                dynamic_shapes=({0: free, 1: free},),
            ).model_proto  # fmt: skip
        file = io.BytesIO()
        torch.onnx.export(
            module, (x,), file, dynamo=False, opset_version=opset, input_names=["x"],
            dynamic_axes={"x": {0: "B", 1: "T"}},
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def steps_of(net, batch):
    """What a network's steps do, but for products that do nothing else."""
    steps = net.runner.streaming(batch).compiled.program.steps
    found = [
        " ".join([step.code if step.kind == "elementwise" else step.kind, *(code for code, *_ in step.after)])
        for step in steps
    ]
    return [what.replace("side_by_side", "recurrent") for what in found if what != "product"]


def as_torch_runs_it(module, model, operators):
    """The network gives what the module does, whole and streamed, and layers that are written out are single steps."""
    net = cgru.Network.from_onnx(model)
    assert steps_of(net, 3) == operators
    x = np.random.default_rng(0).standard_normal((3, 9, 6)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    whole = net(x)
    compiled.near(whole, expected)
    stream = net.stream(batch_size=3)
    compiled.same(np.concatenate([stream.process(x[:, :4]), stream.process(x[:, 4:])], axis=1), whole)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("opset", range(7, 23))
def test_legacy_exporter(opset, approximate):
    model = exported(module(approximate), opset, dynamo=False)
    assert model.opset_import[0].version == opset
    if opset < 9:  # an experimental operator of then makes the initial state
        with pytest.raises(cgru.FormatError, match="expected operators that networks have here, got ConstantFill"):
            cgru.Network.from_onnx(model)
        return
    gelu = "gelu" if approximate == "none" else "gelu_tanh"
    as_torch_runs_it(module(approximate), model, ["normalise", "recurrent", gelu, "product add swish"])


DYNAMO = {18: "tanh", 19: "none", 20: "tanh", 21: "tanh", 22: "none"}
"""It writes operator sets from 18 on; by set which GELU is tried."""


@pytest.mark.parametrize("opset", [18, 22, *(pytest.param(opset, marks=pytest.mark.long) for opset in (19, 20, 21))])
def test_dynamo_exporter(opset):
    approximate = DYNAMO[opset]
    model = exported(module(approximate), opset, dynamo=True)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == opset
    gelu = "gelu" if approximate == "none" else "gelu_tanh"
    as_torch_runs_it(module(approximate), model, ["normalise", "recurrent", gelu, "product add swish"])


def test_later_operator_sets():
    with pytest.raises(cgru.FormatError, match="expected an operator set from 7 to 22, got 23"):
        cgru.Network.from_onnx(exported(module("none"), 23, dynamo=False))


def test_tf2onnx():
    """A Keras model as tf2onnx wrote it (saved/make_tensorflow.py): convolution, norm, GELU, residual, SiLU."""
    folder = Path(__file__).parent / "saved"
    given = np.load(folder / "tensorflow.npz")
    net = cgru.Network.load(folder / "tensorflow.onnx")
    assert {"gelu_tanh", "swish"} <= set(" ".join(steps_of(net, 2)).split())
    compiled.near(net(given["x"]), given["y"])
    stream = net.stream(batch_size=2)
    steps = [stream.step(given["x"][:, t]) for t in range(7)]
    compiled.same(np.stack(steps, 1), net(given["x"]))
