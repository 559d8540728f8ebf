"""heap timeline: how the heap grew, drawn."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand, number
from gdbheap.debugger.options import Option, Parsed, UsageError

_HEIGHT = 16
_COUNT = 5
_AXES = ("event", "time")

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from gdbheap.growth.timeline import Timeline


class HeapTimeline(HeapCommand):
    """Draw a recording."""

    word = "timeline"
    group = "explain"
    summary = "Draw how the memory that malloc has from the kernel grew and shrank, with the numbers of the events."
    details = (
        "The kinds of memory stand on top of each other: the break area, the heaps of other arenas as far as they are\n"
        "accessible, and mappings that malloc made for single chunks. Below, the largest steps and who made them;\n"
        "'heap why-grow N' explains one."
    )
    options = (
        Option(
            "by",
            "event|time",
            "What the x axis counts: the events that changed something (default), or seconds.",
            choices=_AXES,
        ),
        Option("process", "PID", "Draw this process (default: the selected one, else that of the newest event)."),
        Option("rest", "", "Draw what is not malloc's as well: libraries, stacks, the program's own mappings."),
        Option("count", "N", f"List at most N growths and N shrinks (default {_COUNT})."),
        Option("width", "N", "Characters in a line (default: those of the terminal, else 80)."),
        Option("height", "N", f"Rows of the drawing (default {_HEIGHT})."),
        Option("ascii", "", "Draw with ASCII alone (default where the host charset is not UTF-8)."),
        Option("svg", "FILE", "Write a picture into FILE besides, for a browser."),
        JSON,
    )
    examples = ("heap timeline", "heap timeline -by time -rest -width 120", "heap timeline -svg growth.svg")

    def answer(self, parsed: Parsed) -> Answer:
        """Return the drawing; the picture is written before anything is shown."""
        from gdbheap.debugger.output import encodes_unicode, line_width, write_file
        from gdbheap.render.columns import picture
        from gdbheap.render.json_timeline import timeline_object
        from gdbheap.render.timeline import (
            LEAST_HEIGHT,
            LEAST_WIDTH,
            MOST_HEIGHT,
            MOST_WIDTH,
            timeline_lines,
        )

        width = _within(parsed, "width", LEAST_WIDTH, MOST_WIDTH)
        if width is None:
            width = min(max(line_width(), LEAST_WIDTH), MOST_WIDTH)
        height = _within(parsed, "height", LEAST_HEIGHT, MOST_HEIGHT) or _HEIGHT
        count = number(parsed, "count", _COUNT)
        ascii_only = parsed.given("ascii") or not encodes_unicode()
        line = _timeline(parsed)
        drawn = picture(line, by=parsed.text("by") or _AXES[0], rest=parsed.given("rest"))
        path = parsed.text("svg")
        if path is not None:
            from gdbheap.render.svg import timeline_svg

            write_file(path, timeline_svg(drawn, count))
        return Answer(
            lambda: timeline_object(line),
            lambda style: timeline_lines(drawn, style, width=width, height=height, count=count, ascii_only=ascii_only),
        )


def _within(parsed: Parsed, name: str, least: int, most: int) -> int | None:
    """Return the option as a number between two, None where it was not given."""
    if not parsed.given(name):
        return None
    value = number(parsed, name, 0)
    if not least <= value <= most:
        raise UsageError(f"-{name} is a number from {least} to {most:,}, not {value:,}.")
    return value


def _timeline(parsed: Parsed) -> Timeline:
    """Return the timeline of the process that the command line asks for."""
    import gdb

    from gdbheap.debugger.catch import RECORDER, require_events
    from gdbheap.debugger.errors import TargetError
    from gdbheap.growth.timeline import default_process, timeline

    require_events()
    history = RECORDER.history
    process = number(parsed, "process", 0) if parsed.given("process") else None
    if process is None:
        process = default_process(history, gdb.selected_inferior().pid)
    elif not any(history.of_process(process)):
        listed = ", ".join(str(known) for known in dict.fromkeys(event.process for event in history.events))
        raise TargetError(f"No event of a process {process} is kept; there are events of: {listed}.")
    return timeline(history, process)
