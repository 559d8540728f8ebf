"""How much of a process's memory is in physical memory, where the process runs on this machine."""

from __future__ import annotations

import os
import re
from array import array
from bisect import bisect_right

_LINE = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) |Rss: +(\d+) kB")
_PAGE = os.sysconf("SC_PAGE_SIZE")
#: What pagemap says of a page (Documentation/admin-guide/mm/pagemap.rst).
_PRESENT, _OF_A_FILE, _EXCLUSIVE = 1 << 63, 1 << 61, 1 << 56
_ENTRIES = 1 << 16


class Resident:
    """Tells what of a span of addresses is resident, from /proc/PID/smaps and, for parts of mappings, pagemap.

    Raises OSError where the kernel does not let us read them.
    """

    def __init__(self, pid: int) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._rss: list[int] = []
        self._masks: dict[int, int | None] = {}  # by the mapping's place: the bits that count, None where none do
        with open(f"/proc/{pid}/smaps", "rb") as lines:
            for line in lines:
                found = _LINE.match(line)
                if found is None:
                    continue
                if found[3] is not None:
                    self._rss[-1] = int(found[3]) * 1024
                else:
                    self._starts.append(int(found[1], 16))
                    self._ends.append(int(found[2], 16))
                    self._rss.append(0)
        self._pages = open(f"/proc/{pid}/pagemap", "rb", buffering=0)  # noqa: SIM115 (closed with this object)

    def __call__(self, start: int, end: int) -> int | None:
        """Return how many bytes from ``start`` to ``end`` are resident, None where that cannot be told."""
        total = 0
        for place in range(bisect_right(self._ends, start), len(self._starts)):
            first, last = self._starts[place], self._ends[place]
            if first >= end:
                break
            if start <= first and last <= end:
                total += self._rss[place]
            elif self._rss[place]:
                part = self._part(place, max(start, first), min(end, last))
                if part is None:
                    return None
                total += part
        return total

    def _part(self, place: int, start: int, end: int) -> int | None:
        """Return what of a part of a mapping is resident.

        pagemap also shows the kernel's page of zeros, where memory was read but never written; smaps does not count
        it. It is told by not being this process's alone, unless others are so too, after a fork: the way to count
        that agrees with smaps on the whole mapping is taken.
        """
        if place not in self._masks:
            first, last = self._starts[place], self._ends[place]
            ways = (_OF_A_FILE | _EXCLUSIVE, -1)
            self._masks[place] = next((way for way in ways if self._count(first, last, way) == self._rss[place]), None)
        way = self._masks[place]
        return None if way is None else self._count(start, end, way)

    def _count(self, start: int, end: int, bits: int) -> int | None:
        """Return the bytes of pages that are present and have any of ``bits``, None where pagemap is not readable."""
        found = 0
        try:
            for page in range(start // _PAGE, end // _PAGE, _ENTRIES):
                entries = array("Q")
                entries.frombytes(os.pread(self._pages.fileno(), 8 * min(_ENTRIES, end // _PAGE - page), 8 * page))
                found += sum(entry >= _PRESENT and entry & bits != 0 for entry in entries)
        except (OSError, ValueError):
            return None
        return found * _PAGE
