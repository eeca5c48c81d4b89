from typing import Any

import numpy as np
import numpy.typing as npt

from cgru.layer import Layer

class Weights:
    def __init__(self, layer: Layer) -> None: ...

def forward(
    weights: Weights,
    x: npt.NDArray[Any],
    state: npt.NDArray[Any],
    y: npt.NDArray[Any],
    order: npt.NDArray[np.int64] | None,
    lengths: npt.NDArray[np.int64] | None,
    reverse: bool,
    threads: int,
) -> None: ...
