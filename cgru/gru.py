"""GRU and GRUCell: arguments checked, results made, and the work handed to an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks, engines
from cgru.engines import HOST
from cgru.model.value import FACES
from cgru.parameters import Model
from cgru.run import arguments

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

    from cgru.engines.interface import Engine
    from cgru.run.pool import StreamPool
    from cgru.run.stream import ArrayStream, Stream
    from cgru.run.tape import Tape
    from cgru.types import ActivationOption, Array


class GRU(Model):
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
        softplus, elu, leaky_relu, thresholded_relu, scaled_tanh, affine, linear. Formulas and default parameters are
        ONNX's; Keras 3's and PyTorch's hard sigmoid is ("hard_sigmoid", 1/6, 0.5).
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
    num_layers: int
    batch_first: bool
    dropout: float
    bidirectional: bool
    reverse: bool
    merge: str

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
        activation: ActivationOption = "tanh",
        recurrent_activation: ActivationOption = "sigmoid",
        clip: float | None = None,
        reverse: bool = False,
        merge: str = "concat",
        dtype: npt.DTypeLike = np.float32,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(locals(), rng)

    def _calibration(self, x: Array, h0: Array | None = None, lengths: Any = None) -> tuple[Array, Any, Any]:
        x, h, last = arguments.of_call(self.spec, HOST, x, h0, lengths)
        return arguments.time_first(self.spec, x), h, last

    def __call__(
        self,
        x: Array,
        h0: Array | None = None,
        *,
        lengths: npt.ArrayLike | None = None,
        mask: npt.NDArray[np.bool_] | None = None,
        mask_output: str = "repeat",
        out: Array | None = None,
        engine: str = "auto",
        num_threads: int | None = None,
    ) -> tuple[Array, Array]:
        """Run sequences through the layers.

        Parameters
        ----------
        x : (T, B, I), with batch_first (B, T, I), or (T, I) for one sequence
            Of the model's dtype; any strides.
        h0 : (L*D, B, H), or (L*D, H) for one sequence, optional
            Initial states; zero where absent.
        lengths : (B,) integers from 0 to T, optional
            Steps of each sequence, in any order. Past its length a sequence's y is 0 and its state stands still; the
            reverse direction starts at its last step.
        mask : bool, x's shape without I, optional
            False leaves a step out, anywhere in a sequence, as Keras does: every layer's state stands still there, and
            the next step goes on from it. Not beside lengths.
        mask_output : {"repeat", "zero"}
            What y holds at a step left out: the output before it in the direction's order, 0 where there is none; or 0,
            as in Keras with zero_output_for_mask and in its Bidirectional.
        out : array of y's shape, optional
            Where to write y; must not overlap x, h0 or mask.
        engine : {"auto", "packed", "blas"}
            "auto" is "packed" for float32 and "blas" for float64.
        num_threads : int, optional
            Threads this call may use; `cgru.get_num_threads()` where absent.

        Returns
        -------
        y : (T, B, D*H), (B, T, D*H) or (T, D*H)
            The last layer's states at every step, H wide with merge="sum"; `out` where that is given.
        h_n : (L*D, B, H) or (L*D, H)
            The state of every layer and direction after its last step.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; nothing has been written then.
        """
        device = self._engine
        if mask is not None:
            device.refuse(mask=mask)
            from cgru.run import masks

            return masks.run(
                self, x, h0, mask, mask_output, lengths=lengths, out=out, engine=engine, num_threads=num_threads
            )
        value = self._value
        spec = value.spec
        how = device.how(spec.dtype, engine, num_threads)
        concat = spec.merge == "concat"
        if lengths is None and out is None and concat:
            result = device.call(value.stack, x, h0, spec.batch_first, how)
            if result is not None:  # the usual arguments: no more to check
                return result
        with device.use():
            x, h_n, last = arguments.of_call(spec, device, x, h0, lengths)
            shape = (*x.shape[:-1], spec.width)
            if out is None:
                y = device.xp.empty(shape, spec.dtype)
            else:
                y = device.output(out, spec.dtype, shape, {"x": x, "h0": h0})
            direct = concat and (device.strided or y.strides[-1] == y.itemsize or y.size == 0)
            written = y if direct else device.xp.empty((*shape[:-1], spec.directions * spec.hidden_size), spec.dtype)
            steps = arguments.time_first(spec, x), arguments.time_first(spec, written)
            device.run(value.stack, steps[0], h_n, steps[1], last, how)
            if not concat:
                y[...] = written[..., : spec.hidden_size] + written[..., spec.hidden_size :]
            elif not direct:
                y[...] = written
            return y, h_n[:, 0] if x.ndim == 2 else h_n

    def record(
        self,
        x: Array,
        h0: Array | None = None,
        *,
        lengths: npt.ArrayLike | None = None,
        rng: int | np.random.Generator | None = None,
        memory: int | None = None,
        engine: str = "auto",
        num_threads: int | None = None,
    ) -> tuple[Array, Array, Tape]:
        """Run sequences through the layers as a call does, and keep what their gradients need.

        Dropout between layers acts here, and not in a call: each output of a layer but the last is zero with that
        probability, or multiplied by 1 / (1 - dropout).

        Parameters
        ----------
        x, h0, lengths, num_threads
            As in a call. x is copied: its memory may be used again before the way back.
        rng : int or numpy.random.Generator, optional
            Source of dropout's masks; anew each time where absent.
        memory : int, optional
            Bytes that gates may take, four values a unit, step and sequence. Where those of the whole call are more,
            they are computed again on the way back, of so many steps at a time as that holds: a third more work. The
            states stay in memory, one value each. Without it all are kept.

        Returns
        -------
        y, h_n
            As of a call; y is read-only, since the way back reads it, but with merge="sum".
        tape : Tape
            `grads = tape.backward(grad_y, grad_h_n)`. To train on a long sequence piece by piece, pass h_n on as the
            next piece's h0.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit.
        RuntimeError
            The model is quantized.

        Examples
        --------
        >>> import numpy as np, cgru
        >>> gru, x = cgru.GRU(3, 8, rng=0), np.ones((5, 4, 3), np.float32)
        >>> losses = []
        >>> for _ in range(20):                             # y is to become 0.5
        ...     y, _, tape = gru.record(x)
        ...     losses.append(float(np.sum((y - 0.5) ** 2)))
        ...     grads = tape.backward(2 * (y - 0.5))
        ...     gru.load_state_dict({name: w - 0.01 * grads[name] for name, w in gru.state_dict().items()})
        >>> losses[-1] < 0.3 * losses[0]
        True
        """
        from cgru.run import tape

        return tape.record(self, x, h0, lengths=lengths, rng=rng, memory=memory, engine=engine, num_threads=num_threads)

    def stream(self, batch_size: int | None = None) -> Stream | ArrayStream:
        """A stream of this model: state kept between calls, for sequences that arrive step by step.

        It keeps the weights that the model has now.

        Parameters
        ----------
        batch_size : int, optional
            So many sequences in lockstep: step takes (B, I) and gives (B, H). Without it one: (I,) and (H,).

        Raises
        ------
        ValueError
            The model is bidirectional or reverse: it begins at the last step of a whole sequence.
        """
        from cgru.run import stream

        return stream.make(self, batch_size)

    def pool(self, capacity: int) -> StreamPool:
        """Room for that many independent streams, any of which may be stepped together; see `StreamPool`.

        It keeps the weights that the model has now.
        """
        from cgru.run import pool

        return pool.StreamPool(self, capacity)

    @property
    def device(self) -> str:
        """Where the model is: "cpu", or "cuda:0" and so on."""
        return self._engine.name

    def to(self, device: str) -> GRU:
        """This model on a device: itself where it is there already, else a copy.

        On a GPU it takes and gives CuPy arrays, on CuPy's current stream, and parameters are CuPy arrays, too. Needs
        CuPy: pip install "cgru[cuda12]" or "cgru[cuda13]".

        Parameters
        ----------
        device : {"cpu", "cuda", "cuda:N"}

        Raises
        ------
        ValueError
            Another name of a device.
        RuntimeError
            CuPy, a driver or the device is missing; the message says which.

        Examples
        --------
        >>> import cgru
        >>> cgru.GRU(3, 8).to("cpu").device
        'cpu'
        """
        return self if engines.name_of(device) == self.device else self.on(engines.on(device))

    def on(self, engine: Engine) -> GRU:
        """A copy of this model on an engine."""
        return self.of(engine.take(self._engine.to_host(self._value)), engine)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .safetensors file with every option in its metadata; `cgru.load` reads it back.

        The file appears whole or not at all. Needs the package safetensors: pip install "cgru[safetensors]".
        """
        from cgru.formats import FORMATS

        FORMATS["safetensors"].save(self._on_host(), path)

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
