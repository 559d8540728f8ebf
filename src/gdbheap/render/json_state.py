"""malloc's own variables as the plain objects that a command's JSON holds; docs/json.md describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.params import ParamFact, Params
from gdbheap.ptmalloc.provenance import Provenance
from gdbheap.ptmalloc.state import HeapState
from gdbheap.ptmalloc.unsettled import Lock
from gdbheap.render.state import largest_request
from gdbheap.render.unsettled import lock_object


def params_object(
    params: Params, facts: Sequence[ParamFact], how: Sequence[Provenance] | None = None
) -> dict[str, object]:
    """Return mp_ as JSON has it: each field that this glibc has, in the order of memory; and how things were found."""
    return {
        "address": params.address,
        "params": [
            {
                "name": fact.name,
                "value": fact.value,
                "unit": fact.unit,
                "default": fact.default,
                "is_default": fact.is_default,
                "moved_by_malloc": fact.dynamic,
                "mallopt": fact.mallopt,
                "tunable": fact.tunable,
                "environment": fact.environment,
                "meaning": fact.meaning,
                "note": fact.note,
            }
            for fact in facts
        ],
        "how": None
        if how is None
        else [
            {
                "name": item.name,
                "thread": item.thread,
                "address": item.address,
                "text": item.text,
                "how": item.how,
            }
            for item in how
        ],
    }


def top_object(state: HeapState, arena: Arena) -> dict[str, object]:
    """Return an arena's top chunk as JSON has it; address and size are null while there is none."""
    there = arena.has_top(state.abi)
    return {
        "name": arena.name,
        "address": arena.address,
        "top": arena.top if there else None,
        "size": arena.top_size if there else None,
        "largest_request": largest_request(state, arena),
    }


def arena_object(
    state: HeapState, arena: Arena, threads: Mapping[int, Sequence[int]], locks: Sequence[Lock]
) -> dict[str, object]:
    """Return an arena's own variables as JSON has them; ``locks`` are those that are held."""
    chain = state.heaps.get(arena.address)
    heaps = () if chain is None else chain.heaps
    return {
        "name": arena.name,
        "address": arena.address,
        "kind": "brk" if arena.is_main else "heaps",
        "contiguous": arena.contiguous,
        "system_mem": arena.system_mem,
        "max_system_mem": arena.max_system_mem,
        "locked": bool(arena.mutex),
        "lock": next((lock_object(lock) for lock in locks if lock.arena == arena.name), None),
        "attached_threads": arena.attached_threads,
        "threads": list(threads.get(arena.address, ())),
        "top": arena.top if arena.has_top(state.abi) else None,
        "top_size": arena.top_size,
        "last_remainder": arena.last_remainder,
        "heaps": [
            {"address": heap.address, "size": heap.size, "mprotect_size": heap.mprotect_size, "prev": heap.prev}
            for heap in heaps
        ],
        "problem": None if chain is None else chain.problem,
    }
