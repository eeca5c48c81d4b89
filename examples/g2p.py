"""English spelling to phonemes: the trained encoder and decoder of the package g2p-en, run by cgru.

    python examples/g2p.py gated recurrent unit     # a line a word: the word, then its phonemes
    python examples/g2p.py --words words.txt        # a whole list, in batches of sequences of different lengths

The encoder, a GRU, reads a word letter by letter; the decoder, another, starts from its last state and names a phoneme
a step, reading back the one before: for one word as a network that feeds itself in compiled code, for many as a batch
that shrinks as words are done.
Results are compared with the package's own NumPy inference, and timed beside it. Needs: pip install "cgru[examples]".
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import re
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np

import cgru
from cgru import nodes

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_PHONEMES = 20
START, END = "<s>", "</s>"
NEEDED = 'this example needs the packages g2p-en and tqdm: pip install "cgru[examples]"'


class Pronouncer:
    """The trained network: embeddings, encoder, decoder and the layer that scores phonemes.

    A letter's embedding E[i] meets only the input weights, as W E[i]. There are few letters and phonemes, so W E' is
    smaller than W: the GRUs are made with it, and read row i of the identity.
    """

    def __init__(self, graphemes: dict[str, int], phonemes: dict[int, str], weights: dict[str, np.ndarray]) -> None:
        self.graphemes, self.phonemes = graphemes, phonemes
        self.start = next(i for i, name in phonemes.items() if name == START)
        self.end = next(i for i, name in phonemes.items() if name == END)
        self.score_weights = np.ascontiguousarray(weights["fc_w"].T)  # (H, 74)
        self.score_bias = weights["fc_b"]  # (74,)
        self.encoder = folded(weights, "enc")  # I 29
        self.decoder = folded(weights, "dec")  # I 74
        self.letters = np.eye(self.encoder.input_size, dtype=np.float32)
        self.sounds = np.eye(self.decoder.input_size, dtype=np.float32)
        rows, hidden = len(self.sounds), self.decoder.hidden_size
        speaker = cgru.Network([
            nodes.Embedding(*self.sounds.shape, weight=self.sounds),
            self.decoder,
            nodes.Linear(hidden, rows, self.score_bias, weight=np.ascontiguousarray(self.score_weights.T)),
            nodes.ArgMax(),
        ])  # fmt: skip
        self.speaker = speaker.stream()  # from a phoneme to the next one
        (self.state_name,) = self.speaker.state
        self.speak = self.decoded

    def decoded(self, state: np.ndarray) -> np.ndarray:
        """A word's phonemes as numbers, from the encoder's last state: the network feeds itself, in compiled code."""
        self.speaker.state = {self.state_name: state[None, :, None]}
        return self.speaker.decode(self.start, self.end, MAX_PHONEMES)

    def stepped(self, state: np.ndarray) -> list[int]:
        """The same step by step, where the decoder alone is quantized."""
        stream = self.decoder.stream()
        stream.state, sound, found = state, self.start, []
        for _ in range(MAX_PHONEMES):
            sound = int((stream.step(self.sounds[sound]) @ self.score_weights + self.score_bias).argmax())
            if sound == self.end:
                break
            found.append(sound)
        return found

    def quantized(self, precision: str, words: Sequence[str] = ()) -> Pronouncer:
        """The same network with both GRUs' weights in a precision, int8 ones fitted to some words.

        The layer that scores phonemes stays float32.
        """
        result = copy.copy(self)
        typical = (None, None)
        if words:
            result.encoder, result.letters = finer(self.encoder, self.letters)
            result.decoder, result.sounds = finer(self.decoder, self.sounds)
            typical = result.arguments(words)
        result.encoder, result.decoder = (
            gru.quantize(precision, calibrate=arguments)
            for gru, arguments in zip((result.encoder, result.decoder), typical, strict=True)
        )
        result.speak = result.stepped
        return result

    def arguments(self, words: Sequence[str]) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """What both GRUs are called with for words: sequences, initial states and lengths."""
        letters, lengths = padded([self.letters[self.spell(word)] for word in words])
        none = np.zeros((1, len(words), self.encoder.hidden_size), np.float32)
        _, state = self.encoder(letters, none, lengths=lengths)
        numbers = {name: number for number, name in self.phonemes.items()}
        spoken = [self.sounds[[self.start, *map(numbers.get, phonemes)]] for phonemes in self.batch(list(words))]
        sounds, counts = padded(spoken)
        return (letters, none, lengths), (sounds, state, counts)

    def spell(self, word: str) -> list[int]:
        """A word's letters as numbers, an end mark behind them."""
        return [self.graphemes.get(letter, self.graphemes["<unk>"]) for letter in [*word, END]]

    def __call__(self, word: str) -> list[str]:
        """One word's phonemes."""
        _, state = self.encoder(self.letters[self.spell(word)])
        return [self.phonemes[int(sound)] for sound in self.speak(state)]

    def batch(self, words: list[str]) -> list[list[str]]:
        """The phonemes of many words: one call encodes all, each at its length; the decoder keeps the unfinished."""
        x, lengths = padded([self.letters[self.spell(word)] for word in words])
        _, h_n = self.encoder(x, lengths=lengths)

        phonemes: list[list[str]] = [[] for _ in words]
        open_words = np.arange(len(words))
        sounds = np.full(len(words), self.start)
        for _ in range(MAX_PHONEMES):
            _, h_n = self.decoder(self.sounds[sounds][None], h_n)
            h = h_n[0]
            sounds = (h @ self.score_weights + self.score_bias).argmax(axis=1)
            going = sounds != self.end
            open_words, h_n, sounds = open_words[going], h_n[:, going], sounds[going]
            for b, sound in zip(open_words, sounds, strict=True):
                phonemes[b].append(self.phonemes[int(sound)])
            if not len(open_words):
                break
        return phonemes


