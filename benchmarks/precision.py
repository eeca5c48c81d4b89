"""Weights of 16 and 8 bits beside float32: python benchmarks/precision.py [--batch B] [--json FILE] [--plot FILE]

I = H, one thread, interleaved medians; one sequence of 100 steps, or B sequences of 50. "ratio" is float32's time to
the precision's, "of peer" that of the one framework with such a GRU on CPUs: torch's dynamically quantized one beside
int8, OpenVINO held to bfloat16 beside products of bfloat16. Errors are the largest of an output, relative to the
largest output, of a random model. Before timing, results of the 16-bit models are compared, to the last bit, with those
of a float32 model of the rounded weights, those of int8 and of products of bfloat16 with the reference, step by step.
"""

import argparse
import importlib.util
import statistics
import time
import warnings

import numpy as np
import output

import cgru
from cgru import _packed, bench, reference
from cgru.precision import PRECISIONS, Matrix

PRODUCTS = "bfloat16 products"
ASKED = {
    "bfloat16": {128: 1.8, 256: 1.8, 512: 3.5, 1024: 2.2},
    "float16": {512: 1.6, 1024: 1.6},
    "int8": {256: 2.2, 512: 4, 1024: 4},
}
ASKED_WITHOUT_DOT_PRODUCTS = {256: 2.8, 512: 3.3}  # of int8, where no instruction adds four products
PEERS = {"int8": "torch int8", PRODUCTS: "openvino bf16"}
ASKED_OF_PEER = {"int8": {64: 20, 128: 10, 256: 4, 512: 2, 1024: 1.5}, PRODUCTS: {256: 1.5, 512: 1.5}}


def torch_int8(gru, x, h):
    """A call of torch's GRU with the same weights, quantized by its own scheme, on one thread."""
    import torch

    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces another interface
        module = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(gru.to_torch()), {torch.nn.GRU})[0]
    tensors = torch.from_numpy(x), torch.from_numpy(h)

    def call():
        with torch.inference_mode():
            return module(*tensors)[0].numpy()

    return call


def check(gru, small, x, h, y):
    """Assert that a quantized model's outputs are what its weights should give."""
    if small.precision != "int8" and small.compute == "float32":
        same = cgru.GRU(gru.input_size, gru.hidden_size)
        same.load_state_dict(small.state_dict())
        assert np.array_equal(y, same(x, h)[0])
        return
    weights = {name: a if isinstance(a, Matrix) else a.astype(float) for name, a in small.value.parameters.items()}
    for t in (1, len(x) - 1):  # from the state reached: rounded states that lie between two numbers may go either way
        expected, _ = reference.forward(
            x[t : t + 1].astype(float), weights, y[t - 1 : t].astype(float), arithmetic=small.value.arithmetic
        )
        assert np.abs(y[t] - expected[0]).max() < 1e-5


def measure(hidden, batch, seconds, rounds=21):
    """Microseconds a step by contender, and errors."""
    case = bench.Case("", 100 if batch == 1 else 50, batch, hidden, hidden)
    problem = bench.Problem(case)
    gru, x, h = problem.gru, problem.x, problem.h
    models = {"float32": gru, **{precision: gru.quantize(precision) for precision in PRECISIONS}}
    models[PRODUCTS] = gru.quantize("bfloat16", compute="bfloat16")
    calls = {name: lambda model=model: model(x, h, num_threads=1)[0] for name, model in models.items()}
    for name, model in models.items():
        check(gru, model, x, h, calls[name]())
    if batch == 1 and importlib.util.find_spec("torch"):
        calls[PEERS["int8"]] = torch_int8(gru, x, h)
    if batch > 1 and importlib.util.find_spec("openvino"):
        calls[PEERS[PRODUCTS]] = bench.openvino_call(problem, 1, "bf16")
    exact = calls["float32"]()
    errors = {name: float(np.max(np.abs(call() - exact)) / np.max(np.abs(exact))) for name, call in calls.items()}
    assert max(errors.values()) < 0.1, errors
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            end = time.perf_counter() + seconds / rounds
            samples = []
            while not samples or time.perf_counter() < end:
                start = time.perf_counter()
                call()
                samples.append(time.perf_counter() - start)
            times[name].append(statistics.median(samples))
    return {name: statistics.median(values) * 1e6 / case.steps for name, values in times.items()}, errors


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=0.5, help="for each contender and size")
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--batch", type=int, default=1, help="sequences")
    arguments = output.add_arguments(parser)
    asked_of_set = ASKED
    if _packed.ISA in ("avx512", "avx2", "sse2", "neon"):
        asked_of_set = ASKED | {"int8": ASKED_WITHOUT_DOT_PRODUCTS}
    print(f"instruction set {_packed.ISA}")
    print(
        f"{'H':>5} {'weights':<17} {'us a step':>10} {'ratio':>6} {'asked':>6} {'of peer':>8} {'asked':>6} {'error':>8}"
    )
    kept = []
    for hidden in arguments.hidden:
        times, errors = measure(hidden, arguments.batch, arguments.seconds)
        for name, microseconds in times.items():
            asked = asked_of_set.get(name, {}).get(hidden, "-") if arguments.batch == 1 else "-"
            line = f"{hidden:5} {name:<17} {microseconds:10.3f} {times['float32'] / microseconds:6.2f} {asked:>6}"
            if PEERS.get(name) in times:
                ratio = times[PEERS[name]] / microseconds
                line += f" {ratio:8.2f} {ASKED_OF_PEER[name].get(hidden, '-'):>6}"
            else:
                line += f" {'-':>8} {'-':>6}"
            print(f"{line} {errors[name]:8.1e}", flush=True)
        kept.append({"hidden": hidden, "batch": arguments.batch, "microseconds": times, "errors": errors})
    output.keep(arguments, kept, plot)


def plot(axes, kept):
    """Microseconds a step over hidden size."""
    hidden = [row["hidden"] for row in kept]
    for name in kept[0]["microseconds"]:
        axes.plot(hidden, [row["microseconds"][name] for row in kept], marker="o", label=name)
    batch = kept[0]["batch"]
    what = "one sequence" if batch == 1 else f"{batch} sequences"
    output.over_hidden_sizes(axes, hidden, yscale="log", ylabel=f"microseconds a step, {what}")


if __name__ == "__main__":
    main()
