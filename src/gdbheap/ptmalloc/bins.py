"""The free lists of an arena: fastbins, the unsorted list, small and large bins."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from gdbheap.memory import Memory, MemoryFault, PageCache
from gdbheap.ptmalloc.abi import FLAG_BITS, Abi
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.follow import Followed, WordBlocks, descending, follow_bin, follow_fastbin
from gdbheap.ptmalloc.layout import Layout
from gdbheap.ptmalloc.problems import Problems

UNSORTED_BIN = 1
LAST_BIN = 126
#: Chunks that are visited at most on all lists of an arena together, unless the caller says otherwise.
MAX_FREE_CHUNKS = 20_000_000
#: How much is fetched at once where a list is followed step by step, in bytes: its chunks lie scattered.
_CACHED = 0x4000
#: Chunks of a list that is long.
_LONG = 1000


@lru_cache(maxsize=8)
def _tiers(abi: Abi) -> tuple[tuple[int, int, int], ...]:
    """Return the steps of largebin_index: (shift, largest size >> shift, what is added to that)."""
    if abi.word_size == 8:
        first = (6, 48, 48)
    elif abi.alignment == 16:
        first = (6, 45, 49)
    else:
        first = (6, 38, 56)
    return (first, (9, 20, 91), (12, 10, 110), (15, 4, 119), (18, 2, 124))


def fastbin_index(abi: Abi, size: int) -> int:
    """Return the fastbin that a chunk of ``size`` bytes belongs in (fastbin_index, up to glibc 2.42)."""
    return (size >> (4 if abi.word_size == 8 else 3)) - 2


def bin_index(abi: Abi, size: int) -> int:
    """Return the small or large bin that a chunk of ``size`` bytes belongs in (bin_index)."""
    if size < abi.min_large_size:
        return size // abi.alignment + (1 if abi.alignment > abi.header else 0)
    for shift, limit, base in _tiers(abi):
        if size >> shift <= limit:
            return base + (size >> shift)
    return LAST_BIN


def bin_range(abi: Abi, index: int) -> tuple[int, int | None]:
    """Return the smallest and largest chunk size, in bytes, of bin ``index``; None where there is no largest.

    Raises ValueError where no size belongs in that bin (on i386, 95 is such a bin).
    """
    if index == UNSORTED_BIN:
        return abi.min_size, None
    size = (index - (1 if abi.alignment > abi.header else 0)) * abi.alignment
    if abi.min_size <= size < abi.min_large_size:
        return size, size
    found: list[tuple[int, int]] = []
    first = abi.min_large_size
    for shift, limit, base in _tiers(abi):
        # One step may end in the bin that the next begins with (bin 120).
        if base + (first >> shift) <= index <= base + limit:
            found.append((max(first, (index - base) << shift), ((index - base + 1) << shift) - abi.alignment))
        first = (limit + 1) << shift
    if found:
        return found[0][0], None if index == LAST_BIN else found[-1][1]
    raise ValueError(f"no size belongs in bin {index}")


@dataclass(frozen=True)
class FreeList:
    """One list of free chunks, front to back; ``addresses`` and ``sizes`` (bytes) run in parallel.

    They are tuples, or arrays in a long list: a tuple of numbers takes several times as much memory.

    A size is 0 where the chunk's size word cannot be right for this list; ``problems`` then tells what it is.
    ``kind`` is fastbin, unsorted, small or large and ``index`` is glibc's own: of fastbinsY for a fastbin, else of
    the bins. ``complete`` is False where ``problems`` or the limit ended the reading.
    """

    kind: str
    index: int
    addresses: Sequence[int]
    sizes: Sequence[int]
    problems: tuple[str, ...]
    complete: bool

    @property
    def name(self) -> str:
        """What the list is called: ``unsorted``, ``small bin 5`` ..."""
        return {"fastbin": f"fastbin {self.index}", "unsorted": "unsorted"}.get(
            self.kind, f"{self.kind} bin {self.index}"
        )


class ListSummary(NamedTuple):
    """How much is on one free list: ``chunks`` of ``total`` bytes, the largest of ``largest`` bytes.

    ``kind`` and ``number`` are the kind and the index of FreeList. ``complete`` is False where there may be more chunks
    on it.
    """

    kind: str
    number: int
    chunks: int
    total: int
    largest: int
    complete: bool = True


class FreeSummary(NamedTuple):
    """What is free in an arena, without its tcache chunks and its top chunk.

    ``lists`` are those that are not empty. ``chunks`` is their number, ``total`` their bytes, ``largest`` the
    largest in bytes (0 where nothing is free). ``complete`` is False where not every chunk was visited: the figures
    are then lower bounds.
    """

    lists: tuple[ListSummary, ...]
    chunks: int
    total: int
    largest: int
    complete: bool


#: The summary of an arena in which no chunk is free.
NOTHING_FREE = FreeSummary((), 0, 0, 0, True)


class _Reader:
    """Follows the lists of one arena; every step counts against ``left``, so that no heap can make it endless."""

    def __init__(self, memory: Memory, abi: Abi, arena: Arena, limit: int, blocks: WordBlocks | None = None) -> None:
        self.memory = memory
        self.blocks = blocks
        self.abi = abi
        self.arena = arena
        self.left = limit
        self.unpack = struct.Struct(f"{abi.order}3{abi.word_code}").unpack


class _List:
    """One list while it is followed: the sizes found by address, in order, and what is wrong with them."""

    def __init__(self, reader: _Reader, name: str, low: int, high: int | None) -> None:
        system_mem = reader.arena.system_mem
        self.found: dict[int, int] = {}
        self.problems = Problems()
        self.complete = True
        self._reader = reader
        self._name = name
        self._low = low
        self._high = system_mem if high is None else min(high, system_mem)

    def node(self, chunk: int, before: int | None) -> tuple[int, int, int] | None:
        """Return size word, fd and bk of ``chunk``, which fd of the chunk ``before`` (None: the front) names.

        None where the list cannot be followed any further.
        """
        reader = self._reader
        abi = reader.abi
        reason: object
        try:
            if reader.left > 0 and chunk not in self.found and not (chunk + abi.header) % abi.alignment:
                reader.left -= 1
                word, fd, bk = reader.unpack(reader.memory.read(chunk + abi.word_size, 3 * abi.word_size))
                return word, fd, bk
            reason = "a chunk that is on the list already: the list is a loop"
            if chunk not in self.found:
                reason = f"no place for a chunk: its user pointer would be no multiple of {abi.alignment:#x}"
        except MemoryFault as fault:
            reason = fault
        self.complete = False
        if reader.left > 0:
            link = f"The front of the list {self._name} of {reader.arena.name}"
            if before is not None:
                link = f"fd of the chunk at {before:#x} on the list {self._name}"
            self.problems.add(f"{link} leads to {chunk:#x}: {reason}.")
        return None

    def size(self, chunk: int, word: int) -> int:
        """Enter ``chunk``; return its size in bytes, 0 where its size ``word`` cannot be right for this list."""
        size = word & ~FLAG_BITS
        if not self._low <= size <= self._high or size % self._reader.abi.alignment:
            size = 0
            self.problems.add(self._wrong_size(chunk, word))
        self.found[chunk] = size
        return size

    def _wrong_size(self, chunk: int, word: int) -> str:
        low, high, alignment = self._low, self._high, self._reader.abi.alignment
        if high < low:
            name = self._reader.arena.name
            return f"The chunk at {chunk:#x} is on the list {self._name}, where no chunk of {name} can be."
        expected = f"{low:#x}" if low == high else f"a multiple of {alignment:#x} from {low:#x} to {high:#x}"
        return (
            f"The chunk at {chunk:#x} on the list {self._name} has the size word {word:#x}; its size should be "
            f"{expected}."
        )

    def result(self, kind: str, index: int) -> FreeList:
        """Return the list as far as it was followed."""
        return FreeList(
            kind, index, tuple(self.found), tuple(self.found.values()), self.problems.texts(), self.complete
        )

    def sound(self, kind: str, index: int, followed: Followed | None) -> FreeList | None:
        """Return the list that was followed fast, None where anything about it is odd."""
        if followed is None:
            return None
        sizes = followed.sizes(self._reader.abi, self._low, self._high)
        if sizes is None or (kind == "large" and not descending(sizes)):
            return None
        count = len(sizes)
        self._reader.left -= count
        if count < _LONG:
            return FreeList(kind, index, tuple(followed.addresses), tuple(sizes), (), True)
        return FreeList(kind, index, followed.addresses, sizes, (), True)


def _fastbin(reader: _Reader, index: int, safe_linking: bool) -> FreeList:
    size = (index + 2) << (4 if reader.abi.word_size == 8 else 3)
    following = _List(reader, f"fastbin {index}", size, size)
    header = reader.abi.header
    chunk, before = reader.arena.fastbins[index], None
    if reader.blocks is not None:
        quick = following.sound("fastbin", index, follow_fastbin(reader.blocks, chunk, safe_linking, reader.left))
        if quick is not None:
            return quick
    while chunk:
        node = following.node(chunk, before)
        if node is None:
            break
        following.size(chunk, node[0])
        before = chunk
        chunk = node[1] ^ ((chunk + header) >> 12) if safe_linking else node[1]
    return following.result("fastbin", index)


def _kind(abi: Abi, index: int) -> str:
    if index == UNSORTED_BIN:
        return "unsorted"
    return "small" if index < bin_index(abi, abi.min_large_size) else "large"


def _bin(reader: _Reader, index: int) -> FreeList:
    abi, arena = reader.abi, reader.arena
    kind = _kind(abi, index)
    name = "unsorted" if kind == "unsorted" else f"{kind} bin {index}"
    try:
        low, high = bin_range(abi, index)
    except ValueError:
        low, high = 1, 0  # nothing may be on it
    header = arena.bin_header(abi, index)
    following = _List(reader, name, low, high)
    problems = following.problems
    before, smallest = header, arena.system_mem
    chunk = arena.bins[2 * index - 2]
    if reader.blocks is not None:
        back = arena.bins[2 * index - 1]
        quick = following.sound(kind, index, follow_bin(reader.blocks, chunk, header, back, reader.left))
        if quick is not None:
            return quick
    while chunk != header:
        node = following.node(chunk, None if before == header else before)
        if node is None:
            break
        word, fd, bk = node
        size = following.size(chunk, word)
        if bk != before:
            problems.add(
                f"bk of the chunk at {chunk:#x} on the list {name} is {bk:#x}; it should be {before:#x}, "
                f"whose fd leads here."
            )
            if not size:
                # Nothing speaks for this being a chunk at all, so its fd says nothing either.
                del following.found[chunk]
                following.complete = False
                break
        if kind == "large" and size:
            if size > smallest:
                problems.add(
                    f"The chunk at {chunk:#x} on the list {name} has {size:#x} bytes; it should have at most "
                    f"{smallest:#x}, the size of the chunk before it."
                )
            smallest = size
        before, chunk = chunk, fd
    if following.complete and arena.bins[2 * index - 1] != before:
        problems.add(
            f"The back (bk) of the list {name} of {arena.name} is {arena.bins[2 * index - 1]:#x}; it should be "
            f"{before:#x}, the last chunk that fd leads to."
        )
    return following.result(kind, index)


@lru_cache(maxsize=64)
def _empty_bins(abi: Abi, bins_address: int, words: int) -> tuple[int, ...]:
    """Return what the bins of an arena hold while all are empty: each header's address, twice (malloc_init_state)."""
    step = 2 * abi.word_size
    first = bins_address - abi.header
    return tuple(address for header in range(words // 2) for address in (first + header * step,) * 2)


def has_free_chunks(abi: Abi, layout: Layout, address: int, data: bytes) -> bool:
    """Return whether any fastbin or bin of the arena at ``address``, whose bytes are ``data``, holds a chunk."""
    fields = layout.state.fields
    if layout.has_fastbins:
        fast = fields["fastbinsY"]
        if any(data[fast.offset : fast.offset + fast.size]):
            return True
    bins = fields["bins"]
    held = data[bins.offset : bins.offset + bins.size]
    return held != _empty_bins_data(abi, address + bins.offset, bins.count) and any(held)


@lru_cache(maxsize=64)
def _empty_bins_data(abi: Abi, bins_address: int, words: int) -> bytes:
    return struct.pack(f"{abi.order}{words}{abi.word_code}", *_empty_bins(abi, bins_address, words))


def _nonempty_bins(abi: Abi, arena: Arena) -> Iterator[int]:
    empty = _empty_bins(abi, arena.bins_address, len(arena.bins))
    # malloc_init_state has not run while every word is 0 and there is no top chunk either.
    if arena.bins == empty or not (any(arena.bins) or arena.has_top(abi)):
        return
    last = 0
    for place, (word, header) in enumerate(zip(arena.bins, empty)):
        index = place // 2 + 1
        if word != header and index != last:
            last = index
            yield index


def read_free_lists(
    memory: Memory, abi: Abi, layout: Layout, arena: Arena, safe_linking: bool, limit: int = MAX_FREE_CHUNKS
) -> tuple[FreeList, ...]:
    """Return the lists of ``arena`` that are not empty: fastbins, unsorted, small bins, large bins.

    ``safe_linking`` says whether fastbin links are mangled (glibc 2.32 to 2.42). At most ``limit`` chunks are visited.
    A list that is broken is given up to where it breaks, with its problems; nothing is raised.
    """
    reader = _Reader(PageCache(memory, _CACHED), abi, arena, limit, WordBlocks(memory, abi))
    lists = []
    if layout.has_fastbins:
        lists += [_fastbin(reader, index, safe_linking) for index, head in enumerate(arena.fastbins) if head]
    lists += [_bin(reader, index) for index in _nonempty_bins(abi, arena)]
    return tuple(lists)


def chunks_to_trim(
    memory: Memory, abi: Abi, arena: Arena, limit: int = MAX_FREE_CHUNKS
) -> tuple[list[tuple[int, int]], bool]:
    """Return address and size in bytes of the free chunks that malloc_trim looks at, and whether these are all.

    In the order of mtrim (malloc/malloc.c): the unsorted ones, then the bins of a page and more, each list from its
    back. At most ``limit`` chunks are visited, and nothing behind a place where a list cannot be followed.
    """
    unpack = struct.Struct(f"{abi.order}3{abi.word_code}").unpack
    first = bin_index(abi, abi.page_size)
    found: list[tuple[int, int]] = []
    for index in _nonempty_bins(abi, arena):
        if index != UNSORTED_BIN and index < first:
            continue
        header, chunk = arena.bin_header(abi, index), arena.bins[2 * index - 1]
        while chunk != header:
            if len(found) == limit:
                return found, False
            try:
                word, _, back = unpack(memory.read(chunk + abi.word_size, 3 * abi.word_size))
            except MemoryFault:
                return found, False
            found.append((chunk, word & ~FLAG_BITS))
            chunk = back
    return found, True


def summarize(lists: tuple[FreeList, ...]) -> FreeSummary:
    """Return the totals of free lists that were read."""
    summaries = tuple(
        ListSummary(item.kind, item.index, len(item.sizes), sum(item.sizes), max(item.sizes, default=0), item.complete)
        for item in lists
    )
    return FreeSummary(
        lists=summaries,
        chunks=sum(item.chunks for item in summaries),
        total=sum(item.total for item in summaries),
        largest=max((item.largest for item in summaries), default=0),
        complete=all(item.complete for item in lists),
    )


def free_summary(
    memory: Memory, abi: Abi, layout: Layout, arena: Arena, safe_linking: bool, limit: int = 1024
) -> FreeSummary:
    """Return how much is free in ``arena``, cheaply enough for every recorded system call.

    At most ``limit`` chunks are visited: those of the largest bin first, then the unsorted ones, then the other bins
    downwards, so that ``largest`` is right more often than ``complete`` promises. Nothing is raised for a broken
    list; the summary is then not complete.
    """
    reader = _Reader(memory, abi, arena, limit)
    order = sorted(_nonempty_bins(abi, arena), reverse=True)
    if order and order[-1] == UNSORTED_BIN:
        order.insert(1, order.pop())
    bins = sorted((_bin(reader, index) for index in order), key=lambda item: item.index)
    fastbins = []
    if layout.has_fastbins:
        fastbins = [_fastbin(reader, index, safe_linking) for index, head in enumerate(arena.fastbins) if head]
    return summarize((*fastbins, *bins))
