"""Files of Keras 1 and 2, written by hand in their layouts, beside these layers' equations in NumPy."""

import itertools
import json
import re

import h5py
import numpy as np
import pytest

import cgru

from ..support.keras_models import KERAS_WARNINGS
from ..support.options import relative_error

pytestmark = pytest.mark.filterwarnings(*KERAS_WARNINGS)
X = np.random.default_rng(7).standard_normal((3, 6, 4)).astype(np.float32)  # (B, T, I)
FUNCTIONS = {
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
}


def random(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.uniform(-0.6, 0.6, shape).astype(np.float32) for shape in shapes]


def states(x, gate, candidate, step):
    """h of every step: step(x, h) gives z, r, and what the candidate's function is of, for a given r."""
    h, result = np.zeros((len(x), 5)), []
    for t in range(x.shape[1]):
        z, r, inner = step(x[:, t].astype(np.float64), h)
        h = gate(z) * h + (1 - gate(z)) * candidate(inner(gate(r)))
        result.append(h)
    return np.stack(result, 1)


def of_keras_1(x, arrays, gate="hard_sigmoid", candidate="tanh"):
    """The GRU of Keras 1 and 2.0, its arrays a gate; it resets before the product."""
    w_z, u_z, b_z, w_r, u_r, b_r, w_h, u_h, b_h = arrays

    def step(x, h):
        return x @ w_z + b_z + h @ u_z, x @ w_r + b_r + h @ u_r, lambda r: x @ w_h + b_h + (r * h) @ u_h

    return states(x, FUNCTIONS[gate], FUNCTIONS[candidate], step)


def of_cudnn(x, kernel, recurrent, bias):
    """CuDNNGRU: cuDNN reads the numbers of each gate, z, r, h, one after the other, as rows of (H, I) and (H, H)."""
    w = [gate.ravel().reshape(5, -1) for gate in np.split(kernel, 3, 1)]
    u = [gate.ravel().reshape(5, 5) for gate in np.split(recurrent, 3, 1)]
    b, c = np.split(bias[:15], 3), np.split(bias[15:], 3)

    def step(x, h):
        z, r, n = (x @ w[k].T + b[k] for k in range(3))
        of_z, of_r, of_n = (h @ u[k].T + c[k] for k in range(3))
        return z + of_z, r + of_r, lambda r: n + r * of_n

    return states(x, FUNCTIONS["sigmoid"], np.tanh, step)


def write(path, version, tree, groups, alone=False):
    """A file of named groups of named arrays."""
    with h5py.File(path, "w") as file:
        if version:
            file.attrs["keras_version"] = version.encode()
        if not alone:
            file.attrs["model_config"] = json.dumps(tree).encode()
        weights = file if alone else file.create_group("model_weights")
        weights.attrs["layer_names"] = [name.encode() for name in groups]
        for name, arrays in groups.items():
            group = weights.create_group(name)
            group.attrs["weight_names"] = [key.encode() for key in arrays]
            for key, array in arrays.items():
                group[key] = array
    return path


def sequential(*layers):
    """As a list, which it was before Keras 2.2.3."""
    return {"class_name": "Sequential", "config": [{"class_name": kind, "config": config} for kind, config in layers]}


# --- Keras 1 ----------------------------------------------------------------------------------------------------------

GATES = [f"{field}_{gate}" for gate in "zrh" for field in "WUb"]
SHAPES = [(4, 5), (5, 5), (5,)] * 3
OLD = {
    "name": "gru_1", "output_dim": 5, "init": "glorot_uniform", "inner_init": "orthogonal", "activation": "tanh",
    "inner_activation": "hard_sigmoid", "return_sequences": True, "go_backwards": False, "stateful": False,
    "unroll": False, "consume_less": "cpu", "dropout_W": 0.0, "dropout_U": 0.0, "input_dim": 4, "input_length": None,
    "batch_input_shape": [None, None, 4],
}  # fmt: skip


