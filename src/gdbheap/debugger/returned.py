"""The chunk that malloc returns after a system call, where nothing else tells which chunk that call was for."""

from __future__ import annotations

from collections.abc import Callable

import gdb

from gdbheap.debugger import session
from gdbheap.debugger.errors import TargetError
from gdbheap.debugger.syscalls import register
from gdbheap.debugger.target import Target
from gdbheap.growth.event import Event
from gdbheap.growth.history import History
from gdbheap.growth.nameless import RETURNING, asks_for_memory, is_nameless, public_name
from gdbheap.growth.names import ENTRIES, INTERNAL, WRAPPERS, function_of
from gdbheap.growth.predict import predictions
from gdbheap.memory import MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, IS_MMAPPED

#: Places that malloc returns to for which a breakpoint is kept: a program calls it from few places in a row.
_MOST_PLACES = 64


class _Waiting:
    """What a thread's call of malloc has caused so far: its events, and the stack pointer inside it."""

    def __init__(self, sp: int) -> None:
        self.sp = sp
        self.events: list[int] = []


class _Place(gdb.Breakpoint):
    """An internal breakpoint where malloc returns to; off unless a call is under way that will come by."""

    def __init__(self, address: int, returned: Callable[[list[int]], None]) -> None:
        super().__init__(f"*{address:#x}", internal=True)
        self._returned = returned
        self.waiting: dict[int, _Waiting] = {}  # by the kernel's number of the thread

    def stop(self) -> bool:
        """Look at what was returned; never stop GDB."""
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
            place = self._places[address] = _Place(address, self._returned)
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
            for nb, address, function, whose in _candidates(
                target, register("rax" if target.abi.word_size == 8 else "eax")
            ):
                completed = [_with_chunk(event, nb, function, whose) for event in events]
                found = predictions(completed, history.caught)
                last = found.get(completed[-1].id)
                made = last.outcome if last is not None else None
                if all(item.exact for item in found.values()) and made is not None and made.chunk == address:
                    for event in completed:
                        history.replace(event)
                    return
        except (TargetError, MemoryFault, gdb.error):
            return


#: Bytes of stack that functions inside one call of malloc may use.
_SAME_CALL = 1 << 12


def _return_address(event: Event) -> int | None:
    """Return where the call of malloc that made a nameless event returns to, None where no chunk comes of it."""
    if not is_nameless(event.frames) or not asks_for_memory(event) or event.reading is None:
        return None
    requested = event.requested
    if requested is None or requested.nb is not None:
        return None
    if requested.calls:
        caller = requested.calls[-1].caller
        return caller.pc if caller is not None and public_name(event) in RETURNING else None
    # From glibc 2.42 on the public function's own frame may be gone: then its caller may be the first with a name.
    inside = (*ENTRIES, *WRAPPERS, *INTERNAL)
    return next((frame.pc for frame in event.frames if frame.function and function_of(frame) not in inside), None)


def _candidates(target: Target, pointer: int) -> list[tuple[int, int, str | None, str]]:
    """Return the chunks that the kernel may have been asked for: (size, address, function, whose it is)."""
    abi = target.abi
    found: list[tuple[int, int, str | None, str]] = []
    tcache = target.tcache_address(gdb.selected_thread())
    for user, function, whose in (
        (pointer & ((1 << 8 * abi.word_size) - 1), None, "the chunk that malloc returned"),
        (tcache, "tcache_init", "the thread's tcache, which malloc made first"),
    ):
        if not user:
            continue
        try:
            size_word = abi.read_word(target.memory, user - abi.word_size)
        except MemoryFault:
            continue
        if not size_word & IS_MMAPPED:  # the size of a mapping is in pages
            found.append((size_word & ~FLAG_BITS, user - abi.header, function, whose))
    return found


def _with_chunk(event: Event, nb: int, function: str | None, whose: str) -> Event:
    assert event.requested is not None
    asked = function or event.requested.function
    return event._replace(requested=event.requested._replace(nb=nb, function=asked, nb_from=whose))
