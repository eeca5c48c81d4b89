"""What ONNX's operator GRU needs of a cgru.GRU: attributes, weights in its order, and what it has not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.errors import FormatError
from cgru.formats.names import refuse_unknown
from cgru.model.nodes import recurrent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cgru.model.spec import Spec
    from cgru.model.value import Value
    from cgru.types import Array

MAX_BYTES = 2**31 - 2**20
"""Of weights in one file: protobuf ends at 2 GiB."""


def refuse(value: Value, beside: bool = False) -> None:
    """FormatError where the operator has no such layer, naming the option; or it and other operators beside it."""
    refuse_unknown(value, "ONNX")
    gru = value.spec
    gates = [direction.gate for direction in gru.by_direction]
    if gru.update_gate != "state" and not all(gate.mirrored_by_negation for gate in gates):
        raise FormatError(
            f"update_gate: ONNX has {gru.update_gate!r} only for sigmoid gates, got {gru.recurrent_activation!r}"
        )
    if gru.merge != "concat" and not beside:
        raise FormatError(f"merge: the file's GRU knows 'concat' only, got {gru.merge!r}")


def attributes_of(gru: Spec) -> dict[str, Any]:
    """The operator's attributes; they are float32, so a float64 model's numbers must be."""
    functions = [function for direction in gru.by_direction for function in (direction.gate, direction.candidate)]
    functions = [f._replace(name="affine", alpha=1.0, beta=0.0) if f.name == "linear" else f for f in functions]
    for f in functions:
        if f.name not in recurrent.NAMES:
            raise FormatError(f"ONNX's GRU has no activation {f.name!r}; it has {', '.join(recurrent.NAMES)}")
    for number in [gru.clip or 0.0, *(number for f in functions for number in (f.alpha, f.beta))]:
        if gru.dtype != np.float32 and float(np.float32(number)) != number:
            raise FormatError(
                f"ONNX keeps the numbers of activations and clip in float32, which does not have {number!r}"
            )
    attributes = {
        "hidden_size": gru.hidden_size,
        "linear_before_reset": int(gru.reset_after),
        "direction": "bidirectional" if gru.bidirectional else "reverse" if gru.reverse else "forward",
        "activations": [recurrent.NAMES[f.name] for f in functions],
        "activation_alpha": [f.alpha for f in functions if f.name in recurrent.PARAMETERS["activation_alpha"]],
        "activation_beta": [f.beta for f in functions if f.name in recurrent.PARAMETERS["activation_beta"]],
        "clip": gru.clip,
    }
    return {name: value for name, value in attributes.items() if value not in (None, [])}


def weights_of(value: Value) -> Iterator[dict[str, Array]]:
    """W (D, 3H, I), R (D, 3H, H) and B (D, 6H) of each layer, the update gate weighing the state."""
    parameters, spec = value.weighing_state(), value.spec
    for suffixes, _ in spec.layers:
        w, r, *biases = [
            np.stack([recurrent.reordered(parameters[name + suffix]) for suffix in suffixes])
            for name in spec.cell.shapes(1, 1, spec.bias)
        ]
        yield {"W": w, "R": r, **({"B": np.concatenate(biases, axis=1)} if biases else {})}
