"""Which chunk holds an address: in sound heaps, across the blocks of a walk, and behind what is corrupt."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdbheap.ptmalloc import walk
from gdbheap.ptmalloc.account import FreeFacts, plan_arena
from gdbheap.ptmalloc.holder import Found, find_holders, why_unknown_after, why_unknown_before
from gdbheap.ptmalloc.place import (
    PLACES,
    arena_place,
    field_at,
    heap_holding,
    lost_heap_place,
    plan_of,
    struct_place,
)
from gdbheap.ptmalloc.state import HeapState, read_heap_state
from gdbheap.ptmalloc.tcache import read_tcache
from tests.support.heap_image import LAYOUTS, MAIN_BASE, Image, Row, main_heap

EVERY = sorted(LAYOUTS)
PIECES = [
    (0x40, "used"), (0x200, "unsorted"), (0x40, "tcache"), (0x60, "small"), (0x40, "used"), (0x800, "large"),
    (0x50, "used"), (0x30, "used"), (0x60, "small"), (0x90, "used"), (0x300, "unsorted"), (0x20, "used"),
]  # fmt: skip


def state_of(image: Image) -> HeapState:
    return read_heap_state(image.memory, image.abi, image.layout, image.MAIN_ARENA, image.MP)


def found_in(image: Image, rows: list[Row], addresses: Iterable[int], known: Iterable[int] = ()) -> Found:
    state = state_of(image)
    address = rows[0].address + image.abi.header
    tcache = read_tcache(image.memory, image.abi, image.layout, address, image.safe_linking)
    plan, free = plan_arena(image.memory, state, state.ring.arenas[0], FreeFacts((tcache,), image.safe_linking))
    return find_holders(image.memory, image.abi, plan, free, addresses, known)


def made(version: str = "2.36", bits: int = 64, repeat: int = 1) -> tuple[Image, list[Row]]:
    image = Image(version, bits)
    rows = main_heap(image, PIECES * repeat)
    return image, rows


def owner(rows: list[Row], place: int, offset: int, word: int) -> int:
    """Return which row an address in row ``place`` belongs to: a used chunk has the first word of the next one too."""
    merged = ("unsorted", "small", "large")
    return place - 1 if place and 0 < offset < word and rows[place - 1].state not in merged else place


@pytest.mark.parametrize(("version", "bits"), EVERY)
def test_every_address_of_a_heap(version: str, bits: int) -> None:
    image, rows = made(version, bits)
    word = image.abi.word_size
    asked = {
        row.address + offset: (place, offset)
        for place, row in enumerate(rows)
        for offset in (0, 1, word - 1, word, 2 * word, row.size // 2, row.size - 1)
    }
    found = found_in(image, rows, asked)
    assert set(found.holders) == set(asked)
    for address, (place, offset) in asked.items():
        mine = owner(rows, place, offset, word)
        holder = found.holders[address]
        assert (holder.chunk.address, holder.chunk.size) == (rows[mine].address, rows[mine].size)
        assert holder.chunk.state == rows[mine].state
        before, after = rows[mine - 1] if mine else None, rows[mine + 1] if mine + 1 < len(rows) else None
        assert (holder.before and holder.before.address) == (before and before.address)
        assert (holder.after and holder.after.address) == (after and after.address)
        assert holder.resumed is None
    assert not found.problems


@pytest.mark.parametrize("block", [0x40, 0x100, 0x1000])
def test_neighbours_in_other_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk reads block by block; a chunk's neighbours may be in the one before or behind."""
    monkeypatch.setattr(walk, "_FIRST_BLOCK", block)
    monkeypatch.setattr(walk, "_MIN_BLOCK", block)
    image, rows = made(repeat=20)
    found = found_in(image, rows, [row.address + 3 for row in rows] + [row.address + 16 for row in rows])
    for place, row in enumerate(rows[1:-1], 1):
        holder = found.holders[row.address + 16]
        assert holder.before is not None
        assert holder.after is not None
        assert (holder.before.address, holder.after.address) == (rows[place - 1].address, rows[place + 1].address)
        mine = owner(rows, place, 3, 8)
        assert found.holders[row.address + 3].chunk.address == rows[mine].address
        after = found.holders[row.address + 3].after
        assert after is not None
        assert after.address == rows[mine + 1].address


