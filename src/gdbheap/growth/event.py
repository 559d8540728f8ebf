"""One system call as it was recorded: arguments, result, callers, thread, and the allocator's state before it.

These records are named tuples because they are made while the program waits: a frozen dataclass takes several times as
long to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from gdbheap.growth.reading import Reading
from gdbheap.ptmalloc.bins import FreeSummary
from gdbheap.simulate.state import GrowthState

#: The variables of glibc's own functions that say what was asked of them; a recorder reads those that it can.
FRAME_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "sysmalloc": ("nb", "av"),
    "sysmalloc_mmap": ("nb",),
    "sysmalloc_mmap_fallback": ("nb",),
    "_int_malloc": ("av", "bytes"),
    "tcache_init": ("bytes",),
    "_int_free_chunk": ("av", "p"),
    "_int_free_maybe_trim": ("av",),
    "_int_new_arena": ("size",),
    "new_heap": ("size", "top_pad"),
    "alloc_new_heap": ("size", "top_pad"),
    "grow_heap": ("h", "diff"),
    "heap_trim": ("heap", "pad"),
    "shrink_heap": ("h", "diff"),
    "systrim": ("pad", "av"),
    "mtrim": ("pad", "av"),
    "__malloc_trim": ("s",),
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


@lru_cache(maxsize=4096)
def plain_name(function: str) -> str:
    """Return glibc's public spelling of a function: without the prefixes of its internal aliases."""
    for prefix in ("__GI_", "_IO_new_"):
        if function.startswith(prefix):
            rest = function[len(prefix) :]
            return rest if prefix == "__GI_" else "_IO_" + rest
    return function


class Frame(NamedTuple):
    """One caller, as GDB names it: nothing is None but what GDB does not know.

    ``offset`` is the distance in bytes of ``pc`` from the start of ``function``. ``variables`` are those of
    FRAME_VARIABLES that could be read.
    """

    function: str | None
    file: str | None
    line: int | None
    objfile: str | None
    pc: int
    variables: Mapping[str, int] = MappingProxyType({})

    @property
    def name(self) -> str:
        """The function's plain name, empty where it is unknown."""
        return plain_name(self.function) if self.function else ""


class FreeLists(NamedTuple):
    """What was free before a request that made the heap grow.

    ``tcache_count`` is the number of chunks in the requesting thread's tcache bin for that size (None where unknown,
    or where the tcache has no bin for it). ``summary`` is what the arena's fastbins and bins held. It is not complete
    where there were too many chunks to count them all while the program waited: then its figures are lower bounds.
    ``tcache`` are the bytes of the tcache, where the size was not known yet and its count is still to be read there.
    """

    tcache_count: int | None
    summary: FreeSummary
    tcache: bytes | None = None


class ChunkHeader(NamedTuple):
    """The two words in front of a chunk's user data, as they were read at ``address``."""

    address: int
    prev_size: int
    size_word: int


class Requester(NamedTuple):
    """Whose memory a call is about.

    ``kind`` is one of KINDS, and ``purpose`` a short phrase.
    """

    kind: str
    purpose: str


class PublicCall(NamedTuple):
    """A call of one of malloc's public functions, or of one that passes on to them.

    ``name`` is what programs call it (``malloc``), ``function`` the frame's plain name (``__libc_malloc``), ``pc`` the
    frame's. ``request`` is in bytes, None where unknown or where it asks for none (free). ``caller`` is the frame that
    called it.
    """

    name: str
    function: str
    pc: int
    request: int | None
    caller: Frame | None


class Requested(NamedTuple):
    """What was asked of malloc.

    ``function`` is the one whose request needed memory, which can be one inside (``tcache_init``), and ``request`` its
    bytes; ``nb`` is the size of the chunk for it. ``arena`` is the address of the malloc_state. ``calls`` are the
    public calls, the program's own first, and ``outer`` is the first of them. ``inner`` are the plain names from
    there inwards. Each is None, or empty, where the frames do not tell. ``nb_from`` says in a phrase where nb is from
    if not from the frames.
    """

    function: str | None
    request: int | None
    nb: int | None
    arena: int | None
    outer: PublicCall | None
    calls: tuple[PublicCall, ...]
    inner: tuple[str, ...]
    nb_from: str | None = None


