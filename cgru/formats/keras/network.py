"""Keras' models as whole networks: Sequential and Functional ones, live and from files, nested and with shared layers.

A live model is read by its configuration, as a file is, its weights from its layers.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgru import checks
from cgru.errors import FormatError
from cgru.formats import untrusted
from cgru.formats.keras import layers as table
from cgru.formats.keras.calls import Reference, call_of, references
from cgru.formats.keras.files import whole
from cgru.formats.keras.tree import MAX_NESTING, MODELS, numbered, own, snake
from cgru.model.graph import MAX_MEMORY
from cgru.model.nodes import REFUSED
from cgru.model.nodes.sizes import Size
from cgru.model.writing import Writer

if TYPE_CHECKING:
    from cgru.model.graph import Graph
    from cgru.model.nodes.table import Sizes
    from cgru.model.value import Value
    from cgru.types import Array

    Results = str | tuple[str, ...]

TYPES = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
"""Of inputs; float16 and bfloat16 are computed in float32."""

MASKED = (
    "GRU",
    "CuDNNGRU",
    "RNN",
    "SimpleRNN",
    "Bidirectional",
    "TimeDistributed",
    "GlobalAveragePooling1D",
    "Softmax",
)
"""Layers for which a mask makes a difference."""

DYNAMIC = ("B", "T")
"""Names of axes without a size: the first of an input, and the next."""

MOST_NODES = 20_000
"""Of a network. Models within each other that are called several times have more nodes than their file has bytes."""


def network_of(model: Any, max_memory: int = MAX_MEMORY) -> Graph:
    """The network that a Keras model is at inference, its weights copied.

    A Functional model's inputs and outputs have the names of its input and output layers; those of a Sequential, whose
    names Keras makes up, are "x" and "y". Axes without a size are "B", the first, and "T".

    Parameters
    ----------
    model : keras.Sequential, Functional keras.Model, or the path of a .keras or whole-model .h5 file
        Built. Files are read without Keras.
    max_memory : int
        Bytes that all values of the network may take; see `cgru.model.building.build`.

    Raises
    ------
    cgru.FormatError
        Another kind of model or file, one with layers that are not known here (all are listed), or with options
        that have no counterpart.
    """
    if isinstance(model, (str, os.PathLike)):
        path = Path(model)
        with untrusted.reading(path, "Keras"):
            return _network(*whole(path), str(path), max_memory)
    from cgru.formats.keras import live

    return _network(live.described(model), live.store(), type(model).__name__, max_memory)


def _network(node: Mapping[str, Any], store: Any, source: str, max_memory: int) -> Graph:
    if node.get("class_name") not in MODELS or not own(node):
        raise FormatError(f"{source}: expected a Sequential or Functional model, got {node.get('class_name')}")
    refuse_unknown(node, source)
    refuse_masks(node, source)
    writer = Writer(source)
    top = Layer(writer, node, (), (), store, {})
    entries = top.entries()
    sequential = top.kind == "Sequential"
    wide = any(_dtype(_config(part)) == "float64" for _, part in parts(node))
    top = top._replace(floats=np.dtype(np.float64 if wide else np.float32))
    names = ["x"] if sequential else [entry.name for entry in entries]
    values = [
        writer.input(name, entry.shape, top.floats if entry.dtype.kind == "f" else entry.dtype)
        for name, entry in zip(names, entries, strict=True)
    ]
    results = top.model(values)
    outputs: dict[str, str] = {}
    for name, value in zip(["y"] * len(results) if sequential else top.output_names(), results, strict=True):
        outputs[_other(name, {*outputs, *names})] = value
    return writer.graph(outputs, max_memory=max_memory)


def _other(name: str, taken: set[str]) -> str:
    """A name, with a number where another value has it."""
    found, number = name, 0
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found


# --- What is refused --------------------------------------------------------------------------------------------------


def parts(node: Mapping[str, Any], names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every layer of a model, those of nested models and in TimeDistributed too, with its names."""
    if len(names) > MAX_NESTING:
        raise FormatError(f"expected models at most {MAX_NESTING} levels deep, got {'/'.join(names[:5])}/...")
    config = node.get("config")
    if node.get("class_name") in MODELS and own(node):
        for part in _layers(node):
            name = part.get("name") or _config(part).get("name") or snake(str(part.get("class_name")))
            yield from parts(part, (*names, str(name)))
        return
    yield names, node
    if node.get("class_name") == "TimeDistributed" and own(node) and isinstance(config, Mapping):
        yield from parts(config["layer"], (*names, str(_config(config["layer"]).get("name"))))


