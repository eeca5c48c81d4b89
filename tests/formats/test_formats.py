"""Models in and out: torch modules and state_dicts, .safetensors files whole, foreign and damaged."""

import itertools
import json
import re

import numpy as np
import pytest
import safetensors.numpy
import torch

import cgru
from cgru import formats

from ..support.options import UNUSUAL, relative_error


@pytest.mark.parametrize(
    ("layers", "bias", "batch_first", "bidirectional", "double"), list(itertools.product([1, 3], *[[False, True]] * 4))
)
def test_from_and_to_torch(layers, bias, batch_first, bidirectional, double):
    dtype = torch.float64 if double else torch.float32
    module = torch.nn.GRU(
        5, 7, layers, bias, batch_first, 0.5 if layers > 1 else 0.0, bidirectional, dtype=dtype
    ).eval()
    gru = cgru.from_torch(module)
    x = torch.randn(6, 4, 5, dtype=dtype)
    with torch.no_grad():
        expected_y, expected_h = module(x)
    y, h_n = gru(x.numpy())
    tolerance = 1e-12 if double else 2e-6
    assert relative_error(y, expected_y.numpy()) < tolerance
    assert relative_error(h_n, expected_h.numpy()) < tolerance
    again = gru.to_torch().eval()
    assert repr(again) == repr(module)
    for name, value in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    from_state = cgru.from_torch(module.state_dict())
    assert from_state.options == {**gru.options, "batch_first": False, "dropout": 0.0}
    for name, array in gru.state_dict().items():
        np.testing.assert_array_equal(from_state.state_dict()[name], array)


@pytest.mark.parametrize("bias", [True, False])
def test_cells(bias):
    module = torch.nn.GRUCell(5, 7, bias)
    x, h = torch.randn(4, 5), torch.randn(4, 7)
    for source in (module, module.state_dict()):
        cell = cgru.from_torch(source)
        assert repr(cell) == repr(module).replace("bias=False", "bias=False")
        assert relative_error(cell(x.numpy(), h.numpy()), module(x, h).detach().numpy()) < 2e-6
    assert torch.equal(cell.to_torch()(x, h), module(x, h))


def test_textbook_update_gate_becomes_torch():
    gru = cgru.GRU(5, 7, update_gate="candidate", dtype=np.float64, rng=0)
    x = np.random.default_rng(0).standard_normal((6, 4, 5))
    assert relative_error(gru(x)[0], gru.to_torch()(torch.from_numpy(x))[0].detach().numpy()) < 1e-14


def test_copies_share_no_memory():
    module = torch.nn.GRU(5, 7)
    gru = cgru.from_torch(module)
    back = gru.to_torch()
    before = gru.state_dict()
    with torch.no_grad():
        for parameter in [*module.parameters(), *back.parameters()]:
            parameter.zero_()
    for name, array in gru.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_torch_refusals():
    state = cgru.GRU(5, 7).state_dict()
    with_tensor = {name: torch.from_numpy(array) for name, array in state.items()}
    cases = [
        (torch.nn.LSTM(5, 7), "expected a torch.nn.GRU, a torch.nn.GRUCell or a state_dict of one, got LSTM"),
        (3, "got int"),
        ({}, "got nothing"),
        ({**state, "fc.weight": state["bias_ih_l0"]}, "state_dict: expected weight_ih_l0, weight_hh_l0, ... of one GRU, got ['fc.weight']"),
        ({name: array for name, array in state.items() if name != "weight_hh_l0"}, "state_dict: expected weight_hh_l0"),
        ({name: array for name, array in state.items() if name != "bias_hh_l0"}, "missing bias_hh_l0"),
        ({**state, "weight_ih_l2": state["weight_ih_l0"]}, "missing weight_ih_l1"),
        ({**state, "weight_ih_l0": state["bias_ih_l0"]}, "weight_ih_l0: expected 2 dimensions, got (21,)"),
        ({**state, "weight_ih_l0": state["weight_ih_l0"][:20]}, "weight_ih_l0: expected (21, 5) float32, got (20, 5)"),
        ({**with_tensor, "bias_ih_l0": with_tensor["bias_ih_l0"].half()}, "bias_ih_l0: expected float32 or float64, got torch.float16; convert the module with .float()"),
        ({**state, "bias_ih_l0": state["bias_ih_l0"].astype(np.float64)}, "bias_ih_l0: expected (21,) float32, got float64"),
        ({**state, "bias_ih_l0": [1.0]}, "bias_ih_l0: expected a float32 or float64 tensor or array, got list"),
    ]  # fmt: skip
    for source, message in cases:
        with pytest.raises(cgru.FormatError, match=re.escape(message)):
            cgru.from_torch(source)
    for option in (
        {"reset_after": False},
        {"activation": "relu"},
        {"recurrent_activation": "hard_sigmoid"},
        {"clip": 1.0},
    ):
        (name,) = option
        for model in (cgru.GRU(5, 7, **option), cgru.GRUCell(5, 7, **option)):
            with pytest.raises(cgru.FormatError, match=f"{name}: torch.nn.{type(model).__name__} knows"):
                model.to_torch()
    for name, model in {
        "reverse": cgru.GRU(5, 7, reverse=True),
        "merge": cgru.GRU(5, 7, bidirectional=True, merge="sum"),
    }.items():
        with pytest.raises(cgru.FormatError, match=f"{name}: torch.nn.GRU knows"):
            model.to_torch()


