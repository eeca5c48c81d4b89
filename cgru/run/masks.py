"""Sequences with steps left out: what a mask means, in terms of sequences without them.

A step that the mask leaves out is not seen by any layer or direction, so the steps that remain are gathered to the
front, run as sequences of those lengths, and their outputs scattered back. No engine needs to know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgru import checks

if TYPE_CHECKING:
    import numpy.typing as npt

    from cgru.recurrent import Recurrent
    from cgru.types import Array


def run(
    gru: Recurrent,
    x: Array,  # (T, B, I), (B, T, I) with batch_first, or (T, I)
    h0: Array | None,
    mask: npt.NDArray[np.bool_],  # x's shape without the last axis
    mask_output: str,
    *,
    lengths: object,
    out: Array | None,
    engine: str,
    num_threads: int | None,
) -> tuple[Array, Array]:
    """`gru(x, h0, mask=mask, ...)`, which documents and passes on the arguments.

    >>> import numpy as np, cgru
    >>> gru, x = cgru.GRU(3, 8, rng=0), np.ones((4, 3), np.float32)  # T 4
    >>> y, h_n = gru(x, mask=np.array([True, False, True, False]))
    >>> bool((y[1] == y[0]).all() and (y[3] == h_n[0]).all())
    True
    """
    if lengths is not None:
        raise ValueError("lengths: expected None beside mask, which says as much and more")
    checks.choice("mask_output", mask_output, ("repeat", "zero"))
    batched = ("B", "T", gru.input_size) if gru.batch_first else ("T", "B", gru.input_size)
    x = checks.array("x", x, gru.dtype, batched, ("T", gru.input_size))
    mask = checks.array("mask", mask, np.dtype(bool), x.shape[:-1])
    if gru.merge == "sum" and mask_output == "repeat":
        raise ValueError("mask_output: expected 'zero' for a GRU with merge='sum', as in Keras, got 'repeat'")
    y_shape = (*x.shape[:-1], gru.spec.width)
    y = np.empty(y_shape, gru.dtype)
    if out is not None:
        y = checks.output(out, gru.dtype, y_shape, {"x": x, "h0": h0, "mask": mask})

    def time_first(array: Array) -> Array:
        return array[:, None] if x.ndim == 2 else array.swapaxes(0, 1) if gru.batch_first else array

    def as_given(array: Array) -> Array:
        return array[:, 0] if x.ndim == 2 else array.swapaxes(0, 1) if gru.batch_first else array

    seen = time_first(mask)  # (T, B)
    batch = seen.shape[1]
    counts = seen.sum(axis=0)
    longest = int(counts.max(initial=0))
    gathered = np.argsort(~seen, axis=0, kind="stable")[:longest]  # (T', B): the steps that remain, in their order
    sequences = np.arange(batch)
    results = np.zeros((longest + 1, batch, y_shape[-1]), gru.dtype)  # after the last one a zero, for steps without any
    _, h_n = gru(
        as_given(time_first(x)[gathered, sequences]),
        h0,
        lengths=counts,
        out=as_given(results[:longest]),
        engine=engine,
        num_threads=num_threads,
    )

    before = np.cumsum(seen, axis=0) - seen  # (T, B): how many steps remain before each
    latest = before + seen - 1  # which of them is the last up to here, -1 for none
    coming = np.where(before < counts, before, -1)  # and which the next, as a reverse direction has it
    repeats = [coming] if gru.reverse else [latest, coming]
    for d, repeated in enumerate(repeats[: y_shape[-1] // gru.hidden_size]):
        units = slice(d * gru.hidden_size, (d + 1) * gru.hidden_size)
        source = repeated if mask_output == "repeat" else np.where(seen, before, -1)
        time_first(y)[..., units] = results[..., units][source, sequences]
    return y, h_n
