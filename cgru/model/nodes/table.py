"""What an operator is: one row of the table, and the checks of a node's attributes against it.

A row's functions take arrays, or shapes, in the order of the inputs, None for one that is absent, and the attributes by
name. What a network must know when it is made, as the axes of a Squeeze, is an attribute here, also where a file has it
as an input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgru.model.nodes.sizes import Size

if TYPE_CHECKING:
    from cgru.types import Array

Sizes = tuple[int | Size, ...]
"""A shape, names where an axis is dynamic."""

MANY = 2**31
"""Of inputs or outputs: as many as there are."""

REQUIRED = object()
"""The default of an attribute that has none."""

OLDEST, NEWEST = 7, 22
"""Operator sets that are known."""


class Attribute(NamedTuple):
    """A kind of value and its default; None stands for an attribute that may be absent."""

    kind: str
    """int, float, text, ints, floats, texts, sizes (integers or names of axes), or array."""
    default: Any = REQUIRED
    since: Mapping[int, Any] = {}
    """Defaults by operator set, where they changed: of that set and later ones."""
    choices: tuple[Any, ...] = ()
    """Of an integer or a text: the values that are known here."""

    def of(self, opset: int) -> Any:
        """The default in an operator set."""
        return next((self.since[old] for old in sorted(self.since, reverse=True) if old <= opset), self.default)

    def checked(self, name: str, value: Any) -> Any:
        """The value as nodes keep it; ValueError where it is of another kind."""
        value = KINDS[self.kind](value)
        if value is None:
            raise ValueError(f"{name}: expected {self.kind}")
        if self.choices and value not in self.choices:
            raise ValueError(f"{name}: expected {' or '.join(map(repr, self.choices))}, got {value!r}")
        return value


def _int(value: Any) -> int | None:
    return int(value) if isinstance(value, Integral) and not isinstance(value, Size) else None


def _size(value: Any) -> int | Size | None:
    return value if isinstance(value, Size) else _int(value)


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, Real) else None


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str) else None


def _several(one: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def checked(value: Any) -> tuple[Any, ...] | None:
        if isinstance(value, np.ndarray):
            value = value.ravel().tolist()
        if not isinstance(value, Sequence) or isinstance(value, str):
            return None
        values = tuple(map(one, value))
        return None if None in values else values

    return checked


KINDS: dict[str, Callable[[Any], Any]] = {
    "int": _int,
    "float": _float,
    "text": _text,
    "ints": _several(_int),
    "floats": _several(_float),
    "texts": _several(_text),
    "sizes": _several(_size),
    "array": lambda value: value if isinstance(value, np.ndarray) else None,
}
"""What makes of a value one of a kind, or None."""


def first_type(types: list[np.dtype[Any]], **attributes: Any) -> np.dtype[Any]:
    """The type of the first input."""
    return types[0]


class Recurrence(NamedTuple):
    """What streams need to know of a recurrent layer, whose outputs are its states and the last ones."""

    initial: int
    """The input that is the state before the first step; zero where it is absent."""
    lengths: int | None
    """The input that says how long sequences are; whole where it is absent."""
    time: Callable[..., int]
    """(**attributes) -> the axis of the first input that is time."""
    backwards: Callable[..., bool]
    """(**attributes) -> whether a direction reads sequences from the last step to the first."""


class Operator(NamedTuple):
    """A row of the table."""

    run: Callable[..., Any]
    """(*arrays, **attributes) -> the result, or a tuple of them: the specification, in the inputs' dtype."""
    shape: Callable[..., Any]
    """(*shapes, **attributes) -> the result's shape, or a list of shapes; ValueError where they disagree."""
    takes: tuple[str, ...] = ("f",)
    """Of each input the type: f floating, n a number, a anything; of these all inputs have the same. Any type of its
    own: m a number, x anything, i an integer, b bool. The last stands for all that follow."""
    inputs: tuple[int, int] = (1, 1)
    """At least and at most."""
    outputs: tuple[int, int] = (1, 1)
    attributes: Mapping[str, Attribute] = {}
    known: Mapping[int, str] = {}
    """Inputs that must be constant, and the attributes that they are here."""
    types: Callable[..., Any] = first_type
    """(types of the inputs, **attributes) -> the type of the result, or a list of them."""
    over: Callable[..., Sequence[int]] | None = None
    """(*shapes, **attributes) -> axes of the first input along which results depend on more than one place."""
    pointwise: bool = False
    """Whether the result is the same function of each element, or of such elements as broadcast together."""
    moves: bool = False
    """Whether results hold numbers of the first input and no others."""
    counts: Callable[..., Array] | None = None
    """(shape, **attributes) -> the result, of operators that read of an input its shape alone."""
    work: Callable[..., Any] | None = None
    """(*shapes, **attributes) -> multiplications, and numbers held meanwhile, where these exceed inputs and results."""
    settled: Callable[..., Mapping[str, Any]] | None = None
    """(*shapes, **attributes) -> attributes that shapes decide, as a convolution's padding: a network has them so."""
    recurrence: Recurrence | None = None
    """Of recurrent layers."""
    counted: bool = False
    """Whether its functions take how many outputs there are, as `outputs`."""

    def type_of(self, position: int) -> str:
        """What an input takes."""
        return self.takes[min(position, len(self.takes) - 1)]


