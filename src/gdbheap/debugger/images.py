"""The ELF objects of the selected process as they lie in its memory, and the files that GDB has for them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache

import gdb

from gdbheap.elf import ElfImage, NotElf, file_image, read_elf
from gdbheap.mappings import MappedRange
from gdbheap.memory import Memory, MemoryFault

_PAGE = 0x1000
_DELETED = " (deleted)"
#: Larger files are no C library.
_LARGEST_FILE = 256 << 20
#: Of its table of error messages, its locales, and its symbols.
_MUSLS_TEXTS = (b"\0Illegal byte sequence\0Domain error\0", b"\0MUSL_LOCPATH\0", b"\0__libc_start_init\0")
#: The parts of a core file, load1 and so on, are in the same list; no part of the program begins with those names.
_SECTION = re.compile(r"^\t(0x[0-9a-f]+) - 0x[0-9a-f]+(?: @ 0x[0-9a-f]+)? is (\.\S+)(?: in (.*))?$")


@dataclass(frozen=True)
class MappedFile:
    """A library that is mapped, but whose file GDB has not read: what an Objfile tells of it, which is little."""

    filename: str
    build_id: None = None

    def lookup_static_symbol(self, name: str) -> None:
        """Return None: it has no symbols."""

    def lookup_global_symbol(self, name: str) -> None:
        """Return None: it has no symbols."""


def loaded_image(memory: Memory, objfile: gdb.Objfile | MappedFile, is_program: bool) -> ElfImage | None:
    """Return the object that is loaded for ``objfile``, None where its ELF header cannot be read.

    ``is_program`` says that it is the program itself.
    """
    starts = _starts(objfile, is_program)
    mapped = [item.start for item in _mappings_of(objfile)[:1]]
    for address in starts + mapped:
        try:
            return read_elf(memory, address)
        except (NotElf, MemoryFault):
            continue
    if isinstance(objfile, MappedFile):
        return None
    # A core file may go without what is in a file as well; GDB shows it as zeros. What is found with the help of that
    # file is checked against what the core has. Where GDB puts a file of another build by its dynamic section, that
    # is not where the object is mapped.
    for address in (set(starts) & set(mapped)) if starts and mapped else starts + mapped:
        try:
            return read_elf(_HeaderOfFile(objfile.filename or "", address, memory), address)
        except (NotElf, MemoryFault, OSError):
            continue
    return None


class _HeaderOfFile:
    """A memory in which the first page of an object is that of its file."""

    def __init__(self, path: str, address: int, beyond: Memory) -> None:
        with open(path, "rb") as file:
            self._content = file.read(_PAGE)
        self._address = address
        self._beyond = beyond

    def read(self, address: int, size: int) -> bytes:
        """Return the ``size`` bytes at ``address``; raise MemoryFault where any of it is unreadable."""
        start = address - self._address
        if start >= 0 and start + size <= len(self._content):
            return self._content[start : start + size]
        return self._beyond.read(address, size)


def _starts(objfile: gdb.Objfile | MappedFile, is_program: bool) -> list[int]:
    """Return where its ELF header is by its sections: the page of the first of them; nowhere where GDB shows none.

    Of a libc that is loaded several times (dlmopen) the program's own comes first.
    """
    starts = [min(sections.values()) // _PAGE * _PAGE for sections in _sections(objfile, is_program) if sections]
    if len(starts) > 1 and not is_program:
        from gdbheap.debugger.copies import own_start

        own = own_start()
        starts.sort(key=lambda start: start != own)
    return starts


def _sections(objfile: gdb.Objfile | MappedFile, is_program: bool) -> list[dict[str, int]]:
    """Return where the sections of each copy of an object are, by their names."""
    copies: list[dict[str, int]] = [{}]
    for line in gdb.execute("info files", to_string=True).splitlines():
        found = _SECTION.match(line)
        if found is not None and (found.group(3) or None) == (None if is_program else objfile.filename):
            if found.group(2) in copies[-1]:
                copies.append({})
            copies[-1][found.group(2)] = int(found.group(1), 16)
    return copies


def is_mapped(objfile: gdb.Objfile) -> bool:
    """Return whether something is mapped where the program would be, as far as is known what is mapped."""
    from gdbheap.debugger.maps import mapped_ranges

    sections = [start for copy in _sections(objfile, True) for start in copy.values()]
    mapped = mapped_ranges()
    # A core file may hold its data alone, and tell of nothing else.
    return not sections or not mapped or any(item.start <= start < item.end for start in sections for item in mapped)


def _mappings_of(objfile: gdb.Objfile | MappedFile) -> list[MappedRange]:
    from gdbheap.debugger.maps import mapped_ranges
    from gdbheap.debugger.target import is_libc

    name = os.path.basename(objfile.filename or "")
    names = {name, os.path.basename(os.path.realpath(objfile.filename or ""))}
    mapped = [(base_name(item), item) for item in mapped_ranges()]
    # Up to glibc 2.33 the file that libc.so.6 leads to has the release in its name, which another build may not have.
    return [item for base, item in mapped if base in names or (is_libc(name) and is_libc(base))]


def is_another_build(memory: Memory, objfile: gdb.Objfile) -> bool:
    """Return whether what is loaded for a library is of another build than its file, as far as that can be told."""
    image = loaded_image(memory, objfile, False)
    return image is not None and bool(image.build_id) and image.build_id != (objfile.build_id or image.build_id)


def base_name(mapping: MappedRange) -> str:
    """Return the base name of the file that is mapped; the kernel tells behind it where the file is there no more."""
    name = os.path.basename(mapping.name)
    return name[: -len(_DELETED)] if name.endswith(_DELETED) else name


def initial_contents(objfile: gdb.Objfile | MappedFile, image: ElfImage) -> Memory | None:
    """Return what the file that GDB has for ``objfile`` holds, at the addresses of ``image``.

    None where it is not on this machine, or is of another build.
    """
    path = objfile.filename or ""
    try:
        if os.path.getsize(path) > _LARGEST_FILE:
            return None
        with open(path, "rb") as file:
            content = file.read()
        found = file_image(content, image)
        same = read_elf(found, image.segments[0].start)
    except (OSError, NotElf, MemoryFault, ValueError):
        return None
    return found if same.build_id == image.build_id else None


@lru_cache(maxsize=8)
def has_musl_inside(path: str) -> bool:
    """Return whether the file of a static program has musl's C library in it: by texts that only that one has."""
    try:
        if os.path.getsize(path) > _LARGEST_FILE:
            return False
        with open(path, "rb") as file:
            content = file.read()
    except OSError:
        return False
    return any(text in content for text in _MUSLS_TEXTS)
