"""What a quantized model costs in accuracy: its errors over time beside those of the model it was made from.

Both run on the user's own input and are measured against the reference in float64 with the first one's parameters, so
that the error of float32 itself stands beside the error of fewer bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.model import reference
from cgru.recurrent import Recurrent

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    import numpy.typing as npt

    from cgru.parameters import Model
    from cgru.types import Array

FREE = ("dropout",)
"""Options in which models may differ: inference does not use them."""


@dataclass(frozen=True, eq=False)
class Errors:
    """How far one model's results are from those in float64."""

    precision: str
    y: Array
    """The model's outputs, as a call returns them; `h_n` likewise."""
    h_n: Array
    steps: Array = field(repr=False)
    """(T,): of each step the norm of the outputs' error over the norm of the outputs, all sequences together."""
    largest: Array = field(repr=False)
    """(T,): of each step the largest absolute error of an output."""
    states: Array = field(repr=False)
    """(L*D,): the relative error, as in `steps`, of each layer's and direction's last state."""
    signal_to_error: float
    """Of all outputs, in decibels: 20 more for a tenth of the error."""
    weight_bytes: int
    """What the weights take, scales included, biases not."""


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """What `compare` found. Its text is a table; `plot` draws errors over time."""

    gru: Errors
    small: Errors
    y: Array
    """The outputs in float64 that both are measured against, shaped as a call returns them; `h_n` likewise."""
    h_n: Array
    title: str
    """What was compared on what."""
    longest: int
    """Steps of the longest sequence."""
    bidirectional: bool
    input_limit: float | None
    """What the quantized model clips inputs to; None if it takes them as they are."""
    clipped: int
    """Input values beyond that limit."""
    inputs: int
    """Input values in all; those past a sequence's length are not counted."""

    @property
    def clipped_share(self) -> float:
        """The share of input values beyond the limit, from 0 to 1."""
        return self.clipped / self.inputs if self.inputs else 0.0

    @property
    def points(self) -> list[int]:
        """Steps to look at, counted from 1: 1, 10, 100, ..., and the longest sequence's last."""
        return sorted({1, *(10**k for k in range(len(str(self.longest)))), self.longest}) if self.longest else []

    def rows(self) -> list[tuple[str, str, str]]:
        """The table: of each row its name, the model's figure and the quantized model's."""

        def row(name: str, figure: Callable[[Errors], float], form: str = ".2g") -> tuple[str, str, str]:
            return name, format(figure(self.gru), form), format(figure(self.small), form)

        names = ["layer {}", "layer {}, reverse"] if self.bidirectional else ["layer {}"]
        return [
            *(row(f"relative error, step {t:,}", lambda e, t=t: e.steps[t - 1]) for t in self.points),  # type: ignore[misc]
            row("worst of all steps", lambda e: e.steps.max(initial=0)),
            *(
                row(f"last state, {names[k % len(names)].format(k // len(names))}", lambda e, k=k: e.states[k])  # type: ignore[misc]
                for k in range(len(self.gru.states))
            ),
            row("largest absolute error", lambda e: e.largest.max(initial=0)),
            row("signal to error, dB", lambda e: e.signal_to_error, ".1f"),
            row("bytes of weights", lambda e: e.weight_bytes, ","),
            ("inputs clipped", "0", self._clipping()),
        ]

    def _clipping(self) -> str:
        if self.input_limit is None:
            return "0"
        return f"{self.clipped:,} ({self.clipped_share:.2%}) beyond {self.input_limit:.4g}"

    def as_dict(self) -> dict[str, Any]:
        """All figures as JSON has them; what is not finite as None."""

        def plain(value: Any) -> Any:
            values = [number if np.isfinite(number) else None for number in np.atleast_1d(value).tolist()]
            return values if np.ndim(value) else values[0]

        def figures(errors: Errors) -> dict[str, Any]:
            kept = ("steps", "largest", "states", "signal_to_error", "weight_bytes")
            return {"precision": errors.precision, **{name: plain(getattr(errors, name)) for name in kept}}

        return {
            "title": self.title,
            "input_limit": self.input_limit,
            "clipped": self.clipped,
            "inputs": self.inputs,
            "models": [figures(self.gru), figures(self.small)],
        }

    def __str__(self) -> str:
        rows = [("", self.gru.precision, self.small.precision), *self.rows()]
        first, second, third = (max(len(row[k]) for row in rows) for k in range(3))
        lines = (f"{name:<{first}}  {before:>{second}}  {after:>{third}}" for name, before, after in rows)
        return "\n".join([self.title, *lines])

    __repr__ = __str__

    def plot(self, where: str | os.PathLike[str] | Any = None) -> Any:
        """Draw both models' relative error over time.

        Parameters
        ----------
        where : path or matplotlib Axes, optional
            A file to write, .png, .svg or .pdf, or axes to draw in; without it, axes of a new figure.

        Returns
        -------
        The axes.

        Raises
        ------
        ImportError
            matplotlib is missing.
        """
        axes: Any = where
        if not hasattr(where, "plot"):
            try:
                from matplotlib.figure import Figure
            except ImportError as error:
                raise ImportError(f'a plot needs matplotlib: pip install "cgru[bench]" ({error})') from error
            axes = Figure(figsize=(7, 4.2), layout="constrained").subplots()
        for errors, color in ((self.gru, "gray"), (self.small, "black")):
            steps = np.arange(1, len(errors.steps) + 1)
            drawn = np.isfinite(errors.steps) & (errors.steps > 0)  # what a logarithmic axis can show
            axes.plot(steps[drawn], errors.steps[drawn], linewidth=1.2, label=errors.precision, color=color)
        axes.set(xlabel="step", ylabel="relative error of the outputs", title=self.title, yscale="log")
        axes.grid(True, which="both", alpha=0.25)
        axes.legend(frameon=False)
        if where is not None and axes is not where:
            axes.figure.savefig(where, dpi=130)
        return axes


