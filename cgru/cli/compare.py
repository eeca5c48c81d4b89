"""`cgru compare`: what fewer bits cost a model in accuracy, on the user's input. The figures are `cgru.compare`'s.

A whole network stands beside ONNX Runtime, too, where the file is ONNX.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import rich.box
from rich.console import Console
from rich.table import Table

import cgru
from cgru import formats
from cgru.bench import networks as benchmark
from cgru.cli import frames, inputs, models, networks

if TYPE_CHECKING:
    from collections.abc import Callable

    from cgru.types import Array

SECONDS = 0.5
"""Of measuring each contender of a network."""


@click.command()
@click.argument("model", type=models.MODEL)
@click.argument("source", metavar="[INPUT]", type=models.PATH, required=False)
@click.option("--precision", type=inputs.precisions, help="What weights are stored as; of a GRU it must be given.")
@inputs.calibrate_option
@click.option("--plot", "plot_path", type=models.PATH, help="Draw errors over time to a .png, .svg or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, of a GRU with every step's error.")
@models.name_option
@models.config_option
@networks.network_option
def compare(
    model: Path,
    source: Path | None,
    precision: str | None,
    calibration: Path | None,
    plot_path: Path | None,
    as_json: bool,
    name: str | None,
    config: Path | None,
    whole: bool,
) -> None:
    """Quantize the GRU in the file MODEL, run it over INPUT, and print its errors over time.

    INPUT is as for `cgru run`: an .npy of x, an .npz of x and perhaps h0 and lengths, or a .wav. Errors are those
    against float64, relative to the norm of the outputs; the model as it is has its own beside those of its quantized
    form.

    Of a whole network: its errors against float64 and its times, beside ONNX Runtime's where MODEL is an ONNX file,
    and those of its quantized form with --precision. Without INPUT that is 100 frames of random numbers.
    """
    net = networks.open_network(model, name, config, whole)
    if net is not None:
        if plot_path is not None:
            raise click.UsageError("--plot: expected none, as MODEL is a whole network")
        compare_network(net, formats.located(model), source, precision, calibration, as_json)
        return
    if precision is None:
        raise click.UsageError("Missing option '--precision': a GRU is compared with its form in fewer bits.")
    if source is None:
        raise click.UsageError("Missing argument 'INPUT': a GRU is compared on your own input.")
    gru = models.open_gru(model, name, config)
    given = inputs.open_input(source)
    for name_of in ("mask", "resets"):
        if name_of in given:
            raise ValueError(f"{source}: expected x, and perhaps h0 and lengths, got {name_of}, too")
    for key in given.keys() & {"x", "h0"}:
        models.check_real(key, given[key], gru.dtype)
        given[key] = models.real(key, given[key], gru.dtype)
    comparison = cgru.compare(gru, inputs.quantize(gru, precision, calibration), **given)
    if plot_path:
        comparison.plot(plot_path)
    if as_json:
        click.echo(json.dumps(comparison.as_dict(), indent=2))
        return
    click.echo(comparison.title)
    table = Table(box=rich.box.SIMPLE, padding=(0, 1))
    table.add_column("", no_wrap=True)
    for errors in (comparison.gru, comparison.small):
        table.add_column(errors.precision, justify="right", no_wrap=True)
    for row in comparison.rows():
        table.add_row(*row)
    Console().print(table)


# --- Networks ---------------------------------------------------------------------------------------------------------


def compare_network(
    net: cgru.Network, path: Path, source: Path | None, precision: str | None, calibration: Path | None, as_json: bool
) -> None:
    """Print the errors and times of a network and its peers."""
    if calibration and not precision:
        raise click.UsageError("--calibrate: expected --precision beside it")
    if source is None:
        given = benchmark.random_inputs(net, benchmark.FRAMES)
    else:
        given, _ = frames.one_sequence(net, frames.read(net, source))
    nets = {f"cgru {net.precision}": net}
    if precision is not None:
        typical = None if calibration is None else frames.one_sequence(net, frames.read(net, calibration))[0]
        nets[f"cgru {precision}"] = net.quantize(precision, calibrate=typical)
    calls = {title: benchmark.whole_call(one, given, 1) for title, one in nets.items()}
    if formats.kind(path) == "onnx":
        calls["onnxruntime"] = peer_of(path, net).whole(given)
    rows, count = measured(net, given, calls)
    if as_json:
        click.echo(json.dumps({"file": str(path), "frames": count, "contenders": rows}, indent=2))
        return
    click.echo(f"{path}, {count:,} frames, one thread, error against float64")
    table = Table(box=rich.box.SIMPLE, padding=(0, 1))
    table.add_column("", no_wrap=True)
    for title in ("largest error", "relative error", "us a frame", "ratio"):
        table.add_column(title, justify="right", no_wrap=True)
    first = next(iter(rows.values()))["microseconds_a_frame"]
    for title, row in rows.items():
        time = row["microseconds_a_frame"]
        table.add_row(
            title, f"{row['largest_error']:.2g}", f"{row['relative_error']:.2g}", f"{time:.3g}", f"{time / first:.2f}"
        )
    Console().print(table)
    click.echo("ratio: the time to that of the first line")


def peer_of(path: Path, net: cgru.Network) -> benchmark.Peer:
    """ONNX Runtime on a file, on one thread."""
    try:
        return benchmark.Peer(path, net, 1)
    except ModuleNotFoundError as error:
        raise ImportError(f'a comparison needs onnxruntime: pip install "cgru[bench]" ({error})') from error


def measured(
    net: cgru.Network, given: dict[str, Array], calls: dict[str, Callable[[], dict[str, Array]]]
) -> tuple[dict[str, dict[str, Any]], int]:
    """Errors and times by contender, and how many frames there are."""
    expected = benchmark.in_float64(net, given)
    errors = {title: benchmark.Errors.of(call(), expected) for title, call in calls.items()}
    times = benchmark.medians(calls, SECONDS)
    graph = net.graph
    axes = {name: 0 if graph.steps is None else graph.time[name] for name in given}
    count = next((given[name].shape[axis] for name, axis in axes.items() if axis is not None), 1)
    rows = {
        title: {
            "largest_error": errors[title].largest,
            "relative_error": errors[title].relative,
            "microseconds_a_frame": times[title] * 1e6 / count,
        }
        for title in calls
    }
    return rows, count
