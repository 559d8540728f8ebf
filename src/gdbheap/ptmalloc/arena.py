"""malloc_state: one arena, and the ring of them all."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, Abi
from gdbheap.ptmalloc.layout import Layout

NONCONTIGUOUS_BIT = 2
_SIGNED = frozenset({"mutex", "flags"})
#: Arenas that are followed at most; glibc makes 8 for each processor unless it is told to make more.
MAX_ARENAS = 0x10000
#: Threads that Linux lets there be at most.
MOST_THREADS = 1 << 22


@dataclass(frozen=True)
class Arena:
    """One ``malloc_state`` as it was read.

    Addresses and sizes are in bytes. ``number`` is 0 for main_arena and counts the others in the order in which they
    were made. ``bins`` has glibc's 254 words: bin i's front at ``2 * i - 2``, its back at ``2 * i - 1``. ``fastbins``
    is empty where the release has none (2.43). ``top_size`` is the size of the top chunk without its flags, 0 where
    there is no top chunk yet, and None where it could not be read. ``have_fastchunks`` is 0 where there is no such
    field.
    """

    address: int
    number: int
    mutex: int
    flags: int
    top: int
    top_size: int | None
    last_remainder: int
    fastbins: tuple[int, ...]
    bins: tuple[int, ...]
    bins_address: int
    binmap: tuple[int, ...]
    next: int
    next_free: int
    attached_threads: int
    system_mem: int
    max_system_mem: int
    have_fastchunks: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is main_arena, the one that grows with brk."""
        return self.number == 0

    @property
    def name(self) -> str:
        """The name that is shown: ``main_arena`` or ``arena N``."""
        return "main_arena" if self.is_main else f"arena {self.number}"

    @property
    def contiguous(self) -> bool:
        """Whether malloc believes that its break area has no holes (NONCONTIGUOUS_BIT is clear)."""
        return not self.flags & NONCONTIGUOUS_BIT

    def bin_header(self, abi: Abi, index: int) -> int:
        """Return the address of the pretended chunk that is both ends of bin ``index`` (bin_at)."""
        return self.bins_address + (2 * index - 2) * abi.word_size - abi.header

    def has_top(self, abi: Abi) -> bool:
        """Whether there is a top chunk: before the first memory, ``top`` is 0 or bin 1's header (initial_top)."""
        return _is_top(abi, self.bins_address, self.top)


@dataclass(frozen=True)
class ArenaRing:
    """The arenas in the order of their ring: main_arena, then the newest to the oldest.

    ``problem`` is None where the ring closes; otherwise it says where and why the reading stopped, and ``arenas``
    are those that were sound up to there (their numbers are then too low where older arenas were lost).
    """

    arenas: tuple[Arena, ...]
    problem: str | None = None


def read_arena(memory: Memory, abi: Abi, layout: Layout, address: int, number: int) -> Arena:
    """Return the arena at ``address``, with one read for the struct and one for the size of its top chunk.

    ``number`` is what the arena is to be called: 0 for main_arena. Raises MemoryFault where the struct is unreadable.
    """
    data = memory.read(address, layout.state.size)
    return decode_arena(abi, layout, address, number, data, read_top_size(memory, abi, layout, address, data))


def read_top_size(memory: Memory, abi: Abi, layout: Layout, address: int, data: bytes) -> int | None:
    """Return the size of the top chunk of the arena at ``address`` whose bytes are ``data``; see Arena.top_size."""
    offset = layout.state.fields["top"].offset
    top = int.from_bytes(data[offset : offset + abi.word_size], abi.byte_order)
    if not _is_top(abi, address + layout.state.fields["bins"].offset, top):
        return 0
    try:
        return abi.read_word(memory, top + abi.word_size) & ~FLAG_BITS
    except MemoryFault:
        return None


def attached_threads(abi: Abi, layout: Layout, data: bytes) -> int:
    """Return the field attached_threads of the malloc_state whose bytes are ``data``."""
    field = layout.state.fields["attached_threads"]
    return int.from_bytes(data[field.offset : field.offset + field.size], abi.byte_order)


def decode_arena(abi: Abi, layout: Layout, address: int, number: int, data: bytes, top_size: int | None) -> Arena:
    """Return the arena at ``address`` from the bytes of its malloc_state and the size of its top chunk."""
    fields = layout.state.decode(data, abi.order, _SIGNED)
    return Arena(
        address=address,
        number=number,
        mutex=fields["mutex"],
        flags=fields["flags"],
        top=fields["top"],
        top_size=top_size,
        last_remainder=fields["last_remainder"],
        fastbins=fields.get("fastbinsY", ()),
        bins=fields["bins"],
        bins_address=address + layout.state.fields["bins"].offset,
        binmap=fields["binmap"],
        next=fields["next"],
        next_free=fields["next_free"],
        attached_threads=fields["attached_threads"],
        system_mem=fields["system_mem"],
        max_system_mem=fields["max_system_mem"],
        have_fastchunks=fields.get("have_fastchunks", 0),
    )


def _is_top(abi: Abi, bins_address: int, top: int) -> bool:
    return top not in (0, bins_address - abi.header)  # bin 1's header is initial_top


def read_arenas(memory: Memory, abi: Abi, layout: Layout, main_arena: int) -> ArenaRing:
    """Return all arenas, found by following ``next`` from the one at ``main_arena``.

    An arena other than main_arena must lie behind the heap_info of its own first heap (_int_new_arena), so a stray
    pointer ends the reading and is not taken for an arena. Raises MemoryFault where main_arena itself is unreadable.
    """
    arenas = [read_arena(memory, abi, layout, main_arena, 0)]
    seen = {main_arena}
    problem = None
    while arenas[-1].next != main_arena:
        address, before = arenas[-1].next, arenas[-1].address
        problem = _not_an_arena(memory, abi, layout, address, before, seen)
        if problem is None and len(arenas) >= MAX_ARENAS:
            problem = f"The ring of arenas did not come back to main_arena at {main_arena:#x} in {MAX_ARENAS} steps."
        if problem is None:
            try:
                arenas.append(read_arena(memory, abi, layout, address, len(arenas)))
            except MemoryFault as fault:
                problem = f"The arena at {address:#x}, which next of the arena at {before:#x} names: {fault}."
        if problem is not None:
            break
        seen.add(address)
    count = len(arenas)
    numbered = (replace(arena, number=count - place) for place, arena in enumerate(arenas[1:], 1))
    return ArenaRing((arenas[0], *numbered), problem)


def _not_an_arena(memory: Memory, abi: Abi, layout: Layout, address: int, before: int, seen: set[int]) -> str | None:
    link = f"next of the arena at {before:#x}"
    if address in seen:
        return f"The ring of arenas is broken: {link} leads back to {address:#x}, not to main_arena."
    if address % abi.word_size:
        return f"The ring of arenas is broken: {link} is {address:#x}, which is no multiple of {abi.word_size}."
    if layout.heap_info is None:
        return None
    heap = address - layout.heap_info.size
    try:
        data = memory.read(heap, layout.heap_info.size)
    except MemoryFault as fault:
        return f"The ring of arenas is broken: {link} is {address:#x}, and no heap_info is before that ({fault})."
    owner = layout.heap_info.decode(data, abi.order)["ar_ptr"]
    if owner == address:
        return None
    return (
        f"The ring of arenas is broken: {link} is {address:#x}, but ar_ptr of the heap_info before that, at "
        f"{heap:#x}, is {owner:#x}; it should be {address:#x}."
    )
