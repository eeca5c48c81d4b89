"""Pruning while an estimator trains: a callback."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cgru.gru import GRU
from cgru.model.sparsity import BLOCK

if TYPE_CHECKING:
    from cgru.sklearn.network import Network


class Prune:
    """A callback of the estimators that leaves a share of the GRU's weights, the largest ones, in blocks.

    After each step of the optimizer the smallest blocks become zero, more of them as training goes on: the share that
    stays is density + (1 - density) (1 - p)^3, where p goes from 0 to 1 between two points of the training (Zhu and
    Gupta 2017, arXiv:1710.01878). Early stopping may keep an epoch from before the end; it is pruned then, too.

    Parameters
    ----------
    density, block
        Of `cgru.GRU.prune`.
    start, end : float
        Where pruning begins and where it is done, in shares of the training's epochs, 0 <= start < end <= 1.

    Raises
    ------
    TypeError, ValueError
        A parameter does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru.sklearn import GRURegressor, Prune
    >>> X = np.random.default_rng(0).standard_normal((64, 10, 2))
    >>> model = GRURegressor(64, max_iter=4, callback=Prune(0.2), random_state=0).fit(X, X.sum((1, 2)))
    >>> model.gru_.density < 0.25
    True
    """

    def __init__(
        self, density: float, block: tuple[int, int] = BLOCK, *, start: float = 0.0, end: float = 0.75
    ) -> None:
        GRU(1, 1, rng=0).prune(density, block)  # refuses what no GRU takes
        if not 0 <= start < end <= 1:
            raise ValueError(f"start, end: expected 0 <= start < end <= 1, got {start!r} and {end!r}")
        self.density, self.block, self.start, self.end = density, block, start, end

    def __call__(self, network: Network, progress: float) -> None:
        """Prune the network's GRU, when so much of the training is done, from 0 to 1."""
        if progress >= self.start:
            left = 1 - min(1.0, (progress - self.start) / (self.end - self.start))
            network.gru = network.gru.prune(self.density + (1 - self.density) * left**3, self.block)

    def __repr__(self) -> str:
        return f"Prune({self.density!r}, {self.block!r}, start={self.start!r}, end={self.end!r})"
