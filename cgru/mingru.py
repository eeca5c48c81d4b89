"""MinGRU: the minimal gated recurrent unit as a stack of layers, with all that a GRU has around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgru.model.value import FACES
from cgru.recurrent import Recurrent

if TYPE_CHECKING:
    import numpy.typing as npt

    from cgru.types import ActivationOptions


class MinGRU(Recurrent):
    """A stack of minimal gated recurrent layers, called as `y, h_n = model(x)`.

    z = sigmoid(W_z x + b_z), n = g(W_n x + b_n), h' = (1 - z) h + z n: gates and candidate see the input alone, so a
    step has no recurrent product (Feng et al. 2024, "Were RNNs all we needed?").

    Calls, `record`, `stream`, `pool`, `quantize` and `save` are those of `cgru.GRU`. Parameters are `weight_ih_l0`
    (2H, I) and `bias_ih_l0` (2H,), rows z and then n; further layers `_l1`, ..., a reverse direction `_l0_reverse`.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    activation : str or (str, float, float)
        The candidate's function: "g", the paper's positive one, x + 1/2 from 0 on and sigmoid(x) left of it; or any of
        `cgru.GRU`, "linear" being the paper's simpler form.
    num_layers, bias, batch_first, dropout, bidirectional, recurrent_activation, clip, reverse, merge, dtype, rng
        As of `cgru.GRU`; there is one bias.

    Raises
    ------
    TypeError, ValueError
        An option is of the wrong kind or out of range; the message names it.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> model = cgru.MinGRU(40, 64)
    >>> y, h_n = model(np.zeros((100, 8, 40), np.float32))
    >>> y.shape, h_n.shape
    ((100, 8, 64), (1, 8, 64))
    >>> {name: array.shape for name, array in model.state_dict().items()}
    {'weight_ih_l0': (128, 40), 'bias_ih_l0': (128,)}
    """

    kind = "MinGRU"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        activation: ActivationOptions = "g",
        recurrent_activation: ActivationOptions = "sigmoid",
        clip: float | None = None,
        reverse: bool = False,
        merge: str = "concat",
        dtype: npt.DTypeLike = np.float32,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(locals(), rng)


FACES["MinGRU"] = MinGRU.of
