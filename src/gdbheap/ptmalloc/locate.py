"""The chunk that an address lies in, without a look at more chunks than lie before it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from gdbheap.memory import Memory
from gdbheap.ptmalloc.abi import FLAG_BITS
from gdbheap.ptmalloc.account import arena_membership
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.chunk import FENCEPOST, TOP, USED, Chunk, chunk_of
from gdbheap.ptmalloc.heaps import HeapChain
from gdbheap.ptmalloc.mmapped import MmappedChunk, MmappedChunks, holder
from gdbheap.ptmalloc.regions import Plan, Region, regions
from gdbheap.ptmalloc.state import HeapState
from gdbheap.ptmalloc.tcache import Tcache
from gdbheap.ptmalloc.walk import Columns, Membership, classify, membership, walk_region


@dataclass(frozen=True)
class Place:
    """Where an address is: in a chunk of ``size`` bytes at ``address``, of ``arena``; ``word`` is its size word.

    ``arena`` is None for a chunk with a mapping of its own, which is ``mmapped`` then. ``state`` is the number of a
    state that the walk itself tells (TOP, FENCEPOST), None where the free lists do. ``columns`` has this one chunk
    for them.
    """

    arena: Arena | None
    address: int
    word: int
    size: int
    state: int | None
    columns: Columns | None = None
    mmapped: MmappedChunk | None = None


class Locator:
    """Finds chunks by address in a heap that stays as it is; what one walk learnt shortens the next.

    ``known_starts`` is as in ``regions``. Nothing is raised for a corrupt heap: an address behind the place where a
    walk must stop is in no known chunk.
    """

    def __init__(self, memory: Memory, state: HeapState, known_starts: tuple[int, ...] = ()) -> None:
        self._memory = memory
        self._state = state
        self._plans: list[Plan] = [
            regions(
                state.abi,
                state.layout,
                state.params,
                arena,
                state.heaps.get(arena.address, HeapChain(())),
                known_starts if arena.is_main else (),
            )
            for arena in state.ring.arenas
        ]
        #: By the start of a region: addresses of chunks in it, in ascending order, from which a walk can begin.
        self._steps: dict[int, list[int]] = {}

    def find(self, address: int) -> Place | None:
        """Return where ``address`` is, None where it is in no known chunk of any arena."""
        for plan in self._plans:
            arena = plan.arena
            top_size = arena.top_size if arena.has_top(self._state.abi) else None
            if top_size and arena.top <= address < arena.top + top_size:
                word = self._state.abi.read_word(self._memory, arena.top + self._state.abi.word_size)
                return Place(arena, arena.top, word, top_size, TOP)
            for region in plan.regions:
                end = region.limit if region.end is None else max(region.end, region.limit)
                if region.start <= address < end and region.start != region.top:
                    return self._in_region(arena, region, address)
        return None

    def _in_region(self, arena: Arena, region: Region, address: int) -> Place | None:
        steps = self._steps.setdefault(region.start, [region.start])
        begin = steps[bisect_right(steps, address) - 1]
        for columns in walk_region(self._memory, self._state.abi, replace(region, start=begin)):
            if columns.addresses:
                if columns.addresses[0] > steps[-1]:
                    steps.append(columns.addresses[0])
                index = bisect_right(columns.addresses, address) - 1
                if address < columns.addresses[index] + columns.sizes[index]:
                    return _place(arena, region, columns, index)
            if columns.ending is not None:
                for post, word in columns.ending.fenceposts:
                    size = (word & ~FLAG_BITS) or self._state.abi.header
                    if post <= address < post + size:
                        return Place(arena, post, word, size, FENCEPOST)
        return None


def _place(arena: Arena, region: Region, columns: Columns, index: int) -> Place:
    address, word, size = columns.addresses[index], columns.words[index], columns.sizes[index]
    after = columns.words[index + 1] if index + 1 < len(columns.words) else columns.after
    alone = Columns(region, [address], [word], [size], {word}, after, None)
    return Place(arena, address, word, size, None, alone)


def find_mmapped_at(chunks: MmappedChunks, address: int) -> Place | None:
    """Return where ``address`` is among the chunks with mappings of their own, None where it is in none of them.

    None also where more was found than malloc counts: any of it could then be something else.
    """
    if len(chunks.chunks) > chunks.count or chunks.found_bytes > chunks.bytes:
        return None
    found = holder(chunks.chunks, address)
    if found is None or address < found.address:
        return None
    return Place(None, found.address, found.word, found.size, USED, mmapped=found)


class ChunkStates:
    """Tells the state of single chunks of a heap that stays as it is.

    ``tcaches`` are those of all threads; ``safe_linking`` says whether links are mangled. The free lists of an arena
    are read once.
    """

    def __init__(self, memory: Memory, state: HeapState, tcaches: Sequence[Tcache], safe_linking: bool) -> None:
        self._memory = memory
        self._state = state
        self._tcaches = tcaches
        self._safe_linking = safe_linking
        self._lists: dict[int, Membership] = {}  # by arena

    def chunk(self, place: Place) -> Chunk:
        """Return the chunk at ``place``."""
        if place.mmapped is not None:
            # From glibc 2.43 on a tcache may keep one.
            return place.mmapped.row(self._state.abi, self._cached.get(place.address) or USED)
        state = place.state
        if state is None:
            assert place.columns is not None  # a place has a state, columns or a mapping
            assert place.arena is not None
            state = classify(place.columns, self._free(place.arena)).states[0]
        return chunk_of(self._state.abi, place.address, place.word, place.size, state)

    @cached_property
    def _cached(self) -> Membership:
        return membership((), self._tcaches)

    def _free(self, arena: Arena) -> Membership:
        free = self._lists.get(arena.address)
        if free is None:
            free = arena_membership(self._memory, self._state, arena, self._tcaches, self._safe_linking)
            self._lists[arena.address] = free
        return free
