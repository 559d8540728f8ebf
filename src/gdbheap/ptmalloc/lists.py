"""Every free list as it is shown: tcache bins and the lists of an arena alike, with limits and links."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.bins import LAST_BIN, FreeList, bin_index, bin_range
from gdbheap.ptmalloc.layout import Layout
from gdbheap.ptmalloc.params import Params
from gdbheap.ptmalloc.tcache import SMALL_BINS, Tcache, TcacheBin, tcache_index, tcache_range

#: The kinds of lists of an arena, in the order in which they are shown.
ARENA_KINDS = ("fastbin", "unsorted", "small", "large")


@dataclass(frozen=True)
class ChunkList:
    """One list of free chunks, the front first; ``addresses`` (of chunks) and ``sizes`` (bytes) run in parallel.

    ``kind`` is tcache or one of ARENA_KINDS, ``index`` glibc's own of that bin. Chunks from ``low`` to ``high`` bytes
    belong on it; ``high`` is None where there is no largest. ``limit`` is how many chunks it may have and ``places``
    how many more it takes, None where nothing limits it. A size is 0 where the size word cannot be right.
    ``complete`` is False where ``problems`` ended the reading.
    """

    kind: str
    index: int
    low: int
    high: int | None
    addresses: Sequence[int]
    sizes: Sequence[int]
    limit: int | None
    places: int | None
    problems: tuple[str, ...]
    complete: bool

    @property
    def name(self) -> str:
        """What the list is called: ``tcache bin 3``, ``fastbin 1``, ``unsorted list``, ``small bin 5`` ..."""
        if self.kind == "unsorted":
            return "unsorted list"
        return f"fastbin {self.index}" if self.kind == "fastbin" else f"{self.kind} bin {self.index}"

    @property
    def is_single(self) -> bool:
        """Whether its chunks are linked forwards only: the links that safe-linking hides."""
        return self.kind in ("tcache", "fastbin")


class ListRow(NamedTuple):
    """One chunk of a list: its ``position`` (0 is the front) and its links. A named tuple is quicker to make.

    ``stored`` is the link as it is in memory, ``next`` what it means: the address of the next chunk, in a tcache its
    user pointer, as glibc has them; 0 at the end. ``back`` is bk, None where the list has no such link. The three
    are None where they are unreadable.
    """

    position: int
    address: int
    pointer: int
    size: int
    stored: int | None
    next: int | None
    back: int | None


def arena_list(abi: Abi, item: FreeList) -> ChunkList:
    """Return a list of an arena with the sizes that belong on it."""
    low, high = abi.min_size, None
    if item.kind == "fastbin":
        low = high = (item.index + 2) << (4 if abi.word_size == 8 else 3)
    elif item.kind != "unsorted":
        try:
            low, high = bin_range(abi, item.index)
        except ValueError:  # no chunk belongs on it, and its problems say so
            low, high = 0, 0
    return ChunkList(
        item.kind, item.index, low, high, item.addresses, item.sizes, None, None, item.problems, item.complete
    )


def tcache_lists(params: Params, layout: Layout, tcache: Tcache) -> tuple[ChunkList, ...]:
    """Return the bins of a tcache that hold something or should hold something, with their limits.

    ``limit`` is mp_.tcache_count. The places left follow from it and ``counts``; from glibc 2.42 on they are in the
    tcache itself (``num_slots``).
    """
    return tuple(_tcache_list(params, layout, tcache, item) for item in tcache.bins)


def _tcache_list(params: Params, layout: Layout, tcache: Tcache, item: TcacheBin) -> ChunkList:
    limit = params.get("tcache_count")
    problems = item.problems
    places = item.counter if layout.tcache_counts_down else max(limit - item.counter, 0)
    expected = limit - len(item.pointers)
    if layout.tcache_counts_down and item.complete and item.counter != expected:
        problems += (
            f"num_slots[{item.index}] of the tcache at {tcache.address:#x} is {item.counter}; it should be {expected}, "
            f"as that bin has {len(item.pointers)} chunks and mp_.tcache_count is {limit}.",
        )
    addresses = tuple(pointer - tcache.header for pointer in item.pointers)
    return ChunkList(
        "tcache", item.index, item.low, item.high, addresses, item.sizes, limit, places, problems, item.complete
    )


def list_rows(
    memory: Memory, abi: Abi, item: ChunkList, safe_linking: bool, limit: int | None = None
) -> tuple[ListRow, ...]:
    """Return the first ``limit`` chunks of a list (None: all) with their links as they are in ``memory``."""
    rows = []
    header, word, read = abi.header, abi.word_size, memory.read
    unpack = struct.Struct(f"{abi.order}2{abi.word_code}").unpack
    single = item.is_single
    masked = single and safe_linking
    for position, (address, size) in enumerate(zip(item.addresses[:limit], item.sizes[:limit])):
        pointer = address + header
        try:
            stored, back = unpack(read(pointer, 2 * word))
        except MemoryFault:
            rows.append(ListRow(position, address, pointer, size, None, None, None))
            continue
        following = stored ^ (pointer >> 12) if masked else stored
        rows.append(ListRow(position, address, pointer, size, stored, following, None if single else back))
    return tuple(rows)


def tcache_bin_total(abi: Abi, layout: Layout, params: Params) -> int:
    """Return how many bins of a tcache may hold chunks, as glibc.malloc.tcache_max says.

    Up to glibc 2.41 that is mp_.tcache_bins. From 2.42 on the bins of one size each are tcache_small_bins, and behind
    them one bin for each power of two up to tcache_max_bytes.
    """
    if not layout.tcache_counts_down:
        return params.get("tcache_bins")
    largest = params.get("tcache_max_bytes") - 1
    small = params.get("tcache_small_bins")
    if small < SMALL_BINS or largest <= tcache_range(abi, SMALL_BINS - 1)[1]:
        return small
    index = tcache_index(abi, layout, largest)
    assert layout.tcache is not None  # tcache_index has refused that
    entries = layout.tcache.fields["entries"]
    return entries.count if index is None else max(index + 1, small)


def list_totals(abi: Abi, arena: Arena) -> dict[str, int]:
    """Return how many lists of each of ARENA_KINDS an arena has, those left out that no size belongs in."""
    step = 16 if abi.word_size == 8 else 8
    fast = sum(1 for index in range(len(arena.fastbins)) if not (index + 2) * step % abi.alignment)
    first_large = bin_index(abi, abi.min_large_size)
    counts = {"fastbin": fast, "unsorted": 1, "small": 0, "large": 0}
    for index in range(2, LAST_BIN + 1):
        try:
            bin_range(abi, index)
        except ValueError:
            continue
        counts["small" if index < first_large else "large"] += 1
    return counts


def position_of(lists: Sequence[ChunkList], address: int) -> tuple[ChunkList, int] | None:
    """Return the list that the chunk at ``address`` is on and its position there, None where it is on none."""
    for item in lists:
        if address in item.addresses:
            return item, item.addresses.index(address)
    return None


@dataclass(frozen=True)
class ArenaLists:
    """The lists of one arena that are not empty, and by kind how many it has of each kind, empty ones included."""

    arena: Arena
    lists: tuple[ChunkList, ...]
    totals: Mapping[str, int]


@dataclass(frozen=True)
class TcacheLists:
    """The tcache of ``thread`` (the debugger's number of it).

    ``tcache`` is None where there is none or it could not be read; ``why`` is the sentence that says which, and
    ``known`` whether it is certain that there is none. ``totals`` has the number of its bins, empty ones included.
    """

    thread: int
    tcache: Tcache | None
    known: bool
    why: str
    lists: tuple[ChunkList, ...]
    totals: Mapping[str, int]


def empty_lists(lists: Sequence[ChunkList], totals: Mapping[str, int], kinds: Sequence[str]) -> dict[str, int]:
    """Return how many lists of each of ``kinds`` have no chunk."""
    empty = {}
    for kind, total in totals.items():
        if kind in kinds:
            # A bin beyond those that may be used does not make another one less empty.
            filled = sum(1 for item in lists if item.kind == kind and item.addresses)
            empty[kind] = max(total - filled, 0)
    return empty
