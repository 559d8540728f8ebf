"""Where malloc has ended a program: which check failed, on what, in whose call."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gdbheap.growth.event import Frame
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.compared import Compared
from gdbheap.ptmalloc.placed import Placed


class Cause(Enum):
    """What stopped a thread inside malloc."""

    CHECK = "check"  # one of malloc's own checks failed
    FAULT = "fault"  # the processor: memory that is not there, or not as it must be
    SIGNAL = "signal"  # a signal of someone else's came while malloc worked


class ToldBy(Enum):
    """What tells the pointer that the program passed."""

    FRAMES = "frames"  # variables of libc's functions
    CALL_SITE = "call-site"  # the caller's code, its saved registers and its memory
    SOURCE = "source"  # the caller's line of source, and the value of the variable that is named there
    FINDING = "finding"  # what was found wrong: only this pointer would fail that check


@dataclass(frozen=True)
class Emptying:
    """A fastbin that was being emptied (malloc_consolidate) when it ended: number ``index`` of an arena, None unknown.

    ``link`` is the bad link that it followed (None where that is not known), placed at ``place``. The link came from
    the chunk that was merged last: ``merged`` is the free chunk that this has become part of, None where there is none;
    then the list began with it. ``holders`` are sentences on who holds a pointer to it. ``lost`` are chunks that the
    link would lead to if only its low bits are wrong: they were on the list, and are on none now.
    """

    index: int | None
    link: int | None
    place: Placed | None
    merged: int | None
    holders: tuple[str, ...] = ()
    lost: tuple[int, ...] = ()


@dataclass(frozen=True)
class Abort:
    """Where malloc ended.

    ``cause`` says what stopped it. Where that was one of malloc's checks, ``message`` is what glibc printed (None where
    that is not known), ``check`` the key of CHECKS that it is, None where it is none of those. ``function`` is malloc's
    function that made the check. ``call`` is the public function that the program called with ``pointer`` or for
    ``request`` bytes, from ``caller``; each is None where it is not known. ``told_by`` says how the pointer is known,
    ``place`` what it points to. ``chunk`` is the address of the chunk that the check was about, and ``chunk_place``
    what is there: it need not be a chunk. ``compared`` are the values that it looked at. ``touched`` are all
    chunks that its functions were working on, by address. ``emptying`` is the fastbin that was being emptied, None
    where none was.
    """

    thread: int
    cause: Cause
    message: str | None
    check: str | None
    function: str
    call: str | None
    pointer: int | None
    request: int | None
    caller: Frame | None
    arena: Arena | None
    chunk: int | None
    compared: tuple[Compared, ...]
    told_by: ToldBy | None = None
    place: Placed | None = None
    chunk_place: Placed | None = None
    touched: tuple[int, ...] = ()
    emptying: Emptying | None = None

    @property
    def fault(self) -> bool:
        """Whether the processor stopped it."""
        return self.cause is Cause.FAULT

    @property
    def is_chunk(self) -> bool:
        """Whether a chunk begins at ``chunk``, as far as the heap can be walked."""
        placed = self.chunk_place
        return placed is not None and placed.chunk is not None and placed.chunk.address == self.chunk
