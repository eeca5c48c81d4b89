"""The kernels of every instruction set this machine can run, each in a process of its own, forced by CGRU_ISA.

The full run has all tests of kernels that run by default, the default run a few.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cgru import _packed

TESTS = Path(__file__).parents[1]

PARTS = ("avx512vnni", "neondot")
"""Sets that are another's but for kernels of narrow products."""

NARROW = [f"precision/test_{name}.py" for name in ("precision", "rounded_products", "int8", "sparse")]
WIDE = [
    *(f"engines/test_{name}.py" for name in ("functions", "engines", "invariance", "numbers", "resets")),
    "streams/test_streams.py",
    *(f"training/test_{name}.py" for name in ("training", "resets")),
]

FEW_NARROW = NARROW[1:]
FEW = [*FEW_NARROW, "engines/test_numbers.py", "engines/test_resets.py", "training/test_training.py::test_any_size"]

each_other = pytest.mark.parametrize("isa", [isa for isa in _packed.RUNNABLE_ISAS if isa != _packed.ISA])


def run_forced(isa, tests):
    if os.environ.get("CGRU_ISA"):
        pytest.skip(f"CGRU_ISA={_packed.ISA} is already forced for this run")
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    run = subprocess.run(
        [*command, *(str(TESTS / name) for name in tests)],
        env={**environment, "CGRU_ISA": isa},
        capture_output=True,
        text=True,
        cwd=TESTS.parent,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert f"instruction set {isa} of" in run.stdout


@each_other
def test_a_few_forced(isa):
    run_forced(isa, FEW_NARROW if isa in PARTS else FEW)


@pytest.mark.full
@each_other
def test_forced(isa):
    run_forced(isa, NARROW if isa in PARTS else [*NARROW, *WIDE])


def test_unknown():
    run = subprocess.run(
        [sys.executable, "-c", "import cgru._packed"],
        env={**os.environ, "CGRU_ISA": "mmx"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert f"CGRU_ISA: expected one of {', '.join(_packed.RUNNABLE_ISAS)} on this machine, got mmx" in run.stderr
