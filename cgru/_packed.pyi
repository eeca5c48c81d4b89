from typing import Any

import numpy as np
import numpy.typing as npt

from cgru._exclusive import Exclusive
from cgru.model.layer import Layer

ISA: str
RUNNABLE_ISAS: tuple[str, ...]
HISTORY: object
KERNELS: object

class Weights:
    def __init__(self, layer: Layer, storage: str) -> None: ...
    @property
    def address(self) -> int: ...
    @property
    def usual(self) -> bool: ...

class Stack:
    weights: list[Weights]
    def __init__(self, weights: list[Weights], directions: int, reverse: bool) -> None: ...
    def run(
        self,
        x: npt.NDArray[Any],
        state: npt.NDArray[Any],
        y: npt.NDArray[Any],
        order: npt.NDArray[np.intp] | None,
        lengths: npt.NDArray[np.int64] | None,
        fresh: npt.NDArray[np.uint8] | None,
        start: npt.NDArray[Any] | None,
        threads: int,
    ) -> None: ...
    def call(
        self, x: object, h0: object, batch_first: bool, threads: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None: ...

def share(way: str) -> None: ...
def counts() -> tuple[int, int]: ...
def machine_speed() -> dict[str, float]: ...
def probe_flops(rounds: int) -> float: ...
def probe_read(memory: npt.NDArray[np.float32], times: int) -> None: ...

class Stream(Exclusive):
    _states: npt.NDArray[Any]
    def __new__(cls, weights: list[Weights], batch_size: int | None) -> Any: ...
    def step(self, x: npt.NDArray[Any], out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]: ...

def put(states: npt.NDArray[Any], rows: npt.NDArray[np.intp], values: npt.NDArray[Any]) -> None: ...
