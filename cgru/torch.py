"""`cgru.torch.GRU`: a torch.nn.GRU whose inference runs on cgru's kernels.

It is a torch.nn.GRU, with its constructor, parameters, state_dict and results; only `forward` differs, and only where
no gradient is asked for. Needs PyTorch: pip install "cgru[torch]".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

try:
    import torch
    from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
except ImportError as error:
    raise ImportError(f'cgru.torch needs PyTorch: pip install "cgru[torch]" ({error})') from error

import cgru
from cgru.formats.torch import from_torch

if TYPE_CHECKING:
    from cgru.types import Array


class GRU(torch.nn.GRU):  # type: ignore[misc] # PyTorch is not checked
    """torch.nn.GRU in every respect; a call without gradients runs on cgru.

    A call runs on PyTorch's own kernels where cgru's have no equal: when a gradient is asked for (under `torch.no_grad`
    or `torch.inference_mode` none is), on another device than the CPU, for other types than float32 and float64, and
    in training mode with dropout between layers.

    Sequences may be padded tensors or a PackedSequence, whose lengths cgru takes as they are: in any order.

    Examples
    --------
    >>> import torch, cgru.torch
    >>> gru = cgru.torch.GRU(4, 8, num_layers=2)
    >>> with torch.no_grad():
    ...     y, h_n = gru(torch.zeros(5, 3, 4))
    >>> y.shape, h_n.shape
    (torch.Size([5, 3, 8]), torch.Size([2, 3, 8]))
    """

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """The outputs and the last states, as of torch.nn.GRU.

        Parameters
        ----------
        input : (T, B, I), with batch_first (B, T, I), (T, I) for one sequence, or a PackedSequence
        hx : (L*D, B, H), or (L*D, H) for one sequence, optional
            Of the sequences in the order in which they were packed.

        Returns
        -------
        y : as input, D*H wide
        h_n : (L*D, B, H) or (L*D, H)

        Raises
        ------
        TypeError, ValueError
            The input or state does not fit the module.
        """
        packed = isinstance(input, PackedSequence)
        x = input.data if packed else input
        if not self._runs_here(x, hx):
            return super().forward(input, hx)
        model = self._model()
        h0 = None if hx is None else _array(hx)
        if not packed:
            y, h_n = model(_array(x), h0)
            return torch.from_numpy(y), torch.from_numpy(h_n)
        padded, lengths = pad_packed_sequence(input, self.batch_first)
        y, h_n = model(_array(padded), h0, lengths=lengths.numpy())
        return _packed_like(input, torch.from_numpy(y), lengths, self.batch_first), torch.from_numpy(h_n)

    def _runs_here(self, x: Any, hx: Any) -> bool:
        """Whether this call needs nothing of PyTorch."""
        tensors = [x, *self._flat_weights, *([] if hx is None else [hx])]
        if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
            return False  # its own message is the right one
        wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        here = all(tensor.device.type == "cpu" and tensor.dtype == x.dtype for tensor in tensors)
        drops = self.training and self.dropout > 0 and self.num_layers > 1
        return here and not wanted and not drops and x.dtype in (torch.float32, torch.float64)

    def _model(self) -> cgru.GRU:
        """The cgru.GRU of the parameters as they are now; made again when one has changed."""
        weights = [weight for weight in self._flat_weights if weight is not None]
        state = [(weight.data_ptr(), None if weight.is_inference() else weight._version) for weight in weights]
        kept = self.__dict__.get("_kept")
        if kept is None or kept[0] != state or any(version is None for _, version in state):
            kept = self.__dict__["_kept"] = (state, from_torch(self))
        return cast(cgru.GRU, kept[1])

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_kept"}


def _array(tensor: Any) -> Array:
    array: Array = np.asarray(tensor.detach())
    return array


def _packed_like(packed: Any, y: Any, lengths: Any, batch_first: bool) -> Any:
    """Padded outputs of sequences in their own order, packed as the input was."""
    if packed.sorted_indices is not None:
        y = y.index_select(0 if batch_first else 1, packed.sorted_indices)
        lengths = lengths[packed.sorted_indices]
    data = pack_padded_sequence(y, lengths, batch_first).data
    return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
