"""heap trace: run the program to its end, and then say who its memory was for."""

from __future__ import annotations

import gdb

from gdbheap.debugger.commands.base import JSON, HeapCommand
from gdbheap.debugger.options import Option, Parsed

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator

_EXPLAINED = 3


class HeapTrace(HeapCommand):
    """Run the program under a recording, then report."""

    word = "trace"
    group = "explain"
    summary = "Run the program to its end, with all the processes that it makes, and report who its memory was for."
    details = (
        "Every call that gives it memory or takes it back is recorded. Its input and output are its own, and signals\n"
        "reach it as if GDB were not there. The report goes to GDB's error stream: what each caller got, gave back\n"
        f"and still held, the explanation of the {_EXPLAINED} largest growths, and what may be missing. Ctrl-C ends\n"
        "the recording: the program is let go with the SIGINT. $_gdbheap_status is the program's exit status then,\n"
        "as a shell has it. From the shell: gdbheap trace PROGRAM ARGUMENTS."
    )
    options = (
        Option("o", "FILE", "Write the report to FILE instead."),
        JSON,
    )
    examples = ("heap trace", "heap trace -o report.txt -json report.json")
    command_class = gdb.COMMAND_RUNNING

    def run(self, parsed: Parsed) -> None:
        """Record a run to its end and write the report."""
        from gdbheap.debugger.catch import RECORDER
        from gdbheap.debugger.commands.catch import KEPT
        from gdbheap.debugger.commands.why_grow import source_line
        from gdbheap.debugger.output import style, write_file, write_json, write_lines
        from gdbheap.debugger.target import command_line, require_no_process
        from gdbheap.debugger.trace import run_to_end
        from gdbheap.growth.explain import explain_all, largest_growths
        from gdbheap.render.json_trace import trace_object
        from gdbheap.render.style import Plain
        from gdbheap.render.trace import report_lines
        from gdbheap.simulate.calls import SYSCALLS

        require_no_process()
        command = command_line()
        first = RECORDER.history.recorded + 1
        RECORDER.start(
            SYSCALLS, malloc_only=False, stop_there=False, follow="both", kept=KEPT, show=lambda events: None
        )
        try:
            ending = run_to_end(RECORDER)
        finally:
            RECORDER.stop()
        gdb.set_convenience_variable("_gdbheap_status", ending.status)
        history = RECORDER.history
        explained = explain_all(history, largest_growths(history, first, _EXPLAINED), source_line)
        path = parsed.text("o")

        def lines(style: Plain) -> Iterator[str]:
            return report_lines(history, first, command, ending, explained, style)

        try:
            if path:
                write_file(path, "".join(f"{line}\n" for line in lines(Plain())))
        except gdb.GdbError:
            path = None
            raise
        finally:
            if not path:
                write_lines(lines(style(2)), gdb.STDERR)
            if parsed.given("json"):
                body = trace_object(history, first, command, ending, explained)
                write_json("heap trace", body, parsed.text("json") or "")
