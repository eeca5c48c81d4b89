"""How a list of layers becomes a graph.

An element is a `Layer`, or an object that holds a GRU or a MinGRU. A list runs over (T, B, I), or over (B, T, I) where
its recurrent elements are batch_first; indices of an embedding have no last axis. Features are the last
axis everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.errors import FormatError
from cgru.model.nodes import stack
from cgru.model.nodes.sizes import Size
from cgru.model.nodes.table import described
from cgru.model.writing import Writer
from cgru.nodes.layer import BATCH, STEPS, Layer, Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cgru.model.graph import Graph


def is_model(element: object) -> bool:
    """Whether an element is an object that holds a GRU or a MinGRU."""
    spec = getattr(getattr(element, "value", None), "spec", None)
    return getattr(spec, "kind", None) in stack.STACKED


def checked(layers: Iterable[Any], where: str = "layers") -> tuple[Any, ...]:
    """The elements of a list; TypeError where one is none."""
    if not isinstance(layers, Sequence) or isinstance(layers, str):
        raise TypeError(f"{where}: expected a list of layers, got {type(layers).__name__}")
    for i, element in enumerate(layers):
        if not isinstance(element, Layer) and not is_model(element):
            kinds = " or ".join(f"cgru.{kind}" for kind in stack.STACKED)
            got = repr(element) if isinstance(element, type) else type(element).__name__
            raise TypeError(f"{where}[{i}]: expected a layer of cgru.nodes or a {kinds}, got {got}")
    if not layers:
        raise ValueError(f"{where}: expected one layer or more, got none")
    return tuple(layers)


def flat(layers: Iterable[Any]) -> Iterator[Any]:
    """All elements, those inside of others after these."""
    for element in layers:
        yield element
        yield from () if is_model(element) else flat(getattr(element, "layers", ()))


def write_all(place: Place, layers: Sequence[Any], x: str, prefix: str = "") -> str:
    """Write elements one after the other; the name of the last one's result."""
    for i, element in enumerate(layers):
        at = replace(place, name=f"{prefix}{i}")
        shape = at.shape(x)
        length, timed = width_of(element), is_model(element) or element.timed
        integers, takes = x in at.integers, taken_by(element)
        if takes != "a" and integers != (takes == "i"):
            expected = "indices" if takes == "i" else "floating point numbers"
            raise at.refused(
                f"a layer of {'indices' if integers else 'floating point numbers'}", f"{element!r} of {expected}"
            )
        if length is not None and (not shape or shape[-1] != length):
            raise at.refused(f"a layer of {shape[-1]} inputs, as the one before it gives", repr(element))
        if timed and (at.time(x) is None or len(shape) != 3):
            raise at.refused(f"sequences for {element!r}", shape)
        x = _stacked(at, element, x) if is_model(element) else element.write(at, x)
        if x not in at.writer.shapes:
            raise at.refused(f"a layer that takes {described(shape)}", repr(element))
    return x


def _stacked(place: Place, element: Any, x: str) -> str:
    """A GRU or a MinGRU."""
    value = element.value
    if value.precision != "float32":
        raise place.refused("a model that is not quantized, as networks are as a whole", repr(element))
    if not all(isinstance(array, np.ndarray) for array in value.parameters.values()):
        raise place.refused("a model in host memory, as gru.to('cpu') gives it", repr(element))
    y, _ = place.writer.stack(value, x, name=place.name)
    return y


def taken_by(element: Any) -> str:
    """Of what kind an element's inputs are; see `Layer.takes`."""
    return "f" if is_model(element) else element.takes


def width_of(element: Any) -> int | None:
    """How long the last axis of an element's inputs must be; None where it may have any length."""
    if is_model(element):
        return int(element.value.spec.input_size)
    if hasattr(element, "layers"):
        return first_width(element.layers)
    return None if element.features is None else getattr(element, element.features)


def first_width(layers: Iterable[Any]) -> int | None:
    """The length that the inputs of a list must have, None where no layer says it."""
    for element in layers:
        width = width_of(element)
        if width is not None or not getattr(element, "keeps", False):
            return width
    return None


def _one(name: str, values: Iterable[Any], default: Any) -> Any:
    """What all layers have of an option that must be the same; ValueError where it is not."""
    found = {str(value): value for value in values}
    if len(found) > 1:
        raise ValueError(f"layers: expected one {name} in all layers, got {checks.listed(found)}")
    return next(iter(found.values()), default)


def graph_of(layers: Iterable[Any]) -> Graph:
    """The network of a list of layers, from an input "x" to an output "y".

    x is (T, B, I), or (B, T, I) where recurrent layers are batch_first; where an embedding comes first, int64 (T, B).

    Raises
    ------
    TypeError
        An element is no layer.
    ValueError
        A layer does not fit the one before it; the message says which.
    """
    elements = checked(layers)
    options = [element.value.spec if is_model(element) else element for element in flat(elements)]
    batch_first = _one("batch_first", [own.batch_first for own in options if hasattr(own, "batch_first")], False)
    dtype = _one("dtype", [np.dtype(own.dtype) for own in options if own.dtype is not None], np.dtype(np.float32))
    indices = next((kind for kind in map(taken_by, elements) if kind != "a"), "f") == "i"
    axes: tuple[int | Size, ...] = (Size(BATCH), Size(STEPS)) if batch_first else (Size(STEPS), Size(BATCH))
    width = None if indices else first_width(elements)
    if width is None and not indices:
        raise ValueError(
            f"layers: expected one that says how many inputs there are, as Linear does, before their number changes, "
            f"got {elements[0]!r} first"
        )
    writer = Writer("layers")
    x = writer.input("x", axes if width is None else (*axes, width), np.int64 if indices else dtype)
    place = Place(writer, "", dtype, batch_first, {"x"} if indices else set())
    y = write_all(place, elements, x)
    try:
        return writer.graph({"y": y}, states={})
    except FormatError as error:
        raise ValueError(str(error)) from error
