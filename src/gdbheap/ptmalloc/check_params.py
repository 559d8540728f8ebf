"""mp_ and the variables beside it: values that no sequence of calls gives, mallopt and tunables included.

What mallopt, a tunable or the environment can set is taken as it is: only what contradicts the code that writes a field
(malloc.c, arena.c; do_set_... of each setting) is told, with what glibc will do with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from gdbheap.memory import Memory, MemoryFault, PageCache
from gdbheap.ptmalloc.abi import FLAG_BITS, Abi
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.check_lists import hexadecimal
from gdbheap.ptmalloc.finding import Finding
from gdbheap.ptmalloc.state import HeapState
from gdbheap.ptmalloc.tcache import SMALL_BINS

_DEFAULT_THRESHOLD = _DEFAULT_TOP_PAD = 0x20000
_DEFAULT_MMAPS_MAX = 0x10000
#: MAP_HUGETLB, and by how many bits the size of the pages is shifted in the flags of mmap (linux/mman.h).
_MAP_HUGETLB, _MAP_HUGE_SHIFT = 0x40000, 26
_LAST_THP_MODE = 3
#: Chunks that are followed at most to see whether they lead to the top chunk.
_MOST_FOLLOWED = 1_000_000
#: The bins that have no chunk: bit 0 and 1 (the unsorted list) of the binmap, and 127.
_NO_BINS = ((0, 3), (3, 1 << 31))


@dataclass(frozen=True)
class ParamFacts:
    """What a check of the variables needs beside them.

    ``max_fast`` is global_max_fast as (address, size of the variable, value), None where it cannot be read.
    ``arenas_of_threads`` are how many threads have an arena as theirs (thread_arena), by the arena's address.
    """

    max_fast: tuple[int, int, int] | None = None
    arenas_of_threads: Mapping[int, int] = field(default_factory=dict)


class ParamChecker:
    """Checks the fields of mp_, global_max_fast, and fields of the arenas that other checks do not look at."""

    def __init__(self, state: HeapState, facts: ParamFacts) -> None:
        self._state = state
        self._facts = facts

    @property
    def _abi(self) -> Abi:
        return self._state.abi

    def findings(self) -> Iterator[Finding]:
        """Yield what is wrong with mp_ and global_max_fast."""
        yield from self._thresholds()
        yield from self._mmapped()
        yield from self._huge_pages()
        yield from self._counts()
        yield from self._tcache()
        yield from self._base()
        yield from self._max_fast()

    def _get(self, name: str) -> int:
        return self._state.params.get(name)

    def _has(self, name: str) -> bool:
        return name in self._state.params.values

    def _wrong(self, name: str, expected: str, effect: str) -> Finding:
        place = self._state.layout.par.fields[name]
        value = self._get(name)
        return Finding(
            "param", self._state.params.address + place.offset,
            f"{name} of mp_ is {self._shown(value)}; it should be {expected}. {effect}",
            self._shown(value), expected, size=place.size,
        )  # fmt: skip

    @staticmethod
    def _shown(value: int) -> str:
        return f"{value}" if -0x10000 < value < 0x100 else hexadecimal(value)

    # --- settings ---------------------------------------------------------------------------------------------------

    def _thresholds(self) -> Iterator[Finding]:
        if self._get("no_dyn_threshold") not in (0, 1):
            yield self._wrong("no_dyn_threshold", "0 or 1", "malloc takes any other value for 1.")
        if self._get("no_dyn_threshold") or self._get("hp_pagesize"):
            return  # mallopt, a tunable or the environment has set one of the four: any value can be meant
        largest = 32 << 20 if self._abi.word_size == 8 else 512 << 10
        threshold, trim = self._get("mmap_threshold"), self._get("trim_threshold")
        unset = "as nobody has set it (no_dyn_threshold is 0)"
        risen = _DEFAULT_THRESHOLD < threshold <= largest and not threshold % self._abi.alignment
        if threshold != _DEFAULT_THRESHOLD and not risen:
            yield self._wrong(
                "mmap_threshold", f"{_DEFAULT_THRESHOLD:#x}, or the size of a freed chunk up to {largest:#x}, {unset}",
                "Chunks of at least this size get mappings of their own.",
            )  # fmt: skip
        elif threshold == _DEFAULT_THRESHOLD and trim != _DEFAULT_THRESHOLD:
            yield self._wrong(
                "trim_threshold", f"{_DEFAULT_THRESHOLD:#x}, {unset}, and mmap_threshold has not risen",
                "The end of the heap goes back once the top chunk has as much.",
            )  # fmt: skip
        elif risen and (trim % 2 or not _DEFAULT_THRESHOLD < trim // 2 <= largest):
            yield self._wrong(
                "trim_threshold", f"{2 * threshold:#x}, twice mmap_threshold, {unset}",
                "The end of the heap goes back once the top chunk has as much.",
            )  # fmt: skip
        if self._get("top_pad") != _DEFAULT_TOP_PAD:
            yield self._wrong(
                "top_pad", f"{_DEFAULT_TOP_PAD:#x}, {unset}", "Each growth of the heap asks for as much more."
            )
        if self._get("n_mmaps_max") != _DEFAULT_MMAPS_MAX:
            yield self._wrong(
                "n_mmaps_max", f"{_DEFAULT_MMAPS_MAX}, {unset}", "At most as many chunks get mappings of their own."
            )

    def _huge_pages(self) -> Iterator[Finding]:
        page = self._abi.page_size
        for name in ("hp_pagesize", "thp_pagesize"):
            value = self._get(name)
            if value and (value & (value - 1) or value < page):
                yield self._wrong(
                    name, f"0 or a power of two, at least {page:#x}", "malloc rounds what it asks for to it."
                )
        huge, flags = self._get("hp_pagesize"), self._get("hp_flags")
        if not self._has("hp_flags") or huge & (huge - 1):
            return
        expected = _MAP_HUGETLB | (huge.bit_length() - 1) << _MAP_HUGE_SHIFT if huge else 0
        if flags & 0xFFFFFFFF != expected & 0xFFFFFFFF:
            yield self._wrong("hp_flags", f"{expected:#x}, as hp_pagesize is {huge:#x}", "mmap gets these flags.")
        if not 0 <= self._get("thp_mode") <= _LAST_THP_MODE:
            yield self._wrong("thp_mode", f"from 0 to {_LAST_THP_MODE}", "malloc compares it with 1 (madvise).")

    def _counts(self) -> Iterator[Finding]:
        if not self._get("arena_test"):
            yield self._wrong(
                "arena_test", "at least 1", "malloc counts the processors before it makes a second arena."
            )

    def _tcache(self) -> Iterator[Finding]:
        tcache = self._state.layout.tcache
        if tcache is None or not self._has("tcache_count"):
            return
        most = 0xFFFF
        if "counts" in tcache.fields and tcache.fields["counts"].size == tcache.fields["counts"].count:
            most = 0x7F  # up to 2.29 the counters are bytes
        if self._get("tcache_count") > most:
            yield self._wrong(
                "tcache_count", f"at most {most:#x}", "Each bin of a tcache takes as many chunks; its counter wraps."
            )
        if self._has("tcache_small_bins"):
            yield from self._large_tcache()
            return
        bins, largest = self._get("tcache_bins"), self._get("tcache_max_bytes")
        limit = self._largest_small - self._abi.word_size
        expected = (self._abi.request_to_chunk(min(largest, limit)) - self._abi.min_size) // self._abi.alignment + 1
        if largest > limit:
            yield self._wrong("tcache_max_bytes", f"at most {limit}", "malloc uses tcache_bins.")
            if bins <= SMALL_BINS:
                return
        if bins != expected or bins > SMALL_BINS:
            yield self._wrong(
                "tcache_bins", f"{expected}, as tcache_max_bytes is {largest}",
                f"A tcache has {SMALL_BINS} bins: beyond those malloc and free use what lies behind it."
                if bins > SMALL_BINS
                else "Chunks of the other sizes stay in the tcaches.",
            )  # fmt: skip

    @property
    def _largest_small(self) -> int:
        return self._abi.min_size + (SMALL_BINS - 1) * self._abi.alignment

    def _large_tcache(self) -> Iterator[Finding]:
        tcache = self._state.layout.tcache
        assert tcache is not None
        abi, bins, limit = self._abi, self._get("tcache_small_bins"), self._get("tcache_max_bytes")
        large = tcache.fields["entries"].count - SMALL_BINS
        most = 1 << (self._largest_small.bit_length() - 1 + large)
        if limit > most + 1:
            yield self._wrong(
                "tcache_max_bytes", f"at most {most + 1:#x}",
                f"A tcache has {SMALL_BINS + large} bins: of larger chunks free uses what lies behind it.",
            )  # fmt: skip
            return
        defaults = (self._largest_small - abi.word_size, self._largest_small + 1)
        if bins == SMALL_BINS and limit in defaults:
            return  # the first release of 2.42, and those after it
        size = limit - 1
        if size < abi.min_size or size % abi.alignment:
            yield self._wrong(
                "tcache_max_bytes", "one more than the size of a chunk", "Smaller chunks go into tcaches."
            )
            return
        expected = min(SMALL_BINS, (size - abi.min_size) // abi.alignment + 1)
        if bins != expected:
            yield self._wrong(
                "tcache_small_bins", f"{expected}, as tcache_max_bytes is {limit:#x}",
                "malloc keeps chunks of a list in the tcache bins below it.",
            )  # fmt: skip

    # --- counters ---------------------------------------------------------------------------------------------------

    def _mmapped(self) -> Iterator[Finding]:
        abi, count, total = self._abi, self._get("n_mmaps"), self._get("mmapped_mem")
        most, most_bytes, page = self._get("max_n_mmaps"), self._get("max_mmapped_mem"), self._abi.page_size
        exact = self._state.layout.has_fastbins  # from 2.43 on each resize adds a header's size too much
        step = page if exact else abi.header
        limits = "It is compared with n_mmaps_max."
        if count < 0 or count > max(most, 0):
            yield self._wrong("n_mmaps", f"from 0 to max_n_mmaps, {max(most, 0)}", limits)
        elif most < 0:
            yield self._wrong("max_n_mmaps", "0 or more", "malloc only shows it.")
        elif total % step or total < count * page or (exact and not count and total):
            least = f"at least {count * page:#x}" if count else "0" if exact else "0 or more"
            yield self._wrong(
                "mmapped_mem", f"{least}, a multiple of {step:#x}, as there are {count} chunks", "malloc only shows it."
            )
        if most_bytes < total or most_bytes < max(most, 0) * page or most_bytes % step:
            lowest = max(total, max(most, 0) * page)
            yield self._wrong(
                "max_mmapped_mem", f"at least {lowest:#x}, a multiple of {step:#x}", "malloc only shows it."
            )

    def _base(self) -> Iterator[Finding]:
        main = self._state.ring.arenas[0]
        base = self._get("sbrk_base")
        if main.has_top(self._abi) == bool(base) or not main.is_main:
            return
        expected = "where the heap begins, as there is a top chunk" if not base else "0, as there is no top chunk"
        yield self._wrong("sbrk_base", expected, "malloc only tells by it whether the heap was begun.")

    def _max_fast(self) -> Iterator[Finding]:
        if self._facts.max_fast is None or not self._state.layout.has_fastbins:
            return
        address, size, value = self._facts.max_fast
        most = (80 * self._abi.word_size // 4 + self._abi.word_size) & -self._abi.alignment
        if value <= most and not value % self._abi.alignment:
            return
        expected = f"a multiple of {self._abi.alignment:#x}, at most {most:#x}"
        yield Finding(
            "param", address,
            f"global_max_fast is {hexadecimal(value)}; it should be {expected}. free puts chunks up to that size into "
            "fastbins, beyond the last of which lie other fields of the arena.",
            hexadecimal(value), expected, size=size,
        )  # fmt: skip

    # --- arenas -----------------------------------------------------------------------------------------------------

    def of_arena(self, arena: Arena) -> Iterator[Finding]:
        """Yield what is wrong with fields of an arena that only some values of can be written."""
        if arena.have_fastchunks not in (0, 1):
            effect = "malloc takes any other value for 1."
            yield self._field(arena, "have_fastchunks", arena.have_fastchunks, "0 or 1", effect)
        for index, bits in _NO_BINS:
            if arena.has_top(self._abi) and arena.binmap[index] & bits:
                word = arena.binmap[index]
                yield self._field(
                    arena, "binmap", word, f"{word & ~bits:#x}", "No chunk is ever sorted into such a bin.", index=index
                )
        users = self._facts.arenas_of_threads.get(arena.address, 0)
        if arena.attached_threads < users:
            yield self._field(
                arena, "attached_threads", arena.attached_threads, f"at least {users}, as so many threads use it",
                "The end of a thread asserts that its arena has threads.",
            )  # fmt: skip
        yield from self._remainder(arena)

    def _remainder(self, arena: Arena) -> Iterator[Finding]:
        base, place = self._get("sbrk_base"), arena.last_remainder
        known = place and base and arena.is_main and arena.contiguous
        if not known or (place + self._abi.header) % self._abi.alignment:
            return  # what is not aligned is told already
        if not base <= place < base + arena.max_system_mem:
            yield self._field(
                arena, "last_remainder", place, f"0 or from {base:#x} to {base + arena.max_system_mem:#x}",
                "malloc only compares it with chunks.",
            )  # fmt: skip

    def _field(
        self, arena: Arena, name: str, value: int, expected: str, effect: str, *, index: int | None = None
    ) -> Finding:
        place = self._state.layout.state.fields[name]
        size = place.size // place.count
        shown = name if index is None else f"{name}[{index}]"
        return Finding(
            "binmap" if name == "binmap" else "arena-field", arena.address + place.offset + (index or 0) * size,
            f"{shown} of {arena.name} is {hexadecimal(value)}; it should be {expected}. {effect}",
            hexadecimal(value), expected, arena.address, size=size,
        )  # fmt: skip


def real_base(memory: Memory, state: HeapState, curbrk: int | None) -> int | None:
    """Return where main_arena's memory begins where sbrk_base does not say so; None where it does, or nothing tells.

    That is if the top chunk ends at libc's break, system_mem bytes before that chunks begin that lead to the top chunk,
    and none that do begin at sbrk_base.
    """
    main, base = state.ring.arenas[0], state.params.get("sbrk_base")
    if not main.contiguous or not main.has_top(state.abi) or main.top_size is None or not base:
        return None
    end = main.top + main.top_size
    other = end - main.system_mem
    if other in (base, 0) or other < 0 or end != curbrk or _leads(memory, state, base, main.top):
        return None
    return other if _leads(memory, state, other, main.top) else None


def _leads(memory: Memory, state: HeapState, base: int, top: int) -> bool:
    """Whether chunks that follow each other lead from ``base`` to ``top``."""
    abi = state.abi
    chunk = abi.first_chunk(base)
    reader = PageCache(memory)
    try:
        for _ in range(_MOST_FOLLOWED):
            if chunk >= top:
                return chunk == top
            size = abi.read_word(reader, chunk + abi.word_size) & ~FLAG_BITS
            if size < abi.header or size % abi.alignment:
                return False
            chunk += size
    except MemoryFault:
        pass
    return False


def with_base(state: HeapState, base: int) -> HeapState:
    """Return ``state`` with another sbrk_base."""
    params = state.params
    return replace(state, params=replace(params, values={**params.values, "sbrk_base": base}))


def wrong_base(state: HeapState, base: int) -> Finding:
    """Return the finding for an sbrk_base that should be ``base``."""
    place, value = state.layout.par.fields["sbrk_base"], state.params.get("sbrk_base")
    return Finding(
        "param", state.params.address + place.offset,
        f"sbrk_base of mp_ is {hexadecimal(value)}; it should be {base:#x}: chunks lead from there to the top chunk, "
        "and system_mem says the same. malloc only tells by it whether the heap was begun.",
        hexadecimal(value), f"{base:#x}", size=place.size,
    )  # fmt: skip
