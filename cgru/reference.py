"""The specification: the gated recurrent unit in NumPy, to be read beside its equations.

One step of one layer, from the input x and the previous state h (Cho et al. 2014, section 2.3):

    r = f(W_r x + b_r + U_r h + c_r)                       reset gate
    z = f(W_z x + b_z + U_z h + c_z)                       update gate
    n = g(W_n x + b_n + r * (U_n h + c_n))                 candidate, reset gate after the product
    n = g(W_n x + b_n + U_n (r * h) + c_n)                 candidate, reset gate before the product
    h' = (1 - z) * n + z * h                               z weighs the state
    h' = (1 - z) * h + z * n                               z weighs the candidate

f is the recurrent activation (sigmoid), g the activation (tanh); `clip` bounds their arguments.

The gradient of a loss, backwards through the same step (the chain rule applied to the equations line by line, from
the last one up; through time as in Werbos 1990). With e the loss' gradient by h', and d_v its gradient by v:

    d_n = e * (1 - z)       d_z = e * (h - n)       d_h = e * z             z weighs the state
    d_n = e * z             d_z = e * (n - h)       d_h = e * (1 - z)       z weighs the candidate
    a_n = d_n * g'          a_z = d_z * f'                                  by the arguments of g and f
    d_r = a_n * (U_n h + c_n)     p = a_n * r                               reset gate after; p: by U_n h + c_n
    d_r = (U_n' a_n) * h          p = a_n      d_h += (U_n' a_n) * r        reset gate before
    a_r = d_r * f'
    d_x  = W_r' a_r + W_z' a_z + W_n' a_n
    d_h += U_r' a_r + U_z' a_z (+ U_n' p after)
    d_W = [a_r, a_z, a_n] x'      d_b = [a_r, a_z, a_n]
    d_U = [a_r, a_z, p] h'        d_c = [a_r, a_z, p]                       U_n before: p (r * h)'

A bounded argument that lies outside [-clip, clip] has the derivative 0.

Every engine of the package is tested against this file, in float64 and float32. It computes in the dtype of its input.

With weights of int8, w = scale * q, the factors x, h and r * h of W x, U h and U_n (r * h) become integers, too:
p = round(127 x / m), m the largest |x| of the row, and W x = scale * m / 127 * sum(q p), the sum in integers. Before
they meet weights of bfloat16 they may be rounded to it.

Shapes: T steps, B sequences, I inputs, H hidden units, L layers, D directions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgru import activations
from cgru.precision import Arithmetic, Matrix, integers, upper_half, wide

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from cgru.types import ActivationOption, Array


class Bounded(NamedTuple):
    """An activation whose argument is bounded to [-bound, bound]."""

    function: activations.Activation
    bound: float

    def __call__(self, x: Array) -> Array:
        """f(x)."""
        return self.function(np.clip(x, -self.bound, self.bound))

    def derivative(self, x: Array) -> Array:
        """f'(x)."""
        return np.where(np.abs(x) > self.bound, 0, self.function.derivative(x))


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
    f: Bounded,
    g: Bounded,
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


