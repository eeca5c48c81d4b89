"""What an engine offers: where a model's arrays lie, and how its layers run there.

There is one for the processor (`host/`) and one for a GPU (`cuda/`). A model holds a value and an engine; what is built
on engines, calls, streams, tapes, is written once, in terms of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import contextlib

    import numpy as np

    from cgru.engines.restarts import OfDirection, Restarts
    from cgru.model.layer import Gradient, Layer, Stack
    from cgru.model.value import Value
    from cgru.types import Array, Lengths, Shape

How = Any
"""How a call is to run, as `Engine.how` says it: the engine's own."""


class Pass(Protocol):
    """One direction of one layer over some sequences, recorded, and the way back through it."""

    gates: Array | None
    """What the way back needs of every step and uses up, where that is in memory and the engine gives it out."""

    def backward(
        self,
        grad_y: Array | None,  # (T, B, H), units contiguous unless the engine is `strided`; zero where absent
        grad_h: Array,  # (B, H) contiguous; by the last states on entry, by the initial ones on return
        grad_x: Array | None,  # (T, B, I), features contiguous; written; not wanted where absent
        add: bool,  # to grad_x, and not over what it holds
    ) -> Gradient:
        """Backpropagation through time: the gradients by the layer's arrays."""


class Engine(Protocol):
    """Where arrays lie, and what runs on them."""

    name: str
    """The device: "cpu", "cuda:0"."""
    xp: Any
    """The module of its arrays: NumPy, CuPy."""
    strided: bool
    """Whether outputs, and gradients by them, may have any strides: else units must be contiguous."""

    most_steps: int
    """The largest T."""

    def use(self) -> contextlib.AbstractContextManager[Any]:
        """Make the device current within a `with` block."""

    def refuse(self, **arguments: object) -> None:
        """Raise ValueError for an argument of a call that is not None and that this engine does not take."""

    def how(self, dtype: np.dtype[Any], engine: str = "auto", num_threads: object = None) -> How:
        """What a call's arguments `engine` and `num_threads` mean; ValueError, TypeError for others."""

    def how_to_record(self, dtype: np.dtype[Any], engine: str = "auto", num_threads: object = None) -> How:
        """The same for a call that is recorded."""

    def take(self, value: Value) -> Value:
        """The value with its parameters in this engine's memory, ready to run; ValueError if it cannot run here."""

    def to_host(self, value: Value) -> Value:
        """The value in host memory."""

    def ready(self, stack: Stack) -> None:
        """Have the work that follows wait until the stack's weights are here."""

    def parameter(self, dtype: np.dtype[Any], name: str, value: Any, shape: tuple[int, ...]) -> Array:
        """A contiguous copy of an array given as a parameter."""

    def array(self, name: str, value: Any, dtype: np.dtype[Any], *shapes: Shape) -> Array:
        """An argument that is an array here, of a dtype and one of the shapes; strides are free."""

    def output(self, out: Any, dtype: np.dtype[Any], shape: tuple[int, ...], inputs: dict[str, Array | None]) -> Array:
        """An argument to write a result to, without overlap of its own or with the inputs."""

    def lengths(self, value: Any, batch: int, steps: int) -> Lengths:
        """An argument (B,) of integers from 0 to T in host memory, as an array here."""

    def call(self, stack: Stack, x: Any, h0: Any, batch_first: bool, how: How) -> tuple[Array, Array] | None:
        """y and h_n for arguments of the usual form, by a short way if there is one; None where they need a look."""

    def run(
        self,
        stack: Stack,
        x: Array,  # (T, B, I), any strides
        h: Array,  # (L*D, B, H) contiguous; initial states on entry, last states on return
        y: Array,  # (T, B, D*H); written
        lengths: Lengths | None,  # (B,)
        how: How,
        restarts: Restarts | None = None,  # none where the engine refuses the argument `resets`
    ) -> None:
        """Run a stack of layers; memory beyond x and y does not grow with T, unless a deep stack is bidirectional."""

    def keep(self, x: Array, lengths: Lengths | None) -> Array:
        """A contiguous copy of x (T, B, I) for a recording to read."""

    def dropout(self, generator: np.random.Generator, shape: tuple[int, ...], share: float) -> Array:
        """A mask of values to keep: False for about so large a share."""

    def record(
        self,
        layer: Layer,
        x: Array,  # (T, B, I), T and B at least 1, features contiguous; read until the way back
        h: Array,  # (B, H) contiguous; initial states on entry, last states on return
        y: Array,  # (T, B, H); written, and read until the way back
        lengths: Lengths | None,
        reverse: bool,
        how: How,
        chunk: int,  # steps whose gates are in memory at once
        gates: Array | None = None,  # of an earlier pass of the same arguments and the same y: nothing runs
        restarts: OfDirection | None = None,  # none where the engine refuses the argument `resets`
        by_start: bool = False,  # whether restarts begin with h0, by which their gradients are then, too
    ) -> Pass:
        """Run one direction of one layer and keep what the way back needs."""
