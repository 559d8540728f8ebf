"""What sysmalloc, systrim and their like look at before they ask the kernel for anything."""

from __future__ import annotations

from dataclasses import dataclass

from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.heaps import HeapInfo
from gdbheap.ptmalloc.params import Params


@dataclass(frozen=True)
class Release:
    """What differs between glibc releases where no field of a struct tells it.

    ``version`` is (2, 36) for glibc 2.36, None where it is unknown.
    """

    version: tuple[int, int] | None = None


@dataclass(frozen=True)
class GrowthState:
    """The allocator before a system call.

    ``curbrk`` is libc's ``__curbrk`` (0 before the first sbrk of the process, None where unknown). ``heap`` is the
    heap_info that holds the top chunk of an arena other than main_arena. ``aligned_heap_area`` is the static variable
    of arena.c (the hint for the next heap; None where unknown).
    """

    abi: Abi
    params: Params
    arena: Arena | None
    curbrk: int | None = None
    heap: HeapInfo | None = None
    aligned_heap_area: int | None = None
    release: Release = Release()
