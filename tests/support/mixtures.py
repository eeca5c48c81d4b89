"""Random mixtures of operators, wilder than networks.py has: any shapes and orders of axes, and odd things over time."""

import numpy as np

from .networks import Net


def ints(net, *values):
    return net.constant(np.array(values, np.int64))


def one_of(net, *values):
    return values[net.rng.integers(len(values))]


# --- Arrays of any shape: each takes a value and its shape, and returns both; unchanged where it does not fit ---------


def transpose(net, x, shape):
    perm = net.rng.permutation(len(shape)).tolist()
    return net.op("Transpose", x, perm=perm), [shape[i] for i in perm]


def reshape(net, x, shape):
    size, to = int(np.prod(shape)), []
    while size > 1:
        factor = int(net.rng.choice([k for k in range(2, size + 1) if size % k == 0]))
        to.append(factor)
        size //= factor
    for _ in range(net.rng.integers(0, 3)):
        to.insert(int(net.rng.integers(0, len(to) + 1)), 1)
    return net.op("Reshape", x, ints(net, *(to or [1]))), to or [1]


def some(net, x, shape):
    """A slice, backwards too."""
    axis = int(net.rng.integers(len(shape)))
    size, step = shape[axis], int(net.rng.choice([1, 2, 3, -1, -2]))
    first = int(net.rng.integers(size))
    end = int(net.rng.integers(first + 1, size + 1)) if step > 0 else int(net.rng.integers(-1, first)) if first else -1
    told = end if end >= 0 else -(2**31)
    y = net.op("Slice", x, *(ints(net, value) for value in (first, told, axis, step)))
    return y, [*shape[:axis], len(range(first, end, step)), *shape[axis + 1 :]]


def gather(net, x, shape):
    axis = int(net.rng.integers(len(shape)))
    indices = net.rng.integers(-shape[axis], shape[axis], net.rng.integers(1, 4)).tolist()
    if net.rng.integers(3) == 0:
        y = net.op("Gather", x, net.constant(np.array(indices[0])), axis=axis)
        return y, [*shape[:axis], *shape[axis + 1 :]]
    return net.op("Gather", x, ints(net, *indices), axis=axis), [*shape[:axis], len(indices), *shape[axis + 1 :]]


def expand(net, x, shape):
    to = [2] + [3 if size == 1 else size for size in shape]
    return net.op("Expand", x, ints(net, *to)), to


def tile(net, x, shape):
    times = [int(net.rng.integers(1, 3)) for _ in shape]
    return net.op("Tile", x, ints(net, *times)), [a * b for a, b in zip(shape, times, strict=True)]


def pad(net, x, shape):
    mode = one_of(net, "constant", "edge", "reflect")
    least = [-1 if size > 2 and mode == "constant" else 0 for size in shape]
    before = [int(net.rng.integers(low, min(size, 2))) for low, size in zip(least, shape, strict=True)]
    behind = [int(net.rng.integers(0, min(size, 2))) for size in shape]
    value = [net.constant(np.float32(0.7))] if mode == "constant" else []
    y = net.op("Pad", x, ints(net, *before, *behind), *value, mode=mode)
    return y, [sum(sizes) for sizes in zip(shape, before, behind, strict=True)]


def split(net, x, shape):
    axis = int(net.rng.integers(len(shape)))
    if shape[axis] < 2:
        return x, shape
    first = int(net.rng.integers(1, shape[axis]))
    a, b = net.op("Split", x, ints(net, first, shape[axis] - first), outputs=2, axis=axis)
    if net.rng.integers(2):
        return b, [*shape[:axis], shape[axis] - first, *shape[axis + 1 :]]
    return net.op("Concat", b, a, b, axis=axis), [*shape[:axis], 2 * shape[axis] - first, *shape[axis + 1 :]]


def concat(net, x, shape):
    axis = int(net.rng.integers(len(shape)))
    y = net.op("Concat", net.op("Tanh", x), net.weight(*shape), x, axis=axis)
    return y, [*shape[:axis], 3 * shape[axis], *shape[axis + 1 :]]


def scatter(net, x, shape):
    axes = int(net.rng.integers(1, len(shape) + 1))
    flat = net.rng.permutation(int(np.prod(shape[:axes])))[: net.rng.integers(1, 4)]
    indices = np.stack(np.unravel_index(flat, shape[:axes]), -1)
    indices = np.where(net.rng.integers(0, 2, indices.shape), indices, indices - np.array(shape[:axes]))
    updates = net.op("Mul", net.weight(len(indices), *shape[axes:]), net.op("ReduceMax", x, keepdims=0))
    return net.op("ScatterND", x, net.constant(indices), updates), shape


def function(net, x, shape):
    return net.op(one_of(net, "Tanh", "Sigmoid", "Abs", "Softplus"), x), shape


