"""The walk over the chunks of an arena, in columns, and the state of each chunk.

Memory is read in blocks that are dropped after use, a column is one list for one fact of many chunks, and objects are
made only for the rows that are asked for: a heap of ten million chunks is walked in a few megabytes.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, compress, repeat
from operator import eq, gt, ne

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, IS_MMAPPED, NON_MAIN_ARENA, PREV_INUSE, Abi, WordBuffer, round_up
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.bins import FreeList
from gdbheap.ptmalloc.chunk import (
    FASTBIN,
    FENCEPOST,
    FREE,
    LARGE,
    MERGED_STATES,
    SMALL,
    STATES,
    TCACHE,
    TOP,
    UNSORTED,
    USED,
    state_table,
)
from gdbheap.ptmalloc.follow import low_bytes
from gdbheap.ptmalloc.problems import Problems
from gdbheap.ptmalloc.regions import Gap, Plan, Region
from gdbheap.ptmalloc.tcache import Tcache

MAX_BLOCK = 1 << 20
_MIN_BLOCK = 1 << 12
_FIRST_BLOCK = 1 << 16
_IS_MERGED = state_table(*MERGED_STATES)
_IS_OTHER = state_table(*(state for state in range(len(STATES)) if state not in MERGED_STATES))
#: Whether PREV_INUSE is clear, by the lowest byte of a size word.
_IS_CLEAR = bytes(not byte & PREV_INUSE for byte in range(256))
#: A byte without its upper bits.
_LOW_BITS = bytes(byte & 7 for byte in range(256))
_WITH_STATE = tuple(bytes(byte | state for byte in range(256)) for state in range(8))
_WITHOUT_STATE = bytes(byte & ~7 for byte in range(256))
#: The bytes that end a number whose low bits are clear.
_ALIGNED = bytes(range(0, 256, 8))
#: The lowest bytes of words of eight bytes as this machine keeps them, and the highest.
_LOWEST, _HIGHEST = (slice(0, None, 8), slice(7, None, 8))[:: 1 if sys.byteorder == "little" else -1]
#: Chunks of free lists that are sorted at once, about.
_SORTED = 500_000


@dataclass(frozen=True)
class Membership:
    """Which chunks are on a free list: ``addresses`` in ascending order, and ``states`` in parallel (TCACHE ...)."""

    addresses: Sequence[int]
    states: bytes
    problems: tuple[str, ...] = ()

    def get(self, address: int) -> int | None:
        """Return the state of the chunk at ``address``, None where it is on no list."""
        place = bisect_left(self.addresses, address)
        return self.states[place] if place < len(self.states) and self.addresses[place] == address else None

    def between(self, first: int, last: int) -> tuple[Sequence[int], bytes]:
        """Return the listed chunks from ``first`` to ``last``, both included, and their states."""
        low, high = bisect_left(self.addresses, first), bisect_right(self.addresses, last)
        return self.addresses[low:high], self.states[low:high]


def membership(lists: Iterable[FreeList], tcaches: Iterable[Tcache] = ()) -> Membership:
    """Return what the free lists of one arena and the tcaches of all threads say about chunks.

    A chunk that is on two lists keeps the state of the first, and is a problem. So is what is wrong with the lists of
    the arena: chunks behind it may pass for used.
    """
    lists = tuple(lists)
    broken = Problems()
    for item in lists:
        broken.extend(item.problems)
    kinds = {"fastbin": FASTBIN, "unsorted": UNSORTED, "small": SMALL, "large": LARGE}
    sources = [(item.addresses, kinds[item.kind], f"the list {item.name}") for item in lists]
    sources += [(item.chunks, TCACHE, f"the tcache at {item.address:#x}") for item in tcaches]
    codes = array("d")
    for addresses, state, _ in sources:
        data = bytearray(array("Q", addresses).tobytes())
        low = data[_LOWEST]
        # Low bits that are not clear would get mixed up with a state, and high ones can make a double no number.
        if low.translate(None, _ALIGNED) or any(data[_HIGHEST]):
            return _odd_membership(sources, broken)
        data[_LOWEST] = low.translate(_WITH_STATE[state])
        codes.frombytes(data)
    ordered, states = array("Q"), bytearray()
    for part in _parts(codes):
        part.sort()
        data = bytearray(memoryview(array("d", part)).cast("B"))
        part.clear()  # the numbers take six times as much memory as their bytes
        low = data[_LOWEST]
        states += low.translate(_LOW_BITS)
        data[_LOWEST] = low.translate(_WITHOUT_STATE)
        ordered.frombytes(data)
        cleared = memoryview(data).cast("d")
        if any(map(eq, cleared, cleared[1:])):
            return _odd_membership(sources, broken)
    return Membership(ordered, bytes(states), broken.texts())


def _parts(codes: array[float]) -> Iterator[list[float]]:
    """Yield what is in ``codes``: part by part from low to high.

    They are addresses with their states in the low bits, which are clear, taken for the bytes of doubles: these are
    in the same order, and Python sorts them several times faster than numbers that large. A list of numbers takes
    four times as much memory as an array, so there are several parts where there are many.
    """
    parts = len(codes) // _SORTED + 1
    if parts == 1:
        yield codes.tolist()
        return
    numbers = memoryview(codes).cast("B").cast("Q")
    low, high = min(numbers) & ~7, (max(numbers) & ~7) + 8
    between = ((low + (high - low) * part // parts) & ~7 for part in range(parts + 1))
    bounds = array("d", array("Q", between).tobytes())
    for first, last in zip(bounds, bounds[1:]):
        yield [code for code in codes if first <= code < last]


def _odd_membership(sources: Sequence[tuple[Sequence[int], int, str]], problems: Problems) -> Membership:
    """Return the membership of chunks some of which are on two lists, or not aligned; ``problems`` are known ones."""
    states: dict[int, int] = {}
    for addresses, state, name in sources:
        twice = states.keys() & addresses
        for address in sorted(twice):
            problems.add(
                f"The chunk at {address:#x} is on {name} and also on a {STATES[states[address]]} list; it should be on "
                f"one."
            )
        states.update(dict.fromkeys(addresses if not twice else set(addresses) - twice, state))
    ordered = sorted(states)
    return Membership(ordered, bytes(map(states.__getitem__, ordered)), problems.texts())


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


def _size_words(memory: Memory, abi: Abi, buffer: WordBuffer, position: int, limit: int, block: int) -> array[int]:
    """Return the words at ``position`` + SIZE_SZ and every 8 bytes on, as many as ``block`` holds and can be read."""
    size = min(block, limit - position) - abi.word_size
    if size < abi.word_size:
        return array(abi.word_code)
    while True:
        try:
            words = buffer.words(memory.read(position + abi.word_size, size))
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
    index = 0
    try:
        for _ in repeat(None, most):
            word = words[index]
            column.append(word)  # Python is faster with this than with a method that was bound before
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
    buffer = WordBuffer(abi)
    max_block = max(max_block, 2 * abi.header)
    position, block = region.start, min(_FIRST_BLOCK, max_block)
    while position < region.limit:
        first = position
        try:
            words = _size_words(memory, abi, buffer, position, region.limit, block)
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
            ending = region_ending(memory, abi, region, position, stopper)
        if ending is None or ending.at_top:
            after = _word_at(memory, abi, position)
        elif ending.fenceposts:
            after = ending.fenceposts[0][1]
        yield Columns(region, addresses, column, sizes, distinct, after, ending)
        if ending is not None:
            return
        if len(column) < 16:
            block = min(max(block // 16, _MIN_BLOCK), max_block)
        elif len(column) > 256:
            block = min(block * 4, max_block)
    yield Columns(region, [], [], [], set(), None, region_ending(memory, abi, region, position))


#: How often a walk is taken up again in one region, and how many known chunks are tried each time.
_RESUMPTIONS = 64
_TRIES = 64


def resumed_walk(
    memory: Memory, abi: Abi, region: Region, known: Sequence[int], max_block: int = MAX_BLOCK
) -> Iterator[Columns]:
    """Yield the chunks of ``region`` as walk_region does, and go on behind a place where the walk stops.

    ``known`` are addresses of chunks in ascending order, as those on free lists. The walk is taken up again at the
    first of them that is behind the place and from which the chunks lead to another of them, or to where the region
    ends. Columns from there on are of a region of their own, which begins at that chunk.
    """
    for _ in range(_RESUMPTIONS):
        ending: Ending | None = None
        for columns in walk_region(memory, abi, region, max_block):
            yield columns
            ending = columns.ending
        if ending is None or ending.problem is None:
            return
        start = _resumption(memory, abi, region, ending.address, known)
        if start is None:
            return
        region = _rest(region, start)


def _rest(region: Region, start: int) -> Region:
    return replace(region, address=start, start=start, header=0, resumed=True)


def _resumption(memory: Memory, abi: Abi, region: Region, stopped: int, known: Sequence[int]) -> int | None:
    """Return the chunk from which a walk that has ``stopped`` can go on, None where there is none."""
    low, high = bisect_right(known, stopped), bisect_left(known, region.limit)
    for place in range(low, min(high, low + _TRIES)):
        target = known[place + 1] if place + 1 < high else None
        for columns in walk_region(memory, abi, replace(region, start=known[place])):
            addresses, ending = columns.addresses, columns.ending
            if target is not None and addresses and addresses[-1] >= target:
                if addresses[bisect_left(addresses, target)] == target:
                    return known[place]
                break
            if ending is not None and ending.problem is None:
                return known[place]
    return None


def _word_at(memory: Memory, abi: Abi, chunk: int) -> int | None:
    try:
        return abi.read_word(memory, chunk + abi.word_size)
    except MemoryFault:
        return None


def region_ending(memory: Memory, abi: Abi, region: Region, address: int, stopper: int | None = None) -> Ending:
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
    return Ending(address, False, problem=_why_stopped(memory, abi, region, address, stopper))


def _why_stopped(memory: Memory, abi: Abi, region: Region, address: int, stopper: int | None) -> str:
    room = region.limit - address
    what = "the top chunk begins" if region.top is not None else "the region ends"
    if room < 0:
        return f"The first chunk should be at {address:#x}, but {what} before that, at {region.limit:#x}."
    word = _word_at(memory, abi, address) if stopper is None else stopper
    found = "cannot be read" if word is None else f"is {word:#x}"
    if room >= abi.min_size:
        return (
            f"The size word of the chunk at {address:#x} {found}; the size should be a multiple of {abi.alignment:#x}, "
            f"at least {abi.min_size:#x} and at most {room:#x}, because {what} at {region.limit:#x}."
        )
    if region.top is not None:
        return f"The chunks end at {address:#x}; they should end at {region.limit:#x}, where {what}."
    return (
        f"The size word at {address:#x}, where the chunks end, {found}; it should be that of a fencepost, "
        f"{abi.header | PREV_INUSE:#x}."
    )


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


@dataclass(frozen=True)
class Block:
    """Columns with the ``states`` of their chunks, one byte each, and what is wrong with those chunks.

    ``gap`` is what lies behind the last of them where no chunk follows it: a block that has one has no chunks.
    """

    columns: Columns
    states: bytes
    problems: tuple[str, ...] = ()
    gap: Gap | None = None


def classify(columns: Columns, free: Membership) -> Block:
    """Return ``columns`` with the state of each chunk, from the free lists and the PREV_INUSE bits.

    A chunk that the next one calls free but that is on no list is FREE and a problem, as is a chunk on a list of
    merged chunks that the next one calls used. Chunks in tcache and fastbins look used to their neighbours.
    """
    words = columns.words
    if not words:
        return Block(columns, b"")
    addresses, states = free.between(columns.addresses[0], columns.addresses[-1])
    problems = Problems()
    before_is_free = low_bytes(array("Q", words)).translate(_IS_CLEAR)
    # What each chunk's successor says about it; where there is none to rely on, the list is believed.
    if columns.after is not None:
        last = not columns.after & PREV_INUSE
    else:
        last = bool(addresses) and addresses[-1] == columns.addresses[-1] and states[-1] in MERGED_STATES
    said_free = before_is_free[1:] + bytes([last])
    found = _states(columns.addresses, said_free, addresses, states)
    merged = found.translate(_IS_MERGED)
    if said_free != merged:
        found = _disagreements(columns, found, said_free, merged, problems)
    if before_is_free[0] and columns.addresses[0] == columns.region.start and not columns.region.resumed:
        problems.add(
            f"PREV_INUSE is clear in the size word {words[0]:#x} of the chunk at {columns.addresses[0]:#x}, the first "
            f"of its region; it should be set."
        )
    _odd_flags(columns, found, problems)
    return Block(columns, found, problems.texts())


def _states(chunks: Sequence[int], said_free: bytes, addresses: Sequence[int], states: bytes) -> bytes:
    """Return the state of each of ``chunks`` whose listed ones are among ``addresses``, which have ``states``.

    Where the lists and ``said_free`` agree, as they do in a sound heap, only listed chunks are looked at one by one.
    """
    is_merged = states.translate(_IS_MERGED)
    agree = said_free.count(1) == is_merged.count(1) and all(
        map(eq, compress(chunks, said_free), compress(addresses, is_merged))
    )
    if not agree:
        return bytes(map(dict(zip(addresses, states)).get, chunks, repeat(USED)))
    found = bytearray(len(chunks))
    for place, state in zip(compress(range(len(chunks)), said_free), compress(states, is_merged)):
        found[place] = state
    is_other = states.translate(_IS_OTHER)
    for address, state in zip(compress(addresses, is_other), compress(states, is_other)):
        place = bisect_left(chunks, address)
        if chunks[place] == address:
            found[place] = state
    return bytes(found)


def _disagreements(columns: Columns, found: bytes, said_free: bytes, merged: bytes, problems: Problems) -> bytes:
    states = bytearray(found)
    for place in compress(range(len(found)), map(ne, said_free, merged)):
        address, state = columns.addresses[place], states[place]
        after = address + columns.sizes[place]
        if merged[place]:
            problems.add(
                f"The chunk at {address:#x} is on a list ({STATES[state]}), but PREV_INUSE is set in the chunk behind "
                f"it, at {after:#x}; it should be clear."
            )
        elif state == USED:
            states[place] = FREE
            problems.add(
                f"The chunk at {address:#x} is free, because PREV_INUSE is clear in the chunk behind it, at "
                f"{after:#x}, but it is on no list that was read."
            )
        else:
            problems.add(
                f"The chunk at {address:#x} is in a {STATES[state]}, but PREV_INUSE is clear in the chunk behind it, "
                f"at {after:#x}; it should be set."
            )
    return bytes(states)


def _odd_flags(columns: Columns, states: bytes, problems: Problems) -> None:
    never = IS_MMAPPED | NON_MAIN_ARENA if columns.region.main else IS_MMAPPED
    for word in columns.distinct:
        if word & never:
            flag = "IS_MMAPPED" if word & IS_MMAPPED else "NON_MAIN_ARENA"
            _flag_problem(columns, columns.words.index(word), flag, "clear", problems)
    if columns.region.main:
        return
    # malloc sets NON_MAIN_ARENA when it hands a chunk out; merged chunks on the lists have it clear.
    clear = {word for word in columns.distinct if not word & NON_MAIN_ARENA}
    if not clear:
        return
    outside = map(clear.__contains__, columns.words)
    for place in compress(range(len(states)), map(gt, outside, states.translate(_IS_MERGED))):
        _flag_problem(columns, place, "NON_MAIN_ARENA", "set", problems)


def _flag_problem(columns: Columns, place: int, flag: str, expected: str, problems: Problems) -> None:
    found = "clear" if expected == "set" else "set"
    problems.add(
        f"{flag} is {found} in the size word {columns.words[place]:#x} of the chunk at {columns.addresses[place]:#x}; "
        f"it should be {expected} here."
    )


def walk_arena(memory: Memory, abi: Abi, plan: Plan, free: Membership) -> Iterator[Block]:
    """Yield all chunks of an arena with their states, region by region, fenceposts and the top chunk included.

    Nothing is raised for a corrupt heap. Where the chunks cannot be followed, a gap says so, and the walk goes on with
    the next chunk on a free list from which they can. The top chunk comes even where the walk does not reach it.
    """
    lengths = 0
    for region in plan.regions:
        if plan.top_is_lost and region.top is not None:
            region = _deduced(memory, abi, plan, region, lengths)
            if region.start == region.top:
                why = f"Where the region of the top chunk at {region.top:#x} begins is not known."
                yield _gap(region, None, region.top, why)
        begin = region.address
        for tries in range(_RESUMPTIONS + 1):
            ending = None
            for columns in walk_region(memory, abi, region):
                block = classify(columns, free)
                ending = columns.ending
                if ending is not None and ending.problem is not None:
                    block = replace(block, problems=(*block.problems, ending.problem))
                yield block
            start = None
            if ending is not None and ending.problem is not None and tries < _RESUMPTIONS:
                start = _resumption(memory, abi, region, ending.address, free.addresses)
            if ending is None or start is None:
                break
            yield _gap(region, ending.address, start, _resumed_text(ending.address, start))
            region = _rest(region, start)
        assert ending is not None  # walk_region always ends with one
        if ending.fenceposts:
            yield _fenceposts(abi, region, ending)
        lengths += (ending.end or ending.address) - begin
        gap = _behind(region, ending)
        if gap is not None:
            yield gap
        if region.top is not None:
            top = _top(memory, abi, region, plan.arena)
            if top is not None:
                yield top


def _resumed_text(stopped: int, start: int) -> str:
    return (
        f"The walk stopped at {stopped:#x}, so the chunks from there on, to {start:#x}, are not known; it goes on with "
        f"the chunk at {start:#x}, which is on a free list."
    )


def _gap(region: Region, start: int | None, end: int, why: str, foreign: bool = False) -> Block:
    return Block(Columns(region, [], [], [], set(), None, None), b"", (), Gap(start, end, why, foreign))


def _behind(region: Region, ending: Ending) -> Block | None:
    """Return the gap between what was walked and what is known to be behind it, None where there is none."""
    if ending.problem is not None:
        end = region.limit if region.top is not None or region.end is None else region.end
        why = (
            f"The walk stopped at {ending.address:#x}, so the chunks from there on, to {end:#x} at most, are not known."
        )
        return _gap(region, ending.address, max(end, ending.address), why)
    if ending.at_top or ending.end is None or region.kind != "brk":
        return None
    if region.top is not None:
        why = (
            f"Something other than malloc moved the break at {ending.end:#x}; where malloc's memory begins again is "
            f"not known, only that it ends with the top chunk at {region.top:#x}."
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
    if not arena.is_main or arena.contiguous or arena.top_size is None:
        return region
    if any(item.address > region.address for item in plan.regions):
        return region  # not all others have been walked yet
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
