"""Haiku: the parameters of its GRU, alone or anywhere in a model.

It is the textbook's: the reset gate is applied before the recurrent product, z weighs the candidate. Haiku itself is
not imported: parameters are a mapping of mappings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.errors import FormatError
from cgru.formats import trees

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cgru.formats.trees import Rows
    from cgru.gru import GRU
    from cgru.types import Array

LAYOUT = {"w_i": ("I", "3H"), "w_h": ("H", "3H"), "b": ("3H",)}
"""What a GRU consists of, with shapes; gates in the order z, r, n."""

OPTIONS = {"reset_after": False, "update_gate": "candidate"}


def from_haiku(params: Any, name: str | Sequence[str] | None = None, *, bidirectional: bool = False) -> GRU:
    """The GRU of a model's parameters, its arrays copied.

    Parameters do not tell how GRUs are connected: say so by `name`. The GRU takes x (T, B, I), as `dynamic_unroll`,
    or (T, I). float16 and bfloat16 become float32.

    Parameters
    ----------
    params : mapping
        Of one GRU, or of a model that holds some at any depth, as `init` gives them.
    name : str or sequence of str, optional
        Name of the GRU in a model with several, "encoder/~/gru", or of what holds it and no other. Several names are
        the layers of one GRU, first to last.
    bidirectional : bool
        Whether two GRUs make a layer: each second of `name` reads its sequence from the end.

    Raises
    ------
    cgru.FormatError
        There is no such GRU, there are several and no `name`, or its arrays do not fit together.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> params = {"gru": {"w_i": np.ones((4, 24)), "w_h": np.ones((8, 24)), "b": np.ones(24)}}
    >>> cgru.from_haiku(params)
    GRU(4, 8, reset_after=False, update_gate='candidate', dtype=float64)
    """
    if not isinstance(params, Mapping):
        raise FormatError(f"params: expected a mapping of parameters, got {type(params).__name__}")
    cells: dict[str, Rows] = {}
    _collect(params, (), cells)
    return trees.assemble(cells, name, bidirectional, OPTIONS)


def _collect(node: Mapping[Any, Any], path: tuple[str, ...], cells: dict[str, Rows]) -> None:
    """Every GRU of a tree, by its path."""
    trees.check_depth(path)
    if {"w_i", "w_h"} <= node.keys():
        name = "/".join(path) or "params"
        if node.keys() != LAYOUT.keys():
            wrong = sorted(str(key) for key in node.keys() ^ LAYOUT.keys())
            raise FormatError(f"{name}: expected the arrays of a GRU, but {', '.join(wrong)} missing or unknown")
        cells["/".join(path)] = _rows(trees.fitting(name, node, LAYOUT))
    for key, child in node.items():
        if isinstance(child, Mapping):
            _collect(child, (*path, str(key)), cells)


def _rows(arrays: Mapping[str, Array]) -> Rows:
    """A GRU's arrays under PyTorch's names, gates r, z, n."""

    def gates(array: Array) -> Array:
        z, r, n = np.split(array.T, 3)
        return np.concatenate([r, z, n])

    bias = gates(arrays["b"])
    weights = {"weight_ih": gates(arrays["w_i"]), "weight_hh": gates(arrays["w_h"])}
    return {**weights, "bias_ih": bias, "bias_hh": np.zeros_like(bias)}
