"""What is read of the allocator while the program waits at a system call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import gdb

from gdbheap.debugger import session
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.syscalls import SyscallEntry
from gdbheap.debugger.target import Target, is_libc
from gdbheap.growth.event import ChunkHeader, Frame, FreeLists
from gdbheap.growth.nameless import gives_back
from gdbheap.growth.names import base_name
from gdbheap.growth.reading import ArenaVariables, Reading
from gdbheap.memory import MemoryFault, PageCache
from gdbheap.ptmalloc.abi import FLAG_BITS, IS_MMAPPED, PREV_INUSE, Abi, round_up
from gdbheap.ptmalloc.arena import Arena, attached_threads, decode_arena, read_arenas, read_top_size
from gdbheap.ptmalloc.bins import NOTHING_FREE, chunks_to_trim, free_summary, has_free_chunks
from gdbheap.ptmalloc.heaps import heap_containing, read_heaps
from gdbheap.ptmalloc.layout import LayoutUnknown
from gdbheap.ptmalloc.params import read_params
from gdbheap.ptmalloc.tcache import tcache_count, tcache_index
from gdbheap.simulate.arenas import leftover
from gdbheap.simulate.kernel import PROT_NONE
from gdbheap.simulate.state import OlderHeap, TrimWalk
from gdbheap.simulate.trim import pages_inside

#: Free chunks that are visited at most while the program waits.
_FREE_LIMIT = 512
#: The same for malloc_trim, which makes a call for each large one of them.
_TRIM_LIMIT = 20_000
_FRONT = 64
#: Pages of a mapping that are looked at for its chunk, where nothing tells its place.
_PLACES = 4096
#: Why nothing is read at a call of such a malloc.
OF_ANOTHER_LIBC = (
    "It is the malloc of another copy of libc (dlmopen loads one), with arenas and settings of its own: gdbheap reads "
    "those of the program's own libc."
)


def read_allocator(target: Target, arena: int | None) -> Reading:
    """Return the allocator's variables now, those of the arena at this address included (None: no arena takes part).

    Raises MemoryFault where any of it is unreadable.
    """
    memory, facts = target.memory, target.process_facts
    params, curbrk_bytes, data, *deciding = target.variables_of(arena).read(memory)
    curbrk = int.from_bytes(curbrk_bytes, target.abi.byte_order) if curbrk_bytes else None
    choosing = _arena_variables(target, data, *deciding)
    if not arena:
        hint = {"aligned_heap_area": target.word("aligned_heap_area")}
        return Reading(facts, params, curbrk, others=hint, choosing=choosing)
    top_size = read_top_size(memory, target.abi, target.layout, arena, data)
    number = session.arena_number(target, arena)
    if not number:
        return Reading(facts, params, curbrk, arena, number, data, top_size, choosing=choosing)
    others = _heap_facts(target, decode_arena(target.abi, target.layout, arena, number, data, top_size))
    return Reading(facts, params, curbrk, arena, number, data, top_size, others, choosing)


def _arena_variables(
    target: Target, arena: bytes, flag: bytes, narenas: bytes, narenas_limit: bytes, free_list: bytes
) -> ArenaVariables:
    """Return what decides on the arena; the thread's own variable is read where there may be several threads."""
    single = target.is_single_thread(flag)
    if single:
        return _of_single_thread(narenas, narenas_limit, free_list)
    own = target.thread_word("thread_arena", gdb.selected_thread())
    living = None
    if arena and attached_threads(target.abi, target.layout, arena) > 1:
        living = tuple([(thread.num, thread.ptid[1]) for thread in gdb.selected_inferior().threads()])
    return ArenaVariables(single, narenas, narenas_limit, free_list, own, living)


# What is the same at one event after another is one object: each that is kept costs the garbage collector time.


@lru_cache(maxsize=64)
def _of_single_thread(narenas: bytes, narenas_limit: bytes, free_list: bytes) -> ArenaVariables:
    return ArenaVariables(True, narenas, narenas_limit, free_list)


@lru_cache(maxsize=64)
def _nothing_free(tcache_count: int | None) -> FreeLists:
    return FreeLists(tcache_count, NOTHING_FREE)


def _heap_facts(target: Target, arena: Arena) -> dict[str, Any]:
    """Return what new_heap, grow_heap and heap_trim look at besides, as fields of GrowthState."""
    memory, abi, layout = target.memory, target.abi, target.layout
    chain = read_heaps(memory, abi, layout, read_params(memory, abi, layout, target.mp), arena)
    older = None
    if chain.problem is None:
        older = tuple(OlderHeap(item, leftover(memory, abi, item)) for item in chain.heaps[1:])
    return {
        "aligned_heap_area": target.word("aligned_heap_area"),
        "heap": chain.heaps[0] if chain.heaps else None,
        "older_heaps": older,
        "may_shrink_heap": target.may_shrink_heap,
    }


