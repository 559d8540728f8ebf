"""Free lists as they are shown: sizes, limits, links, and how many are empty, for each release."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gdbheap.memory import Snapshot
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import read_arena
from gdbheap.ptmalloc.bins import read_free_lists
from gdbheap.ptmalloc.lists import (
    ARENA_KINDS,
    ArenaLists,
    ChunkList,
    TcacheLists,
    arena_list,
    empty_lists,
    list_rows,
    list_totals,
    position_of,
    tcache_bin_total,
    tcache_lists,
)
from gdbheap.ptmalloc.params import read_params
from gdbheap.ptmalloc.tcache import Tcache, read_tcache, tcache_range
from gdbheap.render.bins import arena_lists_lines, arena_lists_object, tcache_lines, tcache_object
from gdbheap.render.style import Plain
from tests.support.heap_image import LAYOUTS, Image, Row, main_heap

EVERY = sorted(LAYOUTS)
MIXED = [
    (0x40, "used"), (0x200, "unsorted"), (0x40, "tcache"), (0x60, "small"), (0x40, "tcache"), (0x800, "large"),
    (0x50, "used"), (0x840, "large"), (0x30, "tcache"), (0x60, "small"), (0x90, "used"), (0x300, "unsorted"),
    (0x20, "used"),
]  # fmt: skip
FAST = [(0x20, "fastbin"), (0x40, "used"), (0x20, "fastbin"), (0x40, "fastbin")]


def made(version: str, bits: int, **settings: int) -> tuple[Image, list[Row]]:
    image = Image(version, bits)
    abi = image.abi
    largest = abi.min_size + 63 * abi.alignment
    names = {"tcache_small_bins": 64} if version == "2.43" else {"tcache_bins": 64}
    count = 16 if version == "2.43" else 7
    image.par(**{"tcache_count": count, "tcache_max_bytes": largest + 1, **names, **settings})
    return image, main_heap(image, MIXED if version == "2.43" else MIXED + FAST)


def lists_of(image: Image) -> ArenaLists:
    arena = read_arena(image.memory, image.abi, image.layout, image.MAIN_ARENA, 0)
    found = read_free_lists(image.memory, image.abi, image.layout, arena, image.safe_linking)
    return ArenaLists(arena, tuple(arena_list(image.abi, item) for item in found), list_totals(image.abi, arena))


def tcache_of(image: Image, rows: list[Row]) -> tuple[Tcache, tuple[ChunkList, ...]]:
    address = rows[0].address + image.abi.header
    tcache = read_tcache(image.memory, image.abi, image.layout, address, image.safe_linking)
    params = read_params(image.memory, image.abi, image.layout, image.MP)
    return tcache, tcache_lists(params, image.layout, tcache)


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_lists_of_an_arena(version: str, bits: int) -> None:
    image, rows = made(version, bits)
    found = lists_of(image)
    for kind in ARENA_KINDS:
        expected = sorted(row.address for row in rows if row.state == kind)
        assert sorted(address for item in found.lists if item.kind == kind for address in item.addresses) == expected
    for item in found.lists:
        assert item.limit is None
        assert item.places is None
        assert not item.problems
        for size in item.sizes:
            assert item.low <= size
            assert item.high is None or size <= item.high
        # What is decoded is the next chunk of the list, and what is stored is not, where links are hidden.
        links = list_rows(image.memory, image.abi, item, image.safe_linking)
        assert [row.address for row in links] == list(item.addresses)
        header = found.arena.bin_header(image.abi, item.index) if not item.is_single else 0
        assert [row.next for row in links] == [*item.addresses[1:], header]
        if item.is_single:
            assert all(row.back is None for row in links)
            assert all((row.stored == row.next) == (not image.safe_linking) for row in links)
        else:
            assert [row.back for row in links] == [header, *item.addresses[:-1]]


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_lists_of_a_thread(version: str, bits: int) -> None:
    image, rows = made(version, bits)
    tcache, lists = tcache_of(image, rows)
    assert sorted(address for item in lists for address in item.addresses) == sorted(
        row.address for row in rows if row.state == "tcache"
    )
    for item in lists:
        assert item.limit == (16 if version == "2.43" else 7)
        assert item.places == item.limit - len(item.addresses)
        assert item.low == item.high == item.sizes[0]
        assert not item.problems
        links = list_rows(image.memory, image.abi, item, image.safe_linking)
        header = image.abi.header
        assert [row.next for row in links] == [*(address + header for address in item.addresses[1:]), 0]
        assert [row.pointer for row in links] == [address + header for address in item.addresses]
        assert len(list_rows(image.memory, image.abi, item, image.safe_linking, 1)) == 1
        assert position_of(lists, item.addresses[-1]) == (item, len(item.addresses) - 1)
    assert position_of(lists, 1) is None
    assert tcache.chunk == rows[0].address


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_how_many_lists_there_are(version: str, bits: int) -> None:
    image, _ = made(version, bits)
    totals = lists_of(image).totals
    # On i386 a step of 16 bytes leaves every other fastbin without a size, and one bin as well.
    fast = 0 if version == "2.43" else 10 if bits == 64 else 6
    assert totals == {
        "fastbin": fast,
        "unsorted": 1,
        "small": 62,
        "large": 63 if bits == 64 else 62,
    }


def test_empty_lists_are_counted() -> None:
    image, rows = made("2.36", 64)
    found = lists_of(image)
    assert empty_lists(found.lists, found.totals, ARENA_KINDS) == {
        "fastbin": 8, "unsorted": 0, "small": 61, "large": 61,
    }  # fmt: skip
    assert empty_lists(found.lists, found.totals, ("small",)) == {"small": 61}
    text = "\n".join(arena_lists_lines(found, ARENA_KINDS, lambda item: (), Plain()))
    assert "empty: 8 of 10 fastbins, 61 of 62 small bins, 61 of 63 large bins" in text
    assert "2 more chunks left out" in text
    empty = replace(found, lists=())
    text = "\n".join(arena_lists_lines(empty, ("fastbin", "unsorted"), lambda item: (), Plain()))
    assert text.endswith("empty: all 10 fastbins, the unsorted list")
    _, lists = tcache_of(image, rows)
    assert empty_lists(lists, {"tcache": 64}, ("tcache",)) == {"tcache": 62}


@pytest.mark.parametrize(
    ("settings", "total"),
    [
        ({}, 64),
        ({"tcache_small_bins": 10, "tcache_max_bytes": 0xB1}, 10),
        ({"tcache_max_bytes": 0x411}, 64),
        ({"tcache_max_bytes": 0x421}, 65),
        ({"tcache_max_bytes": 0x801}, 66),
        ({"tcache_max_bytes": 0x400000}, 76),
    ],
)
def test_bins_for_large_chunks(settings: dict[str, int], total: int) -> None:
    """From 2.42 on one for each power of two, as far as glibc.malloc.tcache_max goes."""
    image, _ = made("2.43", 64, **settings)
    params = read_params(image.memory, image.abi, image.layout, image.MP)
    assert tcache_bin_total(image.abi, image.layout, params) == total
    assert tcache_range(image.abi, 64) == (0x420, 0x7F0)


def test_a_large_tcache_bin() -> None:
    image, rows = made("2.43", 64, tcache_max_bytes=0x4001)
    struct = image.layout.tcache
    assert struct is not None
    large = next(row for row in rows if row.size == 0x840)
    pointer, address = large.address + 16, rows[0].address + 16
    image.field(struct, address, "entries", pointer, 65)
    image.field(struct, address, "num_slots", 15, 65)
    image.word(pointer, pointer >> 12)
    _, lists = tcache_of(image, rows)
    (found,) = [item for item in lists if item.index == 65]
    assert (found.low, found.high, found.addresses, found.places) == (0x800, 0xFF0, (large.address,), 15)
    assert not found.problems


def test_places_that_do_not_add_up() -> None:
    """num_slots and the chunks of a bin are as many as mp_.tcache_count."""
    image, rows = made("2.43", 64)
    struct = image.layout.tcache
    assert struct is not None
    image.field(struct, rows[0].address + 16, "num_slots", 3, 2)
    _, lists = tcache_of(image, rows)
    (broken,) = [item for item in lists if item.problems]
    assert broken.problems == (
        f"num_slots[2] of the tcache at {rows[0].address + 16:#x} is 3; it should be 14, as that bin has 2 chunks and "
        "mp_.tcache_count is 16.",
    )
    text = "\n".join(tcache_lines(TcacheLists(1, *shown(image, rows)), lambda item: (), Plain()))
    assert broken.problems[0] in text


def shown(image: Image, rows: list[Row]) -> tuple[Tcache, bool, str, tuple[ChunkList, ...], dict[str, int]]:
    tcache, lists = tcache_of(image, rows)
    return tcache, True, "", lists, {"tcache": 64}


def test_links_that_cannot_be_read() -> None:
    item = ChunkList("tcache", 0, 0x20, 0x20, (0x1000, 0x2000), (0x20, 0x20), 7, 5, (), True)
    rows = list_rows(Snapshot([(0x1010, bytes(16))]), Abi(8), item, False)
    assert [(row.stored, row.next, row.back) for row in rows] == [(0, 0, None), (None, None, None)]
    lines = list(tcache_lines(TcacheLists(3, Tcache(0x500, 16, ()), True, "", (item,), {}), lambda each: rows, Plain()))
    assert lines[-1].split()[-2:] == ["unreadable", "unreadable"]
    assert lines[-2].endswith("the end")


def test_no_tcache() -> None:
    """That there is none is no error; that it is not known is."""
    none = TcacheLists(4, None, True, "Thread 4 has none.", (), {})
    assert list(tcache_lines(none, lambda item: (), Plain())) == ["Thread 4 has none."]
    assert tcache_object(none, lambda item: ()) == {
        "thread": 4, "address": None, "chunk": None, "known": True, "why": "Thread 4 has none.",
        "lists": [], "empty": [],
    }  # fmt: skip


def test_json_has_the_lists_that_were_asked_for() -> None:
    image, _ = made("2.36", 64)
    found = lists_of(image)
    body = arena_lists_object(found, ("small",), lambda item: list_rows(image.memory, image.abi, item, True, 1))
    lists = body["lists"]
    assert isinstance(lists, list)
    (item,) = lists
    assert item["kind"] == "small"
    assert (item["count"], item["left_out"], len(item["members"])) == (2, 1, 1)
    assert body["empty"] == [{"kind": "small", "count": 61}]


def test_a_lock_that_is_held_is_said() -> None:
    """A thread is inside malloc: what is read may be half of a change."""
    image, _ = made("2.36", 64)
    found = lists_of(image)
    held = replace(found, arena=replace(found.arena, mutex=1))
    words = "in the middle of a change"
    assert words in "\n".join(arena_lists_lines(held, ARENA_KINDS, lambda item: (), Plain()))
    assert words not in "\n".join(arena_lists_lines(found, ARENA_KINDS, lambda item: (), Plain()))
    assert arena_lists_object(held, (), lambda item: ())["locked"] is True
