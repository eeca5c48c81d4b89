"""`cgru convert`: a GRU from one file format to another, compared with the first before the second appears."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

import cgru
from cgru.cli import inputs, models

if TYPE_CHECKING:
    from collections.abc import Callable

TOLERANCE = 1e-6
"""Largest difference of an output: what a format of float32 takes from a float64 model is below it."""


def write_torch(gru: cgru.GRU, path: Path) -> None:
    """A state_dict; torch.load(path, weights_only=True) reads it."""
    module = gru.to_torch()
    import_module("torch").save(module.state_dict(), path)


def write_keras(gru: cgru.GRU, path: Path) -> None:
    """A keras.Sequential; keras.saving.load_model reads it."""
    layer = gru.to_keras()
    keras = import_module("keras")
    if not isinstance(layer, keras.Sequential):
        layer = keras.Sequential([keras.Input((None, gru.input_size), dtype=gru.dtype.name), layer])
    layer.save(path)


WRITERS: dict[str, Callable[[cgru.GRU, Path], None]] = {
    ".safetensors": cgru.GRU.save,
    ".onnx": cgru.GRU.to_onnx,
    ".pt": write_torch,
    ".pth": write_torch,
    ".keras": write_keras,
    ".json": cgru.GRU.to_rtneural,
}
"""What writes a format, by the file's suffix."""

QUANTIZED = ".safetensors"
"""The format that keeps weights of a precision as such."""


@click.command()
@click.argument("source", metavar="IN", type=models.PATH)
@click.argument("target", metavar="OUT", type=models.PATH)
@click.option("--precision", type=inputs.precisions, help="What to store weights as; .safetensors only.")
@inputs.calibrate_option
@models.name_option
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
def convert(
    source: Path, target: Path, precision: str | None, calibration: Path | None, name: str | None, force: bool
) -> None:
    """Write the GRU in IN to OUT: .safetensors, .onnx, .pt or .pth, .keras, .json (RTNeural).

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
    gru = models.open_gru(source, name)
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


def compare(gru: cgru.GRU, other: cgru.GRU) -> str:
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
