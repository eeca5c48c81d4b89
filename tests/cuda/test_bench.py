"""What is said where CuPy, a driver or a device is missing; and the benchmark of a device."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import cgru
from cgru import bench, cli
from cgru.bench import cuda as bench_cuda
from cgru.engines.cuda import device as devices

from ..support.cuda_on_cpu import (
    Simulator,
    xp,
)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "mps", None, 0])
def test_names_of_devices(name):
    with pytest.raises(ValueError, match="device: expected 'cpu', 'cuda' or 'cuda:N', got"):
        cgru.GRU(3, 4).to(name)
    assert devices.parse("cuda:12") == 12


def in_a_new_process(code):
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    return run.stderr.strip().splitlines()[-1]


def test_without_cupy():
    code = "import sys; sys.modules['cupy'] = None; import cgru; cgru.GRU(3, 4).to('cuda')"
    expected = 'RuntimeError: device: \'cuda\' needs CuPy: pip install "cgru[cuda12]" or "cgru[cuda13]"'
    assert in_a_new_process(code).startswith(expected)


def test_with_cupy_and_no_driver():
    cupy = pytest.importorskip("cupy", exc_type=ImportError)
    try:
        cupy.cuda.runtime.getDeviceCount()
        pytest.skip("there is a GPU here")
    except cupy.cuda.runtime.CUDARuntimeError:
        pass
    code = "import cgru; cgru.GRU(3, 4).to('cuda')"
    line = in_a_new_process(code)
    assert line.startswith("RuntimeError: device: 'cuda' needs an NVIDIA GPU and its driver; CuPy ")
    assert "cudaErrorInsufficientDriver" in line or "cudaErrorNoDevice" in line


def test_cupy_has_what_the_engine_calls():
    cupy = pytest.importorskip("cupy", exc_type=ImportError)
    for name in vars(xp):
        assert hasattr(cupy, name), name
    assert hasattr(cupy.random, "default_rng")
    for name in ("asnumpy", "RawModule"):
        assert hasattr(cupy, name), name


def test_a_device_that_is_not_there(monkeypatch):
    module = type("cupy", (), {})()
    runtime = type("runtime", (), {"getDeviceCount": staticmethod(lambda: 1), "CUDARuntimeError": RuntimeError})
    module.cuda = type("cuda", (), {"runtime": runtime})
    monkeypatch.setitem(sys.modules, "cupy", module)
    with pytest.raises(RuntimeError, match="device: 'cuda:1' is not here; this machine has cuda:0"):
        cgru.GRU(3, 4).to("cuda:1")


def test_importing_cgru_imports_no_cupy():
    code = "import sys, cgru; cgru.GRU(3, 4).to('cpu'); assert 'cupy' not in sys.modules; raise SystemExit('fine')"
    assert in_a_new_process(code) == "fine"


@pytest.mark.parametrize("case", bench_cuda.cases((24,)), ids=lambda case: case.name)
def test_bench_measures(case):
    case = dataclasses.replace(case, steps=min(case.steps, 5), batch=min(case.batch, 9))
    row = bench_cuda.measure(case, Simulator(), 0.001, 2)
    ways = {"cgru, stream"} if case.steps == 0 else {"cgru, steps", "cgru, fused"}
    assert ways | {"cgru, processor"} <= set(row.seconds) == set(row.memory)
    assert all(value > 0 for value in row.seconds.values())


def test_bench_checks_results_before_it_times(monkeypatch):
    def wrong(problem, device):
        right = before(problem, device)
        found = right["cgru, steps"]
        return {"wrong": dataclasses.replace(found, result=lambda y: found.result(y) + 1e-3)}

    before = bench_cuda.contenders
    monkeypatch.setattr(bench_cuda, "contenders", wrong)
    with pytest.raises(RuntimeError, match=r"wrong, .* differs from the reference by 0.001"):
        bench_cuda.measure(bench_cuda.cases((8,))[1], Simulator(), 0.001, 2)


def test_bench_on_the_command_line(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "find", lambda index: Simulator())
    monkeypatch.setattr(bench_cuda, "cases", lambda sizes: [bench.Case("B 2, T 3", 3, 2, h, h) for h in sizes])
    path = str(tmp_path / "times.json")
    arguments = ["bench", "--device", "cuda", "--hidden", "8", "--seconds", "0.01", "--json", path]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.output
    assert "B 2, T 3" in result.output
    (row,) = json.loads(Path(path).read_text())["rows"]
    assert row["case"]["hidden"] == 8
    assert set(row["seconds"]) >= {"cgru, steps", "cgru, fused"}
    assert CliRunner().invoke(cli.main, ["bench", "--device", "cuda", "--threads", "2"]).exit_code == 2


def test_bench_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    devices.find.cache_clear()
    result = CliRunner().invoke(cli.main, ["bench", "--device", "cuda"])
    assert result.exit_code == 1
    assert "device: 'cuda' needs CuPy" in result.output
    result = CliRunner().invoke(cli.main, ["bench", "--device", "tpu"])
    assert result.exit_code == 1
    assert "device: expected 'cpu', 'cuda' or 'cuda:N', got 'tpu'" in result.output
