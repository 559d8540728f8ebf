"""Free lists and tcaches: sizes and bins, lists that are sound, lists that are not, safe-linking."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gdbheap.memory import MemoryFault
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import read_arena
from gdbheap.ptmalloc.bins import (
    LAST_BIN,
    UNSORTED_BIN,
    FreeList,
    bin_index,
    bin_range,
    chunks_to_trim,
    fastbin_index,
    free_summary,
    read_free_lists,
)
from gdbheap.ptmalloc.layout import LayoutUnknown
from gdbheap.ptmalloc.problems import MORE, MOST
from gdbheap.ptmalloc.tcache import (
    Tcache,
    detect_safe_linking,
    observe_safe_linking,
    read_tcache,
    tcache_count,
    tcache_index,
    tcache_is_dummy,
    tcache_range,
)
from tests.support.heap_image import LAYOUTS, MAIN_BASE, FakeSymbols, Image, Row, main_heap, symbols_of

EVERY = sorted(LAYOUTS)
ABIS = (Abi(8), Abi(4), Abi(4, alignment=8))
KEY = 0x1122334455667788
MIXED = [
    (0x40, "used"), (0x200, "unsorted"), (0x40, "tcache"), (0x60, "small"), (0x40, "tcache"), (0x800, "large"),
    (0x50, "used"), (0x840, "large"), (0x30, "tcache"), (0x60, "small"), (0x90, "used"), (0x300, "unsorted"),
    (0x20, "used"), (0x8000, "large"), (0x20, "used"),
]  # fmt: skip
FAST = [(0x20, "fastbin"), (0x40, "used"), (0x20, "fastbin"), (0x40, "fastbin")]


def pieces(version: str) -> list[tuple[int, str]]:
    return MIXED if version == "2.43" else MIXED + FAST


def lists_of(image: Image, limit: int = 10_000) -> dict[str, FreeList]:
    arena = read_arena(image.memory, image.abi, image.layout, image.MAIN_ARENA, 0)
    found = read_free_lists(image.memory, image.abi, image.layout, arena, image.safe_linking, limit)
    return {item.name: item for item in found}


def of_state(rows: list[Row], state: str) -> list[int]:
    """Return the addresses of the rows in ``state``, the last one freed first."""
    return [row.address for row in reversed(rows) if row.state == state]


@pytest.mark.parametrize("abi", ABIS)
def test_every_size_is_in_the_range_of_its_bin(abi: Abi) -> None:
    for size in range(abi.min_size, 0x100000, abi.alignment):
        low, high = bin_range(abi, bin_index(abi, size))
        assert low <= size
        assert high is None or size <= high


@pytest.mark.parametrize("abi", ABIS)
def test_bins_follow_each_other_without_a_hole(abi: Abi) -> None:
    following = abi.min_size
    for index in range(2, LAST_BIN + 1):
        try:
            low, high = bin_range(abi, index)
        except ValueError:
            continue
        assert low == following, index
        assert bin_index(abi, low) == index
        following = LAST_BIN if high is None else high + abi.alignment
    assert following == LAST_BIN


@pytest.mark.parametrize(
    ("abi", "size", "expected"),
    [
        (Abi(8), 0x20, 2),
        (Abi(8), 0x3F0, 63),
        (Abi(8), 0x400, 64),
        (Abi(8), 0xC30, 96),
        (Abi(8), 0xC40, 97),
        (Abi(8), 0x2A00, 112),
        (Abi(8), 0xB000, 120),
        (Abi(8), 0x28000, 124),
        (Abi(8), 0xC0000, 126),
        (Abi(4), 0x10, 2),
        (Abi(4), 0x3E0, 63),
        (Abi(4), 0x3F0, 64),
        (Abi(4, alignment=8), 0x10, 2),
        (Abi(4, alignment=8), 0x200, 64),
    ],
)
def test_bin_index_as_malloc_c_has_it(abi: Abi, size: int, expected: int) -> None:
    assert bin_index(abi, size) == expected


def test_bins_that_no_size_belongs_in() -> None:
    for abi, index in ((Abi(8), 0), (Abi(8), 127), (Abi(4), 95)):
        with pytest.raises(ValueError, match=f"bin {index}"):
            bin_range(abi, index)
    assert bin_range(Abi(8), 1) == (0x20, None)


def test_fastbin_index() -> None:
    assert [fastbin_index(Abi(8), size) for size in (0x20, 0x30, 0x80)] == [0, 1, 6]
    assert [fastbin_index(Abi(4), size) for size in (0x10, 0x20, 0x40)] == [0, 2, 6]


@pytest.mark.parametrize(
    ("key", "size", "expected"),
    [
        (("2.36", 64), 0x20, 0),
        (("2.36", 64), 0x410, 63),
        (("2.36", 64), 0x420, None),
        (("2.36", 32), 0x10, 0),
        (("2.36", 32), 0x400, 63),
        (("2.43", 64), 0x410, 63),
        (("2.43", 64), 0x420, 64),
        (("2.43", 64), 0x7F0, 64),
        (("2.43", 64), 0x800, 65),
        (("2.43", 64), 0x3FFFF0, 75),
        (("2.43", 64), 0x400000, None),
        (("2.43", 32), 0x400, 63),
        (("2.43", 32), 0x410, 64),
    ],
)
def test_tcache_index(key: tuple[str, int], size: int, expected: int | None) -> None:
    layout, abi = LAYOUTS[key], Abi(key[1] // 8)
    assert tcache_index(abi, layout, size) == expected
    if expected is not None:
        low, high = tcache_range(abi, expected)
        assert low <= size <= high


@pytest.mark.parametrize("little", [True, False])
@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_sound_lists_are_read_in_order(version: str, bits: int, little: bool) -> None:
    image = Image(version, bits, little=little)
    rows = main_heap(image, pieces(version))
    found = lists_of(image)
    assert all(not item.problems and item.complete for item in found.values()), found
    assert found["unsorted"].addresses == tuple(of_state(rows, "unsorted"))
    assert found["unsorted"].sizes == (0x300, 0x200)
    small = f"small bin {bin_index(image.abi, 0x60)}"
    assert found[small].addresses == tuple(of_state(rows, "small"))
    large = [found[f"large bin {index}"] for index in sorted({bin_index(image.abi, s) for s in (0x800, 0x840, 0x8000)})]
    assert sorted(size for item in large for size in item.sizes) == [0x800, 0x840, 0x8000]
    if version != "2.43":
        first = found[f"fastbin {fastbin_index(image.abi, 0x20)}"]
        assert first.addresses == tuple(row.address for row in reversed(rows) if (row.size, row.state) == FAST[0])
        assert first.kind == "fastbin"


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_the_summary_agrees_with_the_lists(version: str, bits: int) -> None:
    image = Image(version, bits)
    main_heap(image, pieces(version))
    arena = read_arena(image.memory, image.abi, image.layout, image.MAIN_ARENA, 0)
    summary = free_summary(image.memory, image.abi, image.layout, arena, image.safe_linking)
    listed = [size for item in lists_of(image).values() for size in item.sizes]
    assert (summary.chunks, summary.total, summary.largest) == (len(listed), sum(listed), 0x8000)
    assert summary.complete
    assert sum(item.chunks for item in summary.lists) == summary.chunks
    short = free_summary(image.memory, image.abi, image.layout, arena, image.safe_linking, limit=1)
    assert (short.chunks, short.largest, short.complete) == (1, 0x8000, False)


def test_an_arena_that_was_never_used_has_no_lists() -> None:
    image = Image()
    assert not lists_of(image)
    arena = read_arena(image.memory, image.abi, image.layout, image.MAIN_ARENA, 0)
    summary = free_summary(image.memory, image.abi, image.layout, arena, True)
    assert (summary.chunks, summary.largest, summary.complete) == (0, 0, True)


def broken(image: Image) -> list[Row]:
    return main_heap(image, [(0x100, "unsorted"), (0x40, "used"), (0x200, "unsorted"), (0x40, "used")])


def test_a_loop_of_fd_ends_the_list() -> None:
    image = Image()
    rows = broken(image)
    first, second = rows[1].address, rows[3].address
    image.word(first + 16, second)
    found = lists_of(image)["unsorted"]
    assert found.addresses == (second, first)
    assert not found.complete
    assert found.problems == (
        f"fd of the chunk at {first:#x} on the list unsorted leads to {second:#x}: a chunk that is on the list "
        f"already: the list is a loop.",
    )


def test_links_that_lead_nowhere() -> None:
    image = Image()
    rows = broken(image)
    first, second = rows[1].address, rows[3].address
    for target, text in ((0xDEAD0000, "cannot read 24 bytes at 0xdead0008"), (first + 8, "no multiple of 0x10")):
        image.word(second + 16, target)
        found = lists_of(image)["unsorted"]
        assert found.addresses == (second,)
        assert not found.complete
        assert text in found.problems[0]
        assert f"fd of the chunk at {second:#x}" in found.problems[0]


def test_a_wrong_back_link_is_told_and_passed() -> None:
    image = Image()
    rows = broken(image)
    first, second = rows[1].address, rows[3].address
    image.word(first + 24, 0x1234)
    found = lists_of(image)["unsorted"]
    assert found.addresses == (second, first)
    assert found.complete
    assert len(found.problems) == 1
    assert (
        f"bk of the chunk at {first:#x} on the list unsorted is 0x1234; it should be {second:#x}" in found.problems[0]
    )


def test_a_wrong_back_of_the_list_is_told() -> None:
    image = Image()
    rows = broken(image)
    image.field(image.layout.state, image.MAIN_ARENA, "bins", rows[3].address, 1)
    assert "The back (bk) of the list unsorted of main_arena" in lists_of(image)["unsorted"].problems[0]


def test_a_chunk_in_a_bin_of_another_size() -> None:
    image = Image()
    rows = main_heap(image, [(0x100, "small"), (0x40, "used")])
    image.word(rows[1].address + 8, 0x110 | 1)
    found = lists_of(image)["small bin 16"]
    assert found.addresses == (rows[1].address,)
    assert found.sizes == (0,)
    assert found.problems == (
        f"The chunk at {rows[1].address:#x} on the list small bin 16 has the size word 0x111; its size should be "
        f"0x100.",
    )


def test_what_is_no_chunk_at_all_is_not_listed() -> None:
    image = Image()
    rows = broken(image)
    image.word(rows[3].address + 16, image.MP)
    found = lists_of(image)["unsorted"]
    assert found.addresses == (rows[3].address,)
    assert not found.complete
    assert len(found.problems) == 2


def test_a_large_bin_out_of_order() -> None:
    image = Image()
    rows = main_heap(image, [(0x800, "large"), (0x40, "used"), (0x810, "large"), (0x40, "used")])
    index = bin_index(image.abi, 0x800)
    assert bin_index(image.abi, 0x810) == index
    image.bin(image.MAIN_ARENA, index, [rows[1].address, rows[3].address])
    assert "it should have at most 0x800" in lists_of(image)[f"large bin {index}"].problems[0]


def test_something_on_a_bin_that_no_size_belongs_in() -> None:
    image = Image()
    rows = main_heap(image, [(0x800, "used")])
    image.bin(image.MAIN_ARENA, 127, [rows[1].address])
    assert "where no chunk of main_arena can be" in lists_of(image)["large bin 127"].problems[0]


def test_a_zeroed_bin_of_an_arena_in_use() -> None:
    image = Image()
    main_heap(image, [])
    for place in (0, 1):
        image.field(image.layout.state, image.MAIN_ARENA, "bins", 0, place)
    found = lists_of(image)["unsorted"]
    assert not found.complete
    assert "leads to 0x0" in found.problems[0]


def test_a_broken_fastbin() -> None:
    image = Image()
    rows = main_heap(image, [(0x20, "fastbin"), (0x20, "used"), (0x20, "fastbin")])
    first, second = rows[1].address, rows[3].address
    place = first + 16
    image.word(place, second ^ (place >> 12))
    found = lists_of(image)["fastbin 0"]
    assert found.addresses == (second, first)
    assert "is a loop" in found.problems[0]
    image.word(first + 8, 0x31)
    assert "should be 0x20" in lists_of(image)["fastbin 0"].problems[0]


def test_the_limit_is_kept() -> None:
    image = Image()
    main_heap(image, [(0x100, "unsorted"), (0x20, "used")] * 50)
    found = lists_of(image, limit=10)["unsorted"]
    assert len(found.addresses) == 10
    assert not found.complete
    assert not found.problems


def to_trim(image: Image, limit: int = 10_000) -> tuple[list[tuple[int, int]], bool]:
    arena = read_arena(image.memory, image.abi, image.layout, image.MAIN_ARENA, 0)
    return chunks_to_trim(image.memory, image.abi, arena, limit)


@pytest.mark.parametrize("version", EVERY)
def test_malloc_trims_chunks_are_in_its_order(version: tuple[str, int]) -> None:
    """The unsorted ones and those in bins from a page on, each list from its back; its oracle are the lists."""
    image = Image(*version)
    main_heap(image, [*MIXED, (0x6000, "unsorted"), (0x20, "used"), (0x8040, "large"), (0x20, "used")])
    first = bin_index(image.abi, image.abi.page_size)
    expected = [
        pair
        for item in lists_of(image).values()
        if item.kind in ("unsorted", "small", "large") and (item.index == UNSORTED_BIN or item.index >= first)
        for pair in zip(item.addresses[::-1], item.sizes[::-1])
    ]
    assert len(expected) >= 5
    assert to_trim(image) == (expected, True)
    assert to_trim(image, limit=4) == (expected[:4], False)


def test_malloc_trims_chunks_as_far_as_they_can_be_followed() -> None:
    image = Image()
    rows = main_heap(image, [(0x2000, "unsorted"), (0x20, "used")] * 3)
    front_to_back = of_state(rows, "unsorted")
    image.word(front_to_back[1] + 24, 0x10)  # bk
    assert to_trim(image) == ([(front_to_back[2], 0x2000), (front_to_back[1], 0x2000)], False)
    image.word(front_to_back[1] + 24, front_to_back[2])
    found, complete = to_trim(image, limit=100)
    assert (len(found), complete) == (100, False), "a loop ends at the limit"


def test_problems_are_not_hoarded() -> None:
    image = Image()
    rows = main_heap(image, [(0x100, "small"), (0x20, "used")] * 50)
    for row in rows[1:-1]:
        image.word(row.address + 8, 0x21)
    found = lists_of(image)["small bin 16"]
    assert len(found.addresses) == 50
    assert len(found.problems) == MOST + 1
    assert found.problems[-1] == MORE


def cache_of(image: Image, rows: list[Row], key: int | None = None) -> Tcache:
    return read_tcache(
        image.memory, image.abi, image.layout, rows[0].address + image.abi.header, image.safe_linking, key
    )


@pytest.mark.parametrize("little", [True, False])
@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_a_tcache_is_read_in_order(version: str, bits: int, little: bool) -> None:
    image = Image(version, bits, little=little)
    key = KEY % (1 << bits)
    rows = main_heap(image, MIXED, tcache_key=key)
    found = cache_of(image, rows, key)
    assert not found.problems
    assert found.chunk == rows[0].address
    assert sorted(found.chunks) == sorted(of_state(rows, "tcache"))
    assert found.total == 0xB0
    full = found.bins[1]
    both = next(item for item in found.bins if item.low == 0x40)
    assert both.pointers == tuple(
        row.address + image.abi.header for row in reversed(rows) if (row.size, row.state) == (0x40, "tcache")
    )
    assert full.low == full.high
    assert both.counter == (14 if version == "2.43" else 2)
    assert tcache_count(image.memory, image.abi, image.layout, found.address, 0x40) == 2
    assert tcache_count(image.memory, image.abi, image.layout, found.address, 0x50) == 0
    assert tcache_count(image.memory, image.abi, image.layout, found.address, 1 << 30) == 0
    assert tcache_count(image.memory, image.abi, image.layout, 0, 0x40) == 0
    assert tcache_count(image.memory, image.abi, image.layout, 0xDEAD0000, 0x40) is None


def test_large_tcache_bins_hold_a_range() -> None:
    image = Image("2.43", 64)
    rows = main_heap(image, [(0x480, "tcache"), (0x500, "tcache"), (0x20, "used"), (0x900, "tcache")])
    found = cache_of(image, rows)
    assert [(item.index, item.sizes) for item in found.bins] == [(64, (0x500, 0x480)), (65, (0x900,))]
    assert not found.problems


def test_release_2_42_0_put_large_chunks_elsewhere() -> None:
    image = Image("2.43", 32)
    rows = main_heap(image, [(0x500, "used"), (0x20, "used")])
    assert image.layout.tcache is not None
    image.field(image.layout.tcache, rows[0].address + 8, "entries", rows[1].address + 8, 65)
    image.single([rows[1].address], shown=8)
    found = cache_of(image, rows)
    assert [(item.index, item.sizes) for item in found.bins] == [(65, (0x500,))]
    assert not found.problems


def test_a_tcache_with_a_wrong_count() -> None:
    image = Image("2.36", 64)
    rows = main_heap(image, MIXED)
    assert image.layout.tcache is not None
    image.field(image.layout.tcache, rows[0].address + 16, "counts", 5, 2)
    image.field(image.layout.tcache, rows[0].address + 16, "counts", 1, 9)
    found = cache_of(image, rows)
    assert [text for text in found.problems if "counts[2]" in text and "is 5" in text and "2 chunks" in text]
    assert [text for text in found.problems if "counts[9]" in text and "0 chunks" in text]


def test_a_tcache_whose_lists_are_broken() -> None:
    image = Image("2.36", 64)
    rows = main_heap(image, [(0x20, "tcache"), (0x20, "tcache"), (0x30, "tcache"), (0x40, "tcache"), (0x50, "tcache")])
    place = rows[1].address + 16
    image.word(place, (rows[2].address + 16) ^ (place >> 12))  # a loop
    image.word(rows[3].address + 16, 0x41)  # decodes to something misaligned
    image.word(rows[4].address + 16, 0xDEAD0000 ^ ((rows[4].address + 16) >> 12))
    image.word(rows[5].address + 8, 0x61)  # the size of another bin
    found = cache_of(image, rows)
    assert [len(item.pointers) for item in found.bins] == [2, 1, 1, 1]
    assert [item.complete for item in found.bins] == [False, False, False, True]
    for text, expected in zip(found.problems, ("is a loop", "no multiple of 0x10", "cannot read", "should be 0x50")):
        assert expected in text
    assert found.bins[3].sizes == (0,)


def test_a_tcache_key_that_was_overwritten() -> None:
    image = Image("2.36", 64)
    rows = main_heap(image, [(0x20, "tcache"), (0x20, "used")], tcache_key=KEY)
    image.word(rows[1].address + 24, 0x41414141)
    assert not cache_of(image, rows).problems
    assert cache_of(image, rows, KEY).problems[0].endswith(f"; it should be {KEY:#x}.")
    image.word(rows[1].address + 8, 0x5555_5555_0007)  # a link that was overwritten leads anywhere: no chunk has a key
    (problem,) = cache_of(image, rows, KEY).problems
    assert "size word" in problem


def test_a_tcache_with_fewer_chunks_than_it_counts() -> None:
    """Where a link cannot be followed, the count says how many chunks malloc will still hand out from there."""
    image = Image("2.36", 64)
    rows = main_heap(image, [(0x20, "tcache"), (0x20, "tcache"), (0x20, "tcache")])
    assert image.layout.tcache is not None
    front = next(row for row in rows if row.address + 16 == cache_of(image, rows).bins[0].pointers[0])
    image.word(front.address + 16, 0x41)
    (item,) = cache_of(image, rows).bins
    assert (len(item.pointers), item.complete) == (1, False)
    assert "counts[0]" in item.problems[-1]
    assert "is 3, but they were not all found" in item.problems[-1]


def test_a_tcache_needs_memory_and_layout() -> None:
    image = Image()
    with pytest.raises(MemoryFault):
        read_tcache(image.memory, image.abi, image.layout, 0xDEAD0000, True)
    bare = replace(image.layout, tcache=None)
    with pytest.raises(LayoutUnknown):
        read_tcache(image.memory, image.abi, bare, image.MP, True)
    assert tcache_count(image.memory, image.abi, bare, image.MP, 0x20) is None


def test_no_tcache() -> None:
    layout = LAYOUTS["2.43", 64]
    symbols = symbols_of(layout, __tcache_dummy=0x5000)
    assert tcache_is_dummy(symbols, layout, 0)
    assert tcache_is_dummy(symbols, layout, 0x5000)
    assert tcache_is_dummy(symbols, layout, 0x5008)
    assert not tcache_is_dummy(symbols, layout, MAIN_BASE)
    assert not tcache_is_dummy(symbols_of(layout), layout, 0x5000)


def test_safe_linking_by_facts() -> None:
    old, newer, newest = (LAYOUTS[version, 64] for version in ("2.31", "2.36", "2.43"))
    assert detect_safe_linking(FakeSymbols(), newest) is True
    assert detect_safe_linking(FakeSymbols(), newer) is True
    assert detect_safe_linking(FakeSymbols({}, {"tcache_key": 0x1000}), old) is True
    assert detect_safe_linking(FakeSymbols(), old) is None
    assert detect_safe_linking(FakeSymbols(), old, (2, 31)) is False
    assert detect_safe_linking(FakeSymbols(), old, (2, 33)) is True
    fields = {name: field for name, field in old.state.fields.items() if name != "have_fastchunks"}
    assert detect_safe_linking(FakeSymbols(), replace(old, state=replace(old.state, fields=fields))) is False
    assert old.tcache is not None
    counts = replace(old.tcache.fields["counts"], size=64)
    bytes_only = replace(old.tcache, fields={**old.tcache.fields, "counts": counts})
    assert detect_safe_linking(FakeSymbols(), replace(old, tcache=bytes_only)) is False


@pytest.mark.parametrize(("version", "bits"), EVERY)
@pytest.mark.parametrize("count", [1, 2])
def test_safe_linking_by_the_links(version: str, bits: int, count: int) -> None:
    image = Image(version, bits)
    rows = main_heap(image, [(0x40, "tcache")] * count)
    fronts = [item.pointers[0] for item in cache_of(image, rows).bins]
    assert observe_safe_linking(image.memory, image.abi, [0xDEAD0000, *fronts]) is image.safe_linking
    assert observe_safe_linking(image.memory, image.abi, []) is None
    image.word(fronts[0], 0x123456)
    assert observe_safe_linking(image.memory, image.abi, fronts) is None
