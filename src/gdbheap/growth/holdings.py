"""What each recorded call got, gave back and still holds: accessible memory, by the call that it came from.

What is counted is address space that the process can use: reserved memory (PROT_NONE) counts once it is made
accessible. The break, mappings, stacks and heaps of arenas are treated alike.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from gdbheap.growth.event import GAP, UNKNOWN_BYTES, Event, whole_pages
from gdbheap.growth.gap import GapKind, is_of_break
from gdbheap.growth.history import History
from gdbheap.simulate.kernel import PROT_NONE


@dataclass(frozen=True)
class Holding:
    """What one call did to the memory that its process can use, in bytes.

    ``holds`` is what it got and nobody gave back, up to the end of the recording or of the program that made it.
    ``known`` is False where the amount cannot be told: ``got`` and ``gave_back`` are then what is certain.
    """

    got: int = 0
    gave_back: int = 0
    holds: int = 0
    known: bool = True


class _Piece(NamedTuple):
    """Addresses from ``start`` to ``end``: ``owner`` is the event that they came from, None where that is unknown."""

    start: int
    end: int
    owner: int | None
    accessible: bool

    @property
    def size(self) -> int:
        return self.end - self.start


class _Space:
    """What is known of the address space of one program while its events are gone through.

    ``fresh`` says that it was recorded from its first call on: all else that is mapped then comes from the kernel.
    """

    def __init__(self, fresh: bool, pieces: Sequence[_Piece] = ()) -> None:
        self.fresh = fresh
        self.brk: int | None = None
        self.pieces = list(pieces)
        self._starts = [piece.start for piece in pieces]

    def take(self, start: int, end: int) -> list[_Piece]:
        """Take out what is known between two addresses; return it in order."""
        first = max(bisect_right(self._starts, start) - 1, 0)
        if self.pieces[first : first + 1] and self.pieces[first].end <= start:
            first += 1
        behind = max(first, bisect_left(self._starts, end))
        found, kept = [], []
        for piece in self.pieces[first:behind]:
            if piece.start < start:
                kept.append(piece._replace(end=start))
            if piece.end > end:
                kept.append(piece._replace(start=end))
            found.append(piece._replace(start=max(piece.start, start), end=min(piece.end, end)))
        self._set(first, behind, kept)
        return found

    def put(self, pieces: Iterable[_Piece]) -> None:
        """Put pieces in where nothing is known, neither at them nor between them."""
        new = sorted(piece for piece in pieces if piece.size)
        if new:
            place = bisect_left(self._starts, new[0].start)
            self._set(place, place, new)

    def _set(self, first: int, behind: int, pieces: list[_Piece]) -> None:
        self.pieces[first:behind] = pieces
        self._starts[first:behind] = [piece.start for piece in pieces]


def _accessible(pieces: Iterable[_Piece]) -> int:
    return sum(piece.size for piece in pieces if piece.accessible)


def _unseen(start: int, end: int, pieces: Iterable[_Piece]) -> Iterator[tuple[int, int]]:
    """Yield the addresses between ``start`` and ``end`` that are in none of the pieces, which are in order."""
    for piece in pieces:
        if start < piece.start:
            yield start, piece.start
        start = piece.end
    if start < end:
        yield start, end


def _move_break(space: _Space, event: Event) -> Holding:
    to = event.result or 0
    was = event.break_before if event.break_before is not None else space.brk
    space.brk = to
    if event.args[0] == 0 or was is None:
        return Holding(known=event.args[0] == 0)
    space.take(min(was, to), max(was, to))
    if to > was:
        space.put([_Piece(was, to, event.id, True)])
    return Holding(max(0, to - was), max(0, was - to))


def _miss(space: _Space, event: Event) -> Holding:
    """Take in what moved without being recorded; the addresses of mappings are not known then."""
    if event.gap == GapKind.SHARED.value:  # it is the event of the process that made the call
        space.brk = event.result
        return Holding()
    if is_of_break(event):
        return _move_break(space, event)
    changed = event.delta or 0
    return Holding(max(0, changed), max(0, -changed), known=False)


def _map(space: _Space, event: Event) -> Holding:
    start = event.result or 0
    end = start + whole_pages(event.args[1])
    before = space.take(start, end)
    known = event.mapped_before != UNKNOWN_BYTES
    # Memory from before the recording, which only the kernel's map told of: taken for accessible.
    lost = max(0, (event.mapped_before or 0) - sum(piece.size for piece in before)) if known else 0
    if event.args[2] == PROT_NONE:
        space.put([_Piece(start, end, event.id, False)])
        return Holding(0, _accessible(before) + lost, known=known)
    # A mapping that replaces one is no gain: those bytes stay with whoever got them first.
    mapped = [piece if piece.accessible else piece._replace(owner=event.id, accessible=True) for piece in before]
    space.put([*mapped, *(_Piece(low, high, event.id, True) for low, high in _unseen(start, end, before))])
    return Holding(end - start - _accessible(before) - lost, known=known)


def _unmap(space: _Space, event: Event) -> Holding:
    start, end = event.args[0], event.args[0] + whole_pages(event.args[1])
    before = space.take(start, end)
    if event.mapped_before == UNKNOWN_BYTES:
        return Holding(0, _accessible(before), known=False)
    mapped = end - start if event.mapped_before is None else event.mapped_before
    lost = max(0, mapped - sum(piece.size for piece in before))
    # What new_heap trims off was never accessible, also where the reservation was not recorded.
    if any(frame.name in _RESERVING for frame in event.frames):
        lost = 0
    return Holding(0, _accessible(before) + lost)


def _remap(space: _Space, event: Event) -> Holding:
    start, old, new = event.args[0], whole_pages(event.args[1]), whole_pages(event.args[2])
    pieces = space.take(start, start + old)
    pieces += [_Piece(low, high, None, True) for low, high in list(_unseen(start, start + old, pieces))]
    to = event.result or 0
    replaced = space.take(to, to + new)
    moved = [
        piece._replace(start=piece.start - start + to, end=min(piece.end - start, new) + to)
        for piece in pieces
        if piece.start - start < new
    ]
    space.put([*moved, *([_Piece(to + old, to + new, event.id, True)] if new > old else [])])
    known = event.mapped_before != UNKNOWN_BYTES
    return Holding(max(0, new - old), max(0, old - new) + _accessible(replaced), known=known)


def _protect(space: _Space, event: Event) -> Holding:
    start, end = event.args[0], event.args[0] + whole_pages(event.args[1])
    before = space.take(start, end)
    unseen = list(_unseen(start, end, before))
    if event.args[2] == PROT_NONE:
        space.put([piece._replace(accessible=False) for piece in before])
        return Holding(0, _accessible(before), known=not unseen)
    got = sum(piece.size for piece in before if not piece.accessible)
    after = [piece if piece.accessible else piece._replace(owner=event.id, accessible=True) for piece in before]
    if event.requester.kind != "malloc":
        space.put(after)
        return Holding(got, known=space.fresh or not unseen)
    # Heaps of arenas grow into what is reserved, also where the reservation was not recorded.
    space.put([*after, *(_Piece(low, high, event.id, True) for low, high in unseen)])
    return Holding(got + sum(high - low for low, high in unseen))


#: The functions that reserve a heap of an arena, and trim the reservation.
_RESERVING = frozenset({"new_heap", "alloc_new_heap"})
_CHANGES = {GAP: _miss, "brk": _move_break, "mmap": _map, "munmap": _unmap, "mremap": _remap, "mprotect": _protect}


def holdings(history: History) -> Mapping[int, Holding]:
    """Return what each kept event got, gave back and still holds, by the event's number.

    madvise changes nothing here: what it gives back are pages, and their addresses stay.
    """
    found: dict[int, Holding] = {}
    spaces: dict[int, _Space] = {}
    ended: list[_Space] = []
    programs: dict[int, int] = {}
    for event in history.events:
        number = _program(history, event)
        space = spaces.get(event.process)
        if space is None or number != programs[event.process]:
            if space is not None:
                ended.append(space)
            space = spaces[event.process] = _begin(history, event, number, spaces)
            programs[event.process] = number
        change = _CHANGES.get(event.syscall)
        if event.result is None:
            found[event.id] = Holding(known=False)
        else:
            found[event.id] = Holding() if event.failed or change is None else change(space, event)
    held: dict[int, int] = {}
    for piece in (piece for space in (*ended, *spaces.values()) for piece in space.pieces):
        if piece.owner is not None and piece.accessible:
            held[piece.owner] = held.get(piece.owner, 0) + piece.size
    return {number: replace(item, holds=held.get(number, 0)) for number, item in found.items()}


def _program(history: History, event: Event) -> int:
    """Return how many programs its process had executed before the one that made this call."""
    record = history.processes.get(event.process)
    return 0 if record is None else sum(began < event.id for began, _ in record.programs)


def _begin(history: History, event: Event, number: int, spaces: Mapping[int, _Space]) -> _Space:
    """Return the space of a program as its first event finds it: a fork's is a copy of its parent's."""
    fresh = event.syscall == "brk" and event.args[0] == 0 and event.requester.kind == "loader"
    record = history.processes.get(event.process)
    parent = spaces.get(record.parent) if record is not None and record.parent is not None and number <= 1 else None
    if fresh or parent is None:
        return _Space(fresh)
    return _Space(parent.fresh, [piece._replace(owner=None) for piece in parent.pieces])
