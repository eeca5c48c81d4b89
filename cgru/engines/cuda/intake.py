"""Arrays that come to a model on a GPU: taken as they lie, or refused.

CuPy arrays are used as they are. Other arrays in the device's memory are taken without a copy, by DLPack or the
`__cuda_array_interface__`. What lies elsewhere is an error that says how to move it: nothing is moved in secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks

if TYPE_CHECKING:
    from cgru.engines.cuda.device import Device
    from cgru.types import Array, Shape

DLPACK_CUDA = (2, 13)  # memory of a device, and managed memory


def array(device: Device, name: str, value: Any, dtype: np.dtype[Any], *shapes: Shape) -> Array:
    """A device array of a dtype and of one of the shapes; strides are free.

    Raises
    ------
    TypeError, ValueError
        It is no array, lies elsewhere, or is of another dtype or shape.
    """
    taken = _taken(device, name, value)
    ndim = getattr(value, "ndim", None)
    meant = [shape for shape in shapes if len(shape) == ndim] or shapes
    expected = f"{name}: expected {' or '.join(map(checks.describe, meant))} {dtype} on {device.name}"
    if taken is None:
        where = " in host memory" if isinstance(value, np.ndarray) or _host(value) else ""
        raise TypeError(f"{expected}, got {type(value).__name__}{where}; move it with cupy.asarray({name})")
    if not device.holds(taken):
        raise ValueError(f"{expected}, got an array on cuda:{taken.device.id}; move it or the model")  # type: ignore[attr-defined]
    if not any(checks.fits(taken.shape, shape) for shape in shapes):
        raise ValueError(f"{expected}, got {checks.describe(taken.shape)}")
    if taken.dtype != dtype:
        raise TypeError(f"{expected}, got {taken.dtype}; convert it with {name}.astype(numpy.{dtype})")
    return taken


def _taken(device: Device, name: str, value: Any) -> Array | None:
    """A CuPy array as it is; a subclass', or another library's on a GPU, as one of the same memory; else None."""
    xp = device.xp
    if isinstance(value, xp.ndarray):
        return value if type(value) is xp.ndarray else xp.from_dlpack(value)
    if isinstance(value, np.ndarray):
        return None
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        if value.__dlpack_device__()[0] not in DLPACK_CUDA:
            return None
        try:
            return xp.from_dlpack(value)
        except (BufferError, RuntimeError) as error:  # a tensor that asks for gradients, say
            raise TypeError(f"{name}: expected an array to take by DLPack, got one that refuses: {error}") from error
    if hasattr(value, "__cuda_array_interface__"):
        return xp.asarray(value)
    return None


def _host(value: Any) -> bool:
    return hasattr(value, "__dlpack_device__") and value.__dlpack_device__()[0] not in DLPACK_CUDA


def output(
    device: Device, out: Any, dtype: np.dtype[Any], shape: tuple[int, ...], inputs: dict[str, Array | None]
) -> Array:
    """A CuPy array to write a result to, without overlap of its own or with the inputs."""
    if not isinstance(out, device.xp.ndarray):
        expected = f"out: expected {checks.describe(shape)} {dtype} on {device.name}"
        raise TypeError(f"{expected}, got {type(out).__module__}.{type(out).__name__}; make it with cupy.empty")
    result = array(device, "out", out, dtype, shape)
    checks.distinct("out", result)
    for name, value in inputs.items():
        taken = None if value is None else _taken(device, name, value)
        if taken is not None and _overlap(device, result, taken):
            raise ValueError(f"out: expected memory of its own, got an array that overlaps {name}")
    return result


def _overlap(device: Device, a: Array, b: Array) -> bool:
    """Whether the spans of two arrays meet; arrays whose elements alternate in one span are refused, too."""
    if not a.size or not b.size:
        return False
    (a_low, a_high), (b_low, b_high) = _span(device, a), _span(device, b)
    return a_low < b_high and b_low < a_high


def _span(device: Device, array: Array) -> tuple[int, int]:
    address = device.address("span", array, contiguous=False)
    reach = [(size - 1) * stride for size, stride in zip(array.shape, array.strides, strict=True)]
    return address + sum(min(0, r) for r in reach), address + sum(max(0, r) for r in reach) + array.itemsize
