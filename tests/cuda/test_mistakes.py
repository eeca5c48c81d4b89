"""Whether the checks on the processor would see a mistake in the kernels: some are planted."""

import re

import numpy as np
import pytest

from ..support.cuda_calls import SMALL
from ..support.cuda_on_cpu import (
    SOURCE,
    Simulator,
    on_device,
    on_host,
    place,
)
from ..support.options import Problem, relative_error

BARRIERS = [match.start() for match in re.finditer(r"__syncthreads\(\);", SOURCE)]


def without(n):
    """The kernels with one barrier less."""
    at = BARRIERS[n]
    return SOURCE[:at] + SOURCE[at:].replace("__syncthreads();", "", 1)


def differs(source, reset_after, **changes):
    problem = Problem({"reset_after": reset_after}, steps=6, batch=9, hidden=41, dtype=np.float64)
    simulator = Simulator(1 << 20, source=source)
    y, _ = place(problem.gru, simulator)(on_device(problem.x), on_device(problem.h0), engine="fused")
    return not relative_error(on_host(y), problem.expected()[0]) < 1e-9


def test_four_barriers():
    assert len(BARRIERS) == 4
    assert not differs(SOURCE, True)
    assert not differs(SOURCE, False)


@pytest.mark.parametrize(("n", "reset_after"), [(0, True), (0, False), (1, True), (2, False), (3, False)])
def test_a_missing_barrier_is_seen(n, reset_after):
    assert differs(without(n), reset_after)


MISTAKES = {
    "uninitialised shared memory": ("other[at(r)] = Real(0);", "", True),
    "a wrong bias": ("f.bias[gate * f.hidden + unit]", "f.bias[unit]", True),
    "padding of the states": ("now[at(r)] = holds(r) ?", "if (holds(r)) now[at(r)] = holds(r) ?", True),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_seen(mistake):
    old, new, reset_after = MISTAKES[mistake]
    assert SOURCE.count(old) == 1
    assert differs(SOURCE.replace(old, new), reset_after)


def test_writing_behind_shared_memory_is_seen():
    source = SOURCE.replace("other[at(r)] = Real(0);", "other[at(r)] = Real(0); other[depth + 1] = 1;")
    problem = Problem({}, batch=1, hidden=20)
    model = place(problem.gru, Simulator(SMALL, source=source))
    with pytest.raises(AssertionError, match="written behind"):
        model(on_device(problem.x), engine="fused")


def test_a_thread_that_leaves_before_a_barrier_is_seen():
    source = SOURCE.replace(
        "    tile.load(now, other);\n", "    tile.load(now, other);\n    if (tile.unit == 7) return;\n"
    )
    assert source != SOURCE
    model = place(Problem({}).gru, Simulator(source=source))
    with pytest.raises(AssertionError, match="some threads of a block ended"):
        model(on_device(Problem({}).x), engine="fused")
