"""Which of glibc's checks a finding makes fail, and in which call: what free would do, and what malloc looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gdbheap.memory import Memory, MemoryFault
from gdbheap.ptmalloc.abi import FLAG_BITS, IS_MMAPPED, NON_MAIN_ARENA, PREV_INUSE, Abi
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.bins import bin_index, fastbin_index
from gdbheap.ptmalloc.check_lists import ListView
from gdbheap.ptmalloc.checks import CRASH, Rules
from gdbheap.ptmalloc.culprit import Around
from gdbheap.ptmalloc.finding import Catch, Finding
from gdbheap.ptmalloc.state import HeapState
from gdbheap.simulate.free_chunk import Freed

_THIS = "the chunk whose header or data this is"
_BEFORE = "the chunk before that"
_BEHIND = "the chunk behind that"
#: Unsorted chunks that are looked at: malloc itself looks at so many at most.
_SORTED = 10000
#: Chunks of one list of which it is told what taking them off would print.
_ON_LIST = 64


@dataclass(frozen=True)
class CatchFacts:
    """What decides which check fails.

    ``free`` says how free of a pointer ends (None: it cannot be told), with the thread's tcache or, if the second
    argument is set, as if there were none; it is None where that is not known. ``single_thread`` is SINGLE_THREAD_P,
    None where that is not known. ``curbrk`` is libc's __curbrk. ``own`` are chunks that malloc itself uses, so that
    nobody frees them.
    """

    rules: Rules
    free: Callable[[int, bool], Freed | None] | None = None
    single_thread: bool | None = None
    curbrk: int | None = None
    own: frozenset[int] = frozenset()


class Catcher:
    """Says of each finding which checks it makes fail."""

    def __init__(self, memory: Memory, state: HeapState, views: Sequence[ListView], facts: CatchFacts) -> None:
        self._memory = memory
        self._state = state
        self._views = views
        self._facts = facts
        self._cached: dict[int, tuple[Catch, ...]] = {}

    @property
    def _abi(self) -> Abi:
        return self._state.abi

    def catches(self, finding: Finding, around: Around) -> tuple[Catch, ...]:
        """Return the checks that fail because of ``finding``, those that need the least first."""
        found: list[Catch] = []
        try:
            found += self._of_lists(finding)
            found += self._of_top(finding)
            found += self._of_chunks(finding, around)
        except MemoryFault:
            pass  # what cannot be read is told by the findings themselves
        unique: dict[tuple[str, str, int | None], Catch] = {}
        for catch in found:
            if self._facts.rules.prints(catch.message):
                unique.setdefault((catch.message, catch.call, catch.pointer), catch)
        return tuple(sorted(unique.values(), key=lambda catch: not catch.now))

    # --- free and realloc -------------------------------------------------------------------------------------------

    def _of_chunks(self, finding: Finding, around: Around) -> Iterator[Catch]:
        names = [(around.here, _THIS), (around.before, _BEFORE), (around.behind, _BEHIND)]
        # "free" is free by the flag behind it alone: perhaps that flag is what is wrong.
        chunks: list[tuple[int, str]] = [
            (chunk.address, name) for chunk, name in names if chunk is not None and chunk.state in ("used", "free")
        ]
        unmet = finding.kind in ("chunk-size", "chunk-flags", "mmapped-header") and around.here is None
        if unmet and finding.chunk is not None and not self._is_listed(finding.chunk):
            chunks.insert(0, (finding.chunk, _THIS))
        if finding.kind == "top-pointer" and finding.chunk is None:
            arena = self._arena(finding)
            if arena is not None and arena.top:
                chunks.append((arena.top, "the chunk that is taken for top"))
        if finding.kind in ("system-mem", "top-size"):
            chunks += self._last_used(around)
        for address, name in chunks:
            if address in self._facts.own:
                continue
            yield from self._free(address, name)
            yield from self._realloc(address, name)
        for chunk, name in names:
            if chunk is not None and chunk.state in ("tcache", "fastbin"):
                yield from self._free(chunk.address, name, handed_out=True)

    def _last_used(self, around: Around) -> list[tuple[int, str]]:
        before = around.before
        return [(before.address, "the chunk before top")] if before is not None and before.state == "used" else []

    def _is_listed(self, chunk: int) -> bool:
        return any(node.address == chunk for view in self._views for node in view.nodes)

    def _free(self, chunk: int, name: str, handed_out: bool = False) -> Iterator[Catch]:
        """Yield what free of a chunk prints; one that is free now has to be ``handed_out`` by malloc before."""
        free = self._facts.free
        if free is None:
            return
        pointer = chunk + self._abi.header
        what = f"free({pointer:#x}), {name}"
        if handed_out:
            end = free(pointer, True)
            if end is not None and end.kind in ("abort", "crash"):
                when = f"{what}, once malloc has handed it out, and no tcache bin takes it."
                yield Catch(end.message or CRASH, "free", when, pointer, now=False)
            return
        end, now, when = free(pointer, False), True, f"{what}."
        if end is not None and end.kind in ("tcache", "fastbin"):
            now = False
            limit = self._state.params.get("tcache_count")
            bin_ = f"tcache bin {end.index}" if end.kind == "tcache" else f"fastbin {end.index}"
            when = f"{what}, once {bin_} takes no more ({limit} at most)."
            end = free(pointer, True)
            if end is None or end.kind not in ("abort", "crash"):
                return
        if end is None or end.kind not in ("abort", "crash"):
            return
        yield Catch(end.message or CRASH, "free", when, pointer, now=now)

    def _realloc(self, chunk: int, name: str) -> Iterator[Catch]:
        message = self._realloc_fails(chunk)
        if message is not None:
            pointer = chunk + self._abi.header
            yield Catch(message, "realloc", f"realloc({pointer:#x}, ...), {name}.", pointer)

    def _realloc_fails(self, chunk: int) -> str | None:
        """Return what realloc of a chunk prints (__libc_realloc, _int_realloc, mremap_chunk), None for nothing."""
        abi = self._abi
        limit = 1 << 8 * abi.word_size
        try:
            word = self._word(chunk + abi.word_size)
            size = word & ~FLAG_BITS
            if word & IS_MMAPPED:
                return self._mremap_fails(chunk, word)
            if (chunk + abi.header) % abi.alignment or chunk > (-size) % limit:
                return "realloc(): invalid pointer"
            if word & NON_MAIN_ARENA and not any(
                heap.address <= chunk < heap.address + heap.max_size
                for chain in self._state.heaps.values()
                for heap in chain.heaps
            ):
                return CRASH
            arena = self._arena_at(chunk)
            if arena is None:
                return None
            if word <= abi.header or size >= arena.system_mem:
                return "realloc(): invalid old size"
            behind = self._word(chunk + size + abi.word_size)
            if behind <= abi.header or behind & ~FLAG_BITS >= arena.system_mem:
                return "realloc(): invalid next size"
        except MemoryFault:
            return CRASH
        return None

    def _mremap_fails(self, chunk: int, word: int) -> str | None:
        abi = self._abi
        offset = self._word(chunk)
        total = offset + (word & ~FLAG_BITS)
        if self._state.layout.tcache_counts_down and not self._state.layout.has_fastbins:
            offset &= ~1
            total = offset + (word & ~FLAG_BITS) + abi.header
        place = (chunk + abi.header) % abi.page_size
        if ((chunk - offset) | total) % abi.page_size or place & (place - 1):
            return "mremap_chunk(): invalid pointer"
        return None

    def _arena_at(self, chunk: int) -> Arena | None:
        for arena in self._state.ring.arenas[1:]:
            chain = self._state.heaps.get(arena.address)
            if chain is not None and any(heap.address <= chunk < heap.address + heap.max_size for heap in chain.heaps):
                return arena
        return self._state.ring.arenas[0]

    def _arena(self, finding: Finding) -> Arena | None:
        return next((arena for arena in self._state.ring.arenas if arena.address == finding.arena), None)

    def _word(self, address: int) -> int:
        return self._abi.read_word(self._memory, address % (1 << 8 * self._abi.word_size))

    # --- the top chunk ----------------------------------------------------------------------------------------------

    def _of_top(self, finding: Finding) -> Iterator[Catch]:
        arena = self._arena(finding)
        if finding.kind not in ("top-size", "top-pointer", "system-mem") or arena is None:
            return
        abi = self._abi
        try:
            word = self._word(arena.top + abi.word_size)
        except MemoryFault:
            yield Catch(CRASH, "malloc", "The next malloc that would be cut from the top chunk.")
            return
        size = word & ~FLAG_BITS
        if size > arena.system_mem:
            yield Catch(
                "malloc(): corrupted top size", "malloc", "The next malloc that would be cut from the top chunk.",
                low=abi.min_size,
            )  # fmt: skip
            return
        low = max(size - abi.min_size + abi.alignment, abi.min_size)
        when = f"The next malloc that needs more than the top chunk has, a chunk of {low:#x} bytes or more."
        end = arena.top + size
        if size < abi.min_size or not word & PREV_INUSE or end % abi.page_size:
            yield Catch("assertion in sysmalloc", "malloc", when, low=low)
        elif arena.is_main and arena.contiguous and self._facts.curbrk is not None and end > self._facts.curbrk:
            yield Catch("break adjusted to free malloc space", "malloc", when, low=low)

    # --- free lists -------------------------------------------------------------------------------------------------

    def _of_lists(self, finding: Finding) -> Iterator[Catch]:
        if finding.kind == "bin-head":
            yield from self._of_bin_head(finding)
        for view in self._views:
            owners = (finding.arena, finding.tcache)
            near = any(node.address == finding.chunk for node in view.nodes)
            if not (near or (finding.listed == view.name and view.owner in owners) or self._concerns(finding, view)):
                continue
            arena = next((item for item in self._state.ring.arenas if item.address == view.owner), None)
            if view.kind == "tcache":
                yield from self._of_tcache(finding, view)
            elif arena is None:
                continue
            elif view.kind == "fastbin":
                yield from self._of_fastbin(finding, view, arena)
            elif view.kind == "unsorted":
                yield from self._of_unsorted(arena)
            else:
                yield from self._of_sorted(view, arena)

    def _concerns(self, finding: Finding, view: ListView) -> bool:
        """Whether the word of a finding is in the header of a chunk on a list, or in that of the chunk behind it."""
        headers = (finding.address - self._abi.word_size, finding.address)
        return any(node.address in headers or node.address + (node.word & ~FLAG_BITS) in headers for node in view.nodes)

    def _of_bin_head(self, finding: Finding) -> Iterator[Catch]:
        arena = self._arena(finding)
        if arena is None:
            return
        index = (finding.address - arena.bins_address) // (2 * self._abi.word_size) + 1
        front, back = arena.bins[2 * index - 2 : 2 * index]
        header = arena.bin_header(self._abi, index)
        is_front = (finding.address - arena.bins_address) % (2 * self._abi.word_size) == 0
        if index == 1:
            if back != header and not any(view.kind == "unsorted" and view.owner == arena.address and view.nodes
                                          for view in self._views):  # fmt: skip
                yield from self._of_unsorted(arena)
            if is_front and front != header:
                if back == header:
                    small = "The next malloc that takes a part of a large chunk and leaves the rest of it."
                    yield Catch("malloc(): corrupted unsorted chunks", "malloc", small, low=self._abi.min_large_size)
                    yield Catch(
                        "malloc(): corrupted unsorted chunks 2", "malloc",
                        "The next malloc that takes a part of a chunk from a larger bin.",
                    )  # fmt: skip
                yield Catch(
                    "free(): corrupted unsorted chunks", "free",
                    "The next free of a chunk that neither a tcache nor a fastbin takes.",
                )  # fmt: skip
            return
        size = (index - (1 if self._abi.alignment > self._abi.header else 0)) * self._abi.alignment
        if size < self._abi.min_large_size:
            if not is_front:
                yield Catch(
                    "malloc(): smallbin double linked list corrupted", "malloc", self._malloc_of(size), low=size,
                    high=size,
                )  # fmt: skip
            else:
                yield Catch(
                    "free(): chunks in smallbin corrupted", "free",
                    f"The next free that leaves a free chunk of {size:#x} bytes.",
                )  # fmt: skip

    def _malloc_of(self, low: int, high: int | None = None) -> str:
        first = max(low - self._abi.word_size - self._abi.alignment + 1, 0)
        last = (high or low) - self._abi.word_size
        return f"malloc of {first} to {last} bytes, once neither the tcache nor a fastbin has a chunk for it."

    def _of_tcache(self, finding: Finding, view: ListView) -> Iterator[Catch]:
        if finding.kind not in ("list-pointer", "list-loop", "list-link"):
            return
        low, high = self._tcache_sizes(view)
        place = len(view.nodes)
        count = "The next malloc" if not place else f"The malloc after the next {place}"
        when = f"{count} of {max(low - self._abi.word_size - self._abi.alignment + 1, 0)} to "
        when += f"{high - self._abi.word_size} bytes."
        marked = "free of a chunk whose second word is the tcache's mark, as on a second free, of that size."
        if finding.kind == "list-pointer":
            unaligned = "multiple of" in finding.text and "place for a chunk" in finding.text
            if unaligned:
                yield Catch("malloc(): unaligned tcache chunk detected", "malloc", when, low=low, high=high,
                            now=not place)  # fmt: skip
                yield Catch("free(): unaligned chunk detected in tcache 2", "free", marked)
                yield Catch("tcache_thread_shutdown(): unaligned tcache chunk detected", "exit", "The thread ends.")
            else:
                yield Catch(CRASH, "malloc", when, low=low, high=high, now=not place)
        if finding.kind == "list-loop":
            yield Catch("free(): too many chunks detected in tcache", "free", marked)

    def _tcache_sizes(self, view: ListView) -> tuple[int, int]:
        from gdbheap.ptmalloc.tcache import tcache_range

        return tcache_range(self._abi, view.index)

    def _of_fastbin(self, finding: Finding, view: ListView, arena: Arena) -> Iterator[Catch]:
        abi = self._abi
        size = (view.index + 2) << (4 if abi.word_size == 8 else 3)
        place = next((i for i, node in enumerate(view.nodes) if node.address == finding.chunk), None)
        large = "malloc_trim, mallopt, or a malloc or free of a large chunk: fastbins are merged."
        if finding.kind == "list-size" and place is not None:
            if place == 0:
                yield Catch("malloc(): memory corruption (fast)", "malloc", self._malloc_of(size), low=size, high=size)
                yield Catch(
                    "invalid fastbin entry (free)", "realloc",
                    f"realloc or memalign that gives back a rest of {size:#x} bytes, while the tcache takes no more.",
                )  # fmt: skip
            else:
                yield Catch("malloc(): chunk size mismatch in fastbin", "malloc", self._malloc_of(size), low=size,
                            high=size)  # fmt: skip
            if fastbin_index(abi, view.nodes[place].word & ~FLAG_BITS) != view.index:
                yield from self._consolidating("malloc_consolidate(): invalid chunk size", large)
        elif finding.kind in ("list-pointer", "list-loop"):
            if "multiple of" in finding.text and "place for a chunk" in finding.text:
                yield from self._unaligned(view, size)
                yield from self._consolidating("malloc_consolidate(): unaligned fastbin chunk detected", large)
                for name, call in (("int_mallinfo", "mallinfo or mallinfo2"), ("__malloc_info", "malloc_info")):
                    yield Catch(f"{name}(): unaligned fastbin chunk detected", "mallinfo", f"The next {call}.")
            elif finding.kind == "list-pointer":
                yield Catch(CRASH, "malloc", self._malloc_of(size), low=size, high=size)
        else:
            for node in view.nodes:
                before = finding.address == node.address or finding.address == node.address + abi.word_size
                if before and not node.word & PREV_INUSE:
                    previous = node.address - self._word(node.address)
                    if self._word(previous + abi.word_size) & ~FLAG_BITS != self._word(node.address):
                        yield from self._consolidating("corrupted size vs. prev_size in fastbins", large)

    def _consolidating(self, message: str, when: str) -> Iterator[Catch]:
        yield Catch(message, "trim", when)
        yield Catch(message, "malloc", when, low=self._abi.min_large_size)

    def _unaligned(self, view: ListView, size: int) -> Iterator[Catch]:
        when = self._malloc_of(size)
        if not view.nodes:
            yield Catch("malloc(): unaligned fastbin chunk detected 2", "malloc", when, low=size, high=size)
            return
        if self._facts.single_thread is not True:
            yield Catch("malloc(): unaligned fastbin chunk detected", "malloc", when, low=size, high=size)
        if self._facts.single_thread is not False:
            yield Catch("malloc(): unaligned fastbin chunk detected 3", "malloc", when, low=size, high=size)

    def _of_unsorted(self, arena: Arena) -> tuple[Catch, ...]:
        if arena.address not in self._cached:
            self._cached[arena.address] = tuple(self._sorting(arena))
        return self._cached[arena.address]

    def _sorting(self, arena: Arena) -> Iterator[Catch]:
        abi = self._abi
        when = (
            "The next malloc that goes through the unsorted list: a request that no tcache bin, fastbin or small bin "
            "of its size serves."
        )
        failure = None
        try:
            failure = self._sorting_fails(arena)
        except MemoryFault:
            failure = CRASH
        if failure is not None:
            yield Catch(failure, "malloc", when)
        header, front = arena.bin_header(abi, 1), arena.bins[0]
        try:
            bad = front != header and self._word(front + abi.header + abi.word_size) != header
        except MemoryFault:
            yield Catch(CRASH, "free", "The next free of a chunk that neither a tcache nor a fastbin takes.")
            return
        if bad:
            yield Catch(
                "free(): corrupted unsorted chunks", "free",
                "The next free of a chunk that neither a tcache nor a fastbin takes.",
            )  # fmt: skip

    def _sorting_fails(self, arena: Arena) -> str | None:
        """Return what _int_malloc prints while it sorts the unsorted list, None for nothing."""
        abi = self._abi
        header = arena.bin_header(abi, 1)
        victim, first = arena.bins[1], True
        for _ in range(_SORTED):
            if victim == header:
                return None
            word = self._word(victim + abi.word_size)
            size = word & ~FLAG_BITS
            if size <= abi.header or size > arena.system_mem:
                return "malloc(): invalid size (unsorted)"
            behind = self._word(victim + size + abi.word_size)
            if behind < abi.header or behind > arena.system_mem:
                return "malloc(): invalid next size (unsorted)"
            if self._word(victim + size) & ~FLAG_BITS != size:
                return "malloc(): mismatching next->prev_size (unsorted)"
            fd, bk = (self._word(victim + abi.header + place * abi.word_size) for place in (0, 1))
            if self._word(bk + abi.header) != victim or (first and fd != header):
                return "malloc(): unsorted double linked list corrupted"
            if behind & PREV_INUSE:
                return "malloc(): invalid next->prev_inuse (unsorted)"
            failure = self._inserting_fails(arena, size)
            if failure is not None:
                return failure
            victim, first = bk, False
        return None

    def _inserting_fails(self, arena: Arena, size: int) -> str | None:
        """Return what sorting a chunk of ``size`` bytes into its large bin prints, None for nothing."""
        abi = self._abi
        if size < abi.min_large_size:
            return None
        index = bin_index(abi, size)
        header, front = arena.bin_header(abi, index), arena.bins[2 * index - 2]
        if front == header or arena.bins[2 * index - 1] == header:
            return None
        word = abi.word_size
        if size < self._word(arena.bins[2 * index - 1] + word) & ~FLAG_BITS:
            return None  # it becomes the last: nothing is checked up to 2.41
        fwd = front
        for _ in range(_SORTED):
            if size >= self._word(fwd + word) & ~FLAG_BITS:
                break
            fwd = self._word(fwd + abi.header + 2 * word)
        if size == self._word(fwd + word) & ~FLAG_BITS:
            fwd = self._word(fwd + abi.header)
        else:
            back = self._word(fwd + abi.header + 3 * word)
            if self._word(back + abi.header + 2 * word) != fwd:
                return "malloc(): largebin double linked list corrupted (nextsize)"
        if self._word(self._word(fwd + abi.header + word) + abi.header) != fwd:
            return "malloc(): largebin double linked list corrupted (bk)"
        return None

    def _of_sorted(self, view: ListView, arena: Arena) -> Iterator[Catch]:
        """Yield what taking chunks out of a small or large bin, and sorting chunks into a large one, prints."""
        abi = self._abi
        if any(finding.kind == "list-pointer" and "place for a chunk" in finding.text for finding in view.findings):
            when = f"The next memalign or its like that looks for a chunk in {view.name}."
            yield Catch("_int_memalign(): unaligned chunk detected", "malloc", when)
        back = arena.bins[2 * view.index - 1]
        if view.kind == "small":
            size = view.index * abi.alignment - (abi.alignment if abi.alignment > abi.header else 0)
            try:
                bad = self._word(self._word(back + abi.header + abi.word_size) + abi.header) != back
            except MemoryFault:
                yield Catch(CRASH, "malloc", self._malloc_of(size), low=size, high=size)
            else:
                if bad:
                    yield Catch(
                        "malloc(): smallbin double linked list corrupted", "malloc", self._malloc_of(size), low=size,
                        high=size,
                    )  # fmt: skip
            front = arena.bins[2 * view.index - 2]
            if self._back_of(front) != arena.bin_header(abi, view.index):
                yield Catch(
                    "free(): chunks in smallbin corrupted", "free",
                    f"The next free that leaves a free chunk of {size:#x} bytes.",
                )  # fmt: skip
        for node in view.nodes[-_ON_LIST:]:
            message = self._unlinking_fails(node.address)
            if message is None:
                continue
            size = node.word & ~FLAG_BITS
            when = f"The next malloc that takes the chunk at {node.address:#x} off the {view.name}"
            yield Catch(message, "malloc", f"{when}: of at most {max(size - abi.word_size, 0)} bytes.",
                        low=abi.min_size, high=size)  # fmt: skip
        if view.kind == "large":
            sizes = {node.word & ~FLAG_BITS for node in view.nodes}
            for size in sorted({*sizes, *(size + abi.alignment for size in sizes)}):
                try:
                    failure = self._inserting_fails(arena, size)
                except MemoryFault:
                    failure = CRASH
                if failure is not None:
                    yield Catch(
                        failure, "malloc",
                        f"The next malloc that sorts a free chunk of about {size:#x} bytes into {view.name}.",
                    )  # fmt: skip

    def _back_of(self, chunk: int) -> int | None:
        try:
            return self._word(chunk + self._abi.header + self._abi.word_size)
        except MemoryFault:
            return None

    def _unlinking_fails(self, chunk: int) -> str | None:
        """Return what unlink_chunk prints, None for nothing."""
        abi = self._abi
        word = abi.word_size
        try:
            size = self._word(chunk + word) & ~FLAG_BITS
            if self._word(chunk + size) != size:
                return "corrupted size vs. prev_size"
            fd, bk = (self._word(chunk + abi.header + place * word) for place in (0, 1))
            if self._word(fd + abi.header + word) != chunk or self._word(bk + abi.header) != chunk:
                return "corrupted double-linked list"
            if size < abi.min_large_size:
                return None
            smaller, larger = (self._word(chunk + abi.header + place * word) for place in (2, 3))
            if not smaller:
                return None
            # As in C, the second is not looked at where the first is wrong.
            if (
                self._word(smaller + abi.header + 3 * word) != chunk
                or self._word(larger + abi.header + 2 * word) != chunk
            ):
                return "corrupted double-linked list (not small)"
        except MemoryFault:
            return CRASH
        return None
