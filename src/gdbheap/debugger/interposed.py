"""Whose malloc a program uses: glibc's, or that of a library or program that comes before glibc's in the search."""

from __future__ import annotations

import os

import gdb

from gdbheap.debugger.images import loaded_image
from gdbheap.debugger.language import c_value, symbol_text
from gdbheap.debugger.target import GdbMemory, is_libc, is_runtime, objfile_name, program_file
from gdbheap.elf import dynamic_symbols
from gdbheap.memory import MemoryFault

#: What was found, by the inferior's number, its process and how many object files it had: looking takes a while.
_found: dict[tuple[int, int, int], str | None] = {}


def other_malloc() -> str | None:
    """Return the base name of the object file whose malloc the program uses, None where that is glibc's, or unknown.

    A name is looked up in the object files in the order in which they were loaded: the program, what LD_PRELOAD names,
    the libraries that it is linked with. That is also the order of GDB's list.
    """
    inferior = gdb.selected_inferior()
    key = inferior.num, inferior.pid, len(gdb.objfiles())
    if key not in _found:
        _found[key] = _look()
    return _found[key]


def _look() -> str | None:
    try:
        _, locations = gdb.decode_line("malloc")
    except gdb.error:
        return None
    program = program_file()
    is_dynamic = any(is_runtime(objfile_name(objfile)) for objfile in gdb.objfiles())
    places = [location.pc for location in locations or () if location.pc is not None]
    # Where GDB has not read the file of libc, what it finds may be what only leads there.
    files = {gdb.solib_name(pc) or program for pc in places if not _is_in_linkage_table(pc)}
    for objfile in gdb.objfiles():
        name = objfile_name(objfile)
        if objfile.owner is not None or not objfile.is_valid():
            continue
        if is_libc(name):
            return None
        if objfile.filename in files and not is_runtime(name):
            if is_dynamic and not _is_for_others(objfile, objfile.filename == program):
                continue
            # A static program has glibc's malloc in itself, which is malloc by two names.
            static = objfile.filename == program and _address("malloc") == _address("__libc_malloc") is not None
            return None if static else os.path.basename(name)
    return None


def _is_for_others(objfile: gdb.Objfile, is_program: bool) -> bool:
    """Whether the loader may find malloc in this file: a static or hidden function of that name is the file's own.

    A hidden one of the program is what all the program calls. Taken for true where its symbols cannot be read.
    """
    if is_program and objfile.lookup_global_symbol("malloc") is not None:
        return True
    memory = GdbMemory()
    image = loaded_image(memory, objfile, is_program)
    try:
        return image is None or "malloc" in dynamic_symbols(memory, image)
    except MemoryFault:
        return True


def _is_in_linkage_table(pc: int) -> bool:
    return " in section .plt" in symbol_text(pc)


def _address(function: str) -> int | None:
    try:
        return int(c_value(f"&{function}"))
    except (gdb.error, ValueError):
        return None


def is_malloc_debug(name: str) -> bool:
    """Return whether a file of this base name is glibc's library for debugging malloc (from 2.34 on)."""
    return name.startswith("libc_malloc_debug.so")
