"""PyTorch modules as networks: Sequentials by their layers, other modules by torch.export, compared with PyTorch."""

import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import cgru
from cgru.formats.aten import network_of
from cgru.model.interpret import run
from cgru.model.stepping import Stream

from .test_exporters import Convolutions, Dense, Frame, Grouped


def randomized(module, seed=0):
    """Parameters and statistics that are no defaults, in float64."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5) if "var" in name else tensor.uniform_(-0.6, 0.6)
    return module.double().eval()


def called(module, *inputs):
    with torch.no_grad():
        results = module(*inputs)
    results = results if isinstance(results, (tuple, list)) else [results]
    return [result.numpy() for result in results]


def compared(graph, module, *inputs, tolerance=1e-10):
    outputs, _ = run(graph, {name: x.numpy() for name, x in zip(graph.inputs, inputs, strict=True)})
    expected = called(module, *inputs)
    assert len(outputs) == len(expected)
    for (name, got), wanted in zip(outputs.items(), expected, strict=True):
        assert got.dtype == wanted.dtype, name
        np.testing.assert_allclose(got, wanted, atol=tolerance, err_msg=name)
    return expected


def streamed(graph, x, expected, axis):
    """Compare frames of a stream with a whole output; x and it have time as that axis."""
    stream = Stream(graph, batch_size=x.shape[1 - axis])
    steps = [stream.step({"x": x.numpy().take(t, axis)})["y"] for t in range(x.shape[axis])]
    got = np.concatenate([np.stack(steps, axis), stream.flush()["y"]], axis)
    np.testing.assert_allclose(np.split(got, [stream.delay], axis)[1], expected, atol=1e-10)
    return stream


# --- Sequentials ------------------------------------------------------------------------------------------------------

TIME_FIRST, BATCH_FIRST, CHANNELS = ("T", "B", 5), ("B", "T", 5), ("B", 5, "T")

CHAINS = {
    "dense": (TIME_FIRST, lambda: [nn.Linear(5, 7), nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, 4, bias=False), nn.LayerNorm(4, eps=0.1), nn.Identity()]),
    "gru": (TIME_FIRST, lambda: [nn.Linear(5, 7), nn.GRU(7, 4, num_layers=2), nn.Sequential(nn.Linear(4, 3), nn.Tanh())]),
    "batch first": (BATCH_FIRST, lambda: [nn.LayerNorm(5), nn.GRU(5, 4, batch_first=True, bias=False), nn.RNN(4, 3, batch_first=True)]),
    "rnn": (TIME_FIRST, lambda: [nn.RNN(5, 4, num_layers=2, nonlinearity="relu"), nn.RNN(4, 3, bias=False)]),
    "causal": (CHANNELS, lambda: [nn.ConstantPad1d((4, 0), 0.0), nn.Conv1d(5, 6, 3, dilation=2), nn.BatchNorm1d(6, eps=0.1), nn.PReLU(6), nn.Conv1d(6, 6, 4, padding="same", groups=3), nn.GLU(dim=1)]),
}  # fmt: skip


class Heads(nn.Module):
    """A Sequential as `network_of` understands it: recurrent layers hand on their sequence."""

    def __init__(self, chain):
        super().__init__()
        self.chain = chain

    def forward(self, x):
        for layer in self.chain:
            x = Heads(layer)(x) if isinstance(layer, nn.Sequential) else layer(x)
            x = x[0] if isinstance(x, tuple) else x
        return x


@pytest.mark.parametrize("name", CHAINS)
def test_sequentials_without_an_example(name):
    shape, layers = CHAINS[name]
    module = randomized(nn.Sequential(*layers()))
    graph = network_of(module)
    assert graph.inputs == {"x": shape}
    assert list(graph.outputs) == ["y"]
    x = torch.randn([{"T": 9, "B": 3}.get(size, size) for size in shape], dtype=torch.float64)
    (expected,) = compared(graph, Heads(module), x)
    if shape != CHANNELS:
        streamed(graph, x, expected, shape.index("T"))
    else:
        stream = Stream(graph, batch_size=3)
        steps = np.stack([stream.step({"x": x.numpy()[:, :, t]})["y"] for t in range(9)], 2)
        steps = np.concatenate([steps, stream.flush()["y"]], 2)[:, :, stream.delay :]
        np.testing.assert_allclose(steps, expected, atol=1e-10)


@pytest.mark.parametrize(("layers", "shape", "inputs"), [
    (lambda: [nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)], (3, 5), ("B", 5)),
    (lambda: [nn.GRU(5, 3, bidirectional=True, num_layers=2)], (7, 2, 5), TIME_FIRST),
    (lambda: [nn.RNN(5, 3, bidirectional=True, num_layers=2, batch_first=True)], (2, 7, 5), BATCH_FIRST),
    (lambda: [nn.Conv1d(5, 4, 3, stride=2), nn.MaxPool1d(2), nn.AvgPool1d(3, 1), nn.ConvTranspose1d(4, 3, 3, stride=2), nn.InstanceNorm1d(3, eps=0.1, affine=True), nn.GroupNorm(3, 3, eps=0.1)], (2, 5, 40), CHANNELS),
    (lambda: [nn.InstanceNorm1d(5), nn.GroupNorm(1, 5, affine=False), nn.AdaptiveAvgPool1d(1)], (2, 5, 40), CHANNELS),
    (lambda: [nn.Conv1d(5, 3, 4), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(3, 2)], (2, 5, 40), CHANNELS),
])  # fmt: skip
def test_sequentials_that_run_whole(layers, shape, inputs):
    module = randomized(nn.Sequential(*layers()))
    graph = network_of(module)
    assert graph.inputs == {"x": inputs}
    compared(graph, Heads(module), torch.randn(shape, dtype=torch.float64))


def test_indices():
    module = randomized(nn.Sequential(nn.Embedding(9, 4, padding_idx=0), nn.GRU(4, 3, batch_first=True)))
    graph = network_of(module)
    assert graph.inputs == {"x": ("B", "T")}
    assert graph.types["x"] == np.int64
    compared(graph, Heads(module), torch.randint(0, 9, (2, 6)))


class Take(nn.Module):
    """What people put behind a GRU in a Sequential."""

    def forward(self, x):
        return x[0]


@pytest.mark.parametrize("inner", [False, True])
def test_a_sequential_that_takes_the_sequence_itself(inner):
    layers = [nn.GRU(4, 3), nn.Sequential(Take(), nn.Linear(3, 5)), nn.GRU(5, 2), Take()]
    layers = [nn.Sequential(layers[0]), *layers[1:]] if inner else layers
    module = randomized(nn.Sequential(*layers))
    compared(network_of(module), module, torch.randn(5, 2, 4, dtype=torch.float64))


def test_one_layer_alone():
    gru = nn.GRU(4, 3).double()
    graph = network_of(gru)
    compared(graph, Heads([gru]), torch.randn(5, 2, 4, dtype=torch.float64))
    assert gru.training


def test_an_example_of_a_sequential():
    module = randomized(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)))
    graph = network_of(module, np.zeros((2, 3, 4)))
    assert graph.inputs == {"x": ("B", 3, 4)}
    compared(graph, module, torch.randn(5, 3, 4, dtype=torch.float64))
    fixed = network_of(
        randomized(nn.Sequential(nn.GRU(5, 4))), torch.zeros(6, 1, 5).double(), axes={"x": ("T", None, None)}
    )
    assert fixed.inputs == {"x": ("T", 1, 5)}


# --- By torch.export --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Dense, Convolutions, Grouped])
@pytest.mark.parametrize("axes", [None, {"x": ("B", "T", None)}, {"x": {0: "B", 1: "T"}}])
def test_modules_over_time(make, axes):
    module = randomized(make())
    graph = network_of(module, torch.randn(3, 6, 5).double(), axes=axes)
    assert graph.inputs == {"x": BATCH_FIRST}
    assert all(len(node.inputs[1]) == 0 for node in graph.nodes if node.operator == "cgru.Stack")  # no states of zeros
    x = torch.randn(2, 9, 5, dtype=torch.float64)
    (expected,) = compared(graph, module, x)
    stream = streamed(graph, x, expected, 1)
    assert stream.delay == (make is Convolutions)


def test_frames_with_caches():
    """Assignments to slices, and states that are found by their names."""
    module = randomized(Frame())
    frame, caches = (
        torch.randn(1, 2, 1, 9).double(),
        [torch.zeros(1, 1, 2, 2, 9).double(), torch.zeros(1, 5, 4).double()],
    )
    graph = network_of(module, (frame, *caches), axes={}, output_names=["enh", "conv_cache_out", "inter_cache_out"])
    assert graph.kind == "frame"
    assert graph.states == {"conv_cache": "conv_cache_out", "inter_cache": "inter_cache_out"}
    states = None
    for _ in range(4):
        frame = torch.randn(1, 2, 1, 9).double()
        expected, *caches = called(module, frame, *map(torch.as_tensor, caches))
        outputs, states = run(graph, {"mix": frame.numpy()}, states)
        np.testing.assert_allclose(outputs["enh"], expected, atol=1e-10)
        for cache, name in zip(caches, graph.states, strict=True):
            np.testing.assert_allclose(states[name], cache, atol=1e-10)


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.rnn = nn.GRUCell(4, 3), nn.RNNCell(3, 3, nonlinearity="relu")

    def forward(self, x, h, g):
        h = self.gru(x, h)
        return {"y": h * 2, "h_out": h, "g_out": self.rnn(h, g)}


def test_cells_and_dicts():
    module = randomized(Cells())
    inputs = [torch.randn(2, size, dtype=torch.float64) for size in (4, 3, 3)]
    graph = network_of(module, tuple(inputs))
    assert graph.inputs == {"x": ("B", 4)}
    assert graph.states == {"h": "h_out", "g": "g_out"}
    results, states = run(
        graph, {"x": inputs[0].numpy()}, dict(zip("hg", (x.numpy() for x in inputs[1:]), strict=True))
    )
    with torch.no_grad():
        expected = module(*inputs)
    np.testing.assert_allclose(results["y"], expected["y"].numpy(), atol=1e-10)
    np.testing.assert_allclose(states["g"], expected["g_out"].numpy(), atol=1e-10)


class Given(nn.Module):
    """Recurrent layers with states that are inputs and outputs."""

    def __init__(self, batch_first):
        super().__init__()
        self.gru = nn.GRU(4, 3, num_layers=2, bidirectional=True, batch_first=batch_first)
        self.rnn = nn.RNN(6, 2, num_layers=2, bidirectional=True, batch_first=batch_first, nonlinearity="relu")

    def forward(self, x, h, g):
        y, h_n = self.gru(x, h)
        z, g_n = self.rnn(y, g)
        return y, z, h_n, g_n


@pytest.mark.parametrize("batch_first", [False, True])
def test_states_that_are_given(batch_first):
    module = randomized(Given(batch_first))
    axes = {"x": ("B", "T", None) if batch_first else ("T", "B", None), "h": (None, "B", None), "g": (None, "B", None)}
    example = torch.zeros(3, 3, 4).double(), torch.zeros(4, 3, 3).double(), torch.zeros(4, 3, 2).double()
    graph = network_of(module, example, axes=axes, states={})
    assert graph.inputs == {"x": (*axes["x"][:2], 4), "h": (4, "B", 3), "g": (4, "B", 2)}
    shapes = ((2, 5, 4) if batch_first else (5, 2, 4), (4, 2, 3), (4, 2, 2))
    compared(graph, module, *(torch.randn(shape, dtype=torch.float64) for shape in shapes))


def test_the_module_stays_as_it_was():
    module = Dense()
    module.before[0].eval()
    flags = [part.training for part in module.modules()]
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    network_of(module, torch.randn(2, 6, 5))
    assert [part.training for part in module.modules()] == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert module.eval()(torch.randn(3, 4, 5)).shape == (3, 4, 5)
    x = torch.randn(3, 7, 5)  # and torch.export follows GRUs as before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of GRUs, from torch itself
        program = torch.export.export(module, (x,))
    torch.testing.assert_close(program.module()(x), module(x))
    assert network_of(module, x).outputs == {"y": ("B", "T", 5)}


def test_names_and_fixed_axes():
    class Two(nn.Module):
        def forward(self, mix, emb):
            return mix * emb, mix.sum(-1)

    graph = network_of(
        Two(), (torch.zeros(2, 6, 3), torch.zeros(1, 1, 3)), axes={"mix": ("B", "T", None)}, input_names=["mix", "e"]
    )
    assert graph.inputs == {"mix": ("B", "T", 3), "e": (1, 1, 3)}
    assert graph.outputs == {"y0": ("B", "T", 3), "y1": ("B", "T")}
    graph = network_of(
        Two(), (torch.zeros(1, 1, 3), torch.zeros(1, 1, 3)), axes={"mix": ("B", "T", None)}, output_names="ab"
    )
    assert graph.outputs == {"a": ("B", "T", 3), "b": ("B", "T")}
    assert network_of(Two(), (torch.zeros(1, 6, 3), torch.zeros(6, 3))).inputs == {
        "mix": (1, "B", "T"),
        "emb": ("B", "T"),
    }


# --- What is refused --------------------------------------------------------------------------------------------------


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.w = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return self.function(x, self.w)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.count += 1
        return x + self.count


@pytest.mark.parametrize(("module", "message"), [
    (nn.Sequential(nn.LSTM(4, 3)), r"Sequential: lstm\.input: .*LSTM layers are not built yet"),
    (Of(lambda x, w: torch.fft.fft(x).real + torch.cumsum(x, 1)), r"Of: expected operators .*_fft_r2c.default \(\w+\); .*cumsum.default \(\w+\).*torch\.onnx\.export"),
    (Of(lambda x, w: x if x.sum() > 0 else -x), r"Of: expected a module that torch\.export can follow, got .*torch\.onnx\.export"),
    (Of(lambda x, w: nn.functional.dropout(x, 0.5)), r"dropout\.default 'dropout': expected dropout with training=self\.training"),
    (Of(lambda x, w: x[x > 0]), r"Of: .*expected"),
    (Of(lambda x, w: x.half() + 1), r"expected float32, .*got float16"),
    (Of(lambda x, w: 3), r"expected a module that returns tensors"),
    (Counting(), r"Counting: expected a module that leaves its buffers and inputs as they are, got .*count"),
    (nn.BatchNorm1d(6, track_running_stats=False), r"batch_norm.*: expected statistics that training kept"),
])  # fmt: skip
def test_modules_that_are_refused(module, message):
    with pytest.raises(cgru.FormatError, match="(?s)" + message):
        network_of(module, torch.randn(3, 6, 4))


def test_arguments_that_are_refused():
    x = torch.randn(3, 6, 5)
    for error, message, module, options in [
        (TypeError, "module: expected a torch.nn.Module, got dict", {}, {}),
        (TypeError, "example: expected an input for Dense, which is no torch.nn.Sequential, got None", Dense(), {}),
        (TypeError, "example: expected an input, since the Sequential's first layer", nn.Sequential(nn.Tanh(), nn.Conv2d(1, 1, 1)), {}),
        (TypeError, "example: expected tensors or arrays, got str as input 0", Dense(), {"example": "x"}),
        (ValueError, "axes: expected inputs' names x, got z", Dense(), {"example": x, "axes": {"z": "BTF"}}),
        (ValueError, "axes: x: expected a name or None for each of 3 axes", Dense(), {"example": x, "axes": {"x": "BT"}}),
        (ValueError, "input_names: expected 1 different names", Dense(), {"example": x, "input_names": ["a", "b"]}),
        (ValueError, "output_names: expected 1 different names", Dense(), {"example": x, "output_names": ["x"]}),
        (cgru.FormatError, "axes: x: expected axis 2 to be dynamic ('F'), but the module fixes its size to 5", Dense(), {"example": x, "axes": {"x": "BTF"}}),
        (cgru.FormatError, "give an example= of the input", nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(9, 2)), {}),
    ]:  # fmt: skip
        with pytest.raises(error, match=re.escape(message)):
            network_of(module, **options)
