"""What heap map looks at: the chosen arenas of the process as it is now, as a drawing, or some chunks close up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gdbheap.debugger import model, session
from gdbheap.debugger.errors import TargetError
from gdbheap.memory import MemoryFault, PageCache
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.account import plan_arena
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.bins import LAST_BIN, FreeList, read_free_lists
from gdbheap.ptmalloc.chunk import Chunk
from gdbheap.ptmalloc.closeup import Closeup, Linking, ListPlace, list_places, read_closeup
from gdbheap.ptmalloc.extent import EVERYTHING, Spot, Window, map_arena, may_hold, region_of
from gdbheap.ptmalloc.heaps import HeapInfo
from gdbheap.ptmalloc.regions import Plan, Region
from gdbheap.ptmalloc.rows import Rows, Wanted
from gdbheap.ptmalloc.walk import Block, Membership, walk_arena
from gdbheap.render.cells import Scene

#: Rows of a top chunk at most: there is nothing in it.
_TOP_ROWS = 2


@dataclass(frozen=True)
class Shown:
    """Chunks close up, and what is told beside them: see words_lines. ``left_out`` is how many chunks would follow."""

    closeups: Sequence[Closeup]
    places: Mapping[int, ListPlace]
    heads: Mapping[int, str]
    left_out: int
    problems: list[str]


class MapView:
    """The arenas that ``named`` chooses, or all; raises TargetError where there is none of that name."""

    def __init__(self, named: str | None) -> None:
        target = session.target()
        self._state = model.read_state()
        self._facts = model.free_facts()
        self._memory = target.memory
        self._contents = PageCache(target.memory)
        self._plans: list[tuple[Plan, Membership]] = [
            plan_arena(target.memory, self._state, arena, self._facts)
            for arena in model.chosen_arenas(self._state, named)
        ]
        self.abi: Abi = self._state.abi
        ring = self._state.ring.problem
        tcaches = (text for tcache in self._facts.tcaches for text in tcache.problems)
        #: What is not sound in no arena in particular.
        self.problems = [*tcaches, *([ring] if ring is not None else []), *self._facts.problems]

    @property
    def mmapped(self) -> tuple[int, int]:
        """How many chunks have a mapping of their own, and their bytes."""
        params = self._state.params
        return params.get("n_mmaps"), params.get("mmapped_mem")

    def region_at(self, address: int) -> tuple[Plan, Region, int]:
        """Return where an address is and the latest end of that region; raise TargetError where it is in none."""
        found = region_of([plan for plan, _ in self._plans], address)
        if found is None:
            raise TargetError(f"{address:#x} is in no region of the arenas that were looked at: 'heap' shows them.")
        return found

    def scenes(self, window: Window, *, most_cells: int, most_runs: int) -> Iterator[Scene]:
        """Yield what there is to draw of each arena; one that can have nothing in a narrow window is left out."""
        heaps: dict[int, HeapInfo] = {
            heap.address: heap for chain in self._state.heaps.values() for heap in chain.heaps
        }
        for plan, free in self._plans:
            if window != EVERYTHING and not may_hold(plan, window):
                continue
            drawn = map_arena(self._memory, self.abi, plan, free, window, most_cells=most_cells, most_runs=most_runs)
            yield Scene(drawn, window, heaps, self._content)

    def _content(self, spot: Spot, size: int) -> bytes:
        try:
            return self._contents.read(spot.address + self.abi.header, min(size, spot.size - self.abi.word_size))
        except MemoryFault:
            return b""

    def closeups(self, start: int | None, count: int | None, most_rows: int) -> Shown:
        """Return ``count`` chunks (None: all) from the one that holds ``start`` on, with ``most_rows`` rows at most.

        Raises TargetError where ``start`` is in no chunk.
        """
        chunks, firsts, problems, left_out = self._chunks(start, count)
        target = session.target()
        linking = Linking(target.safe_linking, self._keys())
        closeups = [
            read_closeup(
                self._contents,
                self.abi,
                chunk,
                linking,
                min(most_rows, _TOP_ROWS) if chunk.state == "top" else most_rows,
                first=chunk.address in firsts,
            )
            for chunk in chunks
        ]
        lists: list[FreeList] = []
        if {chunk.state for chunk in chunks} & {"fastbin", "unsorted", "small", "large"}:
            for plan, _ in self._plans:
                lists += read_free_lists(self._contents, self.abi, target.layout, plan.arena, target.safe_linking)
        tcaches = model.read_tcaches(target)[0] if any(chunk.state == "tcache" for chunk in chunks) else {}
        places = list_places(lists, tcaches, (chunk.address for chunk in chunks))
        heads: dict[int, str] = {}
        for plan, _ in self._plans:
            heads.update(_heads(self.abi, plan.arena))
        return Shown(closeups, places, heads, left_out, problems)

    def _chunks(self, start: int | None, count: int | None) -> tuple[list[Chunk], set[int], list[str], int]:
        """Return chunks, the addresses of those that are the first of a region, problems, and how many are left out."""
        plans = self._plans
        if start is not None:
            holder, region, _ = self.region_at(start)
            free = next(free for plan, free in plans if plan is holder)
            # Only in this region do the chunks behind it follow.
            plans = [(holder if holder.top_is_lost else replace(holder, regions=(region,)), free)]
        problems = list(self.problems)
        chunks: list[Chunk] = []
        left_out = 0

        def see(block: Block) -> None:
            problems.extend(block.problems)
            if block.gap is not None:
                problems.append(block.gap.why)

        for plan, free in plans:
            problems += [*plan.problems, *free.problems]
            blocks = walk_arena(self._memory, self.abi, plan, free)
            rows = Rows(self.abi, blocks, Wanted(start=start or 0), None if count is None else count - len(chunks), see)
            chunks += rows
            left_out += rows.left_out
        if start is not None and count != 0 and not (chunks and chunks[0].address <= start):
            problem = f": {problems[-1]}" if problems else ""
            raise TargetError(f"{start:#x} is in no chunk that can be found{problem or '.'}")
        firsts = {region.start for plan, _ in plans for region in plan.regions}
        return chunks, firsts, problems, left_out

    def _keys(self) -> frozenset[int]:
        """Return the values that mark a chunk as one of a tcache: tcache_key (2.34), before that the tcache itself."""
        key = session.target().tcache_key
        return frozenset(tcache.address for tcache in self._facts.tcaches) if key is None else frozenset((key,))


def _heads(abi: Abi, arena: Arena) -> Iterator[tuple[int, str]]:
    """Yield the pretended chunks that the lists of ``arena`` begin and end with."""
    for index in range(1, LAST_BIN + 1):
        yield arena.bin_header(abi, index), f"the head of bin {index} of {arena.name}"
