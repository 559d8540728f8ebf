"""Why what is read of the heap may be between two steps: threads that run or are inside malloc, and locks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Inside:
    """A thread that stopped inside malloc.

    ``function`` is the newest of malloc's functions, ``call`` the one that the program called; each is empty where no
    symbol tells it. ``arenas`` are the names of those whose lists it may be changing; ``tcache`` is whether it may be
    changing its tcache. ``ended`` is whether it will not go on: malloc or the processor has ended it.
    """

    thread: int
    function: str
    call: str
    arenas: tuple[str, ...]
    tcache: bool
    ended: bool = False


@dataclass(frozen=True)
class AtLock:
    """A thread that holds a lock or waits for it: its frame's ``level``, and that frame's ``function`` (may be empty).

    ``sure`` is False where it holds the lock only as far as is known: no other thread is inside malloc.
    """

    thread: int
    level: int
    function: str
    sure: bool = True


@dataclass(frozen=True)
class Lock:
    """An arena's lock that is held: by ``holder`` (None where no thread that is there does), with those that wait.

    glibc notes no owner in it (lll_lock), so that the frames tell. ``contended`` is whether a thread has had to wait.
    ``known`` is whether the stacks of all threads could be read.
    """

    arena: str
    holder: AtLock | None
    waiting: tuple[AtLock, ...]
    contended: bool
    known: bool

    @property
    def is_conspicuous(self) -> bool:
        """Whether there is more to it than a thread inside malloc: another waits, or who holds it is not seen."""
        return bool(self.waiting) or self.holder is None

    @property
    def is_dead(self) -> bool:
        """Whether it will never be given back: its holder waits for it, or is not there."""
        if self.holder is None:
            return self.known
        return self.holder.sure and any(item.thread == self.holder.thread for item in self.waiting)


@dataclass(frozen=True)
class Unsettled:
    """What may be changing. ``running`` are the threads that run; ``unread`` says what could not be looked at."""

    running: tuple[int, ...] = ()
    inside: tuple[Inside, ...] = ()
    locks: tuple[Lock, ...] = ()
    unread: Sequence[str] = ()

    @property
    def settled(self) -> bool:
        """Whether the heap is at rest: what is read of it is no step of anyone's."""
        return not (self.running or self.inside or self.locks or self.unread)

    @property
    def certain(self) -> bool:
        """Whether what looks wrong is wrong: no thread runs, is inside malloc and will go on, or may be."""
        return not (self.running or self.unread or any(not item.ended for item in self.inside))
