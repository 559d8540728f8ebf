"""heap why-grow: the explanation of a growth."""

from __future__ import annotations

import linecache
import os

from gdbheap.debugger.commands.base import JSON, HeapCommand, evaluate
from gdbheap.debugger.options import Option, Parsed, UsageError


class HeapWhyGrow(HeapCommand):
    """Explain recorded growth, or what the heap's state tells where nothing was recorded."""

    word = "why-grow"
    summary = "Explain why the heap grew: who asked, for what, which branch malloc took, and the sum to the byte."
    details = (
        "Without N it explains the newest growth that malloc made; N is an event's number in 'heap events'. The sum\n"
        "ends in the argument that it predicts and says whether the kernel was asked for that very number. With\n"
        "nothing recorded it tells what the heap's state alone can say."
    )
    options = (
        Option("all", "", "Explain every growth that malloc made, oldest first."),
        JSON,
    )
    operands = "[N]"
    examples = ("heap why-grow", "heap why-grow 13", "heap why-grow -all")

    def run(self, parsed: Parsed) -> None:
        """Explain the events that were asked for."""
        from gdbheap.debugger.catch import RECORDER, require_event
        from gdbheap.debugger.output import style, write_json, write_lines
        from gdbheap.growth.explain import explain_all, growths, newest_growth
        from gdbheap.render.json_events import event_object
        from gdbheap.render.why import explanation_lines

        history = RECORDER.history
        if len(parsed.words) > 1:
            raise UsageError("heap why-grow takes one event number at most: see 'help heap why-grow'.")
        if parsed.words:
            events = [require_event(evaluate(parsed.words[0], "The event's number"))]
        elif not history.events:
            self._from_state(parsed)
            return
        elif parsed.given("all"):
            events = growths(history)
        else:
            newest = newest_growth(history)
            events = [newest] if newest is not None else []
        explained = explain_all(history, events, _source_line)
        path = parsed.text("json")
        if path is not None:
            objects = [event_object(item.event, item.prediction) for item in explained]
            write_json("heap why-grow", {"events": objects}, path)
            if not path:
                return
        if not explained:
            write_lines([f"None of the {len(history.events)} recorded events gave memory to malloc."])
        for index, item in enumerate(explained):
            if index:
                write_lines([""])
            write_lines(explanation_lines(item, style()))

    def _from_state(self, parsed: Parsed) -> None:
        from gdbheap.debugger.catch import RECORDER
        from gdbheap.debugger.model import read_initial
        from gdbheap.debugger.output import style, write_json, write_lines
        from gdbheap.render.json_events import initial_object
        from gdbheap.render.why import initial_lines

        initial = read_initial()
        path = parsed.text("json")
        if path is not None:
            write_json("heap why-grow", {"events": [], "state": initial_object(initial)}, path)
            if not path:
                return
        write_lines(initial_lines(initial, RECORDER.active, style()))


def _source_line(file: str, line: int) -> str | None:
    # A device or a pipe of that name would be read for ever.
    if not os.path.isfile(file):
        return None
    return linecache.getline(file, line).strip() or None
