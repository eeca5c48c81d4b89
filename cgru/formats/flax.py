"""Flax: parameter trees of linen's and nnx's GRUCell, alone or within larger models.

Flax itself is not imported: a tree is a mapping of mappings with arrays at its ends, whoever made it. Its convention is
PyTorch's (reset gate after the product, z weighs the state) with fewer biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.errors import FormatError
from cgru.model.spec import from_options
from cgru.model.value import Value, face

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cgru.gru import GRU
    from cgru.types import ActivationOption, Array

    Cell = dict[tuple[str, str], Array]  # (dense layer, "kernel" or "bias") -> array

LINEN = {
    **{(dense, "kernel"): ("I", "H") for dense in ("ir", "iz", "in")},
    **{(dense, "kernel"): ("H", "H") for dense in ("hr", "hz", "hn")},
    **{(dense, "bias"): ("H",) for dense in ("ir", "iz", "in", "hn")},
}
NNX = {("dense_i", "kernel"): ("I", "3H"), ("dense_h", "kernel"): ("H", "3H"), ("dense_i", "bias"): ("3H",)}
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
    cells: dict[str, Cell] = {}
    _collect(_tree(params), (), cells)
    names = [name] if isinstance(name, str) or name is None else list(name)
    chosen = [path for one in names for path in _matching(cells, one, bidirectional)]
    per_layer = 2 if bidirectional else 1
    if not chosen or len(chosen) % per_layer:
        raise FormatError(f"name: expected {per_layer} cells a layer, got {', '.join(chosen) or 'none'}")
    parameters: dict[str, Array] = {}
    for position, path in enumerate(chosen):
        end = f"_l{position // per_layer}" + "_reverse" * (position % per_layer)
        parameters.update({key + end: array for key, array in _rows(cells[path]).items()})
    dtype = np.result_type(*parameters.values())
    options = {
        "input_size": parameters["weight_ih_l0"].shape[1],
        "hidden_size": parameters["weight_hh_l0"].shape[1],
        "num_layers": len(chosen) // per_layer,
        "batch_first": True,
        "bidirectional": bidirectional,
        "activation": activation,
        "recurrent_activation": recurrent_activation,
        "dtype": dtype,
    }
    try:
        value = Value.of(from_options("GRU", options), {key: array.astype(dtype) for key, array in parameters.items()})
    except (TypeError, ValueError) as error:
        raise FormatError(f"{', '.join(chosen)}: {error}") from error
    gru: GRU = face(value)
    return gru


def _tree(params: Any) -> Mapping[Any, Any]:
    if isinstance(params, Mapping):
        return params
    if hasattr(params, "__dict__") and any(base.__module__.startswith("flax.nnx") for base in type(params).__mro__):
        from flax import nnx

        state: Mapping[Any, Any] = nnx.state(params, nnx.Param)
        return state
    raise FormatError(f"params: expected a mapping of parameters or a flax.nnx.Module, got {type(params).__name__}")


def _collect(node: Mapping[Any, Any], path: tuple[str, ...], cells: dict[str, Cell]) -> None:
    """Every GRU cell of a tree, by its path without the outermost "params"."""
    if len(path) > 100:
        raise FormatError(f"params: expected a tree at most 100 levels deep, got {'/'.join(path[:5])}/...")
    dense = {str(key) for key, child in node.items() if isinstance(child, Mapping)}
    if {key for key, _ in LINEN} <= dense:
        cells["/".join(path)] = _cell(node, path, LINEN)
    elif {key for key, _ in NNX} <= dense and _is_gru(node):
        cells["/".join(path)] = _cell(node, path, NNX)
    for key, child in node.items():
        if isinstance(child, Mapping):
            _collect(child, path if not path and key == "params" else (*path, str(key)), cells)


def _is_gru(node: Mapping[Any, Any]) -> bool:
    """Whether the recurrent kernel is (H, 3H): other cells of nnx have layers of the same names."""
    shape = np.shape(node["dense_h"].get("kernel", ()))
    return len(shape) == 2 and shape[1] == 3 * shape[0]


def _cell(node: Mapping[Any, Any], path: tuple[str, ...], layout: Mapping[tuple[str, str], Any]) -> Cell:
    """A cell's arrays, all of them there and of shapes that fit together."""
    name = "/".join(path) or "params"
    got = {(dense, key) for dense, _ in layout for key in node[dense]}
    if got != set(layout):
        wrong = sorted("/".join(map(str, key)) for key in got ^ set(layout))
        raise FormatError(f"{name}: expected the arrays of a GRUCell, but {', '.join(wrong)} missing or unknown")
    cell = {key: _array(f"{name}/{'/'.join(key)}", node[key[0]][key[1]]) for key in layout}
    kernels = [(cell[key], shape) for key, shape in layout.items() if len(shape) == 2]
    hidden = next(array.shape[0] if array.ndim else 0 for array, shape in kernels if shape[0] == "H")
    inputs = next(array.shape[0] if array.ndim else 0 for array, shape in kernels if shape[0] == "I")
    sizes = {"I": inputs, "H": hidden, "3H": 3 * hidden}
    for key, shape in layout.items():
        expected = tuple(sizes[size] for size in shape)
        if cell[key].shape != expected:
            got_shape = checks.describe(cell[key].shape) if cell[key].ndim else "()"
            raise FormatError(f"{name}/{'/'.join(key)}: expected {checks.describe(expected)}, got {got_shape}")
    return cell


