"""Recurrent layers over the first axis of (T, B, I): GRU, by the equations of `cgru/model/cells/`, and the plain RNN.

A layer has one direction or two. Its output is (T, D, B, H), and the last states are (D, B, H).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.model import activations, reference
from cgru.model.nodes.table import Attribute, Operator, Recurrence, Sizes, require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cgru.model.activations import Activation
    from cgru.types import Array

NAMES = {
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "relu": "Relu",
    "hard_sigmoid": "HardSigmoid",
    "softsign": "Softsign",
    "softplus": "Softplus",
    "elu": "Elu",
    "leaky_relu": "LeakyRelu",
    "thresholded_relu": "ThresholdedRelu",
    "scaled_tanh": "ScaledTanh",
    "affine": "Affine",
}
"""Activations here, and in ONNX."""

PARAMETERS = {
    "activation_alpha": ("hard_sigmoid", "elu", "leaky_relu", "thresholded_relu", "scaled_tanh", "affine"),
    "activation_beta": ("hard_sigmoid", "scaled_tanh", "affine"),
}
"""The attributes that list parameters, and the functions that take the next of the list."""

DEFAULTED = ("hard_sigmoid", "elu", "leaky_relu")
"""Of these, the functions for which the standard and runtimes agree what holds where a list ends early."""


def functions(given: Sequence[str], number: int, alpha: Sequence[float], beta: Sequence[float]) -> list[Activation]:
    """The functions that a node's attributes name, of which there must be so many; ValueError naming the attribute."""
    known = {there.lower(): here for here, there in NAMES.items()}  # runtimes do not mind the case
    if len(given) != number or any(name.lower() not in known for name in given):
        raise ValueError(f"activations: expected {number} of {', '.join(NAMES.values())}, got {list(given)}")
    names = [known[name.lower()] for name in given]
    parameters = [[activations.FUNCTIONS[name].alpha, activations.FUNCTIONS[name].beta] for name in names]
    for position, (field, takers) in enumerate(PARAMETERS.items()):
        values = list((alpha, beta)[position])
        takes = [name in takers for name in names]
        if len(values) > sum(takes) > 0:
            expected = f"{sum(takes)}, as only {', '.join(takers)} take one"
            raise ValueError(f"{field}: expected {expected}, got {values}")
        for i, (name, taking) in enumerate(zip(names, takes, strict=True)):
            if taking and values:
                parameters[i][position] = values.pop(0)
            elif taking and name not in DEFAULTED:
                raise ValueError(f"{field}: expected a value for {NAMES[name]}, which has no agreed default")
    return [activations.parse("activations", (n, *p)) for n, p in zip(names, parameters, strict=True)]


def directions(direction: str) -> int:
    """D."""
    return 2 if direction == "bidirectional" else 1


def layer_shape(
    x: Sizes, w: Sizes, r: Sizes, b: Sizes | None = None, lengths: Sizes | None = None, h0: Sizes | None = None,
    *, gates: int, direction: str, hidden_size: int | None, layout: int, **options: Any,
) -> list[Sizes]:  # fmt: skip
    """(T, D, B, H) and (D, B, H), the batch first with layout 1; ValueError where inputs disagree."""
    require(len(x) == 3, "a sequence (T, B, I)", x)
    steps, batch, inputs = x if layout == 0 else (x[1], x[0], x[2])
    d, hidden = directions(direction), r[-1] if len(r) == 3 else 0
    rows = gates * hidden
    require(r == (d, rows, hidden) and hidden != 0, f"R ({d}, {gates}*H, H)", r)
    require(w == (d, rows, inputs), f"W ({d}, {rows}, {inputs}) for X of {inputs} inputs", w)
    require(b is None or b == (d, 2 * rows), f"B ({d}, {2 * rows})", b)
    require(hidden_size in (None, hidden), f"hidden_size {hidden} as of R", hidden_size)
    require(lengths is None or lengths == (batch,), f"sequence_lens ({batch},)", lengths)
    state = (d, batch, hidden) if layout == 0 else (batch, d, hidden)
    require(h0 is None or h0 == state, f"initial_h {state}", h0)
    return [(steps, d, batch, hidden) if layout == 0 else (batch, steps, d, hidden), state]


def _batch_major(run: Any) -> Any:
    """With layout 1, (B, T, I) in, (B, T, D, H) and (B, D, H) out."""

    def layer(x: Array, w: Array, r: Array, b: Array | None = None, lengths: Array | None = None,
              h0: Array | None = None, *, layout: int, **options: Any) -> tuple[Array, Array]:  # fmt: skip
        if layout == 0:
            return run(x, w, r, b, lengths, h0, **options)
        h0 = None if h0 is None else h0.swapaxes(0, 1)
        y, h_n = run(x.swapaxes(0, 1), w, r, b, lengths, h0, **options)
        return y.transpose(2, 0, 1, 3), h_n.swapaxes(0, 1)

    return layer


# --- GRU --------------------------------------------------------------------------------------------------------------


def reordered(array: Array) -> Array:
    """Rows z, r, h, as ONNX has them, as r, z, n, and the other way round."""
    z, r, n = np.split(array, 3)
    return np.concatenate([r, z, n])


