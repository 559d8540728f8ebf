"""Where malloc has ended a program: which check failed, on what, in whose call."""

from __future__ import annotations

from dataclasses import dataclass

from gdbheap.growth.event import Frame
from gdbheap.ptmalloc.arena import Arena
from gdbheap.ptmalloc.compared import Compared


@dataclass(frozen=True)
class Abort:
    """Where malloc ended.

    ``message`` is what glibc printed, empty where it keeps no copy of that (None: it was stopped by a fault of the
    processor), ``check`` the key of CHECKS
    that it is, None where it is none of those. ``function`` is malloc's function that made the check. ``call`` is the
    public function that the program called with ``pointer`` or for ``request`` bytes, from ``caller``; each is None
    where it is not known. ``chunk`` is the chunk that the check was about, ``compared`` are the values that it looked
    at.
    """

    thread: int
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
