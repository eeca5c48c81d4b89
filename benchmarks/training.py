"""Forward and backward beside torch and JAX: python benchmarks/training.py [--threads 1 2] [--json FILE] [--plot FILE]

Milliseconds of recording a call and of its gradients by x, h0 and all weights, float32, interleaved medians: through
gru.record, through cgru.torch.GRU, the same under torch.compile, torch.nn.GRU with autograd, and a jitted scan in JAX
where that is installed. All gradients are compared with torch's first. "Floor" is what the flops take at the peak
measured in the same run. Then the peak memory beyond a call's input and what the libraries take, each in a process of
its own.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import output

import cgru

CASES = {  # inputs, hidden, batch, steps: ratio to torch asked on one thread and on two
    (32, 64, 32, 100): (4.0, None),
    (256, 256, 64, 50): (2.0, 1.6),
    (512, 512, 64, 50): (1.5, 1.15),
    (64, 64, 32, 100): (5.0, None),  # these four with AVX2; of them the first and the last for the bridge, too
    (128, 128, 32, 100): (2.4, None),
    (256, 256, 32, 100): (1.4, None),
    (512, 512, 32, 100): (1.27, None),
    (64, 256, 1, 200): (5.0, 4.0),
}
REST = 0.05
"""Seconds between contenders on several threads: their idle threads spin for a while, on the others' cores."""


class Problem:
    """A model, an input (T, B, I), and the loss' gradient by its output (T, B, H)."""

    def __init__(self, inputs, hidden, batch, steps):
        rng = np.random.default_rng(0)
        self.gru = cgru.GRU(inputs, hidden, rng=rng)
        self.x = rng.standard_normal((steps, batch, inputs), dtype=np.float32)
        self.grad_y = rng.standard_normal((steps, batch, hidden), dtype=np.float32)
        self.flops = 18 * steps * batch * hidden * (inputs + hidden)


def cgru_call(problem):
    gru, names = problem.gru, list(problem.gru.state_dict())

    def call():
        _, _, tape = gru.record(problem.x)
        grads = tape.backward(problem.grad_y)
        return [grads.x, *(grads[name] for name in names)]

    return call


def module_call(problem, kind, prepare=lambda module: module):
    import torch

    module = kind(problem.gru.input_size, problem.gru.hidden_size)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in problem.gru.state_dict().items()})
    x, grad_y = torch.from_numpy(problem.x).requires_grad_(), torch.from_numpy(problem.grad_y)
    forward = prepare(module)

    def call():
        y, _ = forward(x)
        return [array.numpy() for array in torch.autograd.grad(y, [x, *module.parameters()], grad_y)]

    return call


def cgru_torch_call(problem):
    import cgru.torch

    return module_call(problem, cgru.torch.GRU)


def torch_call(problem):
    import torch

    return module_call(problem, torch.nn.GRU)


def jax_call(problem):
    import jax
    import jax.numpy as jnp

    parameters = {name: jnp.asarray(array) for name, array in problem.gru.state_dict().items()}
    x, grad_y = jnp.asarray(problem.x), jnp.asarray(problem.grad_y)

    def forward(x, p):
        inputs = x @ p["weight_ih_l0"].T + p["bias_ih_l0"]

        def step(h, a):
            u = h @ p["weight_hh_l0"].T + p["bias_hh_l0"]
            (a_r, a_z, a_n), (u_r, u_z, u_n) = jnp.split(a, 3, axis=1), jnp.split(u, 3, axis=1)
            r, z = jax.nn.sigmoid(a_r + u_r), jax.nn.sigmoid(a_z + u_z)
            n = jnp.tanh(a_n + r * u_n)
            h = n + z * (h - n)
            return h, h

        return jax.lax.scan(step, jnp.zeros(grad_y.shape[1:]), inputs)[1]

    @jax.jit
    def gradients(x, p, grad_y):
        return jax.vjp(forward, x, p)[1](grad_y)

    def call():
        by_x, by_parameters = jax.block_until_ready(gradients(x, parameters, grad_y))
        return [by_x, *(by_parameters[name] for name in parameters)]

    return call


def compiled_call(problem):
    """Without PyTorch's code generator, which needs a C++ compiler and has nothing to do here."""
    import torch

    import cgru.torch

    return module_call(problem, cgru.torch.GRU, lambda gru: torch.compile(gru, fullgraph=True, backend="aot_eager"))


CONTENDERS = {
    "cgru": cgru_call,
    "cgru.torch": cgru_torch_call,
    "compiled": compiled_call,
    "torch": torch_call,
    "jax": jax_call,
}
MODULES = {"cgru.torch": "torch", "compiled": "torch"}
"""What contenders need that are no packages of their own."""


def installed():
    """The contenders that can run here."""
    return [name for name in CONTENDERS if find_spec(MODULES.get(name, name))]


