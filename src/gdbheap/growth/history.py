"""Everything that was recorded: the events in order, what later calls of malloc showed, and how processes ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from gdbheap.growth.event import Event, Served
from gdbheap.ptmalloc.arena import Arena


@dataclass(frozen=True)
class Final:
    """main_arena as a process left it, and how many events had been recorded by then."""

    main_arena: Arena
    events: int


@dataclass
class History:
    """The record. ``finals`` are by process id."""

    events: list[Event] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    finals: dict[int, Final] = field(default_factory=dict)

    def find(self, number: int) -> Event | None:
        """Return the event of that number, None where there is none."""
        return self.events[number - 1] if 1 <= number <= len(self.events) else None

    def of_process(self, process: int) -> Iterator[Event]:
        """Yield the events of one process, oldest first."""
        return (event for event in self.events if event.process == process)

    def grown_since(self, event: Event) -> bool:
        """Return whether any event of the same process came after ``event``."""
        return any(later.process == event.process for later in self.events[event.id :])
