"""heap events: what was recorded."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand, evaluate, number, row_limit
from gdbheap.debugger.options import Option, Parsed, UsageError

# As gdbheap.growth.groups, growth.event and simulate.calls have them; those are not imported before they are needed.
_BY = ("caller", "arena", "kind", "library")
_KINDS = ("malloc", "loader", "thread-stack", "locale", "stdio", "program", "other")
_SYSCALLS = ("brk", "mmap", "munmap", "mremap", "mprotect", "madvise")

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator

    from gdbheap.growth.history import History
    from gdbheap.growth.phases import Phase
    from gdbheap.growth.select import Wanted
    from gdbheap.render.style import Plain


class HeapEvents(HeapCommand):
    """List the recorded events."""

    word = "events"
    group = "explain"
    summary = "List the system calls that 'heap catch' recorded, oldest first, and whose memory each is about."
    details = (
        "The list is divided into phases: loading, the first heap, growth, shrinking. -by puts events together and\n"
        "adds up what each group got, gave back and still holds (what it got and nobody gave back so far), in bytes\n"
        "that the program can use. The other options leave events out."
    )
    options = (
        Option("by", "|".join(_BY), "One row for all the events that have this in common.", choices=_BY),
        Option("phases", "", "Only the phases, a line each."),
        Option("process", "PID", "Only this process."),
        Option("thread", "N", "Only this thread (GDB's number)."),
        Option("arena", "N", "Only what changes the memory of this arena: its number (0 is main_arena) or address."),
        Option("kind", "KIND", f"Only memory of this kind: {', '.join(_KINDS)}.", choices=_KINDS),
        Option("syscall", "NAME", f"Only this system call: {', '.join(_SYSCALLS)}.", choices=_SYSCALLS),
        Option("min-size", "BYTES", "Only calls about at least so many bytes, whichever way they went."),
        Option("max-size", "BYTES", "Only calls about at most so many bytes."),
        Option("count", "N", "At most N rows: the newest events, or the largest groups (default: 'set heap limit')."),
        Option("all", "", "Every row."),
        JSON,
    )
    examples = (
        "heap events",
        "heap events -by caller",
        "heap events -kind malloc -min-size 1024*1024 -all",
        "heap events -json events.json",
    )

    def answer(self, parsed: Parsed) -> Answer:
        """Return the rows; JSON has all of them, unless -count says otherwise."""
        from gdbheap.debugger.catch import RECORDER, require_events
        from gdbheap.debugger.unread import unread_lines
        from gdbheap.growth.arena_reason import arena_reasons
        from gdbheap.growth.groups import grouped
        from gdbheap.growth.predict import predictions
        from gdbheap.growth.select import select
        from gdbheap.render.events import event_rows
        from gdbheap.render.groups import group_lines, group_object
        from gdbheap.render.json_events import event_object, gap_object
        from gdbheap.render.phases import phase_lines, phase_object
        from gdbheap.render.processes import gap_lines
        from gdbheap.render.units import count_of

        require_events()
        by = parsed.text("by")
        if by is not None and parsed.given("phases"):
            raise UsageError("-by and -phases are two different lists: give one of them.")
        history = RECORDER.history
        wanted = _wanted(parsed)
        events = select(history.events, wanted)
        limit = row_limit(parsed)
        several = len({event.process for event in history.events}) > 1

        def body() -> dict[str, object]:
            first = max(0, len(events) - limit) if limit is not None and parsed.given("count") else 0
            predicted, chosen = predictions(history.events, history.caught), arena_reasons(history.events)
            groups = None if by is None else [group_object(group) for group in grouped(history, events, by)]
            return {
                "events": [
                    event_object(event, predicted.get(event.id), chosen.get(event.id)) for event in events[first:]
                ],
                "left_out": first,
                "filtered_out": len(history.events) - len(events),
                "by": by,
                "groups": groups,
                "phases": [phase_object(phase) for phase in _phases(history, wanted)],
                "gaps": [gap_object(gap) for gap in history.gaps],
            }

        def lines(style: Plain) -> Iterator[str]:
            yield from listed(style)
            yield from gap_lines(history.gaps)
            yield from unread_lines(events)

        def listed(style: Plain) -> Iterator[str]:
            if parsed.given("phases"):
                yield from phase_lines(_phases(history, wanted))
                return
            if not events:
                yield "No event fits the options."
            elif by is not None:
                yield from group_lines(grouped(history, events, by), by, history.caught_always, limit)
            else:
                first = 0 if limit is None else max(0, len(events) - limit)
                shown = () if several or not wanted.everything else _phases(history, wanted)
                yield from event_rows(events[first:], style, several, shown)
                if first:
                    yield f"{count_of(first, 'older event')} left out: 'heap events -all' lists them."
            if len(events) < len(history.events):
                yield f"{count_of(len(history.events) - len(events), 'other event')} did not fit the options."

        return Answer(body, lines)


def _wanted(parsed: Parsed) -> Wanted:
    """Return which events the command line asks for."""
    from gdbheap.growth.select import Wanted

    def value(name: str) -> int | None:
        return number(parsed, name, 0) if parsed.given(name) else None

    arena = parsed.text("arena")
    return Wanted(
        process=value("process"),
        thread=value("thread"),
        arena=0 if arena in ("main", "main_arena") else None if arena is None else evaluate(arena, "-arena"),
        kind=parsed.text("kind"),
        syscall=parsed.text("syscall"),
        min_size=value("min-size"),
        max_size=value("max-size"),
    )


def _phases(history: History, wanted: Wanted) -> list[Phase]:
    """Return the phases of each process, or of the one that is wanted."""
    from gdbheap.growth.phases import phases

    processes = dict.fromkeys(event.process for event in history.events)
    chosen = [process for process in processes if wanted.process in (None, process)]
    return [phase for process in chosen for phase in phases(history, process)]
