"""The simulated allocator: glibc's own bytes under a layer that can be written, and what every operation needs of them.

An operation reads and writes the words that glibc's own code would: size words, links, the fields of malloc_state, mp_
and the tcache. So whatever reads a heap can read the one that an operation leaves behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gdbheap.memory import Memory
from gdbheap.ptmalloc.abi import NON_MAIN_ARENA
from gdbheap.ptmalloc.bins import LAST_BIN, bin_index, fastbin_index
from gdbheap.ptmalloc.heaps import heap_for, heap_max_size
from gdbheap.ptmalloc.params import SIGNED, Params
from gdbheap.ptmalloc.tcache import SMALL_BINS
from gdbheap.simulate.calls import Call, Unpredictable
from gdbheap.simulate.glibc import Glibc
from gdbheap.simulate.trace import Abort, Freed, Step, assertion_in
from gdbheap.simulate.words import Words

if TYPE_CHECKING:
    from gdbheap.simulate.linux import Kernel

#: The bit of malloc_state's flags that says, up to glibc 2.26, that there are no chunks in fastbins.
_FASTCHUNKS_BIT = 1


@dataclass
class Thread:
    """The thread that calls malloc.

    ``tcache`` is the address of its tcache, 0 where it has none, -1 where it will never have one (2.42 on: inactive
    for good), None where that is not known; ``arena`` is thread_arena, 0 while it has none, None where not known.
    """

    number: int | None
    tcache: int | None
    arena: int | None


@dataclass
class Globals:
    """Variables of libc beside mp_ and the arenas; None is what is not known.

    ``curbrk`` is ``__curbrk``; ``max_fast`` is global_max_fast. ``single`` is what SINGLE_THREAD_P answers.
    ``narenas``, ``narenas_limit``, ``free_list``, ``next_to_use`` and ``aligned_heap_area`` are variables of arena.c.
    ``initialized`` says whether ptmalloc_init has run. ``numbers`` are the arenas' numbers by address.
    """

    curbrk: int | None = None
    max_fast: int | None = None
    single: bool | None = None
    narenas: int | None = None
    narenas_limit: int | None = None
    free_list: int | None = None
    next_to_use: int | None = None
    aligned_heap_area: int | None = None
    initialized: bool = True
    numbers: Mapping[int, int] = field(default_factory=dict)


class Machine:
    """The allocator of a process, seen from one of its threads.

    Operations change it; ``above`` makes a copy, at no cost, that can be changed without touching the first. ``calls``
    are the system calls that were made, with the kernel's answers, and ``steps`` what was looked at and done (None:
    they are not kept, which is quicker). ``changes`` are full sentences about settings and the like that moved, and
    ``source`` is where the last request got its memory from (SOURCES of simulate.trace). While steps are kept,
    ``touched`` are the bins that a chunk was taken out of or sorted into, of whichever arena, and ``freed`` is where
    the last chunk that was freed went. ``errno`` is the error that
    NULL stands for where an operation returns it, empty where that is no error.
    """

    def __init__(
        self,
        glibc: Glibc,
        memory: Memory,
        thread: Thread,
        variables: Globals,
        kernel: Kernel,
    ) -> None:
        self.glibc = glibc
        self.abi = abi = glibc.abi
        self.layout = layout = glibc.layout
        self.words = memory if isinstance(memory, Words) else Words(abi, memory)
        self.thread = thread
        self.variables = variables
        self.kernel = kernel
        self.calls: list[tuple[Call, int]] = []
        self.steps: list[Step] | None = None
        self.changes: list[str] = []
        self.source = ""
        self.touched: set[int] = set()
        self.freed: Freed | None = None
        self.errno = "ENOMEM"

        self.word_size = abi.word_size
        self.header = abi.header
        self.min_size = abi.min_size
        self.min_large = abi.min_large_size
        self.largest_fast = abi.request_to_chunk(80 * abi.word_size // 4)
        self.first_large_bin = bin_index(abi, abi.min_large_size)
        self.align_mask = abi.alignment - 1
        self.wrap = 1 << 8 * abi.word_size
        self.main_arena = glibc.main_arena
        self.safe_linking = glibc.safe_linking
        fields = layout.state.fields
        self.top_at = fields["top"].offset
        self.remainder_at = fields["last_remainder"].offset
        self.bins_at = fields["bins"].offset - abi.header  # bin i is the pretended chunk at that + (2i - 2) words
        self.binmap_at = fields["binmap"].offset
        self.system_mem_at = fields["system_mem"].offset
        self.flags_at = fields["flags"].offset
        self.has_fastbins = layout.has_fastbins
        self.fastbins_at = fields["fastbinsY"].offset if layout.has_fastbins else 0
        self.fastbin_count = fields["fastbinsY"].count if layout.has_fastbins else 0
        fastchunks = fields.get("have_fastchunks")
        self._fastchunks = None if fastchunks is None else self._place(fastchunks.offset, fastchunks.size)
        self._bin_bits = [self._bin_bit(index) for index in range(LAST_BIN + 1)]
        # By field: the word that holds it, by how many bits it is shifted there, and the mask of its bits.
        self._mp: dict[str, tuple[int, int, int]] = {}
        for name, item in layout.par.fields.items():
            self._mp[name] = (*self._place(glibc.mp + item.offset, item.size), (1 << 8 * item.size) - 1)
        self._signed = [name for name in self._mp if name in SIGNED]
        self.has_tcache = layout.tcache is not None
        self.counts_down = layout.tcache_counts_down
        self._index_rounds = 0 if self.counts_down else self.align_mask
        self.marks = glibc.marks
        self.entries_at = 0
        self.entries_count = 0
        self._counts: list[tuple[int, int]] = []  # by bin: the word that holds the count, and the shift
        self._count_mask = 0
        if layout.tcache is not None:
            self.entries_at = layout.tcache.fields["entries"].offset
            self.entries_count = (layout.tcache.size - self.entries_at) // abi.word_size
            counts = layout.tcache.fields["num_slots" if self.counts_down else "counts"]
            width = counts.size // counts.count
            self._count_mask = (1 << 8 * width) - 1
            self._counts = [self._place(counts.offset + index * width, width) for index in range(counts.count)]
        self.counts_are_bytes = self._count_mask == 0xFF
        self.largest_small = self.min_size + (SMALL_BINS - 1) * abi.alignment
        since = glibc.since
        self.released_233 = since(2, 33)
        self.scans_bins = glibc.scans_bins if since(2, 38) and not since(2, 39) else False
        self.has_merge_chunk = since(2, 39) or (since(2, 38) and self.scans_bins is False)
        self.released_241 = since(2, 41)
        self.checks_fastbins = since(2, 27)
        self.checks_merge = since(2, 29)
        self.checks_largebins = since(2, 30)
        self.checks_removal = since(2, 28) and not since(2, 38)
        self.refuses_ptrdiff = since(2, 30)
        self.inits_tcache_inside = not layout.has_fastbins
        self.asks_single = layout.asks_single_thread

    def _place(self, offset: int, width: int) -> tuple[int, int]:
        """Return which word the ``width`` bytes at ``offset`` are in, and by how many bits they are shifted there."""
        inside = offset % self.word_size
        shift = inside if self.abi.little_endian else self.word_size - width - inside
        return offset - inside, 8 * shift

    def _bin_bit(self, index: int) -> tuple[int, int]:
        """Return which word of an arena holds a bin's bit of the binmap, and that bit there."""
        place, shift = self._place(self.binmap_at + (index >> 5) * 4, 4)
        return place, 1 << shift + (index & 31)

    def above(self) -> Machine:
        """Return a copy that can be changed while this one, which must not be changed from then on, stays."""
        return self.on(self.words.above(), self.thread)

    def on(self, memory: Memory, thread: Thread) -> Machine:
        """Return a machine with the same variables and kernel, on other words and for another thread."""
        from copy import copy

        made = copy(self)
        made.words = memory if isinstance(memory, Words) else Words(self.abi, memory)
        made.thread = copy(thread)
        made.variables = copy(self.variables)
        made.kernel = self.kernel.copy()
        made.calls, made.changes, made.touched, made.source = [], [], set(), ""
        made.freed, made.errno = None, "ENOMEM"
        made.steps = None if self.steps is None else []
        return made

    # Steps

    def note(self, role: str, function: str, text: str, address: int | None = None) -> None:
        """Keep a step; to be called only where ``steps`` are kept."""
        if self.steps is not None:
            self.steps.append(Step(role, function, text, address))

    def abort(self, function: str, message: str, reason: str) -> Abort:
        """Return what a check that fails raises: glibc's ``message``, and in ``reason`` the condition."""
        self.note("fail", function, f"This check fails: {reason}.")
        return Abort(message)

    def unchecked(self, function: str, pointer: int) -> None:
        """Note a pointer that can be no chunk's and that this release takes for one, as it does not check that."""
        self.note("look", function, f"{pointer:#x} can be no chunk; this release does not check that and uses it.")

    def loop(self, name: str) -> Unpredictable:
        """Return what is raised for a list that does not end."""
        return Unpredictable(f"{name} does not end: it is a loop, and glibc would follow it for ever.")

    def name(self, arena: int) -> str:
        """Return the name of the arena at an address."""
        number = 0 if arena == self.main_arena else self.variables.numbers.get(arena)
        return "main_arena" if number == 0 else f"arena {number}" if number is not None else f"the arena at {arena:#x}"

    # Numbers that are no words

    def number(self, address: int, size: int) -> int:
        """Return the unsigned number of ``size`` bytes, at most a word, at ``address``."""
        if size == self.word_size:
            return self.words[address]
        place, shift = self._place(address, size)
        return self.words[place] >> shift & (1 << 8 * size) - 1

    def set_number(self, address: int, size: int, value: int) -> None:
        """Write the number of ``size`` bytes at ``address``."""
        place, shift = self._place(address, size)
        mask = (1 << 8 * size) - 1
        self.words[place] = self.words[place] & ~(mask << shift) | (value & mask) << shift

    # mp_

    def mp(self, name: str) -> int:
        """Return the field ``name`` of mp_, as an unsigned number; 0 where this glibc has none."""
        if name not in self._mp:
            return 0
        address, shift, mask = self._mp[name]
        return self.words[address] >> shift & mask

    def set_mp(self, name: str, value: int) -> None:
        """Write the field ``name`` of mp_, which this glibc must have."""
        address, shift, mask = self._mp[name]
        self.words[address] = self.words[address] & ~(mask << shift) | (value & mask) << shift

    def has_mp(self, name: str) -> bool:
        """Whether mp_ has the field ``name``."""
        return name in self._mp

    @property
    def params(self) -> Params:
        """mp_ as it is now."""
        words = self.words
        peek = words.peek  # all of them are read here, whatever decides then
        values = {name: peek(address) >> shift & mask for name, (address, shift, mask) in self._mp.items()}
        for name in self._signed:
            mask = self._mp[name][2]
            if values[name] > mask >> 1:
                values[name] -= mask + 1
        return Params(self.glibc.mp, values)

    # Arenas

    def bin_at(self, arena: int, index: int) -> int:
        """Return the pretended chunk that is both ends of a bin."""
        return arena + self.bins_at + (2 * index - 2) * self.word_size

    def arena_for_chunk(self, chunk: int, word: int) -> int:
        """Return the arena of a chunk whose size word is ``word`` (arena_for_chunk)."""
        if not word & NON_MAIN_ARENA:
            return self.main_arena
        if self.layout.heap_info is None:
            raise Unpredictable("The target does not describe heap_info, which names the arena of a chunk.")
        heap = heap_for(chunk, self.heap_max_size)
        arena = self.words[heap + self.layout.heap_info.fields["ar_ptr"].offset]
        if arena not in self.variables.numbers:
            self.note(
                "look",
                "arena_for_chunk",
                f"NON_MAIN_ARENA is set in the size word {word:#x}, and what would be its heap_info, at {heap:#x}, "
                f"names an arena at {arena:#x}, where none is: what is there is taken for one.",
            )
        return arena

    def lock(self, arena: int) -> None:
        """Take the lock of an arena, which may be none of them: then what is there can be a lock that nobody frees.

        Raises Unpredictable for that, and MemoryFault where there is no memory.
        """
        if arena in self.variables.numbers or (self.asks_single and self.variables.single):
            return
        mutex = self.layout.state.fields["mutex"]
        if self.number(arena + mutex.offset, mutex.size):
            raise Unpredictable(f"What is taken for an arena, at {arena:#x}, looks locked: the thread waits for ever.")

    @property
    def heap_max_size(self) -> int:
        """HEAP_MAX_SIZE in bytes."""
        return heap_max_size(
            self.abi, self.layout, Params(0, {name: self.mp(name) for name in ("hp_pagesize", "hp_flags")})
        )

    @property
    def single(self) -> bool:
        """What SINGLE_THREAD_P answers; raise Unpredictable where that is not known."""
        if self.variables.single is None and self.thread.arena:
            # Both ways lead to main_arena where that is the thread's own; another one is made for a second thread only.
            return self.thread.arena == self.main_arena
        if self.variables.single is None:
            raise Unpredictable("It is not known whether glibc counts on one thread only (SINGLE_THREAD_P).")
        return self.variables.single

    @property
    def alone(self) -> bool:
        """What SINGLE_THREAD_P answers, for what no arena depends on; raise Unpredictable where that is not known."""
        if self.variables.single is None:
            raise Unpredictable("It is not known whether glibc counts on one thread only (SINGLE_THREAD_P).")
        return self.asks_single and self.variables.single

    def is_fast(self, size: int) -> bool:
        """Whether a chunk of ``size`` bytes belongs in a fastbin: it has at most global_max_fast.

        Where that is not known, a larger chunk in a fastbin of main_arena tells it: mallopt empties those before it
        changes the limit. Raises Unpredictable where there is none.
        """
        if not self.has_fastbins or size > self.largest_fast:
            return False
        if self.variables.max_fast is not None:
            return size <= self.variables.max_fast
        place = self.main_arena + self.fastbins_at
        for index in range(fastbin_index(self.abi, size), self.fastbin_count):
            if self.words[place + index * self.word_size]:
                return True
        raise Unpredictable("global_max_fast, the limit of fastbins, is not known.")

    def have_fastchunks(self, arena: int) -> bool:
        """Whether malloc believes that a fastbin of the arena may hold a chunk."""
        if not self.has_fastbins:
            return False
        if self._fastchunks is not None:
            place, shift = self._fastchunks
            return self.words[arena + place] >> shift & 0xFFFFFFFF != 0
        return not self.number(arena + self.flags_at, 4) & _FASTCHUNKS_BIT

    def set_fastchunks(self, arena: int, value: bool) -> None:
        """Note whether a fastbin of the arena may hold a chunk."""
        if self._fastchunks is not None:
            place, shift = self._fastchunks
            self.words[arena + place] = self.words[arena + place] & ~(0xFFFFFFFF << shift) | int(value) << shift
            return
        flags = self.number(arena + self.flags_at, 4)
        flags = flags & ~_FASTCHUNKS_BIT if value else flags | _FASTCHUNKS_BIT
        self.set_number(arena + self.flags_at, 4, flags)

    def contiguous(self, arena: int) -> bool:
        """Whether malloc believes that the arena has no holes (NONCONTIGUOUS_BIT is clear)."""
        return not self.number(arena + self.flags_at, 4) & 2

    def flag(self, arena: int) -> int:
        """Return NON_MAIN_ARENA for the chunks of an arena other than main_arena, else 0."""
        return 0 if arena == self.main_arena else NON_MAIN_ARENA

    # Chunks

    def size(self, chunk: int) -> int:
        """Return the size of a chunk without its flags (chunksize)."""
        return self.words[chunk + self.word_size] & -8

    def mark_bin(self, arena: int, index: int) -> None:
        """Set the bit of a bin in the arena's binmap."""
        place, bit = self._bin_bits[index]
        self.words[arena + place] |= bit

    def unlink(self, function: str, chunk: int) -> None:
        """Take a free chunk off the list that it is on (unlink_chunk)."""
        words, size = self.words, self.word_size
        word = words[chunk + size]
        length = word & -8
        if words[chunk + length] != length and self._checks_prev_size:
            raise self.abort(
                function,
                "corrupted size vs. prev_size",
                f"the free chunk at {chunk:#x} has {length:#x} bytes, but prev_size of the chunk behind it is "
                f"{words[chunk + length]:#x}",
            )
        fd, bk = words[chunk + 2 * size], words[chunk + 3 * size]
        if words[fd + 3 * size] != chunk or words[bk + 2 * size] != chunk:
            raise self.abort(
                function,
                "corrupted double-linked list",
                f"fd {fd:#x} and bk {bk:#x} of the free chunk at {chunk:#x} do not both lead back to it",
            )
        words[fd + 3 * size] = bk
        words[bk + 2 * size] = fd
        if self.steps is not None:
            self.touched.add(bin_index(self.abi, length))
            self.note(
                "check",
                "unlink_chunk",
                f"prev_size behind the free chunk at {chunk:#x} is its size, {length:#x}, and fd {fd:#x} and bk "
                f"{bk:#x} lead back to it.",
                chunk,
            )
        if word < self.min_large:
            return
        smaller = words[chunk + 4 * size]
        if not smaller:
            return
        larger = words[chunk + 5 * size]
        if words[smaller + 5 * size] != chunk or words[larger + 4 * size] != chunk:
            raise self.abort(
                function,
                "corrupted double-linked list (not small)",
                f"fd_nextsize {smaller:#x} and bk_nextsize {larger:#x} of the free chunk at {chunk:#x} do not lead "
                "back to it",
            )
        if words[fd + 4 * size]:
            words[smaller + 5 * size] = larger
            words[larger + 4 * size] = smaller
        elif smaller == chunk:
            words[fd + 4 * size] = words[fd + 5 * size] = fd
        else:
            words[fd + 4 * size] = smaller
            words[fd + 5 * size] = larger
            words[smaller + 5 * size] = fd
            words[larger + 4 * size] = fd

    @property
    def _checks_prev_size(self) -> bool:
        return self.has_tcache or self.glibc.since(2, 26)

    def assertion(self, function: str, condition: str) -> Abort:
        """Return what is raised where an assertion of glibc's fails."""
        self.note("fail", function, f"This assertion fails: {condition}.")
        return Abort(assertion_in(function))

    # The tcache

    def tcache_number(self, index: int) -> int:
        """Return the calling thread's counter of a tcache bin: chunks in it, or places left (2.42 on).

        Raises Unpredictable where mp_ is damaged, and lets there be more bins than the struct has.
        """
        assert self.thread.tcache is not None
        try:
            place, shift = self._counts[index]
        except IndexError:
            raise Unpredictable(
                f"A tcache has {len(self._counts)} bins; mp_ says that there is one of number {index}."
            ) from None
        return (self.words[self.thread.tcache + place] >> shift) & self._count_mask

    def tcache_add(self, index: int, delta: int) -> None:
        """Add to the calling thread's counter of a tcache bin."""
        assert self.thread.tcache is not None
        place, shift = self._counts[index]
        address, mask = self.thread.tcache + place, self._count_mask
        word = self.words[address]
        value = ((word >> shift) + delta) & mask
        self.words[address] = word & ~(mask << shift) | value << shift

    def fill_tcache(self, index: int) -> None:
        """Let a bin of the calling thread's tcache take no more chunks; raise Unpredictable where it has no tcache."""
        if not self.has_own_tcache:
            raise Unpredictable("The thread has no tcache that could be full.")
        full = 0 if self.counts_down else self.mp("tcache_count")
        self.tcache_add(index, full - self.tcache_number(index))

    @property
    def default_max_fast(self) -> int:
        """global_max_fast in bytes as it is when nobody has set it (DEFAULT_MXFAST)."""
        return (64 * self.word_size // 4 + self.word_size) & ~self.align_mask

    def tcache_places(self, index: int) -> int:
        """Return how many chunks more a bin of the calling thread's tcache takes."""
        if self.counts_down:
            return self.tcache_number(index)
        return max(self.mp("tcache_count") - self.tcache_number(index), 0)

    @property
    def has_own_tcache(self) -> bool:
        """Whether the calling thread has a tcache; raise Unpredictable where that is not known."""
        if not self.has_tcache:
            return False
        if self.thread.tcache is None:
            raise Unpredictable("The tcache of the calling thread cannot be found, and malloc looks there first.")
        return self.thread.tcache > 0

    def small_index(self, size: int) -> int:
        """Return the tcache bin of exact sizes for a chunk of ``size`` bytes; too large ones have one above them."""
        # A size that is no multiple of the alignment is rounded up; from 2.42 on it is rounded down.
        return (size - self.min_size + self._index_rounds) // (self.align_mask + 1)

    def tcache_bins(self) -> int:
        """Return how many bins of exact sizes are used (mp_.tcache_bins, from 2.42 on mp_.tcache_small_bins)."""
        return self.mp("tcache_small_bins" if self.counts_down else "tcache_bins")

    def reveal(self, place: int) -> int:
        """Return the pointer that the link at ``place`` means (REVEAL_PTR)."""
        return self.words[place] ^ (place >> 12) if self.safe_linking else self.words[place]

    def protect(self, place: int, pointer: int) -> int:
        """Return how a link to ``pointer`` is stored at ``place`` (PROTECT_PTR)."""
        return pointer ^ (place >> 12) if self.safe_linking else pointer

    @property
    def key(self) -> int:
        """What marks a chunk in the calling thread's tcache (tcache_key, or the tcache's own address)."""
        return self.glibc.key if self.glibc.key is not None else self.thread.tcache or 0
