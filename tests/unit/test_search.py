"""Looking for chunks: what is found is what a plain look at every chunk finds, whatever is asked for."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc import search as searching
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.account import FreeFacts
from gdbheap.ptmalloc.chunk import STATES
from gdbheap.ptmalloc.scan import BytesSought, WordSought
from gdbheap.ptmalloc.search import ORDERS, USUAL_STATES, FoundRows, FoundTotals, Groups, Search, Sought
from gdbheap.ptmalloc.state import HeapState, read_heap_state
from gdbheap.ptmalloc.tcache import read_tcache
from gdbheap.ptmalloc.whole import WholeWalk, chunk_at
from tests.support.heap_image import MAIN_BASE, Image, Row, main_heap

VTABLES = {0x1000_3000 + 16 * number: f"kind{number}" for number in range(4)}
WORDS = (0, 1, *VTABLES, MAIN_BASE + 0x2A0, MAIN_BASE + 0x2A8, MAIN_BASE + 0x1230, 0xFFFF_FFFF)
STATES_MADE = ("used", "used", "used", "tcache", "fastbin", "unsorted", "small", "large")


class Classes:
    """Classes of a few vtables; those whose name ends in an even number are wanted."""

    def classes(self, words: Iterable[int]) -> Mapping[int, str]:
        return {word: VTABLES[word] for word in words if word in VTABLES}

    def wanted(self, name: str) -> bool:
        return int(name[-1]) % 2 == 0


@dataclass
class Heap:
    """A heap whose chunks are known: what is in memory, and where."""

    image: Image
    rows: list[Row]
    memory: Memory
    state: HeapState
    facts: FreeFacts

    def walk(self) -> WholeWalk:
        return WholeWalk(self.memory, self.state, self.facts, ())

    def data(self, row: Row) -> bytes:
        """Return the user data of a chunk."""
        abi = self.image.abi
        start, end = row.address + abi.header, row.address + row.size
        if row.state in ("used", "tcache", "fastbin"):
            end += abi.word_size
        return self.memory.read(start, end - start)


def make(seed: int, count: int, bits: int = 64, *, little: bool = True) -> Heap:
    """Return a heap of random chunks that are full of a few words, with texts over them."""
    chance = random.Random(seed)
    image = Image("2.36", bits, little=little)
    abi = image.abi
    pieces: list[tuple[int, str]] = []
    for _ in range(count):
        state = chance.choice(STATES_MADE)
        if pieces and pieces[-1][1] in ("unsorted", "small", "large"):
            state = "used"  # free chunks are merged with their neighbours
        # No fastbin of a 32-bit machine holds more than 5 units.
        units = chance.randrange(2, 6) if state == "fastbin" or chance.random() < 0.7 else chance.randrange(2, 400)
        if state == "large":
            units = chance.randrange(70, 400)
        if state in ("tcache", "small"):
            units = chance.randrange(2, 60)
        pieces.append((max(units * 16, abi.min_size), state))
    pieces.append((abi.request_to_chunk(40), "used"))
    rows = main_heap(image, pieces)
    for row in rows[1:-1]:
        if row.state != "used":
            continue
        start, end = row.address + abi.header, row.address + row.size + abi.word_size
        for place in range(start, end, abi.word_size):
            image.word(place, chance.choice(WORDS))
        if chance.random() < 0.4:
            place = chance.randrange(start - 3, end)
            text = b"needle"[: max(0, end - place)]
            if place >= start:
                image.write(place, text)
    image.word(image.MAIN_ARENA - 8, 0)
    memory = image.memory
    heap_state = read_heap_state(memory, abi, image.layout, image.MAIN_ARENA, image.MP)
    tcache = read_tcache(memory, abi, image.layout, rows[0].address + abi.header, image.safe_linking, 0)
    return Heap(image, rows, memory, heap_state, FreeFacts((tcache,), image.safe_linking))


def holds(abi: Abi, data: bytes, pointer: int, content: BytesSought | WordSought) -> int | None:
    """Return the first address of the content in a chunk's user data, by looking at every place."""
    if isinstance(content, BytesSought):
        place = data.find(content.pattern)
        return pointer + place if place >= 0 else None
    for place in range(0, len(data) - abi.word_size + 1, abi.word_size):
        if content.low <= int.from_bytes(data[place : place + abi.word_size], abi.byte_order) < content.high:
            return pointer + place
    return None


