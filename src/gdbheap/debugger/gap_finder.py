"""Finds, while a recording goes on, what memory moved without a call that GDB reported, and when GDB sees none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import gdb

from gdbheap.debugger import session
from gdbheap.debugger.captured import Captured
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.gaps import actual_break, blindness, blindness_text, reason_for
from gdbheap.debugger.processes import local_pid
from gdbheap.debugger.recorded import RecordedProcess
from gdbheap.debugger.syscalls import SyscallEntry
from gdbheap.growth.event import Event
from gdbheap.growth.gap import BREAK, MMAPPED, GapKind, gap_event
from gdbheap.growth.history import History
from gdbheap.growth.reading import Reading

#: The calls that must be recorded for malloc's count of mmapped bytes to be foreseen.
_MAPPING = frozenset({"mmap", "munmap", "mremap"})


class GapFinder:
    """Compares the break and malloc's count of mmapped bytes with what the record leads to.

    ``settled`` returns the history with all that was put off, ``add`` takes the event of a gap, ``now`` is the time of
    an event, and ``is_off`` says whether the catchpoint is out of use.
    """

    def __init__(
        self,
        settled: Callable[[], History],
        add: Callable[[Event], None],
        now: Callable[[], float],
        is_off: Callable[[], bool],
    ) -> None:
        self._settled = settled
        self._add = add
        self._now = now
        self._is_off = is_off
        self._caught: frozenset[str] = frozenset()
        self._blind: GapKind | None = None

    def begin(self, caught: Sequence[str]) -> None:
        """Begin with a recording of the system calls ``caught``."""
        self._caught = frozenset(caught)
        self._blind = None

    def before_call(
        self,
        process: RecordedProcess,
        thread: tuple[int, int],
        entry: SyscallEntry,
        purpose: str,
        reading: Reading | None,
    ) -> int | None:
        """Note what moved before a call of malloc's; return where the break is, for brk (None: not known).

        ``thread`` is GDB's number and the kernel's.
        """
        if self._caught >= _MAPPING:
            counted = process.mmapped.enter(entry.name, entry.args, purpose, reading)
            if counted is not None:
                self._note(process, thread, MMAPPED, counted)
        if entry.name != "brk":
            return None
        return self.break_of(process, thread, None if reading is None else reading.curbrk)

    def break_of(self, process: RecordedProcess, thread: tuple[int, int], curbrk: int | None) -> int | None:
        """Return where the break of the selected process is, None where unknown; note it if it moved meanwhile."""
        known, found = process.program_break, actual_break(process.program_break, curbrk or None)
        if known is not None and found is not None and known != found:
            self._note(process, thread, BREAK, (known, found))
        if found is not None:
            process.program_break = found
            process.vforked.clear()
        return found

    def at_stop(self, process: RecordedProcess | None) -> None:
        """Note where the break of ``process``, the selected one, moved, where it stands and no call is under way.

        Only on this machine: between a brk and libc's note of it (__curbrk) the kernel's map must decide.
        """
        thread = gdb.selected_thread()
        if process is None or thread is None or "brk" not in self._caught or local_pid() is None:
            return
        if any(isinstance(left, Captured) or left > 0 for left in process.pending.values()):
            return
        try:
            curbrk = session.target().word("__curbrk")
        except TargetError:
            return
        self.break_of(process, (thread.num, thread.ptid[1]), curbrk)

    def note_blindness(self, processes: Iterable[RecordedProcess]) -> None:
        """Say, and note, that GDB sees no system calls while it is as it is."""
        kind = blindness()
        if kind is not None and kind != self._blind:
            text = blindness_text(kind)
            self._settled().missed(text)
            gdb.write(f"{text}\n")
        self._blind = kind
        for process in processes:
            process.was_blind = kind or process.was_blind

    def _note(self, process: RecordedProcess, thread: tuple[int, int], series: str, moved: tuple[int, int]) -> None:
        history = self._settled()
        at = moved[1] if series == BREAK else None
        kind, maker = reason_for(history, process.pid, process.was_blind, self._is_off(), at, process.vforked)
        number = history.recorded + 1
        self._add(gap_event(number, process.pid, thread, kind, moved, self._now(), series=series, maker=maker))
