"""What joins a product: weights take factors and addends, results go through functions, residuals and gates at once."""

import numpy as np
import pytest
from onnx import helper

import cgru

from ..support import compiled
from ..support.onnx_graphs import model

FLOAT = 1


def node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs, [output], name=output, **attributes)


def steps_of(net):
    return [step.title for step in net.runner.whole(1, 1).compiled.program.steps]


def dense(rng, nodes, shape=(3, 8)):
    """A network of products by `w` and `v`, its result y, and what a program of it must have as steps."""
    constants = {
        "w": rng.standard_normal((8, 8)).astype(np.float32), "v": rng.standard_normal((8, 8)).astype(np.float32),
        "b": rng.standard_normal(8).astype(np.float32), "slopes": rng.standard_normal(8).astype(np.float32),
        "slope": np.float32([0.3]), "one": np.float32(1), "three": np.float32(3),
    }  # fmt: skip
    used = {name for one in nodes for name in one.input}
    constants = {name: array for name, array in constants.items() if name in used}
    proto = model(nodes, {"x": (list(shape), FLOAT)}, ["y"], constants)
    net = cgru.Network.from_onnx(proto)
    compiled.as_specified(net, {"x": rng.standard_normal(shape).astype(np.float32)}, proto)
    return steps_of(net)


PRODUCT = node("MatMul", ["x", "w"], "p")
CASES = {
    "residual": ([PRODUCT, node("Add", ["p", "x"], "y")], 1),
    "residual before": ([PRODUCT, node("Add", ["x", "p"], "y")], 1),
    "residual and activation": ([PRODUCT, node("Add", ["p", "x"], "s"), node("Relu", ["s"], "y")], 1),
    "activation and residual": ([PRODUCT, node("Tanh", ["p"], "t"), node("Add", ["t", "x"], "y")], 1),
    "difference": ([PRODUCT, node("Sub", ["p", "x"], "y")], 1),
    "difference from": ([PRODUCT, node("Sub", ["x", "p"], "y")], 2),
    "gate": (
        [
            PRODUCT, node("MatMul", ["x", "v"], "q"), node("Sigmoid", ["q"], "g"), node("Mul", ["p", "g"], "y"),
        ], 2,
    ),
    "bias, gate and residual": (
        [
            PRODUCT, node("Add", ["p", "b"], "s"), node("Sigmoid", ["s"], "g"), node("Mul", ["g", "x"], "m"),
            node("Add", ["m", "x"], "y"),
        ], 1,
    ),
    "four functions": (
        [
            PRODUCT, node("Add", ["p", "x"], "a"), node("Relu", ["a"], "r"), node("Mul", ["r", "x"], "m"),
            node("Tanh", ["m"], "y"),
        ], 2,
    ),
    "slopes": ([PRODUCT, node("PRelu", ["p", "slopes"], "y")], 1),
    "one slope": ([PRODUCT, node("PRelu", ["p", "slope"], "y")], 1),
    "itself": ([PRODUCT, node("Mul", ["p", "p"], "y")], 2),
    "a constant behind a function": ([PRODUCT, node("Exp", ["p"], "e"), node("Add", ["e", "b"], "y")], 1),
    "what comes later": (
        [PRODUCT, node("Exp", ["x"], "e"), node("MatMul", ["e", "v"], "q"), node("Add", ["p", "q"], "y")], 3,
    ),
    "two readers": ([PRODUCT, node("Add", ["p", "x"], "a"), node("Mul", ["p", "a"], "y")], 3),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_joins_a_product(name):
    nodes, count = CASES[name]
    rng = np.random.default_rng(0)
    assert len(dense(rng, nodes)) == count
    if name not in ("slopes", "one slope"):
        dense(rng, nodes, (2, 3, 8))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("stride", [1, 2])
def test_residuals_of_convolutions(groups, operator, stride):
    """The other value comes from before, or from a convolution that stands behind the first in the file."""
    rng = np.random.default_rng(groups)
    constants = {
        name: rng.standard_normal((8, 8 // groups, 1, 3)).astype(np.float32) for name in ("w", "v")
    } | {"slopes": rng.standard_normal((8, 1, 1)).astype(np.float32)}  # fmt: skip
    attributes = {"group": groups, "strides": [1, stride], "pads": [0, 1, 0, 1]}
    nodes = [
        node(operator, ["x", "w"], "a", **attributes),
        node("PRelu", ["a", "slopes"], "s"),
        node(operator, ["x", "v"], "b", **attributes),
        node("Add", ["s", "b"], "c"),
        node("Relu", ["c"], "y"),
        node("Conv", ["y", "w"], "z", group=groups, pads=[0, 1, 0, 1]),
        node("Mul", ["z", "y"], "out"),
    ]
    if operator == "ConvTranspose" and groups > 1:
        constants["w"] = constants["v"] = rng.standard_normal((8, 8 // groups, 1, 3)).astype(np.float32)
    proto = model(nodes, {"x": ([1, 8, 2, 7], FLOAT)}, ["out"], constants)
    net = cgru.Network.from_onnx(proto)
    compiled.as_specified(net, {"x": rng.standard_normal((1, 8, 2, 7)).astype(np.float32)}, proto)


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_residual_around_a_convolution_over_time(ahead):
    """Where the convolution looks ahead, the input comes late; steps, chunks and the whole have the same bits."""
    rng = np.random.default_rng(ahead)
    pads = [2 - ahead, ahead]
    nodes = [
        node("Conv", ["x", "w"], "c", pads=pads),
        node("Tanh", ["c"], "t"),
        node("Add", ["t", "x"], "s"),
        node("Conv", ["s", "w"], "d", pads=pads),
        node("Mul", ["d", "x"], "y"),
    ]
    constants = {"w": rng.standard_normal((5, 5, 3)).astype(np.float32)}
    proto = model(nodes, {"x": ([1, 5, "T"], FLOAT)}, ["y"], constants)
    net = cgru.Network.from_onnx(proto)
    x = {"x": rng.standard_normal((1, 5, 23)).astype(np.float32)}
    whole = compiled.as_specified(net, x, proto)
    stream = net.stream()
    for lengths, by_step in (([4, 1, 11, 7], False), ([1] * 23, True)):
        compiled.same(compiled.streamed(stream, net, x, lengths, by_step)["y"], whole["y"])
    if not ahead:
        assert [step.kind for step in net.runner.streaming(1).compiled.program.steps].count("elementwise") == 0
