"""`cgru convert`: models there and back, what a format does not keep, precisions and calibration."""

import json

import numpy as np
import pytest
import torch

import cgru
from cgru.cli import convert
from cgru.precision import PRECISIONS

from ..support.commands import command, random, refused, saved
from ..support.keras_models import KERAS_WARNINGS


@pytest.mark.filterwarnings(*KERAS_WARNINGS)
@pytest.mark.parametrize("suffix", convert.WRITERS)
def test_convert_there_and_back(suffix, model, tmp_path):
    gru, path = model
    there, back = tmp_path / f"there{suffix}", tmp_path / "back.safetensors"
    result = command("convert", path, there)
    assert result.stdout.startswith(f"{there}: GRU(3, 5, num_layers=2), outputs exactly equal")
    command("convert", there, back)
    for name, array in cgru.load(back).state_dict().items():
        assert np.array_equal(array, gru.state_dict()[name])
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted({path.name, there.name, back.name})


def test_convert_says_what_a_format_does_not_keep(tmp_path):
    gru = cgru.GRU(3, 5, num_layers=2, batch_first=True, dropout=0.5, update_gate="candidate", rng=1)
    result = command("convert", saved(gru, tmp_path), tmp_path / "m.pt")
    assert "batch_first: True before, False after: the format does not keep it" in result.stderr
    assert "dropout: 0.5 before, 0.0 after" in result.stderr
    assert "exactly equal" in result.stdout
    x = random(7, 3)
    assert np.array_equal(cgru.load(tmp_path / "m.pt")(x)[0], gru(x)[0])


def test_convert_one_of_several_and_a_cell(several, tmp_path):
    modules, path = several
    command("convert", path, tmp_path / "b.safetensors", "--name", "b")
    x = random(6, 3)
    assert np.array_equal(cgru.load(tmp_path / "b.safetensors")(x)[0], cgru.from_torch(modules["b"])(x)[0])
    cell = torch.nn.GRUCell(3, 5)
    torch.save(cell.state_dict(), tmp_path / "cell.pt")
    result = command("convert", tmp_path / "cell.pt", tmp_path / "cell.onnx")
    assert "a GRUCell, taken as a GRU of one layer" in result.stderr
    assert np.array_equal(cgru.load(tmp_path / "cell.onnx")(x[:1])[0], cgru.from_torch(cell)(x[:1]))


def test_convert_refuses(model, tmp_path):
    _, path = model
    before = path.read_bytes()
    refused(2, "expected a suffix of .safetensors, .onnx, .pt, .pth, .keras, .json, got .txt", "convert", path, "m.txt")
    refused(2, "got none", "convert", path, "m")
    refused(1, "expected another file than IN", "convert", path, path, "--force")
    refused(1, "no such directory", "convert", path, tmp_path / "none" / "m.onnx")
    there = tmp_path / "there.onnx"
    there.write_text("mine")
    refused(1, "there.onnx: exists; --force replaces it", "convert", path, there)
    assert there.read_text() == "mine"
    command("convert", path, there, "--force")
    assert path.read_bytes() == before
    assert cgru.load(there).hidden_size == 5
    other = saved(cgru.GRU(3, 5, reset_after=False), tmp_path, "other.safetensors")
    refused(1, "reset_after: torch.nn.GRU knows True only", "convert", other, tmp_path / "other.pt")
    assert not (tmp_path / "other.pt").exists()


@pytest.mark.parametrize("error", [3e-6, np.nan])
def test_convert_checks_before_the_file_appears(error, model, tmp_path, monkeypatch):
    def wrong(gru, path):
        parameters = gru.state_dict()
        parameters["bias_ih_l1"] += np.float32(error)
        gru.load_state_dict(parameters)
        gru.save(path)

    def write(gru, path):
        wrong(cgru.load(model[1]), path)

    monkeypatch.setitem(convert.WRITERS, ".safetensors", write)
    out = tmp_path / "out.safetensors"
    out.write_text("mine")
    refused(1, "expected outputs within 1e-06", "convert", model[1], out, "--force")
    assert out.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_convert_prints_a_small_difference(model, tmp_path, monkeypatch):
    def write(gru, path):
        other = cgru.GRU(3, 5, num_layers=2)
        other.load_state_dict({key: array * np.float32(1 + 2**-23) for key, array in gru.state_dict().items()})
        other.save(path)

    monkeypatch.setitem(convert.WRITERS, ".safetensors", write)
    stdout = command("convert", model[1], tmp_path / "out.safetensors").stdout
    assert 0 < float(stdout.split("outputs within ")[1]) < 1e-6


