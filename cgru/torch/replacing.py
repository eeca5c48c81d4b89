"""Exchange torch.nn's GRUs of a model by cgru's, and back."""

from __future__ import annotations

from typing import TypeVar

import torch

from cgru.torch.modules import GRU, GRUCell

Module = TypeVar("Module")

KINDS: dict[type, type] = {torch.nn.GRU: GRU, torch.nn.GRUCell: GRUCell}


def replace(model: Module) -> Module:
    """Make every torch.nn.GRU and torch.nn.GRUCell of a model one of cgru's, in place.

    Each module stays the object that it is, with its parameters, hooks, mode, dtype and device; only its class is
    another. So names, state_dict, optimizers and whatever else refers to it stay as they are. Subclasses of
    torch.nn.GRU have a `forward` of their own and are left alone; parametrized modules are exchanged.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    model : the same

    Examples
    --------
    >>> import torch, cgru.torch
    >>> model = torch.nn.Sequential(torch.nn.GRU(3, 8))
    >>> cgru.torch.replace(model) is model, type(model[0])
    (True, <class 'cgru.torch.modules.GRU'>)
    >>> type(cgru.torch.restore(model)[0])
    <class 'torch.nn.modules.rnn.GRU'>
    """
    return _exchange(model, KINDS)


def restore(model: Module) -> Module:
    """Make every cgru.torch.GRU and GRUCell of a model one of torch.nn's again, as `replace` the other way round.

    For a model that is pickled whole for a place without cgru, or quantized by PyTorch: quantize_dynamic exchanges
    modules whose class is torch.nn.GRU itself, and leaves those of cgru as they are. A state_dict needs none of it.
    """
    return _exchange(model, {ours: theirs for theirs, ours in KINDS.items()})


def _exchange(model: Module, kinds: dict[type, type]) -> Module:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    for module in model.modules():
        kind = type(module)
        if kind in kinds:
            module.__class__ = kinds[kind]
        elif kind.__module__ == "torch.nn.utils.parametrize" and kind.__base__ in kinds:
            # register_parametrization made this class, for this module alone, below the one to exchange
            content = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
            module.__class__ = type(kind.__name__, (kinds[kind.__base__],), content)
    return model