def _layers(node: Mapping[str, Any]) -> list[Any]:
    config = node["config"]
    return list(config["layers"] if isinstance(config, Mapping) else config)


def _config(node: Mapping[str, Any]) -> Mapping[str, Any]:
    config = node.get("config")
    return config if isinstance(config, Mapping) else {}


def refuse_unknown(node: Mapping[str, Any], source: str) -> None:
    """One error for all layers that are not known."""
    unknown: dict[str, list[str]] = {}
    for names, part in parts(node):
        if table.writer_of(part) is None:
            kind = str(part.get("class_name"))
            inner = _config(part).get("layer")
            if kind == "Bidirectional" and isinstance(inner, Mapping):
                kind = f"Bidirectional({inner.get('class_name')})"
            unknown.setdefault(kind, []).append(repr("/".join(names)))
    if unknown:
        listed = "; ".join(f"{kind} ({checks.listed(names, 8)})" for kind, names in unknown.items())
        told = "".join(f". {name}: {REFUSED[name]}" for name in REFUSED if any(name in kind for kind in unknown))
        raise FormatError(f"{source}: expected layers that are known here, got {listed}{told}")


def refuse_masks(node: Mapping[str, Any], source: str) -> None:
    """Refuse an Embedding that makes a mask where a layer would heed it."""
    found = list(parts(node))
    masks = ["/".join(names) for names, part in found if _config(part).get("mask_zero", False)]
    readers = ["/".join(names) for names, part in found if part.get("class_name") in MASKED]
    if masks and readers:
        raise FormatError(
            f"{source}: mask_zero: expected False, got True of {checks.listed(masks)} beside {checks.listed(readers)}, "
            "which would heed the mask; without padding in its input set layer.mask_zero = False"
        )


# --- Layers -----------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """An input of a model."""

    name: str
    shape: Sizes
    dtype: np.dtype[Any]


