"""heap_info: the regions that an arena other than main_arena is made of, linked newest first."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HeapInfo:
    """One ``heap_info``: ``size`` bytes are in use, ``mprotect_size`` bytes were ever made accessible.

    ``prev`` is the address of the heap before it in the same arena, 0 for the first. ``page_size`` is the step in
    which the heap grows (the field from glibc 2.35 on, else the kernel's page). ``max_size`` is HEAP_MAX_SIZE.
    """

    address: int
    arena: int
    prev: int
    size: int
    mprotect_size: int
    page_size: int
    max_size: int