def test_addresses_that_no_chunk_holds() -> None:
    image, rows = made()
    top = rows[-1]
    found = found_in(image, rows, [MAIN_BASE - 1, top.address + top.size, 5, top.address + top.size - 1])
    assert list(found.holders) == [top.address + top.size - 1]


def test_behind_a_wrong_size() -> None:
    """The next chunk that a list knows is where the walk is taken up; what lies before it is not known."""
    image, rows = made()
    image.word(rows[2].address + 8, 0)  # the unsorted chunk of 0x200, still on its list
    image.word(rows[5].address + 8, 0x17)
    found = found_in(image, rows, [row.address + 16 for row in rows])
    sure = {row.address for row in rows if row.address + 16 in found.holders}
    assert {row.address for row in rows[:2]} <= sure
    assert rows[5].address not in sure
    for row in rows[:2]:
        assert found.holders[row.address + 16].resumed is None
    for place, row in enumerate(rows[6:], 6):
        holder = found.holders[row.address + 16]
        assert (holder.chunk.address, holder.chunk.size, holder.chunk.state) == (row.address, row.size, row.state)
        if row.state == "top":
            continue  # the arena's own pointer leads there
        assert "stopped" in (holder.resumed or "")
        if place > 6:
            assert holder.before is not None
            assert holder.before.address == rows[place - 1].address


def test_why_a_neighbour_is_not_known() -> None:
    """There is none, or the walk stopped there: the size word that stopped it is named, also for what lies behind."""
    image, rows = made()
    asked = [row.address + 16 for row in rows]
    sound = found_in(image, rows, asked).holders
    for holder in sound.values():
        assert why_unknown_before(holder, Found()) is None
        assert why_unknown_after(holder, Found()) is None
    image.word(rows[-2].address + 8, 0x4142434445464748)  # with no chunk of a list behind it, to go on from
    found = found_in(image, rows, asked)
    holders = [found.holders.get(address) for address in asked]
    first, stopped, top = holders[0], holders[-3], holders[-1]
    assert first is not None
    assert stopped is not None
    assert top is not None
    assert (why_unknown_before(first, found), why_unknown_after(first, found)) == (None, None)
    assert "0x4142434445464748" in (why_unknown_after(stopped, found) or "")
    assert top.before is None
    assert "not known" in (why_unknown_before(top, found) or "")
    assert why_unknown_after(top, found) is None
    state = state_of(image)
    plan, _ = plan_arena(image.memory, state, state.ring.arenas[0], FreeFacts((), True))
    place = arena_place(state, plan, found.gaps, found.problems, rows[-2].address + 16)
    assert place.kind == "gap"
    assert "0x4142434445464748" in place.text


def test_a_pointer_taken_at_its_word() -> None:
    """Where no list knows of a chunk before it, the address itself is tried as what malloc returned."""
    image = Image()
    rows = main_heap(image, [(0x40, "used"), (0x50, "used"), (0x60, "used"), (0x70, "used")])
    image.word(rows[1].address + 8, 0)
    found = found_in(image, rows, [rows[3].address + 16, rows[4].address + 24])
    assert found.holders[rows[3].address + 16].chunk.size == 0x60
    assert "is a pointer to" in (found.holders[rows[3].address + 16].resumed or "")
    assert rows[4].address + 24 not in found.holders, "nothing says that a chunk begins before it"
    # A size that does not lead to what is known is not believed.
    image.word(rows[3].address + 8, 0x71)
    assert not found_in(image, rows, [rows[3].address + 16]).holders
    assert found_in(image, rows, [rows[3].address + 16], known=[rows[3].address]).holders


@settings(max_examples=80)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, (1 << 64) - 1)), max_size=3), st.integers(0, 0x2000))
def test_no_heap_is_too_broken(damage: list[tuple[int, int]], offset: int) -> None:
    """A chunk that is named holds the address that was asked for, whatever was overwritten."""
    image, rows = made()
    for place, word in damage:
        image.word(rows[place].address + 8, word)
    address = MAIN_BASE + offset
    found = found_in(image, rows, [address])
    for holder in found.holders.values():
        assert holder.chunk.address <= address < holder.chunk.address + holder.chunk.size + 8


