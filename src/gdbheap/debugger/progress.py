"""A line on the terminal that says how far a long reading of memory has come."""

from __future__ import annotations

import os
import time

from gdbheap.memory import Memory
from gdbheap.render.units import human_size

_STEP = 16 << 20  # bytes between two looks at the clock
_PATIENCE = 1.0  # seconds before the line appears at all


class Progress:
    """Memory that shows on the terminal how much of it was read, once that takes long.

    A context manager: at its end the line is gone again, also where the reading was interrupted or failed, and does not
    come back. Without a terminal (``descriptor`` is GDB's error stream) it shows nothing.
    """

    def __init__(self, memory: Memory, descriptor: int = 2) -> None:
        self._memory = memory
        self._descriptor = descriptor
        self._begin = time.monotonic()
        self._read = 0
        self._next = _STEP if os.isatty(descriptor) else 1 << 64
        self._shown = False

    def read(self, address: int, size: int) -> bytes:
        """Return the ``size`` bytes at ``address``; raise MemoryFault where any of them is unreadable."""
        self._read += size
        if self._read >= self._next:
            self._next = self._read + _STEP
            if time.monotonic() - self._begin >= _PATIENCE:
                self._shown = True
                self._write(f"\r\033[Kreading the heap: {human_size(self._read)} (Ctrl-C stops)")
        return self._memory.read(address, size)

    def clear(self) -> None:
        """Take the line away, as before something else is shown."""
        if self._shown:
            self._shown = False
            self._write("\r\033[K")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *failure: object) -> None:
        self._next = 1 << 64
        self.clear()

    def _write(self, text: str) -> None:
        os.write(self._descriptor, text.encode("ascii"))