def step_backward(
    e: Array,  # (B, H), the loss' gradient by the state after the step
    x: Array,  # (B, I)
    h: Array,  # (B, H), the state before it
    w: Array,  # (3H, I), gates r, z, n
    u: Array,  # (3H, H)
    b: Array,  # (3H,)
    c: Array,  # (3H,)
    *,
    reset_after: bool,
    update_gate: str,
    f: Bounded,
    g: Bounded,
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """The loss' gradients by x, h, w, u, b and c."""
    w_r, w_z, w_n = np.split(w, 3)
    u_r, u_z, u_n = np.split(u, 3)
    b_r, b_z, b_n = np.split(b, 3)
    c_r, c_z, c_n = np.split(c, 3)

    at_r = x @ w_r.T + b_r + h @ u_r.T + c_r
    at_z = x @ w_z.T + b_z + h @ u_z.T + c_z
    r, z = f(at_r), f(at_z)
    if reset_after:
        product = h @ u_n.T + c_n
        at_n = x @ w_n.T + b_n + r * product
    else:
        at_n = x @ w_n.T + b_n + (r * h) @ u_n.T + c_n
    n = g(at_n)

    if update_gate == "state":
        d_n, d_z, d_h = e * (1 - z), e * (h - n), e * z
    else:
        d_n, d_z, d_h = e * z, e * (n - h), e * (1 - z)
    a_n = d_n * g.derivative(at_n)
    a_z = d_z * f.derivative(at_z)
    if reset_after:
        d_r, p = a_n * product, a_n * r
    else:
        d_r, p = (a_n @ u_n) * h, a_n
    a_r = d_r * f.derivative(at_r)
    d_h = d_h + a_r @ u_r + a_z @ u_z + (p @ u_n if reset_after else (a_n @ u_n) * r)

    d_b = np.concatenate([a_r, a_z, a_n], axis=1)
    d_c = np.concatenate([a_r, a_z, p], axis=1)
    d_u = np.concatenate([a_r.T @ h, a_z.T @ h, p.T @ (h if reset_after else r * h)])
    return d_b @ w, d_h, d_b.T @ x, d_u, d_b.sum(axis=0), d_c.sum(axis=0)


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
    factors: Sequence[Array] | None = None,  # [L - 1] of (T, B, D*H)
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
    factors : of each layer but the last (T, B, D*H), optional
        What its outputs are multiplied by on their way to the next layer: dropout's mask over the share kept.

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
    layers, directions = _layers_and_directions(parameters)
    if h0 is None:
        h0 = np.zeros((layers * len(directions), batch, hidden), x.dtype)
    last = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    seen = np.ones((steps, batch), bool) if mask is None else mask
    conventions = _conventions(reset_after, update_gate, activation, recurrent_activation, clip)

    h_n = np.array(h0)
    y = x
    for layer in range(layers):
        outputs = []
        for d, direction in enumerate(directions):
            weights = _weights(parameters, f"_l{layer}{direction}")
            own = arithmetic._replace(input_limit=None) if layer else arithmetic
            h = h_n[layer * len(directions) + d]
            output = np.zeros((steps, batch, hidden), x.dtype)
            previous = np.zeros((batch, hidden), x.dtype)
            for t in reversed(range(steps)) if direction or reverse else range(steps):
                runs = (t < last) & seen[t]
                h[runs] = step(y[t, runs], h[runs], *weights, **conventions, arithmetic=own)
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
    reset_after: bool = True,
    update_gate: str = "state",
    activation: ActivationOption = "tanh",
    recurrent_activation: ActivationOption = "sigmoid",
    clip: float | None = None,
    reverse: bool = False,
    merge: str = "concat",
    factors: Sequence[Array] | None = None,  # [L - 1] of (T, B, D*H)
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
    hidden = h0.shape[2]
    layers, directions = _layers_and_directions(parameters)
    last = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    conventions = _conventions(reset_after, update_gate, activation, recurrent_activation, clip)
    gradients = {name: np.zeros_like(array) for name, array in parameters.items()}
    grad_h0 = np.array(grad_h_n)
    for layer in reversed(range(layers)):
        below = {name: array for name, array in parameters.items() if int(name.split("_l")[1].split("_")[0]) < layer}
        inputs = x
        if layer:
            inputs, _ = forward(
                x, below, h0[: layer * len(directions)], lengths=last, reverse=reverse, factors=factors,
                reset_after=reset_after, update_gate=update_gate, activation=activation,
                recurrent_activation=recurrent_activation, clip=clip,
            )  # fmt: skip
            inputs = inputs if factors is None else inputs * factors[layer - 1]  # forward left its last layer as it was
        grad_inputs = np.zeros_like(inputs)
        for d, direction in enumerate(directions):
            suffix, row = f"_l{layer}{direction}", layer * len(directions) + d
            weights = _weights(parameters, suffix)
            order = list(reversed(range(steps)) if direction or reverse else range(steps))
            h, before = np.array(h0[row]), []  # the state before each step
            for t in order:
                before.append(h.copy())
                runs = t < last
                h[runs] = step(inputs[t, runs], h[runs], *weights, **conventions)
            e = grad_h0[row]
            part = slice(0, hidden) if merge == "sum" else slice(d * hidden, (d + 1) * hidden)
            for t, h in zip(reversed(order), reversed(before), strict=True):
                runs = t < last
                by_x, by_h, *by_weights = step_backward(
                    e[runs] + grad_y[t, runs, part], inputs[t, runs], h[runs], *weights, **conventions
                )
                grad_inputs[t, runs] += by_x
                e[runs] = by_h
                for name, by_weight in zip(NAMES, by_weights, strict=True):
                    if name + suffix in gradients:
                        gradients[name + suffix] += by_weight
        grad_y = grad_inputs if factors is None or not layer else grad_inputs * factors[layer - 1]
    return grad_inputs, grad_h0, gradients


NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _layers_and_directions(parameters: Mapping[str, Array | Matrix]) -> tuple[int, list[str]]:
    layers = sum(name.startswith("weight_ih_l") and not name.endswith("_reverse") for name in parameters)
    return layers, ["", "_reverse"] if "weight_ih_l0_reverse" in parameters else [""]


def _weights(parameters: Mapping[str, Array | Matrix], suffix: str) -> list[Any]:
    """The weights and biases of one direction of one layer; absent biases are zero."""
    w = parameters["weight_ih" + suffix]
    zero = np.zeros(w.shape[0], w.dtype)
    return [parameters.get(name + suffix, zero) for name in NAMES]


def _conventions(
    reset_after: bool,
    update_gate: str,
    activation: ActivationOption,
    recurrent_activation: ActivationOption,
    clip: float | None,
) -> dict[str, Any]:
    """What a step has to know beside its numbers."""
    bound = np.inf if clip is None else clip
    return {
        "reset_after": reset_after,
        "update_gate": update_gate,
        "f": Bounded(activations.parse("recurrent_activation", recurrent_activation), bound),
        "g": Bounded(activations.parse("activation", activation), bound),
    }
