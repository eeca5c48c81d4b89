"""What streams and pools of networks share: states by name, and frames that are computed whole or not at all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import _program, checks

if TYPE_CHECKING:
    from collections.abc import Callable

    from cgru.engines.host.network import Ready
    from cgru.engines.host.program.plan import State
    from cgru.network import Network
    from cgru.types import Array


class States(_program.States):
    """What streams and pools share: states by name."""

    _net: Network
    _ready: Ready

    def _one_frame(self, rows: Any, call: Callable[[], None]) -> None:
        """Let rows go on by a frame: one act, as nothing is kept before a row's frame is whole, if it cannot fail."""
        if self._ready.compiled.program.fails:
            self._all_or_nothing(rows, 1, call)
        else:
            call()

    def _all_or_nothing(self, rows: Any, count: int, call: Callable[[], None]) -> None:
        """Let rows go on by so many frames; where that fails they are as they were.

        Of one frame it is enough to keep the plain numbers: windows still hold the frames before it.
        """
        part = slice(len(self._ready.compiled.program.fresh)) if count == 1 else slice(None)
        numbers, places = np.array(self.numbers[rows, part]), np.array(self.places[rows])
        try:
            call()
        except BaseException:
            if count == 1:
                places[:, 0] = self.places[rows, 0] - (self.places[rows, 1] - places[:, 1])
            self.numbers[rows, part], self.places[rows] = numbers, places
            raise

    def _frames_of(self, rows: slice) -> dict[str, Array]:
        """Every part of some rows' states, the rows first."""
        program = self._ready.compiled.program
        numbers, places = self.numbers[rows], self.places[rows]
        found = {"frames": places[:, 1].copy()} if program.counts else {}
        for part in program.named[: program.plain]:
            size = math.prod(part.shape)
            found[part.name] = numbers[:, part.at : part.at + size].reshape(-1, *part.shape).copy()
        for part in program.named[program.plain :]:
            if part.where is not None:
                places_of = self._places_of(part.where, places[:, 0])
                found[part.name] = np.take_along_axis(numbers, places_of, 1).reshape(-1, *part.shape)
                continue
            history, size = part.shape
            first = self.ring_start(part.at)
            found[part.name] = np.stack(
                [
                    row[first + at * size : first + (at + history) * size].reshape(history, size)
                    for row, at in zip(numbers, places[:, 0], strict=True)
                ]
            )
        return found

    def _places_of(self, where: tuple[Array, Array], positions: Array) -> Array:
        """Where the elements of a state are among rows' numbers that are frames in rings."""
        rings, inside = where
        program = self._ready.compiled.program
        starts = np.array([self.ring_start(i) for i in range(len(program.rings))])
        sizes = np.array([ring.frame for ring in program.rings])
        return starts[rings] + inside + positions[:, None] * sizes[rings]

    def _out_of_range(self, step: int) -> None:
        title = self._ready.compiled.program.steps[step].title
        raise ValueError(f"{title}: expected indices within its table, got others")

    def _with(self, rows: slice, state: Any) -> tuple[Array, Array]:
        """The numbers and places that states of this form mean."""
        program = self._ready.compiled.program
        numbers, places = self.numbers[rows].copy(), self.places[rows].copy()
        parts: dict[str, State | None] = {part.name: part for part in program.named}
        if program.counts:
            parts["frames"] = None
        if not isinstance(state, dict) or state.keys() != parts.keys():
            got = checks.listed(state) or "none" if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"state: expected {checks.listed(parts) or 'an empty dict'}, got {got}")
        places[:, 0] = 0
        for number, (name, part) in enumerate(parts.items()):
            if part is None:
                places[:, 1] = checks.array(name, state[name], np.dtype(np.int64), (len(places),))
                continue
            given = checks.array(name, state[name], np.dtype(np.float32), (len(numbers), *part.shape))
            if part.where is not None:
                np.put_along_axis(numbers, self._places_of(part.where, places[:, 0]), given.reshape(len(given), -1), 1)
                continue
            first = part.at if number < program.plain else self.ring_start(part.at)
            numbers[:, first : first + given[0].size] = given.reshape(len(given), -1)
        return numbers, places
