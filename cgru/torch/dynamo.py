"""Lets torch.compile trace into cgru's modules, which are torch.nn.GRUs and which it would refuse as those.

PyTorch has a switch for that, `torch._dynamo.config.allow_rnn`, for all GRUs of a program; here it is on while cgru's
own are looked at, and other modules are treated as ever. Importing torch._dynamo takes a second, so that is left to
torch.compile: what has to be done then waits for the import.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

BUILDER = "torch._dynamo.variables.builder"


def allow(kind: type) -> None:
    """Have modules of a kind traced, now or when the compiler is imported."""
    if BUILDER in sys.modules:
        _allow(kind, sys.modules[BUILDER])
    else:
        sys.meta_path.insert(0, _Waiting(kind))


def _allow(kind: type, builder: Any) -> None:
    wrap = builder.VariableBuilder.wrap_module

    def wrap_module(self: Any, value: Any) -> Any:
        if not isinstance(value, kind):
            return wrap(self, value)
        with builder.config.patch(allow_rnn=True):
            return wrap(self, value)

    builder.VariableBuilder.wrap_module = wrap_module


class _Waiting(MetaPathFinder):
    """Sees the compiler's import, once."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != BUILDER or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def run(module: ModuleType) -> None:
            execute(module)
            _allow(self._kind, module)

        spec.loader.exec_module = run  # type: ignore[method-assign]
        return spec
