"""The memory of a process of this machine, read without GDB where that gives the same bytes."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable

from gdbheap.mappings import MappedRange, Spans
from gdbheap.memory import Memory


class ProcessMemory:
    """Reads /proc/PID/mem where malloc's memory can be, and asks ``beyond``, which is GDB, for all else.

    GDB hides the breakpoints that it has put into code, the kernel does not: so only private memory without a file
    behind it, which is not executable, is read here. Keep one for no longer than the process stays stopped. Raises
    OSError where the kernel does not let us read.
    """

    def __init__(self, pid: int, ranges: Iterable[MappedRange], beyond: Memory) -> None:
        self._beyond = beyond
        self._file = open(f"/proc/{pid}/mem", "rb", buffering=0)  # noqa: SIM115 (closed with this object)
        self._descriptor = self._file.fileno()
        spans = list(Spans((item.start, item.end) for item in ranges if item.may_be_heap).inside(0, 1 << 64))
        self._starts = [start for start, _ in spans]
        self._ends = [end for _, end in spans]

    def read(self, address: int, size: int) -> bytes:
        """Return the ``size`` bytes at ``address``; raise MemoryFault where any of them is unreadable."""
        place = bisect_right(self._starts, address) - 1
        if place >= 0 and address + size <= self._ends[place]:
            try:
                data = os.pread(self._descriptor, size, address)
            except OSError:
                data = b""
            if len(data) == size:
                return data
        return self._beyond.read(address, size)
