"""A program run to its end under a recording, with all the processes that it makes."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import gdb

#: How often in a row GDB may fail to go on with each process before the run is given up.
_FAILURES = 3
_SI_KERNEL = 0x80


class Ending(NamedTuple):
    """How a run ended.

    ``status`` is the program's exit status as a shell has it: 128 and the signal's number where one killed it.
    ``interrupted`` says that the user ended it; ``problem`` is a sentence where GDB could not go on.
    """

    status: int
    interrupted: bool = False
    problem: str | None = None


class _Run:
    """What is seen of the processes while they run."""

    def __init__(self) -> None:
        self.inferior = gdb.selected_inferior().num
        self.status: int | None = None
        self.signal: str | None = None  # the one that GDB stopped for last

    def on_exited(self, event: Any) -> None:
        if event.inferior.num != self.inferior:
            return
        signal = gdb.convenience_variable("_exitsignal")
        self.status = event.exit_code if hasattr(event, "exit_code") else 128 + int(signal or 0)

    def on_stop(self, event: Any) -> None:
        self.signal = event.stop_signal if isinstance(event, gdb.SignalEvent) else None


def run_to_end(tidy: Callable[[], None]) -> Ending:
    """Run the program of the selected inferior until it and every process that it made have ended.

    Signals go to the program as if GDB were not there. Ctrl-C ends the run instead: the program then gets the SIGINT
    and is let go. ``tidy`` is called each time that GDB has stopped.
    """
    gdb.execute("handle all nostop noprint pass", to_string=True)
    gdb.execute("handle SIGINT stop print nopass", to_string=True)
    run = _Run()
    gdb.events.exited.connect(run.on_exited)
    gdb.events.stop.connect(run.on_stop)
    try:
        problem = _go_on(run, tidy)
        return Ending(run.status if run.status is not None else 1, problem=problem)
    except KeyboardInterrupt:
        _let_go()
        return Ending(130, interrupted=True)
    finally:
        gdb.events.exited.disconnect(run.on_exited)
        gdb.events.stop.disconnect(run.on_stop)


def _go_on(run: _Run, tidy: Callable[[], None]) -> str | None:
    command = "run"
    failures = 0
    while True:
        run.signal = None
        try:
            gdb.execute(command, to_string=True)
            failures = 0
        except gdb.error as error:
            failures += 1
            if command == "run" or failures > _FAILURES * len(gdb.inferiors()):
                return f"GDB could not go on with the program: {error}"
        tidy()
        alive = [inferior for inferior in gdb.inferiors() if inferior.pid]
        if not alive:
            return None
        if run.signal == "SIGINT" and _is_from_user():
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
