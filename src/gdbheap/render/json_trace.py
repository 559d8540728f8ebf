"""A program's run to its end as the plain object that the command's JSON holds; docs/json.md describes it."""

from __future__ import annotations

from collections.abc import Sequence

from gdbheap.growth.arena_reason import arena_reasons
from gdbheap.growth.explain import Explanation
from gdbheap.growth.groups import grouped
from gdbheap.growth.history import Ending, History
from gdbheap.growth.phases import phases
from gdbheap.growth.predict import predictions
from gdbheap.render.groups import group_object
from gdbheap.render.json_events import event_object, gap_object, process_object
from gdbheap.render.phases import phase_object


def trace_object(
    history: History, first: int, command: str, ending: Ending, explained: Sequence[Explanation]
) -> dict[str, object]:
    """Return the run of ``command``, of whose events the first had number ``first``, as JSON has it."""
    events = [event for event in history.events if event.id >= first]
    numbers = dict.fromkeys(event.process for event in events)
    predicted, chosen = predictions(history.events, history.caught), arena_reasons(history.events)
    return {
        "program": command,
        "status": ending.status,
        "killed_by": ending.killed_by,
        "seconds": ending.seconds,
        "interrupted": ending.interrupted,
        "problem": ending.problem,
        "processes": [process_object(record) for record in history.processes.values()],
        "gaps": [gap_object(gap) for gap in history.gaps],
        "by_kind": [group_object(group) for group in grouped(history, events, "kind")],
        "by_caller": [group_object(group) for group in grouped(history, events, "caller")],
        "phases": [phase_object(phase) for process in numbers for phase in phases(history, process)],
        "largest": [item.event.id for item in explained],
        "events": [event_object(event, predicted.get(event.id), chosen.get(event.id)) for event in events],
        "left_out": history.recorded + 1 - first - len(events),
    }
