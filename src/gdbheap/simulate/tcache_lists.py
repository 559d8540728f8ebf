"""What malloc and free do with the lists of a tcache (tcache_put, tcache_get and their like, malloc/malloc.c)."""

from __future__ import annotations

from gdbheap.ptmalloc.tcache import SMALL_BINS
from gdbheap.simulate.circle import Circle
from gdbheap.simulate.machine import Machine

_UNALIGNED = "malloc(): unaligned tcache chunk detected"


def put(machine: Machine, chunk: int, index: int) -> None:
    """Put a chunk at the front of a bin of the calling thread's tcache (tcache_put)."""
    tcache = machine.thread.tcache
    assert tcache is not None
    words, size = machine.words, machine.word_size
    entry = chunk + 2 * size
    front = tcache + machine.entries_at + index * size
    head = words[front]
    words[entry] = head ^ (entry >> 12) if machine.safe_linking else head
    if machine.marks:
        words[entry + size] = machine.key
    words[front] = entry
    machine.tcache_add(index, -1 if machine.counts_down else 1)


def get(machine: Machine, index: int, function: str) -> int:
    """Take the front of a bin of the calling thread's tcache, which is not empty; return the pointer (tcache_get)."""
    assert machine.thread.tcache is not None
    return take(machine, index, machine.thread.tcache + machine.entries_at + index * machine.word_size, True, function)


def take(machine: Machine, index: int, place: int, front: bool, function: str) -> int:
    """Take the entry that the word at ``place`` leads to; return the pointer (tcache_get_n).

    ``front`` says that it is the front of the bin, which is not mangled.
    """
    words, size = machine.words, machine.word_size
    entry = words[place] if front else machine.reveal(place)
    if entry & machine.align_mask:
        if machine.safe_linking:
            raise machine.abort(
                function, _UNALIGNED, f"the entry {entry:#x} of tcache bin {index} is no multiple of 16"
            )
        machine.unchecked(function, entry)
    following = words[entry] ^ (entry >> 12) if machine.safe_linking else words[entry]
    words[place] = following if front else machine.protect(place, following)
    machine.tcache_add(index, 1 if machine.counts_down else -1)
    if machine.marks:
        words[entry + size] = 0
    return entry


def has_entry(machine: Machine, index: int) -> bool:
    """Whether malloc takes bin ``index`` of the calling thread's tcache for not empty.

    By its counter from glibc 2.30 on, by its front before that and again from 2.42 on.
    """
    tcache = machine.thread.tcache
    assert tcache is not None
    if machine.counts_down or machine.counts_are_bytes:
        return machine.words[tcache + machine.entries_at + index * machine.word_size] != 0
    return machine.tcache_number(index) > 0


def large_index(machine: Machine, size: int) -> int:
    """Return the tcache bin of chunks of ``size`` bytes that are too large for the exact ones (large_csize2tidx)."""
    return SMALL_BINS + size.bit_length() - machine.largest_small.bit_length()


def large_place(machine: Machine, index: int, size: int) -> tuple[int, int]:
    """Return the word that leads to the first entry of at least ``size`` bytes, and that entry (0: there is none).

    tcache_location_large, from glibc 2.42 on; such a bin is kept in order of size.
    """
    tcache = machine.thread.tcache
    assert tcache is not None
    words, word_size = machine.words, machine.word_size
    place = tcache + machine.entries_at + index * word_size
    entry, circle = words[place], Circle(machine, f"tcache bin {index}")
    while entry and words[entry - word_size] & -8 < size:
        circle.visit(entry)
        place, entry = entry, machine.reveal(entry)
    return place, entry


def is_front(machine: Machine, index: int, place: int) -> bool:
    """Whether ``place`` is the front of a bin, which is not mangled."""
    assert machine.thread.tcache is not None
    return place == machine.thread.tcache + machine.entries_at + index * machine.word_size


def put_large(machine: Machine, chunk: int, index: int) -> None:
    """Put a chunk at its place in a bin that is kept in order of size (tcache_put_large)."""
    place, following = large_place(machine, index, machine.size(chunk))
    entry, words = chunk + machine.header, machine.words
    words[entry + machine.word_size] = machine.key
    words[entry] = machine.protect(entry, following)
    words[place] = entry if is_front(machine, index, place) else machine.protect(place, entry)
    machine.tcache_add(index, -1)
