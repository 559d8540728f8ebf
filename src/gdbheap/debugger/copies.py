"""Which of several copies of libc is the program's own: dlmopen loads others, each into a namespace of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import gdb

from gdbheap.debugger.images import loaded_image
from gdbheap.debugger.target import GdbMemory, is_libc, is_static, objfile_name, program_file
from gdbheap.elf import ElfImage
from gdbheap.memory import MemoryFault

#: The tag of the dynamic section that leads to the loader's struct r_debug (link.h).
_DT_DEBUG = 21
#: More objects than any namespace of a loader has, and more bytes than any name.
_MOST_OBJECTS, _MOST_NAME = 10_000, 4096


def count_of_libcs() -> int:
    """Return how many copies of libc there are, that of a static program included."""
    loaded = [objfile for objfile in gdb.objfiles() if objfile.owner is None and is_libc(objfile_name(objfile))]
    return len(loaded) + bool(loaded and is_static())


def own_start() -> int | None:
    """Return where the libc of the program's own namespace begins, None where the loader's list does not tell."""
    program = next((each for each in gdb.objfiles() if each.filename == program_file()), None)
    image = None if program is None else loaded_image(GdbMemory(), program, True)
    try:
        return None if image is None else next((start for start, name in _loaded(image) if is_libc(name)), None)
    except MemoryFault:
        return None


def _loaded(program: ElfImage) -> Iterator[tuple[int, str]]:
    """Yield where each object of the program's namespace begins, and its base name: the chain of struct link_map."""
    memory, word = GdbMemory(), program.word_size
    order = "little" if program.little_endian else "big"

    def word_at(address: int) -> int:
        return int.from_bytes(memory.read(address, word), "little" if order == "little" else "big")

    debug = program.dynamic.get(_DT_DEBUG, 0)
    link = word_at(debug + word) if debug else 0
    for _ in range(_MOST_OBJECTS):
        if not link:
            return
        yield word_at(link), os.path.basename(_text(memory, word_at(link + word)))
        link = word_at(link + 3 * word)


def _text(memory: GdbMemory, address: int) -> str:
    found = b""
    while address and len(found) < _MOST_NAME:
        byte = memory.read(address + len(found), 1)
        if byte == b"\0":
            break
        found += byte
    return found.decode("utf-8", "replace")


def own_objfile(libcs: Sequence[gdb.Objfile], start: int) -> gdb.Objfile:
    """Return which of GDB's objects for copies of libc is the one that begins at ``start``, as far as symbols tell."""

    def distance(objfile: gdb.Objfile) -> int:
        symbol = objfile.lookup_static_symbol("main_arena")
        address = None if symbol is None else symbol.value().address
        return 1 << 64 if address is None or int(address) < start else int(address) - start

    return min(libcs, key=distance)
