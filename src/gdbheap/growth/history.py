"""Everything that was recorded: the events in order, what later calls of malloc showed, and how processes ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """The record.

    ``events`` are those that are kept, the newest ones, and ``dropped`` counts the others. ``finals`` are by process.
    """

    events: list[Event] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    finals: dict[int, Final] = field(default_factory=dict)
    dropped: int = 0

    def find(self, number: int) -> Event | None:
        """Return the event of that number, None where there is none."""
        place = number - 1 - self.dropped
        return self.events[place] if 0 <= place < len(self.events) else None

    @property
    def recorded(self) -> int:
        """How many events there were, those included that are no longer kept."""
        return self.dropped + len(self.events)

    def before(self, event: Event) -> Sequence[Event]:
        """Return the kept events from before ``event``, oldest first."""
        return self.events[: max(0, event.id - 1 - self.dropped)]

    def replace(self, event: Event) -> None:
        """Put ``event`` in the place of the one that has its number."""
        self.events[event.id - 1 - self.dropped] = event

    def of_process(self, process: int) -> Iterator[Event]:
        """Yield the events of one process, oldest first."""
        return (event for event in self.events if event.process == process)

    def grown_since(self, event: Event) -> bool:
        """Return whether any event of the same process came after ``event``."""
        return any(later.process == event.process for later in self.events[event.id - self.dropped :])
