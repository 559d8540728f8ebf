"""What is drawn of an arena: every byte falls into one cell, once, under the name that its chunk has."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbheap.memory import Memory, Snapshot
from gdbheap.ptmalloc.arena import read_arena, read_arenas
from gdbheap.ptmalloc.bins import read_free_lists
from gdbheap.ptmalloc.extent import (
    EVERYTHING,
    FREE_KINDS,
    KINDS,
    LEAST_CELL,
    ArenaMap,
    Grid,
    Window,
    common_cell,
    map_arena,
    may_hold,
    region_of,
)
from gdbheap.ptmalloc.heaps import HeapChain
from gdbheap.ptmalloc.params import read_params
from gdbheap.ptmalloc.regions import Plan, regions
from gdbheap.ptmalloc.tcache import read_tcache
from gdbheap.ptmalloc.totals import totals
from gdbheap.ptmalloc.walk import Membership, membership
from tests.support.heap_image import LAYOUTS, MAIN_BASE, Image, Row, main_heap
from tests.unit.test_ptmalloc_properties import pieces

EVERY = sorted(LAYOUTS)
FREE = {KINDS[kind] for kind in FREE_KINDS}


def planned(image: Image, known_starts: Sequence[int] = ()) -> tuple[Memory, Plan, Membership]:
    """Return what the walk of main_arena needs."""
    memory, abi, layout = image.memory, image.abi, image.layout
    arena = read_arena(memory, abi, layout, image.MAIN_ARENA, 0)
    params = read_params(memory, abi, layout, image.MP)
    cache = read_tcache(memory, abi, layout, abi.first_chunk(params.get("sbrk_base")) + abi.header, image.safe_linking)
    free = membership(read_free_lists(memory, abi, layout, arena, image.safe_linking), [cache])
    return memory, regions(abi, layout, params, arena, HeapChain(()), known_starts), free


def mapped(image: Image, window: Window = EVERYTHING, most_cells: int = 1 << 12, most_runs: int = 1 << 20) -> ArenaMap:
    memory, plan, free = planned(image)
    return map_arena(memory, image.abi, plan, free, window, most_cells=most_cells, most_runs=most_runs)


def overlap(rows: Sequence[Row], start: int, end: int) -> dict[str, int]:
    """Return how many bytes of each state lie between two addresses, from the rows that were laid out."""
    found = dict.fromkeys(KINDS, 0)
    for row in rows:
        found[row.state] += max(min(row.address + row.size, end) - max(row.address, start), 0)
    return found


@given(st.data())
def test_every_byte_is_in_its_cell(data: st.DataObject) -> None:
    """Whatever the size of the cells: each has the bytes of the chunks that were laid out there, and no others."""
    version, bits = data.draw(st.sampled_from(EVERY))
    image = Image(version, bits)
    rows = main_heap(image, data.draw(pieces(version, bits)))
    most = data.draw(st.integers(1, 300))
    first = rows[0].address
    window = EVERYTHING
    if data.draw(st.booleans()):
        start = first + data.draw(st.integers(-40, 4000))
        window = Window(start, data.draw(st.one_of(st.none(), st.integers(1, 9000).map(lambda size: start + size))))
    drawn = mapped(image, window, most_cells=most)
    end = rows[-1].address + rows[-1].size
    low, high = window.clip(MAIN_BASE, end)
    if low >= high:
        assert not drawn.areas
        return
    (area,) = drawn.areas
    assert (area.start, area.end) == (low, high)
    wanted = overlap(rows, low, high)
    wanted["alignment"] = max(min(first, high) - low, 0)
    assert dict(zip(KINDS, area.sizes)) == wanted
    assert sum(area.sizes) == high - low
    cells = list(area.grid.cells())
    assert len(cells) <= most
    assert area.grid.cell % LEAST_CELL == 0
    for place, cell in enumerate(cells):
        begin = area.grid.origin + place * area.grid.cell
        inside = overlap(rows, max(begin, low), min(begin + area.grid.cell, high))
        inside["alignment"] = max(min(first, begin + area.grid.cell, high) - max(begin, low), 0)
        assert dict(zip(KINDS, cell)) == inside
    touched = [row for row in rows if row.address < high and row.address + row.size > low]
    assert dict(zip(KINDS, area.counts)) == {kind: sum(row.state == kind for row in touched) for kind in KINDS}


@given(st.data())
def test_the_sums_are_those_of_heap(data: st.DataObject) -> None:
    """Each state's bytes and chunks are what totals says, and the runs lie end to end."""
    version, bits = data.draw(st.sampled_from(EVERY))
    image = Image(version, bits)
    rows = main_heap(image, data.draw(pieces(version, bits)))
    memory, plan, free = planned(image)
    summed = totals(memory, image.abi, plan, free)
    drawn = mapped(image)
    assert drawn.totals == summed
    (area,) = drawn.areas
    for place, kind in enumerate(KINDS):
        if kind in summed.sizes:
            assert (area.sizes[place], area.counts[place]) == (summed.sizes[kind], summed.counts[kind])
    edges = [area.start]
    for run in area.runs:
        assert run.start == edges[-1]
        edges.append(run.end)
    assert edges[-1] == area.end
    assert all(one.kind != other.kind for one, other in zip(area.runs, area.runs[1:]))
    assert sum(run.chunks for run in area.runs) == len(rows)
    few = mapped(image, most_runs=3).areas[0]
    assert few.runs == area.runs[:3]
    assert few.runs_left_out == len(area.runs) - len(few.runs)


