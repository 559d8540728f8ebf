"""What is said of the processes of a recording, and of what may be missing from it."""

from __future__ import annotations

from gdbheap.growth.history import Gap, ProcessRecord
from gdbheap.render.processes import gap_lines, other_malloc_line


def test_where_calls_may_be_missing() -> None:
    lines = list(gap_lines([Gap(0, "First."), Gap(12, "Second.")]))
    assert lines == [
        "From the beginning on calls may be missing. First.",
        "From event 13 on calls may be missing. Second.",
    ]


def test_whose_malloc_a_process_uses() -> None:
    """The file's name is escaped; the process is named where there are several."""
    record = ProcessRecord(7, None, 0.0, other_malloc="lib\x1bmine.so")
    assert "\x1b" not in other_malloc_line(record)
    assert other_malloc_line(record).startswith("This program's malloc is that of lib")
    assert other_malloc_line(record, several=True).startswith("The malloc of process 7 is that of lib")