def named(arrays, layer="gru_1", end=":0"):
    return {f"{layer}_{field}{end}": array for field, array in zip(GATES, arrays, strict=True)}


@pytest.mark.parametrize("end", ["", ":0", "_1:0"])
@pytest.mark.parametrize("version", ["1.2.2", "1.0.5", None])
def test_keras_1(version, end, tmp_path):
    arrays = random(1, *SHAPES)
    path = write(tmp_path / "m.h5", version, sequential(("GRU", OLD)), {"gru_1": named(arrays, end=end)})
    gru = cgru.load(path)
    assert (gru.reset_after, gru.recurrent_activation, gru.batch_first) == (False, "hard_sigmoid", True)
    assert relative_error(gru(X)[0], of_keras_1(X, arrays)) < 1e-6


def test_keras_1_gates_together(tmp_path):
    arrays = random(2, *SHAPES)
    together = [np.concatenate(arrays[k::3], -1) for k in range(3)]
    config = {**OLD, "consume_less": "gpu", "inner_activation": "sigmoid", "activation": "relu"}
    groups = {"gru_1": {f"gru_1_{field}": array for field, array in zip("WUb", together, strict=True)}}
    gru = cgru.load(write(tmp_path / "m.h5", "1.2.0", sequential(("GRU", config)), groups))
    assert relative_error(gru(X)[0], of_keras_1(X, arrays, "sigmoid", "relu")) < 1e-6


def test_keras_1_defaults(tmp_path):
    """A configuration written by hand may leave out what the constructor knows."""
    arrays = random(3, *SHAPES)
    path = write(tmp_path / "w.h5", None, None, {"gru_1": named(arrays)}, alone=True)
    for config in (
        {"name": "gru_1", "output_dim": 5},
        json.dumps(sequential(("GRU", {"name": "gru_1", "output_dim": 5}))),
    ):
        if isinstance(config, str):
            config = {**json.loads(config), "keras_version": "1.2.2"}
        assert relative_error(cgru.load(path, config=config)(X)[0], of_keras_1(X, arrays)) < 1e-6


@pytest.mark.parametrize("functional", [False, True])
def test_keras_1_stacks(functional, tmp_path):
    first, second = random(4, *SHAPES), random(5, *[(5, 5), (5, 5), (5,)] * 3)
    layers = [
        ("GRU", OLD),
        ("Dropout", {"name": "dropout_1", "p": 0.25}),
        ("GRU", {**OLD, "name": "gru_2", "return_sequences": False}),
    ]
    tree = sequential(*layers)
    if functional:
        nodes = [{"class_name": kind, "config": config, "name": config["name"]} for kind, config in layers]
        for node, before in zip(nodes, ["input_1", "gru_1", "dropout_1"], strict=True):
            node["inbound_nodes"] = [[[before, 0, 0]]]
        tree = {"class_name": "Model", "config": {"name": "model_1", "layers": nodes}}
    groups = {"gru_1": named(first), "dropout_1": {}, "gru_2": named(second, "gru_2")}
    gru = cgru.load(write(tmp_path / "m.h5", "1.2.2", tree, groups))
    assert (gru.num_layers, gru.dropout) == (2, 0.25)
    assert relative_error(gru(X)[0], of_keras_1(of_keras_1(X, first), second)) < 1e-6


