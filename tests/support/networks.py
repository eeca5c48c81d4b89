"""Random networks for the tests, as ONNX models: sequence graphs over (B, T, F), and frame graphs over (1, C, H, W)."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper


class Net:
    """An ONNX model while it is written."""

    def __init__(self, seed, opset=17):
        self.rng, self.opset = np.random.default_rng(seed), opset
        self.nodes, self.constants, self.inputs = [], {}, {}

    def weight(self, *shape, bound=0.6):
        name = f"w{len(self.constants)}"
        self.constants[name] = self.rng.uniform(-bound, bound, shape).astype(np.float32)
        return name

    def constant(self, array):
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def input(self, name, shape, kind=TensorProto.FLOAT):
        self.inputs[name] = helper.make_tensor_value_info(name, kind, shape)
        return name

    def op(self, operator, *inputs, outputs=1, **attributes):
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, name=f"n{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def model(self, *outputs, names=None):
        names = names or [f"y{i}" for i in range(len(outputs))]
        nodes = [*self.nodes]
        nodes += [helper.make_node("Identity", [value], [name]) for value, name in zip(outputs, names, strict=True)]
        tensors = [numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
        graph = helper.make_graph(nodes, "graph", list(self.inputs.values()), results, tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


# --- Layers over (B, T, F): each takes the value and its features, and returns both ----------------------------------


def linear(net, x, size):
    out = int(net.rng.integers(1, 9))
    return net.op("Add", net.op("MatMul", x, net.weight(size, out)), net.weight(out)), out


ACTIVATIONS = [
    "Relu",
    "Tanh",
    "Sigmoid",
    "Elu",
    "Softplus",
    "LeakyRelu",
    "HardSigmoid",
    "HardSwish",
    "Abs",
    "Erf",
    "Celu",
]


def activation(net, x, size):
    return net.op(ACTIVATIONS[net.rng.integers(len(ACTIVATIONS))], x), size


def prelu(net, x, size):
    return net.op("PRelu", x, net.weight(size)), size


def layer_norm(net, x, size):
    return net.op("LayerNormalization", x, net.weight(size), net.weight(size), axis=-1), size


def written_norm(net, x, size):
    """As torch exports it."""
    centred = net.op("Sub", x, net.op("ReduceMean", x, axes=[-1]))
    squares = net.op("Pow", centred, net.constant(np.float32(2)))
    scale = net.op("Sqrt", net.op("Add", net.op("ReduceMean", squares, axes=[-1]), net.constant(np.float32(1e-2))))
    return net.op("Div", centred, scale), size


def residual(net, x, size):
    return net.op("Add", x, net.op("Tanh", net.op("MatMul", x, net.weight(size, size)))), size


def gated(net, x, size):
    a, b = net.op("Split", net.op("MatMul", x, net.weight(size, 2 * size)), outputs=2, axis=-1)
    return net.op("Mul", a, net.op("Sigmoid", b)), size


def side_by_side(net, x, size):
    y, other = linear(net, x, size)
    return net.op("Concat", x, y, axis=2), size + other


def softmax(net, x, size):
    return net.op("Softmax", x, axis=-1), size


def part(net, x, size):
    keep = int(net.rng.integers(1, size + 1))
    ints = [net.constant(np.array([value])) for value in (size - keep, 2**31 - 1, 2)]
    return net.op("Slice", x, *ints), keep


def heads(net, x, size):
    """A grouped linear layer, as Einsum, with the shape arithmetic that exporters write around it."""
    groups = 2 if size % 2 == 0 else 1
    shape = net.op("Slice", net.op("Shape", x), net.constant(np.array([0])), net.constant(np.array([2])))
    split = net.op("Concat", shape, net.constant(np.array([groups, size // groups])), axis=0)
    grouped = net.op("Reshape", x, split)
    y = net.op("Einsum", grouped, net.weight(groups, size // groups, 3), equation="btgi,gih->btgh")
    return net.op("Reshape", y, net.op("Concat", shape, net.constant(np.array([-1])), axis=0)), 3 * groups


def gru(net, x, size, direction="forward"):
    """With an initial state of zeros whose batch is computed."""
    hidden, d = int(net.rng.integers(1, 6)), 1 + (direction == "bidirectional")
    steps = net.op("Transpose", x, perm=[1, 0, 2])
    batch = net.op("Gather", net.op("Shape", steps), net.constant(np.array(1)), axis=0)
    batch = net.op("Unsqueeze", batch, net.constant(np.array([0])))
    shape = net.op("Concat", net.constant(np.array([d])), batch, net.constant(np.array([hidden])), axis=0)
    zeros = net.op("ConstantOfShape", shape)
    weights = [net.weight(d, 3 * hidden, size), net.weight(d, 3 * hidden, hidden), net.weight(d, 6 * hidden)]
    linear_before_reset = int(net.rng.integers(2))
    y, _ = net.op(
        "GRU", steps, *weights, "", zeros, outputs=2, hidden_size=hidden, direction=direction,
        linear_before_reset=linear_before_reset,
    )  # fmt: skip
    y = net.op("Transpose", y, perm=[2, 0, 1, 3])
    return net.op("Reshape", y, net.constant(np.array([0, 0, d * hidden]))), d * hidden


def both_ways(net, x, size):
    return gru(net, x, size, "bidirectional")


def rnn(net, x, size):
    hidden = int(net.rng.integers(1, 6))
    steps = net.op("Transpose", x, perm=[1, 0, 2])
    weights = [net.weight(1, hidden, size), net.weight(1, hidden, hidden), net.weight(1, 2 * hidden)]
    y, _ = net.op("RNN", steps, *weights, outputs=2, hidden_size=hidden, activations=["Relu" if size % 2 else "Tanh"])
    return net.op("Transpose", net.op("Squeeze", y, net.constant(np.array([1]))), perm=[1, 0, 2]), hidden


def convolution(net, x, size, ahead=False):
    """Over time, padded in front, or on both sides."""
    kernel, dilation = int(net.rng.integers(1, 4)), int(net.rng.integers(1, 4))
    groups = size if net.rng.integers(2) else 1
    out, span = size if groups > 1 else int(net.rng.integers(1, 6)), (kernel - 1) * dilation
    behind = int(net.rng.integers(0, span + 1)) if ahead else 0
    y = net.op("Transpose", x, perm=[0, 2, 1])
    own = int(net.rng.integers(2))  # by the convolution's padding, or by a Pad before it
    if not own:
        y = net.op("Pad", y, net.constant(np.array([0, 0, span - behind, 0, 0, behind])))
    y = net.op(
        "Conv", y, net.weight(out, size // groups, kernel), net.weight(out), dilations=[dilation], group=groups,
        pads=[span - behind, behind] if own else [0, 0], kernel_shape=[kernel],
    )  # fmt: skip
    return net.op("Transpose", y, perm=[0, 2, 1]), out


def look_ahead(net, x, size):
    return convolution(net, x, size, ahead=True)


def transposed(net, x, size):
    """A transposed convolution over time, which looks as far ahead as it takes away in front."""
    kernel, dilation, out = (int(net.rng.integers(1, 4)) for _ in range(3))
    span = (kernel - 1) * dilation
    ahead = int(net.rng.integers(0, span + 1))
    y = net.op(
        "ConvTranspose", net.op("Transpose", x, perm=[0, 2, 1]), net.weight(size, out, kernel), net.weight(out),
        dilations=[dilation], pads=[ahead, span - ahead],
    )  # fmt: skip
    return net.op("Transpose", y, perm=[0, 2, 1]), out


def late_residual(net, x, size):
    """A branch that looks ahead beside one that does not."""
    y, other = look_ahead(net, x, size)
    return net.op("Add", net.op("MatMul", x, net.weight(size, other)), y), other


def pooled(net, x, size):
    kind = ["MaxPool", "AveragePool"][net.rng.integers(2)]
    y = net.op(kind, net.op("Transpose", x, perm=[0, 2, 1]), kernel_shape=[3], pads=[2, 0])
    return net.op("Transpose", y, perm=[0, 2, 1]), size


def mean_over_time(net, x, size):
    return net.op("Sub", x, net.op("ReduceMean", x, axes=[1])), size


def attention(net, x, size):
    """Every step looks at all."""
    scores = net.op("Softmax", net.op("MatMul", x, net.op("Transpose", x, perm=[0, 2, 1])), axis=-1)
    return net.op("MatMul", scores, x), size


def rows_merged(net, x, size):
    """Reshaped to a matrix for Gemm, as tf2onnx and paddle2onnx have linear layers."""
    out = int(net.rng.integers(1, 6))
    shape = net.op("Slice", net.op("Shape", x), net.constant(np.array([0])), net.constant(np.array([2])))
    flat = net.op("Reshape", x, net.constant(np.array([-1, size])))
    y = net.op("Gemm", flat, net.weight(out, size), net.weight(out), transB=1)
    return net.op("Reshape", y, net.op("Concat", shape, net.constant(np.array([out])), axis=0)), out


LOCAL = [
    linear,
    activation,
    prelu,
    layer_norm,
    written_norm,
    residual,
    gated,
    side_by_side,
    softmax,
    part,
    heads,
    rows_merged,
]
OVER_TIME = [gru, rnn, convolution, look_ahead, transposed, late_residual, pooled]
WHOLE = [both_ways, mean_over_time, attention]


def sequence_model(layers, seed, batch="B"):
    """A chain of layers over (B, T, 4), with two outputs."""
    net = Net(seed)
    x, size = net.input("x", [batch, "T", 4]), 4
    values = [x]
    for layer in layers:
        x, size = layer(net, x, size)
        values.append(x)
    return net.model(values[-1], values[len(values) // 2])


# --- Layers over (1, C, H, W) ----------------------------------------------------------------------------------------


def conv2d(net, x, shape):
    _, c, h, w = shape
    k, s, d = [int(net.rng.integers(1, 4)) for _ in "hw"], [int(net.rng.integers(1, 3)) for _ in "hw"], [1, 1]
    if net.rng.integers(2):
        d, k = [2, 1], [min(k[0], 2), k[1]]
    group = c if net.rng.integers(2) else 1
    out = c * int(net.rng.integers(1, 3)) if group > 1 else int(net.rng.integers(1, 5))
    pads = [int(net.rng.integers(0, 3)) for _ in range(4)]
    sizes = [(n + pads[i] + pads[i + 2] - (k[i] - 1) * d[i] - 1) // s[i] + 1 for i, n in enumerate((h, w))]
    if min(sizes) < 1:
        return x, shape
    y = net.op("Conv", x, net.weight(out, c // group, *k), net.weight(out), kernel_shape=k, strides=s, dilations=d,
               pads=pads, group=group)  # fmt: skip
    return y, (1, out, *sizes)


def conv_transpose2d(net, x, shape):
    _, c, h, w = shape
    k, s, out = (
        [int(net.rng.integers(1, 4)) for _ in "hw"],
        [1, int(net.rng.integers(1, 3))],
        int(net.rng.integers(1, 4)),
    )
    group = c if net.rng.integers(2) else 1
    y = net.op("ConvTranspose", x, net.weight(c, out, *k), kernel_shape=k, strides=s, group=group)
    return y, (1, out * group, *((n - 1) * s[i] + k[i] for i, n in enumerate((h, w))))


def batch_norm(net, x, shape):
    c = shape[1]
    variance = net.constant(net.rng.uniform(0.5, 2, c).astype(np.float32))
    return net.op("BatchNormalization", x, net.weight(c), net.weight(c), net.weight(c), variance), shape


def activation2d(net, x, shape):
    return activation(net, x, 0)[0], shape


def pool2d(net, x, shape):
    if min(shape[2:]) < 2:
        return x, shape
    kind = ["MaxPool", "AveragePool"][net.rng.integers(2)]
    return net.op(kind, x, kernel_shape=[2, 2], strides=[1, 1]), (*shape[:2], shape[2] - 1, shape[3] - 1)


def turned2d(net, x, shape):
    perm = [0, *(int(i) for i in net.rng.permutation([1, 2, 3]))]
    return net.op("Transpose", x, perm=perm), tuple(shape[i] for i in perm)


def shuffled(net, x, shape):
    """Channels and rows exchanged by Gather, and padded."""
    y = net.op("Gather", x, net.constant(net.rng.permutation(shape[1])), axis=1)
    pads = [0, 0, 1, 0, 0, 0, 0, 2]
    return net.op("Pad", y, net.constant(np.array(pads))), (*shape[:2], shape[2] + 1, shape[3] + 2)


def scattered(net, x, shape):
    """One row written over, as exporters have assignments to a slice."""
    at = net.constant(np.array([[0, c, 0] for c in range(shape[1])]))
    return net.op("ScatterND", x, at, net.weight(shape[1], shape[3])), shape


def residual2d(net, x, shape):
    return net.op("Add", x, net.op("Tanh", net.op("Mul", x, net.weight(shape[1], 1, 1)))), shape


def instance_norm(net, x, shape):
    return net.op("InstanceNormalization", x, net.weight(shape[1]), net.weight(shape[1]), epsilon=0.1), shape


FRAMES = [
    conv2d,
    conv_transpose2d,
    batch_norm,
    activation2d,
    pool2d,
    turned2d,
    shuffled,
    scattered,
    residual2d,
    instance_norm,
]


def frame_model(layers, seed):
    net = Net(seed)
    x, shape = net.input("x", [1, 3, 5, 6]), (1, 3, 5, 6)
    for layer in layers:
        x, shape = layer(net, x, shape)
    return net.model(x)
