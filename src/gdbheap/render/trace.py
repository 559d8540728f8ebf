"""The report on a program that was run to its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gdbheap.growth.event import Event
from gdbheap.growth.explain import Explanation
from gdbheap.growth.groups import grouped
from gdbheap.growth.history import Ending, History
from gdbheap.growth.phases import phases
from gdbheap.growth.predict import predictions
from gdbheap.render.escape import printable
from gdbheap.render.groups import group_lines
from gdbheap.render.phases import phase_lines
from gdbheap.render.processes import gap_lines, other_malloc_line, process_lines
from gdbheap.render.style import Plain
from gdbheap.render.units import count_of
from gdbheap.render.why import explanation_lines

#: How many callers are listed at most.
_CALLERS = 10


def report_lines(
    history: History, first: int, command: str, ending: Ending, explained: Sequence[Explanation], style: Plain
) -> Iterator[str]:
    """Yield the report on the events from number ``first`` on; ``command`` is the command line that was run."""
    events = [event for event in history.events if event.id >= first]
    yield style.paint("heading", f"{printable(command)}: {ending_text(ending)}")
    if ending.problem is not None:
        yield style.paint("bad", printable(ending.problem))
    yield _counts_text(history, events)
    numbers = {event.process for event in events}
    processes = [record for record in history.processes.values() if record.process in numbers or not record.recorded]
    if len(processes) > 1:
        yield ""
        yield from process_lines(processes, events)
    elif events:
        yield ""
        yield from phase_lines(phases(history, events[0].process))
    for by, limit in (("kind", None), ("caller", _CALLERS)) if events else ():
        yield ""
        yield from group_lines(grouped(history, events, by), by, history.caught_always, limit)
    for item in explained:
        yield ""
        yield from explanation_lines(item, style)
    for record in processes:
        if record.other_malloc is not None:
            yield ""
            yield style.paint("bad", other_malloc_line(record, len(processes) > 1))
    for line in gap_lines([gap for gap in history.gaps if gap.after >= first - 1]):
        yield ""
        yield style.paint("bad", line)


def ending_text(ending: Ending) -> str:
    """Return how a run ended, and how long it took."""
    took = f"{ending.seconds:.2f} s under GDB"
    if ending.interrupted:
        return f"interrupted after {took}, and let go"
    if ending.problem is not None:
        return f"its end was not seen, after {took}"
    if ending.killed_by is not None:
        return f"killed by signal {ending.killed_by}, {took}"
    return f"exited with {ending.status}, {took}"


def _counts_text(history: History, events: Sequence[Event]) -> str:
    of_malloc = [event for event in events if event.requester.kind == "malloc"]
    predicted = predictions(history.events, history.caught)
    exact = sum(1 for event in of_malloc if event.id in predicted and predicted[event.id].exact)
    dropped = f" ({count_of(history.dropped, 'older one')} no longer kept)" if history.dropped else ""
    return (
        f"{count_of(len(events), 'call')} for memory recorded{dropped}; {len(of_malloc):,} by malloc, "
        f"{exact:,} of these predicted exactly"
    )
