"""System calls as C has them, with the names of Linux's headers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gdbheap.simulate import kernel
from gdbheap.simulate.calls import Call

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


def sum_lines(call: Call) -> Iterator[str]:
    """Yield the sum that leads to the arguments of a predicted call, a line for each part."""
    width = max((len(f"{abs(term.value):#x}") for term in call.terms), default=0)
    width = max(width, len(f"{call.total:#x}"), len(f"{call.rounded:#x}"))
    names = max((len(term.name) for term in call.terms), default=0)
    for index, term in enumerate(call.terms):
        subtracted = term.value < 0 or (term.value == 0 and term.name == "old top")
        sign = "-" if subtracted else "+" if index else " "
        note = f"   {term.note}" if term.note else ""
        yield f"{sign} {abs(term.value):>#{width}x}  {term.name:<{names}}{note}".rstrip()
    if call.terms and call.total != call.rounded:
        direction = "up" if call.rounded > call.total else "down"
        yield f"= {call.total:>#{width}x}  rounded {direction} to a multiple of {call.multiple:#x}:"
    if call.terms:
        yield f"= {call.rounded:>#{width}x}  ({call.rounded:,} bytes)"