def compare(
    gru: Recurrent, small: Recurrent, x: Array, h0: Array | None = None, *, lengths: npt.ArrayLike | None = None
) -> Comparison:
    """How much accuracy a quantized or pruned model loses on an input, step by step.

    Parameters
    ----------
    gru : GRU
        The model as it was.
    small : GRU
        One of the same options, as `gru.quantize(...)` or `gru.prune(...)` makes it.
    x, h0, lengths
        As in a call; the input should be like what the model will meet.

    Returns
    -------
    Comparison
        Errors of both against float64, and how many input values are clipped; print it, or `plot` it.

    Raises
    ------
    TypeError, ValueError
        An argument is no GRU, the models have different options, or x, h0 or lengths do not fit.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> gru = cgru.GRU(40, 64, rng=0)
    >>> x = np.random.default_rng(0).standard_normal((100, 8, 40)).astype(np.float32)   # T 100, B 8
    >>> comparison = cgru.compare(gru, gru.quantize("bfloat16"), x)
    >>> print(comparison)                                                # doctest: +SKIP
    GRU(40, 64), 100 steps of 8 sequences, error against float64
                              float32  bfloat16
    relative error, step 1    1.1e-07    0.0015
    relative error, step 10   1.3e-07    0.0015
    relative error, step 100  1.4e-07    0.0013
    worst of all steps        1.5e-07    0.0017
    last state, layer 0       1.4e-07    0.0013
    largest absolute error    2.1e-07     0.002
    signal to error, dB         137.4      56.4
    bytes of weights           79,872    39,936
    inputs clipped                  0         0
    >>> bool(comparison.small.steps[-1] < 0.01)
    True
    """
    for name, model in (("gru", gru), ("small", small)):
        if not isinstance(model, Recurrent):
            raise TypeError(f"{name}: expected a cgru.GRU, got {type(model).__name__}")
    if type(small) is not type(gru):
        raise TypeError(f"small: expected a {type(gru).__name__}, as gru, got a {type(small).__name__}")
    expected = {name: value for name, value in gru.options.items() if name not in FREE}
    for name, value in expected.items():
        if small.options[name] != value:
            raise ValueError(f"small: expected a model with {name}={value!r}, as gru, got {small.options[name]!r}")

    results = [model(x, h0, lengths=lengths) for model in (gru, small)]
    x_steps = _time_first(gru, x)
    steps, batch, _ = x_steps.shape
    last = np.full(batch, steps) if lengths is None else checks.lengths(np.atleast_1d(lengths), batch, steps)
    y, h_n = _in_float64(gru, x_steps, h0, last)

    before, after = (_errors(model, *result, y, h_n) for model, result in zip((gru, small), results, strict=True))
    read = x_steps[np.arange(steps)[:, None] < last]  # (steps of all sequences, I)
    limit = small.input_limit
    sequences = f"{steps:,} steps of {batch:,} sequence{'s' * (batch != 1)}"
    return Comparison(
        gru=before,
        small=after,
        y=y[:, 0] if x.ndim == 2 else y.swapaxes(0, 1) if gru.batch_first else y,
        h_n=h_n[:, 0] if x.ndim == 2 else h_n,
        title=f"{gru!r}, {sequences}, error against float64",
        longest=int(last.max(initial=0)),
        bidirectional=gru.bidirectional,
        input_limit=limit,
        clipped=0 if limit is None else int(np.count_nonzero(np.abs(read) > limit)),
        inputs=read.size,
    )


