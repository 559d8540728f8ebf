"""Which C++ class an object has: the symbol of the vtable that its first word points into."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from gdbheap.debugger.language import symbol_text
from gdbheap.debugger.sections import sections

_DATA = (".data", ".rodata", ".bss", ".gnu.linkonce")
_VTABLE = re.compile(r"vtable for (.+) \+ (\d+) in section \S+(?: of .*)?")


class Vtables:
    """The classes of vtables, asked of GDB once for each address that may be in one.

    ``pattern`` is the class that is wanted: exactly, or with ``*``, ``?`` and ``[...]`` as in a shell; None for any.
    """

    def __init__(self, word_size: int, pattern: str | None = None) -> None:
        self._pattern = pattern
        self._least = 2 * word_size  # before the first function: the offset to the top, and the type's information
        self._known: dict[int, str | None] = {}
        self._starts, self._ends = _data_sections()

    def classes(self, words: Iterable[int]) -> Mapping[int, str]:
        """Return the classes of those ``words`` that point into a vtable."""
        starts, ends, known = self._starts, self._ends, self._known
        found: dict[int, str] = {}
        if not starts:
            return found
        for word in words:
            if word not in known:
                place = bisect_right(starts, word) - 1
                if place < 0 or word >= ends[place]:
                    continue  # most words: they are not remembered
                known[word] = self._look_up(word)
            name = known[word]
            if name is not None:
                found[word] = name
        return found

    @property
    def unresolved(self) -> int:
        """How many of the words that were asked for point into the data of an object file, but into no known vtable."""
        return sum(name is None for name in self._known.values())

    def wanted(self, name: str) -> bool:
        """Return whether chunks of this class are looked for."""
        return self._pattern is None or name == self._pattern or fnmatchcase(name, self._pattern)

    def _look_up(self, address: int) -> str | None:
        for line in symbol_text(address).splitlines():
            match = _VTABLE.fullmatch(line)
            if match is not None and int(match[2]) >= self._least:
                return match[1]
        return None


def _data_sections() -> tuple[list[int], list[int]]:
    """Return the starts and the ends of the sections in which compilers put vtables, in ascending order."""
    found = [section for section in sections() if section.name.startswith(_DATA)]
    return [section.start for section in found], [section.end for section in found]
