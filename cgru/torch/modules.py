"""The modules: torch.nn.GRU whose `forward` decides who runs a call, and hands it on."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from cgru import checks
from cgru.torch import operators
from cgru.torch.kept import DTYPES, Options
from cgru.torch.recording import Call, Recorded, run

PLAIN = (torch.Tensor, torch.nn.Parameter)
"""Tensors that are memory and no more. Another class may have its own way with PyTorch's operators."""


class GRU(torch.nn.GRU):  # type: ignore[misc] # PyTorch is not checked
    """torch.nn.GRU in every respect; calls and their gradients run on cgru.

    A call runs on PyTorch's own kernels where cgru's have no equal: on another device than the CPU, for other types
    than float32 and float64, under autocast, and where PyTorch traces or transforms a call (torch.jit, torch.onnx,
    torch.func, modes). Gradients with create_graph=True and second derivatives are PyTorch's, too. Dropout between
    layers draws its masks from a seed that PyTorch's generator gives, so `torch.manual_seed` repeats them; they are not
    the masks of torch.nn.GRU.

    Each call compares the weights with those of the call before, since they can change without a trace; a stream or a
    pool of `cgru.from_torch(module)` keeps its weights and spends nothing on that.

    Compiled and exported programs hold a call as one operator, `cgru::gru`; a place that loads one, AOTInductor's
    packages too, imports cgru.torch first. PyTorch's quantize_dynamic knows torch.nn.GRU alone: `restore` a model for
    it, or quantize `cgru.from_torch(module)`.

    Sequences may be padded tensors or a PackedSequence, whose lengths cgru takes as they are: in any order. A call that
    does not fit the module is PyTorch's to refuse, in its words.

    Examples
    --------
    >>> import torch, cgru.torch
    >>> gru = cgru.torch.GRU(4, 8, num_layers=2)
    >>> with torch.no_grad():
    ...     y, h_n = gru(torch.zeros(5, 3, 4))
    >>> y.shape, h_n.shape
    (torch.Size([5, 3, 8]), torch.Size([2, 3, 8]))
    """

    def forward(self, input: Any, hx: Any = None, *, resets: Any = None, resets_to: str = "zero") -> tuple[Any, Any]:
        """The outputs and the last states, as of torch.nn.GRU.

        Parameters
        ----------
        input : (T, B, I), with batch_first (B, T, I), (T, I) for one sequence, or a PackedSequence
        hx : (L*D, B, H), or (L*D, H) for one sequence, optional
            Of the sequences in the order in which they were packed.
        resets : bool, input's shape without I, optional
            True at a step starts its sequence anew there, as in a call of `cgru.GRU`. Of a PackedSequence as of the
            padded tensor. Only where cgru runs the call.
        resets_to : {"zero", "h0"}
            What states become there: 0, or hx.

        Returns
        -------
        y : as input, D*H wide
        h_n : (L*D, B, H) or (L*D, H)

        Raises
        ------
        ValueError, RuntimeError
            The input or state does not fit the module; there are no steps; resets where PyTorch's kernels run.
        """
        if resets is not None or resets_to != "zero":
            return self._restarted(input, hx, resets, resets_to)
        if isinstance(input, torch.fx.Proxy):
            return _leaf(self, input, hx)
        if torch.compiler.is_compiling():
            weights = [getattr(self, name) for name in self._flat_weights_names]
            if isinstance(input, PackedSequence) or not (_one_operator(input, hx, weights) and self._takes(input, hx)):
                return super().forward(input, hx)
            seed = torch.randint(2**63 - 1, ()) if self._drops() else None
            options = Options(self.num_layers, self.batch_first, self.bidirectional, float(self.dropout))
            return _operator(input, hx, weights, seed, options)
        packed, weights = isinstance(input, PackedSequence), self._weights()
        if not _run_here([input.data if packed else input, *weights, *([] if hx is None else [hx])]):
            return super().forward(input, hx)
        padded, lengths = pad_packed_sequence(input, self.batch_first) if packed else (input, None)
        if not self._takes(padded, hx):
            return super().forward(input, hx)
        y, h_n = self._run(padded, hx, weights, lengths)
        if not packed:
            return y, h_n
        return _packed_like(input, y, lengths, self.batch_first), h_n

    def __prepare_scriptable__(self) -> Any:
        """What torch.jit.script compiles in this module's place."""
        return _twin(self, torch.nn.GRU)

    def _restarted(self, input: Any, hx: Any, resets: Any, resets_to: str) -> tuple[Any, Any]:
        """A call whose sequences start anew; PyTorch has no such kernels."""
        packed, weights = isinstance(input, PackedSequence), self._weights()
        if resets is None:
            raise ValueError(f"resets: expected a bool tensor beside resets_to={resets_to!r}, got None")
        if (
            isinstance(input, torch.fx.Proxy)
            or torch.compiler.is_compiling()
            or not _run_here([input.data if packed else input, *weights, *([] if hx is None else [hx])])
        ):
            raise RuntimeError(
                "resets: expected None in calls that PyTorch's kernels run: traced, exported, transformed or autocast "
                "ones, in one compiled graph, on other devices than the CPU, of other types than float32 and float64"
            )
        padded, lengths = pad_packed_sequence(input, self.batch_first) if packed else (input, None)
        if not self._takes(padded, hx):
            return super().forward(input, hx)  # says what does not fit
        shape, resets = tuple(padded.shape[:-1]), torch.as_tensor(resets)
        if resets.dtype != torch.bool or tuple(resets.shape) != shape:
            raise ValueError(f"resets: expected {shape} bool, got {tuple(resets.shape)} {resets.dtype}")
        checks.choice("resets_to", resets_to, ("zero", "h0"))
        run = torch.compiler.disable(self._run) if "torch._dynamo" in sys.modules else self._run  # not piece by piece
        y, h_n = run(padded, hx, weights, lengths, resets, resets_to)
        return (_packed_like(input, y, lengths, self.batch_first) if packed else y), h_n

    def _takes(self, x: Any, hx: Any) -> bool:
        """Whether the sizes of a call are the module's, and there are steps and something left of what is dropped."""
        dims, states = x.dim(), self.num_layers * (1 + self.bidirectional)
        if dims not in (2, 3) or x.shape[-1] != self.input_size:
            return False
        if self.training and self.num_layers > 1 and not 0 <= self.dropout < 1:
            return False
        if x.shape[1 if dims == 3 and self.batch_first else 0] == 0:
            return False
        batch = x.shape[: dims - 2] if self.batch_first else x.shape[1 : dims - 1]
        return hx is None or tuple(hx.shape) == (states, *batch, self.hidden_size)

    def _drops(self) -> bool:
        return bool(self.training and self.dropout > 0 and self.num_layers > 1)

    def _weights(self) -> list[Any]:
        """What stands under the parameters' names now: parameters, or what computes or replaces them."""
        own = self.__dict__["_parameters"]
        return [own[name] if name in own else getattr(self, name, None) for name in self._flat_weights_names]

    def _run(
        self, x: Any, hx: Any, weights: list[Any], lengths: Any, resets: Any = None, resets_to: str = "zero"
    ) -> tuple[Any, Any]:
        drops = self._drops()
        options = Options(self.num_layers, self.batch_first, self.bidirectional, float(self.dropout) if drops else 0.0)
        seed = int(torch.randint(2**63 - 1, ())) if drops else None
        return _apply(Call(options, lengths, seed, resets, resets_to), x, hx, weights)


