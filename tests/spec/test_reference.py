"""The specification against others: torch, ONNX Runtime, and the textbook's equations written out here once more."""

import itertools

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from cgru import reference

from ..support.options import relative_error


def random_parameters(rng, inputs, hidden, layers=1, directions=1, bias=True):
    parameters = {}
    for layer in range(layers):
        for suffix in ["", "_reverse"][:directions]:
            size = inputs if layer == 0 else directions * hidden
            parameters[f"weight_ih_l{layer}{suffix}"] = rng.uniform(-0.5, 0.5, (3 * hidden, size))
            parameters[f"weight_hh_l{layer}{suffix}"] = rng.uniform(-0.5, 0.5, (3 * hidden, hidden))
            if bias:
                parameters[f"bias_ih_l{layer}{suffix}"] = rng.uniform(-0.5, 0.5, 3 * hidden)
                parameters[f"bias_hh_l{layer}{suffix}"] = rng.uniform(-0.5, 0.5, 3 * hidden)
    return parameters


@pytest.mark.parametrize(
    ("layers", "bidirectional", "bias", "ragged"), list(itertools.product([1, 3], *[[False, True]] * 3))
)
def test_equals_torch(layers, bidirectional, bias, ragged):
    rng = np.random.default_rng(1)
    directions = 2 if bidirectional else 1
    parameters = random_parameters(rng, 5, 7, layers, directions, bias)
    x, h0 = rng.standard_normal((9, 4, 5)), rng.uniform(-1, 1, (layers * directions, 4, 7))
    lengths = np.array([9, 2, 5, 1]) if ragged else None
    module = torch.nn.GRU(5, 7, layers, bias, bidirectional=bidirectional, dtype=torch.float64)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in parameters.items()})
    with torch.no_grad():
        given = torch.from_numpy(x)
        if ragged:
            given = torch.nn.utils.rnn.pack_padded_sequence(given, torch.from_numpy(lengths), enforce_sorted=False)
        y_torch, h_torch = module(given, torch.from_numpy(h0))
        if ragged:
            y_torch, _ = torch.nn.utils.rnn.pad_packed_sequence(y_torch, total_length=9)
    y, h_n = reference.forward(x, parameters, h0, lengths=lengths)
    assert relative_error(y, y_torch.numpy()) < 1e-13
    assert relative_error(h_n, h_torch.numpy()) < 1e-13


ONNX_NAMES = {
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "relu": "Relu",
    "hard_sigmoid": "HardSigmoid",
    "softsign": "Softsign",
    "softplus": "Softplus",
    "elu": "Elu",
    "leaky_relu": "LeakyRelu",
    "thresholded_relu": "ThresholdedRelu",
    "scaled_tanh": "ScaledTanh",
    "affine": "Affine",
}


