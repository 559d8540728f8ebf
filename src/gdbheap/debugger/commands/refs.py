"""heap refs: who points into a chunk."""

from __future__ import annotations

from gdbheap.debugger.commands.base import JSON, Answer, HeapCommand, row_limit
from gdbheap.debugger.options import Option, Parsed, UsageError

TYPE_CHECKING = False  # as in typing, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gdbheap.mappings import MappedRange
    from gdbheap.ptmalloc.scan import Unreadable


class HeapRefs(HeapCommand):
    """Look for pointers to a chunk."""

    word = "refs"
    shows_heap = True
    summary = (
        "Find the pointers into a chunk: in registers, on stacks, in variables, in other chunks, in malloc's lists."
    )
    details = (
        "EXPRESSION is any address inside the chunk, or a pointer variable. All memory that the program can write, or\n"
        "has made read-only since, is searched for whole, aligned words, and so are the general registers of each\n"
        "thread's newest frame. A word of a stack is told by its frame and its variable; where the compiler has left\n"
        "no trace of a variable, by the frame alone. A pointer that the program keeps in another form (compressed,\n"
        "with tag bits, in a file or on a device) is not seen."
    )
    options = (
        Option("limit", "N", "At most N rows (default: 'set heap limit')."),
        Option("all", "", "Every row."),
        JSON,
    )
    operands = "EXPRESSION"
    examples = ("heap refs p", "heap refs &node->next", "heap refs 0x5555555592a0 -json refs.json")

    def answer(self, parsed: Parsed) -> Answer:
        """Return the references to the chunk that the expression is in."""
        from gdbheap.debugger import model, session
        from gdbheap.debugger.errors import TargetError
        from gdbheap.debugger.heap_search import Heap, place_of
        from gdbheap.debugger.progress import Progress
        from gdbheap.debugger.roots import Roots
        from gdbheap.debugger.searched_memory import to_search
        from gdbheap.ptmalloc.refs import (
            KINDS,
            Reference,
            chunk_references,
            chunks_of,
            malloc_areas,
            mangled_links,
            words_into,
        )
        from gdbheap.render.find import Wholeness
        from gdbheap.render.refs import Found, Searched, aim, reference_lines, references_object

        if not parsed.words:
            raise UsageError("heap refs needs an address or a pointer: see 'help heap refs'.")
        heap = Heap()
        address, _ = place_of(" ".join(parsed.words))
        abi = heap.state.abi
        if not heap.ranges:
            raise TargetError("Which addresses are mapped is not known here, so there is nothing to search in.")
        ranges, skipped = to_search(heap.ranges)
        unreadable: list[Unreadable] = []
        spans = [(item.start, item.start + item.held) for item in ranges]
        with Progress(heap.memory) as heap.memory:
            arena, chunk = heap.require_chunk(address)
            low, high = chunk.address, chunk.address + chunk.size
            words = words_into(heap.memory, abi, spans, low, high, unreadable)
            if heap.facts.safe_linking:
                words += mangled_links(heap.memory, heap.state, heap.facts.tcaches, chunk)
                words.sort()
            walk = heap.walk()
            holders = chunks_of(walk, [word.address for word in words])
        roots = Roots(session.target(), heap.ranges, low, high)
        areas = malloc_areas(heap.state, model.read_tcaches(session.target())[0])
        references = list(roots.registers)
        for item in chunk_references(abi, words, holders, areas):
            references.append(item if isinstance(item, Reference) else roots.reference(item))
        references.sort(key=lambda item: (KINDS.index(item.kind), item.thread or 0, item.address or 0))
        unlimited = parsed.given("json") and not parsed.given("limit")
        limit = None if unlimited else row_limit(parsed, option="limit")
        kinds = {kind: sum(item.kind == kind for item in references) for kind in KINDS}
        aims: dict[str, int] = {}
        for item in references:
            aims[aim(chunk, item.value)] = aims.get(aim(chunk, item.value), 0) + 1
        found = Found(chunk, None if arena is None else arena.name, roots.named(references[:limit]), kinds, aims)
        searched = Searched(len(ranges), sum(item.held for item in ranges), roots.threads)
        unsearched = [*skipped, *_without_guards(unreadable, ranges)]
        whole = Wholeness(walk.missing, unsearched, (*walk.problems, *roots.problems), self.changing)
        return Answer(
            lambda: references_object(found, searched, whole),
            lambda style: reference_lines(found, abi, searched, whole, style),
        )


def _without_guards(unreadable: Sequence[Unreadable], ranges: Sequence[MappedRange]) -> list[Unreadable]:
    """Return what could not be read and may hold something.

    Inside a live process's anonymous memory that is none of it: there the kernel refuses guard pages alone, which
    hold nothing (MADV_GUARD_INSTALL, as for the stacks of threads from glibc 2.43 on).
    """
    from gdbheap.debugger.target import is_core

    if is_core():
        return list(unreadable)
    anonymous = [item for item in ranges if not item.name.startswith("/")]
    return [part for part in unreadable if not any(item.start <= part.start < item.end for item in anonymous)]
