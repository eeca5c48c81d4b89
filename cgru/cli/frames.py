"""`cgru run` of a whole network: frames from files, or through a pipe, and the network's outputs for them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import track

from cgru import checks
from cgru.bench.networks import by_name
from cgru.cli import inputs, models
from cgru.engines.host.network import dtype_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    import cgru
    from cgru.types import Array

    Arrays = dict[str, Array]
    Create = Callable[[str, tuple[int, ...]], Array]

CHUNK = 4096
"""Frames of a long sequence at a time."""

FRAME = np.dtype("<f4")
"""A number of a pipe."""


# --- Files ------------------------------------------------------------------------------------------------------------


def read(net: cgru.Network, path: Path) -> Arrays:
    """A network's inputs, as a call takes them and of a frame graph frames on a first axis, and perhaps alone.

    An array without the axis of the batch is one sequence (`one_sequence`).
    """
    given = inputs.read_arrays(path) if path.suffix.lower() == ".npz" else inputs.open_input(path)
    if len(given) == len(net.inputs) == 1:
        given = dict(zip(net.inputs, given.values(), strict=True))
    if given.keys() != net.inputs.keys():
        raise ValueError(f"{path}: expected {checks.listed(net.inputs)}, got {checks.listed(given) or 'nothing'}")
    return {name: converted(net, name, array) for name, array in given.items()}


def converted(net: cgru.Network, name: str, array: Array) -> Array:
    """An input in the type that it has in the network."""
    dtype = dtype_of(net.graph, name)
    if dtype.kind == "f":
        models.check_real(name, array, dtype)
        return models.real(name, array, dtype)
    if not np.can_cast(array.dtype, dtype):
        raise TypeError(f"{name}: expected {dtype}, got {array.dtype}")
    return array.astype(dtype, copy=False)


def sequence_axis(net: cgru.Network, name: str) -> int | None:
    """The axis of a value that counts sequences: the batch, or the first of size 1; None where there is none."""
    graph = net.graph
    shape = graph.shapes[name]
    wanted = 1 if graph.batch is None else graph.batch
    axis = next((i for i, size in enumerate(shape) if size == wanted and i != graph.time[name]), None)
    return axis if axis is None or graph.steps is not None else axis + 1


def one_sequence(net: cgru.Network, given: Arrays) -> tuple[Arrays, bool]:
    """Inputs with an axis of one sequence where all of them lack one, and whether they did."""
    more = net.graph.steps is None
    axes = {name: sequence_axis(net, name) for name in given}
    lacking = all(
        axes[name] is not None and array.ndim == len(net.graph.shapes[name]) + more - 1 for name, array in given.items()
    )
    if not lacking:
        return given, False
    return {name: np.expand_dims(array, axes[name] or 0) for name, array in given.items()}, True


def to_file(net: cgru.Network, given: Arrays, target: Path, threads: int | None) -> None:
    """Run a network over inputs and write its outputs: one as .npy, as they are computed; all by name as .npz."""
    given, alone = one_sequence(net, given)
    written = target.suffix.lower() == ".npy"
    if written and len(net.outputs) > 1:
        raise ValueError(
            f"-o: expected .npz, as there are the outputs {checks.listed(net.outputs)}, got {target.suffix}"
        )

    def create(name: str, shape: tuple[int, ...]) -> Array:
        if written and not alone:
            return np.lib.format.open_memmap(target, "w+", dtype_of(net.graph, name), shape)
        return np.empty(shape, dtype_of(net.graph, name))

    outputs = compute(net, given, threads, create)
    if alone:
        axes = {name: sequence_axis(net, name) for name in outputs}
        outputs = {name: a if axes[name] is None else a.squeeze(axes[name]) for name, a in outputs.items()}
    if not written:
        np.savez(target, **outputs)  # type: ignore[arg-type]
    for array in outputs.values():
        if written and not isinstance(array, np.memmap):
            np.save(target, array)


def compute(net: cgru.Network, given: Arrays, threads: int | None, create: Create) -> Arrays:
    """A network's outputs for whole sequences: what can run while time passes goes through a stream, by chunks."""
    graph = net.graph
    axes = {name: 0 if graph.steps is None else graph.time[name] for name in (*given, *net.outputs)}
    as_long = all(axes[name] is None or graph.steps is None or graph.shapes[name][axes[name] or 0] == graph.steps
                  for name in net.outputs)  # fmt: skip
    if net.runner.obstacles or not as_long:
        return by_name(net, net(given, num_threads=threads))
    counts = {
        array.shape[axis] for name, array in given.items() if (axis := axes[name]) is not None and array.ndim > axis
    }
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"inputs: expected one frame or more, of each input as many, got {sorted(counts)}")
    (count,) = counts
    stream: Any = net.stream(batch(net, given))
    found: Arrays = {}

    def place(outputs: Arrays, first: int) -> None:
        """Keep frames that belong from `first` on; those before 0 are the delay's zeros."""
        for name, array in outputs.items():
            axis = axes[name]
            if axis is None:
                found[name] = array
                continue
            if name not in found:
                found[name] = create(name, (*array.shape[:axis], count, *array.shape[axis + 1 :]))
            silent = min(max(0, -first), array.shape[axis])
            kept = array[along(axis, silent, None)]
            found[name][along(axis, first + silent, first + silent + kept.shape[axis])] = kept

    console = Console(stderr=True)
    starts = range(0, count, CHUNK)
    for start in track(starts, "running", console=console, transient=True, disable=not console.is_terminal):
        piece = {
            name: array if axes[name] is None else array[along(axes[name] or 0, start, start + CHUNK)]
            for name, array in given.items()
        }
        place(by_name(net, stream.process(piece, num_threads=threads)), start - stream.delay)
    if stream.delay:
        place(by_name(net, stream.flush()), count - min(count, stream.delay))
    return found


