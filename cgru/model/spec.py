"""The options of a model: their names, defaults, bounds, and the parameters' names and shapes that follow from them.

A `Spec` is checked when it is made and never changes. The public classes have the same options as arguments of their
constructors; `KINDS` says which class has which.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgru import checks
from cgru.model import activations, cells

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cgru.model.activations import Activation
    from cgru.model.cells import Cell
    from cgru.types import ActivationOption, ActivationOptions, Array


class Kind(NamedTuple):
    """A public class: the cell of its layers, its constructor's options, and whether it is a stack or one step."""

    cell: str
    options: tuple[str, ...]
    stacked: bool
    """Whether there are layers, directions and time; the parameters' names then end in _l0, _l0_reverse, ..."""
    defaults: Mapping[str, Any] = MappingProxyType({})
    """Where they are not those of `Spec`."""


_SIZES = ("input_size", "hidden_size", "bias", "dtype")
_MINGRU = ("activation", "recurrent_activation", "clip")
_GRU = ("reset_after", "update_gate", "activation", "recurrent_activation", "clip")
_STACK = ("num_layers", "batch_first", "dropout", "bidirectional", "reverse", "merge")

KINDS = {
    "GRU": Kind("gru", (*_SIZES, *_GRU, *_STACK), stacked=True),
    "GRUCell": Kind("gru", (*_SIZES, *_GRU), stacked=False),
    "MinGRU": Kind("mingru", (*_SIZES, *_MINGRU, *_STACK), stacked=True, defaults={"activation": "g"}),
}
"""The public classes by name."""


FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class Spec:
    """The options of a model; `cgru.GRU` says what each means.

    Raises TypeError or ValueError, naming the option, where one is of the wrong kind, out of range, or does not go with
    the others.

    >>> Spec("GRU", 3, 8, num_layers=2).shapes["weight_ih_l1"]
    (24, 8)
    """

    kind: str
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    reset_after: bool = True
    update_gate: str = "state"
    activation: ActivationOptions = "tanh"
    recurrent_activation: ActivationOptions = "sigmoid"
    clip: float | None = None
    reverse: bool = False
    merge: str = "concat"
    dtype: np.dtype[Any] = FLOAT32

    def __post_init__(self) -> None:
        lists = {name: getattr(self, name) for name in activations.ARGUMENTS}
        for name, check in CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        for name, given in lists.items():
            if activations.are_several(given) and not self.bidirectional:
                raise ValueError(f"{name}: expected one function with bidirectional=False, got {given!r}")
        if self.reverse and self.bidirectional:
            raise ValueError("reverse: expected False with bidirectional=True, which reads both ways, got True")
        if self.merge == "sum" and not (self.bidirectional and self.num_layers == 1):
            raise ValueError(
                "merge: expected 'concat' unless there is one layer of two directions, got 'sum' with "
                f"num_layers={self.num_layers}, bidirectional={self.bidirectional}"
            )

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's arguments that make a model of this kind, `rng` aside."""
        return {name: getattr(self, name) for name in DEFAULTS if name in KINDS[self.kind].options}

    @property
    def cell(self) -> Cell:
        """The equations of one step."""
        return cells.CELLS[KINDS[self.kind].cell]

    @property
    def equations(self) -> dict[str, Any]:
        """The cell's name and its options, as `cgru.reference.forward` and `backward` take them."""
        own = (name for name in (*_GRU, *_MINGRU) if name in KINDS[self.kind].options)
        return {"cell": KINDS[self.kind].cell, **{name: getattr(self, name) for name in own}}

    @property
    def stacked(self) -> bool:
        """Whether it has layers and time, and is not one step."""
        return KINDS[self.kind].stacked

    @property
    def by_direction(self) -> list[Spec]:
        """The same with the functions of one direction, for each."""
        alike = not any(activations.are_several(getattr(self, name)) for name in activations.ARGUMENTS)
        options = {name: getattr(self, name) for name in activations.ARGUMENTS}
        return [
            self if alike else replace(self, **activations.of_direction(options, d)) for d in range(self.directions)
        ]

    @property
    def gate(self) -> Activation:
        """The gates' function, where directions have the same."""
        return activations.parse("recurrent_activation", self.recurrent_activation)

    @property
    def candidate(self) -> Activation:
        """The candidate's function, where directions have the same."""
        return activations.parse("activation", self.activation)

    @property
    def bound(self) -> float:
        """What `clip` bounds the functions' arguments to: infinity where there is none."""
        return float("inf") if self.clip is None else self.clip

    @property
    def directions(self) -> int:
        """D."""
        return 2 if self.bidirectional else 1

    @property
    def width(self) -> int:
        """The last axis of y: D*H, or H where directions are added."""
        return self.hidden_size * (1 if self.merge == "sum" else self.directions)

    @property
    def layers(self) -> list[tuple[tuple[str, ...], int]]:
        """Of each layer: the ends of its directions' parameter names, and the size of its input."""
        if not self.stacked:
            return [(("",), self.input_size)]
        ends = ("", "_reverse")[: self.directions]
        inputs = [self.input_size, *[self.directions * self.hidden_size] * (self.num_layers - 1)]
        return [(tuple(f"_l{k}{end}" for end in ends), size) for k, size in enumerate(inputs)]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters' shapes by name."""
        return {
            name + end: shape
            for ends, inputs in self.layers
            for end in ends
            for name, shape in self.cell.shapes(inputs, self.hidden_size, self.bias).items()
        }

    def initial(self, rng: object) -> dict[str, Array]:
        """New parameters, uniform between -1/sqrt(H) and 1/sqrt(H)."""
        bound = 1 / np.sqrt(self.hidden_size)
        generator = checks.generator(rng)
        return {name: generator.uniform(-bound, bound, shape).astype(self.dtype) for name, shape in self.shapes.items()}