@pytest.mark.parametrize("options", [{}, UNUSUAL])
def test_save_and_load(options, tmp_path):
    gru = cgru.GRU(3, 4, rng=0, **options)
    path = tmp_path / "model.safetensors"
    gru.save(path)
    loaded = cgru.load(path)
    assert loaded.options == gru.options
    for name, array in gru.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[name], array)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    gru.save(str(path))  # over itself
    assert cgru.load(str(path)).options == gru.options


def test_a_failed_save_keeps_the_file_before(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    cgru.GRU(3, 4, rng=0).save(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        cgru.GRU(3, 4, rng=1).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_truncated_and_damaged_files(tmp_path):
    """Every cut and every flipped byte of the header is refused with the file's name, or changes no option."""
    path = tmp_path / "model.safetensors"
    gru = cgru.GRU(3, 4, rng=0)
    gru.save(path)
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for size in [*range(0, len(data), 16), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(cgru.FormatError, match=re.escape(str(path))):
            cgru.load(path)
    refused = 0
    for at in range(header):
        for flip in (1, 32, 255):
            path.write_bytes(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])
            try:
                loaded = cgru.load(path)
            except cgru.FormatError as error:
                refused += 1
                assert str(path) in str(error)
            else:
                assert {n: a.shape for n, a in loaded.state_dict().items()} == {
                    n: a.shape for n, a in gru.state_dict().items()
                }
    assert refused > 2 * header


def test_foreign_files(tmp_path):
    good = cgru.GRU(3, 4, rng=0)
    options = {**good.options, "dtype": "float32", "precision": "float32"}
    tensors = good.state_dict()
    path = tmp_path / "model.safetensors"
    cases = [
        (tensors, "{", "metadata cgru: expected JSON"),
        (tensors, "[]", "metadata cgru: expected the options"),
        (tensors, json.dumps({**options, "extra": 1}), "metadata cgru: expected the options"),
        (tensors, json.dumps({**options, "dtype": "float16"}), "dtype: expected 'float32' or 'float64', got 'float16'"),
        (tensors, json.dumps({**options, "dtype": "float64"}), "weight_ih_l0: expected (12, 3) float64, got float32"),
        (tensors, json.dumps({**options, "hidden_size": 700_000_000}), "weight_ih_l0: expected (2100000000, 3) float32, got (12, 3)"),
        (tensors, json.dumps({**options, "num_layers": 10_000}), "missing weight_ih_l1"),
        (tensors, json.dumps({**options, "hidden_size": "4"}), "hidden_size: expected an integer"),
        (tensors, json.dumps({**options, "activation": {"a": 1}}), "activation: expected a name"),
        ({**tensors, "more": tensors["bias_ih_l0"]}, json.dumps(options), "unknown more"),
    ]  # fmt: skip
    for arrays, metadata, message in cases:
        path.write_bytes(safetensors.numpy.save(arrays, metadata and {"cgru": metadata}))
        with pytest.raises(cgru.FormatError, match=re.escape(str(path)) + ".*" + re.escape(message)):
            cgru.load(path)
    path.write_bytes(safetensors.numpy.save(tensors, {"cgrv": json.dumps(options)}))
    with pytest.raises(cgru.FormatError, match="metadata: expected the options under 'cgru'"):
        cgru.load(path)
    for data in (b"", b"\x00", b"GIF89a;", b"PK\x03\x04", b"\x80\x02}."):
        path.write_bytes(data)
        with pytest.raises(cgru.FormatError, match=re.escape(str(path))):
            cgru.load(path)
    with pytest.raises(FileNotFoundError):
        cgru.load(tmp_path / "none.safetensors")


def others_file(arrays, kinds=None):
    """A .safetensors file as other programs write it, numbers in the format's kinds."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        kind = (kinds or {}).get(name, "F32")
        tensor = torch.from_numpy(array).to(
            {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "I64": torch.int64}[kind]
        )
        raw = bytes(tensor.contiguous().view(torch.uint8).numpy())
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_files_of_others(kind, tmp_path):
    """Names and shapes tell the GRU; 16-bit numbers are widened without loss."""
    module = torch.nn.GRU(5, 7, 2, bidirectional=True)
    arrays = {f"model.gru.{name}": value.numpy() for name, value in module.state_dict().items()}
    path = tmp_path / "model.safetensors"
    path.write_bytes(others_file({**arrays, "fc.weight": np.ones((2, 14), np.float32)}, dict.fromkeys(arrays, kind)))
    gru = cgru.load(path)
    assert repr(gru) == "GRU(5, 7, num_layers=2, bidirectional=True)"
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(gru.state_dict()[name], value.to(dtype).float().numpy())
    assert cgru.load(path, "model.gru").options == gru.options


def test_refused_files_of_others(tmp_path):
    path = tmp_path / "model.safetensors"
    arrays = cgru.GRU(3, 4, rng=0).state_dict()
    lstm = {f"lstm.{name}": value.numpy() for name, value in torch.nn.LSTM(3, 4).state_dict().items()}
    rnn = {f"rnn.{name}": value.numpy() for name, value in torch.nn.RNN(3, 4).state_dict().items()}
    two = {f"{module}.{name}": value for module in ("encoder", "decoder") for name, value in arrays.items()}
    cases = [
        (others_file(arrays, {"bias_ih_l0": "I64"}), None, "bias_ih_l0: expected float16"),
        (others_file(arrays, {"bias_ih_l0": "BF16", "weight_ih_l0": "I64"}), None, "weight_ih_l0: expected float16"),
        (others_file({**arrays, "h0": arrays["bias_ih_l0"]}), None, "got ['h0']"),
        (others_file(lstm), None, "lstm: expected (3H, H) of a GRU, got an LSTM's"),
        (others_file(rnn), None, "rnn: expected (3H, H) of a GRU, got a simple recurrent layer's"),
        (others_file({**lstm, **rnn}), None, "choose one by its name: 'lstm' (an LSTM), 'rnn' (a simple recurrent layer)"),
        (others_file(two), None, "choose one by its name: 'encoder' (GRU), 'decoder' (GRU)"),
        (others_file(two), "other", "name: expected a module of weight_ih_l0, ...: 'encoder' (GRU), 'decoder' (GRU); got 'other'"),
        (others_file({"fc.weight": arrays["weight_ih_l0"]}), None, "of one GRU, got ['fc.weight']"),
    ]  # fmt: skip
    for data, name, message in cases:
        path.write_bytes(data)
        with pytest.raises(cgru.FormatError, match=re.escape(str(path)) + ".*" + re.escape(message)):
            cgru.load(path, name)
    path.write_bytes(others_file({**lstm, **two}))
    assert repr(cgru.load(path, "decoder")) == "GRU(3, 4)"
    cgru.GRU(3, 4).save(path)
    with pytest.raises(cgru.FormatError, match="name: expected none"):
        cgru.load(path, "gru")


def test_whole_networks_are_told_from_grus(tmp_path):
    """A network's own file is refused by `load`, which takes the GRU out of an ONNX graph that does more."""
    gru = cgru.GRU(4, 5, rng=1)
    net = cgru.Network([cgru.nodes.Linear(3, 4, activation="relu", rng=0), gru])
    net.save(tmp_path / "n.safetensors")
    net.to_onnx(tmp_path / "n.onnx")
    gru.save(tmp_path / "g.safetensors")
    gru.to_onnx(tmp_path / "g.onnx")
    with pytest.raises(cgru.FormatError, match=r"expected one GRU, got a whole network; use cgru\.Network\.load"):
        cgru.load(tmp_path / "n.safetensors")
    loaded = cgru.load(tmp_path / "n.onnx").state_dict()
    assert all(np.array_equal(array, loaded[name]) for name, array in gru.state_dict().items())
    held = {path.name: formats.holds_network(path) for path in tmp_path.iterdir()}
    assert held == {"g.onnx": False, "g.safetensors": False, "n.onnx": True, "n.safetensors": True}
    (tmp_path / "x.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(cgru.FormatError, match=r"expected \.safetensors, ONNX"):
        formats.holds_network(tmp_path / "x.pt")
