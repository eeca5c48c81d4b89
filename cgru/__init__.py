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
from cgru.version import __version__

if TYPE_CHECKING:
    from cgru.comparison import compare
    from cgru.formats import load
    from cgru.formats.flax import from_flax
    from cgru.formats.keras import from_keras
    from cgru.formats.onnx import from_onnx
    from cgru.formats.torch import from_torch

__all__ = [
    "GRU",
    "FormatError",
    "GRUCell",
    "__version__",
    "compare",
    "from_flax",
    "from_keras",
    "from_onnx",
    "from_torch",
    "get_num_threads",
    "load",
    "set_num_threads",
    "show_config",
]

_LATER = {  # name -> the module that has it
    "compare": "cgru.comparison",
    "load": "cgru.formats",
    "from_flax": "cgru.formats.flax",
    "from_keras": "cgru.formats.keras",
    "from_onnx": "cgru.formats.onnx",
    "from_torch": "cgru.formats.torch",
}
_BRIDGES = ("sklearn", "torch")  # modules of their own, imported when first named


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _BRIDGES:
        return import_module(f"cgru.{name}")
    if name not in _LATER:
        raise AttributeError(f"module 'cgru' has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *_BRIDGES})
