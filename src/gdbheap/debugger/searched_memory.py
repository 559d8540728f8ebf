"""Which memory is searched for pointers, and what of it is left out."""

from __future__ import annotations

from collections.abc import Sequence

from gdbheap.debugger.sections import sections
from gdbheap.mappings import MappedRange
from gdbheap.ptmalloc.scan import Unreadable

#: The kernel's own pages, which hold nothing of the program's.
_KERNELS = ("[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]")
#: How the names of sections begin whose data the program writes.
_DATA = (".data", ".bss")


def to_search(ranges: Sequence[MappedRange]) -> tuple[list[MappedRange], list[Unreadable]]:
    """Return the mappings that may hold a pointer of the program's, and what of them is left out.

    That is what can be written, and what could be and was made read-only since: anonymous memory, and variables.
    """
    found, left_out = [], []
    data = [item for item in sections() if item.name.startswith(_DATA)]
    for item in ranges:
        if item.permissions[0] == "-" or item.name in _KERNELS:
            continue
        variables = any(section.start < item.end and item.start < section.end for section in data)
        if item.permissions[1] == "-" and not item.anonymous and not variables:
            continue
        if item.permissions[1] == "?" and item.name.startswith("/") and not item.held:
            continue  # a core file leaves out what nobody wrote to: the file itself has no pointers of this process
        if item.name.startswith("/dev/") and not item.name.startswith(("/dev/shm/", "/dev/zero")):
            left_out.append(Unreadable(item.start, item.end, "it is a device's memory, which reading may change"))
            continue
        found.append(item)
        if item.held < item.size:
            why = "the core file does not hold it"
            left_out.append(Unreadable(item.start + item.held, item.end, why))
    return found, left_out
