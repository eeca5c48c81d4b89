"""`cgru compare`: what fewer bits cost a model in accuracy, on the user's input. The figures are `cgru.compare`'s."""

from __future__ import annotations

import json
from pathlib import Path

import click
import rich.box
from rich.console import Console
from rich.table import Table

import cgru
from cgru.cli import inputs, models


@click.command()
@click.argument("model", type=models.MODEL)
@click.argument("source", metavar="INPUT", type=models.PATH)
@click.option("--precision", type=inputs.precisions, required=True, help="What weights are stored as.")
@inputs.calibrate_option
@click.option("--plot", "plot_path", type=models.PATH, help="Draw errors over time to a .png, .svg or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every step's error.")
@models.name_option
@models.config_option
def compare(
    model: Path,
    source: Path,
    precision: str,
    calibration: Path | None,
    plot_path: Path | None,
    as_json: bool,
    name: str | None,
    config: Path | None,
) -> None:
    """Quantize the GRU in the file MODEL, run it over INPUT, and print its errors over time.

    INPUT is as for `cgru run`: an .npy of x, an .npz of x and perhaps h0 and lengths, or a .wav. Errors are those
    against float64, relative to the norm of the outputs; the model as it is has its own beside those of its quantized
    form.
    """
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
