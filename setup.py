"""The compiled part of the package: extension modules, and one static library of kernels per instruction set.

Everything else stands in pyproject.toml. Environment: CGRU_OPENMP=0 builds without OpenMP, CGRU_SETS="plain" with the
instruction sets named and no others.
"""

import os
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
import scipy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools._distutils.ccompiler import new_compiler
from setuptools._distutils.errors import CompileError, LinkError
from setuptools._distutils.sysconfig import customize_compiler

MSVC = sys.platform == "win32"
MACHINE = platform.machine().lower()
GENERATED = Path("build") / "include"

# -ffp-contract=off: a fused multiply-add stands where the kernels write one and nowhere else.
GCC_FLAGS = ["-std=c++14", "-O3", "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno", "-fno-exceptions"]
# -fno-gcse: GCC would keep the constants of the activations in registers through the products, and spill the sums.
# -Wno-maybe-uninitialized: GCC 12 warns of the undefined vectors in its own intrinsics.
GCC_FLAGS += ["-Wno-maybe-uninitialized", "-fno-gcse", "-fno-rtti", "-fvisibility=hidden", "-g0", "-Wall", "-Wextra"]
KERNEL_FLAGS = ["/O2", "/std:c++14"] if MSVC else GCC_FLAGS

# Instruction sets by machine: the flags of each set's file. Plain C++ where no other set runs on every such machine.
if MSVC:  # no vector extensions there
    SETS = {"plain": []}
elif MACHINE in ("x86_64", "amd64"):
    AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
    SETS = {
        "sse2": [],
        "avx2": ["-mavx2", "-mfma", "-mf16c"],
        "avx512": AVX512,
        "avx512vnni": [*AVX512, "-mavx512vnni"],
        "avx512bf16": [*AVX512, "-mavx512bf16"],
    }
elif MACHINE in ("aarch64", "arm64"):
    SETS = {"neon": [], "neondot": ["-march=armv8.2-a+dotprod"]}
else:
    SETS = {"plain": []}
if os.environ.get("CGRU_SETS"):
    SETS = {name: SETS.get(name, []) for name in os.environ["CGRU_SETS"].split()}


def compiles(flags, text="int main() { return 0; }\n"):
    """Whether the compiler builds and links a small program with these flags."""
    compiler = new_compiler()
    customize_compiler(compiler)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text(text)
        try:
            objects = compiler.compile([str(source)], output_dir=folder, extra_postargs=flags)
            compiler.link_executable(objects, str(Path(folder) / "probe"), extra_postargs=flags)
        except (CompileError, LinkError):
            return False
    return True


def openmp_flags():
    if os.environ.get("CGRU_OPENMP") == "0":
        return []
    flags = ["/openmp"] if MSVC else ["-fopenmp"]
    program = "#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n"
    return flags if compiles(flags, program) else []


def kernel_libraries():
    headers = [str(path) for path in sorted(Path("src/kernels").glob("*.h"))]
    sets = {name: flags for name, flags in SETS.items() if not flags or compiles(flags)}
    chosen = [f"-DCGRU_HAS_{name.upper()}" for name in sets]

    def library(name, file, flags):
        source = f"src/kernels/{file}.cpp"
        return (
            name,
            {
                "sources": [source],
                "obj_deps": {"": headers, source: headers},
                "cflags": [*KERNEL_FLAGS, *flags],
            },
        )

    # A linker reads static libraries in order: those that use others come first.
    yield library("cgru_sequence", "sequence", OPENMP)
    yield library("cgru_training", "training", OPENMP)
    yield library("cgru_machine", "machine", OPENMP)
    yield library("cgru_stream", "stream", [])
    yield library("cgru_choose", "choose", chosen)
    yield library("cgru_denormals", "denormals", [])
    for name, flags in sets.items():
        yield library(f"cgru_{name}", name, flags)


def write_blas_int():
    """SciPy says from 1.18 on which integer its BLAS takes; before, it is int."""
    declarations = Path(scipy.__file__).parent / "linalg" / "cython_blas.pxd"
    known = "blas_int" in declarations.read_text()
    GENERATED.mkdir(parents=True, exist_ok=True)
    text = "from scipy.linalg.cython_blas cimport blas_int\n" if known else "ctypedef int blas_int\n"
    path = GENERATED / "blas_int.pxd"
    if not path.exists() or path.read_text() != text:  # a new file would have everything compiled again
        path.write_text(text)


def extension(name, source, openmp=()):
    return Extension(
        f"cgru.{name}",
        [source],
        include_dirs=["src", np.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        extra_compile_args=[*openmp, *([] if MSVC else ["-O2", "-g0", "-fvisibility=hidden"])],
        extra_link_args=[] if MSVC else [*openmp],
        depends=[str(path) for path in sorted(Path("src/kernels").iterdir())],  # of the libraries it is linked with
    )


write_blas_int()
OPENMP = openmp_flags()
setup(
    libraries=list(kernel_libraries()),
    ext_modules=cythonize(
        [
            extension("_exclusive", "src/exclusive.pyx"),
            extension("_blas", "src/blas.pyx", OPENMP),
            extension("_packed", "src/packed.pyx", OPENMP),
            extension("_training", "src/training.pyx", OPENMP),
            extension("_threads", "src/threads.pyx", OPENMP),
        ],
        build_dir="build",
        include_path=["src", str(GENERATED)],
    ),
)
