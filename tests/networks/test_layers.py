"""Networks made of lists of layers, each layer against torch's."""

import numpy as np
import pytest

import cgru
from cgru import nodes
from cgru.nodes.activations import FUNCTIONS
from cgru.nodes.lists import is_model, width_of

torch = pytest.importorskip("torch")
nn = torch.nn

T, B, F = 11, 3, 6


def over_time(module):
    """A torch module that runs over the last axis, on (T, B, features)."""
    return lambda x: module(x.permute(1, 2, 0)).permute(2, 0, 1)


def tensors(layer):
    return {key: torch.from_numpy(array) for key, array in layer.state_dict().items()}


def same_weights(module, layer):
    module.load_state_dict(tensors(layer), strict=False)
    return module.eval()


def conv(*args, padding=0, **more):
    layer = nodes.Conv1d(*args, padding=padding, rng=0, **more)
    if padding == "causal":
        span = (args[2] - 1) * more.get("dilation", 1)
        module = same_weights(nn.Conv1d(*args, **more), layer)
        return layer, over_time(lambda x: module(nn.functional.pad(x, (span, 0))))
    return layer, over_time(same_weights(nn.Conv1d(*args, padding=padding, **more), layer))


def linear(**more):
    layer = nodes.Linear(F, 5, rng=0, **more)
    return layer, same_weights(nn.Linear(F, 5, bias=more.get("bias", True)), layer)


def normalised():
    rng = np.random.default_rng(0)
    given = {key: rng.normal(size=F).astype(np.float32) for key in ("weight", "bias", "running_mean")}
    layer = nodes.BatchNorm1d(F, running_var=rng.uniform(0.5, 2, F).astype(np.float32), **given)
    return layer, over_time(same_weights(nn.BatchNorm1d(F), layer))


def plain(nonlinearity):
    layer = nodes.RNN(F, 4, nonlinearity=nonlinearity, rng=0)
    module = same_weights(nn.RNN(F, 4, nonlinearity=nonlinearity), layer)
    return layer, lambda x: module(x)[0]


def gru(**options):
    model = cgru.GRU(F, 4, rng=0, **options)
    module = nn.GRU(F, 4, **options)
    module.load_state_dict({key: torch.from_numpy(array) for key, array in model.state_dict().items()})
    return model, lambda x: module(x)[0]


def layer_norm():
    layer = nodes.LayerNorm(F, weight=np.random.default_rng(0).normal(size=F).astype(np.float32))
    return layer, same_weights(nn.LayerNorm(F), layer)


LAYERS = {
    "linear": linear,
    "linear without bias": lambda: linear(bias=False),
    "conv": lambda: conv(F, 4, 3),
    "conv same": lambda: conv(F, 4, 3, padding="same", dilation=2),
    "conv causal": lambda: conv(F, 4, 3, padding="causal", dilation=2),
    "conv padded": lambda: conv(F, 6, 2, padding=1, groups=2),
    "depthwise": lambda: conv(F, F, 3, padding="causal", groups=F, bias=False),
    "strided": lambda: conv(F, 4, 3, stride=2),
    "max pool": lambda: (nodes.MaxPool1d(2, 1), over_time(nn.MaxPool1d(2, 1))),
    "average pool": lambda: (nodes.AvgPool1d(3, 1, 1), over_time(nn.AvgPool1d(3, 1, 1))),
    "layer norm": layer_norm,
    "batch norm": normalised,
    "prelu": lambda: (nodes.PReLU(F, 0.3), lambda x: nn.functional.prelu(x.movedim(2, 1), torch.full((F,), 0.3)).movedim(1, 2)),
    "glu": lambda: (nodes.GLU(), nn.GLU()),
    "dropout": lambda: (nodes.Dropout(), nn.Identity()),
    "rnn": lambda: plain("tanh"),
    "rnn relu": lambda: plain("relu"),
    "gru": gru,
    "gru of two layers": lambda: gru(num_layers=2),
    "gru both ways": lambda: gru(bidirectional=True),
    "softmax": lambda: (nodes.Softmax(), nn.Softmax(-1)),
    "log softmax": lambda: (nodes.LogSoftmax(), nn.LogSoftmax(-1)),
}  # fmt: skip


