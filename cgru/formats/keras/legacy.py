"""Layers as Keras 1 and 2 wrote them, in the words of Keras 3: names of options, arrays a gate, CuDNNGRU's layout.

Keras 1 has `output_dim` and `inner_activation`, resets before the product, and stores W_z, U_z, b_z, W_r, ... or, with
consume_less="gpu", W, U, b. CuDNNGRU of Keras 2 has no activations to choose, and stores what cuDNN reads.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cgru.types import Array

CUDNN = {"activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True, "reset_after": True}
"""What CuDNNGRU always is."""

KERAS_1 = {"activation": "tanh", "recurrent_activation": "hard_sigmoid", "use_bias": True, "reset_after": False}
"""What a GRU of Keras 1 is unless its configuration says otherwise."""

RENAMED = {"output_dim": "units", "inner_activation": "recurrent_activation"}
"""Options of Keras 1 by their later names."""

ARRAY = re.compile(r"(?P<layer>.*)_(?P<field>[WUb](?:_[zrh])?)(?:_\d+)?(?::\d+)?")
"""The name of an array of Keras 1: gru_1_W_z, gru_1_W_z:0, and with a number where the backend made it unique."""

WHOLE = ("W", "U", "b")
GATES = tuple(f"{field}_{gate}" for gate in "zrh" for field in WHOLE)
"""The arrays of Keras 1 in their order: of the gates together, and of each."""


def modern(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a GRU of any version by the names of Keras 3."""
    if kind == "CuDNNGRU":
        return {**config, **CUDNN}
    if "output_dim" in config and "units" not in config:
        return {**KERAS_1, **{RENAMED.get(field, field): value for field, value in config.items()}}
    return dict(config)


def parts(name: str) -> tuple[str, str]:
    """The layer and the field that the name of an array of Keras 1 is made of, as "gru_1" and "W_z"."""
    match = ARRAY.fullmatch(name)
    return (match["layer"], match["field"]) if match else (name, name)


def joined(name: str, arrays: Sequence[Array]) -> list[Array]:
    """Kernel (I, 3H), recurrent kernel (H, 3H) and bias (3H,), gates z, r, h, of a direction's arrays a gate."""
    for k, field in enumerate(WHOLE):
        shapes = {array.shape for array in arrays[k :: len(WHOLE)]}
        if len(shapes) > 1 or () in shapes:
            raise FormatError(f"{name}: {field}: expected gates of one shape, got {sorted(shapes)}")
    return [np.concatenate(arrays[k :: len(WHOLE)], axis=-1) for k in range(len(WHOLE))]


def from_cudnn(kernel: Array, recurrent: Array, bias: Array) -> tuple[Array, Array, Array]:
    """Weights of a CuDNNGRU, bias (6H,), as those of a GRU with reset_after, bias (2, 3H).

    cuDNN has a gate's matrices as (H, I) and (H, H); Keras keeps their numbers in this order in (I, H) and (H, H).
    """
    gates = [gate.reshape(gate.shape[::-1]).T for gate in np.split(kernel, 3, axis=1)]
    return (
        np.concatenate(gates, axis=1),
        np.concatenate([gate.T for gate in np.split(recurrent, 3, axis=1)], axis=1),
        bias.reshape(2, -1),
    )
