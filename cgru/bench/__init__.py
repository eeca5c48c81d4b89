"""Times of this machine: cgru beside the NumPy reference, a tuned NumPy loop, and the frameworks that are installed.

A `Case` is a shape; a contender is a function that makes a ready call for a case, or nothing where it has no place.
`measure` compares every contender's result with the reference in float64 before it times anything, then runs all of
them in turn, many rounds, and keeps each one's median: what disturbs the machine disturbs all alike. Inputs and weights
are random numbers.
"""

from __future__ import annotations

import contextlib
import importlib.util
import statistics
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import cgru
from cgru.model import reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cgru.types import Array

    Call = Callable[[], Array]

TOLERANCE = 1e-5
"""Largest accepted difference of a float32 result from the reference in float64; outputs lie between -1 and 1."""

QUANTIZED_TOLERANCE = 0.05
"""The same of a quantized model, whose weights differ from the reference's: some times what eight bits lose in them."""

REST = 0.05
"""Seconds between contenders on several threads: most libraries' threads spin for a while after a call, on the cores
that the next one needs."""


@dataclass(frozen=True)
class Case:
    """A shape: T steps of B sequences, I inputs, H hidden units; T 0 stands for one step from Python."""

    name: str
    steps: int
    batch: int
    inputs: int
    hidden: int


@dataclass(frozen=True)
class Row:
    """One case's medians, in seconds a call, by contender; and the floor, what this machine could do at best."""

    case: Case
    seconds: dict[str, float]
    floor: float

    @property
    def peer(self) -> float:
        """Seconds of the fastest contender that is not cgru."""
        return min(seconds for name, seconds in self.seconds.items() if name != "cgru")