def batch(net: cgru.Network, given: Arrays) -> int | None:
    """How many sequences there are, where that is dynamic."""
    name = next((name for name in given if net.graph.batch in net.graph.shapes[name]), None)
    if net.graph.batch is None or name is None:
        return None
    axis = sequence_axis(net, name) or 0
    return given[name].shape[axis] if given[name].ndim > axis else None


def along(axis: int, first: int, end: int | None) -> tuple[slice, ...]:
    """Some frames."""
    return (*(slice(None),) * axis, slice(first, end))


# --- Pipes ------------------------------------------------------------------------------------------------------------


def pipe(net: cgru.Network, chunk: int, threads: int | None) -> None:
    """Frames from stdin through a stream to stdout, until stdin ends; a frame out for each frame in."""
    graph = net.graph
    forms = []
    for of in (net.inputs, net.outputs):
        kinds = {name: dtype_of(graph, name) for name in of}
        if len(of) != 1 or set(kinds.values()) != {np.dtype(np.float32)}:
            raise ValueError(f"INPUT -: expected one input and one output of float32, got {checks.listed(of)}")
        (name,) = of
        axis = 0 if graph.steps is None else graph.time[name]
        if axis is None or (graph.steps is not None and graph.shapes[name][axis] != graph.steps):
            raise ValueError(f"INPUT -: expected a frame of {name!r} for every step, got {checks.describe(of[name])}")
        sizes = [size if isinstance(size, int) else 1 for i, size in enumerate(of[name]) if i != graph.time[name]]
        forms.append((axis, sizes))
    (time, sizes), (late, _) = forms
    stream: Any = net.stream()
    if stream.delay:
        models.note(f"frames come {stream.delay} late; the first {stream.delay} are zeros")
    frame_bytes = int(np.prod(sizes)) * FRAME.itemsize
    source: BinaryIO = sys.stdin.buffer
    target: BinaryIO = sys.stdout.buffer
    while data := source.read(chunk * frame_bytes):
        left = len(data) % frame_bytes
        frames = np.frombuffer(data[: len(data) - left], FRAME).reshape(-1, *sizes).astype(np.float32)
        outputs = stream.process(np.ascontiguousarray(np.moveaxis(frames, 0, time)), num_threads=threads)
        target.write(np.moveaxis(outputs, late, 0).astype(FRAME).tobytes())
        target.flush()
        if left:
            raise ValueError(f"stdin: expected frames of {frame_bytes} bytes, {left} bytes left over")
