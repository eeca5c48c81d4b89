"""How a layer runs: by steps, or fused into one launch; and the shapes of launches.

By steps, each step is a matrix product (cuBLAS) and a kernel for the gates. That serves every size, and is the faster
the more there is to do in a step. Fused, all steps are one launch: each block keeps a few sequences, with the weights
in its shared memory where they fit there, and otherwise reads them from the L2 cache at every step. That saves the
launches, which are what small layers spend their time on.

The rule below is reckoned from how GPUs are built and has not been measured; the `engine` argument of a call overrides
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cgru import checks

if TYPE_CHECKING:
    from cgru.engines.cuda.device import Device

ENGINES = ("auto", "steps", "fused")

MAX_FUSED = 512
"""The largest H of a fused kernel: a thread for each unit, and registers for so many threads."""

STREAMED_BYTES = 1 << 20
"""Weights that a block may read at every step before a step takes longer than two launches: some 5 microseconds at what
one multiprocessor gets from L2, some 100 to 200 bytes a nanosecond."""

ROWS = 4
"""Sequences of a thread where there are that many; else one. Weights are read once for all of them."""

WARP = 32


class Fused(NamedTuple):
    """A launch of a fused kernel."""

    name: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared_memory: int


def depth(hidden: int) -> int:
    """K: H rounded up to fours, the rows of a fused kernel's weights."""
    return -(-hidden // 4) * 4


def fused(device: Device, hidden: int, batch: int, real_bytes: int, stored_bytes: int, reset_after: bool) -> Fused:
    """The launch of the fused kernel for a layer of up to `MAX_FUSED` units."""
    width = -(-hidden // WARP) * WARP
    rows = ROWS if batch >= ROWS else 1
    groups = min(max(1, 256 // width), -(-batch // rows))
    weights = 3 * hidden * depth(hidden) * stored_bytes
    states = 2 * groups * rows * depth(hidden) * real_bytes
    resident = states + weights <= device.shared_memory
    kind = "resident" if resident else "streamed"
    name = f"fused_{'after' if reset_after else 'before'}_{kind}_{rows}"
    return Fused(name, (-(-batch // (groups * rows)),), (width, groups), states + weights * resident)


def choose(
    engine: str, device: Device, hidden: int, batch: int, real_bytes: int, stored_bytes: int, reset_after: bool
) -> Fused | None:
    """The fused launch of a layer, or None where it runs by steps.

    "auto" fuses what fits, if all blocks run at once and a step does not wait for weights longer than for launches.

    Raises
    ------
    ValueError
        Another engine's name, or a fused layer of more than 512 units.
    """
    checks.choice("engine", engine, ENGINES)
    if engine == "fused" and hidden > MAX_FUSED:
        raise ValueError(f"engine: 'fused' takes H up to {MAX_FUSED}, got {hidden}; choose 'auto' or 'steps'")
    if engine == "steps" or hidden > MAX_FUSED:
        return None
    launch = fused(device, hidden, batch, real_bytes, stored_bytes, reset_after)
    if engine == "auto":
        at_once = launch.grid[0] <= device.multiprocessors
        quick = "resident" in launch.name or 3 * hidden * hidden * stored_bytes <= STREAMED_BYTES
        return launch if at_once and quick else None
    return launch


def elementwise(batch: int, hidden: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Grid and block of a kernel with a thread for each unit of each sequence."""
    return (-(-batch * hidden // 256),), (256,)
