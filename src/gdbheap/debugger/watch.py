"""What a growth pays for: the few calls of malloc that follow the first one."""

from __future__ import annotations

from collections.abc import Callable

import gdb

from gdbheap.debugger.allocating import read_machine
from gdbheap.debugger.frames import FrameReader
from gdbheap.debugger.language import as_c
from gdbheap.debugger.syscalls import register
from gdbheap.debugger.target import Target
from gdbheap.debugger.unattended import unattended
from gdbheap.growth.decision import user_frame
from gdbheap.growth.event import Event, Served
from gdbheap.growth.history import History
from gdbheap.memory import MemoryFault
from gdbheap.ptmalloc.abi import RequestTooLarge
from gdbheap.ptmalloc.arena import Arena, read_arena
from gdbheap.simulate.operations import Operation, predict

#: Calls of malloc that are watched after the first growth.
_WATCHED_CALLS = 4


class MallocWatch(gdb.Breakpoint):
    """An internal breakpoint on malloc that is off but for the few calls that follow the first growth.

    It shows what a growth pays for: requests that top serves without a system call.
    """

    def __init__(self, address: int, target: Target, history: Callable[[], History], frames: FrameReader) -> None:
        with as_c():
            super().__init__(f"*{address:#x}", internal=True)
        self.enabled = False
        self.process = gdb.selected_inferior().pid
        self._target = target
        self._history = history
        self._frames = frames
        self._event: Event | None = None
        self._left = 0
        self._under_way = False  # a call was seen, and not yet what came of it

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
        if not self._under_way:
            return
        self._under_way = False
        served = self._history().served
        arena = self._arena()
        if arena is not None:
            served[-1] = served[-1]._replace(top_after=arena.top, left=arena.top_size)

    def not_served(self) -> None:
        """Forget the last call that was seen, if it is still under way: it needs a system call after all."""
        if self._under_way:
            self._under_way = False
            self._history().served.pop()
            self.enabled = False

    def _arena(self) -> Arena | None:
        target = self._target
        try:
            return read_arena(target.memory, target.abi, target.layout, target.main_arena, 0)
        except MemoryFault:
            return None

    def _request(self) -> int:
        """Return malloc's argument: on x86-64 it is in a register, on 32-bit x86 behind the return address."""
        target = self._target
        if target.abi.word_size == 8:
            return register("rdi") & 0xFFFFFFFFFFFFFFFF
        return target.abi.read_word(target.memory, (register("esp") & 0xFFFFFFFF) + target.abi.word_size)

    def _chunk_size(self, request: int) -> int | None:
        try:
            return self._target.abi.request_to_chunk(request)
        except RequestTooLarge:
            return None

    def stop(self) -> bool:
        """Record one call of malloc; never stop GDB."""
        with unattended(self._history):
            self._look_at_call()
        return False

    def _look_at_call(self) -> None:
        if gdb.selected_inferior().pid != self.process:
            return  # a child has the breakpoint's instruction, too, if it was forked meanwhile
        self.look()
        event, arena = self._event, self._arena()
        grew = event is not None and self._history().grown_since(event)
        self._left -= 1
        if event is None or arena is None or grew or self._left < 0:
            self.enabled = False
            return
        if gdb.selected_thread().num == event.thread:
            request = self._request()
            frames = tuple(self._frames.read().frames)
            served = Served(
                event=event.id,
                thread=event.thread,
                request=request,
                chunk_size=self._chunk_size(request),
                caller=frames[1] if len(frames) > 1 else None,
                user=user_frame(frames),
                top_before=arena.top,
                source=_source(request),
            )
            self._history().served.append(served)
            self._under_way = True


def _source(request: int) -> str:
    """Return where malloc would take memory for ``request`` from now, empty where nothing or a doubt is left."""
    found = predict(read_machine(gdb.selected_thread()), Operation("malloc", (request,)))
    return found.source
