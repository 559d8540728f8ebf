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
from gdbheap.debugger.stacks import StackCache
from gdbheap.debugger.syscalls import SyscallStop, read_stop, registers_for
from gdbheap.debugger.target import GdbMemory, Target, architecture_name
from gdbheap.growth.event import ChunkHeader, Event, Frame, FreeLists, Served
from gdbheap.growth.history import Final, History
from gdbheap.growth.reading import Reading
from gdbheap.growth.requester import malloc_call, requester, stream_of, user_frame
from gdbheap.memory import MemoryFault, PageCache
from gdbheap.ptmalloc.arena import Arena, decode_arena, read_arena, read_top_size
from gdbheap.ptmalloc.bins import free_summary, has_free_chunks
from gdbheap.ptmalloc.heaps import heap_containing, read_heaps
from gdbheap.ptmalloc.params import read_params
from gdbheap.ptmalloc.tcache import tcache_count
from gdbheap.simulate.arenas import leftover
from gdbheap.simulate.state import OlderHeap

SYSCALLS = ("brk", "mmap", "munmap", "mremap", "mprotect")
#: Free chunks that are visited at most while the program waits at an event.
_FREE_LIMIT = 512
#: Calls of malloc that are watched after the first growth, to show what it pays for.
_WATCHED_CALLS = 4
_MAP_FIXED = 0x10
_MREMAP_FIXED = 2


class Recorder:
    """Records the system calls of the processes under GDB from ``start`` to ``stop``; keeps them after that."""

    def __init__(self) -> None:
        self.history = History()
        self.number: int | None = None
        self._registers = registers_for("i386:x86-64")
        self._frames = FrameReader()
        self._stacks = StackCache(self._frames, GdbMemory())
        self._pending: dict[int, int] = {}  # by tid: the index of the event that has not returned
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

        Raises gdb.error where GDB cannot catch system calls here, and UnknownArchitecture where we cannot read them.
        """
        registers = registers_for(architecture_name())
        self.stop()
        gdb.execute(f"catch syscall {' '.join(syscalls)} exit_group", to_string=True)
        number = int(gdb.convenience_variable("bpnum") or 0)
        gdb.execute(f"condition {number} {registers.condition('$_heap_event')}", to_string=True)
        self.number = number
        self._registers = registers
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

    def observe(self, values: Sequence[int]) -> bool:
        """Record the system call that the selected thread is stopped at; return whether GDB should stop here.

        ``values`` are the registers that the catchpoint's condition names.
        """
        stop = read_stop(values, self._registers)
        if stop is None:
            return False
        tid = gdb.selected_thread().ptid[1]
        if stop.result is not None:
            index = self._pending.pop(tid, None)
            return index is not None and self._leave(index, stop.result)
        if stop.name == "exit_group":
            self._at_exit()
        else:
            self._enter(tid, stop)
        return False

    def _enter(self, tid: int, stop: SyscallStop) -> None:
        frames, more = self._stacks.read(stop.others)
        events = self.history.events
        process = gdb.selected_inferior().pid
        thread = gdb.selected_thread().num
        file = open_file(stop.args[4]) if stop.name == "mmap" else None
        event = Event(len(events) + 1, process, thread, tid, stop.name, stop.args, frames, file=file, more_frames=more)
        who = requester(event, self.history.of_process(process))
        if self._malloc_only and who.kind != "malloc":
            self._pending.pop(tid, None)
            return
        changes: dict[str, Any] = {"requester": who, "user": user_frame(frames)}
        if stop.name == "brk":
            changes["break_before"] = self._breaks.get(process)
        else:
            changes["mapped_before"] = _mapped_before(stop, who.kind)
        if who.kind == "malloc":
            self._read_allocator(event, stop.others[-1], changes)
        self._pending[tid] = len(events)
        events.append(replace(event, **changes))

    def _leave(self, index: int, result: int) -> bool:
        event = replace(self.history.events[index], result=result)
        self.history.events[index] = event
        if event.syscall == "brk":
            self._breaks[event.process] = result
        self._show(event)
        if self._watch is not None and self._watch.wanted(event):
            self._watch.follow(event)
        return self._stop_there

    def _read_allocator(self, event: Event, thread_pointer: int, changes: dict[str, Any]) -> None:
        """Add to ``changes`` what was asked of malloc, and the allocator's state as far as it can be read."""
        frames = event.frames
        call = changes["requested"] = malloc_call(frames)
        try:
            target = session.target()
            reading = read_allocator(target, call.arena, trimming=_is_trim(frames))
        except (TargetError, MemoryFault):
            return
        changes["reading"] = reading
        if event.syscall in ("munmap", "mremap"):
            changes["chunk"] = _chunk_header(target, event)
        elif call.nb is not None and reading.arena is not None:
            changes["free"] = _free_lists(target, reading, call.nb, thread_pointer)
        if event.syscall == "brk" and changes["break_before"] is None:
            changes["break_before"] = reading.curbrk or None
        stream = stream_of(frames)
        if stream is not None:
            changes["stream"] = _stream_name(target, stream)

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
        if address is not None:
            self._watch = _MallocWatch(address, target, self.history, self._frames)

    def _remove_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None and watch.is_valid():
            watch.delete()

    def _on_new_objfile(self, event: Any) -> None:
        self._stacks.forget()
        if self.active:
            self._place_watch()

    def _on_clear_objfiles(self, event: Any) -> None:
        self._stacks.forget()

    def _on_exited(self, event: Any) -> None:
        self._stacks.forget()
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
        return self._event is None and grown and event.reading is not None and event.reading.arena is not None

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
            request = int(gdb.parse_and_eval("(unsigned long) $rdi"))
            frames = tuple(self._frames.read().frames)
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


