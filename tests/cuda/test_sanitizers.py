"""The CUDA kernels under sanitizers: as threads of the system, with a real barrier, in arrays of exactly their sizes."""

import platform
import subprocess
from pathlib import Path

import pytest

from ..support.cuda_on_cpu import NATIVE, SOURCE
from ..support.programs import needs

pytestmark = pytest.mark.full

FLAGS = ["-std=c++17", "-g", "-O1", "-fno-strict-aliasing", "-Wno-unknown-pragmas", "-pthread"]
SANITIZERS = {
    "address and undefined": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}


def build(folder, sanitizer, real="float", source=SOURCE):
    """A function that runs the program with arguments."""
    (folder / "gru.cu").write_text(source)
    program = str(folder / "kernels")
    macros = [f"-DREAL={real}", "-DSTORED=Real", '-DCGRU_TEST_SOURCE="gru.cu"', f"-I{folder}", f"-I{NATIVE}"]
    command = [
        "clang++",
        *FLAGS,
        *SANITIZERS[sanitizer],
        *macros,
        str(Path(NATIVE) / "cuda_kernels.cpp"),
        "-o",
        program,
    ]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return lambda *arguments: subprocess.run([program, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(("sanitizer", "real"), [("thread", "float"), ("address and undefined", "double")])
def test_sanitizers(tmp_path, sanitizer, real):
    needs("clang++")
    result = build(tmp_path, sanitizer, real)()
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == "336 comparisons, 0 failures\n"


@pytest.mark.skipif(platform.system() != "Linux", reason="the barrier is POSIX threads'")
@pytest.mark.parametrize("n", range(4))
def test_the_thread_sanitizer_sees_a_missing_barrier(tmp_path, n):
    needs("clang++")
    parts = SOURCE.split("__syncthreads();")
    assert len(parts) == 5
    source = "__syncthreads();".join([*parts[:n], parts[n] + parts[n + 1], *parts[n + 2 :]])
    run = build(tmp_path, "thread", source=source)
    # two threads that the system happens to run one after the other are no race that can be seen
    assert any("data race" in run("short").stderr for _ in range(10))
