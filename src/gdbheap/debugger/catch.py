"""Catchpoints on the system calls that move memory, and the record of what they saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import gdb

from gdbheap.debugger import session
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.frames import FrameReader
from gdbheap.debugger.processes import mapped_bytes, open_file, shrinks_heaps_with_mmap
from gdbheap.debugger.syscalls import SyscallRegisters, SyscallStop, read_stop, registers_for
from gdbheap.debugger.target import Target, thread_pointer
from gdbheap.growth.event import ChunkHeader, Event, FreeLists, Served
from gdbheap.growth.history import Final, History
from gdbheap.growth.requester import malloc_call, requester, stream_of, user_frame
from gdbheap.memory import MemoryFault, PageCache
from gdbheap.ptmalloc.arena import Arena, read_arena
from gdbheap.ptmalloc.bins import free_summary
from gdbheap.ptmalloc.heaps import heap_containing, read_heaps
from gdbheap.ptmalloc.params import read_params
from gdbheap.ptmalloc.tcache import tcache_count
from gdbheap.simulate.arenas import leftover
from gdbheap.simulate.state import GrowthState, OlderHeap

SYSCALLS = ("brk", "mmap", "munmap", "mremap", "mprotect")
#: Free chunks that are visited at most while the program waits at an event.
_FREE_LIMIT = 512
#: Calls of malloc that are watched after the first growth, to show what it pays for.
_WATCHED_CALLS = 4
_MAP_FIXED = 0x10


class Recorder:
    """Records the system calls of the processes under GDB from ``start`` to ``stop``; keeps them after that."""

    def __init__(self) -> None:
        self.history = History()
        self.number: int | None = None
        self._registers: SyscallRegisters | None = None
        self._frames = FrameReader()
        self._pending: dict[int, int | None] = {}  # by tid: the index of the event that has not returned
        self._breaks: dict[int, int] = {}  # by process: what brk last answered
        self._malloc_only = False
        self._stop_there = False
        self._show: Callable[[Event], None] = lambda event: None
        self._watch: _MallocWatch | None = None
        self._connected = False

    @property
    def active(self) -> bool:
        """Whether the catchpoint is set."""
        return self.number is not None

    def start(
        self, syscalls: Sequence[str], *, malloc_only: bool, stop_there: bool, show: Callable[[Event], None]
    ) -> None:
        """Set the catchpoint. ``show`` is called with each event once the kernel has answered.

        Raises gdb.error where GDB cannot catch system calls here.
        """
        self.stop()
        gdb.execute(f"catch syscall {' '.join(syscalls)} exit_group", to_string=True)
        number = int(gdb.convenience_variable("bpnum") or 0)
        gdb.execute(f"condition {number} $_heap_event()", to_string=True)
        self.number = number
        self._malloc_only = malloc_only
        self._stop_there = stop_there
        self._show = show
        if not self._connected:
            gdb.events.exited.connect(self._on_exited)
            gdb.events.new_objfile.connect(self._on_new_objfile)
            gdb.events.clear_objfiles.connect(self._on_clear_objfiles)
            self._connected = True
        if gdb.selected_inferior().pid:
            self._place_watch()

    def stop(self) -> bool:
        """Delete the catchpoint; return whether there was one. What was recorded stays."""
        number, self.number = self.number, None
        self._remove_watch()
        self._pending.clear()
        if number is None:
            return False
        try:
            gdb.execute(f"delete {number}", to_string=True)
        except gdb.error:
            return False  # the user deleted it by hand
        return True

    def observe(self) -> bool:
        """Record the system call that the selected thread is stopped at; return whether GDB should stop here."""
        frame = gdb.newest_frame()
        if self._registers is None:
            self._registers = registers_for(frame.architecture().name())
        stop = read_stop(frame, self._registers)
        if stop is None:
            return False
        _, tid, _ = gdb.selected_thread().ptid
        if stop.name == "exit_group":
            if stop.result is None:
                self._at_exit()
            return False
        if stop.result is None:
            self._enter(tid, stop)
            return False
        if tid not in self._pending:
            self._enter(tid, stop)  # the catchpoint was set while this call was under way
        index = self._pending.pop(tid)
        if index is None:
            return False
        return self._leave(index, stop.result)

    def _enter(self, tid: int, stop: SyscallStop) -> None:
        frames, more = self._frames.read()
        process = gdb.selected_inferior().pid
        event = Event(
            id=len(self.history.events) + 1,
            process=process,
            thread=gdb.selected_thread().num,
            tid=tid,
            syscall=stop.name,
            args=stop.args,
            frames=frames,
            more_frames=more,
        )
        of_malloc = requester(event).kind == "malloc"
        if self._malloc_only and not of_malloc:
            self._pending[tid] = None
            return
        changes: dict[str, Any] = {}
        if stop.name == "mmap":
            changes["file"] = open_file(stop.args[4])
        if (stop.name == "mmap" and stop.args[3] & _MAP_FIXED) or (stop.name == "munmap" and not of_malloc):
            changes["mapped_before"] = mapped_bytes(stop.args[0], stop.args[0] + _pages(stop.args[1]))
        if stop.name == "brk":
            changes["break_before"] = self._breaks.get(process)
        if of_malloc:
            changes.update(self._allocator(event))
            if changes.get("break_before") is None and stop.name == "brk" and changes.get("state") is not None:
                changes["break_before"] = changes["state"].curbrk or None
        self._pending[tid] = len(self.history.events)
        self.history.events.append(replace(event, **changes))

    def _leave(self, index: int, result: int) -> bool:
        event = replace(self.history.events[index], result=result)
        self.history.events[index] = event
        if event.syscall == "brk":
            self._breaks[event.process] = result
        self._show(event)
        if self._watch is not None and self._watch.wanted(event):
            self._watch.follow(event)
        return self._stop_there

    def _allocator(self, event: Event) -> dict[str, Any]:
        try:
            target = session.target()
        except TargetError:
            return {}
        call = malloc_call(event)
        arena = session.arena_at(target, call.arena) if call is not None and call.arena else None
        try:
            trimming = any(frame.name == "heap_trim" for frame in event.frames)
            state = growth_state(target, arena, trimming=trimming)
        except MemoryFault:
            return {}
        found: dict[str, Any] = {"state": state, "stream": _stream_name(event), "chunk": _chunk_header(target, event)}
        if arena is not None and call is not None and call.nb is not None:
            found["free"] = _free_lists(target, arena, call.nb)
        return found

    def _at_exit(self) -> None:
        if self._watch is not None:
            self._watch.look()
        try:
            target = session.target()
            arena = read_arena(target.memory, target.abi, target.layout, target.main_arena, 0)
        except (TargetError, MemoryFault):
            return
        self.history.finals[gdb.selected_inferior().pid] = Final(arena, len(self.history.events))

    def _place_watch(self) -> None:
        if self._watch is not None:
            return
        try:
            target = session.target()
        except TargetError:
            return
        address = target.symbols.address("__libc_malloc")
        if address is not None and self._registers_known():
            self._watch = _MallocWatch(address, target, self.history, self._frames)

    def _registers_known(self) -> bool:
        # The first argument of a function is read from rdi, so the watch is for x86-64 alone.
        try:
            return gdb.selected_frame().architecture().name() == "i386:x86-64"
        except gdb.error:
            return False

    def _remove_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None and watch.is_valid():
            watch.delete()

    def _on_new_objfile(self, event: Any) -> None:
        self._frames.forget()
        if self.active:
            self._place_watch()

    def _on_clear_objfiles(self, event: Any) -> None:
        self._frames.forget()

    def _on_exited(self, event: Any) -> None:
        self._frames.forget()
        self._pending.clear()
        self._breaks.clear()
        self._remove_watch()


class _MallocWatch(gdb.Breakpoint):
    """An internal breakpoint on malloc that is off but for the few calls that follow the first growth.

    It shows what a growth pays for: requests that top serves without a system call.
    """

    def __init__(self, address: int, target: Target, history: History, frames: FrameReader) -> None:
        super().__init__(f"*{address}", internal=True)
        self.enabled = False
        self._target = target
        self._history = history
        self._frames = frames
        self._event: Event | None = None
        self._left = 0

    def wanted(self, event: Event) -> bool:
        """Return whether the calls after this event are of interest: the first growth of main_arena by brk."""
        grown = event.syscall == "brk" and not event.failed and (event.delta or 0) > 0
        return self._event is None and grown and event.state is not None and event.state.arena is not None

    def follow(self, event: Event) -> None:
        """Begin to watch."""
        self._event = event
        self._left = _WATCHED_CALLS
        self.enabled = True

    def look(self) -> None:
        """Note where the top chunk is now, as the outcome of the last call that was seen."""
        served = self._history.served
        if self._event is None or not served or served[-1].top_after is not None:
            return
        arena = self._arena()
        if arena is not None:
            served[-1] = replace(served[-1], top_after=arena.top, left=arena.top_size)

    def _arena(self) -> Arena | None:
        target = self._target
        try:
            return read_arena(target.memory, target.abi, target.layout, target.main_arena, 0)
        except MemoryFault:
            return None

    def stop(self) -> bool:
        """Record one call of malloc; never stop GDB."""
        self.look()
        event, arena = self._event, self._arena()
        grew = event is not None and self._history.grown_since(event)
        self._left -= 1
        if event is None or arena is None or grew or self._left < 0:
            self.enabled = False
            return False
        if gdb.selected_thread().num == event.thread:
            request = int(gdb.newest_frame().read_register("rdi")) & 0xFFFFFFFFFFFFFFFF
            frames, _ = self._frames.read()
            served = Served(
                event=event.id,
                thread=event.thread,
                request=request,
                chunk_size=self._target.abi.request_to_chunk(request),
                caller=frames[1] if len(frames) > 1 else None,
                user=user_frame(frames),
                top_before=arena.top,
            )
            self._history.served.append(served)
        return False


def growth_state(target: Target, arena: Arena | None, *, trimming: bool = False) -> GrowthState:
    """Return what sysmalloc would look at now, in this arena (None: no arena is involved).

    ``trimming`` reads what heap_trim looks at as well: the ends of the arena's older heaps.
    """
    memory, abi, layout = target.memory, target.abi, target.layout
    params = read_params(memory, abi, layout, target.mp)
    heap = None
    older = None
    if arena is not None and not arena.is_main:
        if trimming:
            chain = read_heaps(memory, abi, layout, params, arena).heaps
            heap = chain[0]
            older = tuple(OlderHeap(item, leftover(memory, abi, item)) for item in chain[1:])
        else:
            heap = heap_containing(memory, abi, layout, params, arena.top)
    return GrowthState(
        abi=abi,
        params=params,
        arena=arena,
        curbrk=target.word("__curbrk"),
        heap=heap,
        aligned_heap_area=target.word("aligned_heap_area"),
        release=target.release,
        older_heaps=older,
        heap_info_size=None if layout.heap_info is None else layout.heap_info.size,
        malloc_state_size=layout.state.size,
        may_shrink_heap=shrinks_heaps_with_mmap() if trimming else None,
        always_fail_morecore=target.flag("__always_fail_morecore"),
    )


def _free_lists(target: Target, arena: Arena, nb: int) -> FreeLists:
    memory = PageCache(target.memory)
    summary = free_summary(memory, target.abi, target.layout, arena, target.safe_linking, limit=_FREE_LIMIT)
    address = target.tcache_address(thread_pointer())
    count = None
    if address is not None and target.layout.tcache is not None:
        count = tcache_count(memory, target.abi, target.layout, address, nb)
    return FreeLists(count, summary.chunks, summary.total, summary.largest, summary.complete)


def _chunk_header(target: Target, event: Event) -> ChunkHeader | None:
    """Return the header of the mmapped chunk that munmap_chunk or mremap_chunk works on."""
    for frame in event.frames:
        if frame.name in ("munmap_chunk", "mremap_chunk") and "p" in frame.variables:
            address = frame.variables["p"]
            try:
                words = target.abi.words(target.memory.read(address, target.abi.header))
            except MemoryFault:
                return None
            return ChunkHeader(address, words[0], words[1])
    return None


def _stream_name(event: Event) -> str | None:
    address = stream_of(event.frames)
    if address is None:
        return None
    names = {"stdin": "_IO_2_1_stdin_", "stdout": "_IO_2_1_stdout_", "stderr": "_IO_2_1_stderr_"}
    symbols = session.target().symbols
    for name, symbol in names.items():
        if symbols.address(symbol) == address:
            return name
    return f"the stream at {address:#x}"


def _pages(size: int) -> int:
    return -(-size // 0x1000) * 0x1000


class HeapEvent(gdb.Function):
    """The condition of the catchpoint: records the event and says whether to stop."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__("_heap_event")
        self._recorder = recorder

    def invoke(self, *arguments: gdb.Value) -> int:
        """Return 1 where GDB is to stop, else 0."""
        return 1 if self._recorder.observe() else 0


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
