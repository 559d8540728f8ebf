"""Catchpoints on the system calls that move memory, and the record of what they saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gdb

from gdbheap.debugger import session
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.frames import FrameReader
from gdbheap.debugger.processes import local_pid, mapped_bytes, open_file
from gdbheap.debugger.stacks import StackCache
from gdbheap.debugger.syscalls import MREMAP_FIXED, SyscallEntry, SyscallReader, register, registers_for
from gdbheap.debugger.target import GdbMemory, Target, architecture_name
from gdbheap.growth.event import ChunkHeader, Event, FreeLists, Served
from gdbheap.growth.history import Final, History
from gdbheap.growth.reading import Reading
from gdbheap.growth.requester import malloc_call, requester, stream_of, user_frame
from gdbheap.memory import MemoryFault, PageCache, read_both
from gdbheap.ptmalloc.abi import FLAG_BITS, IS_MMAPPED, PREV_INUSE
from gdbheap.ptmalloc.arena import Arena, decode_arena, read_arena, read_top_size
from gdbheap.ptmalloc.bins import free_summary, has_free_chunks
from gdbheap.ptmalloc.heaps import read_heaps
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


class Recorder:
    """Records the system calls of the processes under GDB from ``start`` to ``stop``; keeps them after that."""

    def __init__(self) -> None:
        self.history = History()
        self.number: int | None = None
        self._readers: dict[int, SyscallReader] = {}  # by process
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
        gdb.execute(f"condition {number} $_heap_event(${registers.result})", to_string=True)
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

    def observe(self, value: int) -> bool:
        """Record the system call that the selected thread is stopped at; return whether GDB should stop here.

        ``value`` is that of the register that holds a call's result.
        """
        tid = gdb.selected_thread().ptid[1]
        process = gdb.selected_inferior().pid
        reader = self._readers.get(process)
        if reader is None:
            reader = self._readers[process] = SyscallReader(registers_for(architecture_name()), local_pid())
        result = reader.result(value)
        if result is not None:
            # Calls of one thread do not nest, so this is the return of the one that it entered last.
            index = self._pending.pop(tid, None)
            return index is not None and self._leave(index, result)
        entry = reader.entry(tid)
        if entry is not None and entry.name == "exit_group":
            self._at_exit()
        elif entry is not None:
            self._enter(process, tid, entry)
        return False

    def _enter(self, process: int, tid: int, entry: SyscallEntry) -> None:
        frames, more = self._stacks.read(entry.pc, entry.sp)
        events = self.history.events
        thread = gdb.selected_thread().num
        name, args = entry.name, entry.args
        file = open_file(args[4]) if name == "mmap" else None
        event = Event(len(events) + 1, process, thread, tid, name, args, frames, file=file, more_frames=more)
        who = requester(event, events)
        if self._malloc_only and who.kind != "malloc":
            self._pending.pop(tid, None)
            return
        changes: dict[str, Any] = {"requester": who, "user": user_frame(frames)}
        if name == "brk":
            changes["break_before"] = self._breaks.get(process)
        else:
            changes["mapped_before"] = _mapped_before(entry, who.kind)
        if who.kind == "malloc":
            self._read_allocator(event, changes)
        self._pending[tid] = len(events)
        events.append(event._replace(**changes))

    def _leave(self, index: int, result: int) -> bool:
        event = self.history.events[index]._replace(result=result)
        self.history.events[index] = event
        if event.syscall == "brk":
            self._breaks[event.process] = result
        self._show(event)
        if self._watch is not None and self._watch.wanted(event):
            self._watch.follow(event)
        return self._stop_there

    def _read_allocator(self, event: Event, changes: dict[str, Any]) -> None:
        """Add to ``changes`` what was asked of malloc, and the allocator's state as far as it can be read."""
        frames = event.frames
        call = changes["requested"] = malloc_call(frames)
        try:
            target = session.target()
            reading = read_allocator(target, call.arena)
        except (TargetError, MemoryFault):
            return
        changes["reading"] = reading
        if call.nb is None and call.request is not None:  # sysmalloc itself is not among the callers
            call = changes["requested"] = call._replace(nb=target.abi.request_to_chunk(call.request))
        if event.syscall in ("munmap", "mremap"):
            changes["chunk"] = _chunk_header(target, event)
        elif call.nb is not None and reading.arena is not None:
            changes["free"] = _free_lists(target, reading, call.nb)
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

    def _forget_process(self) -> None:
        self._stacks.forget()
        while self._readers:
            self._readers.popitem()[1].close()

    def _on_new_objfile(self, event: Any) -> None:
        self._forget_process()
        if self.active:
            self._place_watch()

    def _on_clear_objfiles(self, event: Any) -> None:
        self._forget_process()

    def _on_exited(self, event: Any) -> None:
        self._forget_process()
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
            served[-1] = served[-1]._replace(top_after=arena.top, left=arena.top_size)

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
            request = register("rdi") & 0xFFFFFFFFFFFFFFFF
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


