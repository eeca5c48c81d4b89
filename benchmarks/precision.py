"""Weights of 16 bits beside float32: python benchmarks/precision.py [--json FILE] [--plot FILE]

One sequence of 100 steps on one thread, I = H, interleaved medians, and the error that rounding the weights makes in
the outputs: the largest, relative to the largest output, of a random model. The results of each are first compared, to
the last bit, with those of a float32 model that has the rounded weights.
"""

import argparse
import statistics
import time

import numpy as np
import output

import cgru
from cgru.precision import PRECISIONS

ASKED = {"bfloat16": {128: 1.8, 256: 1.8, 512: 3.5, 1024: 2.2}, "float16": {512: 1.6, 1024: 1.6}}


def measure(hidden, seconds, rounds=21):
    """Microseconds a step by precision, and errors."""
    rng = np.random.default_rng(0)
    gru = cgru.GRU(hidden, hidden, rng=rng)
    x = rng.standard_normal((100, 1, hidden)).astype(np.float32)
    models = {"float32": gru, **{precision: gru.quantize(precision) for precision in PRECISIONS}}
    y = gru(x)[0]
    errors = {}
    for precision in PRECISIONS:
        same = cgru.GRU(hidden, hidden)
        same.load_state_dict(models[precision].state_dict())
        result = models[precision](x)[0]
        assert np.array_equal(result, same(x)[0])
        errors[precision] = float(np.max(np.abs(result - y)) / np.max(np.abs(y)))
    times = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            model(x, num_threads=1)
            end = time.perf_counter() + seconds / rounds
            samples = []
            while not samples or time.perf_counter() < end:
                start = time.perf_counter()
                model(x, num_threads=1)
                samples.append(time.perf_counter() - start)
            times[name].append(statistics.median(samples))
    return {name: statistics.median(values) * 1e6 / len(x) for name, values in times.items()}, errors


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=0.5, help="for each precision and size")
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    arguments = output.add_arguments(parser)
    columns = (f"{p:>9} {'ratio':>6} {'asked':>6} {'error':>8}" for p in PRECISIONS)
    print(f"{'H':>5} {'float32 us':>10}", *columns)
    kept = []
    for hidden in arguments.hidden:
        times, errors = measure(hidden, arguments.seconds)
        line = f"{hidden:5} {times['float32']:10.3f}"
        for precision in PRECISIONS:
            line += (f" {times[precision]:9.3f} {times['float32'] / times[precision]:6.2f} "
                     f"{ASKED[precision].get(hidden, '-'):>6} {errors[precision]:8.1e}")  # fmt: skip
        print(line, flush=True)
        kept.append({"hidden": hidden, "microseconds": times, "errors": errors})
    output.keep(arguments, kept, plot)


def plot(axes, kept):
    """Microseconds a step over hidden size."""
    hidden = [row["hidden"] for row in kept]
    for name in kept[0]["microseconds"]:
        axes.plot(hidden, [row["microseconds"][name] for row in kept], marker="o", label=name)
    output.over_hidden_sizes(axes, hidden, yscale="log", ylabel="microseconds a step, one sequence")


if __name__ == "__main__":
    main()
