"""Where main_arena's memory begins anew, as far as recorded events tell."""

from __future__ import annotations

from collections.abc import Iterable

from gdbheap.growth.event import Event
from gdbheap.growth.predict import CaughtAt, every_call, predictions


def region_starts(events: Iterable[Event], caught: CaughtAt = every_call) -> tuple[int, ...]:
    """Return the addresses where a region of main_arena begins besides sbrk_base, from events of one process.

    Someone else moved the break before malloc did, or a mapping took the place of the break.
    """
    of_main = [
        event for event in events if event.reading is not None and event.reading.arena and not event.reading.number
    ]
    predicted = predictions(of_main, caught)
    found = []
    for event in of_main:
        prediction = predicted.get(event.id)
        if prediction is None or event.result is None or event.failed:
            continue
        if prediction.path == "brk-moved" and event.break_before is not None:
            found.append(event.break_before)
        elif prediction.path == "mmap-fallback":
            found.append(event.result)
    return tuple(found)
