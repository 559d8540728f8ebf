"""What the heap's state alone tells of its growth, where no event was recorded."""

from __future__ import annotations

from dataclasses import dataclass

from gdbheap.ptmalloc.abi import Abi, round_up
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.params import Params


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

    @property
    def first_total(self) -> int | None:
        """The sum behind the first growth, before it is rounded up to pages (sysmalloc)."""
        if self.first_chunk is None or self.first_owner is None:
            return None
        return self.first_chunk + self.params.get("top_pad") + self.abi.min_size

    @property
    def first_growth(self) -> int | None:
        """By how much the first brk moved, in bytes."""
        total = self.first_total
        if total is None:
            return None
        grown = round_up(total, self.abi.page_size)
        # More than the arena ever had: top_pad was changed since, or brk did not give this memory.
        return grown if grown <= self.main_arena.max_system_mem else None

    @property
    def since(self) -> int | None:
        """What main_arena has now beyond its first growth, in bytes (negative where it gave back)."""
        return None if self.first_growth is None else self.main_arena.system_mem - self.first_growth
