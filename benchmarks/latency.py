"""How evenly a stream steps: the distribution of a step's time over a million steps, quiet and beside a busy process.

python benchmarks/latency.py [--steps N] [--hidden H ...] [--json FILE] [--plot FILE]

A step is timed from Python, clock included; what two readings of the clock cost is printed too.
"""

import argparse
import json
import multiprocessing
import time

import numpy as np

import cgru

QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


def step_times(hidden, steps):
    """Nanoseconds of each of so many steps."""
    rng = np.random.default_rng(0)
    stream = cgru.GRU(hidden, hidden, rng=rng).stream()
    inputs = list(rng.standard_normal((64, hidden)).astype(np.float32))
    out = np.empty(hidden, np.float32)
    times = np.empty(steps, np.int64)
    clock, step = time.perf_counter_ns, stream.step
    for i in range(steps):
        x = inputs[i & 63]
        start = clock()
        step(x, out)
        times[i] = clock() - start
    return times


def clock_times(steps):
    clock = time.perf_counter_ns
    return np.array([-clock() + clock() for _ in range(steps)])


def be_busy():
    array = np.random.default_rng(0).standard_normal((400, 400))
    while True:
        array @ array


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--hidden", type=int, nargs="+", default=[32, 64, 256])
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE")
    arguments = parser.parse_args()
    print(f"reading the clock twice: {np.median(clock_times(100_000)):.0f} ns\n")
    print(f"{'surroundings':14} {'H':>5}", *(f"{name + ' us':>10}" for name in QUANTILES), f"{'p99.9 / p50':>12}")
    kept, samples = [], {}
    for surroundings in ("quiet", "a busy process"):
        busy = multiprocessing.get_context("spawn").Process(target=be_busy, daemon=True)
        if surroundings != "quiet":
            busy.start()
            time.sleep(2)
        for hidden in arguments.hidden:
            times = step_times(hidden, arguments.steps)
            figures = {name: float(np.quantile(times, q)) / 1e3 for name, q in QUANTILES.items()}
            columns = (f"{value:10.2f}" for value in figures.values())
            print(f"{surroundings:14} {hidden:5}", *columns, f"{figures['p99.9'] / figures['p50']:12.2f}", flush=True)
            kept.append({"surroundings": surroundings, "hidden": hidden, "microseconds": figures})
            samples[f"H {hidden}, {surroundings}"] = times
        if surroundings != "quiet":
            busy.terminate()
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(kept, file, indent=2)
    if arguments.plot:
        plot(samples, arguments.plot)


def plot(samples, path):
    """The share of steps that take longer than so many microseconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, times in samples.items():
        share = np.geomspace(1, 1 / len(times), 400)
        axes.plot(np.quantile(times, 1 - share) / 1e3, share, label=name, linestyle="-" if "quiet" in name else "--")
    axes.set(xscale="log", yscale="log", xlabel="microseconds", ylabel="share of steps that take longer")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
