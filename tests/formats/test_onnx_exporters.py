"""ONNX models as exporters write them: PyTorch's two run here; what others write for TensorFlow and Paddle, rebuilt."""

import io

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import cgru

from ..support import onnx_graphs as graphs
from ..support.matrix import thinned
from ..support.options import relative_error

TOLERANCE = 3e-6
node = helper.make_node
FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64


# --- PyTorch ----------------------------------------------------------------------------------------------------------


def exported(module, arguments, dynamo, **more):
    names = ["x", "h0"][: len(arguments)]
    if dynamo:
        return torch.onnx.export(module, arguments, dynamo=True, verbose=False, input_names=names, **more).model_proto
    file = io.BytesIO()
    torch.onnx.export(module, arguments, file, dynamo=False, input_names=names, **more)
    return onnx.load_from_string(file.getvalue())


def equal(gru, module, arguments, **more):
    with torch.no_grad():
        expected = module(*arguments)
    for ours, theirs in zip(gru(*(a.numpy() for a in arguments), **more), expected, strict=True):
        assert relative_error(ours, theirs.numpy()) < TOLERANCE


MODULES = {
    "plain": {},
    "3 layers": {"num_layers": 3, "batch_first": True},
    "both ways": {"num_layers": 2, "bidirectional": True},
    "no bias": {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False},
}


@thinned(3, module=[*MODULES], call=["fixed", "dynamic", "dynamic, with a state"])
@pytest.mark.filterwarnings("ignore")  # torch warns of its own exporter
def test_what_the_newer_exporter_writes(module, call):
    options, dynamic, given_state = MODULES[module], call != "fixed", call.endswith("state")
    module = torch.nn.GRU(4, 6, **options).eval()
    x = torch.randn(3, 5, 4) if module.batch_first else torch.randn(5, 3, 4)
    h0 = torch.randn(module.num_layers * (1 + module.bidirectional), 3, 6)
    arguments = (x, h0) if given_state else (x,)
    free = torch.export.Dim.AUTO
    shapes = ({0: free, 1: free}, {1: free})[: len(arguments)]
    gru = cgru.from_onnx(exported(module, arguments, True, **({"dynamic_shapes": shapes} if dynamic else {})))
    assert repr(gru) == repr(cgru.from_torch(module))
    equal(gru, module, arguments)


class Packed(torch.nn.Module):
    """Sequences of their own lengths through a GRU."""

    def __init__(self, **options):
        super().__init__()
        self.gru = torch.nn.GRU(4, 6, **options)

    def forward(self, x, lengths):
        first = self.gru.batch_first
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=first)
        y, h_n = self.gru(packed)
        return torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=first)[0], h_n


@pytest.mark.parametrize("options", [
    {}, {"batch_first": True}, {"num_layers": 2}, {"num_layers": 2, "bidirectional": True}, {"bidirectional": True, "batch_first": True},
], ids=str)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_packed_sequences(options):
    """The older exporter alone writes them."""
    module, lengths = Packed(**options).eval(), torch.tensor([5, 4, 2])
    x = torch.randn(3, 5, 4) if module.gru.batch_first else torch.randn(5, 3, 4)
    gru = cgru.from_onnx(exported(module, (x, lengths), False))
    assert repr(gru) == repr(cgru.from_torch(module.gru))
    with torch.no_grad():
        expected = module(x, lengths)
    for ours, theirs in zip(gru(x.numpy(), lengths=lengths.numpy()), expected, strict=True):
        assert relative_error(ours, theirs.numpy()) < TOLERANCE


class Around(torch.nn.Module):
    """A network in which a GRU is one part."""

    def __init__(self):
        super().__init__()
        self.before, self.gru, self.after = (
            torch.nn.Linear(3, 4),
            torch.nn.GRU(4, 6, num_layers=2, batch_first=True),
            torch.nn.Linear(6, 2),
        )

    def forward(self, x):
        return self.after(torch.relu(self.gru(torch.relu(self.before(x)))[0]))


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_a_gru_among_other_layers(dynamo):
    module = Around().eval()
    gru = cgru.from_onnx(exported(module, (torch.randn(3, 5, 3),), dynamo))
    expected = cgru.from_torch(module.gru)
    assert (gru.num_layers, gru.reset_after) == (2, True)
    for name, array in expected.state_dict().items():
        np.testing.assert_array_equal(gru.state_dict()[name], array)


