"""What the selected process or core file has mapped."""

from __future__ import annotations

import re

import gdb

from gdbheap.corefile import CoreMemory, CoreTables, NotACore, read_core
from gdbheap.debugger.processes import local_pid, local_ranges
from gdbheap.debugger.target import is_core
from gdbheap.mappings import MappedRange, parse_info_proc
from gdbheap.memory import Memory, MemoryFault


def mapped_ranges() -> tuple[MappedRange, ...]:
    """Return the mappings in ascending order; none where nothing tells them.

    They come from /proc of this machine, from a core file's own tables, or from ``info proc mappings`` of a remote
    target.
    """
    if is_core():
        tables = core_tables()
        return () if tables is None else tables.ranges()
    pid = local_pid()
    if pid is not None:
        return local_ranges(pid)
    try:
        return parse_info_proc(gdb.execute("info proc mappings", to_string=True))
    except gdb.error:
        return ()


def core_path() -> str | None:
    """Return the path of the core file that is loaded, None where there is none."""
    core = getattr(gdb.selected_inferior(), "corefile", None)  # GDB 17
    if core is not None:
        return str(core.filename)
    found = re.search(
        r"core dump file:\n\t[`'‘](.*?)['’], file type ", gdb.execute("info files", to_string=True), re.DOTALL
    )
    return found.group(1) if found else None


def core_tables() -> CoreTables | None:
    """Return the tables of the core file that is loaded, None where there is none that can be read."""
    path = core_path()
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            return read_core(file)
    except (OSError, NotACore):
        return None


class OpenCore(CoreMemory):
    """The memory of the core file that is loaded, where that file can be read; raises OSError or NotACore."""

    def __init__(self, beyond: Memory) -> None:
        self._file = open(core_path() or "", "rb", buffering=0)  # noqa: SIM115 (closed with this object)
        super().__init__(self._file.fileno(), read_core(self._file), beyond)


def core_memory(beyond: Memory, start: int, size: int) -> Memory:
    """Return the reader of the core file, or ``beyond``, which is GDB's, where the file is not what GDB has loaded.

    The file may have been replaced since: both must give the same ``size`` bytes at ``start``.
    """
    try:
        found = OpenCore(beyond)
        return found if found.read(start, size) == beyond.read(start, size) else beyond
    except (OSError, NotACore, MemoryFault):
        return beyond
