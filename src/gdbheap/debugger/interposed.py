"""Whose malloc a program uses: glibc's, or that of a library or program that comes before glibc's in the search."""

from __future__ import annotations

import os

import gdb

from gdbheap.debugger.target import is_libc, is_runtime, objfile_name, program_file

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
            # A static program has glibc's malloc in itself, which is malloc by two names.
            static = objfile.filename == program and _address("malloc") == _address("__libc_malloc") is not None
            return None if static else os.path.basename(name)
    return None


def _is_in_linkage_table(pc: int) -> bool:
    return " in section .plt" in gdb.execute(f"info symbol {pc:#x}", to_string=True)


def _address(function: str) -> int | None:
    try:
        return int(gdb.parse_and_eval(f"(unsigned long) &{function}"))
    except (gdb.error, ValueError):
        return None


def is_malloc_debug(name: str) -> bool:
    """Return whether a file of this base name is glibc's library for debugging malloc (from 2.34 on)."""
    return name.startswith("libc_malloc_debug.so")
