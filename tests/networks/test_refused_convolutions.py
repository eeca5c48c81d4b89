"""Convolutional networks that do not fit: each error names the node, what came, and what was expected."""

import re

import numpy as np
import pytest

import cgru
from cgru.model.interpret import run

from ..support import compiled, onnx_graphs
from ..support.networks import Net

F = np.float32


def ints(net, *values):
    return net.constant(np.array(values))


def with_cache(last, caches=((1, 2, 2, 5),), newest=(1, 2, 1, 5)):
    """A frame graph: `last` makes the output of a cache and the newest frame behind it, which become the next cache."""
    net = Net(0)
    cache, x = net.input("cache", caches[0]), net.input("x", newest)
    joined = net.op("Concat", cache, x, axis=2)
    kept = net.op("Slice", joined, *(ints(net, n) for n in (1, 2**31 - 1, 2)))
    y = last(net, joined)
    return net.model(y, kept, names=["y", "cache_out"])


def conv(pads, **attributes):
    return lambda net, x: net.op("Conv", x, net.weight(2, 2, 3, 3), pads=pads, **attributes)


def pooled(net, x):
    return net.op("MaxPool", x, kernel_shape=[3, 3], pads=[0, 1, 1, 1])


def padded(net, x):
    return conv([0, 1, 0, 1])(net, net.op("Pad", x, ints(net, 0, 0, 0, 0, 0, 0, 2, 0)))


def turned(net, x):
    return net.op("ConvTranspose", x, net.weight(2, 2, 3, 3), pads=[2, 1, 1, 1])


@pytest.mark.parametrize(("last", "node", "behind"), [
    (conv([0, 1, 1, 1]), "Conv 'n2'", 1),
    (conv([2, 1, 2, 1]), "Conv 'n2'", 2),
    (padded, "Conv 'n3'", 2),
    (turned, "ConvTranspose 'n2'", 1),
    (pooled, "MaxPool 'n2'", 1),
])  # fmt: skip
def test_looking_ahead_in_a_frame_graph(last, node, behind):
    message = (
        re.escape(f"{node}: expected a window that ends with the newest frame")
        + f".*got {behind} of padding behind it on axis 2"
    )
    with pytest.raises(cgru.FormatError, match=message):
        cgru.Network.from_onnx(with_cache(last))


def part_of(net, y, first):
    return net.op("Slice", y, *(ints(net, n) for n in (first, first + 1, 2)))


@pytest.mark.parametrize("last", [
    conv([0, 1, 0, 1]),  # behind the newest frame nothing
    lambda net, x: part_of(net, conv([0, 1, 1, 1])(net, x), 0),  # what padding made is left out
    lambda net, x: conv([1, 1, 0, 1])(net, x),  # more in front is right: it was so for the whole
    lambda net, x: net.op("ConvTranspose", x, net.weight(2, 2, 3, 3), pads=[2, 1, 2, 1]),
])  # fmt: skip
def test_what_looks_back_alone_runs(last):
    model = with_cache(last)
    net, session = cgru.Network.from_onnx(model), onnx_graphs.session(model)
    stream, rng = net.stream(), np.random.default_rng(0)
    cache = np.zeros((1, 2, 2, 5), F)
    for _ in range(4):
        x = rng.standard_normal((1, 2, 1, 5)).astype(F)
        y, cache = session.run(None, {"x": x, "cache": cache})
        compiled.near(stream.step(x), y)


def test_padding_on_other_axes_is_no_look_ahead():
    """Bands are padded on both sides; and a graph without caches has nothing that is to come."""
    net = Net(0)
    x = net.input("x", [1, 2, 4, 5])
    cgru.Network.from_onnx(net.model(conv([1, 1, 1, 1])(net, x)))
    cgru.Network.from_onnx(with_cache(conv([0, 2, 0, 2])))


def refused(message, make, shape=(1, 4, "T", 5)):
    net = Net(0)
    with pytest.raises(cgru.FormatError, match=re.escape(message)):
        cgru.Network.from_onnx(net.model(make(net, net.input("x", list(shape)))))


