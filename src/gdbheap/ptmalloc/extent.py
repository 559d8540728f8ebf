"""An arena as a drawing needs it: which bytes are in which state, put together into cells of equal size.

The walk's columns are added up as they come: only the cells and the first runs are kept, so a heap of any size takes
the same memory.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import ne
from typing import NamedTuple

from gdbheap.memory import Memory
from gdbheap.ptmalloc.abi import Abi, round_down, round_up
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.chunk import (
    FASTBIN,
    FENCEPOST,
    FREE,
    LARGE,
    SMALL,
    STATES,
    TCACHE,
    TOP,
    UNSORTED,
    USED,
    state_table,
)
from gdbheap.ptmalloc.regions import Plan, Region
from gdbheap.ptmalloc.totals import ArenaTotals, careful_totals
from gdbheap.ptmalloc.walk import Block, Columns, Membership

#: What bytes can be, by number: in a chunk of one of STATES; heap_info and malloc_state; before the first or behind
#: the last chunk of a region; someone else's, between two regions; malloc's, but not known to the walk.
HEADER, ALIGNMENT, FOREIGN, UNKNOWN = range(len(STATES), len(STATES) + 4)
KINDS = (*STATES, "header", "alignment", "foreign", "unknown")
#: The kinds of free chunks, the top chunk not included.
FREE_KINDS = (TCACHE, FASTBIN, UNSORTED, SMALL, LARGE, FREE)
#: The smallest cell, in bytes; all others are it times a power of two.
LEAST_CELL = 16

_IS = tuple(state_table(state) for state in range(len(STATES)))
_IS_FREE = state_table(*FREE_KINDS)
_ALIKE = re.compile(b"|".join(re.escape(bytes([state])) + b"+" for state in range(len(STATES))), re.DOTALL)


@dataclass(frozen=True)
class Window:
    """The addresses that are looked at: from ``start`` on, up to ``end`` (None: as far as there is anything)."""

    start: int = 0
    end: int | None = None

    def clip(self, start: int, end: int) -> tuple[int, int]:
        """Return the part of a range that is looked at; it is empty where its end is not above its start."""
        return max(start, self.start), end if self.end is None else min(end, self.end)


EVERYTHING = Window()


class Run(NamedTuple):
    """Bytes of one kind (of KINDS) that follow each other, in ``chunks`` chunks (0 where they are in none)."""

    start: int
    end: int
    kind: str
    chunks: int


class Grid:
    """Cells of ``cell`` bytes each from ``origin`` on, each with the number of bytes of every kind in it.

    There are at most ``most`` of them: where more would be needed, cells become twice as large.
    """

    def __init__(self, origin: int, most: int, cell: int = LEAST_CELL) -> None:
        self.origin = origin
        self.cell = cell
        self._most = most
        self._sums: list[int] = []

    def add(self, start: int, end: int, kind: int) -> None:
        """Count the bytes from ``start`` to ``end``, which is above it; nothing may lie before ``origin``."""
        while (end - 1 - self.origin) // self.cell >= self._most:
            self._double()
        cell, sums, kinds = self.cell, self._sums, len(KINDS)
        first, last = (start - self.origin) // cell, (end - 1 - self.origin) // cell
        missing = (last + 1) * kinds - len(sums)
        if missing > 0:
            sums.extend([0] * missing)
        if first == last:
            sums[first * kinds + kind] += end - start
            return
        sums[first * kinds + kind] += self.origin + (first + 1) * cell - start
        for place in range((first + 1) * kinds + kind, last * kinds + kind, kinds):
            sums[place] += cell
        sums[last * kinds + kind] += end - self.origin - last * cell

    def add_chunks(self, edges: Sequence[int], sizes: Sequence[int], states: bytes) -> None:
        """Count chunks that follow each other: they begin at ``edges``, which has where the last one ends besides.

        What lies in one cell is summed up at once: a cell of a large heap holds thousands of chunks.
        """
        while (edges[-1] - 1 - self.origin) // self.cell >= self._most:
            self._double()
        cell, kinds, count = self.cell, len(KINDS), len(states)
        place = 0
        while place < count:
            index = (edges[place] - self.origin) // cell
            boundary = self.origin + (index + 1) * cell
            stop = bisect_right(edges, boundary, place) - 1  # up to here they end within the cell
            if stop > place:
                missing = (index + 1) * kinds - len(self._sums)
                if missing > 0:
                    self._sums.extend([0] * missing)
                inside = states[place:stop]
                for kind, size in _sizes_by_kind(sizes[place:stop], inside, edges[stop] - edges[place]):
                    self._sums[index * kinds + kind] += size
            if stop < count and edges[stop] < boundary:
                self.add(edges[stop], edges[stop + 1], states[stop])
                stop += 1
            place = stop

    def _double(self) -> None:
        sums, kinds = self._sums, len(KINDS)
        sums.extend([0] * (-len(sums) % (2 * kinds)))
        joined = [0] * (len(sums) // 2)
        for kind in range(kinds):
            joined[kind::kinds] = map(int.__add__, sums[kind :: 2 * kinds], sums[kinds + kind :: 2 * kinds])
        self._sums = joined
        self.cell *= 2

    def coarsened(self, cell: int) -> Grid:
        """Return the same in cells of ``cell`` bytes: this grid's times a power of two."""
        found = Grid(self.origin, self._most, self.cell)
        found._sums = list(self._sums)
        while found.cell < cell:
            found._double()
        return found

    def cells(self) -> Iterator[tuple[int, ...]]:
        """Yield for each cell its bytes by kind, in the order of KINDS; they may add up to less than a cell."""
        kinds = len(KINDS)
        for place in range(0, len(self._sums), kinds):
            yield tuple(self._sums[place : place + kinds])