GROUPS = {"f": "f", "n": "fiu", "a": "fiub", "m": "fiu", "x": "fiub", "i": "iu", "b": "b"}
"""The kinds of NumPy's types that an input takes."""


def attributes_of(operator: Operator, given: Mapping[str, Any], opset: int) -> dict[str, Any]:
    """All attributes of a node, the defaults where it has none; ValueError where one does not fit."""
    unknown = sorted(given.keys() - operator.attributes.keys())
    if unknown:
        known = ", ".join(operator.attributes) or "none"
        raise ValueError(f"expected the attributes {known}, got {', '.join(map(repr, unknown))}")
    found = {}
    for name, attribute in operator.attributes.items():
        value = given.get(name)
        if value is None:
            value = attribute.of(opset)
            if value is REQUIRED:
                raise ValueError(f"expected the attribute {name}, got none")
        if value is not None:
            value = attribute.checked(name, value)
        found[name] = value
    return found


def check_types(operator: Operator, types: Sequence[np.dtype[Any] | None]) -> None:
    """Refuse inputs of types that an operator does not take."""
    shared: np.dtype[Any] | None = None
    for position, dtype in enumerate(types):
        if dtype is None:
            continue
        kind = operator.type_of(position)
        if dtype.kind not in GROUPS[kind]:
            expected = {"f": "floating point", "iu": "integers", "b": "bool"}.get(GROUPS[kind], "numbers")
            raise ValueError(f"input {position}: expected {expected}, got {dtype}")
        if kind in "fna":
            if shared is not None and dtype != shared:
                raise ValueError(f"input {position}: expected {shared} as the inputs before it, got {dtype}")
            shared = dtype


# --- What rows share --------------------------------------------------------------------------------------------------


def same(first: Sizes, *others: Sizes | None, **attributes: Any) -> Sizes:
    """The shape of the first input."""
    return first


def broadcast(*shapes: Sizes, **attributes: Any) -> Sizes:
    """The shape of arrays that broadcast together.

    >>> broadcast((Size("T"), 1, 4), (3, 1))
    ('T', 3, 4)
    """
    rank = max(map(len, shapes))
    result: list[int | Size] = []
    for sizes in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True):
        found = {size for size in sizes if size != 1}
        if len(found) > 1:
            raise ValueError(f"expected shapes that broadcast together, got {' and '.join(map(described, shapes))}")
        result.append(found.pop() if found else 1)
    return tuple(result)


def described(shape: Sequence[object]) -> str:
    """A shape as messages print it."""
    return f"({shape[0]},)" if len(shape) == 1 else f"({', '.join(map(str, shape))})"


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front; ValueError where there is none."""
    if not -rank <= axis < rank:
        raise ValueError(f"expected an axis from {-rank} to {rank - 1}, got {axis}")
    return axis % rank


def axes_of(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes counted from the front, each once."""
    found = tuple(axis_of(axis, rank) for axis in axes)
    if len(set(found)) != len(found):
        raise ValueError(f"expected different axes, got {list(axes)}")
    return found


def require(condition: bool, expected: str, got: object) -> None:
    """ValueError with what was expected, and what came."""
    if not condition:
        raise ValueError(f"expected {expected}, got {described(got) if isinstance(got, tuple) else got}")


def whole(sizes: Sequence[int | Size], what: str) -> tuple[int, ...]:
    """Sizes that must be integers."""
    if any(isinstance(size, Size) for size in sizes):
        raise ValueError(f"{what}: expected sizes that are known, got {described(tuple(sizes))}")
    return tuple(int(size) for size in sizes)


def is_sizes(array: Array) -> bool:
    """Whether an array holds sizes, some of them names."""
    return array.dtype == object


def typed(dtype: Any) -> Callable[..., np.dtype[Any]]:
    """A rule for results of one type."""
    found = np.dtype(dtype)
    return lambda types, **attributes: found
