"""The branches on which malloc talks to the kernel, each with a stable name."""

from __future__ import annotations

from collections.abc import Mapping

#: The stable name of each branch, and one sentence that says what it is.
PATHS: Mapping[str, str] = {
    "brk-query": "libc asks where the break is, because it has not looked yet in this process.",
    "brk-first": "The break is moved up to make main_arena's first top chunk.",
    "brk-extend": "The break is moved up to make main_arena's top chunk larger.",
    "brk-moved": (
        "The break is moved up, but it was not where the top chunk ends: someone else moved it, or the arena had "
        "fallen back to mmap. The new memory begins a new top chunk."
    ),
    "brk-align": (
        "The break is moved a second time, to end the new top chunk on a page and to add what was counted on from "
        "the old one."
    ),
    "mmap-fallback": "The break cannot be moved, so a mapping takes its place as main_arena's top chunk.",
    "mmap-chunk": "The request gets a mapping of its own.",
    "mmap-chunk-huge": "The request gets a mapping of its own, made of huge pages.",
    "heap-reserve": "Address space for a heap of a thread's arena is reserved, without access.",
    "heap-align": "What lies before and behind the aligned part of a reservation is given back.",
    "heap-commit": "The first bytes of a new heap are made accessible.",
    "heap-grow": "More bytes of a heap are made accessible, to make the top chunk of its arena larger.",
    "heap-unmap": "A whole heap is given back.",
    "heap-trim": "The end of a heap's top chunk is given back.",
    "trim": "The break is moved down, to give back the end of main_arena's top chunk.",
    "trim-advice": "The whole pages inside a free chunk go back; the chunk and its addresses stay.",
    "munmap-chunk": "A chunk that is a mapping of its own is given back.",
    "mremap-chunk": "A chunk that is a mapping of its own gets another size, and perhaps another place.",
    "thp-advice": "The kernel is asked to back new memory with transparent huge pages.",
}
