"""The values that one of glibc's checks compares, read again where it has failed."""

from __future__ import annotations

from typing import NamedTuple

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, Abi
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.checks import CHECKS, WORDS


class Compared(NamedTuple):
    """One value: ``name`` is one of WORDS, ``meaning`` that in words; ``value`` is None where it is unreadable."""

    name: str
    meaning: str
    value: int | None


class _Reader:
    """Works out the values one by one; what one needs of another is read again."""

    def __init__(self, memory: Memory, abi: Abi, arena: Arena | None, chunk: int | None) -> None:
        self._memory = memory
        self._abi = abi
        self._arena = arena
        self._chunk = chunk

    def _at(self, address: int) -> int:
        return self._abi.read_word(self._memory, address % (1 << 8 * self._abi.word_size))

    def value(self, name: str) -> int | None:
        """Return the value called ``name``; None where it does not apply or cannot be read."""
        arena, chunk, abi = self._arena, self._chunk, self._abi
        word, header = abi.word_size, abi.header
        if name in ("system_mem", "top", "unsorted", "unsorted.fd", "top_size"):
            if arena is None:
                return None
            if name == "top_size":
                return self._at(arena.top + word)
            if name == "unsorted":
                return arena.bin_header(abi, 1)
            return {"system_mem": arena.system_mem, "top": arena.top, "unsorted.fd": arena.bins[0]}[name]
        if chunk is None:
            return None
        if name == "pointer":
            return chunk + header
        if name in ("next", "next_size", "next_prev_size"):
            behind = chunk + (self._at(chunk + word) & ~FLAG_BITS)
            return behind if name == "next" else self._at(behind + (word if name == "next_size" else 0))
        if name in ("previous", "previous_size"):
            before = chunk - self._at(chunk)
            return before if name == "previous" else self._at(before + word)
        places = {"prev_size": 0, "size": 1, "fd": 2, "key": 3, "bk": 3, "fd_nextsize": 4, "bk_nextsize": 5}
        if name in places:
            return self._at(chunk + places[name] * word)
        first, second = name.split("->")
        return self._at(self._at(chunk + places[first] * word) + places[second] * word)


def compared(memory: Memory, abi: Abi, arena: Arena | None, chunk: int | None, message: str) -> tuple[Compared, ...]:
    """Return the values that the check with ``message`` looks at, of ``chunk`` and of ``arena``, as far as known."""
    check = CHECKS.get(message)
    if check is None:
        return ()
    reader = _Reader(memory, abi, arena, chunk)
    found = []
    for name in check.compares:
        try:
            value = reader.value(name)
        except MemoryFault:
            found.append(Compared(name, WORDS[name], None))
            continue
        if value is not None:
            found.append(Compared(name, WORDS[name], value))
    return tuple(found)
