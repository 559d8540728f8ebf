"""heap_info: the regions that an arena other than main_arena is made of, linked newest first."""

from __future__ import annotations

from dataclasses import dataclass

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import Abi, round_down
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.layout import Layout, LayoutUnknown
from gdbheap.ptmalloc.params import Params

#: Heaps of one arena that are followed at most: 4 TiB on 64-bit machines.
MAX_HEAPS = 0x10000


@dataclass(frozen=True)
class HeapInfo:
    """One ``heap_info``: ``size`` bytes are in use, ``mprotect_size`` bytes were ever made accessible.

    ``prev`` is the address of the heap before it in the same arena, 0 for the first. ``page_size`` is the step in
    which the heap grows (the field from glibc 2.35 on, else the kernel's page). ``max_size`` is HEAP_MAX_SIZE.
    """

    address: int
    arena: int
    prev: int
    size: int
    mprotect_size: int
    page_size: int
    max_size: int

    @property
    def end(self) -> int:
        """The address behind the last byte in use."""
        return self.address + self.size


@dataclass(frozen=True)
class HeapChain:
    """The heaps of one arena, newest first.

    ``problem`` is None where the chain reaches the arena's first heap; otherwise it says where and why it stopped,
    and ``heaps`` are those that were sound up to there.
    """

    heaps: tuple[HeapInfo, ...]
    problem: str | None = None


def heap_max_size(abi: Abi, layout: Layout, params: Params) -> int:
    """Return HEAP_MAX_SIZE in bytes: what each heap reserves, and the alignment of its address (arena.c).

    It is 64 MiB, or 1 MiB on 32-bit machines. From glibc 2.35 to 2.41 it is four huge pages where malloc uses those
    (the tunable glibc.malloc.hugetlb); from 2.42 on, which the field tcache_small_bins tells, it is constant again.
    """
    huge_page = params.get("hp_pagesize")
    if huge_page & (huge_page - 1) or (huge_page and not params.get("hp_flags", 1)):
        huge_page = 0  # no setting gives that: the field was overwritten
    if huge_page and "tcache_small_bins" not in layout.par.fields:
        return 4 * huge_page
    return 64 << 20 if abi.word_size == 8 else 1 << 20


def heap_for(address: int, max_size: int) -> int:
    """Return the address of the heap_info of the heap that would hold ``address`` (heap_for_ptr)."""
    return round_down(address, max_size)


def read_heap(memory: Memory, abi: Abi, layout: Layout, address: int, max_size: int) -> HeapInfo:
    """Return the heap_info at ``address``, unchecked; ``max_size`` is heap_max_size.

    Raises MemoryFault where it is unreadable, and LayoutUnknown where the target does not describe heap_info.
    """
    if layout.heap_info is None:
        raise LayoutUnknown("The target's debug information does not describe struct _heap_info.")
    fields = layout.heap_info.decode(memory.read(address, layout.heap_info.size), abi.order)
    return HeapInfo(
        address=address,
        arena=fields["ar_ptr"],
        prev=fields["prev"],
        size=fields["size"],
        mprotect_size=fields["mprotect_size"],
        page_size=fields.get("pagesize", abi.page_size),
        max_size=max_size,
    )


def heap_containing(memory: Memory, abi: Abi, layout: Layout, params: Params, address: int) -> HeapInfo:
    """Return the heap_info of the heap that would hold ``address``, unchecked.

    Raises MemoryFault and LayoutUnknown as read_heap does.
    """
    max_size = heap_max_size(abi, layout, params)
    return read_heap(memory, abi, layout, heap_for(address, max_size), max_size)


def read_heaps(memory: Memory, abi: Abi, layout: Layout, params: Params, arena: Arena) -> HeapChain:
    """Return the heaps of ``arena``, from the one that holds its top chunk along ``prev``; none for main_arena.

    Raises LayoutUnknown where the target does not describe heap_info.
    """
    if arena.is_main:
        return HeapChain(())
    max_size = heap_max_size(abi, layout, params)
    heaps: list[HeapInfo] = []
    seen: set[int] = set()
    address, link = heap_for(arena.top, max_size), f"The top chunk of {arena.name}, at {arena.top:#x},"
    while True:
        if address in seen:
            return HeapChain(tuple(heaps), f"{link} leads back to the heap at {address:#x}: the chain is a loop.")
        if len(heaps) >= MAX_HEAPS:
            return HeapChain(tuple(heaps), f"{arena.name} has more than {MAX_HEAPS} heaps; the rest was not read.")
        try:
            heap = read_heap(memory, abi, layout, address, max_size)
        except MemoryFault as fault:
            return HeapChain(tuple(heaps), f"{link} leads to a heap at {address:#x}: {fault}.")
        problem = _unsound(abi, layout, arena, heap)
        if problem is not None:
            return HeapChain(tuple(heaps), f"{link} leads to a heap at {address:#x}, {problem}")
        heaps.append(heap)
        seen.add(address)
        if heap.prev == 0:
            return HeapChain(tuple(heaps))
        address, link = heap.prev, f"The heap at {heap.address:#x}"


def _unsound(abi: Abi, layout: Layout, arena: Arena, heap: HeapInfo) -> str | None:
    assert layout.heap_info is not None  # read_heap has refused that
    if heap.address % heap.max_size:
        return f"which is no multiple of HEAP_MAX_SIZE ({heap.max_size:#x})."
    if heap.arena != arena.address:
        return f"but its ar_ptr is {heap.arena:#x}; it should be {arena.address:#x}."
    if not layout.heap_info.size + abi.min_size <= heap.size <= heap.max_size:
        return (
            f"but its size is {heap.size:#x}; it should be at least {layout.heap_info.size + abi.min_size:#x} and at "
            f"most {heap.max_size:#x}."
        )
    if heap.prev == 0 and heap.address + layout.heap_info.size != arena.address:
        return (
            f"but its prev is 0 as in an arena's first heap, and that should be at "
            f"{arena.address - layout.heap_info.size:#x}."
        )
    return None
