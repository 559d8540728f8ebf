"""The allocator of a process at one moment: parameters, the ring of arenas, each arena's heaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gdbheap.memory import Memory
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import ArenaRing, read_arenas
from gdbheap.ptmalloc.heaps import HeapChain, read_heaps
from gdbheap.ptmalloc.layout import Layout
from gdbheap.ptmalloc.params import Params, read_params


@dataclass(frozen=True)
class HeapState:
    """What malloc's own variables say. ``heaps`` are by the arena's address; main_arena has none."""

    abi: Abi
    layout: Layout
    params: Params
    ring: ArenaRing
    heaps: Mapping[int, HeapChain]

    @property
    def in_use(self) -> bool:
        """Whether malloc ever took memory from the kernel: before that there is no heap to show."""
        arenas = self.ring.arenas
        return self.params.get("max_n_mmaps") > 0 or any(
            arena.max_system_mem or arena.has_top(self.abi) for arena in arenas
        )


def read_heap_state(memory: Memory, abi: Abi, layout: Layout, main_arena: int, mp: int) -> HeapState:
    """Return the allocator's state; raise MemoryFault where main_arena or mp_ is unreadable."""
    params = read_params(memory, abi, layout, mp)
    ring = read_arenas(memory, abi, layout, main_arena)
    heaps = {arena.address: read_heaps(memory, abi, layout, params, arena) for arena in ring.arenas[1:]}
    return HeapState(abi, layout, params, ring, heaps)
