"""A system call that the allocator is about to make, with the sum that led to its arguments."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """One line of a sum, in bytes.

    ``value`` is signed: what is subtracted is negative. ``note`` says in a few words where the value comes from or
    which setting changes it.
    """

    name: str
    value: int
    note: str = ""


@dataclass(frozen=True)
class Call:
    """A predicted system call.

    ``args`` are the arguments as integers, in the kernel's order and as many as the call has: brk 1, munmap 2,
    mprotect 3, mmap 6 (the descriptor is -1, not 0xffffffff), mremap 4, madvise 3. ``path`` is the stable name of the
    branch (``PATHS`` in simulate.paths tells what each means). ``terms`` add up to ``total``; ``rounded`` is
    ``total`` after rounding to ``multiple``, and is the number of bytes that the call is about. ``why`` are the
    conditions that led here, each a full sentence with its values, and ``source`` the glibc function that decides.
    """

    syscall: str
    args: tuple[int, ...]
    path: str
    terms: tuple[Term, ...]
    total: int
    rounded: int
    multiple: int
    why: tuple[str, ...]
    source: str
