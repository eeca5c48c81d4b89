"""A device for the CUDA engine on a machine without a GPU: NumPy's arrays, and the kernels' own text on the processor.

It is stricter than a GPU. Its arrays refuse to meet NumPy's, and whatever would make a GPU's stream wait; new memory is
full of NaN; a launch checks its structure against the compiler's, the types of the arrays in it, and the sizes of blocks
and of shared memory.
"""

import contextlib
import ctypes
import functools
import itertools
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from cgru.engines.cuda import arguments, device
from cgru.engines.cuda.engine import engine_of

from .programs import needs

NATIVE = Path(__file__).parents[1] / "cuda"
SOURCE = device.SOURCE.read_text()
STORED = {"Real": None, "Half": np.dtype(np.float16), "Bfloat": np.dtype(np.uint16)}
FLAGS = ["-std=c++17", "-O1", "-fno-strict-aliasing", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]


def _refuse(what):
    def method(self, *args):
        raise AssertionError(f"{what} would wait for the device")

    return method


class DeviceArray(np.ndarray):
    """An array in a device's memory."""

    __bool__ = _refuse("bool()")
    __int__ = _refuse("int()")
    __float__ = _refuse("float()")
    __index__ = _refuse("index()")
    __iter__ = _refuse("iteration")
    item = _refuse("item()")
    tolist = _refuse("tolist()")

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **kwargs):
        inputs, out = [[_plain(v) for v in values] for values in (inputs, out)]
        return _device(getattr(ufunc, method)(*inputs, **({"out": tuple(out)} if out else {}), **kwargs))

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(f"numpy.{function.__name__} of a device array")

    def __setitem__(self, index, value):
        _plain(self)[_indices(index)] = _plain(value)

    def __getitem__(self, index):
        return _device(_plain(self)[_indices(index)])


def _plain(value):
    """The memory of a device array as NumPy's; a NumPy array is what CuPy refuses."""
    if isinstance(value, DeviceArray):
        return value.view(np.ndarray)
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return value


def _indices(index):
    return tuple(map(_plain, index)) if isinstance(index, tuple) else _plain(index)


def _device(value):
    if isinstance(value, (list, tuple)):
        return type(value)(map(_device, value))
    return np.asarray(value).view(DeviceArray) if isinstance(value, (np.ndarray, np.generic)) else value


def _function(function):
    def call(*args, **kwargs):
        deep = lambda v: type(v)(map(_plain, v)) if isinstance(v, (list, tuple)) else _plain(v)  # noqa: E731
        return _device(function(*map(deep, args), **{name: deep(v) for name, v in kwargs.items()}))

    return call


def _poisoned(shape, dtype=float):
    return np.full(shape, np.nan, dtype).view(DeviceArray)


def _matmul(a, b, out):
    """cupy.matmul of matrices: of one dtype, into a contiguous result."""
    assert a.ndim == b.ndim == out.ndim == 2
    assert a.dtype == b.dtype == out.dtype
    assert out.flags.c_contiguous
    assert out.shape == (a.shape[0], b.shape[1])
    assert not np.shares_memory(_plain(out), _plain(a))
    with np.errstate(invalid="ignore"):  # infinity times zero
        out[...] = np.matmul(_plain(a), _plain(b)).view(DeviceArray)
    return out


class _Generator:
    def __init__(self, seed):
        self.generator = np.random.default_rng(seed)

    def random(self, size, dtype):
        return self.generator.random(size, dtype).view(DeviceArray)


xp = SimpleNamespace(
    ndarray=DeviceArray,
    random=SimpleNamespace(default_rng=_Generator),
    array=lambda value, order="K": np.array(value, order=order).view(DeviceArray),
    asarray=lambda value: np.array(value).view(DeviceArray),
    from_dlpack=lambda value: np.from_dlpack(value).view(DeviceArray),
    empty=_poisoned,
    matmul=_matmul,
    **{
        name: _function(getattr(np, name))
        for name in (
            "zeros",
            "zeros_like",
            "ones",
            "split",
            "stack",
            "concatenate",
            "clip",
            "take",
            "where",
            "arange",
            "sum",
        )
    },
)


def layout(structure, name):
    """C++ that lists a structure's size, and each field's offset and size."""
    fields = ", ".join(f"offsetof({name}, {field}), sizeof({name}::{field})" for field in structure.names)
    return f'extern "C" const size_t layout_{name}[] = {{sizeof({name}), {fields}}};\n'