def _dropout(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number from 0 to below 1, got {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"{name}: expected a number from 0 to below 1, got {value!r}")
    return float(value)


def _clip(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a positive number or None, got {value!r}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: expected a positive number or None, got {value!r}")
    return float(value)


def _activation(name: str, value: object) -> ActivationOption | tuple[ActivationOption, ...]:
    options = tuple(function.option for function in activations.parse_all(name, value))
    return options[0] if len(options) == 1 else options


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "kind": lambda name, value: checks.choice(name, value, KINDS),
    "input_size": lambda name, value: checks.integer(name, value, 1),
    "hidden_size": lambda name, value: checks.integer(name, value, 1, checks.MAX_DIMENSION // 3),  # 3H, too
    "bias": checks.flag,
    "reset_after": checks.flag,
    "update_gate": lambda name, value: checks.choice(name, value, ("state", "candidate")),
    "activation": _activation,
    "recurrent_activation": _activation,
    "clip": _clip,
    "dtype": checks.floating,
    "dropout": _dropout,
    "num_layers": lambda name, value: checks.integer(name, value, 1, 10_000),
    "batch_first": checks.flag,
    "bidirectional": checks.flag,
    "reverse": checks.flag,
    "merge": lambda name, value: checks.choice(name, value, ("concat", "sum")),
}
"""Of each option the check that gives its value as it is kept, or raises."""

DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Spec) if field.name != "kind"}
"""The options' defaults, in the order of the constructors; those that must be given have dataclasses.MISSING."""


def defaults(kind: str) -> dict[str, Any]:
    """The options of a kind and their defaults."""
    own = KINDS[kind].defaults
    return {name: own.get(name, default) for name, default in DEFAULTS.items() if name in KINDS[kind].options}


def from_options(kind: str, options: Mapping[str, Any]) -> Spec:
    """The specification of a kind's options, all of them given by name or left to their defaults."""
    unknown = [name for name in options if name not in KINDS[kind].options]
    if unknown:
        raise TypeError(f"{kind}: expected the options {', '.join(KINDS[kind].options)}, got {', '.join(unknown)}")
    return Spec(kind, **{**KINDS[kind].defaults, **options})
