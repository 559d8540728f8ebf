"""The heap for Python scripts inside GDB: ``gdbheap.heap()`` and what it returns. See docs/python.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import gdb

from gdbheap.debugger import stops
from gdbheap.debugger.busy import read_busy
from gdbheap.debugger.catch import RECORDER
from gdbheap.debugger.chunk_walk import ChunkWalk
from gdbheap.debugger.errors import TargetError, Told
from gdbheap.debugger.lookup import Lookup
from gdbheap.debugger.model import read_account, read_state, read_tcaches
from gdbheap.debugger.session import target
from gdbheap.growth.event import Event
from gdbheap.ptmalloc.account import Account
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.chunk import STATES, Chunk
from gdbheap.ptmalloc.params import Params
from gdbheap.ptmalloc.rows import Wanted
from gdbheap.ptmalloc.state import HeapState
from gdbheap.ptmalloc.tcache import Tcache
from gdbheap.ptmalloc.unsettled import Unsettled


@dataclass(frozen=True)
class Found:
    """The ``chunk`` that holds an address, and the ``arena`` that it is of: None for one with a mapping of its own."""

    chunk: Chunk
    arena: Arena | None


class Heap:
    """The heap of the process that was selected when this was made, at that stop.

    Everything is read when it is first asked for. Once the program has gone on, or its memory was changed, nothing
    more is answered: each method and property raises gdb.GdbError then, as it does where the heap cannot be read.
    Addresses are integers, and sizes are in bytes.
    """

    def __init__(self) -> None:
        self._changes = stops.changes()
        self._moment = stops.moment()
        self._made_for = (gdb.selected_inferior().num, gdb.selected_inferior().pid)
        self._problems: dict[str, None] = {}
        with Told():
            self._state: HeapState = read_state()

    @property
    def arenas(self) -> tuple[Arena, ...]:
        """All arenas, main_arena first (gdbheap.ptmalloc.arena.Arena)."""
        self._require_same_stop()
        return self._state.ring.arenas

    @property
    def params(self) -> Params:
        """malloc's settings and counters, ``mp_``: ``params.get("top_pad")`` (gdbheap.ptmalloc.params.Params)."""
        self._require_same_stop()
        return self._state.params

    @property
    def tcaches(self) -> Mapping[int, Tcache]:
        """The tcache of each thread that has one, by GDB's number of the thread (gdbheap.ptmalloc.tcache.Tcache)."""
        self._require_same_stop()
        return self._tcaches

    @property
    def account(self) -> Account:
        """What all bytes of each arena are, added up (gdbheap.ptmalloc.account.Account): walks the whole heap once."""
        self._require_same_stop()
        return self._account

    @property
    def events(self) -> Sequence[Event]:
        """The recorded system calls that are kept, oldest first (gdbheap.growth.event.Event): of all processes."""
        return tuple(RECORDER.history.events)

    @property
    def unsettled(self) -> Unsettled:
        """What may be changing (gdbheap.ptmalloc.unsettled.Unsettled): threads that run or are inside malloc, locks."""
        self._require_same_stop()
        with Told():
            return read_busy(target(), self._state).unsettled

    @property
    def complete(self) -> bool:
        """Whether nothing is missing of what was asked for so far, and the heap stands still."""
        return not self._problems and self.unsettled.certain

    @property
    def problems(self) -> tuple[str, ...]:
        """What was found not to be sound so far, as sentences: what was not asked for was not looked at."""
        return tuple(self._problems)

    def chunks(
        self,
        arena: Arena | int | None = None,
        *,
        state: str | None = None,
        min_size: int = 0,
        max_size: int | None = None,
    ) -> Iterator[Chunk]:
        """Yield the chunks (gdbheap.ptmalloc.chunk.Chunk) of an arena, or its number, by address.

        Without ``arena`` they are those of all arenas, and at the end those with mappings of their own. ``state`` is
        one of the states of `heap chunks`; sizes are those of chunks, in bytes, both inclusive. Where a part of the
        heap cannot be walked, ``problems`` says so afterwards.
        """
        if state is not None and state not in STATES:
            raise ValueError(f"the state of a chunk is one of {', '.join(STATES)}, not {state!r}")
        self._require_same_stop()
        states = None if state is None else frozenset((state,))
        with Told():
            walk = ChunkWalk(Wanted(min_size, max_size, states), None, None)
            chosen = walk.arenas(None if arena is None else str(arena.number if isinstance(arena, Arena) else arena))
            changes = stops.changes()
            try:
                of_arenas = chain.from_iterable(map(walk.chunks, chosen))
                for chunk in chain(of_arenas, walk.mmapped() if arena is None else ()):
                    yield chunk
                    if stops.changes() != changes:  # whoever got the chunk has moved on
                        self._require_same_stop()
            finally:
                self._note(walk.take_problems())

    def chunk_at(self, address: int | gdb.Value) -> Found | None:
        """Return the chunk that holds ``address``, its header included; None where no known chunk does."""
        self._require_same_stop()
        with Told():
            place = self._lookup.place(int(address))
            if place is None:
                return None
            chunk = self._lookup.chunk(place)
        self._note(self._lookup.problems)
        return Found(chunk, place.arena)

    @cached_property
    def _tcaches(self) -> Mapping[int, Tcache]:
        with Told():
            found, problems = read_tcaches(target())
        self._note(problems)
        self._note([text for tcache in found.values() for text in tcache.problems])
        return found

    @cached_property
    def _account(self) -> Account:
        with Told():
            account = read_account()
        self._note(account.problems)
        if account.mmapped.problem is not None:
            self._note([account.mmapped.problem])
        self._note([f"{arena.name}: {text}" for arena, totals in account.arenas for text in totals.problems])
        return account

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup()

    def _note(self, problems: Sequence[str]) -> None:
        self._problems.update(dict.fromkeys(problems))

    def _require_same_stop(self) -> None:
        """Raise gdb.GdbError where the program is, or may be, not where it was."""
        with Told():
            inferior = gdb.selected_inferior()
            if (inferior.num, inferior.pid) != self._made_for:
                raise TargetError("This heap is of another process than the selected one: call gdbheap.heap() again.")
            if stops.changes() != self._changes or (self._moment is not None and stops.moment() != self._moment):
                raise TargetError("The program has gone on since this heap was read: call gdbheap.heap() again.")


def heap() -> Heap:
    """Return the heap of the selected process or core file; raise gdb.GdbError where there is none."""
    return Heap()
