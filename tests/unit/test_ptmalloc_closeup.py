"""Chunks close up: each word has the one name that malloc.c gives it, and links lead where they lead."""

from __future__ import annotations

import pytest

from gdbheap.memory import Snapshot
from gdbheap.ptmalloc.bins import read_free_lists
from gdbheap.ptmalloc.chunk import LARGE, SMALL, STATES, TCACHE, UNSORTED, USED, Chunk, chunk_of
from gdbheap.ptmalloc.closeup import Closeup, Linking, list_places, read_closeup
from gdbheap.ptmalloc.tcache import read_tcache
from tests.support.heap_image import LAYOUTS, Image, Row, main_heap
from tests.unit.test_ptmalloc_extent import planned

KEY = 0x1234_5678
PIECES = [
    (0x40, "tcache"), (0x40, "used"), (0x40, "tcache"), (0x60, "used"), (0x800, "large"), (0x50, "used"),
    (0x80, "small"), (0x30, "used"), (0x300, "unsorted"), (0x20, "used"),
]  # fmt: skip


def chunk_at(image: Image, row: Row) -> Chunk:
    word = image.abi.read_word(image.memory, row.address + image.abi.word_size)
    return chunk_of(image.abi, row.address, word, row.size, STATES.index(row.state))


def close(image: Image, row: Row, rows: int = 4, **options: bool) -> Closeup:
    linking = Linking(image.safe_linking, frozenset((KEY,)))
    return read_closeup(image.memory, image.abi, chunk_at(image, row), linking, rows, **options)


def roles(closeup: Closeup) -> list[str]:
    return [word.role for word in closeup.words]


@pytest.mark.parametrize(("version", "bits"), sorted(LAYOUTS))
def test_each_word_has_its_name(version: str, bits: int) -> None:
    image = Image(version, bits)
    rows = main_heap(image, PIECES, tcache_key=KEY)
    data = ["data"] * 16
    for row in rows:
        shown = close(image, row, 2, first=row is rows[0])
        above = rows[rows.index(row) - 1].state
        first = "data" if row is rows[0] else "prev_size" if above in ("large", "small", "unsorted") else "above"
        links = {
            "tcache": ["next", "key"],
            "large": ["fd", "bk", "fd_nextsize", "bk_nextsize"],
            "small": ["fd", "bk"],
            "unsorted": ["fd", "bk"],
        }.get(row.state, [])
        assert roles(shown) == [first, "size", *links, *data][: 32 // image.abi.word_size]
        assert shown.left_out == row.size - 32
        assert shown.problem is None
        for place, word in enumerate(shown.words):
            assert word.address == row.address + place * image.abi.word_size
            assert word.value == image.abi.read_word(image.memory, word.address)
            assert word.target is None or word.role in (*links, "next")
        if first == "prev_size":
            assert shown.words[0].value == rows[rows.index(row) - 1].size


@pytest.mark.parametrize("version", ["2.31", "2.36", "2.43"])
def test_links_lead_to_the_next_chunk(version: str) -> None:
    """Mangled or not: the first chunk of a tcache list leads to the second, that one to none."""
    image = Image(version)
    rows = main_heap(image, PIECES, tcache_key=KEY)
    last, _, first = rows[1:4]
    assert close(image, first).words[2].target == last.address + 16
    assert close(image, last).words[2].target is None
    assert (close(image, last).words[2].value == 0) == (version == "2.31")


def test_fastbin_links() -> None:
    image = Image()
    rows = main_heap(image, [(0x30, "fastbin"), (0x30, "used"), (0x30, "fastbin")])
    assert close(image, rows[3]).words[2].target == rows[1].address
    assert roles(close(image, rows[3])) == ["above", "size", "fd", "data", "data", "data"]


def test_bins_lead_to_their_heads() -> None:
    image = Image()
    rows = main_heap(image, PIECES)
    _, plan, _ = planned(image)
    (unsorted,) = [row for row in rows if row.state == "unsorted"]
    fd, bk = close(image, unsorted).words[2:4]
    assert fd.target == bk.target == plan.arena.bin_header(image.abi, 1)


def test_a_word_is_no_key_unless_it_is_the_key() -> None:
    """What the program wrote over it is data: a key by name that is none would be a lie."""
    image = Image()
    rows = main_heap(image, PIECES, tcache_key=KEY)
    image.word(rows[1].address + 24, 0x4141)
    assert close(image, rows[1]).words[3].role == "data"
    assert close(image, rows[3]).words[3].role == "key"


def test_what_cannot_be_read_ends_the_words() -> None:
    image = Image()
    row = Row(0x5000_0000, 0x100, "used")
    image.map(row.address, 0x30)
    image.word(row.address + 8, 0x101)
    shown = close(image, row, 16)
    assert len(shown.words) == 6
    assert shown.left_out == 0x100 - 0x30
    assert shown.problem is not None
    assert f"{row.address + 0x30:#x}" in shown.problem
    nothing = read_closeup(Snapshot([]), image.abi, chunk_at(image, row), Linking(True, frozenset()), 4)
    assert (nothing.words, nothing.left_out) == ((), 0x100)


def test_places_on_lists() -> None:
    image = Image()
    rows = main_heap(image, [*PIECES, (0x300, "unsorted"), (0x20, "used")], tcache_key=KEY)
    _, plan, _ = planned(image)
    lists = read_free_lists(image.memory, image.abi, image.layout, plan.arena, True)
    cache = read_tcache(image.memory, image.abi, image.layout, rows[0].address + 16, True)
    states = {row.address: STATES.index(row.state) for row in rows}
    found = list_places(lists, {3: cache}, states)
    listed = [address for address, state in states.items() if state in (TCACHE, LARGE, SMALL, UNSORTED)]
    assert sorted(found) == listed
    assert not [address for address in found if states[address] == USED]
    assert found[rows[3].address] == ("tcache bin 2 of thread 3", 1, 2)
    assert found[rows[1].address] == ("tcache bin 2 of thread 3", 2, 2)
    unsorted = [row.address for row in rows if row.state == "unsorted"]
    assert [found[address] for address in unsorted] == [("unsorted", 2, 2), ("unsorted", 1, 2)]