def test_keras_1_wrappers(tmp_path):
    forward, backward = random(6, *SHAPES), random(7, *SHAPES)
    wrapped = {"name": "both", "merge_mode": "concat", "layer": {"class_name": "GRU", "config": OLD}}
    arrays = named(forward, "forward_gru_1") | named(backward, "backward_gru_1")
    gru = cgru.load(write(tmp_path / "m.h5", "1.2.2", sequential(("Bidirectional", wrapped)), {"both": arrays}))
    expected = [of_keras_1(X, forward), of_keras_1(X[:, ::-1], backward)[:, ::-1]]
    assert relative_error(gru(X)[0], np.concatenate(expected, -1)) < 1e-6
    wrapped = {"name": "timedistributed_1", "layer": {"class_name": "GRU", "config": OLD}}
    groups = {"timedistributed_1": named(forward)}
    gru = cgru.load(write(tmp_path / "m.h5", "1.2.2", sequential(("TimeDistributed", wrapped)), groups))
    assert relative_error(gru(X)[0], of_keras_1(X, forward)) < 1e-6
    inner = {
        "class_name": "Sequential",
        "config": [{"class_name": "GRU", "config": {**OLD, "name": name}} for name in ("a", "b")],
    }
    inner["config"][1]["config"]["return_sequences"] = False
    groups = {"sequential_1": named(forward, "a") | named(random(8, *[(5, 5), (5, 5), (5,)] * 3), "b")}
    tree = {"class_name": "Sequential", "config": [inner]}
    inner["config"] = {"name": "sequential_1", "layers": inner["config"]}
    gru = cgru.load(write(tmp_path / "m.h5", "1.2.2", tree, groups), "a")
    assert relative_error(gru(X)[0], of_keras_1(X, forward)) < 1e-6


def test_keras_1_other_arrays(tmp_path):
    arrays = random(9, *SHAPES)
    tree = sequential(("GRU", OLD))
    for change, message in [
        (lambda given: given.pop("gru_1_W_h:0"), "gru_1: expected W, U, b a direction, got ['gru_1_W_z:0'"),
        (lambda given: given.update({"gru_1_b_h:0": given.pop("gru_1_W_z:0")}), "gru_1: expected W, U, b a direction, got"),
        (lambda given: given.update({"gru_1_W_r:0": np.ones((3, 5), "f4")}), "gru_1: W: expected gates of one shape, got [(3, 5), (4, 5)]"),
        (lambda given: given.update({"gru_1_U_r:0": np.ones((5, 6), "f4")}), "gru_1: U: expected gates of one shape, got [(5, 5), (5, 6)]"),
        (lambda given: given.update({"gru_1_b_h:0": np.ones((), "f4")}), "gru_1: b: expected gates of one shape, got [(), (5,)]"),
    ]:  # fmt: skip
        given = named(arrays)
        change(given)
        with pytest.raises(cgru.FormatError, match=re.escape(message)):
            cgru.load(write(tmp_path / "m.h5", "1.2.2", tree, {"gru_1": given}))


# --- Keras 2.0 to 2.2 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bias", "version"), list(itertools.product([True, False], ["2.0.0", "2.1.6", "2.0.8-tf"])))
def test_before_reset_after(bias, version, tmp_path):
    """Where configurations have no such field."""
    arrays = random(10, *SHAPES)
    if not bias:
        arrays[2::3] = [np.zeros(5, np.float32)] * 3
    together = [np.concatenate(arrays[k::3], -1) for k in range(2 + bias)]
    config = {
        "name": "gru_1",
        "units": 5,
        "activation": "tanh",
        "recurrent_activation": "hard_sigmoid",
        "use_bias": bias,
    }
    config |= {
        "return_sequences": True,
        "go_backwards": False,
        "implementation": 0,
        "batch_input_shape": [None, None, 4],
    }
    fields = ("kernel", "recurrent_kernel", "bias")[: len(together)]
    groups = {"gru_1": {f"gru_1/{field}:0": array for field, array in zip(fields, together, strict=True)}}
    gru = cgru.load(write(tmp_path / "m.h5", version, sequential(("GRU", config)), groups))
    assert (gru.reset_after, gru.bias) == (False, bias)
    assert relative_error(gru(X)[0], of_keras_1(X, arrays)) < 1e-6


# --- CuDNNGRU ---------------------------------------------------------------------------------------------------------

