"""All chunks of a heap, with an honest word about those that could not be reached."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gdbheap.mappings import MappedRange
from gdbheap.memory import BlockCache, Memory
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.account import FreeFacts, plan_arena, search_mmapped
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.chunk import FASTBIN, FENCEPOST, STATES, TCACHE, USED, Chunk
from gdbheap.ptmalloc.counts import Counts
from gdbheap.ptmalloc.problems import Problems
from gdbheap.ptmalloc.regions import Plan, Region
from gdbheap.ptmalloc.rows import block_chunk
from gdbheap.ptmalloc.sizes import Sizes
from gdbheap.ptmalloc.state import HeapState
from gdbheap.ptmalloc.totals import ArenaTotals, Tally, totals
from gdbheap.ptmalloc.walk import Block, Columns, Membership, membership, walk_arena

#: The kind of a Region that is one chunk with a mapping of its own; its limit is where the user data ends.
MMAPPED = "mmapped"
#: The states in which a chunk's user data goes on over the first word of the chunk behind it.
_LOOK_USED = frozenset((USED, TCACHE, FASTBIN))
_AS_USED = bytes(FENCEPOST if state == FENCEPOST else USED for state in range(256))


@dataclass(frozen=True)
class Missing:
    """A part of the heap that was not looked at: of ``arena`` (its name, None where it is of none in particular).

    ``start`` and ``end`` are addresses, None where they are not known. ``why`` is a full sentence.
    """

    arena: str | None
    start: int | None
    end: int | None
    why: str


class Reached:
    """What a walk reached and what it did not.

    ``missing`` are parts that were not looked at, ``spans`` the addresses of main_arena that were, ``problems`` what is
    not sound.
    """

    def __init__(self) -> None:
        self.missing: list[Missing] = []
        self.spans: tuple[tuple[int, int], ...] = ()
        self.problems = Problems()

    def enter(self, arena: Arena, found: ArenaTotals) -> None:
        """Enter what the totals of an arena say."""
        self.problems.extend(f"{arena.name}: {text}" for text in found.problems)
        self.missing += [Missing(arena.name, gap.start, gap.end, gap.why) for gap in found.gaps]
        if arena.is_main:
            self.spans = found.spans
        if not found.complete and not found.gaps:
            why = found.problems[-1] if found.problems else f"Not every region of {arena.name} is known."
            self.missing.append(Missing(arena.name, None, None, why))


def reach(memory: Memory, abi: Abi, plan: Plan, free: Membership, reached: Reached) -> Iterator[Block]:
    """Yield the blocks of chunks of one arena; enter at the end what was not reached and what is not sound."""
    tally = Tally(plan)
    for block in walk_arena(memory, abi, plan, free):
        # Only whether every byte was met is wanted of the sums: the states do not matter to that, and are dear.
        tally.add(replace(block, states=block.states.translate(_AS_USED)))
        yield block
    reached.enter(plan.arena, tally.totals(free.problems))


class WholeWalk:
    """Walks ``arenas`` of a heap one after another; None means all, and the mmapped chunks in ``ranges`` besides.

    After that, ``missing`` is what was not reached, and ``problems`` is what is not sound.
    """

    def __init__(
        self,
        memory: Memory,
        state: HeapState,
        facts: FreeFacts,
        ranges: Sequence[MappedRange],
        arenas: Sequence[Arena] | None = None,
    ) -> None:
        self.memory = memory
        self.state = state
        self._facts = facts
        self._ranges = ranges
        self._arenas = arenas
        self._reached = Reached()
        self._reached.problems.extend(facts.problems)
        self._reached.problems.extend(text for tcache in facts.tcaches for text in tcache.problems)

    @property
    def missing(self) -> list[Missing]:
        """What was not reached so far."""
        return self._reached.missing

    @property
    def problems(self) -> tuple[str, ...]:
        """What was found to be wrong so far."""
        return self._reached.problems.texts()

    def blocks(self) -> Iterator[tuple[Arena | None, Block]]:
        """Yield the blocks of chunks of every arena, and those of mmapped chunks, which are in none."""
        for memory, arena, plan, free in self._plans():
            for block in reach(memory, self.state.abi, plan, free, self._reached):
                yield arena, block
        for block in self._mmapped():
            yield None, block

    def counts(self) -> Counts:
        """Return how many chunks there are in each state: what the blocks hold, sooner than by going through them."""
        counts = Counts()
        for memory, arena, plan, free in self._plans():
            found = totals(memory, self.state.abi, plan, free)
            self._reached.enter(arena, found)
            for state, name in enumerate(STATES):
                counts.add(state, found.counts[name], found.sizes[name])
        for block in self._mmapped():
            counts.add(block.states[0], 1, block.columns.sizes[0])
        return counts

    def by_size(self) -> Sizes:
        """Return how many chunks there are of each size, likewise."""
        sizes = Sizes()
        for memory, arena, plan, free in self._plans():
            self._reached.enter(arena, totals(memory, self.state.abi, plan, free, sizes))
        for block in self._mmapped():
            sizes.see(block.states, block.columns.sizes, mmapped=True)
        return sizes

    def _plans(self) -> Iterator[tuple[Memory, Arena, Plan, Membership]]:
        ring = self.state.ring
        for arena in ring.arenas if self._arenas is None else self._arenas:
            memory = BlockCache(self.memory, self.state.abi.page_size)  # lists and walk are read from the same bytes
            yield (memory, arena, *plan_arena(memory, self.state, arena, self._facts))
        if self._arenas is None and ring.problem is not None:
            self._reached.missing.append(Missing(None, None, None, ring.problem))

    def _mmapped(self) -> Iterator[Block]:
        if self._arenas is not None:
            return
        found = search_mmapped(self.memory, self.state, self._ranges, self._reached.spans)
        cached = membership((), self._facts.tcaches)  # from glibc 2.43 on a tcache may keep them
        for item in found.chunks:
            end = item.address + self.state.abi.header + item.usable
            region = Region(MMAPPED, item.block, item.address, end, 0, None, end, None, False)
            columns = Columns(region, [item.address], [item.word], [item.size], {item.word}, None, None)
            yield Block(columns, bytes([cached.get(item.address) or USED]))
        if found.problem is not None:
            if len(found.chunks) < found.count or found.found_bytes < found.bytes:
                self._reached.missing.append(Missing(None, None, None, found.problem))
            else:
                self._reached.problems.add(found.problem)


def user_end(abi: Abi, block: Block, place: int) -> int:
    """Return where the user data of a chunk ends: malloc_usable_size behind its pointer, where it looks used."""
    columns = block.columns
    if columns.region.kind == MMAPPED:
        return columns.region.limit
    end = columns.addresses[place] + columns.sizes[place]
    return end + abi.word_size if block.states[place] in _LOOK_USED else end


def chunk_in(abi: Abi, block: Block, place: int) -> Chunk:
    """Return a chunk of ``block`` as it is shown."""
    columns = block.columns
    chunk = block_chunk(abi, block, place)
    return chunk if columns.region.kind != MMAPPED else chunk._replace(request_max=columns.region.limit - chunk.pointer)


def chunk_at(walk: WholeWalk, address: int) -> tuple[Arena | None, Chunk] | None:
    """Return the chunk that ``address`` is in, its header included, and its arena; None where none was met."""
    for arena, block in walk.blocks():
        columns = block.columns
        if not columns.addresses or not columns.addresses[0] <= address < columns.addresses[-1] + columns.sizes[-1]:
            continue
        place = bisect_right(columns.addresses, address) - 1
        if address < columns.addresses[place] + columns.sizes[place]:
            return arena, chunk_in(walk.state.abi, block, place)
    return None
