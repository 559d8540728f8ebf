"""malloc_state itself: each of its fields against the others, the heaps, and the memory that it describes."""

from __future__ import annotations

from collections.abc import Iterator

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, PREV_INUSE, Abi
from gdbheap.ptmalloc.arena import MOST_THREADS, NONCONTIGUOUS_BIT, Arena
from gdbheap.ptmalloc.bins import LAST_BIN
from gdbheap.ptmalloc.check_lists import hexadecimal
from gdbheap.ptmalloc.finding import Finding
from gdbheap.ptmalloc.heaps import HeapChain, HeapInfo, heap_for, heap_max_size, read_heap
from gdbheap.ptmalloc.layout import LayoutUnknown
from gdbheap.ptmalloc.state import HeapState

#: Chunks that are followed at most to see whether top points to one of them.
_FOLLOWED = 100_000
#: The flags that arenas had up to glibc 2.26: FASTCHUNKS_BIT and ARENA_CORRUPTION_BIT.
_OLD_FLAGS = 5


class ArenaChecker:
    """Checks the fields of one arena; ``curbrk`` is libc's __curbrk, None where it is not known."""

    def __init__(self, memory: Memory, state: HeapState, arena: Arena, curbrk: int | None) -> None:
        self._memory = memory
        self._state = state
        self._arena = arena
        self._curbrk = curbrk

    @property
    def _abi(self) -> Abi:
        return self._state.abi

    def findings(self) -> Iterator[Finding]:
        """Yield what is wrong with the arena's own fields, its heaps and its top chunk."""
        yield from self._fields()
        yield from self._binmap()
        if not self._arena.is_main:
            yield from self._heaps()
        if self._arena.has_top(self._abi):
            yield from self._top()

    def _place(self, name: str, index: int = 0) -> tuple[int, int]:
        """Return the address and the size of a field of malloc_state."""
        field = self._state.layout.state.fields[name]
        size = field.size // field.count
        return self._arena.address + field.offset + index * size, size

    def _field(
        self, kind: str, name: str, found: int, expected: str, why: str, *, index: int | None = None, chunk: int = 0
    ) -> Finding:
        address, size = self._place(name, index or 0)
        shown = name if index is None else f"{name}[{index}]"
        return Finding(
            kind, address, f"{shown} of {self._arena.name} is {hexadecimal(found)}; it should be {expected}{why}.",
            hexadecimal(found), expected, self._arena.address, chunk or None, size=size,
        )  # fmt: skip

    def _fields(self) -> Iterator[Finding]:
        arena, abi = self._arena, self._abi
        allowed = NONCONTIGUOUS_BIT
        if "have_fastchunks" not in self._state.layout.state.fields and self._state.layout.has_fastbins:
            allowed |= _OLD_FLAGS
        if arena.flags & ~allowed or not (arena.is_main or arena.flags & NONCONTIGUOUS_BIT):
            expected = "0 or 2" if arena.is_main else "2"
            yield self._field("arena-field", "flags", arena.flags & 0xFFFFFFFF, expected, " (NONCONTIGUOUS_BIT)")
        if arena.mutex not in (0, 1, 2):
            yield self._field("arena-field", "mutex", arena.mutex & 0xFFFFFFFF, "0, 1 or 2", ", as a lock is")
        if arena.last_remainder and (arena.last_remainder + abi.header) % abi.alignment:
            yield self._field(
                "arena-field", "last_remainder", arena.last_remainder, "0 or where a chunk can be",
                "; glibc only compares it with chunks",
            )  # fmt: skip
        members = {item.address for item in self._state.ring.arenas}
        if arena.next_free and arena.next_free not in members and self._state.ring.problem is None:
            yield self._field("arena-field", "next_free", arena.next_free, "0 or an arena", "")
        if arena.attached_threads > MOST_THREADS:
            yield self._field(
                "arena-field", "attached_threads", arena.attached_threads, f"at most {MOST_THREADS}",
                ", as many as Linux lets there be",
            )  # fmt: skip
        if arena.system_mem > arena.max_system_mem:
            yield self._field(
                "arena-field", "max_system_mem", arena.max_system_mem, f"at least {arena.system_mem:#x}",
                ", its system_mem",
            )  # fmt: skip

    def _binmap(self) -> Iterator[Finding]:
        arena, abi = self._arena, self._abi
        if not arena.has_top(abi):
            return
        for index in range(2, LAST_BIN + 1):
            header = arena.bin_header(abi, index)
            word, bit = arena.binmap[index >> 5], 1 << (index & 31)
            if arena.bins[2 * index - 2] != header and arena.bins[2 * index - 1] != header and not word & bit:
                yield self._field(
                    "binmap", "binmap", word, f"{word | bit:#x}", f", as bin {index} holds chunks", index=index >> 5
                )

    # --- heaps of a thread's arena ----------------------------------------------------------------------------------

    def _heaps(self) -> Iterator[Finding]:
        chain = self._state.heaps.get(self._arena.address, HeapChain(()))
        if chain.problem is not None:
            broken = self._broken_heap(chain)
            yield broken if broken is not None else self._lost_top(chain.problem)
        page = self._abi.page_size
        for heap in chain.heaps:
            for name, value, wrong, expected in (
                ("size", heap.size, heap.size % page, f"a multiple of {page:#x}"),
                (
                    "mprotect_size", heap.mprotect_size,
                    not heap.size <= heap.mprotect_size <= heap.max_size or heap.mprotect_size % page,
                    f"a multiple of {page:#x} from {heap.size:#x} to {heap.max_size:#x}",
                ),
                (
                    "pagesize", heap.page_size, heap.page_size < page or heap.page_size & (heap.page_size - 1),
                    f"a power of two, at least {page:#x}",
                ),
            ):  # fmt: skip
                if wrong:
                    yield self._heap_field(heap, name, value, expected)
        if chain.problem is None and not any(heap.size % page for heap in chain.heaps):
            total = sum(heap.size for heap in chain.heaps)
            if total != self._arena.system_mem:
                yield self._field(
                    "system-mem", "system_mem", self._arena.system_mem, f"{total:#x}", ", the sizes of its heaps"
                )

    def _heap_field(self, heap: HeapInfo, name: str, value: int, expected: str, why: str = "") -> Finding:
        info = self._state.layout.heap_info
        assert info is not None  # there are heaps
        field = info.fields[name]
        return Finding(
            "heap-info", heap.address + field.offset,
            f"{name} of the heap at {heap.address:#x} of {self._arena.name} is {hexadecimal(value)}; it should be "
            f"{expected}{why}.",
            hexadecimal(value), expected, self._arena.address, size=field.size,
        )  # fmt: skip

    def _broken_heap(self, chain: HeapChain) -> Finding | None:
        """Return what is wrong in the heap_info at which the chain of heaps breaks; None where none can be read."""
        state, arena = self._state, self._arena
        info = state.layout.heap_info
        if info is None:
            return None
        largest = heap_max_size(state.abi, state.layout, state.params)
        first = arena.address - info.size
        newest = heap_for(arena.top, largest)
        try:
            newest_heap = read_heap(self._memory, state.abi, state.layout, newest, largest)
        except (MemoryFault, LayoutUnknown):
            return None
        heap = newest_heap
        if chain.heaps:
            last = chain.heaps[-1]
            try:
                heap = read_heap(self._memory, state.abi, state.layout, last.prev, largest)
            except (MemoryFault, LayoutUnknown):
                return self._heap_field(last, "prev", last.prev, "the heap before it", "")
            if last.prev % largest or heap.arena != arena.address or any(h.address == last.prev for h in chain.heaps):
                same = last.prev % largest == 0 and not any(h.address == last.prev for h in chain.heaps)
                if not same or (heap.size % state.abi.page_size or heap.size > largest or not heap.size):
                    return self._heap_field(
                        last, "prev", last.prev, f"{first:#x}" if len(chain.heaps) == 1 else "the heap before it", ""
                    )
        if heap.arena != arena.address:
            sane = heap.size and not heap.size % state.abi.page_size and heap.size <= largest
            if not chain.heaps and not sane:
                return None  # nothing there looks like a heap: top itself is wrong
            return self._heap_field(heap, "ar_ptr", heap.arena, f"{arena.address:#x}", "")
        if not info.size + state.abi.min_size <= heap.size <= largest:
            return self._heap_field(
                heap, "size", heap.size, f"from {info.size + state.abi.min_size:#x} to {largest:#x}", ""
            )
        return self._heap_field(heap, "prev", heap.prev, f"the heap before it: the arena's first is at {first:#x}", "")

    def _lost_top(self, problem: str) -> Finding:
        address, size = self._place("top")
        return Finding(
            "top-pointer", address, problem, hexadecimal(self._arena.top), "the top chunk, in the newest heap",
            self._arena.address, size=size,
        )  # fmt: skip

    # --- the top chunk ----------------------------------------------------------------------------------------------

    def _top(self) -> Iterator[Finding]:
        arena, abi, state = self._arena, self._abi, self._state
        chain = state.heaps.get(arena.address, HeapChain(()))
        if not arena.is_main and (chain.problem is not None or not chain.heaps):
            return
        base, end = self._extent(chain)
        if base is not None and arena.is_main and base + arena.system_mem != end:
            yield self._field(
                "system-mem", "system_mem", arena.system_mem, f"{end - base:#x}",
                ", as the heap goes from sbrk_base to the end of the top chunk",
            )  # fmt: skip
        if (arena.top + abi.header) % abi.alignment or (base is not None and not base <= arena.top < end):
            where = f" from {base:#x} to {end:#x}" if base is not None else ""
            yield self._field("top-pointer", "top", arena.top, "a place for a chunk" + where, ", in the arena's memory")
            return
        place = arena.top + abi.word_size
        try:
            word = abi.read_word(self._memory, place)
        except MemoryFault as fault:
            yield self._field("top-pointer", "top", arena.top, "a chunk", f"; GDB {fault}")
            return
        size = word & ~FLAG_BITS
        last = None if base is None else self._last_chunk(end)
        if last is not None:
            yield self._field("top-pointer", "top", arena.top, f"{last:#x}", ", where the last chunk of its memory is")
            return
        flags = word & FLAG_BITS & ~PREV_INUSE
        expected = None if base is None else end - arena.top
        if (
            (size > arena.system_mem and size != expected)
            or size < abi.min_size
            or (expected is not None and size != expected)
            or (arena.top + size) % abi.page_size
        ):
            should = "" if expected is None else f"{expected:#x}, up to the end of the arena's memory at {end:#x}"
            should = should or f"from {abi.min_size:#x} to system_mem, {arena.system_mem:#x}, and end where a page ends"
            yield Finding(
                "top-size", place,
                f"The size word of the top chunk of {arena.name}, at {arena.top:#x}, is {hexadecimal(word)}; its size "
                f"should be {should}.",
                hexadecimal(word), should, arena.address, arena.top, size=abi.word_size,
            )  # fmt: skip
        elif flags or not word & PREV_INUSE:
            yield Finding(
                "top-size", place,
                f"The size word of the top chunk of {arena.name}, at {arena.top:#x}, is {word:#x}; it should be "
                f"{size | PREV_INUSE:#x}, as the chunk before top is never free and no other flag is set.",
                f"{word:#x}", f"{size | PREV_INUSE:#x}", arena.address, arena.top, size=abi.word_size,
            )  # fmt: skip

    def _last_chunk(self, end: int) -> int | None:
        """Return the last chunk before ``end``, where chunks lead there from what ``top`` points to; None if not."""
        abi, chunk, count = self._abi, self._arena.top, 0
        try:
            for _ in range(_FOLLOWED):
                word = abi.read_word(self._memory, chunk + abi.word_size)
                size = word & ~FLAG_BITS
                if size < abi.min_size or size % abi.alignment or chunk + size > end:
                    return None
                if chunk + size == end:
                    return chunk if count else None
                chunk += size
                count += 1
        except MemoryFault:
            pass
        return None

    def _extent(self, chain: HeapChain) -> tuple[int | None, int]:
        """Return where the memory that top ends begins and ends; None and 0 where that does not follow."""
        arena = self._arena
        if not arena.is_main:
            return chain.heaps[0].address, chain.heaps[0].end
        if not arena.contiguous:
            return None, 0
        base = self._state.params.get("sbrk_base")
        end = base + arena.system_mem
        if self._curbrk is None:
            return base, end
        # The break bounds the heap: where top ends with it, or system_mem goes beyond it, top's own size tells.
        reached = arena.top + (arena.top_size or 0)
        if base <= arena.top < reached <= self._curbrk and (reached == self._curbrk or end > self._curbrk):
            return base, reached
        return (base, end) if base < end <= self._curbrk else (None, 0)
