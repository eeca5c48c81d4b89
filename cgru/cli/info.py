"""`cgru info`: what a file holds, by which conventions, and how long a step of it takes here."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

import cgru
from cgru import formats
from cgru.cli import models, networks
from cgru.comparison import weight_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from cgru.recurrent import Recurrent

STEPS = 100
"""Of the call that times a model that reads backwards, which has no stream."""

ROUNDS, SECONDS = 15, 0.2
"""Of measuring: the median of so many rounds, in about so much time."""


MEANING = {
    ("reset_after", "True"): "r * (U_n h + c_n)",
    ("reset_after", "False"): "U_n (r * h) + c_n",
    ("update_gate", "state"): "h' = (1 - z) * n + z * h",
    ("update_gate", "candidate"): "h' = (1 - z) * h + z * n",
}
"""Of conventions, what they say in the equations."""


@click.command()
@click.argument("file", type=models.MODEL)
@models.name_option
@models.config_option
@networks.network_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(file: Path, name: str | None, config: Path | None, whole: bool, as_json: bool) -> None:
    """Describe the GRU in FILE: layers, conventions, size, and the time a step takes on this machine.

    Of a whole network: inputs, outputs, states, whether it can run while time passes, and its program, a line a step.
    """
    file = formats.located(file)
    net = networks.open_network(file, name, config, whole)
    if net is not None:
        networks.show(net, file, median_seconds, as_json)
        return
    model = cgru.load(file, name, config)
    facts = describe(model, file)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        lines = [f"{value:,}" if type(value) is int else str(value)]
        if isinstance(value, dict):
            lines = [f"{part} {tuple(shape)}" for part, shape in value.items()]
        if (key, lines[0]) in MEANING:
            lines[0] += f" ({MEANING[key, lines[0]]})"
        for title, line in zip([key.replace("_", " "), *[""] * len(lines)], lines, strict=False):
            click.echo(f"{title:<22}{line}")


def describe(model: Recurrent | cgru.GRUCell, file: Path) -> dict[str, Any]:
    """All that is known of a model: the options by the constructor's names, then sizes and time."""
    parameters = model.state_dict()
    how, seconds = measure(model)
    return {
        "file": str(file),
        "file_bytes": file.stat().st_size,
        "format": formats.kind(file),
        "model": repr(model),
        **{option: str(value) if option == "dtype" else value for option, value in model.options.items()},
        "parameters": sum(array.size for array in parameters.values()),
        "precision": model.precision,
        "input_limit": model.input_limit,
        "parameter_bytes": weight_bytes(model)
        + sum(array.nbytes for key, array in parameters.items() if key.startswith("bias")),
        "shapes": {key: list(array.shape) for key, array in parameters.items()},
        "timed": how,
        "microseconds_a_step": float(f"{seconds * 1e6:.3g}"),
    }


def measure(model: Recurrent | cgru.GRUCell) -> tuple[str, float]:
    """How the model was timed, and the median of seconds a step."""
    rng = np.random.default_rng(0)
    if isinstance(model, cgru.GRUCell):
        x, h = (rng.standard_normal(size).astype(model.dtype) for size in (model.input_size, model.hidden_size))
        return "a call of one step", median_seconds(lambda: model(x, h))
    x = rng.standard_normal((STEPS, model.input_size)).astype(model.dtype)
    if model.bidirectional or model.reverse:
        return f"a call of {STEPS} steps, one sequence", median_seconds(lambda: model(x)) / STEPS
    stream, out = model.stream(), np.empty(model.hidden_size, model.dtype)
    return "a step of a stream, one sequence", median_seconds(lambda: stream.step(x[0], out))


def median_seconds(call: Callable[[], object]) -> float:
    """Of one call, over rounds of many."""

    def seconds(repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats

    seconds(1)
    repeats = max(1, int(SECONDS / ROUNDS / max(seconds(1), 1e-9)))
    return statistics.median(seconds(repeats) for _ in range(ROUNDS))
