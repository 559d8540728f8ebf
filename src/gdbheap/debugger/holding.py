"""Who holds a pointer to a chunk, in a few words: for the chunk that is suspected of damage."""

from __future__ import annotations

import gdb

from gdbheap.debugger import model
from gdbheap.debugger.heap_search import Heap
from gdbheap.debugger.roots import Roots
from gdbheap.debugger.searched_memory import to_search
from gdbheap.debugger.target import Target
from gdbheap.memory import MemoryFault
from gdbheap.ptmalloc.chunk import Chunk
from gdbheap.ptmalloc.finding import Culprit
from gdbheap.ptmalloc.refs import KINDS, Reference, chunk_references, chunks_of, malloc_areas, words_into
from gdbheap.ptmalloc.scan import Unreadable
from gdbheap.render.refs import where_text

#: Holders that are named at most.
_SHOWN = 6
#: How much memory is searched at most, in bytes: more takes seconds that nobody asked for.
_SEARCHED = 1 << 30


def holders_of(target: Target, culprit: Culprit) -> tuple[str, ...]:
    """Return a sentence for each of the first places that hold a pointer to the culprit's chunk or into it."""
    chunk = Chunk(culprit.chunk, culprit.pointer, culprit.size, 0, culprit.state, 0)
    return pointers_to(target, chunk, culprit.pointer, culprit.chunk + culprit.size)


def pointers_to(target: Target, chunk: Chunk, low: int, high: int) -> tuple[str, ...]:
    """Return a sentence for each of the first places outside ``chunk`` that hold an address from ``low`` to ``high``.

    Those are addresses in the chunk; the upper one is left out.
    """
    heap = Heap()
    ranges, _ = to_search(heap.ranges)
    total = sum(item.held for item in ranges)
    if not ranges or total > _SEARCHED:
        return (f"not looked for in so much memory: 'heap refs {chunk.pointer:#x}' does",) if ranges else ()
    unread: list[Unreadable] = []
    spans = [(item.start, item.start + item.held) for item in ranges]
    try:
        words = words_into(heap.memory, heap.state.abi, spans, low, max(high, low + 1), unread)
        roots = Roots(target, heap.ranges, low, high)
        holders = chunks_of(heap.walk(), [word.address for word in words])
        areas = malloc_areas(heap.state, model.read_tcaches(target)[0])
        found: list[Reference] = list(roots.registers)
        for item in chunk_references(heap.state.abi, words, holders, areas):
            found.append(item if isinstance(item, Reference) else roots.reference(item))
    except (MemoryFault, gdb.error) as error:
        return (f"not known: {error}",)
    found = [item for item in found if item.kind != "malloc" and item.live and item.chunk != chunk]
    found.sort(key=lambda item: (KINDS.index(item.kind), item.thread or 0, item.address or 0))
    texts = [f"{item.kind}: {where_text(item, chunk)}" for item in roots.named(found[:_SHOWN])]
    if len(found) > _SHOWN:
        texts.append(f"and {len(found) - _SHOWN:,} more: 'heap refs {chunk.pointer:#x}' lists them")
    return tuple(texts) or ("nobody that was found: no pointer to it is left in memory or registers",)
