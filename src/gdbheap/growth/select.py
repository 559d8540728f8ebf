"""Recorded events that someone wants to see."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gdbheap.growth.arena_of import ArenaOf, arenas_of
from gdbheap.growth.event import Event


@dataclass(frozen=True)
class Wanted:
    """Which events are asked for; None leaves a thing open.

    ``process`` is the kernel's number, ``thread`` GDB's, ``arena`` the number or the address of an arena whose own
    memory changes, ``kind`` a kind of Requester and ``syscall`` a system call's name. The sizes are those of
    ``amount_of``, in bytes, both inclusive.
    """

    process: int | None = None
    thread: int | None = None
    arena: int | None = None
    kind: str | None = None
    syscall: str | None = None
    min_size: int | None = None
    max_size: int | None = None

    @property
    def everything(self) -> bool:
        """Whether no event is left out."""
        return self == Wanted()


def amount_of(event: Event) -> int | None:
    """Return how many bytes an event is about: those gained or given back, protected or advised; None if unknown."""
    if event.syscall in ("mprotect", "madvise"):
        return event.args[1]
    return None if event.delta is None else abs(event.delta)


def select(events: Iterable[Event], wanted: Wanted) -> list[Event]:
    """Return the events that are wanted, in their order."""
    ordered = list(events)
    arenas = arenas_of(ordered) if wanted.arena is not None else {}
    return [event for event in ordered if _is_wanted(event, wanted, arenas.get(event.id))]


def _is_wanted(event: Event, wanted: Wanted, arena: ArenaOf | None) -> bool:
    pairs = (
        (wanted.process, event.process),
        (wanted.thread, event.thread),
        (wanted.kind, event.requester.kind),
        (wanted.syscall, event.syscall),
    )
    if any(asked is not None and asked != found for asked, found in pairs):
        return False
    if wanted.arena is not None and (arena is None or wanted.arena not in (arena.number, arena.address)):
        return False
    if wanted.min_size is None and wanted.max_size is None:
        return True
    amount = amount_of(event)
    if amount is None:
        return False
    return (wanted.min_size or 0) <= amount and (wanted.max_size is None or amount <= wanted.max_size)
