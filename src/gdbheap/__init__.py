"""gdbheap: the heap debugger that answers why, for the glibc heap under GDB."""

__version__ = "0.1.0"