class Limits:
    """What the machine does at best, sampled between the contenders' calls: arithmetic, and reading a case's weights.

    A step's recurrent product takes as long as its arithmetic, or as reading its weights where that is longer; so does
    the input product of a single step, while that of a whole sequence is one product, bound by arithmetic.
    """

    def __init__(self, case: Case, threads: int = 1) -> None:
        self.case, self.threads = case, threads
        single = case.steps == 0
        columns = case.hidden + case.inputs * single
        self.weights = np.ones(max(256, 3 * case.hidden * columns // threads), np.float32)  # of one thread's share
        self.passes = max(6, 2 * round(2e6 / self.weights.nbytes))  # about as many bytes at each sample
        self.arithmetic: list[float] = []  # flops a second
        self.reading: list[float] = []  # bytes a second

    def sample(self) -> None:
        """Measure both once, in some milliseconds."""
        from cgru import _packed

        start = time.perf_counter()
        flops = _packed.probe_flops(100_000)
        self.arithmetic.append(flops / (time.perf_counter() - start))
        _packed.probe_read(self.weights, 4)  # into the caches
        start = time.perf_counter()
        _packed.probe_read(self.weights, self.passes)
        self.reading.append(self.weights.nbytes * self.passes / (time.perf_counter() - start))

    @property
    def peak(self) -> float:
        """Flops a second of all threads, median."""
        return statistics.median(self.arithmetic) * self.threads

    @property
    def bandwidth(self) -> float:
        """Bytes a second of each thread from the cache that holds its weights, median."""
        return statistics.median(self.reading)

    @property
    def floor(self) -> float:
        """Seconds that the case takes at best."""
        case = self.case
        inputs, recurrent = (6 * case.batch * case.hidden * k / self.peak for k in (case.inputs, case.hidden))
        reading = self.weights.nbytes / self.bandwidth
        if case.steps == 0:
            return max(inputs + recurrent, reading)
        return case.steps * (inputs + max(recurrent, reading))


def cases(sizes: tuple[int, ...] = (32, 64, 128, 256)) -> list[Case]:
    """The short table: one step, one sequence and a batch, for each size I = H."""
    step = [Case("one step", 0, 1, h, h) for h in sizes]
    sequence = [Case("B 1, T 100", 100, 1, h, h) for h in sizes]
    return [*step, *sequence, *(Case("B 32, T 100", 100, 32, h, h) for h in sizes)]


class Problem:
    """A case's data: a GRU, its form in a precision, an input (T, B, I) and a state (1, B, H)."""

    def __init__(self, case: Case, precision: str = "float32") -> None:
        rng = np.random.default_rng(0)
        self.case = case
        self.gru = cgru.GRU(case.inputs, case.hidden, rng=rng)
        self.quantized = self.gru if precision == "float32" else self.gru.quantize(precision)
        self.parameters = self.gru.state_dict()
        self.x = rng.standard_normal((max(case.steps, 1), case.batch, case.inputs)).astype(np.float32)
        self.h = rng.uniform(-1, 1, (1, case.batch, case.hidden)).astype(np.float32)

    def expected(self) -> Array:
        """The output (T, B, H) of the reference in float64."""
        double = {name: array.astype(np.float64) for name, array in self.parameters.items()}
        return reference.forward(self.x.astype(np.float64), double, self.h.astype(np.float64))[0]


def cgru_call(problem: Problem, threads: int) -> Call:
    """cgru itself, as its users call it: a stream for single steps, which keeps the state; else the GRU.

    It alone runs in the precision asked for.
    """
    if problem.case.steps == 0:
        stream = problem.quantized.stream(batch_size=problem.case.batch)
        stream.state = problem.h
        x, out = problem.x[0], np.empty_like(problem.h[0])
        return lambda: stream.step(x, out)
    return lambda: problem.quantized(problem.x, problem.h, num_threads=threads)[0]


def reference_call(problem: Problem, threads: int) -> Call:
    """The specification in NumPy, in float32."""
    return lambda: reference.forward(problem.x, problem.parameters, problem.h)[0]


def numpy_call(problem: Problem, threads: int) -> Call:
    """What a careful NumPy user would write: weights laid out once, one product for all inputs, no temporary arrays."""
    H = problem.case.hidden
    p = problem.parameters
    w = np.ascontiguousarray(p["weight_ih_l0"].T)
    u = np.ascontiguousarray(p["weight_hh_l0"].T)
    b = p["bias_ih_l0"].copy()
    b[: 2 * H] += p["bias_hh_l0"][: 2 * H]
    c_n = p["bias_hh_l0"][2 * H :]
    x, h0 = problem.x, problem.h[0]
    steps, batch, _ = x.shape
    recurrent = np.empty((batch, 3 * H), np.float32)
    gates, product = recurrent[:, : 2 * H], recurrent[:, 2 * H :]
    difference = np.empty((batch, H), np.float32)

    def call() -> Array:
        inputs = x.reshape(steps * batch, -1) @ w
        inputs += b
        inputs = inputs.reshape(steps, batch, 3 * H)
        y = np.empty((steps, batch, H), np.float32)
        h = h0
        for t in range(steps):
            np.matmul(h, u, out=recurrent)
            np.add(gates, inputs[t, :, : 2 * H], out=gates)
            np.negative(gates, out=gates)
            np.exp(gates, out=gates)
            np.add(gates, 1, out=gates)
            np.reciprocal(gates, out=gates)
            np.add(product, c_n, out=product)
            np.multiply(product, gates[:, :H], out=product)
            np.add(product, inputs[t, :, 2 * H :], out=product)
            np.tanh(product, out=product)
            np.subtract(h, product, out=difference)
            np.multiply(difference, gates[:, H:], out=difference)
            h = np.add(difference, product, out=y[t])
        return y

    return call


def torch_call(problem: Problem, threads: int) -> Call:
    """torch.nn.GRU, or GRUCell for one step, without gradients."""
    import torch

    module = problem.gru.to_torch().eval()
    x, h = torch.from_numpy(problem.x), torch.from_numpy(problem.h)
    if problem.case.steps == 0:
        cell = torch.nn.GRUCell(problem.case.inputs, problem.case.hidden)
        cell.load_state_dict({name.removesuffix("_l0"): value for name, value in module.state_dict().items()})

    def call() -> Array:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            result = cell(x[0], h[0]) if problem.case.steps == 0 else module(x, h)[0]
        array: Array = result.numpy()
        return array

    return call


def onnx_model(problem: Problem) -> bytes:
    """A model of one ONNX GRU node: gates in the order z, r, h, reset after the product."""
    from onnx import TensorProto, helper, numpy_helper

    def zrh(array: Array) -> Array:
        r, z, n = np.split(array, 3)
        return np.concatenate([z, r, n])[None]

    case, p = problem.case, problem.parameters
    weights = {
        "W": zrh(p["weight_ih_l0"]),
        "R": zrh(p["weight_hh_l0"]),
        "B": np.concatenate([zrh(p["bias_ih_l0"]), zrh(p["bias_hh_l0"])], axis=1),
    }
    steps = max(case.steps, 1)
    node = helper.make_node(
        "GRU", ["X", "W", "R", "B", "", "H0"], ["Y"], hidden_size=case.hidden, linear_before_reset=1
    )
    graph = helper.make_graph(
        [node],
        "gru",
        [
            helper.make_tensor_value_info("X", TensorProto.FLOAT, [steps, case.batch, case.inputs]),
            helper.make_tensor_value_info("H0", TensorProto.FLOAT, [1, case.batch, case.hidden]),
        ],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [steps, 1, case.batch, case.hidden])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def onnxruntime_call(problem: Problem, threads: int) -> Call:
    """ONNX Runtime on its CPU provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_model(problem), options, providers=["CPUExecutionProvider"])
    feed = {"X": problem.x, "H0": problem.h}
    return lambda: session.run(["Y"], feed)[0][:, 0]


def openvino_call(problem: Problem, threads: int, precision: str = "f32") -> Call:
    """OpenVINO on the CPU, held to a precision by its own name, float32 or "bf16"."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(core.read_model(onnx_model(problem)), "CPU", settings).create_infer_request()
    feed = {"X": problem.x, "H0": problem.h}
    return lambda: request.infer(feed, share_inputs=True, share_outputs=True)[0][:, 0]


CONTENDERS: dict[str, tuple[Callable[[Problem, int], Call], tuple[str, ...]]] = {
    "cgru": (cgru_call, ()),
    "reference": (reference_call, ()),
    "NumPy loop": (numpy_call, ()),
    "torch": (torch_call, ("torch",)),
    "onnxruntime": (onnxruntime_call, ("onnx", "onnxruntime")),
    "openvino": (openvino_call, ("onnx", "openvino")),
}


def installed() -> list[str]:
    """The contenders whose packages are here."""
    return [name for name, (_, needs) in CONTENDERS.items() if all(map(importlib.util.find_spec, needs))]


@contextlib.contextmanager
def blas_threads(threads: int) -> Iterator[None]:
    """Hold the BLAS libraries of NumPy and SciPy to so many threads, if threadpoolctl is here to do it."""
    if importlib.util.find_spec("threadpoolctl") is None:
        yield
        return
    import scipy.linalg  # noqa: F401 - so that its library is found
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads, user_api="blas"):
        yield


def measure(
    case: Case, names: list[str], threads: int, seconds: float = 1.0, rounds: int = 15, precision: str = "float32"
) -> Row:
    """Medians of one case, all contenders interleaved; about `seconds` for each of them; cgru's in a precision.

    Raises
    ------
    RuntimeError
        A contender's result differs from the reference.
    """
    with blas_threads(threads):
        problem = Problem(case, precision)
        calls = {name: CONTENDERS[name][0](problem, threads) for name in names}
        expected = problem.expected()
        repeats = {}
        for name, call in calls.items():
            error = float(np.max(np.abs(call().reshape(expected.shape) - expected)))
            exact = name != "cgru" or precision == "float32"
            if not error < (TOLERANCE if exact else QUANTIZED_TOLERANCE):
                raise RuntimeError(f"{name}, {case}: differs from the reference by {error:.2g}")
            repeats[name] = max(1, int(seconds / rounds / _seconds_a_call(call, 1)))
        times: dict[str, list[float]] = {name: [] for name in names}
        limits = Limits(case, threads)
        for k in range(rounds):
            limits.sample()
            for name in [*names[k % len(names) :], *names[: k % len(names)]]:  # each after every other
                if threads > 1:
                    time.sleep(REST)
                    calls[name]()
                times[name].append(_seconds_a_call(calls[name], repeats[name]))
    return Row(case, {name: statistics.median(values) for name, values in times.items()}, limits.floor)


def _seconds_a_call(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def as_json(rows: list[Row], threads: int, precision: str = "float32") -> dict[str, Any]:
    """What `cgru bench --json` writes: the machine, and each case's microseconds by contender."""
    return {
        "threads": threads,
        "precision": precision,
        "unit": "microseconds, median",
        "rows": [
            {
                **asdict(row.case),
                "times": {name: value * 1e6 for name, value in row.seconds.items()},
                "floor": row.floor * 1e6,
            }
            for row in rows
        ],
    }


def title(threads: int, precision: str) -> str:
    """What all contenders compute in, and cgru if that is something else."""
    own = "" if precision == "float32" else f", cgru {precision}"
    return f"float32{own}, {threads} thread{'s' * (threads > 1)}"


def plot(rows: list[Row], path: str, threads: int, precision: str = "float32") -> None:
    """Draw the table: a panel for each kind of case, time over hidden size, a line for each contender."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(row.case.name for row in rows))
    figure = Figure(figsize=(4.2 * len(kinds), 4.2), layout="constrained")
    for axes, kind in zip(np.atleast_1d(figure.subplots(1, len(kinds))), kinds, strict=True):
        chosen = [row for row in rows if row.case.name == kind]
        for name in chosen[0].seconds:
            hidden = [row.case.hidden for row in chosen]
            style = {"color": "black", "linewidth": 2.5} if name == "cgru" else {"linewidth": 1.2}
            axes.plot(hidden, [row.seconds[name] * 1e6 for row in chosen], marker="o", label=name, **style)
        floors = [row.floor * 1e6 for row in chosen]
        axes.plot(hidden, floors, color="black", linestyle=":", linewidth=1.2, label="the machine's floor")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(hidden, [str(h) for h in hidden])
        axes.set(title=kind, xlabel="hidden units H = inputs I", ylabel="microseconds a call")
        axes.grid(True, which="both", alpha=0.25)
    axes.legend(frameon=False)
    figure.suptitle(f"GRU inference, {title(threads, precision)}")
    figure.savefig(path, dpi=130)
