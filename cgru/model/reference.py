"""The specification: recurrent layers over sequences in NumPy, a step of a cell after the other.

The equations of a step and of its gradient are those of `cells/gru.py` and its siblings; here are layers, directions,
lengths, masks and time. Every engine of the package is tested against this file, in float64 and float32. It computes in
the dtype of its input.

With weights of int8, w = scale * q, the factors x, h and r * h of W x, U h and U_n (r * h) become integers, too:
p = round(127 x / m), m the largest |x| of the row, and W x = scale * m / 127 * sum(q p), the sum in integers. Before
they meet weights of bfloat16 they may be rounded to it.

Shapes: T steps, B sequences, I inputs, H hidden units, L layers, D directions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.model.activations import of_direction
from cgru.model.cells import CELLS
from cgru.model.cells.common import EXACT
from cgru.model.cells.gru import step, step_backward

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from cgru.model.cells import Cell
    from cgru.model.precision import Arithmetic, Matrix
    from cgru.types import Array

__all__ = ["backward", "forward", "step", "step_backward"]


def forward(
    x: Array,  # (T, B, I)
    parameters: Mapping[str, Array | Matrix],
    h0: Array | None = None,  # (L*D, B, H)
    *,
    lengths: npt.ArrayLike | None = None,  # (B,)
    mask: npt.NDArray[np.bool_] | None = None,  # (T, B)
    mask_output: str = "repeat",
    resets: npt.NDArray[np.bool_] | None = None,  # (T, B)
    resets_to: str = "zero",
    reverse: bool = False,
    merge: str = "concat",
    arithmetic: Arithmetic = EXACT,
    factors: Sequence[Array] | None = None,  # [L - 1] of (T, B, D*H)
    cell: str = "gru",
    **options: Any,
) -> tuple[Array, Array]:
    """Run a stack of layers over sequences.

    Parameters
    ----------
    x : (T, B, I)
        Sequences, time first.
    parameters : mapping
        `weight_ih_l0` (3H, I), `weight_hh_l0` (3H, H), `bias_ih_l0` and `bias_hh_l0` (3H,), gates in the order r, z, n;
        further layers as `_l1`, ..., a second direction as `_l0_reverse`, ...; biases may be absent. The number of
        layers and directions is read off the names.
    h0 : (L*D, B, H), optional
        Initial states; zero where absent.
    lengths : (B,), optional
        Steps of each sequence. Past its length a sequence's output is 0 and its state stands still; the reverse
        direction starts at its last step.
    mask : (T, B) bool, optional
        Where it is False a layer's state stands still, and its output is the one before it in the direction's order, or
        0 where there is none (`mask_output="repeat"`), or 0 throughout (`mask_output="zero"`).
    resets : (T, B) bool, optional
        Where it is True a sequence starts anew: a layer's state becomes 0 before that step, or h0 with
        `resets_to="h0"`. The reverse direction has the same pieces, and starts anew at the last step of each but the
        last, whose first state is h0.
    arithmetic : Arithmetic
        Of quantized models: the limit of x for weights of int8, whether factors are rounded to bfloat16.
    factors : of each layer but the last (T, B, D*H), optional
        What its outputs are multiplied by on their way to the next layer: dropout's mask over the share kept.
    cell : str
        Whose equations a step has: "gru" or "mingru", whose parameters have no weight_hh and bias_hh.
    options
        Of the cell, named as the public class' and with its defaults: reset_after, update_gate, activation,
        recurrent_activation, clip.

    Returns
    -------
    y : (T, B, D*H)
        The last layer's states, both directions side by side.
    h_n : (L*D, B, H)
        Every layer's and direction's last state.

    Examples
    --------
    >>> import numpy as np
    >>> zero = {"weight_ih_l0": np.zeros((6, 3)), "weight_hh_l0": np.zeros((6, 2))}
    >>> y, h_n = forward(np.ones((4, 1, 3)), zero, np.full((1, 1, 2), 8.0))   # r = z = 1/2, n = 0: halves each step
    >>> y[:, 0, 0]
    array([4. , 2. , 1. , 0.5])
    """
    steps, batch, _ = x.shape
    equations = CELLS[cell]
    hidden = parameters["weight_ih_l0"].shape[0] // equations.GATES
    layers, directions = _layers_and_directions(parameters)
    if h0 is None:
        h0 = np.zeros((layers * len(directions), batch, hidden), x.dtype)
    last = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    seen = np.ones((steps, batch), bool) if mask is None else mask
    firsts = _firsts(resets, last, steps)
    conventions = [equations.conventions(**of_direction(options, d)) for d in range(len(directions))]

    h_n = np.array(h0)
    y = x
    for layer in range(layers):
        outputs = []
        for d, direction in enumerate(directions):
            weights = _weights(equations, parameters, f"_l{layer}{direction}")
            own = arithmetic._replace(input_limit=None) if layer else arithmetic
            h = h_n[layer * len(directions) + d]
            start = h.copy() if resets_to == "h0" else np.zeros_like(h)
            output = np.zeros((steps, batch, hidden), x.dtype)
            previous = np.zeros((batch, hidden), x.dtype)
            for t in reversed(range(steps)) if direction or reverse else range(steps):
                runs = (t < last) & seen[t]
                fresh = firsts[t + 1 if direction or reverse else t]
                h[fresh] = start[fresh]
                h[runs] = equations.step(y[t, runs], h[runs], *weights, **conventions[d], arithmetic=own)
                output[t, runs] = h[runs]
                if mask_output == "repeat":
                    output[t, ~seen[t]] = previous[~seen[t]]
                previous = output[t]
            outputs.append(output)
        y = np.concatenate(outputs, axis=-1) if merge == "concat" else np.sum(outputs, axis=0)
        if factors is not None and layer < layers - 1:
            y = y * factors[layer]
    return y, h_n


def backward(
    x: Array,  # (T, B, I)
    parameters: Mapping[str, Array],
    h0: Array,  # (L*D, B, H)
    grad_y: Array,  # (T, B, D*H)
    grad_h_n: Array,  # (L*D, B, H)
    *,
    lengths: npt.ArrayLike | None = None,  # (B,)
    resets: npt.NDArray[np.bool_] | None = None,  # (T, B)
    resets_to: str = "zero",
    reverse: bool = False,
    merge: str = "concat",
    factors: Sequence[Array] | None = None,  # [L - 1] of (T, B, D*H)
    cell: str = "gru",
    **options: Any,
) -> tuple[Array, Array, dict[str, Array]]:
    """The gradients of a loss by all that `forward` took, from those by what it gave.

    Parameters
    ----------
    grad_y, grad_h_n
        The loss' gradients by y and h_n. A sequence's y past its length is no function of anything.
    x, parameters, h0, and the options
        As of `forward`.

    Returns
    -------
    grad_x : (T, B, I)
    grad_h0 : (L*D, B, H)
    gradients : dict
        By the parameters' names.

    Examples
    --------
    >>> import numpy as np
    >>> zero = {"weight_ih_l0": np.zeros((6, 3)), "weight_hh_l0": np.zeros((6, 2))}
    >>> ones = np.ones((1, 1, 2))
    >>> backward(np.ones((3, 1, 3)), zero, ones, np.zeros((3, 1, 2)), ones)[1]   # halves each step
    array([[[0.125, 0.125]]])
    """
    steps, batch, _ = x.shape
    equations, hidden = CELLS[cell], h0.shape[2]
    layers, directions = _layers_and_directions(parameters)
    last = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    firsts = _firsts(resets, last, steps)
    conventions = [equations.conventions(**of_direction(options, d)) for d in range(len(directions))]
    gradients = {name: np.zeros_like(array) for name, array in parameters.items()}
    grad_h0 = np.array(grad_h_n)
    for layer in reversed(range(layers)):
        below = {name: array for name, array in parameters.items() if int(name.split("_l")[1].split("_")[0]) < layer}
        inputs = x
        if layer:
            inputs, _ = forward(
                x, below, h0[: layer * len(directions)], lengths=last, resets=resets, resets_to=resets_to,
                reverse=reverse, factors=factors, cell=cell, **options,
            )  # fmt: skip
            inputs = inputs if factors is None else inputs * factors[layer - 1]  # forward left its last layer as it was
        grad_inputs = np.zeros_like(inputs)
        for d, direction in enumerate(directions):
            suffix, row = f"_l{layer}{direction}", layer * len(directions) + d
            weights = _weights(equations, parameters, suffix)
            order = list(reversed(range(steps)) if direction or reverse else range(steps))
            h, before = np.array(h0[row]), []  # the state before each step
            start = h.copy() if resets_to == "h0" else np.zeros_like(h)
            by_start = np.zeros_like(h)
            for t in order:
                fresh = firsts[t + 1 if direction or reverse else t]
                h[fresh] = start[fresh]
                before.append(h.copy())
                runs = t < last
                h[runs] = equations.step(inputs[t, runs], h[runs], *weights, **conventions[d])
            e = grad_h0[row]
            part = slice(0, hidden) if merge == "sum" else slice(d * hidden, (d + 1) * hidden)
            for t, h in zip(reversed(order), reversed(before), strict=True):
                runs = t < last
                by_x, by_h, *by_weights = equations.step_backward(
                    e[runs] + grad_y[t, runs, part], inputs[t, runs], h[runs], *weights, **conventions[d]
                )
                grad_inputs[t, runs] += by_x
                e[runs] = by_h
                fresh = firsts[t + 1 if direction or reverse else t]
                by_start[fresh] += e[fresh]
                e[fresh] = 0
                for name, by_weight in zip(equations.PARAMETERS, by_weights, strict=True):
                    if name + suffix in gradients:
                        gradients[name + suffix] += by_weight
            if resets_to == "h0":
                e += by_start
        grad_y = grad_inputs if factors is None or not layer else grad_inputs * factors[layer - 1]
    return grad_inputs, grad_h0, gradients


def _firsts(resets: npt.NDArray[np.bool_] | None, last: Array, steps: int) -> npt.NDArray[np.bool_]:
    """The first steps (T + 1, B) of pieces, none past a sequence's end."""
    firsts = np.zeros((steps + 1, len(last)), bool)
    if resets is not None:
        firsts[:-1] = resets & (np.arange(steps)[:, None] < last)
    return firsts


def _layers_and_directions(parameters: Mapping[str, Array | Matrix]) -> tuple[int, list[str]]:
    layers = sum(name.startswith("weight_ih_l") and not name.endswith("_reverse") for name in parameters)
    return layers, ["", "_reverse"] if "weight_ih_l0_reverse" in parameters else [""]


def _weights(cell: Cell, parameters: Mapping[str, Array | Matrix], suffix: str) -> list[Any]:
    """The parameters of one direction of one layer, as a step takes them; absent biases are zero."""
    w = parameters["weight_ih" + suffix]
    zero = np.zeros(w.shape[0], w.dtype)
    return [parameters.get(name + suffix, zero) for name in cell.PARAMETERS]
