"""At which stop of the process we are: what was read may be used again at the very same one, and at no other.

While the condition of a breakpoint is evaluated, GDB calls every thread running, the one included that has stopped; and
of a native program with several threads the others may really run meanwhile. So the kernel is asked.
"""

from __future__ import annotations

from typing import Any

import gdb

from gdbheap.debugger.processes import local_pid, thread_states

#: The kernel's letters for threads that do nothing: stopped by a debugger or a signal, or ended.
_STILL = frozenset("tTZXx")
_changes = 0
_connected = False


def note_change(event: Any = None) -> None:
    """Make what was read so far count as read at another stop."""
    global _changes
    _changes += 1


def changes() -> int:
    """Return a number that is another one after each event of GDB's that memory may have changed at."""
    global _connected
    if not _connected:
        events = gdb.events
        for registry in (events.cont, events.memory_changed, events.inferior_call, events.exited, events.new_objfile):
            registry.connect(note_change)
        events.clear_objfiles.connect(note_change)
        _connected = True
    return _changes


def moment() -> tuple[object, ...] | None:
    """Return what is the same for as long as the process's memory cannot have changed, None where nothing tells.

    None also while a thread of the process runs.

    GDB's events do not suffice: it goes on from a breakpoint whose condition is false without any. So the kernel is
    asked how often the stopped thread has run, which is once more at each stop that a condition is evaluated at.
    """
    changed = changes()
    inferior = gdb.selected_inferior()
    thread = gdb.selected_thread()
    if thread is None:
        return None
    key = (changed, inferior.num, inferior.pid, thread.global_num)
    if local_pid() is None:
        from gdbheap.debugger.target import is_core

        return key if is_core() else None
    if others_run():
        return None
    runs = _times_run(inferior.pid, thread.ptid[1])
    return None if runs is None else (*key, runs)


def others_run() -> bool:
    """Return whether some thread of the selected process may be running, as far as this machine's kernel tells."""
    pid = local_pid()
    if pid is None:
        return False
    states = thread_states(pid)
    return not states or any(state not in _STILL for state in states)


def _times_run(pid: int, tid: int) -> str | None:
    """Return the kernel's record of a thread's runs, the last number of which counts them (schedstats)."""
    try:
        with open(f"/proc/{pid}/task/{tid}/schedstat", encoding="ascii") as file:
            record = file.read()
    except OSError:
        return None
    # A kernel that does not count them has 0 there, and a thread that stopped has run at least once.
    return record if record.split()[-1:] not in ([], ["0"]) else None
