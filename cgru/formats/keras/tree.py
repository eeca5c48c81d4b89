"""Where recurrent layers are in a configuration of Keras, {"class_name": ..., "config": ...}: `find`.

Sequential and Functional models tell which layer reads which. Every other layer that has layers in its configuration,
TimeDistributed, a wrapper or model of somebody's own, is searched too, and nothing is assumed about what it does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from cgru.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYERS = ("GRU", "CuDNNGRU")
RECURRENT = (*LAYERS, "RNN", "Bidirectional", "GRUCell")
PASSED_OVER = ("Dropout", "SpatialDropout1D")  # between the layers of a stack; idle at inference
MODELS = ("Sequential", "Functional", "Model")  # Keras 2 says Model for Functional
PACKAGES = ("keras", "tf_keras")

MAX_NESTING = 100
"""Of models and layers within each other; people nest a few."""

MAX_NAME = 1000
"""Characters of a layer's name after those of the models that hold it. The names of these are repeated for each layer,
so the two bounds keep what a file takes in proportion to its size."""


class Found(NamedTuple):
    """A recurrent layer in a model's configuration, or one cell of an RNN of several."""

    names: tuple[str, ...]  # of the nested models that hold it, and its own
    keys: tuple[str, ...]  # where a weights file of Keras 3 has its weights
    kind: str
    config: Mapping[str, Any]
    sources: tuple[str, ...] = ()  # the layers of the same model that feed it, those passed over aside
    dropout: float = 0.0  # rate of a Dropout layer directly before it
    cell: tuple[int, int] | None = None  # of an RNN of a list of cells: which one, and how many there are
    layer: Any = None  # the live layer or cell

    @property
    def name(self) -> str:
        """As errors and the argument `name` write it: the layer's name after those of nested models."""
        return str(self)

    def __str__(self) -> str:
        return "/".join(self.names)

    @property
    def inner(self) -> tuple[str, ...]:
        """Where a weights file of Keras 3 has the arrays of a layer, or of a Bidirectional's side."""
        kind = self.config["layer"]["class_name"] if self.kind == "Bidirectional" else self.kind
        return ("vars",) if self.cell or kind in ("GRUCell", "CuDNNGRU") else ("cell", "vars")


def find(
    node: Any,
    names: tuple[str, ...] = (),
    keys: tuple[str, ...] = (),
    sources: tuple[str, ...] = (),
    dropout: float = 0.0,
) -> Iterator[Found]:
    """Every recurrent layer of a configuration, in its order; names and keys are those that lead to it."""
    if len(names) > MAX_NESTING:
        raise FormatError(f"expected models at most {MAX_NESTING} levels deep, got {'/'.join(names[:5])}/...")
    if "children" in node:
        for part in node["children"]:
            yield from find(part, (*names, _name(part) or snake(part["class_name"])))
    elif ours(node):
        names = names or (_name(node) or snake(node["class_name"]),)
        if sum(len(name) + 1 for name in names) > MAX_NAME + 1:
            raise FormatError(f"expected names of at most {MAX_NAME} characters, got {'/'.join(names)}")
        found = Found(names, keys, node["class_name"], node["config"], sources, dropout, layer=node.get("layer"))
        yield from _cells(found) if stacked(node) else [found]
    elif (layers := _layers(node)) is not None:
        yield from _in_model(layers, node["class_name"] == "Sequential", names, keys)
    else:
        for place, part in _inside(_searched(node), ()):
            yield from find(part, (*names, _name(part) or place[-1]), (*keys, *place))


def own(node: Any) -> bool:
    """Whether a layer is of a class of Keras' own; before version 2.13 the files do not tell."""
    return str(node.get("module", "keras")).partition(".")[0] in PACKAGES


def ours(node: Any) -> bool:
    """Whether a layer is one of Keras' own that is a GRU, or a stack of them."""
    kind, config = node.get("class_name"), node.get("config")
    if kind not in RECURRENT or not own(node) or not isinstance(config, Mapping):
        return False
    if kind == "Bidirectional":
        sides = [config["layer"], config.get("backward_layer") or config["layer"]]
        return all(side["class_name"] in (*LAYERS, "RNN") and ours(side) and not stacked(side) for side in sides)
    if kind != "RNN":
        return True
    cells = config["cell"]["config"]["cells"] if stacked(node) else [config["cell"]]
    return bool(cells) and all(cell["class_name"] == "GRUCell" and own(cell) for cell in cells)


def stacked(node: Any) -> bool:
    """Whether a layer is an RNN of a list of cells."""
    if node["class_name"] != "RNN":
        return False
    cell = node["config"]["cell"]
    return bool(cell["class_name"] == "StackedRNNCells" and own(cell))


def snake(kind: str) -> str:
    """A class' name as Keras 3 makes names of it."""
    kind = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W", "", kind))
    return re.sub("([a-z])([A-Z])", r"\1_\2", kind).lower()


def _name(node: Any) -> str | None:
    """A layer's name; None where a class of somebody's own leaves it out of its configuration."""
    config = node.get("config")
    name = node.get("name") or (config.get("name") if isinstance(config, Mapping) else None)
    return name if isinstance(name, str) else None