def onnx_forward(x, parameters, h0, directions, lengths, activation, recurrent_activation, reset_after, clip):
    """One layer by ONNX Runtime, in float32; activations as (name, alpha, beta)."""
    hidden = h0.shape[2]

    def stack(name):
        parts = []
        for suffix in ["", "_reverse"][:directions]:
            r, z, n = np.split(parameters[name + suffix], 3)
            parts.append(np.concatenate([z, r, n]))
        return np.stack(parts).astype(np.float32)

    weights = {
        "W": stack("weight_ih_l0"),
        "R": stack("weight_hh_l0"),
        "B": np.concatenate([stack("bias_ih_l0"), stack("bias_hh_l0")], axis=1),
        "S": np.asarray(lengths, np.int32),
        "H0": h0.astype(np.float32),
    }
    used = [recurrent_activation, activation] * directions
    attributes = {
        "hidden_size": hidden,
        "direction": ["forward", "bidirectional"][directions - 1],
        "linear_before_reset": int(reset_after),
        "activations": [ONNX_NAMES[name] for name, *_ in used],
        "activation_alpha": [float(alpha) for name, alpha, _ in used if name in TAKES_ALPHA],
        "activation_beta": [float(beta) for name, _, beta in used if name in TAKES_BETA],
    }
    attributes["clip"] = clip
    attributes = {name: value for name, value in attributes.items() if value not in (None, [])}
    node = helper.make_node("GRU", ["X", "W", "R", "B", "S", "H0"], ["Y", "Y_h"], **attributes)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "gru",
        [info("X", TensorProto.FLOAT, x.shape)],
        [info("Y", TensorProto.FLOAT, None), info("Y_h", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    y, h_n = session.run(None, {"X": x.astype(np.float32)})  # (T, D, B, H), (D, B, H)
    return np.concatenate(list(np.moveaxis(y, 1, 0)), axis=-1), h_n


# Values are listed for the functions that take them only, in the functions' order.
TAKES_ALPHA = ["hard_sigmoid", "elu", "leaky_relu", "thresholded_relu", "scaled_tanh", "affine"]
TAKES_BETA = ["hard_sigmoid", "scaled_tanh", "affine"]
FUNCTIONS = [
    ("tanh", 0, 0),
    ("sigmoid", 0, 0),
    ("relu", 0, 0),
    ("hard_sigmoid", 0.2, 0.5),
    ("softsign", 0, 0),
    ("softplus", 0, 0),
    ("elu", 0.7, 0),
    ("leaky_relu", 0.1, 0),
    ("thresholded_relu", 0.05, 0),
    ("scaled_tanh", 0.9, 0.7),
    ("affine", 0.6, 0.1),
]


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("clip", [None, 0.4])
@pytest.mark.parametrize(
    ("activation", "recurrent_activation"),
    [(f, FUNCTIONS[1]) for f in FUNCTIONS] + [(FUNCTIONS[0], g) for g in FUNCTIONS],
    ids=lambda f: f[0],
)
def test_equals_onnxruntime(reset_after, directions, clip, activation, recurrent_activation):
    rng = np.random.default_rng(2)
    parameters = random_parameters(rng, 4, 6, 1, directions)
    parameters = {name: array.astype(np.float32).astype(np.float64) for name, array in parameters.items()}
    x = rng.standard_normal((5, 3, 4)).astype(np.float32)
    h0 = rng.uniform(-1, 1, (directions, 3, 6)).astype(np.float32)
    lengths = [5, 2, 4]
    expected = onnx_forward(x, parameters, h0, directions, lengths, activation, recurrent_activation, reset_after, clip)
    result = reference.forward(
        x.astype(np.float64),
        parameters,
        h0.astype(np.float64),
        lengths=lengths,
        reset_after=reset_after,
        activation=activation,
        recurrent_activation=recurrent_activation,
        clip=clip,
    )
    for ours, theirs in zip(result, expected, strict=True):
        assert relative_error(theirs, ours) < 2e-6


@pytest.mark.parametrize("flip", [False, True])
def test_equals_the_textbook(flip):
    """r = s(Wr [h, x]), z = s(Wz [h, x]), n = tanh(W [r * h, x]), h' = (1 - z) h + z n, number by number."""
    rng = np.random.default_rng(3)
    inputs, hidden = 3, 4
    W_r, W_z, W_n = rng.standard_normal((3, hidden, hidden + inputs))
    xs, h = rng.standard_normal((6, inputs)), rng.standard_normal(hidden)
    parameters = {
        "weight_ih_l0": np.concatenate([W[:, hidden:] for W in (W_r, W_z, W_n)]),
        "weight_hh_l0": np.concatenate([W[:, :hidden] for W in (W_r, W_z, W_n)]),
    }
    update_gate = "candidate" if flip else "state"
    y, _ = reference.forward(xs[:, None], parameters, h[None, None], reset_after=False, update_gate=update_gate)
    for t, x in enumerate(xs):
        new = []
        r = [1 / (1 + np.exp(-sum(W_r[j, k] * v for k, v in enumerate([*h, *x])))) for j in range(hidden)]
        for j in range(hidden):
            z = 1 / (1 + np.exp(-sum(W_z[j, k] * v for k, v in enumerate([*h, *x]))))
            n = np.tanh(sum(W_n[j, k] * v for k, v in enumerate([*(r * h), *x])))
            new.append((1 - z) * h[j] + z * n if flip else (1 - z) * n + z * h[j])
        h = np.array(new)
        np.testing.assert_allclose(y[t, 0], h, rtol=0, atol=1e-14)
