"""malloc_consolidate (malloc/malloc.c, up to glibc 2.42): the chunks of fastbins are merged with their neighbours."""

from __future__ import annotations

from gdbheap.ptmalloc.abi import PREV_INUSE
from gdbheap.ptmalloc.bins import fastbin_index
from gdbheap.simulate.machine import Machine

_FUNCTION = "malloc_consolidate"


def malloc_consolidate(machine: Machine, arena: int) -> None:
    """Empty the fastbins of an arena: their chunks go, merged, to the unsorted list or into the top chunk."""
    words, size = machine.words, machine.word_size
    machine.set_fastchunks(arena, False)
    unsorted = machine.bin_at(arena, 1)
    moved = 0
    for index in range(machine.fastbin_count):
        place = arena + machine.fastbins_at + index * size
        chunk = words[place]
        if not chunk:
            continue
        words[place] = 0
        while chunk:
            following = _check(machine, chunk, index)
            _merge(machine, arena, unsorted, chunk)
            moved += 1
            chunk = following
    if machine.steps is not None and moved:
        machine.note(
            "move",
            _FUNCTION,
            f"The fastbins of {machine.name(arena)} are emptied: {moved} chunk{'s' * (moved != 1)}, each merged with "
            "free neighbours, go to the unsorted list or into the top chunk.",
            arena,
        )


def _check(machine: Machine, chunk: int, index: int) -> int:
    """Check a chunk of a fastbin as glibc does and return the one behind it."""
    link = chunk + machine.header
    if link & machine.align_mask:
        if machine.safe_linking:
            raise machine.abort(
                _FUNCTION,
                "malloc_consolidate(): unaligned fastbin chunk detected",
                f"the chunk at {chunk:#x} on fastbin {index} is not aligned",
            )
        machine.unchecked(_FUNCTION, chunk)
    length = machine.size(chunk)
    if fastbin_index(machine.abi, length) != index and machine.checks_fastbins:
        raise machine.abort(
            _FUNCTION,
            "malloc_consolidate(): invalid chunk size",
            f"the chunk at {chunk:#x} on fastbin {index} has {length:#x} bytes, which do not belong there",
        )
    return machine.reveal(link)


def _merge(machine: Machine, arena: int, unsorted: int, chunk: int) -> None:
    words, size = machine.words, machine.word_size
    word = words[chunk + size]
    length = word & -8
    following = chunk + length
    next_length = words[following + size] & -8
    if not word & PREV_INUSE:
        before = words[chunk]
        length += before
        chunk -= before
        if words[chunk + size] & -8 != before and machine.checks_merge:
            raise machine.abort(
                _FUNCTION,
                "corrupted size vs. prev_size in fastbins",
                f"the free chunk at {chunk:#x} has {words[chunk + size]:#x} bytes, but prev_size of the one behind it "
                f"is {before:#x}",
            )
        machine.unlink(_FUNCTION, chunk)
    if following == words[arena + machine.top_at]:
        words[chunk + size] = length + next_length | PREV_INUSE
        words[arena + machine.top_at] = chunk
        return
    if not words[following + next_length + size] & PREV_INUSE:
        length += next_length
        machine.unlink(_FUNCTION, following)
    else:
        words[following + size] &= ~PREV_INUSE
    first = words[unsorted + 2 * size]
    words[unsorted + 2 * size] = chunk
    words[first + 3 * size] = chunk
    if length >= machine.min_large:
        words[chunk + 4 * size] = words[chunk + 5 * size] = 0
    words[chunk + size] = length | PREV_INUSE
    words[chunk + 3 * size] = unsorted
    words[chunk + 2 * size] = first
    words[chunk + length] = length