@pytest.mark.parametrize(("message", "operator", "weights", "attributes"), [
    ("Conv 'n0': expected 3 * 2 channels, got 4", "Conv", (6, 3, 3, 3), {"group": 2}),
    ("Conv 'n0': expected a multiple of 2 outputs, got 5", "Conv", (5, 2, 3, 3), {"group": 2}),
    ("Conv 'n0': expected a group of 1 or more, got 0", "Conv", (5, 2, 3, 3), {"group": 0}),
    ("Conv 'n0': expected a group of 1 or more, got -2", "Conv", (4, 2, 3, 3), {"group": -2}),
    ("Conv 'n0': expected windows of at most 5, got 7 with their dilation", "Conv", (4, 4, 1, 3), {"dilations": [1, 3]}),
    ("Conv 'n0': expected dilations of 1 and more, got [0, 1]", "Conv", (4, 4, 1, 3), {"dilations": [0, 1]}),
    ("Conv 'n0': expected pads of 0 and more, got [-1, 0, 0, 0]", "Conv", (4, 4, 3, 3), {"pads": [-1, 0, 0, 0]}),
    ("ConvTranspose 'n0': expected a multiple of 3 channels, as many as there are groups, got 4", "ConvTranspose", (4, 2, 3, 3), {"group": 3}),
    ("ConvTranspose 'n0': expected a group of 1 or more, got 0", "ConvTranspose", (4, 2, 3, 3), {"group": 0}),
    ("ConvTranspose 'n0': expected weights of 4 channels in 2 groups, got 3", "ConvTranspose", (3, 2, 3, 3), {"group": 2}),
    ("ConvTranspose 'n0': expected pads that leave a result, got 0", "ConvTranspose", (4, 4, 1, 1), {"pads": [0, 3, 0, 2]}),
])  # fmt: skip
def test_convolutions_that_do_not_fit(message, operator, weights, attributes):
    refused(message, lambda net, x: net.op(operator, x, net.weight(*weights), **attributes))


def test_a_cache_that_a_dilated_window_does_not_fit():
    with pytest.raises(cgru.FormatError, match="Conv 'n2': expected windows of at most 3, got 5 with their dilation"):
        cgru.Network.from_onnx(with_cache(conv([0, 1, 0, 1], dilations=[2, 1])))


@pytest.mark.parametrize(("operator", "attributes", "message"), [
    ("Conv", {"strides": [2, 1]}, "output 'y0' has one frame for 2 of the input, as Conv 'n0' strides over time"),
    ("Conv", {"strides": [3, 1], "dilations": [2, 1]}, "one frame for 3 of the input, as Conv 'n0' strides over time"),
    ("ConvTranspose", {"strides": [2, 1]}, "ConvTranspose 'n0' expected a stride of 1 over time, got 2"),
    ("ConvTranspose", {"output_padding": [1, 0], "dilations": [2, 2]}, "ConvTranspose 'n0' expected no output_padding over time, got 1"),
])  # fmt: skip
def test_strides_over_time_in_a_stream(operator, attributes, message):
    """Whole sequences run all the same."""
    net = Net(0)
    model = net.model(net.op(operator, net.input("x", [1, 4, "T", 9]), net.weight(4, 4, 3, 3), **attributes))
    made = cgru.Network.from_onnx(model)
    peer = None if "output_padding" in attributes else model  # ONNX Runtime has none without strides
    compiled.as_specified(made, {"x": np.random.default_rng(0).standard_normal((1, 4, 11, 9)).astype(F)}, peer)
    with pytest.raises(ValueError, match=re.escape(message)):
        made.stream()
    with pytest.raises(ValueError, match=re.escape(message)):
        made.pool(3)


def test_pads_that_empty_an_axis():
    refused("Pad 'n0': expected pads that leave something of each axis, got (1, 4, T, 0)",
            lambda net, x: net.op("Pad", x, ints(net, 0, 0, 0, -2, 0, 0, 0, -3)))  # fmt: skip
    for pads, steps, left in (((-2, -3), 5, 0), ((-2, -3), 3, -2), ((2, -3), 1, 0)):
        net = Net(0)
        y = net.op("Pad", net.input("x", [1, 4, "T", 5]), ints(net, 0, 0, pads[0], 0, 0, 0, pads[1], 0))
        made = cgru.Network.from_onnx(net.model(net.op("Relu", y)))
        message = re.escape(f"Pad 'n0': expected longer sequences, got T = {steps}, which leaves (1, 4, {left}, 5)")
        with pytest.raises(ValueError, match=message):
            made(np.zeros((1, 4, steps, 5), F))
        x = np.random.default_rng(0).standard_normal((1, 4, steps + 1 - left, 5)).astype(F)
        compiled.near(made(x), run(made.graph, {"x": x})[0]["y0"])


def test_windows_longer_than_the_sequence():
    net = Net(0)
    made = cgru.Network.from_onnx(net.model(net.op("Conv", net.input("x", [1, 4, "T", 5]), net.weight(4, 4, 5, 3))))
    for steps in (1, 4):
        for dtype in ("float32", "float64"):
            own = made if dtype == "float32" else cgru.Network.from_onnx(net.model(net.nodes[0].output[0]), dtype=dtype)
            with pytest.raises(
                ValueError, match=f"Conv 'n0': expected longer sequences, got T = {steps}, which leaves"
            ):
                own(np.zeros((1, 4, steps, 5), dtype))
    assert made(np.zeros((1, 4, 5, 5), F)).shape == (1, 4, 1, 3)