STRUCTURES = {"Forward": arguments.FORWARD, "Backward": arguments.BACKWARD}


@functools.cache
def library(real, stored, source=SOURCE):
    """gru.cu, or a change of it, as a library for these types."""
    needs("g++")
    folder = Path(tempfile.mkdtemp(prefix="cgru-cuda-"))
    (folder / "gru.cu").write_text(source)
    (folder / "layout.h").write_text("".join(layout(dtype, name) for name, dtype in STRUCTURES.items()))
    macros = [f"-DREAL={device.C_NAMES[real]}", f"-DSTORED={stored}", '-DCGRU_TEST_SOURCE="gru.cu"']
    macros += ['-DCGRU_TEST_LAYOUT="layout.h"', f"-I{folder}", f"-I{NATIVE}"]
    target = str(folder / "gru.so")
    command = [
        "g++",
        *FLAGS,
        *macros,
        "-shared",
        "-fPIC",
        str(NATIVE / "cuda_on_cpu.cpp"),
        "-o",
        target,
        "-lpthread",
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    loaded = ctypes.CDLL(target)
    loaded.run.restype = ctypes.c_char_p
    shutil.rmtree(folder)
    return loaded


KERNELS = {name: int(bound) for bound, name in re.findall(r"__launch_bounds__\((\d+)\) (\w+)\(", SOURCE)}
KERNELS |= dict.fromkeys(re.findall(r"^FUSED\((\w+),", SOURCE, re.M), 512)
"""Every kernel, and how many threads a block of it may have."""


class Simulator:
    """A device, made of the processor."""

    xp = xp
    name = "cuda:0"

    def __init__(self, shared_memory=232_448, multiprocessors=132, source=SOURCE):
        self.shared_memory, self.multiprocessors, self.source = shared_memory, multiprocessors, source
        self.seeds = itertools.count()
        self.launches, self.waits = [], 0
        self._dtypes = {}

    def use(self):
        return contextlib.nullcontext()

    def holds(self, array):
        return True

    def to_host(self, array):
        return np.array(_plain(array))

    def mark(self):
        return "ready"

    def wait(self, mark):
        assert mark == "ready"
        self.waits += 1

    def synchronize(self):
        pass

    def memory(self):
        return 0

    def address(self, name, array, contiguous=True):
        assert type(array) is DeviceArray, f"{name}: {type(array)}"
        assert not contiguous or array.flags.c_contiguous, f"{name}: strides {array.strides} of shape {array.shape}"
        address = array.__array_interface__["data"][0]
        assert address % array.itemsize == 0
        self._dtypes[name, address] = array.dtype
        return address

    def kernel(self, name, real, stored):
        loaded = library(real.name, stored, self.source)

        def launch(grid, block, args, shared_mem=0):
            (structure,) = args
            assert type(structure) is np.ndarray
            assert structure.size == 1
            assert structure.dtype in STRUCTURES.values()
            for field in structure.dtype.names:
                if structure.dtype[field] == arguments.POINTER and structure[field]:
                    expected = {"lengths": np.dtype(np.int64), "weights": STORED[stored] or real}.get(field, real)
                    got = self._dtypes[field, int(structure[field])]
                    assert got == expected, f"{field} of {name}: {got} where the kernel reads {expected}"
            assert all(type(n) is int and n > 0 for n in (*grid, *block))
            assert np.prod(block) <= KERNELS[name]
            assert type(shared_mem) is int
            assert shared_mem <= max(49_152, self.shared_memory)
            self.launches.append(name)
            three = lambda sizes: (ctypes.c_int * 3)(*(*sizes, 1, 1)[:3])  # noqa: E731
            complaint = loaded.run(
                name.encode(), three(grid), three(block), ctypes.c_size_t(shared_mem),
                structure.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(structure.nbytes),
                ctypes.c_uint(next(self.seeds)),
            )  # fmt: skip
            assert complaint is None, f"{name}: {complaint.decode()}"

        return launch


def place(gru, simulator):
    """The model on a simulated device."""
    return gru.on(engine_of(simulator))


def on_device(array):
    """A NumPy array, with its strides, as one of the device's; None stays None."""
    return None if array is None else array.view(DeviceArray)


def on_host(array):
    return array.view(np.ndarray)
