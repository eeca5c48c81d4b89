"""A whole cgru.GRU or cgru.MinGRU as one node, with every option that these have.

Its inputs are the sequences, the initial states (absent: zeros), and the parameters in the order of `Spec.shapes`.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING

import numpy as np

from cgru.model import reference
from cgru.model.nodes.table import MANY, Attribute, Operator, Recurrence, Sizes, require
from cgru.model.spec import KINDS, Spec, from_options

if TYPE_CHECKING:
    from cgru.types import Array

NAME = "cgru.Stack"


def written(spec: Spec) -> dict[str, str]:
    """A specification as the node's attributes."""
    return {"kind": spec.kind, "options": json.dumps({**spec.options, "dtype": spec.dtype.name})}


@functools.lru_cache(maxsize=256)
def spec_of(kind: str, options: str) -> Spec:
    """The specification that the attributes mean; ValueError or TypeError naming the option that is wrong."""
    found = json.loads(options)
    require(isinstance(found, dict), "options as a JSON object", options)
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    require(given.get("dtype", "float32") in ("float32", "float64"), "the dtype float32 or float64", given.get("dtype"))
    return from_options(kind, {**given, "dtype": np.dtype(given.get("dtype", "float32"))})


def stack_shape(x: Sizes, h0: Sizes | None = None, *parameters: Sizes | None, **attributes: str) -> list[Sizes]:
    """(T, B, D*H), the batch first where the options say so, and (L*D, B, H)."""
    spec = spec_of(**attributes)
    require(len(x) == 3 and x[2] == spec.input_size, f"sequences of {spec.input_size} inputs", x)
    names = spec.shapes
    require(len(parameters) == len(names), f"{len(names)} parameters", len(parameters))
    for (name, shape), got in zip(names.items(), parameters, strict=True):
        require(got == shape, f"{name} {shape}", got)
    state = (spec.num_layers * spec.directions, x[0] if spec.batch_first else x[1], spec.hidden_size)
    require(h0 is None or h0 == state, f"initial states {state}", h0)
    return [(*x[:2], spec.width), state]


def stack(x: Array, h0: Array | None = None, *parameters: Array, **attributes: str) -> tuple[Array, Array]:
    """The last layer's states, and every layer's last ones."""
    spec = spec_of(**attributes)
    x = x.swapaxes(0, 1) if spec.batch_first else x
    named = dict(zip(spec.shapes, parameters, strict=True))
    y, h_n = reference.forward(x, named, h0, reverse=spec.reverse, merge=spec.merge, **spec.equations)
    return y.swapaxes(0, 1) if spec.batch_first else y, h_n


def _time(**attributes: str) -> int:
    return int(spec_of(**attributes).batch_first)


def _backwards(**attributes: str) -> bool:
    spec = spec_of(**attributes)
    return spec.reverse or spec.bidirectional


STACKED = tuple(kind for kind, row in KINDS.items() if row.stacked)

OPERATORS = {
    NAME: Operator(
        stack,
        stack_shape,
        inputs=(1, MANY),
        outputs=(1, 2),
        attributes={"kind": Attribute("text", choices=STACKED), "options": Attribute("text")},
        types=lambda types, **attributes: [types[0]] * 2,
        over=lambda x, *others, **attributes: (_time(**attributes),),
        recurrence=Recurrence(initial=1, lengths=None, time=_time, backwards=_backwards),
    ),
}
