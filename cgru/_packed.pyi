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

class Stream:
    def __new__(cls, weights: list[Weights], batch_size: int | None) -> Any: ...
    def step(self, x: npt.NDArray[Any], out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]: ...
    def read(self) -> npt.NDArray[Any]: ...
    def write(self, states: npt.NDArray[Any]) -> None: ...
    def claim(self) -> None: ...
    def release(self) -> None: ...
