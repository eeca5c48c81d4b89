"""Models in fewer bits, and what they are held to."""

import numpy as np
import pytest

import cgru
from cgru import reference
from cgru.model.precision import PRECISIONS, Matrix

F = np.float32


HALVES = [precision for precision in PRECISIONS if precision != "int8"]


ERROR = {"bfloat16": 2e-2, "float16": 2e-3, "int8": 5e-2}


each_half = pytest.mark.parametrize("precision", HALVES)


each_precision = pytest.mark.parametrize("precision", PRECISIONS)


def pair(precision, inputs=19, hidden=37, seed=0, **options):
    """A model, its rounded form, and the float32 model of the rounded weights."""
    gru = cgru.GRU(inputs, hidden, rng=seed, **options)
    small = gru.quantize(precision)
    same = cgru.GRU(inputs, hidden, **options)
    same.load_state_dict(small.state_dict())
    return gru, small, same


def torch_tensors(path):
    """What the format's own library reads, with PyTorch, which has bfloat16."""
    from safetensors.torch import load_file

    return load_file(str(path))


def specification(small, x, h0, **arguments):
    """y and h_n of the reference in float64, with the model's own weights of int8."""
    kept = ("reset_after", "update_gate", "activation", "recurrent_activation", "clip", "reverse")
    options = {name: small.options[name] for name in kept}
    parameters = {
        name: a if isinstance(a, Matrix) else a.astype(np.float64) for name, a in small.value.parameters.items()
    }
    return reference.forward(
        x.astype(np.float64),
        parameters,
        h0.astype(np.float64),
        arithmetic=small.value.arithmetic,
        **options,
        **arguments,
    )
