"""`cgru run`: sequences from files, or raw frames through a pipe, and a model's outputs for them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console
from rich.progress import track

from cgru.checks import describe
from cgru.cli import frames, inputs, models, networks

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from cgru.recurrent import Recurrent
    from cgru.types import Array

CHUNK = 4096
"""Steps of a long sequence at a time."""

FRAME = np.dtype("<f4")
"""A number of a pipe."""


@click.command()
@click.argument("model", type=models.MODEL)
@click.argument("source", metavar="INPUT", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("-o", "--output", "target", type=models.PATH, help="Where to: .npy for y, .npz for y and h_n.")
@click.option("--h0", "h0_path", type=models.PATH, help="Initial states: .npy, or the .npz of an earlier run.")
@click.option("--chunk", type=click.IntRange(1, 2**20), help="Frames at a time, of INPUT -.  [default: 1]")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads to use.")
@models.name_option
@models.config_option
@networks.network_option
def run(
    model: Path,
    source: Path,
    target: Path | None,
    h0_path: Path | None,
    chunk: int | None,
    threads: int | None,
    name: str | None,
    config: Path | None,
    whole: bool,
) -> None:
    """Run the GRU, or the whole network, in the file MODEL over INPUT.

    INPUT is an .npy of x (T, I), (T, B, I), or (B, T, I) for a batch_first model; an .npz of x and perhaps h0,
    lengths, mask, resets; a 16-bit .wav, whose channels are the model's inputs, from -1 to 1; or -, for a stream
    through a pipe: from stdin frames of I, to stdout frames of H little-endian float32, flushed after every chunk.

    A network's INPUT is as its call takes it, several inputs by name in an .npz; of a frame graph frames on a first
    axis. The axis of the batch may be missing: one sequence. Outputs are those of the whole sequence, without delay;
    through a pipe they come as many frames late as `cgru info` says.
    """
    piped = str(source) == "-"
    if piped == (target is not None):
        raise click.UsageError("give INPUT - , which writes to stdout, or a file and -o OUT")
    if chunk is not None and not piped:
        raise click.UsageError("--chunk: expected INPUT -, as files are read whole")
    if target is not None and target.suffix.lower() not in WRITERS:
        raise click.BadParameter(f"{target}: expected {' or '.join(WRITERS)}", param_hint="-o")
    if not piped and source.suffix.lower() not in inputs.READERS:
        raise click.BadParameter(f"{source}: expected {', '.join(inputs.READERS)} or -", param_hint="INPUT")

    net = networks.open_network(model, name, config, whole)
    if net is not None:
        if h0_path is not None:
            raise click.UsageError("--h0: expected none, as MODEL is a whole network, whose streams begin from zero")
        if target is None:
            frames.pipe(net, chunk or 1, threads)
            return
        refuse_same(target, model, source)
        arrays = frames.read(net, source)
        with models.replacing(target) as part:
            frames.to_file(net, arrays, part, threads)
        return
    gru = models.open_gru(model, name, config)
    given = {} if piped else inputs.READERS[source.suffix.lower()](source)
    if h0_path is not None:
        if "h0" in given:
            raise click.UsageError(f"--h0: expected no other, as {source} has an h0, too")
        given["h0"] = read_state(h0_path)
    for key in given.keys() & {"x", "h0"}:
        models.check_real(key, given[key], gru.dtype)
    if "h0" in given:
        given["h0"] = models.real("h0", given["h0"], gru.dtype)
    if target is None:
        pipe(gru, given.get("h0"), chunk or 1, threads)
        return
    refuse_same(target, model, source, h0_path, config)
    with models.replacing(target) as part:
        WRITERS[target.suffix.lower()](gru, given, part, threads)


# --- Files ------------------------------------------------------------------------------------------------------------


def refuse_same(target: Path, *read: Path | None) -> None:
    """Refuse to write over what is read."""
    for path in read:
        if path and target.exists() and target.samefile(path):
            raise ValueError(f"{target}: expected another file than {path}, which is read")


def read_state(path: Path) -> Array:
    """h0 from a file of it alone, or the h_n that an earlier run wrote."""
    given = inputs.read_arrays(path)
    states = [array for key, array in given.items() if key in ("x", "h0", "h_n")]
    if len(states) != 1:
        raise ValueError(f"{path}: expected one array, or one of h0 and h_n, got {', '.join(given) or 'nothing'}")
    return states[0]


def write_npy(gru: Recurrent, given: dict[str, Array], path: Path, threads: int | None) -> None:
    """y alone; of a long sequence written as it is computed."""

    def create(shape: tuple[int, ...]) -> Array:
        return np.lib.format.open_memmap(path, "w+", gru.dtype, shape)

    y, _ = compute(gru, given, threads, create)
    if not isinstance(y, np.memmap):
        np.save(path, y)


def write_npz(gru: Recurrent, given: dict[str, Array], path: Path, threads: int | None) -> None:
    """y and h_n."""
    y, h_n = compute(gru, given, threads, lambda shape: np.empty(shape, gru.dtype))
    np.savez(path, y=y, h_n=h_n)


WRITERS = {".npy": write_npy, ".npz": write_npz}


# --- Computing --------------------------------------------------------------------------------------------------------


def compute(
    gru: Recurrent, given: dict[str, Array], threads: int | None, create: Callable[[tuple[int, ...]], Array]
) -> tuple[Array, Array]:
    """y and h_n; one sequence of one direction goes through a stream, chunk by chunk, into the array `create` makes."""
    x = given["x"]
    if x.ndim != 2 or gru.bidirectional or gru.reverse or given.keys() - {"x", "h0"}:
        arguments: dict[str, Any] = {**given, "x": models.real("x", x, gru.dtype)}
        return gru(**arguments, num_threads=threads)
    if x.shape[1] != gru.input_size:
        raise ValueError(f"x: expected (T, {gru.input_size}), as the model has it, got {describe(x.shape)}")
    stream = gru.stream()
    if "h0" in given:
        stream.state = given["h0"]
    y = create((len(x), gru.hidden_size))
    console = Console(stderr=True)
    starts = range(0, len(x), CHUNK)
    for start in track(starts, "running", console=console, transient=True, disable=not console.is_terminal):
        part = slice(start, start + CHUNK)
        stream.process(models.real("x", x[part], gru.dtype), out=y[part], num_threads=threads)
    return y, stream.state


def pipe(gru: Recurrent, h0: Array | None, chunk: int, threads: int | None) -> None:
    """Frames from stdin through a stream to stdout, until stdin ends."""
    stream = gru.stream()
    if h0 is not None:
        stream.state = h0
    if gru.dtype != np.float32:
        models.note(f"frames are float32, converted to the model's {gru.dtype} and back")
    frame_bytes = gru.input_size * FRAME.itemsize
    source: BinaryIO = sys.stdin.buffer
    target: BinaryIO = sys.stdout.buffer
    while data := source.read(chunk * frame_bytes):
        left = len(data) % frame_bytes
        frames = np.frombuffer(data[: len(data) - left], FRAME).reshape(-1, gru.input_size)
        target.write(stream.process(frames.astype(gru.dtype), num_threads=threads).astype(FRAME).tobytes())
        target.flush()
        if left:
            raise ValueError(f"stdin: expected frames of {frame_bytes} bytes, {left} bytes left over")
