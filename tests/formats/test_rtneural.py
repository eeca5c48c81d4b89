"""RTNeural's JSON: round trips, a layer computed as RTNeural does, and files that are something else."""

import json
import re

import numpy as np
import pytest

import cgru
from cgru.formats import rtneural, untrusted

from ..support.options import relative_error


def layer(inputs, hidden, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(inputs, 3 * hidden), (hidden, 3 * hidden), (2, 3 * hidden)]
    weights = [rng.uniform(-0.5, 0.5, shape).astype(np.float32).tolist() for shape in shapes]
    return {"type": "gru", "activation": "", "shape": [None, None, hidden], "weights": weights}


def dense(inputs, outputs):
    weights = [np.ones((inputs, outputs)).tolist(), [0.0] * outputs]
    return {"type": "dense", "activation": "tanh", "shape": [None, None, outputs], "weights": weights}


def write(path, *layers, inputs=2):
    path.write_text(json.dumps({"in_shape": [None, None, inputs], "layers": layers}))
    return path


def computed(entry, xs):
    """Unit by unit in double precision, columns in the order z, r, c."""
    kernel, recurrent, bias = entry["weights"]
    hidden = len(recurrent)

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    h = [0.0] * hidden
    ys = []
    for x in xs:

        def product(weights, v, column):
            return sum(weights[k][column] * value for k, value in enumerate(v))

        new = []
        for j in range(hidden):
            z, r, c = j, hidden + j, 2 * hidden + j
            update = sigmoid(product(kernel, x, z) + bias[0][z] + product(recurrent, h, z) + bias[1][z])
            reset = sigmoid(product(kernel, x, r) + bias[0][r] + product(recurrent, h, r) + bias[1][r])
            candidate = np.tanh(product(kernel, x, c) + bias[0][c] + reset * (product(recurrent, h, c) + bias[1][c]))
            new.append((1 - update) * candidate + update * h[j])
        h = new
        ys.append(h)
    return np.array(ys)


def test_a_layer_unit_by_unit(tmp_path):
    entries = [layer(2, 3), layer(3, 3, seed=1)]
    gru = rtneural.load(write(tmp_path / "m.json", *entries, dense(3, 1)))
    assert gru.options == cgru.GRU(2, 3, 2).options
    x = np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32)
    expected = computed(entries[1], computed(entries[0], x))
    assert relative_error(gru(x)[0], expected) < 1e-6


def test_choosing_a_layer(tmp_path):
    path = write(tmp_path / "m.json", dense(2, 4), layer(4, 3), dense(3, 2), layer(2, 5), inputs=2)
    with pytest.raises(cgru.FormatError, match="got the layers 1, 3; choose one by name="):
        rtneural.load(path)
    assert (rtneural.load(path, "1").hidden_size, rtneural.load(path, "3").hidden_size) == (3, 5)
    with pytest.raises(cgru.FormatError, match="name: expected one of the GRU layers 1, 3, got '0'"):
        rtneural.load(path, "0")


@pytest.mark.parametrize("options", [{}, {"num_layers": 3}, {"bias": False}, {"dtype": np.float64}])
def test_round_trips(options, tmp_path):
    gru = cgru.GRU(2, 3, rng=0, **options)
    path = tmp_path / "m.json"
    gru.to_rtneural(path)
    again = cgru.load(path)
    assert again.options == {**gru.options, "bias": True, "dtype": np.float32}
    for name, array in gru.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], array.astype(np.float32))
    if not gru.bias:
        assert not any(array.any() for name, array in again.state_dict().items() if name.startswith("bias"))
    written = json.loads(path.read_text())["layers"][0]["weights"][0]
    np.testing.assert_array_equal(np.array(written)[:, 3:6].T, gru.state_dict()["weight_ih_l0"][:3])


def test_update_gate_of_the_candidate(tmp_path):
    gru = cgru.GRU(2, 3, update_gate="candidate", rng=0)
    gru.to_rtneural(tmp_path / "m.json")
    x = np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32)
    assert relative_error(rtneural.load(tmp_path / "m.json")(x)[0], gru(x)[0]) < 1e-6


def test_what_rtneural_lacks(tmp_path):
    for option, value in [
        ("bidirectional", True), ("reset_after", False), ("clip", 1.0), ("activation", "relu"), ("recurrent_activation", "hard_sigmoid"),
    ]:  # fmt: skip
        with pytest.raises(cgru.FormatError, match=f"{option}: RTNeural knows .* only, got {value!r}"):
            cgru.GRU(2, 3, **{option: value}).to_rtneural(tmp_path / "m.json")
    infinite = cgru.GRU(2, 3)
    infinite.load_state_dict({name: array + np.inf for name, array in infinite.state_dict().items()})
    with pytest.raises(cgru.FormatError, match="finite numbers only"):
        infinite.to_rtneural(tmp_path / "m.json")
    assert not list(tmp_path.iterdir())


