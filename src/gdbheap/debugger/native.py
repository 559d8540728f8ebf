"""The memory of a process of this machine, read without GDB where that gives the same bytes."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable
from contextlib import suppress

from gdbheap.mappings import MappedRange, Spans
from gdbheap.memory import Memory

#: Bytes from which on a call through ctypes, which costs a microsecond, is worth its while.
_LARGE = 1 << 15


def copier(pid: int) -> Callable[[int, int], bytes]:
    """Return what reads (address, size) with process_vm_readv, in half the time that /proc/PID/mem takes.

    It returns no bytes where the kernel does not give all of them. The kernel copies through a page of its own for that
    file, and here right into the bytes object, which nobody else has seen by then. Raises ImportError or AttributeError
    where Python has no ctypes, or does not let its own functions be called.
    """
    import ctypes

    class Range(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    call = ctypes.CDLL(None).process_vm_readv
    call.restype, one, number = ctypes.c_ssize_t, ctypes.POINTER(Range), ctypes.c_ulong
    call.argtypes = (ctypes.c_int, one, number, one, number, number)
    new = ctypes.pythonapi.PyBytes_FromStringAndSize
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_ssize_t)
    place_of = ctypes.pythonapi.PyBytes_AsString
    place_of.restype, place_of.argtypes = ctypes.c_void_p, (ctypes.py_object,)
    here, there = Range(), Range()

    def read(address: int, size: int) -> bytes:
        data: bytes = new(None, size)
        here.base, there.base = place_of(data), address
        here.length = there.length = size
        return data if call(pid, here, 1, there, 1, 0) == size else b""

    return read


class ProcessMemory:
    """Reads where malloc's memory can be without GDB, and asks ``beyond``, which is GDB, for all else.

    GDB hides the breakpoints that it has put into code, the kernel does not: so only private memory without a file
    behind it, which is not executable, is read here. Keep one for no longer than the process stays stopped. Raises
    OSError where the kernel does not let us read.
    """

    def __init__(self, pid: int, ranges: Iterable[MappedRange], beyond: Memory) -> None:
        self._beyond = beyond
        self._file = open(f"/proc/{pid}/mem", "rb", buffering=0)  # noqa: SIM115 (closed with this object)
        self._descriptor = self._file.fileno()
        self._copy: Callable[[int, int], bytes] | None = None
        with suppress(ImportError, AttributeError):  # /proc/PID/mem serves as well, only slower
            self._copy = copier(pid)
        spans = list(Spans((item.start, item.end) for item in ranges if item.may_be_heap).inside(0, 1 << 64))
        self._starts = [start for start, _ in spans]
        self._ends = [end for _, end in spans]

    def read(self, address: int, size: int) -> bytes:
        """Return the ``size`` bytes at ``address``; raise MemoryFault where any of them is unreadable."""
        place = bisect_right(self._starts, address) - 1
        if place >= 0 and address + size <= self._ends[place]:
            data = self._copy(address, size) if self._copy is not None and size >= _LARGE else b""
            if not data:
                try:
                    data = os.pread(self._descriptor, size, address)
                except OSError:
                    data = b""
            if len(data) == size:
                return data
        return self._beyond.read(address, size)
