"""Damage to files, for the tests of every format: whatever is done to its bytes, a file loads as a GRU or is refused.

`survives` holds a loader to that, and to memory in proportion: no size that a file claims may be believed before the
bytes are there. `in_proportion` compares a file with a larger one of the same make.
"""

import gc
import random
import signal
import time
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import cgru

MEMORY = 256 * 2**20
"""Bytes by which the loads of one call may raise the process' memory; the files themselves are small."""

SECONDS = 60
"""After which a single load counts as hanging."""

NUMBERS = [
    value.to_bytes(size, order)
    for size, values in {
        1: [0, 0x7F, 0xFF],
        4: [0, 2**31 - 1, 2**32 - 1, 2**28],
        8: [0, 2**63 - 1, 2**64 - 1, 2**40],
    }.items()
    for value in values
    for order in ("little", "big")
] + [b"\xff" * 9 + b"\x01", b"9" * 12, b"-1", b"{", b'"', b"\xff\xfe", b"\x00" * 16]
"""What is put over numbers and text: extremes, as bytes, as a varint, as digits, and what breaks text."""


def mutations(data, count, seed):
    """Damaged copies of a file: flipped bits, extremes over or between its bytes, parts cut, doubled or exchanged."""
    rng = random.Random(seed)
    for _ in range(count):
        copy = bytearray(data)
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            at = rng.randrange(len(copy) + 1)
            size = rng.choice([1, 2, 4, 8, 64])
            part = copy[at : at + size]
            kind = rng.randrange(6)
            if kind == 0 and at < len(copy):
                copy[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                number = rng.choice(NUMBERS)
                copy[at : at + len(number)] = number
            elif kind == 2:
                copy[at:at] = rng.choice(NUMBERS)
            elif kind == 3:
                del copy[at : at + size]
            elif kind == 4:
                copy[at:at] = part
            else:
                other = rng.randrange(len(copy) + 1)
                copy[at : at + size], copy[other : other + size] = copy[other : other + size], part
        yield bytes(copy)


def truncations(data, every=64):
    """The file cut at every so many bytes, and one byte short."""
    for size in [*range(0, len(data), every), len(data) - 1]:
        yield data[:size]


def survives(path, versions, load=cgru.load):
    """Load every version of a file: a GRU or a FormatError that names it; nothing else, no hang, no excess of memory.

    Returns how many were refused, and how many loaded.
    """
    refused = loaded = 0
    with _bounded(), np.errstate(all="ignore"):  # weights may be damaged to NaN, of which NumPy warns
        for data in versions:
            path.write_bytes(data)
            signal.alarm(SECONDS)
            try:
                model = load(path)
            except cgru.FormatError as error:
                assert str(path) in str(error), error
                refused += 1
            else:
                assert isinstance(model, (cgru.GRU, cgru.GRUCell))
                loaded += 1
            finally:
                signal.alarm(0)
    return refused, loaded


def in_proportion(write, few, many, load=cgru.load):
    """Load, or see refused, two files: the larger one may take more time and memory only as it is larger.

    `write(number)` makes a file of so many parts and returns its path.
    """
    seconds, memory = [], []
    for number in (few, few, many):  # the first time imports
        path = write(number)
        with _garbage_of_its_own():
            start = time.process_time()
            _load_or_refuse(path, load)
            seconds.append(time.process_time() - start)
        tracemalloc.start()
        try:
            _load_or_refuse(path, load)
            memory.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    ratio = many / few
    assert memory[-1] < 2 * ratio * memory[1] + 1e6
    assert seconds[-1] < 4 * ratio * seconds[1] + 0.5


@contextmanager
def _garbage_of_its_own():
    """What there was before is no garbage to look through, or a load's time would grow with the tests that ran before."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _load_or_refuse(path, load):
    with np.errstate(all="ignore"):
        try:
            load(path)
        except cgru.FormatError as error:
            assert str(path) in str(error), error


@contextmanager
def _bounded():
    """The most memory that the process has held must stay near what it holds at the beginning."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = _memory("VmRSS")
    handler = signal.signal(signal.SIGALRM, _hangs)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert _memory("VmHWM") - before < MEMORY


def _hangs(*_):
    raise TimeoutError(f"a load took more than {SECONDS} s")


def _memory(field):
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":")]
    return int(line.split()[1]) * 1024
