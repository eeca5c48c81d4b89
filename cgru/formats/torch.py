"""PyTorch: torch.nn.GRU and GRUCell, as modules or as their state_dict. PyTorch's convention is the canonical one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.errors import FormatError
from cgru.gru import GRU, GRUCell

if TYPE_CHECKING:
    from cgru.types import Array

NAME = re.compile(r"(weight|bias)_(ih|hh)(?:_l(\d{1,4})(_reverse)?)?")


def from_torch(module_or_state_dict: Any) -> GRU | GRUCell:
    """The same model as a cgru.GRU or GRUCell, its parameters copied.

    Parameters
    ----------
    module_or_state_dict : torch.nn.GRU, torch.nn.GRUCell, or the state_dict of one
        A state_dict does not tell batch_first and dropout: they are False and 0 then.

    Raises
    ------
    cgru.FormatError
        Something else, or parameters that do not make one whole GRU of float32 or float64.

    Examples
    --------
    >>> import torch, cgru
    >>> cgru.from_torch(torch.nn.GRU(4, 8, bidirectional=True))
    GRU(4, 8, bidirectional=True)
    """
    if isinstance(module_or_state_dict, Mapping):
        return _from_arrays({str(name): _array(str(name), value) for name, value in module_or_state_dict.items()}, {})
    try:
        import torch
    except ImportError:
        torch = None
    if torch is None or not isinstance(module_or_state_dict, (torch.nn.GRU, torch.nn.GRUCell)):
        raise FormatError(
            "module_or_state_dict: expected a torch.nn.GRU, a torch.nn.GRUCell or a state_dict of one, "
            f"got {type(module_or_state_dict).__name__}"
        )
    module = module_or_state_dict
    options = {}
    if isinstance(module, torch.nn.GRU):
        options = {"batch_first": module.batch_first, "dropout": float(module.dropout)}
    return _from_arrays({name: _array(name, value) for name, value in module.state_dict().items()}, options)


def _array(name: str, value: Any) -> Array:
    """A tensor or array as a NumPy array of float32 or float64."""
    if hasattr(value, "detach"):
        if str(value.dtype) not in ("torch.float32", "torch.float64"):
            raise FormatError(
                f"{name}: expected float32 or float64, got {value.dtype}; convert the module with .float()"
            )
        value = value.detach().cpu().numpy()
    if not isinstance(value, np.ndarray) or value.dtype not in (np.float32, np.float64):
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise FormatError(f"{name}: expected a float32 or float64 tensor or array, got {kind}")
    return value


def _from_arrays(arrays: dict[str, Array], options: dict[str, Any]) -> GRU | GRUCell:
    """The model whose parameters these are; names and shapes tell all but `options`."""
    matches = {name: NAME.fullmatch(name) for name in arrays}
    unknown = [name for name, match in matches.items() if match is None]
    if unknown or not arrays:
        raise FormatError(
            f"state_dict: expected weight_ih_l0, weight_hh_l0, ... of one GRU, got {unknown or 'nothing'}"
        )
    cell = "weight_ih" in arrays
    first = "weight_ih" if cell else "weight_ih_l0"
    recurrent = first.replace("ih", "hh")
    for name in (first, recurrent):
        if name not in arrays:
            raise FormatError(f"state_dict: expected {name}, got {', '.join(arrays)}")
        if arrays[name].ndim != 2:
            raise FormatError(f"{name}: expected 2 dimensions, got {arrays[name].shape}")
    sizes = {
        "input_size": arrays[first].shape[1],
        "hidden_size": arrays[recurrent].shape[1],
        "bias": any(name.startswith("bias") for name in arrays),
        "dtype": arrays[first].dtype,
    }
    if not cell:
        sizes["num_layers"] = 1 + max(int(match[3] or 0) for match in matches.values() if match)
        sizes["bidirectional"] = any(match[4] is not None for match in matches.values() if match)
    kind = GRUCell if cell else GRU
    try:
        model: GRU | GRUCell = kind._restore({**kind(1, 1, rng=0).options, **sizes, **options}, arrays)
    except (TypeError, ValueError) as error:
        raise FormatError(f"state_dict: {error}") from error
    return model


def to_torch(model: GRU | GRUCell) -> Any:
    """The same model as a torch.nn.GRU or GRUCell on the CPU."""
    import torch

    name = f"torch.nn.{type(model).__name__}"
    supported = {"reset_after": True, "activation": "tanh", "recurrent_activation": "sigmoid", "clip": None}
    for option, value in supported.items():
        if getattr(model, option) != value:
            raise FormatError(f"{option}: {name} knows {value!r} only, got {getattr(model, option)!r}")
    dtype = {"float32": torch.float32, "float64": torch.float64}[model.dtype.name]
    if isinstance(model, GRUCell):
        module = torch.nn.GRUCell(model.input_size, model.hidden_size, model.bias, dtype=dtype)
    else:
        module = torch.nn.GRU(
            model.input_size, model.hidden_size, model.num_layers, model.bias, model.batch_first, model.dropout,
            model.bidirectional, dtype=dtype,
        )  # fmt: skip
    parameters = model.state_dict()
    if model.update_gate == "candidate":  # 1 - sigmoid(a) = sigmoid(-a)
        update = slice(model.hidden_size, 2 * model.hidden_size)
        for array in parameters.values():
            array[update] *= -1
    module.load_state_dict({key: torch.from_numpy(array) for key, array in parameters.items()})
    return module
