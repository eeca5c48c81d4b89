"""`cgru run`: its numbers are the API's, whole, from sound and through a pipe."""

import os
import signal
import subprocess
import sys
import threading
import time
import wave

import numpy as np
import pytest

import cgru
from cgru.cli import run as cli_run

from ..support.commands import RNG, command, random, refused, saved


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
@pytest.mark.parametrize(("number", "left"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGKILL, 1)])
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


def test_run_takes_states_lengths_masks_and_resets(model, tmp_path):
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
    np.savez(tmp_path / "in.npz", x=x[:, 0], resets=mask)
    command("run", path, tmp_path / "in.npz", "-o", tmp_path / "y.npy")
    assert np.array_equal(np.load(tmp_path / "y.npy"), gru(x[:, 0], resets=mask)[0])


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
    content("expected x, and perhaps h0, lengths, mask, resets", h0=random(2, 5))
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
