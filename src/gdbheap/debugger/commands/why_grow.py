"""heap why-grow: the explanation of a growth."""

from __future__ import annotations

import linecache
import os

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand, evaluate
from gdbheap.debugger.options import Option, Parsed, UsageError

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator

    from gdbheap.growth.event import Event
    from gdbheap.render.style import Plain


class HeapWhyGrow(HeapCommand):
    """Explain recorded growth, or what the heap's state tells where nothing was recorded."""

    word = "why-grow"
    group = "explain"
    summary = "Explain why the heap grew: who asked, for what, which branch malloc took, and the sum to the byte."
    details = (
        "Without N it explains the newest growth that malloc made; N is an event's number in 'heap events', which\n"
        "may also be a call that gave memory back, or one that is not malloc's. The sum\n"
        "ends in the argument that it predicts and says whether the kernel was asked for that very number. With\n"
        "nothing recorded it tells what the heap's state alone can say."
    )
    options = (
        Option("all", "", "Explain every growth that malloc made, oldest first."),
        JSON,
    )
    operands = "[N]"
    examples = ("heap why-grow", "heap why-grow 13", "heap why-grow -all")

    def answer(self, parsed: Parsed) -> Answer:
        """Return the explanations of the events that were asked for."""
        from gdbheap.debugger.catch import RECORDER
        from gdbheap.debugger.unread import unread_lines
        from gdbheap.growth.explain import explain_all
        from gdbheap.render.json_events import event_object
        from gdbheap.render.why import explanation_lines

        history = RECORDER.history
        if not history.events and not parsed.words:
            return _from_state()
        explained = explain_all(history, _chosen(parsed), source_line)

        def lines(style: Plain) -> Iterator[str]:
            if not explained:
                yield f"No event so far gave the process memory ({len(history.events)} recorded): 'continue' goes on."
            for index, item in enumerate(explained):
                if index:
                    yield ""
                yield from explanation_lines(item, style)
            yield from unread_lines(item.event for item in explained)

        return Answer(
            lambda: {"events": [event_object(item.event, item.prediction, item.arena_reason) for item in explained]},
            lines,
        )


def _chosen(parsed: Parsed) -> list[Event]:
    """Return the recorded events that the command line asks for."""
    from gdbheap.debugger.catch import RECORDER, require_event
    from gdbheap.growth.explain import growths, newest_growth

    if len(parsed.words) > 1:
        raise UsageError("heap why-grow takes one event number at most: see 'help heap why-grow'.")
    if parsed.words:
        return [require_event(evaluate(parsed.words[0], "The event's number"))]
    if parsed.given("all"):
        return growths(RECORDER.history)
    newest = newest_growth(RECORDER.history)
    return [] if newest is None else [newest]


def _from_state() -> Answer:
    """Return what the heap's state alone tells, where nothing was recorded."""
    from gdbheap.debugger.catch import RECORDER
    from gdbheap.debugger.model import read_initial
    from gdbheap.render.json_events import initial_object
    from gdbheap.render.why import initial_lines

    initial = read_initial()
    return Answer(
        lambda: {"events": [], "state": initial_object(initial)},
        lambda style: initial_lines(initial, RECORDER.active, style),
    )


def source_line(file: str, line: int) -> str | None:
    """Return a line of a source file without its indentation, None where it cannot be had."""
    # A device or a pipe of that name would be read for ever.
    if not os.path.isfile(file):
        return None
    return linecache.getline(file, line).strip() or None
