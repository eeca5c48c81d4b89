"""Where sequences start anew within a call: what the argument `resets` means to an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from cgru.types import Array, Lengths


class OfDirection(NamedTuple):
    """Those of one direction of one layer."""

    steps: Array
    """(T, B) uint8 contiguous: 1 where a sequence's state becomes `states` before the step."""
    states: Array
    """(B, H)"""

    def part(self, steps: slice) -> OfDirection:
        """Those of some steps."""
        return OfDirection(self.steps[steps], self.states)

    def ordered(self, order: Lengths | None) -> OfDirection:
        """Those of sequences in another order."""
        if order is None:
            return self
        return OfDirection(np.ascontiguousarray(self.steps[:, order]), self.states[order])


class Restarts(NamedTuple):
    """Those of a stack."""

    steps: Array
    """(D, T, B) uint8 contiguous"""
    states: Array
    """(L*D, B, H) contiguous"""

    @classmethod
    def of(cls, resets: Array, states: Array, reverse: bool, directions: int) -> Restarts:
        """From the first steps of the pieces (T, B) bool that sequences are cut into, none past a sequence's end.

        The reverse direction starts anew at a piece's last step, before the next piece's first one.
        """
        steps = np.zeros((directions, *resets.shape), np.uint8)
        if not reverse:
            steps[0] = resets
        if reverse or directions == 2:
            steps[-1, :-1] = resets[1:]
        return cls(steps, states)

    def at(self, layer: int, direction: int) -> OfDirection:
        """Those of a direction of a layer."""
        return OfDirection(self.steps[direction], self.states[layer * len(self.steps) + direction])

    def part(self, steps: slice) -> Restarts:
        """Those of some steps."""
        return Restarts(self.steps[:, steps], self.states)

    def ordered(self, order: Lengths | None) -> Restarts:
        """Those of sequences in another order."""
        if order is None:
            return self
        return Restarts(np.take(self.steps, order, axis=2), np.take(self.states, order, axis=1))
