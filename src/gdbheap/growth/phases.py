"""The parts of a recording, as a reader of strace tells them apart: loading, the first heap, growth, shrinking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gdbheap.growth.event import GAP, Event
from gdbheap.growth.history import History
from gdbheap.growth.holdings import holdings
from gdbheap.growth.requester import NO_CALLER
from gdbheap.growth.timeline import OF_MALLOC, is_fresh, of_present_program, timeline

#: The names of the phases: in a ``steady`` one malloc has as much at the end as at the beginning.
PHASES = ("loading", "first-heap", "growth", "shrinking", "steady")

#: A fall by less than this part of the peak does not end a phase of growth, nor a rise one of shrinking.
_PART = 8
_LEAST = 0x1000


@dataclass(frozen=True)
class Phase:
    """Events of one process that follow each other and belong together.

    ``name`` is one of PHASES, and ``first`` and ``last`` are its ends. ``kinds`` counts its events by whose memory they
    are about. ``before`` and ``after`` are the bytes that malloc has from the kernel at its beginning and its end.
    ``known`` is False where it had more when the recording began, and nothing tells how much. ``nobodys`` is how many
    calls have no caller that is known: any of them may be malloc's.
    """

    name: str
    first: Event
    last: Event
    kinds: Mapping[str, int]
    before: int
    after: int
    known: bool
    nobodys: int

    @property
    def events(self) -> int:
        """How many events it has."""
        return sum(self.kinds.values())


class _Part(NamedTuple):
    """A phase's name, the place behind its last event, and malloc's bytes then."""

    name: str
    end: int
    after: int


class _Level(NamedTuple):
    """The place of an event that changed what malloc has, and the bytes that it has then."""

    place: int
    total: int


def phases(history: History, process: int) -> tuple[Phase, ...]:
    """Return the phases of the present program of a process, oldest first; it must have events.

    Growth lasts until what malloc has falls by an eighth of the most that it ever has, shrinking until it rises by
    as much: a mapping that comes and goes makes no phases of its own.
    """
    events = of_present_program(history, list(history.of_process(process)))
    line = timeline(history, process)
    known = all(series.known for series in line.series if series.name in OF_MALLOC)
    total = sum(line.begin(OF_MALLOC))
    found: list[Phase] = []
    place, before = 0, total
    for part in _parts(events, _levels(history, events, total), total):
        mine = events[place : part.end]
        if mine:
            kinds = Counter(event.requester.kind for event in mine)
            nobodys = sum(event.requester.purpose == NO_CALLER for event in mine)
            found.append(Phase(part.name, mine[0], mine[-1], dict(kinds), before, part.after, known, nobodys))
            place, before = part.end, part.after
    return tuple(found)


def _levels(history: History, events: Sequence[Event], total: int) -> list[_Level]:
    found, levels = holdings(history), []
    for place, event in enumerate(events):
        changed = found[event.id].got - found[event.id].gave_back
        if event.requester.kind in ("malloc", GAP) and changed:
            total += changed
            levels.append(_Level(place, total))
    return levels


def _parts(events: Sequence[Event], levels: Sequence[_Level], begin: int) -> Iterator[_Part]:
    """Yield the phases in order; some may have no events."""
    kinds = [event.requester.kind for event in events]
    if is_fresh(events):
        loading = next((place for place, kind in enumerate(kinds) if kind != "loader"), len(kinds))
        yield _Part("loading", loading, begin)
        if levels:
            # The calls that lead to the first heap belong to it: malloc asks for the break, or reserves the space.
            before = next(place for place, kind in enumerate(kinds) if kind == "malloc" or place == levels[0].place)
            yield _Part("steady", before, begin)
            yield _Part("first-heap", levels[0].place + 1, levels[0].total)
            begin, levels = levels[0].total, levels[1:]
    if levels:
        yield _Part("steady", levels[0].place, begin)
        yield from _turns(levels, begin)
    yield _Part("steady", len(events), levels[-1].total if levels else begin)


def _turns(levels: Sequence[_Level], begin: int) -> Iterator[_Part]:
    """Yield the phases of growth and of shrinking, which the turning points of malloc's bytes divide."""
    step = max(_LEAST, max(level.total for level in levels) // _PART)
    rising = levels[0].total > begin
    turning, last = levels[0], levels[-1]
    for level in levels:
        if level.total >= turning.total if rising else level.total <= turning.total:
            turning = level
        elif abs(turning.total - level.total) >= step:
            yield _Part("growth" if rising else "shrinking", turning.place + 1, turning.total)
            rising, turning, begin = not rising, level, turning.total
    name = "steady" if last.total == begin else "growth" if last.total > begin else "shrinking"
    yield _Part(name, last.place + 1, last.total)
