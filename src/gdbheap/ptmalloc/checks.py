"""The checks that glibc's malloc makes: what each prints, what has to be wrong, and which releases make it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One check, known by its message.

    ``function`` of glibc's makes it, in a call of ``call``; ``condition`` is what it finds. ``needs`` is the fact
    about a glibc that has it (fastbins, safe-linking, tcache, places: a tcache that counts free places), empty for
    none. ``since`` and ``until`` are the first and the last release that have it, where no such fact tells; None where
    every release has that this project knows. ``compares`` are the values that it looks at, as WORDS names them.
    """

    function: str
    call: str
    condition: str
    needs: str = ""
    since: tuple[int, int] | None = None
    until: tuple[int, int] | None = None
    compares: tuple[str, ...] = ()


#: The values that checks compare: each a word of the chunk that the check is about, of its neighbours, or of its arena.
WORDS: Mapping[str, str] = {
    "pointer": "the pointer",
    "size": "size word of the chunk",
    "prev_size": "prev_size of the chunk",
    "next": "the chunk behind it",
    "next_size": "size word of the chunk behind it",
    "next_prev_size": "prev_size of the chunk behind it",
    "previous": "the chunk before it, by prev_size",
    "previous_size": "size word of the chunk before it",
    "fd": "fd of the chunk",
    "bk": "bk of the chunk",
    "fd->bk": "bk of the chunk that fd leads to",
    "bk->fd": "fd of the chunk that bk leads to",
    "fd_nextsize": "fd_nextsize of the chunk",
    "bk_nextsize": "bk_nextsize of the chunk",
    "system_mem": "system_mem of the arena",
    "top": "top of the arena",
    "top_size": "size word of the top chunk",
    "unsorted": "the unsorted list (as a chunk)",
    "unsorted.fd": "the front of the unsorted list",
    "key": "the second word of the memory",
}

_SIZE_OF_NEXT = "the size word of the chunk behind it is at most two words, or its size at least system_mem"

