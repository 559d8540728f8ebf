"""Asking a state for the facts that decide what malloc does, and changing it as malloc would."""

from __future__ import annotations

from dataclasses import replace

from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.heaps import HeapInfo
from gdbheap.ptmalloc.params import Params
from gdbheap.simulate.calls import Unpredictable
from gdbheap.simulate.state import GrowthState


def since(state: GrowthState, major: int, minor: int) -> bool:
    """Whether the glibc of ``state`` is release ``major``.``minor`` or later.

    Where the version is unknown, the fields of ``mp_`` bound it: thp_mode came in 2.43, hp_pagesize in 2.35 (and was
    left out of 2.35 to 2.37 when they were built without tunables). Raises Unpredictable where that does not settle
    it.
    """
    version = state.release.version
    if version is not None:
        return version >= (major, minor)
    if "thp_mode" in state.params.values:
        low, high = (2, 43), (99, 0)
    elif "hp_pagesize" in state.params.values:
        low, high = (2, 35), (2, 42)
    else:
        low, high = (2, 23), (2, 37)
    if low >= (major, minor):
        return True
    if high < (major, minor):
        return False
    raise Unpredictable(f"The release of glibc is not known, and what it does changed in {major}.{minor}.")


def setting(state: GrowthState, name: str) -> int:
    """Return the field ``name`` of ``mp_``, one that every release has; raise Unpredictable where it was not read."""
    try:
        return state.params.values[name]
    except KeyError:
        raise Unpredictable(f"The field {name} of mp_ could not be read.") from None


def arena_of(state: GrowthState) -> Arena:
    """Return the arena of ``state``; raise Unpredictable where it is not known."""
    if state.arena is None:
        raise Unpredictable("It is not known which arena malloc works on.")
    return state.arena


def top_size_of(arena: Arena) -> int:
    """Return the size of the top chunk in bytes; raise Unpredictable where it could not be read."""
    if arena.top_size is None:
        raise Unpredictable(f"The size of the top chunk of {arena.name} could not be read.")
    return arena.top_size


def heap_of(state: GrowthState) -> HeapInfo:
    """Return the heap that holds the top chunk; raise Unpredictable where it is not known."""
    if state.heap is None:
        raise Unpredictable("The heap_info of the heap that holds the top chunk is not known.")
    return state.heap


def heap_info_size_of(state: GrowthState) -> int:
    """Return sizeof (heap_info); raise Unpredictable where it is not known."""
    if state.heap_info_size is None:
        raise Unpredictable("The size of struct heap_info is not known.")
    return state.heap_info_size


def with_top(state: GrowthState, top: int, top_size: int) -> GrowthState:
    """Return ``state`` with another top chunk."""
    return replace(state, arena=replace(arena_of(state), top=top, top_size=top_size))


def with_system_mem(state: GrowthState, delta: int) -> GrowthState:
    """Return ``state`` with ``delta`` bytes more in the arena's system_mem."""
    arena = arena_of(state)
    return replace(state, arena=replace(arena, system_mem=arena.system_mem + delta))


def with_settings(state: GrowthState, **values: int) -> GrowthState:
    """Return ``state`` with fields of ``mp_`` set."""
    return replace(state, params=Params(state.params.address, {**state.params.values, **values}))
