"""Layers of a network's list against torch.nn: whole, while time passes, and what does not fit."""

import numpy as np
import pytest

import cgru
from cgru import nodes
from cgru.model.interpret import run
from cgru.model.stepping import Stream
from cgru.nodes import graph_of
from cgru.nodes.activations import FUNCTIONS

torch = pytest.importorskip("torch")
nn = torch.nn

F64 = {"dtype": "float64"}


def drawn(layer, seed=0):
    """The layer with parameters that no drawing gives, so that each of them matters."""
    rng = np.random.default_rng(seed)
    layer.load_state_dict({name: rng.uniform(0.05, 0.45, array.shape) for name, array in layer.state_dict().items()})
    return layer


def filled(theirs, ours):
    """torch's module with the layer's parameters."""
    theirs = theirs.double().eval()
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in ours.state_dict().items()}, strict=False)
    assert {name for name, _ in theirs.named_parameters()} <= set(ours.state_dict())
    return theirs


def last(module):
    """A module that runs over the last axis of (T, B, C), as most do."""
    return module


def over_time(module):
    """A module of torch's (B, C, T) for sequences (T, B, C)."""
    return lambda x: module(x.permute(1, 2, 0)).permute(2, 0, 1)


def features(module):
    """A module of torch's (N, C, L) for the last axis of (T, B, C)."""
    return lambda x: module(x.transpose(1, 2)).transpose(1, 2)


def causal(module, span):
    return lambda x: over_time(module)(nn.functional.pad(x, (0, 0, 0, 0, span, 0)))


