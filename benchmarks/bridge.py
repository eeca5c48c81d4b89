"""What cgru.torch.GRU costs beside torch.nn.GRU and cgru.GRU: python benchmarks/bridge.py [--threads N] [--json FILE]

Microseconds of a call without gradients, and of one with its way back by all weights, float32, I = H, interleaved
medians; results are compared with torch's first. "weights" is what a call spends on comparing its weights with those
of the call before, and "share" that of cgru.torch's call. cgru.GRU compares nothing: it is told of its weights.
"rewritten" writes to a weight before each call, as training does, so that they are packed anew.
"""

import argparse
import statistics
import time

import output
import torch

import cgru
import cgru.torch
from cgru.torch import kept

CASES = [(64, 1, 1), (64, 1, 20), (64, 32, 20), (512, 1, 1), (512, 1, 20), (512, 32, 20)]  # H, B, T


def contenders(hidden, batch, steps):
    """Calls by name, and the comparison of weights alone."""
    theirs = torch.nn.GRU(hidden, hidden)
    ours = cgru.torch.GRU(hidden, hidden)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(steps, batch, hidden)
    model, array, weights = cgru.from_torch(theirs), x.numpy(), list(ours.parameters())
    options = kept.Options(1, False, False, 0.0)

    def inference(module):
        with torch.no_grad():
            return module(x)[0]

    def training(module, rewrite=False):
        if rewrite:
            weights[0].data[0, 0] += 1e-6
        y = module(x)[0]
        torch.autograd.grad(y.sum(), list(module.parameters()))
        return y.detach()

    return {
        "torch": lambda: inference(theirs),
        "cgru.torch": lambda: inference(ours),
        "cgru": lambda: torch.from_numpy(model(array)[0]),
        "torch, back": lambda: training(theirs),
        "cgru.torch, back": lambda: training(ours),
        "rewritten": lambda: training(ours, rewrite=True),
    }, lambda: kept.model_of(options, weights)


def microseconds(call, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats * 1e6


def measure(case, rounds):
    calls, compare = contenders(*case)
    expected = calls["torch"]()
    for name, call in calls.items():
        error = float((call() - expected).abs().max())
        if not error < 1e-4:
            raise RuntimeError(f"{name}: differs from torch by {error:.2g}")
    calls["weights"] = compare
    repeats = {name: max(1, int(20_000 / microseconds(call, 3))) for name, call in calls.items()}
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(microseconds(call, repeats[name]))
    return {name: statistics.median(values) for name, values in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = output.add_arguments(parser)
    torch.set_num_threads(arguments.threads)
    cgru.set_num_threads(arguments.threads)
    kept_rows = []
    for case in CASES:
        times = measure(case, arguments.rounds)
        if not kept_rows:
            print(f"{'H':>4} {'B':>3} {'T':>3}", *(f"{name:>{max(10, len(name))}}" for name in times), "   share")
        figures = (f"{value:{max(10, len(name))}.1f}" for name, value in times.items())
        share = times["weights"] / times["cgru.torch"]
        print(f"{case[0]:4} {case[1]:3} {case[2]:3}", *figures, f"{share:8.1%}", flush=True)
        kept_rows.append({"case": case, "microseconds": times})
    output.keep(arguments, kept_rows, plot)


def plot(axes, kept_rows):
    """Bars: how many times faster than torch, without and with the way back."""
    for i, (name, beside) in enumerate((("cgru.torch", "torch"), ("cgru.torch, back", "torch, back"))):
        ratios = [row["microseconds"][beside] / row["microseconds"][name] for row in kept_rows]
        axes.bar([k + 0.4 * i - 0.2 for k in range(len(ratios))], ratios, 0.4, label=name)
    axes.axhline(1, color="black", linewidth=0.8)
    labels = ["H {}\nB {} T {}".format(*row["case"]) for row in kept_rows]
    axes.set_xticks(range(len(labels)), labels, fontsize=6)
    axes.set(ylabel="torch's time over theirs", title="cgru.torch.GRU")


if __name__ == "__main__":
    main()
