"""Threads: counts, parallel loops, many callers at once, the GIL, forked children, a build's OpenMP."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import cgru
from cgru.engines.host import blas

from ..support.options import Problem, with_parameters


@pytest.fixture
def threads():
    before = cgru.get_num_threads()
    yield before
    cgru.set_num_threads(before)


def test_set_and_get(threads):
    cgru.set_num_threads(3)
    assert cgru.get_num_threads() == 3


@pytest.mark.parametrize(("value", "expected"), [("3", 3), ("5,2", 5), ("", None), ("zero", None), ("-1", None)])
def test_environment(value, expected):
    code = "import cgru; print(cgru.get_num_threads())"
    environment = {**os.environ, "OMP_NUM_THREADS": value}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(run.stdout) == (expected or cgru.config._available_cores())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_affinity():
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{core}]); import cgru; print(cgru.get_num_threads())"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(run.stdout) == 1


@pytest.mark.parametrize("reset_after", [True, False])
def test_parallel_loops_give_the_same_bits(reset_after, monkeypatch):
    problem = Problem({"reset_after": reset_after}, steps=5, batch=9, hidden=50, ragged=True, dtype=np.float32)
    expected, _ = problem.gru(problem.x, problem.h0, lengths=problem.lengths, engine="blas", num_threads=1)
    monkeypatch.setattr(blas, "PARALLEL_UNITS", 1)
    for count in (2, 3, 64):
        y, _ = problem.gru(problem.x, problem.h0, lengths=problem.lengths, engine="blas", num_threads=count)
        np.testing.assert_array_equal(y, expected)


def test_many_threads_call_one_gru():
    gru = cgru.GRU(8, 32, 2, bidirectional=True, rng=0)
    inputs = [np.random.default_rng(i).standard_normal((20, 1 + i % 3, 8)).astype(np.float32) for i in range(40)]
    expected = [gru(x)[0] for x in inputs]
    gru = with_parameters(gru, gru.state_dict())  # nothing prepared yet: the first calls race to do it
    with ThreadPoolExecutor(8) as pool:
        for y, y_alone in zip(pool.map(lambda x: gru(x)[0], inputs), expected, strict=True):
            np.testing.assert_array_equal(y, y_alone)


def test_the_gil_is_released():
    """While one thread computes a long call, another runs Python."""
    gru = cgru.GRU(8, 64, rng=0)
    x = np.zeros((200_000, 8), np.float32)  # a tenth of a second
    gru(x[:2])
    counted = 0
    done = threading.Event()

    def compute():
        gru(x)
        done.set()

    worker = threading.Thread(target=compute)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)  # nobody is asked to give up the GIL: only a call that releases it lets others run
    try:
        worker.start()
        while not done.is_set():
            counted += 1
            done.wait(0.0005)
    finally:
        sys.setswitchinterval(interval)
        worker.join()
    assert counted > 3


FORK = """
import os, sys, signal
import numpy as np, cgru
from cgru.engines.host import blas
blas.PARALLEL_UNITS = 1
cgru.set_num_threads(2)
gru = cgru.GRU(8, 64, rng=0)
x = np.random.default_rng(0).standard_normal((10, 16, 8)).astype(np.float32)
expected, _ = gru(x)                    # the parent's OpenMP runtime has threads now
child = os.fork()
if child == 0:
    signal.alarm(60)                    # a hanging child dies of it
    y, _ = gru(x, num_threads=2)
    same = np.array_equal(y, expected) and cgru.get_num_threads() == 1
    cgru.set_num_threads(4)
    os._exit(0 if same and cgru.get_num_threads() == 1 else 3)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_forked_child_works_single_threaded():
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


def test_show_config(capsys):
    report = cgru.show_config()
    printed = capsys.readouterr().out
    for name in ("cgru", "numpy", "scipy", "blas", "instruction set", "openmp", "threads"):
        assert name in report
        assert f"{report[name]}" in printed
