"""Whose a word in memory is: a chunk's, a link of malloc's, a field of its structs, or somebody else's."""

from __future__ import annotations

import pytest

from gdbheap.memory import Snapshot
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.account import FreeFacts
from gdbheap.ptmalloc.chunk import Chunk
from gdbheap.ptmalloc.refs import (
    Reference,
    Word,
    chunk_references,
    chunks_of,
    field_at,
    link_at,
    malloc_areas,
    mangled_links,
    words_into,
)
from gdbheap.ptmalloc.scan import Unreadable
from gdbheap.ptmalloc.state import HeapState, read_heap_state
from gdbheap.ptmalloc.tcache import Tcache, read_tcache
from gdbheap.ptmalloc.whole import WholeWalk, chunk_at
from tests.support.heap_image import Image, Row, main_heap

PIECES = [(0x40, "used"), (0x40, "tcache"), (0x40, "used"), (0x40, "tcache"), (0x200, "unsorted"), (0x40, "used"),
          (0x30, "fastbin"), (0x40, "used"), (0x30, "fastbin"), (0x800, "large"), (0x40, "used"), (0x60, "small"),
          (0x40, "used")]  # fmt: skip


class Made:
    """A heap with a chunk in each state, and how it is read."""

    def __init__(self, version: str = "2.36") -> None:
        self.image = Image(version)
        self.rows = main_heap(self.image, PIECES)

    @property
    def state(self) -> HeapState:
        image = self.image
        return read_heap_state(image.memory, image.abi, image.layout, image.MAIN_ARENA, image.MP)

    @property
    def tcache(self) -> Tcache:
        image, address = self.image, self.rows[0].address + self.image.abi.header
        return read_tcache(image.memory, image.abi, image.layout, address, image.safe_linking, 0)

    def walk(self) -> WholeWalk:
        return WholeWalk(self.image.memory, self.state, FreeFacts((self.tcache,), self.image.safe_linking), ())

    def references(self, row: Row) -> list[Reference | Word]:
        """Return who points into a chunk of the heap, within the heap and libc's data."""
        image, found = self.image, chunk_at(self.walk(), row.address)
        assert found is not None
        low, high = row.address, row.address + row.size
        ranges = [image.LIBC, (self.rows[0].address, self.rows[-1].address + self.rows[-1].size - self.rows[0].address)]
        spans = [(start, start + size) for start, size in ranges]
        words = words_into(image.memory, image.abi, spans, low, high, [])
        if image.safe_linking:
            words += mangled_links(image.memory, self.state, (self.tcache,), found[1])
        words.sort()
        holders = chunks_of(self.walk(), [word.address for word in words])
        areas = malloc_areas(self.state, {1: self.tcache})
        return list(chunk_references(image.abi, words, holders, areas))

    def row(self, state: str, place: int = 0) -> Row:
        return [row for row in self.rows[1:] if row.state == state][place]


def texts(references: list[Reference | Word]) -> list[str]:
    """Return where the references are."""
    return [item.where if isinstance(item, Reference) else "nobody's" for item in references]


@pytest.mark.parametrize(
    ("state", "place", "where"),
    [
        ("tcache", 0, ["next of a free chunk"]),
        ("tcache", 1, ["tcache of thread 1: entries[2]"]),
        ("fastbin", 0, ["fd of a free chunk"]),
        ("fastbin", 1, ["main_arena: fastbinsY[1]"]),
        ("unsorted", 0, ["main_arena: bins[0]", "main_arena: bins[1]"]),
        ("small", 0, ["main_arena: bins[10]", "main_arena: bins[11]"]),
        ("used", 0, []),
    ],
)
def test_the_lists_of_a_free_chunk(state: str, place: int, where: list[str]) -> None:
    made = Made()
    found = made.references(made.row(state, place))
    assert texts(found) == where
    for item in found:
        assert isinstance(item, Reference)
        assert item.kind == "malloc"
        assert item.mangled == (item.where in ("next of a free chunk", "fd of a free chunk"))


