"""RTNeural's JSON as networks, compared with each layer written in NumPy as RTNeural defines it, frame by frame."""

import json

import numpy as np
import pytest

import cgru
from cgru.formats.rtneural_network import network_of
from cgru.model.interpret import run
from cgru.model.stepping import Stream


class Chain:
    """A file while its layers are added, and what they compute, x a list of frames."""

    def __init__(self, *frame, seed=0):
        self.rng = np.random.default_rng(seed)
        self.shape, self.frame = [None, None, *frame], frame
        self.layers, self.steps = [], []

    def weights(self, *shapes):
        return [self.rng.uniform(-0.7, 0.7, shape).astype(np.float32).astype(np.float64) for shape in shapes]

    def add(self, kind, frame, weights, step, activation="", **fields):
        shape = [None, None, *frame]
        arrays = [array.tolist() for array in weights]
        self.layers.append({"type": kind, "activation": activation, "shape": shape, **fields, "weights": arrays})
        self.steps += [step, ACTIVATIONS[activation]] if kind != "gru" else [step]
        self.frame = frame
        return self

    def write(self, path):
        path.write_text(json.dumps({"in_shape": self.shape, "layers": self.layers}))
        return path

    def run(self, xs):
        for step in self.steps:
            xs = step(xs)
        return np.array(xs)

    # --- Layers, each with a function from frames to frames -----------------------------------------------------------

    def dense(self, outputs, activation="", bias=True, kind="dense"):
        kernel, *b = self.weights((int(np.prod(self.frame)), outputs), *[(outputs,)] * bias)
        step = lambda xs: [x.ravel() @ kernel + (b[0] if b else 0) for x in xs]  # noqa: E731
        return self.add(kind, (outputs,), [kernel, *b], step, activation)

    def conv1d(self, outputs, kernel_size, dilation, groups=1, activation="", named=True):
        inputs = self.frame[0] // groups
        kernel, bias = self.weights((kernel_size, inputs, outputs), (outputs,))

        def step(xs):
            ys = []
            for t in range(len(xs)):
                y = bias.copy()
                for k in range(kernel_size):
                    at = t - (kernel_size - 1 - k) * dilation
                    for o in range(outputs if at >= 0 else 0):
                        first = o // (outputs // groups) * inputs
                        y[o] += xs[at][first : first + inputs] @ kernel[k, :, o]
                ys.append(y)
            return ys

        fields = {"groups": groups} if named else {}
        return self.add("conv1d", (outputs,), [kernel, bias], step, activation,
                        kernel_size=[kernel_size], dilation=[dilation], **fields)  # fmt: skip

    def conv2d(self, outputs, time, features, dilation, stride, padding, activation=""):
        size, inputs = self.frame
        kernel, bias = self.weights((time, features, inputs, outputs), (outputs,))
        places = -(-size // stride) if padding == "same" else -(-(size - features + 1) // stride)
        over = size % stride or stride
        left = max(features - over, 0) // 2 if padding == "same" else 0

        def step(xs):
            ys = []
            for t in range(len(xs)):
                y = np.tile(bias, (places, 1))
                for p, k, j in np.ndindex(places, time, features):
                    at, where = t - (time - 1 - k) * dilation, p * stride - left + j
                    if at >= 0 and 0 <= where < size:
                        y[p] += xs[at][where] @ kernel[k, j]
                ys.append(y)
            return ys

        return self.add("conv2d", (places, outputs), [kernel, bias], step, activation, kernel_size_time=time,
                        kernel_size_feature=features, dilation=dilation, strides=stride, num_filters_in=inputs,
                        num_features_in=size, num_filters_out=outputs, padding=padding)  # fmt: skip

    def batchnorm(self, affine=True, epsilon=0.3):
        channels = self.frame[-1]
        gamma, beta, mean = (
            self.weights(*[(channels,)] * 3) if affine else (np.ones(channels), 0, *self.weights((channels,)))
        )
        variance = self.rng.uniform(0.5, 2, channels).astype(np.float32)
        weights = [gamma, beta, mean, variance] if affine else [mean, variance]
        more = {"num_features_in": self.frame[0], "num_filters_in": channels} if len(self.frame) == 2 else {}
        return self.add("batchnorm2d" if more else "batchnorm", self.frame, weights,
                        lambda xs: [(x - mean) / np.sqrt(variance + epsilon) * gamma + beta for x in xs],
                        epsilon=epsilon, **more)  # fmt: skip

    def prelu(self, shared=False):
        (slopes,) = self.weights((1, 1 if shared else int(np.prod(self.frame))))
        each = slopes[0] if shared else slopes.reshape(self.frame)
        return self.add("prelu", self.frame, [slopes], lambda xs: [np.where(x >= 0, x, each * x) for x in xs])

    def activation(self, name):
        return self.add("activation", self.frame, [], lambda xs: xs, name)

    def gru(self, hidden):
        kernel, recurrent, bias = self.weights((self.frame[0], 3 * hidden), (hidden, 3 * hidden), (2, 3 * hidden))

        def step(xs):
            h, ys = np.zeros(hidden), []
            for x in xs:
                z, r, c = np.split(x @ kernel + bias[0], 3)
                uz, ur, uc = np.split(h @ recurrent + bias[1], 3)
                z, r = 1 / (1 + np.exp(-z - uz)), 1 / (1 + np.exp(-r - ur))
                h = z * h + (1 - z) * np.tanh(c + r * uc)
                ys.append(h)
            return ys

        return self.add("gru", (hidden,), [kernel, recurrent, bias], step, "tanh")


def softmax(xs):
    return [np.exp(x) / np.exp(x).sum() for x in xs]


ACTIVATIONS = {
    "": lambda xs: xs,
    "tanh": np.tanh,
    "relu": lambda xs: [np.where(x > 0, x, 0) for x in xs],
    "sigmoid": lambda xs: [1 / (1 + np.exp(-np.asarray(x))) for x in xs],
    "softmax": softmax,
    "elu": lambda xs: [np.where(x > 0, x, np.exp(x) - 1) for x in xs],
}

CHAINS = {
    "dense": lambda: Chain(3).dense(5, "tanh").dense(4, "elu", bias=False).dense(4, "softmax", kind="time-distributed-dense").dense(2),
    "activations": lambda: Chain(4).activation("relu").dense(4).activation("elu").dense(4).activation("sigmoid").activation("softmax").activation("tanh").activation(""),
    "gru": lambda: Chain(2).dense(5, "tanh").gru(4).gru(4).gru(3).dense(1, "sigmoid"),
    "conv": lambda: Chain(1).dense(8, "tanh").conv1d(4, 3, 1, activation="tanh", named=False).batchnorm().prelu().conv1d(4, 1, 1).conv1d(6, 3, 2, groups=2, activation="elu").batchnorm(affine=False, epsilon=5).prelu(shared=True).dense(1, "sigmoid"),
    "conv2d": lambda: Chain(23, 1).conv2d(2, 5, 5, 2, 1, "valid").batchnorm(affine=False).activation("relu").conv2d(3, 4, 3, 1, 2, "same", "tanh").batchnorm().prelu().conv2d(1, 2, 4, 3, 3, "same").dense(3).gru(2),
    "two axes at the end": lambda: Chain(6, 2).conv2d(3, 2, 3, 1, 4, "same", "relu").prelu(shared=True),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_layers(name, tmp_path):
    chain = CHAINS[name]()
    graph = network_of(chain.write(tmp_path / "model.json"))
    assert graph.inputs == {"x": ("B", "T", *chain.shape[2:])}
    assert graph.outputs == {"y": ("B", "T", *chain.frame)}
    assert {graph.types[name] for name in graph.shapes} == {np.dtype(np.float32)}
    x = np.random.default_rng(1).standard_normal((2, 13, *chain.shape[2:]))
    expected = np.stack([chain.run(list(row)) for row in x])
    np.testing.assert_allclose(run(graph, {"x": x})[0]["y"], expected, atol=1e-5)  # slopes, factors are float32
    stream = Stream(graph, batch_size=2)
    assert stream.delay == 0
    steps = np.stack([stream.step({"x": x[:, t]})["y"] for t in range(13)], 1)
    np.testing.assert_allclose(steps, expected, atol=1e-5)


def test_shapes_of_fixed_length_are_streams_too(tmp_path):
    chain = Chain(3).dense(2)
    chain.shape = [None, 3]
    path = chain.write(tmp_path / "model.json")
    assert network_of(str(path)).inputs == {"x": ("B", "T", 3)}
    chain.shape = [None, 100, 3]
    assert network_of(chain.write(path)).inputs == {"x": ("B", "T", 3)}


@pytest.mark.parametrize(("change", "message"), [
    (lambda c: c.layers[1].update(type="lstm"), r"got lstm \(layers\[1\]\); .*LSTM layers are not built yet"),
    (lambda c: [layer.update(type="unknown") for layer in c.layers[:2]], r"types dense, .*, got unknown \(layers\[0\]\), unknown \(layers\[1\]\)"),
    (lambda c: c.layers[0].update(activation="selu"), r"layers\[0\]: activation: expected '' or one of tanh, .*, got 'selu'"),
    (lambda c: c.layers[2].update(activation="sigmoid"), r"layers\[2\]: activation: expected '' or 'tanh', got 'sigmoid'"),
    (lambda c: c.layers[0].update(shape=[None, None, 7]), r"layers\[0\]: shape: expected \[6\] as of the weights, got \[7\]"),
    (lambda c: c.layers[0].update(shape=None), r"layers\[0\]: shape: expected a list such as \[null, null, 8\], got None"),
    (lambda c: c.layers[0].update(weights=[]), r"layers\[0\]: weights: expected 2 arrays, got 0"),
    (lambda c: c.layers[0]["weights"].reverse(), r"layers\[0\]: weights\[0\]: expected \(3, O\), got \(6,\)"),
    (lambda c: c.layers[0]["weights"][1].pop(), r"layers\[0\]: weights\[1\]: expected \(6,\), got \(5,\)"),
    (lambda c: c.layers[1].update(kernel_size=[2]), r"layers\[1\]: weights\[0\]: expected \(2, 3, O\), got \(3, 3, 4\)"),
    (lambda c: c.layers[1].update(groups=4), r"layers\[1\]: groups: expected a divisor of 6 channels, got 4"),
    (lambda c: c.layers[1].pop("dilation"), r"layers\[1\]: dilation: expected an integer of 1 and more, got None"),
    (lambda c: c.layers[3].update(epsilon="1"), r"layers\[3\]: epsilon: expected a number of 0 and more, got '1'"),
    (lambda c: c.layers[4].update(weights=[[[1.0, 2.0]]]), r"layers\[4\]: weights\[0\]: expected 1 or 5 slopes, got 2"),
    (lambda c: setattr(c, "shape", [None, None, 4]), r"layers\[0\]: weights\[0\]: expected \(4, O\)"),
    (lambda c: setattr(c, "shape", "x"), r"in_shape: expected a list such as"),
    (lambda c: setattr(c, "layers", []), r"layers: expected RTNeural's list of layers, got none"),
    (lambda c: c.layers.pop(1), r"layers\[1\]: weights\[0\]: expected 6 rows, got 4"),
])  # fmt: skip
def test_files_that_are_refused(change, message, tmp_path):
    chain = Chain(3).dense(6, "relu").conv1d(4, 3, 2, groups=2).gru(5).batchnorm().prelu()
    path = chain.write(tmp_path / "model.json")
    network_of(path)
    change(chain)
    with pytest.raises(cgru.FormatError, match=f"model.json: .*{message}"):
        network_of(chain.write(path))


def test_two_axes_that_are_refused(tmp_path):
    for change, message in [
        ({"padding": "causal"}, "padding: expected 'same' or 'valid', got 'causal'"),
        ({"num_features_in": 5}, r"expected a frame of \(6, 2\), got \(5, 2\)"),
        ({"activation": "softmax"}, "expected softmax of one axis"),
        ({"kernel_size_time": 0}, "kernel_size_time: expected an integer of 1 and more, got 0"),
    ]:
        chain = CHAINS["two axes at the end"]()
        chain.layers[0].update(change)
        with pytest.raises(cgru.FormatError, match=message):
            network_of(chain.write(tmp_path / "model.json"))


def test_gru_files_still_give_a_gru(tmp_path):
    path = Chain(2).dense(5).gru(4).gru(4).write(tmp_path / "model.json")
    assert repr(cgru.load(path)) == "GRU(5, 4, num_layers=2)"
