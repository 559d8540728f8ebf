"""What malloc counts as its own, against what the kernel has mapped: every byte of the process has a name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gdbheap.mappings import MappedRange, Spans
from gdbheap.ptmalloc.abi import round_up
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.mmapped import MmappedChunk
from gdbheap.ptmalloc.state import HeapState

#: What else can be mapped, in the order in which it is shown: a name for each kind, and what it is.
OTHERS = {
    "heap-kept": "heaps of arenas: given back, still accessible",
    "heap-reserved": "heaps of arenas: reserved",
    "break": "break area that is not malloc's",
    "stack": "stacks",
    "file": "the program and other files",
    "kernel": "the kernel's own pages",
    "guard": "not writable: guard pages, reservations",
    "anonymous": "other anonymous memory",
}


@dataclass(frozen=True)
class KernelFacts:
    """What is known of a process besides its memory.

    ``ranges`` is its map, in ascending order, empty where that is not known. ``stack_pointers`` are those of its
    threads. ``break_end`` is where the break area ends, None where that is not known. ``resident`` tells how many
    bytes of a span of addresses are in physical memory, None where it cannot; ``why_not_resident`` is then the reason.
    """

    ranges: Sequence[MappedRange] = ()
    stack_pointers: Sequence[int] = ()
    break_end: int | None = None
    resident: Callable[[int, int], int | None] | None = None
    why_not_resident: str = ""


NOTHING_KNOWN = KernelFacts()


@dataclass(frozen=True)
class Mapped:
    """Some of a process's addresses, in bytes: how many are ``mapped``, and what is known of those.

    ``resident`` are in physical memory (None: not known), ``missing``, of those that can be written, from the core
    file that is looked at. ``ranges``
    is how many separate pieces they are.
    """

    mapped: int = 0
    resident: int | None = 0
    missing: int = 0
    ranges: int = 0

    def __add__(self, other: Mapped) -> Mapped:
        resident = None if self.resident is None or other.resident is None else self.resident + other.resident
        return Mapped(self.mapped + other.mapped, resident, self.missing + other.missing, self.ranges + other.ranges)


@dataclass(frozen=True)
class KernelMap:
    """The whole map of a process, divided.

    ``arenas`` are by the arena's address, ``mmapped`` is of the mmapped chunks, ``others`` are by the kinds of OTHERS,
    those that there are. ``problem`` is a sentence on memory of malloc's that is not mapped, None where all of it is.
    """

    arenas: dict[int, Mapped]
    mmapped: Mapped
    others: dict[str, Mapped]
    why_not_resident: str
    problem: str | None = None

    @property
    def malloc(self) -> Mapped:
        """All that is malloc's."""
        return sum(self.arenas.values(), self.mmapped)

    @property
    def whole(self) -> Mapped:
        """All that is mapped."""
        return sum(self.others.values(), self.malloc)


def arena_spans(state: HeapState, arena: Arena, walked: Iterable[tuple[int, int]] = ()) -> list[tuple[int, int]]:
    """Return the addresses that malloc counts in an arena's system_mem: (start, end).

    ``walked`` is what a walk of the arena went through: all that is known of a main_arena that is not contiguous.
    """
    if not arena.has_top(state.abi):
        return []
    if not arena.is_main:
        chain = state.heaps.get(arena.address)
        return [] if chain is None else [(heap.address, heap.end) for heap in chain.heaps]
    base = state.params.get("sbrk_base")
    return [(base, base + arena.system_mem)] if arena.contiguous else list(walked)


