"""The specification: the gated recurrent unit in NumPy, to be read beside its equations.

One step of one layer, from the input x and the previous state h (Cho et al. 2014, section 2.3):

    r = f(W_r x + b_r + U_r h + c_r)                       reset gate
    z = f(W_z x + b_z + U_z h + c_z)                       update gate
    n = g(W_n x + b_n + r * (U_n h + c_n))                 candidate, reset gate after the product
    n = g(W_n x + b_n + U_n (r * h) + c_n)                 candidate, reset gate before the product
    h' = (1 - z) * n + z * h                               z weighs the state
    h' = (1 - z) * h + z * n                               z weighs the candidate

f is the recurrent activation (sigmoid), g the activation (tanh); `clip` bounds their arguments. Every engine of the
package is tested against this file, in float64 and float32. It computes in the dtype of its input.

With weights of int8, w = scale * q, the factors x, h and r * h of W x, U h and U_n (r * h) become integers,
too: p = round(127 x / m), m the largest |x| of the row, and W x = scale * m / 127 * sum(q p), the sum in integers.
Of weights in bfloat16 they may be rounded to bfloat16.

Shapes: T steps, B sequences, I inputs, H hidden units, L layers, D directions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgru import activations
from cgru.precision import Arithmetic, Matrix, integers, upper_half, wide

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from cgru.types import ActivationOption, Array

    Function = Callable[[Array], Array]

EXACT = Arithmetic()


def step(
    x: Array,  # (B, I)
    h: Array,  # (B, H)
    w: Array | Matrix,  # (3H, I), gates r, z, n
    u: Array | Matrix,  # (3H, H)
    b: Array,  # (3H,)
    c: Array,  # (3H,)
    *,
    reset_after: bool,
    update_gate: str,
    f: Function,
    g: Function,
    arithmetic: Arithmetic = EXACT,
) -> Array:
    """The state (B, H) after one step."""
    hidden = h.shape[-1]
    gates = [slice(k * hidden, (k + 1) * hidden) for k in range(3)]
    w_r, w_z, w_n = (w[rows] for rows in gates)
    u_r, u_z, u_n = (u[rows] for rows in gates)
    b_r, b_z, b_n = (b[rows] for rows in gates)
    c_r, c_z, c_n = (c[rows] for rows in gates)
    of_states = arithmetic._replace(input_limit=None)

    r = f(product(x, w_r, arithmetic) + b_r + product(h, u_r, of_states) + c_r)
    z = f(product(x, w_z, arithmetic) + b_z + product(h, u_z, of_states) + c_z)
    if reset_after:
        n = g(product(x, w_n, arithmetic) + b_n + r * (product(h, u_n, of_states) + c_n))
    else:
        n = g(product(x, w_n, arithmetic) + b_n + product(r * h, u_n, of_states) + c_n)
    if update_gate == "state":
        return (1 - z) * n + z * h
    return (1 - z) * h + z * n


def product(x: Array, weights: Array | Matrix, arithmetic: Arithmetic) -> Array:
    """W x for rows x (B, K) and weights (H, K)."""
    if isinstance(weights, Matrix) and weights.scale is not None:
        numbers, scale = integers(x.astype(np.float32), arithmetic.input_limit)
        sums = numbers.astype(np.int64) @ weights.numbers.T.astype(np.int64)
        return sums * (scale[:, None].astype(x.dtype) * weights.scale)
    if arithmetic.compute == "bfloat16":
        x = Matrix("bfloat16", upper_half(x.astype(np.float32))).wide().astype(x.dtype)
    return x @ wide(weights).T


def forward(
    x: Array,  # (T, B, I)
    parameters: Mapping[str, Array | Matrix],
    h0: Array | None = None,  # (L*D, B, H)
    *,
    lengths: npt.ArrayLike | None = None,  # (B,)
    mask: npt.NDArray[np.bool_] | None = None,  # (T, B)
    mask_output: str = "repeat",
    reset_after: bool = True,
    update_gate: str = "state",
    activation: ActivationOption = "tanh",
    recurrent_activation: ActivationOption = "sigmoid",
    clip: float | None = None,
    reverse: bool = False,
    merge: str = "concat",
    arithmetic: Arithmetic = EXACT,
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
    arithmetic : Arithmetic
        Of quantized models: the limit of x for weights of int8, whether factors are rounded to bfloat16.

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
    hidden = parameters["weight_hh_l0"].shape[1]
    layers = sum(name.startswith("weight_ih_l") and not name.endswith("_reverse") for name in parameters)
    directions = ["", "_reverse"] if "weight_ih_l0_reverse" in parameters else [""]
    if h0 is None:
        h0 = np.zeros((layers * len(directions), batch, hidden), x.dtype)
    last = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    seen = np.ones((steps, batch), bool) if mask is None else mask
    gate = activations.parse("recurrent_activation", recurrent_activation)
    candidate = activations.parse("activation", activation)
    f, g = _clipped(gate, clip), _clipped(candidate, clip)

    h_n = np.array(h0)
    y = x
    for layer in range(layers):
        outputs = []
        for d, direction in enumerate(directions):
            suffix = f"_l{layer}{direction}"
            w, u = parameters["weight_ih" + suffix], parameters["weight_hh" + suffix]
            zero = np.zeros(3 * hidden, x.dtype)
            b, c = (wide(parameters.get(name + suffix, zero)) for name in ("bias_ih", "bias_hh"))
            own = arithmetic._replace(input_limit=None) if layer else arithmetic
            h = h_n[layer * len(directions) + d]
            output = np.zeros((steps, batch, hidden), x.dtype)
            previous = np.zeros((batch, hidden), x.dtype)
            for t in reversed(range(steps)) if direction or reverse else range(steps):
                runs = (t < last) & seen[t]
                h[runs] = step(
                    y[t, runs], h[runs], w, u, b, c,
                    reset_after=reset_after, update_gate=update_gate, f=f, g=g, arithmetic=own,
                )  # fmt: skip
                output[t, runs] = h[runs]
                if mask_output == "repeat":
                    output[t, ~seen[t]] = previous[~seen[t]]
                previous = output[t]
            outputs.append(output)
        y = np.concatenate(outputs, axis=-1) if merge == "concat" else np.sum(outputs, axis=0)
    return y, h_n


def _clipped(function: activations.Activation, clip: float | None) -> Function:
    bound = np.inf if clip is None else clip
    return lambda x: function(np.clip(x, -bound, bound))
