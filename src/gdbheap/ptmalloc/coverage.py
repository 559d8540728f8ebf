"""How much of what malloc counts as its own a walk meets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gdbheap.mappings import MappedRange
from gdbheap.memory import BlockCache, Memory
from gdbheap.ptmalloc.account import FreeFacts, plan_arena, search_mmapped
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.state import HeapState
from gdbheap.ptmalloc.totals import totals


@dataclass(frozen=True)
class Coverage:
    """How many bytes malloc counts (system_mem of each arena, mmapped_mem), and how many of them a walk met."""

    counted: int
    walked: int

    @property
    def whole(self) -> bool:
        """Whether all were met."""
        return self.counted == self.walked


def coverage(
    memory: Memory,
    state: HeapState,
    facts: FreeFacts,
    ranges: Sequence[MappedRange],
    arenas: Sequence[Arena],
    with_mmapped: bool,
) -> Coverage:
    """Walk ``arenas``, and look for the chunks with mappings of their own where ``with_mmapped``; return what was met.

    What a damaged size word makes a walk meet twice is counted once.
    """
    counted = walked = 0
    spans: tuple[tuple[int, int], ...] = ()
    for arena in arenas:
        blocks = BlockCache(memory, state.abi.page_size)  # lists and walk are read from the same bytes
        found = totals(blocks, state.abi, *plan_arena(blocks, state, arena, facts))
        counted += arena.system_mem
        walked += min(found.accounted, arena.system_mem)
        if arena.is_main:
            spans = found.spans
    if with_mmapped:
        mmapped = search_mmapped(memory, state, ranges, spans)
        counted += mmapped.bytes
        walked += mmapped.bytes if mmapped.proven else min(mmapped.found_bytes, mmapped.bytes)
    return Coverage(counted, walked)
