"""Reading a target's memory: the protocol that the core is written against, and two readers of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Protocol


class MemoryFault(Exception):
    """Bytes of the target that cannot be read.

    ``address`` and ``size`` (bytes) are what was asked for, ``reason`` says why it failed.
    """

    def __init__(self, address: int, size: int, reason: str = "it is not mapped") -> None:
        super().__init__(f"cannot read {size} bytes at {address:#x}: {reason}")
        self.address = address
        self.size = size
        self.reason = reason


class Memory(Protocol):
    """Something that bytes can be read from, by address."""

    def read(self, address: int, size: int) -> bytes:
        """Return the ``size`` bytes at ``address``; raise MemoryFault where any of them is unreadable."""
        ...


class Snapshot:
    """A copy of some ranges of memory.

    ``ranges`` are pairs of (address, bytes). Ranges that touch are read across; ranges that overlap are refused.
    """

    def __init__(self, ranges: Iterable[tuple[int, bytes]]) -> None:
        self._starts: list[int] = []
        self._data: list[bytearray] = []
        for start, data in sorted(ranges, key=lambda item: item[0]):
            end = self._starts[-1] + len(self._data[-1]) if self._starts else -1
            if start < end:
                raise ValueError(f"the range at {start:#x} overlaps the one that ends at {end:#x}")
            if start == end:
                self._data[-1] += data
            else:
                self._starts.append(start)
                self._data.append(bytearray(data))

    def read(self, address: int, size: int) -> bytes:
        """Return the ``size`` bytes at ``address``; raise MemoryFault where the snapshot does not hold them all."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            raise MemoryFault(address, size, "it is not part of the snapshot")
        offset = address - self._starts[index]
        data = bytes(self._data[index][offset : offset + size])
        if len(data) != size:
            raise MemoryFault(address, size, "it is not part of the snapshot")
        return data


class PageCache:
    """A reader that fetches whole pages and keeps them: for many small reads close together, as along a free list.

    Keep one for no longer than the target stays stopped. At most ``max_pages`` pages are held; then it starts anew.
    """

    def __init__(self, memory: Memory, page_size: int = 0x1000, max_pages: int = 0x4000) -> None:
        self._memory = memory
        self._page_size = page_size
        self._max_pages = max_pages
        self._pages: dict[int, bytes] = {}

    def _page(self, start: int) -> bytes:
        page = self._pages.get(start)
        if page is None:
            page = self._memory.read(start, self._page_size)
            if len(self._pages) >= self._max_pages:
                self._pages.clear()
            self._pages[start] = page
        return page

    def read(self, address: int, size: int) -> bytes:
        """Return the ``size`` bytes at ``address``; raise MemoryFault where any of them is unreadable."""
        start = address - address % self._page_size
        offset = address - start
        try:
            page = self._page(start)
            if offset + size <= self._page_size:
                return page[offset : offset + size]
        except MemoryFault:
            pass  # a page that is partly readable (the end of a core's segment): ask for just these bytes
        return self._memory.read(address, size)


class BlockCache:
    """A reader that keeps large blocks of memory, for a second reading of the same bytes.

    At most ``MOST`` blocks are held, together 32 MiB; then the oldest goes, and it has ``overflowed``. Keep one for no
    longer than the target stays stopped.
    """

    SHIFT = 18
    SIZE = 1 << SHIFT
    MOST = 128
    #: Bytes of the next block that each block has behind its own.
    BEHIND = 32

    def __init__(self, memory: Memory, page_size: int = 0x1000) -> None:
        self.reads = 0
        self.overflowed = False
        self._memory = memory
        self._page_size = page_size
        self._blocks: dict[int, bytes] = {}

    def block(self, number: int) -> bytes:
        """Return block ``number``, up to where it can be read; raise MemoryFault where it cannot from its start on."""
        found = self._blocks.get(number)
        if found is None:
            if len(self._blocks) >= self.MOST:
                del self._blocks[next(iter(self._blocks))]  # the next one gets its memory: no page is touched anew
                self.overflowed = True
            self.reads += 1
            start = number << self.SHIFT
            try:
                found = self._memory.read(start, self.SIZE + self.BEHIND)
            except MemoryFault:
                found = self._partly(start)
            self._blocks[number] = found
        return found

    def _partly(self, start: int) -> bytes:
        page = self._page_size
        parts = [self._memory.read(start, page)]
        for address in range(start + page, start + self.SIZE, page):
            try:
                parts.append(self._memory.read(address, page))
            except MemoryFault:
                break
        return b"".join(parts)

    def clear(self) -> None:
        """Drop what is kept."""
        self._blocks.clear()

    def read(self, address: int, size: int) -> bytes:
        """Return the ``size`` bytes at ``address``, kept ones where there are; raise MemoryFault as any reader."""
        first, last = address >> self.SHIFT, (address + size - 1) >> self.SHIFT
        parts = []
        for number in range(first, last + 1) if first in self._blocks else ():
            kept = self._blocks.get(number)
            if kept is None:
                break
            start = number << self.SHIFT
            parts.append(memoryview(kept)[max(address - start, 0) : min(address + size - start, self.SIZE)])
        data = b"".join(parts)
        return data if len(data) == size else self._memory.read(address, size)


#: Bytes between two ranges that are cheaper to read along than to ask a second time for.
_GAP = 0x1000


class ReadPlan:
    """Several ranges of memory, each (address, size), that are read again and again: with one read for neighbours."""

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        self._count = len(ranges)
        self._groups: list[tuple[int, int, list[tuple[int, int, int]]]] = []  # start, end, (place, address, size)
        for place, (address, size) in sorted(enumerate(ranges), key=lambda item: item[1]):
            if not self._groups or address - self._groups[-1][1] > _GAP:
                self._groups.append((address, address + size, []))
            start, end, parts = self._groups[-1]
            self._groups[-1] = (start, max(end, address + size), parts)
            parts.append((place, address, size))

    def read(self, memory: Memory) -> list[bytes]:
        """Return the bytes of each range, in the order in which they were given.

        Raises MemoryFault where any of them is unreadable.
        """
        found = [b""] * self._count
        for start, end, parts in self._groups:
            try:
                data = memory.read(start, end - start)
            except MemoryFault:  # perhaps only what lies between is unreadable
                for place, address, size in parts:
                    found[place] = memory.read(address, size)
                continue
            for place, address, size in parts:
                found[place] = data[address - start : address - start + size]
        return found