def with_constant(net, x, shape):
    own = [size if net.rng.integers(2) else 1 for size in shape][int(net.rng.integers(len(shape) + 1)) :]
    pair = one_of(net, (x, net.weight(*own)), (net.weight(*own), x))
    return net.op(one_of(net, "Add", "Mul", "Sub", "Max"), *pair), shape


def centred(net, x, shape):
    return net.op("Sub", net.op("ReduceMean", x, axes=[int(net.rng.integers(len(shape)))]), x), shape


def reduced(net, x, shape):
    axes = sorted(net.rng.permutation(len(shape))[: net.rng.integers(1, len(shape) + 1)].tolist())
    keep = int(net.rng.integers(2))
    name = one_of(net, "ReduceMean", "ReduceMax", "ReduceL2", "ReduceLogSumExp", "ReduceMin", "ReduceL1")
    y = net.op(name, x, axes=axes, keepdims=keep)
    return y, [1 if i in axes else size for i, size in enumerate(shape) if keep or i not in axes]


def softmax(net, x, shape):
    return net.op(one_of(net, "Softmax", "LogSoftmax"), x, axis=int(net.rng.integers(len(shape)))), shape


def linear(net, x, shape):
    out = int(net.rng.integers(1, 40))
    return net.op("MatMul", x, net.weight(shape[-1], out)), [*shape[:-1], out]


def from_the_left(net, x, shape):
    out = int(net.rng.integers(1, 20))
    if len(shape) < 2:
        return x, shape
    return net.op("MatMul", net.weight(out, shape[-2]), x), [*shape[:-2], out, shape[-1]]


def with_itself(net, x, shape):
    if len(shape) < 2:
        return x, shape
    rank = len(shape)
    turned = net.op("Transpose", x, perm=[*range(rank - 2), rank - 1, rank - 2])
    return net.op("MatMul", x, turned), [*shape[:-1], shape[-2]]


def einsum(net, x, shape):
    if len(shape) != 3:
        return x, shape
    a, g, i = shape
    equation, to = one_of(net, ("agi,gih->agh", [a, g, 3]), ("agi,gih->gha", [g, 3, a]), ("agi,gih->ah", [a, 3]))
    return net.op("Einsum", x, net.weight(g, i, 3), equation=equation), to


