"""Searching raw memory for bytes, and for words that point into a range of addresses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import Abi, round_up

#: How much is read and searched at once, in bytes: what stays in the processor's cache.
PIECE = 1 << 20

#: One word in so many is sooner looked at by itself than with one more plane of all of them.
_FEW = 64

#: Returns the next place of what is sought at or behind a given one, -1 where there is none: offsets into a piece.
Finder = Callable[[int], int]


@dataclass(frozen=True)
class BytesSought:
    """A string of ``pattern`` bytes, at any address."""

    pattern: bytes

    @property
    def length(self) -> int:
        """How many bytes a hit has."""
        return len(self.pattern)

    def finder(self, data: bytes, abi: Abi) -> Finder:
        """Return what finds the pattern in ``data``."""
        return lambda position: data.find(self.pattern, position)


@dataclass(frozen=True)
class WordSought:
    """A word, at an address that is a multiple of its length, whose value is at least ``low`` and below ``high``.

    ``length`` is the ABI's word size; ``high`` is not more than all that such a word can hold, plus one.
    """

    low: int
    high: int
    length: int

    def finder(self, data: bytes, abi: Abi) -> Finder:
        """Return what finds such words in ``data``, which begins at a multiple of the word size."""
        return word_finder(data, abi, self.low, self.high)


def word_finder(data: bytes, abi: Abi, low: int, high: int) -> Finder:
    """Return what finds the next word of ``data`` that is at least ``low`` and below ``high``.

    Words are taken apart into planes: the first bytes of all of them, the second bytes of all, and so on. A plane is
    one slice, and whether its bytes can be right is one translation, so that no word is looked at one by one. The bytes
    that all values of the range have in common decide most, and two or three planes leave nearly nothing.
    """
    mask, exact = _candidates(data, abi, low, high)
    size, order = abi.word_size, abi.byte_order

    def find(position: int) -> int:
        place = mask.find(1, (position + size - 1) // size)
        while place >= 0 and not exact:
            start = place * size
            if low <= int.from_bytes(data[start : start + size], order) < high:
                break
            place = mask.find(1, place + 1)
        return place * size if place >= 0 else -1

    return find


def _candidates(data: bytes, abi: Abi, low: int, high: int) -> tuple[bytes, bool]:
    """Return a byte for each word, 1 where it may be in the range, and whether it then is."""
    tables, exact = _plane_tables(abi.word_size, low, high)
    count = len(data) // abi.word_size
    end = count * abi.word_size
    found = -1
    mask = b""
    for number, (significance, table) in enumerate(tables, 1):
        offset = significance if abi.little_endian else abi.word_size - 1 - significance
        found &= int.from_bytes(data[offset : end : abi.word_size].translate(table), "little")
        if not found:
            return b"", True
        if number == len(tables):
            return found.to_bytes(count, "little"), exact
        if number > 1:
            mask = found.to_bytes(count, "little")
            if mask.count(1) * _FEW < count:
                break  # the few that are left are sooner looked at one by one
    return mask, False


@lru_cache(maxsize=64)
def _plane_tables(word_size: int, low: int, high: int) -> tuple[list[tuple[int, bytes]], bool]:
    """Return which planes to look at, by significance, each with a table that makes right bytes 1 and others 0.

    Words that pass all are in the range where the second value is true; otherwise they may be just outside.
    """
    last = high - 1
    differing = word_size
    while differing and low >> (8 * (differing - 1)) == last >> (8 * (differing - 1)):
        differing -= 1
    tables = []
    if differing:
        first, final = ((value >> (8 * (differing - 1))) & 0xFF for value in (low, last))
        tables.append((differing - 1, bytes(first <= value <= final for value in range(256))))
    for significance in range(differing, word_size):
        right = (low >> (8 * significance)) & 0xFF
        tables.append((significance, bytes(value == right for value in range(256))))
    return tables, differing <= 1


@dataclass(frozen=True)
class Unreadable:
    """Bytes from ``start`` to ``end`` that could not be read, and why."""

    start: int
    end: int
    reason: str


class Pieces:
    """Reads a range piece by piece; what cannot be read is left out, to the page, and kept in ``unreadable``."""

    def __init__(self, memory: Memory, abi: Abi, piece: int = PIECE) -> None:
        self.unreadable: list[Unreadable] = []
        self._memory = memory
        self._page_size = abi.page_size
        self._piece = self._size = piece

    def next(self, position: int, end: int) -> tuple[int, bytes] | None:
        """Return address and bytes of the next readable piece from ``position`` on, None where there is none.

        It ends before ``end``, and has as many bytes as can be read at once, at most ``piece``.
        """
        while position < end:
            wanted = min(self._size, end - position)
            try:
                data = self._memory.read(position, wanted)
            except MemoryFault as fault:
                page_end = min(round_up(position + 1, self._page_size), end)
                if position + wanted > page_end:
                    half = position + wanted // 2
                    self._size = max(half - half % self._page_size, page_end) - position
                else:
                    self._enter(position, page_end, fault.reason)
                    position = page_end
                continue
            self._size = min(2 * self._size, self._piece)
            return position, data
        return None

    def _enter(self, start: int, end: int, reason: str) -> None:
        found = self.unreadable
        if found and found[-1].reason == reason and found[-1].start <= start <= found[-1].end:
            start, end = found[-1].start, max(end, found[-1].end)
            found.pop()
        found.append(Unreadable(start, end, reason))
