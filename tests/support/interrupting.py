"""Ctrl-C in the middle of a command, at a place that does not depend on how fast the machine is."""

from __future__ import annotations

#: In GDB: a SIGINT, as the terminal sends it, comes during a read of the process's memory: the one of that number.
_CODE = """
import os, signal
from gdbheap.debugger.native import ProcessMemory
from gdbheap.debugger.target import GdbMemory
left = [{reads}]
def interrupted(original):
    def read(self, address, size):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, address, size)
    return read
for kind in (ProcessMemory, GdbMemory):
    kind.uninterrupted = getattr(kind, 'uninterrupted', kind.read)
    kind.read = interrupted(kind.uninterrupted)
"""


def interrupt_at(reads: int) -> str:
    """Return a GDB command after which GDB gets a SIGINT in read number ``reads`` of memory, from 1 on; 0: in none."""
    return f"python exec({_CODE.format(reads=reads)!r}, {{}})"