#: Whose memory a call can be about: the kinds of Requester.
KINDS = ("malloc", "loader", "thread-stack", "locale", "stdio", "program", "other", "gap")
#: The kind of an event that stands for calls that were not recorded, and what it has in place of a call's name.
GAP = "gap"
#: In place of a number of bytes that can no longer be looked up.
UNKNOWN_BYTES = -1
#: An event that nobody has judged yet.
UNKNOWN = Requester("other", "not known")


class Event(NamedTuple):
    """One system call, from entry to return.

    ``id`` counts from 1. ``time`` is when the call began, in seconds since the recording's first event. ``thread`` is
    GDB's number and ``tid`` the kernel's. ``args`` are as many as the call has; a file descriptor is signed. ``result``
    is signed (a failure is the negative errno), None while the call has not returned. ``break_before`` is the process's
    break before a brk call, None where it is unknown. ``mapped_before`` counts the bytes that were mapped where the
    call maps or unmaps, None where that was not looked up. ``file`` is the file behind a descriptor. ``frames`` are
    newest first; ``more_frames`` says that older ones were left out. ``requester`` says whose memory it is,
    ``requested`` what was asked of malloc where it is malloc's, and ``user`` is the newest caller of the user's own
    code. ``reading`` and ``free`` are the allocator at entry, for calls that malloc made, and ``chunk`` the header of
    the mmapped chunk that is freed or resized. ``unread`` is a sentence that says why the allocator was not read.
    ``stream`` names the stdio stream whose buffer was asked for.

    ``gap`` is None but for memory that moved without being recorded (growth/gap.py): then it says why.
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
    more_frames: bool = False
    requester: Requester = UNKNOWN
    requested: Requested | None = None
    user: Frame | None = None
    reading: Reading | None = None
    free: FreeLists | None = None
    chunk: ChunkHeader | None = None
    unread: str | None = None
    stream: str | None = None
    gap: str | None = None
    time: float = 0.0

    @property
    def state(self) -> GrowthState | None:
        """The allocator's state before the call, None where it was not read."""
        return None if self.reading is None else self.reading.state

    @property
    def failed(self) -> bool:
        """Whether the kernel refused: a negative errno, or a break that did not become what was asked."""
        if self.result is None or self.syscall == GAP:
            return False
        if self.syscall == "brk":
            return self.args[0] != 0 and self.result != self.args[0]
        return -4096 < self.result < 0

    @property
    def delta(self) -> int | None:
        """Bytes of address space that the process gained (negative: gave back); None while that is unknown.

        A mapping that replaces one gains nothing, and neither does a change of protection or a piece of advice.
        """
        if self.result is None:
            return None
        if self.syscall == GAP:
            return self.args[1] - self.args[0]
        if self.failed or self.syscall in ("mprotect", "madvise"):
            return 0
        if self.syscall == "brk":
            if self.args[0] == 0:
                return 0
            return None if self.break_before is None else self.result - self.break_before
        before = self.mapped_before
        if before == UNKNOWN_BYTES:
            return None
        if self.syscall == "mremap":
            return whole_pages(self.args[2]) - whole_pages(self.args[1]) - (before or 0)
        if self.syscall == "munmap":
            return -whole_pages(self.args[1]) if before is None else -before
        return whole_pages(self.args[1]) - (before or 0)


def whole_pages(size: int) -> int:
    """Return a number of bytes rounded up to pages of 4 KiB, those of the machines whose system calls are recorded."""
    return -(-size // 0x1000) * 0x1000


class Served(NamedTuple):
    """A call of malloc, seen after a growth, before which no system call was recorded.

    ``event`` is the growth's number. ``chunk_size`` is None where malloc refuses the request. ``source`` is where the
    allocator's state at the call made malloc take the memory from (a key of simulate.trace.SOURCES), empty where that
    is not known. ``top_before`` and ``top_after`` are the arena's top chunk when malloc was called and when it was next
    seen (None while it was not seen again), ``left`` the size of top then.
    """

    event: int
    thread: int
    request: int
    chunk_size: int | None
    caller: Frame | None
    user: Frame | None
    top_before: int
    source: str = ""
    top_after: int | None = None
    left: int | None = None
