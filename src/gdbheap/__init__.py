"""gdbheap: the heap debugger that answers why, for the glibc heap under GDB."""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from gdbheap.debugger.api import Heap


def heap() -> Heap:
    """Return the heap of the process or core file that is selected in GDB: see docs/python.md.

    Raises gdb.GdbError, with a sentence, where there is no heap to read, and RuntimeError outside GDB.
    """
    try:
        from gdbheap.debugger.api import heap as read
    except ModuleNotFoundError as error:
        if error.name not in ("gdb", "_gdb"):
            raise
        raise RuntimeError("gdbheap.heap() works in GDB's own Python only: 'source gdbheap' there first.") from None
    return read()
