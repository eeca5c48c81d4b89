"""What it costs to alternate OpenMP loops with a threaded BLAS: python benchmarks/blas_threads.py

Both libraries' threads spin while they wait, each keeping the other's from a core. The loops of the BLAS engine
therefore stay on one thread below `PARALLEL_UNITS` units a step; this prints a step's time with them always parallel,
never, and by that rule.
"""

import statistics
import time

import cgru
from cgru import bench
from cgru.engines.host import blas

RULE = blas.PARALLEL_UNITS


def milliseconds_a_step(case, parallel_units):
    blas.PARALLEL_UNITS = parallel_units
    problem = bench.Problem(case)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        problem.gru(problem.x, problem.h, engine="blas")
        times.append((time.perf_counter() - start) / case.steps * 1e3)
    return statistics.median(times)


def main():
    print(f"milliseconds a step, {cgru.get_num_threads()} threads\n")
    print(f"{'B':>6} {'H':>5} {'always':>8} {'never':>8} {'rule':>8}")
    for batch, hidden, steps in [(64, 256, 20), (256, 256, 20), (1024, 512, 6), (8192, 512, 2)]:
        case = bench.Case("", steps, batch, hidden, hidden)
        times = [milliseconds_a_step(case, units) for units in (1, 1 << 60, RULE)]
        print(f"{batch:6} {hidden:5}", *(f"{value:8.2f}" for value in times))


if __name__ == "__main__":
    main()
