"""The processor's engine: NumPy arrays, and compiled kernels of three kinds.

The packed kernels are cgru's own, for float32 inference; those of "blas" call SciPy's BLAS, for float64 and wherever
they are asked for; training has kernels of its own for both dtypes. Each is imported when first used.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cgru import checks, config
from cgru.model import value as values

if TYPE_CHECKING:
    from cgru.engines.interface import Pass
    from cgru.engines.restarts import OfDirection, Restarts
    from cgru.model.layer import Layer, Stack
    from cgru.model.value import Value
    from cgru.types import Array, Lengths, Shape


class Kernels(Protocol):
    """What a module of kernels for inference offers."""

    def call(self, stack: Stack, x: object, h0: object, batch_first: bool, threads: int) -> tuple[Array, Array] | None:
        """See `cgru.engines.interface.Engine.call`."""

    def run(
        self,
        stack: Stack,
        x: Array,
        h: Array,
        y: Array,
        lengths: Array | None,
        threads: int,
        restarts: Restarts | None = None,
    ) -> None:
        """See `cgru.engines.interface.Engine.run`; T and B at least 1, units of y contiguous."""


How = tuple[Kernels, int]
"""Which kernels run, on how many threads."""


def _packed() -> Kernels:
    from cgru.engines.host import packed

    return packed


def _blas() -> Kernels:
    from cgru.engines.host import blas

    return blas


KERNELS = {"packed": _packed, "blas": _blas}
"""By the name that a call's argument `engine` has."""


class Host:
    """The one engine of this machine's processor; see `cgru.engines.interface.Engine`."""

    name = "cpu"
    xp: Any = np
    strided = False
    most_steps = 2**63 - 1

    def __init__(self) -> None:
        self._chosen: dict[tuple[str, np.dtype[Any]], Kernels] = {}

    def use(self) -> contextlib.AbstractContextManager[Any]:
        """There is nothing to make current."""
        return contextlib.nullcontext()

    def refuse(self, **arguments: object) -> None:
        """Every argument is taken."""

    def how(self, dtype: np.dtype[Any], engine: str = "auto", num_threads: object = None) -> How:
        """The kernels of a name, "auto" being "packed" for float32 and "blas" for float64, and the threads."""
        kernels = self._chosen.get((engine, dtype))
        if kernels is None:
            checks.choice("engine", engine, ("auto", *KERNELS))
            chosen = engine if engine != "auto" else "packed" if dtype == np.float32 else "blas"
            if chosen == "packed" and dtype != np.float32:
                raise ValueError(
                    f"engine: 'packed' computes in float32, got a model of {dtype}; choose 'auto' or 'blas'"
                )
            kernels = self._chosen[engine, dtype] = KERNELS[chosen]()
        return kernels, config.threads_for(num_threads)

    def how_to_record(self, dtype: np.dtype[Any], engine: str = "auto", num_threads: object = None) -> tuple[None, int]:
        """Training has kernels of its own: there is nothing to choose."""
        checks.choice("engine", engine, ("auto",))
        return None, config.threads_for(num_threads)

    def take(self, value: Value) -> Value:
        """It is here."""
        return value

    def to_host(self, value: Value) -> Value:
        """It is here."""
        return value

    def ready(self, stack: Stack) -> None:
        """They are."""

    def parameter(self, dtype: np.dtype[Any], name: str, value: Any, shape: tuple[int, ...]) -> Array:
        """See `Engine.parameter`."""
        return values.copied(name, value, dtype, shape)

    def array(self, name: str, value: Any, dtype: np.dtype[Any], *shapes: Shape) -> Array:
        """See `Engine.array`."""
        return checks.array(name, value, dtype, *shapes)

    def output(self, out: Any, dtype: np.dtype[Any], shape: tuple[int, ...], inputs: dict[str, Array | None]) -> Array:
        """See `Engine.output`."""
        return checks.output(out, dtype, shape, inputs)

    def lengths(self, value: Any, batch: int, steps: int) -> Lengths:
        """See `Engine.lengths`."""
        return checks.lengths(value, batch, steps)

    def call(self, stack: Stack, x: Any, h0: Any, batch_first: bool, how: How) -> tuple[Array, Array] | None:
        """See `Engine.call`."""
        kernels, threads = how
        return kernels.call(stack, x, h0, batch_first, threads)

    def run(
        self,
        stack: Stack,
        x: Array,
        h: Array,
        y: Array,
        lengths: Lengths | None,
        how: How,
        restarts: Restarts | None = None,
    ) -> None:
        """See `Engine.run`."""
        kernels, threads = how
        if x.shape[0] and x.shape[1]:
            kernels.run(stack, x, h, y, lengths, threads, restarts)

    def keep(self, x: Array, lengths: Lengths | None) -> Array:
        """See `Engine.keep`."""
        return np.array(x, order="C")

    def dropout(self, generator: np.random.Generator, shape: tuple[int, ...], share: float) -> Array:
        """See `Engine.dropout`."""
        kept: Array = generator.random(shape, np.float32) >= share
        return kept

    def record(
        self,
        layer: Layer,
        x: Array,
        h: Array,
        y: Array,
        lengths: Lengths | None,
        reverse: bool,
        how: tuple[None, int],
        chunk: int,
        gates: Array | None = None,
        restarts: OfDirection | None = None,
        by_start: bool = False,
    ) -> Pass:
        """See `Engine.record`."""
        from cgru.engines.host import training

        return training.Pass(layer, x, h, y, lengths, reverse, how[1], chunk, gates, restarts, by_start)


HOST = Host()
