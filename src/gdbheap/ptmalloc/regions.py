"""Where the chunks of an arena are: the ranges of addresses that a walk goes through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.heaps import HeapChain
from gdbheap.ptmalloc.layout import Layout
from gdbheap.ptmalloc.params import Params
from gdbheap.ptmalloc.problems import Problems


@dataclass(frozen=True)
class Gap:
    """Bytes between regions: from ``start`` (None where that is unknown) to ``end``, and ``why`` in a full sentence.

    ``foreign`` bytes are not malloc's at all; the others hold chunks of malloc's that cannot be found.
    """

    start: int | None
    end: int
    why: str
    foreign: bool


@dataclass(frozen=True)
class Region:
    """A range of addresses that chunks follow each other in.

    ``kind`` is brk (main_arena, also where mmap took brk's place) or heap. ``address`` is where malloc's memory
    begins and ``start`` the first chunk; ``header`` bytes between them are heap_info and malloc_state. Chunks end at
    ``limit`` at the latest. ``top`` is the arena's top chunk where this region ends with it, else None: then it ends
    with fenceposts. ``end`` is where its memory ends, None where only the fenceposts will tell; ``following`` is the
    address of the region behind it in main_arena, as far as that is known. ``main`` is whether it is main_arena's.
    ``resumed`` is set for the rest of a region behind a place where the walk had stopped: from a chunk that is known.
    """

    kind: str
    address: int
    start: int
    limit: int
    header: int
    top: int | None
    end: int | None
    following: int | None
    main: bool
    resumed: bool = False


@dataclass(frozen=True)
class Plan:
    """The regions of one arena in the order of the walk.

    ``problems`` is what is wrong before the walk begins; ``complete`` is False where regions are missing because of
    that. ``top_is_lost`` says that the region of the top chunk is known by that chunk alone.
    """

    arena: Arena
    regions: tuple[Region, ...]
    problems: tuple[str, ...] = ()
    complete: bool = True
    top_is_lost: bool = False


def regions(
    abi: Abi, layout: Layout, params: Params, arena: Arena, chain: HeapChain, known_starts: Iterable[int] = ()
) -> Plan:
    """Return the address ranges that hold the chunks of ``arena``.

    ``chain`` is what read_heaps returned. ``known_starts`` are addresses where a region of main_arena begins besides
    sbrk_base, learnt from recorded events: the answer of a brk call that someone else had moved, or of an mmap that
    took brk's place. Without them the chunks behind a foreign sbrk stay unknown.
    """
    if not arena.has_top(abi):
        return Plan(arena, ())
    problems = Problems()
    if arena.top_size is None:
        problems.add(f"The size of the top chunk of {arena.name}, at {arena.top:#x}, cannot be read.")
    elif not abi.min_size <= arena.top_size <= arena.system_mem or (arena.top + arena.top_size) % abi.page_size:
        problems.add(
            f"The top chunk of {arena.name}, at {arena.top:#x}, has {arena.top_size:#x} bytes; it should have at least "
            f"{abi.min_size:#x}, at most system_mem, {arena.system_mem:#x}, and end where a page ends."
        )
    if arena.is_main:
        return _main_plan(abi, params, arena, known_starts, problems)
    return _heaps_plan(abi, layout, arena, chain, problems)


def _main_plan(abi: Abi, params: Params, arena: Arena, known_starts: Iterable[int], problems: Problems) -> Plan:
    base = params.get("sbrk_base")
    starts = sorted({base, *known_starts} - {0})
    if arena.contiguous:
        starts = [start for start in starts if base <= start < base + max(arena.system_mem, 1)]
    holder = max(
        (start for start in starts if abi.first_chunk(start) <= arena.top < start + arena.system_mem), default=None
    )
    found = []
    for place, start in enumerate(starts):
        following = starts[place + 1] if place + 1 < len(starts) else None
        limit = start + arena.system_mem
        found.append(
            Region(
                kind="brk",
                address=start,
                start=abi.first_chunk(start),
                limit=arena.top if start == holder else limit if following is None else min(limit, following),
                header=0,
                top=arena.top if start == holder else None,
                end=None,
                following=following,
                main=True,
            )
        )
    if holder is None:
        if arena.contiguous:
            problems.add(
                f"The top chunk of {arena.name} is at {arena.top:#x}; it should be between sbrk_base, {base:#x}, and "
                f"{base + arena.system_mem:#x}, which is system_mem behind that."
            )
        found.append(_top_alone("brk", arena))
        found.sort(key=lambda region: region.address)
    return Plan(arena, tuple(found), problems.texts(), top_is_lost=holder is None)


def _heaps_plan(abi: Abi, layout: Layout, arena: Arena, chain: HeapChain, problems: Problems) -> Plan:
    if chain.problem is not None:
        problems.add(chain.problem)
    found = []
    for place, heap in enumerate(reversed(chain.heaps)):
        header = 0 if layout.heap_info is None else layout.heap_info.size
        if heap.address + header == arena.address:
            header += layout.state.size
        start = abi.first_chunk(heap.address + header)
        newest = place == len(chain.heaps) - 1
        # sysmalloc leaves MINSIZE at the end of an old heap, and the fenceposts begin at the last place for a chunk.
        limit = arena.top if newest else abi.first_chunk(heap.end - abi.min_size - abi.alignment + 1)
        found.append(
            Region("heap", heap.address, start, limit, header, arena.top if newest else None, heap.end, None, False)
        )
    if not found:
        found.append(_top_alone("heap", arena))
    return Plan(arena, tuple(found), problems.texts(), chain.problem is None, top_is_lost=not chain.heaps)


def _top_alone(kind: str, arena: Arena) -> Region:
    return Region(kind, arena.top, arena.top, arena.top, 0, arena.top, None, None, arena.is_main)
