"""heap events: what was recorded."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand, number
from gdbheap.debugger.options import Option, Parsed

_LIMIT = 200

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator

    from gdbheap.render.style import Plain


class HeapEvents(HeapCommand):
    """List the recorded events."""

    word = "events"
    summary = "List the system calls that 'heap catch' recorded, oldest first, and whose memory each is about."
    options = (
        Option("count", "N", f"At most N rows (default {_LIMIT}): the newest ones."),
        Option("all", "", "Every row."),
        JSON,
    )
    examples = ("heap events", "heap events -all", "heap events -json events.json")

    def answer(self, parsed: Parsed) -> Answer:
        """Return the rows; JSON has all of them, unless -count says otherwise."""
        from gdbheap.debugger.catch import RECORDER, require_events
        from gdbheap.growth.arena_reason import arena_reasons
        from gdbheap.growth.predict import predictions
        from gdbheap.render.events import event_rows
        from gdbheap.render.json_events import event_object, gap_object
        from gdbheap.render.processes import gap_lines
        from gdbheap.render.units import count_of

        require_events()
        history = RECORDER.history
        events = history.events
        limit = number(parsed, "count", _LIMIT)

        def body() -> dict[str, object]:
            first = max(0, len(events) - limit) if parsed.given("count") else 0
            predicted, chosen = predictions(events, history.caught), arena_reasons(events)
            objects = [event_object(event, predicted.get(event.id), chosen.get(event.id)) for event in events[first:]]
            return {"events": objects, "left_out": first, "gaps": [gap_object(gap) for gap in history.gaps]}

        def lines(style: Plain) -> Iterator[str]:
            first = 0 if parsed.given("all") else max(0, len(events) - limit)
            yield from event_rows(events[first:])
            if first:
                yield f"{count_of(first, 'older event')} left out: 'heap events -all' lists them."
            yield from gap_lines(history.gaps)

        return Answer(body, lines)
