"""Calls, and parts of calls, that are tried on the simulated allocator: what glibc would print, and what it looked at.

Nothing that is tried changes anything: each trial has a layer of its own over the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Mapping
from dataclasses import dataclass

from gdbheap.memory import MemoryFault
from gdbheap.ptmalloc.checks import CHECKS, CRASH
from gdbheap.simulate.calls import Unpredictable
from gdbheap.simulate.int_malloc import int_malloc, sort_unsorted
from gdbheap.simulate.machine import Machine, Thread
from gdbheap.simulate.operations import Operation, run
from gdbheap.simulate.sorting import find_large_place
from gdbheap.simulate.trace import Abort, Freed

#: By how much a chunk is made larger, in bytes: more than malloc keeps behind any chunk that is no large one.
_MORE = 0x1000
#: Sizes in bytes above which a size word is no chunk's, so that a larger request is one that malloc refuses.
_LARGEST = 1 << 40


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: ``message`` is what glibc prints, CRASH, or None where it goes on or cannot be told.

    ``read`` are the addresses of the words that were looked at, ``freed`` is where a chunk went, ``calls`` which of
    several calls it was that ended like that, from 1 on.
    """

    message: str | None
    read: Container[int]
    freed: Freed | None = None
    calls: int = 1


class Trials:
    """Tries calls of one thread, as the ``machine`` is; each is tried once.

    ``arenas`` are the arenas that threads use, by the addresses of their tcaches.
    """

    def __init__(self, machine: Machine, arenas: Mapping[int, int]) -> None:
        self._machine = machine
        self._arenas = arenas
        self._bare = machine.above()
        self._bare.has_tcache = False
        self._kept: dict[Hashable, Outcome] = {}

    @property
    def lacks_the_limit_of_fastbins(self) -> bool:
        """Whether what free of a small chunk does may depend on a global_max_fast that is not known."""
        return self._machine.has_fastbins and self._machine.variables.max_fast is None

    def free(self, pointer: int, cached: bool) -> Outcome:
        """Try free(``pointer``), with the thread's tcache or (not ``cached``) as if there were none."""
        return self._once(
            ("free", pointer, cached),
            lambda machine: run(machine, Operation("free", (pointer,))),
            self._machine if cached else self._bare,
            steps=True,  # where a chunk goes is kept only then
        )

    def realloc(self, pointer: int, more: bool) -> Outcome:
        """Try realloc of ``pointer``, to more than it has or to next to nothing."""
        request = 1
        if more:
            try:
                word = self._machine.words[pointer - self._machine.word_size]
            except MemoryFault:
                word = 0
            if word < _LARGEST:
                request = (word & -8) + _MORE
        operation = Operation("realloc", (pointer, request))
        return self._once(("realloc", pointer, more), lambda machine: run(machine, operation), self._machine)

    def sorting(self, arena: int) -> Outcome:
        """Try what a request does that goes through the unsorted list of an arena to its end."""
        return self._once(("sorting", arena), lambda machine: sort_unsorted(machine, arena), self._without(arena))

    def placing(self, arena: int, size: int) -> Outcome:
        """Try to sort a chunk of ``size`` bytes into its large bin."""
        return self._once(
            ("placing", arena, size), lambda machine: find_large_place(machine, arena, size), self._without(arena)
        )

    def unlinking(self, chunk: int) -> Outcome:
        """Try to take a free chunk off its list."""
        return self._once(("unlinking", chunk), lambda machine: machine.unlink("unlink_chunk", chunk), self._without(0))

    def from_arena(self, arena: int, request: int, times: int) -> Outcome:
        """Try up to ``times`` requests of the same size from an arena, as if there were no tcache."""
        return self._series(
            ("arena", arena, request), self._without(arena), times, lambda machine: int_malloc(machine, arena, request)
        )

    def from_tcache(self, tcache: int, request: int, times: int) -> Outcome:
        """Try up to ``times`` requests of the same size in the thread that has a tcache."""
        own = self._machine.thread
        thread = own if own.tcache == tcache else Thread(None, tcache, self._arenas.get(tcache))
        machine = self._machine.on(self._machine.words.above(), thread)
        operation = Operation("malloc", (request,))
        return self._series(("tcache", tcache, request), machine, times, lambda machine: run(machine, operation))

    def _without(self, arena: int) -> Machine:
        """Return a machine whose thread has no tcache, and works on an arena."""
        return self._machine.on(self._machine.words.above(), Thread(None, -1, arena))

    def _once(
        self, key: Hashable, tried: Callable[[Machine], object], base: Machine, *, steps: bool = False
    ) -> Outcome:
        if key not in self._kept:
            machine = base.above()
            machine.steps = [] if steps else None
            self._kept[key] = self._ended(tried, machine)
        return self._kept[key]

    def _series(self, key: Hashable, machine: Machine, times: int, tried: Callable[[Machine], object]) -> Outcome:
        if key in self._kept:
            return self._kept[key]
        read: set[int] = set()
        outcome = Outcome(None, read)
        for calls in range(1, times + 1):
            machine = machine.above()
            ended = self._ended(tried, machine)
            read.update(machine.words)
            if ended.message is not None or not ended.calls:
                outcome = Outcome(ended.message, read, None, calls)
                break
        self._kept[key] = outcome
        return outcome

    def _ended(self, tried: Callable[[Machine], object], machine: Machine) -> Outcome:
        """Try something on a machine; a trial that cannot be followed to its end counts as no call."""
        try:
            tried(machine)
        except Abort as abort:
            message = abort.message
            if message not in CHECKS:
                message = "assertion in sysmalloc" if message == "an assertion fails" else message
            return Outcome(message if message in CHECKS else None, machine.words, machine.freed)
        except MemoryFault:
            return Outcome(None if machine.glibc.partial else CRASH, machine.words, machine.freed)
        except Unpredictable:
            return Outcome(None, machine.words, None, 0)
        return Outcome(None, machine.words, machine.freed)
