"""What an operation of the simulated allocator looked at and did, step by step, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: What a step can be, and one sentence that says what that means.
ROLES: Mapping[str, str] = {
    "look": "Something was looked at, and the operation went on.",
    "take": "This is where the request gets its memory from, or where a freed chunk goes.",
    "move": "Something else changes on the way.",
    "check": "A check of glibc's holds.",
    "call": "A system call is made.",
    "fail": "A check of glibc's fails, or memory that is not there is read.",
}

#: Where a request can get its memory from, and one sentence that says what each is.
SOURCES: Mapping[str, str] = {
    "tcache": "The front chunk of a bin of the thread's tcache.",
    "fastbin": "The front chunk of a fastbin.",
    "small": "The oldest chunk of a small bin.",
    "unsorted": "An unsorted chunk of exactly the size.",
    "last-remainder": "Cut from the last remainder, the only unsorted chunk.",
    "large": "A chunk of a large bin, as a whole or cut from one.",
    "bin": "The smallest chunk of the first bin that holds larger ones, as a whole or cut from one.",
    "top": "Cut from the top chunk.",
    "system": "The top chunk was made larger by the kernel, and it is cut from that.",
    "mapping": "A mapping of its own.",
    "in-place": "The chunk stays where it is (realloc).",
    "aligned": "A chunk was taken in which the aligned place lies; what is before and behind it goes back (memalign).",
}

#: How an operation can end.
ENDS: Mapping[str, str] = {
    "chunk": "It returns memory.",
    "null": "It returns NULL.",
    "done": "It returns, and there is no memory to return.",
    "abort": "A check fails: glibc prints a message and aborts the program.",
    "crash": "It reads or writes memory that is not mapped, and the program gets a SIGSEGV.",
    "unknown": "A fact that decides is not known; what was done up to there is.",
}


@dataclass(frozen=True)
class Step:
    """One step: ``role`` is one of ROLES, ``function`` glibc's function, ``text`` a sentence with the values.

    ``address`` is the chunk, list or arena that it is about, where there is one.
    """

    role: str
    function: str
    text: str
    address: int | None = None


@dataclass(frozen=True)
class Freed:
    """Where free left a chunk: ``kind`` is tcache, fastbin, unsorted, small, top or munmap.

    ``chunk`` and ``size`` (bytes) are the free chunk that is left, merged with its neighbours; the top chunk before
    anything of it is given back; or the mapping's chunk. ``arena`` is the address of its arena, ``index`` the bin that
    it goes to, each None where there is none. ``merged`` are the addresses of the neighbours that it took in.
    """

    kind: str
    chunk: int
    size: int
    arena: int | None = None
    index: int | None = None
    merged: tuple[int, ...] = ()


def assertion_in(function: str) -> str:
    """Return what stands for the message of an assertion, which names the file and the line as well."""
    return f"assertion in {function}"


class Abort(Exception):
    """A check of glibc's that fails: ``message`` is what it prints, or what assertion_in says of an assertion."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
