"""Everything that was recorded: the events in order, what later calls of malloc showed, and the processes' lives."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from gdbheap.growth.event import Event, Served
from gdbheap.ptmalloc.arena import Arena
from gdbheap.simulate.calls import SYSCALLS


@dataclass(frozen=True)
class Final:
    """main_arena as a process left it, and how many events had been recorded by then."""

    main_arena: Arena
    events: int


@dataclass
class ProcessRecord:
    """What is known of the life of one process.

    ``parent`` is the process that forked it, None where GDB started it or attached to it. ``time`` is when that was
    seen first, in seconds as Event.time. ``recorded`` is False for a child that GDB did not follow. ``programs`` are
    the files that it ran, each with the number of events that there were before. ``end`` says in a few words how it
    ended, None where that was not seen. ``other_malloc`` is the file whose malloc it uses, where that is not glibc's
    and was seen at work. ``shares_memory`` says that it was made with its parent's memory (CLONE_VM).
    """

    process: int
    parent: int | None
    time: float
    recorded: bool = True
    programs: list[tuple[int, str]] = field(default_factory=list)
    end: str | None = None
    other_malloc: str | None = None
    shares_memory: bool = False


@dataclass(frozen=True)
class Gap:
    """Calls may be missing from behind event ``after`` (0: from the beginning) on; ``reason`` is a full sentence."""

    after: int
    reason: str


@dataclass(frozen=True)
class Ending:
    """How a program that was run to its end came to it.

    ``status`` is its exit status as a shell has it: 128 and the signal's number where one killed it. ``seconds`` is how
    long the run took, ``killed_by`` that signal's number, ``interrupted`` says that the user ended it, and ``problem``
    is a sentence where GDB could not go on.
    """

    status: int
    seconds: float
    killed_by: int | None = None
    interrupted: bool = False
    problem: str | None = None


@dataclass
class History:
    """The record.

    ``events`` are those that are kept, the newest ones, and ``dropped`` counts the others. ``finals`` and
    ``processes`` are by process. ``choices`` are the system calls that were chosen to be recorded, each choice with the
    number of the first event that it holds for.
    """

    events: list[Event] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    finals: dict[int, Final] = field(default_factory=dict)
    dropped: int = 0
    processes: dict[int, ProcessRecord] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    choices: list[tuple[int, frozenset[str]]] = field(default_factory=list)

    def find(self, number: int) -> Event | None:
        """Return the event of that number, None where there is none, or none any more."""
        place = number - 1 - self.dropped
        return self.events[place] if 0 <= place < len(self.events) else None

    @property
    def recorded(self) -> int:
        """How many events there were, those included that are no longer kept."""
        return self.dropped + len(self.events)

    def choose(self, syscalls: Iterable[str]) -> None:
        """Note that from the next event on it is these calls that are recorded."""
        self.choices.append((self.recorded + 1, frozenset(syscalls)))

    def caught(self, number: int) -> Container[str]:
        """Return the system calls that were recorded when the event of that number was."""
        return next((calls for first, calls in reversed(self.choices) if first <= number), SYSCALLS)

    @property
    def caught_always(self) -> frozenset[str]:
        """The system calls that were recorded from the first kept event to the newest."""
        first = self.dropped + 1
        later = [calls for number, calls in self.choices if first < number <= self.recorded]
        found = frozenset(name for name in SYSCALLS if name in self.caught(first))
        return found.intersection(*later)

    def before(self, event: Event) -> Sequence[Event]:
        """Return the kept events from before ``event``, oldest first."""
        return self.events[: max(0, event.id - 1 - self.dropped)]

    def replace(self, event: Event) -> None:
        """Put ``event`` in the place of the one that has its number."""
        self.events[event.id - 1 - self.dropped] = event

    def drop(self, count: int) -> None:
        """Forget the oldest ``count`` events."""
        del self.events[:count]
        self.dropped += count
        self.served = [item for item in self.served if item.event > self.dropped]

    def missed(self, reason: str) -> None:
        """Note that calls may be missing from here on, unless that was the last thing noted."""
        if not self.gaps or self.gaps[-1].reason != reason:
            self.gaps.append(Gap(self.recorded, reason))

    def sharing_memory(self, process: int) -> list[int]:
        """Return the other processes that were made with the memory of ``process``, or it with theirs."""

        def first(number: int) -> int:
            record = self.processes.get(number)
            while record is not None and record.shares_memory and record.parent is not None:
                number, record = record.parent, self.processes.get(record.parent)
            return number

        return [other for other in self.processes if other != process and first(other) == first(process)]

    def last_break(self, process: int) -> int | None:
        """Return where the last recorded call of a process left the break, None where there is none."""
        calls = (event for event in reversed(self.events) if event.process == process and event.syscall == "brk")
        return next((event.result for event in calls), None)

    def of_process(self, process: int) -> Iterator[Event]:
        """Yield the events of one process, oldest first."""
        return (event for event in self.events if event.process == process)

    def grown_since(self, event: Event) -> bool:
        """Return whether any event of the same process came after ``event``."""
        return any(later.process == event.process for later in self.events[max(0, event.id - self.dropped) :])
