"""The thread pointers of a process's threads, from the list that glibc itself keeps of them.

glibc describes its own structs for libthread_db, in symbols that begin with ``_thread_db_``: a number for a size, and
three for a field (its size in bits, how many of it there are, and where it is). From 2.34 on the list is the loader's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import gdb

from gdbheap.debugger.language import c_value
from gdbheap.memory import Memory, MemoryFault

#: More threads than are looked for.
_MOST_THREADS = 1 << 16
_LISTS = ("_dl_stack_user", "_dl_stack_used")


class Untold(Exception):
    """This glibc does not tell what is needed."""


class ThreadList:
    """The threads that glibc knows of: where the struct of each is, by the kernel's number."""

    def __init__(self, memory: Memory, word_size: int, little_endian: bool) -> None:
        self._memory = memory
        self._word_size = word_size
        self._order = "<" if little_endian else ">"

    def thread_pointer(self, tid: int, is_x86: bool) -> int | None:
        """Return the thread pointer of the thread ``tid``, None where glibc does not tell it.

        On x86 it points to the thread's struct, elsewhere right behind it.
        """
        try:
            behind = 0 if is_x86 else self._number("sizeof_pthread")
            place = self._field("pthread_tid")
            for pthread in self._structs():
                if self._unsigned(pthread + place, 4) == tid:
                    return pthread + behind
        except (Untold, MemoryFault):
            pass
        return None

    def _structs(self) -> Iterator[int]:
        """Yield the address of each thread's struct."""
        in_thread, following = self._field("pthread_list"), self._field("list_t_next")
        for head in self._heads():
            entry = self._unsigned(head + following, self._word_size)
            for _ in range(_MOST_THREADS):
                if entry in (0, head):
                    break
                yield entry - in_thread
                entry = self._unsigned(entry + following, self._word_size)

    def _heads(self) -> list[int]:
        """Return where the lists begin: in the loader's data, or in variables of a static program."""
        try:
            loader = self._address("_rtld_global")
        except Untold:
            return [self._address(name) for name in _LISTS]
        return [loader + self._field(f"rtld_global_{name}") for name in _LISTS]

    def _field(self, name: str) -> int:
        data = self._memory.read(self._address(f"_thread_db_{name}"), 12)
        return int(struct.unpack(f"{self._order}III", data)[2])

    def _number(self, name: str) -> int:
        return self._unsigned(self._address(f"_thread_db_{name}"), 4)

    def _unsigned(self, address: int, size: int) -> int:
        data = self._memory.read(address, size)
        return int.from_bytes(data, "little" if self._order == "<" else "big")

    def _address(self, name: str) -> int:
        try:
            return int(c_value(f"&{name}"))
        except (gdb.error, ValueError):
            raise Untold(name) from None
