"""What models of whole sequences share: arguments checked, results made, and the work handed to an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import engines
from cgru.engines import HOST
from cgru.parameters import Model
from cgru.run import arguments

if TYPE_CHECKING:
    import os

    import numpy.typing as npt
    from typing_extensions import Self

    from cgru.engines.interface import Engine
    from cgru.run.pool import StreamPool
    from cgru.run.stream import ArrayStream, Stream
    from cgru.run.tape import Tape
    from cgru.types import Array


class Recurrent(Model):
    """A stack of recurrent layers, called as `y, h_n = model(x)`; the class of each cell says what a layer is."""

    num_layers: int
    batch_first: bool
    dropout: float
    bidirectional: bool
    reverse: bool
    merge: str

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
        resets: npt.NDArray[np.bool_] | None = None,
        resets_to: str = "zero",
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
        resets : bool, x's shape without I, optional
            True at a step starts its sequence anew there: every layer's state becomes 0 before the step. So one call
            runs many episodes that follow each other. The reverse direction takes the pieces as sequences of their own,
            too, and enters each at its last step; h0 is where it enters the last piece. Not beside mask.
        resets_to : {"zero", "h0"}
            What states become there: 0, or the initial ones.
        out : array of y's shape, optional
            Where to write y; must not overlap x, h0, mask or resets.
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
            if resets is not None:
                raise ValueError("resets: expected None beside mask")
            from cgru.run import masks

            return masks.run(
                self, x, h0, mask, mask_output, lengths=lengths, out=out, engine=engine, num_threads=num_threads
            )
        value = self._value
        spec = value.spec
        how = device.how(spec.dtype, engine, num_threads)
        concat = spec.merge == "concat"
        if lengths is None and out is None and concat and resets is None and resets_to == "zero":
            result = device.call(value.stack, x, h0, spec.batch_first, how)
            if result is not None:  # the usual arguments: no more to check
                return result
        with device.use():
            x, h_n, last = arguments.of_call(spec, device, x, h0, lengths)
            restarts = arguments.restarts(spec, device, resets, resets_to, x, h_n, last)
            shape = (*x.shape[:-1], spec.width)
            if out is None:
                y = device.xp.empty(shape, spec.dtype)
            else:
                y = device.output(out, spec.dtype, shape, {"x": x, "h0": h0, "resets": resets})
            direct = concat and (device.strided or y.strides[-1] == y.itemsize or y.size == 0)
            written = y if direct else device.xp.empty((*shape[:-1], spec.directions * spec.hidden_size), spec.dtype)
            steps = arguments.time_first(spec, x), arguments.time_first(spec, written)
            device.run(value.stack, steps[0], h_n, steps[1], last, how, restarts)
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
        resets: npt.NDArray[np.bool_] | None = None,
        resets_to: str = "zero",
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
        x, h0, lengths, resets, resets_to, num_threads
            As in a call. x is copied: its memory may be used again before the way back. No gradient goes back past a
            step at which a sequence starts anew; with resets_to="h0" it goes to h0.
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

        return tape.record(
            self,
            x,
            h0,
            lengths=lengths,
            resets=resets,
            resets_to=resets_to,
            rng=rng,
            memory=memory,
            engine=engine,
            num_threads=num_threads,
        )

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

    def to(self, device: str) -> Self:
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

    def on(self, engine: Engine) -> Self:
        """A copy of this model on an engine."""
        return self.of(engine.take(self._engine.to_host(self._value)), engine)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .safetensors file with every option in its metadata; `cgru.load` reads it back.

        The file appears whole or not at all. Needs the package safetensors: pip install "cgru[safetensors]".
        """
        from cgru.formats import FORMATS

        FORMATS["safetensors"].save(self._on_host(), path)
