"""The walk: sound heaps walk back to what was laid out, odd ones are no corruption, broken ones say where and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from gdbheap.memory import Snapshot
from gdbheap.ptmalloc.abi import round_up
from gdbheap.ptmalloc.arena import Arena, read_arena
from gdbheap.ptmalloc.bins import read_free_lists
from gdbheap.ptmalloc.chunk import Chunk, flag_names
from gdbheap.ptmalloc.heaps import read_heaps
from gdbheap.ptmalloc.params import read_params
from gdbheap.ptmalloc.regions import Gap, Plan, regions
from gdbheap.ptmalloc.rows import Rows, Wanted
from gdbheap.ptmalloc.tcache import read_tcache
from gdbheap.ptmalloc.totals import ArenaTotals, Tally, careful_totals, totals
from gdbheap.ptmalloc.walk import Membership, membership, walk_arena, walk_region
from tests.support.heap_image import LAYOUTS, MAIN_BASE, Image, Row, main_heap

EVERY = sorted(LAYOUTS)
MIXED = [
    (0x40, "used"), (0x200, "unsorted"), (0x40, "tcache"), (0x60, "small"), (0x40, "tcache"), (0x800, "large"),
    (0x50, "used"), (0x300, "unsorted"), (0x20, "used"), (0x30, "used"),
]  # fmt: skip
HEAP = 0x7000_0000


@dataclass
class Walked:
    """All that a walk gives."""

    arena: Arena
    plan: Plan
    free: Membership
    rows: list[Row]
    totals: ArenaTotals


def walked(
    image: Image, arena_address: int = Image.MAIN_ARENA, known: Sequence[int] = (), cache: int | None = None
) -> Walked:
    memory, abi, layout = image.memory, image.abi, image.layout
    arena = read_arena(memory, abi, layout, arena_address, 0 if arena_address == image.MAIN_ARENA else 1)
    params = read_params(memory, abi, layout, image.MP)
    lists = read_free_lists(memory, abi, layout, arena, image.safe_linking)
    caches = [] if cache is None else [read_tcache(memory, abi, layout, cache, image.safe_linking)]
    free = membership(lists, caches)
    plan = regions(abi, layout, params, arena, read_heaps(memory, abi, layout, params, arena), known)
    rows = [Row(chunk.address, chunk.size, chunk.state) for chunk in Rows(abi, walk_arena(memory, abi, plan, free))]
    found = totals(memory, abi, plan, free)
    assert found == careful_totals(memory, abi, plan, free)
    return Walked(arena, plan, free, rows, found)


def by_state(rows: Sequence[Row]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for row in rows:
        sums[row.state] = sums.get(row.state, 0) + row.size
    return sums


def assert_sound(found: Walked, rows: Sequence[Row]) -> None:
    assert found.totals.problems == ()
    assert found.rows == list(rows)
    assert {state: size for state, size in found.totals.sizes.items() if size} == by_state(rows)
    assert found.totals.complete
    assert found.totals.unaccounted == 0
    assert not found.totals.gaps


@pytest.mark.parametrize("little", [True, False])
@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_a_sound_heap_walks_back(version: str, bits: int, little: bool) -> None:
    image = Image(version, bits, little=little)
    fast = [] if version == "2.43" else [(0x20, "fastbin"), (0x20, "used"), (0x20, "fastbin")]
    rows = main_heap(image, MIXED + fast)
    found = walked(image, cache=rows[0].address + image.abi.header)
    assert_sound(found, rows)
    assert found.totals.alignment == (0 if bits == 64 else 8)
    assert found.totals.overhead == found.totals.alignment
    assert found.totals.counts["top"] == 1


@pytest.mark.parametrize("block", [1, 0x40, 0x100, 0x1000])
@pytest.mark.parametrize("bits", [64, 32])
def test_the_size_of_blocks_changes_nothing(block: int, bits: int) -> None:
    image = Image("2.36", bits)
    main_heap(image, [piece for piece in MIXED * 20 if piece[1] != "tcache"])
    found = walked(image)
    region = found.plan.regions[0]
    whole = list(walk_region(image.memory, image.abi, region))
    parts = list(walk_region(image.memory, image.abi, region, block))
    assert len(parts) > len(whole)
    for column in ("addresses", "words", "sizes"):
        joined = [[value for part in walk for value in getattr(part, column)] for walk in (whole, parts)]
        assert joined[0] == joined[1]
    assert parts[-1].ending == whole[-1].ending
    assert [part.ending for part in parts[:-1]] == [None] * (len(parts) - 1)


@pytest.mark.parametrize("offset", [0xD00, 0xD08])
def test_a_static_program_begins_anywhere(offset: int) -> None:
    image = Image()
    rows = main_heap(image, MIXED, base=MAIN_BASE + offset)
    found = walked(image, cache=rows[0].address + 16)
    assert_sound(found, rows)
    assert found.totals.alignment == offset % 16


def test_before_the_first_memory_there_is_nothing_to_walk() -> None:
    image = Image()
    found = walked(image)
    assert not found.rows
    assert not found.plan.regions
    assert (found.totals.accounted, found.totals.unaccounted, found.totals.complete) == (0, 0, True)


# Odd but sound: a foreign sbrk


def foreign(image: Image, pieces: list[tuple[int, str]], remainder: int, hole: int) -> tuple[list[Row], int]:
    """Write a main heap whose break someone else moved by ``hole`` bytes; return all rows and where malloc went on."""
    abi = image.abi
    start = abi.first_chunk(MAIN_BASE)
    size = sum(size for size, _ in pieces) + start - MAIN_BASE
    end = round_up(size + remainder + 2 * abi.header, abi.page_size) + MAIN_BASE
    tail = end - MAIN_BASE - size - remainder - 2 * abi.header
    filler = tail - tail % abi.alignment
    before = [*pieces, (filler, "used")] if filler else pieces
    lost = [(remainder, "fencepost")] if 0 < remainder < abi.min_size else [(remainder, "used")] if remainder else []
    restart = end + hole
    last = round_up(restart + 0x3000, abi.page_size)
    image.map(MAIN_BASE, last - MAIN_BASE, fill=0x5A)
    rows = image.chunks(start, [*before, *lost, (abi.header, "fencepost"), (abi.header, "fencepost")])
    first = abi.first_chunk(restart)
    after = [(0x100, "used"), (0x40, "used")]
    behind = image.chunks(first, [*after, (last - first - 0x140, "top")])
    image.par(sbrk_base=MAIN_BASE)
    image.arena(image.MAIN_ARENA, [*rows, *behind], system_mem=last - MAIN_BASE)
    return [*rows, *behind], restart


CASES = [(64, 0), (64, 16), (64, 0x40), (32, 0), (32, 0x40)]


@pytest.mark.parametrize("hole", [0x1000, 0x10, 0])
@pytest.mark.parametrize(("bits", "remainder"), CASES)
def test_a_foreign_sbrk_with_the_start_known(bits: int, remainder: int, hole: int) -> None:
    image = Image("2.36", bits)
    rows, restart = foreign(image, [(0x40, "used"), (0x90, "used")], remainder, hole)
    found = walked(image, known=[restart])
    assert_sound(found, rows)
    assert found.totals.foreign == hole
    posts = [row for row in rows if row.state == "fencepost"]
    assert found.totals.counts["fencepost"] == len(posts) == (3 if remainder == 16 else 2)


@pytest.mark.parametrize(("bits", "remainder"), CASES)
def test_a_foreign_sbrk_leaves_a_gap(bits: int, remainder: int) -> None:
    image = Image("2.36", bits)
    rows, restart = foreign(image, [(0x40, "used"), (0x90, "used")], remainder, 0x1000)
    found = walked(image)
    top = rows[-1]
    assert found.totals.problems == ()
    assert found.rows == [row for row in rows if row.address < restart] + [top]
    assert not found.totals.complete
    (gap,) = found.totals.gaps
    assert (gap.start, gap.end, gap.foreign) == (restart - 0x1000, top.address, False)
    assert f"moved the break at {restart - 0x1000:#x}" in gap.why
    assert found.totals.unaccounted == gap.end - (gap.start or 0)


def test_two_headers_in_the_middle_of_a_page_are_no_fenceposts() -> None:
    image = Image()
    rows, _ = foreign(image, [(0x40, "used"), (0x90, "used")], 0, 0x1000)
    image.word(rows[1].address + 8, 0x11)
    image.word(rows[1].address + 0x18, 0x11)
    found = walked(image)
    assert "is 0x11; the size should be a multiple of 0x10, at least 0x20" in found.totals.problems[0]
    assert f"{rows[1].address:#x}" in found.totals.problems[0]


def test_one_fencepost_is_not_enough() -> None:
    image = Image()
    rows, _ = foreign(image, [(0x40, "used"), (0x90, "used")], 0, 0x1000)
    posts = [row for row in rows if row.state == "fencepost"]
    image.word(posts[1].address + 8, 0x10)
    assert f"{posts[0].address:#x} is 0x11" in walked(image).totals.problems[0]


# Odd but sound: mmap in the place of brk


def replaced(image: Image, at: int, lengths: tuple[int, int] = (0x2000, 0x100000)) -> list[Row]:
    """Write a main_arena that went on in a mapping at ``at`` because brk failed; return all rows."""
    abi = image.abi
    start, first = abi.first_chunk(MAIN_BASE), abi.first_chunk(at)
    posts = [(abi.header, "fencepost")] * 2
    length = lengths[0] - (start - MAIN_BASE) - 2 * abi.header
    length -= length % abi.alignment
    image.map(MAIN_BASE, lengths[0])
    image.map(at, lengths[1])
    rows = image.chunks(start, [(0x40, "used"), (length - 0x40, "used"), *posts])
    behind = image.chunks(first, [(0x500, "used"), (0x60, "used"), (at + lengths[1] - first - 0x560, "top")])
    image.par(sbrk_base=MAIN_BASE)
    image.arena(image.MAIN_ARENA, [*rows, *behind], flags=2, system_mem=sum(lengths))
    return [*rows, *behind]


@pytest.mark.parametrize("bits", [64, 32])
def test_a_mapping_in_the_place_of_brk_is_deduced(bits: int) -> None:
    image = Image("2.36", bits)
    rows = replaced(image, 0x6000_0000)
    assert_sound(walked(image), rows)
    assert_sound(walked(image, known=[0x6000_0000]), rows)


def test_a_mapping_below_the_break_needs_a_known_start() -> None:
    image = Image()
    rows = replaced(image, 0x1800_0000)
    assert_sound(walked(image, known=[0x1800_0000]), [*rows[4:], *rows[:4]])
    found = walked(image)
    assert found.rows == [rows[-1], *rows[:4]]
    assert found.totals.gaps == (
        Gap(None, rows[-1].address, "Where the region of the top chunk at 0x18000560 begins is not known.", False),
    )


def test_a_rest_that_does_not_lead_to_top_is_not_believed() -> None:
    image = Image()
    rows = replaced(image, 0x6000_0000)
    image.field(image.layout.state, image.MAIN_ARENA, "system_mem", 0x102000 - 0x20)
    found = walked(image)
    assert found.rows == [*rows[:4], rows[-1]]
    assert not found.totals.complete


# Other arenas


def thread_arena(image: Image, pieces: list[tuple[int, str]], remainder: int = -1, heaps: int = 1) -> list[Row]:
    """Write arena 1 with one heap, or more, where ``remainder`` bytes of each old top were left; return all rows."""
    abi, layout = image.abi, image.layout
    assert layout.heap_info is not None
    step = 64 << 20 if abi.word_size == 8 else 1 << 20
    arena = HEAP + layout.heap_info.size
    rows: list[Row] = []
    previous = 0
    for number in range(heaps):
        heap = HEAP + number * step
        image.map(heap, 0x4000)
        image.heap(heap, arena, previous, 0x4000)
        previous = heap
        start = abi.first_chunk(arena + layout.state.size if number == 0 else heap + layout.heap_info.size)
        address = start + sum(size for size, _ in pieces)
        if number == heaps - 1:
            rows += image.chunks(start, [*pieces, (heap + 0x4000 - address, "top")], main=False)
            break
        rows += image.chunks(start, pieces, main=False)
        # As sysmalloc closes an old top chunk: what is below MINSIZE becomes part of the first fencepost.
        room = heap + 0x4000 - address
        kept = (room - abi.min_size) // abi.alignment * abi.alignment
        filler = kept - remainder
        rows += image.chunks(address, [(filler, "used")], main=False)
        address += filler
        if remainder >= abi.min_size:
            rows += image.chunks(address, [(remainder, "used")], main=False)
            address, remainder_left = address + remainder, 0
        else:
            remainder_left = remainder
        first = remainder_left + abi.header
        image.word(address + abi.word_size, first | 1)
        image.word(address + first + abi.word_size, 1)
        rows += [Row(address, first, "fencepost"), Row(address + first, abi.header, "fencepost")]
    system_mem = 0x4000 * heaps
    image.arena(arena, rows, flags=2, next=image.MAIN_ARENA, system_mem=system_mem)
    image.arena(image.MAIN_ARENA, [], next=arena)
    return rows


def arena_of(image: Image) -> int:
    assert image.layout.heap_info is not None
    return HEAP + image.layout.heap_info.size


@pytest.mark.parametrize("little", [True, False])
@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_the_heap_of_a_thread(version: str, bits: int, little: bool) -> None:
    image = Image(version, bits, little=little)
    rows = thread_arena(image, [(0x40, "used"), (0x200, "unsorted"), (0x40, "used"), (0x60, "small"), (0x30, "used")])
    found = walked(image, arena_of(image))
    assert_sound(found, rows)
    assert image.layout.heap_info is not None
    assert found.totals.headers == image.layout.heap_info.size + image.layout.state.size
    starts = {"2.31": (0x8C0, 0x478), "2.36": (0x8D0, 0x478), "2.43": (0x870, 0x448)}
    assert rows[0].address - HEAP == starts[version][bits == 32]


@pytest.mark.parametrize("remainder", [0, 16, 0x40])
@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_older_heaps_end_with_fenceposts(version: str, bits: int, remainder: int) -> None:
    image = Image(version, bits)
    if remainder and remainder < image.abi.min_size and image.abi.alignment > image.abi.header:
        pytest.skip("there is no such remainder here")
    rows = thread_arena(image, [(0x40, "used"), (0x60, "unsorted"), (0x30, "used")], remainder, heaps=3)
    found = walked(image, arena_of(image))
    assert found.totals.problems == ()
    assert found.rows == rows
    assert found.totals.unaccounted == 0
    assert found.totals.counts["fencepost"] == 4
    assert found.totals.complete


def test_an_old_heap_without_its_fenceposts() -> None:
    image = Image()
    rows = thread_arena(image, [(0x40, "used")], 0, heaps=2)
    posts = [row for row in rows if row.state == "fencepost"]
    image.word(posts[1].address + 8, 0x4141)
    found = walked(image, arena_of(image))
    assert "it should be that of a fencepost, 0x11" in found.totals.problems[0]
    assert not found.totals.complete


def test_a_chain_of_heaps_that_breaks() -> None:
    image = Image()
    rows = thread_arena(image, [(0x40, "used")], 0, heaps=2)
    assert image.layout.heap_info is not None
    image.field(image.layout.heap_info, HEAP + (64 << 20), "prev", 0xDEAD_0000_0000)
    found = walked(image, arena_of(image))
    assert found.rows == [row for row in rows if row.address > HEAP + (64 << 20)]
    assert not found.totals.complete
    assert "leads to a heap at 0xdead00000000" in found.totals.problems[0]
    image.field(image.layout.heap_info, HEAP + (64 << 20), "ar_ptr", 0)
    alone = walked(image, arena_of(image))
    assert alone.rows == [rows[-1]]
    assert not alone.totals.complete


# Broken


@pytest.mark.parametrize(
    ("word", "text"),
    [
        (0, "is 0x0; the size should be a multiple of 0x10, at least 0x20"),
        (1, "is 0x1; the size should be"),
        (0x19, "is 0x19; the size should be"),
        (0x69, "is 0x69; the size should be"),
        (0x11, "is 0x11; the size should be"),
        (0x100001, "and at most 0x360, because the top chunk begins at"),
        (0x4141414141414141, "is 0x4141414141414141"),
        (0xFFFFFFFFFFFFFFF1, "is 0xfffffffffffffff1"),
    ],
)
@pytest.mark.parametrize("block", [0x40, 1 << 20])
def test_an_impossible_size_stops_the_walk(word: int, text: str, block: int) -> None:
    image = Image()
    rows = main_heap(image, [(0x40, "used"), (0x60, "used"), (0x300, "used")])
    image.word(rows[2].address + 8, word)
    found = walked(image)
    ending = list(walk_region(image.memory, image.abi, found.plan.regions[0], block))[-1].ending
    assert ending is not None
    assert ending.problem is not None
    assert text in ending.problem
    assert f"The size word of the chunk at {rows[2].address:#x}" in ending.problem
    assert ending.problem in found.totals.problems
    assert found.rows == [*rows[:2], rows[-1]]
    assert not found.totals.complete
    assert found.totals.unaccounted == 0x360
    assert [(gap.start, gap.end) for gap in found.totals.gaps] == [(rows[2].address, rows[-1].address)]


def test_chunks_that_miss_top() -> None:
    image = Image()
    rows = main_heap(image, [(0x40, "used"), (0x60, "used")])
    image.word(rows[2].address + 8, 0x51)
    found = walked(image)
    top = rows[-1].address
    assert found.totals.problems == (
        f"The chunks end at {top - 16:#x}; they should end at {top:#x}, where the top chunk begins.",
    )
    assert found.totals.unaccounted == 16


@pytest.mark.parametrize("hole", [0x2000, 0x2008, 0x2010])
def test_memory_that_cannot_be_read(hole: int) -> None:
    image = Image()
    rows = main_heap(image, [(0x100, "used")] * 100)
    whole = image.memory
    end = rows[-1].address + rows[-1].size
    libc = (image.LIBC[0], whole.read(*image.LIBC))
    parts = [
        (MAIN_BASE, whole.read(MAIN_BASE, hole)),
        (MAIN_BASE + hole + 0x1000, whole.read(MAIN_BASE + hole + 0x1000, end - MAIN_BASE - hole - 0x1000)),
    ]
    memory = Snapshot([libc, *parts])
    sound = walked(image)
    found = totals(memory, image.abi, sound.plan, sound.free)
    stop = next(row.address for row in rows if row.address + 16 > MAIN_BASE + hole)
    assert found.problems == (
        f"The size word of the chunk at {stop:#x} cannot be read: it is not part of the snapshot.",
    )
    assert found.gaps[0].start == stop
    assert found.unaccounted == rows[-1].address - stop


def test_a_top_chunk_somewhere_else() -> None:
    image = Image()
    rows = main_heap(image, [(0x40, "used")])
    image.field(image.layout.state, image.MAIN_ARENA, "top", 0x5000_0000)
    found = walked(image)
    assert "The size of the top chunk of main_arena, at 0x50000000, cannot be read." in found.totals.problems
    assert any("it should be between sbrk_base, 0x20000000, and" in text for text in found.totals.problems)
    assert found.rows[:2] == rows[:2]
    assert not found.totals.complete


def test_a_top_chunk_of_an_impossible_size() -> None:
    image = Image()
    rows = main_heap(image, [(0x40, "used")])
    image.word(rows[-1].address + 8, 0xFFFFFFFFFFFFFFFF)
    found = walked(image)
    assert (
        "it should have at least 0x20, at most system_mem, 0x1000, and end where a page ends"
        in found.totals.problems[0]
    )
    assert found.totals.unaccounted < 0


# States


def test_a_free_chunk_on_no_list() -> None:
    image = Image()
    rows = main_heap(image, [(0x40, "used"), (0x200, "unsorted"), (0x40, "used")])
    image.bin(image.MAIN_ARENA, 1, [])
    found = walked(image)
    assert found.rows[2] == Row(rows[2].address, 0x200, "free")
    assert found.totals.problems == (
        f"The chunk at {rows[2].address:#x} is free, because PREV_INUSE is clear in the chunk behind it, at "
        f"{rows[3].address:#x}, but it is on no list that was read.",
    )
    assert found.totals.unaccounted == 0


def test_a_listed_chunk_that_its_neighbour_calls_used() -> None:
    image = Image()
    rows = main_heap(image, [(0x40, "used"), (0x200, "unsorted"), (0x40, "used")])
    image.word(rows[3].address + 8, 0x41)
    found = walked(image)
    assert found.rows == rows
    assert "is on a list (unsorted), but PREV_INUSE is set" in found.totals.problems[0]


def test_a_tcache_chunk_that_its_neighbour_calls_free() -> None:
    image = Image()
    rows = main_heap(image, [(0x40, "used"), (0x40, "tcache"), (0x40, "used")])
    image.word(rows[3].address + 8, 0x40)
    found = walked(image, cache=rows[0].address + 16)
    assert found.rows == rows
    assert "is in a tcache, but PREV_INUSE is clear" in found.totals.problems[0]


def test_the_chunk_before_top_may_be_free_on_no_list() -> None:
    image = Image()
    rows = main_heap(image, [(0x40, "used"), (0x200, "used")])
    image.word(rows[-1].address + 8, rows[-1].size)
    found = walked(image)
    assert found.rows[2].state == "free"
    assert len(found.totals.problems) == 1


def test_the_first_chunk_has_no_free_one_before_it() -> None:
    image = Image()
    rows = main_heap(image, [])
    image.word(rows[0].address + 8, rows[0].size)
    assert "the first of its region" in walked(image).totals.problems[0]


@pytest.mark.parametrize(("flag", "name"), [(2, "IS_MMAPPED"), (4, "NON_MAIN_ARENA")])
def test_flags_that_do_not_belong_in_main_arena(flag: int, name: str) -> None:
    image = Image()
    rows = main_heap(image, [(0x40, "used")])
    image.word(rows[1].address + 8, 0x41 | flag)
    found = walked(image)
    assert found.rows == rows
    assert found.totals.problems == (
        f"{name} is set in the size word {0x41 | flag:#x} of the chunk at {rows[1].address:#x}; it should be clear "
        f"here.",
    )


def test_a_thread_s_chunk_without_its_flag() -> None:
    image = Image()
    rows = thread_arena(image, [(0x40, "used"), (0x60, "unsorted"), (0x30, "used")])
    image.word(rows[2].address + 8, 0x30)
    problems = walked(image, arena_of(image)).totals.problems
    assert problems == (
        f"NON_MAIN_ARENA is clear in the size word 0x30 of the chunk at {rows[2].address:#x}; it should be set here.",
    )


def test_a_chunk_on_two_lists() -> None:
    image = Image()
    rows = main_heap(image, [(0x40, "tcache"), (0x40, "used")])
    image.bin(image.MAIN_ARENA, 1, [rows[1].address])
    image.word(rows[1].address + 8, 0x41)
    found = walked(image, cache=rows[0].address + 16)
    assert found.free.get(rows[1].address) is not None
    assert any("should be on one" in text for text in found.totals.problems)


def test_list_entries_that_are_no_chunks() -> None:
    image = Image()
    rows = main_heap(image, [(0x400, "used"), (0x40, "used")])
    inside = rows[1].address + 0x20
    image.word(inside + 8, 0x41)
    outside = image.LIBC[0] + 0x3000
    image.word(outside + 8, 0x41)
    image.bin(image.MAIN_ARENA, 1, [inside, outside])
    found = walked(image)
    assert found.rows == rows
    assert [text.split(" is ")[0] for text in found.totals.problems] == [f"{inside:#x}", f"{outside:#x}"]
    assert "inside another" in found.totals.problems[0]
    assert "in no region of that arena" in found.totals.problems[1]


def test_membership_can_be_asked() -> None:
    free = Membership([0x10, 0x30, 0x50], bytes([1, 2, 3]))
    assert [free.get(address) for address in (0, 0x10, 0x20, 0x50, 0x60)] == [None, 1, None, 3, None]
    assert free.between(0x10, 0x30) == {0x10: 1, 0x30: 2}
    assert free.between(0x31, 0x4F) == {}


# Rows


def listing(image: Image, wanted: Wanted, limit: int | None = None) -> tuple[list[Chunk], int]:
    found = walked(image)
    rows = Rows(image.abi, walk_arena(image.memory, image.abi, found.plan, found.free), wanted, limit)
    chunks = list(rows)
    return chunks, rows.left_out


def test_rows_are_filtered_and_counted() -> None:
    image = Image()
    laid = main_heap(image, [(0x40, "used"), (0x200, "unsorted"), (0x40, "used"), (0x60, "small"), (0x70, "used")] * 9)
    everything, left = listing(image, Wanted())
    assert (len(everything), left) == (len(laid), 0)
    chunks, left = listing(image, Wanted(states=frozenset({"unsorted", "small"})), limit=5)
    assert [chunk.state for chunk in chunks] == ["unsorted", "small"] * 2 + ["unsorted"]
    assert left == 13
    chunks, left = listing(image, Wanted(min_size=0x60, max_size=0x70))
    assert {chunk.size for chunk in chunks} == {0x60, 0x70}
    assert (len(chunks), left) == (18, 0)
    chunks, left = listing(image, Wanted(min_size=0x60, states=frozenset({"used"})), limit=0)
    assert (chunks, left) == ([], 10)
    chunks, left = listing(image, Wanted(start=laid[3].address + 0x20), limit=2)
    assert [chunk.address for chunk in chunks] == [laid[3].address, laid[4].address]
    assert left == len(laid) - 5
    chunks, _ = listing(image, Wanted(start=laid[3].address), limit=1)
    assert chunks[0].address == laid[3].address
    assert listing(image, Wanted(start=laid[-1].address + laid[-1].size))[0] == []


def test_a_row_says_all_about_a_chunk() -> None:
    image = Image()
    laid = main_heap(image, [(0x40, "used"), (0x200, "unsorted"), (0x40, "used")])
    chunks, _ = listing(image, Wanted())
    assert chunks[3] == Chunk(laid[3].address, laid[3].address + 16, 0x40, 0, "used", 0x38)
    assert chunks[1].flag_names == ("PREV_INUSE",)
    assert chunks[-1].state == "top"
    assert chunks[-1].request_max == laid[-1].size - 0x20 - 8
    assert flag_names(7) == ("PREV_INUSE", "IS_MMAPPED", "NON_MAIN_ARENA")


def test_rows_and_sums_in_one_pass() -> None:
    image = Image()
    laid = main_heap(image, [(0x40, "used"), (0x200, "unsorted"), (0x40, "used")])
    found = walked(image)
    tally = Tally(found.plan)
    rows = Rows(image.abi, walk_arena(image.memory, image.abi, found.plan, found.free), limit=1, seen=tally.add)
    assert len(list(rows)) == 1
    assert rows.left_out == len(laid) - 1
    assert tally.totals() == found.totals


def test_a_counter_that_disagrees_is_a_problem() -> None:
    image = Image()
    main_heap(image, [(0x40, "used")])
    image.field(image.layout.state, image.MAIN_ARENA, "system_mem", 0x2000)
    found = walked(image)
    assert found.totals.problems == ("The bytes of main_arena add up to 0x1000, but its system_mem is 0x2000.",)
    assert found.totals.unaccounted == 0x1000


def test_regions_that_nobody_recorded_are_missed() -> None:
    image = Image()
    rows = replaced(image, 0x6000_0000)
    image.field(image.layout.state, image.MAIN_ARENA, "system_mem", 0x102000 + 0x40000)
    lost = image.LIBC[0] + 0x3000
    image.word(lost + 8, 0x41)
    image.bin(image.MAIN_ARENA, 1, [lost])
    found = walked(image, known=[0x6000_0000])
    assert found.rows == rows
    assert not found.totals.complete
    assert found.totals.unaccounted == 0x40000
    assert found.totals.problems == (
        "The regions of main_arena that are known hold 0x102000 of the 0x142000 bytes of its system_mem; where the "
        "others begin is not known.",
    )