@pytest.mark.parametrize("precision", PRECISIONS)
def test_convert_quantizes(precision, model, tmp_path):
    gru, path = model
    there = tmp_path / "small.safetensors"
    result = command("convert", path, there, "--precision", precision)
    assert f"GRU(3, 5, num_layers=2).quantize({precision!r}), outputs exactly equal" in result.stdout
    small, x = cgru.load(there), random(7, 3)
    assert small.precision == precision
    np.testing.assert_array_equal(small(x)[0], gru.quantize(precision)(x)[0])
    refused(1, f"got one of {precision}", "convert", there, tmp_path / "twice.safetensors", "--precision", precision)


def test_convert_says_that_a_format_does_not_keep_the_precision(model, tmp_path):
    small = saved(model[0].quantize("bfloat16"), tmp_path, "small.safetensors")
    result = command("convert", small, tmp_path / "m.onnx")
    assert "precision: bfloat16 before, float32 after: the format does not keep it" in result.stderr


def test_convert_compares_with_the_quantized_model(model, tmp_path, monkeypatch):
    monkeypatch.setitem(convert.WRITERS, ".safetensors", lambda gru, path: model[0].save(path))  # not quantized
    refused(1, "expected outputs within 1e-06", "convert", model[1], tmp_path / "out.safetensors",
            "--precision", "bfloat16")  # fmt: skip


def test_convert_refuses_precisions(model, tmp_path):
    _, path = model
    np.save(tmp_path / "x.npy", random(9, 3))
    refused(2, "expected OUT of .safetensors, which keeps it, got", "convert", path, tmp_path / "m.onnx",
            "--precision", "float16")  # fmt: skip
    refused(2, "--calibrate: expected --precision beside it", "convert", path, tmp_path / "m.safetensors",
            "--calibrate", tmp_path / "x.npy")  # fmt: skip
    refused(2, "'float32' is not one of", "convert", path, tmp_path / "o.safetensors", "--precision", "float32")


def test_calibration_reaches_quantize(model, tmp_path, monkeypatch):
    given = []

    def quantize(gru, precision, calibrate):
        given.append((precision, calibrate))
        return gru

    monkeypatch.setattr(cgru.GRU, "quantize", quantize)
    x = random(9, 3, dtype=np.float64)
    np.save(tmp_path / "x.npy", x)
    for arguments in (["convert", model[1], tmp_path / "o.safetensors"], ["compare", model[1], tmp_path / "x.npy"]):
        result = command(*arguments, "--precision", "float16", "--calibrate", tmp_path / "x.npy")
        assert "calibrate: float64 converted to the model's float32" in result.stderr
    for precision, calibrate in given:
        assert (precision, calibrate.dtype) == ("float16", np.float32)
        np.testing.assert_array_equal(calibrate, x.astype(np.float32))
    assert len(given) == 2


def test_folders_with_one_model(tmp_path):
    """As accelerate leaves them."""
    folder, out = tmp_path / "checkpoint", tmp_path / "m.onnx"
    folder.mkdir()
    cgru.GRU(3, 4, rng=0).save(folder / "model.safetensors")
    command("convert", folder, out)
    assert cgru.load(out).hidden_size == 4
    facts = json.loads(command("info", folder, "--json").stdout)
    assert (facts["format"], facts["file"]) == ("safetensors", str(folder / "model.safetensors"))
    refused(1, "expected a file, or a folder with a model.safetensors", "info", tmp_path)
