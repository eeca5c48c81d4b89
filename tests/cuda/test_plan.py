"""Which kernel the CUDA engine launches, and how; and that structures are laid out as the compiler does."""

import ctypes
import itertools

import pytest

from cgru.engines.cuda import plan

from ..support.cuda_on_cpu import (
    KERNELS,
    STRUCTURES,
    Simulator,
    library,
)


def test_what_is_fused():
    small, large = Simulator(101_376, 108), Simulator(232_448, 132)
    choose = lambda device, hidden, batch, **k: plan.choose(  # noqa: E731
        "auto", device, hidden, batch, k.get("real", 4), k.get("stored", 4), True
    )
    assert choose(large, 128, 1).name == "fused_after_resident_1"
    assert choose(large, 128, 64).name == "fused_after_resident_4"
    assert choose(small, 128, 1).name == "fused_after_streamed_1"
    assert choose(small, 128, 1, stored=2).name == "fused_after_resident_1"
    assert choose(large, 136, 1).name == "fused_after_resident_1"
    assert choose(large, 400, 1, stored=2).name == "fused_after_streamed_1"
    assert choose(large, 400, 1) is None  # weights take longer than launches
    assert choose(large, 128, 10_000) is None  # more blocks than run at once
    assert choose(large, 513, 1) is None
    with pytest.raises(ValueError, match="engine: 'fused' takes H up to 512, got 513"):
        plan.choose("fused", large, 513, 1, 4, 4, True)
    with pytest.raises(ValueError, match="engine: expected 'auto' or 'steps' or 'fused', got 'packed'"):
        plan.choose("packed", large, 8, 1, 4, 4, True)


@pytest.mark.parametrize("real", [4, 8])
@pytest.mark.parametrize("stored", [2, 4, 8])
def test_launches_fit_every_size(real, stored):
    for shared_memory in (0, 101_376, 232_448):
        device = Simulator(shared_memory)
        for hidden, batch in itertools.product(
            (1, 3, 31, 32, 33, 97, 128, 255, 256, 257, 511, 512), (1, 3, 4, 5, 63, 1000)
        ):
            launch = plan.fused(device, hidden, batch, real, stored, True)
            width, groups = launch.block
            assert width >= plan.depth(hidden)
            rows = 4 if batch >= 4 else 1
            weights = 3 * hidden * plan.depth(hidden) * stored
            states = 2 * groups * rows * plan.depth(hidden) * real
            resident = weights + states <= shared_memory
            assert launch.name == f"fused_after_{'resident' if resident else 'streamed'}_{rows}"
            assert launch.shared_memory == states + (weights if resident else 0)
            assert width * groups <= KERNELS[launch.name]
            assert launch.shared_memory <= max(49_152, shared_memory)
            assert launch.grid[0] * groups * int(launch.name[-1]) >= batch
            assert (launch.grid[0] - 1) * groups * int(launch.name[-1]) < batch


def test_structures_are_the_compilers():
    loaded = library("float32", "Real")
    for name, dtype in STRUCTURES.items():
        fields = [
            number for field in dtype.names for number in (dtype.fields[field][1], dtype.fields[field][0].itemsize)
        ]
        expected = [dtype.itemsize, *fields]
        assert list((ctypes.c_size_t * len(expected)).in_dll(loaded, f"layout_{name}")) == expected
