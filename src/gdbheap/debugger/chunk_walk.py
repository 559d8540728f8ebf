"""The chunks that a command asks for, arena after arena, out of a walk over all of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from gdbheap.debugger import model
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.maps import mapped_ranges
from gdbheap.debugger.progress import Progress
from gdbheap.memory import BlockCache, MemoryFault, PageCache
from gdbheap.ptmalloc.account import plan_arena, search_mmapped
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.chunk import USED, Chunk
from gdbheap.ptmalloc.mmapped import MmappedChunk, holder
from gdbheap.ptmalloc.rows import Rows, Wanted, block_chunk
from gdbheap.ptmalloc.walk import Block, membership, walk_arena

#: Bytes below which reads are worth being kept for the next ones.
_SMALL = 0x1000


class ChunkWalk:
    """Walks arenas of the process as it is now, and counts the chunks of all of them against one ``limit``.

    ``start`` is an address that must be a chunk's or its user pointer: the walk begins there. ``left_out`` is the
    number of chunks that the limit kept back, in the arenas that were walked.
    """

    def __init__(self, wanted: Wanted, limit: int | None, start: int | None) -> None:
        self.left_out = 0
        self._wanted = wanted
        self._limit = limit
        self._start = start
        self._start_seen = start is None
        self._state = model.read_state()
        self.abi = self._state.abi
        self._facts = model.free_facts()
        self._memory = model.heap_memory()
        self._contents = PageCache(self._memory)
        of_lists = (text for tcache in self._facts.tcaches for text in tcache.problems)
        self._problems = [*self._facts.problems, *of_lists]

    def arenas(self, named: str | None) -> tuple[Arena, ...]:
        """Return the arenas that a command line names, or all; raise TargetError where there is none of that name."""
        return tuple(model.chosen_arenas(self._state, named))

    def chunks(self, arena: Arena) -> Iterator[Chunk]:
        """Yield the wanted chunks of ``arena``; raise TargetError where ``start`` is inside one of them."""
        for block, places in self.blocks(arena):
            for place in places:
                yield block_chunk(self.abi, block, place)

    def blocks(self, arena: Arena) -> Iterator[tuple[Block, Sequence[int]]]:
        """Yield the blocks of the walk that have wanted chunks, and which of their chunks these are; as ``chunks``."""
        with Progress(self._memory) as progress:
            memory = BlockCache(progress, self.abi.page_size)  # the lists and the walk are read from the same bytes
            plan, free = plan_arena(memory, self._state, arena, self._facts)
            self._problems += [*plan.problems, *free.problems]
            blocks = walk_arena(memory, self._state.abi, plan, free)
            rows = Rows(self._state.abi, blocks, self._wanted, self._limit, self._see)
            for block, places in rows.blocks():
                if self._limit is not None:
                    self._limit -= len(places)
                progress.clear()  # rows are shown next
                yield block, places
        self.left_out += rows.left_out

    def mmapped(self) -> Iterator[Chunk]:
        """Yield the wanted chunks that have mappings of their own, in the order of their addresses."""
        state = self._state
        found = search_mmapped(self._memory, state, mapped_ranges())
        if found.problem is not None:
            self._problems.append(found.problem)
        cached = membership((), self._facts.tcaches)  # from glibc 2.43 on a tcache may keep them
        self._refuse_start(found.chunks)
        for item in found.chunks:
            chunk = item.row(state.abi, cached.get(item.address) or USED)
            if not self._wanted.holds(chunk):
                continue
            if self._limit is not None:
                if self._limit <= 0:
                    self.left_out += 1
                    continue
                self._limit -= 1
            yield chunk

    def _refuse_start(self, chunks: Sequence[MmappedChunk]) -> None:
        found = None if self._start is None or self._start_seen else holder(chunks, self._start)
        if found is not None:
            raise TargetError(
                f"{self._start:#x} is in the mmapped chunk at {found.address:#x}, which has a mapping of its own: no "
                f"chunks follow it. Without -start, these chunks are listed last."
            )

    def content(self, chunk: Chunk, size: int) -> bytes:
        """Return at most ``size`` bytes of a chunk's user data, none where they are unreadable."""
        return self.read(chunk.pointer, min(size, chunk.request_max))

    def read(self, address: int, size: int) -> bytes:
        """Return the ``size`` bytes at ``address``, none where any of them is unreadable."""
        try:
            return self._contents.read(address, size) if size < _SMALL else self._memory.read(address, size)
        except MemoryFault:
            return b""

    def take_problems(self) -> list[str]:
        """Return what was found to be wrong since the last call."""
        problems, self._problems = self._problems, []
        return problems

    def require_start(self) -> None:
        """Raise TargetError where ``start`` was met in none of the arenas that were walked."""
        if not self._start_seen:
            raise TargetError(f"{self._start:#x} is in no chunk of the arenas that were walked: 'heap' shows them.")

    def _see(self, block: Block) -> None:
        self._problems.extend(block.problems)
        if block.gap is not None:
            self._problems.append(block.gap.why)
        start, columns = self._start, block.columns
        if self._start_seen or start is None or not columns.addresses:
            return
        place = bisect_right(columns.addresses, start) - 1
        if place < 0 or start >= columns.addresses[place] + columns.sizes[place]:
            return
        address, pointer = columns.addresses[place], columns.addresses[place] + self._state.abi.header
        if start not in (address, pointer):
            raise TargetError(
                f"{start:#x} is no chunk: it is inside the chunk at {address:#x} of {columns.sizes[place]:#x} bytes "
                f"(user pointer {pointer:#x})."
            )
        self._start_seen = True
