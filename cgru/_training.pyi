from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cgru.model.layer import Layer

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]

class Weights:
    kept: int
    def __init__(self, layer: Layer) -> None: ...

class Record(Protocol):
    def __call__(
        self,
        weights: Weights,
        x: Array,
        state: Array,
        y: Array,
        kept: Array,
        order: Indices | None,
        lengths: Indices | None,
        fresh: Array | None,
        start: Array | None,
        reverse: bool,
        threads: int,
    ) -> None: ...

class Backward(Protocol):
    def __call__(
        self,
        weights: Weights,
        x: Array,
        state: Array,
        y: Array,
        kept: Array,
        order: Indices | None,
        lengths: Indices | None,
        fresh: Array | None,
        start: Array | None,
        reverse: bool,
        threads: int,
        grad_y: Array | None,
        carry: Array,
        grad_start: Array | None,
        grad_x: Array | None,
        add: bool,
        grad_w: Array,
        grad_u: Array,
        grad_bias: Array,
    ) -> None: ...

record: dict[str, Record]  # by C type: "float", "double"
backward: dict[str, Backward]
