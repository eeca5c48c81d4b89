"""Equinox: GRUCell, alone or anywhere in a model.

Its convention is PyTorch's, reset gate after the product, z weighs the state, with fewer biases. Equinox itself is not
imported: a model is a tree of dataclasses, dicts and lists.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cgru.errors import FormatError
from cgru.formats import trees

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cgru.formats.trees import Rows
    from cgru.gru import GRU

WEIGHTS: dict[str, tuple[str, ...]] = {"weight_ih": ("3H", "I"), "weight_hh": ("3H", "H")}
BIASES: dict[str, tuple[str, ...]] = {"bias": ("3H",), "bias_n": ("H",)}
"""What a cell consists of, with shapes; gates in the order r, z, n. Without biases both are None."""


def from_equinox(tree: Any, name: str | Sequence[str] | None = None, *, bidirectional: bool = False) -> GRU:
    """The GRU of a model's cells, its arrays copied.

    A model does not tell how its cells are connected: say so by `name`. The GRU takes x (T, I), as `jax.lax.scan` gives
    a cell its steps, or (T, B, I). float16 and bfloat16 become float32.

    Parameters
    ----------
    tree : equinox.Module, or dicts and lists of such
        A GRUCell, or a model that holds some at any depth.
    name : str or sequence of str, optional
        Path of the cell in a tree with several, "encoder/cells/0", or of what holds it and no other. Several paths are
        the layers of one GRU, first to last.
    bidirectional : bool
        Whether two cells make a layer: each second of `name` reads its sequence from the end.

    Raises
    ------
    cgru.FormatError
        There is no such cell, there are several and no `name`, or its arrays do not fit together.

    Examples
    --------
    >>> import cgru, equinox, jax  # doctest: +SKIP
    >>> cgru.from_equinox(equinox.nn.GRUCell(4, 8, key=jax.random.key(0)))  # doctest: +SKIP
    GRU(4, 8)
    """
    cells: dict[str, Rows] = {}
    _collect(tree, (), cells)
    return trees.assemble(cells, name, bidirectional, {})


def _collect(node: Any, path: tuple[str, ...], cells: dict[str, Rows]) -> None:
    """Every GRU cell of a tree, by its path."""
    trees.check_depth(path)
    if all(hasattr(node, key) for key in (*WEIGHTS, *BIASES)):
        cells["/".join(path)] = _rows("/".join(path) or "tree", node)
        return
    for key, child in _children(node):
        _collect(child, (*path, str(key)), cells)


def _children(node: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(node, Mapping):
        return node.items()
    if isinstance(node, (list, tuple)):
        return enumerate(node)
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        fields = (field.name for field in dataclasses.fields(node))
        return [(name, getattr(node, name)) for name in fields if hasattr(node, name)]
    return ()


def _rows(name: str, cell: Any) -> Rows:
    """A cell's arrays under PyTorch's names."""
    leaves = {key: getattr(cell, key) for key in (*WEIGHTS, *BIASES)}
    absent = [key for key in leaves if leaves[key] is None]
    if absent not in ([], list(BIASES)):
        raise FormatError(f"{name}: expected the arrays of a GRUCell, but {', '.join(absent)} missing")
    arrays = trees.fitting(name, leaves, WEIGHTS if absent else WEIGHTS | BIASES)
    rows = {key: arrays[key] for key in WEIGHTS}
    return rows if absent else {**rows, "bias_ih": arrays["bias"], "bias_hh": trees.of_candidate(arrays["bias_n"])}
