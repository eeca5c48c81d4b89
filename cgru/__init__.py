"""The gated recurrent unit, compiled: exact, fast and small, on NumPy and SciPy alone.

>>> import numpy as np, cgru
>>> gru = cgru.GRU(input_size=40, hidden_size=64)
>>> y, h_n = gru(np.zeros((100, 8, 40), np.float32))   # T 100, B 8
>>> y.shape, h_n.shape
((100, 8, 64), (1, 8, 64))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cgru.config import get_num_threads, set_num_threads, show_config
from cgru.errors import FormatError
from cgru.gru import GRU, GRUCell
from cgru.mingru import MinGRU
from cgru.version import __version__

if TYPE_CHECKING:
    from cgru.comparison import compare
    from cgru.formats import load
    from cgru.formats.equinox import from_equinox
    from cgru.formats.flax import from_flax
    from cgru.formats.haiku import from_haiku
    from cgru.formats.keras import from_keras
    from cgru.formats.onnx import from_onnx
    from cgru.formats.torch import from_torch
    from cgru.network import Network

__all__ = [
    "GRU",
    "FormatError",
    "GRUCell",
    "MinGRU",
    "Network",
    "__version__",
    "compare",
    "from_equinox",
    "from_flax",
    "from_haiku",
    "from_keras",
    "from_onnx",
    "from_torch",
    "get_num_threads",
    "load",
    "set_num_threads",
    "show_config",
]


def _nodes() -> Any:
    import cgru.nodes as module

    return module


def _network() -> Any:
    from cgru.network import Network

    return Network


def _compare() -> Any:
    from cgru.comparison import compare

    return compare


def _load() -> Any:
    from cgru.formats import load

    return load


def _from_equinox() -> Any:
    from cgru.formats.equinox import from_equinox

    return from_equinox


def _from_flax() -> Any:
    from cgru.formats.flax import from_flax

    return from_flax


def _from_haiku() -> Any:
    from cgru.formats.haiku import from_haiku

    return from_haiku


def _from_keras() -> Any:
    from cgru.formats.keras import from_keras

    return from_keras


def _from_onnx() -> Any:
    from cgru.formats import FORMATS

    with FORMATS["onnx"].using() as onnx:
        return onnx.from_onnx


def _from_torch() -> Any:
    from cgru.formats.torch import from_torch

    return from_torch


def _sklearn() -> Any:
    import cgru.sklearn as module

    return module


def _torch() -> Any:
    import cgru.torch as module

    return module


_LATER = {
    "Network": _network,
    "nodes": _nodes,
    "compare": _compare,
    "load": _load,
    "from_equinox": _from_equinox,
    "from_flax": _from_flax,
    "from_haiku": _from_haiku,
    "from_keras": _from_keras,
    "from_onnx": _from_onnx,
    "from_torch": _from_torch,
    "sklearn": _sklearn,
    "torch": _torch,
}
"""What is imported when it is first named, by statements that programs which freeze applications can read."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'cgru' has no attribute {name!r}")
    return _LATER[name]()


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
