"""Where main_arena's memory begins anew after a refused brk, from memory alone.

malloc then maps memory in place of the break's (sysmalloc, MMAP_AS_MORECORE_SIZE; sysmalloc_mmap_fallback from
2.35 on), and notes nowhere where. But each such region begins on a page with a chunk after nothing, its chunks follow
each other, and it ends on a page with two fenceposts, or with the top chunk; all of them together, and the break's,
have system_mem bytes. Where one of them is damaged, its length is what is missing to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from gdbheap.mappings import MappedRange, Spans
from gdbheap.memory import BlockCache, Memory, MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, PREV_INUSE, Abi
from gdbheap.ptmalloc.arena import Arena

#: Pages that are looked at at most: 16 GiB of them.
_MOST_PAGES = 1 << 22


class _Found(NamedTuple):
    start: int
    end: int


class _Search:
    def __init__(self, memory: Memory, abi: Abi, arena: Arena, spans: Sequence[tuple[int, int]]) -> None:
        self._memory = BlockCache(memory, abi.page_size)
        self._abi = abi
        self._arena = arena
        self.spans = spans
        top_end = arena.top + (arena.top_size or 0)
        self.top_end = top_end if arena.top_size and not top_end % abi.page_size else None

    def word(self, address: int) -> int | None:
        """Return the word at ``address``, None where it cannot be read."""
        try:
            return self._abi.read_word(self._memory, address)
        except MemoryFault:
            return None

    def begins(self, page: int) -> bool:
        """Whether a region may begin there: nothing has written before its first chunk, which has PREV_INUSE alone."""
        chunk = self._abi.first_chunk(page)
        word = self.word(chunk + self._abi.word_size)
        return word is not None and word & FLAG_BITS == PREV_INUSE and word > PREV_INUSE and self.word(chunk) == 0

    def end_of(self, page: int, limit: int) -> int | None:
        """Return where the region that begins at ``page`` ends; None where its chunks do not lead to an end."""
        abi = self._abi
        header, word_size = abi.header, abi.word_size
        chunk = abi.first_chunk(page)
        while chunk + abi.min_size <= limit or chunk + 2 * header <= limit:
            if chunk == self._arena.top:
                return self.top_end
            word = self.word(chunk + word_size)
            if word is None or word & FLAG_BITS & ~PREV_INUSE:
                return None
            size = word & ~FLAG_BITS
            if size == header:
                return self._fenceposts_end(chunk, limit)
            if size < abi.min_size or size % abi.alignment or chunk + size > limit:
                return None
            chunk += size
        return None

    def _fenceposts_end(self, chunk: int, limit: int) -> int | None:
        """Return where the memory ends whose fenceposts begin at ``chunk``, None where they are none."""
        header = self._abi.header
        second = self.word(chunk + header + self._abi.word_size)
        end = chunk + 2 * header
        end += -end % self._abi.page_size if -end % self._abi.page_size < self._abi.alignment else 0
        if second != header | PREV_INUSE or end % self._abi.page_size or end > limit:
            return None
        return end

    def ends_at(self, end: int) -> bool:
        """Whether two fenceposts stand before ``end``."""
        for slack in range(0, self._abi.alignment, self._abi.word_size):
            first = end - slack - 2 * self._abi.header
            word = self.word(first + self._abi.word_size)
            if word is not None and word & ~FLAG_BITS == self._abi.header:
                return self._fenceposts_end(first, end) == end
        return False

    def all(self) -> Iterator[_Found]:
        """Yield the regions whose chunks lead from their beginning to their end, by address."""
        page_size = self._abi.page_size
        left = _MOST_PAGES
        for start, limit in self.spans:
            page = start
            while page < limit and left:
                end = self.end_of(page, limit) if self.begins(page) else None
                if end is not None and end > page:
                    yield _Found(page, end)
                    left -= (end - page) // page_size
                    page = end
                else:
                    left -= 1
                    page += page_size
                left = max(left, 0)


def mapped_starts(
    memory: Memory,
    abi: Abi,
    arena: Arena,
    base: int,
    ranges: Sequence[MappedRange],
    taken: Iterable[tuple[int, int]],
    known: Iterable[int] = (),
) -> tuple[int, ...]:
    """Return where regions of main_arena begin besides ``base`` (sbrk_base), none where all of it is contiguous.

    ``taken`` is memory that is none of main_arena's: the heaps of the others. ``known`` are starts that something else
    tells. What is returned adds up to system_mem, or is all that was found.
    """
    if arena.contiguous or not arena.has_top(abi) or arena.top_size is None:
        return ()
    search = _Search(memory, abi, arena, _to_search(abi, ranges, taken))
    found = {item.start: item for item in search.all()}
    own = found.pop(base, None)
    length = own.end - base if own is not None else _length_of_break(base, ranges)
    if length is None:
        return tuple(sorted({*found, *known}))
    missing = arena.system_mem - length - sum(item.end - item.start for item in found.values())
    if missing > 0 and not missing % abi.page_size:
        start = _damaged(search, arena, base, length, missing, list(found.values()))
        if start is not None:
            found[start] = _Found(start, start + missing)
    elif missing < 0:
        # More than malloc counts: what the top chunk belongs to is certain, the others are not.
        found = {start: item for start, item in found.items() if start <= arena.top < item.end}
    return tuple(sorted({*found, *known} - {base}))


def _to_search(abi: Abi, ranges: Sequence[MappedRange], taken: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the memory in which malloc can have mapped something, neighbours put together, by address."""
    heap = Spans((item.start, item.start + item.held) for item in ranges if item.may_be_heap)
    other = Spans(taken)
    if not ranges:
        return []
    whole = (min(item.start for item in ranges), max(item.end for item in ranges))
    return [
        (-(-start // abi.page_size) * abi.page_size, end)
        for low, high in heap.inside(*whole)
        for start, end in other.outside(low, high)
    ]


def _length_of_break(base: int, ranges: Sequence[MappedRange]) -> int | None:
    """Return how much memory there is from ``base`` on in one piece of heap, None where that is not known."""
    end = base
    for item in ranges:
        if item.start <= end < item.end and item.may_be_heap:
            end = item.end
            if item.name == "[heap]":
                break
    return end - base if base and end > base else None


def _damaged(
    search: _Search, arena: Arena, base: int, length: int, missing: int, found: Sequence[_Found]
) -> int | None:
    """Return where the one region begins that is damaged: it has the ``missing`` bytes; None where none fits alone."""
    others = Spans([(item.start, item.end) for item in found] + [(base, base + length)])

    def is_free(start: int, end: int) -> bool:
        within = any(low <= start and end <= high for low, high in search.spans)
        return within and not list(others.inside(start, end))

    if not any(item.start <= arena.top < item.end for item in found):  # then it is that of the top chunk
        start = 0 if search.top_end is None else search.top_end - missing
        return start if start and start <= arena.top and is_free(start, start + missing) else None
    fitting = [
        page
        for low, high in search.spans
        for page in range(low, min(high - missing, low + _MOST_PAGES * 0x1000) + 1, 0x1000)
        if is_free(page, page + missing) and search.begins(page) and search.ends_at(page + missing)
    ]
    return fitting[0] if len(fitting) == 1 else None
