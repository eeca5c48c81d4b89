"""How a model runs: engines behind one interface (`interface.py`), chosen by the device's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cgru.engines.host import HOST

if TYPE_CHECKING:
    from cgru.engines.interface import Engine

__all__ = ["HOST", "name_of", "on"]


def name_of(device: object) -> str:
    """The whole name of a device: "cuda" is "cuda:0"; ValueError for what is none."""
    if device == "cpu":
        return "cpu"
    from cgru.engines.cuda.device import parse

    return f"cuda:{parse(device)}"


def on(device: object) -> Engine:
    """The engine of a device: "cpu", "cuda" or "cuda:1".

    Raises
    ------
    ValueError
        Another name.
    RuntimeError
        CuPy, a driver or the device is missing; the message says which.
    """
    if device == "cpu":
        return HOST
    from cgru.engines.cuda import engine

    return engine.find(device)
