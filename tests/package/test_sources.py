"""The compiled sources: who includes whom, what the table of instruction sets names, how wide lines are."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"

if not SRC.is_dir():
    pytest.skip("the sources are not beside these tests", allow_module_level=True)

LINES = (("simd", "threads"), ("storage",), ("cells",), ("nodes", "packed", "training"), ("program",), (".",))
"""Folders of src/: a file includes its own line's and those above it."""
FOR_ALL = ("kernels.h", "cells/cell.h", "nodes/node.h")
"""What the kernels offer: structures that every line speaks of."""
RANK = {folder: rank for rank, line in enumerate(LINES) for folder in line}


def texts(*suffixes):
    return [path for path in sorted(SRC.rglob("*")) if path.suffix in suffixes]


@pytest.mark.parametrize("path", texts(".h", ".cpp"), ids=lambda path: str(path.relative_to(SRC)))
def test_includes_run_downward(path):
    own = path.relative_to(SRC)
    for name in re.findall(r'^#include "(.*)"$', path.read_text(), re.MULTILINE):
        beside = path.parent / name
        included = (beside if beside.exists() else SRC / name).relative_to(SRC)
        assert (SRC / included).exists(), name
        if str(included) not in FOR_ALL and str(own) not in FOR_ALL:
            assert RANK[str(included.parent)] <= RANK[str(own.parent)], name


def test_every_set_has_a_header_and_stands_behind_its_base():
    sets = runpy.run_path(str(SRC / "sets.py"))["SETS"]
    assert len(sets) == len(re.findall(r"^CGRU_", (SRC / "sets.def").read_text(), re.MULTILINE))
    for name, one in sets.items():
        assert (SRC / "simd" / f"{name}.h").is_file()
        assert one.base is None or list(sets).index(one.base) < list(sets).index(name)
        assert one.base is None or one.flags[: len(sets[one.base].flags)] == sets[one.base].flags


def test_only_simd_asks_for_the_machine():
    """Whether a machine's intrinsics or its compiler's macros are used elsewhere."""
    asked = re.compile(r"_mm\d*_|\bv\w+q?_[fsu]\d+\b|__AVX|__SSE|__ARM_NEON|immintrin|arm_neon")
    assert not [path for path in texts(".h", ".cpp") if path.parent.name != "simd" and asked.search(path.read_text())]


def test_lines_are_at_most_120_wide():
    files = [
        *texts(".h", ".cpp", ".pyx", ".pxd", ".pxi", ".def"),
        *ROOT.glob("tests/*/*.cpp"),
        *ROOT.glob("tests/*/*.h"),
        *ROOT.rglob("cgru/**/*.cu"),
    ]
    wide = [
        f"{path}:{number}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 120
    ]
    assert not wide