def test_damaged_files(tmp_path):
    path = tmp_path / "m.json"
    data = write(path, layer(2, 3)).read_bytes()
    for size in [*range(0, len(data), 64), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(cgru.FormatError, match=re.escape(str(path))):
            rtneural.load(path)
    for at in range(0, len(data), 3):
        for bits in (1, 16, 255):
            path.write_bytes(data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :])
            try:
                gru = rtneural.load(path)
            except cgru.FormatError as error:
                assert str(path) in str(error)
            else:  # another number
                assert gru.state_dict()["weight_ih_l0"].shape == (9, 2)


def test_foreign_files(tmp_path, monkeypatch):
    good = layer(2, 3)
    kernel, recurrent, bias = good["weights"]

    def changed(**fields):
        return {"in_shape": [None, None, 2], "layers": [{**good, **fields}]}

    def weights(*arrays):
        return changed(weights=list(arrays))

    cases = [
        ("", "content: expected JSON"),
        ("[" * 100_000, "content: expected JSON"),
        ('{"layers":' + "[" * 100_000, "content: expected JSON"),
        ("\xff\xfe", "content: expected JSON"),
        ("[]", "content: expected a JSON object, got list"),
        ({}, "layers: expected RTNeural's list of layers, or a state_dict's weight_ih_l0, ..., got none"),
        ({"layers": [3]}, "layers: expected RTNeural's list of layers, or a state_dict's weight_ih_l0, ..., got none"),
        ({"layers": []}, "expected a GRU, RNN(GRUCell) or Bidirectional(GRU) layer, got none"),
        ({"layers": [dense(2, 3)]}, "layer, got none"),
        ({"layers": [good]}, "in_shape: expected a list such as [null, null, 8], got None"),
        ({"in_shape": [None, 3], "layers": [good]}, "in_shape: expected 2 inputs, got [None, 3]"),
        (changed(shape=[None, None, 4]), "0: kernel: expected (I, 12), got (2, 9)"),
        (changed(shape=[None, None, "3"]), "0: units: expected an integer from 1"),
        (changed(shape=3), "shape: expected a list such as [null, null, 8], got 3"),
        (changed(activation="relu"), "layers[0]: activation: expected '' or 'tanh', got 'relu'"),
        (changed(weights=None), "layers[0]: weights: expected kernel, recurrent kernel and bias, got others"),
        (weights(kernel, recurrent), "layers[0]: weights: expected kernel, recurrent kernel and bias"),
        (weights(kernel, recurrent, bias[0]), "0: bias: expected (2, 9), got (9,)"),
        (weights(kernel, [row[:8] for row in recurrent], bias), "0: recurrent_kernel: expected (3, 9), got (3, 8)"),
        (weights(kernel, [recurrent[0], *recurrent[:2]][:2], bias), "0: recurrent_kernel: expected (3, 9), got (2, 9)"),
        (weights([kernel[0], kernel[1][:8]], recurrent, bias), "layers[0]: weights[0]: expected lists of numbers of one length"),
        (weights(kernel, recurrent, [["1"] * 9] * 2), "layers[0]: weights[2]: expected finite numbers of float32"),
        (weights(kernel, recurrent, [[None] * 9] * 2), "layers[0]: weights[2]: expected finite numbers of float32"),
        (weights(kernel, recurrent, [[True] * 9] * 2), "layers[0]: weights[2]: expected finite numbers of float32"),
        (weights(kernel, recurrent, [[1e39] * 9] * 2), "layers[0]: weights[2]: expected finite numbers of float32"),
        (weights(kernel, recurrent, [[float("nan")] * 9] * 2), "layers[0]: weights[2]: expected finite numbers of float32"),
        (weights(kernel, recurrent, [[10**400] * 9] * 2), "layers[0]: weights[2]: expected finite numbers of float32"),
    ]  # fmt: skip
    path = tmp_path / "m.json"
    for content, message in cases:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="latin-1")
        with pytest.raises(cgru.FormatError, match=re.escape(str(path)) + ".*" + re.escape(message)):
            rtneural.load(path)
    with pytest.raises(FileNotFoundError):
        rtneural.load(tmp_path / "none.json")
    monkeypatch.setattr(untrusted, "MAX_JSON", 10)
    with pytest.raises(cgru.FormatError, match=r"expected at most 10 bytes, got \d+"):
        rtneural.load(write(path, good))
