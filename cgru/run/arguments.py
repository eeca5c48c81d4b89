"""The arguments of a call, checked against a specification and brought to the one form that engines take.

x and y of a model may be (T, B, ...), (B, T, ...) or (T, ...); engines see (T, B, ...).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks

if TYPE_CHECKING:
    from cgru.engines.interface import Engine
    from cgru.engines.restarts import Restarts
    from cgru.model.spec import Spec
    from cgru.types import Array, Lengths


def x_shapes(spec: Spec) -> tuple[tuple[int | str, ...], tuple[int | str, ...]]:
    """What x may be: many sequences, or one."""
    batched = ("B", "T", spec.input_size) if spec.batch_first else ("T", "B", spec.input_size)
    return batched, ("T", spec.input_size)


def time_first(spec: Spec, array: Array) -> Array:
    """A view (T, B, ...) of x, y, or their gradients."""
    return array[:, None] if array.ndim == 2 else array.swapaxes(0, 1) if spec.batch_first else array


def states(spec: Spec, engine: Engine, name: str, value: Any, batch: int, single: bool) -> Array:
    """A new array (L*D, B, H) of an argument that is one state a layer and direction, or zeros where it is None."""
    shape = (spec.num_layers * spec.directions, batch, spec.hidden_size)
    result: Array = engine.xp.zeros(shape, spec.dtype)
    if value is not None:
        result[...] = engine.array(name, value, spec.dtype, shape[::2] if single else shape).reshape(shape)
    return result


def of_call(spec: Spec, engine: Engine, x: Any, h0: Any, lengths: Any) -> tuple[Array, Array, Lengths | None]:
    """x as it came, checked; the initial states (L*D, B, H) as a new array; and the lengths (B,)."""
    x = engine.array("x", x, spec.dtype, *x_shapes(spec))
    single = x.ndim == 2
    steps, batch = (len(x), 1) if single else x.shape[1::-1] if spec.batch_first else x.shape[:2]
    for axis, size, most in (("B", batch, checks.MAX_DIMENSION), ("T", steps, engine.most_steps)):
        if size > most:
            raise ValueError(f"x: expected {axis} up to {most}, got {size}")
    h = states(spec, engine, "h0", h0, batch, single)
    if lengths is not None:
        lengths = engine.lengths([lengths] if single and np.ndim(lengths) == 0 else lengths, batch, steps)
    return x, h, lengths


def restarts(
    spec: Spec, engine: Engine, resets: Any, resets_to: str, x: Array, h: Array, lengths: Lengths | None
) -> Restarts | None:
    """Where sequences start anew, of the arguments `resets` and `resets_to`, and of others that have been checked."""
    checks.choice("resets_to", resets_to, ("zero", "h0"))
    if resets is None:
        if resets_to != "zero":
            raise ValueError(f"resets: expected a bool array beside resets_to={resets_to!r}, got None")
        return None
    engine.refuse(resets=resets)
    from cgru.engines.restarts import Restarts

    firsts = time_first(spec, checks.array("resets", resets, np.dtype(bool), x.shape[:-1])[..., None])[..., 0]
    if lengths is not None:
        firsts = firsts & (np.arange(len(firsts))[:, None] < lengths)
    states = h.copy() if resets_to == "h0" else np.zeros_like(h)
    return Restarts.of(firsts, states, spec.reverse, spec.directions)
