"""The kernel's own account of what a process has mapped."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: What the kernel adds by itself: the stack grows without a system call.
GROWS_BY_ITSELF = ("[stack]",)

_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ([-rwxsp]{4}) \S+ \S+ \d+\s*(.*)")


@dataclass(frozen=True)
class Range:
    """One line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    name: str


def parse(text: str) -> list[Range]:
    """Read the text of /proc/PID/maps: every line must be one that is understood."""
    ranges = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        assert match, f"a line of /proc/PID/maps that is not understood: {line!r}"
        start, end, permissions, name = match.groups()
        ranges.append(Range(int(start, 16), int(end, 16), permissions, name))
    assert ranges
    return ranges


def mapped_bytes(text: str) -> int:
    """Return how many bytes are mapped by what system calls can change."""
    return sum(part.end - part.start for part in parse(text) if part.name not in GROWS_BY_ITSELF)


def accessible_bytes(text: str) -> int:
    """Return how many bytes are mapped, by what system calls can change, that the program may use in some way."""
    parts = (part for part in parse(text) if part.name not in GROWS_BY_ITSELF)
    return sum(part.end - part.start for part in parts if not part.permissions.startswith("---"))


#: A Python expression for inside GDB: the text of the selected process's maps.
MAPS = "open('/proc/%d/maps' % gdb.selected_inferior().pid).read()"
