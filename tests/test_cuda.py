"""The CUDA engine against the specification, on a device made of the processor: the kernels' own text, CuPy's rules."""

import copy
import itertools
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cgru
from cgru import cuda
from cgru.engines.cuda import device as devices
from cgru.engines.cuda import forward, plan

from .cuda_on_cpu import KERNELS, SOURCE, STRUCTURES, DeviceArray, Simulator, library, on_device, on_host
from .options import BOUNDED, UNBOUNDED, Problem, relative_error

TOLERANCE = {np.float64: 1e-12, np.float32: 2e-6}
SMALL = 0  # bytes of shared memory beyond what every block has: no weights fit

WAYS = {"steps": ("steps", 232_448), "resident": ("fused", 1 << 20), "streamed": ("fused", SMALL)}
each_way = pytest.mark.parametrize("way", WAYS)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def call(gru, x, h0=None, way="steps", out=None, **arguments):
    """y and h_n of a model on the processor's memory, by way of the device."""
    engine, shared_memory = WAYS.get(way, (way, 232_448))
    simulator = Simulator(shared_memory)
    model = cuda.place(gru, simulator)
    y, h_n = model(on_device(x), on_device(h0), engine=engine, out=on_device(out), **arguments)
    assert type(y) is type(h_n) is DeviceArray
    if way in WAYS and y.size:
        assert all(way in name or name.startswith("step_") for name in simulator.launches)
        assert simulator.launches
    return on_host(y), on_host(h_n)


def check(problem, way, tolerance=None, **arguments):
    y, h_n = call(problem.gru, problem.x, problem.h0, way, lengths=problem.lengths, **arguments)
    expected_y, expected_h = problem.expected()
    assert y.dtype == h_n.dtype == problem.dtype
    assert relative_error(y, expected_y) < (tolerance or TOLERANCE[problem.dtype])
    assert relative_error(h_n, expected_h) < (tolerance or TOLERANCE[problem.dtype])


MATRIX = {
    "reset_after": [True, False],
    "update_gate": ["state", "candidate"],
    "num_layers": [1, 2],
    "bidirectional": [False, True],
    "batch_first": [False, True],
    "bias": [True, False],
    "clip": [None, 0.5],
}


@each_way
@each_dtype
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("batch", [1, 5])
def test_option_matrix(way, dtype, ragged, batch):
    for values in itertools.product(*MATRIX.values()):
        options = dict(zip(MATRIX, values, strict=True))
        check(Problem(options, steps=4, batch=batch, ragged=ragged, dtype=dtype), way)


@each_way
@each_dtype
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("reset_after", [True, False])
def test_backwards_and_added_up(way, dtype, ragged, reset_after):
    for options in ({"reverse": True}, {"reverse": True, "num_layers": 3}, {"bidirectional": True, "merge": "sum"}):
        for batch_first in (False, True):
            problem = {"reset_after": reset_after, "batch_first": batch_first, **options}
            check(Problem(problem, batch=3, ragged=ragged, dtype=dtype), way)


@each_way
@each_dtype
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("update_gate", ["state", "candidate"])
def test_activations(way, dtype, reset_after, update_gate):
    pairs = [(f, "sigmoid") for f in BOUNDED + UNBOUNDED] + [("tanh", g) for g in BOUNDED + UNBOUNDED]
    for activation, recurrent_activation in pairs:
        options = {
            "reset_after": reset_after,
            "update_gate": update_gate,
            "activation": activation,
            "recurrent_activation": recurrent_activation,
        }
        for clip in (None, 0.3):
            check(Problem({**options, "clip": clip}, steps=4, batch=2, dtype=dtype), way)


@each_way
@each_dtype
@given(
    steps=st.integers(1, 12),
    batch=st.integers(1, 20),
    inputs=st.integers(1, 40),
    hidden=st.integers(1, 140),
    ragged=st.booleans(),
    reset_after=st.booleans(),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30)
def test_any_size(way, dtype, steps, batch, inputs, hidden, ragged, reset_after, bidirectional, batch_first, seed):
    options = {"reset_after": reset_after, "bidirectional": bidirectional, "batch_first": batch_first}
    check(Problem(options, steps, batch, inputs, hidden, ragged, dtype, seed), way)
