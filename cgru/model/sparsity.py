"""Sparse weights: matrices of which most blocks of some units by some inputs are zero.

A model trained with all its weights keeps its accuracy with a part of them, if the large ones stay and training goes on
(Narang et al. 2017, arXiv:1711.02782, blocks; Kalchbrenner et al. 2018, arXiv:1802.08435, GRUs). The block is what
kernels skip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from cgru.types import Array

Block = tuple[int, int]
"""Units by inputs."""

BLOCK: Block = (8, 4)
"""What the packed engine skips: other blocks should be multiples of it."""

SKIPS_BELOW = 0.5
"""Of a layer's blocks: with fewer that are not zero, the packed engine keeps lists of those."""


def squares(matrix: Array, hidden: int, block: Block) -> Array:
    """The mean square of the weights in each block: (G, blocks of units, blocks of inputs) of a matrix (G*H, K)."""
    units, inputs = block
    gates, columns = len(matrix) // hidden, matrix.shape[1]
    rows, wide = -(-hidden // units), -(-columns // inputs)
    padded = np.zeros((gates, rows * units, wide * inputs))
    padded[:, :hidden, :columns] = matrix.reshape(gates, hidden, columns)
    sums = np.square(padded).reshape(gates, rows, units, wide, inputs).sum((2, 4))
    sizes = np.minimum(units, hidden - units * np.arange(rows))[:, None]
    sizes = sizes * np.minimum(inputs, columns - inputs * np.arange(wide))
    result: Array = sums / sizes
    return result


def spread(blocks: npt.NDArray[np.bool_], matrix: Array, hidden: int, block: Block) -> npt.NDArray[np.bool_]:
    """What holds of blocks, said of the weights of a matrix (G*H, K)."""
    units, inputs = block
    wide = blocks.repeat(units, axis=1)[:, :hidden].repeat(inputs, axis=2)[..., : matrix.shape[1]]
    return wide.reshape(matrix.shape)


def held(matrix: Array, hidden: int, block: Block) -> npt.NDArray[np.bool_]:
    """Of each weight, whether its block holds any that is not zero."""
    return spread(squares(matrix, hidden, block) > 0, matrix, hidden, block)


def share(matrix: Array, hidden: int, block: Block) -> float:
    """The share of blocks that hold a weight other than zero."""
    return float((squares(matrix, hidden, block) > 0).mean()) if matrix.size else 1.0


def pruned(matrix: Array, hidden: int, density: float, block: Block, diagonal: bool) -> Array:
    """A copy of a matrix (G*H, K) in which that share of the blocks stays, the largest ones, and the others are zero.

    With `diagonal` the blocks that a unit's own state meets stay in any case, and count.

    >>> pruned(np.array([[1.0, 2, 3, 4]]), 1, 0.5, (1, 1), False)
    array([[0., 0., 3., 4.]])
    """
    sizes = squares(matrix, hidden, block)
    if diagonal:
        unit = np.arange(hidden)
        sizes[:, unit // block[0], unit // block[1]] = np.inf
    count = max(1, round(density * sizes.size))
    chosen = np.zeros(sizes.size, bool)
    chosen[np.argsort(-sizes, axis=None, kind="stable")[:count]] = True
    chosen |= np.isinf(sizes.ravel())
    return matrix * spread(chosen.reshape(sizes.shape), matrix, hidden, block)
