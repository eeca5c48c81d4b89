"""Networks in NumPy: the specification that every way of running one is held to. Clear, not fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.model.nodes.sizes import Size, resolved

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from cgru.model.graph import Graph, Node
    from cgru.types import Array


def run(
    graph: Graph,
    inputs: Mapping[str, Array],
    states: Mapping[str, Array] | None = None,
    dtype: npt.DTypeLike = np.float64,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Run a network over whole inputs.

    Parameters
    ----------
    inputs : mapping
        Arrays by name; floating point ones are converted to `dtype`.
    states : mapping, optional
        Arrays by the names of `graph.states`; zero where absent.
    dtype
        float64 or float32: what floating point numbers are computed in.

    Returns
    -------
    outputs, states : dict
        By the names of `graph.outputs`, and the states after the call by the names they have as inputs.
    """
    values = values_of(graph, inputs, states or {}, np.dtype(dtype))
    return {name: values[name] for name in graph.outputs}, {name: values[to] for name, to in graph.states.items()}


def values_of(
    graph: Graph, inputs: Mapping[str, Array], states: Mapping[str, Array], precision: np.dtype[Any]
) -> dict[str, Array]:
    """Every value of a network; see `run`."""
    values = {name: _as(array, precision) for name, array in graph.constants.items()}
    sizes, given = bound(graph, inputs, states, precision)
    values |= given
    for node in graph.nodes:
        for name, array in evaluate(node, values, sizes, precision).items():
            expected = resolved(graph.shapes[name], sizes)
            if array.shape != expected:
                told = checks.listed(f"{size} = {number}" for size, number in sizes.items())
                got = checks.describe(array.shape)
                raise ValueError(f"{node.title}: expected {checks.describe(expected)}, got {got}; {told} is too short")
            values[name] = array
    return values


def evaluate(
    node: Node, values: Mapping[str, Array], sizes: Mapping[str, int], precision: np.dtype[Any]
) -> dict[str, Array]:
    """What a node writes, from the values that it reads and the sizes of dynamic axes."""
    attributes = {
        name: resolved(value, sizes) if isinstance(value, tuple) and any(isinstance(v, Size) for v in value) else value
        for name, value in node.attributes.items()
    }
    more = {"outputs": len(node.outputs)} if node.row.counted else {}
    arrays = [values[name] if name else None for name in node.inputs]
    results = node.row.run(*arrays, **attributes, **more)
    results = results if isinstance(results, tuple) else (results,)
    return {name: _as(np.asarray(array), precision) for name, array in zip(node.outputs, results, strict=False) if name}


def bound(
    graph: Graph, inputs: Mapping[str, Array], states: Mapping[str, Array], precision: np.dtype[Any]
) -> tuple[dict[str, int], dict[str, Array]]:
    """The sizes of dynamic axes, and the arrays of inputs and states; ValueError where they do not fit."""
    for title, given, known in (("inputs", inputs, graph.inputs), ("states", states, graph.states)):
        missing, surplus = sorted(known - given.keys()), sorted(given.keys() - known)
        if surplus or (missing and title == "inputs"):
            raise ValueError(
                f"{title}: expected {checks.listed(known) or 'none'}, got {checks.listed(given) or 'none'}"
            )
    sizes: dict[str, int] = {}
    arrays = {}
    for name, array in {**inputs, **states}.items():
        shape = graph.shapes[name]
        array = np.asarray(array)
        fits = len(shape) == array.ndim and all(
            sizes.setdefault(size, got) == got if isinstance(size, Size) else size == got
            for size, got in zip(shape, array.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"{name}: expected {checks.describe(shape)}, got {checks.describe(array.shape)}")
        if (array.dtype.kind == "f") != (graph.types[name].kind == "f"):
            raise ValueError(f"{name}: expected {graph.types[name]}, got {array.dtype}")
        arrays[name] = _as(array, precision) if array.dtype.kind == "f" else array.astype(graph.types[name])
    for name in graph.states:
        for size in graph.shapes[name]:
            if isinstance(size, Size):
                sizes.setdefault(size, 1)
        if name not in arrays:
            arrays[name] = _as(np.zeros(resolved(graph.shapes[name], sizes), graph.types[name]), precision)
    return sizes, arrays


def _as(array: Array, precision: np.dtype[Any]) -> Array:
    """Floating point numbers in the precision that a network is computed in; others as they are."""
    return array.astype(precision, copy=False) if array.dtype.kind == "f" else array
