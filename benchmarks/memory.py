"""Peak memory of one call on a sequence of 1,000,000 steps, I 8, H 32, beside its input and output.

python benchmarks/memory.py; every case in a process of its own.
"""

import resource
import subprocess
import sys

import numpy as np

import cgru

CASES = {
    "one layer": {},
    "one layer, BLAS": {},
    "three layers": {"num_layers": 3},
    "lengths": {},
    "batch_first, B 4": {"batch_first": True},
    "float64": {"dtype": np.float64},
}


def peak():
    """The process' largest resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name):
    steps, inputs, hidden = 1_000_000, 8, 32
    gru = cgru.GRU(inputs, hidden, rng=0, **CASES[name])
    gru(np.zeros((4, 100, inputs), gru.dtype))  # libraries loaded, weights prepared
    gru(np.zeros((100, inputs), gru.dtype))
    before = peak()
    shape = (4, steps // 4, inputs) if gru.batch_first else (steps, 1, inputs)
    x = np.random.default_rng(0).standard_normal(shape, dtype=gru.dtype)
    engine = "blas" if "BLAS" in name else "auto"
    y, _ = gru(x, lengths=[steps - 5] if name == "lengths" else None, engine=engine)
    size = x.nbytes + y.nbytes
    print(f"{name:17} {(peak() - before) / size:.2f} times input and output ({size / 1e6:.0f} MB; asked 1.3)")


def main():
    if len(sys.argv) == 2:
        measure(sys.argv[1])
        return
    for name in CASES:
        subprocess.run([sys.executable, __file__, name], check=True)


if __name__ == "__main__":
    main()
