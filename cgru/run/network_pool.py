"""Many streams of a network served together: what `net.pool(capacity)` gives. One thread at a time may use a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks, config
from cgru._exclusive import alone
from cgru.run import frames
from cgru.run.network_states import States
from cgru.run.numbered import Numbered, integers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cgru.network import Network
    from cgru.run.frames import Form
    from cgru.types import Array

BLOCK_ROWS = 128
"""Rows that run at once, and fewer where their arena would be too large for a core's caches."""

BLOCK_BYTES = 2**20
"""Of such an arena."""


class NetworkPool(Numbered, States):
    """Many streams of a network served together, any of them at a time; made by `net.pool(capacity)`.

    It keeps the weights that the network had then. Frames of the streams named stand in the place of the batch, or
    before all axes where there is none.
    """

    _kind = "pool"

    def __new__(cls, net: Network, capacity: int) -> NetworkPool:  # noqa: D102
        capacity = checks.integer("capacity", capacity, 1)
        ready = net.runner.streaming(1)
        if net.graph.batch is not None and net.runner.mixed:
            raise ValueError(f"expected a network whose rows run apart, got {'; '.join(net.runner.mixed[:4])}")
        fitting = BLOCK_BYTES // (4 * max(1, ready.compiled.program.arena))
        block = min(capacity, BLOCK_ROWS, max(8, fitting))
        pool: NetworkPool = super().__new__(cls, ready.door, capacity, block, 1, 4)
        pool._net, pool._ready = net, ready
        pool._inputs = [frames.pooled(net.graph, ready, name) for name in net.graph.inputs]
        pool._outputs = [frames.pooled(net.graph, ready, name) for name in net.graph.outputs]
        pool._number(capacity)
        return pool

    def __init__(self, net: Network, capacity: int) -> None: ...

    _inputs: list[Form]
    _outputs: list[Form]

    @property
    def delay(self) -> int:
        """Frames that outputs come after the inputs that they belong to."""
        return self._ready.compiled.program.delay

    def _begin(self, i: int) -> None:
        self.begin(i)

    @alone
    def state(self, i: int) -> dict[str, Array]:
        """What is kept of a stream, by name: a copy."""
        i = self._one(i)
        return {name: array[0] for name, array in self._frames_of(slice(i, i + 1)).items()}

    @alone
    def set_state(self, i: int, state: dict[str, Array]) -> None:
        """Set what is kept of a stream."""
        i = self._one(i)
        rows = {name: np.asarray(array)[None] for name, array in state.items()} if isinstance(state, dict) else state
        numbers, places = self._with(slice(i, i + 1), rows)
        self.numbers[i], self.places[i] = numbers[0], places[0]

    def step(  # type: ignore[override]
        self, ids: Iterable[int] | Array, x: Any, out: Any = None, *, num_threads: int | None = None
    ) -> Any:
        """One more frame of the streams named.

        Parameters
        ----------
        ids : (N,) integers
            Numbers of open streams, each at most once, in any order.
        x : array, or dict of arrays
            A frame for each.
        out : array, or dict of arrays, optional
            Where to write the outputs; must not overlap x.
        num_threads : int, optional
            Threads this call may use.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; no state has changed then.
        RuntimeError
            Another thread is using this pool.
        """
        return self._many_step(integers(ids), x, out, config.threads_for(num_threads))

    @alone
    def _many_step(self, ids: Array, x: Any, out: Any, threads: int) -> Any:
        chosen = self._many(ids)
        given = frames.named(x, tuple(self._net.graph.inputs))
        limits = self._ready.compiled.program.limits
        forms = [frames.of_rows(form, len(chosen)) for form in self._inputs]
        results = [frames.of_rows(form, len(chosen)) for form in self._outputs]
        inputs = {form.name: frames.checked(form, given[form.name], {}, limits) for form in forms}
        outputs = frames.written(results, out, {}, inputs)
        if len(chosen):
            reads = [form.port(inputs[form.name]) for form in forms]
            writes = [form.port(outputs[form.name]) for form in results]

            def go() -> None:
                wrong = self.advance(chosen, reads, writes, 1, None, None, 0, threads)
                if wrong >= 0:
                    self._out_of_range(wrong)

            self._one_frame(chosen, go)
        return frames.given_back(outputs)

    @alone
    def copy(self) -> NetworkPool:
        """Another pool of the same weights, open streams and states, which goes its own way from here."""
        return _restore_pool(self._net, self._open.copy(), self.numbers.copy(), self.places.copy())

    def __copy__(self) -> NetworkPool:
        return self.copy()

    def __deepcopy__(self, memo: object) -> NetworkPool:
        return self.copy()

    @alone
    def __reduce__(self) -> Any:
        return _restore_pool, (self._net, self._open.copy(), self.numbers.copy(), self.places.copy())

    def __repr__(self) -> str:
        return f"{self._net!r}.pool({self.capacity})"


def _restore_pool(net: Network, is_open: Array, numbers: Array, places: Array) -> NetworkPool:
    pool = NetworkPool(net, len(is_open) - 1)
    pool._open = is_open
    pool.replace(numbers, places)
    return pool
