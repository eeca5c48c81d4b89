"""PyTorch modules as whole networks, by torch.export: `network_of`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cgru.model.graph import MAX_MEMORY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cgru.model.graph import Graph


def network_of(
    module: Any,
    example: Any = None,
    *,
    axes: Mapping[str, Any] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    states: Mapping[str, str] | None = None,
    max_memory: int = MAX_MEMORY,
) -> Graph:
    """The network that a torch.nn.Module is in eval(), its parameters copied.

    Parameters
    ----------
    module : torch.nn.Module
        Of operators that networks have; what its Python does with tensors is followed by torch.export.
    example : tensor, array, or tuple of them, optional
        What the module is called with to follow it; its values do not matter. A torch.nn.Sequential needs none if its
        layers tell the input's shape.
    axes : mapping, optional
        By input the names of its axes, None for those that are fixed: {"x": ("B", "T", None)}; or {"x": {1: "T"}}. With
        it all other axes are fixed, and an axis with a name that the module fixes is an error. Without it every axis
        of two elements or more in the example is dynamic unless the module fixes it, and of those that are left one is
        time, "T", and one the batch, "B"; where sizes do not fit together so, as of a Flatten before a Linear, the
        first axis alone is dynamic.
    input_names, output_names : sequence of str, optional
        Without them inputs have the names of forward's parameters, a Sequential's is "x"; outputs have the keys of the
        dict that forward returns, else "y", or "y0", "y1", ... if there are several.
    states : mapping, optional
        Inputs that are states, and the outputs that they come out of; see `cgru.model.building.build`.

    A GRU or RNN in a torch.nn.Sequential hands on its sequence alone to layers of torch.nn and at the end, where
    PyTorch itself would hand on its last states, too.

    Raises
    ------
    cgru.FormatError
        torch.export cannot follow the module, or it has operators that networks do not have; all are listed.
    TypeError
        The module is none, or needs an example.
    ImportError
        PyTorch is older than 2.6.
    """
    from cgru.formats.aten import reading

    if not reading.is_module(module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    return reading.network(module, example, axes, input_names, output_names, states, max_memory)
