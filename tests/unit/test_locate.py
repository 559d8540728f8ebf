"""The chunk at an address, found with a short look, is the one that the walk over everything finds."""

from __future__ import annotations

from bisect import bisect_right
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from gdbheap.memory import Memory
from gdbheap.ptmalloc.account import FreeFacts, plan_arena
from gdbheap.ptmalloc.chunk import Chunk
from gdbheap.ptmalloc.locate import ChunkStates, Locator
from gdbheap.ptmalloc.rows import Rows
from gdbheap.ptmalloc.state import HeapState, read_heap_state
from gdbheap.ptmalloc.tcache import Tcache, read_tcache
from gdbheap.ptmalloc.walk import walk_arena
from tests.support.heap_image import LAYOUTS, MAIN_BASE, Image, Row, main_heap
from tests.unit.test_ptmalloc_properties import Counting, pieces


def read(image: Image, memory: Memory, rows: list[Row]) -> tuple[HeapState, list[Tcache]]:
    abi, layout = image.abi, image.layout
    state = read_heap_state(memory, abi, layout, image.MAIN_ARENA, image.MP)
    return state, [read_tcache(memory, abi, layout, rows[0].address + abi.header, image.safe_linking)]


def walked(memory: Memory, state: HeapState, facts: FreeFacts) -> tuple[list[Chunk], float]:
    """Return the chunks of the walk, and the address at which it stopped for the first time."""
    plan, free = plan_arena(memory, state, state.ring.arenas[0], facts)
    blocks = list(walk_arena(memory, state.abi, plan, free))
    stops = [block.gap.start for block in blocks if block.gap is not None and block.gap.start is not None]
    return list(Rows(state.abi, blocks)), min(stops, default=inf)


@given(st.data())
def test_every_address_of_a_sound_heap(data: st.DataObject) -> None:
    version, bits = data.draw(st.sampled_from(sorted(LAYOUTS)))
    image = Image(version, bits, little=data.draw(st.booleans()))
    base = MAIN_BASE + image.abi.word_size * data.draw(st.integers(0, 600))
    rows = main_heap(image, data.draw(pieces(version, bits)), base=base)
    memory = image.memory
    state, tcaches = read(image, memory, rows)
    locator, states = Locator(memory, state), ChunkStates(memory, state, tcaches, image.safe_linking)
    end = rows[-1].address + rows[-1].size
    starts = [row.address for row in rows]
    for address in data.draw(st.lists(st.integers(base - 64, end + 64), max_size=30)) + starts:
        place = locator.find(address)
        if not starts[0] <= address < end:
            assert place is None
            continue
        assert place is not None
        chunk = states.chunk(place)
        assert Row(chunk.address, chunk.size, chunk.state) == rows[bisect_right(starts, address) - 1]
        assert place.arena is state.ring.arenas[0]


@settings(max_examples=300)
@given(st.data())
def test_damage_is_seen_as_the_walk_sees_it(data: st.DataObject) -> None:
    """One word that is wrong: what is found is what the walk says, or nothing."""
    version, bits = data.draw(st.sampled_from(sorted(LAYOUTS)))
    image = Image(version, bits)
    rows = main_heap(image, data.draw(pieces(version, bits)))
    word = image.abi.word_size
    inside = st.integers(rows[1].address // word, (rows[-1].address + rows[-1].size) // word - 1)
    place = data.draw(
        st.one_of(st.sampled_from(rows).map(lambda row: row.address + word), inside.map(lambda index: index * word))
    )
    addresses = [image.MAIN_ARENA, *(row.address for row in rows)]
    image.word(place, data.draw(st.one_of(st.sampled_from(addresses), st.integers(0, 0x1000), st.integers(0, 1 << 31))))
    memory = image.memory
    state, tcaches = read(image, memory, rows)
    locator, states = Locator(memory, state), ChunkStates(memory, state, tcaches, image.safe_linking)
    chunks, stopped = walked(memory, state, FreeFacts(tcaches, image.safe_linking))
    tops = [chunk for chunk in chunks if chunk.state == "top"]
    for chunk in chunks:
        if chunk.state != "top" and any(top.address < chunk.address + chunk.size for top in tops):
            continue  # the damage made top reach into it: it is one or the other
        if not chunk.size:  # of top
            assert locator.find(chunk.address) is None
            continue
        for address in (chunk.address, chunk.address + chunk.size - 1):
            found = locator.find(address)
            if found is None:  # a look at one chunk is not taken up again behind the place where it stops
                assert stopped <= chunk.address
                continue
            assert states.chunk(found) == chunk


def test_a_second_look_does_not_walk_again() -> None:
    image = Image()
    rows = main_heap(image, [(0x400, "used")] * 20_000)
    memory = Counting(image.memory)
    state, _ = read(image, image.memory, rows)
    locator = Locator(memory, state)
    last = rows[-2]
    assert locator.find(last.address + 5) is not None
    first = memory.size
    assert first > 15 << 20  # all that lies before it
    found = locator.find(last.address - 0x2000 + 5)
    assert found is not None
    assert found.address == last.address - 0x2000
    assert memory.size - first <= 2 << 20
