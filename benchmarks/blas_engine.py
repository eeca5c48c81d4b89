"""The BLAS engine beside a carefully written NumPy loop: python benchmarks/blas_engine.py

Also what the products alone take when NumPy calls BLAS for them, as the loop does: a floor. On more threads than one
the figures mean little: NumPy's BLAS and SciPy's each keep threads that spin on the other's cores.
"""

import argparse

import numpy as np

from cgru import bench

CASES = {
    bench.Case("B 1, T 100", 100, 1, 64, 64): 3.0,
    bench.Case("B 32, T 100", 100, 32, 128, 128): 2.0,
}


def blas_engine(problem, threads):
    return lambda: problem.gru(problem.x, problem.h, engine="blas", num_threads=threads)[0]


def products_only(problem, threads):
    """Just the products of a sequence, by NumPy: all inputs at once, then a product a step."""
    w = np.ascontiguousarray(problem.parameters["weight_ih_l0"].T)
    u = np.ascontiguousarray(problem.parameters["weight_hh_l0"].T)
    x, h = problem.x, problem.h[0]
    out = np.empty((len(h), u.shape[1]), np.float32)

    def call():
        x.reshape(-1, x.shape[2]) @ w
        for _ in range(len(x)):
            np.matmul(h, u, out=out)
        return problem.answer

    problem.answer = problem.expected()
    return call


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    bench.CONTENDERS["BLAS engine"] = (blas_engine, ())
    bench.CONTENDERS["products alone"] = (products_only, ())
    names = ["BLAS engine", "NumPy loop", "products alone"]
    print("microseconds a call, float32, medians of interleaved rounds\n")
    print(
        f"{'case':12} {'H':>4} {'threads':>8}", *(f"{name:>15}" for name in names), f"{'NumPy / ours':>13} {'asked':>6}"
    )
    for threads in arguments.threads:
        for case, asked in CASES.items():
            seconds = bench.measure(case, names, threads, arguments.seconds, rounds=31).seconds
            times = (f"{seconds[name] * 1e6:15,.0f}" for name in names)
            ratio = seconds["NumPy loop"] / seconds["BLAS engine"]
            print(f"{case.name:12} {case.hidden:4} {threads:8}", *times, f"{ratio:13.2f} {asked:6.1f}")


if __name__ == "__main__":
    main()
