"""The cgru.GRU of a module's weights, kept from call to call as long as the weights hold the same bits.

A weight can change without a trace: through `.data`, a NumPy view, another process. So each call compares all of them
with the copy that the kept model has. That reads them once more, and is quick where a call does some work.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch.utils.weak import WeakTensorKeyDictionary

from cgru.gru import GRU
from cgru.model.spec import from_options
from cgru.model.value import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cgru.types import Array

memcmp = ctypes.CDLL("msvcrt" if os.name == "nt" else None).memcmp
memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
"""The C library's: exact in every bit, NaN and -0.0 too. Of what NumPy and PyTorch offer nothing is as quick."""

DTYPES = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
"""What cgru computes in."""


class Options(NamedTuple):
    """What a call is told beside tensors; sizes, biases and dtype are seen from the weights."""

    num_layers: int
    batch_first: bool
    bidirectional: bool
    dropout: float


MOST = 4
"""Models kept of the same first weight: of modules that share it, or of options that change."""


class Kept(NamedTuple):
    """A model and what its parameters are, in the order of torch.nn.GRU."""

    model: GRU
    parameters: list[tuple[int, int, torch.dtype, torch.Size]]  # address, bytes, dtype, shape

    def holds(self, weights: Sequence[Any]) -> bool:
        """Whether contiguous weights have the bits of the parameters."""
        return len(weights) == len(self.parameters) and all(
            weight.dtype == dtype and weight.shape == shape and memcmp(weight.data_ptr(), address, size) == 0
            for weight, (address, size, dtype, shape) in zip(weights, self.parameters, strict=True)
        )


_kept: Any = WeakTensorKeyDictionary()
"""By the first weight a dictionary by options; it goes when that weight goes."""


def model_of(options: Options, weights: Sequence[Any]) -> GRU:
    """The model of weights in the order of torch.nn.GRU, as they are now."""
    known = _kept.get(weights[0])
    if known is None:
        known = _kept[weights[0]] = {}
    weights = [weight if weight.is_contiguous() else weight.contiguous() for weight in weights]
    kept = known.get(options)
    if kept is None or not kept.holds(weights):
        if len(known) >= MOST:
            known.clear()
        kept = known[options] = _made(options, weights)
    return cast(GRU, kept.model)


def array(tensor: Any) -> Array:
    """The tensor's memory as an array."""
    return cast("Array", tensor.detach().numpy())


def _made(options: Options, weights: Sequence[Any]) -> Kept:
    spec = from_options(
        "GRU",
        {
            **options._asdict(),
            "input_size": weights[0].shape[1],
            "hidden_size": weights[1].shape[1],
            "bias": len(weights) > 2 * options.num_layers * (1 + options.bidirectional),
            "dtype": DTYPES[weights[0].dtype],
        },
    )
    value = Value.of(spec, dict(zip(spec.shapes, map(array, weights), strict=True)))
    copies = value.wide()
    own = [copies[name] for name in spec.shapes]
    parameters = [
        (copy.ctypes.data, copy.nbytes, weight.dtype, weight.shape) for copy, weight in zip(own, weights, strict=True)
    ]
    return Kept(GRU.of(value), parameters)
