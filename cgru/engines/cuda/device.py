"""A GPU as the engine sees it: CuPy as the array module, its memory limits, and kernels compiled on first use.

Everything that can be missing is named here: CuPy, the driver, the device asked for.
"""

from __future__ import annotations

import contextlib
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from cgru.types import Array

SOURCE = Path(__file__).with_name("gru.cu")

C_NAMES = {"float32": "float", "float64": "double"}


class Device(Protocol):
    """What the loops need of a device."""

    xp: Any
    """The array module: CuPy."""
    name: str
    """As in `gru.to(name)`: "cuda:0"."""
    shared_memory: int
    """Bytes that a block may have."""
    multiprocessors: int

    def use(self) -> contextlib.AbstractContextManager[Any]:
        """Make it the current device within a `with` block; work goes to its current stream."""

    def kernel(self, name: str, real: np.dtype[Any], stored: str) -> Any:
        """A kernel of `gru.cu` for these types, called as kernel(grid, block, (structure,), shared_mem=bytes)."""

    def address(self, name: str, array: Array, contiguous: bool = True) -> int:
        """Where an array lies, to be put into a kernel's structure."""

    def holds(self, array: Any) -> bool:
        """Whether an array of the module lies on this device."""

    def to_host(self, array: Array) -> Array:
        """A copy as a NumPy array; waits for the device."""

    def mark(self) -> Any:
        """An event: the current stream's work up to now."""

    def wait(self, mark: Any) -> None:
        """Have the current stream wait for an event; the host does not."""

    def synchronize(self) -> None:
        """Wait until the device has done what it was asked to."""

    def memory(self) -> int:
        """Bytes that the array module holds of the device's memory."""


class CupyDevice:
    """A GPU of this machine."""

    def __init__(self, xp: Any, index: int) -> None:
        self.xp, self.index, self.name = xp, index, f"cuda:{index}"
        attributes = xp.cuda.Device(index).attributes
        self.shared_memory = attributes["MaxSharedMemoryPerBlockOptin"]
        self.multiprocessors = attributes["MultiProcessorCount"]
        self._kernels: dict[tuple[str, str, str], Any] = {}
        self._modules: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()

    def use(self) -> contextlib.AbstractContextManager[Any]:
        """See `Device`."""
        return self.xp.cuda.Device(self.index)

    def kernel(self, name: str, real: np.dtype[Any], stored: str) -> Any:
        """See `Device`."""
        key = name, real.name, stored
        kernel = self._kernels.get(key)
        if kernel is None:
            with self._lock:
                kernel = self._kernels[key] = self._compile(*key)
        return kernel

    def _compile(self, name: str, real: str, stored: str) -> Any:
        """CuPy compiles a module at its first kernel, and keeps the result on the disk."""
        module = self._modules.get((real, stored))
        if module is None:
            module = self.xp.RawModule(code=SOURCE.read_text(), options=options(real, stored))
            self._modules[real, stored] = module
        kernel = module.get_function(name)
        if "resident" in name:  # more than the 48 KB that need no asking
            kernel.max_dynamic_shared_size_bytes = self.shared_memory
        return kernel

    def address(self, name: str, array: Array, contiguous: bool = True) -> int:
        """See `Device`."""
        return int(array.data.ptr)  # type: ignore[attr-defined] # a CuPy array's

    def holds(self, array: Any) -> bool:
        """See `Device`."""
        return bool(array.device.id == self.index)

    def to_host(self, array: Array) -> Array:
        """See `Device`."""
        result: Array = self.xp.asnumpy(array)
        return result

    def mark(self) -> Any:
        """See `Device`."""
        event = self.xp.cuda.Event(disable_timing=True)
        event.record()
        return event

    def wait(self, mark: Any) -> None:
        """See `Device`."""
        self.xp.cuda.get_current_stream().wait_event(mark)

    def synchronize(self) -> None:
        """See `Device`."""
        self.xp.cuda.Device(self.index).synchronize()

    def memory(self) -> int:
        """See `Device`."""
        with self.use():
            return int(self.xp.get_default_memory_pool().total_bytes())

    def __reduce__(self) -> tuple[Any, ...]:
        return find, (self.index,)


def options(real: str, stored: str) -> tuple[str, ...]:
    """NVRTC's options that make a module for these types."""
    return ("-std=c++17", f"-DREAL={C_NAMES[real]}", f"-DSTORED={stored}")


def parse(device: object) -> int:
    """The number in "cuda" or "cuda:1"."""
    if isinstance(device, str):
        kind, _, number = device.partition(":")
        if kind == "cuda" and (number.isdecimal() or device == "cuda"):
            return int(number or 0)
    raise ValueError(f"device: expected 'cpu', 'cuda' or 'cuda:N', got {device!r}")


@cache
def find(index: int) -> CupyDevice:
    """The GPU of this number.

    Raises
    ------
    RuntimeError
        CuPy, a driver or the device is missing; the message says which, and what to do.
    """
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(
            'device: \'cuda\' needs CuPy: pip install "cgru[cuda12]" or "cgru[cuda13]", whichever the driver supports '
            f"(nvidia-smi shows its CUDA version); {error}"
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(
            "device: 'cuda' needs an NVIDIA GPU and its driver; "
            f"CuPy {cupy.__version__} is here, but finds none: {error}"
        ) from error
    if index >= count:
        numbers = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise RuntimeError(f"device: 'cuda:{index}' is not here; this machine has {numbers}")
    return CupyDevice(cupy, index)
