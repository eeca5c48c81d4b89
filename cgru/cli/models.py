"""What the commands share: the model that a file names, and arrays in its dtype."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

import cgru
from cgru.recurrent import Recurrent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cgru.types import Array

PATH = click.Path(dir_okay=False, path_type=Path)

MODEL = click.Path(path_type=Path)
"""Of a model: a file, or a folder with one in it."""

name_option = click.option("--name", help="Which GRU of a file that holds several; without it the error lists them.")

config_option = click.option(
    "--config",
    type=PATH,
    help="For Keras' files of weights alone: the JSON of layer.get_config() or model.to_json().",
)


def note(text: str) -> None:
    """Say on stderr what was done that was not asked for in so many words."""
    click.echo(f"cgru: {text}", err=True)


def open_gru(path: Path, name: str | None, config: Path | None = None) -> Recurrent:
    """The GRU or MinGRU in a file; a GRUCell as the layer that it is a step of."""
    model = cgru.load(path, name, config)
    if isinstance(model, Recurrent):
        return model
    note(f"{path}: a GRUCell, taken as a GRU of one layer")
    gru = cgru.GRU(**model.options)
    gru.load_state_dict({f"{key}_l0": array for key, array in model.state_dict().items()})
    return gru


def real(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """Real numbers of any kind as the model's: ValueError where there is no such number."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="raise"):
        try:
            return array.astype(dtype)
        except FloatingPointError:
            raise ValueError(f"{name}: expected numbers that {dtype} holds, got larger {array.dtype}") from None


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to, which takes its place if all went well; else what was there stays.

    A symbolic link stays one, and the file that it names is written; an overwritten file keeps its permissions. SIGTERM
    ends the process with the part removed, as Ctrl-C does.
    """
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"{target}: no such directory: {target.parent}")
    suffix = target.suffix.lower()
    target = Path(os.path.realpath(target))
    part = target.with_name(f".{secrets.token_hex(8)}.part{suffix}")
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield part
        if target.exists():
            os.chmod(part, stat.S_IMODE(target.stat().st_mode))
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
        signal.signal(signal.SIGTERM, before)


def check_real(name: str, array: Array, dtype: np.dtype[Any]) -> None:
    """Refuse what are no real numbers, and say so if `real` will convert them."""
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name}: expected real numbers, got {array.dtype}")
    if array.dtype != dtype:
        note(f"{name}: {array.dtype} converted to the model's {dtype}")
