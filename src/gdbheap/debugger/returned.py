"""The chunk that malloc returns after a system call, where nothing else tells which chunk that call was for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gdb

from gdbheap.debugger import session
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.language import as_c
from gdbheap.debugger.syscalls import register
from gdbheap.debugger.target import Target
from gdbheap.debugger.unattended import unattended
from gdbheap.growth.event import Event
from gdbheap.growth.history import History
from gdbheap.growth.nameless import RETURNING, asks_for_memory, gives_back, is_nameless, public_name
from gdbheap.growth.names import ENTRIES, INTERNAL, WRAPPERS, function_of
from gdbheap.growth.predict import predictions
from gdbheap.memory import MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, IS_MMAPPED
from gdbheap.ptmalloc.tcache import count_in

#: Places that malloc returns to for which a breakpoint is kept: a program calls it from few places in a row.
_MOST_PLACES = 64


class _Waiting:
    """What a thread's call of malloc has caused so far: its events, and the stack pointer inside it."""

    def __init__(self, sp: int) -> None:
        self.sp = sp
        self.events: list[int] = []


class _Place(gdb.Breakpoint):
    """An internal breakpoint where malloc returns to; off unless a call is under way that will come by."""

    def __init__(self, address: int, history: Callable[[], History], returned: Callable[[list[int]], None]) -> None:
        with as_c():
            super().__init__(f"*{address:#x}", internal=True)
        self._history = history
        self._returned = returned
        self.waiting: dict[int, _Waiting] = {}  # by the kernel's number of the thread

    def stop(self) -> bool:
        """Look at what was returned; never stop GDB."""
        with unattended(self._history):
            tid = gdb.selected_thread().ptid[1]
            waiting = self.waiting.get(tid)
            if waiting is not None and register("sp") > waiting.sp:
                del self.waiting[tid]
                self._returned(waiting.events)
            if not self.waiting:
                self.enabled = False
        return False


class ReturnWatch:
    """Waits for malloc to return where an event's request is not known from its callers, and then completes it."""

    def __init__(self, history: Callable[[], History]) -> None:
        self._history = history
        self._places: dict[int, _Place] = {}

    def expect(self, event: Event, sp: int) -> None:
        """Complete ``event`` once the call of malloc that made it returns; its thread's stack pointer is ``sp``."""
        address = _return_address(event)
        # GDB puts a breakpoint at an address into all the processes that it has.
        if address is None or sum(inferior.pid != 0 for inferior in gdb.inferiors()) > 1:
            return
        place = self._places.get(address)
        if place is None:
            if len(self._places) >= _MOST_PLACES:
                return
            place = self._places[address] = _Place(address, self._history, self._returned)
        waiting = place.waiting.get(event.tid)
        if waiting is None or abs(waiting.sp - sp) > _SAME_CALL:
            waiting = place.waiting[event.tid] = _Waiting(sp)
        waiting.events.append(event.id)
        place.enabled = True

    def pause(self) -> None:
        """Wait no longer: the process forks, and its child would have the breakpoints too."""
        for place in self._places.values():
            if place.is_valid():
                place.waiting.clear()
                place.enabled = False

    def end(self) -> None:
        """Let go of the breakpoints."""
        for place in self._places.values():
            if place.is_valid():
                place.delete()
        self._places.clear()

    def _returned(self, numbers: list[int]) -> None:
        history = self._history()
        events = [event for event in map(history.find, numbers) if event is not None]
        if not events:
            return
        try:
            target = session.target()
            returned, tcache = _candidates(target, register("rax" if target.abi.word_size == 8 else "eax"))
            for event in _completed(events, target, returned, tcache, history):
                history.replace(event)
        except (TargetError, MemoryFault, gdb.error):
            return


class _Candidate(NamedTuple):
    """A chunk that the kernel may have been asked for; ``function`` is the one inside malloc whose request it was."""

    nb: int
    address: int
    function: str | None
    whose: str