def conv(net, x, shape):
    if len(shape) not in (3, 4):
        return x, shape
    axes, channels = shape[2:], shape[1]
    kernel = [int(net.rng.integers(1, min(3, size) + 1)) for size in axes]
    group = one_of(net, 1, channels)
    out = group * int(net.rng.integers(1, 3))
    strides = [int(net.rng.integers(1, 3)) for _ in axes]
    pads = [int(net.rng.integers(0, 2)) for _ in range(2 * len(axes))]
    weights = [net.weight(out, channels // group, *kernel), net.weight(out)]
    y = net.op("Conv", x, *weights, group=group, kernel_shape=kernel, strides=strides, pads=pads)
    sizes = zip(axes, pads, pads[len(axes) :], kernel, strides, strict=False)
    return y, [shape[0], out, *((n + a + b - k) // s + 1 for n, a, b, k, s in sizes)]


def pool(net, x, shape):
    if len(shape) not in (3, 4):
        return x, shape
    kernel = [int(net.rng.integers(1, min(3, size) + 1)) for size in shape[2:]]
    pads = [int(net.rng.integers(0, k)) for k in kernel]
    y = net.op(one_of(net, "MaxPool", "AveragePool"), x, kernel_shape=kernel, pads=pads * 2)
    return y, [*shape[:2], *(n + 2 * p - k + 1 for n, p, k in zip(shape[2:], pads, kernel, strict=True))]


def gru(net, x, shape):
    """Over an axis of the frame, in any direction, from states that are computed or not."""
    if len(shape) != 3:
        return x, shape
    (steps, lines, inputs), hidden = shape, int(net.rng.integers(1, 20))
    direction = one_of(net, "forward", "reverse", "bidirectional")
    d = 1 + (direction == "bidirectional")
    start = ""
    if net.rng.integers(2):
        first = net.op("ReduceMean", x, axes=[0, 2])
        start = net.op("Tanh", net.op("Expand", first, ints(net, d, lines, hidden)))
    weights = [net.weight(d, 3 * hidden, inputs), net.weight(d, 3 * hidden, hidden), net.weight(d, 6 * hidden)]
    y, last = net.op("GRU", x, *weights, "", start, outputs=2, hidden_size=hidden, direction=direction)
    return one_of(net, (y, [steps, d, lines, hidden]), (last, [d, lines, hidden]))


def norm(net, x, shape):
    axis = int(net.rng.integers(len(shape)))
    own = shape[axis:]
    return net.op("LayerNormalization", x, net.weight(*own), net.weight(*own), axis=axis, epsilon=0.1), shape


def squeeze(net, x, shape):
    if 1 in shape:
        axes = [axis for axis, size in enumerate(shape) if size == 1]
        return net.op("Squeeze", x, ints(net, *axes)), [size for size in shape if size != 1]
    return net.op("Unsqueeze", x, ints(net, 0, -1)), [1, *shape, 1]


def where(net, x, shape):
    return net.op("Where", net.op("Greater", x, net.weight(1)), x, net.op("Neg", x)), shape


def largest(net, x, shape):
    """Rows of a table, chosen by where the largest is; equals are among them."""
    axis = int(net.rng.integers(len(shape)))
    steps = net.op("Round", net.op("Mul", x, net.constant(np.float32(2))))
    last = int(net.rng.integers(2))
    places = net.op(one_of(net, "ArgMax", "ArgMin"), steps, axis=axis, keepdims=0, select_last_index=last)
    return net.op("Gather", net.weight(2, shape[axis], 3), places, axis=1), [2, *shape[:axis], *shape[axis + 1 :], 3]


ANY = [
    transpose, transpose, reshape, some, gather, expand, tile, pad, split, concat, scatter, function, with_constant,
    centred, reduced, softmax, linear, from_the_left, with_itself, einsum, conv, conv, pool, gru, gru, norm, squeeze,
    where, largest,
]  # fmt: skip


def frame_model(seed):
    """A model of an array of any shape, with two outputs, and an input."""
    net = Net(seed)
    shape = net.rng.integers(1, 6, net.rng.integers(1, 5)).tolist()
    x, first, values = net.input("x", list(shape)), shape, []
    for _ in range(net.rng.integers(1, 8)):
        layer = ANY[net.rng.integers(len(ANY))]
        if not shape or np.prod(shape) > 3000 or len(shape) > 5:
            break
        x, shape = layer(net, x, shape)
        values.append(x)
    model = net.model(x, values[len(values) // 2])
    return model, {"x": net.rng.standard_normal(first).astype(np.float32)}


# --- Over time: each takes a value (T, B, F) and F, and returns both --------------------------------------------------


def _over_channels(net, x, layer):
    return net.op("Transpose", layer(net.op("Transpose", x, perm=[1, 2, 0])), perm=[2, 0, 1])


def _two(net, most):
    return [int(value) for value in net.rng.integers(0, most + 1, 2)]


def time_linear(net, x, size):
    out = int(net.rng.integers(1, 40))
    y = net.op("Add", net.op("MatMul", x, net.weight(size, out)), net.weight(out))
    return net.op(one_of(net, "Relu", "Tanh", "Identity"), y), out


def time_conv(net, x, size):
    """Padded as much as it takes away, or more, or less."""
    kernel, dilation = int(net.rng.integers(1, 4)), int(net.rng.integers(1, 3))
    span, group = (kernel - 1) * dilation, one_of(net, 1, size)
    out, before = group * int(net.rng.integers(1, 3)), int(net.rng.integers(span + 1))
    pads = one_of(net, [before, span - before], [before, span - before], _two(net, 3))
    weights = [net.weight(out, size // group, kernel), net.weight(out)]
    attributes = {"dilations": [dilation], "group": group, "pads": pads, "kernel_shape": [kernel]}
    return _over_channels(net, x, lambda z: net.op("Sigmoid", net.op("Conv", z, *weights, **attributes))), out


def time_transposed(net, x, size):
    kernel, dilation, out = int(net.rng.integers(1, 4)), int(net.rng.integers(1, 3)), int(net.rng.integers(1, 4))
    weights = [net.weight(size, out, kernel), net.weight(out)]
    attributes = {"dilations": [dilation], "pads": _two(net, (kernel - 1) * dilation)}
    return _over_channels(net, x, lambda z: net.op("ConvTranspose", z, *weights, **attributes)), out


def time_pool(net, x, size):
    kernel = int(net.rng.integers(1, 4))
    attributes = {"kernel_shape": [kernel], "pads": _two(net, kernel - 1)}
    name = one_of(net, "MaxPool", "AveragePool")
    if name == "AveragePool":
        attributes["count_include_pad"] = int(net.rng.integers(2))
    return _over_channels(net, x, lambda z: net.op(name, z, **attributes)), size


def time_image(net, x, size):
    """A convolution over time and features, perhaps a depthwise one and a pooling behind it."""
    kt, kf = int(net.rng.integers(1, 4)), int(net.rng.integers(1, min(size, 3) + 1))
    before, channels, stride, pads = (
        int(net.rng.integers(kt)),
        int(net.rng.integers(1, 4)),
        one_of(net, 1, 2),
        _two(net, 1),
    )
    z = net.op("Unsqueeze", net.op("Transpose", x, perm=[1, 0, 2]), ints(net, 1))
    z = net.op("Conv", z, net.weight(channels, 1, kt, kf), net.weight(channels), kernel_shape=[kt, kf],
               pads=[before, pads[0], kt - 1 - before, pads[1]], strides=[1, stride])  # fmt: skip
    if net.rng.integers(2):
        z = net.op("Conv", net.op("Tanh", z), net.weight(channels, 1, 2, 1), group=channels, pads=[1, 0, 0, 0])
    if net.rng.integers(2):
        z = net.op("MaxPool", z, kernel_shape=[2, 1], pads=[1, 0, 0, 0])
    z = net.op("Reshape", net.op("Transpose", z, perm=[2, 0, 1, 3]), ints(net, 0, 0, -1))
    return z, channels * ((size + sum(pads) - kf) // stride + 1)


def time_gru(net, x, size):
    """Its first states are zero, constant, an input or computed; its last ones may be an output, or go on."""
    hidden = int(net.rng.integers(1, 18))
    start = one_of(net, "", "constant", "input", "computed")
    if start == "constant":
        start = "" if net.batch == "B" else net.weight(1, net.batch, hidden)
    elif start:
        given = net.input(f"h{len(net.inputs)}", [1, net.batch, hidden])
        start = given if start == "input" else net.op("Sigmoid", given)
    weights = [net.weight(1, 3 * hidden, size), net.weight(1, 3 * hidden, hidden), net.weight(1, 6 * hidden)]
    y, last = net.op("GRU", x, *weights, "", start, outputs=2, hidden_size=hidden)
    net.outputs += one_of(net, [], [last], [net.op("Tanh", net.op("MatMul", last, net.weight(hidden, 2)))])
    return net.op("Squeeze", y, ints(net, 1)), hidden


def time_still(net, x, size):
    """An input without a time axis."""
    still = net.input(f"s{len(net.inputs)}", one_of(net, [net.batch, size], [size]))
    return net.op(one_of(net, "Add", "Mul"), x, net.op("Tanh", still)), size


def time_pad(net, x, size):
    before, behind = _two(net, 2)
    return net.op("Pad", x, ints(net, before, 0, 0, behind, 0, wide := int(net.rng.integers(2)))), size + wide


def time_cut(net, x, size):
    first, left = _two(net, 2)
    return net.op("Slice", x, ints(net, first), ints(net, -left if left else 2**31 - 1), ints(net, 0)), size


def time_shift(net, x, size):
    """Frames as they were, or will be."""
    by = int(net.rng.integers(1, 3))
    if net.rng.integers(2):
        return net.op("Pad", x, ints(net, -by, 0, 0, by, 0, 0)), size
    return net.op(
        "Slice", net.op("Pad", x, ints(net, by, 0, 0, 0, 0, 0)), ints(net, 0), ints(net, -by), ints(net, 0)
    ), size


def time_zeros(net, x, size):
    if net.batch == "B":
        return x, size
    return net.op("Concat", net.constant(np.zeros((1, net.batch, size), np.float32)), x, axis=0), size


def time_residual(net, x, size):
    y, out = one_of(net, time_conv, time_gru, time_linear, time_shift, time_pool)(net, x, size)
    return net.op("Add", net.op("MatMul", x, net.weight(size, out)), y), out


def time_features(net, x, size):
    way = net.rng.integers(4)
    if way == 0:
        return net.op("Slice", x, *(ints(net, value) for value in (-1, -(2**31), 2, -1))), size
    if way == 1:
        return net.op("Gather", x, ints(net, -1, 0, 0), axis=2), 3
    if way == 2:
        return net.op("Concat", x, net.op("Tanh", x), axis=2), 2 * size
    return net.op("Gather", net.weight(size, 3), net.op("ArgMax", x, axis=2, keepdims=0), axis=0), 3


def time_last(net, x, size):
    net.outputs.append(net.op("Gather", x, net.constant(np.array(-1)), axis=0))
    return x, size


def time_output(net, x, size):
    net.outputs.append(x)
    return x, size


OVER_TIME = [
    time_linear, time_conv, time_conv, time_transposed, time_pool, time_image, time_image, time_gru, time_gru,
    time_still, time_pad, time_cut, time_shift, time_zeros, time_residual, time_residual, time_features, time_last,
    time_output,
]  # fmt: skip


def sequence_model(seed):
    """A model over (T, B, 4) with any number of inputs and outputs; B may be fixed."""
    net = Net(seed)
    net.batch, net.outputs = one_of(net, "B", 1, 2), []
    x, size = net.input("x", ["T", net.batch, 4]), 4
    for _ in range(net.rng.integers(1, 6)):
        x, size = OVER_TIME[net.rng.integers(len(OVER_TIME))](net, x, size)
        if size > 60:
            break
    return net.model(x, *net.outputs)