def sized(layer):
    """The layer alone, or behind one that says how many features there are."""
    unknown = not is_model(layer) and width_of(layer) is None
    return [nodes.Linear(F, F, bias=False, weight=np.eye(F, dtype=np.float32)), layer] if unknown else [layer]


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    layer, expected = LAYERS[name]()
    x = np.random.default_rng(1).standard_normal((T, B, F)).astype(np.float32)
    with torch.no_grad():
        wanted = expected(torch.from_numpy(x)).numpy()
    net = cgru.Network(sized(layer))
    y = net(x)
    np.testing.assert_allclose(y, wanted, atol=3e-6)
    wide = cgru.Network(sized(layer), dtype=np.float64)(x.astype(np.float64))
    np.testing.assert_allclose(wide, wanted, atol=3e-6)
    if net.runner.obstacles:
        with pytest.raises(ValueError, match="expected a network that can run while time passes"):
            net.stream()
        return
    stream = net.stream(B)
    frames = [stream.step(np.ascontiguousarray(frame)) for frame in x]
    frames = np.concatenate([np.stack(frames), stream.flush()])
    assert not np.any(frames[: stream.delay])
    assert np.array_equal(frames[stream.delay :], y)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations(name):
    """As the reference has them."""
    x = np.random.default_rng(1).uniform(0.1 if name in ("log", "sqrt") else -6, 6, (T, B, F)).astype(np.float32)
    layers = [nodes.Linear(F, F, bias=False, weight=np.eye(F, dtype=np.float32), activation=name)]
    wanted = cgru.Network(layers, dtype=np.float64)(x.astype(np.float64))
    np.testing.assert_allclose(cgru.Network(layers)(x), wanted, rtol=2e-6, atol=2e-6)


def test_batch_first():
    model = cgru.GRU(4, 4, batch_first=True, rng=0)
    layers = [
        nodes.Conv1d(F, 4, 3, padding="causal", rng=0),
        model,
        nodes.RNN(4, 4, batch_first=True, rng=0),
        nodes.Linear(4, 2, rng=0),
    ]
    net = cgru.Network(layers)
    assert net.inputs == {"x": ("B", "T", F)}
    x = np.random.default_rng(0).standard_normal((B, T, F)).astype(np.float32)
    other = cgru.GRU(4, 4)
    other.load_state_dict(model.state_dict())
    plain = nodes.RNN(4, 4, rng=0)
    wanted = cgru.Network([layers[0], other, plain, layers[3]])(np.ascontiguousarray(x.swapaxes(0, 1)))
    assert np.array_equal(net(x), wanted.swapaxes(0, 1))


def test_tokens():
    table = np.random.default_rng(0).normal(size=(9, F)).astype(np.float32)
    layers = [nodes.Embedding(9, F, weight=table), cgru.GRU(F, 8, rng=0), nodes.Linear(8, 9, rng=0), nodes.ArgMax()]
    net = cgru.Network(layers)
    tokens = np.random.default_rng(0).integers(0, 9, (T, B))
    logits = cgru.Network(layers[1:3])(table[tokens])
    y = net(tokens)
    assert y.dtype == np.int64
    assert np.array_equal(y, logits.argmax(-1))
    with pytest.raises(ValueError, match="x: expected indices from -9 to 8, got 9"):
        net(np.full((T, B), 9))


def test_the_last_step():
    layers = [nodes.Linear(F, 4, rng=0), cgru.GRU(4, 4, rng=0)]
    x = np.random.default_rng(0).standard_normal((T, B, F)).astype(np.float32)
    net = cgru.Network([*layers, nodes.LastStep(), nodes.Linear(4, 2, rng=1)])
    assert net.outputs == {"y": ("B", 2)}
    whole = cgru.Network([*layers, nodes.Linear(4, 2, rng=1)])(x)
    assert np.array_equal(net(x), whole[-1])
    stream = net.stream(B)
    for t in range(T):
        assert np.array_equal(stream.step(np.ascontiguousarray(x[t])), whole[t])


def test_residual():
    inner = [nodes.Linear(F, 8, activation="relu", rng=0), nodes.Linear(8, F, rng=1)]
    x = np.random.default_rng(0).standard_normal((T, B, F)).astype(np.float32)
    y = cgru.Network([nodes.Residual(inner), nodes.Activation("tanh")])(x)
    np.testing.assert_allclose(y, np.tanh(x + cgru.Network(inner)(x)), atol=1e-6)
