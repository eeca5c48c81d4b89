"""Keras' recurrent layers as nodes: GRU in all its forms, SimpleRNN, and Bidirectional of either.

A layer here gives its sequence in the order of its input and its last states; what Keras makes of them, as the last
step alone or a sequence turned round, is made afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgru.errors import FormatError
from cgru.formats.keras.model import make
from cgru.formats.keras.tree import Found, find, ours, own
from cgru.model.spec import from_options
from cgru.model.value import Value

if TYPE_CHECKING:
    from cgru.formats.keras.network import Layer

MERGES = {"sum": "Add", "mul": "Mul", "ave": "Mean"}
"""What Bidirectional's merge_mode does with the two directions, but for "concat" and None."""


class Ran(NamedTuple):
    """What a layer gives."""

    y: str  # (B, T, D*H)
    states: list[str]  # (B, H) of each layer, or of each direction


def bidirectional_kind(node: Mapping[str, Any]) -> str | None:
    """The class of both layers of a Bidirectional, if it is one that is known."""
    if ours(node):
        return "GRU"
    config = node["config"]
    sides = [config["layer"], config.get("backward_layer") or config["layer"]]
    return "SimpleRNN" if all(side["class_name"] == "SimpleRNN" and own(side) for side in sides) else None


def bidirectional(layer: Layer, x: str, *initial: Any, initial_state: Any = None) -> tuple[str, ...]:
    """Two directions, merged as Bidirectional's merge_mode says."""
    merge, inner = layer.config.get("merge_mode"), layer.config["layer"]["config"]
    layer.expect(
        merge in (None, "concat", *MERGES), "merge_mode: expected 'concat', 'sum', 'mul', 'ave' or None", merge
    )
    both = layer.of({**layer.config, "merge_mode": "concat"})
    ran = _run(both, bidirectional_kind(layer.node) or "", x, _states(initial, initial_state))
    if inner.get("return_sequences", False):
        halves: tuple[str, ...] = (ran.y,)
        if merge != "concat":
            halves = layer.several("Split", ran.y, outputs=2, axis=-1)
    else:
        halves = tuple(ran.states)
        if merge == "concat":
            halves = (layer.op("Concat", *halves, axis=-1),)
    merged = (layer.op(MERGES[merge], *halves),) if merge in MERGES else halves
    return (*merged, *(ran.states if inner.get("return_state", False) else ()))


def one_way(kind: str) -> Any:
    """One direction, from the first step to the last or the other way."""

    def write(layer: Layer, x: str, *initial: Any, initial_state: Any = None) -> tuple[str, ...]:
        ran = _run(layer, kind, x, _states(initial, initial_state))
        y = ran.states[-1]
        if layer.config.get("return_sequences", False):
            y = ran.y
            if layer.config.get("go_backwards", False):  # Keras leaves the sequence in the order it was computed
                y = layer.op("Slice", y, starts=(-1,), ends=(-(2**31),), axes=(1,), steps=(-1,))
        return (y, *(ran.states if layer.config.get("return_state", False) else ()))

    return write


def _states(initial: Sequence[Any], given: Any) -> list[str]:
    """Initial states, which Keras takes as further inputs or by name."""
    if given is None:
        return list(initial)
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _run(layer: Layer, kind: str, x: str, initial: list[str]) -> Ran:
    """The layer by itself."""
    layer.expect(not layer.config.get("time_major", False), "time_major: expected False", True)
    return _gru(layer, x, initial) if kind == "GRU" else _simple(layer, x, initial)


def _gru(layer: Layer, x: str, initial: list[str]) -> Ran:
    found = list(find({**layer.node, "config": layer.config}, layer.names, layer.keys))
    try:
        value = _typed(make(found, layer.store), layer.floats)
    except FormatError as error:
        raise FormatError(f"{layer.writer.source}: {error}") from error
    number = value.spec.num_layers * value.spec.directions
    h0 = ""
    if initial:
        layer.expect(len(initial) == number, f"initial_state: expected {number} states", len(initial))
        h0 = layer.op("Concat", *(layer.op("Unsqueeze", state, axes=(0,)) for state in initial), axis=0)
    y, h_n = layer.stack(value, x, h0)
    return Ran(y, [layer.op("Gather", h_n, layer.constant(np.asarray(k)), axis=0) for k in range(number)])


def _typed(value: Value, dtype: np.dtype[Any]) -> Value:
    """A model in the type of its network."""
    if value.spec.dtype == dtype:
        return value
    spec = from_options(value.spec.kind, {**value.spec.options, "dtype": dtype})
    return Value.of(spec, {name: array.astype(dtype) for name, array in value.wide().items()})


def _simple(layer: Layer, x: str, initial: list[str]) -> Ran:
    """h' = f(W x + b + R h)."""
    both = layer.kind == "Bidirectional"
    sides = [layer.config["layer"]["config"]] * 2 if both else [layer.config]
    if both and layer.config.get("backward_layer"):
        sides[1] = layer.config["backward_layer"]["config"]
    functions = [side.get("activation", "tanh") for side in sides]
    layer.expect(set(functions) <= {"tanh", "relu"}, "activation: expected 'tanh' or 'relu'", functions[-1])
    directions = layer.store.arrays(
        Found(layer.names, layer.keys, layer.kind, layer.config, layer=layer.live), len(sides)
    )
    w, r = (np.stack([arrays[k].T for arrays in directions]) for k in range(2))
    none = np.zeros(directions[0][1].shape[0])
    bias = np.stack([np.concatenate([*(arrays[2:] or [none]), none]) for arrays in directions])
    h0 = ""
    if initial:
        layer.expect(len(initial) == len(sides), f"initial_state: expected {len(sides)} states", len(initial))
        h0 = layer.op("Concat", *(layer.op("Unsqueeze", state, axes=(1,)) for state in initial), axis=1)
    y, h_n = layer.several(
        "RNN", x, layer.constant(w), layer.constant(r), layer.constant(bias), "", h0, outputs=2, layout=1,
        direction="bidirectional" if both else "reverse" if layer.config.get("go_backwards") else "forward",
        activations=tuple(function.capitalize() for function in functions),
    )  # fmt: skip
    y = layer.op("Reshape", y, shape=(0, 0, -1))
    return Ran(y, [layer.op("Gather", h_n, layer.constant(np.asarray(k)), axis=1) for k in range(len(sides))])


LAYERS = {
    "GRU": one_way("GRU"),
    "SimpleRNN": one_way("SimpleRNN"),
    "Bidirectional": bidirectional,
}
"""GRU stands for CuDNNGRU and RNN of GRUCells, too."""
