"""What is at an address that no chunk holds: malloc's own structs, memory it keeps in reserve, or something else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gdbheap.mappings import MappedRange
from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.bins import UNSORTED_BIN, bin_index
from gdbheap.ptmalloc.heaps import HeapInfo, heap_containing
from gdbheap.ptmalloc.holder import extent
from gdbheap.ptmalloc.layout import LayoutUnknown
from gdbheap.ptmalloc.regions import Gap, Plan
from gdbheap.ptmalloc.state import HeapState
from gdbheap.symbols import Struct

#: The kinds of places, and one sentence that says what each is.
PLACES: Mapping[str, str] = {
    "chunk": "A chunk of malloc's holds the address.",
    "arena": "It is in the struct malloc_state of an arena.",
    "params": "It is in mp_, malloc's settings and counters.",
    "heap_info": "It is in the struct heap_info at the beginning of a heap of a thread's arena.",
    "padding": "It is in bytes that malloc leaves free, for alignment or at the end of a heap.",
    "reserved": "It is in a heap of a thread's arena, behind the part that is in use.",
    "gap": "It is in memory of an arena that could not be walked, so the chunk is not known.",
    "foreign": "It is in the break area, in a part that something other than malloc took.",
    "stack": "It is on the stack of a thread.",
    "file": "It is in memory that a file is mapped to: the program, a library.",
    "kernel": "It is in memory that the kernel maps for itself.",
    "memory": "It is in anonymous memory that is none of malloc's, as far as can be told.",
    "missing": "It is in memory of the process that the core file does not hold.",
    "unmapped": "Nothing is mapped there.",
    "unknown": "It is in no memory of malloc's, and what is mapped is not known.",
}


@dataclass(frozen=True)
class Place:
    """What is at an address: ``kind`` is one of PLACES, ``text`` a full sentence with the values.

    ``symbol`` is what the program's symbols call it, ``mapping`` the mapping that it is in, ``thread`` whose stack it
    is, ``arena`` whose memory: each None where there is none.
    """

    kind: str
    text: str
    symbol: str | None = None
    mapping: MappedRange | None = None
    thread: int | None = None
    arena: Arena | None = None


def field_at(struct: Struct, offset: int) -> str:
    """Return the member of a struct that is ``offset`` bytes into it, with the element of an array."""
    for name, field in struct.fields.items():
        if field.offset <= offset < field.offset + field.size:
            if field.count <= 1:
                return name
            return f"{name}[{(offset - field.offset) // (field.size // field.count)}]"
    return f"{offset:#x} bytes into it"


def struct_place(state: HeapState, address: int) -> Place | None:
    """Return which of malloc's own variables ``address`` is in, None where it is in none."""
    layout = state.layout
    for arena in state.ring.arenas:
        offset = address - arena.address
        if 0 <= offset < layout.state.size:
            name = field_at(layout.state, offset)
            text = f"It is {name} of {arena.name}, in its malloc_state at {arena.address:#x}"
            if name.startswith("bins["):
                text += f": an end of {_bin_name(state.abi, int(name[5:-1]) // 2 + 1)}"
            return Place("arena", f"{text}.", arena=arena)
    offset = address - state.params.address
    if 0 <= offset < layout.par.size:
        name = field_at(layout.par, offset)
        return Place("params", f"It is {name} of mp_, malloc's settings and counters at {state.params.address:#x}.")
    return None


def _bin_name(abi: Abi, index: int) -> str:
    if index == UNSORTED_BIN:
        return "the unsorted list"
    return f"{'small' if index < bin_index(abi, abi.min_large_size) else 'large'} bin {index}"


def heap_holding(state: HeapState, address: int) -> tuple[Arena, HeapInfo] | None:
    """Return the heap of a thread's arena whose reserved space ``address`` is in, None where it is in none."""
    for arena in state.ring.arenas:
        chain = state.heaps.get(arena.address)
        for heap in () if chain is None else chain.heaps:
            if heap.address <= address < heap.address + heap.max_size:
                return arena, heap
    return None


def lost_heap_place(memory: Memory, state: HeapState, address: int) -> Place | None:
    """Return that ``address`` is in what looks like a heap which its arena's chain does not lead to; None where not.

    Where a link of the chain was overwritten, the heaps behind it are lost to the walk, but each still names its arena.
    """
    try:
        heap = heap_containing(memory, state.abi, state.layout, state.params, address)
    except (MemoryFault, LayoutUnknown):
        return None
    for arena in state.ring.arenas[1:]:
        if arena.address == heap.arena and address < heap.end:
            return Place(
                "gap",
                f"It is in what looks like a heap of {arena.name}, at {heap.address:#x}, but the heaps of that arena "
                "do not lead there, so its chunks are not known.",
                arena=arena,
            )
    return None


def plan_of(state: HeapState, plans: Sequence[Plan], address: int) -> Plan | None:
    """Return the plan of the arena whose memory ``address`` is in, None where it is in that of none."""
    inside = heap_holding(state, address)
    for plan in plans:
        if inside is not None and inside[0].address == plan.arena.address:
            return plan
        for region in plan.regions:
            start, end = extent(plan, region)
            if start <= address < end:
                return plan
    main = plans[0]
    top = main.arena.top
    # Where the region of the top chunk is not known, any address from the first region on may be in it.
    if main.top_is_lost and main.regions and min(item.address for item in main.regions) <= address < top:
        return main
    return None


def arena_place(state: HeapState, plan: Plan, gaps: Iterable[Gap], address: int) -> Place:
    """Return what is at ``address``, in memory of the plan's arena, where no chunk holds it."""
    arena = plan.arena
    inside = heap_holding(state, address)
    if inside is not None:
        place = _heap_place(state, *inside, address)
        if place is not None:
            return place
    for gap in gaps:
        if (gap.start is None or gap.start <= address) and address < gap.end:
            kind = "foreign" if gap.foreign else "gap"
            return Place(kind, gap.why, arena=arena)
    for region in plan.regions:
        start, end = extent(plan, region)
        if start <= address < min(region.start, end):
            return Place(
                "padding",
                f"It is before the first chunk of {arena.name}, at {region.start:#x}: malloc begins at {start:#x}, "
                "and aligns its chunks.",
                arena=arena,
            )
    return Place(
        "padding", f"It is in memory of {arena.name}, but in no chunk: malloc leaves these bytes free.", arena=arena
    )


def _heap_place(state: HeapState, arena: Arena, heap: HeapInfo, address: int) -> Place | None:
    layout = state.layout
    offset = address - heap.address
    if layout.heap_info is not None and offset < layout.heap_info.size:
        name = field_at(layout.heap_info, offset)
        return Place(
            "heap_info", f"It is {name} of the heap_info at {heap.address:#x}, a heap of {arena.name}.", arena=arena
        )
    if address < heap.end:
        return None
    where = (
        f"It is in the heap at {heap.address:#x} of {arena.name}, behind the part in use, which ends at {heap.end:#x}"
    )
    if address < heap.address + heap.mprotect_size:
        kept = heap.address + heap.mprotect_size
        text = f"{where}: up to {kept:#x} it was in use before, was given back, and is still accessible."
    else:
        text = f"{where}: up to {heap.address + heap.max_size:#x} addresses are reserved, without access."
    return Place("reserved", text, arena=arena)