def weight_bytes(model: Model) -> int:
    """What a model's weights take in memory, scales included."""
    return model.value.weight_bytes


def _time_first(gru: Recurrent, array: Array) -> Array:
    """(T, B, ...) of a call's x or y."""
    return array[:, None] if array.ndim == 2 else array.swapaxes(0, 1) if gru.batch_first else array


def _in_float64(gru: Recurrent, x: Array, h0: Array | None, last: Array) -> tuple[Array, Array]:
    """The reference's y (T, B, D*H) and h_n (L*D, B, H), whatever the model's dtype."""
    start = None if h0 is None else h0.reshape(h0.shape[0], x.shape[1], gru.hidden_size).astype(np.float64)
    return reference.forward(
        x.astype(np.float64),
        {name: array.astype(np.float64) for name, array in gru.state_dict().items()},
        start,
        lengths=last,
        reverse=gru.reverse,
        merge=gru.merge,
        **gru.spec.equations,
    )


def _errors(model: Recurrent, y: Array, h_n: Array, expected: Array, expected_state: Array) -> Errors:
    """What is wrong with a model's y and h_n, of whatever layout; the expected ones are (T, B, D*H) and (L*D, B, H)."""
    with np.errstate(invalid="ignore"):  # infinities in both
        error = _time_first(model, y) - expected
        state_error = h_n.reshape(expected_state.shape) - expected_state
    return Errors(
        precision=(model.dtype.name if model.precision == "float32" else model.precision) + _pruning(model),
        y=y,
        h_n=h_n,
        steps=_relative(error, expected),
        largest=np.abs(error).max(axis=(1, 2), initial=0),
        states=_relative(state_error, expected_state),
        signal_to_error=_decibels(np.sum(expected**2), np.sum(error**2)),
        weight_bytes=weight_bytes(model),
    )


def _pruning(model: Recurrent) -> str:
    """What a column's head says of a pruned model."""
    return f", {model.density:.0%} of weights" if model.value.block else ""


def _relative(error: Array, expected: Array) -> Array:
    """Along the first axis the norm of an error over that of what was expected; 0 where there is no error."""
    norm, size = (np.sqrt(np.sum(array**2, axis=(1, 2))) for array in (error, expected))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(norm == 0, 0.0, norm / size)


def _decibels(signal: float, error: float) -> float:
    """The ratio of two powers; infinite where there is no error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float("inf") if error == 0 else float(10 * np.log10(np.float64(signal) / error))
