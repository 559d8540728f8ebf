"""System calls as C has them, with the names of Linux's headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gdbheap.simulate import kernel

_PROTECTIONS = {
    kernel.PROT_READ: "PROT_READ",
    kernel.PROT_WRITE: "PROT_WRITE",
    kernel.PROT_EXEC: "PROT_EXEC",
}
_MAP_FLAGS = {
    kernel.MAP_SHARED: "MAP_SHARED",
    kernel.MAP_PRIVATE: "MAP_PRIVATE",
    kernel.MAP_FIXED: "MAP_FIXED",
    kernel.MAP_ANONYMOUS: "MAP_ANONYMOUS",
    kernel.MAP_DENYWRITE: "MAP_DENYWRITE",
    kernel.MAP_NORESERVE: "MAP_NORESERVE",
    kernel.MAP_STACK: "MAP_STACK",
    kernel.MAP_HUGETLB: "MAP_HUGETLB",
}
_MREMAP_FLAGS = {kernel.MREMAP_MAYMOVE: "MREMAP_MAYMOVE", kernel.MREMAP_FIXED: "MREMAP_FIXED"}
_ADVICE = {
    0: "MADV_NORMAL",
    1: "MADV_RANDOM",
    2: "MADV_SEQUENTIAL",
    3: "MADV_WILLNEED",
    kernel.MADV_DONTNEED: "MADV_DONTNEED",
    kernel.MADV_FREE: "MADV_FREE",
    9: "MADV_REMOVE",
    10: "MADV_DONTFORK",
    11: "MADV_DOFORK",
    12: "MADV_MERGEABLE",
    13: "MADV_UNMERGEABLE",
    kernel.MADV_HUGEPAGE: "MADV_HUGEPAGE",
    kernel.MADV_NOHUGEPAGE: "MADV_NOHUGEPAGE",
    16: "MADV_DONTDUMP",
    17: "MADV_DODUMP",
    18: "MADV_WIPEONFORK",
    19: "MADV_KEEPONFORK",
    20: "MADV_COLD",
    21: "MADV_PAGEOUT",
    22: "MADV_POPULATE_READ",
    kernel.MADV_POPULATE_WRITE: "MADV_POPULATE_WRITE",
    24: "MADV_DONTNEED_LOCKED",
    25: "MADV_COLLAPSE",
    100: "MADV_HWPOISON",
    101: "MADV_SOFT_OFFLINE",
    kernel.MADV_GUARD_INSTALL: "MADV_GUARD_INSTALL",
    kernel.MADV_GUARD_REMOVE: "MADV_GUARD_REMOVE",
}


def advice_name(advice: int) -> str:
    """Return the name of a MADV_ number, the number itself where it has none."""
    return _ADVICE.get(advice, str(advice))


def _flags(value: int, names: Mapping[int, str], none: str) -> str:
    known = [name for bit, name in names.items() if value & bit]
    rest = value & ~sum(bit for bit in names if value & bit)
    return "|".join([*known, *([f"{rest:#x}"] if rest else [])]) or none


def call_text(syscall: str, args: Sequence[int]) -> str:
    """Return a system call as C has it: ``mmap(NULL, 0x21000, PROT_READ|PROT_WRITE, ...)``."""
    words = [f"{value:#x}" for value in args]
    if syscall in ("brk", "mmap") and args[0] == 0:
        words[0] = "NULL"
    if syscall in ("mmap", "mprotect"):
        words[2] = _flags(args[2], _PROTECTIONS, "PROT_NONE")
    if syscall == "mmap":
        words[3:] = [_flags(args[3], _MAP_FLAGS, "0"), str(args[4]), words[5] if args[5] else "0"]
    if syscall == "madvise":
        words[2] = advice_name(args[2])
    if syscall == "mremap":
        words[3] = _flags(args[3], _MREMAP_FLAGS, "0")
    return f"{syscall}({', '.join(words)})"
