from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cgru._exclusive import Exclusive

LANES: int
AXES: int
PORTS: int
MEMBERS: int
SLOTS: int
OPERANDS: dict[str, int]
NUMBERS: tuple[np.dtype[Any], ...]

Bound = tuple[npt.NDArray[Any], int, int]

class Program:
    def __init__(self, value: Any) -> None: ...
    def run(self, inputs: Sequence[Bound], outputs: Sequence[Bound], steps: int, batch: int, threads: int) -> int: ...

class States(Exclusive):
    numbers: npt.NDArray[np.float32]
    places: npt.NDArray[np.int64]
    def __new__(
        cls, program: Program, rows: int, block_rows: int, frames: int, room: int, *args: Any, **kwargs: Any
    ) -> Any: ...
    def ring_start(self, ring: int) -> int: ...
    def replace(self, numbers: npt.NDArray[Any], places: npt.NDArray[Any]) -> None: ...
    def begin(self, row: int) -> None: ...
    def simply(
        self,
        input_sizes: Sequence[Any],
        input_rows: int,
        input_frames: int,
        output_sizes: Sequence[Any],
        output_rows: int,
        output_frames: int,
    ) -> None: ...
    def chunk(self, x: Any, out: Any, threads: int) -> Any: ...
    def step(self, x: Any, out: Any = None) -> Any: ...
    def advance(
        self,
        rows: npt.NDArray[np.intp] | None,
        inputs: Sequence[Bound],
        outputs: Sequence[Bound],
        frames: int,
        given: int | None,
        end: int | None,
        late: int,
        threads: int,
    ) -> int: ...
    def decode_rows(
        self,
        tokens: npt.NDArray[np.int64],
        input: Bound,
        outputs: Sequence[Bound],
        chosen: int,
        stop: int | None,
        indices: npt.NDArray[np.int64],
        sampling: tuple[int, float] | None,
    ) -> npt.NDArray[np.int64]: ...

def aligned(shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]: ...