def test_links_that_are_not_mangled() -> None:
    made = Made("2.31")
    for state, where in (("tcache", "next of a free chunk"), ("fastbin", "fd of a free chunk")):
        (found,) = made.references(made.row(state))
        assert isinstance(found, Reference)
        assert (found.kind, found.where, found.mangled) == ("malloc", where, False)


def test_the_word_behind_a_used_chunk_is_its_own() -> None:
    """A request of 0x38 bytes reaches into the header of the chunk that follows."""
    made = Made()
    first, target = made.row("used", 2), made.row("used", 0)
    pointer = target.address + 16
    made.image.word(first.address + first.size, pointer)
    (found,) = made.references(target)
    assert isinstance(found, Reference)
    assert found.kind == "chunk"
    assert found.chunk is not None
    assert found.chunk.address == first.address
    assert found.address == first.address + first.size
    assert found.live


def test_what_is_left_over_in_a_free_chunk_is_not_live() -> None:
    made = Made()
    large, target = made.row("large"), made.row("used", 1)
    made.image.word(large.address + 0x100, target.address + 0x20)
    (found,) = made.references(target)
    assert isinstance(found, Reference)
    assert (found.kind, found.live, found.value - target.address) == ("chunk", False, 0x20)


def test_words_of_nobody() -> None:
    made = Made()
    target = made.row("used", 3)
    place = made.image.LIBC[0] + 0x3F00
    made.image.word(place, target.address + 16)
    assert made.references(target) == [Word(place, target.address + 16)]


def test_fields_of_malloc() -> None:
    made = Made()
    image, state = made.image, made.state
    areas = malloc_areas(state, {7: made.tcache})
    fields = image.layout.state.fields
    assert field_at(areas, image.MAIN_ARENA + fields["top"].offset) == "main_arena: top"
    assert field_at(areas, image.MAIN_ARENA + fields["bins"].offset + 24) == "main_arena: bins[3]"
    assert field_at(areas, image.MP + image.layout.par.fields["sbrk_base"].offset) == "mp_: sbrk_base"
    assert field_at(areas, made.tcache.address) == "tcache of thread 7: counts[0]"
    assert field_at(areas, image.MAIN_ARENA - 8) is None
    assert field_at(areas, image.MAIN_ARENA + image.layout.state.size) is None


@pytest.mark.parametrize(
    ("state", "offset", "link"),
    [
        ("used", 0, None),
        ("tcache", 0, "next"),
        ("tcache", 8, None),
        ("fastbin", 0, "fd"),
        ("fastbin", 8, None),
        ("unsorted", 8, "bk"),
        ("small", 16, None),
        ("large", 16, "fd_nextsize"),
        ("large", 24, "bk_nextsize"),
        ("large", 32, None),
        ("large", 4, None),
        ("large", -8, None),
    ],
)
def test_links(state: str, offset: int, link: str | None) -> None:
    chunk = Chunk(0x1000, 0x1010, 0x500, 1, state, 0x4F8)
    assert link_at(Abi(8), chunk, chunk.pointer + offset) == link


def test_only_whole_words_of_what_can_be_read() -> None:
    abi = Abi(8)
    target = 0x5555_5555_9010
    data = bytearray(0x2000)
    for offset in (0, 0x18, 0xFF8, 0x1FF8, 0x105):
        data[offset : offset + 8] = target.to_bytes(8, "little")
    memory = Snapshot([(0x10000, bytes(data))])
    unreadable: list[Unreadable] = []
    found = words_into(memory, abi, [(0x10004, 0x13000)], target, target + 1, unreadable)
    assert [word.address for word in found] == [0x10018, 0x10FF8, 0x11FF8]
    assert [(hole.start, hole.end) for hole in unreadable] == [(0x12000, 0x13000)]
