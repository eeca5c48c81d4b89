"""Calls of the CUDA engine on a device made of the processor, in each of its ways of running."""

import numpy as np
import pytest

from .cuda_on_cpu import (
    DeviceArray,
    Simulator,
    on_device,
    on_host,
    place,
)
from .options import relative_error

TOLERANCE = {np.float64: 1e-12, np.float32: 2e-6}


SMALL = 0  # bytes of shared memory beyond what every block has: no weights fit


WAYS = {"steps": ("steps", 232_448), "resident": ("fused", 1 << 20), "streamed": ("fused", SMALL)}


LAUNCHED = {"steps": "step", "resident": "resident", "streamed": "streamed"}  # the part of a kernel's name that tells


each_way = pytest.mark.parametrize("way", WAYS)


each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def call(gru, x, h0=None, way="steps", out=None, **arguments):
    """y and h_n of a model on the processor's memory, by way of the device."""
    engine, shared_memory = WAYS.get(way, (way, 232_448))
    simulator = Simulator(shared_memory)
    model = place(gru, simulator)
    y, h_n = model(on_device(x), on_device(h0), engine=engine, out=on_device(out), **arguments)
    assert type(y) is type(h_n) is DeviceArray
    if way in WAYS and y.size:
        assert {name.split("_")[0 if way == "steps" else 2] for name in simulator.launches} == {LAUNCHED[way]}
    return on_host(y), on_host(h_n)


def check(problem, way, tolerance=None, **arguments):
    y, h_n = call(problem.gru, problem.x, problem.h0, way, lengths=problem.lengths, **arguments)
    expected_y, expected_h = problem.expected()
    assert y.dtype == h_n.dtype == problem.dtype
    assert relative_error(y, expected_y) < (tolerance or TOLERANCE[problem.dtype])
    assert relative_error(h_n, expected_h) < (tolerance or TOLERANCE[problem.dtype])


F = np.float32
