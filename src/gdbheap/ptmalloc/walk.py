"""The walk over the chunks of an arena, in columns, and what the bytes of the arena add up to.

Memory is read in blocks that are dropped after use, a column is one list for one fact of many chunks, and objects are
made only for the rows that are asked for: a heap of ten million chunks is walked in a few megabytes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, compress, repeat
from operator import ne

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, IS_MMAPPED, NON_MAIN_ARENA, PREV_INUSE, Abi, round_up
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.bins import FreeList
from gdbheap.ptmalloc.chunk import (
    FASTBIN, FENCEPOST, FREE, LARGE, MERGED_STATES, SMALL, STATES, TCACHE, TOP, UNSORTED, USED, Chunk, chunk_of,
)  # fmt: skip
from gdbheap.ptmalloc.heaps import HeapChain
from gdbheap.ptmalloc.layout import Layout
from gdbheap.ptmalloc.params import Params
from gdbheap.ptmalloc.problems import Problems
from gdbheap.ptmalloc.tcache import Tcache

MAX_BLOCK = 1 << 20
_MIN_BLOCK = 1 << 12


def _table(*states: int) -> bytes:
    """Return a table for bytes.translate that makes ``states`` 1 and all others 0."""
    return bytes(1 if value in states else 0 for value in range(256))


_IS = tuple(_table(state) for state in range(len(STATES)))
_IS_MERGED = _table(*MERGED_STATES)
_IS_LISTED = _table(TCACHE, FASTBIN, UNSORTED, SMALL, LARGE)


# What is on the free lists


@dataclass(frozen=True)
class Membership:
    """Which chunks are on a free list: ``states`` by chunk address (a number: TCACHE, FASTBIN ...)."""

    states: Mapping[int, int]
    problems: tuple[str, ...] = ()


def membership(lists: Iterable[FreeList], tcaches: Iterable[Tcache] = ()) -> Membership:
    """Return what the free lists of one arena and the tcaches of all threads say about chunks.

    A chunk that is on two lists keeps the state of the first, and is a problem.
    """
    kinds = {"fastbin": FASTBIN, "unsorted": UNSORTED, "small": SMALL, "large": LARGE}
    states: dict[int, int] = {}
    problems = Problems()
    sources = [(item.addresses, kinds[item.kind], f"the list {item.name}") for item in lists]
    sources += [(item.chunks, TCACHE, f"the tcache at {item.address:#x}") for item in tcaches]
    for addresses, state, name in sources:
        fresh = addresses if states.keys().isdisjoint(addresses) else [a for a in addresses if a not in states]
        for address in addresses if fresh is not addresses else ():
            if address in states:
                problems.add(
                    f"The chunk at {address:#x} is on {name} and also on a {STATES[states[address]]} list; it should "
                    f"be on one."
                )
        states.update(dict.fromkeys(fresh, state))
    return Membership(states, problems.texts())


# What there is to walk


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
    elif arena.top_size < abi.min_size or arena.top_size % abi.alignment or arena.top_size > arena.system_mem:
        problems.add(
            f"The top chunk of {arena.name}, at {arena.top:#x}, has {arena.top_size:#x} bytes; it should have a multiple "
            f"of {abi.alignment:#x}, at least {abi.min_size:#x} and at most system_mem, {arena.system_mem:#x}."
        )
    if arena.is_main:
        return _main_plan(abi, params, arena, known_starts, problems)
    return _heaps_plan(abi, layout, arena, chain, problems)


def _main_plan(abi: Abi, params: Params, arena: Arena, known_starts: Iterable[int], problems: Problems) -> Plan:
    starts = sorted({params.get("sbrk_base"), *known_starts} - {0})
    if arena.contiguous:
        starts = [start for start in starts if start <= arena.top]
    holder = max((start for start in starts if abi.first_chunk(start) <= arena.top < start + arena.system_mem), default=None)
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
        found.append(Region("brk", arena.top, arena.top, arena.top, 0, arena.top, None, None, True))
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
    return Plan(arena, tuple(found), problems.texts(), complete=chain.problem is None)


# The walk


@dataclass(frozen=True)
class Ending:
    """How the walk of a region ended.

    ``address`` is where the last chunk ends. ``fenceposts`` are (address, size word) of what malloc put behind it.
    ``end`` is where the region's memory ends, None where that is not known. ``problem`` is None where the walk
    reached top or fenceposts; ``at_top`` tells which.
    """

    address: int
    at_top: bool
    fenceposts: tuple[tuple[int, int], ...] = ()
    end: int | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Columns:
    """Chunks that follow each other: ``addresses``, raw size ``words`` and ``sizes`` in bytes, in parallel.

    ``distinct`` are the different words. ``after`` is the size word of the chunk behind the last one, None where it
    cannot be relied on. ``ending`` is set in the last columns of a region.
    """

    region: Region
    addresses: list[int]
    words: list[int]
    sizes: list[int]
    distinct: set[int]
    after: int | None
    ending: Ending | None


def _size_words(memory: Memory, abi: Abi, position: int, limit: int, block: int) -> array[int]:
    """Return the words at ``position`` + SIZE_SZ and every 8 bytes on, as many as ``block`` holds and can be read."""
    size = min(block, limit - position) - abi.word_size
    if size < abi.word_size:
        return array(abi.word_code)
    while True:
        try:
            words = abi.words(memory.read(position + abi.word_size, size))
            break
        except MemoryFault:
            if size <= abi.word_size:
                raise
            size = max(size // 16 * 8, abi.word_size)
    # Chunk sizes are multiples of 8 on all machines, so a step of 8 bytes serves 32-bit words as well.
    return words if abi.word_size == 8 else words[::2]


def _follow(words: array[int], most: int) -> list[int]:
    """Return the size words met from the first on; ``most`` bounds the steps where sizes are 0 or too small."""
    column: list[int] = []
    append = column.append
    index = 0
    try:
        for _ in repeat(None, most):
            word = words[index]
            append(word)
            index += word >> 3
    except IndexError:
        pass
    return column


def walk_region(memory: Memory, abi: Abi, region: Region, max_block: int = MAX_BLOCK) -> Iterator[Columns]:
    """Yield the chunks of ``region`` in columns, a block of at most ``max_block`` bytes at a time.

    The last columns have an ``ending``. Nothing is raised for a heap that is corrupt or unreadable: the ending says
    where and why the walk stopped.
    """
    sizes_of: dict[int, int] = {}
    position, block = region.start, max_block
    while position < region.limit:
        first = position
        try:
            words = _size_words(memory, abi, position, region.limit, block)
        except MemoryFault as fault:
            problem = f"The size word of the chunk at {position:#x} cannot be read: {fault.reason}."
            yield Columns(region, [], [], [], set(), None, Ending(position, False, problem=problem))
            return
        column = _follow(words, len(words) * 8 // abi.min_size + 2)
        distinct = set(column)
        bad = []
        for word in distinct.difference(sizes_of):
            size = word & ~FLAG_BITS
            if size < abi.min_size or size % abi.alignment:
                bad.append(word)
            else:
                sizes_of[word] = size
        stopper = None
        if bad:
            cut = min(map(column.index, bad))
            stopper = column[cut]
            del column[cut:]
            distinct = set(column)
        sizes = list(map(sizes_of.__getitem__, column))
        addresses = list(accumulate(sizes, initial=position))
        position = addresses.pop()
        if position > region.limit:
            stopper = column.pop()
            sizes.pop()
            position = addresses.pop()
            distinct = set(column)
        ending, after = None, None
        if stopper is not None or position >= region.limit or position == first:
            ending = _ending(memory, abi, region, position, stopper)
        if ending is None or ending.at_top:
            after = _word_at(memory, abi, position)
        elif ending.fenceposts:
            after = ending.fenceposts[0][1]
        yield Columns(region, addresses, column, sizes, distinct, after, ending)
        if ending is not None:
            return
        if len(column) < 16:
            block = max(block // 16, _MIN_BLOCK)
        elif len(column) > 256:
            block = min(block * 4, max_block)
    yield Columns(region, [], [], [], set(), None, _ending(memory, abi, region, position, None))


def _word_at(memory: Memory, abi: Abi, chunk: int) -> int | None:
    try:
        return abi.read_word(memory, chunk + abi.word_size)
    except MemoryFault:
        return None


def _ending(memory: Memory, abi: Abi, region: Region, address: int, stopper: int | None) -> Ending:
    """Return how the walk ended that stands at ``address``, before a chunk whose word is ``stopper`` if not None."""
    if region.top is not None and address == region.limit and stopper is None:
        return Ending(address, at_top=True)
    if region.kind == "brk":
        posts = _posts_of_brk(memory, abi, address)
        end = round_up(posts[-1][0] + abi.header, abi.page_size) if posts else None
    else:
        posts = _posts_of_heap(memory, abi, region, address) if region.top is None else ()
        end = region.end
    if posts:
        return Ending(address, False, posts, end)
    if address > region.limit:
        return Ending(address, False, problem=f"The first chunk should be at {address:#x}, behind {region.limit:#x}.")
    word = _word_at(memory, abi, address) if stopper is None else stopper
    what = "the top chunk begins" if region.top is not None else "the region ends"
    if address + abi.min_size > region.limit:
        problem = (
            f"The chunks end at {address:#x} and {what} at {region.limit:#x}; "
            + ("they should end there." if region.top is not None else "there should be two fenceposts between them.")
            if address != region.limit or word is None
            else f"At {address:#x}, where the region ends, the size word is {word:#x}; it should be a fencepost's, "
            f"{abi.header | PREV_INUSE:#x}."
        )
        return Ending(address, False, problem=problem)
    found = "cannot be read" if word is None else f"is {word:#x}"
    problem = (
        f"The size word of the chunk at {address:#x} {found}; the size should be a multiple of {abi.alignment:#x}, at "
        f"least {abi.min_size:#x} and at most {region.limit - address:#x}, because {what} at {region.limit:#x}."
    )
    return Ending(address, False, problem=problem)


def _posts_of_brk(memory: Memory, abi: Abi, address: int) -> tuple[tuple[int, int], ...]:
    """Return the fenceposts that sysmalloc leaves in main_arena where someone else moved the break, () if not there.

    They are two chunks of CHUNK_HDR_SZ bytes at the end of the last page, before them a third where the old top chunk
    left less than MINSIZE.
    """
    room = round_up(address + 2 * abi.header, abi.page_size) - address
    count = 2
    if abi.alignment == abi.header and room == 3 * abi.header:
        count = 3
    if not 0 <= room - count * abi.header < abi.alignment:
        return ()
    posts = []
    for place in range(count):
        post = address + place * abi.header
        word = _word_at(memory, abi, post)
        # free has cleared PREV_INUSE in the first where it merged what was left of the old top chunk.
        if word is None or word | PREV_INUSE != abi.header | PREV_INUSE or (place and not word & PREV_INUSE):
            return ()
        posts.append((post, word))
    return tuple(posts)


def _posts_of_heap(memory: Memory, abi: Abi, region: Region, address: int) -> tuple[tuple[int, int], ...]:
    """Return the fenceposts at the end of a heap that is not the newest of its arena, () where they are not there.

    The second has size 0. The first has CHUNK_HDR_SZ bytes, or takes in what was left of the old top chunk where that
    was less than MINSIZE.
    """
    last = region.limit + abi.header
    first_word, last_word = _word_at(memory, abi, address), _word_at(memory, abi, last)
    if first_word is None or last_word != PREV_INUSE or first_word & ~FLAG_BITS != last - address:
        return ()
    if first_word & (IS_MMAPPED | NON_MAIN_ARENA) or last - address >= abi.header + abi.min_size:
        return ()
    return (address, first_word), (last, last_word)


# The states


@dataclass(frozen=True)
class Block:
    """Columns with the ``states`` of their chunks, one byte each, and what is wrong with those chunks.

    ``gap`` is what lies behind the last of them where no chunk follows it: a block that has one has no chunks.
    """

    columns: Columns
    states: bytes
    problems: tuple[str, ...] = ()
    gap: Gap | None = None


def classify(abi: Abi, columns: Columns, states: Mapping[int, int]) -> Block:
    """Return ``columns`` with the state of each chunk, from the free lists (``states``) and the PREV_INUSE bits.

    A chunk that the next one calls free but that is on no list is FREE and a problem, as is a chunk on a list of
    merged chunks that the next one calls used. Chunks in tcache and fastbins look used to their neighbours.
    """
    words = columns.words
    found = bytes(map(states.get, columns.addresses, repeat(USED)))
    problems = Problems()
    clear = {word for word in columns.distinct if not word & PREV_INUSE}
    before_is_free = bytes(map(clear.__contains__, words)) if clear else bytes(len(words))
    merged = found.translate(_IS_MERGED)
    # What each chunk's successor says about it; where there is none to rely on, the list is believed.
    last = merged[-1:]
    if words and columns.after is not None:
        last = bytes([not columns.after & PREV_INUSE])
    said_free = before_is_free[1:] + last
    if said_free != merged:
        found = _disagreements(abi, columns, found, said_free, merged, problems)
    if words and before_is_free[0] and columns.addresses[0] == columns.region.start:
        problems.add(
            f"PREV_INUSE is clear in the size word {words[0]:#x} of the chunk at {columns.addresses[0]:#x}, the first of "
            f"its region; it should be set."
        )
    _odd_flags(columns, problems)
    return Block(columns, found, problems.texts())


def _disagreements(
    abi: Abi, columns: Columns, found: bytes, said_free: bytes, merged: bytes, problems: Problems
) -> bytes:
    states = bytearray(found)
    for place in compress(range(len(found)), map(ne, said_free, merged)):
        address, state = columns.addresses[place], states[place]
        after = address + columns.sizes[place]
        if merged[place]:
            problems.add(
                f"The chunk at {address:#x} is on a list ({STATES[state]}), but PREV_INUSE is set in the chunk behind it, "
                f"at {after:#x}; it should be clear."
            )
        elif state == USED:
            states[place] = FREE
            problems.add(
                f"The chunk at {address:#x} is free, because PREV_INUSE is clear in the chunk behind it, at {after:#x}, "
                f"but it is on no list that was read."
            )
        else:
            problems.add(
                f"The chunk at {address:#x} is in a {STATES[state]}, but PREV_INUSE is clear in the chunk behind it, at "
                f"{after:#x}; it should be set."
            )
    return bytes(states)


def _odd_flags(columns: Columns, problems: Problems) -> None:
    never = IS_MMAPPED | NON_MAIN_ARENA if columns.region.main else IS_MMAPPED
    for word in columns.distinct:
        if word & never:
            place = columns.words.index(word)
            flag = "IS_MMAPPED" if word & IS_MMAPPED else "NON_MAIN_ARENA"
            problems.add(
                f"{flag} is set in the size word {word:#x} of the chunk at {columns.addresses[place]:#x}; it should be "
                f"clear here."
            )


def walk_arena(memory: Memory, abi: Abi, plan: Plan, free: Membership) -> Iterator[Block]:
    """Yield all chunks of an arena with their states, region by region, fenceposts and the top chunk included.

    Nothing is raised for a corrupt heap. The top chunk comes even where the walk does not reach it.
    """
    lengths = 0
    for region in plan.regions:
        if plan.top_is_lost and region.top is not None:
            region = _deduced(memory, abi, plan, region, lengths)
            if region.start == region.top:
                yield _gap(region, None, region.top, f"Where the region of the top chunk at {region.top:#x} begins is not known.")
        ending = None
        for columns in walk_region(memory, abi, region):
            block = classify(abi, columns, free.states)
            ending = columns.ending
            if ending is not None and ending.problem is not None:
                block = replace(block, problems=(*block.problems, ending.problem))
            yield block
        assert ending is not None  # walk_region always ends with one
        if ending.fenceposts:
            yield _fenceposts(abi, region, ending)
        lengths += (ending.end or ending.address) - region.address
        gap = _behind(region, ending)
        if gap is not None:
            yield gap
        if region.top is not None:
            top = _top(memory, abi, region, plan.arena)
            if top is not None:
                yield top


def _gap(region: Region, start: int | None, end: int, why: str, foreign: bool = False) -> Block:
    return Block(Columns(region, [], [], [], set(), None, None), b"", (), Gap(start, end, why, foreign))


def _behind(region: Region, ending: Ending) -> Block | None:
    """Return the gap between what was walked and what is known to be behind it, None where there is none."""
    if ending.problem is not None:
        end = region.limit if region.top is not None or region.end is None else region.end
        why = f"The walk stopped at {ending.address:#x}, so the chunks from there on are not known."
        return _gap(region, ending.address, max(end, ending.address), why)
    if ending.at_top or ending.end is None or region.kind != "brk":
        return None
    if region.top is not None:
        why = (
            f"Something other than malloc moved the break at {ending.end:#x}; where malloc's memory begins again is not "
            f"known, only that it ends with the top chunk at {region.top:#x}."
        )
        return _gap(region, ending.end, region.top, why)
    if region.following is not None and region.following > ending.end:
        why = f"The break was moved by something other than malloc, from {ending.end:#x} to {region.following:#x}."
        return _gap(region, ending.end, region.following, why, foreign=True)
    return None


def _deduced(memory: Memory, abi: Abi, plan: Plan, region: Region, lengths: int) -> Region:
    """Return the region of a top chunk that lies apart, from its start if that follows from the arena's counters.

    A non-contiguous main_arena counts the bytes of its regions and no others in system_mem: where one is missing, its
    length is the rest. It is believed only if the chunks from there lead exactly to top.
    """
    arena = plan.arena
    if arena.contiguous or arena.top_size is None or any(item.address > region.address for item in plan.regions):
        return region
    start = arena.top + arena.top_size - (arena.system_mem - lengths)
    if not 0 < start < arena.top:
        return region
    candidate = replace(region, address=start, start=abi.first_chunk(start))
    ending = None
    for columns in walk_region(memory, abi, candidate):
        ending = columns.ending
    return candidate if ending is not None and ending.at_top else region


def _fenceposts(abi: Abi, region: Region, ending: Ending) -> Block:
    addresses = [address for address, _ in ending.fenceposts]
    words = [word for _, word in ending.fenceposts]
    # The last of a heap says 0, but it takes up a header.
    sizes = [(word & ~FLAG_BITS) or abi.header for word in words]
    columns = Columns(region, addresses, words, sizes, set(words), None, None)
    return Block(columns, bytes([FENCEPOST] * len(words)))


def _top(memory: Memory, abi: Abi, region: Region, arena: Arena) -> Block | None:
    word = _word_at(memory, abi, arena.top)
    if word is None:
        return None
    columns = Columns(region, [arena.top], [word], [word & ~FLAG_BITS], {word}, None, None)
    return Block(columns, bytes([TOP]))


# Sums


@dataclass(frozen=True)
class ArenaTotals:
    """What the bytes of one arena are.

    ``counts`` and ``sizes`` (bytes, chunk headers included) are by state, every one of STATES. ``headers`` are bytes
    of heap_info and malloc_state, ``alignment`` those before the first and behind the last chunk of a region,
    ``foreign`` those that something else took from the break while malloc counted them (None of these are chunks).
    ``gaps`` is what could not be walked. ``complete`` says that every chunk was met: then ``unaccounted`` is 0.
    """

    system_mem: int
    counts: Mapping[str, int]
    sizes: Mapping[str, int]
    headers: int
    alignment: int
    foreign: int
    gaps: tuple[Gap, ...]
    problems: tuple[str, ...]
    complete: bool

    @property
    def overhead(self) -> int:
        """Bytes that no request can get: headers of heaps, fenceposts, alignment, foreign bytes."""
        return self.headers + self.alignment + self.foreign + self.sizes["fencepost"]

    @property
    def accounted(self) -> int:
        """All bytes that have a name: chunks of every state, and the overhead."""
        return sum(self.sizes.values()) - self.sizes["fencepost"] + self.overhead

    @property
    def unaccounted(self) -> int:
        """system_mem less what has a name: not 0 where the walk was not complete or the heap is not sound."""
        return self.system_mem - self.accounted


class Tally:
    """Adds up the blocks of one arena's walk, in one pass together with whatever else is done with them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._counts = [0] * len(STATES)
        self._sizes = [0] * len(STATES)
        self._headers = self._alignment = 0
        self._gaps: list[Gap] = []
        self._problems = Problems()
        self._problems.extend(plan.problems)
        self._region: Region | None = None
        self._end: int | None = None
        #: The addresses that were walked: (first chunk, behind the last one).
        self.walked: list[tuple[int, int]] = []

    def add(self, block: Block) -> None:
        """Add one block."""
        columns, states = block.columns, block.states
        if block.gap is not None:
            self._gaps.append(block.gap)
            return
        region = columns.region
        if region is not self._region:
            self._region = region
            self._headers += region.header
            self._alignment += max(region.start - region.address - region.header, 0)
        self._problems.extend(block.problems)
        if states:
            rest = sum(columns.sizes)
            # Most chunks are used: their bytes are what the others leave.
            for state in range(1, len(STATES)):
                count = states.count(state)
                if count:
                    size = sum(compress(columns.sizes, states.translate(_IS[state])))
                    self._counts[state] += count
                    self._sizes[state] += size
                    rest -= size
            self._counts[USED] += states.count(USED)
            self._sizes[USED] += rest
        ending = columns.ending
        if ending is not None:
            self.walked.append((region.start, ending.address))
            self._end = ending.end
        elif states and states[-1] == FENCEPOST and self._end is not None:
            self._alignment += max(self._end - columns.addresses[-1] - columns.sizes[-1], 0)

    @property
    def has_gaps(self) -> bool:
        """Whether there are chunks that could not be walked."""
        return any(not gap.foreign for gap in self._gaps)

    @property
    def listed(self) -> int:
        """How many chunks of free lists were met."""
        return sum(self._counts[state] for state in (TCACHE, FASTBIN, UNSORTED, SMALL, LARGE))

    def totals(self, problems: tuple[str, ...] = ()) -> ArenaTotals:
        """Return the sums, with further ``problems`` that were found elsewhere."""
        self._problems.extend(problems)
        arena = self._plan.arena
        foreign = 0
        if arena.contiguous:
            foreign = sum(gap.end - gap.start for gap in self._gaps if gap.foreign and gap.start is not None)
        unknown = tuple(gap for gap in self._gaps if not gap.foreign)
        return ArenaTotals(
            system_mem=arena.system_mem,
            counts=dict(zip(STATES, self._counts)),
            sizes=dict(zip(STATES, self._sizes)),
            headers=self._headers,
            alignment=self._alignment,
            foreign=foreign,
            gaps=unknown,
            problems=self._problems.texts(),
            complete=self._plan.complete and not unknown,
        )


