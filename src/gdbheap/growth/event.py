"""One system call as it was recorded: arguments, result, callers, thread, and the allocator's state before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gdbheap.simulate.state import GrowthState

#: The variables of glibc's own functions that say what was asked of them; a recorder reads those that it can.
FRAME_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "sysmalloc": ("nb", "av"),
    "sysmalloc_mmap": ("nb",),
    "sysmalloc_mmap_fallback": ("nb",),
    "_int_malloc": ("av", "bytes"),
    "_int_new_arena": ("size",),
    "new_heap": ("size", "top_pad"),
    "alloc_new_heap": ("size", "top_pad"),
    "grow_heap": ("h", "diff"),
    "heap_trim": ("heap", "pad"),
    "shrink_heap": ("h", "diff"),
    "systrim": ("pad", "av"),
    "munmap_chunk": ("p",),
    "mremap_chunk": ("p", "new_size"),
    "_int_free": ("av", "p"),
    "_int_realloc": ("av", "oldp", "nb"),
    "_int_memalign": ("av", "alignment", "bytes"),
    "__libc_malloc": ("bytes",),
    "__libc_malloc2": ("bytes",),
    "__libc_calloc": ("n", "elem_size"),
    "__libc_calloc2": ("sz",),
    "__libc_realloc": ("oldmem", "bytes"),
    "__libc_free": ("mem",),
    "_mid_memalign": ("alignment", "bytes"),
    "__libc_memalign": ("alignment", "bytes"),
    "_IO_file_doallocate": ("fp",),
}


def plain_name(function: str) -> str:
    """Return glibc's public spelling of a function: without the prefixes of its internal aliases."""
    for prefix in ("__GI_", "_IO_new_"):
        if function.startswith(prefix):
            rest = function[len(prefix) :]
            return rest if prefix == "__GI_" else "_IO_" + rest
    return function


@dataclass(frozen=True)
class Frame:
    """One caller, as GDB names it: nothing is None but what GDB does not know.

    ``offset`` is the distance in bytes of ``pc`` from the start of ``function``. ``variables`` are those of
    FRAME_VARIABLES that could be read.
    """

    function: str | None
    file: str | None
    line: int | None
    objfile: str | None
    pc: int
    variables: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The function's plain name, empty where it is unknown."""
        return plain_name(self.function) if self.function else ""


@dataclass(frozen=True)
class Event:
    """One system call, from entry to return.

    ``id`` counts from 1. ``thread`` is GDB's number and ``tid`` the kernel's. ``args`` are as many as the call has;
    a file descriptor is signed. ``result`` is signed (a failure is the negative errno), None while the call has not
    returned. ``break_before`` is the kernel's break where a brk call makes it known. ``mapped_before`` is the
    number of bytes of the call's own range that were mapped before it (None where that was not looked up).
    ``file`` is the file behind a descriptor. ``frames`` are newest first; ``frames_left_out`` counts the older ones
    that were not recorded (None: there are more, not counted). ``state`` is the allocator's state at entry, for
    calls that malloc made.
    """

    id: int
    process: int
    thread: int
    tid: int
    syscall: str
    args: tuple[int, ...]
    frames: tuple[Frame, ...]
    result: int | None = None
    break_before: int | None = None
    mapped_before: int | None = None
    file: str | None = None
    truncated_frames: bool = False
    state: GrowthState | None = None
