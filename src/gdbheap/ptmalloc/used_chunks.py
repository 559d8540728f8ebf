"""Some chunks in use of each kind: what a program might free next, wherever something is wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice

from gdbheap.memory import Memory
from gdbheap.ptmalloc.account import FreeFacts, plan_arena
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.chunk import USED
from gdbheap.ptmalloc.state import HeapState
from gdbheap.ptmalloc.walk import walk_arena

#: Chunks of one arena that are looked at.
_MOST = 300_000
#: Chunks that are taken of a kind.
_EACH = 2
#: Arenas that are looked at.
_ARENAS = 8


def used_chunks(memory: Memory, state: HeapState, facts: FreeFacts, sizes: Collection[int] = ()) -> tuple[int, ...]:
    """Return the addresses of some chunks in use: large and small ones, the last of an arena, some of ``sizes`` each.

    Small chunks that may be for fastbins are a kind of their own. Nothing is raised for a heap
    that is corrupt; where its chunks cannot be followed, fewer are found.
    """
    found: dict[int, None] = {}
    for arena in state.ring.arenas[:_ARENAS]:
        kinds: dict[object, list[int]] = {}
        last = 0
        for address, size in islice(_used(memory, state, arena, facts), _MOST):
            if size >= state.abi.min_large_size:
                kind: object = "large"
            else:
                kind = "small" if size >= 20 * state.abi.word_size else "fast"
            for name in (kind, *((size,) if size in sizes else ())):
                taken = kinds.setdefault(name, [])
                if len(taken) < _EACH:
                    taken.append(address)
            last = address
        found.update(dict.fromkeys(address for taken in kinds.values() for address in taken))
        if last:
            found[last] = None
    return tuple(found)


def _used(memory: Memory, state: HeapState, arena: Arena, facts: FreeFacts) -> Iterator[tuple[int, int]]:
    plan, free = plan_arena(memory, state, arena, facts)
    for block in walk_arena(memory, state.abi, plan, free):
        for address, size, kind in zip(block.columns.addresses, block.columns.sizes, block.states):
            if kind == USED:
                yield address, size
