"""GRUs inside the bodies of other nodes (If, Loop, Scan) and of a model's functions, which are named and not loaded.

How often such a body runs, and on what, is decided by the graph around it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cgru import checks
from cgru.errors import FormatError
from cgru.formats.onnx.graph import is_gru
from cgru.formats.onnx.operator import is_named, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def refuse(proto: Any, source: str, own: list[Any], name: str | None) -> None:
    """Refuse a model whose GRUs, or the one of that name, stand in bodies; `own` are those that do not."""
    found = list(_within(proto))
    if name is not None:
        found = [] if any(is_named(node, name) for node in own) else [p for p in found if is_named(p[1], name)]
    if not found:
        return
    where = checks.listed(f"{name_of(node)!r} inside {holder}" for holder, node in found)
    mend = "take the body's nodes, with the weights that they read, into a model of their own"
    if any(holder.startswith("the function") for holder, _ in found):
        mend = "give onnx.inliner.inline_local_functions(model)"
    if own and name is None:
        mend += f", or choose one of the graph's own by its name: {checks.listed(repr(name_of(node)) for node in own)}"
    raise FormatError(f"{source}: expected GRUs among the graph's own nodes, got {where}; {mend}")


def _within(proto: Any) -> Iterator[tuple[str, Any]]:
    """Every GRU in a body, with what holds it; of functions, in those that some node calls."""
    todo = [("", node) for node in proto.graph.node]
    functions = {(function.domain, function.name): function for function in proto.functions}
    for holder, node in todo:  # which grows
        if holder and is_gru(node):
            yield holder, node
        function = functions.pop((node.domain, node.op_type), None)
        if function is not None:
            todo += [(f"the function {function.name!r}", below) for below in function.node]
        for field in node.attribute:
            for inner in [field.g] * field.HasField("g") + list(field.graphs):
                todo += [(holder or f"{node.op_type} {name_of(node)!r}", below) for below in inner.node]
