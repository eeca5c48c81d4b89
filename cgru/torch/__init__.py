"""`cgru.torch.GRU`: a torch.nn.GRU that runs on cgru's kernels, gradients too.

Needs PyTorch: pip install "cgru[torch]".
"""

try:
    import torch
except ImportError as error:
    raise ImportError(f'cgru.torch needs PyTorch: pip install "cgru[torch]" ({error})') from error

from cgru.torch import dynamo
from cgru.torch.modules import GRU

__all__ = ["GRU"]
dynamo.allow(GRU)
del torch, dynamo
