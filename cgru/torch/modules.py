"""The modules: torch.nn.GRU whose `forward` decides who runs a call, and hands it on."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from cgru.gru import GRU as Model  # noqa: N811 - as opposed to the module
from cgru.run import tape
from cgru.torch.kept import DTYPES, Options, array, model_of


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
        packed, weights = isinstance(input, PackedSequence), self._weights()
        if not _run_here([input.data if packed else input, *weights, *([] if hx is None else [hx])]):
            return super().forward(input, hx)
        if not packed:
            return self._run(input, hx, weights, None)
        padded, lengths = pad_packed_sequence(input, self.batch_first)
        y, h_n = self._run(padded, hx, weights, lengths.numpy())
        return _packed_like(input, y, lengths, self.batch_first), h_n

    def _weights(self) -> list[Any]:
        """What stands under the parameters' names now: parameters, or what computes or replaces them."""
        own = self.__dict__["_parameters"]
        return [own[name] if name in own else getattr(self, name, None) for name in self._flat_weights_names]

    def _run(self, x: Any, hx: Any, weights: list[Any], lengths: Any) -> tuple[Any, Any]:
        """Tensors in, tensors out; recorded where a gradient is asked for or outputs are dropped."""
        wanted = torch.is_grad_enabled() and any(
            tensor.requires_grad for tensor in [x, *weights, *([] if hx is None else [hx])]
        )
        drops = self.training and self.dropout > 0 and self.num_layers > 1
        options = Options(self.num_layers, self.batch_first, self.bidirectional, float(self.dropout) if drops else 0.0)
        model = model_of(options, weights)
        if not (wanted or drops):
            y, h_n = model(array(x), None if hx is None else array(hx), lengths=lengths)
            return torch.from_numpy(y), torch.from_numpy(h_n)
        seed = int(torch.randint(2**63 - 1, ())) if drops else None
        return _Recorded.apply(_Call(model, lengths, seed, None if wanted else 0), x, hx, *weights)


def _run_here(tensors: list[Any]) -> bool:
    """Whether a call with these tensors needs nothing of PyTorch."""
    if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        return False  # its own message is the right one
    dtype = tensors[0].dtype
    return dtype in DTYPES and all(tensor.is_cpu and tensor.dtype == dtype for tensor in tensors)


class _Call(NamedTuple):
    """What a recorded call takes beside tensors."""

    model: Model
    lengths: Any  # (B,) or None
    seed: int | None  # of dropout; None: there is none
    memory: int | None


class _Recorded(torch.autograd.Function):  # type: ignore[misc]
    """A call as PyTorch's autograd sees it: a function of x, h0 and the weights, in the order of torch.nn.GRU."""

    @staticmethod
    def forward(ctx: Any, call: _Call, x: Any, h0: Any, *weights: Any) -> tuple[Any, Any]:
        """y and h_n."""
        arrays = array(x), None if h0 is None else array(h0)
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
            None if grad_y is None else array(grad_y), None if grad_h_n is None else array(grad_h_n), by_x, again=True
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


def _packed_like(packed: Any, y: Any, lengths: Any, batch_first: bool) -> Any:
    """Padded outputs of sequences in their own order, packed as the input was."""
    if packed.sorted_indices is not None:
        y = y.index_select(0 if batch_first else 1, packed.sorted_indices)
        lengths = lengths[packed.sorted_indices]
    data = pack_padded_sequence(y, lengths, batch_first).data
    return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
