"""The processes of a recording, and what may be missing from it, as lines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from gdbheap.growth.event import Event
from gdbheap.growth.history import Gap, ProcessRecord
from gdbheap.render.escape import printable
from gdbheap.render.tables import table


def process_lines(processes: Sequence[ProcessRecord], events: Sequence[Event]) -> Iterator[str]:
    """Yield the processes as a table: who made each, what it ran, how many calls it made, how it ended."""
    rows = []
    for record in processes:
        names = [printable(os.path.basename(program)) for _, program in record.programs]
        calls = sum(event.process == record.process for event in events)
        rows.append(
            (
                str(record.process),
                "-" if record.parent is None else str(record.parent),
                " -> ".join(names) or "not followed",
                f"{calls:,}" if record.recorded else "not recorded",
                record.end or "-",
            )
        )
    yield from table(("process", "made by", "program", "calls ", "end"), rows)


def other_malloc_line(record: ProcessRecord, several: bool = False) -> str:
    """Return the sentence about a process that uses another malloc than glibc's."""
    whose = f"The malloc of process {record.process}" if several else "This program's malloc"
    return (
        f"{whose} is that of {printable(record.other_malloc or 'another library')}, not glibc's: its calls are "
        "recorded, but gdbheap cannot explain them."
    )


def gap_lines(gaps: Sequence[Gap]) -> Iterator[str]:
    """Yield a sentence for each reason why calls may be missing."""
    for gap in gaps:
        where = f"From event {gap.after + 1} on" if gap.after else "From the beginning on"
        yield f"{where} calls may be missing. {gap.reason}"
