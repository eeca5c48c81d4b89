"""A state_dict as JSON: PyTorch's names with nested lists of numbers.

RTNeural's PyTorch models and those of guitar amplifiers (GuitarML, NeuralPi, Proteus) are files of this kind; the dict
may stand beside others, at any depth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cgru.formats import names, untrusted
from cgru.model.value import Value, face

if TYPE_CHECKING:
    from pathlib import Path

    from cgru.gru import GRU, GRUCell


def load(path: Path, name: str | None = None) -> GRU | GRUCell:
    """The model in a file; see `read`."""
    model: GRU | GRUCell = face(read(path, name))
    return model


def read(path: Path, name: str | None = None) -> Value:
    """The GRU in a file, in float32: the file does not tell in which precision it was trained."""
    with untrusted.reading(path, "JSON"):
        values = names.flat(str(path), untrusted.load_json(path), lambda value: isinstance(value, list), (dict,))
        chosen = names.choose(str(path), {key: _shape(value) for key, value in values.items()}, name)
        arrays = {short: untrusted.numbers(full, values[full]) for short, full in chosen.items()}
        return names.assemble(str(path), arrays, {})


def _shape(lists: Any) -> tuple[int, ...]:
    """As the first list of each level has it."""
    shape = []
    while isinstance(lists, list):
        shape.append(len(lists))
        lists = lists[0] if lists else None
    return tuple(shape)
