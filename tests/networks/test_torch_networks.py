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


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.w = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return self.function(x, self.w)


def written(x, w):
    y = x.clone()
    y[:, 1:, :2] = x[:, 1:, 2:] * 2
    y[:, 0] = 1.5
    y.mul_(2).add_(1)
    return torch.relu_(y)


def normed(x, w):
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (
        (x - mean) / torch.sqrt(variance + 1e-2)
        + x.std(-1, keepdim=True)
        + torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    )


def images(x, w):
    """Convolutions and pooling over two axes, features the last one."""
    y = nn.functional.conv2d(
        x[:, None], w[:, :3, None, None].expand(4, 3, 3, 2)[:, :1], stride=(1, 2), padding=(1, 0), dilation=(1, 2)
    )
    y = nn.functional.conv_transpose2d(y, w[:, :, None, None].expand(4, 4, 1, 3), stride=(1, 2), padding=(0, 1))
    y = nn.functional.max_pool2d(y, (2, 1), 1, (1, 0))[:, :, 1:] + nn.functional.avg_pool2d(y, (3, 1), 1, (1, 0))
    return torch.cat([y.flatten(1).mean(1)[:, None], nn.functional.adaptive_avg_pool2d(y, 1)[:, :, 0, 0]], 1)


ACTIVATIONS = [
    nn.LeakyReLU(0.2), nn.ELU(0.7), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Hardswish(), nn.Hardsigmoid(),
    nn.Softplus(2.0), nn.Softplus(), nn.Softsign(), nn.CELU(0.5), nn.SELU(), nn.Mish(), nn.Hardtanh(-0.5, 0.4), nn.ReLU6(),
    nn.Softshrink(0.1), nn.Hardshrink(0.1), nn.Tanhshrink(), nn.LogSigmoid(), nn.Threshold(-0.6, 0.3), nn.Softmax(-1),
    nn.LogSoftmax(-1), nn.Sigmoid(), nn.Softmin(-1), nn.Tanh(), nn.ReLU(), nn.GLU(),
]  # fmt: skip


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


FUNCTIONS = {
    "activations": lambda x, w: torch.cat([layer(x * 2) for layer in ACTIVATIONS], -1),
    "arithmetic": lambda x, w: (2 - x) / (x.abs() + 1.5) * 3 - torch.add(x, w[0], alpha=2) ** 2 + x.exp().log1p().sqrt() - x.square().rsqrt().clamp(max=2),
    "bounds": lambda x, w: x.clamp(-0.5, 0.7) + x.clamp_min(0.1) + torch.maximum(x, w[1]) + torch.minimum(x, -x) + x.sign() + x.floor() + x.ceil() + x.round(),
    "conditions": lambda x, w: torch.where((x > 0) & (x <= 1), x, 0.5) + x.masked_fill(x < -0.3, 2.0) + torch.where(~(x == x), x, w[2]) * (x != 0).double() + ((x >= 0.5) | (x < 0)).to(x.dtype),
    "products": lambda x, w: x @ w + torch.einsum("bti,ij->btj", x, w) + torch.bmm(x, w.expand(x.shape[0], 4, 4)) + nn.functional.linear(x, w.t()) + torch.addmm(w[0], x[:, 0], w)[:, None],
    "parts": lambda x, w: torch.cat([x[..., 1:3], x[:, :, -1:], *x.chunk(2, -1), *x.split([1, 3], -1), *(y.unsqueeze(-1) for y in x.unbind(-1))], -1),
    "shapes": lambda x, w: x.transpose(1, 2).permute(0, 2, 1).unflatten(-1, (2, 2)).movedim(-1, -2).flip(-1).flatten(2).reshape(x.shape[0], x.shape[1], 1, 4).squeeze(2).expand(-1, -1, 4).repeat(1, 1, 2).roll(1, -1),
    "stacked": lambda x, w: torch.stack([x, x * 2], -1).sum(-1) + torch.stack([x, x], 0).amax(0) + x.index_select(-1, torch.tensor([3, 0, 1, 2])) + x[:, :, torch.tensor([1, 1, 0, 2])],
    "reduced": lambda x, w: torch.cat([x.sum(-1, keepdim=True), x.amax(-1, keepdim=True), x.amin(-1, keepdim=True), x.prod(-1, keepdim=True), x.logsumexp(-1, keepdim=True), x.max(-1, keepdim=True)[0], x.norm(dim=-1, keepdim=True), x.argmax(-1, keepdim=True).double(), x.min(-1, keepdim=True).indices.to(x.dtype)], -1),
    "norms": normed,
    "written": written,
    "padded": lambda x, w: nn.functional.pad(x, (1, 2)) + nn.functional.pad(x, (0, 3), value=1.5) + nn.functional.pad(x, (2, 1), mode="replicate") + nn.functional.pad(x, (1, 2), mode="reflect") + nn.functional.pad(x, (3, 3, 2, 0))[:, 2:, 3:10],
    "new": lambda x, w: x + torch.zeros_like(x) + x.new_ones(x.shape[0], 1, 4) * 2 + torch.full((4,), 0.5, dtype=x.dtype) + torch.arange(4) + torch.ones(x.shape[0], x.shape[1], 1, dtype=x.dtype) * torch.tensor(3.0, dtype=x.dtype),
    "divided": lambda x, w: torch.floor_divide(x, 0.3) + torch.remainder(x, 0.7) + torch.div(x, 0.4, rounding_mode="floor") + x.neg().reciprocal().clamp(-3, 3) + x.erf() + 2 * x.sigmoid().log(),
    "more products": lambda x, w: torch.baddbmm(x, x, w.expand(x.shape[0], 4, 4), beta=0.5, alpha=2) + (x @ w[0])[..., None] + torch.mv(w, w[0]) + torch.dot(w[0], w[1]) + (w @ w)[0],
    "more shapes": lambda x, w: x.tile(1, 1, 2).narrow(-1, 2, 4) + x.view_as(x).broadcast_to(x.shape) + x.swapaxes(0, 1).swapaxes(0, 1).contiguous() + x.unsqueeze(-2).squeeze(-2) + x[:, :, 1].unsqueeze(-1) + x.mT.mT.detach(),
    "wholes": lambda x, w: x + w.sum() + w.mean() + w.max() - w.min() + w.prod() + w.argmax() + w.std() + w.var(0) + w.argmin(1),
    "glu": lambda x, w: torch.cat([nn.functional.glu(x, -1), nn.functional.silu(x), nn.functional.hardtanh(x), nn.functional.relu6(x * 5)], -1),
    "images": images,
    "attention": lambda x, w: torch.softmax(x @ x.transpose(1, 2) / 2, -1) @ x,
    "decomposed": lambda x, w: nn.functional.pairwise_distance(x, x * 2, keepdim=True) + torch.addcmul(x, x, x, value=0.5) + nn.functional.softplus(x) + torch.lerp(x, w[0], 0.3),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operators(name):
    module = Of(FUNCTIONS[name]).double()
    graph = network_of(module, torch.randn(3, 6, 4).double(), axes={"x": ("B", "T", None)})
    assert graph.inputs == {"x": ("B", "T", 4)}
    for shape in ((2, 7, 4), (4, 3, 4)):
        compared(graph, module, torch.randn(shape, dtype=torch.float64))


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
