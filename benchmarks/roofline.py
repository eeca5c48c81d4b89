"""How near the machine's limits: arithmetic and reading achieved, beside both measured in the same run.

python benchmarks/roofline.py [--json FILE] [--plot FILE]

One thread. The floor of a case is the time of its arithmetic at the measured peak, or of reading its weights from the
cache that holds them where that is longer (`cgru.bench.Limits`). Peak and bandwidth are sampled between the calls.
"""

import argparse
import statistics
import time

import output

from cgru import _packed, bench

CASES = [
    *(bench.Case("one step", 0, 1, h, h) for h in (8, 16, 32, 64, 128, 256, 512)),
    *(bench.Case("B 1, T 100", 100, 1, h, h) for h in (8, 16, 24, 32, 40, 64, 128, 256, 512)),
    bench.Case("B 1, T 50", 50, 1, 1024, 1024),
    *(bench.Case("B 4, T 100", 100, 4, h, h) for h in (64, 128, 256)),
    *(bench.Case("B 32, T 100", 100, 32, h, h) for h in (32, 64, 128, 256, 512)),
    *(bench.Case("B 64, T 50", 50, 64, h, h) for h in (256, 512)),
]
ASKED = {
    "one step": {32: 0.6, 64: 0.9},
    "B 1, T 100": {32: 0.8, 64: 0.8, 128: 0.9},
    "B 1, T 50": {1024: 0.9},
    "B 4, T 100": {64: 0.82, 128: 0.87, 256: 0.9},
    "B 32, T 100": {32: 0.75, 64: 0.82, 128: 0.86},
    "B 64, T 50": {256: 0.9, 512: 0.9},
}
"""Shares of the floor that are asked with AVX2, by hidden size."""


def measure(case, seconds, rounds=21):
    """Median seconds a call, and the limits sampled between the calls."""
    call, limits = bench.cgru_call(bench.Problem(case), 1), bench.Limits(case)
    call()
    start = time.perf_counter()
    call()
    repeats = max(1, int(seconds / rounds / (time.perf_counter() - start)))
    times = []
    for _ in range(rounds):
        limits.sample()
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        times.append((time.perf_counter() - start) / repeats)
    return statistics.median(times), limits


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=0.5, help="of each case")
    arguments = output.add_arguments(parser)
    print(f"instruction set: {_packed.ISA}")
    print(f"{'case':12} {'H':>5} {'us':>11} {'floor us':>11} {'of floor':>8} {'asked':>6} {'GFLOP/s':>8} {'peak':>6} "
          f"{'GB/s':>6} {'cache':>6}")  # fmt: skip
    kept = []
    for case in CASES:
        seconds, limits = measure(case, arguments.seconds)
        steps = max(1, case.steps)
        rate = 6 * steps * case.batch * case.hidden * (case.inputs + case.hidden) / seconds
        read = limits.weights.nbytes * steps / seconds
        print(f"{case.name:12} {case.hidden:5} {seconds * 1e6:11,.2f} {limits.floor * 1e6:11,.2f} "
              f"{limits.floor / seconds:8.2f} {ASKED.get(case.name, {}).get(case.hidden, ''):>6} {rate / 1e9:8.1f} "
              f"{limits.peak / 1e9:6.0f} {read / 1e9:6.0f} "
              f"{limits.bandwidth / 1e9:6.0f}", flush=True)  # fmt: skip
        kept.append({"case": case.name, "hidden": case.hidden, "batch": case.batch, "seconds": seconds,
                     "floor": limits.floor, "flops": rate, "peak": limits.peak, "bytes": read,
                     "bandwidth": limits.bandwidth})  # fmt: skip
    output.keep(arguments, kept, plot)


def plot(axes, kept):
    """The share of the floor over hidden size."""
    for name in dict.fromkeys(row["case"] for row in kept):
        rows = [row for row in kept if row["case"] == name]
        axes.plot([r["hidden"] for r in rows], [r["floor"] / r["seconds"] for r in rows], marker="o", label=name)
    output.over_hidden_sizes(axes, (row["hidden"] for row in kept), ylim=(0, 1.05), ylabel="least possible time / time")


if __name__ == "__main__":
    main()