class GRUCell(torch.nn.GRUCell):  # type: ignore[misc]
    """torch.nn.GRUCell in the sense of `GRU`.

    Examples
    --------
    >>> import torch, cgru.torch
    >>> cell = cgru.torch.GRUCell(4, 8)
    >>> with torch.no_grad():
    ...     h = cell(torch.zeros(3, 4))
    >>> h.shape
    torch.Size([3, 8])
    """

    def forward(self, input: Any, hx: Any = None) -> Any:
        """The state after one step, as of torch.nn.GRUCell.

        Parameters
        ----------
        input : (B, I), or (I,) for one sequence
        hx : (B, H) or (H,), optional

        Returns
        -------
        h' : (B, H) or (H,)

        Raises
        ------
        ValueError, RuntimeError
            The input or state does not fit the module.
        """
        if isinstance(input, torch.fx.Proxy):
            return _leaf(self, input, hx)
        weights = [self.weight_ih, self.weight_hh]
        if self.bias_ih is not None:
            weights += [self.bias_ih, self.bias_hh]
        compiling = torch.compiler.is_compiling()
        if compiling:
            here = _one_operator(input, hx, weights)
        else:
            here = _run_here([input, *weights, *([] if hx is None else [hx])])
        batch = tuple(input.shape[:-1])
        if (
            not (here and self.input_size and self.hidden_size)
            or tuple(input.shape) != (*batch, self.input_size)
            or len(batch) > 1
            or (hx is not None and tuple(hx.shape) != (*batch, self.hidden_size))
        ):
            return super().forward(input, hx)
        x, state = input.unsqueeze(0), None if hx is None else hx.unsqueeze(0)  # one step, one layer
        if compiling:
            return _operator(x, state, weights, None, STEP)[1].squeeze(0)
        return _apply(Call(STEP, None, None), x, state, weights)[1].squeeze(0)

    def __prepare_scriptable__(self) -> Any:
        """What torch.jit.script compiles in this module's place."""
        return _twin(self, torch.nn.GRUCell)


