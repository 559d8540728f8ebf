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
class OlderHeap:
    """A heap of an arena that the top chunk has left for a newer one.

    ``leftover`` is the number of bytes at its end that become the top chunk when the newer heap goes: the fencepost
    and the free chunk before it, if there is one.
    """

    heap: HeapInfo
    leftover: int


@dataclass(frozen=True)
class TrimWalk:
    """The free chunks of an arena that mtrim gives pages of back, in its order, and how far it has come.

    ``chunks`` are pairs of address and size in bytes; the first ``done`` of them are behind it. ``complete`` is False
    where it has more to look at than was read.
    """

    chunks: tuple[tuple[int, int], ...]
    done: int = 0
    complete: bool = True


@dataclass(frozen=True)
class GrowthState:
    """The allocator before a system call.

    ``curbrk`` is libc's ``__curbrk`` (0 before the first sbrk of the process, None where unknown). ``heap`` is the
    heap_info that holds the top chunk of an arena other than main_arena, and ``older_heaps`` are the others of that
    arena, newest first (None where they were not read). ``aligned_heap_area`` is the static variable of arena.c (the
    hint for the next heap; None where unknown). ``heap_info_size`` and ``malloc_state_size`` are the sizes of the two
    structs in bytes. ``may_shrink_heap`` is what check_may_shrink_heap answers: whether a heap is shrunk with mmap
    instead of madvise. ``always_fail_morecore`` is the variable of that name (from glibc 2.34 on); where it is None,
    the settings for huge pages decide. ``trim`` is what malloc_trim has before it in this arena, None where it was not
    read. ``top_is_damaged`` says that the top chunk is smaller than any, or that its PREV_INUSE is clear.
    """

    abi: Abi
    params: Params
    arena: Arena | None
    curbrk: int | None = None
    heap: HeapInfo | None = None
    aligned_heap_area: int | None = None
    release: Release = Release()
    older_heaps: tuple[OlderHeap, ...] | None = None
    heap_info_size: int | None = None
    malloc_state_size: int | None = None
    may_shrink_heap: bool | None = None
    always_fail_morecore: bool | None = None
    trim: TrimWalk | None = None
    top_is_damaged: bool = False
