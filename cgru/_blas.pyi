from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cgru.model.layer import Layer

def activate(code: int, alpha: float, beta: float, clip: float, x: npt.NDArray[Any], out: npt.NDArray[Any]) -> None: ...

class Weights:
    def __init__(self, layer: Layer, single: bool) -> None: ...

class Forward(Protocol):
    def __call__(
        self,
        layer: Weights,
        x: npt.NDArray[Any],
        state: npt.NDArray[Any],
        y: npt.NDArray[Any],
        order: npt.NDArray[np.int64] | None,
        lengths: npt.NDArray[np.int64] | None,
        fresh: npt.NDArray[np.uint8] | None,
        start: npt.NDArray[Any] | None,
        reverse: bool,
        threads: int,
        parallel_units: int,
    ) -> None: ...

forward: dict[str, Forward]  # by C type: "float", "double"
