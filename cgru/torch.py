"""`cgru.torch.GRU`: a torch.nn.GRU that runs on cgru's kernels, gradients too.

It is a torch.nn.GRU, with its constructor, parameters, state_dict and results; only `forward` differs. Tensors and
arrays share their memory. Needs PyTorch: pip install "cgru[torch]".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

try:
    import torch
    from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
except ImportError as error:
    raise ImportError(f'cgru.torch needs PyTorch: pip install "cgru[torch]" ({error})') from error

from cgru import gru as compiled
from cgru.model.spec import from_options
from cgru.model.value import Value
from cgru.run import tape

if TYPE_CHECKING:
    from cgru.types import Array

FIELDS = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional")
"""Options that torch.nn.GRU has, too; the others have their defaults, which are PyTorch's conventions."""


class GRU(torch.nn.GRU):  # type: ignore[misc] # PyTorch is not checked
    """torch.nn.GRU in every respect; calls and their gradients run on cgru.

    A call runs on PyTorch's own kernels where cgru's have no equal: on another device than the CPU and for other types
    than float32 and float64. Dropout between layers draws its masks from a seed that PyTorch's generator gives, so
    `torch.manual_seed` repeats them; they are not the masks of torch.nn.GRU. There are no second derivatives.

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
        if not self._runs_here(input.data if packed else input, hx):
            return super().forward(input, hx)
        if not packed:
            return self._run(input, hx, None)
        padded, lengths = pad_packed_sequence(input, self.batch_first)
        y, h_n = self._run(padded, hx, lengths.numpy())
        return _packed_like(input, y, lengths, self.batch_first), h_n

    def _runs_here(self, x: Any, hx: Any) -> bool:
        """Whether this call needs nothing of PyTorch."""
        tensors = [x, *self._flat_weights, *([] if hx is None else [hx])]
        if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
            return False  # its own message is the right one
        here = all(tensor.device.type == "cpu" and tensor.dtype == x.dtype for tensor in tensors)
        return here and x.dtype in (torch.float32, torch.float64)

    def _run(self, x: Any, hx: Any, lengths: Any) -> tuple[Any, Any]:
        """Tensors in, tensors out; recorded where a gradient is asked for or outputs are dropped."""
        weights = [weight for weight in self._flat_weights if weight is not None]
        wanted = torch.is_grad_enabled() and any(
            tensor.requires_grad for tensor in [x, *weights, *([] if hx is None else [hx])]
        )
        drops = self.training and self.dropout > 0 and self.num_layers > 1
        if not (wanted or drops):
            y, h_n = self._model()(_array(x), None if hx is None else _array(hx), lengths=lengths)
            return torch.from_numpy(y), torch.from_numpy(h_n)
        seed = int(torch.randint(2**63 - 1, ())) if drops else None
        return _Recorded.apply(_Call(self._model(anew=True), lengths, seed, None if wanted else 0), x, hx, *weights)

    def _model(self, anew: bool = False) -> compiled.GRU:
        """The cgru.GRU of the parameters as they are now; made again when one has changed.

        Nothing tells of what is written through a parameter's `.data`, as some training scripts do: `anew` for those.
        """
        weights = [weight for weight in self._flat_weights if weight is not None]
        state = [(weight.data_ptr(), None if weight.is_inference() else weight._version) for weight in weights]
        kept = self.__dict__.get("_kept")
        if anew or kept is None or kept[0] != state or any(version is None for _, version in state):
            names = [name for name in self._flat_weights_names if getattr(self, name, None) is not None]
            arrays = {name: _array(weight) for name, weight in zip(names, weights, strict=True)}
            options = {
                **{name: getattr(self, name) for name in FIELDS},
                "dropout": float(self.dropout),
                "dtype": arrays["weight_ih_l0"].dtype,
            }
            kept = self.__dict__["_kept"] = (state, compiled.GRU.of(Value.of(from_options("GRU", options), arrays)))
        return cast(compiled.GRU, kept[1])

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_kept"}


class _Call(NamedTuple):
    """What a recorded call takes beside tensors."""

    model: compiled.GRU
    lengths: Any  # (B,) or None
    seed: int | None  # of dropout; None: there is none
    memory: int | None


class _Recorded(torch.autograd.Function):  # type: ignore[misc]
    """A call as PyTorch's autograd sees it: a function of x, h0 and the weights, in the order of torch.nn.GRU."""

    @staticmethod
    def forward(ctx: Any, call: _Call, x: Any, h0: Any, *weights: Any) -> tuple[Any, Any]:
        """y and h_n."""
        arrays = _array(x), None if h0 is None else _array(h0)
        y, h_n, ctx.tape = tape.record(
            call.model, *arrays, lengths=call.lengths, rng=call.seed, memory=call.memory, num_threads=None,
            drop=call.seed is not None, own=True,
        )  # fmt: skip
        outputs = torch.from_numpy(y), torch.from_numpy(h_n)
        ctx.save_for_backward(x, outputs[0], *weights)  # for PyTorch to notice when one is changed before the way back
        ctx.set_materialize_grads(False)
        ctx.inputs = (h0 is not None, list(call.model.state_dict()))
        return outputs

    @staticmethod
    def backward(ctx: Any, grad_y: Any, grad_h_n: Any) -> tuple[Any, ...]:
        """The gradients by what `forward` took."""
        x, _, *weights = ctx.saved_tensors
        has_state, names = ctx.inputs
        _, by_x, by_h0, *by_weights = ctx.needs_input_grad
        if grad_y is None and grad_h_n is None:
            return (None,) * len(ctx.needs_input_grad)
        found = ctx.tape.run_back(
            None if grad_y is None else _array(grad_y), None if grad_h_n is None else _array(grad_h_n), by_x, again=True
        )
        arrays = [found.x if by_x else None, found.h0 if has_state and by_h0 else None]
        arrays += [found[name] if wanted else None for name, wanted in zip(names, by_weights, strict=True)]
        gradients = [None if array is None else torch.from_numpy(array) for array in arrays]
        if torch.is_grad_enabled():  # create_graph=True
            gradients = _Once.apply(gradients, grad_y, grad_h_n, x, *weights)
        return None, *gradients


class _Once(torch.autograd.Function):  # type: ignore[misc]
    """Gradients as they are, with an error for who asks for their gradients in turn."""

    @staticmethod
    def forward(ctx: Any, gradients: list[Any], *given: Any) -> tuple[Any, ...]:
        """The gradients."""
        return tuple(gradients)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        """There are none."""
        raise RuntimeError(
            "cgru.torch.GRU: expected first derivatives alone, got a request for second ones; "
            "torch.nn.GRU has them and takes the same state_dict"
        )


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
