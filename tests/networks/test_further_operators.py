"""What operators give beside their first result, and tables that are data: beside the reference and ONNX Runtime."""

import numpy as np
import pytest
from onnx import TensorProto

import cgru
from cgru import nodes

from ..support import compiled
from ..support.networks import Net

F = np.float32


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("axis", [-1, 1])
def test_statistics_of_a_normalization(wanted, axis):
    """The mean and 1 over the deviation; both, or one of them."""
    net = Net(0)
    x = net.input("x", [3, 5, 6])
    shape = [6] if axis == -1 else [5, 6]
    results = net.op("LayerNormalization", x, net.weight(*shape), axis=axis, epsilon=0.01, outputs=3)
    node = net.nodes[-1]
    for i, kept in enumerate(wanted, 1):
        node.output[i] = node.output[i] if kept else ""
    names = ["y", *(name for name, kept in zip(["mean", "inverse"], wanted, strict=True) if kept)]
    model = net.model(results[0], *(name for name in node.output[1:] if name), names=names)
    net = cgru.Network.from_onnx(model, states={})
    inputs = np.random.default_rng(0).standard_normal((3, 5, 6)).astype(F) * 3 + 1
    got = compiled.as_specified(net, {"x": inputs}, model)
    assert set(got) == set(names)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [[], [4], [2, 2]])
def test_tables_that_are_data(axis, shape):
    net = Net(0)
    table, index = net.input("table", [3, 5, 6]), net.input("index", shape, TensorProto.INT64)
    model = net.model(net.op("Gather", net.op("Tanh", table), index, axis=axis))
    net = cgru.Network.from_onnx(model, states={})
    rng, size = np.random.default_rng(0), (3, 5, 6)[axis]
    inputs = {
        "table": rng.standard_normal((3, 5, 6)).astype(F),
        "index": np.asarray(rng.integers(-size, size, shape), np.int64),
    }
    compiled.as_specified(net, inputs, model)
    with pytest.raises(ValueError, match=f"index: expected indices from -{size} to {size - 1}, got {size}"):
        net({**inputs, "index": np.full(shape, size, np.int64)})


def test_tables_of_frames():
    """A feature of each frame by an index that stays streams; an index for each frame meets all frames, and does not."""
    net = Net(0)
    x, index = net.input("x", ["T", 2, 5]), net.input("index", [3], TensorProto.INT64)
    model = net.model(net.op("Gather", net.op("MatMul", x, net.weight(5, 6)), index, axis=2))
    net = cgru.Network.from_onnx(model, states={})
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((7, 2, 5)).astype(F), "index": np.array([5, 0, -1])}
    whole = compiled.as_specified(net, inputs, model)
    assert not net.runner.obstacles
    for name, array in compiled.streamed(net.stream(), net, inputs, [3, 4]).items():
        compiled.same(array, whole[name])
    net = Net(0)
    x, index = net.input("x", ["T", 2, 5]), net.input("index", ["T"], TensorProto.INT64)
    model = net.model(net.op("Gather", net.op("MatMul", x, net.weight(5, 6)), index, axis=2))
    net = cgru.Network.from_onnx(model, states={})
    compiled.as_specified(net, {"x": inputs["x"], "index": rng.integers(-6, 6, 7)}, model)
    with pytest.raises(ValueError, match="relates each step to all others"):
        net.stream()


def test_rows_of_a_batch_by_data():
    """Each row's own table, by an index of all rows, runs row by row; an index of each row mixes them."""
    for shape, mixed in (([3], False), (["B"], True)):
        net = Net(0)
        x, index = net.input("x", ["T", "B", 5]), net.input("index", shape, TensorProto.INT64)
        model = net.model(net.op("Gather", net.op("Relu", x), index, axis=2))
        net = cgru.Network.from_onnx(model, states={})
        rng = np.random.default_rng(0)
        inputs = {"x": rng.standard_normal((4, 3, 5)).astype(F), "index": rng.integers(-5, 5, 3)}
        compiled.as_specified(net, inputs, model)
        assert bool(net.runner.mixed) == mixed


def test_activation_of_a_residual():
    layers = [nodes.Linear(4, 4, rng=0)]
    plain, bent = (
        cgru.Network([nodes.Residual(layers, activation=activation)])
        for activation in (None, ("leaky_relu", {"alpha": 0.3}))
    )
    x = np.random.default_rng(0).standard_normal((5, 2, 4)).astype(F)
    y = plain(x)
    np.testing.assert_array_equal(bent(x), np.where(y < 0, F(0.3) * y, y))
    with pytest.raises(ValueError, match="activation"):
        nodes.Residual(layers, activation="none")