def divide(
    state: HeapState,
    facts: KernelFacts,
    spans: Sequence[tuple[Arena, Sequence[tuple[int, int]]]],
    chunks: Sequence[MmappedChunk],
) -> KernelMap:
    """Divide the map of the process: ``spans`` are the addresses of each arena, ``chunks`` the mmapped chunks."""
    measure = _Measure(facts)
    arenas = {arena.address: measure.of(parts) for arena, parts in spans}
    mine = [(chunk.block, chunk.block + chunk.length) for chunk in chunks]
    mapped = measure.of(mine)
    taken = Spans([*(span for _, parts in spans for span in parts), *mine])
    counted = sum(end - start for _, parts in spans for start, end in parts) + sum(end - start for start, end in mine)
    lacking = counted - mapped.mapped - sum(item.mapped for item in arenas.values())
    problem = f"{lacking:#x} bytes that malloc counts as its own are not mapped." if lacking else None
    names = _Names(state, facts)
    others: dict[str, list[tuple[int, int]]] = {}
    for item in facts.ranges:
        for start, end in taken.outside(item.start, item.end):
            for kind, low, high in names.of(item, start, end):
                others.setdefault(kind, []).append((low, high))
    return KernelMap(
        arenas,
        mapped,
        {kind: measure.of(others[kind]) for kind in OTHERS if kind in others},
        facts.why_not_resident if facts.resident is None else measure.why_not,
        problem,
    )


class _Measure:
    """Adds up what of some spans is mapped and resident."""

    def __init__(self, facts: KernelFacts) -> None:
        self._resident = facts.resident
        self._ranges = Spans((item.start, item.end) for item in facts.ranges)
        # Reserved addresses have no bytes either; some releases of gcore call them readable.
        self._missing = Spans(
            (item.start + item.held, item.end)
            for item in facts.ranges
            if item.anonymous and item.held < item.size and item.permissions[1] != "-"
        )
        #: Why resident memory is not known where the kernel could have told it.
        self.why_not = ""

    def of(self, spans: Iterable[tuple[int, int]]) -> Mapped:
        total = Mapped()
        for start, end in spans:
            for low, high in self._ranges.inside(start, end):
                resident = None if self._resident is None else self._resident(low, high)
                if resident is None and self._resident is not None:
                    self.why_not = "the kernel does not tell it of a part of a mapping"
                missing = sum(above - below for below, above in self._missing.inside(low, high))
                total += Mapped(high - low, resident, missing, 1)
        return total


def _break_area(state: HeapState, facts: KernelFacts) -> list[tuple[int, int]]:
    """Return where the break area is, as far as malloc's variables tell.

    Where the break could not be moved sbrk_base is in a mapping. The break may be above that, with others' mappings
    between; the area itself is one mapping, so that no other can be inside.
    """
    base, end = state.params.get("sbrk_base"), facts.break_end
    if not base or not end:
        return []
    between = [item for item in facts.ranges if item.start < end and item.end > base]
    whole = not between or sum(item.size for item in between) == between[-1].end - between[0].start
    return [(base, round_up(end, state.abi.page_size))] if whole and all(item.anonymous for item in between) else []


class _Names:
    """Says what a piece of the map is that is not malloc's."""

    def __init__(self, state: HeapState, facts: KernelFacts) -> None:
        self._pointers = sorted(facts.stack_pointers)
        kept, reserved = [], []
        for chain in state.heaps.values():
            for heap in chain.heaps:
                kept.append((heap.end, heap.address + heap.mprotect_size))
                reserved.append((heap.address, heap.address + heap.max_size))
        self._kept, self._reserved = Spans(kept), Spans(reserved)
        self._break = Spans(_break_area(state, facts))

    def of(self, item: MappedRange, start: int, end: int) -> Iterable[tuple[str, int, int]]:
        """Yield the kinds of the parts of a piece of the range ``item``: (kind, start, end)."""
        if not item.anonymous:
            yield ("file" if item.name.startswith("/") else "kernel"), start, end
            return
        for low, high in self._kept.inside(start, end):
            yield "heap-kept", low, high
        for low, high in self._kept.outside(start, end):
            for first, last in self._reserved.inside(low, high):
                yield "heap-reserved", first, last
            for first, last in self._reserved.outside(low, high):
                if item.name.startswith("[heap"):
                    yield "break", first, last
                    continue
                for below, above in self._break.inside(first, last):
                    yield "break", below, above
                for below, above in self._break.outside(first, last):
                    yield self._anonymous(item, below, above), below, above

    def _anonymous(self, item: MappedRange, start: int, end: int) -> str:
        if item.name.startswith("[stack") or any(start <= pointer < end for pointer in self._pointers):
            return "stack"
        return "guard" if item.permissions[1] == "-" else "anonymous"
