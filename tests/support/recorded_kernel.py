"""The kernel's answers as the log of a real program tells them: where its mappings and the heaps of its arena were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from gdbheap.ptmalloc.abi import IS_MMAPPED, NON_MAIN_ARENA, PREV_INUSE, round_up
from gdbheap.simulate.calls import Call, Unpredictable
from gdbheap.simulate.kernel import MAP_FIXED
from gdbheap.simulate.machine import Machine
from gdbheap.simulate.sequence import TAKES_MEMORY, Entry


class Logged(Protocol):
    """What the log has of one operation."""

    @property
    def pointer(self) -> int: ...
    @property
    def size_word(self) -> int: ...
    @property
    def prev_size(self) -> int: ...


class _Mapping(NamedTuple):
    """A chunk with a mapping of its own: its bytes, and the operations between which it is there."""

    start: int
    end: int
    first: int
    last: int


class RecordedKernel:
    """A kernel that maps where the real one did; brk succeeds.

    ``mappings`` are the addresses of mappings that the operation under way makes or moves, in their order. ``heaps``
    knows where heaps of a thread's arena were, None where the program has no such arena.
    """

    def __init__(self, brk: int) -> None:
        self.brk = brk
        self.mappings: list[int] = []
        self.heaps: Heaps | None = None

    def copy(self) -> RecordedKernel:
        """Return a kernel that answers what this one would."""
        made = RecordedKernel(self.brk)
        made.mappings, made.heaps = list(self.mappings), self.heaps
        return made

    def answer(self, call: Call) -> int:
        """Return the kernel's answer."""
        if call.syscall == "brk":
            if call.args[0]:
                self.brk = call.args[0]
            return self.brk
        if call.path == "heap-reserve" and self.heaps is not None:
            # Most of what is reserved lies below the heap, so that the rest above it is the least that it can be.
            return self.heaps.next() - call.args[1] // 2 + 0x1000
        if call.syscall in ("mmap", "mremap") and not (call.syscall == "mmap" and call.args[3] & MAP_FIXED):
            if not self.mappings:
                raise Unpredictable(f"The record tells of no mapping here, but {call.syscall} is called.")
            return self.mappings.pop(0)
        return call.args[0] if call.syscall == "mmap" else 0


class Heaps:
    """Where the heaps of a thread's arena were, as far as the log tells.

    The next one that memory is returned from is the next to be made, unless that place is taken in between: then the
    one that is made now goes before any memory of it is returned, and where it is does not matter. ``place`` is the
    number of the operation under way.
    """

    def __init__(self, machine: Machine, entries: Sequence[Entry], results: Sequence[Logged]) -> None:
        self._machine = machine
        self._size = size = machine.heap_max_size
        self._mapped = list(_mappings(machine, entries, results))
        in_heaps = [(place, item.pointer) for place, item in enumerate(results) if in_heap(item)]
        self._coming = [(place, pointer - pointer % size) for place, pointer in reversed(in_heaps)]
        self.place = 0

    def next(self) -> int:
        """Return the address of the heap that is made now."""
        live = self._live()
        while self._coming and self._coming[-1][0] < self.place:
            self._coming.pop()
        found = next(((place, heap) for place, heap in reversed(self._coming) if heap not in live), None)
        if found is not None and not any(self._is_in_the_way(item, *found) for item in self._mapped):
            return found[1]
        spare = self._size  # no program has anything there
        while spare in live:
            spare += self._size
        return spare

    def _live(self) -> set[int]:
        machine = self._machine
        arena, live = machine.thread.arena, set()
        heap = machine.words[arena + machine.top_at] if arena and arena != machine.main_arena else 0
        heap -= heap % self._size
        while heap and heap not in live:
            live.add(heap)
            heap = machine.words[heap + machine.word_size]  # prev
        return live

    def _is_in_the_way(self, item: _Mapping, until: int, heap: int) -> bool:
        return item.first <= until and item.last >= self.place and item.start < heap + self._size and item.end > heap


def in_heap(item: Logged) -> bool:
    """Whether memory that was returned lies in the heap of an arena other than main_arena."""
    return bool(item.pointer) and item.size_word & (IS_MMAPPED | NON_MAIN_ARENA) == NON_MAIN_ARENA


def mapping_start(machine: Machine, item: Logged) -> int:
    """Return where the mapping of a chunk of its own begins."""
    offset = item.prev_size if machine.has_fastbins else item.prev_size & ~PREV_INUSE  # a flag from 2.43 on
    return item.pointer - machine.header - offset


def _mappings(machine: Machine, entries: Sequence[Entry], results: Sequence[Logged]) -> Iterator[_Mapping]:
    live: dict[int, _Mapping] = {}
    for place, (entry, item) in enumerate(zip(entries, results)):
        goes = entry.name in TAKES_MEMORY and (item.pointer or entry.name == "free" or 0 in entry.arguments[1:])
        gone = live.pop(entry.arguments[0], None) if goes else None
        if gone is not None:
            yield gone._replace(last=place)
        if item.pointer and item.size_word & IS_MMAPPED:
            end = (
                item.pointer - machine.header + (item.size_word & -8) + (0 if machine.has_fastbins else machine.header)
            )
            start = mapping_start(machine, item)
            live[entry.result] = _Mapping(start, round_up(end, machine.abi.page_size), place, len(results))
    yield from live.values()
