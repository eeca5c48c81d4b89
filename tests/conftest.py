"""What every test file shares: the versions under test in the header, and hypothesis without time limits."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before anything loads OpenMP: threads that spin would take the others' cores
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from hypothesis import settings

import cgru

settings.register_profile("cgru", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("cgru")


def pytest_report_header(config):
    return [f"cgru {cgru.__version__} from {cgru.__file__}", *_config()]


def _config():
    from cgru import _packed, _threads

    return [f"instruction set {_packed.ISA} of {', '.join(_packed.RUNNABLE_ISAS)}; OpenMP {_threads.OPENMP}"]
