"""Numbers of streams in a pool: which are open, which is given next, and what callers name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from cgru import checks
from cgru._exclusive import alone

if TYPE_CHECKING:
    from cgru.types import Array


class Numbered:
    """Part of a pool, beside `cgru._exclusive.Exclusive`: its streams are called 0, 1, ... as they are opened."""

    _open: Array
    """By number; one more, which is never open, ends a search."""
    _lowest = 0
    """No closed stream has a lower number."""

    def _number(self, capacity: int) -> None:
        """Begin with so many streams, all closed."""
        self._open = np.zeros(capacity + 1, bool)

    def _begin(self, i: int) -> None:
        """Let a stream begin a sequence."""
        raise TypeError(f"{type(self).__name__}: expected a pool that says how its streams begin")

    @property
    def capacity(self) -> int:
        """How many streams may be open at once."""
        return len(self._open) - 1

    def __len__(self) -> int:
        """How many streams are open."""
        return int(np.count_nonzero(self._open))

    @alone
    def open(self) -> int:
        """A new stream, which begins a sequence; its number is that of a closed one where there is one.

        Raises
        ------
        RuntimeError
            `capacity` streams are open, or another thread is using this pool.
        """
        i = self._lowest + int(self._open[self._lowest :].argmin())
        if i == self.capacity:
            raise RuntimeError(f"all {self.capacity} streams of the pool are open; close one, or make a larger pool")
        self._begin(i)
        self._open[i] = True
        self._lowest = i + 1
        return i

    @alone
    def close(self, i: int) -> None:
        """End a stream; its number may be given to another."""
        i = self._one(i)
        self._lowest = min(self._lowest, i)
        self._open[i] = False

    @alone
    def reset(self, i: int) -> None:
        """Let a stream begin another sequence."""
        self._begin(self._one(i))

    def _one(self, i: int) -> int:
        i = checks.integer("i", i, 0, self.capacity - 1)
        if not self._open[i]:
            raise ValueError(f"i: expected the number of an open stream, got {i}, which is closed")
        return i

    def _many(self, ids: Array) -> Array:
        """Numbers of open streams, each once, as (N,) intp."""
        wrong = (ids < 0) | (ids >= self.capacity)
        if wrong.any():
            raise ValueError(f"ids: expected integers from 0 to {self.capacity - 1}, got {ids[wrong][0]}")
        chosen = ids.astype(np.intp)
        closed = ~self._open[chosen]
        if closed.any():
            raise ValueError(f"ids: expected open streams, got {chosen[closed][0]}, which is closed")
        named = np.bincount(chosen, minlength=1)
        if named.max() > 1:
            raise ValueError(f"ids: expected each stream once, got {named.argmax()} {named.max()} times")
        return chosen


def integers(ids: Iterable[int] | Array) -> Array:
    """The numbers (N,) that a caller names; read before the pool is taken, since an iterator may use it."""
    if hasattr(ids, "__cuda_array_interface__"):
        raise TypeError("ids: expected (N,) integers in host memory, got an array on a GPU; use ids.get()")
    numbers = np.array(checks.plain("ids", ids) if isinstance(ids, np.ndarray) else list(ids))
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise TypeError(f"ids: expected (N,) integers, got {checks.describe(numbers.shape)} {numbers.dtype}")
    return numbers
