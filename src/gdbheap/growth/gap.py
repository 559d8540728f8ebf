"""Memory that moved while nothing of it was recorded: an event of its own kind, with what is known of it.

How much it was follows from the state at the next call that is recorded: where the break is, and how many bytes malloc
counts in its mmapped chunks. So the call itself is told with its own amount, and each byte is counted once.
"""

from __future__ import annotations

from enum import Enum

from gdbheap.growth.event import GAP, Event, Requester

#: The series of a timeline that a gap is about.
BREAK, MMAPPED = "break", "mmapped"


class GapKind(Enum):
    """Why GDB did not report the calls; the value is what JSON has."""

    STEPS = "single-steps"
    RECORD = "record"
    VFORK = "vfork-child"
    SHARED = "shared-memory"
    OFF = "off"
    UNKNOWN = "unknown"


#: What is said of each kind. A process that is known by its number is put in for ``{process}``.
_REASONS = {
    GapKind.STEPS: "GDB was stepping, as a software watchpoint makes it: it then sees no system call",
    GapKind.RECORD: "GDB was recording the execution ('record'): it then sees no system call",
    GapKind.VFORK: "{process}, made by vfork, had this memory meanwhile, and GDB reports no call of it",
    GapKind.SHARED: "{process} shares this memory and moved the break: its own events have the calls",
    GapKind.OFF: "the catchpoint was disabled, or had another condition",
    GapKind.UNKNOWN: "GDB did not report the calls",
}


def reason_of(kind: GapKind, process: int | None = None) -> str:
    """Return in a clause why calls are missing; ``process`` is the one that made them, None where it is not known."""
    return _REASONS[kind].format(process="a child" if process is None else f"process {process}")


def gap_event(
    number: int,
    process: int,
    thread: tuple[int, int],
    kind: GapKind,
    moved: tuple[int, int],
    time: float,
    *,
    series: str = BREAK,
    maker: int | None = None,
) -> Event:
    """Return the event of a gap.

    ``thread`` is GDB's number and the kernel's of the thread at whose call it was seen. ``moved`` is where the break
    was last known to be and where it was found; for ``MMAPPED`` the bytes in mmapped chunks, in the same order.
    ``maker`` is the process that made the calls, None where it is not known.
    """
    return Event(
        number,
        process,
        *thread,
        GAP,
        moved,
        (),
        result=moved[1],
        break_before=moved[0] if series == BREAK else None,
        requester=Requester(GAP, reason_of(kind, maker)),
        gap=kind.value,
        time=time,
    )


def is_of_break(event: Event) -> bool:
    """Whether the event of a gap is about the break, not about mmapped chunks."""
    return event.break_before is not None