LAYERS = {
    "linear": (nodes.Linear(6, 5, activation="relu", **F64), nn.Linear(6, 5), lambda m: lambda x: m(x).relu()),
    "no bias": (nodes.Linear(6, 5, bias=False, **F64), nn.Linear(6, 5, bias=False), last),
    "conv": (nodes.Conv1d(6, 4, 3, dilation=2, activation="tanh", **F64), nn.Conv1d(6, 4, 3, dilation=2), lambda m: lambda x: over_time(m)(x).tanh()),
    "conv groups": (nodes.Conv1d(6, 4, 2, padding=1, groups=2, bias=False, **F64), nn.Conv1d(6, 4, 2, padding=1, groups=2, bias=False), over_time),
    "conv same": (nodes.Conv1d(6, 4, 4, padding="same", dilation=3, **F64), nn.Conv1d(6, 4, 4, padding="same", dilation=3), over_time),
    "conv stride": (nodes.Conv1d(6, 4, 3, stride=2, padding="valid", **F64), nn.Conv1d(6, 4, 3, stride=2), over_time),
    "conv causal": (nodes.Conv1d(6, 4, 3, padding="causal", dilation=2, **F64), nn.Conv1d(6, 4, 3, dilation=2), lambda m: causal(m, 4)),
    "conv before": (nodes.Conv1d(6, 4, 3, padding=(2, 0), **F64), nn.Conv1d(6, 4, 3), lambda m: causal(m, 2)),
    "conv reflect": (nodes.Conv1d(6, 4, 3, padding=2, padding_mode="reflect", **F64), nn.Conv1d(6, 4, 3, padding=2, padding_mode="reflect"), over_time),
    "conv replicate": (nodes.Conv1d(6, 4, 3, padding=1, padding_mode="replicate", **F64), nn.Conv1d(6, 4, 3, padding=1, padding_mode="replicate"), over_time),
    "conv circular": (nodes.Conv1d(6, 4, 3, padding=1, padding_mode="circular", **F64), nn.Conv1d(6, 4, 3, padding=1, padding_mode="circular"), over_time),
    "max": (nodes.MaxPool1d(3, stride=1, padding=1), nn.MaxPool1d(3, stride=1, padding=1), over_time),
    "max dilated": (nodes.MaxPool1d(2, dilation=2), nn.MaxPool1d(2, dilation=2), over_time),
    "mean": (nodes.AvgPool1d(2), nn.AvgPool1d(2), over_time),
    "mean padded": (nodes.AvgPool1d(3, stride=1, padding=1), nn.AvgPool1d(3, stride=1, padding=1), over_time),
    "mean uncounted": (nodes.AvgPool1d(3, 1, 1, count_include_pad=False), nn.AvgPool1d(3, 1, 1, count_include_pad=False), over_time),
    "layer norm": (nodes.LayerNorm(6, eps=1e-2, activation="relu", **F64), nn.LayerNorm(6, eps=1e-2), lambda m: lambda x: m(x).relu()),
    "layer norm of no bias": (nodes.LayerNorm((6,), bias=False, **F64), nn.LayerNorm(6, bias=False), last),
    "layer norm alone": (nodes.LayerNorm(6, elementwise_affine=False, **F64), nn.LayerNorm(6, elementwise_affine=False), last),
    "batch norm": (nodes.BatchNorm1d(6, eps=0.1, activation="elu", **F64), nn.BatchNorm1d(6, eps=0.1), lambda m: lambda x: nn.functional.elu(features(m)(x))),
    "batch norm alone": (nodes.BatchNorm1d(6, affine=False, **F64), nn.BatchNorm1d(6, affine=False), features),
    "instance norm": (nodes.InstanceNorm1d(6, eps=0.1, affine=True, activation="relu", **F64), nn.InstanceNorm1d(6, eps=0.1, affine=True), lambda m: lambda x: over_time(m)(x).relu()),
    "instance norm alone": (nodes.InstanceNorm1d(6, **F64), nn.InstanceNorm1d(6), over_time),
    "prelu": (nodes.PReLU(**F64), nn.PReLU(), last),
    "prelu of features": (nodes.PReLU(6, **F64), nn.PReLU(6), features),
    "glu": (nodes.GLU(), nn.GLU(), last),
    "softmax": (nodes.Softmax(), nn.Softmax(-1), last),
    "log softmax": (nodes.LogSoftmax(2), nn.LogSoftmax(2), last),
    "dropout": (nodes.Dropout(0.9), nn.Dropout(0.9), last),
    "argmax": (nodes.ArgMax(), nn.Identity(), lambda m: lambda x: x.argmax(-1)),
    "argmax kept": (nodes.ArgMax(-1, True), nn.Identity(), lambda m: lambda x: x.argmax(-1, keepdim=True)),
    "last step": (nodes.LastStep(), nn.Identity(), lambda m: lambda x: x[-1]),
    "flatten": (nodes.Flatten(2), nn.Flatten(2), last),
    "rnn": (nodes.RNN(6, 3, 2, **F64), nn.RNN(6, 3, 2), lambda m: lambda x: m(x)[0]),
    "rnn relu": (nodes.RNN(6, 3, 2, "relu", bias=False, bidirectional=True, **F64), nn.RNN(6, 3, 2, "relu", bias=False, bidirectional=True), lambda m: lambda x: m(x)[0]),
    "rnn both ways": (nodes.RNN(6, 3, bidirectional=True, **F64), nn.RNN(6, 3, bidirectional=True), lambda m: lambda x: m(x)[0]),
}  # fmt: skip
WHOLE = ("conv reflect", "conv replicate", "conv circular", "instance norm", "instance norm alone", "rnn relu", "rnn both ways", "conv stride", "max dilated", "mean")  # fmt: skip
"""That run in no stream, or give one frame for several."""

DELAYS = {"conv": 4, "conv same": 5, "max": 1, "mean padded": 1, "mean uncounted": 1}
"""Frames that layers look ahead, where they do."""


def in_a_list(layer):
    """Before it stands a layer that knows how many features there are, and copies them."""
    return [nodes.Linear(6, 6, bias=False, weight=np.eye(6), **F64), layer]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_torchs(name):
    ours, theirs, around = LAYERS[name]
    theirs = around(filled(theirs, drawn(ours)))
    x = np.random.default_rng(1).standard_normal((11, 2, 6))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x)).numpy()
    graph = graph_of(in_a_list(ours))
    assert graph.inputs == {"x": ("T", "B", 6)}
    assert graph.types["x"] == np.float64
    y = run(graph, {"x": x})[0]["y"]
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-10)
    if name in WHOLE:
        with pytest.raises(ValueError, match=r"expected nodes that run while time passes, got"):
            Stream(graph)
        return
    stream = Stream(graph, batch_size=2)
    pieces = [stream.process({"x": piece})["y"] for piece in np.split(x, [1, 2, 5])] + [stream.flush()["y"]]
    if name == "last step":
        np.testing.assert_allclose(pieces[-1], expected, rtol=0, atol=1e-10)
        return
    assert graph.delay == DELAYS.get(name, 0)
    np.testing.assert_allclose(np.concatenate(pieces)[graph.delay :], expected, rtol=0, atol=1e-10)


