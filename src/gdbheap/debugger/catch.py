"""Catchpoints on the system calls that move memory, and the record of what they saw."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import gdb

from gdbheap.debugger import session
from gdbheap.debugger.allocator import TrimWalks, read_at_call, stream_name
from gdbheap.debugger.captured import Captured, Numbers, kind_of, note, with_nb
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.frames import FrameReader
from gdbheap.debugger.processes import local_pid, mapped_bytes, open_file
from gdbheap.debugger.stacks import Shape, StackCache
from gdbheap.debugger.syscalls import SyscallEntry, SyscallReader, registers_for
from gdbheap.debugger.target import GdbMemory, architecture_name, is_core, program_file
from gdbheap.debugger.watch import MallocWatch
from gdbheap.growth.decision import user_frame
from gdbheap.growth.event import Event, Frame, Requester, whole_pages
from gdbheap.growth.history import Final, History
from gdbheap.growth.reading import Reading
from gdbheap.growth.request import POINTERS, malloc_call, stream_of
from gdbheap.growth.requester import FREE_PAGES, requester
from gdbheap.memory import MemoryFault
from gdbheap.ptmalloc.arena import read_arena
from gdbheap.simulate.kernel import MAP_FIXED, MREMAP_FIXED

#: How many events are put off at most, where nobody watches them come.
_PUT_OFF = 64
#: In place of an event's number: a brk that is not wanted, but after which the break is elsewhere.
_NOT_RECORDED = 0


class Recorder:
    """Records the system calls of the processes under GDB from ``start`` to ``stop``; keeps them after that."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._history = History()
        self._put_off: list[Captured] = []
        self._readers: dict[int, SyscallReader] = {}  # by process
        self._frames = FrameReader()
        self._stacks = StackCache(self._frames, GdbMemory())
        self._pending: dict[int, Captured | int] = {}  # by tid: what has not returned (an event: its number)
        self._breaks: dict[int, int] = {}  # by process: what brk last answered
        self._trims = TrimWalks()
        self._malloc_only = False
        self._stop_there = False
        self._watched = True
        self._show: Callable[[Sequence[Event]], None] = lambda events: None
        self._watch: MallocWatch | None = None
        self._connected = False
        self._began: float | None = None

    @property
    def active(self) -> bool:
        """Whether the catchpoint is set; the user may have deleted it by hand."""
        if self.number is None:
            return False
        listed = gdb.execute(f"info breakpoints {self.number}", to_string=True)
        return any(line.startswith(f"{self.number} ") for line in listed.splitlines())

    @property
    def history(self) -> History:
        """Everything that was recorded."""
        self._settle()
        return self._history

    def start(
        self, syscalls: Sequence[str], *, malloc_only: bool, stop_there: bool, show: Callable[[Sequence[Event]], None]
    ) -> None:
        """Set the catchpoint. ``show`` is called with events to print, once the kernel has answered them.

        On a terminal it is called at once. Elsewhere, as into a file, it is called for some events together, but in
        their order and before GDB stops or does anything else: as programs write to files.

        Raises TargetError where there is no program, gdb.error where GDB cannot catch system calls here, and
        UnknownArchitecture where we cannot read them.
        """
        if program_file() is None and not gdb.selected_inferior().pid:
            raise TargetError("There is no program to record: start GDB with one (gdb --args PROGRAM ARGS).")
        if is_core():
            raise TargetError(
                "A core file does not run: nothing can be recorded, but 'heap why-grow' tells what it can."
            )
        registers = registers_for(architecture_name())
        self.stop()
        gdb.execute(f"catch syscall {' '.join(syscalls)} exit_group", to_string=True)
        number = int(gdb.convenience_variable("bpnum") or 0)
        gdb.execute(f"condition {number} $_heap_event(${registers.result})", to_string=True)
        self.number = number
        self._history.choose(syscalls)
        self._malloc_only = malloc_only
        self._stop_there = stop_there
        self._watched = stop_there or os.isatty(1)
        self._show = show
        if not self._connected:
            gdb.events.stop.connect(self._on_stop)
            gdb.events.exited.connect(self._on_exited)
            gdb.events.new_objfile.connect(self._on_new_objfile)
            gdb.events.clear_objfiles.connect(self._on_clear_objfiles)
            self._connected = True
        if gdb.selected_inferior().pid:
            self._place_watch()

    def stop(self) -> bool:
        """Delete the catchpoint; return whether there was one. What was recorded stays."""
        self._settle()
        active = self.active
        number, self.number = self.number, None
        self._remove_watch()
        self._pending.clear()
        if active:
            gdb.execute(f"delete {number}", to_string=True)
        return active

    def observe(self, value: int) -> bool:
        """Record the system call that the selected thread is stopped at; return whether GDB should stop here.

        ``value`` is that of the register that holds a call's result.
        """
        thread = gdb.selected_thread()
        process, tid, _ = thread.ptid
        reader = self._readers.get(process)
        if reader is None:
            reader = self._readers[process] = SyscallReader(registers_for(architecture_name()), local_pid())
        result = reader.result(value)
        if result is not None:
            # Calls of one thread do not nest, so this is the return of the one that it entered last.
            left = self._pending.pop(tid, None)
            return left is not None and self._leave(process, left, result)
        entry = reader.entry(tid)
        if entry is None:
            return False
        if entry.name == "exit_group":
            self._at_exit(process)
            return False
        known = self._stacks.recognise(entry.pc, entry.sp)
        if known is not None:
            shape, values = known
            numbers = shape.notes.get(kind_of(entry))
            if numbers is not None:
                self._capture(process, thread.num, tid, entry, shape, values, numbers)
                return False
            self._enter(process, thread.num, tid, entry, shape.frames_with(values), shape.more, shape)
        else:
            stack = self._stacks.read(entry.pc, entry.sp)
            self._enter(process, thread.num, tid, entry, tuple(stack.frames), stack.more, None)
        return False

    def _capture(
        self,
        process: int,
        thread: int,
        tid: int,
        entry: SyscallEntry,
        shape: Shape,
        values: Sequence[int],
        numbers: Numbers,
    ) -> None:
        """Keep what must be read now of a call that malloc made from a stack that is known."""
        self._needs_the_kernel()
        number = self._history.recorded + len(self._put_off) + 1
        captured = Captured(number, process, thread, tid, entry, shape, values, numbers, self._now())
        found = read_at_call(
            entry,
            None if numbers.arena is None else values[numbers.arena],
            None if numbers.nb is None else values[numbers.nb],
            None if numbers.request is None else values[numbers.request],
            None if numbers.pointer is None else values[numbers.pointer],
        )
        captured.reading, captured.free, captured.chunk, captured.unread = found
        self._note_trim(tid, entry, numbers.requester, captured.reading)
        if entry.name == "brk":
            captured.break_before = self._breaks.get(process)
            if captured.break_before is None and captured.reading is not None:
                captured.break_before = captured.reading.curbrk or None
        self._pending[tid] = captured
        self._put_off.append(captured)

    def _enter(
        self,
        process: int,
        thread: int,
        tid: int,
        entry: SyscallEntry,
        frames: tuple[Frame, ...],
        more: bool,
        shape: Shape | None,
    ) -> None:
        """Record a call whole; note what its code tells where its stack was recognised (``shape``)."""
        self._settle()
        events = self._history.events
        name, args = entry.name, entry.args
        file = open_file(args[4]) if name == "mmap" else None
        event = Event(
            self._history.recorded + 1,
            process,
            thread,
            tid,
            name,
            args,
            frames,
            file=file,
            more_frames=more,
            time=self._now(),
        )
        who = requester(event, events)
        if self._malloc_only and who.kind != "malloc":
            if name == "brk":
                self._pending[tid] = _NOT_RECORDED
            return
        changes: dict[str, Any] = {"requester": who, "user": user_frame(frames)}
        if name == "brk":
            changes["break_before"] = self._breaks.get(process)
        else:
            changes["mapped_before"] = _mapped_before(entry, who.kind)
        if who.kind == "malloc":
            self._needs_the_kernel()
            changes.update(self._of_malloc(entry, frames))
            self._note_trim(tid, entry, who, changes["reading"])
            if name == "brk" and changes["break_before"] is None and changes["reading"] is not None:
                changes["break_before"] = changes["reading"].curbrk or None
            if shape is not None and changes.get("stream") is None:
                note(shape, entry, who, frames)
        self._pending[tid] = event.id
        events.append(event._replace(**changes))

    def _of_malloc(self, entry: SyscallEntry, frames: Sequence[Frame]) -> dict[str, Any]:
        """Return what an event of malloc's has besides: what was asked of it, and the allocator's state."""
        call = malloc_call(frames)
        pointer = next((value for frame in frames for name, value in frame.variables.items() if name in POINTERS), None)
        found = read_at_call(entry, call.arena, call.nb, call.request, pointer)
        stream = stream_of(frames)
        return {
            **found._asdict(),
            "requested": with_nb(call, found.reading),
            "stream": None if stream is None else stream_name(session.target(), stream),
        }

    def _note_trim(self, tid: int, entry: SyscallEntry, who: Requester, reading: Reading | None) -> None:
        """Note what malloc_trim has before it, at a call that it makes for a free chunk."""
        if who.purpose == FREE_PAGES and reading is not None and reading.arena is not None:
            self._trims.note(session.target(), tid, entry.args, reading)

    def _leave(self, process: int, left: Captured | int, result: int) -> bool:
        if left == _NOT_RECORDED:
            self._breaks[process] = result
            return False
        if isinstance(left, int):
            known = self._history.find(left)
            if known is None:
                return False
            event = known._replace(result=result)
            self._history.replace(event)
            if event.syscall == "brk":
                self._breaks[process] = result
            self._show([event])
            if self._watch is not None and self._watch.wanted(event):
                self._watch.follow(event)
            return self._stop_there
        left.result = result
        if left.name == "brk":
            self._breaks[process] = result
        if self._watched or len(self._put_off) >= _PUT_OFF:
            self._settle()
        return self._stop_there

    def _settle(self) -> None:
        """Make events of what was put off, and show those that have returned."""
        put_off, self._put_off = self._put_off, []
        if not put_off:
            return
        events = self._history.events
        under_way = {id(left): tid for tid, left in self._pending.items()}
        done = []
        for captured in put_off:
            event = captured.event()
            if captured.result is None:
                self._pending[under_way[id(captured)]] = event.id
            else:
                done.append(event)
            events.append(event)
        self._show(done)

    def _at_exit(self, process: int) -> None:
        self._settle()
        if self._watch is not None:
            self._watch.look()
        try:
            target = session.target()
            arena = read_arena(target.memory, target.abi, target.layout, target.main_arena, 0)
        except (TargetError, MemoryFault):
            return
        self._history.finals[process] = Final(arena, len(self._history.events))

    def _now(self) -> float:
        """Return the seconds since the first event."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        return now - self._began

    def _needs_the_kernel(self) -> None:
        if self._watch is not None:
            self._watch.not_served()

    def _place_watch(self) -> None:
        if self._watch is not None and self._watch.process == gdb.selected_inferior().pid:
            return
        self._remove_watch()  # one that is left of a process that GDB was detached from
        try:
            target = session.target()
        except TargetError:
            return
        address = target.symbols.address("__libc_malloc")
        if address is not None:
            self._watch = MallocWatch(address, target, lambda: self.history, self._frames)

    def _remove_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None and watch.is_valid():
            watch.delete()

    def _forget_process(self) -> None:
        self._settle()
        self._stacks.forget()
        while self._readers:
            self._readers.popitem()[1].close()

    def _on_stop(self, event: Any) -> None:
        self._settle()

    def _on_new_objfile(self, event: Any) -> None:
        self._forget_process()
        if self.active:
            self._place_watch()

    def _on_clear_objfiles(self, event: Any) -> None:
        self._forget_process()

    def _on_exited(self, event: Any) -> None:
        self._forget_process()
        self._pending.clear()
        self._trims = TrimWalks()
        self._breaks.clear()
        self._remove_watch()


def _mapped_before(entry: SyscallEntry, kind: str) -> int | None:
    """Return how many bytes are mapped where the call maps over them or unmaps, None where the call itself tells."""
    args = entry.args
    if (entry.name == "mmap" and args[3] & MAP_FIXED) or (entry.name == "munmap" and kind != "malloc"):
        return mapped_bytes(args[0], args[0] + whole_pages(args[1]))
    if entry.name == "mremap" and args[3] & MREMAP_FIXED:
        return mapped_bytes(args[4], args[4] + whole_pages(args[2]))
    return None


class HeapEvent(gdb.Function):
    """The condition of the catchpoint: records the event and says whether to stop."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__("_heap_event")
        self._recorder = recorder

    def invoke(self, *arguments: gdb.Value) -> int:
        """Return 1 where GDB is to stop, else 0."""
        return 1 if self._recorder.observe(int(arguments[0])) else 0


RECORDER = Recorder()
HeapEvent(RECORDER)


def require_events() -> None:
    """Raise TargetError unless something was recorded."""
    if RECORDER.history.events:
        return
    if RECORDER.active:
        raise TargetError("Nothing was recorded so far: 'run' or 'continue' the program, recording is on.")
    raise TargetError("Nothing was recorded: use 'heap catch', then 'run' or 'continue'.")


def require_event(number: int) -> Event:
    """Return the event of that number; raise TargetError where there is none."""
    require_events()
    event = RECORDER.history.find(number)
    if event is None:
        raise TargetError(f"There is no event {number}: {len(RECORDER.history.events)} were recorded, from 1 on.")
    return event
