"""What trees of parameters share, those of Flax, Equinox and Haiku: their cells become the layers of one GRU.

A cell is known by its path in the tree. None of the libraries is imported: a tree is what holds arrays at its ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.errors import FormatError
from cgru.model.spec import from_options
from cgru.model.value import Value, face

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cgru.gru import GRU
    from cgru.types import Array

    Rows = dict[str, Array]  # weight_ih (3H, I), weight_hh (3H, H), biases (3H,) or none, gates r, z, n

MAX_DEPTH = 100
"""Of a tree."""


def assemble(
    cells: Mapping[str, Rows],
    name: str | Sequence[str] | None,
    bidirectional: bool,
    options: Mapping[str, Any],
    pair: tuple[str, str] | None = None,  # what a library calls the two directions in a path
) -> GRU:
    """The GRU whose layers are the cells of these names, first to last; of two directions each second is a reverse."""
    names = [name] if isinstance(name, str) or name is None else list(name)
    chosen = [path for one in names for path in _matching(cells, one, pair if bidirectional else None)]
    per_layer = 2 if bidirectional else 1
    if not chosen or len(chosen) % per_layer:
        raise FormatError(f"name: expected {per_layer} cells a layer, got {', '.join(chosen) or 'none'}")
    parameters: dict[str, Array] = {}
    for position, path in enumerate(chosen):
        end = f"_l{position // per_layer}" + "_reverse" * (position % per_layer)
        parameters.update({key + end: array for key, array in cells[path].items()})
    dtype = np.result_type(*parameters.values())
    sizes = {
        "input_size": parameters["weight_ih_l0"].shape[1],
        "hidden_size": parameters["weight_hh_l0"].shape[1],
        "num_layers": len(chosen) // per_layer,
        "bias": any(key.startswith("bias") for key in parameters),
        "bidirectional": bidirectional,
        "dtype": dtype,
    }
    try:
        spec = from_options("GRU", {**sizes, **options})
        value = Value.of(spec, {key: array.astype(dtype) for key, array in parameters.items()})
    except (TypeError, ValueError) as error:
        raise FormatError(f"{', '.join(chosen)}: {error}") from error
    gru: GRU = face(value)
    return gru


def _matching(cells: Mapping[str, Rows], name: str | None, pair: tuple[str, str] | None) -> list[str]:
    """The cell that a name means, or the two of a layer of two directions, forward first."""
    found = [path for path in cells if name is None or path == name or path.startswith(f"{name}/")]
    if not found:
        if not cells:
            mend = "from_flax, from_equinox and from_haiku each read trees of their own library"
            raise FormatError(f"expected a tree with GRU cells in it, got one without; {mend}")
        raise FormatError(f"name: expected one of the GRU cells {_known(cells)}, got {name!r}")
    if len(found) == 1:
        return found
    if pair:
        two = [path for side in pair for path in found if side in path.split("/")]
        if len(found) == 2 and len(two) == 2 and two[0].replace(*pair) == two[1]:
            return two
    expected = "one cell, or the two of a Bidirectional" if pair else "one cell"
    raise FormatError(f"expected {expected}, got {_known(cells)}; choose by name= one, or several for a stack")


def _known(cells: Mapping[str, Rows]) -> str:
    return checks.listed(sorted(cells))


def check_depth(path: tuple[str, ...]) -> None:
    """Refuse a tree that may have no end."""
    if len(path) > MAX_DEPTH:
        raise FormatError(f"params: expected a tree at most {MAX_DEPTH} levels deep, got {'/'.join(path[:5])}/...")


def fitting(name: str, leaves: Mapping[str, Any], layout: Mapping[str, tuple[str, ...]]) -> dict[str, Array]:
    """A cell's leaves as arrays, whose shapes fit together; `layout` gives each its shape in I, H and 3H."""
    arrays = {key: _array(f"{name}/{key}", leaves[key]) for key in layout}
    sizes: dict[str, int] = {}
    for size in "IH":
        key, axis = next((key, shape.index(size)) for key, shape in layout.items() if len(shape) == 2 and size in shape)
        sizes[size] = arrays[key].shape[axis] if arrays[key].ndim == 2 else 0
    sizes["3H"] = 3 * sizes["H"]
    for key, shape in layout.items():
        expected = tuple(sizes[size] for size in shape)
        if arrays[key].shape != expected:
            got = checks.describe(arrays[key].shape) if arrays[key].ndim else "()"
            raise FormatError(f"{name}/{key}: expected {checks.describe(expected)}, got {got}")
    return arrays


def _array(name: str, value: Any) -> Array:
    """A leaf as float32 or float64."""
    try:
        array = np.asarray(value.unbox() if hasattr(value, "unbox") else value)  # linen's boxes carry sharding
    except (TypeError, ValueError, RuntimeError) as error:
        raise FormatError(f"{name}: expected an array: {error}") from error
    if array.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        raise FormatError(f"{name}: expected an array of floating-point numbers, got {array.dtype}")
    return array.astype(np.float64 if array.dtype == np.float64 else np.float32)


def of_candidate(bias: Array) -> Array:
    """The recurrent biases (3H,) of a cell that has one for the candidate alone, (H,)."""
    return np.concatenate([np.zeros_like(bias), np.zeros_like(bias), bias])
