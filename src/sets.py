"""The instruction sets of sets.def, for those who compile them: setup.py and the native tests."""

import re
from pathlib import Path
from typing import NamedTuple

ROW = re.compile(r"^CGRU_(SET|PART)\((.*?)\)$", re.MULTILINE | re.DOTALL)


class InstructionSet(NamedTuple):
    """A row of sets.def: what `set.cpp` is compiled with."""

    machine: str
    base: str | None
    """The set that this one is, except for the kernels of one storage."""
    flags: list[str]
    macros: list[tuple[str, str]]


def read() -> dict[str, InstructionSet]:
    """Return the sets by name, each behind its base."""
    sets: dict[str, InstructionSet] = {}
    for kind, row in ROW.findall(Path(__file__).with_name("sets.def").read_text()):
        name, origin, *storage, flags, _ = (column.strip().strip('"') for column in row.split(","))
        base = origin if kind == "PART" else None
        machine = sets[base].machine if base else origin
        own = [*(sets[base].flags if base else []), *flags.split()]
        macros = [("CGRU_SET", name), *(("CGRU_STORAGE", code) for code in storage)]
        sets[name] = InstructionSet(machine, base, own, macros)
    return sets


SETS = read()


def with_bases(names: list[str]) -> list[str]:
    """Return these sets and the ones they stand on."""
    wanted = set(names)
    if wanted - SETS.keys():
        raise ValueError(f"instruction sets: expected some of {', '.join(SETS)}, got {', '.join(names)}")
    for name in reversed(SETS):
        if name in wanted and SETS[name].base:
            wanted.add(SETS[name].base)
    return [name for name in SETS if name in wanted]


def dispatch_macros(names: list[str]) -> list[tuple[str, str]]:
    """Return the macros that tell dispatch.cpp which sets are compiled."""
    return [(f"CGRU_HAS_{name}", str(int(name in names))) for name in SETS]
