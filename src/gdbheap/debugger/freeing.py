"""What free looks at, read from the process for a prediction of what it would do."""

from __future__ import annotations

import gdb

from gdbheap.debugger.allocator import read_allocator
from gdbheap.debugger.target import Target
from gdbheap.memory import MemoryFault
from gdbheap.ptmalloc.heaps import heap_max_size
from gdbheap.ptmalloc.state import HeapState
from gdbheap.ptmalloc.tcache import tcache_is_dummy
from gdbheap.simulate.free_chunk import FreeState
from gdbheap.simulate.state import GrowthState

#: From this release on nothing heeds __free_hook any more.
_HOOKS_GONE = (2, 34)


def free_state(target: Target, state: HeapState) -> FreeState:
    """Return what free would look at if the selected thread called it now.

    Raises MemoryFault where mp_ is unreadable.
    """
    arenas: dict[int, GrowthState | None] = {}
    members = {arena.address for arena in state.ring.arenas}

    def arena_at(address: int) -> GrowthState | None:
        if address not in members:
            return None
        if address not in arenas:
            arenas[address] = read_allocator(target, address).state
        return arenas[address]

    tcache, makes = _tcache(target)
    return FreeState(
        memory=target.memory,
        layout=state.layout,
        growth=read_allocator(target, None).state,
        arena_at=arena_at,
        main_arena=target.main_arena,
        heap_max_size=heap_max_size(state.abi, state.layout, state.params),
        tcache=tcache,
        makes_tcache=makes,
        key=_key(target, tcache),
        safe_linking=target.safe_linking,
        max_fast=_sized(target, "global_max_fast"),
        hook=_hook(target),
    )


def _tcache(target: Target) -> tuple[int | None, bool]:
    """Return the selected thread's tcache (0: none, None: unknown), and whether free makes one where there is none."""
    thread = gdb.selected_thread()
    if target.layout.tcache is None:
        return 0, False
    address = None if thread is None else target.tcache_address(thread)
    if address is None or not tcache_is_dummy(target.symbols, target.layout, address):
        return address, False
    if target.layout.tcache_counts_down:
        # 2.42 leaves it to malloc; 2.43 has two pretended ones, and the first means that it may still be made.
        return 0, bool(address) and address == target.symbols.address("__tcache_dummy")
    place = target.symbols.thread_local("tcache_shutting_down")
    try:
        return 0, place is not None and target.memory.read(place, 1) == b"\0"
    except MemoryFault:
        return 0, False


def _key(target: Target, tcache: int | None) -> int | None:
    key = target.word("tcache_key")  # 2.34
    if key is not None or not tcache:
        return key
    entry = target.symbols.struct("tcache_entry")
    return tcache if entry is not None and "key" in entry.fields else None  # 2.29


def _sized(target: Target, name: str) -> int | None:
    """Return an unsigned variable of glibc's that has not had the same size in all releases, None where unknown."""
    symbol, address = target.symbols.symbol(name), target.symbols.address(name)
    if symbol is None or symbol.type is None or address is None:
        return None
    try:
        return int.from_bytes(target.memory.read(address, symbol.type.sizeof), target.abi.byte_order)
    except MemoryFault:
        return None


def _hook(target: Target) -> int:
    version = target.release.version
    return target.word("__free_hook") or 0 if version is not None and version < _HOOKS_GONE else 0
