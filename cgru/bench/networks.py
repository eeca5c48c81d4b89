"""Times and errors of a whole network, cgru beside ONNX Runtime, on the same inputs; medians of interleaved rounds.

ONNX Runtime has no streams. A frame graph's states are handed on from call to call; of a sequence graph its step is a
call of one frame.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import cgru
from cgru.engines.host.network import dtype_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cgru.types import Array

    Arrays = dict[str, Array]

ROUNDS = 15
"""Of measuring, in each of which every contender has its turn."""

CLOSE, CLOSE_QUANTIZED = 2e-5, 0.1
"""Largest accepted difference from float64, relative to the largest output where that is over 1."""

FRAMES = 100
"""Of a whole sequence."""


# --- Inputs -----------------------------------------------------------------------------------------------------------


def random_inputs(net: cgru.Network, frames: int | None, seed: int = 0) -> Arrays:
    """Inputs of one sequence: so many frames (of a frame graph on a new first axis), or, for a step, one frame."""
    rng, graph, found = np.random.default_rng(seed), net.graph, {}
    limits = net.runner.whole(frames or 1, 1).compiled.program.limits
    for name, shape in graph.inputs.items():
        sizes: list[int] = []
        for axis, size in enumerate(shape):
            if axis != graph.time[name]:
                sizes.append(size if isinstance(size, int) else 1)
            elif frames is not None:
                sizes.append(frames)
        if graph.steps is None and frames is not None:
            sizes.insert(0, frames)
        dtype = dtype_of(graph, name)
        if dtype.kind == "f":
            found[name] = rng.standard_normal(sizes).astype(dtype)
        else:
            found[name] = rng.integers(0, limits.get(name, 1), sizes).astype(dtype)
    return found


def by_name(net: cgru.Network, outputs: Any) -> Arrays:
    """Outputs by name, also where there is one."""
    return outputs if isinstance(outputs, dict) else {next(iter(net.outputs)): outputs}


# --- Calls ------------------------------------------------------------------------------------------------------------


def step_call(net: cgru.Network, inputs: Arrays) -> Callable[[], Arrays]:
    """A step of a stream, written where the one before it was."""
    stream: Any = net.stream()
    x = inputs if len(inputs) > 1 else next(iter(inputs.values()))
    out = stream.step(x)
    stream.reset()
    found = by_name(net, out)

    def call() -> Arrays:
        stream.step(x, out)
        return found

    return call


def whole_call(net: cgru.Network, inputs: Arrays, threads: int | None = None) -> Callable[[], Arrays]:
    """All frames of a sequence; of a frame graph through a stream, from states of zero."""
    if net.graph.steps is not None:
        return lambda: by_name(net, net(inputs, num_threads=threads))
    stream: Any = net.stream()

    def call() -> Arrays:
        stream.reset()
        return by_name(net, stream.process(inputs))

    return call


class Peer:
    """ONNX Runtime on the file that a network came from."""

    def __init__(self, path: Path, net: cgru.Network, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.net = net
        self.names = [value.name for value in self.session.get_outputs()]
        self.types = {value.name: value.type for value in self.session.get_inputs()}

    def _fed(self, inputs: Mapping[str, Array]) -> Arrays:
        """Arrays of the types that the session takes."""
        wide = {name for name, kind in self.types.items() if kind == "tensor(double)"}
        return {name: array.astype(np.float64) if name in wide else array for name, array in inputs.items()}

    def _states(self) -> Arrays:
        return self._fed(
            {
                name: np.zeros([size if isinstance(size, int) else 1 for size in shape], np.float32)
                for name, shape in self.net.states.items()
            }
        )

    def step(self, inputs: Arrays) -> Callable[[], Arrays]:
        """A call of one frame; states are handed on."""
        graph = self.net.graph
        timed = {name: array if graph.time[name] is None else np.expand_dims(array, graph.time[name] or 0)
                 for name, array in inputs.items()}  # fmt: skip
        return self._handed_on(self._fed(timed))

    def _handed_on(self, fed: Arrays) -> Callable[[], Arrays]:
        states, pairs, outputs = self._states(), self.net.graph.states, self.net.outputs

        def call() -> Arrays:
            found = dict(zip(self.names, self.session.run(None, {**fed, **states}), strict=True))
            states.update({name: found[after] for name, after in pairs.items()})
            return {name: found[name] for name in outputs}

        return call

    def whole(self, inputs: Arrays) -> Callable[[], Arrays]:
        """All frames of a sequence, from states of zero."""
        fed = self._fed(inputs)
        if self.net.graph.steps is not None:
            return self._handed_on(fed)
        count = len(next(iter(fed.values())))

        def call() -> Arrays:
            frame: Arrays = {}
            run = self._handed_on(frame)
            found = []
            for t in range(count):
                frame.update({name: array[t] for name, array in fed.items()})
                found.append(run())
            return {name: np.stack([outputs[name] for outputs in found]) for name in self.net.outputs}

        return call


# --- Measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Errors:
    """How far outputs are from others."""

    largest: float
    relative: float
    """The norm of the difference over that of the outputs."""
    scale: float
    """The largest output, or 1."""

    @classmethod
    def of(cls, got: Arrays, expected: Arrays) -> Errors:
        """Of all outputs together."""
        differences = [np.subtract(got[name], array, dtype=np.float64).ravel() for name, array in expected.items()]
        difference = np.concatenate(differences)
        values = np.concatenate([array.astype(np.float64).ravel() for array in expected.values()])
        norm = float(np.linalg.norm(values))
        largest = float(np.abs(difference).max(initial=0))
        relative = float(np.linalg.norm(difference)) / norm if norm else largest
        return cls(largest, relative, max(1.0, float(np.abs(values).max(initial=0))))


def in_float64(net: cgru.Network, inputs: Arrays) -> Arrays:
    """Outputs of the NumPy reference for a whole sequence."""
    wide = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in inputs.items()}
    return whole_call(cgru.Network(net.graph, dtype=np.float64), wide)()


def medians(calls: Mapping[str, Callable[[], object]], seconds: float, rounds: int = ROUNDS) -> dict[str, float]:
    """Seconds a call, all by turns; about `seconds` for each of them."""
    counts = {name: max(1, int(seconds / rounds / _seconds(call, 1))) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for k in range(rounds):
        for name in [*names[k % len(names) :], *names[: k % len(names)]]:  # each after every other
            times[name].append(_seconds(calls[name], counts[name]))
    return {name: statistics.median(values) for name, values in times.items()}


def _seconds(call: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


@dataclass(frozen=True)
class Row:
    """A case's medians in seconds a call, by contender; and the floor, what this machine could do at best."""

    name: str
    seconds: dict[str, float]
    floor: float