THEIRS = {
    "hardtanh": nn.Hardtanh(),
    "relu6": nn.ReLU6(),
    "hard_swish": nn.Hardswish(),
    "leaky_relu": nn.LeakyReLU(),
    "celu": nn.CELU(),
    "swish": nn.SiLU(),
    "thresholded_relu": nn.Threshold(1.0, 0.0),
    "hard_sigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "log_softmax": nn.LogSoftmax(-1),
    "softmax": nn.Softmax(-1),
}
GIVEN = [
    ("leaky_relu", {"alpha": 0.3}, nn.LeakyReLU(0.3)),
    ("hard_sigmoid", {"alpha": 1 / 6}, nn.Hardsigmoid()),
    ("hardtanh", {"min": -0.5, "max": 2}, nn.Hardtanh(-0.5, 2)),
    ("gelu", {"approximate": "tanh"}, nn.GELU("tanh")),
    ("elu", {"alpha": 0.5}, nn.ELU(0.5)),
    ("linear", {}, nn.Identity()),
]


def theirs_of(name):
    for space in (torch, nn.functional):
        if name in THEIRS or hasattr(space, name):
            return THEIRS.get(name) or getattr(space, name)
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("name", "parameters", "theirs"), [*((name, {}, theirs_of(name)) for name in FUNCTIONS), *GIVEN]
)
def test_activations(name, parameters, theirs):
    x = np.random.default_rng(0).standard_normal((5, 2, 6)) * 3
    x = abs(x) if name in ("log", "sqrt") else x
    expected = theirs(torch.from_numpy(x)).numpy()
    activation = nodes.Activation(name, **parameters)
    argument = (name, parameters) if parameters else name
    eye = {"bias": False, "weight": np.eye(6), **F64}
    for layers in (in_a_list(activation), [nodes.Linear(6, 6, activation=argument, **eye)]):
        np.testing.assert_allclose(run(graph_of(layers), {"x": x})[0]["y"], expected, atol=1e-10)


# --- Lists ------------------------------------------------------------------------------------------------------------


def test_names_and_axes():
    graph = graph_of(
        [
            nodes.Embedding(10, 4, padding_idx=-1, rng=0),
            cgru.GRU(4, 6, batch_first=True, rng=0),
            nodes.Residual([nodes.LayerNorm(6), nodes.Linear(6, 6, rng=0)]),
            nodes.Activation("tanh"),
        ]
    )
    assert graph.inputs == {"x": ("B", "T")}
    assert graph.outputs == {"y": ("B", "T", 6)}
    assert (graph.types["x"], graph.steps, graph.batch) == (np.int64, "T", "B")
    assert graph.kind == "sequence"
    assert {"0.weight", "1.weight_ih_l0", "2.0.weight", "2.0.bias", "2.1.weight.T", "2.1.bias"} <= set(graph.constants)
    assert [node.name for node in graph.nodes] == [
        "0.Gather", "1", "2.0.LayerNormalization", "2.1.MatMul", "2.1.Add", "2.Add", "3.Tanh",
    ]  # fmt: skip
    assert graph_of([nodes.Dropout(), cgru.MinGRU(3, 4)]).inputs == {"x": ("T", "B", 3)}
    alone = graph_of([nodes.Linear(3, 4)])
    assert (alone.steps, alone.batch) == ("T", "B")


