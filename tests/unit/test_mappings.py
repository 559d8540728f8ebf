"""Promise: what the kernel, GDB and a core file say about mappings is read as they mean it, and nothing else is."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from gdbheap.corefile import CoreMemory, CoreTables, NotACore, Segment, read_core
from gdbheap.mappings import MappedRange, overlapping, parse_info_proc, parse_maps, range_of
from gdbheap.memory import MemoryFault

MAPS = """\
555555554000-555555555000 r--p 00000000 fe:01 1234                       /usr/bin/a program (deleted)
55555555a000-55555557b000 rw-p 00000000 00:00 0                          [heap]
7ffff5dcf000-7ffff65cf000 rw-p 00000000 00:00 0
7ffff65cf000-7ffff65d0000 ---p 00000000 00:00 0
7ffff7000000-7ffff7100000 rw-s 00000000 00:01 77                         /dev/zero (deleted)
7ffff7200000-7ffff7300000 rw-p 00000000 00:00 0                          [anon: glibc: malloc]
7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0                          [stack]
"""

#: GDB 10 and 11; 12 to 16; 17 and later.
INFO_10 = """\
process 20
Mapped address spaces:

          Start Addr           End Addr       Size     Offset objfile
      0x555555554000     0x555555555000     0x1000        0x0 /usr/bin/a program
      0x55555555a000     0x55555557b000    0x21000        0x0 [heap]
      0x7ffff5dcf000     0x7ffff65cf000   0x800000        0x0
"""
INFO_13 = """\
process 20
Mapped address spaces:

          Start Addr           End Addr       Size     Offset  Perms  objfile
      0x555555554000     0x555555555000     0x1000        0x0  r--p   /usr/bin/a program
      0x55555555a000     0x55555557b000    0x21000        0x0  rw-p   [heap]
      0x7ffff5dcf000     0x7ffff65cf000   0x800000        0x0  rw-p
"""
INFO_17 = """\
process 20
Mapped address spaces:

