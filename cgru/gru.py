"""GRU and GRUCell: arguments checked, results made, and the work handed to an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.engines import HOST
from cgru.model.value import FACES
from cgru.parameters import Model
from cgru.recurrent import Recurrent

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

    from cgru.types import ActivationOption, ActivationOptions, Array


class GRU(Recurrent):
    """A stack of gated recurrent layers, called as `y, h_n = gru(x)`.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int
        L; each layer reads the states of the one below.
    bias : bool
        Whether there are two biases of 3H per layer and direction.
    batch_first : bool
        Whether x and y are (B, T, ...) and not (T, B, ...).
    dropout : float
        Share of states dropped between layers while training; inference does not use it.
    bidirectional : bool
        Whether a second set of weights reads each sequence from its last step to its first (D = 2, else 1).
    reset_after : bool
        Whether the reset gate acts after the recurrent product (PyTorch, cuDNN, Keras' default) or before it (the
        original paper, ONNX's default).
    update_gate : {"state", "candidate"}
        What the update gate z weighs: h' = (1-z) n + z h, or h' = (1-z) h + z n.
    activation, recurrent_activation : str or (str, float, float)
        Candidate's and gates' function, by name or as (name, alpha, beta): tanh, sigmoid, relu, hard_sigmoid, softsign,
        softplus, elu, leaky_relu, thresholded_relu, scaled_tanh, affine, linear, g (`MinGRU`'s). Formulas and default
        parameters are ONNX's; Keras 3's and PyTorch's hard sigmoid is ("hard_sigmoid", 1/6, 0.5). With two directions
        also a list of two, of which the second is the reverse direction's.
    clip : float, optional
        Bounds the activations' arguments to [-clip, clip].
    reverse : bool
        Whether a GRU of one direction reads each sequence from its last step to its first; y[t] still belongs to x[t].
    merge : {"concat", "sum"}
        What becomes of two directions' outputs: side by side, y (..., 2H), or added, y (..., H), in one layer.
    dtype : float32 or float64
        Of parameters, inputs and results.
    rng : int or numpy.random.Generator, optional
        Source of the initial parameters, uniform between -1/sqrt(H) and 1/sqrt(H).

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range; the message names it.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> gru = cgru.GRU(3, 8, num_layers=2, rng=0)
    >>> gru
    GRU(3, 8, num_layers=2)
    >>> y, h_n = gru(np.zeros((5, 4, 3), np.float32))   # T 5, B 4
    >>> y.shape, h_n.shape
    ((5, 4, 8), (2, 4, 8))
    >>> y, h_n = gru(np.zeros((5, 3), np.float32))      # one sequence
    >>> y.shape, h_n.shape
    ((5, 8), (2, 8))
    """

    kind = "GRU"

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
        reset_after: bool = True,
        update_gate: str = "state",
        activation: ActivationOptions = "tanh",
        recurrent_activation: ActivationOptions = "sigmoid",
        clip: float | None = None,
        reverse: bool = False,
        merge: str = "concat",
        dtype: npt.DTypeLike = np.float32,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(locals(), rng)

    def to_torch(self) -> Any:
        """A torch.nn.GRU of the same parameters.

        Raises
        ------
        cgru.FormatError
            torch.nn.GRU has no such option: reset gate before the product, other activations, clip.
        """
        from cgru.formats import FORMATS

        with FORMATS["torch"].using() as torch:
            return torch.to_torch(self._on_host())

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write an ONNX model of this GRU, with any number of steps and sequences; `cgru.from_onnx` reads it back.

        Its inputs are `x` and, optionally, `h0`, its outputs `y` and `h_n`, all shaped as in a call. The file appears
        whole or not at all. Dropout is not written. float64 is in the standard, but ONNX Runtime's CPU provider runs
        GRUs of float32 only. Needs the package onnx: pip install "cgru[onnx]".

        Raises
        ------
        cgru.FormatError
            ONNX has no such model: update_gate="candidate" with other gates than a sigmoid, numbers of activations or
            clip that float32 does not have in a float64 model, 2 GiB of weights.
        """
        from cgru.formats import FORMATS

        FORMATS["onnx"].save(self._on_host(), path)

    def to_keras(self) -> Any:
        """A Keras 3 layer of the same parameters, built, that returns whole sequences (B, T, D*H).

        A keras.layers.GRU; if bidirectional, one in a Bidirectional; several layers as a keras.Sequential.

        Raises
        ------
        cgru.FormatError
            Keras has no such option: clip, thresholded_relu, scaled_tanh, affine, other parameters of an activation.
        """
        from cgru.formats import FORMATS

        with FORMATS["keras"].using() as keras:
            return keras.to_keras(self._on_host())

    def to_rtneural(self, path: str | os.PathLike[str]) -> None:
        """Write a .json file that RTNeural reads, the library for neural networks in audio plugins.

        It holds the parameters, of a model without biases zeros, and no other options; `cgru.load` reads it back.

        Raises
        ------
        cgru.FormatError
            RTNeural has no such option: two directions, reset gate before the product, other activations, clip.
        """
        from cgru.formats import FORMATS

        FORMATS["rtneural"].save(self._on_host(), path)


class GRUCell(Model):
    """One step of one gated recurrent layer, called as `h = cell(x, h)`; options as in `GRU`.

    >>> import numpy as np, cgru
    >>> cell = cgru.GRUCell(3, 8, rng=0)
    >>> h = cell(np.ones((4, 3), np.float32))        # B 4, from the zero state
    >>> h = cell(np.ones((4, 3), np.float32), h)
    >>> h.shape
    (4, 8)
    """

    kind = "GRUCell"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        reset_after: bool = True,
        update_gate: str = "state",
        activation: ActivationOption = "tanh",
        recurrent_activation: ActivationOption = "sigmoid",
        clip: float | None = None,
        dtype: npt.DTypeLike = np.float32,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(locals(), rng)

    def _calibration(self, x: Array, h0: Array | None = None, lengths: Any = None) -> tuple[Array, Any, Any]:
        x = checks.array("x", x, self.dtype, (self.input_size,), ("B", self.input_size))
        if lengths is not None:
            raise TypeError(f"calibrate: expected (x, h) for a GRUCell, got lengths {lengths!r}")
        if h0 is not None:
            h0 = checks.array("h", h0, self.dtype, (*x.shape[:-1], self.hidden_size))
            h0 = h0.reshape(1, -1, self.hidden_size)
        return x.reshape(1, -1, self.input_size), h0, None

    def __call__(
        self, x: Array, h: Array | None = None, *, engine: str = "auto", num_threads: int | None = None
    ) -> Array:
        """The state after one step.

        Parameters
        ----------
        x : (B, I), or (I,) for one sequence
        h : (B, H) or (H,), optional
            The state before it; zero where absent. It is not changed.

        Returns
        -------
        h' : (B, H) or (H,)

        Raises
        ------
        TypeError, ValueError
            An argument does not fit.
        """
        value = self._value
        dtype, inputs, hidden = value.spec.dtype, value.spec.input_size, value.spec.hidden_size
        how = HOST.how(dtype, engine, num_threads)
        x = checks.array("x", x, dtype, (inputs,), ("B", inputs))
        if h is None:
            state = np.zeros((*x.shape[:-1], hidden), dtype)
        else:
            state = checks.array("h", h, dtype, (*x.shape[:-1], hidden)).copy()
        rows = state.reshape(1, -1, hidden)
        HOST.run(value.stack, x.reshape(1, -1, inputs), rows, np.empty_like(rows), None, how)
        return state

    def to_torch(self) -> Any:
        """A torch.nn.GRUCell of the same parameters; FormatError where that has no such option."""
        from cgru.formats import FORMATS

        with FORMATS["torch"].using() as torch:
            return torch.to_torch(self._on_host())

    def to_keras(self) -> Any:
        """A built keras.layers.GRUCell of the same parameters; FormatError where that has no such option."""
        from cgru.formats import FORMATS

        with FORMATS["keras"].using() as keras:
            return keras.to_keras(self._on_host())


FACES["GRU"] = GRU.of
FACES["GRUCell"] = GRUCell.of
