"""Caches of a frame graph: frames that came before, put in front of the newest one for a window to look back into.

A window that also reaches behind the newest frame reads padding there, where the network it was exported from had
frames to come. No later call makes that good, so that such a graph is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cgru.errors import FormatError
from cgru.model.nodes import convolution, movement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cgru.model.graph import Node
    from cgru.model.nodes.table import Sizes

WINDOWS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")
MOVES = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather", "Split")
"""Operators that take a part of a state as it is."""

PARTS = ("Slice", "Gather", "Split")
"""Operators that may leave out what a window made of padding."""


def check(nodes: Iterable[Node], shapes: Mapping[str, Sizes], states: Iterable[str], source: str) -> None:
    """Refuse windows over caches and the newest frame that reach behind it, by name."""
    nodes = tuple(nodes)
    origin = {name: name for name in states}  # of what is part of a state: its name
    joined: dict[str, tuple[str, int, int]] = {}  # state, axis, padding behind the newest frame
    for node in nodes:
        first = node.inputs[0] if node.inputs else ""
        if node.operator in MOVES and first in origin:
            origin |= dict.fromkeys(filter(None, node.outputs), origin[first])
        elif node.operator == "Concat" and first in origin and node.inputs[-1] not in origin:
            joined[node.outputs[0]] = (origin[first], node.attributes["axis"] % len(shapes[first]), 0)
        elif node.operator == "Pad" and first in joined:
            state, axis, behind = joined[first]
            pads = movement.paddings(shapes[first], node.attributes["pads"], node.attributes["axes"])
            joined[node.outputs[0]] = (state, axis, behind + pads[axis][1])
        elif node.operator in WINDOWS and first in joined:
            state, axis, behind = joined[first]
            behind += _behind(node, axis)
            users = [user for user in nodes if node.outputs[0] in user.inputs]
            if behind > 0 and not (users and all(user.operator in PARTS for user in users)):
                raise FormatError(
                    f"{source}: {node.title}: expected a window that ends with the newest frame, as a call is one "
                    f"frame and {state!r} holds those before it, got {behind} of padding behind it on axis {axis}, in "
                    "the place of frames to come; pad in front alone, or export a sequence graph, whose streams wait "
                    "for them"
                )


def _behind(node: Node, axis: int) -> int:
    """Padding behind the last element of an axis that windows read."""
    if axis < 2:
        return 0
    at, number = axis - 2, len(node.attributes["strides"])
    if node.operator == "ConvTranspose" and node.attributes["strides"][at] != 1:
        return 0  # more frames come out than went in, which no cache is for
    return convolution.over_axis(node.operator, axis, {**node.attributes, "output_padding": (0,) * number})[3]