CUDNN = {
    "name": "c",
    "units": 5,
    "return_sequences": True,
    "go_backwards": False,
    "stateful": False,
    "return_state": False,
}
FIELDS = ("kernel", "recurrent_kernel", "bias")


def cudnn_arrays(seed, layer="c", inputs=4):
    arrays = random(seed, (inputs, 15), (5, 15), (30,))
    return arrays, {f"{layer}/{field}:0": array for field, array in zip(FIELDS, arrays, strict=True)}


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("version", ["2.2.4", "2.2.4-tf"])
def test_cudnn(version, go_backwards, tmp_path):
    arrays, given = cudnn_arrays(11)
    tree = sequential(("CuDNNGRU", {**CUDNN, "go_backwards": go_backwards}))
    gru = cgru.load(write(tmp_path / "m.h5", version, tree, {"c": given}))
    assert (gru.reset_after, gru.recurrent_activation, gru.reverse) == (True, "sigmoid", go_backwards)
    x, y = (X[:, ::-1], gru(X)[0][:, ::-1]) if go_backwards else (X, gru(X)[0])
    assert relative_error(y, of_cudnn(x, *arrays)) < 1e-6


def test_cudnn_in_other_layers(tmp_path):
    forward, given = cudnn_arrays(12, "forward_c")
    backward, more = cudnn_arrays(13, "backward_c")
    wrapped = {"name": "both", "merge_mode": "concat", "layer": {"class_name": "CuDNNGRU", "config": CUDNN}}
    gru = cgru.load(write(tmp_path / "m.h5", "2.2.4", sequential(("Bidirectional", wrapped)), {"both": given | more}))
    expected = [of_cudnn(X, *forward), of_cudnn(X[:, ::-1], *backward)[:, ::-1]]
    assert relative_error(gru(X)[0], np.concatenate(expected, -1)) < 1e-6
    first, given = cudnn_arrays(14, "a")
    second, more = cudnn_arrays(15, "b", 5)
    tree = sequential(("CuDNNGRU", {**CUDNN, "name": "a"}), ("CuDNNGRU", {**CUDNN, "name": "b"}))
    gru = cgru.load(write(tmp_path / "m.h5", "2.2.4", tree, {"a": given, "b": more}))
    assert relative_error(gru(X)[0], of_cudnn(of_cudnn(X, *first), *second)) < 1e-6


def test_weights_of_the_other_of_the_two(tmp_path):
    """Keras loads each one's into the other, by the shape of the bias."""
    arrays, given = cudnn_arrays(16)
    path = write(tmp_path / "w.h5", "2.2.4", None, {"c": given}, alone=True)
    plain = {**CUDNN, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True, "reset_after": True}
    cudnn = {"class_name": "CuDNNGRU", "config": CUDNN}
    for config in (plain, cudnn):
        assert relative_error(cgru.load(path, config=config)(X)[0], of_cudnn(X, *arrays)) < 1e-6
    with pytest.raises(cgru.FormatError, match=re.escape("c: bias: expected (15,), got (2, 15)")):
        cgru.load(path, config={**plain, "reset_after": False})
    gru = cgru.load(path, config=plain)
    again = dict(zip(given, gru.to_keras().get_weights(), strict=True))
    path = write(tmp_path / "w.h5", "2.2.4", None, {"c": again}, alone=True)
    np.testing.assert_array_equal(cgru.load(path, config=cudnn)(X)[0], gru(X)[0])
    for field, shape, message in [("kernel", (4, 14), "kernel: expected (I, 15), got (4, 14)"), ("recurrent_kernel", (4, 15), "recurrent_kernel: expected (5, 15), got (4, 15)")]:  # fmt: skip
        path = write(
            tmp_path / "w.h5", "2.2.4", None, {"c": given | {f"c/{field}:0": np.ones(shape, "f4")}}, alone=True
        )
        with pytest.raises(cgru.FormatError, match=re.escape(message)):
            cgru.load(path, config=cudnn)
