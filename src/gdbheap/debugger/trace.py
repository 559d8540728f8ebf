"""A program run to its end under a recording, with all the processes that it makes."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

import gdb

from gdbheap.debugger.catch import Recorder
from gdbheap.growth.history import Ending

#: How often in a row GDB may fail to go on with each process before the run is given up.
_FAILURES = 3
_SI_KERNEL = 0x80
#: In place of the folders that have libthread_db. To look at a new process with it, GDB stops the threads of all
#: others where they are, and does not tell of the calls that they are making just then.
_NO_FOLDER = "/nonexistent"
#: The exit status of what a SIGINT ended, as shells have it.
_INTERRUPTED = 130


class _Run:
    """What is seen of the processes while they run."""

    def __init__(self) -> None:
        self.inferior = gdb.selected_inferior().num
        self.exit: tuple[int, int | None] | None = None  # the status as shells have it, and the signal that killed it
        self.signal: str | None = None  # the one that GDB stopped for last

    def on_exited(self, event: Any) -> None:
        if event.inferior.num != self.inferior:
            return
        if hasattr(event, "exit_code"):
            self.exit = event.exit_code, None
        else:
            killed_by = int(gdb.convenience_variable("_exitsignal") or 0)
            self.exit = 128 + killed_by, killed_by

    def unseen(self) -> str | None:
        """Return a sentence where the program's end was not seen."""
        return None if self.exit else "GDB lost the program before its end: its exit status is unknown."

    def on_stop(self, event: Any) -> None:
        self.signal = event.stop_signal if isinstance(event, gdb.SignalEvent) else None


def run_to_end(recorder: Recorder) -> Ending:
    """Run the program of the selected inferior until it and every process that it made have ended.

    Signals go to the program as if GDB were not there. Ctrl-C ends the run instead: the program then gets the SIGINT
    and is let go. Raises gdb.error where the program cannot be started.
    """
    gdb.execute("handle all nostop noprint pass", to_string=True)
    gdb.execute("handle SIGINT stop print nopass", to_string=True)
    libraries = gdb.parameter("libthread-db-search-path")
    gdb.execute(f"set libthread-db-search-path {_NO_FOLDER}")
    run = _Run()
    began = time.monotonic()
    gdb.events.exited.connect(run.on_exited)
    gdb.events.stop.connect(run.on_stop)
    try:
        problem = _go_on(run, recorder)
        status, killed_by = run.exit or (1, None)
        return Ending(status, time.monotonic() - began, killed_by, problem=problem or run.unseen())
    except KeyboardInterrupt:
        _let_go()
        return Ending(_INTERRUPTED, time.monotonic() - began, interrupted=True)
    finally:
        gdb.execute(f"set libthread-db-search-path {libraries}")
        gdb.events.exited.disconnect(run.on_exited)
        gdb.events.stop.disconnect(run.on_stop)


def _go_on(run: _Run, recorder: Recorder) -> str | None:
    command = "run"
    failures = 0
    while True:
        run.signal = None
        try:
            gdb.execute(command, to_string=True)
            failures = 0
        except gdb.error as error:
            failures += 1
            if command == "run":
                raise
            if failures > _FAILURES * len(gdb.inferiors()):
                return f"GDB could not go on with the program: {error}"
        recorder.catch_up()
        alive = [inferior for inferior in gdb.inferiors() if inferior.pid]
        if not alive:
            return None
        if recorder.was_interrupted or (run.signal == "SIGINT" and _is_from_user()):
            raise KeyboardInterrupt
        if failures or gdb.selected_inferior() not in alive:
            _select(alive[failures % len(alive)])
        command = "signal SIGINT" if run.signal == "SIGINT" else "continue"


def _select(inferior: gdb.Inferior) -> None:
    with suppress(gdb.error):  # it is selected, but its registers cannot be read: it is about to end
        gdb.execute(f"inferior {inferior.num}", to_string=True)


def _is_from_user() -> bool:
    """Return whether the SIGINT that the selected thread stopped for is the terminal's or was sent to GDB."""
    try:
        info = gdb.parse_and_eval("$_siginfo")
        code, sender = int(info["si_code"]), int(info["_sifields"]["_kill"]["si_pid"])
    except (gdb.error, RuntimeError):
        return True
    return code == _SI_KERNEL or sender == os.getpid()


def _let_go() -> None:
    """Let the processes go on by themselves, with the SIGINT that the user sent."""
    for inferior in gdb.inferiors():
        if not inferior.pid:
            continue
        try:
            _select(inferior)
            gdb.execute("queue-signal SIGINT", to_string=True)
            gdb.execute("detach", to_string=True)
        except gdb.error:
            continue
