"""Models from files and other libraries' objects, and back: one file a format, load and save side by side.

A loader refuses rather than guesses: what it cannot map exactly is a `cgru.FormatError` that names the file, the field
and what was expected. No loader unpickles or executes what a file says.
"""

from __future__ import annotations

import os
from pathlib import Path

from cgru.errors import FormatError
from cgru.gru import GRU


def load(path: str | os.PathLike[str]) -> GRU:
    """The GRU in a file that `gru.save` wrote (.safetensors).

    Raises
    ------
    cgru.FormatError
        The file is of another kind, damaged, or holds something else than a GRU.
    OSError
        The file cannot be read.
    """
    from cgru.formats import safetensors

    path = Path(path)
    if path.suffix != ".safetensors":
        raise FormatError(f"{path}: expected a .safetensors file, got {path.suffix or 'no'} extension")
    return safetensors.load(path)