def read_allocator(target: Target, arena: int | None) -> Reading:
    """Return the allocator's variables now, those of the arena at this address included (None: no arena takes part).

    Raises MemoryFault where any of it is unreadable.
    """
    memory, abi, layout = target.memory, target.abi, target.layout
    facts = target.process_facts
    curbrk = target.word("__curbrk")
    if not arena:
        params = memory.read(target.mp, layout.par.size)
        return Reading(facts, params, curbrk, others={"aligned_heap_area": target.word("aligned_heap_area")})
    params, data = read_both(memory, (target.mp, layout.par.size), (arena, layout.state.size))
    top_size = read_top_size(memory, abi, layout, arena, data)
    number = session.arena_number(target, arena)
    others: dict[str, Any] = {}
    if number:
        others = _heap_facts(target, decode_arena(abi, layout, arena, number, data, top_size))
    return Reading(facts, params, curbrk, arena, number, data, top_size, others)


def _heap_facts(target: Target, arena: Arena) -> dict[str, Any]:
    """Return what new_heap, grow_heap and heap_trim look at besides, as fields of GrowthState."""
    memory, abi, layout = target.memory, target.abi, target.layout
    chain = read_heaps(memory, abi, layout, read_params(memory, abi, layout, target.mp), arena)
    older = None
    if chain.problem is None:
        older = tuple(OlderHeap(item, leftover(memory, abi, item)) for item in chain.heaps[1:])
    return {
        "aligned_heap_area": target.word("aligned_heap_area"),
        "heap": chain.heaps[0] if chain.heaps else None,
        "older_heaps": older,
        "may_shrink_heap": target.may_shrink_heap,
    }


def _free_lists(target: Target, reading: Reading, nb: int) -> FreeLists:
    abi, layout = target.abi, target.layout
    address = target.tcache_address(gdb.selected_thread())
    count = None
    if address is not None and layout.tcache is not None:
        count = tcache_count(target.memory, abi, layout, address, nb)
    if reading.arena is None or not has_free_chunks(abi, layout, reading.address, reading.arena):
        return FreeLists(count, 0, 0, 0, True)
    arena = decode_arena(abi, layout, reading.address, reading.number, reading.arena, reading.top_size)
    summary = free_summary(PageCache(target.memory), abi, layout, arena, target.safe_linking, limit=_FREE_LIMIT)
    return FreeLists(count, summary.chunks, summary.total, summary.largest, summary.complete)


def _chunk_header(target: Target, event: Event) -> ChunkHeader | None:
    """Return the header of the mmapped chunk whose mapping is given back or resized.

    The chunk is at the start of the mapping, or behind it where memalign moved it; there the pointer that free or
    realloc was called with tells.
    """
    pointers = [frame.variables.get("mem", frame.variables.get("oldmem")) for frame in event.frames]
    given = next((pointer for pointer in pointers if pointer), None)
    start, length = event.args[0], event.args[1]
    address = start if given is None else given - target.abi.header
    try:
        prev_size, size_word = target.abi.words(target.memory.read(address, target.abi.header))
    except MemoryFault:
        return None
    # Up to 2.42 size and prev_size make up the mapping; from 2.43 on without the header, and bit 0 is a flag.
    covered = (prev_size & ~PREV_INUSE) + (size_word & ~FLAG_BITS)
    sound = size_word & IS_MMAPPED and covered in (length, length - target.abi.header)
    return ChunkHeader(address, prev_size, size_word) if sound else None


def _stream_name(target: Target, address: int) -> str:
    for name in ("stdin", "stdout", "stderr"):
        if target.symbols.address(f"_IO_2_1_{name}_") == address:
            return name
    return f"the stream at {address:#x}"


def _mapped_before(entry: SyscallEntry, kind: str) -> int | None:
    """Return how many bytes are mapped where the call maps over them or unmaps, None where the call itself tells."""
    args = entry.args
    if (entry.name == "mmap" and args[3] & _MAP_FIXED) or (entry.name == "munmap" and kind != "malloc"):
        return mapped_bytes(args[0], args[0] + _pages(args[1]))
    if entry.name == "mremap" and args[3] & MREMAP_FIXED:
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
