"""Flax: parameter trees of linen's and nnx's GRUCell, alone or within larger models.

Flax itself is not imported: a tree is a mapping of mappings with arrays at its ends, whoever made it. Its convention is
PyTorch's (reset gate after the product, z weighs the state) with fewer biases.
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
    from cgru.types import ActivationOption, Array

LINEN = {
    **{f"{dense}/kernel": ("I", "H") for dense in ("ir", "iz", "in")},
    **{f"{dense}/kernel": ("H", "H") for dense in ("hr", "hz", "hn")},
    **{f"{dense}/bias": ("H",) for dense in ("ir", "iz", "in", "hn")},
}
NNX = {"dense_i/kernel": ("I", "3H"), "dense_h/kernel": ("H", "3H"), "dense_i/bias": ("3H",)}
"""What a cell consists of, with shapes; gates in the order r, z, n."""

PAIR = ("forward_rnn", "backward_rnn")
"""What Bidirectional calls its directions."""


def from_flax(
    params: Any,
    name: str | Sequence[str] | None = None,
    *,
    bidirectional: bool = False,
    activation: ActivationOption = "tanh",
    recurrent_activation: ActivationOption = "sigmoid",
) -> GRU:
    """The GRU whose cells these parameters are, its arrays copied.

    Parameters tell neither functions nor how cells are connected: say so where it is not Flax' default. The model is
    batch-first as Flax' RNN is: x (B, T, I), y (B, T, D*H). float16 and bfloat16 become float32.

    Parameters
    ----------
    params : mapping, flax.nnx.State or flax.nnx.Module
        Of one GRUCell, or of a model that holds some at any depth; arrays of NumPy, JAX or anything NumPy understands.
    name : str or sequence of str, optional
        Path of the cell in a tree with several, "encoder/cell", or of what holds it and no other. Several paths are the
        layers of one GRU, first to last.
    bidirectional : bool
        Whether two cells make a layer, forward and backward one: those of a Bidirectional, or each second of `name`.
    activation, recurrent_activation : str or (str, float, float)
        The cells' activation_fn and gate_fn, as in `GRU`.

    Raises
    ------
    cgru.FormatError
        There is no such cell, there are several and no `name`, or its arrays do not fit together.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> cell = {"dense_i": {"kernel": np.ones((4, 24)), "bias": np.ones(24)}, "dense_h": {"kernel": np.ones((8, 24))}}
    >>> cgru.from_flax({"encoder": {"cell": cell}})
    GRU(4, 8, batch_first=True, dtype=float64)
    """
    cells: dict[str, Rows] = {}
    _collect(_tree(params), (), cells)
    options = {"batch_first": True, "activation": activation, "recurrent_activation": recurrent_activation}
    return trees.assemble(cells, name, bidirectional, options, PAIR)


def _tree(params: Any) -> Mapping[Any, Any]:
    if isinstance(params, Mapping):
        return params
    if hasattr(params, "__dict__") and any(base.__module__.startswith("flax.nnx") for base in type(params).__mro__):
        from flax import nnx

        state: Mapping[Any, Any] = nnx.state(params, nnx.Param)
        return state
    raise FormatError(f"params: expected a mapping of parameters or a flax.nnx.Module, got {type(params).__name__}")


def _collect(node: Mapping[Any, Any], path: tuple[str, ...], cells: dict[str, Rows]) -> None:
    """Every GRU cell of a tree, by its path without the outermost "params"."""
    trees.check_depth(path)
    dense = {str(key) for key, child in node.items() if isinstance(child, Mapping)}
    for layout in (LINEN, NNX):
        if {key.partition("/")[0] for key in layout} <= dense and (layout is LINEN or _is_gru(node)):
            cells["/".join(path)] = _rows(_cell(node, "/".join(path) or "params", layout))
            break
    for key, child in node.items():
        if isinstance(child, Mapping):
            _collect(child, path if not path and key == "params" else (*path, str(key)), cells)


def _is_gru(node: Mapping[Any, Any]) -> bool:
    """Whether the recurrent kernel is (H, 3H): other cells of nnx have layers of the same names."""
    shape = np.shape(node["dense_h"].get("kernel", ()))
    return len(shape) == 2 and shape[1] == 3 * shape[0]


def _cell(node: Mapping[Any, Any], name: str, layout: Mapping[str, tuple[str, ...]]) -> dict[str, Array]:
    """A cell's arrays, all of them there and of shapes that fit together."""
    leaves = {
        f"{dense}/{key}": leaf
        for dense in {key.partition("/")[0] for key in layout}
        for key, leaf in node[dense].items()
    }
    if set(leaves) != set(layout):
        wrong = sorted(set(leaves) ^ set(layout))
        raise FormatError(f"{name}: expected the arrays of a GRUCell, but {', '.join(wrong)} missing or unknown")
    return trees.fitting(name, leaves, layout)


def _rows(cell: Mapping[str, Array]) -> Rows:
    """A cell's arrays under PyTorch's names: weights (3H, I) and (3H, H), biases (3H,), gates r, z, n."""
    if "dense_i/kernel" in cell:
        w_ih, w_hh = cell["dense_i/kernel"], cell["dense_h/kernel"]
        b_ih = cell["dense_i/bias"]
        b_hh = np.zeros_like(b_ih)
    else:
        w_ih = np.concatenate([cell[f"{dense}/kernel"] for dense in ("ir", "iz", "in")], axis=1)
        w_hh = np.concatenate([cell[f"{dense}/kernel"] for dense in ("hr", "hz", "hn")], axis=1)
        b_ih = np.concatenate([cell[f"{dense}/bias"] for dense in ("ir", "iz", "in")])
        b_hh = trees.of_candidate(cell["hn/bias"])
    return {"weight_ih": w_ih.T, "weight_hh": w_hh.T, "bias_ih": b_ih, "bias_hh": b_hh}
