"""`cgru bench`: a table of this machine's times, cgru beside its peers. The measuring is `cgru.bench`'s."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path

import click
import rich.box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import cgru
from cgru import formats
from cgru.bench import networks as benchmark_networks
from cgru.cli import models, networks
from cgru.model.precision import PRECISIONS

SIZES = (32, 64, 128, 256)
"""Hidden units of the table."""


@click.command()
@click.argument("path", metavar="[FILE]", type=models.MODEL, required=False)
@click.option("--hidden", "sizes", type=click.IntRange(1, 8192), multiple=True,
              help=f"Hidden units, and as many inputs; may be given several times.  [default: {SIZES}]")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="cpu, or a GPU: cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Threads of everybody.")
@click.option("--seconds", type=click.FloatRange(0.01, 600), default=0.5, show_default=True,
              help="Measuring time of each contender in each case.")  # fmt: skip
@click.option("--precision", type=click.Choice(("float32", *PRECISIONS)), default="float32", show_default=True,
              help="What cgru stores its weights as.")  # fmt: skip
@click.option("--json", "json_path", type=click.Path(dir_okay=False), help="Write the times to a file, - for stdout.")
@click.option("--plot", "plot_path", type=click.Path(dir_okay=False), help="Draw the times to a .png, .svg or .pdf.")
@models.name_option
@networks.network_option
def bench(
    path: Path | None,
    sizes: tuple[int, ...],
    device: str,
    threads: int,
    seconds: float,
    precision: str,
    json_path: str | None,
    plot_path: str | None,
    name: str | None,
    whole: bool,
) -> None:
    """Time cgru on this machine beside NumPy and the frameworks installed.

    One step, one sequence and a batch, float32; medians of interleaved rounds, in microseconds a call. Every result is
    compared with the reference before anything is timed: within 1e-5, or 0.05 for cgru's of a --precision. On a GPU:
    cgru's two ways of running there, beside PyTorch's there and cgru on one thread here.

    With FILE, of a network or a GRU: a step of it and 100 steps, beside ONNX Runtime where the file is ONNX.
    """
    if path is not None:
        if sizes or device != "cpu" or plot_path:
            raise click.UsageError("--hidden, --device and --plot: expected no FILE beside them")
        _bench_file(path, name, whole, threads, seconds, precision, json_path)
        return
    if name is not None or whole:
        raise click.UsageError("--name and --network: expected a FILE beside them")
    sizes = sizes or SIZES
    if device != "cpu":
        if threads != 1 or plot_path:
            raise click.UsageError("--threads and --plot are for --device cpu")
        _bench_gpu(sizes, device, seconds, json_path)
        return
    from cgru import bench as benchmark

    if plot_path:
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise click.ClickException(f'--plot needs matplotlib: pip install "cgru[bench]" ({error})') from error
    names = benchmark.installed()
    console = Console(stderr=json_path == "-")
    console.width = max(console.width, 100)  # the table's columns; narrower, rich would leave some out
    cases = benchmark.cases(tuple(sorted(set(sizes))))
    rows = [
        benchmark.measure(case, names, threads, seconds, precision=precision)
        for case in track(cases, "measuring", console=Console(stderr=True), transient=True)
    ]
    table = Table(
        box=rich.box.SIMPLE,
        padding=(0, 1),
        title=f"microseconds a call, {benchmark.title(threads, precision)}",
    )
    table.add_column("case", no_wrap=True)
    table.add_column("I = H", justify="right")
    for name in names:
        header = name.replace("onnxruntime", "onnx\nruntime").replace(" ", "\n")
        table.add_column(header, justify="right", style="bold" if name == "cgru" else "", no_wrap=True)
    table.add_column("ratio", justify="right")
    table.add_column("of the\nfloor", justify="right")
    for row in rows:
        times = (_microseconds(row.seconds[name]) for name in names)
        table.add_row(
            row.case.name,
            str(row.case.hidden),
            *times,
            f"{row.peer / row.seconds['cgru']:.2f}",
            f"{row.floor / row.seconds['cgru']:.2f}",
        )
    console.print(table)
    console.print(
        "ratio: the fastest other's time to cgru's; of the floor: the least time this machine could take in float32, "
        "to cgru's"
    )
    if json_path:
        with click.open_file(json_path, "w") as file:
            json.dump(benchmark.as_json(rows, threads, precision), file, indent=2)
            file.write("\n")
    if plot_path:
        benchmark.plot(rows, plot_path, threads, precision)


def _bench_file(
    file: Path, name: str | None, whole: bool, threads: int, seconds: float, precision: str, json_path: str | None
) -> None:
    """The table of a file: a GRU alone as a network of one layer."""
    net = networks.open_network(file, name, None, whole)
    path = None
    if net is None:
        net = cgru.Network([models.open_gru(file, name)])
    elif formats.kind(file) == "onnx" and importlib.util.find_spec("onnxruntime"):
        path = formats.located(file)
    if precision != "float32":
        net = net.quantize(precision)
    rows = benchmark_networks.measure(net, path, threads, seconds)
    own = "" if precision == "float32" else f", cgru {precision}"
    table = Table(
        box=rich.box.SIMPLE,
        padding=(0, 1),
        title=f"microseconds, {file.name}, {threads} thread{'s' * (threads > 1)}{own}",
    )
    table.add_column("case", no_wrap=True)
    for title in ("cgru", "onnxruntime", "ratio", "of the floor"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        own_time, peer = row.seconds["cgru"], row.seconds.get("onnxruntime")
        table.add_row(
            row.name,
            _microseconds(own_time),
            "-" if peer is None else _microseconds(peer),
            "-" if peer is None else f"{peer / own_time:.2f}",
            f"{row.floor / own_time:.2f}",
        )
    console = Console(stderr=json_path == "-")
    console.print(table)
    console.print(
        "ratio: ONNX Runtime's time to cgru's; of the floor: the least time this machine could take, to cgru's"
    )
    if json_path:
        facts = {"file": str(file), "threads": threads, "precision": precision, "unit": "seconds a call, median"}
        with click.open_file(json_path, "w") as target:
            json.dump({**facts, "rows": [asdict(row) for row in rows]}, target, indent=2)
            target.write("\n")


def _bench_gpu(sizes: tuple[int, ...], device: str, seconds: float, json_path: str | None) -> None:
    """The table of a GPU."""
    from cgru.bench import cuda as bench_cuda
    from cgru.engines.cuda import device as devices

    try:
        index = devices.parse(device)
        assert index is not None
        gpu = devices.find(index)
    except (ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
    cases = bench_cuda.cases(tuple(sorted(set(sizes))))
    rows = [
        bench_cuda.measure(case, gpu, seconds)
        for case in track(cases, "measuring", console=Console(stderr=True), transient=True)
    ]
    table = Table(box=rich.box.SIMPLE, padding=(0, 1), title=f"microseconds a call, float32, {device}")
    table.add_column("case", no_wrap=True)
    table.add_column("I = H", justify="right")
    names = list(dict.fromkeys(name for row in rows for name in row.seconds))
    for name in names:
        table.add_column(name.replace(", ", ",\n"), justify="right", no_wrap=True)
    for row in rows:
        times = (_microseconds(row.seconds[name]) if name in row.seconds else "-" for name in names)
        table.add_row(row.case.name, str(row.case.hidden), *times)
    console = Console(stderr=json_path == "-")
    console.width = max(console.width, 100)
    console.print(table)
    if json_path:
        with click.open_file(json_path, "w") as file:
            report = {"device": device, "unit": "seconds a call, median", "rows": [asdict(row) for row in rows]}
            json.dump(report, file, indent=2)
            file.write("\n")


def _microseconds(seconds: float) -> str:
    """Three digits or more."""
    value = seconds * 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
