"""heap trace: run the program to its end, and then say who its memory was for."""

from __future__ import annotations

import os

import gdb

from gdbheap.debugger.commands.base import JSON, HeapCommand
from gdbheap.debugger.options import Option, Parsed

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator

    from gdbheap.debugger.allocation_log import AllocationLog

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
        Option(
            "allocations",
            "FILE",
            "Write its calls of malloc, free and so on to FILE, for 'heap what-if'. It takes about 1 ms a call.",
        ),
        JSON,
    )
    examples = ("heap trace", "heap trace -o report.txt -json report.json")
    command_class = gdb.COMMAND_RUNNING

    def run(self, parsed: Parsed) -> None:
        """Record a run to its end and write the report."""
        from gdbheap.debugger.catch import RECORDER
        from gdbheap.debugger.commands.catch import KEPT
        from gdbheap.debugger.commands.why_grow import source_line
        from gdbheap.debugger.output import refuse_existing, style, write_file, write_json, write_lines
        from gdbheap.debugger.target import command_line, require_no_process
        from gdbheap.debugger.trace import run_to_end
        from gdbheap.growth.explain import explain_all, largest_growths
        from gdbheap.render.json_trace import trace_object
        from gdbheap.render.style import Plain
        from gdbheap.render.trace import report_lines
        from gdbheap.simulate.calls import SYSCALLS

        require_no_process()
        overwrite = parsed.given("force")
        for name in filter(None, (parsed.text("o"), parsed.text("json"))):
            if os.path.isfile(os.path.expanduser(name)):
                refuse_existing(name, overwrite)  # now: later the run would be lost
        command = command_line()
        log = _allocation_log(parsed.text("allocations"), overwrite)
        first = RECORDER.history.recorded + 1
        RECORDER.start(
            SYSCALLS, malloc_only=False, stop_there=False, follow="both", kept=KEPT, show=lambda events: None
        )
        try:
            ending = run_to_end(RECORDER)
        finally:
            RECORDER.stop()
            if log is not None:
                log.stop()
        gdb.set_convenience_variable("_gdbheap_status", ending.status)
        history = RECORDER.history
        explained = explain_all(history, largest_growths(history, first, _EXPLAINED), source_line)
        path = parsed.text("o")

        def lines(style: Plain) -> Iterator[str]:
            yield from report_lines(history, first, command, ending, explained, style)
            if log is not None:
                yield from _log_lines(log, parsed.text("allocations") or "", ending.seconds)

        try:
            if path:
                write_file(path, "".join(f"{line}\n" for line in lines(Plain())), overwrite)
        except gdb.GdbError:
            path = None
            raise
        finally:
            if not path:
                write_lines(lines(style(2)), gdb.STDERR)
            if parsed.given("json"):
                body = trace_object(history, first, command, ending, explained)
                write_json("heap trace", body, parsed.text("json") or "", overwrite)


def _allocation_log(path: str | None, overwrite: bool) -> AllocationLog | None:
    """Return the log of allocations that is asked for, already waiting for the program to start."""
    from gdbheap.debugger.allocation_log import AllocationLog, open_log

    if path is None:
        return None
    log = AllocationLog(open_log(path, overwrite))
    log.start()
    return log


def _log_lines(log: AllocationLog, path: str, seconds: float) -> Iterator[str]:
    from gdbheap.render.units import count_of

    yield ""
    cost = f", {1000 * seconds / log.operations:.2f} ms for each" if log.operations else ""
    operations = count_of(log.operations, "operation")
    yield f"{path}: {operations} of process {log.process}. The run took {seconds:.1f} s{cost}."
    if log.unknown:
        yield (
            f"{count_of(log.unknown, 'call')} of free or realloc left out: their memory was allocated before malloc "
            "was watched."
        )