def test_a_whole_list():
    """A language model's: an embedding, a GRU, a skip connection, the likeliest index."""
    layers = [
        nodes.Embedding(10, 4, rng=0, **F64),
        cgru.GRU(4, 6, num_layers=2, rng=1, **F64),
        nodes.Residual([nodes.Linear(6, 8, activation="gelu", rng=2, **F64), nodes.Linear(8, 6, rng=3, **F64)]),
        nodes.Linear(6, 10, rng=4, **F64),
    ]
    table, gru, inner, outer, head = (
        nn.Embedding(10, 4),
        nn.GRU(4, 6, 2),
        nn.Linear(6, 8),
        nn.Linear(8, 6),
        nn.Linear(6, 10),
    )
    for theirs, ours in zip([table, gru, inner, outer, head], [*layers[:2], *layers[2].layers, layers[3]], strict=True):
        filled(theirs, ours)
    x = np.random.default_rng(0).integers(0, 10, (7, 2))
    with torch.no_grad():
        y = gru(table(torch.from_numpy(x)))[0]
        expected = head(y + outer(nn.functional.gelu(inner(y)))).numpy()
    graph = graph_of(layers)
    np.testing.assert_allclose(run(graph, {"x": x})[0]["y"], expected, atol=1e-10)
    stream = Stream(graph, batch_size=2)
    np.testing.assert_allclose(np.stack([stream.step({"x": x[t]})["y"] for t in range(7)]), expected, atol=1e-10)
    indices = graph_of([*layers, nodes.ArgMax(), nodes.Flatten(0, 0), nodes.Embedding(10, 3, **F64)])
    assert indices.outputs == {"y": ("T", "B", 3)}
    np.testing.assert_array_equal(run(graph_of([*layers, nodes.ArgMax()]), {"x": x})[0]["y"], expected.argmax(-1))


@pytest.mark.parametrize("batch_first", [False, True])
def test_batch_first(batch_first):
    layers = [nodes.Conv1d(4, 3, 2, padding="causal", rng=0, **F64), nodes.MaxPool1d(2, 1, "causal"), nodes.RNN(3, 5, 2, batch_first=batch_first, rng=0, **F64), cgru.GRU(5, 2, batch_first=batch_first, rng=0, **F64), nodes.LastStep(), nodes.Linear(2, 3, rng=0, **F64)]  # fmt: skip
    x = np.random.default_rng(0).standard_normal((6, 2, 4))
    y = run(graph_of(layers), {"x": x.swapaxes(0, 1) if batch_first else x})[0]["y"]
    conv, rnn, gru, head = (filled(theirs, ours) for theirs, ours in [
        (nn.Conv1d(4, 3, 2), layers[0]), (nn.RNN(3, 5, 2), layers[2]), (nn.GRU(5, 2), layers[3]), (nn.Linear(2, 3), layers[5]),
    ])  # fmt: skip
    with torch.no_grad():
        convolved = nn.functional.pad(causal(conv, 1)(torch.from_numpy(x)), (0, 0, 0, 0, 1, 0), value=-np.inf)
        pooled = torch.maximum(convolved[1:], convolved[:-1])
        expected = head(gru(rnn(pooled)[0])[0][-1]).numpy()
    np.testing.assert_allclose(y, expected, atol=1e-10)


# --- Parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (nodes.Linear(50, 400, rng=0), nn.Linear(50, 400)),
        (nodes.Conv1d(16, 64, 5, groups=4, rng=0), nn.Conv1d(16, 64, 5, groups=4)),
        (nodes.Embedding(100, 64, padding_idx=3, rng=0), nn.Embedding(100, 64, padding_idx=3)),
        (nodes.RNN(20, 64, 2, bidirectional=True, rng=0), nn.RNN(20, 64, 2, bidirectional=True)),
        (nodes.PReLU(4, 0.1), nn.PReLU(4, 0.1)),
        (nodes.BatchNorm1d(4), nn.BatchNorm1d(4)),
        (nodes.LayerNorm(4), nn.LayerNorm(4)),
    ],
    ids=repr,
)
def test_drawn_as_torch_draws(ours, theirs):
    torch.manual_seed(0)
    theirs.reset_parameters() if hasattr(theirs, "reset_parameters") else None
    state = {name: array.numpy() for name, array in theirs.state_dict().items() if name != "num_batches_tracked"}
    mine = ours.state_dict()
    assert list(mine) == list(state)
    for name, array in state.items():
        assert (mine[name].shape, mine[name].dtype) == (array.shape, array.dtype)
        if array.size > 1000:
            assert abs(mine[name].std() / array.std() - 1) < 0.05
            assert abs(np.abs(mine[name]).max() / np.abs(array).max() - 1) < 0.25
            assert len(np.unique(mine[name])) > 0.9 * array.size
        elif array.size <= 4:
            np.testing.assert_array_equal(mine[name], array)
    if isinstance(ours, nodes.Embedding):
        assert not mine["weight"][3].any()
    first = next(iter(state))
    ours.load_state_dict({name: array.numpy() for name, array in theirs.state_dict().items()})
    np.testing.assert_array_equal(ours.state_dict()[first], state[first])