#: Every message that glibc 2.31 to 2.43 can print about its heap, in the order of its source.
CHECKS: Mapping[str, Check] = {
    # free and realloc
    "free(): invalid pointer": Check(
        "_int_free", "free", "The pointer is not aligned; up to 2.41 also: the chunk would wrap around the address "
        "space.",
        compares=("pointer", "size"),
    ),
    "free(): invalid size": Check(
        "_int_free", "free", "The size is less than the smallest chunk's, or not aligned; from 2.42 on instead: the "
        "chunk would wrap around the address space.",
        compares=("size",),
    ),
    "free(): too many chunks detected in tcache": Check(
        "_int_free", "free", "The chunk has the tcache's mark, and its bin has more chunks than it may have.",
        "tcache", (2, 33), compares=("key",),
    ),
    "free(): unaligned chunk detected in tcache 2": Check(
        "_int_free", "free", "The chunk has the tcache's mark, and its bin holds a pointer that is not aligned.",
        "safe-linking", compares=("key",),
    ),
    "free(): double free detected in tcache 2": Check(
        "_int_free", "free", "The chunk is in the tcache already.", "tcache", compares=("key", "size"),
    ),
    "free(): invalid next size (fast)": Check(
        "_int_free", "free", f"For a fastbin: {_SIZE_OF_NEXT}.", "fastbins",
        compares=("size", "next", "next_size", "system_mem"),
    ),
    "double free or corruption (fasttop)": Check(
        "_int_free", "free", "The chunk is the front of its fastbin already.", "fastbins", compares=("size",),
    ),
    "invalid fastbin entry (free)": Check(
        "_int_free", "realloc", "The front of the fastbin has a size of another bin; the arena was locked.", "fastbins",
        compares=("size",),
    ),
    "double free or corruption (top)": Check(
        "_int_free", "free", "The chunk is the top chunk.", compares=("pointer", "top"),
    ),
    "double free or corruption (out)": Check(
        "_int_free", "free", "The chunk ends behind the top chunk.", compares=("size", "next", "top", "top_size"),
    ),
    "double free or corruption (!prev)": Check(
        "_int_free", "free", "PREV_INUSE is clear in the chunk behind it.", compares=("size", "next", "next_size"),
    ),
    "free(): invalid next size (normal)": Check(
        "_int_free", "free", f"For the other lists: {_SIZE_OF_NEXT}.",
        compares=("size", "next", "next_size", "system_mem"),
    ),
    "corrupted size vs. prev_size while consolidating": Check(
        "_int_free", "free", "PREV_INUSE is clear, and the chunk before has not the size that prev_size says.",
        compares=("size", "prev_size", "previous", "previous_size"),
    ),
    "corrupted size vs. prev_size": Check(
        "unlink_chunk", "free", "A free chunk leaves its list, and prev_size behind it is not its size.",
        compares=("size", "next", "next_prev_size"),
    ),
    "corrupted double-linked list": Check(
        "unlink_chunk", "free", "A free chunk leaves its list, and its neighbours there do not lead back to it.",
        compares=("fd", "bk", "fd->bk", "bk->fd"),
    ),
    "corrupted double-linked list (not small)": Check(
        "unlink_chunk", "free", "The same for the links between sizes of a large bin.",
        compares=("fd_nextsize", "bk_nextsize"),
    ),
    "free(): corrupted unsorted chunks": Check(
        "_int_free", "free", "The front of the unsorted list does not lead back to the list.",
        compares=("unsorted", "unsorted.fd"),
    ),
    "free(): chunks in smallbin corrupted": Check(
        "_int_free_create_chunk", "free", "The front of a small bin does not lead back to the bin.", since=(2, 41),
    ),
    "munmap_chunk(): invalid pointer": Check(
        "munmap_chunk", "free", "Size and prev_size of a chunk with a mapping of its own do not make up whole pages.",
        compares=("pointer", "size", "prev_size"),
    ),
    "mremap_chunk(): invalid pointer": Check(
        "mremap_chunk", "realloc", "The same, in realloc.", compares=("pointer", "size", "prev_size"),
    ),
    "realloc(): invalid pointer": Check(
        "__libc_realloc", "realloc", "The pointer is not aligned, or the chunk would wrap around the address space.",
        compares=("pointer", "size"),
    ),
    "realloc(): invalid old size": Check(
        "_int_realloc", "realloc", "The size word is at most two words, or the size at least system_mem.",
        compares=("size", "system_mem"),
    ),
    "realloc(): invalid next size": Check(
        "_int_realloc", "realloc", f"As in free: {_SIZE_OF_NEXT}.",
        compares=("size", "next", "next_size", "system_mem"),
    ),
    # malloc
    "malloc(): unaligned tcache chunk detected": Check(
        "tcache_get", "malloc", "The front of a tcache bin is not aligned.", "safe-linking",
    ),
    "malloc(): unaligned fastbin chunk detected 2": Check(
        "_int_malloc", "malloc", "The front of a fastbin is not aligned.", "mangled fastbins",
    ),
    "malloc(): unaligned fastbin chunk detected": Check(
        "_int_malloc", "malloc", "The chunk behind the front of a fastbin is not aligned (several threads).",
        "mangled fastbins",
    ),
    "malloc(): unaligned fastbin chunk detected 3": Check(
        "_int_malloc", "malloc", "A chunk that the tcache takes over from a fastbin is not aligned.",
        "mangled fastbins",
    ),
    "malloc(): memory corruption (fast)": Check(
        "_int_malloc", "malloc", "The front of a fastbin has a size of another bin.", "fastbins", compares=("size",),
    ),
    "malloc(): chunk size mismatch in fastbin": Check(
        "_int_malloc", "malloc", "A chunk that the tcache takes over from a fastbin has another size.",
        "fastbins and places",
    ),
    "malloc(): smallbin double linked list corrupted": Check(
        "_int_malloc", "malloc", "The chunk before the last of a small bin does not lead to the last.",
        compares=("bk", "bk->fd"),
    ),
    "malloc(): invalid size (unsorted)": Check(
        "_int_malloc", "malloc", "The size of an unsorted chunk is at most two words, or more than system_mem.",
        compares=("size", "system_mem"),
    ),
    "malloc(): invalid next size (unsorted)": Check(
        "_int_malloc", "malloc", "The size word behind an unsorted chunk is less than two words, or more than "
        "system_mem.",
        compares=("size", "next", "next_size", "system_mem"),
    ),
    "malloc(): mismatching next->prev_size (unsorted)": Check(
        "_int_malloc", "malloc", "prev_size behind an unsorted chunk is not its size.",
        compares=("size", "next", "next_prev_size"),
    ),
    "malloc(): unsorted double linked list corrupted": Check(
        "_int_malloc", "malloc", "The neighbours of an unsorted chunk on its list do not lead to it.",
        compares=("fd", "bk", "bk->fd", "unsorted"),
    ),
    "malloc(): invalid next->prev_inuse (unsorted)": Check(
        "_int_malloc", "malloc", "PREV_INUSE is set behind an unsorted chunk.", compares=("size", "next", "next_size"),
    ),
    "malloc(): corrupted unsorted chunks 3": Check(
        "_int_malloc", "malloc", "An unsorted chunk is taken off, and the one before it does not lead to it.",
        until=(2, 37), compares=("bk", "bk->fd"),
    ),
    "malloc(): largebin double linked list corrupted (nextsize)": Check(
        "_int_malloc", "malloc", "A chunk is sorted into a large bin where fd_nextsize and bk_nextsize do not fit.",
        compares=("fd_nextsize", "bk_nextsize"),
    ),
    "malloc(): largebin double linked list corrupted (bk)": Check(
        "_int_malloc", "malloc", "A chunk is sorted into a large bin where bk does not lead back.",
        compares=("bk", "bk->fd"),
    ),
    "malloc(): corrupted unsorted chunks": Check(
        "_int_malloc", "malloc", "What is left of a large chunk becomes unsorted, and the front of that list does not "
        "lead back.",
        compares=("unsorted", "unsorted.fd"),
    ),
    "malloc(): corrupted unsorted chunks 2": Check(
        "_int_malloc", "malloc", "The same, where the chunk came from a larger bin.",
        compares=("unsorted", "unsorted.fd"),
    ),
    "malloc(): corrupted top size": Check(
        "_int_malloc", "malloc", "The size of the top chunk is more than system_mem.",
        compares=("top", "top_size", "system_mem"),
    ),
    "malloc_consolidate(): unaligned fastbin chunk detected": Check(
        "malloc_consolidate", "trim", "A chunk in a fastbin is not aligned.", "mangled fastbins",
    ),
    "malloc_consolidate(): invalid chunk size": Check(
        "malloc_consolidate", "trim", "A chunk in a fastbin has a size of another bin.", "fastbins", compares=("size",),
    ),
    "corrupted size vs. prev_size in fastbins": Check(
        "malloc_consolidate", "trim", "PREV_INUSE is clear in a chunk of a fastbin, and the chunk before has not the "
        "size that prev_size says.",
        "fastbins", compares=("size", "prev_size", "previous", "previous_size"),
    ),
    "break adjusted to free malloc space": Check(
        "sysmalloc", "malloc", "The heap grows, and the break is before the end of the top chunk.",
        compares=("top", "top_size"),
    ),
    "_int_memalign(): unaligned chunk detected": Check(
        "_int_memalign", "malloc", "A chunk in a bin is not aligned.", since=(2, 38), until=(2, 38),
    ),
    "max tcache size too large": Check(
        "tcache_init", "malloc", "The largest size for a tcache is half a page or more.", "places", until=(2, 42),
    ),
    "tcache_thread_shutdown(): unaligned tcache chunk detected": Check(
        "tcache_thread_shutdown", "exit", "A chunk in the tcache is not aligned.", "safe-linking",
    ),
    "int_mallinfo(): unaligned fastbin chunk detected": Check(
        "int_mallinfo", "mallinfo", "A chunk in a fastbin is not aligned.", "mangled fastbins",
    ),
    "__malloc_info(): unaligned fastbin chunk detected": Check(
        "__malloc_info", "mallinfo", "A chunk in a fastbin is not aligned.", "mangled fastbins",
    ),
    "assertion in sysmalloc": Check(
        "sysmalloc", "malloc", "The heap grows, and the top chunk is too small, does not end on a page, or has "
        "PREV_INUSE clear.",
        compares=("top", "top_size"),
    ),
}  # fmt: skip