def expected(heap: Heap, sought: Sought, typed: bool) -> Iterator[tuple[Row, int | None, str | None]]:
    """Yield the chunks that are to be found: with the place of the first content, and the class."""
    abi = heap.image.abi
    for row in heap.rows:
        pointer, end = row.address + abi.header, row.address + row.size
        if row.state not in sought.states or row.size < sought.min_size:
            continue
        if sought.max_size is not None and row.size > sought.max_size:
            continue
        if end <= sought.start or (sought.end is not None and row.address >= sought.end):
            continue
        data = heap.data(row)
        places = [holds(abi, data, pointer, content) for content in sought.contents]
        if None in places:
            continue
        first = int.from_bytes(data[: abi.word_size], abi.byte_order)
        name = VTABLES.get(first) if typed and row.state == "used" else None
        if sought.typed and (name is None or not Classes().wanted(name)):
            continue
        yield row, places[0] if places else None, name


def found(
    heap: Heap, sought: Sought, typed: bool, order: str = "address", limit: int | None = None
) -> tuple[FoundTotals, Groups, FoundRows]:
    """Search, and return the sums, the groups and the rows."""
    walk = heap.walk()
    search = Search(heap.memory, heap.image.abi, sought, Classes() if typed else None)
    totals, groups, rows = FoundTotals(), Groups(), FoundRows(heap.image.abi, order, limit)
    for arena, block in walk.blocks():
        matches = search.matches(block)
        if matches is not None:
            totals.see(matches)
            groups.see(matches)
            rows.see(matches, None if arena is None else arena.name)
    assert not walk.missing
    assert not walk.problems
    assert not search.unreadable
    return totals, groups, rows


def contents(abi: Abi) -> st.SearchStrategy[BytesSought | WordSought]:
    """Return strings and words that are often there."""
    patterns = [b"needle", b"need", b"dle", b"\0\0\0", b"\1", b"nowhere"]
    words = st.sampled_from(WORDS).flatmap(
        lambda low: st.sampled_from([1, 8, 0x1000]).map(
            lambda size: WordSought(low, min(low + size, 1 << 8 * abi.word_size), abi.word_size)
        )
    )
    return st.sampled_from(patterns).map(BytesSought) | words


HEAPS = {(bits, little): make(7, 300, bits, little=little) for bits in (64, 32) for little in (True, False)}


@settings(max_examples=400)
@given(st.data(), st.sampled_from(sorted(HEAPS)), st.booleans(), st.booleans())
def test_what_is_found_is_what_there_is(data: st.DataObject, which: tuple[int, bool], named: bool, only: bool) -> None:
    heap = HEAPS[which]
    abi = heap.image.abi
    first, last = heap.rows[0].address, heap.rows[-1].address
    addresses = st.integers(first - 32, last + 32) | st.sampled_from([row.address for row in heap.rows])
    states = st.none() | st.sets(st.sampled_from(STATES), min_size=1)
    chosen = data.draw(states)
    low = data.draw(st.sampled_from([0, 0, 33, 64, 0x70, 0x400]))
    sought = Sought(
        min_size=low,
        max_size=data.draw(st.none() | st.integers(low, 0x900)),
        states=frozenset(USUAL_STATES if chosen is None else chosen),
        start=data.draw(st.just(0) | addresses),
        end=data.draw(st.none() | addresses),
        contents=tuple(data.draw(st.lists(contents(abi), max_size=2))),
        typed=only,
    )
    wanted = list(expected(heap, sought, named or only))
    totals, groups, rows = found(heap, sought, named or only)
    assert [(row.chunk.address, row.hit, row.class_name) for row in rows.rows()] == [
        (row.address, hit, name) for row, hit, name in wanted
    ]
    assert all(
        row.chunk.state == made.state and row.chunk.size == made.size for row, (made, _, _) in zip(rows.rows(), wanted)
    )
    assert totals.by_state() == {
        state: (len(sizes), sum(sizes))
        for state in STATES
        if (sizes := [row.size for row, _, _ in wanted if row.state == state])
    }
    if sought.by_size_alone and not named:
        table = heap.walk().by_size().only(sought.states, sought.min_size, sought.max_size)
        assert table.counts().by_state() == totals.by_state()
        assert list(map(vars, Groups(table).groups())) == list(map(vars, groups.groups()))
    if sought.by_state_alone and not named:
        assert heap.walk().counts().only(sought.states).by_state() == totals.by_state()
    counted = Counter((name, None if name else row.size, row.state) for row, _, name in wanted)
    assert counted == {
        (group.class_name, group.size, state): count
        for group in groups.groups()
        for state, (count, _) in group.by_state().items()
    }
    assert sum(group.bytes for group in groups.groups()) == totals.bytes


