"""A fastbin that malloc was emptying into the unsorted list when it ended (malloc_consolidate)."""

from __future__ import annotations

from collections.abc import Mapping

from gdbheap.debugger.holding import pointers_to
from gdbheap.debugger.placing import placed_at
from gdbheap.debugger.target import Target
from gdbheap.growth.abort import Emptying
from gdbheap.memory import MemoryFault, PageCache
from gdbheap.ptmalloc.abi import FLAG_BITS, Abi
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.bins import UNSORTED_BIN
from gdbheap.ptmalloc.chunk import Chunk
from gdbheap.ptmalloc.placed import Placed
from gdbheap.ptmalloc.state import HeapState

#: The checks of malloc_consolidate that a link fails: what it leads to is no chunk of the fastbin.
CHECKS = ("malloc_consolidate(): unaligned fastbin chunk detected", "malloc_consolidate(): invalid chunk size")
#: Chunks of a list that are followed at most.
_MOST = 1 << 12


def emptied_fastbin(
    target: Target, state: HeapState, arena: Arena | None, check: str | None, variables: Mapping[str, int]
) -> Emptying | None:
    """Return the fastbin that the selected thread was emptying, None where it was emptying none.

    ``variables`` are those of malloc's frames: ``fb`` is the fastbin's head, ``p`` the link that was followed.
    """
    if arena is None or check not in CHECKS:
        return None
    index = None
    field = state.layout.state.fields.get("fastbinsY")
    head = variables.get("fb")
    if head is not None and field is not None:
        place, rest = divmod(head - arena.address - field.offset, state.abi.word_size)
        index = place if not rest and 0 <= place < field.count else None
    link = variables.get("p of malloc_consolidate")
    place_of_link = None if link is None else placed_at(target, link)
    merged = _newest_free(target, state, arena)
    holders: tuple[str, ...] = ()
    if merged is not None:
        # It took in chunks of the list before: only the first words are those of the last one.
        pointer = merged.pointer
        holders = pointers_to(target, merged, pointer, pointer + 1)
    lost = _lost(target, state, place_of_link)
    return Emptying(index, link, place_of_link, None if merged is None else merged.address, holders, lost)


def _newest_free(target: Target, state: HeapState, arena: Arena) -> Chunk | None:
    """Return the chunk at the front of the unsorted list, where malloc_consolidate puts what it has merged."""
    header, word = state.abi.header, state.abi.word_size
    try:
        front = arena.bins[0]
        if not front or front == arena.bin_header(state.abi, UNSORTED_BIN):
            return None
        size = state.abi.read_word(target.memory, front + word) & ~FLAG_BITS
    except MemoryFault:
        return None
    return Chunk(front, front + header, size, 0, "unsorted", 0)


def _lost(target: Target, state: HeapState, place: Placed | None) -> tuple[int, ...]:
    """Return the chunks that were on the list after the bad link, if that should lead to the chunk that it points into.

    They are those that their own links tell, as long as each is a chunk of the same size.
    """
    if place is None or place.chunk is None or place.chunk.state != "used":
        return ()
    abi = state.abi
    for chunk, size in ((place.address & -abi.alignment, None), (place.chunk.address, place.chunk.size)):
        found = _chain(target, abi, chunk, size)
        if found:
            return found
    return ()


def _chain(target: Target, abi: Abi, chunk: int, size: int | None) -> tuple[int, ...]:
    """Return the chunks of one size that links lead to from ``chunk`` on, none where they do not come to an end."""
    memory = PageCache(target.memory)
    found: list[int] = []
    try:
        while chunk and chunk not in found and len(found) < _MOST:
            own = abi.read_word(memory, chunk + abi.word_size) & ~FLAG_BITS
            size = own if size is None else size
            if chunk % abi.alignment or own != size or size < abi.min_size:
                return ()
            found.append(chunk)
            at = chunk + abi.header
            link = abi.read_word(memory, at)
            chunk = link ^ (at >> 12) if target.safe_linking else link
    except MemoryFault:
        return ()
    return tuple(found) if not chunk else ()
