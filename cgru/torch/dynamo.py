"""Lets torch.compile trace into cgru's modules, which are torch.nn.GRUs and which it would refuse as those.

PyTorch refuses every instance of torch.nn.GRU before it looks at what the class does, so neither `forward` nor
torch.compiler's marks (allow_in_graph, disable, substitute_in_graph) are asked. Its one switch,
`torch._dynamo.config.allow_rnn`, is for all GRUs of a program; here it is on while cgru's own are looked at, and other
modules are treated as ever. That wraps a function of PyTorch's own: where a version has it no more, a warning says so,
and PyTorch's refusal stands. Importing torch._dynamo takes a second, so that is left to torch.compile: what has to be
done then waits for the import.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

COMPILER = "torch._dynamo"


def allow(kind: type) -> None:
    """Have modules of a kind traced, now or when the compiler is imported."""
    if COMPILER in sys.modules:
        _allow(kind, _builder())
    else:
        sys.meta_path.insert(0, _Waiting(kind))


def _builder() -> Any:
    try:
        return importlib.import_module("torch._dynamo.variables.builder")
    except ImportError:
        return None


def _allow(kind: type, builder: Any) -> None:
    config = getattr(builder, "config", None)
    if config is not None and not hasattr(config, "allow_rnn"):
        return  # PyTorch refuses no GRU any more
    wrap = getattr(getattr(builder, "VariableBuilder", None), "wrap_module", None)
    if wrap is None or config is None:
        import torch

        warnings.warn(
            f"torch.compile of PyTorch {torch.__version__} may refuse cgru.torch.GRU, since cgru does not "
            "know where it does; set torch._dynamo.config.allow_rnn = True",
            RuntimeWarning,
            stacklevel=2,
        )
        return

    def wrap_module(self: Any, value: Any) -> Any:
        if not isinstance(value, kind):
            return wrap(self, value)
        with config.patch(allow_rnn=True):
            return wrap(self, value)

    builder.VariableBuilder.wrap_module = wrap_module


class _Waiting(MetaPathFinder):
    """Sees the compiler's import, once."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != COMPILER or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def run(module: ModuleType) -> None:
            execute(module)
            _allow(self._kind, _builder())

        spec.loader.exec_module = run  # type: ignore[method-assign]
        return spec
