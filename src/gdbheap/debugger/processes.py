"""What the kernel tells about the process under GDB, where that process runs on this machine."""

from __future__ import annotations

import os
import re

import gdb

from gdbheap.debugger.connection import connection_kind
from gdbheap.mappings import MappedRange, overlapping, parse_maps, range_of


def local_pid() -> int | None:
    """Return the selected inferior's process id, None where /proc here does not speak of it (remote, core)."""
    inferior = gdb.selected_inferior()
    if not inferior.pid:
        return None
    return inferior.pid if connection_kind() == "native" else None


def local_ranges(pid: int) -> tuple[MappedRange, ...]:
    """Return the mappings of a process of this machine in ascending order; none where it is gone."""
    try:
        with open(f"/proc/{shown_as(pid)}/maps", encoding="utf-8", errors="surrogateescape") as file:
            return parse_maps(file.read())
    except OSError:
        return ()


def shown_as(pid: int) -> int:
    """Return the number under which /proc shows a process's memory: a thread's where the first one has ended."""
    try:
        for tid in (pid, *map(int, os.listdir(f"/proc/{pid}/task"))):
            with open(f"/proc/{tid}/maps", "rb", buffering=0) as file:
                if file.read(1):
                    return tid
    except OSError:
        pass
    return pid


def mapped_bytes(start: int, end: int) -> int | None:
    """Return how many bytes between two addresses are mapped, None where that cannot be looked up."""
    pid = local_pid()
    ranges = local_ranges(pid) if pid is not None else ()
    if not ranges:
        return None
    return sum(high - low for low, high, _ in overlapping(ranges, start, end))


def mapped_file(address: int) -> str | None:
    """Return the path of the file (or the kernel's name, as ``[vdso]``) that is mapped at ``address``."""
    pid = local_pid()
    found = range_of(local_ranges(pid), address) if pid is not None else None
    return None if found is None else found.name or None


def thread_states(pid: int) -> list[str]:
    """Return the kernel's letter for what each thread of a process of this machine does; empty where it is gone."""
    states = []
    try:
        for tid in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{tid}/stat", encoding="ascii", errors="replace") as file:
                states.append(file.read().rpartition(")")[2].split()[0])
    except (OSError, IndexError):
        pass
    return states


def parent_of(pid: int) -> int | None:
    """Return the process that a process of this machine has for its parent now, None where it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def open_file(descriptor: int) -> str | None:
    """Return the path behind a file descriptor of the process, None where that cannot be looked up."""
    pid = local_pid()
    if pid is None or descriptor < 0:
        return None
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except OSError:
        return None


def largest_request() -> int | None:
    """Return how many bytes this machine's kernel lets a process ask for at once, None where it has no such limit.

    Where vm.overcommit_memory is 0 that is memory and swap together (__vm_enough_memory in Linux).
    """
    if local_pid() is None:
        return None
    try:
        with open("/proc/sys/vm/overcommit_memory", encoding="ascii") as setting:
            if setting.read().strip() != "0":
                return None
        with open("/proc/meminfo", encoding="ascii", errors="replace") as file:
            sizes = dict(line.split(":", 1) for line in file if ":" in line)
        return sum(int(sizes[name].split()[0]) << 10 for name in ("MemTotal", "SwapTotal"))
    except (OSError, KeyError, ValueError, IndexError):
        return None


def shrinks_heaps_with_mmap() -> bool | None:
    """Return what check_may_shrink_heap of glibc's would answer, None where that cannot be looked up.

    It is true where the kernel commits no more memory than it has (vm.overcommit_memory is 2) and in programs that
    run with rights of their file's owner (AT_SECURE), which do not look.
    """
    if local_pid() is None:
        return None
    secure = re.search(r"AT_SECURE\s.*?(\d+)\s*$", gdb.execute("info auxv", to_string=True), re.MULTILINE)
    if secure is None or secure.group(1) != "0":
        return None if secure is None else True
    try:
        with open("/proc/sys/vm/overcommit_memory", encoding="ascii") as setting:
            return setting.read(1) == "2"
    except OSError:
        return False
