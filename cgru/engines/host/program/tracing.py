"""Where numbers come from: nodes that only move them, followed through a graph before it is lowered.

Each element of what such a node gives is an element of a value that some other node computes, or of a constant. So a
chain of such nodes, however long, is one array of places; nothing of it has to run. A state that hands frames on from
call to call (a convolution's cache) is found in the same way: its elements are those of a value, some frames before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.model.nodes import movement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cgru.engines.host.program.values import Values
    from cgru.model.graph import Node
    from cgru.types import Array

BASE, DELAY = 2**48, 2**32
"""A place: the number of a value times `BASE`, how many frames before times `DELAY`, and the element."""

MOVES = (
    "Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Tile", "Slice", "Split", "Gather",
    "Concat", "Pad", "ScatterND", "ConstantOfShape", "Dropout", "Cast",
)  # fmt: skip


class Trace:
    """The places of all that is only moved, by name."""

    def __init__(self, values: Values, gone: Iterable[str], given: Iterable[str]) -> None:
        self.values = values
        self.bases: list[str | float] = [0.0]
        """By number a value's name, or a number; 0 is the number 0, as padding is."""
        self.numbers: dict[str | bytes, int] = {np.float32(0).tobytes(): 0}
        self.of: dict[str, Array] = {}
        self.nodes: set[str] = set()
        """Those that only move numbers."""
        self.gathered: dict[str, Array] = {}
        """Values that are brought together since what follows has their elements several times: the places."""
        gone, given = set(gone), set(given)
        for node in values.graph.nodes:
            if node.name in given:
                found: tuple[Array, ...] | None = (self.places(node.inputs[0]),)
            else:
                self._gather_before(node)
                found = None if node.name in gone else self._moved(node)
            if found is not None:
                self.nodes.add(node.name)
                self.of.update(
                    {name: np.array(array) for name, array in zip(node.outputs, found, strict=False) if name}
                )
        self.states = self._states(gone)
        """States whose elements are those of values before: their places."""
        for name, places in self.states.items():
            self._replace(self.number(name), places)
            self.of[name] = places

    def number(self, base: str | float) -> int:
        """Of a value, or of a number."""
        key = base if isinstance(base, str) else np.float32(base).tobytes()  # -0.0 is another one
        if key not in self.numbers:
            self.numbers[key] = len(self.bases)
            self.bases.append(base)
        return self.numbers[key]

    def places(self, name: str) -> Array:
        """Where the elements of a value come from."""
        if name in self.of:
            return self.of[name]
        shape = self.values.shape(name)
        found = self.number(name) * BASE + np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
        constant = self.values.constant(name)
        if constant is not None and constant.dtype.kind == "f":
            found = np.where((constant == 0) & ~np.signbit(constant), 0, found)
        return np.asarray(found, np.int64)

    def _gather_before(self, node: Node) -> None:
        """Let a value of several parts be one before a node repeats its elements, as the unfolding of windows does."""
        if node.operator != "Gather" or node.inputs[0] not in self.of:
            return
        places = self.of[node.inputs[0]]
        repeats = self.values.shape(node.outputs[0])
        if 3 * places.size < 2 * int(np.prod(repeats)) and len(np.unique(self.base_of(places))) > 1:
            self.gathered[node.inputs[0]] = self.of.pop(node.inputs[0])

    def base_of(self, places: Array) -> Array:
        """The numbers of the values that elements come from."""
        return places // BASE

    def _moved(self, node: Node) -> tuple[Array, ...] | None:
        """What a node gives, if it only moves numbers."""
        values = self.values
        if node.operator not in MOVES or (values.streams and node.name in values.graph.timing.roles):
            return None
        attributes = values.attributes(node)
        if node.operator == "Concat":
            arrays = [self.places(name) for name in node.inputs]
            return (np.concatenate(arrays, attributes["axis"]),)
        if node.operator == "ConstantOfShape":
            value = attributes["value"]
            number = float(np.float32(0 if value is None else value.reshape(-1)[0]))
            return (np.full(values.shape(node.outputs[0]), self.number(number) * BASE),)
        if node.operator == "Dropout":
            mask = np.full(values.shape(node.inputs[0]), self.number(1.0) * BASE)
            return self.places(node.inputs[0]), mask
        if node.operator == "Cast" and not same_numbers(values, node):
            return None
        if node.operator == "Pad" and attributes["mode"] == "constant":
            return (self._padded(self.places(node.inputs[0]), attributes),)
        if node.operator == "ScatterND":
            return self._scattered(node)
        known = [values.constant(name) if name else None for name in node.inputs[1:]]
        if node.operator == "Gather" and known[0] is None:
            return None
        if node.operator == "Cast":
            return (self.places(node.inputs[0]),)
        more = {"outputs": len(node.outputs)} if node.row.counted else {}
        found = node.row.run(self.places(node.inputs[0]), *known, **attributes, **more)
        return tuple(map(np.asarray, found)) if isinstance(found, (tuple, list)) else (np.asarray(found),)

    def _padded(self, x: Array, attributes: Mapping[str, Any]) -> Array:
        pads = movement.paddings(x.shape, attributes["pads"], attributes["axes"])
        inside = tuple(slice(max(0, -a), n - max(0, -b)) for n, (a, b) in zip(x.shape, pads, strict=True))
        value = 0.0 if attributes["value"] is None else float(np.float32(attributes["value"]))
        around = [(max(0, a), max(0, b)) for a, b in pads]
        return np.pad(x[inside], around, constant_values=self.number(value) * BASE)

    def _scattered(self, node: Node) -> tuple[Array, ...] | None:
        indices = self.values.constant(node.inputs[1])
        if indices is None or node.attributes["reduction"] != "none":
            return None
        x, updates = self.places(node.inputs[0]), self.places(node.inputs[2])
        return (node.row.run(x, indices, updates, reduction="none"),)

    # --- States that are frames of other values -----------------------------------------------------------------------

    def _states(self, gone: set[str]) -> dict[str, Array]:
        """States of which each element is that of a computed value, so many frames before."""
        graph = self.values.graph
        if self.values.streams:
            return {}
        candidates = {name for name, result in graph.states.items() if result in self.of}
        while candidates:
            found = self._followed(candidates)
            wrong = {name for name in candidates if not self._can_be_frames(name, found)}
            if not wrong:
                return found
            candidates -= wrong
        return {}

    def _followed(self, candidates: set[str]) -> dict[str, Array]:
        """By state: each element's place, followed from state to state as far as that leads."""
        graph = self.values.graph
        results = {self.number(name): self.places(graph.states[name]) for name in candidates}
        found = {name: results[self.number(name)] + DELAY for name in candidates}
        settled = -1
        while True:
            open_ones = {name: np.isin(self.base_of(places), list(results)) for name, places in found.items()}
            count = sum(int(np.sum(~one)) for one in open_ones.values())
            if count == settled or all(not one.any() for one in open_ones.values()):
                return found
            settled = count
            for name, places in found.items():
                for number, result in results.items():
                    here = open_ones[name] & (self.base_of(places) == number)
                    delay, element = places[here] % BASE // DELAY, places[here] % DELAY
                    places[here] = result.reshape(-1)[element] + (delay + 1) * DELAY
                found[name] = places

    def _can_be_frames(self, name: str, found: Mapping[str, Array]) -> bool:
        """Whether its elements are frames of values that are there before the state is read, each of them once."""
        graph = self.values.graph
        places = found[name].ravel()
        numbers = np.unique(self.base_of(places))
        everything = np.concatenate([one.ravel() for one in found.values()])
        if len(np.unique(everything)) != len(everything) or np.any(places % BASE // DELAY >= DELAY // 2**17):
            return False
        made = {output: i for i, node in enumerate(graph.nodes) for output in node.outputs}
        for number in numbers:
            base = self.bases[number]
            if not isinstance(base, str) or base in {*graph.constants, *graph.states, *self.gathered}:
                return False
            if base in made and graph.nodes[made[base]].row.recurrence is not None:
                return False  # its state is a row's already, with no frame to look back for
        own, orders = self.number(name), np.array([made.get(str(base), -1) for base in self.bases])
        for i, node in enumerate(graph.nodes):
            for value in node.inputs if node.name not in self.nodes else ():
                read = self.gathered.get(value, self.places(value)).ravel() if value else np.empty(0, np.int64)
                elements = read[self.base_of(read) == own] % DELAY
                if elements.size and orders[self.base_of(places[elements])].max() >= i:
                    return False
        return True

    def _replace(self, number: int, places: Array) -> None:
        """Say where a state's elements are, wherever they are moved to."""
        for array in (*self.of.values(), *self.gathered.values()):
            here = self.base_of(array) == number
            if here.any():
                array[here] = places.reshape(-1)[array[here] % DELAY] + (array[here] % BASE // DELAY) * DELAY


def same_numbers(values: Values, node: Node) -> bool:
    """Whether a Cast changes no number that float32 holds."""
    before, after = (values.graph.types[name] for name in (node.inputs[0], node.outputs[0]))
    if after.kind == "b":
        return before.kind == "b"
    return after.kind == "f" or np.can_cast(before, after, "safe")
