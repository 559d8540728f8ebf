"""What the two drawings of a timeline share: its states put into columns, and an axis of sizes that people can read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from gdbheap.growth.timeline import OF_MALLOC, SERIES, Level, Series, Timeline
from gdbheap.render.callers import caller_line
from gdbheap.render.events import owner_text
from gdbheap.render.units import count_of, human_size, in_bytes, signed_size

_MOST_NAMED = 8

#: What each series is called.
NAMES = {
    "break": "brk heap (main_arena)",
    "arenas": "heaps of other arenas",
    "mmapped": "mappings of malloc's own",
    "rest": "not malloc's",
}


@dataclass(frozen=True)
class Column:
    """The states that one column stands for.

    ``low`` and ``high`` are their lowest and highest total, and ``parts`` the values of the series where the total was
    highest. ``levels`` are the events in it, none where nothing changed.
    """

    low: int
    high: int
    parts: tuple[int, ...]
    levels: Sequence[Level]

    @property
    def largest(self) -> Level:
        """The event that changed most; there must be one."""
        return max(self.levels, key=lambda level: abs(level.delta))


@dataclass(frozen=True)
class Picture:
    """What is drawn: the timeline, the series of it that are looked at, their states, and how the x axis counts.

    ``by`` is ``event`` (each event that changed something has the same width) or ``time``.
    """

    timeline: Timeline
    names: tuple[str, ...]
    levels: tuple[Level, ...]
    by: str

    @cached_property
    def highest(self) -> int:
        """The highest total."""
        return max([sum(self.timeline.begin(self.names)), *(level.total for level in self.levels)])

    @cached_property
    def peak(self) -> Level | None:
        """The first event after which the total was highest; None where it only fell from its beginning."""
        return next((level for level in self.levels if level.total == self.highest), None)

    @property
    def begin_time(self) -> float:
        """When the x axis begins, in seconds since the recording did."""
        return self.timeline.first.time

    @property
    def span(self) -> float:
        """The seconds from the first event to the newest, those included that changed nothing here."""
        return self.timeline.newest.time - self.begin_time

    @property
    def known(self) -> bool:
        """Whether the values of malloc's series are exact, and not merely the least that there can have been."""
        return all(series.known for series in self.shown if series.name != "rest")

    @property
    def shown(self) -> tuple[Series, ...]:
        """The series that are looked at and ever had a byte."""
        return tuple(series for series in self.timeline.series if series.name in self.names and _is_used(series))

    def columns(self, width: int) -> list[Column]:
        """Return the states in ``width`` columns."""
        inside: list[list[Level]] = [[] for _ in range(width)]
        for index, level in enumerate(self.levels):
            inside[self._column_of(index, level, width)].append(level)
        values = self.timeline.begin(self.names)
        found = []
        for levels in inside:
            if not levels:
                found.append(Column(sum(values), sum(values), values, ()))
                continue
            highest = max(levels, key=lambda level: level.total)
            low = min(level.total for level in levels)
            found.append(Column(low, highest.total, highest.values, levels))
            values = levels[-1].values
        return found

    def _column_of(self, index: int, level: Level, width: int) -> int:
        if self.by == "time":
            return int((level.event.time - self.begin_time) / self.span * (width - 1)) if self.span else 0
        return (index + 1) * width // (len(self.levels) + 1)  # the first of them is the state before all events


def _is_used(series: Series) -> bool:
    return bool(series.begin or series.steps)


def picture(timeline: Timeline, *, by: str, rest: bool) -> Picture:
    """Return what is to be drawn of a timeline: malloc's memory, and with ``rest`` that of all others as well."""
    names = SERIES if rest else OF_MALLOC
    return Picture(timeline, names, timeline.levels(names), by)


def time_text(seconds: float) -> str:
    """Return a time since the recording began: ``0.013 s``, ``2 min 5 s``."""
    if seconds < 60:
        return f"{seconds:.3f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


#: Where the lines of an axis may stand: these, times a power of two. A quarter of them is a round number too.
_ROUND = (4, 5, 6)


def round_unit(least: float) -> int:
    """Return the smallest number of bytes, not below ``least``, that multiples of which are read easily."""
    unit = 64
    while _ROUND[-1] * unit < least:
        unit *= 2
    return next(factor * unit for factor in _ROUND if factor * unit >= least)


def axis_labels(values: Sequence[int]) -> list[str]:
    """Return the labels of an axis of sizes: all in the largest unit in which two decimals say them exactly.

    All are in bytes where every size is to be.
    """
    for size, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if not in_bytes() and max(values) >= size and all(value * 100 % size == 0 for value in values):
            return [f"{value / size:.2f}".rstrip("0").rstrip(".") + f" {name}" if value else "0" for value in values]
    return [f"{value:,} bytes" if value else "0" for value in values]


