"""The kernels' own programs, built for processors that this machine has not, under an emulator, and with sanitizers.

Compilers take minutes for each of these tests, so a test builds once what it runs for several instruction sets. Needs Debian's g++-aarch64-linux-gnu, qemu-user, clang and libclang-rt-dev; the continuous integration installs them.
"""

import itertools
import os
import platform
import re
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cgru import _packed

from ..support.programs import needs

ROOT = Path(__file__).parents[2]
FLAGS = [
    "-std=c++14",
    "-O2",
    "-ffp-contract=off",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-trapping-math",
    "-fno-math-errno",
]

if not (ROOT / "src").is_dir():
    pytest.skip("the sources are not beside these tests", allow_module_level=True)

pytestmark = pytest.mark.full

SETS = runpy.run_path(str(ROOT / "src" / "sets.py"))


PROGRAMS = {"kernels": 46, "products": 4, "training": 66, "networks": 21, "lanes": 2, "groups": 54}
"""The comparisons that each prints."""


def build_and_run(tmp_path, compiler, tested, runner=(), flags=("-static",), programs=PROGRAMS):
    """The kernels of the tested sets, and of plain C++ to compare with, in programs that must find nothing in any."""
    names = SETS["with_bases"](["plain", *tested])
    sources = {  # the slowest first
        **{f"set {name}": ("set", SETS["SETS"][name].macros, SETS["SETS"][name].flags) for name in names},
        **{
            f"nodes {name}": ("nodes", SETS["SETS"][name].macros, SETS["SETS"][name].flags)
            for name in names
            if SETS["SETS"][name].base is None
        },
        "program": ("program/program", [], []),
        "dispatch": ("dispatch", SETS["dispatch_macros"](names), []),
        "sequence": ("packed/sequence", [], []),
        "stream": ("packed/stream", [], []),
        "layout": ("packed/layout", [], []),
        "recording": ("training/training", [], []),
        "machine": ("threads/machine", [], []),
        "denormals": ("simd/denormals", [], []),
    }
    sources = {name: (ROOT / f"src/{source}.cpp", macros, own) for name, (source, macros, own) in sources.items()}
    sources.update({name: (ROOT / f"tests/native/{name}.cpp", [], []) for name in programs})
    command = [compiler, *FLAGS, *flags, f"-I{ROOT / 'src'}"]

    def build(name):
        source, macros, own = sources[name]
        compiled = str(tmp_path / f"{name}.o")
        defines = [f"-D{macro}={value}" for macro, value in macros]
        subprocess.run([*command, *own, *defines, "-c", str(source), "-o", compiled], check=True)
        return compiled

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = dict(zip(sources, pool.map(build, sources), strict=True))
    shared = [objects[name] for name in sources if name not in programs]
    for name in programs:
        subprocess.run([*command, objects[name], *shared, "-o", str(tmp_path / name)], check=True)
    for chosen, (name, comparisons) in itertools.product(tested, programs.items()):
        environment = {**os.environ, "CGRU_ISA": chosen}
        run = subprocess.run([*runner, str(tmp_path / name)], capture_output=True, text=True, env=environment)
        print(run.stdout)
        assert run.returncode == 0, run.stdout + run.stderr
        assert re.match(rf"{name} of {chosen}\b", run.stdout)
        assert run.stdout.count("ok  ") == comparisons


def test_neon(tmp_path):
    needs("aarch64-linux-gnu-g++", "qemu-aarch64")
    build_and_run(tmp_path, "aarch64-linux-gnu-g++", ["neon", "neondot"], ["qemu-aarch64"])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 kernels are built by the native compiler here")
@pytest.mark.skipif(
    "avx2" in _packed.RUNNABLE_ISAS, reason="this machine has AVX2: tests/native/test_instruction_sets.py runs it"
)
def test_avx2(tmp_path):
    needs("g++", "qemu-x86_64")
    build_and_run(tmp_path, "g++", ["avx2"], ["qemu-x86_64", "-cpu", "max"])


SANITIZERS = {
    "address and undefined": ["-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DCGRU_STD_THREADS"],
    "thread": ["-O0", "-fsanitize=thread", "-DCGRU_STD_THREADS"],
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are those of x86-64 instruction sets")
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_sanitizers(tmp_path, sanitizer):
    """Reads and writes within bounds, defined arithmetic; and for the loops on several threads, no race."""
    needs("clang++")
    tested = dict.fromkeys(["plain", _packed.RUNNABLE_ISAS[0]])
    build_and_run(tmp_path, "clang++", tested, flags=["-g", *SANITIZERS[sanitizer]])


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="counts by glibc, kills by Linux"
)
def test_a_step_allocates_nothing_and_makes_no_system_call(tmp_path):
    needs("g++")
    build_and_run(
        tmp_path, "g++", ["plain"], flags=["-DCGRU_TEST_QUIET"], programs={"kernels": PROGRAMS["kernels"] + 4}
    )
