"""Whether a second thread pays, and whether the package's rule knows it: python benchmarks/threads.py

Every case runs on one thread, shared out by rows, by units, and as the rule of src/packed/sequence.cpp decides from
what it measured of the machine; calls follow each other at once, or after a pause that sends waiting threads to sleep.
[--threads N] [--json FILE] [--plot FILE]
"""

import argparse
import statistics
import time

import numpy as np
import output

import cgru
from cgru import _packed, bench

WAYS = ("none", "rows", "units", "measured")
CASES = [
    *(bench.Case("B 1, T 100", 100, 1, h, h) for h in (32, 64, 128, 256, 512, 1024)),
    *(bench.Case("B 4, T 100", 100, 4, h, h) for h in (64, 128, 256)),
    *(bench.Case("B 16, T 10", 10, 16, h, h) for h in (32, 64, 128)),
    *(bench.Case("B 64, T 50", 50, 64, h, h) for h in (32, 128, 256)),
]
PAUSE = 0.02  # seconds


def measure(case, threads, pause, seconds, rounds=15):
    """Median microseconds a call, by way."""
    problem = bench.Problem(case)
    call = bench.cgru_call(problem, threads)
    times = {way: [] for way in WAYS}
    for k in range(rounds):
        for way in (*WAYS[k % 4 :], *WAYS[: k % 4]):
            _packed.share(way)
            call()
            end = time.perf_counter() + (seconds / rounds / 4 if not pause else 0)
            while True:
                if pause:
                    time.sleep(pause)
                start = time.perf_counter()
                call()
                now = time.perf_counter()
                times[way].append((now - start) * 1e6)
                if now >= end:
                    break
    _packed.share("measured")
    return {way: statistics.median(values) for way, values in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each case")
    arguments = output.add_arguments(parser)
    cgru.GRU(8, 8)(np.zeros((1, 8), np.float32), num_threads=arguments.threads)
    speed = _packed.machine_speed()
    print(f"measured: {speed['flops'] / 1e9:.0f} GFLOP/s, {speed['bytes'] / 1e9:.0f} GB/s, microseconds for "
          f"a hot start {speed['hot start'] * 1e6:.1f}, a cold one {speed['cold start'] * 1e6:.0f}, "
          f"a meeting {speed['meeting'] * 1e6:.2f}\n")  # fmt: skip
    print(f"microseconds a call\n{'calls':9} {'case':12} {'H':>5}", *(f"{way:>10}" for way in WAYS), f"{'gain':>6}")
    kept = []
    for pause in (0, PAUSE):
        for case in CASES:
            times = measure(case, arguments.threads, pause, arguments.seconds)
            name = "at rest" if pause else "in a row"
            print(f"{name:9} {case.name:12} {case.hidden:5}", *(f"{times[way]:10,.1f}" for way in WAYS),
                  f"{times['none'] / times['measured']:6.2f}", flush=True)  # fmt: skip
            kept.append({"calls": name, "case": case.name, "hidden": case.hidden, "microseconds": times})
    output.keep(arguments, kept, plot)


def plot(axes, kept):
    """How many times faster than one thread, over the time of one thread; hollow: calls at rest."""
    for way, colour in (("rows", "tab:blue"), ("units", "tab:orange"), ("measured", "black")):
        for calls, face in (("in a row", colour), ("at rest", "none")):
            rows = [row["microseconds"] for row in kept if row["calls"] == calls]
            alone, gain = [r["none"] for r in rows], [r["none"] / r[way] for r in rows]
            size = 60 if way == "measured" else 20
            axes.scatter(alone, gain, size, facecolors=face, edgecolors=colour, label=f"{way}, {calls}")
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="microseconds on one thread", ylabel="times faster")


if __name__ == "__main__":
    main()