def series_text(series: Series) -> str:
    """Return what a series is called, and what it began with, reached and came to."""
    known = "" if series.known else " (as far as recorded)"
    if not series.steps:
        return f"{NAMES[series.name]}: {human_size(series.begin)} all the time{known}"
    begin = f"from {human_size(series.begin)}, " if series.begin else ""
    last = f"{human_size(series.last)} after #{series.steps[-1].event.id}"
    return f"{NAMES[series.name]}: {begin}{human_size(series.peak)} at most, {last}{known}"


def heading(drawn: Picture) -> str:
    """Return a line on what is drawn."""
    line = drawn.timeline
    return (
        f"process {line.process}: {len(drawn.levels):,} of {count_of(line.events, 'event')} (#{line.first.id} to "
        f"#{line.newest.id}, {time_text(drawn.span)}) changed this memory"
    )


def step_text(level: Level) -> str:
    """Return who made a call, or whose memory it is about where malloc did not make it."""
    event = level.event
    return caller_line(event) if event.requester.kind == "malloc" else owner_text(event)


@dataclass(frozen=True)
class Largest:
    """The largest growths, or shrinks: a line on all of them, those that are listed, and a line on the others.

    ``others`` is empty where there are none.
    """

    heading: str
    listed: tuple[Level, ...]
    others: str


def largest_steps(drawn: Picture, count: int) -> Iterator[Largest]:
    """Yield the growths and then the shrinks, where there are any, at most ``count`` of each listed."""
    for noun, sign in (("growth", 1), ("shrink", -1)):
        found = [level for level in drawn.levels if level.delta * sign > 0]
        if not found:
            continue
        found.sort(key=lambda level: -abs(level.delta))
        listed, rest = found[:count], found[count:]
        total = signed_size(sum(level.delta for level in found))
        heading = f"{count_of(len(found), noun)}, {total} in all{', the largest:' if rest else ':'}"
        others = f"{signed_size(sum(level.delta for level in rest))} together"
        yield Largest(heading, tuple(listed), f"and {count_of(len(rest), f'smaller {noun}')}, {others}" if rest else "")


NOTHING = "Nothing was drawn: no recorded event changed the memory that malloc has."


def crowded_text(columns: Sequence[Column], noun: str) -> str | None:
    """Return a sentence on how many events share a column, None where none do."""
    most = max((len(column.levels) for column in columns), default=0)
    if most < 2:
        return None
    return f"A {noun} stands for up to {count_of(most, 'event')}, from its lowest total to its highest."


def notes(drawn: Picture) -> list[str]:
    """Return sentences on what the drawing does not tell."""
    line = drawn.timeline
    return [*_what_is_missing(drawn), *_what_does_not_count(drawn), *_what_else(line)]


def _what_is_missing(drawn: Picture) -> list[str]:
    line, found = drawn.timeline, []
    unknown = ", ".join(NAMES[series.name] for series in drawn.shown if not series.known and series.name != "rest")
    if unknown:
        found.append(f"How much there was before the recording is not known ({unknown}): there was at least as much.")
    if line.dropped:
        found.append(f"{count_of(line.dropped, 'older event')} are no longer kept.")
    found += [f"From #{gap.after + 1} on: {gap.reason}" for gap in line.gaps]
    if line.unrecorded_breaks:
        found.append(
            "The break was also moved by calls that were not recorded: it was elsewhere before "
            f"{_numbers(line.unrecorded_breaks)}."
        )
    if line.miscounted:
        found.append(
            f"At #{line.compared} malloc's own count of its mmapped chunks differed by {signed_size(line.miscounted)}: "
            "calls were not recorded, or another thread was just making one."
        )
    if line.unknown:
        found.append(f"Of {count_of(line.unknown, 'call')} the amount is not known.")
    return found


def _what_does_not_count(drawn: Picture) -> list[str]:
    line, found = drawn.timeline, []
    if "rest" not in drawn.names and line.series[-1].steps:
        rest = line.series[-1]
        events, change = count_of(len(rest.steps), "event"), signed_size(rest.last - rest.begin)
        found.append(
            f"Not drawn: what is not malloc's, {events} and {change} of address space in all (-rest draws it)."
        )
    if line.failed:
        found.append(f"{count_of(line.failed, 'call')} failed and changed nothing.")
    if line.unfinished:
        found.append(f"{count_of(line.unfinished, 'call')} had not returned and counted for nothing.")
    return found


def _what_else(line: Timeline) -> list[str]:
    found = []
    if line.programs_before:
        found.append(
            f"{count_of(line.programs_before, 'event')} of what the process executed before are left out: that "
            "memory is gone."
        )
    if line.others:
        listed = ", ".join(f"{process} ({count_of(count, 'event')})" for process, count in line.others[:_MOST_NAMED])
        more = f" and {len(line.others) - _MOST_NAMED:,} more" if len(line.others) > _MOST_NAMED else ""
        found.append(f"Other processes were recorded: {listed}{more}. -process PID shows one.")
    return found


def _numbers(numbers: Sequence[int]) -> str:
    listed = ", ".join(f"#{number}" for number in numbers[:_MOST_NAMED])
    return listed if len(numbers) <= _MOST_NAMED else f"{listed} and {len(numbers) - _MOST_NAMED:,} more"
