"""Single chunks by address: for expressions, and for conditions that are evaluated again and again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import gdb

from gdbheap.debugger import session, stops
from gdbheap.debugger.catch import RECORDER
from gdbheap.debugger.maps import mapped_ranges
from gdbheap.debugger.model import known_starts, read_tcaches
from gdbheap.growth.starts import region_starts
from gdbheap.memory import MemoryFault
from gdbheap.ptmalloc.account import search_mmapped
from gdbheap.ptmalloc.chunk import Chunk
from gdbheap.ptmalloc.lists import tcache_bin_total
from gdbheap.ptmalloc.locate import ChunkStates, Locator, Place, find_mmapped_at
from gdbheap.ptmalloc.mmapped import MmappedChunks
from gdbheap.ptmalloc.state import read_heap_state
from gdbheap.ptmalloc.tcache import Tcache, tcache_index

#: How often the heap of a process whose threads run is looked at, at most.
_LOOKS = 5


#: The state of a chunk that is not known, as the functions call it.
UNKNOWN = "unknown"


class Located(NamedTuple):
    """A chunk that an address is in: where it begins and its ``size``, in bytes.

    ``arena`` is the number of its arena, None for a chunk with a mapping of its own. ``state`` is empty where it was
    not asked for.
    """

    address: int
    size: int
    arena: int | None
    state: str


class Lookup:
    """The heap at one stop, asked about single addresses; what was read for one of them serves the next."""

    def __init__(self) -> None:
        self._target = session.target()
        target = self._target
        self._state = read_heap_state(target.memory, target.abi, target.layout, target.main_arena, target.mp)
        self._locator = Locator(target.memory, self._state, self._starts())

    def _starts(self) -> tuple[int, ...]:
        """Return where regions of main_arena begin besides sbrk_base."""
        return _known_starts() if self._state.ring.arenas[0].contiguous else known_starts()

    def place(self, address: int) -> Place | None:
        """Return where ``address`` is, None where it is in no known chunk."""
        try:
            found = self._locator.find(address)
        except MemoryFault:  # of the top chunk's size
            return None
        return find_mmapped_at(self._mmapped, address) if found is None else found

    def chunk(self, place: Place) -> Chunk:
        """Return the chunk that is there, with its state."""
        return self._states.chunk(place)

    def located(self, address: int, with_state: bool) -> Located | None:
        """Return what there is to say of the chunk that holds ``address``, None where no known chunk does."""
        place = self.place(address)
        if place is None:
            return None
        number = None if place.arena is None else place.arena.number
        return Located(place.address, place.size, number, self._state_of(place) if with_state else "")

    def _state_of(self, place: Place) -> str:
        """Return the state of the chunk there: "unknown" where it may be in a tcache that cannot be read."""
        state = self.chunk(place).state
        abi, layout = self._target.abi, self._target.layout
        if state != "used" or not self.problems or layout.tcache is None:
            return state
        index = tcache_index(abi, layout, place.size)
        return state if index is None or index >= tcache_bin_total(abi, layout, self._state.params) else UNKNOWN

    @property
    def problems(self) -> Sequence[str]:
        """A sentence for each thread whose tcache is not known: chunks in it pass for used."""
        return self._tcaches[1]

    @cached_property
    def _tcaches(self) -> tuple[dict[int, Tcache], list[str]]:
        return read_tcaches(self._target)

    @cached_property
    def _mmapped(self) -> MmappedChunks:
        return search_mmapped(self._target.memory, self._state, mapped_ranges())

    @cached_property
    def _states(self) -> ChunkStates:
        target = self._target
        tcaches, _ = self._tcaches
        return ChunkStates(target.memory, self._state, tuple(tcaches.values()), target.safe_linking)


_last: tuple[tuple[object, ...], Lookup] | None = None
_starts: tuple[int, int, tuple[int, ...]] = (0, 0, ())  # process, recorded events, what they tell


def lookup() -> Lookup:
    """Return the heap of the selected process as it is now, which is what it was at the last call if nothing has run.

    Raises TargetError where the process has no heap that can be read.
    """
    global _last
    moment = stops.moment()
    if _last is not None and moment is not None and _last[0] == moment:
        return _last[1]
    made = Lookup()
    _last = None if moment is None else (moment, made)
    return made


def find(address: int, *, with_state: bool = False) -> Located | None:
    """Return the chunk that holds ``address``, None where no known chunk does.

    Where other threads run meanwhile the heap may change under our eyes: then two looks, one after the other, must
    agree, or the chunk is not known. Raises TargetError where the process has no heap that can be read.
    """
    if not stops.others_run():
        return lookup().located(address, with_state)
    before: list[Located | None] = []
    for _ in range(_LOOKS):
        try:
            found = Lookup().located(address, with_state)
        except MemoryFault:
            continue  # what a list led to is gone
        if before == [found]:
            return found
        before = [found]
    return None


def _known_starts() -> tuple[int, ...]:
    """Return where regions of main_arena begin, as recorded events tell; worked out anew only when there are more."""
    global _starts
    process, recorded = gdb.selected_inferior().pid, RECORDER.history.recorded
    if _starts[:2] != (process, recorded):
        history = RECORDER.history
        _starts = (process, recorded, region_starts(history.of_process(process), history.caught))
    return _starts[2]
