"""The sections of the object files that the process has loaded, where they are in its memory."""

from __future__ import annotations

import re
from typing import NamedTuple

import gdb

from gdbheap.debugger.target import program_file

_LINE = re.compile(r"\t(0x[0-9a-f]+) - (0x[0-9a-f]+)(?: @ 0x[0-9a-f]+)? is (\.\S+)(?: in (.*))?")


class Section(NamedTuple):
    """One section: the addresses from ``start`` up to, not including, ``end``; of a ``file`` (its path)."""

    start: int
    end: int
    name: str
    file: str


def sections() -> list[Section]:
    """Return the sections by their addresses, as ``info files`` lists them."""
    program = program_file() or ""
    listed = map(_LINE.fullmatch, gdb.execute("info files", to_string=True).splitlines())
    return sorted(
        Section(int(match[1], 16), int(match[2], 16), match[3], match[4] or program)
        for match in listed
        if match is not None
    )
