"""Chunks that have a mapping of their own (IS_MMAPPED): found in the map of the process, as no list of them exists.

The kernel merges neighbouring anonymous mappings into one range, which then holds several such chunks, and perhaps
stacks, thread-local storage and memory of someone else between them. So each chunk is told by its own header:
sysmalloc_mmap, _int_memalign and mremap_chunk (malloc/malloc.c) write it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gdbheap.mappings import MappedRange, Spans
from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, IS_MMAPPED, Abi, round_up
from gdbheap.ptmalloc.chunk import STATES, Chunk
from gdbheap.ptmalloc.layout import Layout
from gdbheap.ptmalloc.params import Params

#: Bit 0 of prev_size, from glibc 2.43 on: the mapping is made of huge pages.
_MMAP_HP = 1
#: How much is read at once where each page has to be looked at, in bytes.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class MmappedChunk:
    """One chunk with its mapping: ``length`` bytes from ``block`` on, which are whole pages.

    ``address`` is the chunk's, behind ``block`` where its pointer had to be aligned. ``word`` is its raw size word and
    ``size`` that without its flags, in bytes. ``usable`` is the largest request that it can serve (malloc_usable_size).
    """

    block: int
    length: int
    address: int
    word: int
    size: int
    usable: int

    def row(self, abi: Abi, state: int) -> Chunk:
        """Return it as all chunks are shown; ``state`` is a number (USED ...)."""
        return Chunk(
            self.address, self.address + abi.header, self.size, self.word & FLAG_BITS, STATES[state], self.usable
        )


@dataclass(frozen=True)
class MmappedChunks:
    """The chunks that were found, by address, beside malloc's own counters of them.

    ``count`` is mp_.n_mmaps and ``bytes`` mp_.mmapped_mem. ``known`` says whether the process's map was there to search
    in, and ``unread`` how many bytes of it might hold chunks but could not be read (a core file lacks them).
    ``drifts`` says that this glibc's mmapped_mem grows by the size of a header too much with each mremap (2.43).
    """

    chunks: tuple[MmappedChunk, ...]
    count: int
    bytes: int
    known: bool
    unread: int = 0
    drifts: int = 0

    @property
    def found_bytes(self) -> int:
        """The bytes of the mappings of all that were found."""
        return sum(chunk.length for chunk in self.chunks)

    @property
    def drift(self) -> int:
        """By how many bytes mmapped_mem is too high, as far as that is a known fault of this glibc; else 0."""
        over = self.bytes - self.found_bytes
        exact = self.drifts and len(self.chunks) == self.count and over > 0 and over % self.drifts == 0
        return over if exact else 0

    @property
    def proven(self) -> bool:
        """Whether the chunks are those that malloc counts, no more and no less."""
        return len(self.chunks) == self.count and self.found_bytes == self.bytes - self.drift

    @property
    def problem(self) -> str | None:
        """A sentence on why the chunks that were found are not those that malloc counts; None where they are."""
        counted = f"malloc counts {self.count:,} of {self.bytes:#x} bytes (n_mmaps, mmapped_mem)"
        if self.drift:
            return (
                f"mmapped_mem is {self.drift:#x} bytes too high: this glibc adds {self.drifts:#x} too much each time "
                f"that realloc resizes such a chunk."
            )
        if self.proven:
            return None
        if not self.known:
            return f"Which addresses are mapped is not known here, so the mmapped chunks cannot be found: {counted}."
        what = f"{len(self.chunks):,} of {self.found_bytes:#x} bytes were found"
        if self.unread:
            return (
                f"Not all mmapped chunks are known: {counted}, {what}; {self.unread:#x} bytes of anonymous memory "
                f"cannot be read, and may hold the others."
            )
        if len(self.chunks) > self.count or self.found_bytes > self.bytes:
            return (
                f"The mmapped chunks are candidates only: {counted}, {what}. One may be in the making, or memory that "
                f"is not malloc's looks like one."
            )
        return (
            f"Not all mmapped chunks are known: {counted}, {what}. The header of the others may be overwritten, or one "
            f"may be in the making."
        )


class _Finder:
    """Tells whether an mmapped chunk is at a page."""

    def __init__(self, memory: Memory, abi: Abi, layout: Layout) -> None:
        self._memory = memory
        self._abi = abi
        #: From 2.43 on (there are no fastbins) the size leaves the header out, and prev_size has a flag.
        self.modern = "fastbinsY" not in layout.state.fields
        self._behind = abi.header if self.modern else 0
        self._offset = abi.first_chunk(0)

    def at(self, block: int, end: int) -> MmappedChunk | None:
        """Return the chunk whose mapping begins at ``block`` and ends at ``end`` at the latest, None for none.

        Raises MemoryFault where its header cannot be read.
        """
        page = self._memory.read(block, min(self._abi.page_size, end - block))
        first = self._chunk(block, self._offset, self._header(block, self._offset, page))
        if first is None:
            return None
        # memalign moves the chunk up and writes it another header, and the first one stays as it was. What lies
        # between the two is nobody's, so the first header behind it that fits is the chunk's.
        for offset in self._moved(block, first.length):
            moved = self._chunk(block, offset, self._header(block, offset, page))
            if moved is not None:
                first = moved
                break
        return first if block + first.length <= end else None

    def _moved(self, block: int, length: int) -> Iterator[int]:
        """Yield where in its mapping of ``length`` bytes a chunk can be that memalign moved, in ascending order."""
        abi = self._abi
        alignment = 2 * abi.alignment
        last = self._offset
        while True:
            # All mappings begin at a page: what is behind a smaller multiple depends on their address.
            offset = (alignment if alignment <= abi.page_size else round_up(block + 1, alignment) - block) - abi.header
            if offset >= length - abi.header:
                return
            if offset > last:
                yield offset
                last = offset
            alignment *= 2

    def _header(self, block: int, offset: int, page: bytes) -> bytes:
        header = page[offset : offset + self._abi.header]
        if len(header) == self._abi.header:
            return header
        try:
            return self._memory.read(block + offset, self._abi.header)
        except MemoryFault:
            return bytes(self._abi.header)

    def _chunk(self, block: int, offset: int, header: bytes) -> MmappedChunk | None:
        abi = self._abi
        before = int.from_bytes(header[: abi.word_size], abi.byte_order)
        word = int.from_bytes(header[abi.word_size :], abi.byte_order)
        if (before & ~_MMAP_HP if self.modern else before) != offset or word & FLAG_BITS != IS_MMAPPED:
            return None
        size = word & ~FLAG_BITS
        length = offset + size + self._behind
        if size < abi.min_size or size % abi.header or length % abi.page_size:
            return None
        usable = size - (abi.word_size if self.modern else abi.header)
        return MmappedChunk(block, length, block + offset, word, size, usable)

    def pages_to_try(self, start: int, end: int) -> Iterator[int]:
        """Yield the pages from ``start`` to ``end`` that begin as an mmapped chunk does; all of them are read.

        Raises MemoryFault where some cannot be read.
        """
        abi = self._abi
        step = abi.page_size // abi.word_size
        place = (self._offset + abi.word_size) // abi.word_size
        known = IS_MMAPPED - self._offset - self._behind  # what the size word is, but for whole pages
        for position in range(start, end, _BLOCK):
            words = abi.words(self._memory.read(position, min(_BLOCK, end - position)))[place::step]
            for index, word in enumerate(words):
                if word and not (word - known) % abi.page_size:
                    yield position + index * abi.page_size


def drift_of_a_resize(abi: Abi, layout: Layout) -> int:
    """Return by how many bytes too much mmapped_mem grows with each mremap (mremap_chunk): a header's from 2.43 on."""
    return 0 if layout.has_fastbins else abi.header


