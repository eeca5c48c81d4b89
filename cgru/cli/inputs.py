"""What commands read beside a model: sequences from files, and a precision with inputs to calibrate it."""

from __future__ import annotations

import wave
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from cgru.cli import models
from cgru.model.precision import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from cgru.recurrent import Recurrent
    from cgru.types import Array

ARGUMENTS = ("h0", "lengths", "mask", "resets")
"""What an .npz file may hold beside x: arguments of a call."""


def read_arrays(path: Path) -> dict[str, Array]:
    """The array in an .npy file, from the disk as it is used, as x; those in an .npz file by their names."""
    try:
        if path.suffix.lower() != ".npz":
            return {"x": np.lib.format.open_memmap(path, mode="r")}
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as content:
            return dict(content)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: expected a whole {path.suffix} file of numbers: {error}") from error


def read_input(path: Path) -> dict[str, Array]:
    """x and other arguments of a call."""
    given = read_arrays(path)
    if "x" not in given or not given.keys() <= {"x", *ARGUMENTS}:
        raise ValueError(f"{path}: expected x, and perhaps {', '.join(ARGUMENTS)}, got {', '.join(given) or 'nothing'}")
    return given


def read_wave(path: Path) -> dict[str, Array]:
    """The samples of 16-bit PCM as x (T, channels), from -1 to 1."""
    try:
        with path.open("rb") as raw, wave.open(raw) as file:
            channels, width, frames = file.getnchannels(), file.getsampwidth(), file.getnframes()
            data = file.readframes(frames)
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path}: expected a .wav file of 16-bit PCM: {error or 'it ends too early'}") from error
    if width != 2:
        raise ValueError(f"{path}: expected 16-bit samples, got {8 * width}-bit ones")
    if len(data) != frames * channels * width:
        raise ValueError(f"{path}: expected {frames} samples, as its header says, got {len(data) // channels // width}")
    return {"x": (np.frombuffer(data, "<i2").reshape(-1, channels) / 32768).astype(np.float32)}


READERS: dict[str, Callable[[Path], dict[str, Array]]] = {".npy": read_input, ".npz": read_input, ".wav": read_wave}


def open_input(path: Path) -> dict[str, Array]:
    """x and other arguments of a call from a file that its suffix tells how to read."""
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path}: expected a suffix of {', '.join(READERS)}, got {path.suffix or 'none'}")
    return read(path)


# --- Precisions -------------------------------------------------------------------------------------------------------

precisions = click.Choice(PRECISIONS)
"""What a model may be quantized to."""
calibrate_option = click.option(
    "--calibrate", "calibration", type=models.PATH, help="Typical inputs, for a --precision that makes use of them."
)


def quantize(gru: Recurrent, precision: str, calibration: Path | None) -> Recurrent:
    """The model in a precision; calibrated with the x of a file, if there is one."""
    given: dict[str, Any] = {}
    if calibration is not None:
        x = open_input(calibration)["x"]
        models.check_real("calibrate", x, gru.dtype)
        given["calibrate"] = models.real("calibrate", x, gru.dtype)
    return gru.quantize(precision, **given)