# --- TensorFlow -------------------------------------------------------------------------------------------------------


def loops_of_tensorflow(batch_major):
    """A recurrent loop that became a GRU: lengths and a state of zeros from the input's shape, in float32 on the way."""
    arrays = graphs.weights(np.random.default_rng(0)) | {
        "zero": np.zeros((1, 1), np.float32),
        "hidden": np.array([4.0], np.float32),
        "one": np.array([1], np.float32),
    }
    nodes = [node("Transpose", ["X"], ["x"], perm=[1, 0, 2])] if batch_major else [node("Identity", ["X"], ["x"])]
    nodes += [
        node("Shape", ["x"], ["shape"]), node("Cast", ["shape"], ["shape_f"], to=FLOAT),
        node("Slice", ["shape_f"], ["batch_f"], axes=[0], starts=[1], ends=[2]), node("Cast", ["batch_f"], ["batch"], to=INT64),
        node("Slice", ["shape_f"], ["steps_f"], axes=[0], starts=[0], ends=[1]), node("Tile", ["steps_f", "batch"], ["all_f"]),
        node("Cast", ["all_f"], ["lens"], to=INT32),
        node("Concat", ["batch_f", "hidden"], ["state_f"], axis=0), node("Cast", ["state_f"], ["state_shape"], to=INT64),
        node("Tile", ["zero", "state_shape"], ["state"]), node("Unsqueeze", ["state"], ["initial"], axes=[0]),
        node("GRU", ["x", "W", "R", "B", "lens", "initial"], ["Y", "Yh"], name="gru", hidden_size=4, direction="forward", activations=["sigmoid", "Tanh"]),
        node("Squeeze", ["Y"], ["y"], axes=[1]), node("Squeeze", ["Yh"], ["h"], axes=[0]),
        node("Transpose", ["y"], ["out"], perm=[1, 0, 2]) if batch_major else node("Identity", ["y"], ["out"]),
    ]  # fmt: skip
    return graphs.model(nodes, {"X": ([None, None, 3], FLOAT)}, ["out", "h"], arrays, opset=8)


@pytest.mark.parametrize("batch_major", [False, True])
def test_loops_of_tensorflow(batch_major):
    model = loops_of_tensorflow(batch_major)
    gru = cgru.from_onnx(model)
    assert gru.batch_first == batch_major
    x = np.random.default_rng(1).standard_normal((2, 5, 3) if batch_major else (5, 2, 3)).astype(np.float32)
    for ours, theirs in zip(gru(x), graphs.session(model).run(None, {"X": x}), strict=True):
        assert relative_error(ours.reshape(theirs.shape), theirs) < TOLERANCE


def test_two_directions_of_tensorflow():
    """One operator, of whose results each direction's is cut."""
    arrays = graphs.weights(np.random.default_rng(0), directions=2) | {
        "zero": np.zeros((2, 1, 1), np.float32),
        "i": np.array([1]),
    }
    arrays |= {
        "s0": np.array([0]),
        "s1": np.array([1]),
        "s2": np.array([2]),
        "hidden": np.array([4]),
        "two": np.array([2]),
    }
    nodes = [
        node("Shape", ["X"], ["shape"]), node("Slice", ["shape", "s1", "s2"], ["batch"]), node("Concat", ["two", "batch", "hidden"], ["state_shape"], axis=0),
        node("Expand", ["zero", "state_shape"], ["initial"]),
        node("GRU", ["X", *"WRB", "", "initial"], ["Y", "Yh"], name="gru", hidden_size=4, direction="bidirectional", activations=["Sigmoid", "Tanh"] * 2),
        node("Slice", ["Y", "s0", "s1", "i"], ["f"]), node("Slice", ["Y", "s1", "s2", "i"], ["b"]), node("Concat", ["f", "b"], ["fb"], axis=3), node("Squeeze", ["fb", "i"], ["out"]),
    ]  # fmt: skip
    model = graphs.model(nodes, {"X": ([None, None, 3], FLOAT)}, ["out"], arrays)
    x = np.random.default_rng(1).standard_normal((5, 2, 3)).astype(np.float32)
    gru = cgru.from_onnx(model)
    assert gru.bidirectional
    assert relative_error(gru(x)[0], graphs.session(model).run(None, {"X": x})[0]) < TOLERANCE