def read_free_lists(target: Target, reading: Reading, nb: int | None) -> FreeLists:
    """Return what is free in the arena of ``reading``, and in the selected thread's tcache for chunks of ``nb``.

    Where ``nb`` is None, as it is not known yet, the tcache is kept as it is.
    """
    abi, layout = target.abi, target.layout
    if nb is None:
        return read_free_lists(target, reading, 0)._replace(tcache_count=None, tcache=_tcache_now(target))
    count = None
    if layout.tcache is not None and tcache_index(abi, layout, nb) is not None:
        address = target.tcache_address(gdb.selected_thread())
        if address is not None:
            count = tcache_count(target.memory, abi, layout, address, nb)
    if reading.arena is None or not has_free_chunks(abi, layout, reading.address, reading.arena):
        return _nothing_free(count)
    arena = decode_arena(abi, layout, reading.address, reading.number, reading.arena, reading.top_size)
    summary = free_summary(PageCache(target.memory), abi, layout, arena, target.safe_linking, limit=_FREE_LIMIT)
    return FreeLists(count, summary)


def _tcache_now(target: Target) -> bytes | None:
    """Return the bytes of the selected thread's tcache, empty where it has none; None where they cannot be read."""
    address = target.tcache_address(gdb.selected_thread())
    if address is None or target.layout.tcache is None or target.layout.tcache_counts_down:
        return None
    try:
        return target.memory.read(address, target.layout.tcache.size) if address else b""
    except MemoryFault:
        return None


def read_chunk_header(target: Target, start: int, length: int, pointer: int | None) -> ChunkHeader | None:
    """Return the header of the mmapped chunk in the mapping at ``start``; None where it cannot be told.

    The chunk is at the start of the mapping, or behind it where memalign moved it; there the ``pointer`` that free or
    realloc was called with tells.
    """
    memory = PageCache(target.memory, target.abi.page_size)
    for address in [pointer - target.abi.header] if pointer else _chunk_places(target.abi, start, length):
        try:
            prev_size, size_word = target.abi.words(memory.read(address, target.abi.header))
        except MemoryFault:
            continue
        # Up to 2.42 size and prev_size make up the mapping; from 2.43 on without the header, and bit 0 is a flag.
        offset = prev_size & ~PREV_INUSE
        covered = offset + (size_word & ~FLAG_BITS)
        if offset == address - start and size_word & IS_MMAPPED and covered in (length, length - target.abi.header):
            return ChunkHeader(address, prev_size, size_word)
    return None


def _chunk_places(abi: Abi, start: int, length: int) -> Iterator[int]:
    """Yield where the chunk of a mapping can be, the likeliest places first.

    memalign moves it to where its memory is aligned, and leaves the old header at the start. After a resize that
    header no longer fits, and after a move the mapping is not aligned as it was, except to pages.
    """
    alignment = 2 * abi.alignment
    while alignment < length:
        place = round_up(start + abi.header, alignment) - abi.header
        if start < place < start + abi.min_size:
            place += alignment
        if place > start:
            yield place
        alignment *= 2
    yield abi.first_chunk(start)
    page = abi.page_size
    yield from range(start + page - abi.header, start + min(length, _PLACES * page), page)


def stream_name(target: Target, address: int) -> str:
    """Return the name of the stdio stream at ``address``: stdout, say, or its address."""
    for name in ("stdin", "stdout", "stderr"):
        if target.symbols.address(f"_IO_2_1_{name}_") == address:
            return name
    return f"the stream at {address:#x}"


class AllocatorNow(NamedTuple):
    """What was read of the allocator; ``unread`` is a sentence that says why it could not be."""

    reading: Reading | None = None
    free: FreeLists | None = None
    chunk: ChunkHeader | None = None
    unread: str | None = None


def read_at_call(
    entry: SyscallEntry,
    arena: int | None,
    nb: int | None,
    request: int | None,
    pointer: int | None,
    nb_will_be_known: bool = False,
) -> AllocatorNow:
    """Return the allocator's state, what is free, and the chunk that is given back or resized, as far as known.

    ``nb_will_be_known`` says that the size of the chunk may turn out later.
    """
    try:
        target = session.target()
        reading = read_allocator(target, arena)
    except TargetError as error:
        return AllocatorNow(unread=str(error))
    except MemoryFault as fault:
        return AllocatorNow(unread=f"GDB {fault}.")
    if entry.name in ("munmap", "mremap"):
        return AllocatorNow(reading, chunk=read_chunk_header(target, entry.args[0], entry.args[1], pointer))
    if nb is None and request is not None:
        nb = target.abi.request_to_chunk(request)
    if (nb is None and not nb_will_be_known) or reading.arena is None:
        return AllocatorNow(reading)
    return AllocatorNow(reading, read_free_lists(target, reading, nb))