def totals(memory: Memory, abi: Abi, plan: Plan, free: Membership) -> ArenaTotals:
    """Walk an arena and return what its bytes are.

    ``free`` is the membership of this arena's own lists and of all tcaches: a chunk that they name where the walk
    found none is a problem too.
    """
    tally = Tally(plan)
    for block in walk_arena(memory, abi, plan, free):
        tally.add(block)
    return tally.totals((*free.problems, *_unmet(memory, abi, plan, free, tally)))


def _unmet(memory: Memory, abi: Abi, plan: Plan, free: Membership, tally: Tally) -> tuple[str, ...]:
    """Return what is wrong with listed chunks that the walk did not meet."""
    walked = sorted(tally.walked)
    starts = [start for start, _ in walked]
    inside, outside = [], []
    for address, state in free.states.items():
        place = bisect_right(starts, address) - 1
        if place >= 0 and address < walked[place][1]:
            inside.append(address)
        elif state != TCACHE:
            outside.append(address)
    problems = Problems()
    if len(inside) != tally.listed:
        met: set[int] = set()
        for block in walk_arena(memory, abi, plan, free):
            met.update(compress(block.columns.addresses, block.states.translate(_IS_LISTED)))
        for address in inside:
            if address not in met:
                problems.add(
                    f"{address:#x} is on a list ({STATES[free.states[address]]}), but no chunk begins there: it is inside "
                    f"another."
                )
    # Where regions are missing, what is outside the others may well be in them.
    if plan.complete and not tally.has_gaps:
        for address in outside:
            problems.add(
                f"{address:#x} is on a list ({STATES[free.states[address]]}) of {plan.arena.name}, but it is not in that "
                f"arena's memory."
            )
    return problems.texts()


