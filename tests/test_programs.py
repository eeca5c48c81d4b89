"""What people run: `cgru bench`, and the g2p example on its trained network."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cgru import bench, cli

ROOT = Path(__file__).parent.parent
WORDS = {
    "gated": "G EY1 T IH0 D",
    "recurrent": "R IH0 K ER1 AH0 N T",
    "unit": "Y UW1 N IH0 T",
}


def test_bench_prints_writes_and_plots(tmp_path):
    times, plot = tmp_path / "times.json", tmp_path / "times.png"
    result = CliRunner().invoke(
        cli.main,
        ["bench", "--hidden", "16", "--hidden", "24", "--seconds", "0.01", "--json", str(times), "--plot", str(plot)],
    )
    assert result.exit_code == 0, result.output
    written = json.loads(times.read_text())
    assert [row["hidden"] for row in written["rows"]] == [16, 24] * 3
    for row in written["rows"]:
        assert {"cgru", "reference", "NumPy loop", "torch", "onnxruntime"} <= set(row["times"])
        assert all(value > 0 for value in row["times"].values())
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_bench_checks_results_before_it_times(monkeypatch):
    def wrong(problem, threads):
        right = bench.numpy_call(problem, threads)
        return lambda: right() + 1e-3

    monkeypatch.setitem(bench.CONTENDERS, "wrong", (wrong, ()))
    with pytest.raises(RuntimeError, match=r"wrong, .* differs from the reference by 0.001"):
        bench.measure(bench.cases((16,))[1], ["cgru", "wrong"], 1, 0.01)


@pytest.mark.parametrize("arguments", [["--hidden", "0"], ["--threads", "0"], ["--seconds", "-1"], ["--unknown"]])
def test_bench_refuses(arguments):
    assert CliRunner().invoke(cli.main, ["bench", *arguments]).exit_code == 2


def g2p(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "g2p.py"), *arguments], capture_output=True, text=True, cwd=ROOT.parent
    )


def test_g2p_words():
    run = g2p(*WORDS)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [f"{word} {phonemes}" for word, phonemes in WORDS.items()]
    assert "3 words compared with g2p-en's own NumPy inference: the same" in run.stderr


def test_g2p_list(tmp_path):
    spec = importlib.util.find_spec("g2p_en")
    text = (Path(spec.origin).parent / "homographs.en").read_text()
    words = sorted(
        {line.split("|")[0].lower() for line in text.splitlines() if "|" in line and not line.startswith("#")}
    )
    assert len(words) > 100
    (tmp_path / "words.txt").write_text("\n".join([*words, *WORDS]))
    run = g2p("--words", str(tmp_path / "words.txt"), "--batch", "50")
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [*words, *WORDS]
    assert lines[-3:] == [f"{word} {phonemes}" for word, phonemes in WORDS.items()]


def test_g2p_refuses(tmp_path):
    for arguments, message in [
        ([], "give words, or --words FILE"),
        (["--words", str(tmp_path / "none.txt")], "none.txt"),
        (["--words", "x", "--batch", "0"], "--batch: expected at least 1, got 0"),
    ]:
        run = g2p(*arguments)
        assert run.returncode == 2
        assert message in run.stderr
        assert "Traceback" not in run.stderr


def test_g2p_says_what_to_install(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\nu.find_spec = lambda n, *a: None if n == 'g2p_en' else find(n, *a)\n"
    )
    run = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "g2p.py"), "word"], capture_output=True, text=True,
        env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert run.returncode == 1
    assert 'pip install "cgru[examples]"' in run.stderr
