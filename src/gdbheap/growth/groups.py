"""Recorded events put together by who made them, with the bytes that each group got, gave back and still holds."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from gdbheap.growth.arena_of import arenas_of
from gdbheap.growth.decision import decide, is_runtime
from gdbheap.growth.event import GAP, Event, Frame
from gdbheap.growth.history import History
from gdbheap.growth.holdings import Holding, holdings
from gdbheap.growth.names import base_name
from gdbheap.growth.requester import NO_CALLER, OWN_MAPPING

#: What events can be grouped by.
BY = ("caller", "arena", "kind", "library")
#: Who made the calls that were not recorded.
_NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Group:
    """Events that have the same caller, arena, kind or library.

    ``name`` is what they share; for a caller it is empty, and ``place`` is that caller.
    ``got``, ``gave_back`` and ``holds`` are in bytes, as in Holding; ``unknown`` counts the events whose amount is not
    known. ``largest`` is the number of the event that got most, None where none got anything.
    """

    name: str
    place: Frame | None
    events: tuple[Event, ...]
    got: int
    gave_back: int
    holds: int
    unknown: int
    largest: int | None


def grouped(history: History, events: Sequence[Event], by: str) -> tuple[Group, ...]:
    """Return the groups of these events of the history, the one that got most first; ``by`` is a word of BY.

    What a group holds follows from all kept events: who gives memory back need not be who got it.
    """
    found = holdings(history)
    members: dict[Hashable, list[Event]] = {}
    key_of = _keys(history, by)
    for event in events:
        members.setdefault(key_of(event), []).append(event)
    groups = [_group(key, those, found) for key, those in members.items()]
    groups.sort(key=lambda group: (-group.got, -group.holds, -group.gave_back, group.events[0].id))
    return tuple(groups)


def _group(key: Hashable, events: Sequence[Event], found: Mapping[int, Holding]) -> Group:
    mine = [found[event.id] for event in events]
    most = max(range(len(events)), key=lambda place: mine[place].got)
    return Group(
        name=key if isinstance(key, str) else "",
        place=None if isinstance(key, str) else _caller_of(events[-1]),
        events=tuple(events),
        got=sum(item.got for item in mine),
        gave_back=sum(item.gave_back for item in mine),
        holds=sum(item.holds for item in mine),
        unknown=sum(not item.known for item in mine),
        largest=events[most].id if mine[most].got else None,
    )


def _keys(history: History, by: str) -> Callable[[Event], Hashable]:
    """Return what makes the key of an event: a name or, for a caller, what tells it from others."""
    known = _known_keys(history, by)
    return lambda event: _NOT_RECORDED if event.syscall == GAP and by != "kind" else known(event)


def _known_keys(history: History, by: str) -> Callable[[Event], Hashable]:
    if by == "caller":
        return _caller
    if by == "kind":
        return lambda event: event.requester.kind
    if by == "library":
        return _library
    arenas = arenas_of(history.events)

    def arena(event: Event) -> str:
        if event.requester.kind != "malloc":
            return NO_CALLER if event.requester.purpose == NO_CALLER else "not malloc's"
        if event.requester.purpose == OWN_MAPPING:
            return "mmapped chunks"
        found = arenas.get(event.id)
        return "arena not known" if found is None else found.name

    return arena


def _caller_of(event: Event) -> Frame | None:
    """Return the user's own caller or, where there is none, the function that decided; None where that is unknown."""
    found = decide(event.frames)
    return event.user or (event.frames[found.index] if found.known else None)


def _caller(event: Event) -> Hashable:
    if event.user is None and decide(event.frames).loader:
        return "the loader, before the program"
    frame = _caller_of(event)
    if frame is None:
        return NO_CALLER
    if frame.line is not None:
        return frame.function, frame.file, frame.line
    return frame.function or frame.pc, frame.objfile


def _library(event: Event) -> str:
    """Return the file of the newest caller that is outside of the C and C++ run time, else of the one that decides.

    Where the C++ library asks for itself, before main, it is its file.
    """
    own = next((frame for frame in event.frames if frame.objfile is not None and not is_runtime(frame)), event.user)
    if own is None or own.objfile is None:
        decisive = event.frames[decide(event.frames).index :]
        own = next((frame for frame in (*decisive, *event.frames) if frame.objfile is not None), None)
    return base_name(own.objfile) if own is not None else NO_CALLER
