"""One chunk, as it is shown: made only for the rows that someone asked for."""

from __future__ import annotations

from typing import NamedTuple

from gdbheap.ptmalloc.abi import FLAG_BITS, IS_MMAPPED, NON_MAIN_ARENA, PREV_INUSE, Abi, round_down

#: The states of a chunk, by number: a walk keeps one byte a chunk.
USED, TCACHE, FASTBIN, UNSORTED, SMALL, LARGE, FREE, TOP, FENCEPOST = range(9)
STATES = ("used", "tcache", "fastbin", "unsorted", "small", "large", "free", "top", "fencepost")
#: The states in which the chunk that follows has PREV_INUSE clear: those that malloc merges with its neighbours.
MERGED_STATES = (UNSORTED, SMALL, LARGE, FREE)

_FLAG_NAMES = ((PREV_INUSE, "PREV_INUSE"), (IS_MMAPPED, "IS_MMAPPED"), (NON_MAIN_ARENA, "NON_MAIN_ARENA"))


def state_table(*states: int) -> bytes:
    """Return a table for bytes.translate that makes ``states`` 1 and all others 0."""
    return bytes(value in states for value in range(256))


def flag_names(flags: int) -> tuple[str, ...]:
    """Return malloc.c's names of the ``flags`` that are set in a size word, lowest bit first."""
    return tuple(name for bit, name in _FLAG_NAMES if flags & bit)


class Chunk(NamedTuple):
    """One chunk of an arena: a named tuple, because making one takes a third of the time of a frozen dataclass.

    ``address`` is where malloc.c's chunk begins and ``pointer`` what malloc returns for it. ``size`` is in bytes,
    without the ``flags``, which are the low three bits of the size word. ``state`` is one of STATES: "free" is a
    chunk whose neighbour says that it is free but which is on no list that was read. ``request_max`` is the largest
    request in bytes that the chunk can serve: malloc_usable_size, or what can be cut from top; 0 for fenceposts.
    ``behind_damage`` is set where the walk had stopped before it and went on from a chunk that something else knows.
    """

    address: int
    pointer: int
    size: int
    flags: int
    state: str
    request_max: int
    behind_damage: bool = False

    @property
    def flag_names(self) -> tuple[str, ...]:
        """malloc.c's names of the flags that are set."""
        return flag_names(self.flags)


def chunk_of(abi: Abi, address: int, word: int, size: int, state: int, behind_damage: bool = False) -> Chunk:
    """Return the chunk at ``address`` of ``size`` bytes whose size word is ``word``; ``state`` is a number (USED ...).

    ``size`` is the word's, but for the last fencepost of a heap: its word says 0, and it takes up a header. The top
    chunk is not ``behind_damage``: its arena tells where it is, not the walk.
    """
    if state == TOP:
        cut = round_down(size - abi.min_size, abi.alignment)  # use_top leaves MINSIZE behind
        request_max = max(cut - abi.word_size, 0)
        behind_damage = False
    else:
        request_max = 0 if state == FENCEPOST else max(size - abi.word_size, 0)
    return Chunk(address, address + abi.header, size, word & FLAG_BITS, STATES[state], request_max, behind_damage)
