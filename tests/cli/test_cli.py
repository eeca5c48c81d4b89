"""The command line as a whole, `cgru info` and `cgru compare`: their numbers are the API's, failures are one line."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import cgru
from cgru.comparison import weight_bytes
from cgru.precision import PRECISIONS

from ..support.commands import command, random, refused, saved


def test_version_help_and_usage():
    assert command("--version").stdout == f"cgru, version {cgru.__version__}\n"
    for name in ("info", "convert", "run", "compare", "bench"):
        assert name in command("-h").stdout
        assert "Usage: " in command(name, "-h").stdout
        refused(2, "No such option", name, "--nonsense")
    refused(2, "Missing argument", "info")


def test_completion():
    run = subprocess.run(
        [sys.executable, "-m", "cgru.cli"], capture_output=True, text=True,
        env={**os.environ, "_CGRU_COMPLETE": "bash_source"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "complete -o nosort" in run.stdout


def test_a_fault_of_the_program_keeps_its_trace(model, monkeypatch):
    monkeypatch.setattr(cgru.GRU, "stream", lambda self: {}["fault"])
    with pytest.raises(KeyError, match="fault"):
        command("info", model[1])


@pytest.mark.parametrize("arguments", [["info"], ["convert", "out.onnx"], ["run", "x.npy", "-o", "out.npy"]])
def test_files_that_hold_no_model(arguments, tmp_path, several):
    name, *rest = arguments
    (tmp_path / "bad.onnx").write_bytes(b"nothing of the kind")
    rest = [tmp_path / part if part[0] != "-" else part for part in rest]
    np.save(tmp_path / "x.npy", random(4, 3))
    refused(1, "Error: " + str(tmp_path / "none.onnx") + ": no such file", name, tmp_path / "none.onnx", *rest)
    refused(1, "bad.onnx: expected .safetensors, ONNX", name, tmp_path / "bad.onnx", *rest)
    refused(1, "choose one by its name: 'a' (GRU), 'b' (GRU)", name, several[1], *rest)
    refused(1, "got 'c'", name, several[1], *rest, "--name", "c")
    assert not [path for path in tmp_path.iterdir() if path.name.lstrip(".").startswith("out")]


def test_a_missing_package_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    refused(1, 'pip install "cgru[safetensors]"', "info", model[1])


def test_info(model):
    gru, path = model
    facts = json.loads(command("info", path, "--json").stdout)
    assert facts.pop("microseconds_a_step") > 0
    assert facts.pop("shapes") == {name: list(array.shape) for name, array in gru.state_dict().items()}
    assert facts == {
        "file": str(path), "file_bytes": path.stat().st_size, "format": "safetensors", "model": repr(gru),
        "input_size": 3, "hidden_size": 5, "num_layers": 2, "bias": True, "batch_first": False, "dropout": 0.0,
        "bidirectional": False, "reverse": False, "merge": "concat", "reset_after": True, "update_gate": "state", "activation": "tanh",
        "recurrent_activation": "sigmoid", "clip": None, "dtype": "float32", "parameters": 330, "precision": "float32", "input_limit": None, "parameter_bytes": 1320,
        "timed": "a step of a stream, one sequence",
    }  # fmt: skip
    small = path.with_name("small.safetensors")
    for precision in PRECISIONS:
        gru.quantize(precision).save(small)
        facts = json.loads(command("info", small, "--json").stdout)
        assert (facts["precision"], facts["model"]) == (precision, f"{gru!r}.quantize({precision!r})")
        assert facts["parameter_bytes"] == weight_bytes(gru.quantize(precision)) + 4 * 4 * 15
        assert facts["timed"] == "a step of a stream, one sequence"
        assert facts["microseconds_a_step"] > 0
    lines = {line[:22].strip(): line[22:] for line in command("info", path).stdout.splitlines() if line[0] != " "}
    assert lines["reset after"] == "True (r * (U_n h + c_n))"
    assert lines["update gate"] == "state (h' = (1 - z) * n + z * h)"
    assert lines["shapes"] == "weight_ih_l0 (15, 3)"
    assert lines["parameter bytes"] == "1,320"
    assert float(lines["microseconds a step"]) > 0


def test_info_of_other_models(tmp_path, several):
    gru = cgru.GRU(
        3, 5, bidirectional=True, reset_after=False, update_gate="candidate", dtype=np.float64, clip=2.5,
        activation=("leaky_relu", 0.1, 0.0), batch_first=True, bias=False,
    )  # fmt: skip
    facts = json.loads(command("info", saved(gru, tmp_path), "--json").stdout)
    assert facts["timed"] == "a call of 100 steps, one sequence"
    assert [facts[key] for key in ("clip", "dtype", "batch_first", "bias")] == [2.5, "float64", True, False]
    assert facts["activation"] == ["leaky_relu", 0.1, 0.0]
    text = command("info", tmp_path / "m.safetensors").stdout
    assert "False (U_n (r * h) + c_n)" in text
    assert "candidate (h' = (1 - z) * h + z * n)" in text
    torch.save(torch.nn.GRUCell(3, 5).state_dict(), tmp_path / "cell.pt")
    facts = json.loads(command("info", tmp_path / "cell.pt", "--json").stdout)
    assert (facts["model"], facts["timed"]) == ("GRUCell(3, 5)", "a call of one step")
    assert json.loads(command("info", several[1], "--json", "--name", "b").stdout)["hidden_size"] == 4


@pytest.mark.parametrize("precision", PRECISIONS)
def test_compare_prints_the_apis_figures(precision, model, tmp_path):
    gru, path = model
    x, plot = random(30, 2, 3), tmp_path / "p.png"
    np.save(tmp_path / "x.npy", x)
    arguments = ["compare", path, tmp_path / "x.npy", "--precision", precision]
    expected = cgru.compare(gru, gru.quantize(precision), x)
    assert json.loads(command(*arguments, "--json").stdout) == json.loads(json.dumps(expected.as_dict()))
    text = command(*arguments, "--plot", plot).stdout
    assert plot.read_bytes().startswith(b"\x89PNG")
    words = [line.split() for line in text.splitlines()]
    assert text.startswith(expected.title + "\n")
    for row in [("", "float32", precision), *expected.rows()]:
        assert " ".join(row).split() in words


def test_compare_takes_states_and_lengths(model, tmp_path):
    gru, path = model
    given = {"x": random(30, 2, 3), "h0": random(2, 2, 5), "lengths": np.array([30, 4])}
    np.savez(tmp_path / "x.npz", **given)
    figures = json.loads(command("compare", path, tmp_path / "x.npz", "--precision", "float16", "--json").stdout)
    expected = cgru.compare(gru, gru.quantize("float16"), **given)
    assert figures["models"][1]["steps"] == expected.small.steps.tolist()
    assert figures["inputs"] == 34 * 3


def test_compare_refuses(model, tmp_path):
    _, path = model
    x = tmp_path / "x.npy"
    np.save(x, random(30, 3))
    np.save(tmp_path / "wide.npy", random(30, 4))
    np.savez(tmp_path / "mask.npz", x=random(30, 3), mask=np.ones(30, bool))
    half = ["--precision", "float16"]
    refused(2, "Missing option '--precision'", "compare", path, x)
    refused(2, "'int3' is not one of", "compare", path, x, "--precision", "int3")
    refused(1, "x: expected (T, 3) float32, got (30, 4)", "compare", path, tmp_path / "wide.npy", *half)
    refused(1, "got mask, too", "compare", path, tmp_path / "mask.npz", *half)
    refused(1, "expected a suffix of .npy, .npz, .wav, got .txt", "compare", path, tmp_path / "x.txt", *half)
    refused(1, "No such file", "compare", path, tmp_path / "none.npy", *half)
    refused(1, "not supported", "compare", path, x, *half, "--plot", tmp_path / "p.nonsense")
    small = saved(model[0].quantize("float16"), tmp_path, "small.safetensors")
    refused(1, "got one of float16", "compare", small, x, *half)
