"""The simulated allocator against real runs.

Each case is one operation of a real program: glibc's variables as GDB read them when the operation began, then the
system calls that it made with the kernel's answers, in order, and the top chunk that was there afterwards. They were
recorded with GDB 13.1 and strace, most on glibc 2.36 (Debian 12), some on 2.31, 2.41 and 2.43, and on i386.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest

from gdbheap.memory import Snapshot
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.heaps import HeapInfo
from gdbheap.ptmalloc.params import Params
from gdbheap.simulate.arenas import grow_heap, heap_trim, leftover, new_arena, new_heap, shrink_heap
from gdbheap.simulate.calls import Call, Outcome, Steps, Unpredictable, advance
from gdbheap.simulate.mmapped import free_mmapped, mremap_chunk, munmap_chunk
from gdbheap.simulate.paths import PATHS
from gdbheap.simulate.state import GrowthState, OlderHeap, Release, TrimWalk
from gdbheap.simulate.sysmalloc import sysmalloc
from gdbheap.simulate.trim import mtrim, pages_inside, systrim, trim_after_free

ENOMEM = -12
WORD64, WORD32 = Abi(8), Abi(4)
NEVER = 0x1E00000
HEAP = 0x4000000
FIRST, SECOND, THIRD = 0x7FFFF0000000, 0x7FFFE8000000, 0x7FFFEC000000
ARENA = FIRST + 0x30

#: glibc 2.36's mp_ at the start of a program.
DEFAULTS: Mapping[str, int] = {
    "trim_threshold": 0x20000,
    "top_pad": 0x20000,
    "mmap_threshold": 0x20000,
    "thp_pagesize": 0,
    "hp_pagesize": 0,
    "hp_flags": 0,
    "n_mmaps": 0,
    "n_mmaps_max": 65536,
    "max_n_mmaps": 0,
    "no_dyn_threshold": 0,
    "mmapped_mem": 0,
    "max_mmapped_mem": 0,
    "sbrk_base": 0x555555559000,
}

#: One system call: its path, its name, its arguments, and what the kernel answered.
Real = tuple[str, str, tuple[int, ...], int]


def arena(top: int, top_size: int | None, system_mem: int = 0x21000, flags: int = 0, number: int = 0) -> Arena:
    return Arena(
        address=ARENA if number else 0x7FFFF7FA8C60,
        number=number,
        mutex=1,
        flags=flags,
        top=top,
        top_size=top_size,
        last_remainder=0,
        fastbins=(),
        bins=(),
        bins_address=0,
        binmap=(),
        next=0,
        next_free=0,
        attached_threads=1,
        system_mem=system_mem,
        max_system_mem=system_mem,
    )


def heap(address: int, size: int, prev: int = 0, mprotect_size: int = 0, page: int = 0x1000) -> HeapInfo:
    return HeapInfo(address, ARENA, prev, size, mprotect_size or size, page, HEAP)


@dataclass(frozen=True)
class Case:
    name: str
    operation: Callable[[GrowthState], Steps]
    calls: tuple[Real, ...]
    top: int | None
    top_size: int | None
    delta: int
    chunk: int | None = None
    arena: Arena | None = None
    curbrk: int | None = 0x55555557A000
    version: tuple[int, int] | None = (2, 36)
    mp: Mapping[str, int] = field(default_factory=dict)
    heap: HeapInfo | None = None
    older: tuple[OlderHeap, ...] = ()
    area: int = 0
    abi: Abi = WORD64
    malloc_state: int = 2200
    shrinks: bool = False
    error: str | None = None

    @property
    def state(self) -> GrowthState:
        return GrowthState(
            abi=self.abi,
            params=Params(0, {**DEFAULTS, **self.mp}),
            arena=self.arena,
            curbrk=self.curbrk,
            heap=self.heap,
            aligned_heap_area=self.area,
            release=Release(self.version),
            older_heaps=self.older,
            heap_info_size=24 if self.abi.word_size == 4 else 48,
            malloc_state_size=self.malloc_state,
            may_shrink_heap=self.shrinks,
        )


def asks(nb: int) -> Callable[[GrowthState], Steps]:
    return lambda state: sysmalloc(state, nb)


EMPTY = arena(0x7FFFF7FA8CC0, 0, 0)
CASES = (
    Case(
        "the first malloc of a program: tcache_init's 640 bytes",
        asks(0x290),
        (
            ("brk-query", "brk", (0,), 0x555555559000),
            ("brk-first", "brk", (0x55555557A000,), 0x55555557A000),
        ),
        arena=EMPTY,
        curbrk=0,
        mp={"sbrk_base": 0},
        chunk=0x555555559000,
        top=0x555555559290,
        top_size=0x20D70,
        delta=0x21000,
    ),
    Case(
        "the first malloc after the program's own sbrk(0): no query",
        asks(0x290),
        (("brk-first", "brk", (0x55555557A000,), 0x55555557A000),),
        arena=EMPTY,
        curbrk=0x555555559000,
        mp={"sbrk_base": 0},
        chunk=0x555555559000,
        top=0x555555559290,
        top_size=0x20D70,
        delta=0x21000,
    ),
    Case(
        "the first malloc of an i386 program: a second brk for the alignment of the first chunk",
        asks(0x190),
        (
            ("brk-query", "brk", (0,), 0x5655A000),
            ("brk-first", "brk", (0x5657B000,), 0x5657B000),
            ("brk-align", "brk", (0x5657C000,), 0x5657C000),
        ),
        arena=arena(0xF7FB07F8, 0, 0),
        curbrk=0,
        mp={"sbrk_base": 0},
        abi=WORD32,
        chunk=0x5655A008,
        top=0x5655A198,
        top_size=0x21E68,
        delta=0x22000,
    ),
    Case(
        "the first malloc of a static program, whose TLS is at an odd break",
        asks(0x290),
        (
            ("brk-query", "brk", (0,), 0x4C2D40),
            ("brk-first", "brk", (0x4E3D40,), 0x4E3D40),
            ("brk-align", "brk", (0x4E4000,), 0x4E4000),
        ),
        arena=arena(0x4BC000, 0, 0),
        curbrk=0,
        mp={"sbrk_base": 0},
        chunk=0x4C2D40,
        top=0x4C2FD0,
        top_size=0x21030,
        delta=0x212C0,
    ),
    Case(
        "MALLOC_TOP_PAD_=0",
        asks(0x290),
        (
            ("brk-query", "brk", (0,), 0x55CC3479E000),
            ("brk-first", "brk", (0x55CC3479F000,), 0x55CC3479F000),
        ),
        arena=EMPTY,
        curbrk=0,
        mp={"top_pad": 0, "no_dyn_threshold": 1, "sbrk_base": 0},
        chunk=0x55CC3479E000,
        top=0x55CC3479E290,
        top_size=0xD70,
        delta=0x1000,
    ),
    Case(
        "a larger request, with mmap_threshold raised: the break follows the top chunk",
        asks(0x2DC6D0),
        (("brk-extend", "brk", (0x555555856000,), 0x555555856000),),
        arena=arena(0x555555559290, 0x20D70),
        mp={"mmap_threshold": NEVER},
        chunk=0x555555559290,
        top=0x555555835960,
        top_size=0x206A0,
        delta=0x2DC000,
    ),
    Case(
        "malloc(131049), the least that is mapped",
        asks(0x20000),
        (("mmap-chunk", "mmap", (0, 0x21000, 3, 0x22, -1, 0), 0x7FFFF7DB1000),),
        arena=arena(0x555555579280, 0xD80),
        chunk=0x7FFFF7DB1000,
        top=0x555555579280,
        top_size=0xD80,
        delta=0,
    ),
    Case(
        "a mapped chunk on glibc 2.43",
        asks(0xF4250),
        (("mmap-chunk", "mmap", (0, 0xF5000, 3, 0x22, -1, 0), 0x7FFFF7CCB000),),
        arena=arena(0x555555598FF0, 0x1010, 0x41000),
        version=(2, 43),
        mp={"thp_mode": 3},
        chunk=0x7FFFF7CCB000,
        top=0x555555598FF0,
        top_size=0x1010,
        delta=0,
    ),
    Case(
        "a mapped chunk on i386 starts 8 bytes into its mapping",
        asks(0xF4250),
        (("mmap-chunk", "mmap", (0, 0xF5000, 3, 0x22, -1, 0), 0xF7C9E000),),
        arena=arena(0x5659A178, 0x20E88, 0x61000),
        abi=WORD32,
        chunk=0xF7C9E008,
        top=0x5659A178,
        top_size=0x20E88,
        delta=0,
    ),
    Case(
        "the program took 0x1234 bytes with sbrk: two calls of brk",
        asks(0x1F010),
        (
            ("brk-moved", "brk", (0x5555555B9234,), 0x5555555B9234),
            ("brk-align", "brk", (0x5555555BB000,), 0x5555555BB000),
        ),
        arena=arena(0x5555555782C0, 0x1D40),
        curbrk=0x55555557B234,
        chunk=0x55555557B240,
        top=0x55555559A250,
        top_size=0x20DB0,
        delta=0x41000,
    ),
    Case(
        "a large old top chunk is closed and freed, and the new one is trimmed before the request is served",
        asks(0x100010),
        (
            ("brk-moved", "brk", (0x55555567C000,), 0x55555567C000),
            ("brk-align", "brk", (0x5555556CD000,), 0x5555556CD000),
            ("trim", "brk", (0x5555555CD000,), 0x5555555CD000),
        ),
        arena=arena(0x555555559290, 0x50D70, 0x51000),
        curbrk=0x5555555AC000,
        mp={"n_mmaps_max": 0},
        top=0x5555555AC000,
        top_size=0x21000,
        delta=0x23000,
        error="ENOMEM",
    ),
    Case(
        "a mapping is in the way of the first brk, glibc 2.36",
        asks(0x290),
        (
            ("brk-first", "brk", (0x55555557A000,), 0x555555559000),
            ("mmap-fallback", "mmap", (0, 0x100000, 3, 0x22, -1, 0), 0x7FFFF7CD2000),
        ),
        arena=EMPTY,
        curbrk=0x555555559000,
        mp={"sbrk_base": 0},
        chunk=0x7FFFF7CD2000,
        top=0x7FFFF7CD2290,
        top_size=0xFFD70,
        delta=0x100000,
    ),
    Case(
        "and the next time: glibc 2.35 to 2.37 then map less than 1 MiB",
        asks(0x186B0),
        (
            ("brk-moved", "brk", (0x555555592000,), 0x555555559000),
            ("mmap-fallback", "mmap", (0, 0x39000, 3, 0x22, -1, 0), 0x7FFFF7C99000),
        ),
        arena=arena(0x7FFFF7DC6570, 0xBA90, 0x100000, flags=2),
        curbrk=0x555555559000,
        mp={"sbrk_base": 0x7FFFF7CD2000},
        chunk=0x7FFFF7C99000,
        top=0x7FFFF7CB16B0,
        top_size=0x20950,
        delta=0x39000,
    ),
    Case(
        "the same on glibc 2.43: always at least 1 MiB",
        asks(0x186B0),
        (
            ("brk-moved", "brk", (0x555555592000,), 0x555555559000),
            ("mmap-fallback", "mmap", (0, 0x100000, 3, 0x22, -1, 0), 0x7FFFF7BC0000),
        ),
        arena=arena(0x7FFFF7DB42E0, 0xBD20, 0x100000, flags=2),
        curbrk=0x555555559000,
        version=(2, 43),
        mp={"thp_mode": 3, "sbrk_base": 0x7FFFF7CC0000},
        chunk=0x7FFFF7BC0000,
        top=0x7FFFF7BD86B0,
        top_size=0xE7950,
        delta=0x100000,
    ),
    Case(
        "malloc(1 << 46): refused three times",
        asks(0x400000000010),
        (
            ("mmap-chunk", "mmap", (0, 0x400000001000, 3, 0x22, -1, 0), ENOMEM),
            ("brk-extend", "brk", (0x95555557A000,), 0x55555557A000),
            ("mmap-fallback", "mmap", (0, 0x400000100000, 3, 0x22, -1, 0), ENOMEM),
        ),
        arena=arena(0x555555559290, 0x20D70),
        top=0x555555559290,
        top_size=0x20D70,
        delta=0,
        error="ENOMEM",
    ),
    Case(
        "malloc just below PTRDIFF_MAX: too large for sbrk's argument",
        asks(0x7FFFFFFFFFFFFF40),
        (
            ("mmap-chunk", "mmap", (0, 0x8000000000000000, 3, 0x22, -1, 0), ENOMEM),
            ("mmap-fallback", "mmap", (0, 0x8000000000100000, 3, 0x22, -1, 0), ENOMEM),
        ),
        arena=arena(0x55555555A2A0, 0x1FD60),
        top=0x55555555A2A0,
        top_size=0x1FD60,
        delta=0,
        error="ENOMEM",
    ),
    Case(
        "free trims the top chunk",
        lambda state: systrim(state, 0x20000),
        (("trim", "brk", (0x55555574A000,), 0x55555574A000),),
        arena=arena(0x5555557291A0, 0x38E60, 0x209000),
        curbrk=0x555555762000,
        top=0x5555557291A0,
        top_size=0x20E60,
        delta=-0x18000,
    ),
    Case(
        "transparent huge pages on glibc 2.36: the first growth ends 2 MiB after the break",
        asks(0x10A0),
        (
            ("brk-query", "brk", (0,), 0x555555559000),
            ("brk-first", "brk", (0x555555759000,), 0x555555759000),
            ("thp-advice", "madvise", (0x555555559000, 0x200000, 14), 0),
        ),
        arena=EMPTY,
        curbrk=0,
        mp={"thp_pagesize": 0x200000, "sbrk_base": 0},
        chunk=0x555555559000,
        top=0x55555555A0A0,
        top_size=0x1FEF60,
        delta=0x200000,
    ),
    Case(
        "and a later one at a multiple of 2 MiB",
        asks(0x2DC6D0),
        (
            ("brk-extend", "brk", (0x555555C00000,), 0x555555C00000),
            ("thp-advice", "madvise", (0x555555A00000, 0x200000, 14), 0),
        ),
        arena=arena(0x555555835960, 0x1CA6A0, 0x4A7000),
        curbrk=0x555555A00000,
        mp={"mmap_threshold": NEVER, "thp_pagesize": 0x200000},
        chunk=0x555555835960,
        top=0x555555B12030,
        top_size=0xEDFD0,
        delta=0x200000,
    ),
    Case(
        "huge pages on glibc 2.36 where there are none: no brk at all",
        asks(0x290),
        (
            ("mmap-fallback", "mmap", (0, 0x200000, 3, 0x54040022, -1, 0), ENOMEM),
            ("mmap-fallback", "mmap", (0, 0x100000, 3, 0x22, -1, 0), 0x7FFFF7CD2000),
        ),
        arena=EMPTY,
        curbrk=0x555555559000,
        mp={"hp_pagesize": 0x200000, "hp_flags": 0x54040000, "mmap_threshold": NEVER, "sbrk_base": 0},
        chunk=0x7FFFF7CD2000,
        top=0x7FFFF7CD2290,
        top_size=0xFFD70,
        delta=0x100000,
    ),
    Case(
        "huge pages on glibc 2.43: the old top chunk is not added to the size",
        asks(0x1E8490),
        (
            ("mmap-fallback", "mmap", (0, 0x400000, 3, 0x54040022, -1, 0), ENOMEM),
            ("mmap-fallback", "mmap", (0, 0x209000, 3, 0x22, -1, 0), 0x7FFFF79A2000),
        ),
        arena=arena(0x7FFFF7BAB000, 0x115000, 0x215000, flags=2),
        curbrk=0,
        version=(2, 43),
        mp={"thp_mode": 3, "hp_pagesize": 0x200000, "hp_flags": 0x54040000, "mmap_threshold": 0x200000},
        chunk=0x7FFFF79A2000,
        top=0x7FFFF7B8A490,
        top_size=0x20B70,
        delta=0x209000,
    ),
    Case(
        "a thread's first malloc: its arena, from both sides of a reservation",
        lambda state: new_arena(state, 640),
        (
            ("heap-reserve", "mmap", (0, 0x8000000, 0, 0x4022, -1, 0), 0x7FFFEF400000),
            ("heap-align", "munmap", (0x7FFFEF400000, 0xC00000), 0),
            ("heap-align", "munmap", (0x7FFFF4000000, 0x3400000), 0),
            ("heap-commit", "mprotect", (FIRST, 0x21000, 3), 0),
        ),
        arena=arena(0x5555555593B0, 0x20C50),
        top=0x7FFFF00008D0,
        top_size=0x20730,
        delta=0x21000,
    ),
    Case(
        "an arena on glibc 2.43: without MAP_NORESERVE, and for the request itself",
        lambda state: new_arena(state, 1000000),
        (
            ("heap-reserve", "mmap", (0, 0x8000000, 0, 0x22, -1, 0), 0x7FFFEF400000),
            ("heap-align", "munmap", (0x7FFFEF400000, 0xC00000), 0),
            ("heap-align", "munmap", (0x7FFFF4000000, 0x3400000), 0),
            ("heap-commit", "mprotect", (FIRST, 0x115000, 3), 0),
        ),
        arena=arena(0x555555559120, 0x20EE0),
        version=(2, 43),
        mp={"thp_mode": 3},
        malloc_state=2112,
        top=0x7FFFF0000870,
        top_size=0x114790,
        delta=0x115000,
    ),
    Case(
        "an arena on glibc 2.43 with transparent huge pages",
        lambda state: new_arena(state, 20 << 20),
        (
            ("heap-reserve", "mmap", (0, 0x8000000, 0, 0x22, -1, 0), 0x7FFFEF400000),
            ("heap-align", "munmap", (0x7FFFEF400000, 0xC00000), 0),
            ("heap-align", "munmap", (0x7FFFF4000000, 0x3400000), 0),
            ("heap-commit", "mprotect", (FIRST, 0x1600000, 3), 0),
            ("thp-advice", "madvise", (FIRST, 0x1600000, 14), 0),
        ),
        arena=arena(0x555555559120, 0xA6EE0, 0xA7000),
        curbrk=0x555555600000,
        version=(2, 43),
        mp={"thp_mode": 1, "thp_pagesize": 0x200000},
        malloc_state=2112,
        top=0x7FFFF0000870,
        top_size=0x15FF790,
        delta=0x1600000,
    ),
    Case(
        "an arena on glibc 2.36 with huge pages, of which there are none: heaps of four times their size",
        lambda state: new_arena(state, 640),
        (
            ("heap-reserve", "mmap", (0, 0x1000000, 0, 0x54040022, -1, 0), ENOMEM),
            ("heap-reserve", "mmap", (0, 0x800000, 0, 0x54040022, -1, 0), ENOMEM),
            ("heap-reserve", "mmap", (0, 0x1000000, 0, 0x4022, -1, 0), 0x7FFFF6400000),
            ("heap-align", "munmap", (0x7FFFF6400000, 0x400000), 0),
            ("heap-align", "munmap", (0x7FFFF7000000, 0x400000), 0),
            ("heap-commit", "mprotect", (0x7FFFF6800000, 0x200000, 3), 0),
        ),
        arena=arena(0x7FFFF74D13B0, 0xFFC50, 0x100000, flags=2),
        mp={"hp_pagesize": 0x200000, "hp_flags": 0x54040000},
        top=0x7FFFF68008D0,
        top_size=0x1FF730,
        delta=0x200000,
    ),
    Case(
        "a thread's heap grows",
        asks(0xF4250),
        (("heap-grow", "mprotect", (0x7FFFF0021000, 0xD4000, 3), 0),),
        arena=arena(0x7FFFF0000B60, 0x204A0, flags=2, number=1),
        mp={"mmap_threshold": NEVER},
        heap=heap(FIRST, 0x21000),
        chunk=0x7FFFF0000B60,
        top=0x7FFFF00F4DB0,
        top_size=0x250,
        delta=0xD4000,
    ),
    Case(
        "a full heap is followed by another one; the kernel's answer is aligned",
        asks(0xF4250),
        (
            ("heap-reserve", "mmap", (0, 0x8000000, 0, 0x4022, -1, 0), SECOND),
            ("heap-align", "munmap", (THIRD, 0x4000000), 0),
            ("heap-commit", "mprotect", (SECOND, 0x115000, 3), 0),
        ),
        arena=arena(0x7FFFF3FE6650, 0x9B0, 0x3FE7000, flags=2, number=1),
        mp={"mmap_threshold": NEVER},
        heap=heap(FIRST, 0x3FE7000),
        chunk=0x7FFFE8000030,
        top=0x7FFFE80F4280,
        top_size=0x20D80,
        delta=0x115000,
    ),
    Case(
        "so the next one is asked for right behind it",
        asks(0xF4250),
        (
            ("heap-reserve", "mmap", (THIRD, 0x4000000, 0, 0x4022, -1, 0), THIRD),
            ("heap-commit", "mprotect", (THIRD, 0x115000, 3), 0),
        ),
        arena=arena(0x7FFFEBFE5B20, 0x4E0, 0x7FCD000, flags=2, number=1),
        mp={"mmap_threshold": NEVER},
        heap=heap(SECOND, 0x3FE6000, FIRST),
        older=(OlderHeap(heap(FIRST, 0x3FE7000), 0x9B0),),
        area=THIRD,
        chunk=0x7FFFEC000030,
        top=0x7FFFEC0F4280,
        top_size=0x20D80,
        delta=0x115000,
    ),
    Case(
        "an empty heap goes whole, and the end of the one before it too",
        lambda state: heap_trim(state, 0x20000),
        (
            ("heap-unmap", "munmap", (THIRD, 0x4000000), 0),
            ("heap-trim", "madvise", (0x7FFFEBF12000, 0xD4000, 4), 0),
        ),
        arena=arena(0x7FFFEC000030, 0x20FD0, 0x7FCD000 + 0x21000, flags=2, number=1),
        mp={"mmap_threshold": NEVER},
        heap=heap(THIRD, 0x21000, SECOND, 0xF43000),
        older=(OlderHeap(heap(SECOND, 0x3FE6000, FIRST), 0xF4730), OlderHeap(heap(FIRST, 0x3FE7000), 0x9B0)),
        top=0x7FFFEBEF18D0,
        top_size=0x20730,
        delta=-0xF5000,
    ),
    Case(
        "with vm.overcommit_memory 2 the end of a heap is mapped over",
        lambda state: heap_trim(state, 0x20000),
        (("heap-trim", "mmap", (0x7FFFE89AA000, 0xF4000, 0, 0x32, -1, 0), 0x7FFFE89AA000),),
        arena=arena(0x7FFFE8989750, 0x1148B0, 0x4A85000, flags=2, number=1),
        mp={"mmap_threshold": NEVER},
        heap=heap(SECOND, 0xA9E000, FIRST),
        older=(OlderHeap(heap(FIRST, 0x3FE7000), 0x9B0),),
        area=THIRD,
        shrinks=True,
        top=0x7FFFE8989750,
        top_size=0x208B0,
        delta=-0xF4000,
    ),
    Case(
        "a heap is made and given back in the same sysmalloc, because the old top chunk is large",
        asks(0x1D00010),
        (
            ("heap-reserve", "mmap", (0, 0x8000000, 0, 0x4022, -1, 0), SECOND),
            ("heap-align", "munmap", (THIRD, 0x4000000), 0),
            ("heap-commit", "mprotect", (SECOND, 0x1D21000, 3), 0),
            ("heap-unmap", "munmap", (SECOND, 0x4000000), 0),
        ),
        arena=arena(0x7FFFF2800B80, 0x1400480, 0x3C01000, flags=2, number=1),
        mp={"mmap_threshold": NEVER, "trim_threshold": 0x6400000},
        heap=heap(FIRST, 0x3C01000),
        top=0x7FFFF2800B80,
        top_size=0x1400480,
        delta=0,
        error="ENOMEM",
    ),
    Case(
        "realloc(p, 5000000) of a mapped chunk",
        lambda state: mremap_chunk(state, 0x7FFFF7BE9000, 0, 0x1E9002, 0x4C4B50),
        (("mremap-chunk", "mremap", (0x7FFFF7BE9000, 0x1E9000, 0x4C5000, 1), 0x7FFFF7724000),),
        arena=arena(0x555555654E30, 0x201D0, 0x11C000),
        mp={"n_mmaps": 1, "mmapped_mem": 0x1E9000},
        chunk=0x7FFFF7724000,
        top=0x555555654E30,
        top_size=0x201D0,
        delta=0,
    ),
    Case(
        "the same on glibc 2.43, where the size word leaves the header out",
        lambda state: mremap_chunk(state, 0x7FFFF7BD7000, 0, 0x1E8FF2, 0x4C4B50),
        (("mremap-chunk", "mremap", (0x7FFFF7BD7000, 0x1E9000, 0x4C5000, 1), 0x7FFFF7712000),),
        arena=arena(0x555555654BA0, 0x20460, 0x11C000),
        version=(2, 43),
        mp={"thp_mode": 3, "n_mmaps": 1, "mmapped_mem": 0x1E9000},
        chunk=0x7FFFF7712000,
        top=0x555555654BA0,
        top_size=0x20460,
        delta=0,
    ),
    Case(
        "free of a mapped chunk, glibc 2.41",
        lambda state: free_mmapped(state, 0x7FFFF7DA2000, 0, 0x21002),
        (("munmap-chunk", "munmap", (0x7FFFF7DA2000, 0x21000), 0),),
        arena=arena(0x555555579280, 0xD80),
        version=(2, 41),
        mp={"n_mmaps": 2, "mmapped_mem": 0x116000},
        top=0x555555579280,
        top_size=0xD80,
        delta=0,
    ),
)


def run(steps: Steps, calls: tuple[Real, ...]) -> Outcome:
    """Let the prediction answer to the calls of a real run; return its outcome."""
    step = advance(steps)
    for path, syscall, args, result in calls:
        assert isinstance(step, Call), f"{syscall} is not predicted: {step}"
        assert (step.path, step.syscall, step.args) == (path, syscall, args)
        check_sum(step)
        step = advance(steps, result)
    assert isinstance(step, Outcome), f"one call too many is predicted: {step}"
    return step


def check_sum(call: Call) -> None:
    assert call.path in PATHS
    assert sum(term.value for term in call.terms) == call.total
    if call.rounded >= call.total:
        assert call.rounded == -(-call.total // call.multiple) * call.multiple
    else:
        assert call.rounded == call.total // call.multiple * call.multiple
    assert all(sentence[0].isupper() or sentence.startswith("nb ") for sentence in call.why)
    assert all(sentence.endswith(".") for sentence in call.why)
    assert call.source.endswith(".c)")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_calls_of_a_real_run(case: Case) -> None:
    outcome = run(case.operation(case.state), case.calls)
    assert outcome.chunk == case.chunk
    assert (outcome.top, outcome.top_size) == (case.top, case.top_size)
    assert outcome.system_mem_delta == case.delta
    assert (outcome.error is None) == (case.error is None)
    assert case.error is None or (outcome.error is not None and case.error in outcome.error)


def test_the_sum_of_the_first_growth() -> None:
    call = advance(sysmalloc(CASES[1].state, 0x290))
    assert isinstance(call, Call)
    assert [(term.name, term.value) for term in call.terms] == [
        ("nb", 0x290),
        ("top_pad", 0x20000),
        ("MINSIZE", 0x20),
        ("old top", 0),
    ]
    assert (call.total, call.rounded, call.multiple) == (0x202B0, 0x21000, 0x1000)
    assert call.why == ("The arena has no top chunk yet.", "nb 0x290 is below mmap_threshold 0x20000.")


def test_why_a_chunk_is_mapped() -> None:
    call = advance(sysmalloc(CASES[4].state, 0x20000))
    assert isinstance(call, Call)
    assert call.why == ("nb 0x20000 is at least mmap_threshold 0x20000, and 0 of at most 65,536 mmapped chunks exist.",)
    assert [(term.name, term.value) for term in call.terms] == [("nb", 0x20000), ("SIZE_SZ", 8)]


def case(name: str) -> Case:
    return next(item for item in CASES if name in item.name)


def test_a_fallback_makes_the_arena_noncontiguous() -> None:
    chosen = case("in the way of the first brk")
    outcome = run(chosen.operation(chosen.state), chosen.calls)
    assert outcome.state.arena is not None
    assert not outcome.state.arena.contiguous
    assert "not contiguous any more" in outcome.changes[0]
    assert outcome.state.params.get("sbrk_base") == 0x7FFFF7CD2000


def test_a_foreign_sbrk_is_told() -> None:
    chosen = case("took 0x1234 bytes")
    first = advance(sysmalloc(chosen.state, 0x1F010))
    assert isinstance(first, Call)
    assert "Someone else moved the break: it is at 0x55555557b234" in first.why[-1]
    outcome = run(chosen.operation(chosen.state), chosen.calls)
    assert "0x1234 bytes that someone else took with sbrk" in outcome.changes[0]


def test_a_lowered_break_makes_malloc_abort() -> None:
    lowered = replace(case("the break follows").state, curbrk=0x555555560000)
    outcome = run(sysmalloc(lowered, 0x30000), (("brk-moved", "brk", (0x555555590000,), 0x555555590000),))
    assert outcome.error == "malloc aborts with: break adjusted to free malloc space."


def test_a_refused_correction_makes_malloc_abort_the_next_time() -> None:
    chosen = case("took 0x1234 bytes")
    calls = (chosen.calls[0], ("brk-align", "brk", (0x5555555BB000,), 0x5555555B9234))
    outcome = run(chosen.operation(chosen.state), calls)
    assert outcome.chunk == 0x55555557B240
    assert (outcome.top, outcome.top_size) == (0x55555559A250, 0x5555555B9234 - 0x55555559A250)
    after = advance(sysmalloc(outcome.state, 0x1F010))
    assert isinstance(after, Outcome)
    assert after.error is not None
    assert "not at 0x5555555b9234" in after.error


def test_an_odd_break_after_a_fallback_makes_malloc_abort() -> None:
    state = replace(case("and the next time: glibc 2.35").state, curbrk=0x55555555900D)
    outcome = run(sysmalloc(state, 0x186B0), (("brk-moved", "brk", (0x55555559200D,), 0x55555559200D),))
    assert outcome.error is not None
    assert "it was at 0x55555555900d" in outcome.error


def test_mapped_chunks_are_counted() -> None:
    chosen = case("malloc(131049)")
    params = run(chosen.operation(chosen.state), chosen.calls).state.params
    assert (params.get("n_mmaps"), params.get("max_n_mmaps"), params.get("mmapped_mem")) == (1, 1, 0x21000)


def test_no_more_mapped_chunks_than_allowed() -> None:
    full = replace(case("malloc(131049)").state, params=Params(0, {**DEFAULTS, "n_mmaps": 3, "n_mmaps_max": 3}))
    call = advance(sysmalloc(full, 0x20000))
    assert isinstance(call, Call)
    assert call.path == "brk-extend"
    assert "but 3 of at most 3 mmapped chunks exist already." in call.why[1]


def test_free_of_a_mapped_chunk_raises_the_threshold() -> None:
    chosen = case("free of a mapped chunk")
    outcome = run(chosen.operation(chosen.state), chosen.calls)
    params = outcome.state.params
    assert (params.get("mmap_threshold"), params.get("trim_threshold")) == (0x21000, 0x42000)
    assert "mmap_threshold is set to 0x21000" in outcome.changes[0]
    fixed = replace(chosen.state, params=Params(0, {**DEFAULTS, "no_dyn_threshold": 1}))
    assert not run(chosen.operation(fixed), chosen.calls).changes
    # DEFAULT_MMAP_THRESHOLD_MAX is compared with the size word, flags included
    largest = free_mmapped(chosen.state, 0x7FFFF0000000, 0, 0x2000002)
    assert not run(largest, (("munmap-chunk", "munmap", (0x7FFFF0000000, 0x2000000), 0),)).changes


def test_a_mapped_chunk_in_the_middle_of_its_mapping() -> None:
    # memalign(65536, 200000) on glibc 2.36: the chunk is moved, its prev_size tells by how much
    state = case("free of a mapped chunk").state
    outcome = run(
        munmap_chunk(state, 0x7FFFF7DAFFF0, 0xFFF0, 0x40012),
        (("munmap-chunk", "munmap", (0x7FFFF7DA0000, 0x50000), 0),),
    )
    assert outcome.error is None


def test_a_damaged_mapped_chunk_aborts() -> None:
    state = case("free of a mapped chunk").state
    for chunk, prev_size, size in (
        (0x7FFFF7DA2000, 0, 0x21012),
        (0x7FFFF7DA2000, 0x10, 0x21002),
        (0x7FFFF7DA2020, 0x20, 0x20FE2),
    ):
        outcome = advance(munmap_chunk(state, chunk, prev_size, size))
        assert isinstance(outcome, Outcome)
        assert outcome.error is not None
        assert "munmap_chunk(): invalid pointer" in outcome.error


def test_realloc_within_the_mapping_calls_nothing() -> None:
    outcome = advance(mremap_chunk(case("realloc(p, 5000000)").state, 0x7FFFF7BE9000, 0, 0x1E9002, 0x1E8480))
    assert isinstance(outcome, Outcome)
    assert outcome.chunk == 0x7FFFF7BE9000


def test_mmapped_mem_drifts_on_243() -> None:
    new, old = case("the same on glibc 2.43, where"), case("realloc(p, 5000000)")
    drifted = run(new.operation(new.state), new.calls).state.params.get("mmapped_mem")
    exact = run(old.operation(old.state), old.calls).state.params.get("mmapped_mem")
    assert (exact, drifted) == (0x4C5000, 0x4C5010)


def test_space_that_was_given_back_is_used_again_without_a_call() -> None:
    chosen = case("a thread's heap grows")
    trimmed = replace(chosen.state, heap=heap(FIRST, 0x21000, mprotect_size=0xF5000))
    outcome = advance(sysmalloc(trimmed, 0xF4250))
    assert isinstance(outcome, Outcome)
    assert (outcome.top, outcome.system_mem_delta) == (0x7FFFF00F4DB0, 0xD4000)
    partly = replace(chosen.state, heap=heap(FIRST, 0x21000, mprotect_size=0x30000))
    call = advance(sysmalloc(partly, 0xF4250))
    assert isinstance(call, Call)
    assert call.args == (0x7FFFF0030000, 0xC5000, 3)
    check_sum(call)


def test_heaps_by_themselves() -> None:
    chosen = case("a thread's heap grows")
    grown = run(grow_heap(chosen.state, 0xD3DD0), chosen.calls)
    assert grown.top_size == 0x204A0 + 0xD4000
    made = run(new_heap(case("a full heap").state, 0xF4250 + 0x20 + 0x30, 0x20000), case("a full heap").calls)
    assert made.state.heap == HeapInfo(SECOND, 0, 0, 0x115000, 0x115000, 0x1000, HEAP)
    mapped = case("with vm.overcommit_memory 2")
    shrunk = run(shrink_heap(mapped.state, 0xF4000), mapped.calls)
    assert (shrunk.top_size, shrunk.system_mem_delta) == (0x208B0, -0xF4000)


def test_the_kernel_ignores_the_hint() -> None:
    chosen = case("asked for right behind it")
    calls: tuple[Real, ...] = (
        ("heap-reserve", "mmap", (THIRD, 0x4000000, 0, 0x4022, -1, 0), 0x7FFFD1234000),
        ("heap-align", "munmap", (0x7FFFD1234000, 0x4000000), 0),
        ("heap-reserve", "mmap", (0, 0x8000000, 0, 0x4022, -1, 0), ENOMEM),
        ("heap-reserve", "mmap", (0, 0x4000000, 0, 0x4022, -1, 0), 0x7FFFD1234000),
        ("heap-align", "munmap", (0x7FFFD1234000, 0x4000000), 0),
        ("mmap-chunk", "mmap", (0, 0xF5000, 3, 0x22, -1, 0), 0x7FFFF7000000),
    )
    outcome = run(chosen.operation(chosen.state), calls)
    assert outcome.chunk == 0x7FFFF7000000
    assert outcome.state.aligned_heap_area == 0


def test_an_inaccessible_heap_is_given_back() -> None:
    chosen = case("a thread's first malloc")
    refused = (*chosen.calls[:3], ("heap-commit", "mprotect", (FIRST, 0x21000, 3), ENOMEM))
    unmapped = ("heap-unmap", "munmap", (FIRST, 0x4000000), 0)
    # without its request the arena is tried again
    again = (
        ("heap-reserve", "mmap", (0, 0x8000000, 0, 0x4022, -1, 0), ENOMEM),
        ("heap-reserve", "mmap", (0, 0x4000000, 0, 0x4022, -1, 0), ENOMEM),
    )
    outcome = run(chosen.operation(chosen.state), (*refused, unmapped, *again))
    assert outcome.error is not None


def test_leftover_of_a_closed_heap() -> None:
    abi, start, size = Abi(8), 0x1000, 0x2000
    closed = HeapInfo(start, 0, 0, size, size, 0x1000, HEAP)
    end = start + size

    def ends_with(words: tuple[int, ...]) -> int:
        tail = b"".join(word.to_bytes(8, "little") for word in words)
        return leftover(Snapshot([(end - len(tail), tail)]), abi, closed)

    # a chunk of 0x10 before the fencepost: the last 0x20 bytes
    fenced = (0x10, 0x11, 0x10, 0x1)
    assert ends_with((0, 0x411, *([0] * 128), *fenced)) == 0x20
    # and a free chunk of 0x410 before that
    assert ends_with((0, 0x411, *([0] * 128), 0x410, 0x10, 0x10, 0x1)) == 0x430


def test_trimming_grows_a_top_of_minsize() -> None:
    smallest = replace(case("free trims").state, arena=arena(0x55555557A000 - 0x20, 0x20), curbrk=0x55555557A000)
    outcome = run(systrim(smallest, 0), (("trim", "brk", (0x55555557B000,), 0x55555557B000),))
    assert (outcome.top_size, outcome.system_mem_delta) == (0x1020, 0x1000)


def test_nothing_to_trim() -> None:
    state = case("free trims").state
    for steps in (
        systrim(state, 0x38E60),
        trim_after_free(state, 0xFFF0),
        trim_after_free(replace(state, params=Params(0, {**DEFAULTS, "trim_threshold": 0x38E61})), 0x38E60),
        systrim(replace(state, always_fail_morecore=True), 0),
    ):
        assert isinstance(advance(steps), Outcome)
    foreign = advance(systrim(replace(state, curbrk=0x555555763000), 0))
    assert isinstance(foreign, Outcome)
    assert "0x555555763000, not where the top chunk ends" in foreign.changes[0]


def test_free_looks_at_the_top_chunk() -> None:
    call = advance(trim_after_free(case("free trims").state, 0x38E60))
    assert isinstance(call, Call)
    assert call.args == (0x55555574A000,)
    assert "at least 0x10000" in call.why[0]


@pytest.mark.parametrize(
    ("lack", "operation", "reason"),
    [
        ({"arena": None}, asks(0x290), "which arena"),
        ({"curbrk": None}, asks(0x2DC6D0), "__curbrk"),
        ({"arena": arena(0x555555559290, None)}, asks(0x290), "size of the top chunk"),
        ({"params": Params(0, {})}, asks(0x290), "mmap_threshold"),
        ({"arena": arena(FIRST + 0x8D0, 0x730, number=1)}, asks(0x290), "heap_info"),
        ({"aligned_heap_area": None}, lambda state: new_arena(state, 640), "aligned_heap_area"),
        ({"malloc_state_size": None}, lambda state: new_arena(state, 640), "malloc_state"),
        ({"heap_info_size": None}, lambda state: new_arena(state, 640), "heap_info"),
        ({"release": Release()}, lambda state: new_arena(state, 640), "changed in 2.37"),
        ({"heap": heap(FIRST, 0x40000), "may_shrink_heap": None}, lambda state: shrink_heap(state, 0x1000), "madvise"),
    ],
)
def test_a_fact_that_is_not_known(
    lack: dict[str, object], operation: Callable[[GrowthState], Steps], reason: str
) -> None:
    state = replace(case("follows the top chunk").state, **lack)  # type: ignore[arg-type]
    with pytest.raises(Unpredictable, match=reason) as caught:
        advance(operation(state))
    assert caught.value.reason.endswith(".")


def test_an_empty_heap_whose_predecessor_is_not_known() -> None:
    chosen = case("an empty heap goes whole")
    with pytest.raises(Unpredictable, match="the heap before it"):
        advance(heap_trim(replace(chosen.state, older_heaps=None), 0x20000))


def test_the_release_is_bounded_by_the_fields_of_mp() -> None:
    unknown = Release()
    modern = replace(case("a mapped chunk on glibc 2.43").state, release=unknown)
    call = advance(new_arena(modern, 640))
    assert isinstance(call, Call)
    assert call.args[3] == 0x22
    chunk = advance(sysmalloc(replace(case("malloc(131049)").state, release=unknown), 0x20000))
    assert isinstance(chunk, Call)
    assert chunk.args[1] == 0x21000


def test_advice_is_passed_over_where_a_recorder_does_not_see_it() -> None:
    chosen = case("transparent huge pages on glibc 2.36")
    steps = chosen.operation(chosen.state)
    assert isinstance(advance(steps, caught=("brk",)), Call)
    assert isinstance(advance(steps, 0x555555559000, ("brk",)), Call)
    assert isinstance(advance(steps, 0x555555759000, ("brk",)), Outcome)


def test_a_call_whose_answer_decides_is_not_passed_over() -> None:
    chosen = case("transparent huge pages on glibc 2.36")
    with pytest.raises(Unpredictable, match="a call of brk"):
        advance(chosen.operation(chosen.state), caught=("madvise",))


#: mtrim in a run on glibc 2.36 (c_fixtures/paths.c, mode trim-arenas): one free chunk of 100 KiB, then systrim.
TRIMMED = TrimWalk(((0x5555555C0D20, 0x19010),))


def trim_state(walk: TrimWalk | None, is_main: bool = True) -> GrowthState:
    state = case("free trims").state
    assert state.arena is not None
    return replace(state, trim=walk, arena=state.arena if is_main else replace(state.arena, number=1))


def test_pages_inside_a_free_chunk() -> None:
    abi = Abi(8)
    assert pages_inside(abi, 0x5555555C0D20, 0x19010) == (0x5555555C1000, 0x18000)
    assert pages_inside(abi, 0x10000 - 0x30, 0x1030) == (0x10000, 0x1000)
    assert pages_inside(abi, 0x10000 - 0x30, 0x1020) == (0x10000, 0)
    assert pages_inside(abi, 0x10000 - 0x20, 0x2000) == (0x11000, 0)
    assert pages_inside(abi, 0x10000 - 0x20, 0x2020) == (0x11000, 0x1000)
    assert pages_inside(abi, 0x10000, 0x40) == (0x11000, 0)
    assert pages_inside(Abi(4), 0x10000 - 0x18, 0x1018) == (0x10000, 0x1000)


def test_malloc_trim_advises_and_then_moves_the_break() -> None:
    steps = mtrim(trim_state(TRIMMED), 0x20000)
    advice = advance(steps)
    assert isinstance(advice, Call)
    check_sum(advice)
    assert (advice.syscall, advice.args, advice.path) == ("madvise", (0x5555555C1000, 0x18000, 4), "trim-advice")
    down = advance(steps, -22)  # the answer makes no difference
    assert isinstance(down, Call)
    assert (down.syscall, down.path) == ("brk", "trim")
    assert isinstance(advance(steps, down.args[0]), Outcome)


def test_malloc_trim_leaves_the_top_of_other_arenas() -> None:
    steps = mtrim(trim_state(TRIMMED, is_main=False), None)
    assert isinstance(advance(steps), Call)
    assert isinstance(advance(steps, 0), Outcome)


@pytest.mark.parametrize(
    ("walk", "pad", "reason"),
    [
        (None, 0, "could not be read"),
        (TrimWalk((), 0, complete=False), 0, "Not all free chunks"),
        (replace(TRIMMED, done=1), None, "argument of malloc_trim"),
    ],
)
def test_what_malloc_trim_does_is_not_guessed(walk: TrimWalk | None, pad: int | None, reason: str) -> None:
    with pytest.raises(Unpredictable, match=reason):
        advance(mtrim(trim_state(walk), pad))
