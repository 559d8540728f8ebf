"""Promise: a core file is read as GDB reads it, but what it does not hold is said to be missing, not shown as zeros."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.programs import Programs

#: Where the heap and the mmapped chunks of the fixture are, as GDB itself reads it.
PLACES = {"heap": "number('(long)mp_.sbrk_base')", "mapped": "number('(long)mapped[2]') & ~0xfff"}

#: In GDB: our reader and GDB's own must agree on every byte that is asked for, or both refuse.
AGREE = """
from gdbheap.debugger import session
from gdbheap.debugger.maps import mapped_ranges
from gdbheap.debugger.target import GdbMemory
from gdbheap.memory import MemoryFault
ours, theirs = session.target().memory, GdbMemory()
assert type(ours) is not type(theirs)
def read(memory, address, size):
    try:
        return memory.read(address, size)
    except MemoryFault:
        return None
ranges = mapped_ranges()
count = bytes_read = 0
for item in ranges:
    if item.start >= 1 << 47 or (item.held < item.size and item.anonymous):
        continue
    parts = [(item.start, min(item.size, 1 << 20)), (item.start + 8, 16), (item.end - 8, 8), (item.end - 8, 16)]
    for address, size in parts:
        found = read(ours, address, size)
        assert found == read(theirs, address, size), (hex(address), size)
        count += 1
        bytes_read += len(found or b'')
print('AGREED', count, bytes_read, ours.read(0x10000, 8) if read(theirs, 0x10000, 8) else 'refused')
"""


@pytest.fixture(scope="module")
def core(gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answers]:
    """Return a core file of `totals` and the places in it."""
    folder = tmp_path_factory.mktemp("cores")
    answers = Answers(folder)
    gdb(
        "break stop_here",
        "run",
        answers.python("places", PLACES),
        f"generate-core-file {folder}/core",
        program=programs["totals"],
    ).succeeded()
    return folder / "core", answers


def without_bytes(core: Path, address: int, to: Path) -> Path:
    """Copy a core file, but let the segment that ``address`` is in have no bytes (p_filesz 0)."""
    data = bytearray(core.read_bytes())
    (table,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    changed = 0
    for entry in range(table, table + 56 * count, 56):
        kind, start, size = *struct.unpack_from("<I", data, entry), *struct.unpack_from("<Q16xQ", data, entry + 16)
        if kind == 1 and start <= address < start + size:
            struct.pack_into("<Q", data, entry + 32, 0)
            changed += 1
    assert changed == 1
    to.write_bytes(data)
    return to


def test_our_reader_and_gdbs_agree(gdb: Gdb, programs: Programs, core: tuple[Path, Answers]) -> None:
    done = gdb(f"core-file {core[0]}", f"python exec({AGREE!r})", program=programs["totals"]).succeeded()
    line = next(line for line in done.stdout.splitlines() if line.startswith("AGREED"))
    _, count, size, last = line.split()
    assert int(count) > 60
    assert int(size) > 0x100000
    assert last == "refused"


def test_a_heap_that_is_not_in_the_core(
    gdb: Gdb, programs: Programs, core: tuple[Path, Answers], answers: Answers, tmp_path: Path
) -> None:
    place = core[1]["places"]["heap"]
    partial = without_bytes(core[0], place, tmp_path / "partial")
    done = gdb(
        f"core-file {partial}",
        "heap",
        f"heap {answers.into('heap')}",
        f"heap chunks {answers.into('chunks')}",
        program=programs["totals"],
    ).succeeded()
    heap = answers["heap"]
    (arena,) = heap["arenas"]
    assert (arena["complete"], arena["chunks"], arena["unaccounted"]) == (False, 0, arena["system_mem"])
    assert arena["kernel"]["missing"] == heap["kernel"]["whole"]["missing"] == 0x21000
    assert any("the core file does not have it" in problem for problem in arena["problems"])
    assert answers["chunks"]["arenas"][0]["chunks"] == []
    assert len(answers["chunks"]["mmapped"]["chunks"]) == 3
    assert "corrupt" not in done.stdout
    assert "is 0x0" not in done.stdout, "zeros that GDB shows there are not the program's"
    assert "not in the core file" in done.stdout


def test_mmapped_chunks_that_are_not_in_the_core(
    gdb: Gdb, programs: Programs, core: tuple[Path, Answers], answers: Answers, tmp_path: Path
) -> None:
    partial = without_bytes(core[0], core[1]["places"]["mapped"], tmp_path / "partial")
    gdb(f"core-file {partial}", f"heap {answers.into('heap')}", program=programs["totals"]).succeeded()
    heap = answers["heap"]
    assert heap["mmapped"] == {"chunks": 3, "bytes": 0xDD000}
    assert (heap["mmapped_found"]["chunks"], heap["mmapped_found"]["proven"]) == (0, False)
    assert "bytes of anonymous memory cannot be read" in heap["mmapped_found"]["problem"]
    assert heap["mmapped_found"]["problem"] in heap["problems"]
    assert heap["kernel"]["whole"]["missing"] >= 0xDD000
