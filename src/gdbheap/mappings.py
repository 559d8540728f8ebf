"""The ranges of addresses that a process has mapped, as the kernel, a core file or GDB tells them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

_MAPS_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ([-rwxsp]{4}) \S+ \S+ \d+ *(.*)")
_INFO_LINE = re.compile(
    r"\s*(0x[0-9a-f]+)\s+(0x[0-9a-f]+)\s+0x[0-9a-f]+\s+0x[0-9a-f]+(?:\s+([-rwxsp]{4}))?(?:\s+(.*?))?\s*"
)
#: Permissions of memory that malloc's can have: it is private, written and not executed.
_OF_A_HEAP = "rw-p"
#: The kernel's name of anonymous memory that is made of huge pages (MAP_HUGETLB).
_HUGE_PAGES = "/anon_hugepage"


@dataclass(frozen=True)
class MappedRange:
    """One mapping: the addresses from ``start`` up to, not including, ``end``.

    ``permissions`` are four letters as in /proc/PID/maps (``rw-p``), with ``?`` for each that is not known. ``name``
    is the file's path or the kernel's name (``[heap]``), and empty for an anonymous mapping and where a core file has
    no name for it. ``held`` is how many bytes from ``start`` on are there to be read: all, but in a core file that
    has left some out.
    """

    start: int
    end: int
    permissions: str
    name: str
    held: int

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self.end - self.start

    @property
    def anonymous(self) -> bool:
        """Whether no file is behind it, as far as its name tells; ``[heap]``, ``[stack]`` and the like are not files.

        A name in brackets is the kernel's, or one that the process gave to anonymous memory.
        """
        return not self.name or self.name.startswith(("[heap", "[anon", "[stack", _HUGE_PAGES))

    @property
    def may_be_heap(self) -> bool:
        """Whether malloc may have mapped it: anonymous, private, readable and writable, as far as is known."""
        return (
            self.anonymous
            and self.name != "[stack]"
            and all(have in (want, "?") for have, want in zip(self.permissions, _OF_A_HEAP))
        )


def parse_maps(text: str) -> tuple[MappedRange, ...]:
    """Return the ranges that the text of a /proc/PID/maps lists; a line that is none is left out."""
    found = []
    for line in text.splitlines():
        match = _MAPS_LINE.fullmatch(line)
        if match is not None:
            start, end = int(match[1], 16), int(match[2], 16)
            found.append(MappedRange(start, end, match[3], match[4], end - start))
    return tuple(found)


def parse_info_proc(text: str) -> tuple[MappedRange, ...]:
    """Return the ranges that GDB's ``info proc mappings`` lists; GDB before 12 does not tell the permissions."""
    found = []
    for line in text.splitlines():
        match = _INFO_LINE.fullmatch(line)
        if match is not None:
            start, end = int(match[1], 16), int(match[2], 16)
            found.append(MappedRange(start, end, match[3] or "????", match[4] or "", end - start))
    return tuple(found)


def range_of(ranges: Sequence[MappedRange], address: int) -> MappedRange | None:
    """Return the range that ``address`` is in, None where it is in none."""
    return next((item for item in ranges if item.start <= address < item.end), None)


def overlapping(ranges: Sequence[MappedRange], start: int, end: int) -> Iterator[tuple[int, int, MappedRange]]:
    """Yield the parts of the addresses from ``start`` to ``end`` that are mapped: (start, end, its range)."""
    for item in ranges:
        low, high = max(start, item.start), min(end, item.end)
        if low < high:
            yield low, high, item


class Spans:
    """A set of addresses, made of spans (start, end) that may overlap."""

    def __init__(self, spans: Iterable[tuple[int, int]]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in sorted(span for span in spans if span[0] < span[1]):
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._starts.append(start)
                self._ends.append(end)

    def inside(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of the addresses from ``start`` to ``end`` that are in the set."""
        for place in range(bisect_right(self._ends, start), len(self._ends)):
            if self._starts[place] >= end:
                return
            yield max(start, self._starts[place]), min(end, self._ends[place])

    def outside(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of the addresses from ``start`` to ``end`` that are not in the set."""
        for low, high in self.inside(start, end):
            if start < low:
                yield start, low
            start = high
        if start < end:
            yield start, end
