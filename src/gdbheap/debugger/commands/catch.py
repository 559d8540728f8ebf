"""heap catch: record every system call that moves memory, and who made it."""

from __future__ import annotations

import gdb

from gdbheap.debugger.commands.base import HeapCommand, number
from gdbheap.debugger.options import Option, Parsed, UsageError, awaited

#: How many events are kept, unless the user says otherwise.
KEPT = 20_000

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gdbheap.growth.event import Event
    from gdbheap.growth.history import ProcessRecord


class HeapCatch(HeapCommand):
    """Set, change or end the recording."""

    word = "catch"
    group = "explain"
    summary = "Record each system call that gives the process memory or takes it back, and who made it."
    details = (
        "From now on each brk, mmap, munmap, mremap, mprotect and madvise prints one line: its number, thread, call,\n"
        "amount, arena, the chunk that was asked for and the callers down to your own line. Works before the program\n"
        "is started (then from its first instruction on) and on one that runs or was attached to. 'heap events' lists\n"
        "what was recorded, 'heap why-grow' explains it. SYSCALL... narrows it to some of those calls."
    )
    options = (
        Option("malloc", "", "Only the calls that malloc and its family make, not the loader's or the program's own."),
        Option(
            "follow",
            "parent|child|both",
            "Where the program forks, follow this side (default: as GDB's settings say). With both, GDB stops when one "
            "of the processes ends: 'inferior N' and 'continue' go on with another.",
            choices=("parent", "child", "both"),
        ),
        Option("keep", "N", f"Keep the newest N events (default {KEPT:,}); older ones are dropped."),
        Option("stop", "", "Stop the program at each of them, once the kernel has answered."),
        Option("off", "", "End the recording; what was recorded stays."),
    )
    operands = "[SYSCALL...]"
    examples = ("heap catch", "heap catch -malloc -stop", "heap catch brk", "heap catch -follow both")
    command_class = gdb.COMMAND_BREAKPOINTS

    def run(self, parsed: Parsed) -> None:
        """Start or stop the recorder."""
        from gdbheap.debugger.catch import RECORDER
        from gdbheap.debugger.output import write_lines
        from gdbheap.debugger.unread import unread_lines
        from gdbheap.simulate.calls import SYSCALLS

        if parsed.given("off"):
            if not RECORDER.stop():
                raise gdb.GdbError("Nothing is being recorded: 'heap catch' begins.")
            gdb.write(f"Recording has ended; {len(RECORDER.history.events)} events are kept.\n")
            return
        unknown = [word for word in parsed.words if word not in SYSCALLS]
        if unknown:
            raise UsageError(f"'{unknown[0]}' is none of the system calls that move memory: {', '.join(SYSCALLS)}.")
        calls = tuple(call for call in SYSCALLS if not parsed.words or call in parsed.words)
        RECORDER.start(
            calls,
            malloc_only=parsed.given("malloc"),
            stop_there=parsed.given("stop"),
            follow=parsed.text("follow"),
            kept=max(1, number(parsed, "keep", KEPT)),
            show=_line_printer(),
            show_other=_say_whose_malloc,
        )
        what = "only those that malloc makes" if parsed.given("malloc") else "whoever makes them"
        gdb.write(f"Catchpoint {RECORDER.number} records {', '.join(calls)}: {what}.\n")
        write_lines(unread_lines())

    def completions(self, text: str, word: str) -> list[str]:
        """Return options, or the names of system calls."""
        from gdbheap.simulate.calls import SYSCALLS

        if text[: len(text) - len(word)].endswith("-") or awaited(text, self.options) is not None:
            return super().completions(text, word)
        return [call for call in SYSCALLS if call.startswith(word)]


def _say_whose_malloc(record: ProcessRecord) -> None:
    from gdbheap.debugger.catch import RECORDER
    from gdbheap.debugger.output import write_lines
    from gdbheap.render.processes import other_malloc_line

    write_lines([other_malloc_line(record, RECORDER.several_processes)])


def _line_printer() -> Callable[[Sequence[Event]], None]:
    from gdbheap.debugger.catch import RECORDER
    from gdbheap.debugger.output import style, write_lines
    from gdbheap.render.events import event_line

    chosen = style()  # asking GDB for its settings at each event would cost more than the line

    def show(events: Sequence[Event]) -> None:
        several = RECORDER.several_processes
        write_lines([event_line(event, chosen, several) for event in events])

    return show
