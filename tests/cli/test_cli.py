"""`cgru info`, `cgru convert` and `cgru run`: their numbers are the API's, and every failure is one line on stderr."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import wave

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import cgru
from cgru import cli
from cgru.cli import convert
from cgru.cli import run as cli_run
from cgru.comparison import weight_bytes
from cgru.precision import PRECISIONS

from ..support.keras_models import KERAS_WARNINGS

RNG = np.random.default_rng(3)


def command(*arguments, code=0, **options):
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments], **options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refused(code, message, *arguments, **options):
    result = command(*arguments, code=code, **options)
    assert message in " ".join(result.stderr.split()), result.stderr
    assert result.stdout == ""


@pytest.fixture
def model(tmp_path):
    gru = cgru.GRU(3, 5, num_layers=2, rng=0)
    gru.save(tmp_path / "m.safetensors")
    return gru, tmp_path / "m.safetensors"


@pytest.fixture
def several(tmp_path):
    modules = torch.nn.ModuleDict({"a": torch.nn.GRU(3, 5), "b": torch.nn.GRU(3, 4)})
    torch.save(modules.state_dict(), tmp_path / "two.pt")
    return modules, tmp_path / "two.pt"


def saved(gru, folder, file="m.safetensors"):
    gru.save(folder / file)
    return folder / file


def random(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


# --- The whole --------------------------------------------------------------------------------------------------------


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


# --- info -------------------------------------------------------------------------------------------------------------


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


# --- convert ----------------------------------------------------------------------------------------------------------


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


# --- compare ----------------------------------------------------------------------------------------------------------


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
    refused(1, "got a mask, too", "compare", path, tmp_path / "mask.npz", *half)
    refused(1, "expected a suffix of .npy, .npz, .wav, got .txt", "compare", path, tmp_path / "x.txt", *half)
    refused(1, "No such file", "compare", path, tmp_path / "none.npy", *half)
    refused(1, "not supported", "compare", path, x, *half, "--plot", tmp_path / "p.nonsense")
    small = saved(model[0].quantize("float16"), tmp_path, "small.safetensors")
    refused(1, "got one of float16", "compare", small, x, *half)


# --- run --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (50, 3)),
        ({}, (50, 4, 3)),
        ({}, (0, 3)),
        ({"batch_first": True}, (4, 50, 3)),
        ({"bidirectional": True}, (50, 3)),
        ({"bidirectional": True, "merge": "sum"}, (50, 3)),
        ({"reverse": True}, (50, 3)),
        ({"reset_after": False, "num_layers": 3}, (50, 3)),
        ({"dtype": np.float64}, (50, 3)),
    ],
)
def test_run_equals_the_call(options, shape, tmp_path):
    gru = cgru.GRU(3, 5, rng=2, **options)
    x = random(*shape, dtype=gru.dtype)
    np.save(tmp_path / "x.npy", x)
    path = saved(gru, tmp_path)
    for target in ("y.npy", "y.npz"):
        command("run", path, tmp_path / "x.npy", "-o", tmp_path / target, "--threads", "2")
    y, h_n = gru(x)
    assert np.array_equal(np.load(tmp_path / "y.npy"), y)
    with np.load(tmp_path / "y.npz") as written:
        assert set(written) == {"y", "h_n"}
        assert np.array_equal(written["y"], y)
        assert np.array_equal(written["h_n"], h_n)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.safetensors", "x.npy", "y.npy", "y.npz"]


def test_run_of_a_long_sequence(model, tmp_path):
    gru, path = model
    x = random(2 * cli_run.CHUNK + 17, 3)
    np.save(tmp_path / "x.npy", x)
    command("run", path, tmp_path / "x.npy", "-o", tmp_path / "y.npz")
    y, h_n = gru(x)
    with np.load(tmp_path / "y.npz") as written:
        assert np.array_equal(written["y"], y)
        assert np.array_equal(written["h_n"], h_n)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(("number", "left"), [(signal.SIGINT, 0), (signal.SIGTERM, 1), (signal.SIGKILL, 1)])
def test_an_interrupted_run_leaves_no_whole_file(number, left, there, tmp_path):
    """What a process that is killed leaves is named as a part; one that is interrupted leaves nothing."""
    path, target = saved(cgru.GRU(1, 256, rng=0), tmp_path), tmp_path / "out" / "y.npy"
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (2_000_000, 1))  # many seconds of work
    target.parent.mkdir()
    if there:
        target.write_bytes(b"before")
    arguments = [sys.executable, "-m", "cgru.cli", "run", path, tmp_path / "x.npy", "-o", target, "--threads", "1"]
    with subprocess.Popen(list(map(str, arguments)), stderr=subprocess.PIPE) as process:
        try:
            deadline = time.monotonic() + 60
            while not list(target.parent.glob(".*.part.npy")):
                assert time.monotonic() < deadline
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.01)
            process.send_signal(number)
            process.wait(60)
        finally:
            process.kill()
    assert process.returncode != 0
    names = {other.name for other in target.parent.iterdir()}
    assert (target.name in names) == there
    assert not there or target.read_bytes() == b"before"
    others = names - {target.name}
    assert len(others) == left
    assert all(name.startswith(".") and name.endswith(".part.npy") for name in others)


def test_run_takes_states_lengths_and_masks(model, tmp_path):
    gru, path = model
    x, h0, lengths = random(9, 4, 3), random(2, 4, 5), np.array([9, 0, 3, 5])
    np.savez(tmp_path / "in.npz", x=x, h0=h0, lengths=lengths)
    command("run", path, tmp_path / "in.npz", "-o", tmp_path / "y.npz")
    y, h_n = gru(x, h0, lengths=lengths)
    with np.load(tmp_path / "y.npz") as written:
        assert np.array_equal(written["y"], y)
        assert np.array_equal(written["h_n"], h_n)
    mask = RNG.random(9) < 0.5
    np.savez(tmp_path / "in.npz", x=x[:, 0], mask=mask)
    command("run", path, tmp_path / "in.npz", "-o", tmp_path / "y.npy")
    assert np.array_equal(np.load(tmp_path / "y.npy"), gru(x[:, 0], mask=mask)[0])


def test_run_goes_on_from_an_earlier_run(model, tmp_path):
    gru, path = model
    x = random(20, 3)
    np.save(tmp_path / "first.npy", x[:7])
    np.save(tmp_path / "second.npy", x[7:])
    command("run", path, tmp_path / "first.npy", "-o", tmp_path / "first.npz")
    command("run", path, tmp_path / "second.npy", "-o", tmp_path / "y.npy", "--h0", tmp_path / "first.npz")
    assert np.array_equal(np.load(tmp_path / "y.npy"), gru(x)[0][7:])


def test_run_converts_and_says_so(model, tmp_path):
    gru, path = model
    for x in (random(20, 3, dtype=np.float64), np.arange(60).reshape(20, 3), random(20, 3).astype(">f4")):
        np.save(tmp_path / "x.npy", x)
        result = command("run", path, tmp_path / "x.npy", "-o", tmp_path / "y.npy")
        assert result.stderr == f"cgru: x: {x.dtype} converted to the model's float32\n"
        assert np.array_equal(np.load(tmp_path / "y.npy"), gru(x.astype(np.float32))[0])


def write_wave(path, samples, width=2):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(width)
        file.setframerate(16000)
        file.writeframes(samples.tobytes())


@pytest.mark.parametrize("channels", [1, 2])
def test_run_reads_sound(channels, tmp_path):
    gru = cgru.GRU(channels, 5, rng=0)
    samples = RNG.integers(-(2**15), 2**15, (1000, channels)).astype("<i2")
    write_wave(tmp_path / "in.wav", samples)
    command("run", saved(gru, tmp_path), tmp_path / "in.wav", "-o", tmp_path / "y.npy")
    assert np.array_equal(np.load(tmp_path / "y.npy"), gru((samples / 32768).astype(np.float32))[0])


def test_run_refuses(model, tmp_path):
    _, path = model
    x = tmp_path / "x.npy"
    np.save(x, random(4, 3))
    out = ["-o", tmp_path / "y.npy"]
    refused(2, "give INPUT - , which writes to stdout, or a file and -o OUT", "run", path, x)
    refused(2, "give INPUT - ", "run", path, "-", *out)
    refused(2, "--chunk: expected INPUT -", "run", path, x, *out, "--chunk", "4")
    refused(2, "expected .npy or .npz", "run", path, x, "-o", "y.txt")
    refused(2, "expected .npy, .npz, .wav or -", "run", path, "x.csv", *out)
    refused(2, "0 is not in the range", "run", path, "-", "--chunk", "0")
    refused(1, "none.npy", "run", path, tmp_path / "none.npy", *out)
    refused(1, "no such directory", "run", path, x, "-o", tmp_path / "none" / "y.npy")
    refused(1, "expected another file than", "run", path, x, "-o", x)

    def content(message, **arrays):
        np.savez(tmp_path / "in.npz", **arrays)
        refused(1, message, "run", path, tmp_path / "in.npz", *out)

    content("x: expected (T, 3), as the model has it, got (4, 7)", x=random(4, 7))
    content("x: expected (T, B, 3) float32, got (4, 2, 7)", x=random(4, 2, 7))
    content("x: expected (T, B, 3) or (T, 3) float32, got (4,)", x=random(4))
    content("x: expected real numbers, got complex64", x=random(4, 3) * 1j)
    content("x: expected real numbers, got <U1", x=np.array([["a"] * 3]))
    content("x: expected numbers that float32 holds, got larger float64", x=np.full((4, 3), 1e300))
    content("h0: expected (2, 2, 5) float32", x=random(4, 2, 3), h0=random(2, 3, 5))
    content("state: expected (2, 5) float32", x=random(4, 3), h0=random(3, 5))
    content("lengths: expected integers from 0 to 4, got 5", x=random(4, 1, 3), lengths=[5])
    content("expected x, and perhaps h0, lengths, mask", h0=random(2, 5))
    content("got x, y", x=random(4, 3), y=random(4, 3))
    content("Object arrays cannot be loaded when allow_pickle=False", x=np.array([{}]))
    np.savez(tmp_path / "in.npz", x=random(4, 3), h0=random(2, 5))
    refused(2, "has an h0, too", "run", path, tmp_path / "in.npz", *out, "--h0", x)
    refused(1, "expected one array, or one of h0 and h_n", "run", path, x, *out, "--h0", tmp_path / "in.npz")
    np.savez_compressed(tmp_path / "in.npz", x=random(4, 3))
    flipped = bytearray((tmp_path / "in.npz").read_bytes())
    flipped[60] ^= 255
    for damaged in (b"", b"\x93NUMPY", b"PK\x03\x04 and nothing more", x.read_bytes()[:-5], flipped):
        for bad in (tmp_path / "bad.npy", tmp_path / "bad.npz"):
            bad.write_bytes(damaged)
            refused(1, f"expected a whole {bad.suffix} file of numbers: ", "run", path, bad, *out)
    assert not (tmp_path / "y.npy").exists()


def test_run_refuses_sound(tmp_path):
    path = saved(cgru.GRU(1, 5), tmp_path)
    sound, out = tmp_path / "in.wav", ["-o", tmp_path / "y.npy"]
    refused(1, "in.wav", "run", path, sound, *out)
    write_wave(sound, np.zeros((10, 2), "<i2"))
    refused(1, "x: expected (T, 1), as the model has it, got (10, 2)", "run", path, sound, *out)
    write_wave(sound, np.zeros((10, 1), "u1"), width=1)
    refused(1, "expected 16-bit samples, got 8-bit ones", "run", path, sound, *out)
    write_wave(sound, np.zeros((10, 1), "<i2"))
    sound.write_bytes(sound.read_bytes()[:-6])
    refused(1, "expected 10 samples, as its header says, got 7", "run", path, sound, *out)
    for damaged in (b"", b"RIFF and nothing more"):
        sound.write_bytes(damaged)
        refused(1, "expected a .wav file of 16-bit PCM", "run", path, sound, *out)


# --- run: a pipe ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [[], ["--chunk", 7], ["--chunk", 64], ["--chunk", 1000]])
def test_pipe_equals_the_whole(chunk, model):
    gru, path = model
    x = random(100, 3)
    result = command("run", path, "-", *chunk, input=x.astype("<f4").tobytes())
    assert np.array_equal(np.frombuffer(result.stdout_bytes, "<f4").reshape(-1, 5), gru(x)[0])
    assert command("run", path, "-", *chunk, input=b"").stdout_bytes == b""


def test_pipe_of_other_models(tmp_path):
    x, h0 = random(30, 3), random(1, 5)
    gru = cgru.GRU(3, 5, dtype=np.float64, rng=0)
    np.save(tmp_path / "h0.npy", h0)
    arguments = ["run", saved(gru, tmp_path), "-", "--chunk", 8, "--h0", tmp_path / "h0.npy"]
    result = command(*arguments, input=x.astype("<f4").tobytes())
    expected = gru(x.astype(np.float64), h0.astype(np.float64))[0]
    np.testing.assert_allclose(np.frombuffer(result.stdout_bytes, "<f4").reshape(-1, 5), expected, rtol=0, atol=1e-7)
    assert "converted to the model's float64 and back" in result.stderr
    path = saved(cgru.GRU(3, 5, bidirectional=True), tmp_path)
    refused(1, "stream: expected a GRU that reads forwards", "run", path, "-", input=b"")


def test_pipe_says_what_is_left_over(model):
    gru, path = model
    x = random(10, 3)
    result = command("run", path, "-", "--chunk", 4, input=x.astype("<f4").tobytes() + b"12345", code=1)
    assert result.stderr == "Error: stdin: expected frames of 12 bytes, 5 bytes left over\n"
    assert np.array_equal(np.frombuffer(result.stdout_bytes, "<f4").reshape(-1, 5), gru(x)[0])


def test_pipe_answers_every_chunk_at_once_and_ends_quietly(model):
    gru, path = model
    x = random(9, 3)
    arguments = [sys.executable, "-m", "cgru.cli", "run", str(path), "-", "--chunk", "3"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(arguments, env=buffered, **pipes) as process:
        limit = threading.Timer(60, process.kill)  # else an answer that does not come would be awaited for ever
        limit.start()
        for start in range(0, 6, 3):
            process.stdin.write(x[start : start + 3].astype("<f4").tobytes())
            process.stdin.flush()
            answer = np.frombuffer(process.stdout.read(3 * 5 * 4), "<f4").reshape(-1, 5)
            assert np.array_equal(answer, gru(x)[0][start : start + 3])
        process.stdout.close()
        process.stdin.write(x[6:].astype("<f4").tobytes())
        process.stdin.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == b""
        limit.cancel()
