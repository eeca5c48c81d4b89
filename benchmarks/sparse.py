"""Pruned models beside dense ones: `python benchmarks/sparse.py [--density 0.2]`, one thread, microseconds a step.

A block of zeros need not be read or multiplied. The floor is the density; what is above it are the gates, the inputs
and states that are read for every block, and the lists. The columns: a step of a stream, one sequence of 50 steps, 32
sequences of 20. Results are compared first: with float32 to rounding, with int8 to the bit.
"""

import argparse
import copy
import statistics
import time
from functools import partial

import numpy as np

import cgru
from cgru import _packed

ROUNDS = 25


def dense(gru):
    """The same model, whose zeros are multiplied."""
    other = copy.deepcopy(gru)
    stack = other.value.stack
    weights = [_packed.Weights(layer, stack.precision) for directions in stack.layers for layer in directions]
    stack.prepared["packed"] = _packed.Stack(weights, len(stack.layers[0]), stack.reverse)
    return other


def median(calls, steps):
    """Of each call, microseconds a step, taking turns."""
    times = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, own in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            own.append(time.perf_counter() - start)
    return [statistics.median(own) * 1e6 / steps for own in times]


def steps_of(stream, frame, out, count):
    """So many steps of a stream."""
    for _ in range(count):
        stream.step(frame, out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--density", type=float, default=0.2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512])
    arguments = parser.parse_args()
    print(f"{_packed.ISA}, density {arguments.density}, microseconds a step, dense / sparse = ratio")
    rng = np.random.default_rng(0)
    for precision in ("float32", "int8"):
        for size in arguments.sizes:
            sparse = cgru.GRU(size, size, rng=0).prune(arguments.density)
            sparse = sparse if precision == "float32" else sparse.quantize(precision)
            models = dense(sparse), sparse
            cells = []
            frame, out = rng.standard_normal(size, np.float32), np.empty(size, np.float32)
            streams = [model.stream() for model in models]
            cells.append(median([partial(steps_of, stream, frame, out, 200) for stream in streams], 200))
            for steps, batch in ((50, 1), (20, 32)):
                x = rng.standard_normal((steps, batch, size), np.float32)
                results = [model(x, num_threads=1)[0] for model in models]
                np.testing.assert_allclose(*results, rtol=0, atol=1e-5 if precision == "float32" else 0)
                cells.append(median([partial(model, x, num_threads=1) for model in models], steps))
            text = " | ".join(f"{a:8.2f} / {b:7.2f} = {a / b:.2f}" for a, b in cells)
            print(f"{precision:8} H {size:4} | {text}")


if __name__ == "__main__":
    main()
