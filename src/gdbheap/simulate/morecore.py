"""The break: __sbrk (misc/sbrk.c), which malloc calls MORECORE, and what libc remembers of it."""

from __future__ import annotations

from dataclasses import replace

from gdbheap.simulate.arenas import heap_max_size
from gdbheap.simulate.calls import Call, Calling, Unpredictable
from gdbheap.simulate.facts import since
from gdbheap.simulate.state import GrowthState


def morecore_fails(state: GrowthState) -> bool:
    """Whether malloc does not even try to move the break (__always_fail_morecore, from glibc 2.34 on).

    Where that variable was not read it follows from the settings: huge pages for malloc switch the break off, from
    glibc 2.42 on only where one fits a heap.
    """
    if state.always_fail_morecore is not None:
        return state.always_fail_morecore
    hp_pagesize = state.params.get("hp_pagesize")
    if not hp_pagesize:
        return False
    return not since(state, 2, 42) or hp_pagesize <= heap_max_size(state)


def break_of(state: GrowthState) -> int:
    """Return libc's ``__curbrk``, 0 before the first sbrk; raise Unpredictable where it could not be read."""
    if state.curbrk is None:
        raise Unpredictable("libc's __curbrk could not be read, so it is not known where the break is.")
    return state.curbrk


def query_break(state: GrowthState) -> Calling[GrowthState]:
    """Ask where the break is, where libc does not know it yet, and return the state with it."""
    if break_of(state):
        return state
    answer = yield Call(
        syscall="brk",
        args=(0,),
        path="brk-query",
        terms=(),
        total=0,
        rounded=0,
        multiple=1,
        why=("Nobody has called sbrk in this process yet (libc's __curbrk is 0), so the break is asked for first.",),
        source="__sbrk (misc/sbrk.c)",
    )
    return replace(state, curbrk=answer)


def move_break(state: GrowthState, increment: int, call: Call) -> Calling[tuple[GrowthState, bool]]:
    """Move the break by ``increment`` bytes, not 0, with ``call``, whose argument is filled in here.

    Return the state with the break that the process then has, and whether it was moved as asked. Nothing is called
    where the new break would wrap around the address space.
    """
    target = break_of(state) + increment
    if not 0 <= target < 1 << 8 * state.abi.word_size:
        return state, False
    answer = yield replace(call, args=(target,))
    return replace(state, curbrk=answer), answer >= target
