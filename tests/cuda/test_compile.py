"""The CUDA kernels through NVIDIA's compiler, which needs no GPU: for three generations, within stated budgets.

Needs the package nvidia-cuda-nvrtc of CUDA 13. Its version stays open, since PyTorch may pin one of its own; the budgets
hold for 13.0 and 13.5.
"""

import ctypes
import importlib.util
import os
import re
from pathlib import Path

import pytest

from cgru.engines.cuda import device, plan

from ..support.cuda_on_cpu import KERNELS, SOURCE, Simulator
from ..support.matrix import thinned

ARCHITECTURES = ["sm_80", "sm_90", "sm_120"]  # Ampere, Hopper, Blackwell
TYPES = ["float32 Real", "float64 Real", "float32 Half", "float32 Bfloat"]

REGISTERS = 65_536  # of a multiprocessor; a block's must fit
BUDGET = {name: 48 if bound == 256 else 128 for name, bound in KERNELS.items()}
"""Registers of a thread. The elementwise kernels wait for memory, and hide it the better the more threads there are: 48
keep 1,280 of 2,048. A fused kernel's block of 512 may have 128."""


def compiler():
    """NVRTC's library out of its package."""
    spec = importlib.util.find_spec("nvidia")
    folders = [] if spec is None else list(spec.submodule_search_locations)
    found = [path for folder in folders for path in Path(folder).rglob("libnvrtc.so.*")]
    if not found:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("nvidia-cuda-nvrtc: not installed")
    for builtins in found[0].parent.glob("libnvrtc-builtins.so.*"):  # older versions do not look beside themselves
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(found[0]))


def compile_(architecture, real, stored, source=SOURCE):
    """The exit code, the log, and PTX or nothing."""
    library, program, size = compiler(), ctypes.c_void_p(), ctypes.c_size_t()
    assert library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"gru.cu", 0, None, None) == 0
    options = (*device.options(real, stored), f"--gpu-architecture={architecture}", "--ptxas-options=-v")
    code = library.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    )
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    ptx = b""
    if code == 0 and architecture.startswith("compute"):
        library.nvrtcGetPTXSize(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        library.nvrtcGetPTX(program, buffer)
        ptx = buffer.value
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return code, log.value.decode(), ptx.decode()


def used(log):
    """Of each kernel: bytes of stack, of spills, registers, and bytes of static shared memory."""
    result = {}
    for part in log.split("Compiling entry function '")[1:]:
        number = lambda pattern: int((re.findall(pattern, part) or [0])[0])  # noqa: B023, E731
        spills = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
        result[part.split("'")[0]] = (
            number(r"(\d+) bytes stack frame"), spills, number(r"Used (\d+) registers"), number(r"(\d+) bytes smem"),
        )  # fmt: skip
    return result


@thinned(2, architecture=ARCHITECTURES, types=TYPES)
def test_every_kernel_compiles_within_its_budget(architecture, types):
    real, stored = types.split()
    code, log, _ = compile_(architecture, real, stored)
    assert code == 0, log
    assert "warning" not in log, log
    kernels = used(log)
    assert set(kernels) == set(KERNELS)
    for name, (stack, spills, registers, shared) in kernels.items():
        print(f"{architecture} {real} {stored} {name}: {registers} registers")
        assert (stack, spills, shared) == (0, 0, 0), name
        assert 0 < registers <= BUDGET[name], name
        assert registers * KERNELS[name] <= REGISTERS, name


def test_what_does_not_compile_is_seen():
    code, log, _ = compile_("sm_90", "float32", "Real", SOURCE.replace("return alpha;", "return alhpa;"))
    assert code != 0
    assert "alhpa" in log


def test_what_the_kernels_read_and_where_they_wait():
    """By PTX: nothing another thread may have written comes through the read-only path; weights come from where they are."""
    code, log, ptx = compile_("compute_80", "float32", "Real")
    assert code == 0, log
    kernels = {name: body for name, body in re.findall(r"\.entry (\w+)\((.*?)\n\}", ptx, re.S)}  # noqa: C416
    assert set(kernels) == set(KERNELS)
    for name, body in kernels.items():
        assert "ld.global.nc" not in body, name
        assert len(re.findall(r"bar\.sync", body)) == (0 if KERNELS[name] == 256 else 3 if "before" in name else 2), (
            name
        )
        if "fused" in name:  # along the sums: weights one by one from where they lie, states by fours
            loops = "".join(block for block in body.split("\n$L") if "ld.shared.v4.f32" in block)
            shared, others = loops.count("ld.shared.f32"), loops.count("ld.global.f32")
            weights, rest = (shared, others) if "resident" in name else (others, shared)
            assert rest == 0, name
            assert weights >= 12, name
            assert loops.count("fma.rn.f32") == weights * int(name[-1]), name
        assert not re.search(r"\bld\.f32|\bld\.v4|\bld\.local", body), f"{name}: from memory of any kind"


@pytest.mark.parametrize(
    ("architecture", "shared_memory"), [("sm_80", 166_912), ("sm_90", 232_448), ("sm_120", 101_376)]
)
def test_shared_memory_is_what_the_generation_has(architecture, shared_memory):
    """The largest layers whose weights stay in a block's shared memory, by CUDA's table of compute capabilities."""
    largest = {}
    for stored_bytes in (2, 4, 8):
        real_bytes = max(4, stored_bytes)
        device_ = Simulator(shared_memory)
        largest[stored_bytes] = max(
            hidden
            for hidden in range(1, plan.MAX_FUSED + 1)
            if "resident" in plan.fused(device_, hidden, 1, real_bytes, stored_bytes, True).name
        )
    assert (
        largest
        == {
            "sm_80": {2: 164, 4: 116, 8: 82},
            "sm_90": {2: 196, 4: 137, 8: 96},
            "sm_120": {2: 128, 4: 91, 8: 64},
        }[architecture]
    )
