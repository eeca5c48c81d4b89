"""Random convolutional networks for the tests, as enhancement networks are built, over (B, C, T, F).

Each layer takes the network so far and its value, with its channels C and bands F, and gives the next ones. In a sequence
graph T is dynamic and convolutions are padded over time, to either side. In a frame graph T is 1: convolutions look into
caches of their last frames, which go in and come out.
"""

import math

import numpy as np

from .networks import Net

SIZES = [(4, 9), (4, 9), (16, 33), (8, 65), (2, 130)]
"""Channels and bands of the input, by the seed."""


class Layers:
    """A network while it grows: `caches` are pairs of names where it is a frame graph; values of earlier layers in `past`."""

    def __init__(self, seed, frame, batch):
        self.net = Net(seed)
        self.rng, self.frame, self.batch = self.net.rng, frame, batch
        self.shape = channels, bands = SIZES[seed % len(SIZES)]
        self.x = self.net.input("x", [1 if frame else batch, channels, 1 if frame else "T", bands])
        self.past, self.caches = [], {}

    def draw(self, low, high):
        return int(self.rng.integers(low, high))

    def ints(self, *values):
        return self.net.constant(np.array(values))

    def over_time(self, x, channels, bands, span, behind):
        """x with `span` frames more: from a cache, or zeros before and behind it, and what is left to the convolution."""
        if self.frame:
            if not span:
                return x, [0, 0]
            cache = self.net.input(f"cache{len(self.caches)}", [1, channels, span, bands])
            x = self.net.op("Concat", cache, x, axis=2)
            self.caches[cache] = self.net.op("Slice", x, *(self.ints(n) for n in (1, 2**31 - 1, 2)))
            return x, [0, 0]
        pads = [span - behind, behind]
        if self.draw(0, 2):
            return x, pads
        return self.net.op("Pad", x, self.ints(0, 0, pads[0], 0, 0, 0, pads[1], 0)), [0, 0]

    def advance(self, x, channels, bands):
        self.past.append((self.x, self.shape))
        self.x, self.shape = x, (channels, bands)


def divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]


