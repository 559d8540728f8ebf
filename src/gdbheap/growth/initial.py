"""What the heap's state alone tells of its growth, where no event was recorded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.params import Params
from gdbheap.simulate.calls import Call, Unpredictable, advance
from gdbheap.simulate.facts import with_settings
from gdbheap.simulate.state import GrowthState
from gdbheap.simulate.sysmalloc import sysmalloc


@dataclass(frozen=True)
class Initial:
    """The heap's state, and what follows from it about its beginning.

    Sizes are in bytes. ``first_chunk`` is the size of the chunk at the start of main_arena's memory (None where there
    is none or it is not sound), and ``first_owner`` the number of the thread whose tcache is in it (None where that
    is not so: then who caused the first growth cannot be told). ``first_growth`` is what that request made brk move
    by, given today's top_pad; ``since`` is what main_arena took after that.
    """

    abi: Abi
    params: Params
    arenas: tuple[Arena, ...]
    is_core: bool
    first_chunk: int | None
    first_owner: int | None

    @property
    def main_arena(self) -> Arena:
        """main_arena."""
        return self.arenas[0]

    @cached_property
    def first_calls(self) -> tuple[Call, ...]:
        """The calls of brk behind the first growth, as sysmalloc makes them; empty where it cannot be told."""
        if self.first_chunk is None or self.first_owner is None:
            return ()
        empty = replace(self.main_arena, top=0, top_size=0, system_mem=0, max_system_mem=0, flags=0)
        state = GrowthState(self.abi, self.params, empty, curbrk=self.params.get("sbrk_base"))
        steps = sysmalloc(with_settings(state, sbrk_base=0), self.first_chunk)
        calls: list[Call] = []
        try:
            step = advance(steps)
            while isinstance(step, Call):
                calls.append(step)
                step = advance(steps, step.args[0])  # brk answers the break that was asked for
        except Unpredictable:
            return ()
        return tuple(call for call in calls if call.rounded)

    @property
    def first_total(self) -> int | None:
        """The sum behind the first growth, before it is rounded up to pages (sysmalloc)."""
        return self.first_calls[0].total if self.first_calls else None

    @property
    def first_growth(self) -> int | None:
        """By how much brk moved at first, in bytes."""
        grown = sum(call.rounded for call in self.first_calls)
        # More than the arena ever had: top_pad was changed since, or brk did not give this memory.
        return grown if 0 < grown <= self.main_arena.max_system_mem else None

    @property
    def since(self) -> int | None:
        """What main_arena has now beyond its first growth, in bytes (negative where it gave back)."""
        return None if self.first_growth is None else self.main_arena.system_mem - self.first_growth