Start Addr         End Addr           Size               Offset             Perms File
0x0000555555554000 0x0000555555555000 0x1000             0x0                r--p  /usr/bin/a program
0x000055555555a000 0x000055555557b000 0x21000            0x0                rw-p  [heap]
0x00007ffff5dcf000 0x00007ffff65cf000 0x800000           0x0                rw-p
"""


def test_maps() -> None:
    ranges = parse_maps(MAPS)
    assert [item.name for item in ranges] == [
        "/usr/bin/a program (deleted)",
        "[heap]",
        "",
        "",
        "/dev/zero (deleted)",
        "[anon: glibc: malloc]",
        "[stack]",
    ]
    assert ranges[2] == MappedRange(0x7FFFF5DCF000, 0x7FFFF65CF000, "rw-p", "", 0x800000)
    assert [item.may_be_heap for item in ranges] == [False, True, True, False, False, True, False]
    assert range_of(ranges, 0x55555557AFFF) is ranges[1]
    assert range_of(ranges, 0x55555557B000) is None
    parts = list(overlapping(ranges, 0x55555557A000, 0x7FFFF5DD0000))
    assert parts == [(0x55555557A000, 0x55555557B000, ranges[1]), (0x7FFFF5DCF000, 0x7FFFF5DD0000, ranges[2])]


@pytest.mark.parametrize(
    ("text", "permissions"),
    [(INFO_10, ["????"] * 3), (INFO_13, ["r--p", "rw-p", "rw-p"]), (INFO_17, ["r--p", "rw-p", "rw-p"])],
)
def test_info_proc(text: str, permissions: list[str]) -> None:
    ranges = parse_info_proc(text)
    assert [item.permissions for item in ranges] == permissions
    assert [item.name for item in ranges] == ["/usr/bin/a program", "[heap]", ""]
    assert [item.size for item in ranges] == [0x1000, 0x21000, 0x800000]
    assert [item.may_be_heap for item in ranges] == [False, True, True]


def core(word: str = "Q", order: str = "<", cut: int = 0, count: int = 3, extended: bool = False) -> bytes:
    """Return a core file with a note that names one file, and two segments, of which the second has no bytes."""
    wide = word == "Q"
    path = b"/usr/lib/libc.so.6\0"
    body = struct.pack(order + word * 5, 1, 0x1000, 0x7000, 0x9000, 0) + path
    note = struct.pack(order + "III", 5, len(body), 0x46494C45) + b"CORE\0\0\0\0" + body
    names = "HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"
    start = 16 + struct.calcsize(order + names)
    entry = 56 if wide else 32
    sections = start + 3 * entry
    data = sections + (64 if wide else 40)
    header = struct.pack(
        order + names, 4, 62, 1, 0, start, sections, 0, start, entry, 0xFFFF if extended else count, 64, 1, 0
    )
    programs = [(4, 0, data, 0, len(note), 0), (1, 6, data + len(note), 0x5000, 0x100, 0x100), (1, 4, 0, 0x8000, 0, 64)]
    table = b""
    for kind, flags, offset, address, held, size in programs:
        fields = (kind, flags, offset, address, 0, held, size, 1)
        if not wide:
            fields = (kind, offset, address, 0, held, size, flags, 1)
        table += struct.pack(order + ("IIQQQQQQ" if wide else "IIIIIIII"), *fields)
    section = bytearray(64 if wide else 40)
    struct.pack_into(order + "I", section, 44 if wide else 28, count)
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    whole = ident + header + table + bytes(section) + note + bytes(0x100)
    return whole[: len(whole) - cut]


@pytest.mark.parametrize("word", ["Q", "I"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("extended", [False, True])
def test_core(word: str, order: str, extended: bool) -> None:
    whole = core(word, order, extended=extended)
    tables = read_core(io.BytesIO(whole))
    assert tables.segments == (
        Segment(0x5000, 0x100, len(whole) - 0x100, 0x100, 6),
        Segment(0x8000, 64, 0, 0, 4),
    )
    assert tables.ranges() == (
        MappedRange(0x5000, 0x5100, "rw-?", "", 0x100),
        MappedRange(0x7000, 0x9000, "????", "/usr/lib/libc.so.6", 0),
        MappedRange(0x8000, 0x8040, "r--?", "/usr/lib/libc.so.6", 0),
    )
    assert [item.may_be_heap for item in tables.ranges()] == [True, False, False]


def test_a_core_that_is_cut_off_holds_less() -> None:
    assert [segment.held for segment in read_core(io.BytesIO(core(cut=0x30))).segments] == [0xD0, 0]


@pytest.mark.parametrize("data", [b"", b"\x7fELF", core()[:60], core()[:100], core(count=60000), b"#!/bin/sh\n" * 9])
def test_what_is_no_core_is_refused(data: bytes) -> None:
    with pytest.raises(NotACore):
        read_core(io.BytesIO(data))


def test_a_program_is_no_core() -> None:
    data = bytearray(core())
    data[16] = 3
    with pytest.raises(NotACore):
        read_core(io.BytesIO(bytes(data)))


class Gdb:
    """What GDB shows of a core file: files that the core names, and zeros where the core has no bytes."""

    def read(self, address: int, size: int) -> bytes:
        if address < 0x5000 or address + size > 0x9000:
            raise MemoryFault(address, size)
        return b"G" * size


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[BinaryIO]:
    data = core()
    path = tmp_path / "core"
    path.write_bytes(data[:-0x100] + bytes(range(256)))
    with path.open("rb") as file:
        yield file


def test_core_memory(opened: BinaryIO) -> None:
    memory = CoreMemory(opened.fileno(), read_core(opened), Gdb())
    assert memory.read(0x5000, 0x100) == bytes(range(256))
    assert memory.read(0x5010, 4) == bytes([16, 17, 18, 19])
    assert memory.read(0x50F8, 16) == b"G" * 16, "what is behind a segment is GDB's to tell"
    assert memory.read(0x8000, 8) == b"G" * 8, "a file that is named can be read by GDB"
    with pytest.raises(MemoryFault):
        memory.read(0x100, 8)


def test_core_memory_across_segments(opened: BinaryIO) -> None:
    offset = read_core(opened).segments[0].offset
    parts = (Segment(0x5000, 0x80, offset, 0x80, 6), Segment(0x5080, 0x80, offset + 0x80, 0x40, 6))
    memory = CoreMemory(opened.fileno(), CoreTables(parts, ((0x7000, 0x9000, "libc"),)), Gdb())
    assert memory.read(0x5070, 0x20) == bytes(range(0x70, 0x90))
    with pytest.raises(MemoryFault, match="the core file does not have it"):
        memory.read(0x50C0, 1)
    with pytest.raises(MemoryFault, match="the core file does not have it"):
        memory.read(0x5000, 0x100)
    nameless = CoreMemory(opened.fileno(), CoreTables(parts, ()), Gdb())
    assert nameless.read(0x50C0, 1) == b"G", "without names nobody knows whose memory it is"