def seconds_of(call, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def measure(case, threads, rounds):
    """Medians in milliseconds by contender, and the floor."""
    if hasattr(os, "sched_setaffinity"):  # JAX takes every core that there is
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import torch

    from cgru import _packed

    torch.set_num_threads(threads)
    cgru.set_num_threads(threads)
    problem = Problem(*case)
    calls = {name: CONTENDERS[name](problem) for name in installed()}
    expected = calls["torch"]()
    for name, call in calls.items():
        for result, wanted in zip(call(), expected, strict=True):
            error = float(np.max(np.abs(result - wanted)) / np.max(np.abs(wanted)))
            if not error < 1e-4:
                raise RuntimeError(f"{name}: differs from torch by {error:.2g}")
    repeats = {name: max(1, int(0.02 / seconds_of(call, 2))) for name, call in calls.items()}
    times, peaks = {name: [] for name in calls}, []
    for _ in range(rounds):
        start = time.perf_counter()
        peaks.append(_packed.probe_flops(50_000) / (time.perf_counter() - start))
        for name, call in calls.items():
            if threads > 1:
                time.sleep(REST)
                call()
            times[name].append(seconds_of(call, repeats[name]))
    floor = problem.flops / (statistics.median(peaks) * threads)
    return {name: statistics.median(values) * 1e3 for name, values in times.items()}, floor * 1e3


def peak_memory(case, name):
    """Bytes that a call takes at most, beyond what was there before it."""
    problem = Problem(*case)
    small = CONTENDERS[name](Problem(4, 4, 1, 2))
    small()  # libraries loaded
    call = CONTENDERS[name](problem)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def run(task, threads):
    """A task of this file in a process whose libraries keep to so many threads."""
    count = str(threads)
    flags = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'} intra_op_parallelism_threads={count}"
    kept = {"OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__, "--task", json.dumps(task)]
    result = subprocess.run(command, env={**os.environ, **kept}, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = output.add_arguments(parser)
    if arguments.task:
        function, *rest = json.loads(arguments.task)
        print(json.dumps({"measure": measure, "peak_memory": peak_memory}[function](*rest)))
        return
    names = installed()
    print("milliseconds of forward and backward, float32, medians of interleaved rounds\n")
    columns = (f"{name:>10}" for name in [*names, "floor"])
    ratios = (f"{name:>8}" for name in ("ratio", "module", "compiled", "asked", "possible"))
    print(f"{'I':>4} {'H':>4} {'B':>3} {'T':>4} {'threads':>7}", *columns, *ratios)
    kept = []
    for threads in arguments.threads:
        for case, asked in CASES.items():
            times, floor = run(["measure", case, threads, arguments.rounds], threads)
            wanted = asked[threads > 1] or "-"
            inputs, hidden, batch, steps = case
            figures = (f"{value:10.2f}" for value in [*times.values(), floor])
            ratios = (f"{times['torch'] / times[name]:8.2f}" for name in ("cgru", "cgru.torch", "compiled"))
            print(f"{inputs:4} {hidden:4} {batch:3} {steps:4} {threads:7}", *figures, *ratios,
                  f"{wanted:>8} {times['torch'] / floor:8.2f}", flush=True)  # fmt: skip
            kept.append({"case": case, "threads": threads, "milliseconds": times, "floor": floor})
    print("\npeak memory of a call beyond its input, MB")
    print(f"{'I':>4} {'H':>4} {'B':>3} {'T':>4}", *(f"{name:>10}" for name in ("cgru", "cgru.torch", "torch")))
    for case in CASES:
        sizes = [run(["peak_memory", case, name], 1) / 1e6 for name in ("cgru", "cgru.torch", "torch")]
        inputs, hidden, batch, steps = case
        print(f"{inputs:4} {hidden:4} {batch:3} {steps:4}", *(f"{size:10.1f}" for size in sizes), flush=True)
        kept.append({"case": case, "megabytes": sizes})
    output.keep(arguments, kept, plot)


def plot(axes, kept):
    """Bars: how many times faster than torch."""
    rows = [row for row in kept if "milliseconds" in row]
    for i, name in enumerate(("cgru", "cgru.torch", "jax")):
        ratios = [row["milliseconds"]["torch"] / row["milliseconds"].get(name, float("inf")) for row in rows]
        axes.bar(np.arange(len(rows)) + 0.27 * (i - 1), ratios, 0.27, label=name)
    axes.axhline(1, color="black", linewidth=0.8)
    labels = [f"I {i} H {h}\nB {b} T {t}\n{row['threads']} thread{'s' * (row['threads'] > 1)}"
              for row in rows for i, h, b, t in [row["case"]]]  # fmt: skip
    axes.set_xticks(np.arange(len(rows)), labels, fontsize=6)
    axes.set(ylabel="torch's time over theirs", title="Forward and backward")


if __name__ == "__main__":
    main()
