"""What a recording keeps of one process while that runs."""

from __future__ import annotations

from collections.abc import Callable

import gdb

from gdbheap.debugger import session
from gdbheap.debugger.allocator import TrimWalks
from gdbheap.debugger.captured import Captured
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.frames import FrameReader
from gdbheap.debugger.gaps import MmappedCount
from gdbheap.debugger.images import has_musl_inside
from gdbheap.debugger.processes import local_pid, thread_states
from gdbheap.debugger.returned import ReturnWatch
from gdbheap.debugger.stacks import StackCache, UnwoundStacks
from gdbheap.debugger.syscalls import SyscallReader, registers_for
from gdbheap.debugger.target import GdbMemory, architecture_name, is_static, program_file
from gdbheap.debugger.watch import MallocWatch
from gdbheap.growth.event import Event
from gdbheap.growth.gap import GapKind
from gdbheap.growth.history import History

#: In place of a call that has not returned: a fork.
FORKING = -1


class RecordedProcess:
    """One process under recording: how its calls and stacks are read, and which of its calls have not returned.

    ``pending`` are those, by thread: a call that was captured, or an event's number. ``returned`` is the number of the
    last event of each thread that has. ``program_break`` is where the break was last seen, and ``mmapped`` follows
    malloc's count of mmapped bytes. ``fork_flags`` are clone's, of the fork under way. ``vforked`` are the children of
    vfork since the break was last seen. ``was_blind`` is why GDB saw no system calls at some time since the last one
    that it saw. ``trims`` is where each thread's malloc_trim is. ``judged`` says that it was looked up whose malloc the
    process uses. Made while the process is the selected one.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.inferior = gdb.selected_inferior().num
        registers = registers_for(architecture_name())
        self.reader = SyscallReader(registers, local_pid())
        self._frames = FrameReader()
        self.stacks: StackCache | UnwoundStacks = UnwoundStacks(self._frames)
        if registers.word_bits == 64:
            self.stacks = StackCache(self._frames, GdbMemory())
        self.pending: dict[int, Captured | int] = {}
        self.returned: dict[int, int] = {}
        self.program_break: int | None = None
        self.mmapped = MmappedCount()
        self.fork_flags = 0
        self.vforked: list[int] = []
        self.was_blind: GapKind | None = None
        self.trims = TrimWalks()
        self.judged = False
        self._musl_inside: bool | None = None
        self._watch: MallocWatch | None = None
        self._old_watch: MallocWatch | None = None  # one that is off, and can only be deleted later
        self._returns: ReturnWatch | None = None

    def forget(self) -> None:
        """Drop what was learnt of the code: object files came or went."""
        self.stacks.forget()
        self.reader.close()

    def is_running(self) -> bool:
        """Return whether a thread of the process runs just now, as far as the kernel tells."""
        return "R" in thread_states(self.pid)

    @property
    def has_musl_inside(self) -> bool:
        """Whether the process, the selected one, runs a static program with musl's C library in it."""
        if self._musl_inside is None:
            self._musl_inside = is_static() and has_musl_inside(program_file() or "")
        return self._musl_inside

    def end_watch(self) -> None:
        """Watch no longer: a child would have the breakpoint too, and another program has other code there."""
        if self._returns is not None:
            self._returns.pause()
        if self._watch is not None and self._watch.is_valid():
            self._watch.enabled = False
            self._old_watch, self._watch = self._watch, None

    def executed(self) -> None:
        """Begin anew: the process runs another program now, and its other threads are gone."""
        self.pending.clear()
        self.returned.clear()
        self.program_break = None
        self.mmapped.forget()
        self.vforked.clear()
        self.trims = TrimWalks()
        self.judged = False
        self._musl_inside = None

    def end(self) -> None:
        """Let go of everything: the process has ended, or is no longer recorded."""
        self.forget()
        self._remove_watch()

    def place_watch(self, history: Callable[[], History]) -> None:
        """Watch malloc as soon as it can be found; the process is the selected one.

        Not where GDB has several processes: it puts a breakpoint at an address into all of them.
        """
        if self._old_watch is not None and self._old_watch.is_valid():
            self._old_watch.delete()
        self._old_watch = None
        if self._watch is not None and self._watch.is_valid():
            return
        if sum(inferior.pid != 0 for inferior in gdb.inferiors()) > 1:
            return
        try:
            target = session.target()
        except TargetError:
            return
        address = target.symbols.address("__libc_malloc")
        if address is not None:
            self._watch = MallocWatch(address, target, history, self._frames)

    def returns(self, history: Callable[[], History]) -> ReturnWatch:
        """Return what waits for malloc to return in this process."""
        if self._returns is None:
            self._returns = ReturnWatch(history)
        return self._returns

    def _remove_watch(self) -> None:
        if self._returns is not None:
            self._returns.end()
            self._returns = None
        for watch in (self._watch, self._old_watch):
            if watch is not None and watch.is_valid():
                watch.delete()
        self._watch = self._old_watch = None

    def follow_growth(self, event: Event) -> None:
        """Watch the calls of malloc that follow this event, if they are of interest."""
        if self._watch is not None and self._watch.is_valid() and self._watch.wanted(event):
            self._watch.follow(event)

    def needs_the_kernel(self) -> None:
        """Note that a call of malloc that was seen, if one is under way, needs a system call after all."""
        if self._watch is not None:
            self._watch.not_served()

    def look(self) -> None:
        """See what came of the last call of malloc that was seen."""
        if self._watch is not None:
            self._watch.look()