def _completed(
    events: list[Event], target: Target, returned: _Candidate | None, tcache: _Candidate | None, history: History
) -> list[Event]:
    """Return the events of one call of malloc that can be completed, with what they were for.

    The thread's tcache may have been made first: then some of the first are for that one, and the others for the
    chunk that was returned. What is taken to be for a chunk must have led to it, at its address.
    """
    best: list[Event] = []
    for count in range(len(events) + 1 if tcache is not None else 1):
        first = [] if tcache is None else [_with_chunk(event, target, tcache) for event in events[:count]]
        if tcache is not None and first and not _lead_to(first, tcache, history):
            continue
        rest = [] if returned is None else [_with_chunk(event, target, returned) for event in events[count:]]
        if returned is not None and rest and _lead_to(rest, returned, history):
            return first + rest
        best = first or best
    return best


def _lead_to(events: list[Event], chunk: _Candidate, history: History) -> bool:
    """Return whether all these calls, and no further one, are made for a chunk that then is where this one is."""
    found = predictions(events, history.caught)
    last = found.get(events[-1].id)
    made = last.outcome if last is not None else None
    return all(item.exact for item in found.values()) and made is not None and made.chunk == chunk.address


#: Bytes of stack that functions inside one call of malloc may use.
_SAME_CALL = 1 << 12


def _return_address(event: Event) -> int | None:
    """Return where the call of malloc that made a nameless event returns to, None where no chunk comes of it."""
    requested = event.requested
    if not is_nameless(event.frames) or event.reading is None or requested is None or requested.nb is not None:
        return None
    if gives_back(public_name(event)) or (not requested.calls and not asks_for_memory(event)):
        return None
    if requested.calls:
        caller = requested.calls[-1].caller
        return caller.pc if caller is not None and public_name(event) in RETURNING else None
    # From glibc 2.42 on the public function's own frame may be gone: then its caller may be the first with a name.
    inside = (*ENTRIES, *WRAPPERS, *INTERNAL)
    return next((frame.pc for frame in event.frames if frame.function and function_of(frame) not in inside), None)


def _candidates(target: Target, pointer: int) -> tuple[_Candidate | None, _Candidate | None]:
    """Return the chunk at what malloc returned and the one of the thread's tcache; None where that tells nothing."""
    user = pointer & ((1 << 8 * target.abi.word_size) - 1)
    tcache = target.tcache_address(gdb.selected_thread()) or 0
    return (
        _candidate(target, user, None, "the chunk that malloc returned"),
        _candidate(target, tcache, "tcache_init", "the thread's tcache, which malloc made first"),
    )


def _candidate(target: Target, user: int, function: str | None, whose: str) -> _Candidate | None:
    abi = target.abi
    if not user:
        return None
    try:
        size_word = abi.read_word(target.memory, user - abi.word_size)
    except MemoryFault:
        return None
    if size_word & IS_MMAPPED:  # the size of a mapping is in pages
        return None
    return _Candidate(size_word & ~FLAG_BITS, user - abi.header, function, whose)


def _with_chunk(event: Event, target: Target, chunk: _Candidate) -> Event:
    assert event.requested is not None
    abi, tcache = target.abi, target.layout.tcache
    changes: dict[str, Any] = {
        "nb": chunk.nb,
        "function": chunk.function or event.requested.function,
        "nb_from": chunk.whose,
    }
    if chunk.function and tcache is not None and abi.request_to_chunk(tcache.size) == chunk.nb:
        changes["request"] = tcache.size
    free = event.free
    # What malloc makes first was not there before.
    data = b"" if chunk.function else None if free is None else free.tcache
    if free is not None and data is not None:
        free = free._replace(tcache_count=count_in(abi, target.layout, data, chunk.nb), tcache=None)
    return event._replace(requested=event.requested._replace(**changes), free=free)
