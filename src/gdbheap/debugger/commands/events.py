"""heap events: what was recorded."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand, row_limit
from gdbheap.debugger.options import Option, Parsed

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator

    from gdbheap.render.style import Plain


class HeapEvents(HeapCommand):
    """List the recorded events."""

    word = "events"
    group = "explain"
    summary = "List the system calls that 'heap catch' recorded, oldest first, and whose memory each is about."
    options = (
        Option("count", "N", "At most N rows, the newest ones (default: as 'set heap limit' says, 200)."),
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
        from gdbheap.render.json_events import event_object
        from gdbheap.render.units import count_of

        require_events()
        history = RECORDER.history
        events = history.events

        def first_of(limit: int | None) -> int:
            return 0 if limit is None else max(0, len(events) - limit)

        def body() -> dict[str, object]:
            first = first_of(row_limit(parsed) if parsed.given("count") else None)
            predicted, chosen = predictions(events, history.caught), arena_reasons(events)
            objects = [event_object(event, predicted.get(event.id), chosen.get(event.id)) for event in events[first:]]
            return {"events": objects, "left_out": first}

        def lines(style: Plain) -> Iterator[str]:
            first = first_of(row_limit(parsed))
            yield from event_rows(events[first:])
            if first:
                yield f"{count_of(first, 'older event')} left out: 'heap events -all' lists them."

        return Answer(body, lines)
