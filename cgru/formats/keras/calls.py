"""Which tensors a Functional model's layers are called on, as configurations of Keras 2 and 3 say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Reference(NamedTuple):
    """A tensor of a Functional model: a layer, which of its calls, which of the call's results."""

    layer: str
    call: int
    result: int


def references(structure: Any) -> list[Reference]:
    """The tensors that are a model's inputs or outputs, in order; dicts by their keys."""
    if isinstance(structure, Mapping):
        return [found for key in sorted(structure) for found in references(structure[key])]
    if [type(part) for part in structure] == [str, int, int]:
        return [Reference(*structure)]
    return [found for part in structure for found in references(part)]


def argument(value: Any) -> Any:
    """An argument of a call with references in the place of tensors."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            return Reference(*value["config"]["keras_history"])
        return {key: argument(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        if [type(part) for part in value[:3]] == [str, int, int] and len(value) <= 4:
            return Reference(*value[:3])
        return [argument(part) for part in value]
    return value


def call_of(node: Any) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of one call of a layer, as Keras 3 writes them, or those before."""
    if isinstance(node, Mapping):
        return [argument(part) for part in node["args"]], {key: argument(part) for key, part in node["kwargs"].items()}
    if [type(part) for part in node[:3]] == [str, int, int]:
        node = [node]
    more: Mapping[str, Any] = next((part[3] for part in node if len(part) > 3), {})
    found = [argument(part) for part in node]
    return [found[0] if len(found) == 1 else found], {key: argument(part) for key, part in more.items()}