def _array(name: str, value: Any) -> Array:
    """A leaf as float32 or float64."""
    try:
        array = np.asarray(value.unbox() if hasattr(value, "unbox") else value)  # linen's boxes carry sharding
    except (TypeError, ValueError, RuntimeError) as error:
        raise FormatError(f"{name}: expected an array: {error}") from error
    if array.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        raise FormatError(f"{name}: expected an array of floating-point numbers, got {array.dtype}")
    return array.astype(np.float64 if array.dtype == np.float64 else np.float32)


def _matching(cells: Mapping[str, Cell], name: str | None, bidirectional: bool) -> list[str]:
    """The cell that a name means, or the two of a Bidirectional, forward first."""
    found = [path for path in cells if name is None or path == name or path.startswith(f"{name}/")]
    if not found:
        raise FormatError(f"name: expected one of the GRU cells {_known(cells)}, got {name!r}")
    if len(found) == 1:
        return found
    pair = [path for side in PAIR for path in found if side in path.split("/")]
    if bidirectional and len(found) == 2 and len(pair) == 2 and pair[0].replace(*PAIR) == pair[1]:
        return pair
    expected = "one cell, or the two of a Bidirectional" if bidirectional else "one cell"
    raise FormatError(f"expected {expected}, got {_known(cells)}; choose by name= one, or several for a stack")


def _known(cells: Mapping[str, Cell]) -> str:
    return checks.listed(sorted(cells)) or "none"


def _rows(cell: Cell) -> dict[str, Array]:
    """A cell's arrays under PyTorch's names: weights (3H, I) and (3H, H), biases (3H,), gates r, z, n."""
    if ("dense_i", "kernel") in cell:
        w_ih, w_hh = cell["dense_i", "kernel"], cell["dense_h", "kernel"]
        b_ih = cell["dense_i", "bias"]
        b_hh = np.zeros_like(b_ih)
    else:
        w_ih = np.concatenate([cell[dense, "kernel"] for dense in ("ir", "iz", "in")], axis=1)
        w_hh = np.concatenate([cell[dense, "kernel"] for dense in ("hr", "hz", "hn")], axis=1)
        b_ih = np.concatenate([cell[dense, "bias"] for dense in ("ir", "iz", "in")])
        b_n = cell["hn", "bias"]
        b_hh = np.concatenate([np.zeros_like(b_n), np.zeros_like(b_n), b_n])
    return {"weight_ih": w_ih.T, "weight_hh": w_hh.T, "bias_ih": b_ih, "bias_hh": b_hh}
