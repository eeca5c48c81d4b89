"""How many cores a process has, whatever OpenMP does to its threads."""

import os
import subprocess
import sys

import pytest

COUNT = """
import numpy as np, cgru
cgru.GRU(3, 4)(np.ones((5, 3), np.float32))
print(cgru.get_num_threads())
"""


def count(**environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    command = [sys.executable, "-c", COUNT]
    return int(subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("bind", ["true", "close", "spread"])
def test_cores_are_counted_before_openmp_binds_the_thread(bind):
    assert count(OMP_PROC_BIND=bind) == count()


def test_quotas(monkeypatch):
    from cgru import config

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8), raising=False)

    def none():
        raise OSError

    for newer, older, expected in [
        (lambda: (250_000, 100_000), none, 2),
        (lambda: (50_000, 100_000), none, 1),
        (none, lambda: (300_000, 100_000), 3),
        (none, lambda: (-1, 100_000), 8),
        (none, none, 8),
    ]:
        monkeypatch.setattr(config, "_quota", newer)
        monkeypatch.setattr(config, "_quota_of_version_1", older)
        assert config._available_cores() == expected
