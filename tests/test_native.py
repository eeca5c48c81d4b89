"""Kernels for processors that this machine has not, built by a cross compiler and run under an emulator.

Needs Debian's g++-aarch64-linux-gnu and qemu-user; the continuous integration installs them.
"""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
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


def build_and_run(tmp_path, compiler, sets, tested, runner):
    """Each set's file with its own flags, the program with them; its output."""
    kernels = ROOT / "src" / "kernels"
    objects = []
    for name, flags in {"plain": [], "choose": [], "sequence": [], **sets}.items():
        objects.append(str(tmp_path / f"{name}.o"))
        chosen = [f"-DCGRU_HAS_{s.upper()}" for s in sets] if name == "choose" else []
        subprocess.run(
            [compiler, *FLAGS, *flags, *chosen, "-c", str(kernels / f"{name}.cpp"), "-o", objects[-1]], check=True
        )
    program = str(tmp_path / "kernels")
    source = str(ROOT / "tests" / "native" / "kernels.cpp")
    command = [
        compiler,
        *FLAGS,
        f"-DCGRU_TEST_SET=kernels_{tested}",
        f"-I{kernels}",
        source,
        *objects,
        "-static",
        "-o",
        program,
    ]
    subprocess.run(command, check=True)
    run = subprocess.run([*runner, program], capture_output=True, text=True)
    print(run.stdout)
    return run


def check(run, tested):
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith(f"kernels of {tested},")
    assert run.stdout.count("ok  ") == 14


def needs(*programs):
    missing = [program for program in programs if shutil.which(program) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"{', '.join(missing)}: not installed")
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed")


def test_neon(tmp_path):
    needs("aarch64-linux-gnu-g++", "qemu-aarch64")
    check(build_and_run(tmp_path, "aarch64-linux-gnu-g++", {"neon": []}, "neon", ["qemu-aarch64"]), "neon")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 kernels are built by the native compiler here")
def test_avx2(tmp_path):
    """Under the emulator, so on machines without AVX2 too."""
    needs("g++", "qemu-x86_64")
    sets = {"sse2": [], "avx2": ["-mavx2", "-mfma"]}
    check(build_and_run(tmp_path, "g++", sets, "avx2", ["qemu-x86_64", "-cpu", "max"]), "avx2")
