"""`cgru convert`: a GRU from one file format to another, compared with the first before the second appears."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from cgru.cli import inputs, models
from cgru.formats import FORMATS, WRITTEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from cgru.formats import Format
    from cgru.recurrent import Recurrent

TOLERANCE = 1e-6
"""Largest difference of an output: what a format of float32 takes from a float64 model is below it."""


def _writer(format: Format) -> Callable[[Recurrent, Path], None]:
    return lambda gru, path: format.save(gru.value, path)


WRITERS = {suffix: _writer(format) for suffix, format in WRITTEN.items()}
"""What writes a format, by the file's suffix."""

(QUANTIZED,) = FORMATS["safetensors"].written
"""The format that keeps weights of a precision as such."""


@click.command(epilog=f"Suffixes of OUT: {', '.join(WRITERS)}.")
@click.argument("source", metavar="IN", type=models.MODEL)
@click.argument("target", metavar="OUT", type=models.PATH)
@click.option("--precision", type=inputs.precisions, help=f"What to store weights as; {QUANTIZED} only.")
@inputs.calibrate_option
@models.name_option
@models.config_option
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
def convert(
    source: Path,
    target: Path,
    precision: str | None,
    calibration: Path | None,
    name: str | None,
    config: Path | None,
    force: bool,
) -> None:
    """Write the GRU in IN to OUT, in another format.

    IN's content tells its format, OUT's suffix the other. OUT appears once it has been loaded again and both models
    gave the same outputs for random input. With --precision the first of them is quantized before.
    """
    write = WRITERS.get(target.suffix.lower())
    if write is None:
        raise click.BadParameter(
            f"{target}: expected a suffix of {', '.join(WRITERS)}, got {target.suffix or 'none'}", param_hint="OUT"
        )
    if precision and target.suffix.lower() != QUANTIZED:
        raise click.BadParameter(f"expected OUT of {QUANTIZED}, which keeps it, got {target}", param_hint="--precision")
    if calibration and not precision:
        raise click.UsageError("--calibrate: expected --precision beside it")
    gru = models.open_gru(source, name, config)
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target}: expected another file than IN")
    if target.exists() and not force:
        raise FileExistsError(f"{target}: exists; --force replaces it")
    if precision:
        gru = inputs.quantize(gru, precision, calibration)
    with models.replacing(target) as part:
        write(gru, part)
        verdict = compare(gru, models.open_gru(part, None))
    click.echo(f"{target}: {gru!r}, {verdict}")


def compare(gru: Recurrent, other: Recurrent) -> str:
    """What to say of two models: that their outputs are the same, or by how much they differ."""
    for option in ("batch_first", "dropout", "dtype", "precision"):
        before, after = getattr(gru, option), getattr(other, option)
        if before != after:
            models.note(f"{option}: {before} before, {after} after: the format does not keep it")
    x = np.random.default_rng(0).standard_normal((3, 50, gru.input_size)).astype(np.float32)  # (B, T, I)
    results = []
    for model in (gru, other):
        y, h_n = model(x.astype(model.dtype) if model.batch_first else x.astype(model.dtype).swapaxes(0, 1))
        results.append((y if model.batch_first else y.swapaxes(0, 1), h_n))
    if all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*results, strict=True)):
        return "outputs exactly equal"
    difference = max(float(np.max(np.abs(a.astype(np.float64) - b))) for a, b in zip(*results, strict=True))
    if not difference <= TOLERANCE:
        raise ValueError(f"expected outputs within {TOLERANCE:g} of the file's, got a difference of {difference:.2g}")
    return f"outputs within {difference:.2g}"