def test_mallocs_own_variables() -> None:
    image, rows = made()
    state = state_of(image)
    arena = state.ring.arenas[0]
    offset = image.layout.state.fields["bins"].offset
    place = struct_place(state, arena.address + offset + 7 * 8)
    assert place is not None
    assert place.kind == "arena"
    assert "bins[7] of main_arena" in place.text
    assert place.text.endswith("an end of small bin 4.")
    unsorted = struct_place(state, arena.address + offset)
    assert unsorted is not None
    assert "the unsorted list" in unsorted.text
    params = struct_place(state, image.MP + image.layout.par.fields["top_pad"].offset)
    assert params is not None
    assert "top_pad of mp_" in params.text
    assert struct_place(state, rows[1].address) is None
    assert field_at(image.layout.state, 1 << 20) == f"{1 << 20:#x} bytes into it"


def threads_heap() -> tuple[Image, HeapState, int]:
    """Return a thread's arena in a heap of 64 MiB of which 0x3000 bytes are in use and 0x5000 were."""
    image = Image()
    main_heap(image, [(0x40, "used")])
    heap = 0x4400_0000
    layout = image.layout
    assert layout.heap_info is not None
    image.map(heap, 0x5000)
    arena = heap + layout.heap_info.size
    start = image.abi.first_chunk(arena + layout.state.size)
    rows = image.chunks(start, [(0x40, "used"), (0x60, "used"), (heap + 0x3000 - start - 0xA0, "top")], main=False)
    image.arena(arena, rows, system_mem=0x3000, next=image.MAIN_ARENA)
    image.field(layout.state, image.MAIN_ARENA, "next", arena)
    image.heap(heap, arena, 0, 0x3000)
    image.field(layout.heap_info, heap, "mprotect_size", 0x5000)
    return image, state_of(image), heap


def test_places_in_a_threads_heap() -> None:
    image, state, heap = threads_heap()
    plans = []
    for arena in state.ring.arenas:
        plans.append(plan_arena(image.memory, state, arena, FreeFacts((), True))[0])
    assert [arena.name for arena in state.ring.arenas] == ["main_arena", "arena 1"]
    kinds = {}
    for offset in (0, 0x10, 0x3000, 0x4FFF, 0x5000, 0x3FFFFFF):
        plan = plan_of(state, plans, heap + offset)
        assert plan is plans[1]
        place = arena_place(state, plan, (), (), heap + offset)
        assert place.kind in PLACES
        assert place.arena == state.ring.arenas[1]
        kinds[offset] = (place.kind, "still accessible" in place.text)
    assert kinds == {
        0: ("heap_info", False),
        0x10: ("heap_info", False),
        0x3000: ("reserved", True),
        0x4FFF: ("reserved", True),
        0x5000: ("reserved", False),
        0x3FFFFFF: ("reserved", False),
    }
    assert heap_holding(state, heap + 0x4000000) is None
    assert plan_of(state, plans, heap - 1) is None
    padding = arena_place(state, plans[1], (), (), plans[1].regions[0].start - 1)
    assert padding.kind == "padding"
    assert plan_of(state, plans, MAIN_BASE + 8) is plans[0]


def test_a_heap_that_its_arena_does_not_lead_to() -> None:
    """A link of the chain was overwritten: the heap behind it still says whose it is."""
    image, state, _ = threads_heap()
    lost = 0x4800_0000
    image.map(lost, 0x3000)
    image.heap(lost, state.ring.arenas[1].address, 0, 0x3000)
    place = lost_heap_place(image.memory, state, lost + 0x1234)
    assert place is not None
    assert place.kind == "gap"
    assert "arena 1" in place.text
    assert lost_heap_place(image.memory, state, lost + 0x3000) is None, "behind what is in use"
    assert lost_heap_place(image.memory, state, 0x7000_0000_0000) is None
    image.heap(lost, 0x4242, 0, 0x3000)
    assert lost_heap_place(image.memory, state, lost + 0x1234) is None