def padded(sequences: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Sequences (t, I) of different lengths as one array (T, B, I), and their lengths."""
    lengths = np.array([len(sequence) for sequence in sequences])
    x = np.zeros((lengths.max(), len(sequences), sequences[0].shape[1]), np.float32)
    for b, sequence in enumerate(sequences):
        x[: len(sequence), b] = sequence
    return x, lengths


def folded(weights: dict[str, np.ndarray], part: str) -> cgru.GRU:
    """One of the network's GRUs with its embedding folded in; the checkpoint's gates are r, z, n, as PyTorch's."""
    embedding = weights[f"{part}_emb"].astype(np.float64)  # (symbols, I)
    gru = cgru.GRU(len(embedding), weights[f"{part}_w_hh"].shape[1])
    gru.load_state_dict({
        "weight_ih_l0": (weights[f"{part}_w_ih"] @ embedding.T).astype(np.float32),
        "weight_hh_l0": weights[f"{part}_w_hh"],
        "bias_ih_l0": weights[f"{part}_b_ih"],
        "bias_hh_l0": weights[f"{part}_b_hh"],
    })  # fmt: skip
    return gru


def load() -> tuple[Pronouncer, object]:
    """cgru's pronouncer, and the package's own object, ready for its predict()."""
    spec = importlib.util.find_spec("g2p_en")
    if spec is None or importlib.util.find_spec("tqdm") is None:
        sys.exit(NEEDED)
    import nltk

    with mock.patch.object(nltk, "download"):  # word lists that its predict() does not use
        from g2p_en import g2p

    package = g2p.G2p.__new__(g2p.G2p)
    with mock.patch.object(g2p, "cmudict", new=mock.MagicMock()):
        package.__init__()
    with np.load(Path(g2p.dirname) / "checkpoint20.npz") as file:
        weights = {name: file[name] for name in file.files}
    return Pronouncer(package.g2idx, package.idx2p, weights), package


def frequent_words(count: int) -> list[str]:
    """The most frequent words of three letters or more in the Python reference, which every Python carries as help."""
    words = Counter(word for text in topics.values() for word in re.findall(r"\b[a-z]{3,}\b", text))
    return sorted(words, key=lambda word: (-words[word], word))[:count]


def finer(gru: cgru.GRU, rows: np.ndarray) -> tuple[cgru.GRU, np.ndarray]:
    """The same GRU of inputs (x, x / 8), weights (W, 0); in int8 the second ones take up what the first round off."""
    model = cgru.GRU(2 * gru.input_size, gru.hidden_size)
    weights = gru.state_dict()
    weights["weight_ih_l0"] = np.hstack([weights["weight_ih_l0"], np.zeros_like(weights["weight_ih_l0"])])
    model.load_state_dict(weights)
    return model, np.hstack([rows, rows / np.float32(8)])


def compare(pronounce: Pronouncer, package: object, words: list[str], repeats: int = 15) -> bool:
    """Print whether both give the same phonemes, and the times of both a word; whether they do."""
    different = [word for word in words if pronounce(word) != package.predict(word)]
    times: dict[str, list[float]] = {"cgru": [], "g2p-en": []}
    for _ in range(repeats):
        for name, call in (("cgru", pronounce), ("g2p-en", package.predict)):
            start = time.perf_counter()
            for word in words:
                call(word)
            times[name].append((time.perf_counter() - start) / len(words) * 1e6)
    ours, theirs = (statistics.median(values) for values in times.values())
    verdict = f"DIFFERENT for {' '.join(different)}" if different else "the same"
    print(f"# {len(words)} words compared with g2p-en's own NumPy inference: {verdict}", file=sys.stderr)
    print(f"# a word at a time: cgru {ours:.0f} us, g2p-en {theirs:.0f} us, {theirs / ours:.1f} times", file=sys.stderr)
    return not different


def main() -> None:
    parser = argparse.ArgumentParser(description="English spelling to phonemes by a trained GRU.")
    parser.add_argument("word", nargs="*", help="words to pronounce")
    parser.add_argument("--words", metavar="FILE", type=Path, help="a list of words, separated by blanks or lines")
    parser.add_argument("--batch", type=int, default=256, help="words in a batch of --words (default: 256)")
    arguments = parser.parse_args()
    if bool(arguments.word) == bool(arguments.words):
        parser.error("give words, or --words FILE")
    if arguments.batch < 1:
        parser.error(f"--batch: expected at least 1, got {arguments.batch}")
    words = [word.lower() for word in arguments.word]
    if arguments.words:
        try:
            words = arguments.words.read_text(encoding="utf-8").lower().split()
        except (OSError, UnicodeDecodeError) as error:
            parser.error(f"--words: {error}")
    pronounce, package = load()

    if arguments.word:
        for word in words:
            print(word, *pronounce(word))
        sys.exit(not compare(pronounce, package, words))

    from tqdm import tqdm

    start = time.perf_counter()
    with tqdm(total=len(words), unit="word", disable=None) as progress:
        for first in range(0, len(words), arguments.batch):
            part = words[first : first + arguments.batch]
            for word, phonemes in zip(part, pronounce.batch(part), strict=True):
                tqdm.write(" ".join([word, *phonemes]))
            progress.update(len(part))
    seconds = time.perf_counter() - start
    print(
        f"# {len(words)} words in {seconds:.2f} s, {seconds / max(1, len(words)) * 1e6:.0f} us a word", file=sys.stderr
    )
    sample = words[:: max(1, len(words) // 200)][:200]
    if sample:
        alone = [package.predict(word) for word in sample]
        batched = [phonemes for first in range(0, len(sample), arguments.batch)
                   for phonemes in pronounce.batch(sample[first : first + arguments.batch])]  # fmt: skip
        print(f"# {len(sample)} of them compared with g2p-en's own, batched: "
              f"{sum(a == b for a, b in zip(alone, batched, strict=True))} the same", file=sys.stderr)  # fmt: skip
        sys.exit(not compare(pronounce, package, sample[:20]) or alone != batched)


if __name__ == "__main__":
    main()