def test_parameters_that_are_given():
    weight, bias = np.ones((3, 2), np.float32), np.arange(3, dtype=np.float32)
    layer = nodes.Linear(2, 3, weight=weight, bias=bias)
    weight[:] = 7
    assert layer.state_dict()["weight"].max() == 1
    np.testing.assert_array_equal(run(graph_of([layer]), {"x": np.ones((1, 1, 2))})[0]["y"][0, 0], [2, 3, 4])
    before = graph_of([layer])
    layer.load_state_dict({"weight": weight, "bias": bias})
    np.testing.assert_array_equal(run(before, {"x": np.ones((1, 1, 2))})[0]["y"][0, 0], [2, 3, 4])
    np.testing.assert_array_equal(run(graph_of([layer]), {"x": np.ones((1, 1, 2))})[0]["y"][0, 0], [14, 15, 16])
    same = [nodes.Linear(2, 3, rng=5).state_dict()["weight"] for _ in range(2)]
    np.testing.assert_array_equal(*same)
    around = nodes.Residual([nodes.Linear(3, 3), cgru.GRU(3, 3)])
    state = around.state_dict()
    assert list(state)[:3] == ["0.weight", "0.bias", "1.weight_ih_l0"]
    around.load_state_dict({name: np.full_like(array, 2) for name, array in state.items()})
    assert all((array == 2).all() for array in around.state_dict().values())
    with pytest.raises(ValueError, match=r"missing 0\.bias"):
        around.load_state_dict({name: np.full_like(array, 3) for name, array in state.items() if name != "0.bias"})
    with pytest.raises(ValueError, match=r"1\.bias_hh_l0: expected \(9,\) float32, got \(8,\)"):
        around.load_state_dict(
            {name: np.full_like(array, 3) for name, array in state.items()} | {"1.bias_hh_l0": bias[:1].repeat(8)}
        )
    assert all((array == 2).all() for array in around.state_dict().values())


def test_how_layers_print():
    layers = [
        nodes.Linear(2, 3, bias=False, activation="relu"),
        nodes.Conv1d(2, 3, 5, padding=(4, 0), dtype="float64"),
        nodes.Activation("elu", alpha=0.5),
        nodes.Linear(2, 3, weight=np.ones((3, 2), np.float32), bias=np.ones(3, np.float32)),
        nodes.Residual([nodes.GLU(), cgru.GRU(2, 4)]),
    ]
    assert list(map(repr, layers)) == [
        "Linear(2, 3, bias=False, activation='relu')",
        "Conv1d(2, 3, 5, padding=(4, 0), dtype=float64)",
        "Activation('elu', alpha=0.5)",
        "Linear(2, 3)",
        "Residual((GLU(), GRU(2, 4)))",
    ]