def gru_parameters(w: Array, r: Array, b: Array | None) -> dict[str, Array]:
    """A node's weights under the names that `cgru.model.reference` and cgru.GRU have for them."""
    found: dict[str, Array] = {}
    for d, end in enumerate(("_l0", "_l0_reverse")[: len(w)]):
        found["weight_ih" + end], found["weight_hh" + end] = reordered(w[d]), reordered(r[d])
        if b is not None:
            found["bias_ih" + end], found["bias_hh" + end] = map(reordered, np.split(b[d], 2))
    return found


def gru_options(
    *, direction: str, linear_before_reset: int, activations: Any, activation_alpha: Any, activation_beta: Any,
    clip: float | None, **_: Any,
) -> dict[str, Any]:  # fmt: skip
    """A node's attributes as options of a cgru.GRU."""
    number = directions(direction)
    names = activations or ("Sigmoid", "Tanh") * number
    options = [f.option for f in functions(names, 2 * number, activation_alpha or (), activation_beta or ())]
    return {
        "reset_after": linear_before_reset != 0,
        "recurrent_activation": options[::2] if number == 2 else options[0],
        "activation": options[1::2] if number == 2 else options[1],
        "clip": clip,
        "reverse": direction == "reverse",
    }


@_batch_major
def gru(x: Array, w: Array, r: Array, b: Any, lengths: Any, h0: Any, *, hidden_size: Any, **options: Any) -> Any:
    """The layer's states (T, D, B, H), and the last ones (D, B, H)."""
    d = directions(options["direction"])
    y, h_n = reference.forward(x, gru_parameters(w, r, b), h0, lengths=lengths, **gru_options(**options))
    return np.stack(np.split(y, d, axis=-1), axis=1), h_n


def _gru_shape(*shapes: Any, **attributes: Any) -> list[Sizes]:
    gru_options(**attributes)
    return layer_shape(*shapes, gates=3, **attributes)


# --- RNN --------------------------------------------------------------------------------------------------------------


def _rnn_functions(direction: str, activations: Any, activation_alpha: Any, activation_beta: Any) -> list[Activation]:
    number = directions(direction)
    found = functions(activations or ("Tanh",) * number, number, activation_alpha or (), activation_beta or ())
    for function in found:
        require(function.name in ("tanh", "relu"), "activations Tanh or Relu", NAMES[function.name])
    return found


@_batch_major
def rnn(
    x: Array, w: Array, r: Array, b: Any, lengths: Any, h0: Any,
    *, direction: str, clip: float | None, hidden_size: Any, **options: Any,
) -> tuple[Array, Array]:  # fmt: skip
    """h' = f(W x + b + R h + c): the states (T, D, B, H), and the last ones (D, B, H)."""
    steps, batch, _ = x.shape
    d, hidden = directions(direction), r.shape[-1]
    bound = np.inf if clip is None else clip
    last = np.full(batch, steps) if lengths is None else lengths
    h_n = np.zeros((d, batch, hidden), x.dtype) if h0 is None else h0.copy()
    y = np.zeros((steps, d, batch, hidden), x.dtype)
    for k, f in enumerate(_rnn_functions(direction, **options)):
        bias = 0 if b is None else b[k, :hidden] + b[k, hidden:]
        backward = direction == "reverse" or k == 1
        for t in reversed(range(steps)) if backward else range(steps):
            runs = t < last
            sums = x[t, runs] @ w[k].T + h_n[k, runs] @ r[k].T + bias
            y[t, k, runs] = h_n[k, runs] = f(np.clip(sums, -bound, bound))
    return y, h_n


def _rnn_shape(*shapes: Any, direction: str, clip: Any, hidden_size: Any, layout: int, **options: Any) -> list[Sizes]:
    _rnn_functions(direction, **options)
    return layer_shape(*shapes, gates=1, direction=direction, hidden_size=hidden_size, layout=layout)


# --- The table --------------------------------------------------------------------------------------------------------

ATTRIBUTES = {
    "activations": Attribute("texts", None),
    "activation_alpha": Attribute("floats", None),
    "activation_beta": Attribute("floats", None),
    "clip": Attribute("float", None),
    "direction": Attribute("text", "forward", choices=("forward", "reverse", "bidirectional")),
    "hidden_size": Attribute("int", None),
    "layout": Attribute("int", 0, choices=(0, 1)),
}


RECURRENCE = Recurrence(
    initial=5,
    lengths=4,
    time=lambda layout, **attributes: layout,
    backwards=lambda direction, **attributes: direction != "forward",
)


def _over(x: Sizes, *others: Any, layout: int, **attributes: Any) -> tuple[int, ...]:
    return (layout,)


def _settled(x: Sizes, w: Sizes, r: Sizes, *others: Any, **attributes: Any) -> dict[str, Any]:
    return {"hidden_size": r[-1]}


def _types(types: Any, **attributes: Any) -> Any:
    return [types[0]] * 2


OPERATORS = {
    "GRU": Operator(
        gru,
        _gru_shape,
        ("f", "f", "f", "f", "i", "f"),
        (3, 6),
        (1, 2),
        ATTRIBUTES | {"linear_before_reset": Attribute("int", 0)},
        types=_types,
        over=_over,
        settled=_settled,
        recurrence=RECURRENCE,
    ),
    "RNN": Operator(
        rnn,
        _rnn_shape,
        ("f", "f", "f", "f", "i", "f"),
        (3, 6),
        (1, 2),
        ATTRIBUTES,
        types=_types,
        over=_over,
        settled=_settled,
        recurrence=RECURRENCE,
    ),
}
