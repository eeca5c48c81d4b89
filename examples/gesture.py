"""A gesture recogniser from training to live use: torch trains it, ONNX carries it, cgru streams it.

    python examples/gesture.py                  # trains some seconds, then streams; exits with 1 if results differ
    python examples/gesture.py -o gesture.onnx  # and keeps the file

Six sensors, three of acceleration and three of turning, are sampled a hundred times a second. Their data are made up: a
gesture is a short burst of swings in some of them, of its own rhythm, in noise. A convolution over time, a GRU and a
linear layer say at every sample which gesture is going on, looking back alone. The stream's answers are compared with
torch's on whole sequences, and timed. Needs: pip install "cgru[examples]" torch.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

import cgru

SENSORS = 6
GESTURES = ("none", "circle", "shake", "swipe")
SAMPLES = 160  # of a sequence
NEEDED = 'this example needs torch and onnx: pip install "cgru[examples]" torch'


def made_up(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sequences (T, B, 6) of sensors, and which gesture is going on at each sample (T, B)."""
    x = 0.3 * rng.standard_normal((SAMPLES, count, SENSORS)).astype(np.float32)
    labels = np.zeros((SAMPLES, count), np.int64)
    for b in range(count):
        gesture = int(rng.integers(1, len(GESTURES)))
        length, speed = int(rng.integers(50, 80)), rng.uniform(0.8, 1.2)
        start = int(rng.integers(10, SAMPLES - length - 10))
        phase = 2 * np.pi * speed * np.arange(length) / 100
        swings = {
            1: [np.sin(2 * phase), np.cos(2 * phase), 0 * phase],
            2: [np.sin(9 * phase), 0 * phase, np.sin(9 * phase)],
            3: [0 * phase, np.exp(-((phase - phase[-1] / 2) ** 2) * 4), np.sin(phase)],
        }[gesture]
        envelope = np.hanning(length)
        for i, swing in enumerate(swings):
            x[start : start + length, b, i] += envelope * swing
            x[start : start + length, b, 3 + i] += 0.5 * envelope * np.gradient(swing)
        labels[start + length // 4 : start + length, b] = gesture
    return x, labels


def trained(seed: int, rounds: int):
    """A torch module over (T, B, 6), trained on made-up data."""
    import torch
    from torch import nn

    class Recogniser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.windows = nn.Conv1d(SENSORS, 24, 5, dilation=2)
            self.gru = nn.GRU(24, 32)
            self.scores = nn.Linear(32, len(GESTURES))

        def forward(self, x):
            padded = nn.functional.pad(
                x.permute(1, 2, 0), (8, 0)
            )  # eight samples of silence, so that nothing looks ahead
            y, _ = self.gru(torch.relu(self.windows(padded)).permute(2, 0, 1))
            return torch.softmax(self.scores(y), -1)

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    module = Recogniser()
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(rounds):
        x, labels = map(torch.from_numpy, made_up(32, rng))
        loss = nn.functional.nll_loss(torch.log(module(x) + 1e-9).flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.eval()


def export(module, path: Path) -> None:
    """The module as an ONNX file whose time axis is dynamic."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.zeros(20, 1, SENSORS),), str(path), input_names=["sensors"], output_names=["gestures"],
            dynamic_axes={"sensors": {0: "T"}, "gestures": {0: "T"}}, dynamo=False,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Train, export, load and stream a gesture recogniser.")
    parser.add_argument("-o", "--output", type=Path, help="where to keep the ONNX file")
    parser.add_argument("--rounds", type=int, default=120, help="batches of 32 sequences to train on (default: 120)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if any(importlib.util.find_spec(name) is None for name in ("torch", "onnx")):
        sys.exit(NEEDED)
    import torch

    module = trained(arguments.seed, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.output or Path(folder) / "gesture.onnx"
        export(module, path)
        net = cgru.Network.load(path)
    print(net)
    x, labels = made_up(40, np.random.default_rng(arguments.seed + 1))
    stream = net.stream()
    out = np.empty((1, len(GESTURES)), np.float32)
    right, worst, times = 0, 0.0, []
    for b in range(x.shape[1]):
        stream.reset()
        with torch.no_grad():
            expected = module(torch.from_numpy(x[:, b : b + 1])).numpy()
        for t in range(SAMPLES):
            start = time.perf_counter()
            stream.step(x[t, b : b + 1], out=out)
            times.append(time.perf_counter() - start)
            worst = max(worst, float(np.abs(out - expected[t]).max()))
            right += int(out.argmax()) == labels[t, b]
    print(f"# {right / len(times):.1%} of {len(times):,} samples named as they were made")
    print(f"# a sample in {statistics.median(times) * 1e6:.1f} us; largest difference from torch {worst:.1e}")
    sys.exit(worst > 2e-5)


if __name__ == "__main__":
    main()
