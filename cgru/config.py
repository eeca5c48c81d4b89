"""How many threads the package may use, and a report of what it runs on."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from cgru import checks

MAX_THREADS = 1024

_threads: int | None = None
_forked = False


def _after_fork() -> None:
    """An OpenMP runtime used by the parent hangs in the child, so a child computes on its one thread."""
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _available_cores() -> int:
    """Cores of the affinity mask, within the processor quota of the control group."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for read in (_quota, _quota_of_version_1):
        try:
            quota, period = read()
        except (OSError, ValueError):  # not this kind of control groups, or no quota
            continue
        if quota > 0:
            cores = min(cores, quota // period)
    return max(1, cores)


def _quota() -> tuple[int, int]:
    """Microseconds of processor time that the control group has in a period, and the period."""
    quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    return int(quota), int(period)  # "max" is no number


def _quota_of_version_1() -> tuple[int, int]:
    """The same in the older kind of control groups, where -1 is no quota."""
    folder = Path("/sys/fs/cgroup/cpu")
    return int((folder / "cpu.cfs_quota_us").read_text()), int((folder / "cpu.cfs_period_us").read_text())


_CORES = _available_cores()
"""Counted when this is imported, before any compiled module: an OpenMP runtime that is loaded with OMP_PROC_BIND leaves
the thread one core."""


def set_num_threads(n: int) -> None:
    """Let calls use up to n threads where that pays; results of the packed engine do not depend on it.

    In a forked child the package stays on one thread whatever is set. The threads of SciPy's BLAS are its own
    (OPENBLAS_NUM_THREADS, or the package threadpoolctl).

    Raises
    ------
    TypeError, ValueError
        n is not an integer from 1 to 1024.
    """
    global _threads
    _threads = checks.integer("n", n, 1, MAX_THREADS)


def get_num_threads() -> int:
    """The number of threads calls may use: what was set, else OMP_NUM_THREADS, else the cores this process may run on.

    >>> import cgru
    >>> cgru.set_num_threads(2)
    >>> cgru.get_num_threads()
    2
    """
    global _threads
    if _forked:
        return 1
    if _threads is None:
        _threads = min(_environment_threads() or _CORES, MAX_THREADS)
    return _threads


def threads_for(num_threads: object) -> int:
    """The threads one call may use, from its num_threads argument."""
    if num_threads is None:
        return get_num_threads()
    n = checks.integer("num_threads", num_threads, 1, MAX_THREADS)
    return 1 if _forked else n


def _environment_threads() -> int | None:
    """The first number of OMP_NUM_THREADS; None where that is absent or no positive number, as OpenMP runtimes do."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def show_config() -> dict[str, object]:
    """Print, and return, what the package runs on: versions, instruction set, BLAS, OpenMP and threads."""
    import numpy as np
    import scipy

    from cgru import _packed, _threads
    from cgru.version import __version__

    blas = scipy.show_config(mode="dicts")["Build Dependencies"]["blas"]
    report: dict[str, object] = {
        "cgru": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "machine": f"{sys.platform} {platform.machine()}",
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "blas": f"{blas['name']} {blas['version']}, through SciPy",
        "instruction set": _packed.ISA,
        "instruction sets here": ", ".join(_packed.RUNNABLE_ISAS),
        "openmp": _threads.OPENMP or "none",
        "threads": get_num_threads(),
    }
    width = max(map(len, report))
    for name, value in report.items():
        print(f"{name:{width}}  {value}")
    return report