def find_mmapped(
    memory: Memory,
    abi: Abi,
    layout: Layout,
    params: Params,
    ranges: Sequence[MappedRange],
    taken: Iterable[tuple[int, int]] = (),
) -> MmappedChunks:
    """Return the mmapped chunks that are in ``ranges`` outside ``taken``, the memory of arenas: (start, end).

    A chunk is believed by its header alone: whether they are all, and no others, is for ``proven`` to say. Where the
    chunks that follow each other from the beginning of a range are not enough, every page of the rest is looked at.
    """
    finder = _Finder(memory, abi, layout)
    count, total = params.get("n_mmaps"), params.get("mmapped_mem")
    drifts = drift_of_a_resize(abi, layout)
    known = bool(ranges)
    if not count and not total:
        return MmappedChunks((), 0, 0, known)
    found: list[MmappedChunk] = []
    rest: list[tuple[int, int, int]] = []
    unread = 0
    for start, end, held in pieces(ranges, Spans(taken)):
        position, limit = round_up(start, abi.page_size), start + held
        unread += end - limit
        while position < limit:
            try:
                chunk = finder.at(position, end)
            except MemoryFault:
                unread += limit - position
                break
            if chunk is None:
                rest.append((position, limit, end))
                break
            found.append(chunk)
            position += chunk.length
    made = MmappedChunks(tuple(found), count, total, known, unread, drifts)
    if made.proven or len(found) > count:
        return made
    for start, limit, end in rest:
        behind = start
        try:
            for page in finder.pages_to_try(start, limit):
                chunk = finder.at(page, end) if page >= behind else None
                if chunk is not None:
                    found.append(chunk)
                    behind = page + chunk.length
        except MemoryFault as fault:
            unread += limit - max(fault.address, start)
    found.sort(key=lambda chunk: chunk.block)
    return MmappedChunks(tuple(found), count, total, known, unread, drifts)


def chunks_inside(memory: Memory, abi: Abi, layout: Layout, outer: MmappedChunk) -> Iterator[MmappedChunk]:
    """Yield what looks like mmapped chunks at pages inside the mapping of another, behind its first page.

    What the program keeps there may look like one. Nothing is raised where a part cannot be read.
    """
    finder = _Finder(memory, abi, layout)
    end = 1 << 8 * abi.word_size
    try:
        for page in finder.pages_to_try(outer.block + abi.page_size, outer.block + outer.length):
            chunk = finder.at(page, end)
            if chunk is not None:
                yield chunk
    except MemoryFault:
        return


def pieces(ranges: Iterable[MappedRange], taken: Spans) -> Iterator[tuple[int, int, int]]:
    """Yield what of the ``ranges`` that malloc may have mapped is not ``taken``: start, end, bytes that can be read."""
    for item in ranges:
        if item.may_be_heap:
            for start, end in taken.outside(item.start, item.end):
                yield start, end, max(0, min(end, item.start + item.held) - start)


def holder(chunks: Sequence[MmappedChunk], address: int) -> MmappedChunk | None:
    """Return which of ``chunks``, in ascending order, has ``address`` in its mapping; None where none has."""
    place = bisect_right([chunk.block for chunk in chunks], address) - 1
    return chunks[place] if place >= 0 and address < chunks[place].block + chunks[place].length else None
