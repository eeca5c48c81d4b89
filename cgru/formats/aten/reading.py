"""From a module to a network: its example, its program, the names of its inputs, outputs and axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cgru import checks
from cgru.errors import FormatError
from cgru.formats.aten import capture, sequential
from cgru.formats.aten.program import Program, refuse_unknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cgru.model.graph import Graph


OLDEST = (2, 6)
"""The version of PyTorch whose torch.export finds dynamic axes itself."""


def is_module(value: Any) -> bool:
    """Whether a value is a torch.nn.Module."""
    return isinstance(value, torch.nn.Module)


def network(
    module: Any,
    example: Any,
    axes: Mapping[str, Any] | None,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    states: Mapping[str, str] | None,
    max_memory: int,
) -> Graph:
    """See `cgru.formats.aten.network_of`."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST:
        raise ImportError(f"modules are followed from torch 2.6 on, got {torch.__version__}")
    source, hint = type(module).__name__, ""
    chain = sequential.is_chain(module)
    if example is None:
        if not chain:
            raise TypeError(
                f"example: expected an input for {source}, which is no torch.nn.Sequential, got None; give a tensor of "
                "the shape that it is called with, or a tuple of them"
            )
        example, layout = sequential.example(module)
        axes = axes if axes is not None else {(input_names or ["x"])[0]: layout}
        hint = "give an example= of the input; "
    arguments = capture.arguments_of(example)
    names = ["x"] if chain and input_names is None else capture.names_of(module, arguments, input_names)
    named = None if axes is None else capture.named_axes(names, arguments, axes)
    called = sequential.sequences(module) if chain else module

    def read(dynamic: Sequence[Sequence[bool]]) -> Graph:
        program = capture.exported(called, arguments, dynamic, source, hint)
        refuse_unknown(program, source)
        reader = _Reader(program, names, output_names, source)
        graph = reader.graph(reader.named(named), states, max_memory)
        if named is not None:
            return graph
        known = {str(graph.steps): "T", str(graph.batch): "B"}
        axes = {symbol: known.get(name, name) for symbol, name in reader.axes.items()}
        return reader.graph(axes, states, max_memory)

    if named is not None:
        arguments = tuple(capture.widened(value, named[name]) for name, value in zip(names, arguments, strict=True))
        return read([[axis is not None for axis in own] for own in named.values()])
    try:
        return read([[size > 1 for size in value.shape] for value in arguments])
    except FormatError as error:
        if not isinstance(error.__cause__, ValueError):  # something else than sizes that do not fit together
            raise
        return read([[axis == 0 and size > 1 for axis, size in enumerate(value.shape)] for value in arguments])


class _Reader:
    """A program with the names of what it takes and gives."""

    def __init__(
        self, program: Any, names: Sequence[str], output_names: Sequence[str] | None, source: str
    ) -> None:  # fmt: skip
        self.program, self.names, self.source = program, list(names), source
        self.axes: dict[str, str] = {}
        """Names of dynamic axes by torch's symbols."""
        signature = program.graph_signature
        changed = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
        if changed:
            raise FormatError(
                f"{source}: expected a module that leaves its buffers and inputs as they are, got one that writes into "
                f"{checks.listed(changed)}; let states be inputs and outputs"
            )
        self.tensors = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        nodes = {node.name: node for node in program.graph.nodes}
        self.inputs = [nodes[name] for name in signature.user_inputs]
        self.outputs = self._outputs(output_names)

    def named(self, named: Mapping[str, Sequence[str | None]] | None) -> dict[str, str]:
        """Names for the symbols of dynamic axes; FormatError where one that has a name is fixed."""
        for name, node in zip(self.names, self.inputs, strict=True):
            for axis, size in enumerate(node.meta["val"].shape):
                wanted = None if named is None else named[name][axis]
                if isinstance(size, int) or size.node.expr.is_Integer:
                    if wanted is not None:
                        raise FormatError(
                            f"{self.source}: axes: {name}: expected axis {axis} to be dynamic ({wanted!r}), but the "
                            f"module fixes its size to {size}"
                        )
                    continue
                symbol = size.node.expr
                if not symbol.is_Symbol:
                    raise FormatError(
                        f"{self.source}: axes: {name}: expected an axis {axis} of any size, but the module asks for "
                        f"{symbol}"
                    )
                self.axes.setdefault(str(symbol), wanted or f"{name}_{axis}")
        return self.axes

    def _outputs(self, given: Sequence[str] | None) -> dict[str, Any]:
        """The nodes that outputs are, by name."""
        (node,) = [node for node in self.program.graph.nodes if node.op == "output"]
        signature = self.program.graph_signature
        number = len(signature.user_outputs)
        found = list(node.args[0])[-number:] if number else []
        if not found or any(not hasattr(one, "meta") or not hasattr(one.meta["val"], "dtype") for one in found):
            raise FormatError(f"{self.source}: expected a module that returns tensors, got others")
        spec = self.program.call_spec.out_spec
        keys = [str(key) for key in spec.context] if spec.type is dict and len(spec.context) == number else None
        names = (
            list(given) if given is not None else keys or (["y"] if number == 1 else [f"y{i}" for i in range(number)])
        )
        if len(names) != number or len(set(names)) != number or set(names) & set(self.names):
            raise ValueError(
                f"output_names: expected {number} different names, other ones than the inputs' "
                f"{checks.listed(self.names)}, got {names}"
            )
        return dict(zip(names, found, strict=True))

    def graph(self, axes: Mapping[str, str], states: Mapping[str, str] | None, max_memory: int) -> Graph:
        """The network, its dynamic axes under these names."""
        program = Program(self.source, axes)
        given = dict(zip(self.inputs, self.names, strict=True))
        state = {**self.program.state_dict, **self.program.constants}
        for node in self.program.graph.nodes:
            if node in given:
                program.given(node, given[node])
            elif node.op == "placeholder":
                target = self.tensors[node.name]
                if node.users:
                    program.known(node, target.removeprefix("module."), state[target])
            elif node.op == "call_function":
                program.call(node)
        results = {name: program.values[node].name for name, node in self.outputs.items()}
        return program.graph(results, states, max_memory)
