"""Which arena each of malloc's recorded calls is about: also those that make one, before it has a number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gdbheap.growth.event import Event
from gdbheap.growth.requester import OWN_MAPPING


@dataclass(frozen=True)
class ArenaOf:
    """An arena of one process.

    ``address`` is None where none came of it, and ``number`` where no later call told which one a new arena became.
    """

    process: int
    address: int | None
    number: int | None

    @property
    def name(self) -> str:
        """What the arena is called."""
        if self.number is None:
            return "an arena that could not be made" if self.address is None else f"the arena at {self.address:#x}"
        return "main_arena" if self.number == 0 else f"arena {self.number}"


def arenas_of(events: Iterable[Event]) -> Mapping[int, ArenaOf]:
    """Return the arena whose memory each event changes, by the event's number.

    Events that are about none are left out: calls that are not malloc's, and mmapped chunks. The calls that make an
    arena belong to it: its address follows from the mprotect that makes its first heap accessible, and its number
    from the calls that use it later.
    """
    ordered = list(events)
    numbers = {
        (event.process, event.reading.address): event.reading.number
        for event in ordered
        if event.reading is not None and event.reading.arena is not None
    }
    made: dict[tuple[int, int], int] = {}  # by process and thread: the arena that is being made, newest event first
    found: dict[int, ArenaOf] = {}
    for event in reversed(ordered):
        reading, thread = event.reading, (event.process, event.thread)
        if event.requester.kind != "malloc" or event.requester.purpose == OWN_MAPPING or reading is None:
            continue
        if reading.arena is not None:
            found[event.id] = ArenaOf(event.process, reading.address, reading.number)
            continue
        if not any(frame.name == "_int_new_arena" for frame in event.frames):
            continue
        heap_info = reading.facts.layout.heap_info
        if event.syscall == "mprotect" and heap_info is not None:
            made[thread] = event.args[0] + heap_info.size
        address = made.get(thread)
        number = None if address is None else numbers.get((event.process, address))
        found[event.id] = ArenaOf(event.process, address, number)
    return found
