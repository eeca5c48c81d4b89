"""The kernels of every instruction set this machine can run, each in a process of its own, forced by CGRU_ISA."""

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


@pytest.mark.parametrize("isa", [isa for isa in _packed.RUNNABLE_ISAS if isa != _packed.ISA])
def test_forced(isa):
    if os.environ.get("CGRU_ISA"):
        pytest.skip(f"CGRU_ISA={_packed.ISA} is already forced for this run")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--import-mode=importlib", "-p", "no:cacheprovider"]
    files = [str(TESTS / name) for name in (NARROW if isa in PARTS else [*NARROW, *WIDE])]
    environment = {**os.environ, "CGRU_ISA": isa}
    run = subprocess.run(
        [*command, *files, "-m", "not long"], env=environment, capture_output=True, text=True, cwd=TESTS.parent
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert f"instruction set {isa} of" in subprocess.run(
        [*command[:3], *files[:1], "--collect-only"], env=environment, capture_output=True, text=True, cwd=TESTS.parent
    ).stdout  # fmt: skip


def test_unknown():
    run = subprocess.run(
        [sys.executable, "-c", "import cgru._packed"],
        env={**os.environ, "CGRU_ISA": "mmx"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert f"CGRU_ISA: expected one of {', '.join(_packed.RUNNABLE_ISAS)} on this machine, got mmx" in run.stderr
