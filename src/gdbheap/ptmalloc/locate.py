"""The chunk that an address lies in, without a look at more chunks than lie before it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace

from gdbheap.memory import Memory
from gdbheap.ptmalloc.abi import FLAG_BITS
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.chunk import FENCEPOST, TOP, Chunk, chunk_of
from gdbheap.ptmalloc.heaps import HeapChain
from gdbheap.ptmalloc.regions import Plan, Region, regions
from gdbheap.ptmalloc.state import HeapState
from gdbheap.ptmalloc.walk import Columns, Membership, classify, walk_region


@dataclass(frozen=True)
class Place:
    """Where an address is: in a chunk of ``size`` bytes at ``address``, of ``arena``; ``word`` is its size word.

    ``state`` is the number of a state that the walk itself tells (TOP, FENCEPOST), None where the free lists do.
    ``columns`` has this one chunk for them.
    """

    arena: Arena
    address: int
    word: int
    size: int
    state: int | None
    columns: Columns | None = None


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

    def chunk(self, place: Place, free: Membership) -> Chunk:
        """Return the chunk at ``place`` with its state; ``free`` is what is on the lists of its arena."""
        state = place.state
        if state is None:
            assert place.columns is not None  # a place has a state or columns
            state = classify(place.columns, free).states[0]
        return chunk_of(self._state.abi, place.address, place.word, place.size, state)


def _place(arena: Arena, region: Region, columns: Columns, index: int) -> Place:
    address, word, size = columns.addresses[index], columns.words[index], columns.sizes[index]
    after = columns.words[index + 1] if index + 1 < len(columns.words) else columns.after
    alone = Columns(region, [address], [word], [size], {word}, after, None)
    return Place(arena, address, word, size, None, alone)
