"""The matrix of options, and random problems for any point of it."""

import itertools
from dataclasses import dataclass, field

import numpy as np

import cgru
from cgru import reference
from cgru.model.value import Value

BOUNDED = ["tanh", "sigmoid", "hard_sigmoid", "softsign", ("scaled_tanh", 0.9, 0.7), ("hard_sigmoid", 1 / 6, 0.5)]
UNBOUNDED = [
    "relu",
    "softplus",
    ("elu", 0.7, 0),
    ("leaky_relu", 0.1, 0),
    ("thresholded_relu", 0.05, 0),
    ("affine", 0.6, 0.1),
    "linear",
    "g",
]

MATRIX = {
    "reset_after": [True, False],
    "update_gate": ["state", "candidate"],
    "num_layers": [1, 2],
    "bidirectional": [False, True],
    "batch_first": [False, True],
    "bias": [True, False],
    "clip": [None, 0.5],
}
"""Options that change what is computed, each with the values to test with all values of the others."""

OF_DIRECTIONS = [
    {"bidirectional": True, "num_layers": 2, "activation": ["tanh", "softsign"]},
    {"bidirectional": True, "activation": ("relu", "tanh"), "recurrent_activation": ["sigmoid", ("hard_sigmoid", 1 / 6, 0.5)], "clip": 0.4},
    {"bidirectional": True, "num_layers": 2, "reset_after": False, "update_gate": "candidate", "activation": ["tanh", ("elu", 0.7, 0)], "recurrent_activation": ["softsign", "sigmoid"]},
    {"bidirectional": True, "merge": "sum", "update_gate": "candidate", "activation": ["linear", "tanh"]},
]  # fmt: skip
"""Functions that differ by direction: of each what makes one canonical layer's update gate negated, and not the other's."""

WAYS_OF_TIME = [
    {"reverse": True},
    {"reverse": True, "num_layers": 2},
    {"reverse": True, "num_layers": 3},
    {"bidirectional": True, "merge": "sum"},
]
"""Ways through time that are no points of the matrix: `reverse` excludes `bidirectional`, which `merge` needs."""

DIRECTIONS = [*WAYS_OF_TIME, *OF_DIRECTIONS]
"""The same, and functions that differ by direction."""

KINDS = {
    "usual": {},
    "reset before": {"reset_after": False},
    "deep": {"num_layers": 3},
    "other functions": {"activation": "softsign", "recurrent_activation": "hard_sigmoid", "clip": 0.7},
}
"""Points of which each takes another way through the kernels, for tests too slow for the whole matrix."""

UNUSUAL = {
    "num_layers": 2,
    "bias": False,
    "batch_first": True,
    "dropout": 0.25,
    "bidirectional": True,
    "reset_after": False,
    "update_gate": "candidate",
    "activation": ("scaled_tanh", 0.9, 0.7),
    "recurrent_activation": "hard_sigmoid",
    "clip": 2.0,
    "reverse": False,
    "merge": "concat",
    "dtype": np.float64,
}
"""A value for every option of the constructor, other than the default wherever one fits the others."""


def points(*names, **values):
    """Yield the options of every point of the matrix, or of some options of it; `values` adds options, or has others."""
    matrix = {**{name: MATRIX[name] for name in names or MATRIX}, **values}
    return (dict(zip(matrix, point, strict=True)) for point in itertools.product(*matrix.values()))


def function_points(**options):
    """Yield the options given with every function as the candidate's, then as the gates', with a clip and without."""
    pairs = [(f, "sigmoid") for f in BOUNDED + UNBOUNDED] + [("tanh", g) for g in BOUNDED + UNBOUNDED]
    for (activation, recurrent_activation), clip in itertools.product(pairs, [None, 0.3]):
        yield {**options, "activation": activation, "recurrent_activation": recurrent_activation, "clip": clip}


@dataclass
class Problem:
    """A GRU, or a model of another `kind`, of some options, an input (T, B, I), an initial state, lengths and resets, with
    the reference's answer to them.
    """

    options: dict
    steps: int = 6
    batch: int = 3
    inputs: int = 5
    hidden: int = 11
    ragged: bool = False
    dtype: type = np.float64
    seed: int = 0
    kind: type = cgru.GRU
    resets_to: str | None = None
    gru: cgru.GRU = field(init=False)

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        self.gru = self.kind(self.inputs, self.hidden, dtype=self.dtype, rng=rng, **self.options)
        # states stay small, so that unbounded activations do not run away
        self.gru.load_state_dict({name: array * self.dtype(0.7) for name, array in self.gru.state_dict().items()})
        batch_first = self.options.get("batch_first", False)
        self.x = rng.standard_normal((self.steps, self.batch, self.inputs)).astype(self.dtype)
        if batch_first:
            self.x = np.ascontiguousarray(self.x.swapaxes(0, 1))
        directions = 2 if self.gru.bidirectional else 1
        self.h0 = rng.uniform(-1, 1, (self.gru.num_layers * directions, self.batch, self.hidden)).astype(self.dtype)
        self.lengths = rng.integers(0, self.steps + 1, self.batch) if self.ragged else None
        self.resets = rng.random(self.x.shape[:-1]) < 0.3 if self.resets_to else None

    @property
    def how(self):
        """The arguments of a call beside x and h0."""
        return {"lengths": self.lengths, "resets": self.resets, "resets_to": self.resets_to or "zero"}

    def time_first(self, array):
        return array.swapaxes(0, 1) if self.gru.batch_first else array

    @property
    def specified(self):
        """The options of this call of the reference."""
        resets = None if self.resets is None else self.time_first(self.resets)
        directions = {"reverse": self.gru.reverse, "merge": self.gru.merge}
        return {**self.how, "resets": resets, **directions, **self.gru.spec.equations}

    def expected(self):
        """y and h_n in float64."""
        double = {name: array.astype(np.float64) for name, array in self.gru.state_dict().items()}
        x = self.time_first(self.x).astype(np.float64)
        y, h_n = reference.forward(x, double, self.h0.astype(np.float64), **self.specified)
        return self.time_first(y), h_n


def relative_error(result, expected):
    """The largest difference, relative to the largest value expected (at least 1)."""
    if not expected.size:
        return 0.0
    return float(np.max(np.abs(result - expected)) / max(1.0, np.max(np.abs(expected))))


def with_parameters(gru, parameters, *arithmetic):
    """A GRU of the same options with copies of other parameters, quantized ones too."""
    return cgru.GRU.of(Value.of(gru.spec, parameters, *arithmetic))
