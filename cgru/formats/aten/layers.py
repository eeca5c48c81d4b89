"""ATen's layers: convolutions, pooling, normalization, embedding and recurrent layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.formats import names
from cgru.formats.aten.arithmetic import linear

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cgru.formats.aten.program import Program, Tensor
    from cgru.types import Array


# --- Windows ----------------------------------------------------------------------------------------------------------


def batched(spatial: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What takes (B, C, ...) also for (C, ...), as torch's layers do."""

    def wrapped(write: Callable[..., Any]) -> Callable[..., Any]:
        def of(p: Program, x: Tensor, *arguments: Any, **options: Any) -> Any:
            if len(x.shape) == spatial + 2:
                return write(p, x, *arguments, **options)
            whole = x._replace(name=p.op("Unsqueeze", x, axes=(0,)), shape=(1, *x.shape))
            return p.op("Squeeze", write(p, whole, *arguments, **options), axes=(0,))

        return of

    return wrapped


def each(value: Any, number: int) -> tuple[int, ...]:
    """A number for each axis, of a list of as many or of one."""
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * number if len(values) == 1 else values)


def convolution(spatial: int) -> Callable[..., Any]:
    """conv1d and conv2d, whose padding is numbers, "same" or "valid"."""

    @batched(spatial)
    def write(
        p: Program, x: Tensor, w: Tensor, b: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1,
    ) -> Any:  # fmt: skip
        dilations = each(dilation, spatial)
        if isinstance(padding, str):
            reach = [(int(k) - 1) * d if padding == "same" else 0 for k, d in zip(w.shape[2:], dilations, strict=True)]
            pads = (*(total // 2 for total in reach), *(total - total // 2 for total in reach))
        else:
            pads = each(padding, spatial) * 2
        geometry: dict[str, Any] = {"strides": each(stride, spatial), "dilations": dilations, "pads": pads}
        return p.op("Conv", x, w, b, group=groups, **geometry)

    return write


def transposed_convolution(spatial: int) -> Callable[..., Any]:
    """conv_transpose1d and conv_transpose2d."""

    @batched(spatial)
    def write(
        p: Program, x: Tensor, w: Tensor, b: Tensor | None = None, stride: Any = 1, padding: Any = 0,
        output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
    ) -> Any:  # fmt: skip
        return p.op(
            "ConvTranspose", x, w, b, group=groups, strides=each(stride, spatial), dilations=each(dilation, spatial),
            pads=each(padding, spatial) * 2, output_padding=each(output_padding, spatial),
        )  # fmt: skip

    return write


def any_convolution(
    p: Program, x: Tensor, w: Tensor, b: Tensor | None, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> Any:  # fmt: skip
    """The one operator that the others decompose into."""
    spatial = len(w.shape) - 2
    if transposed:
        write = transposed_convolution(spatial)
        return write(p, x, w, b, stride, padding, output_padding, groups, dilation)
    return convolution(spatial)(p, x, w, b, stride, padding, dilation, groups)


def max_pool(spatial: int) -> Callable[..., Any]:
    """The largest element of each window; without strides windows lie side by side."""

    @batched(spatial)
    def write(p: Program, x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
              ceil_mode: bool = False) -> Any:  # fmt: skip
        return p.op(
            "MaxPool", x, kernel_shape=each(kernel, spatial), strides=each(stride or kernel, spatial),
            pads=each(padding, spatial) * 2, dilations=each(dilation, spatial), ceil_mode=int(ceil_mode),
        )  # fmt: skip

    return write


def average_pool(spatial: int) -> Callable[..., Any]:
    """The mean of each window."""

    @batched(spatial)
    def write(p: Program, x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
              count_include_pad: bool = True, divisor_override: int | None = None) -> Any:  # fmt: skip
        if divisor_override is not None:
            raise p.refused("no divisor_override", divisor_override)
        return p.op(
            "AveragePool", x, kernel_shape=each(kernel, spatial), strides=each(stride or kernel, spatial),
            pads=each(padding, spatial) * 2, ceil_mode=int(ceil_mode), count_include_pad=int(count_include_pad),
        )  # fmt: skip

    return write


def adaptive(operator: str, spatial: int) -> Callable[..., Any]:
    """Pooling to one place."""

    def write(p: Program, x: Tensor, size: Any) -> Any:
        if any(one != 1 for one in each(size, spatial)):
            raise p.refused("an output size of 1", size)
        return p.op(operator, x, axes=tuple(range(-spatial, 0)), keepdims=1)

    return write


def largest_of_all(p: Program, x: Tensor, size: Any) -> Any:
    """Pooling to one place, and where its element was."""
    y = adaptive("ReduceMax", 1)(p, x, size)
    return y, p.op("ArgMax", x, axis=-1, keepdims=1)


# --- Normalization ----------------------------------------------------------------------------------------------------


def ones(p: Program, size: Any, dtype: Any) -> str:
    """As many ones."""
    return p.constant(np.ones(int(size)), dtype)


def batch_norm(
    p: Program, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, variance: Tensor | None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5, cudnn: bool = False,
) -> Any:  # fmt: skip
    """By the statistics that training kept."""
    if training or mean is None or variance is None:
        raise p.refused("statistics that training kept", "those of the batch")
    scale = weight or ones(p, x.shape[1], x.dtype)
    shift = bias or p.constant(np.zeros(int(x.shape[1])), x.dtype)
    return p.op("BatchNormalization", x, scale, shift, mean, variance, epsilon=eps)


def layer_norm(
    p: Program, x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5, cudnn: bool = False,
) -> Any:  # fmt: skip
    """Over the last axes."""
    scale = weight or p.constant(np.ones(tuple(shape)), x.dtype)
    return p.op("LayerNormalization", x, scale, bias, axis=-len(shape), epsilon=eps)


def of_channels(p: Program, y: str, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> str:
    """Scaled and shifted by channel, the second axis."""
    for operator, parameter in (("Mul", weight), ("Add", bias)):
        if parameter is not None:
            shape = (*parameter.shape, *(1,) * (len(x.shape) - 2))
            y = p.op(operator, y, p.op("Reshape", parameter, shape=shape))
    return y


def group_norm(
    p: Program, x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5,
    cudnn: bool = False,
) -> Any:  # fmt: skip
    """Over the channels of a group and what follows them."""
    joined = p.op("Reshape", x, shape=(0, groups, -1))
    zeros = p.constant(np.zeros(groups), x.dtype)
    y = p.op("InstanceNormalization", joined, ones(p, groups, x.dtype), zeros, epsilon=eps)
    return of_channels(p, p.op("Reshape", y, shape=x.shape, allowzero=1), x, weight, bias)


def instance_norm(
    p: Program, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, variance: Tensor | None,
    use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5, cudnn: bool = False,
) -> Any:  # fmt: skip
    """Over what follows the channels."""
    if not use_input_stats:
        return batch_norm(p, x, weight, bias, mean, variance, False, momentum, eps)
    scale = weight or ones(p, x.shape[1], x.dtype)
    shift = bias or p.constant(np.zeros(int(x.shape[1])), x.dtype)
    return p.op("InstanceNormalization", x, scale, shift, epsilon=eps)


def without_training(p: Program, x: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, momentum: float,
                     eps: float) -> Any:  # fmt: skip
    """What batch_norm decomposes into, with empty statistics besides."""
    y = batch_norm(p, x, weight, bias, mean, variance, False, momentum, eps)
    empty = p.constant(np.zeros(0), x.dtype)
    return y, empty, empty


# --- Recurrent layers -------------------------------------------------------------------------------------------------


def embedding(p: Program, weight: Tensor, indices: Tensor, *options: Any) -> Any:
    """Rows of a table."""
    return p.op("Gather", weight, indices, axis=0)


def arrays(p: Program, params: Sequence[Tensor], has_biases: bool, bidirectional: bool) -> dict[str, Array]:
    """The parameters of a recurrent layer by torch's names."""
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if has_biases else 2]
    ends = ("", "_reverse")[: 2 if bidirectional else 1]
    if any(tensor.array is None for tensor in params):
        raise p.refused("weights that are parameters, as parametrize.remove_parametrizations leaves them", "others")
    count = len(kinds) * len(ends)
    layers = range(len(params) // count)
    order = [f"{kind}_l{layer}{end}" for layer in layers for end in ends for kind in kinds]
    if len(order) != len(params):
        raise p.refused("layers without a projection", f"{len(params)} parameters")
    return {name: np.asarray(tensor.array) for name, tensor in zip(order, params, strict=True)}


def gru(
    p: Program, x: Tensor, hx: Tensor, params: Sequence[Tensor], has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> Any:  # fmt: skip
    """A GRU of all its layers, and the last states."""
    found = arrays(p, params, has_biases, bidirectional)
    return stack(p, found, x.name, hx.name, {"batch_first": batch_first})


def stack(p: Program, parameters: dict[str, Array], x: str, h0: str, options: dict[str, Any]) -> tuple[str, str]:
    """A node of a GRU with these parameters."""
    value = names.assemble(f"{p.source}: {p.node.name}", parameters, options)
    return p.writer.stack(value, x, h0, name=p.node.name)


def gru_cell(
    p: Program, x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Any:
    """One step: a GRU over a sequence of one frame."""
    params = [w_ih, w_hh] + ([] if b_ih is None or b_hh is None else [b_ih, b_hh])
    found = arrays(p, params, len(params) == 4, False)
    frame, state = p.op("Unsqueeze", x, axes=(0,)), p.op("Unsqueeze", h, axes=(0,))
    y, _ = stack(p, found, frame, state, {})
    return p.op("Squeeze", y, axes=(0,))


def rnn(activation: str) -> Callable[..., Any]:
    """A plain RNN, each layer a node, and the last states."""

    def write(
        p: Program, x: Tensor, hx: Tensor, params: Sequence[Tensor], has_biases: bool, num_layers: int, dropout: float,
        train: bool, bidirectional: bool, batch_first: bool,
    ) -> Any:  # fmt: skip
        found = arrays(p, params, has_biases, bidirectional)
        ends = ("", "_reverse")[: 2 if bidirectional else 1]
        y = p.op("Transpose", x, perm=(1, 0, 2)) if batch_first else x.name
        states = []
        for layer in range(num_layers):
            w, r, *b = (
                np.stack([found[f"{kind}_l{layer}{end}"] for end in ends])
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if has_biases else 2]
            )
            parameters = [p.constant(w), p.constant(r), p.constant(np.concatenate(b, axis=1)) if b else ""]
            first = layer * len(ends)
            h0 = p.op("Slice", hx, starts=(first,), ends=(first + len(ends),), axes=(0,), steps=(1,))
            direction = "bidirectional" if bidirectional else "forward"
            y, h_n = p.op(
                "RNN", y, *parameters, "", h0, outputs=2, direction=direction, activations=(activation,) * len(ends)
            )
            y = p.op("Reshape", p.op("Transpose", y, perm=(0, 2, 1, 3)), shape=(0, 0, -1))
            states.append(h_n)
        return p.op("Transpose", y, perm=(1, 0, 2)) if batch_first else y, p.op("Concat", *states, axis=0)

    return write


def rnn_cell(activation: str) -> Callable[..., Any]:
    """One step of a plain RNN: f(W x + b + R h + c)."""

    def write(p: Program, x: Tensor, h: Tensor, w: Tensor, r: Tensor, b: Any = None, c: Any = None) -> Any:
        return p.op(activation, p.op("Add", linear(p, x, w, b), linear(p, h, r, c)))

    return write


OPERATORS = {
    "conv1d": convolution(1),
    "conv2d": convolution(2),
    "convolution": any_convolution,
    "conv_transpose1d": transposed_convolution(1),
    "conv_transpose2d": transposed_convolution(2),
    "max_pool1d": max_pool(1),
    "max_pool2d": max_pool(2),
    "avg_pool1d": average_pool(1),
    "avg_pool2d": average_pool(2),
    "adaptive_avg_pool1d": adaptive("ReduceMean", 1),
    "adaptive_avg_pool2d": adaptive("ReduceMean", 2),
    "adaptive_max_pool1d": largest_of_all,
    "batch_norm": batch_norm,
    "_native_batch_norm_legit_no_training": without_training,
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "embedding": embedding,
    "gru.input": gru,
    "gru_cell": gru_cell,
    "rnn_tanh.input": rnn("Tanh"),
    "rnn_relu.input": rnn("Relu"),
    "rnn_tanh_cell": rnn_cell("Tanh"),
    "rnn_relu_cell": rnn_cell("Relu"),
}