STEP = Options(num_layers=1, batch_first=False, bidirectional=False, dropout=0.0)
"""Of a cell's call."""


def _apply(call: Call, x: Any, hx: Any, weights: list[Any]) -> tuple[Any, Any]:
    """Tensors in, tensors out; recorded where a gradient is asked for."""
    if torch.is_grad_enabled() and _differentiable(x, hx, weights):
        return Recorded.apply(call, x, hx, *weights)
    return run(call, x, hx, weights)


def _leaf(module: Any, *arguments: Any) -> Any:
    """The module's node in a graph that torch.fx traces: it is a leaf, as PyTorch's own modules are."""
    tracer = arguments[0].tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(module), arguments, {})


def _twin(module: Any, kind: Any) -> Any:
    """PyTorch's module of the same parameters."""
    twin = kind.__new__(kind)
    twin.__dict__.update(module.__dict__)
    return twin


is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)
"""PyTorch 2.4 cannot say it: what it exports keeps what training would need."""


def _operator(x: Any, hx: Any, weights: list[Any], seed: Any, options: Options) -> tuple[Any, Any]:
    """A call in a program that is compiled or exported; the latter are for inference, though they can be trained."""
    keep = torch.is_grad_enabled() and not is_exporting() and _differentiable(x, hx, weights)
    y, h_n, _ = operators.gru(x, hx, weights, None, seed, *options, keep)
    return y, h_n


def _differentiable(x: Any, hx: Any, weights: list[Any]) -> bool:
    return any(tensor.requires_grad for tensor in ([x, *weights] if hx is None else [x, hx, *weights]))


def _one_operator(x: Any, hx: Any, weights: list[Any]) -> bool:
    """Whether the call is one operator in a program that is compiled or exported."""
    tensors = [x, *weights] if hx is None else [x, hx, *weights]
    return (
        x.dtype in DTYPES
        and all(tensor.dtype == x.dtype and tensor.device.type == "cpu" for tensor in tensors)
        and not (
            torch.is_autocast_enabled("cpu")
            or torch.onnx.is_in_onnx_export()
            or torch._C._are_functorch_transforms_active()
        )
    )


def _run_here(tensors: list[Any]) -> bool:
    """Whether a call with these tensors needs nothing of PyTorch: plain tensors that nobody traces or transforms."""
    dtype = getattr(tensors[0], "dtype", None)
    return (
        dtype in DTYPES
        and all(
            type(tensor) in PLAIN
            and tensor.dtype == dtype
            and tensor.is_cpu
            and tensor.layout is torch.strided
            and not tensor.is_neg()  # a view that PyTorch negates as it reads: its memory holds other values
            for tensor in tensors
        )
        and not (
            torch.jit.is_tracing()
            or torch.onnx.is_in_onnx_export()
            or torch.is_autocast_enabled("cpu")
            or torch._C._are_functorch_transforms_active()
            or torch._C._len_torch_dispatch_stack()
            or forward_ad._current_level >= 0
        )
    )


def _packed_like(packed: Any, y: Any, lengths: Any, batch_first: bool) -> Any:
    """Padded outputs of sequences in their own order, packed as the input was."""
    if packed.sorted_indices is not None:
        y = y.index_select(0 if batch_first else 1, packed.sorted_indices)
        lengths = lengths[packed.sorted_indices]
    data = pack_padded_sequence(y, lengths, batch_first).data
    return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
