"""Who holds the lock of an arena, and who waits for it, as the frames of all threads tell.

A lock of malloc's (lll_lock, sysdeps/nptl/lowlevellock.h) is 0 when it is free, 1 when it is held and 2 when a thread
may wait for it: the owner is not noted in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gdb

from gdbheap.growth.event import Frame
from gdbheap.growth.names import function_of
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.unsettled import AtLock, Lock

#: Where the kernel's first argument is, by the beginning of GDB's name of the architecture: the lock of a futex call.
_FIRST_ARGUMENT = (("i386:x86-64", "rdi"), ("aarch64", "x0"), ("i386", "ebx"))
#: What malloc calls to wait for a lock, as its name begins.
_WAITS = ("__lll_lock_wait", "lll_lock_wait", "futex_wait", "__GI___lll_lock_wait")
#: Frames that are looked at for such a function: the newest.
_NEWEST = 3
#: Functions that work on an arena only while they hold its lock.
_HOLDING = frozenset(
    {"_int_malloc", "sysmalloc", "systrim", "mtrim", "_int_realloc", "_int_memalign", "malloc_consolidate"}
    | {"_int_free_merge_chunk", "_int_free_create_chunk", "_int_free_maybe_trim", "unlink_chunk", "heap_trim"}
    | {"grow_heap", "int_mallinfo"}
)


@dataclass(frozen=True)
class Visit:
    """What a thread's stack tells: its ``frames``, the places of those ``inside`` malloc, and the lock that it awaits.

    ``lock`` is the address of that lock, None where it waits for none.
    """

    thread: int
    frames: Sequence[Frame]
    inside: Sequence[int]
    lock: int | None


def awaited_lock(frames: Sequence[Frame]) -> int | None:
    """Return the address of the lock that the selected thread waits for, None where it waits for none."""
    if not any(function_of(frame).startswith(_WAITS) for frame in frames[:_NEWEST]):
        return None
    try:
        frame = gdb.newest_frame()
        machine = frame.architecture().name()
        name = next((register for begins, register in _FIRST_ARGUMENT if machine.startswith(begins)), None)
        return None if name is None else int(frame.read_register(name)) % (1 << 64)
    except (gdb.error, ValueError):
        return None


def held_locks(arenas: Sequence[Arena], mutex_offset: int, visits: Sequence[Visit], known: bool) -> tuple[Lock, ...]:
    """Return the locks of ``arenas`` that are held; ``known`` is whether ``visits`` are of all threads."""
    found = []
    for arena in arenas:
        if not arena.mutex:
            continue
        address = arena.address + mutex_offset
        waiting = [_at(visit, _waits_in(visit)) for visit in visits if visit.lock == address]
        found.append(
            Lock(arena.name, _holder(arena, address, visits), tuple(waiting), arena.mutex not in (0, 1), known)
        )
    return tuple(found)


def _waits_in(visit: Visit) -> int:
    """Return the place of the frame that wants the lock: malloc's oldest in a row, as the program called it."""
    first = visit.inside[0] if visit.inside else 0
    return max((place for place in visit.inside if _in_a_row(visit.inside, first, place)), default=first)


def _in_a_row(places: Sequence[int], first: int, last: int) -> bool:
    return all(place in places for place in range(first, last + 1))


def _holder(arena: Arena, lock: int, visits: Sequence[Visit]) -> AtLock | None:
    """Return who holds the lock: whose frames work on the arena, else the only thread that is inside malloc besides."""
    others = []
    for visit in visits:
        # What waits for the lock does not hold it, but an older frame may, which a signal has interrupted.
        beyond = _waits_in(visit) if visit.lock == lock else -1
        places = [place for place in visit.inside if place > beyond]
        for place in places:
            frame = visit.frames[place]
            if function_of(frame) in _HOLDING and frame.variables.get("av") == arena.address:
                return _at(visit, place)
        others += [_at(visit, place, False) for place in places[:1] if _may_hold(visit, places, arena)]
    return others[0] if len(others) == 1 else None


def _may_hold(visit: Visit, places: Sequence[int], arena: Arena) -> bool:
    """Whether nothing in the frames tells that malloc works on another arena, or waits for another one's lock."""
    named = [visit.frames[place].variables.get("av") for place in places]
    return all(av in (None, arena.address) for av in named)


def _at(visit: Visit, place: int, sure: bool = True) -> AtLock:
    return AtLock(visit.thread, place, function_of(visit.frames[place]) if visit.frames else "", sure)
