"""A core file's own tables: which addresses it has, where their bytes are in the file, and which files were mapped."""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from gdbheap.mappings import MappedRange
from gdbheap.memory import Memory, MemoryFault

_PT_LOAD, _PT_NOTE = 1, 4
_PN_XNUM = 0xFFFF
_ET_CORE = 4
_NT_FILE = 0x46494C45
_MAX_NOTES = 64 << 20


class NotACore(Exception):
    """A file that is no ELF core file, or one whose tables are cut off or make no sense."""


@dataclass(frozen=True)
class Segment:
    """A PT_LOAD of a core file: memory from ``address`` on, ``size`` bytes, of which the file holds ``held``.

    Those are at ``offset`` in the file. ``flags`` are those of ELF: 4 readable, 2 writable, 1 executable.
    """

    address: int
    size: int
    offset: int
    held: int
    flags: int


@dataclass(frozen=True)
class CoreTables:
    """The segments of a core file in ascending order, and the files of NT_FILE: (start, end, path)."""

    segments: tuple[Segment, ...]
    files: tuple[tuple[int, int, str], ...]

    def ranges(self) -> tuple[MappedRange, ...]:
        """Return what was mapped; whether it was shared is not known of a core."""
        starts = [low for low, _, _ in self.files]
        found = []
        for segment in self.segments:
            end = segment.address + segment.size
            letters = "".join(letter if segment.flags & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))
            place = bisect_right(starts, segment.address) - 1
            named = place >= 0 and segment.address < self.files[place][1]
            name = self.files[place][2] if named else ""
            found.append(MappedRange(segment.address, end, letters + "?", name, segment.held))
        # What a debugger can read from the files themselves has no segment in the core that it writes.
        addresses = [segment.address for segment in self.segments]
        for low, high, path in self.files:
            place = bisect_right(addresses, low) - 1
            if place < 0 or low >= found[place].end:
                found.append(MappedRange(low, high, "????", path, 0))
        return tuple(sorted(found, key=lambda item: item.start))


class CoreMemory:
    """The memory in a core file, read from the file that ``descriptor`` has open.

    What the core took from other files, and what it has no segment for, is left to ``beyond``. A debugger shows zeros
    for anonymous memory that the core has a segment but no bytes for; here that is a MemoryFault.
    """

    def __init__(self, descriptor: int, tables: CoreTables, beyond: Memory) -> None:
        self._descriptor = descriptor
        self._beyond = beyond
        self._segments = tables.segments
        self._starts = [segment.address for segment in tables.segments]
        # Without NT_FILE nothing tells what is anonymous.
        named = {item.start for item in tables.ranges() if item.name}
        self._anonymous = [bool(tables.files) and start not in named for start in self._starts]

    def read(self, address: int, size: int) -> bytes:
        """Return the ``size`` bytes at ``address``; raise MemoryFault where any of them is not known."""
        parts: list[bytes] = []
        position, end = address, address + size
        while position < end:
            place = bisect_right(self._starts, position) - 1
            segment = self._segments[place] if place >= 0 else None
            if segment is None or position >= segment.address + segment.size:
                return self._beyond.read(address, size)
            offset = position - segment.address
            wanted = min(end - position, segment.size - offset)
            if offset + wanted > segment.held:
                if self._anonymous[place]:
                    raise MemoryFault(address, size, "the core file does not have it")
                return self._beyond.read(address, size)
            data = os.pread(self._descriptor, wanted, segment.offset + offset)
            if len(data) != wanted:
                return self._beyond.read(address, size)
            if wanted == size:
                return data
            parts.append(data)
            position += wanted
        return b"".join(parts)


def read_core(file: BinaryIO) -> CoreTables:
    """Return the tables of the core file that is open for reading; raise NotACore where it has none."""
    try:
        return _read_core(file)
    except (struct.error, IndexError, OverflowError, ValueError) as error:
        raise NotACore(f"its tables are cut off or make no sense: {error}") from None


def _read_core(file: BinaryIO) -> CoreTables:
    ident = file.read(16)
    if ident[:4] != b"\x7fELF" or ident[4] not in (1, 2) or ident[5] not in (1, 2):
        raise NotACore("it is no ELF file")
    wide, order = ident[4] == 2, "<" if ident[5] == 1 else ">"
    header = struct.Struct(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"))
    kind, _, _, _, table, sections, _, _, entry_size, count, _, _, _ = header.unpack(file.read(header.size))
    if kind != _ET_CORE:
        raise NotACore("it is an ELF file, but no core file")
    if count == _PN_XNUM:  # the number is then in the first section header, in the field sh_info
        file.seek(sections + (44 if wide else 28))
        (count,) = struct.unpack(order + "I", file.read(4))
    length = file.seek(0, 2)
    file.seek(table)
    entries = file.read(min(count * entry_size, length))
    segments, notes = [], []
    for place in range(count):
        kind, flags, offset, address, held, size = _program_header(entries, place * entry_size, wide, order)
        if kind == _PT_LOAD and size:
            there = max(0, min(held, size, length - offset))  # a core may be cut off
            segments.append(Segment(address, size, offset, there, flags))
        elif kind == _PT_NOTE:
            notes.append((offset, held))
    files: list[tuple[int, int, str]] = []
    for offset, size in notes:
        file.seek(offset)
        files += _mapped_files(file.read(min(size, _MAX_NOTES)), "Q" if wide else "I", order)
    return CoreTables(tuple(sorted(segments, key=lambda item: item.address)), tuple(sorted(files)))


def _program_header(entries: bytes, place: int, wide: bool, order: str) -> tuple[int, int, int, int, int, int]:
    """Return p_type, p_flags, p_offset, p_vaddr, p_filesz and p_memsz."""
    if wide:
        kind, flags, offset, address, _, held, size, _ = struct.unpack_from(order + "IIQQQQQQ", entries, place)
    else:
        kind, offset, address, _, held, size, flags, _ = struct.unpack_from(order + "IIIIIIII", entries, place)
    return kind, flags, offset, address, held, size


def _mapped_files(notes: bytes, word: str, order: str) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, path) of each mapping in the NT_FILE note, as fs/binfmt_elf.c of the kernel writes it."""
    place = 0
    while place + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from(order + "III", notes, place)
        start = place + 12 + (name_size + 3) // 4 * 4
        place = start + (size + 3) // 4 * 4
        if kind != _NT_FILE:
            continue
        body = notes[start : start + size]
        width = struct.calcsize(word)
        count, _ = struct.unpack_from(order + word * 2, body, 0)
        if count * 3 * width > len(body):
            raise NotACore("its list of mapped files is cut off")
        numbers = struct.unpack_from(f"{order}{3 * count}{word}", body, 2 * width)
        paths = body[(2 + 3 * count) * width :].split(b"\0")
        for index, path in zip(range(count), paths):
            yield numbers[3 * index], numbers[3 * index + 1], path.decode("utf-8", "surrogateescape")