def _sizes_by_kind(sizes: Sequence[int], states: bytes, total: int) -> Iterator[tuple[int, int]]:
    """Yield for each state that occurs the bytes of its chunks; ``total`` are those of all chunks."""
    first = states[0]
    if states.count(first) != len(states):
        for state in set(states) - {first}:
            size = sum(compress(sizes, states.translate(_IS[state])))
            total -= size
            yield state, size
    yield first, total


@dataclass(frozen=True)
class Area:
    """One region of an arena, or the part of it that is looked at.

    ``address`` is the region's. What is drawn goes from ``start`` to ``end``; ``sizes`` (bytes) and ``counts``
    (chunks, those included that are only partly inside) are by kind, in the order of KINDS. ``runs`` are the first
    ones; ``runs_left_out`` is how many follow. ``behind_damage`` is set for the rest of a region behind a place where
    the walk had stopped.
    """

    kind: str
    address: int
    start: int
    end: int
    sizes: Sequence[int]
    counts: Sequence[int]
    runs: tuple[Run, ...]
    runs_left_out: int
    grid: Grid
    behind_damage: bool = False

    def cells_of(self, cell: int) -> int:
        """Return how many cells of ``cell`` bytes there are."""
        return -(-(self.end - self.grid.origin) // cell)


class Spot(NamedTuple):
    """One chunk that is pointed out: ``state`` is one of STATES, ``size`` is in bytes."""

    address: int
    size: int
    state: str


@dataclass(frozen=True)
class ArenaMap:
    """An arena to be drawn.

    ``areas`` are its regions as far as they are looked at; the rest is always about all of the arena. ``free`` is the
    bytes of free chunks that were met, ``largest`` the largest of those chunks. ``free_below`` are those of the bytes
    that the walk met before ``last_used``, the last chunk that the program has: both are None where not all of the
    arena could be walked. ``below_top`` is the chunk right below the top chunk. A Spot is None where there is none.
    """

    arena: Arena
    areas: tuple[Area, ...]
    totals: ArenaTotals
    free: int
    free_below: int | None
    largest: Spot | None
    last_used: Spot | None
    below_top: Spot | None


class _AreaBuilder:
    """One area while the walk goes through it, in ascending order."""

    def __init__(self, region: Region, grid: Grid, window: Window, most_runs: int) -> None:
        self.region = region
        self._counts = [0] * len(KINDS)
        self._grid = grid
        self._window = window
        self._most_runs = most_runs
        self._runs: list[Run] = []
        self._runs_left_out = 0
        self._last_kind: int | None = None
        self._start: int | None = None
        self._end = 0

    def run(self, start: int, end: int, kind: int) -> None:
        """Add bytes that are in no chunk."""
        low, high = self._clip(start, end)
        if low < high:
            self._grid.add(low, high, kind)
            self._note(low, high, kind, 0)

    def chunks(self, columns: Columns, states: bytes) -> None:
        """Add chunks that follow each other, as far as they are looked at."""
        addresses = columns.addresses
        low, high = self._clip(addresses[0], addresses[-1] + columns.sizes[-1])
        first, behind = bisect_right(addresses, low) - 1, bisect_left(addresses, high)
        if low >= high:
            return
        sizes, inside = columns.sizes[first:behind], states[first:behind]
        edges = [*addresses[first:behind], addresses[behind - 1] + sizes[-1]]
        if edges[0] < low or edges[-1] > high:  # only a part of the first or of the last one
            edges[0], edges[-1] = max(edges[0], low), min(edges[-1], high)
            sizes[0] = edges[1] - edges[0]
            sizes[-1] = edges[-1] - edges[-2]
        for kind in set(inside):
            self._counts[kind] += inside.count(kind)
        self._grid.add_chunks(edges, sizes, inside)
        for alike in _ALIKE.finditer(inside):
            begin, end = alike.span()
            self._note(edges[begin], edges[end], inside[begin], end - begin)
            if len(self._runs) >= self._most_runs:
                self._runs_left_out += sum(map(ne, inside[end - 1 :], inside[end:]))
                self._last_kind = inside[-1]
                break
        self._end = high

    def _clip(self, start: int, end: int) -> tuple[int, int]:
        # Where a corrupt heap claims bytes twice, they are what they were called first.
        return self._window.clip(max(start, self._end), end)

    def _note(self, start: int, end: int, kind: int, chunks: int) -> None:
        if self._start is None:
            self._start = start
        if kind == self._last_kind and start == self._end:
            if not self._runs_left_out and self._runs:
                last = self._runs[-1]
                self._runs[-1] = last._replace(end=end, chunks=last.chunks + chunks)
        elif len(self._runs) < self._most_runs:
            self._runs.append(Run(start, end, KINDS[kind], chunks))
        else:
            self._runs_left_out += 1
        self._last_kind, self._end = kind, end

    def area(self) -> Area | None:
        """Return the finished area, None where nothing of it is looked at."""
        if self._start is None:
            return None
        return Area(
            self.region.kind,
            self.region.address,
            self._start,
            self._end,
            tuple(map(sum, zip(*self._grid.cells()))),
            tuple(self._counts),
            tuple(self._runs),
            self._runs_left_out,
            self._grid,
            self.region.resumed,
        )


class _Builder:
    """Takes the blocks of an arena's walk, and keeps what a drawing needs."""

    def __init__(self, abi: Abi, arena: Arena, window: Window, most_cells: int, most_runs: int) -> None:
        self._abi = abi
        self._arena = arena
        self._window = window
        self._most_cells = most_cells
        self._most_runs = most_runs
        self._areas: list[Area] = []
        self._current: _AreaBuilder | None = None
        self._memory_end: int | None = None
        self._free = self._free_below = 0
        self._largest: Spot | None = None
        self._last_used: Spot | None = None
        self._below_top: Spot | None = None

    def add(self, block: Block) -> None:
        columns, states = block.columns, block.states
        current = self._area_of(columns.region)
        if block.gap is not None:
            if block.gap.start is not None:
                current.run(block.gap.start, block.gap.end, FOREIGN if block.gap.foreign else UNKNOWN)
            return
        if columns.ending is not None:
            self._memory_end = columns.ending.end
        if not states or (states[0] == TOP and not self._is_sound_top(columns)):
            return
        current.chunks(columns, states)
        end = columns.addresses[-1] + columns.sizes[-1]
        if states[-1] == FENCEPOST and self._memory_end is not None:
            current.run(end, self._memory_end, ALIGNMENT)
        if states[0] not in (TOP, FENCEPOST):
            self._look(columns, states)

    def _area_of(self, region: Region) -> _AreaBuilder:
        if self._current is not None and self._current.region is region:
            return self._current
        self._finish()
        origin, _ = self._window.clip(region.address, region.address)
        aligned = LEAST_CELL if origin != region.address else self._abi.page_size
        grid = Grid(round_down(origin, aligned), self._most_cells)
        current = self._current = _AreaBuilder(region, grid, self._window, self._most_runs)
        current.run(region.address, region.address + region.header, HEADER)
        current.run(region.address + region.header, region.start, ALIGNMENT)
        return current

    def _is_sound_top(self, columns: Columns) -> bool:
        """Whether a top chunk has a size that can be drawn; where it has not, the plan has said so."""
        return self._abi.min_size <= columns.sizes[0] <= self._arena.system_mem

    def _look(self, columns: Columns, states: bytes) -> None:
        addresses, sizes = columns.addresses, columns.sizes
        last = states.rfind(USED)
        if last >= 0:
            self._last_used = Spot(addresses[last], sizes[last], STATES[USED])
            self._free_below = self._free
        if columns.ending is not None and columns.ending.at_top:
            self._below_top = Spot(addresses[-1], sizes[-1], STATES[states[-1]])
        marks = states.translate(_IS_FREE)
        free = list(compress(sizes, marks))
        if not free:
            return
        self._free += sum(free)
        if last >= 0:
            self._free_below += sum(compress(sizes, marks[: last + 1]))
        largest = max(free)
        if self._largest is None or largest > self._largest.size:
            place = list(compress(range(len(states)), marks))[free.index(largest)]
            self._largest = Spot(addresses[place], largest, STATES[states[place]])

    def _finish(self) -> None:
        area = None if self._current is None else self._current.area()
        if area is not None:
            self._areas.append(area)

    def result(self, found: ArenaTotals) -> ArenaMap:
        self._finish()
        return ArenaMap(
            self._arena,
            tuple(self._areas),
            found,
            self._free,
            self._free_below if found.complete else None,
            self._largest,
            self._last_used if found.complete else None,
            self._below_top,
        )


def map_arena(
    memory: Memory,
    abi: Abi,
    plan: Plan,
    free: Membership,
    window: Window = EVERYTHING,
    *,
    most_cells: int = 1 << 12,
    most_runs: int = 0,
) -> ArenaMap:
    """Walk an arena and return what a drawing of it needs.

    Each area gets at most ``most_cells`` cells, and keeps its first ``most_runs`` runs.
    """
    builder = _Builder(abi, plan.arena, window, most_cells, most_runs)
    found = careful_totals(memory, abi, plan, free, builder.add)
    return builder.result(found)


def common_cell(areas: Sequence[Area], width: int, rows: int) -> int:
    """Return the smallest cell, in bytes, with which all areas fit into ``rows`` rows of ``width`` cells.

    Each area begins a row of its own, so there are at least as many rows as areas.
    """
    cell = max((area.grid.cell for area in areas), default=LEAST_CELL)
    while sum(round_up(area.cells_of(cell), width) // width for area in areas) > max(rows, len(areas)):
        cell *= 2
    return cell


def region_of(plans: Sequence[Plan], address: int) -> tuple[Plan, Region, int] | None:
    """Return the plan and the region that hold ``address``, and where that region ends at the latest; None for none."""
    for plan in plans:
        for region in plan.regions:
            end = _latest_end(plan, region)
            if region.address <= address < end:
                return plan, region, end
    return None


def may_hold(plan: Plan, window: Window) -> bool:
    """Return whether any region of an arena can have bytes in ``window``."""
    if plan.top_is_lost:
        return True  # where its region begins is only found by walking
    for region in plan.regions:
        start, end = window.clip(region.address, _latest_end(plan, region))
        if start < end:
            return True
    return False


def _latest_end(plan: Plan, region: Region) -> int:
    if region.top is not None:
        size = plan.arena.top_size
        return region.top + (size if size is not None and size <= plan.arena.system_mem else 0)
    if region.end is not None:
        return region.end
    return region.limit if region.following is None else region.following
