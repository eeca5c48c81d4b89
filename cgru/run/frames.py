"""Arrays of networks: which shapes inputs and outputs have in a call, a step, a chunk and a pool, and their checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgru import checks
from cgru.engines.host.network import dtype_of as dtype_of
from cgru.model.nodes.sizes import Size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cgru.engines.host.network import Ready
    from cgru.model.graph import Graph
    from cgru.types import Array


class Form(NamedTuple):
    """What an array of a network's must be."""

    name: str
    shape: tuple[int | str, ...]
    time: int
    """The axis of frames, -1 where there is none."""
    rows: int
    dtype: np.dtype[Any]
    dropped: int = -1
    """Where the network has an axis of size 1 that the array has not, -1: nowhere."""

    def port(self, array: Array) -> tuple[Array, int, int]:
        """An array as the network has it, with its axes of frames and of rows."""
        return (np.expand_dims(array, self.dropped) if self.dropped >= 0 else array), self.time, self.rows


def whole(graph: Graph, ready: Ready, name: str) -> Form:
    """All of a sequence."""
    return Form(name, graph.shapes[name], *ready.axes[name], dtype_of(graph, name))


def step(graph: Graph, ready: Ready, name: str, batch: int) -> Form:
    """One frame: without the axis of time."""
    shape = list(_bound(graph, ready, name, batch))
    time, rows = ready.axes[name]
    if time >= 0:
        del shape[time]
        rows -= rows > time
    return Form(name, tuple(shape), -1, rows, dtype_of(graph, name))


def chunk(graph: Graph, ready: Ready, name: str, batch: int) -> Form:
    """Some frames: of a frame graph on an axis of their own, the first."""
    shape = _bound(graph, ready, name, batch)
    time, rows = ready.axes[name]
    if not ready.compiled.streams:
        return Form(name, ("N", *shape), 0, rows + 1 if rows >= 0 else -1, dtype_of(graph, name))
    return Form(name, shape, time, rows, dtype_of(graph, name))


def pooled(graph: Graph, ready: Ready, name: str) -> Form:
    """One frame of each of some rows: in the place of the batch, or before all axes."""
    form = step(graph, ready, name, 1)
    shape = list(form.shape)
    if form.rows >= 0:
        shape[form.rows] = "N"
        return form._replace(shape=tuple(shape))
    dropped = shape.index(1) if 1 in shape[:2] else -1
    if dropped >= 0:
        del shape[dropped]
    return form._replace(shape=("N", *shape), rows=0, dropped=dropped + 1 if dropped >= 0 else -1)


def _bound(graph: Graph, ready: Ready, name: str, batch: int) -> tuple[int | str, ...]:
    """The shape with the batch in it."""
    shape = []
    for size in graph.shapes[name]:
        if isinstance(size, Size) and graph.batch in size.names and graph.steps not in size.names:
            size = size.at({graph.batch: batch})
        shape.append(size)
    return tuple(shape)


def as_many(form: Form, count: int) -> Form:
    """With so many frames."""
    if form.time < 0:
        return form
    return form._replace(shape=(*form.shape[: form.time], count, *form.shape[form.time + 1 :]))


def of_rows(form: Form, count: int) -> Form:
    """Of a pool: of so many rows."""
    return form._replace(shape=tuple(count if size == "N" else size for size in form.shape))


def named(inputs: Mapping[str, Any] | Any, names: tuple[str, ...]) -> Mapping[str, Any]:
    """Inputs by name; one may stand alone."""
    if not isinstance(inputs, dict):
        if len(names) != 1:
            raise TypeError(f"inputs: expected a dict of {checks.listed(names)}, got {type(inputs).__name__}")
        return {names[0]: inputs}
    if inputs.keys() != set(names):
        raise ValueError(f"inputs: expected {checks.listed(names)}, got {checks.listed(inputs) or 'none'}")
    return inputs


def checked(form: Form, value: Any, sizes: dict[str, int], limits: Mapping[str, int]) -> Array:
    """An input's array, if it has its form; sizes by name are noted, and must agree from input to input."""
    array = checks.array(form.name, value, form.dtype, tuple(str(s) if isinstance(s, str) else s for s in form.shape))
    for size, got in zip(form.shape, array.shape, strict=True):
        if not isinstance(size, str):
            continue
        if str(size).isidentifier():
            known = sizes.setdefault(str(size), got)
        else:
            known = size.at(sizes) if isinstance(size, Size) and size.names <= sizes.keys() else got
        if known != got:
            raise ValueError(f"{form.name}: expected {size} to be {known}, as before, got {got}")
    limit = limits.get(form.name)
    if limit is not None and array.size:
        least, most = int(array.min()), int(array.max())
        if least < -limit or most >= limit:
            raise ValueError(
                f"{form.name}: expected indices from {-limit} to {limit - 1}, got {least if least < -limit else most}"
            )
    return array


def written(forms: list[Form], out: Any, sizes: Mapping[str, int], inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays that outputs go to: those given, or new ones."""
    names = tuple(form.name for form in forms)
    given = {} if out is None else named_outputs(out, names)
    found: dict[str, Array] = {}
    for form in forms:
        shape = tuple(
            size.at(sizes) if isinstance(size, Size) else sizes[size] if isinstance(size, str) else size
            for size in form.shape
        )
        if form.name in given:
            found[form.name] = checks.output(given[form.name], form.dtype, shape, {**inputs, **found})
        else:
            found[form.name] = np.empty(shape, form.dtype)
    return found


def named_outputs(out: Any, names: tuple[str, ...]) -> Mapping[str, Any]:
    """Arrays to write to by output; one may stand alone."""
    if not isinstance(out, dict):
        if len(names) != 1:
            raise TypeError(f"out: expected a dict of {checks.listed(names)}, got {type(out).__name__}")
        return {names[0]: out}
    if out.keys() != set(names):
        raise ValueError(f"out: expected {checks.listed(names)}, got {checks.listed(out) or 'none'}")
    return out


def given_back(outputs: dict[str, Array]) -> Any:
    """One output alone, several by name."""
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs
