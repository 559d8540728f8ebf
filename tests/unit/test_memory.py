"""Reading memory: snapshots, the page cache, and several ranges at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbheap.memory import BlockCache, MemoryFault, PageCache, ReadPlan, Snapshot

#: Two pages, a hole, and a page that is mapped up to its middle.
CONTENT = {0x1000: bytes(range(256)) * 32, 0x4000: b"\xa5" * 0x800}


class Counting:
    """A snapshot that remembers what was read of it."""

    def __init__(self) -> None:
        self.snapshot = Snapshot(CONTENT.items())
        self.reads: list[tuple[int, int]] = []

    def read(self, address: int, size: int) -> bytes:
        self.reads.append((address, size))
        return self.snapshot.read(address, size)


def expected(address: int, size: int) -> bytes | None:
    """Return the bytes, byte by byte, None where one of them is not there."""
    found = bytearray()
    for place in range(address, address + size):
        for start, data in CONTENT.items():
            if start <= place < start + len(data):
                found.append(data[place - start])
    return bytes(found) if len(found) == size else None


def test_a_fault_says_what_was_asked() -> None:
    with pytest.raises(MemoryFault) as caught:
        Snapshot([(0x1000, b"abc")]).read(0x1001, 3)
    assert (caught.value.address, caught.value.size) == (0x1001, 3)
    assert "3 bytes at 0x1001" in str(caught.value)


def test_ranges_that_touch_are_one() -> None:
    snapshot = Snapshot([(0x1003, b"def"), (0x1000, b"abc"), (0x1006, b"g")])
    assert snapshot.read(0x1001, 6) == b"bcdefg"
    with pytest.raises(MemoryFault):
        Snapshot([(0x1000, b"abc"), (0x1004, b"d")]).read(0x1002, 2)


def test_ranges_that_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0x1002.*0x1003"):
        Snapshot([(0x1000, b"abc"), (0x1002, b"d")])


@pytest.mark.parametrize("address", [0, 0xFFF, 0x3000, 0x10000])
def test_what_is_not_in_a_snapshot(address: int) -> None:
    with pytest.raises(MemoryFault):
        Snapshot(CONTENT.items()).read(address, 1)


places = st.integers(0xF00, 0x4900)
sizes = st.integers(1, 0x1100)


@given(st.lists(st.tuples(places, sizes), min_size=1, max_size=8), st.sampled_from([1, 2, 16]))
def test_a_cache_reads_the_same(reads: list[tuple[int, int]], most: int) -> None:
    cache = PageCache(Snapshot(CONTENT.items()), max_pages=most)
    for address, size in reads:
        data = expected(address, size)
        if data is None:
            with pytest.raises(MemoryFault) as caught:
                cache.read(address, size)
            assert (caught.value.address, caught.value.size) == (address, size)
        else:
            assert cache.read(address, size) == data


def test_a_page_is_fetched_once() -> None:
    memory = Counting()
    cache = PageCache(memory)
    for offset in (0x10, 0x0, 0xFF8):
        cache.read(0x1000 + offset, 8)
    assert memory.reads == [(0x1000, 0x1000)]


def test_a_partly_mapped_page_is_read_by_the_byte() -> None:
    memory = Counting()
    assert PageCache(memory).read(0x47F8, 8) == b"\xa5" * 8
    assert memory.reads[-1] == (0x47F8, 8)


def test_a_cache_holds_no_more_than_it_may() -> None:
    memory = Counting()
    cache = PageCache(memory, page_size=0x100, max_pages=2)
    for page in (0x1000, 0x1100, 0x1200, 0x1100, 0x1200):
        cache.read(page, 4)
    assert [address for address, _ in memory.reads] == [0x1000, 0x1100, 0x1200, 0x1100]


@given(st.lists(st.tuples(places, sizes), min_size=1, max_size=6))
def test_several_ranges_read_as_one_by_one(ranges: list[tuple[int, int]]) -> None:
    pieces = [expected(address, size) for address, size in ranges]
    if None in pieces:
        with pytest.raises(MemoryFault):
            ReadPlan(ranges).read(Snapshot(CONTENT.items()))
    else:
        assert ReadPlan(ranges).read(Snapshot(CONTENT.items())) == pieces


def test_close_ranges_take_one_read_and_distant_ones_several() -> None:
    memory = Counting()
    ReadPlan([(0x1100, 8), (0x1000, 16), (0x1104, 4)]).read(memory)
    assert memory.reads == [(0x1000, 0x108)]
    far = Snapshot([(0x1000, b"near"), (0x90000000, b"far!")])
    assert ReadPlan([(0x90000000, 4), (0x1000, 4)]).read(far) == [b"far!", b"near"]


def test_a_block_cache_reads_what_its_memory_holds() -> None:
    start, size = BlockCache.SIZE // 2, 3 * BlockCache.SIZE
    data = bytes(index * index % 251 for index in range(size))
    cache = BlockCache(Snapshot([(start, data)]))
    with pytest.raises(MemoryFault):
        cache.block(0)  # it begins before the snapshot
    assert cache.block(1) == data[BlockCache.SIZE // 2 :][: BlockCache.SIZE + BlockCache.BEHIND]
    assert len(cache.block(3)) == BlockCache.SIZE // 2  # it ends in it
    for address in (start, BlockCache.SIZE, 2 * BlockCache.SIZE - 4, 3 * BlockCache.SIZE + 8):
        for length in (1, 8, BlockCache.SIZE // 4, BlockCache.SIZE // 2 - 8):
            assert cache.read(address, length) == data[address - start :][:length]
    with pytest.raises(MemoryFault):
        cache.read(start + size - 4, 8)
    assert cache.reads == 3
