"""Recurrent layers of few units, which share vectors: directions, groups, and the rows that they have.

A vector of 16 lanes holds four layers of four units. Layers that do not depend on each other become one step, in which
each is a member; src/packed/lanes.h has the arithmetic, whose bits do not depend on what shares a vector.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import _program
from cgru.engines.host.program.plan import Buffer, Lanes, Step
from cgru.model.precision import Matrix

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cgru.model.layer import Layer

CELLS = ("gru_before", "gru_after")
"""Cells that have kernels for this."""

MOST_INPUTS = 32
"""Inputs of a small layer: with more, their products are most of the work, and the packed kernels make those faster."""

ENDS = 2
"""Which operand of a recurrent step it writes: the states in the end."""


def is_small(layer: Layer, weights: Any) -> bool:
    """Whether a layer's units fit a vector, and its functions and numbers are those that the kernels have."""
    matrices = (layer.w_ih, layer.w_hh)
    return (
        layer.cell in CELLS
        and bool(weights.usual)
        and not any(isinstance(matrix, Matrix) for matrix in matrices)
        and 1 < layer.hidden_size <= _program.LANES
        and layer.w_ih.shape[1] <= MOST_INPUTS
    )


def merged(steps: Iterable[Step]) -> list[Step]:
    """The steps, in which small recurrent layers run side by side where none needs what another computes."""
    found: list[Step] = []
    for step in steps:
        if step.layer is None:
            found.append(step)
            continue
        own = _side_by_side([step])
        for at in range(len(found) - 1, -1, -1):
            other = found[at]
            if not _alike(other, own) or _read(own) & _written(other) or _read(other) & _written(own):
                continue
            if _passes(other, found[at + 1 :]):
                del found[at]
                found.append(_side_by_side([*other.members, step]))
                break
            if _passes(own, found[at + 1 :]):
                found[at] = _side_by_side([*other.members, step])
                break
        else:
            found.append(own)
    return found


def _side_by_side(members: Sequence[Step]) -> Step:
    """One step of several."""
    return dataclasses.replace(
        members[0], kind="side_by_side", members=members, layer=None, weights=None,
        title=" and ".join(dict.fromkeys(member.title for member in members)),
        lanes=lanes([member.layer for member in members if member.layer is not None]),
        work=sum(member.work for member in members), weight_bytes=sum(member.weight_bytes for member in members),
    )  # fmt: skip


def _alike(one: Step, other: Step) -> bool:
    """Whether steps could be one: the same layers over the same steps and rows."""
    if not one.members or len(one.members) + len(other.members) > _program.MEMBERS:
        return False

    def form(step: Step) -> tuple[Any, ...]:
        first = step.members[0]
        layer, x = first.layer, first.read[0]
        assert layer is not None
        assert x is not None
        return (layer.cell, layer.w_ih.shape, layer.hidden_size, x.strides[2], tuple(step.sizes), step.over_time,
                step.ahead, step.more)  # fmt: skip

    return form(one) == form(other)


def _passes(step: Step, others: Iterable[Step]) -> bool:
    """Whether a step may run before or behind all of these."""
    read, written = _read(step), _written(step)
    return not any(_written(other) & (read | written) or _read(other) & written for other in others)


def _written(step: Step) -> set[Buffer]:
    """The buffers that a step writes to."""
    found = {one.written.view.buffer for one in step.members or (step,)}
    for one in step.members or (step,):
        ends = one.read[ENDS] if one.kind == "recurrent" else None
        if ends is not None:
            found.add(ends.view.buffer)
    return found


def _read(step: Step) -> set[Buffer]:
    """The buffers that a step reads."""
    return {
        use.view.buffer
        for one in step.members or (step,)
        for i, use in enumerate(one.read)
        if use is not None and not (one.kind == "recurrent" and i == ENDS)
    }


def lanes(layers: Sequence[Layer]) -> Lanes:
    """How layers share vectors: slots of H lanes, of which each row has one a layer."""
    number, (hidden, inputs) = _program.LANES, (layers[0].hidden_size, layers[0].w_ih.shape[1])
    count = len(layers)
    slots = min(number // hidden, _program.SLOTS)
    patterns = 1 if count < slots else -(-count // slots)
    weights = np.zeros((patterns, 4 + 3 * inputs + 3 * hidden, number), np.float32)
    masks = np.zeros((slots, number), np.int32)
    for slot in range(slots):
        own = slice(slot * hidden, (slot + 1) * hidden)
        masks[slot, own] = -1
        for pattern in range(patterns):
            at = pattern * slots + slot
            if count >= slots and at >= count:
                break
            layer = layers[at % count]
            gates = (3, hidden, -1)
            weights[pattern, :4, own] = layer.bias
            weights[pattern, 4 : 4 + 3 * inputs, own] = (
                np.asarray(layer.w_ih).reshape(gates).transpose(2, 0, 1).reshape(-1, hidden)
            )
            weights[pattern, 4 + 3 * inputs :, own] = (
                np.asarray(layer.w_hh).reshape(gates).transpose(2, 0, 1).reshape(-1, hidden)
            )
    first = np.minimum(np.arange(number) // hidden, slots - 1) * hidden
    return Lanes(inputs, hidden, weights, first.astype(np.int32), masks)