# Rows


@dataclass(frozen=True)
class Wanted:
    """Which chunks are asked for: sizes in bytes, both inclusive; ``states`` None means all of them.

    ``start`` leaves out the chunks that end at or before that address.
    """

    min_size: int = 0
    max_size: int | None = None
    states: frozenset[str] | None = None
    start: int = 0


class Rows:
    """The chunks of a walk that are asked for, as an iterable of Chunk; at most ``limit`` of them (None: all).

    The walk goes on to its end behind the limit, without making objects. After the iteration ``left_out`` is the
    exact number of chunks that the limit kept back. ``seen`` is called with every block, for a Tally or for its
    problems and gaps.
    """

    def __init__(
        self,
        abi: Abi,
        blocks: Iterable[Block],
        wanted: Wanted = Wanted(),
        limit: int | None = None,
        seen: Callable[[Block], None] | None = None,
    ) -> None:
        self.left_out = 0
        self._abi = abi
        self._blocks = blocks
        self._wanted = wanted
        self._limit = limit
        self._seen = seen
        states = wanted.states
        self._state_table = None if states is None else _table(*(STATES.index(state) for state in states))

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks in the order of the walk."""
        left = self._limit
        for block in self._blocks:
            if self._seen is not None:
                self._seen(block)
            places = self._matching(block)
            shown = places if left is None else places[:left]
            self.left_out += len(places) - len(shown)
            columns, states = block.columns, block.states
            for place in shown:
                yield chunk_of(self._abi, columns.addresses[place], columns.words[place], states[place])
            if left is not None:
                left -= len(shown)

    def _matching(self, block: Block) -> Sequence[int]:
        columns, wanted = block.columns, self._wanted
        count = len(columns.addresses)
        first = bisect_right(columns.addresses, wanted.start)
        if first and columns.addresses[first - 1] + columns.sizes[first - 1] > wanted.start:
            first -= 1
        places: Sequence[int] = range(first, count)
        if self._state_table is not None:
            places = list(compress(places, block.states.translate(self._state_table)[first:]))
        low, high = wanted.min_size, wanted.max_size
        if low or high is not None:
            sizes = columns.sizes
            places = [place for place in places if low <= sizes[place] and (high is None or sizes[place] <= high)]
        return places
