"""Times of a GPU: cgru's ways of running there beside its packed engine on the processor, and PyTorch's cuDNN.

As in `cgru.bench`, every contender's result is compared with the reference in float64 before anything is timed, and the
medians are those of many interleaved rounds. A call on a GPU counts until the device has done it: so many calls are
queued, then waited for.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import bench
from cgru.engines.cuda import plan
from cgru.engines.cuda.engine import engine_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from cgru.bench import Case, Problem
    from cgru.engines.cuda.device import Device
    from cgru.types import Array

TOLERANCE = 1e-5
"""Largest accepted difference of a float32 result from the reference in float64."""


@dataclass(frozen=True)
class Contender:
    """A way to run a case: a call that queues work, one that waits for it, and the result on the host."""

    call: Callable[[], Any]
    wait: Callable[[], None]
    result: Callable[[Any], Array]


@dataclass(frozen=True)
class Row:
    """One case's medians in seconds a call, and bytes that the device's memory grew by for it, by contender."""

    case: Case
    seconds: dict[str, float]
    memory: dict[str, int]


def cases(sizes: tuple[int, ...] = (64, 128, 256, 512)) -> list[Case]:
    """One step, one sequence, a batch and a large batch, for each size I = H."""
    shapes = {"one step": (0, 1), "B 1, T 100": (100, 1), "B 32, T 100": (100, 32), "B 512, T 100": (100, 512)}
    return [bench.Case(name, steps, batch, h, h) for name, (steps, batch) in shapes.items() for h in sizes]


def contenders(problem: Problem, device: Device) -> dict[str, Contender]:
    """Everybody who has a place in a case."""
    found = {}
    case, xp = problem.case, device.xp
    model = problem.gru.on(engine_of(device))
    with device.use():
        x, h = xp.asarray(problem.x), xp.asarray(problem.h)
    if case.steps == 0:
        stream = model.stream(batch_size=case.batch)
        stream.state = h
        found["cgru, stream"] = Contender(lambda: stream.step(x[0]), device.synchronize, device.to_host)
    else:
        for engine in ("steps", "fused") if case.hidden <= plan.MAX_FUSED else ("steps",):
            call = lambda engine=engine: model(x, h, engine=engine)[0]  # noqa: E731
            found[f"cgru, {engine}"] = Contender(call, device.synchronize, device.to_host)
    found["cgru, processor"] = Contender(bench.cgru_call(problem, 1), lambda: None, np.asarray)
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            found["torch"] = _torch(problem, device.name)
    return found


def _torch(problem: Problem, name: str) -> Contender:
    """torch.nn.GRU on the same GPU: cuDNN's."""
    import torch

    module = problem.gru.to_torch().eval().to(name)
    x, h = torch.from_numpy(problem.x).to(name), torch.from_numpy(problem.h).to(name)

    def call() -> Any:
        with torch.inference_mode():
            return module(x, h)[0]

    return Contender(call, lambda: torch.cuda.synchronize(name), lambda y: y.cpu().numpy())


def measure(case: Case, device: Device, seconds: float = 0.5, rounds: int = 11) -> Row:
    """Medians of one case, all contenders interleaved; about `seconds` for each of them.

    Raises
    ------
    RuntimeError
        A contender's result differs from the reference.
    """
    problem = bench.Problem(case)
    expected = problem.expected()
    found = contenders(problem, device)
    repeats, memory = {}, {}
    for name, contender in found.items():
        before = device.memory()
        result = contender.result(contender.call())
        memory[name] = device.memory() - before
        error = float(np.max(np.abs(result.reshape(expected.shape) - expected)))
        if not error < TOLERANCE:
            raise RuntimeError(f"{name}, {case}: differs from the reference by {error:.2g}")
        repeats[name] = max(1, int(seconds / rounds / _seconds_a_call(contender, 1)))
    times: dict[str, list[float]] = {name: [] for name in found}
    names = list(found)
    for k in range(rounds):
        for name in [*names[k % len(names) :], *names[: k % len(names)]]:  # each after every other
            times[name].append(_seconds_a_call(found[name], repeats[name]))
    return Row(case, {name: statistics.median(values) for name, values in times.items()}, memory)


def _seconds_a_call(contender: Contender, repeats: int) -> float:
    contender.wait()
    start = time.perf_counter()
    for _ in range(repeats):
        contender.call()
    contender.wait()
    return (time.perf_counter() - start) / repeats
