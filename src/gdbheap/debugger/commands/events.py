"""heap events: what was recorded."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, HeapCommand, number
from gdbheap.debugger.options import Option, Parsed

_LIMIT = 200


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

    def run(self, parsed: Parsed) -> None:
        """Show the rows; JSON has all of them, unless -count says otherwise."""
        from gdbheap.debugger.catch import RECORDER, require_events
        from gdbheap.debugger.output import write_json, write_lines
        from gdbheap.growth.predict import predictions
        from gdbheap.render.events import event_rows
        from gdbheap.render.json_events import event_object
        from gdbheap.render.units import count_of

        require_events()
        events = RECORDER.history.events
        limit = number(parsed, "count", _LIMIT)
        path = parsed.text("json")
        if path is not None:
            predicted = predictions(events)
            chosen = events[len(events) - limit if parsed.given("count") and limit < len(events) else 0 :]
            objects = [event_object(event, predicted.get(event.id)) for event in chosen]
            write_json("heap events", {"events": objects, "left_out": len(events) - len(chosen)}, path)
            if not path:
                return
        left_out = 0 if parsed.given("all") else max(0, len(events) - limit)
        write_lines(event_rows(events[left_out:]))
        if left_out:
            write_lines([f"{count_of(left_out, 'older event')} left out: 'heap events -all' lists them."])