@given(st.data())
def test_what_is_pointed_out(data: st.DataObject) -> None:
    """The largest free chunk, the last used one, what is free below that, and the chunk below top."""
    image = Image()
    rows = main_heap(image, data.draw(pieces("2.36", 64)))
    drawn = mapped(image)
    free = [row for row in rows if row.state in FREE]
    used = [row for row in rows if row.state == "used"]
    assert drawn.free == sum(row.size for row in free)
    assert drawn.last_used is not None
    assert (drawn.last_used.address, drawn.last_used.size) == (used[-1].address, used[-1].size)
    assert drawn.free_below == sum(row.size for row in free if row.address < used[-1].address)
    assert drawn.below_top is not None
    assert drawn.below_top == (rows[-2].address, rows[-2].size, rows[-2].state)
    if free:
        assert drawn.largest is not None
        assert drawn.largest.size == max(row.size for row in free)
        assert Row(drawn.largest.address, drawn.largest.size, drawn.largest.state) in free
    else:
        assert drawn.largest is None


@given(st.data())
def test_no_damage_makes_the_drawing_fail(data: st.DataObject) -> None:
    """A wrecked heap is drawn as far as it goes: no byte twice, no more cells than were allowed."""
    version, bits = data.draw(st.sampled_from(EVERY))
    image = Image(version, bits)
    rows = main_heap(image, data.draw(pieces(version, bits)))
    word = image.abi.word_size
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(
            st.one_of(
                st.sampled_from(rows).map(lambda row: row.address + word),
                st.integers(0, image.layout.state.size // word - 1).map(lambda index: image.MAIN_ARENA + index * word),
            )
        )
        image.word(place, data.draw(st.one_of(st.integers(0, 0x2000), st.integers(0, (1 << bits) - 1))))
    drawn = mapped(image, most_cells=64)
    for area in drawn.areas:
        cells = list(area.grid.cells())
        assert len(cells) <= 64
        assert tuple(sum(column) for column in zip(*cells)) == area.sizes
        assert sum(area.sizes) <= area.end - area.start
        assert all(one.end <= other.start for one, other in zip(area.runs, area.runs[1:]))


def test_where_the_walk_stops_the_rest_is_unknown() -> None:
    image = Image()
    rows = main_heap(image, [(0x100, "used"), (0x200, "unsorted"), (0x300, "used"), (0x40, "used")])
    image.word(rows[3].address + 8, 0x7)
    drawn = mapped(image)
    (area,) = drawn.areas
    sizes = dict(zip(KINDS, area.sizes))
    assert sizes["unknown"] == 0x300 + 0x40
    assert area.runs[-2][:3] == (rows[3].address, rows[-1].address, "unknown")
    assert area.runs[-1].kind == "top"
    assert any(f"{rows[3].address:#x}" in gap.why for gap in drawn.totals.gaps)
    assert (drawn.last_used, drawn.free_below) == (None, None)


@pytest.mark.parametrize("size", [0, 0x10, 1 << 63, (1 << 64) - 8])
def test_a_top_chunk_of_no_possible_size_is_not_drawn(size: int) -> None:
    image = Image()
    rows = main_heap(image, [(0x100, "used")])
    image.word(rows[-1].address + 8, size | 1)
    drawn = mapped(image)
    assert [run.kind for run in drawn.areas[0].runs] == ["used"]
    assert drawn.areas[0].end == rows[-1].address
    assert any("The top chunk" in problem for problem in drawn.totals.problems)


def two_regions() -> tuple[Image, int]:
    """Return a main_arena whose break someone else moved, and where its second region begins."""
    image = Image()
    image.map(MAIN_BASE, 0x4000)
    posts = MAIN_BASE + 0x1000 - 0x20
    tcache, _ = image.tcache_piece
    image.chunks(
        MAIN_BASE,
        [(tcache, "used"), (posts - MAIN_BASE - tcache, "used"), (0x10, "fencepost"), (0x10, "fencepost")],
    )
    second = MAIN_BASE + 0x2800
    rows = image.chunks(second, [(0x400, "used"), (0x1400, "top")])
    image.par(sbrk_base=MAIN_BASE)
    image.arena(image.MAIN_ARENA, rows, system_mem=0x4000, max_system_mem=0x4000)
    return image, second


def test_a_foreign_gap_is_drawn_as_one() -> None:
    image, second = two_regions()
    memory, plan, free = planned(image, [second])
    drawn = map_arena(memory, image.abi, plan, free, most_runs=99)
    runs = [(run.start, run.end, run.kind) for area in drawn.areas for run in area.runs]
    assert runs == [
        (MAIN_BASE, MAIN_BASE + 0xFE0, "used"),
        (MAIN_BASE + 0xFE0, MAIN_BASE + 0x1000, "fencepost"),
        (MAIN_BASE + 0x1000, second, "foreign"),
        (second, second + 0x400, "used"),
        (second + 0x400, MAIN_BASE + 0x4000, "top"),
    ]
    found = region_of([plan], second + 0x10)
    assert found is not None
    assert found[1:] == (plan.regions[1], MAIN_BASE + 0x4000)
    assert region_of([plan], MAIN_BASE + 0x4000) is None
    assert region_of([plan], MAIN_BASE - 1) is None
    assert may_hold(plan, Window(MAIN_BASE + 0x3FFF))
    assert may_hold(plan, Window(0, MAIN_BASE + 1))
    assert not may_hold(plan, Window(MAIN_BASE + 0x4000))
    assert not may_hold(plan, Window(0, MAIN_BASE))
    # Both share one scale, and each begins a row.
    assert [common_cell(drawn.areas, 16, rows) for rows in (1, 2, 3, 4)] == [1024, 1024, 512, 512]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 2000), st.integers(0, len(KINDS) - 1)), max_size=40),
       st.integers(1, 50))  # fmt: skip
