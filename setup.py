"""The compiled part of the package: extension modules, and one static library of kernels per instruction set.

The sets are rows of src/sets.def. Everything else stands in pyproject.toml. Environment: CGRU_OPENMP=0 builds without
OpenMP, CGRU_SETS="plain" with the instruction sets named and no others.
"""

import os
import platform
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path

import numpy as np
import scipy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools._distutils.ccompiler import new_compiler
from setuptools._distutils.errors import CompileError, LinkError
from setuptools._distutils.sysconfig import customize_compiler
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext

MSVC = sys.platform == "win32"
MACHINE = platform.machine().lower()
GENERATED = Path("build") / "include"

# -ffp-contract=off: a fused multiply-add stands where the kernels write one and nowhere else.
GCC_FLAGS = ["-std=c++14", "-O3", "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno", "-fno-exceptions"]
# -fno-gcse: GCC would keep the constants of the activations in registers through the products, and spill the sums.
# -Wno-maybe-uninitialized: GCC 12 warns of the undefined vectors in its own intrinsics.
GCC_FLAGS += ["-Wno-maybe-uninitialized", "-fno-gcse", "-fno-rtti", "-fvisibility=hidden", "-g0", "-Wall", "-Wextra"]
# Names of templates would be a tenth of a module. Only GNU's linker is known to leave them out when asked so.
STRIPPED = ["-Wl,-s"] if sys.platform == "linux" else []
KERNEL_FLAGS = ["/O2", "/std:c++14"] if MSVC else GCC_FLAGS

sys.path.insert(0, "src")
from sets import SETS, dispatch_macros, with_bases  # noqa: E402

# No vector extensions in Microsoft's compiler.
KIND = "any" if MSVC else {"x86_64": "x86", "amd64": "x86", "aarch64": "arm", "arm64": "arm"}.get(MACHINE, "any")
CHOSEN = os.environ.get("CGRU_SETS", "").split() or [name for name, one in SETS.items() if one.machine == KIND]


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


def texts(*suffixes):
    return [str(path) for path in sorted(Path("src").rglob("*")) if path.suffix in suffixes]


def kernel_libraries():
    sets = [name for name in with_bases(CHOSEN) if not SETS[name].flags or compiles(SETS[name].flags)]
    depends = ["setup.py", *texts(".h", ".def")]

    def library(name, source, flags=(), macros=()):
        return (
            f"cgru_{name}",
            {
                "sources": [f"src/{source}.cpp"],
                "obj_deps": {"": depends},
                "include_dirs": ["src"],
                "macros": list(macros),
                "cflags": [*KERNEL_FLAGS, *flags],
            },
        )

    # A linker reads static libraries in order: those that use others come first.
    yield library("program", "program/program", OPENMP)
    yield library("sequence", "packed/sequence", OPENMP)
    yield library("training", "training/training", OPENMP)
    yield library("machine", "threads/machine", OPENMP)
    yield library("stream", "packed/stream")
    yield library("layout", "packed/layout")
    yield library("dispatch", "dispatch", macros=dispatch_macros(sets))
    yield library("denormals", "simd/denormals")
    for name in sets:
        yield library(name, "set", SETS[name].flags, SETS[name].macros)
    for name in sets:
        if SETS[name].base is None:
            yield library(f"{name}_nodes", "nodes", SETS[name].flags, SETS[name].macros)


POOL = ThreadPoolExecutor(os.cpu_count())
BUILT = []
"""Of each library the end of its compilation, or its error."""


def wait_for_libraries():
    for library in BUILT:
        library.result()


class BuildLibraries(build_clib):
    """Starts to build libraries beside each other, each in a folder of its own: several have objects of one name."""

    def build_libraries(self, libraries):  # noqa: D102
        BUILT.extend(POOL.submit(self._build_one, library) for library in reversed(libraries))  # the last take longest

    def _build_one(self, library):
        one = copy(self)
        one.build_temp = str(Path(self.build_temp) / library[0])
        archive = Path(self.build_clib, self.compiler.library_filename(library[0]))
        archive.unlink(missing_ok=True)  # ar adds to one that is there, objects of files that are gone would stay
        super(BuildLibraries, one).build_libraries([library])


class BuildExtensions(build_ext):
    """Compiles extensions beside the libraries, and waits for those before it links."""

    def build_extensions(self):  # noqa: D102
        link = self.compiler.link_shared_object

        def link_with_libraries(*arguments, **options):
            wait_for_libraries()
            link(*arguments, **options)

        self.compiler.link_shared_object = link_with_libraries
        super().build_extensions()


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
        extra_link_args=[] if MSVC else [*openmp, *STRIPPED],
        depends=texts(".h", ".cpp", ".def"),  # of the libraries that it is linked with
    )


write_blas_int()
OPENMP = openmp_flags()
setup(
    libraries=list(kernel_libraries()),
    cmdclass={"build_clib": BuildLibraries, "build_ext": BuildExtensions},
    options={"build_ext": {"parallel": os.cpu_count()}},
    ext_modules=cythonize(
        [
            extension("_exclusive", "src/exclusive.pyx"),
            extension("_blas", "src/blas.pyx", OPENMP),
            extension("_packed", "src/packed.pyx", OPENMP),
            extension("_training", "src/training.pyx", OPENMP),
            extension("_program", "src/network.pyx", OPENMP),
            extension("_threads", "src/threads.pyx", OPENMP),
        ],
        build_dir="build",
        include_path=["src", str(GENERATED)],
    ),
)
wait_for_libraries()  # where no extension did
