"""`cgru.torch.GRU`: a torch.nn.GRU that runs on cgru's kernels, gradients too; `replace` makes a model's GRUs such.

Needs PyTorch: pip install "cgru[torch]".
"""

try:
    import torch
except ImportError as error:
    raise ImportError(f'cgru.torch needs PyTorch: pip install "cgru[torch]" ({error})') from error

from cgru.torch import dynamo
from cgru.torch.modules import GRU, GRUCell
from cgru.torch.replacing import replace, restore

__all__ = ["GRU", "GRUCell", "replace", "restore"]
dynamo.allow(GRU)
del torch, dynamo