def conv(layers, keep=False):
    """Strides, padding, dilation and groups over bands; a kernel with dilation over time, which may look ahead."""
    (channels, bands), net = layers.shape, layers.net
    kt, dt, kf, df, step = (layers.draw(1, n) for n in (4, 4, 4, 3, 3))
    span, reach = (kt - 1) * dt, (kf - 1) * df
    group = divisors(channels)[layers.draw(0, len(divisors(channels)))]
    out = channels if keep else group * layers.draw(1, 4)
    pads = [reach // 2, reach - reach // 2] if keep else [layers.draw(0, reach + 2) for _ in range(2)]
    step = 1 if keep else step
    made = (bands + sum(pads) - reach - 1) // step + 1
    if made < 1:
        return None
    x, around = layers.over_time(layers.x, channels, bands, span, layers.draw(0, span + 1) if layers.draw(0, 2) else 0)
    bias = [net.weight(out)] if layers.draw(0, 2) else []
    y = net.op(
        "Conv", x, net.weight(out, channels // group, kt, kf), *bias, kernel_shape=[kt, kf], strides=[1, step],
        dilations=[dt, df], group=group, pads=[around[0], pads[0], around[1], pads[1]],
    )  # fmt: skip
    return y if keep else layers.advance(y, out, made)


def depthwise(layers):
    """As GTCRN's: a filter for each channel, dilated over time, as wide as before."""
    (channels, bands), net, dilation = layers.shape, layers.net, layers.draw(1, 6)
    x, around = layers.over_time(layers.x, channels, bands, 2 * dilation, 0)
    y = net.op(
        "Conv", x, net.weight(channels, 1, 3, 3), net.weight(channels), dilations=[dilation, 1], group=channels,
        pads=[around[0], 1, around[1], 1], kernel_shape=[3, 3], strides=[1, 1],
    )  # fmt: skip
    layers.advance(y, channels, bands)


def pointwise(layers):
    (channels, bands), net, out = layers.shape, layers.net, layers.draw(1, 9)
    layers.advance(net.op("Conv", layers.x, net.weight(out, channels, 1, 1), net.weight(out)), out, bands)


def transposed(layers):
    """Up over bands by strides; over time a kernel whose first frames are cut off, as far as it looks ahead."""
    (channels, bands), net = layers.shape, layers.net
    kt, dt, kf, step = (layers.draw(1, n) for n in (4, 3, 5, 3))
    span = (kt - 1) * dt
    group = divisors(channels)[layers.draw(0, len(divisors(channels)))]
    each, pads = layers.draw(1, 4), [layers.draw(0, 2) for _ in range(2)]
    extra = layers.draw(0, step)
    made = (bands - 1) * step + kf - sum(pads) + extra
    if made < 1 or made > 260:
        return
    if layers.frame:  # a kernel turned round, over frames that a cache keeps
        x, _ = layers.over_time(layers.x, channels, bands, span, 0)
        around = [span, span]
    else:
        x, ahead = layers.x, layers.draw(0, span + 1) if layers.draw(0, 2) else 0
        around = [ahead, span - ahead]
    y = net.op(
        "ConvTranspose", x, net.weight(channels, each, kt, kf), *([net.weight(each * group)] if layers.draw(0, 2) else []),
        kernel_shape=[kt, kf], strides=[1, step], dilations=[dt, 1], group=group, output_padding=[0, extra],
        pads=[around[0], pads[0], around[1], pads[1]],
    )  # fmt: skip
    layers.advance(y, each * group, made)


def batch_norm(layers):
    (channels, bands), net = layers.shape, layers.net
    variance = net.constant(layers.rng.uniform(0.5, 2, channels).astype(np.float32))
    weights = [net.weight(channels) for _ in range(3)]
    layers.advance(net.op("BatchNormalization", layers.x, *weights, variance), channels, bands)


def activation(layers):
    (channels, bands), net, kind = layers.shape, layers.net, layers.draw(0, 6)
    if kind < 4:
        y = net.op(("Relu", "Sigmoid", "Tanh", "LeakyRelu")[kind], layers.x)
    else:
        y = net.op("PRelu", layers.x, net.weight(*((channels, 1, 1), (1,))[kind - 4]))
    layers.advance(y, channels, bands)


def residual(layers):
    (channels, bands), net = layers.shape, layers.net
    y = net.op("Add", net.op("Tanh", conv(layers, keep=True)), layers.x)
    layers.advance(net.op("Relu", y) if layers.draw(0, 2) else y, channels, bands)


def skip(layers):
    """Channels of an earlier value beside these, where it has as many bands; else its own, added to."""
    (channels, bands), net = layers.shape, layers.net
    fitting = [(x, c) for x, (c, f) in layers.past if f == bands and c + channels <= 40]
    if not fitting:
        return
    x, more = fitting[layers.draw(0, len(fitting))]
    layers.advance(net.op("Concat", layers.x, x, axis=1), channels + more, bands)


def norm(layers):
    """Over (F, C) of a frame, as an operator or written out."""
    (channels, bands), net = layers.shape, layers.net
    x = net.op("Transpose", layers.x, perm=[0, 2, 3, 1])
    scale, bias = net.weight(bands, channels), net.weight(bands, channels)
    if layers.draw(0, 2):
        y = net.op("LayerNormalization", x, scale, bias, axis=2, epsilon=0.01)
    else:
        centred = net.op("Sub", x, net.op("ReduceMean", x, axes=[2, 3]))
        mean = net.op("ReduceMean", net.op("Pow", centred, net.constant(np.float32(2))), axes=[2, 3])
        root = net.op("Sqrt", net.op("Add", mean, net.constant(np.float32(0.01))))
        y = net.op("Add", net.op("Mul", net.op("Div", centred, root), scale), bias)
    layers.advance(net.op("Transpose", y, perm=[0, 3, 1, 2]), channels, bands)


def shuffle(layers):
    """Two halves of the channels, one after the other in turn."""
    (channels, bands), net = layers.shape, layers.net
    if channels % 2:
        return
    steps = 1 if layers.frame else -1
    rows = 0  # as before
    y = net.op("Reshape", layers.x, layers.ints(rows, 2, channels // 2, steps, bands))
    y = net.op("Transpose", y, perm=[0, 2, 1, 3, 4])
    layers.advance(net.op("Reshape", y, layers.ints(rows, channels, steps, bands)), channels, bands)


def neighbours(layers):
    """Each band with those beside it as channels: padding, and a gather of windows."""
    (channels, bands), net = layers.shape, layers.net
    if channels > 8:
        return
    x = net.op("Pad", layers.x, layers.ints(0, 0, 0, 1, 0, 0, 0, 1))
    parts = [net.op("Slice", x, *(layers.ints(n) for n in (k, k + bands, 3))) for k in range(3)]
    layers.advance(net.op("Concat", *parts, axis=1), 3 * channels, bands)


def part(layers):
    """Some bands alone, every second perhaps."""
    (channels, bands), net = layers.shape, layers.net
    first, step = layers.draw(0, bands), layers.draw(1, 3)
    y = net.op("Slice", layers.x, *(layers.ints(n) for n in (first, 2**31 - 1, 3, step)))
    layers.advance(y, channels, math.ceil((bands - first) / step))


def along_bands(layers):
    """A bidirectional GRU over the bands of each frame, in two groups perhaps."""
    (channels, bands), net = layers.shape, layers.net
    if layers.batch != 1:
        return
    x = net.op("Transpose", net.op("Squeeze", layers.x, layers.ints(0)), perm=[2, 1, 0])  # (F, T, C)
    groups = 2 if channels % 2 == 0 and layers.draw(0, 2) else 1
    parts = [x] if groups == 1 else net.op("Split", x, outputs=2, axis=2)
    inputs, hidden = channels // groups, layers.draw(1, 5)
    found = []
    for value in parts:
        weights = [net.weight(2, 3 * hidden, inputs), net.weight(2, 3 * hidden, hidden), net.weight(2, 6 * hidden)]
        y, _ = net.op("GRU", value, *weights, outputs=2, hidden_size=hidden, direction="bidirectional",
                      linear_before_reset=1)  # fmt: skip
        y = net.op("Transpose", y, perm=[0, 2, 1, 3])
        found.append(net.op("Reshape", y, layers.ints(0, 0, 2 * hidden)))
    y = net.op("Concat", *found, axis=2) if groups == 2 else found[0]
    y = net.op("Unsqueeze", net.op("Transpose", y, perm=[2, 1, 0]), layers.ints(0))
    layers.advance(y, 2 * hidden * groups, bands)


def over_bands(layers):
    """A GRU over time, a row of it for each band; its state is a cache of a frame graph."""
    (channels, bands), net = layers.shape, layers.net
    if layers.batch != 1:
        return
    x = net.op("Transpose", net.op("Squeeze", layers.x, layers.ints(0)), perm=[1, 2, 0])  # (T, F, C)
    hidden = layers.draw(1, 9)
    weights = [net.weight(1, 3 * hidden, channels), net.weight(1, 3 * hidden, hidden), net.weight(1, 6 * hidden)]
    first = net.input(f"cache{len(layers.caches)}", [1, bands, hidden]) if layers.frame else ""
    y, last = net.op("GRU", x, *weights, "", first, outputs=2, hidden_size=hidden, linear_before_reset=1)
    if layers.frame:
        layers.caches[first] = last
    y = net.op("Transpose", net.op("Squeeze", y, layers.ints(1)), perm=[2, 0, 1])
    layers.advance(net.op("Unsqueeze", y, layers.ints(0)), hidden, bands)


def attention(layers):
    """GTCRN's: a GRU over time of each channel's energy says how much of it goes on."""
    (channels, bands), net = layers.shape, layers.net
    if layers.batch != 1:
        return
    energy = net.op("ReduceMean", net.op("Mul", layers.x, layers.x), axes=[3], keepdims=0)  # (1, C, T)
    x = net.op("Transpose", energy, perm=[2, 0, 1])
    weights = [net.weight(1, 6, channels), net.weight(1, 6, 2), net.weight(1, 12)]
    first = net.input(f"cache{len(layers.caches)}", [1, 1, 2]) if layers.frame else ""
    y, last = net.op("GRU", x, *weights, "", first, outputs=2, hidden_size=2, linear_before_reset=1)
    if layers.frame:
        layers.caches[first] = last
    y = net.op("MatMul", net.op("Squeeze", y, layers.ints(1)), net.weight(2, channels))  # (T, 1, C)
    y = net.op("Unsqueeze", net.op("Transpose", net.op("Sigmoid", y), perm=[1, 2, 0]), layers.ints(3))
    layers.advance(net.op("Mul", layers.x, y), channels, bands)


LAYERS = [
    conv, conv, depthwise, pointwise, transposed, batch_norm, activation, residual, skip, norm, shuffle, neighbours,
    part, along_bands, over_bands, attention,
]  # fmt: skip


def model(chosen, seed, frame=False, batch=1):
    """A chain of layers, and of a frame graph its states by name."""
    layers = Layers(seed, frame, batch)
    for layer in chosen:
        layer(layers)
    names = [f"{name}_out" for name in layers.caches]
    made = layers.net.model(layers.x, *layers.caches.values(), names=["y", *names])
    return made, dict(zip(layers.caches, names, strict=True))