def read_allocator(target: Target, arena: int | None, *, trimming: bool = False) -> Reading:
    """Return the allocator's variables now, those of the arena at this address included (None: no arena takes part).

    ``trimming`` reads what heap_trim looks at as well: the ends of the arena's older heaps. Raises MemoryFault where
    any of it is unreadable.
    """
    memory, abi, layout = target.memory, target.abi, target.layout
    facts = target.process_facts
    params = memory.read(target.mp, layout.par.size)
    curbrk = target.word("__curbrk")
    if not arena:
        return Reading(facts, params, curbrk, others={"aligned_heap_area": target.word("aligned_heap_area")})
    data = memory.read(arena, layout.state.size)
    top_size = read_top_size(memory, abi, layout, arena, data)
    number = session.arena_number(target, arena)
    others: dict[str, Any] = {}
    if number:
        others = _heap_facts(target, decode_arena(abi, layout, arena, number, data, top_size), trimming)
    return Reading(facts, params, curbrk, arena, number, data, top_size, others)


def _heap_facts(target: Target, arena: Arena, trimming: bool) -> dict[str, Any]:
    memory, abi, layout = target.memory, target.abi, target.layout
    params = read_params(memory, abi, layout, target.mp)
    facts: dict[str, Any] = {"aligned_heap_area": target.word("aligned_heap_area")}
    if not trimming:
        facts["heap"] = heap_containing(memory, abi, layout, params, arena.top)
        return facts
    chain = read_heaps(memory, abi, layout, params, arena).heaps
    facts["heap"] = chain[0] if chain else None
    facts["older_heaps"] = tuple(OlderHeap(item, leftover(memory, abi, item)) for item in chain[1:])
    facts["may_shrink_heap"] = shrinks_heaps_with_mmap()
    return facts


def _is_trim(frames: Sequence[Frame]) -> bool:
    return any(frame.name == "heap_trim" for frame in frames[:8])


def _free_lists(target: Target, reading: Reading, nb: int, thread_pointer: int) -> FreeLists:
    abi, layout = target.abi, target.layout
    address = target.tcache_address(thread_pointer)
    count = None
    if address is not None and layout.tcache is not None:
        count = tcache_count(target.memory, abi, layout, address, nb)
    if reading.arena is None or not has_free_chunks(abi, layout, reading.address, reading.arena):
        return FreeLists(count, 0, 0, 0, True)
    arena = decode_arena(abi, layout, reading.address, reading.number, reading.arena, reading.top_size)
    summary = free_summary(PageCache(target.memory), abi, layout, arena, target.safe_linking, limit=_FREE_LIMIT)
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


def _stream_name(target: Target, address: int) -> str:
    for name in ("stdin", "stdout", "stderr"):
        if target.symbols.address(f"_IO_2_1_{name}_") == address:
            return name
    return f"the stream at {address:#x}"


def _mapped_before(stop: SyscallStop, kind: str) -> int | None:
    """Return how many bytes are mapped where the call maps over them or unmaps, None where the call itself tells."""
    args = stop.args
    if stop.name == "mmap" and args[3] & _MAP_FIXED or stop.name == "munmap" and kind != "malloc":
        return mapped_bytes(args[0], args[0] + _pages(args[1]))
    if stop.name == "mremap" and args[3] & _MREMAP_FIXED:
        return mapped_bytes(args[4], args[4] + _pages(args[2]))
    return None


def _pages(size: int) -> int:
    return -(-size // 0x1000) * 0x1000


class HeapEvent(gdb.Function):
    """The condition of the catchpoint: records the event and says whether to stop."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__("_heap_event")
        self._recorder = recorder

    def invoke(self, *arguments: gdb.Value) -> int:
        """Return 1 where GDB is to stop, else 0."""
        return 1 if self._recorder.observe([int(value) for value in arguments]) else 0


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
