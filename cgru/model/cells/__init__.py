"""Cells: the equations of one step, one file each, with all that follows from them.

A file names a cell's parameters, has its step and the step's gradient in NumPy, which are the specification, and says
how parameters become the canonical layer that engines run, and that layer's gradients those of the parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from cgru.model.cells import gru, mingru

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cgru.model.layer import Gradient, Layer
    from cgru.model.spec import Spec
    from cgru.types import Array


class Cell(Protocol):
    """What a cell's file offers. Names of parameters are without their ends _l0, _l0_reverse, ..."""

    GATES: int
    """Rows of weight_ih over H."""
    KEPT: int
    """Values a unit that a recorded step keeps for its way back."""
    PARAMETERS: tuple[str, ...]
    """In the order in which `step` takes them."""

    def shapes(self, inputs: int, hidden: int, bias: bool) -> dict[str, tuple[int, ...]]:
        """Of every parameter of one direction of one layer."""

    def conventions(self, **options: Any) -> dict[str, Any]:
        """The options, or their defaults, as `step` and `step_backward` take them."""

    def step(self, x: Array, h: Array, *parameters: Any, arithmetic: Any = ..., **conventions: Any) -> Array:
        """The state (B, H) after one step, from x (B, I) and h (B, H)."""

    def step_backward(self, e: Array, x: Array, h: Array, *parameters: Array, **conventions: Any) -> tuple[Array, ...]:
        """A loss' gradients by x, h and the parameters, from e, that by the state after the step."""

    def canonical(self, spec: Spec, parameters: Mapping[str, Any], input_limit: float | None, xp: Any) -> Layer:
        """The canonical layer of one direction's parameters; `xp` is the module of their arrays."""

    def by_parameters(self, spec: Spec, layer: Layer, found: Gradient, xp: Any) -> dict[str, Array]:
        """The gradients by the parameters that a canonical layer was made of, from those by its arrays."""

    def factors(
        self, spec: Spec, layer: Layer, parameters: Mapping[str, Array], x: Array, h: Array
    ) -> Iterator[tuple[str, slice, Array]]:
        """Every product in steps from x (N, I) and h (N, H): the parameter, which of its rows, what they meet."""


CELLS = {"gru": cast(Cell, gru), "mingru": cast(Cell, mingru)}
"""By name."""