@pytest.mark.parametrize("piece", [64, 4096])
@pytest.mark.parametrize("which", sorted(HEAPS))
def test_content_across_pieces(monkeypatch: pytest.MonkeyPatch, which: tuple[int, bool], piece: int) -> None:
    """However small the pieces are that memory is read in, the same is found."""
    heap = HEAPS[which]
    monkeypatch.setattr(searching, "PIECE", piece)
    for content in (
        BytesSought(b"needle"),
        BytesSought(b"e" * 40),
        WordSought(WORDS[2], WORDS[2] + 1, heap.image.abi.word_size),
    ):
        sought = Sought(contents=(content,))
        _, _, rows = found(heap, sought, False)
        assert [(row.chunk.address, row.hit) for row in rows.rows()] == [
            (row.address, hit) for row, hit, _ in expected(heap, sought, False)
        ]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("limit", [0, 1, 7, 100, None])
def test_the_first_rows_of_an_order(order: str, limit: int | None) -> None:
    heap = make(11, 900)
    wanted = [row for row, _, _ in expected(heap, Sought(), False)]
    keys = {
        "address": lambda row: (0, row.address),
        "size": lambda row: (-row.size, row.address),
        "state": lambda row: (STATES.index(row.state), row.address),
    }
    _, _, rows = found(heap, Sought(), False, order, limit)
    shown = [row.chunk.address for row in rows.rows()]
    assert shown == [row.address for row in sorted(wanted, key=keys[order])][:limit]


class Torn:
    """Memory of which some addresses cannot be read any more."""

    def __init__(self, memory: Memory, start: int, end: int) -> None:
        self.memory = memory
        self.start, self.end = start, end

    def read(self, address: int, size: int) -> bytes:
        if address < self.end and self.start < address + size:
            raise MemoryFault(address, size, "it is gone")
        return self.memory.read(address, size)


def test_unreadable_contents_are_said() -> None:
    """The walk may see a chunk's header while its content is on a page that is not there."""
    image = Image()
    rows = main_heap(image, [(0x4000, "used"), (0x50, "used")])
    chunk, after = rows[1], rows[2]
    image.write(after.address + 16, b"needle")
    page = (chunk.address + 0x1FFF) & ~0xFFF
    abi = image.abi
    state = read_heap_state(image.memory, abi, image.layout, image.MAIN_ARENA, image.MP)
    facts = FreeFacts((), True)
    walk = WholeWalk(image.memory, state, facts, ())
    search = Search(Torn(image.memory, page, page + 0x1000), abi, Sought(contents=(BytesSought(b"needle"),)))
    matches = [item for _, block in walk.blocks() if (item := search.matches(block)) is not None]
    assert [list(item.hits.values()) for item in matches] == [[after.address + 16]]
    assert [(hole.start, hole.end) for hole in search.unreadable] == [(page, page + 0x1000)]


def test_a_walk_that_stops_is_not_whole() -> None:
    heap = make(5, 60)
    broken = heap.rows[30]
    heap.image.word(broken.address + 8, 0)
    heap.memory = heap.image.memory
    walk = heap.walk()
    met = [address for _, block in walk.blocks() for address in block.columns.addresses]
    assert met[:30] == [row.address for row in heap.rows[:30]]
    rest = [row.address for row in heap.rows if row.address >= met[30]]
    assert met[30:] == rest, "it goes on with a chunk on a free list, up to the top chunk"
    (part,) = walk.missing
    assert (part.arena, part.start, part.end) == ("main_arena", broken.address, met[30])
    assert f"{broken.address:#x}" in part.why


@pytest.mark.parametrize("which", sorted(HEAPS))
def test_the_chunk_at_an_address(which: tuple[int, bool]) -> None:
    heap = HEAPS[which]
    for row in heap.rows:
        for address in (row.address, row.address + row.size // 2, row.address + row.size - 1):
            place = chunk_at(heap.walk(), address)
            assert place is not None
            arena, chunk = place
            assert arena is not None
            assert (arena.name, chunk.address, chunk.size) == ("main_arena", row.address, row.size)
    assert chunk_at(heap.walk(), heap.rows[0].address - 1) is None
    assert chunk_at(heap.walk(), heap.rows[-1].address + heap.rows[-1].size) is None