def is_of_another_libc(frames: Sequence[Frame]) -> bool:
    """Whether a call was made by another copy of libc than the program's own, as dlmopen loads one."""
    newest = next((frame for frame in frames if is_libc(base_name(frame.objfile))), None)
    try:
        image = None if newest is None else session.target().identified.image
    except TargetError:
        return False
    if newest is None or image is None:
        return False
    return not any(segment.start <= newest.pc < segment.end for segment in image.segments)


def nameless_arena(entry: SyscallEntry, function: str, goes_on: bool) -> int | None:
    """Return the address of the arena whose memory a call of malloc's is about, where no frame names it.

    Only main_arena moves the break. Of the others each call lies in one of their heaps; what is mapped anew is for the
    arena that the thread uses, unless the public ``function`` is realloc, which works on that of the chunk, or an
    earlier try of malloc's was refused (``goes_on``): it may have gone on in another arena. None where that is not
    known, as when an arena is made.
    """
    try:
        target = session.target()
        if entry.name == "brk":
            return target.main_arena
        known = None if entry.name == "mmap" else _arena_around(target, entry.args[0])
        if known is not None or entry.name == "mremap" or function == "realloc" or gives_back(function):
            return known
        if goes_on and entry.name == "mmap":
            single = target.is_single_thread(target.variables_of(None).read(target.memory)[3])
            return target.main_arena if single else None
        own = target.thread_word("thread_arena", gdb.selected_thread())
    except (TargetError, MemoryFault):
        return None
    makes_heap = entry.name != "mmap" or entry.args[2] == PROT_NONE
    # main_arena has no heaps: then it is another arena that is made.
    return None if makes_heap and (not function or own == target.main_arena) else own or None


def _arena_around(target: Target, address: int) -> int | None:
    """Return the address of the arena in whose memory ``address`` is, None where it is in none's."""
    facts = target.process_facts
    try:
        params = read_params(target.memory, target.abi, facts.layout, target.mp)
        if 0 < params.get("sbrk_base") <= address < (target.word("__curbrk") or 0):
            return target.main_arena
        heap = heap_containing(target.memory, target.abi, facts.layout, params, address)
        ring = read_arenas(target.memory, target.abi, facts.layout, target.main_arena)
    except (MemoryFault, LayoutUnknown):
        return None
    return heap.arena if heap.arena in {arena.address for arena in ring.arenas} else None


class TrimWalks:
    """Where each thread's malloc_trim is among the free chunks of an arena.

    They are read at its first call there. They stay as they are for as long as it holds the arena's lock, so that at
    its later calls one chunk after another is behind it.
    """

    def __init__(self) -> None:
        self._next: dict[int, tuple[int, TrimWalk]] = {}  # by tid: the arena, and what comes after the last call

    def note(self, target: Target, tid: int, args: Sequence[int], reading: Reading) -> Reading:
        """Return ``reading`` with what malloc_trim has before it at its call of madvise with these ``args``."""
        address, walk = self._next.get(tid, (0, None))
        if address != reading.address or walk is None or not _leads_to(target.abi, walk, args):
            # Another operation, unless this chunk is one of those that were too many to read: of these each comes by
            # here, so it is looked at the front of the lists alone.
            unread = walk is not None and address == reading.address and not walk.complete
            if walk is None or not unread or _leads_to(target.abi, _read_trim_walk(target, reading, _FRONT), args):
                walk = _read_trim_walk(target, reading, _TRIM_LIMIT)
        # Where the recording began in the middle of it, that is known from the second call on.
        rest = range(walk.done, len(walk.chunks))
        place = next((place for place in rest if _leads_to(target.abi, walk, args, place)), len(walk.chunks) - 1)
        self._next[tid] = reading.address, replace(walk, done=place + 1)
        return reading._replace(others={**reading.others, "trim": walk})


def _leads_to(abi: Abi, walk: TrimWalk, args: Sequence[int], place: int | None = None) -> bool:
    """Whether the next chunk of ``walk``, or the one at ``place``, leads to a call of madvise with these ``args``."""
    place = walk.done if place is None else place
    return place < len(walk.chunks) and pages_inside(abi, *walk.chunks[place]) == tuple(args[:2])


def _read_trim_walk(target: Target, reading: Reading, limit: int) -> TrimWalk:
    state = reading.state
    assert state.arena is not None
    chunks, complete = chunks_to_trim(PageCache(target.memory), target.abi, state.arena, limit)
    # Most of many are small: those with no whole page are left out, as malloc_trim leaves them out.
    return TrimWalk(tuple([chunk for chunk in chunks if pages_inside(target.abi, *chunk)[1]]), 0, complete)
