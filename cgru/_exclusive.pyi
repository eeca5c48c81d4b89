from collections.abc import Callable
from typing import ClassVar, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

class Exclusive:
    _kind: ClassVar[str]

def alone(method: Callable[P, R]) -> Callable[P, R]: ...
