"""How evenly a stream steps: the distribution of a step's time over a million steps, quiet and beside a busy process.

python benchmarks/latency.py [--steps N] [--hidden H ...] [--json FILE] [--plot FILE]

A step is timed from Python, clock included; what two readings of the clock cost is printed too.
"""

import argparse
import multiprocessing
import time

import numpy as np
import output

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
    arguments = output.add_arguments(parser)
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
    output.keep(arguments, kept, lambda axes, _: plot(axes, samples))


def plot(axes, samples):
    """The share of steps that take longer than so many microseconds."""
    for name, times in samples.items():
        share = np.geomspace(1, 1 / len(times), 400)
        axes.plot(np.quantile(times, 1 - share) / 1e3, share, label=name, linestyle="-" if "quiet" in name else "--")
    axes.set(xscale="log", yscale="log", xlabel="microseconds", ylabel="share of steps that take longer")


if __name__ == "__main__":
    main()
