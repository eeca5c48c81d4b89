"""Thousands of independent streams stepped together: python benchmarks/pool.py [--json FILE] [--plot FILE]

All streams of a pool, and a random half of them, take a step; beside the peak of this machine's arithmetic, sampled
between the calls, and torch.nn.GRUCell on the same rows where that is installed. One thread; results compared first.
"""

import argparse
import importlib.util
import statistics
import time

import numpy as np
import output

import cgru
from cgru import bench


def torch_call(gru, x, h):
    """torch.nn.GRUCell's step of all rows."""
    import torch

    cell = torch.nn.GRUCell(gru.input_size, gru.hidden_size)
    cell.load_state_dict({n.removesuffix("_l0"): v for n, v in gru.to_torch().state_dict().items()})
    rows, states = torch.from_numpy(x), torch.from_numpy(h)

    def call():
        torch.set_num_threads(1)
        with torch.inference_mode():
            return cell(rows, states).numpy()

    return call


def measure(streams, hidden, rounds):
    """Median seconds by name, and the limits sampled between."""
    rng = np.random.default_rng(0)
    gru = cgru.GRU(hidden, hidden, rng=rng)
    pool = gru.pool(streams)
    ids = np.array([pool.open() for _ in range(streams)])
    x = rng.standard_normal((streams, hidden)).astype(np.float32)
    h = rng.uniform(-1, 1, (streams, hidden)).astype(np.float32)
    out = np.empty((streams, hidden), np.float32)
    half = rng.permutation(ids)[: streams // 2]
    calls = {"all": lambda: pool.step(ids, x, out, num_threads=1),
             "half": lambda: pool.step(half, x[: len(half)], out[: len(half)], num_threads=1)}  # fmt: skip
    if importlib.util.find_spec("torch"):
        calls["torch"] = torch_call(gru, x, h)
        for i, state in zip(ids, h, strict=True):
            pool.set_state(i, state[None])
        difference = np.max(np.abs(calls["all"]() - calls["torch"]()))
        assert difference < bench.TOLERANCE, difference
    limits = bench.Limits(bench.Case("pool", 1, streams, hidden, hidden))
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            limits.sample()
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}, limits


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--hidden", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--rounds", type=int, default=31)
    arguments = output.add_arguments(parser)
    print(f"a pool of {arguments.streams} streams, I = H, one thread, medians; us/stream: of a step of all\n")
    print(f"{'H':>5} {'all ms':>9} {'half ms':>9} {'torch ms':>9} {'us/stream':>9} {'GFLOP/s':>8} {'peak':>6} "
          f"{'of peak':>7} {'half':>7}")  # fmt: skip
    kept = []
    for hidden in arguments.hidden:
        times, limits = measure(arguments.streams, hidden, arguments.rounds)
        rate = 12 * arguments.streams * hidden * hidden / times["all"]
        torch = times.get("torch", np.nan) * 1e3
        half = 12 * (arguments.streams // 2) * hidden * hidden / times["half"]
        print(f"{hidden:5} {times['all'] * 1e3:9.3f} {times['half'] * 1e3:9.3f} {torch:9.3f} "
              f"{times['all'] / arguments.streams * 1e6:9.3f} {rate / 1e9:8.1f} {limits.peak / 1e9:6.0f} "
              f"{rate / limits.peak:7.2f} {half / limits.peak:7.2f}", flush=True)  # fmt: skip
        kept.append({"streams": arguments.streams, "hidden": hidden, "seconds": times, "flops": rate,
                     "peak": limits.peak})  # fmt: skip
    output.keep(arguments, kept, plot)


def plot(axes, kept):
    """Microseconds a stream over hidden size, and the floor."""
    hidden = [row["hidden"] for row in kept]
    for name, label in (("all", "cgru"), ("torch", "torch")):
        if name in kept[0]["seconds"]:
            axes.plot(hidden, [r["seconds"][name] / r["streams"] * 1e6 for r in kept], marker="o", label=label)
    axes.plot(hidden, [12 * row["hidden"] ** 2 / row["peak"] * 1e6 for row in kept], "k:", label="peak arithmetic")
    output.over_hidden_sizes(axes, hidden, yscale="log", ylabel="microseconds a stream and step")


if __name__ == "__main__":
    main()
