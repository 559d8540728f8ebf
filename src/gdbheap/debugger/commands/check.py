"""heap check: is the heap sound, and where is it not?"""

from __future__ import annotations

import gdb

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand
from gdbheap.debugger.options import Option, Parsed

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator

    from gdbheap.render.style import Plain


class HeapCheck(HeapCommand):
    """Verify the heap."""

    word = "check"
    group = "explain"
    summary = "Verify the heap: what is wrong, which check of glibc's will notice it in which call, and who is suspect."
    details = (
        "Everything that this glibc itself verifies is looked at, and what it could not afford to: each chunk, each\n"
        "link of each free list, each arena. The finding nearest to the cause comes first. Where malloc has aborted,\n"
        "its own check comes before that: the values that it compared, and the call that the program made.\n"
        "\n"
        "The command fails where anything is wrong (with 'gdb -batch' the exit status is then 1). What may be no more\n"
        "than a step of a thread that is inside malloc is shown, and is not counted."
    )
    options = (
        Option("arena", "N", "Only this arena: its number (0 is main_arena) or address."),
        JSON,
    )
    _wrong: str | None = None
    examples = ("heap check", "heap check -arena 1", "heap check -json report.json")

    def run(self, parsed: Parsed) -> None:
        """Show what was found, and fail where anything is wrong."""
        super().run(parsed)
        if self._wrong is not None:
            raise gdb.GdbError(self._wrong)

    def answer(self, parsed: Parsed) -> Answer:
        """Return what was found."""
        from gdbheap.debugger.checking import check_now
        from gdbheap.render.check import check_lines, check_object, verdict
        from gdbheap.render.unsettled import lock_lines, unsettled_object

        report = check_now(parsed.text("arena"))
        self._wrong = verdict(report.abort, report.checked)

        def lines(style: Plain) -> Iterator[str]:
            yield from check_lines(report.state, report.arenas, report.abort, report.checked, report.coverage, style)
            yield from lock_lines([lock for lock in report.unsettled.locks if lock.is_conspicuous])

        return Answer(
            lambda: {
                **check_object(report.abort, report.checked, report.coverage),
                "unsettled": unsettled_object(report.unsettled),
            },
            lines,
        )