def test_a_grid_keeps_every_byte(parts: list[tuple[int, int, int]], most: int) -> None:
    grid = Grid(0x1000, most)
    position, sizes = 0x1000, [0] * len(KINDS)
    for skipped, size, kind in parts:
        grid.add(position + skipped, position + skipped + size, kind)
        sizes[kind] += size
        position += skipped + size
    for shown in (grid, grid.coarsened(grid.cell * 8)):
        cells = list(shown.cells())
        assert len(cells) <= most
        assert all(sum(cell) <= shown.cell for cell in cells)
        assert [sum(cell[kind] for cell in cells) for kind in range(len(KINDS))] == sizes


class Repeated:
    """The memory of a heap of a great many chunks of 0x20 bytes that is never in one piece: every other one is free."""

    def __init__(self, image: Image, base: int, size: int) -> None:
        self._rest: Snapshot = image.memory
        self._base, self._end = base, base + size
        self._unit = b"".join(word.to_bytes(8, "little") for word in (0, 0x21, 0, 0, 0x20, 0x20, 0, 0))

    def read(self, address: int, size: int) -> bytes:
        if not (self._base <= address and address + size <= self._end):
            return self._rest.read(address, size)
        skipped = (address - self._base) % len(self._unit)
        return (self._unit * ((size + skipped) // len(self._unit) + 1))[skipped : skipped + size]


def test_memory_is_bounded() -> None:
    """Of many chunks no more is kept than of few, once a block of them is full: here each is a run of its own."""

    def peak(pairs: int) -> int:
        image = Image()
        size = 0x40 * pairs
        top = MAIN_BASE + size
        image.map(top, 0x1000)
        image.word(top + 8, 0x1001)
        image.par(sbrk_base=MAIN_BASE)
        whole = size + 0x1000
        image.arena(image.MAIN_ARENA, [Row(top, 0x1000, "top")], system_mem=whole, max_system_mem=whole)
        memory = Repeated(image, MAIN_BASE, size)
        arena = read_arenas(memory, image.abi, image.layout, image.MAIN_ARENA).arenas[0]
        params = read_params(memory, image.abi, image.layout, image.MP)
        plan = regions(image.abi, image.layout, params, arena, HeapChain(()))
        tracemalloc.start()
        drawn = map_arena(memory, image.abi, plan, Membership((), b""), most_cells=1 << 10, most_runs=100)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert drawn.areas[0].runs_left_out == 2 * pairs + 1 - 100
        assert sum(drawn.areas[0].sizes) == whole
        return most

    assert peak(1 << 16) < 1.2 * peak(1 << 15)