# --- Paddle -----------------------------------------------------------------------------------------------------------


def stacks_of_paddle(bidirectional, batch_major, state, layers=2, hidden=4):
    """Gates put in order, directions and biases side by side, and each layer's state cut, all by nodes."""
    rng, d = np.random.default_rng(0), 1 + bidirectional
    arrays, nodes, x = {"a0": np.array([0]), "a1": np.array([1])}, [], "X"
    arrays |= (
        {f"at{k}": np.array([k * hidden]) for k in range(4)}
        | {f"l{k}": np.array([k * d]) for k in range(3)}
        | {"merge": np.array([0, 0, -1])}
    )
    if batch_major:
        nodes.append(node("Transpose", ["X"], ["x"], perm=[1, 0, 2]))
        x = "x"
    if state == "zeros":
        arrays |= {"ld": np.array([layers * d]), "h": np.array([hidden])}
        nodes += [node("Shape", [x], ["s"]), node("Slice", ["s", "a1", "two", "a0"], ["batch"]), node("Concat", ["ld", "batch", "h"], ["all"], axis=0),
                  node("ConstantOfShape", ["all"], ["H0"], value=helper.make_tensor("v", FLOAT, [1], [0.0]))]  # fmt: skip
        arrays["two"] = np.array([2])
    for k in range(layers):
        for part, shape in (("wi", (12, d * hidden if k else 3)), ("wh", (12, hidden)), ("bi", (12,)), ("bh", (12,))):
            names = [f"{part}{k}{end}" for end in range(d)]
            arrays |= {name: rng.uniform(-0.7, 0.7, shape).astype(np.float32) for name in names}
            nodes += [node("Unsqueeze", [name, "a0"], [f"{name}u"]) for name in names]
            nodes.append(node("Concat", [f"{name}u" for name in names], [f"{part}{k}c"], axis=0))
            nodes += [
                node("Slice", [f"{part}{k}c", f"at{i}", f"at{i + 1}", "a1"], [f"{part}{k}g{i}"]) for i in range(3)
            ]
            nodes.append(node("Concat", [f"{part}{k}g{i}" for i in (1, 0, 2)], [f"{part}{k}"], axis=1))
        nodes += [
            node("Concat", [f"bi{k}", f"bh{k}"], [f"b{k}"], axis=1), node("Slice", ["H0", f"l{k}", f"l{k + 1}", "a0"], [f"h{k}"]),
            node("GRU", [x, f"wi{k}", f"wh{k}", f"b{k}", "", f"h{k}"], [f"Y{k}", f"Yh{k}"], hidden_size=hidden, linear_before_reset=1,
                 direction="bidirectional" if bidirectional else "forward"),
            node("Transpose", [f"Y{k}"], [f"t{k}"], perm=[0, 2, 1, 3]), node("Reshape", [f"t{k}", "merge"], [f"y{k}"]),
        ]  # fmt: skip
        x = f"y{k}"
    nodes.append(node("Transpose", [x], ["out"], perm=[1, 0, 2]) if batch_major else node("Identity", [x], ["out"]))
    inputs = {"X": ([None, None, 3], FLOAT)} | ({"H0": ([layers * d, None, hidden], FLOAT)} if state == "given" else {})
    return graphs.model(nodes, inputs, ["out"], arrays)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_major", [False, True])
@pytest.mark.parametrize("state", ["given", "zeros"])
def test_stacks_of_paddle(bidirectional, batch_major, state):
    rng, d, layers, hidden = np.random.default_rng(1), 1 + bidirectional, 2, 4
    model = stacks_of_paddle(bidirectional, batch_major, state, layers, hidden)
    gru = cgru.from_onnx(model)
    assert (gru.num_layers, gru.bidirectional, gru.batch_first) == (layers, bidirectional, batch_major)
    feed = {"X": rng.standard_normal((2, 5, 3) if batch_major else (5, 2, 3)).astype(np.float32)}
    if state == "given":
        feed["H0"] = rng.uniform(-1, 1, (layers * d, 2, hidden)).astype(np.float32)
    y, _ = gru(feed["X"], feed.get("H0"))
    assert relative_error(y, graphs.session(model).run(None, feed)[0]) < TOLERANCE