# --- What does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "kind", "message"), [
    (lambda: nodes.Linear(0, 3), ValueError, "in_features: expected an integer from 1"),
    (lambda: nodes.Linear(2, 3.0), TypeError, "out_features: expected an integer"),
    (lambda: nodes.Linear(2, 3, activation="rleu"), ValueError, "activation: expected one of relu, .*, got 'rleu'"),
    (lambda: nodes.Linear(2, 3, activation=3), TypeError, "activation: expected a name"),
    (lambda: nodes.Activation("elu", beta=1.0), ValueError, "activation: expected of 'elu' the parameters alpha, got 'beta'"),
    (lambda: nodes.Activation("elu", alpha="1"), TypeError, "activation: expected alpha as 1.0, got '1'"),
    (lambda: nodes.Linear(2, 3, weight=np.ones((2, 3), np.float32)), ValueError, r"weight: expected \(3, 2\) float32, got \(2, 3\)"),
    (lambda: nodes.Linear(2, 3, bias=np.ones(3)), TypeError, "bias: expected .* float32, got float64"),
    (lambda: nodes.Linear(2, 3, dtype="float16"), TypeError, "dtype: expected float32 or float64"),
    (lambda: nodes.Conv1d(2, 3, 3, stride=2, padding="same"), ValueError, "padding: expected numbers with a stride of 2"),
    (lambda: nodes.Conv1d(2, 3, 3, padding="full"), ValueError, "padding: expected 'valid' or 'same' or 'causal', got 'full'"),
    (lambda: nodes.Conv1d(2, 3, 3, padding=(1, 2, 3)), ValueError, "padding: expected an integer"),
    (lambda: nodes.Conv1d(2, 3, 3, padding_mode="zero"), ValueError, "padding_mode: expected 'zeros'"),
    (lambda: nodes.Conv1d(2, 3, 3, groups=2), ValueError, "groups: expected a divisor of 2 and of 3, got 2"),
    (lambda: nodes.MaxPool1d(2, padding=2), ValueError, "padding: expected at most 1"),
    (lambda: nodes.LayerNorm(4, elementwise_affine=False, weight=np.ones(4, np.float32)), ValueError, "weight: expected None"),
    (lambda: nodes.LayerNorm(4, eps=0), ValueError, "eps: expected a number above 0"),
    (lambda: nodes.Embedding(4, 2, padding_idx=4), ValueError, "padding_idx: expected an integer from -4 to 3"),
    (lambda: nodes.RNN(4, 2, nonlinearity="elu"), ValueError, "nonlinearity: expected 'tanh' or 'relu'"),
    (lambda: nodes.Residual([]), ValueError, "layers: expected one layer or more"),
    (lambda: graph_of([nodes.Linear]), TypeError, r"layers\[0\]: expected a layer of cgru.nodes or a cgru.GRU or cgru.MinGRU"),
    (lambda: graph_of([cgru.GRUCell(2, 3)]), TypeError, r"layers\[0\]: expected a layer .*, got GRUCell"),
    (lambda: graph_of(nodes.Linear(2, 3)), TypeError, "layers: expected a list of layers, got Linear"),
    (lambda: graph_of([nodes.Linear(2, 3), nodes.Linear(4, 5)]), ValueError, r"layers\[1\]: expected a layer of 3 inputs, as the one before it gives, got Linear\(4, 5\)"),
    (lambda: graph_of([nodes.Linear(2, 3), nodes.Residual([nodes.GLU()])]), ValueError, r"layers\[1.0\]: expected an even number of features for GLU\(\), got 3"),
    (lambda: graph_of([nodes.Linear(2, 4), nodes.Residual([nodes.GLU()])]), ValueError, r"layers\[1\]: expected layers that give T, B, 4 as they take it, got \(T, B, 2\)"),
    (lambda: graph_of([nodes.Linear(2, 3), nodes.Embedding(3, 4)]), ValueError, r"layers\[1\]: expected a layer of floating point numbers"),
    (lambda: graph_of([nodes.Embedding(3, 4), nodes.ArgMax(), nodes.Linear(4, 4)]), ValueError, r"layers\[2\]: expected a layer of indices"),
    (lambda: graph_of([nodes.GLU(), nodes.Linear(2, 3)]), ValueError, r"layers: expected one that says how many inputs there are.*got GLU\(\) first"),
    (lambda: graph_of([nodes.Linear(2, 3), nodes.LastStep(), cgru.GRU(3, 4)]), ValueError, r"layers\[2\]: expected sequences for GRU\(3, 4\), got \(B, 3\)"),
    (lambda: graph_of([nodes.Linear(2, 3), nodes.LastStep(), nodes.LastStep()]), ValueError, r"layers\[2\]: expected sequences"),
    (lambda: graph_of([cgru.GRU(2, 3), cgru.GRU(3, 4, batch_first=True)]), ValueError, "layers: expected one batch_first in all layers, got False, True"),
    (lambda: graph_of([cgru.GRU(2, 3), nodes.Linear(3, 4, **F64)]), ValueError, "layers: expected one dtype in all layers, got float32, float64"),
    (lambda: graph_of([cgru.GRU(2, 3).quantize("int8")]), ValueError, r"layers\[0\]: expected a model that is not quantized"),
    (lambda: graph_of([nodes.Linear(2, 3), nodes.Flatten()]), ValueError, r"layers\[1\]: expected axes of known sizes for Flatten\(\), got \(T, B, 3\)"),
    (lambda: graph_of([nodes.Linear(2, 3), nodes.Softmax(0)]), ValueError, r"layers\[1\]: expected Softmax\(dim=0\) along an axis whose size is known"),
    (lambda: graph_of([nodes.Linear(2, 3), nodes.PReLU(2)]), ValueError, r"layers\[1\]: expected a layer of 3 features, or of 1 for all"),
])  # fmt: skip
def test_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        make()
