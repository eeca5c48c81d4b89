"""What quantizing costs trained networks: python benchmarks/trained_models.py [--json FILE] [--plot FILE]

Of g2p-en (examples/g2p.py) the share of 2,000 English words, the most frequent of the Python reference, whose phonemes
do not change, and words whose do; int8 weights are fitted to the 760 that follow. Of nsnet2 (examples/denoise.py), at
both sample rates, on 6 s of speech-like sound in noise: the gains' error against float64, relative, at step 100 and the
worst after it, and how near the clean sound comes to that of float32; int8 weights are fitted to another such sound.
"""

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import output

import cgru
from cgru.precision import PRECISIONS

WORDS, TYPICAL = 2000, 760
SHOWN = 3


def example(name):
    """A module in examples/."""
    path = Path(__file__).parent.parent / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words():
    """Figures of g2p-en by precision."""
    g2p = example("g2p")
    pronounce, _ = g2p.load()
    frequent = g2p.frequent_words(WORDS + TYPICAL)
    chosen, others = frequent[:WORDS], frequent[WORDS:]
    expected = pronounce.batch(chosen)
    figures = {}
    for precision in PRECISIONS:
        given = pronounce.quantized(precision, others if precision == "int8" else ()).batch(chosen)
        changed = [
            f"{word}: {' '.join(a)} -> {' '.join(b)}"
            for word, a, b in zip(chosen, expected, given, strict=True)
            if a != b
        ]
        figures[precision] = {"unchanged": 1 - len(changed) / len(chosen), "changed": changed}
        print(f"{'g2p-en':<14} {precision:<9} {figures[precision]['unchanged']:.2%} of {len(chosen)} words unchanged")
        for line in changed[:SHOWN]:
            print(f"{'':<24} {line}")
    return figures


def sound(rate):
    """Figures of nsnet2 by precision."""
    denoise = example("denoise")
    denoiser = denoise.Denoiser(rate)
    _, noisy = denoise.demo(rate)
    x, clean = denoiser.heard(noisy)[None], denoiser(noisy)
    expected = cgru.Network(denoiser.network.net.graph, dtype=np.float64)(x.astype(np.float64))[0]
    typical = denoise.demo(rate, 12, seed=1)[1]
    figures = {}
    for precision in PRECISIONS:
        small = denoiser.quantized(precision, typical if precision == "int8" else None)
        gains = small.network.net(x)[0]
        errors = np.linalg.norm(gains - expected, axis=1) / np.linalg.norm(expected, axis=1)
        figures[precision] = {
            "step 100": float(errors[99]),
            "worst after": float(errors[99:].max()),
            "decibels": float(denoise.signal_to_error(clean, small(noisy))),
            "steps": errors.tolist(),
        }
        print(
            f"nsnet2 {rate // 1000} kHz  {precision:<9} error {figures[precision]['step 100']:.3%} at step 100, "
            f"worst after {figures[precision]['worst after']:.3%}; clean sound within "
            f"{figures[precision]['decibels']:.1f} dB of float32's",
            flush=True,
        )
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments = output.add_arguments(parser)
    figures = {"g2p-en": words(), **{f"nsnet2 {rate // 1000} kHz": sound(rate) for rate in (16000, 48000)}}
    output.keep(arguments, figures, plot)


def plot(axes, figures):
    """The denoisers' error over time."""
    for network in list(figures)[1:]:
        for precision, row in figures[network].items():
            axes.plot(row["steps"], label=f"{network}, {precision}", linewidth=1.2)
    axes.set(xlabel="step", ylabel="relative error of the outputs", yscale="log")


if __name__ == "__main__":
    main()
