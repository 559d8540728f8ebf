"""The numbers of Linux's own headers that malloc's system calls are made of."""

from __future__ import annotations

PROT_NONE = 0x0
PROT_READ = 0x1
PROT_WRITE = 0x2
PROT_EXEC = 0x4

MAP_SHARED = 0x1
MAP_PRIVATE = 0x2
MAP_FIXED = 0x10
MAP_ANONYMOUS = 0x20
MAP_DENYWRITE = 0x800
MAP_NORESERVE = 0x4000
MAP_STACK = 0x20000
MAP_HUGETLB = 0x40000

MREMAP_MAYMOVE = 0x1
MREMAP_FIXED = 0x2

MADV_DONTNEED = 4
MADV_HUGEPAGE = 14

#: What malloc's MMAP macro adds to the flags that it is given.
MAP_MALLOC = MAP_PRIVATE | MAP_ANONYMOUS