def numbered(kind: str, counts: dict[str, int]) -> str:
    """What Keras 3 calls the next layer of a class among several."""
    name = snake(kind)
    number = counts[name] = counts.get(name, -1) + 1
    return f"{name}_{number}" if number else name


# --- Models -----------------------------------------------------------------------------------------------------------


def _layers(node: Any) -> list[Any] | None:
    """The layers of a Sequential or Functional model."""
    if node["class_name"] not in MODELS or not own(node):
        return None
    config = node["config"]
    layers = config.get("layers") if isinstance(config, Mapping) else config
    return layers if isinstance(layers, list) else None


def _in_model(layers: list[Any], sequential: bool, names: tuple[str, ...], keys: tuple[str, ...]) -> Iterator[Found]:
    inputs: dict[str, tuple[str, ...]] = {}  # of each layer passed over: what its readers read instead of it
    rates: dict[str, float] = {}
    counts: dict[str, int] = {}
    before: tuple[str, ...] = ()
    for place, layer in enumerate(layers):
        kind, key = layer["class_name"], numbered(layer["class_name"], counts)
        name = _name(layer)
        direct = before if sequential else _inbound(layer.get("inbound_nodes", []))
        sources = tuple(origin for source in direct for origin in inputs.get(source, (source,)))
        known = name or f"\0{place}"  # of no layer that has a name
        before = (known,)
        if kind in PASSED_OVER and own(layer):
            # A layer called on several stays a source of its own: chains of them would multiply their sources.
            inputs[known] = sources if len(sources) < 2 else (known,)
            rates[known] = _rate(layer["config"]) if kind == "Dropout" else 0.0
            continue
        rate = rates.get(direct[0], 0.0) if len(direct) == 1 else 0.0
        yield from find(layer, (*names, name or key), (*keys, "layers", key), sources, rate)


def _rate(config: Mapping[str, Any]) -> float:
    """Of a Dropout layer; Keras 1 calls it p."""
    return float(config["rate"] if "rate" in config else config["p"])


def _inbound(nodes: Any) -> tuple[str, ...]:
    """The layers that a Functional model's layer is called on, as Keras 2 and 3 write them."""
    names: list[str] = []
    todo = [nodes]
    while todo:
        node = todo.pop()
        if isinstance(node, Mapping):
            if "keras_history" in node:
                names.append(node["keras_history"][0])
            else:
                todo += reversed(list(node.values()))
        elif isinstance(node, (list, tuple)):  # tuples in memory, lists in files
            at = 0
            while [type(part) for part in node[at : at + 3]] == [str, int, int]:
                names.append(node[at])
                at += 3
            todo += reversed(node[at:])
    return tuple(names)


# --- Other layers that hold layers ------------------------------------------------------------------------------------


def _cells(found: Found) -> Iterator[Found]:
    """The cells of an RNN of a list of cells, each as a layer of a stack."""
    config, cells = found.config, found.config["cell"]["config"]["cells"]
    shared = {field: config[field] for field in ("go_backwards", "time_major") if field in config}
    counts: dict[str, int] = {}
    below: tuple[str, ...] = ()
    for k, cell in enumerate(cells):
        key = numbered(cell["class_name"], counts)
        last = k == len(cells) - 1
        sequences = config.get("return_sequences") if last else True
        yield Found(
            (*found.names, key),
            (*found.keys, "cell", "cells", key),
            "RNN",
            {**shared, "return_sequences": sequences, "cell": cell},
            below,
            cell=(k, len(cells)),
            layer=found.layer and found.layer.cell.cells[k],
        )
        below = (key,)


def _searched(node: Any) -> Any:
    """The part of a layer's configuration that may hold GRUs with a meaning of their own.

    A Bidirectional's two stacks have one, by the names of the attributes that hold them; the cell of a recurrent layer
    of somebody's own has none.
    """
    config = node.get("config")
    if not isinstance(config, Mapping) or "return_sequences" in config:
        return {}
    if node.get("class_name") != "Bidirectional" or not own(node):
        return config
    forward = config["layer"]
    name = (_name(forward) or "").removeprefix("forward_")
    turned = {"name": f"backward_{name}", "go_backwards": not forward["config"].get("go_backwards", False)}
    backward = config.get("backward_layer") or {**forward, "config": {**forward["config"], **turned}}
    return {"forward_layer": forward, "backward_layer": backward} if ours(forward) and ours(backward) else {}


def _inside(part: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The layers within a part of a configuration, after the names under which Keras 3 most often stores them."""
    if len(keys) > MAX_NESTING:
        raise FormatError(f"expected configurations at most {MAX_NESTING} levels deep, got {'/'.join(keys[:5])}/...")
    counts: dict[str, int] = {}
    members = part.items() if isinstance(part, Mapping) else enumerate(part) if isinstance(part, list) else ()
    for key, value in members:
        if isinstance(value, Mapping) and isinstance(value.get("class_name"), str) and "config" in value:
            yield (*keys, key if isinstance(key, str) else numbered(value["class_name"], counts)), value
        elif isinstance(value, (Mapping, list)):
            yield from _inside(value, (*keys, str(key)))
