"""What GDB did not report of a process: where the break is against where it was left, and when GDB sees no call."""

from __future__ import annotations

from collections.abc import Sequence

import gdb

from gdbheap.debugger.processes import local_pid, local_ranges
from gdbheap.growth.event import whole_pages
from gdbheap.growth.gap import GapKind
from gdbheap.growth.history import History
from gdbheap.growth.reading import Reading
from gdbheap.growth.requester import A_MAPPING, OWN_MAPPING
from gdbheap.ptmalloc.abi import round_up
from gdbheap.ptmalloc.mmapped import drift_of_a_resize

_PAGE = 0x1000
_BLIND = {
    GapKind.STEPS: (
        "A software watchpoint makes GDB run the program step by step, and it sees no system call then: what malloc "
        "asks the kernel for meanwhile is not recorded. 'heap events' shows how much it was, once it is seen."
    ),
    GapKind.RECORD: (
        "Under 'record' GDB runs the program step by step, and it sees no system call then: what malloc asks the "
        "kernel for meanwhile is not recorded. 'heap events' shows how much it was, once it is seen."
    ),
}


def blindness() -> GapKind | None:
    """Return why GDB sees no system calls just now, None where nothing tells that it does not."""
    if gdb.current_recording() is not None:
        return GapKind.RECORD
    points = gdb.breakpoints() or ()
    return GapKind.STEPS if any(point.type == gdb.BP_WATCHPOINT and point.enabled for point in points) else None


def blindness_text(kind: GapKind) -> str:
    """Return in a sentence what it means that GDB sees no system calls for this reason."""
    return _BLIND[kind]


def actual_break(known: int | None, curbrk: int | None) -> int | None:
    """Return where the break of the selected process is; None where it cannot be told.

    ``known`` is where a recorded call left it and ``curbrk`` what libc's ``__curbrk`` has, each None where there is
    none. Calls that go past libc leave ``__curbrk`` as it was; where the two differ the kernel's map decides.
    """
    if known is None or curbrk is None or known == curbrk:
        return curbrk if known is None else known
    pid = local_pid()
    heap = None if pid is None else next((item for item in local_ranges(pid) if item.name == "[heap]"), None)
    if heap is None:
        return curbrk
    return next((place for place in (curbrk, known) if round_up(place, _PAGE) == heap.end), None)


class MmappedCount:
    """Follows malloc's count of the bytes in mmapped chunks (mp_.mmapped_mem) from one of its calls to the next.

    Only while glibc knows of one thread: others change the count at any time.
    """

    def __init__(self) -> None:
        self._expected: int | None = None
        self._pending = 0

    def forget(self) -> None:
        """Take the count at the next call for what it is."""
        self._expected = None

    def enter(self, name: str, args: Sequence[int], purpose: str, reading: Reading | None) -> tuple[int, int] | None:
        """Take in a call of malloc's that begins; return what was expected and what is there, where these differ."""
        if name == "madvise":  # sysmalloc_mmap advises huge pages before it counts the mapping (madvise_thp)
            return None
        alone = reading is not None and reading.choosing is not None and reading.choosing.single
        if reading is None or not alone or purpose == A_MAPPING:
            self._expected = None
            return None
        abi, layout = reading.facts.abi, reading.facts.layout
        field = layout.par.fields["mmapped_mem"]
        found = int.from_bytes(reading.params[field.offset : field.offset + field.size], abi.byte_order)
        if name == "brk":  # the usual case
            expected, self._expected = self._expected, found
            return None if expected in (None, found) else (expected, found)
        own = purpose == OWN_MAPPING
        before = found + (whole_pages(args[1]) if own and name == "munmap" else 0)
        expected, self._expected, self._pending = self._expected, found, 0
        if own and name == "mmap":
            self._pending = whole_pages(args[1])
        elif name == "mremap":
            self._pending = whole_pages(args[2]) - whole_pages(args[1]) + drift_of_a_resize(abi, layout)
        return None if expected is None or expected == before else (expected, before)

    def leave(self, failed: bool) -> None:
        """Take in the kernel's answer to that call."""
        if self._expected is not None and not failed:
            self._expected += self._pending
        self._pending = 0


def reason_for(
    history: History,
    process: int,
    was_blind: GapKind | None,
    was_off: bool,
    break_at: int | None,
    vforked: Sequence[int],
) -> tuple[GapKind, int | None]:
    """Return why calls of ``process`` are missing, and the process that made them, None where it is not known.

    ``was_blind`` is why GDB saw no system calls at some time since the last one that it saw, None where it always did,
    and ``was_off`` whether the catchpoint is out of use. ``break_at`` is where the break was found, None where the gap
    is about something else. ``vforked`` are the children of vfork that had the memory since it was last looked at.
    """
    sharing = [other for other in history.sharing_memory(process) if history.last_break(other) == break_at]
    if sharing and break_at is not None:
        return GapKind.SHARED, sharing[-1]
    kind = was_blind or blindness()
    if kind is not None:
        return kind, None
    if was_off:
        return GapKind.OFF, None
    if vforked:
        return GapKind.VFORK, vforked[0] if len(vforked) == 1 else None
    return GapKind.UNKNOWN, None
