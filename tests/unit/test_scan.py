"""Searching memory: every hit that a plain loop finds, and no other, whatever the memory and wherever pieces end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gdbheap.memory import MemoryFault, Snapshot
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.scan import BytesSought, Pieces, Unreadable, word_finder

ABIS = (Abi(8), Abi(4), Abi(8, little_endian=False), Abi(4, little_endian=False))


def every(find: Callable[[int], int], step: int) -> list[int]:
    """Return all places that a finder finds."""
    found = []
    place = find(0)
    while place >= 0:
        found.append(place)
        place = find(place + step)
    return found


@settings(max_examples=300)
@given(
    abi=st.sampled_from(ABIS),
    base=st.integers(0, (1 << 32) - 1),
    spread=st.integers(0, 1 << 18),
    length=st.integers(1, 1 << 18),
    offsets=st.lists(st.integers(-(1 << 18), 1 << 19), max_size=80),
    noise=st.binary(max_size=64),
)
@example(abi=Abi(8), base=0, spread=0, length=1, offsets=[0, 0, 1], noise=b"")
@example(abi=Abi(4), base=0xFFFFFF00, spread=0, length=0x100, offsets=[0, 0xFF, 0x100], noise=b"\xff" * 40)
def test_words_of_a_range(abi: Abi, base: int, spread: int, length: int, offsets: list[int], noise: bytes) -> None:
    limit = 1 << 8 * abi.word_size
    low = min(base + spread, limit - 1)
    high = min(low + length, limit)
    words = [(low + offset) % limit for offset in offsets]
    data = b"".join(word.to_bytes(abi.word_size, abi.byte_order) for word in words) + noise
    expected = [
        place
        for place in range(0, len(data) - abi.word_size + 1, abi.word_size)
        if low <= int.from_bytes(data[place : place + abi.word_size], abi.byte_order) < high
    ]
    assert every(word_finder(data, abi, low, high), abi.word_size) == expected


def test_many_words_that_are_nearly_right() -> None:
    """The planes leave many candidates, all just outside of the range or inside."""
    abi = Abi(8)
    low, high = 0x5555_5555_92A8, 0x5555_5556_0123
    words = [low - 1, low, high - 1, high, low ^ 0xFF, low + 0x1_0000_0000] * 500
    data = b"".join(word.to_bytes(8, "little") for word in words)
    expected = [place * 8 for place, word in enumerate(words) if low <= word < high]
    assert every(word_finder(data, abi, low, high), 8) == expected


def test_a_place_between_words_leads_to_the_next_word() -> None:
    data = (7).to_bytes(8, "little") * 3
    find = word_finder(data, Abi(8), 7, 8)
    assert [find(place) for place in (0, 1, 8, 9, 16, 17, 24)] == [0, 8, 8, 16, 16, -1, -1]


def test_bytes_at_any_place() -> None:
    assert every(BytesSought(b"aa").finder(b"aaaxaa", Abi(8)), 1) == [0, 1, 4]


class Holes:
    """Memory of ``size`` bytes in which some pages cannot be read; counts the reads."""

    def __init__(self, size: int, holes: frozenset[int]) -> None:
        self.size = size
        self.holes = holes
        self.reads = 0

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        if address + size > self.size or any(
            address <= hole * 4096 + 4095 and hole * 4096 < address + size for hole in self.holes
        ):
            raise MemoryFault(address, size, "a hole")
        return bytes((address + place) // 4096 % 251 for place in range(size))


@settings(max_examples=60)
@given(
    holes=st.frozensets(st.integers(0, 40)),
    start=st.integers(0, 9000),
    length=st.integers(0, 40 * 4096 - 9000),
    piece=st.sampled_from([4096, 3 * 4096, 16 * 4096, 1 << 20]),
)
def test_pieces_are_all_that_can_be_read(holes: frozenset[int], start: int, length: int, piece: int) -> None:
    end = start + length
    pieces = Pieces(Holes(40 * 4096, holes), Abi(8), piece)
    position, read = start, 0
    while True:
        found = pieces.next(position, end)
        if found is None:
            break
        address, data = found
        assert address >= position
        assert 0 < len(data) <= piece
        assert not any(place // 4096 in holes for place in range(address, address + len(data), 4096))
        position, read = address + len(data), read + len(data)
    lost = sum(hole.end - hole.start for hole in pieces.unreadable)
    assert read + lost == length, "each byte was read or is said not to be"
    for hole in pieces.unreadable:
        assert {*range(hole.start // 4096, (hole.end - 1) // 4096 + 1)} <= holes


def test_an_unreadable_range_costs_a_read_a_page_and_is_one_hole() -> None:
    memory = Holes(1 << 21, frozenset(range(256)))
    pieces = Pieces(memory, Abi(8))
    assert pieces.next(0, 1 << 20) is None
    assert pieces.unreadable == [Unreadable(0, 1 << 20, "a hole")]
    assert memory.reads < 270


@pytest.mark.parametrize("piece", [16, 4096])
def test_a_snapshot_is_read_to_its_end(piece: int) -> None:
    pieces = Pieces(Snapshot([(0x1000, b"x" * 100)]), Abi(8), piece)
    position, found = 0x1000, b""
    while True:
        part = pieces.next(position, 0x1000 + 100)
        if part is None:
            break
        position = part[0] + len(part[1])
        found += part[1]
    assert found == b"x" * 100
    assert not pieces.unreadable