def floor_of(net: cgru.Network, frames: int) -> float:
    """Seconds for some frames: arithmetic at the measured peak, or reading the weights once, whichever is longer."""
    from cgru import _packed

    steps = net.runner.whole(frames, 1).compiled.program.steps
    weights = np.ones(max(1024, sum(step.weight_bytes for step in steps) // 4), np.float32)
    passes = max(6, 2 * round(2e6 / weights.nbytes))
    rates: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        _packed.probe_read(weights, 2)  # into the caches
        start = time.perf_counter()
        _packed.probe_read(weights, passes)
        middle = time.perf_counter()
        flops = _packed.probe_flops(100_000)
        rates.append((weights.nbytes * passes / (middle - start), flops / (time.perf_counter() - middle)))
    reading, peak = (statistics.median(values) for values in zip(*rates, strict=True))
    work = sum(step.work for step in steps) * (frames if net.runner.whole(frames, 1).compiled.streams else 1)
    return max(work / peak, weights.nbytes / reading)


def measure(net: cgru.Network, path: Path | None, threads: int, seconds: float) -> list[Row]:
    """A step, and for a sequence graph a whole sequence; beside ONNX Runtime where a path of its file is given.

    Raises
    ------
    RuntimeError
        Results differ from those in float64.
    """
    exact = cgru.Network(net.graph)
    peer = None if path is None else Peer(path, net, threads)
    cases: list[tuple[str, int, dict[str, Callable[[], Arrays]], Arrays]] = []
    if not net.runner.obstacles:
        frame = random_inputs(net, None)
        steps = {"cgru": step_call(net, frame)}
        if peer is not None and not net.delay:
            steps["onnxruntime"] = peer.step(frame)
        cases.append(("a step", 1, steps, by_name(net, exact.stream().step(frame))))
    if net.graph.steps is not None:
        inputs = random_inputs(net, FRAMES)
        wholes = {"cgru": whole_call(net, inputs, threads)}
        if peer is not None:
            wholes["onnxruntime"] = peer.whole(inputs)
        cases.append((f"{FRAMES} steps", FRAMES, wholes, in_float64(exact, inputs)))
    rows = []
    for name, frames, calls, expected in cases:
        for contender, call in calls.items():
            got = {key: array.reshape(expected[key].shape) for key, array in call().items()}
            errors = Errors.of(got, expected)
            quantized = contender == "cgru" and net.precision != "float32"
            if not errors.largest <= (CLOSE_QUANTIZED if quantized else CLOSE) * errors.scale:
                raise RuntimeError(f"{contender}, {name}: differs from float64 by {errors.largest:.2g}")
        rows.append(Row(name, medians(calls, seconds), floor_of(net, frames)))
    return rows
