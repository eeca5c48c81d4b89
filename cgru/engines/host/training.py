"""The training engine's door: rows in order of length, time in chunks, then `src/training.pyx`. float32 and float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgru import _training
from cgru.model.layer import Gradient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cgru.engines.restarts import OfDirection
    from cgru.model.layer import Layer
    from cgru.types import Array, Lengths

RECORD = {np.dtype(np.float32): _training.record["float"], np.dtype(np.float64): _training.record["double"]}
BACKWARD = {np.dtype(np.float32): _training.backward["float"], np.dtype(np.float64): _training.backward["double"]}


class Pass:
    """One direction of one layer over some sequences, recorded at construction, and the way back through it.

    What the way back needs beside x, y and h0 are every step's gates, a few values a unit. Where those of all steps
    are too much memory, it computes them again from the states, which y holds, for a chunk of steps at a time.
    """

    def __init__(
        self,
        layer: Layer,
        x: Array,  # (T, B, I), T and B at least 1, features contiguous
        h: Array,  # (B, H) contiguous; initial states on entry, last states on return
        y: Array,  # (T, B, H), units contiguous; written, and needed until `backward`
        lengths: Lengths | None,  # (B,)
        reverse: bool,
        threads: int,
        chunk: int,  # steps whose gates are in memory at once
        gates: Array | None = None,  # (T, B, kept, H); of an earlier pass, which is not repeated
        restarts: OfDirection | None = None,
        by_start: bool = False,  # whether the states that restarts begin with are h0, and their gradients count
    ) -> None:
        self.layer, self.x, self.h0, self.y = layer, x, h.copy(), y
        self.restarts, self.by_start = restarts, by_start
        self.lengths, self.reverse, self.threads, self.chunk = lengths, reverse, threads, chunk
        weights = layer.prepared.get("training")
        if weights is None:
            weights = layer.prepared["training"] = _training.Weights(layer)
        self.weights = weights
        self.gates = gates
        if gates is not None:
            return
        steps, batch, _ = x.shape
        gates = np.empty((min(chunk, steps), batch, weights.kept, layer.hidden_size), x.dtype)
        for part in self._chunks():
            self._record(part, h, y[part], gates[: part.stop - part.start])
        if chunk >= steps:
            self.gates = gates

    def backward(
        self,
        grad_y: Array | None,  # (T, B, H), units contiguous
        grad_h: Array,  # (B, H) contiguous; by h_n on entry, by h0 on return
        grad_x: Array | None,  # (T, B, I), features contiguous
        add: bool,  # to grad_x, and not over what it holds
    ) -> Gradient:
        """Backpropagation through time. The gates are used up; another time computes them again."""
        layer = self.layer
        gradient = Gradient(
            np.zeros_like(layer.w_ih),
            np.zeros_like(layer.w_hh),
            np.zeros((self.weights.kept, layer.hidden_size), self.x.dtype),
        )
        gates, again = self.gates, None
        self.gates = None
        if gates is None:
            gates = np.empty(
                (min(self.chunk, len(self.x)), *self.h0.shape[:1], self.weights.kept, self.h0.shape[1]), self.x.dtype
            )
            again = np.empty_like(gates[:, :, 0])  # the states once more, that nobody needs
        by_start = np.zeros_like(self.h0) if self.by_start else None  # in the rows' order
        for part in reversed(list(self._chunks())):
            size = part.stop - part.start
            before = self._state_before(part)
            if again is not None:
                self._record(part, before.copy(), again[:size], gates[:size])
            order, lengths = self._rows(part)
            carry = grad_h if order is None else grad_h[order]
            BACKWARD[self.x.dtype](
                self.weights,
                self.x[part],
                before if order is None else before[order],
                self.y[part],
                gates[:size],
                order,
                lengths,
                *self._restarts(part, order),
                self.reverse,
                self.threads,
                None if grad_y is None else grad_y[part],
                carry,
                by_start,
                None if grad_x is None else grad_x[part],
                add,
                *gradient,
            )
            if order is not None:
                grad_h[order] = carry
        if by_start is not None:
            grad_h[slice(None) if order is None else order] += by_start
        return gradient

    def _record(self, part: slice, h: Array, y: Array, gates: Array) -> None:
        order, lengths = self._rows(part)
        state = h if order is None else h[order]
        RECORD[self.x.dtype](
            self.weights,
            self.x[part],
            state,
            y,
            gates,
            order,
            lengths,
            *self._restarts(part, order),
            self.reverse,
            self.threads,
        )
        if order is not None:
            h[order] = state

    def _chunks(self) -> Iterator[slice]:
        """The steps in chunks, in the order in which they are read."""
        steps = len(self.x)
        for done in range(0, steps, self.chunk):
            size = min(self.chunk, steps - done)
            start = steps - done - size if self.reverse else done
            yield slice(start, start + size)

    def _rows(self, part: slice) -> tuple[Lengths, Lengths] | tuple[None, None]:
        """The sequences from the longest to the shortest, and how many of a chunk's steps each has."""
        if self.lengths is None:
            return None, None
        order = np.argsort(-self.lengths, kind="stable")
        return order, np.clip(self.lengths[order] - part.start, 0, part.stop - part.start)

    def _restarts(self, part: slice, order: Lengths | None) -> tuple[Array | None, Array | None]:
        """Where sequences start anew among a chunk's steps, in the rows' order, and from which states."""
        return (None, None) if self.restarts is None else self.restarts.part(part).ordered(order)

    def _state_before(self, part: slice) -> Array:
        """The states (B, H) before a chunk, of the sequences that have steps in it."""
        if self.reverse:
            if part.stop == len(self.x):
                return self.h0
            if self.lengths is None:
                return np.ascontiguousarray(self.y[part.stop])
            return np.where((self.lengths > part.stop)[:, None], self.y[part.stop], self.h0)
        return self.h0 if part.start == 0 else np.ascontiguousarray(self.y[part.start - 1])
