"""The record of the system calls that move memory, made while a catchpoint on them is set."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import gdb

from gdbheap.debugger import session
from gdbheap.debugger.allocator import (
    OF_ANOTHER_LIBC,
    AllocatorNow,
    is_of_another_libc,
    nameless_arena,
    read_at_call,
    stream_name,
)
from gdbheap.debugger.captured import Captured, Numbers, kind_of, note, with_nb
from gdbheap.debugger.catchpoints import Catchpoints
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.gap_finder import GapFinder
from gdbheap.debugger.interposed import other_malloc
from gdbheap.debugger.neutral import Neutral, WhileRunning, neutrally
from gdbheap.debugger.processes import local_pid, mapped_bytes, open_file, parent_of
from gdbheap.debugger.recorded import FORKING, RecordedProcess
from gdbheap.debugger.stacks import Shape
from gdbheap.debugger.syscalls import (
    FORKS,
    LIFE,
    SyscallEntry,
    clone_flags,
    has_same_memory,
    is_vfork,
    makes_process,
    registers_for,
)
from gdbheap.debugger.target import architecture_name, each_thread_of, is_core, program_file
from gdbheap.debugger.unattended import note_failure
from gdbheap.growth.decision import user_frame
from gdbheap.growth.event import UNKNOWN_BYTES, Event, Frame, Requester, whole_pages
from gdbheap.growth.history import Final, History, ProcessRecord
from gdbheap.growth.nameless import gives_back, goes_on_after, is_nameless, previous_of
from gdbheap.growth.reading import Reading
from gdbheap.growth.request import POINTERS, malloc_call, stream_of
from gdbheap.growth.requester import ANOTHER_MALLOC, FREE_PAGES, OF_MUSL, requester
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
        self._catchpoints = Catchpoints()
        self._history = History()
        self._put_off: list[Captured] = []
        self._processes: dict[int, RecordedProcess] = {}
        self._malloc_only = False
        self._stop_there = False
        self._watched = True
        self._kept = 1
        self._catching: Sequence[str] = ()
        self._show: Callable[[Sequence[Event]], None] = lambda events: None
        self._show_other: Callable[[ProcessRecord], None] = lambda record: None
        self._connected = False
        self._gaps = GapFinder(self._settled, self._add_gap, self._now, self._is_off)
        self._began: float | None = None
        self.was_interrupted = False

    @property
    def number(self) -> int | None:
        """The number of the catchpoint that the user sees, None where there is none."""
        return self._catchpoints.number

    @property
    def active(self) -> bool:
        """Whether the catchpoint is set; the user may have deleted it by hand."""
        return self._catchpoints.listed

    @property
    def history(self) -> History:
        """Everything that was recorded."""
        self._note_problem()
        return self._settled()

    def unsettled(self) -> History:
        """Return what was recorded without what was put off: settling may be what failed."""
        return self._history

    @property
    def several_processes(self) -> bool:
        """Whether more than one process was recorded."""
        return sum(record.recorded for record in self._history.processes.values()) > 1

    def start(
        self,
        syscalls: Sequence[str],
        *,
        malloc_only: bool,
        stop_there: bool,
        follow: str | None,
        kept: int,
        show: Callable[[Sequence[Event]], None],
        show_other: Callable[[ProcessRecord], None] = lambda record: None,
    ) -> None:
        """Set the catchpoint. ``show`` is called with events to print, once the kernel has answered them.

        On a terminal it is called at once. Elsewhere, as into a file, it is called for some events together, but in
        their order and before GDB stops or does anything else: as programs write to files. ``follow`` is a word of
        FOLLOW, or None; ``kept`` is how many events are kept. ``show_other`` is called once with a process that uses
        another malloc than glibc's.

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
        wanted = (*syscalls, *LIFE)
        self._catchpoints.set(
            [number for number, name in registers.calls.items() if name in wanted],
            f"$_heap_event(${registers.result}, ${registers.number})",
        )
        self._catchpoints.follow(follow)
        self.was_interrupted = False
        self._catching = syscalls
        self._gaps.begin(syscalls)
        self._history.choose(syscalls)
        self._malloc_only = malloc_only
        self._stop_there = stop_there
        self._watched = stop_there or os.isatty(1)
        self._kept = kept
        self._show = show
        self._show_other = show_other
        if not self._connected:
            gdb.events.stop.connect(neutrally(self._on_stop))
            gdb.events.exited.connect(neutrally(self._on_exited))
            gdb.events.breakpoint_created.connect(self._on_breakpoint)
            gdb.events.before_prompt.connect(neutrally(lambda *nothing: self.catch_up()))
            gdb.events.new_objfile.connect(neutrally(self._on_new_objfile))
            gdb.events.clear_objfiles.connect(neutrally(self._on_clear_objfiles))
            self._connected = True
        self._gaps.note_blindness(())
        if gdb.selected_inferior().pid:
            self._process(gdb.selected_inferior().pid).place_watch(self._settled)

    def stop(self) -> bool:
        """Delete the catchpoint; return whether there was one. What was recorded stays."""
        self._settle()
        self._note_problem()
        for process in self._processes.values():
            process.end()
        self._processes.clear()
        return self._catchpoints.delete()

    def observe(self, value: int, number: int) -> bool:
        """Record the system call that the selected thread is stopped at; return whether GDB should stop here.

        ``value`` is that of the register that holds a call's result, ``number`` the call's.
        """
        thread = gdb.selected_thread()
        pid, tid, _ = thread.ptid
        process = self._processes.get(pid) or self._process(pid)
        result = process.reader.result(value)
        if result is not None:
            return self._returned(process, tid, process.reader.name(number), result)
        entry = process.reader.entry(tid)
        if entry is None:
            return False
        if process.pending.get(tid) == FORKING:  # GDB 10 after a vfork
            del process.pending[tid]
            self._history.missed(
                "GDB did not report that a fork had returned: calls of the same thread may be missing between the two."
            )
        if entry.name in LIFE:
            self._life(process, tid, entry)
            return False
        known = process.stacks.recognise(entry.pc, entry.sp)
        if known is not None:
            shape, values = known
            numbers = shape.notes.get(kind_of(entry))
            if numbers is not None:
                self._capture(process, thread.num, tid, entry, shape, values, numbers)
                return False
            self._enter(process, thread.num, tid, entry, shape.frames_with(values), shape.more, shape)
        else:
            stack = process.stacks.read(entry.pc, entry.sp)
            self._enter(process, thread.num, tid, entry, tuple(stack.frames), stack.more, None)
        return False

    def catch_up(self) -> None:
        """Record the calls that GDB kept to itself; called each time that GDB has stopped for the user.

        To stop all threads, GDB lets a call that a thread is just making run to its end and reports neither its entry
        nor its return. But the thread is still where it was, in the kernel's eyes, and so are its registers.
        """
        self._catchpoints.tidy()
        if self.number is None or not self._catching or sum(len(inf.threads()) for inf in gdb.inferiors()) < 2:
            return
        selected = gdb.selected_thread()
        for process in list(self._processes.values()):
            for thread in each_thread_of(process.inferior):
                try:
                    self._catch_up(process, thread)
                except gdb.error:  # a thread that is about to end has no registers any more
                    continue
        if selected is not None and selected.is_valid():
            selected.switch()

    def _catch_up(self, process: RecordedProcess, thread: gdb.InferiorThread) -> None:
        tid = thread.ptid[1]
        name, result = process.reader.state()
        if name not in self._catching or result is None:
            return
        if tid in process.pending:
            self._returned(process, tid, name, result)
            return
        entry = process.reader.entry(None)
        self._settle()
        last = self._history.find(process.returned.get(tid, 0))
        # The same call again, or one that was seen: to count one twice would be worse than to miss it.
        if entry is None or (last is not None and (last.syscall, last.args, last.result) == (name, entry.args, result)):
            return
        stack = process.stacks.read(entry.pc, entry.sp)
        self._enter(process, thread.num, tid, entry, tuple(stack.frames), stack.more, None, late=True)
        self._returned(process, tid, name, result)

    def interrupted(self, by_user: bool) -> None:
        """Note that a call was not recorded, since reading it was interrupted."""
        self.was_interrupted = self.was_interrupted or by_user
        self._history.missed("Reading a call was interrupted: it is missing, or what is shown of it is not complete.")

    def _process(self, pid: int) -> RecordedProcess:
        """Return what is kept of the selected process while it runs; begin with it where it is new."""
        process = self._processes.get(pid)
        if process is not None:
            return process
        process = self._processes[pid] = RecordedProcess(pid)
        record = self._history.processes.get(pid)
        if record is None or record.end is not None:
            # GDB may show a child before its parent has returned from the fork.
            parent = parent_of(pid) if local_pid() is not None else None
            known = parent if parent in self._history.processes else None
            record = self._history.processes[pid] = ProcessRecord(pid, known, self._now())
        record.recorded = True
        self._executed(process)
        return process

    def _executed(self, process: RecordedProcess) -> None:
        """Note which program the selected process runs now."""
        process.executed()
        self._note_others(process.pid)
        programs = self._history.processes[process.pid].programs
        program = program_file() or ""
        if not programs or programs[-1][1] != program or programs[-1][0] != self._history.recorded:
            programs.append((self._history.recorded, program))

    def _life(self, process: RecordedProcess, tid: int, entry: SyscallEntry) -> None:
        """Note that a process is about to end or, where it is not a thread that is made, to fork."""
        if entry.name == "exit_group":
            self._at_exit(process)
        elif entry.name == "execve":
            process.end_watch()
        elif makes_process(flags := clone_flags(entry)):
            process.end_watch()
            process.pending[tid] = FORKING
            process.fork_flags = flags

    def _returned(self, process: RecordedProcess, tid: int, name: str | None, result: int) -> bool:
        # Calls of one thread do not nest, so this is the return of the one that it entered last.
        left = process.pending.pop(tid, None)
        if name == "execve" and result == 0:
            self._executed(process)
            return False
        if left == FORKING:
            if name in FORKS and result > 0:
                self._forked(process, result)
            return False
        return left is not None and self._leave(process, left, name, result)

    def _note_others(self, pid: int) -> None:
        """Note that other processes run while GDB is busy with a fork, an execve or the end of the process ``pid``."""
        if any(process.pid != pid and process.is_running() for process in self._processes.values()):
            self._history.missed(
                "Processes ran at the same time: while GDB is busy with one that forks, executes or ends, it can miss "
                "calls that others make."
            )

    def _forked(self, parent: RecordedProcess, child: int) -> None:
        record = self._history.processes.get(child)
        if record is None or record.end is not None:
            record = self._history.processes[child] = ProcessRecord(child, parent.pid, self._now(), recorded=False)
        record.parent, record.shares_memory = parent.pid, has_same_memory(parent.fork_flags)
        if is_vfork(parent.fork_flags):
            parent.vforked.append(child)

    def _add_gap(self, event: Event) -> None:
        self._history.events.append(event)
        self._show([event])

    def _capture(
        self,
        process: RecordedProcess,
        thread: int,
        tid: int,
        entry: SyscallEntry,
        shape: Shape,
        values: tuple[int, ...],
        numbers: Numbers,
    ) -> None:
        """Keep what must be read now of a call that malloc made from a stack that is known."""
        process.needs_the_kernel()
        captured = Captured(0, process.pid, thread, tid, entry, shape, values, numbers, self._now())
        found = read_at_call(
            entry,
            None if numbers.arena is None else values[numbers.arena],
            None if numbers.nb is None else values[numbers.nb],
            None if numbers.request is None else values[numbers.request],
            None if numbers.pointer is None else values[numbers.pointer],
        )
        captured.reading, captured.free, captured.chunk, captured.unread = found
        captured.reading = self._with_trim(process, tid, entry, numbers.requester, captured.reading)
        purpose = numbers.requester.purpose
        captured.break_before = self._gaps.before_call(process, (thread, tid), entry, purpose, captured.reading)
        captured.id = self._history.recorded + len(self._put_off) + 1
        process.pending[tid] = captured
        self._put_off.append(captured)

    def _enter(
        self,
        process: RecordedProcess,
        thread: int,
        tid: int,
        entry: SyscallEntry,
        frames: tuple[Frame, ...],
        more: bool,
        shape: Shape | None,
        *,
        late: bool = False,
    ) -> None:
        """Record a call whole; note what its code tells where its stack was recognised (``shape``).

        ``late`` says that the call has run already: then the maps no longer tell what was there before.
        """
        self._settle()
        name, args = entry.name, entry.args
        event = Event(
            self._history.recorded + 1,
            process.pid,
            thread,
            tid,
            name,
            args,
            frames,
            file=open_file(args[4]) if name == "mmap" else None,
            more_frames=more,
            time=self._now(),
        )
        who = requester(event, self._history.events, musl_inside=process.has_musl_inside)
        if who.purpose.startswith((ANOTHER_MALLOC, OF_MUSL)):
            self._note_other_malloc(process)
        if self._malloc_only and who.kind != "malloc":
            if name == "brk":
                process.pending[tid] = _NOT_RECORDED
            return
        changes: dict[str, Any] = {"requester": who, "user": user_frame(frames)}
        if name != "brk":
            changes["mapped_before"] = _mapped_before(entry, who.kind, late)
        if who.kind == "malloc":
            process.needs_the_kernel()
            changes.update(self._of_malloc(entry, event))
            changes["reading"] = self._with_trim(process, tid, entry, who, changes["reading"])
            changes["break_before"] = self._gaps.before_call(
                process, (thread, tid), entry, who.purpose, changes["reading"]
            )
            # Without the names inside malloc more is looked at than the stack.
            if shape is not None and changes.get("stream") is None and not is_nameless(frames):
                note(shape, entry, who, frames)
        elif name == "brk":
            changes["break_before"] = self._gaps.break_of(process, (thread, tid), None)
        event = event._replace(**changes, id=self._history.recorded + 1)
        process.pending[tid] = event.id
        self._history.events.append(event)
        if who.kind == "malloc" and not late:
            process.returns(self._settled).expect(event, entry.sp)

    def _note_other_malloc(self, process: RecordedProcess) -> None:
        """Note, and say once, whose malloc the selected process uses: an allocator that is not glibc's is at work."""
        if process.judged:
            return
        process.judged = True
        record = self._history.processes[process.pid]
        found = other_malloc()
        if found is not None and found != record.other_malloc:
            record.other_malloc = found
            self._show_other(record)

    def _of_malloc(self, entry: SyscallEntry, event: Event) -> dict[str, Any]:
        """Return what an event of malloc's has besides: what was asked of it, and the allocator's state."""
        frames = event.frames
        call = malloc_call(frames)
        if is_of_another_libc(frames):
            return {**AllocatorNow(unread=OF_ANOTHER_LIBC)._asdict(), "requested": call, "stream": None}
        nameless = call.arena is None and is_nameless(frames)
        if nameless:
            goes_on = goes_on_after(event, previous_of(event, self._history.events))
            function = call.calls[-1].name if call.calls else ""
            call = call._replace(arena=nameless_arena(entry, function, goes_on))
        pointer = next((value for frame in frames for name, value in frame.variables.items() if name in POINTERS), None)
        asks = nameless and not (call.calls and gives_back(call.calls[-1].name))
        found = read_at_call(entry, call.arena, call.nb, call.request, pointer, nb_will_be_known=asks)
        stream = stream_of(frames)
        return {
            **found._asdict(),
            "requested": with_nb(call, found.reading),
            "stream": None if stream is None else stream_name(session.target(), stream),
        }

    def _with_trim(
        self, process: RecordedProcess, tid: int, entry: SyscallEntry, who: Requester, reading: Reading | None
    ) -> Reading | None:
        """Return what was read with what malloc_trim has before it, at a call that it makes for a free chunk."""
        if who.purpose == FREE_PAGES and reading is not None and reading.arena is not None:
            return process.trims.note(session.target(), tid, entry.args, reading)
        return reading

    def _leave(self, process: RecordedProcess, left: Captured | int, name: str | None, result: int) -> bool:
        if left == _NOT_RECORDED:
            process.program_break = result
            return False
        event = None if isinstance(left, Captured) else self._history.find(left)
        entered = left.name if isinstance(left, Captured) else event.syscall if event is not None else None
        if entered != name:  # of a thread that ended inside its call, and whose number another one has now
            return False
        if name == "brk":
            process.program_break = result
        else:
            process.mmapped.leave(-4096 < result < 0)
        process.was_blind = None
        if isinstance(left, Captured):
            left.result = result
            process.returned[left.tid] = left.id
            if self._watched or len(self._put_off) >= _PUT_OFF:
                self._settle()
        elif event is not None:
            event = event._replace(result=result)
            self._history.replace(event)
            process.returned[event.tid] = event.id
            self._show([event])
            process.follow_growth(event)
        return self._stop_there

    def _settled(self) -> History:
        self._settle()
        return self._history

    def _settle(self) -> None:
        """Make events of what was put off, and show those that have returned."""
        put_off, self._put_off = self._put_off, []
        if not put_off:
            return
        events = self._history.events
        done = []
        for captured in put_off:
            event = captured.event()
            if captured.result is not None:
                done.append(event)
            else:
                process = self._processes.get(captured.process)
                if process is not None and process.pending.get(captured.tid) is captured:
                    process.pending[captured.tid] = event.id
            events.append(event)
        if len(events) > self._kept + self._kept // 8:
            self._history.drop(len(events) - self._kept)
        self._show(done)

    def _at_exit(self, process: RecordedProcess) -> None:
        self._settle()
        self._gaps.at_stop(process)
        process.look()
        try:
            target = session.target()
            arena = read_arena(target.memory, target.abi, target.layout, target.main_arena, 0)
        except (TargetError, MemoryFault):
            return
        self._history.finals[process.pid] = Final(arena, self._history.recorded)

    def _now(self) -> float:
        """Return the seconds since the first event of this run."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        return now - self._began

    def _is_off(self) -> bool:
        """Whether the catchpoint was deleted, disabled or given another condition."""
        return self._catchpoints.problem() is not None

    def _note_problem(self) -> None:
        problem = self._catchpoints.problem()
        if problem is not None:
            self._history.missed(problem)

    def _on_stop(self, event: Any) -> None:
        self.catch_up()
        self._settle()
        self._note_problem()
        if self.active:
            self._gaps.at_stop(self._processes.get(gdb.selected_inferior().pid))
            self._gaps.note_blindness(self._processes.values())

    def _on_breakpoint(self, point: gdb.Breakpoint) -> None:
        if point.type == gdb.BP_WATCHPOINT and self.active:
            self._gaps.note_blindness(self._processes.values())

    def _on_new_objfile(self, event: Any) -> None:
        self._settle()
        pid = gdb.selected_inferior().pid
        if pid in self._processes:
            self._processes[pid].forget()
        if pid and self.active:
            self._catchpoints.cover()
            process = self._process(pid)
            if self._history.processes[pid].programs[-1][1] != (program_file() or ""):
                self._executed(process)
            process.place_watch(self._settled)

    def _on_clear_objfiles(self, event: Any) -> None:
        self._settle()
        for process in self._processes.values():
            process.forget()

    def _on_exited(self, event: Any) -> None:
        self._settle()
        self._note_problem()
        ended = [process for process in self._processes.values() if process.inferior == event.inferior.num]
        for process in ended:
            del self._processes[process.pid]
            process.end()
            self._note_others(process.pid)
            self._history.processes[process.pid].end = _end_text(event)
        self._catchpoints.uncover(event.inferior.num)
        if not self._processes:
            self._began = None


def _end_text(event: Any) -> str:
    """Return in a few words how the process of an ``exited`` event ended."""
    if hasattr(event, "exit_code"):
        return f"exited with {event.exit_code}"
    signal = gdb.convenience_variable("_exitsignal")
    return "no longer under GDB" if signal is None else f"killed by signal {int(signal)}"


def _mapped_before(entry: SyscallEntry, kind: str, late: bool) -> int | None:
    """Return how many bytes are mapped where the call maps over them or unmaps, None where the call itself tells."""
    args = entry.args
    fixed = (entry.name == "mmap" and args[3] & MAP_FIXED) or (entry.name == "mremap" and args[3] & MREMAP_FIXED)
    if late:
        return UNKNOWN_BYTES if fixed or (entry.name == "munmap" and kind != "malloc") else None
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
        self._running = WhileRunning()

    def invoke(self, *arguments: gdb.Value) -> int:
        """Return 1 where GDB is to stop, else 0; an error would stop the program, so it is noted in the history."""
        try:
            if not self._running.needs_neutral:
                return 1 if self._recorder.observe(int(arguments[0]), int(arguments[1])) else 0
            with Neutral():
                return 1 if self._recorder.observe(int(arguments[0]), int(arguments[1])) else 0
        except Exception as error:
            note_failure(self._recorder.unsettled(), error)
        except BaseException as error:
            self._recorder.interrupted(by_user=isinstance(error, KeyboardInterrupt))
            raise
        return 0


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
    history = RECORDER.history
    event = history.find(number)
    if event is not None:
        return event
    if 0 < number <= history.dropped:
        raise TargetError(
            f"Event {number} is no longer kept: the newest {len(history.events)} are, from {history.dropped + 1} on "
            "('heap catch -keep N' keeps more)."
        )
    raise TargetError(f"There is no event {number}: {history.recorded} were recorded, from 1 on.")
