"""Single chunks by address: for expressions, and for conditions that are evaluated again and again."""

from __future__ import annotations

from functools import cached_property

import gdb

from gdbheap.debugger import session, stops
from gdbheap.debugger.catch import RECORDER
from gdbheap.debugger.maps import mapped_ranges
from gdbheap.debugger.model import read_tcaches
from gdbheap.growth.starts import region_starts
from gdbheap.memory import MemoryFault
from gdbheap.ptmalloc.account import search_mmapped
from gdbheap.ptmalloc.chunk import Chunk
from gdbheap.ptmalloc.locate import ChunkStates, Locator, Place, find_mmapped_at
from gdbheap.ptmalloc.mmapped import MmappedChunks
from gdbheap.ptmalloc.state import read_heap_state


class Lookup:
    """The heap at one stop, asked about single addresses; what was read for one of them serves the next."""

    def __init__(self) -> None:
        self._target = session.target()
        target = self._target
        self._state = read_heap_state(target.memory, target.abi, target.layout, target.main_arena, target.mp)
        self._locator = Locator(target.memory, self._state, _known_starts())

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

    @cached_property
    def _mmapped(self) -> MmappedChunks:
        return search_mmapped(self._target.memory, self._state, mapped_ranges())

    @cached_property
    def _states(self) -> ChunkStates:
        target = self._target
        tcaches, _ = read_tcaches(target)
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


def _known_starts() -> tuple[int, ...]:
    """Return where regions of main_arena begin, as recorded events tell; worked out anew only when there are more."""
    global _starts
    process, recorded = gdb.selected_inferior().pid, RECORDER.history.recorded
    if _starts[:2] != (process, recorded):
        history = RECORDER.history
        _starts = (process, recorded, region_starts(history.of_process(process), history.caught))
    return _starts[2]
