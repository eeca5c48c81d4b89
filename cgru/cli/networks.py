"""What the commands share of whole networks: which files hold one, inputs to try it with, and `cgru info` of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import rich.box
from rich.console import Console
from rich.table import Table

import cgru
from cgru import formats
from cgru.bench.networks import random_inputs, step_call
from cgru.engines.host.program.report import lines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STEPS = 100
"""Of the call that times a network that cannot run while time passes."""

network_option = click.option(
    "--network", "whole", is_flag=True, help="Take the whole network, also of a file of GRUs alone."
)


def open_network(path: Path, name: str | None, config: Path | None, whole: bool) -> cgru.Network | None:
    """The network that a command is given; None where it is given a GRU."""
    if whole and config is not None:
        raise click.UsageError("--config: expected no --network beside it")
    path = formats.located(path)
    if not whole and (name is not None or not formats.holds_network(path)):
        return None
    try:
        return cgru.Network.load(path, name)
    except cgru.FormatError as error:
        if whole:
            raise
        raise cgru.FormatError(f"{error}; a GRU in the file is taken alone by its --name") from error


# --- cgru info --------------------------------------------------------------------------------------------------------


def show(net: cgru.Network, file: Path, seconds_of: Callable[[Callable[[], object]], float], as_json: bool) -> None:
    """Print what is known of a network, and its program; `seconds_of` times a call."""
    facts = describe(net, file, seconds_of)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    program = facts.pop("program")
    for key, value in facts.items():
        shown = [f"{value:,}" if type(value) is int else "none" if value is None else str(value)]
        if isinstance(value, dict):
            shown = [f"{name} ({', '.join(map(str, shape))})" for name, shape in value.items()] or ["none"]
        if isinstance(value, list):
            shown = value
        if isinstance(value, bool):
            shown = ["yes" if value else "no, whole sequences alone"]
        for title, line in zip([key.replace("_", " "), *[""] * len(shown)], shown, strict=False):
            click.echo(f"{title:<22}{line}")
    table = Table(box=rich.box.SIMPLE, padding=(0, 1))
    table.add_column("node", overflow="fold")
    table.add_column("step of the program", overflow="fold")
    for title in ("shape", "bytes", "about us"):
        table.add_column(title, justify="right", no_wrap=True)
    for step in program:
        table.add_row(step["node"], step["what"], step["shape"], f"{step['bytes']:,}", f"{step['microseconds']:.2f}")
    console = Console()
    console.width = max(console.width, 100)  # the table's columns; narrower, rich would leave some out
    console.print(table)


def describe(net: cgru.Network, file: Path, seconds_of: Callable[[Callable[[], object]], float]) -> dict[str, Any]:
    """All that is known of a network."""
    graph, obstacles = net.graph, net.runner.obstacles
    if obstacles:
        ready = net.runner.whole(STEPS, 1)
        how, steps, call = f"a call of {STEPS} steps, one sequence", STEPS, whole_call(net)
    else:
        ready = net.runner.streaming(1)
        how, steps, call = "a step of a stream, one sequence", 1, step_call(net, random_inputs(net, None))
    return {
        "file": str(file),
        "file_bytes": file.stat().st_size,
        "format": formats.kind(file),
        "model": f"a network, {graph.kind} graph",
        **{
            key: {name: [size if isinstance(size, int) else str(size) for size in shape] for name, shape in of.items()}
            for key, of in (("inputs", net.inputs), ("outputs", net.outputs), ("states", net.states))
        },
        "delay": None if obstacles else net.delay,
        "streams": not obstacles,
        "obstacles": obstacles,
        "nodes": len(graph.nodes),
        "parameters": graph.weights,
        "parameter_bytes": graph.nbytes,
        "timed": how,
        "microseconds_a_step": float(f"{seconds_of(call) / steps * 1e6:.3g}"),
        "program": [
            dict(zip(("node", "what", "shape", "bytes", "microseconds"), line, strict=True))
            for line in lines(ready.compiled.program)
        ],
    }


def whole_call(net: cgru.Network) -> Callable[[], object]:
    """A call of some steps."""
    inputs = random_inputs(net, STEPS)
    return lambda: net(inputs)