class Layer(NamedTuple):
    """A layer or a model while it is written: what the functions of `layers.py` see."""

    writer: Writer
    node: Mapping[str, Any]
    names: tuple[str, ...]
    keys: tuple[str, ...]
    store: Any
    constants: dict[Any, str]
    """Names by content: a shared layer has its weights once."""
    floats: np.dtype[Any] = np.dtype(np.float32)
    own_config: Mapping[str, Any] | None = None

    @property
    def kind(self) -> str:
        """Its class."""
        return str(self.node["class_name"])

    @property
    def config(self) -> Mapping[str, Any]:
        """Its options."""
        return self.own_config if self.own_config is not None else self.node["config"]

    @property
    def live(self) -> Any:
        """The layer in memory, if there is one."""
        return self.node.get("layer")

    @property
    def version(self) -> int:
        """Keras' major version."""
        return int(self.store.version)

    @property
    def title(self) -> str:
        """As messages call it."""
        return f"{self.writer.source}: {self.kind} {'/'.join(self.names)!r}"

    def of(self, config: Mapping[str, Any]) -> Layer:
        """The layer with other options."""
        return self._replace(own_config=config)

    def inner(self, field: str) -> Layer:
        """The layer that a wrapper holds."""
        node = self.config[field]
        name = str(_config(node).get("name") or snake(node["class_name"]))
        return self._replace(node=node, names=(*self.names, name), keys=(*self.keys, field), own_config=None)

    # --- What the layers' functions call ------------------------------------------------------------------------------

    def op(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Write a node of one result."""
        (found,) = self.several(operator, *inputs, outputs=1, **attributes)
        return found

    def several(self, operator: str, *inputs: str, outputs: int, **attributes: Any) -> tuple[str, ...]:
        """Write a node of several results."""
        if len(self.writer.nodes) >= MOST_NODES:
            raise FormatError(f"{self.writer.source}: expected at most {MOST_NODES:,} nodes, got more")
        found = self.writer.add(operator, *inputs, name="/".join(self.names), outputs=outputs, **attributes)
        return (found,) if isinstance(found, str) else tuple(found)

    def constant(self, array: Array) -> str:
        """The name of a constant, floating point numbers in the model's type."""
        array = np.asarray(array)
        if array.dtype.kind == "f":
            array = array.astype(self.floats)
        key = array.dtype, array.shape, hashlib.sha256(array.tobytes()).digest()
        if key not in self.constants:
            self.constants[key] = self.writer.constant(array, "/".join(self.names))
        return self.constants[key]

    def stack(self, value: Value, x: str, h0: str) -> tuple[str, str]:
        """Write a GRU: its sequence and its last states."""
        return self.writer.stack(value, x, h0, name="/".join(self.names))

    def shape(self, value: str) -> Sizes:
        """Of a value."""
        self.expect(value in self.writer.shapes, "inputs whose shapes go together", value)
        return self.writer.shapes[value]

    def type(self, value: str) -> np.dtype[Any]:
        """Of a value."""
        return self.writer.types.get(value, self.floats)

    def weights(self, number: int) -> list[Array]:
        """The layer's arrays, of which there must be so many."""
        arrays = self.store.own(self)
        self.expect(len(arrays) == number, f"{number} arrays of weights", len(arrays))
        return list(arrays)

    def number(self, field: str, default: float) -> float:
        """An option that is a number."""
        value = self.config.get(field, default)
        value = value.get("config", {}).get("value") if isinstance(value, Mapping) else value
        self.expect(type(value) in (int, float), f"{field}: expected a number", value)
        return float(value)

    def expect(self, condition: bool, expected: str, got: object) -> None:
        """FormatError where the layer is not as it must be."""
        if not condition:
            joined = expected if "expected" in expected else f"expected {expected}"
            raise FormatError(f"{self.title}: {joined}, got {got!r}")

    def run(self, *inputs: Any, **options: Any) -> Results:
        """Write the layer's nodes."""
        if self.kind in MODELS and own(self.node):
            results = self.model([value for value in inputs if isinstance(value, str)])
            return results[0] if len(results) == 1 else tuple(results)
        write = table.writer_of(self.node)
        assert write is not None
        return write(self, *inputs, **options)

    # --- Models -------------------------------------------------------------------------------------------------------

    def children(self) -> dict[str, Layer]:
        """A model's layers by name."""
        counts: dict[str, int] = {}
        found: dict[str, Layer] = {}
        for node in _layers(self.node):
            key = numbered(node["class_name"], counts)
            name = str(node.get("name") or _config(node).get("name") or key)
            keys = (*self.keys, "layers", key)
            found[name] = self._replace(node=node, names=(*self.names, name), keys=keys, own_config=None)
        return found

    def entries(self) -> list[Entry]:
        """A model's inputs."""
        children = self.children()
        if self.kind != "Sequential":
            return [_entry(name, children[name].config) for name, _, _ in references(self.config["input_layers"])]
        first = next(iter(children.values()), None)
        self.expect(first is not None, "layers", "none")
        assert first is not None
        if first.kind in MODELS:
            return first.entries()
        config = dict(first.config)
        if self.config.get("build_input_shape") if isinstance(self.config, Mapping) else None:
            config.setdefault("batch_shape", self.config["build_input_shape"])
        return [_entry(first.names[-1], config)]

    def output_names(self) -> list[str]:
        """The names of a Functional model's output layers."""
        return [name for name, _, _ in references(self.config["output_layers"])]

    def model(self, inputs: Sequence[str]) -> list[str]:
        """Write a model's layers."""
        children = self.children()
        if self.kind == "Sequential":
            value: Results = inputs[0] if len(inputs) == 1 else tuple(inputs)
            for child in children.values():
                value = child.run(*([value] if isinstance(value, str) else value))
            return [value] if isinstance(value, str) else list(value)
        return _Wiring(self, children, inputs).results()


def _entry(name: str, config: Mapping[str, Any]) -> Entry:
    """An input of a configuration."""
    shape = config.get("batch_shape") or config.get("batch_input_shape")
    if not isinstance(shape, (list, tuple)) or not all(size is None or type(size) is int for size in shape):
        raise FormatError(
            f"{name}: expected an input whose shape is known, got {shape!r}; begin the model with keras.Input(shape)"
        )
    dtype = _dtype(config)
    dtype = "float32" if dtype in ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16", None) else dtype
    if dtype not in TYPES:
        raise FormatError(f"{name}: dtype: expected one of {', '.join(TYPES)}, got {dtype!r}")
    free = [*DYNAMIC, *(f"axis_{axis}" for axis in range(2, len(shape)))]
    open_axes = [axis for axis, size in enumerate(shape) if size is None]
    order = open_axes if 0 in open_axes else [-1, *open_axes]
    sizes = [Size(free[order.index(axis)]) if size is None else size for axis, size in enumerate(shape)]
    return Entry(name, tuple(sizes), np.dtype(dtype))


def _dtype(config: Mapping[str, Any]) -> Any:
    """The type that a layer computes in: a name, or a policy of that name."""
    dtype = config.get("dtype", "float32")
    return _config(dtype).get("name", "float32") if isinstance(dtype, Mapping) else dtype


# --- Functional models ------------------------------------------------------------------------------------------------


def _calls(layer: Layer) -> list[Any]:
    return list(layer.node.get("inbound_nodes", []))


class _Wiring:
    """A Functional model's layers, each run for each of its calls."""

    def __init__(self, model: Layer, children: Mapping[str, Layer], inputs: Sequence[str]) -> None:
        self.model, self.children = model, children
        self.values: dict[tuple[str, int], tuple[str, ...]] = {}
        """By layer and call what it gave."""
        self.before_3 = any(isinstance(call, list) for child in children.values() for call in _calls(child))
        entries = references(model.config["input_layers"])
        model.expect(len(entries) == len(inputs), f"{len(entries)} inputs", len(inputs))
        for entry, value in zip(entries, inputs, strict=True):
            self.values[entry.layer, entry.call] = (value,)

    def results(self) -> list[str]:
        """The values that the outputs are."""
        waiting = [
            (name, number, *call_of(node))
            for name, child in self.children.items()
            for number, node in enumerate(_calls(child))
            if (name, number) not in self.values
        ]
        while waiting:
            left = [call for call in waiting if not self._called(*call)]
            if len(left) == len(waiting):
                raise FormatError(f"{self.model.title}: expected layers that read each other in an order, got a circle "
                                  f"or a missing one among {checks.listed(name for name, *_ in left)}")  # fmt: skip
            waiting = left
        outputs = references(self.model.config["output_layers"])
        return [self._value(found, self._first(found.layer, output=True)) for found in outputs]

    def _first(self, name: str, output: bool = False) -> int:
        """The number of a layer's first call. A model has one before, that made it: Keras 3 counts it for outputs."""
        child = self.children.get(name)
        if child is None or child.kind not in MODELS or not (output or self.before_3):
            return 0
        if child.kind == "Sequential":
            return int(self.before_3 and _layers(child.node)[0].get("class_name") == "InputLayer")
        return 1

    def _known(self, value: Any) -> bool:
        if isinstance(value, Reference):
            return (value.layer, value.call - self._first(value.layer)) in self.values
        parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
        return all(map(self._known, parts))

    def _value(self, reference: Reference, first: int) -> str:
        found = self.values.get((reference.layer, reference.call - first), ())
        if reference.result >= len(found):
            raise FormatError(f"{self.model.title}: expected a tensor {tuple(reference)}, got none")
        return found[reference.result]

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, Reference):
            return self._value(value, self._first(value.layer))
        return [self._resolved(part) for part in value] if isinstance(value, list) else value

    def _called(self, name: str, number: int, args: list[Any], kwargs: dict[str, Any]) -> bool:
        """Run a call whose arguments are there; whether they are."""
        if not self._known(args) or not self._known(kwargs):
            return False
        child = self.children[name]
        given = self._resolved(args)
        inputs = [part for value in given for part in (value if isinstance(value, list) else [value])]
        options = {key: self._resolved(value) for key, value in kwargs.items() if key not in ("training", "name")}
        options = {key: value for key, value in options.items() if value is not None}
        child.expect(set(options) <= {"initial_state"}, "expected a call without options", sorted(options))
        results = child.run(*inputs, **options)
        self.values[name, number] = (results,) if isinstance(results, str) else tuple(results)
        return True
