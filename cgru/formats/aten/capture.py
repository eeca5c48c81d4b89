"""Modules as programs of torch.export: with dynamic axes, and with recurrent layers whole.

Of a recurrent layer torch.export would follow each step, which fixes the number of steps. It is told the shapes of the
results instead, while it runs.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cgru import checks
from cgru.errors import FormatError
from cgru.formats.aten.program import is_lstm, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RECURRENT = ("gru", "rnn_tanh", "rnn_relu", "lstm")

MOST_ROUNDS = 3
"""Of decomposing operators that the table has not into others."""


def recurrent_shapes(x: Any, hx: Any, params: Any, biases: bool, layers: int, dropout: float, train: bool,
                     both: bool, batch_first: bool) -> Any:  # fmt: skip
    """Results of a GRU's or an RNN's shapes, of an LSTM's if there are two states."""
    states = list(hx) if isinstance(hx, (list, tuple)) else [hx]
    y = x.new_empty((*x.shape[:2], states[0].shape[2] * (2 if both else 1)))
    return (y, *(state.new_empty(state.shape) for state in states))


def pooled_shape(x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False) -> Any:
    """A result of max_pool1d's shape."""
    k, s, p, d = (value[0] if isinstance(value, (list, tuple)) and value else value
                  for value in (kernel, stride or kernel, padding, dilation))  # fmt: skip
    room = x.shape[-1] + 2 * p - d * (k - 1) - 1
    if ceil:  # sizes that the table refuses where they are dynamic
        return torch.nn.functional.max_pool2d(
            x.unsqueeze(-2), (1, k), (1, s), (0, p), (1, d), ceil_mode=True
        ).squeeze(-2)  # fmt: skip
    return x.new_empty((*x.shape[:-1], room // s + 1))


@contextlib.contextmanager
def whole_layers() -> Iterator[None]:
    """Let torch.export take recurrent layers and max_pool1d as one operator each, of any number of steps."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    rules: dict[Any, Any] = {getattr(torch.ops.aten, name).input: recurrent_shapes for name in RECURRENT}
    rules[torch.ops.aten.max_pool1d.default] = pooled_shape
    before = {operator: operator.py_kernels.get(key) for operator in rules}
    try:
        for operator, rule in rules.items():
            operator.py_kernels[key] = rule
            operator._dispatch_cache.clear()
        yield
    finally:
        for operator, rule in before.items():
            operator.py_kernels.pop(key, None)
            if rule is not None:
                operator.py_kernels[key] = rule
            operator._dispatch_cache.clear()


@contextlib.contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """The module and all its parts in eval(), and as they were afterwards."""
    parts = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, training in parts:
            part.training = training


def arguments_of(example: Any) -> tuple[Any, ...]:
    """The example's tensors: of one, or of a tuple or list of them."""
    values = example if isinstance(example, (tuple, list)) else (example,)
    return tuple(_tensor(position, value) for position, value in enumerate(values))


def _tensor(position: int, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.array(value))
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"example: expected tensors or arrays, got {type(value).__name__} as input {position}")
    return value


def names_of(module: Any, arguments: Sequence[Any], given: Sequence[str] | None) -> list[str]:
    """The inputs' names: those given, or the parameters of the module's forward."""
    if given is not None:
        found = list(given)
        if len(found) != len(arguments) or len(set(found)) != len(found):
            raise ValueError(f"input_names: expected {len(arguments)} different names, got {found}")
        return found
    bound = inspect.signature(module.forward).bind(*arguments).arguments
    found = []
    for name, value in bound.items():
        found += [f"{name}_{i}" for i in range(len(value))] if isinstance(value, tuple) else [name]
    return found


def named_axes(names: Sequence[str], arguments: Sequence[Any], axes: Any) -> dict[str, list[str | None]]:
    """Of each input the names of its axes, None for those that are fixed."""
    found: dict[str, list[str | None]] = {}
    surplus = sorted(set(axes) - set(names))
    if surplus:
        raise ValueError(f"axes: expected inputs' names {checks.listed(names)}, got {checks.listed(surplus)}")
    for name, value in zip(names, arguments, strict=True):
        given = axes.get(name, ())
        own = dict(given) if isinstance(given, Mapping) else dict(enumerate(given))
        complete = isinstance(given, Mapping) or len(given) in (0, value.dim())
        if not complete or not all(0 <= axis < value.dim() for axis in own):
            raise ValueError(f"axes: {name}: expected a name or None for each of {value.dim()} axes, got {given!r}")
        if not all(axis is None or (isinstance(axis, str) and axis.isidentifier()) for axis in own.values()):
            raise ValueError(f"axes: {name}: expected names such as 'T', or None, got {given!r}")
        found[name] = [own.get(axis) for axis in range(value.dim())]
    return found


def widened(value: Any, names: Sequence[str | None]) -> Any:
    """An example whose dynamic axes have two elements and more, as torch.export wants them."""
    for axis, name in enumerate(names):
        if name is not None and value.shape[axis] == 1:
            value = value.repeat_interleave(2, axis)
    return value


def exported(
    module: Any, arguments: Sequence[Any], dynamic: Sequence[Sequence[bool]], source: str, hint: str = ""
) -> Any:
    """The program of a module in eval(), its operators those of the table as far as torch can decompose others."""
    auto = torch.export.Dim.AUTO
    shapes = [{axis: auto for axis, free in enumerate(own) if free} or None for own in dynamic]
    with evaluating(module), torch.no_grad(), whole_layers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's, about its own recurrent layers
        try:
            program = torch.export.export(_Call(module), tuple(arguments), dynamic_shapes=(tuple(shapes),))
            if any(mutates(node) for node in program.graph.nodes):
                program = program.run_decompositions({})
            for _ in range(MOST_ROUNDS):
                rest = {nodes[0].target for nodes in unknown(program.graph).values() if not is_lstm(nodes[0])}
                table = torch.export.default_decompositions() if rest else {}
                known = {operator: table[operator] for operator in rest if operator in table}
                if not known:
                    break
                program = program.run_decompositions(known)
        except Exception as error:  # whatever a module's Python raises, and torch where it cannot follow it
            lines = [line for line in str(error).splitlines() if line.strip()] or [""]
            raise FormatError(
                f"{source}: expected a module that torch.export can follow, got {type(error).__name__}: {lines[0]}; "
                f"{hint}torch.onnx.export may manage it, and cgru.Network.from_onnx reads what that writes"
            ) from error
    return program


def mutates(node: Any) -> bool:
    """Whether a node writes into a tensor that it is given."""
    return node.op == "call_function" and hasattr(node.target, "_schema") and bool(node.target._schema.is_mutable)


class _Call(torch.nn.Module):  # type: ignore[misc]
    """A module called with a list of tensors, whatever its parameters are called."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any) -> Any:
        return self.module(*inputs)
