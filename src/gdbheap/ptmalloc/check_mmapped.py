"""Chunks with mappings of their own, against malloc's counters: headers that were overwritten, chunks that overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gdbheap.mappings import MappedRange, Spans
from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, IS_MMAPPED
from gdbheap.ptmalloc.account import search_mmapped
from gdbheap.ptmalloc.check_lists import hexadecimal
from gdbheap.ptmalloc.finding import Finding
from gdbheap.ptmalloc.kernel import arena_spans
from gdbheap.ptmalloc.mmapped import MmappedChunk, MmappedChunks, chunks_inside, pieces
from gdbheap.ptmalloc.state import HeapState

#: Pages of a mapping that are looked at for a header that is not sound.
_PAGES = 0x10000


@dataclass(frozen=True)
class MmappedResult:
    """What was found: how many chunks there are, what is wrong, and why not all could be checked (None: they were)."""

    count: int
    findings: tuple[Finding, ...]
    problem: str | None


class MmappedChecker:
    """Finds the mmapped chunks of a process that has ``ranges`` mapped.

    ``walked`` are the parts of main_arena's memory that were walked. At ``occupied`` is something else's: a thread's
    control block or the end of its stack, so that no chunk can be there.
    """

    def __init__(
        self,
        memory: Memory,
        state: HeapState,
        ranges: Sequence[MappedRange],
        walked: Sequence[tuple[int, int]],
        occupied: Sequence[int] = (),
    ) -> None:
        self._memory = memory
        self._state = state
        self._ranges = ranges
        self._walked = walked
        self._occupied = sorted(occupied)

    def run(self) -> MmappedResult:
        """Return what was found."""
        found = search_mmapped(self._memory, self._state, self._ranges, self._walked)
        if found.proven:
            return MmappedResult(len(found.chunks), (), None)
        finding = None
        if found.known and not found.unread:
            finding = self._overlap(found) or self._lost(found) or self._shrunk(found)
        if finding is not None:
            return MmappedResult(found.count, (finding,), None)
        why = None
        if found.problem is not None:
            why = f"The chunks with mappings of their own are not checked: {found.problem}"
        return MmappedResult(len(found.chunks), (), why)

    # --- a chunk that runs over another -----------------------------------------------------------------------------

    def _overlap(self, found: MmappedChunks) -> Finding | None:
        """Return the chunk that runs over one other, so that with both of them the counters are right."""
        if found.count != len(found.chunks) + 1:
            return None
        solutions = []
        for outer in found.chunks:
            for inner in chunks_inside(self._memory, self._state.abi, self._state.layout, outer):
                covered = max(outer.block + outer.length, inner.block + inner.length) - outer.block
                lengths = inner.block - outer.block + inner.length
                if found.found_bytes - outer.length + lengths == found.bytes and lengths >= covered:
                    solutions.append((outer, inner))
        if len(solutions) != 1:
            return None
        outer, inner = solutions[0]
        length = inner.block - outer.block
        word = (outer.word & ~FLAG_BITS) - (outer.length - length) | IS_MMAPPED
        return self._size_word(
            outer, word,
            f"so that its mapping would run over the chunk at {inner.address:#x}, which has one of its own",
        )  # fmt: skip

    def _size_word(self, chunk: MmappedChunk, expected: int, why: str) -> Finding:
        place = chunk.address + self._state.abi.word_size
        return Finding(
            "mmapped-header", place,
            f"The size word of the mmapped chunk at {chunk.address:#x} is {chunk.word:#x}, {why}; by malloc's counters "
            f"(n_mmaps, mmapped_mem) it should be {expected:#x}.",
            f"{chunk.word:#x}", f"{expected:#x}", 0, chunk.address, size=self._state.abi.word_size,
        )  # fmt: skip

    # --- a chunk that ends too early --------------------------------------------------------------------------------

    def _shrunk(self, found: MmappedChunks) -> Finding | None:
        """Return the only chunk behind which there is room for what the counters have more than the chunks."""
        lacking = found.bytes - found.found_bytes
        if found.count != len(found.chunks) or lacking <= 0 or lacking % self._state.abi.page_size:
            return None
        holes = list(self._holes(found))
        candidates = []
        for chunk in found.chunks:
            end = chunk.block + chunk.length
            if any(start == end and start + lacking <= stop and self._is_free(start, start + lacking)
                   for start, stop in holes):  # fmt: skip
                candidates.append(chunk)
        if len(candidates) != 1:
            return None
        chunk = candidates[0]
        word = (chunk.word & ~FLAG_BITS) + lacking | IS_MMAPPED
        return self._size_word(chunk, word, f"and {lacking:#x} bytes behind it belong to no chunk")

    # --- a header that is gone --------------------------------------------------------------------------------------

    def _lost(self, found: MmappedChunks) -> Finding | None:
        """Return the header that must be that of the one chunk that malloc counts and that was not found."""
        lacking = found.bytes - found.found_bytes
        if found.count != len(found.chunks) + 1 or lacking <= 0 or lacking % self._state.abi.page_size:
            return None
        holes = [(start, end) for start, end in self._holes(found) if end - start >= lacking]
        places = [start for start, end in holes if end - start == lacking and self._is_free(start, end)]
        if len(places) != 1:  # the kernel has merged it with other mappings: its header may still have the flag
            places = [place for start, end in holes for place in self._near_misses(start, end - lacking)]
        if len(places) != 1:
            places = [place for start, end in holes for place in self._with_room(start, end, lacking)]
        if len(places) != 1:
            ends = {chunk.block + chunk.length for chunk in found.chunks}
            behind = [place for place in places if place in ends and self._header(place) != (0, 0)]
            places = behind if len(behind) == 1 else []
        before = next((chunk for chunk in found.chunks if places and chunk.block + chunk.length == places[0]), None)
        return self._bad_header(places[0], places[0] + lacking, before) if places else None

    def _holes(self, found: MmappedChunks) -> Iterator[tuple[int, int]]:
        """Yield the addresses that malloc may have mapped and that are no chunk's and no arena's."""
        state = self._state
        taken = [(heap.address, heap.address + heap.max_size) for c in state.heaps.values() for heap in c.heaps]
        taken += arena_spans(state, state.ring.arenas[0], self._walked)
        taken += [(chunk.block, chunk.block + chunk.length) for chunk in found.chunks]
        for start, end, _ in pieces(self._ranges, Spans(taken)):
            yield start, end

    def _is_free(self, start: int, end: int) -> bool:
        return not any(start <= place < end for place in self._occupied)

    def _with_room(self, start: int, end: int, length: int) -> Iterator[int]:
        """Yield where, from ``start`` to ``end``, a mapping of ``length`` bytes can begin."""
        page = self._state.abi.page_size
        last = end - length
        if last - start > _PAGES * page:
            yield from (start, last)  # that is more than one, and so nothing is told
            return
        yield from (place for place in range(start, last + 1, page) if self._is_free(place, place + length))

    def _near_misses(self, start: int, last: int) -> Iterator[int]:
        """Yield the pages from ``start`` to ``last`` that begin with a header that is half right."""
        abi = self._state.abi
        for place in range(start, min(last, start + _PAGES * abi.page_size) + 1, abi.page_size):
            chunk = abi.first_chunk(place)
            prev_size, word = self._header(place)
            if word is None or word & FLAG_BITS != IS_MMAPPED or word >= 1 << 48:
                continue
            if prev_size == chunk - place or (word & ~FLAG_BITS) % abi.page_size == (place - chunk) % abi.page_size:
                yield place

    def _header(self, block: int) -> tuple[int | None, int | None]:
        """Return prev_size and size word of a chunk that begins with a mapping, None where they cannot be read."""
        abi = self._state.abi
        chunk = abi.first_chunk(block)
        try:
            return abi.read_word(self._memory, chunk), abi.read_word(self._memory, chunk + abi.word_size)
        except MemoryFault:
            return None, None

    def _bad_header(self, start: int, end: int, before: MmappedChunk | None) -> Finding:
        """Return the finding for a chunk whose mapping this must be, as malloc counts one more of just this length.

        ``before`` is the chunk whose mapping ends where this one begins, None where there is none.
        """
        abi, state = self._state.abi, self._state
        chunk = abi.first_chunk(start)
        behind = 0 if state.layout.has_fastbins else abi.header
        expected = (end - chunk - behind) | IS_MMAPPED
        prev_size, word = self._header(start)
        if word != expected:
            place, name, found, should = chunk + abi.word_size, "size word", word, expected
        else:
            place, name, found, should = chunk, "prev_size", prev_size, chunk - start
        follows = "" if before is None else f" It follows directly on the mmapped chunk at {before.address:#x}."
        return Finding(
            "mmapped-header", place,
            f"The {name} of the chunk at {chunk:#x}, which has the mapping from {start:#x} to {end:#x} of its own, "
            f"is {hexadecimal(found or 0)}; it should be {hexadecimal(should)}.{follows}",
            hexadecimal(found or 0), hexadecimal(should), 0, chunk, size=abi.word_size,
        )  # fmt: skip
