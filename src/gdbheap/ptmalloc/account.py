"""The account of a heap: what every arena's bytes are, and the sums over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gdbheap.mappings import MappedRange
from gdbheap.memory import BlockCache, Memory
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.bins import read_free_lists
from gdbheap.ptmalloc.heaps import HeapChain
from gdbheap.ptmalloc.kernel import NOTHING_KNOWN, KernelFacts, KernelMap, arena_spans, divide
from gdbheap.ptmalloc.mmapped import MmappedChunk, MmappedChunks, find_mmapped
from gdbheap.ptmalloc.regions import Plan, regions
from gdbheap.ptmalloc.state import HeapState
from gdbheap.ptmalloc.tcache import Tcache
from gdbheap.ptmalloc.totals import ArenaTotals, totals
from gdbheap.ptmalloc.walk import Membership, membership

#: The states of chunks that malloc_info and mallinfo2 count as free; they count tcache chunks as used.
_BINNED = ("unsorted", "small", "large")


@dataclass(frozen=True)
class FreeFacts:
    """What is free, and where memory begins, beside malloc's own variables.

    ``tcaches`` are those of all threads. ``safe_linking`` says whether links are mangled. ``known_starts`` are starts
    of main_arena's regions that recorded events told. ``problems`` are sentences about what could not be read.
    """

    tcaches: Sequence[Tcache]
    safe_linking: bool
    known_starts: Iterable[int] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Account:
    """The whole heap: ``arenas`` in the order of the ring with their totals, and the ``mmapped`` chunks.

    ``kept`` are those of the latter that are free, in a tcache: from glibc 2.43 on it takes them too. ``kernel`` is
    what the process has mapped, divided; None where its map is not known.
    """

    state: HeapState
    arenas: tuple[tuple[Arena, ArenaTotals], ...]
    problems: tuple[str, ...]
    mmapped: MmappedChunks
    kept: tuple[MmappedChunk, ...]
    kernel: KernelMap | None

    @property
    def counted(self) -> int:
        """All bytes that malloc counts as its own: those of the arenas and those of the mmapped chunks."""
        return sum(arena.system_mem for arena, _ in self.arenas) + self.mmapped.bytes

    @property
    def mallinfo(self) -> Mapping[str, int]:
        """The figures of mallinfo2, from the walk: they count a chunk in a tcache as used.

        ``ordblks`` counts each arena's top chunk, as glibc does.
        """
        all_totals = [item for _, item in self.arenas]
        system = sum(item.system_mem for item in all_totals)
        fast = sum(item.sizes["fastbin"] for item in all_totals)
        free = fast + sum(item.sizes[state] for item in all_totals for state in (*_BINNED, "top"))
        return {
            "arena": system,
            "ordblks": len(all_totals) + sum(item.counts[state] for item in all_totals for state in _BINNED),
            "smblks": sum(item.counts["fastbin"] for item in all_totals),
            "hblks": self.state.params.get("n_mmaps"),
            "hblkhd": self.state.params.get("mmapped_mem"),
            "fsmblks": fast,
            "uordblks": system - free,
            "fordblks": free,
            "keepcost": self.arenas[0][1].sizes["top"],
        }


def plan_arena(memory: Memory, state: HeapState, arena: Arena, facts: FreeFacts) -> tuple[Plan, Membership]:
    """Return where the chunks of ``arena`` are and which of them are on a free list."""
    chain = state.heaps.get(arena.address, HeapChain(()))
    plan = regions(state.abi, state.layout, state.params, arena, chain, facts.known_starts)
    return plan, arena_membership(memory, state, arena, facts.tcaches, facts.safe_linking)


def arena_membership(
    memory: Memory, state: HeapState, arena: Arena, tcaches: Iterable[Tcache], safe_linking: bool
) -> Membership:
    """Return which chunks of ``arena`` are on a free list."""
    lists = read_free_lists(memory, state.abi, state.layout, arena, safe_linking)
    return membership(lists, tcaches)


def search_mmapped(
    memory: Memory, state: HeapState, ranges: Sequence[MappedRange], walked: Iterable[tuple[int, int]] = ()
) -> MmappedChunks:
    """Return the mmapped chunks of a process that has ``ranges`` mapped.

    ``walked`` are addresses of a main_arena that is not contiguous: where an arena is, none can be.
    """
    taken = [(heap.address, heap.address + heap.max_size) for chain in state.heaps.values() for heap in chain.heaps]
    taken += arena_spans(state, state.ring.arenas[0], walked)
    return find_mmapped(memory, state.abi, state.layout, state.params, ranges, taken)


def read_account(memory: Memory, state: HeapState, facts: FreeFacts, kernel: KernelFacts = NOTHING_KNOWN) -> Account:
    """Walk every arena and return what its bytes are; find the mmapped chunks; divide the kernel's map."""
    found = []
    spans = []
    for arena in state.ring.arenas:
        blocks = BlockCache(memory, state.abi.page_size)  # the lists and the walk are read from the same bytes
        plan, free = plan_arena(blocks, state, arena, facts)
        summed = totals(blocks, state.abi, plan, free)
        found.append((arena, summed))
        spans.append((arena, arena_spans(state, arena, summed.spans)))
    mmapped = search_mmapped(memory, state, kernel.ranges, found[0][1].spans)
    problems = tuple(text for tcache in facts.tcaches for text in tcache.problems)
    if state.ring.problem is not None:
        problems += (state.ring.problem,)
    problems += facts.problems
    divided = divide(state, kernel, spans, mmapped.chunks) if kernel.ranges else None
    cached = {chunk for tcache in facts.tcaches for chunk in tcache.chunks}
    kept = tuple(chunk for chunk in mmapped.chunks if chunk.address in cached)
    return Account(state, tuple(found), problems, mmapped, kept, divided)
