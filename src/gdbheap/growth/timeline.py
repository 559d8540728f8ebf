"""How a process's memory grew, event by event: a step function for each kind of memory that malloc has.

What is counted is address space that the process can use: the break as far as it was moved, heaps of threads' arenas as
far as they were made accessible, and mappings. What is merely reserved (PROT_NONE) counts for nothing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gdbheap.growth.event import GAP, Event, whole_pages
from gdbheap.growth.gap import is_of_break
from gdbheap.growth.history import Gap, History
from gdbheap.growth.nameless import gives_back, public_name
from gdbheap.growth.reading import Reading
from gdbheap.growth.requester import A_MAPPING, HEAP_OF_AN_ARENA, OWN_MAPPING
from gdbheap.ptmalloc.mmapped import drift_of_a_resize
from gdbheap.simulate.kernel import MAP_FIXED, PROT_NONE

#: The kinds of memory, in the order in which they are drawn on top of each other. Only ``rest`` is not malloc's.
SERIES = ("break", "arenas", "mmapped", "rest")
OF_MALLOC = SERIES[:3]


@dataclass(frozen=True)
class Step:
    """One call that changed a series.

    ``value`` is the series' number of bytes after it, and ``delta`` what the call changed, None where that is not
    known. They need not agree with the value before: the break can also be moved by calls that were not recorded.
    """

    event: Event
    value: int
    delta: int | None


@dataclass(frozen=True)
class Series:
    """One kind of memory.

    ``known`` says whether ``begin``, its number of bytes when the recording began, is what it had. Otherwise that is
    the least that it can have had, since more than that was not given back later, and all values are lower bounds.
    """

    name: str
    known: bool
    begin: int
    steps: tuple[Step, ...]

    @property
    def last(self) -> int:
        """The value after the last step."""
        return self.steps[-1].value if self.steps else self.begin

    @property
    def peak(self) -> int:
        """The highest value."""
        return max([self.begin, *(step.value for step in self.steps)])


@dataclass(frozen=True)
class Level:
    """The state after one event that changed a series that is looked at: the value of each of those, in their order."""

    event: Event
    values: tuple[int, ...]
    total: int
    delta: int


@dataclass(frozen=True)
class Timeline:
    """The series of one process, in the order of SERIES, and what they do not tell.

    ``events`` is the number of events that they were made of, ``first`` the oldest and ``newest`` the newest of them.
    ``programs_before`` counts events from before the process began to execute its present program, and ``dropped``
    those of all processes that are no longer kept; ``gaps`` are the places where calls may be missing. ``unfinished``
    calls have not returned, ``failed`` ones were refused, and of ``unknown`` ones the amount is not known.
    ``unrecorded_breaks`` are the numbers of the brk calls before which the break was not where it had been left.
    ``miscounted`` is how many bytes malloc's own count of its mmapped chunks was above ours at the event
    ``compared`` (0: the same; None: there was nothing to compare with). ``others`` are the other recorded processes,
    each with its number of events.
    """

    process: int
    events: int
    first: Event
    newest: Event
    series: tuple[Series, ...]
    programs_before: int
    dropped: int
    gaps: tuple[Gap, ...]
    unfinished: int
    failed: int
    unknown: int
    unrecorded_breaks: tuple[int, ...]
    miscounted: int | None
    compared: int | None
    others: tuple[tuple[int, int], ...]

    def levels(self, names: Sequence[str]) -> tuple[Level, ...]:
        """Return the states after each event that changed any of the series ``names``, oldest first."""
        chosen = [series for series in self.series if series.name in names]
        steps = sorted(
            ((step.event.id, place, step) for place, series in enumerate(chosen) for step in series.steps),
            key=lambda item: item[:2],
        )
        values = [series.begin for series in chosen]
        found: list[Level] = []
        for number, place, step in steps:
            values[place] = step.value
            delta = step.delta or 0
            if found and found[-1].event.id == number:  # one call can change two series
                delta += found.pop().delta
            found.append(Level(step.event, tuple(values), sum(values), delta))
        return tuple(found)

    def begin(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return the values of the series ``names`` before the first event."""
        return tuple(series.begin for series in self.series if series.name in names)


class _Ranges:
    """Address ranges that do not overlap, in order."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def remove(self, start: int, end: int) -> int:
        """Take a range out; return how many of its bytes were in."""
        first, behind = bisect_right(self._ends, start), bisect_left(self._starts, end)
        if first >= behind:
            return 0
        low, high = self._starts[first], self._ends[behind - 1]
        kept = [(low, start)] if low < start else []
        kept += [(end, high)] if end < high else []
        removed = sum(min(end, self._ends[place]) - max(start, self._starts[place]) for place in range(first, behind))
        self._starts[first:behind] = [pair[0] for pair in kept]
        self._ends[first:behind] = [pair[1] for pair in kept]
        return removed

    def add(self, start: int, end: int) -> int:
        """Put a range in; return how many of its bytes were not in."""
        new = end - start - self.remove(start, end)
        place = bisect_left(self._starts, start)
        self._starts.insert(place, start)
        self._ends.insert(place, end)
        return new


class _Counter:
    """Goes through the events of one program, oldest first."""

    def __init__(self, fresh: bool) -> None:
        self.steps: dict[str, list[Step]] = {name: [] for name in SERIES}
        self.before: dict[str, int | None] = dict.fromkeys(SERIES, 0 if fresh else None)
        self.before["rest"] = None  # what the kernel mapped for the program itself is in no record
        self.unfinished = self.failed = self.unknown = 0
        self.unrecorded_breaks: list[int] = []
        self._break: int | None = None
        self._begin_break: int | None = None
        self._accessible = _Ranges()
        self._reserved = _Ranges()

    def _step(self, series: str, event: Event, delta: int) -> None:
        if delta:
            steps = self.steps[series]
            value = (steps[-1].value if steps else self.before[series] or 0) + delta
            steps.append(Step(event, value, delta))

    def start_at(self, program_break: int | None, base: int | None, mmapped: int | None) -> None:
        """Begin with what malloc's own variables tell of the time before: the break, its base, mmapped bytes."""
        self._break = self._begin_break = program_break
        self.before["break"] = program_break - base if program_break is not None and base is not None else None
        self.before["mmapped"] = mmapped

    def series(self, name: str) -> Series:
        """Return a series; nothing can have had less than no bytes, so what was given back tells of the time before."""
        before, steps = self.before[name], self.steps[name]
        least = min([before or 0, *(step.value for step in steps)])
        if least >= 0:
            return Series(name, before is not None, before or 0, tuple(steps))
        raised = tuple(replace(step, value=step.value - least) for step in steps)
        return Series(name, False, (before or 0) - least, raised)

    def count(self, event: Event) -> None:
        """Take in the next event."""
        if event.result is None:
            self.unfinished += 1
        elif event.failed:
            self.failed += 1
        elif event.syscall == GAP:
            self._missed(event, event.result)
        elif event.syscall == "brk":
            self._moved(event, event.result)
        elif event.requester.kind == "malloc":
            self._of_malloc(event, event.result)
        elif event.delta is None:
            self.unknown += 1
        else:
            self._step("rest", event, event.delta)

    def _moved(self, event: Event, to: int) -> None:
        was = event.break_before if event.break_before is not None else self._break
        if event.args[0] == 0:
            was = to
        elif was is None:
            self.unknown += 1
        if self._begin_break is None:
            self._begin_break = to if was is None else was
            if was is None:
                self.before["break"] = None
        elif was is not None and self._break is not None and was != self._break:
            self.unrecorded_breaks.append(event.id)
        self._break = to
        steps = self.steps["break"]
        begin = self.before["break"] or 0
        value = begin + to - self._begin_break
        if value != (steps[-1].value if steps else begin):
            steps.append(Step(event, value, None if was is None else to - was))

    def _missed(self, event: Event, to: int) -> None:
        if is_of_break(event):
            self._moved(event, to)
        else:
            self._step("mmapped", event, event.delta or 0)

    def _of_malloc(self, event: Event, result: int) -> None:
        if event.syscall == "mremap":
            self._step("mmapped", event, event.delta or 0)
            return
        start, end = event.args[0], event.args[0] + whole_pages(event.args[1])
        if event.syscall == "mprotect":
            # Only heaps of threads' arenas are grown this way.
            changed = self._accessible.remove(start, end) if event.args[2] == PROT_NONE else 0
            grown = self._accessible.add(start, end) if event.args[2] != PROT_NONE else 0
            self._step("arenas", event, grown - changed)
        elif event.syscall == "mmap" and event.args[2] == PROT_NONE:
            if event.args[3] & MAP_FIXED:  # how the end of a heap is given back
                self._step("arenas", event, -self._accessible.remove(start, end))
            else:
                self._reserved.add(result, result + end - start)
        elif event.syscall == "mmap":
            self._step("mmapped", event, event.delta or 0)
        elif event.syscall == "munmap":
            accessible, reserved = self._accessible.remove(start, end), self._reserved.remove(start, end)
            if accessible:
                self._step("arenas", event, -accessible)
            elif not reserved and event.requester.purpose != HEAP_OF_AN_ARENA:
                self._step("mmapped", event, event.delta or 0)


def default_process(history: History, selected: int) -> int:
    """Return the process to show: ``selected`` where it has events, else that of the newest event (there is one)."""
    if any(history.of_process(selected)):
        return selected
    return history.events[-1].process


def timeline(history: History, process: int) -> Timeline:
    """Return how the memory of a process grew; it must have events.

    Where the process executed one program after another, it is about the last one: no memory survives that.
    """
    everything = list(history.of_process(process))
    events = of_present_program(history, everything)
    fresh = is_fresh(events)
    counter = _Counter(fresh)
    if not fresh:
        counter.start_at(*_found_at_start(events))
    for event in events:
        counter.count(event)
    compared, miscounted = _compare(events, counter)
    return Timeline(
        process=process,
        events=len(events),
        first=events[0],
        newest=events[-1],
        series=tuple(counter.series(name) for name in SERIES),
        programs_before=len(everything) - len(events),
        dropped=history.dropped,
        gaps=tuple(gap for gap in history.gaps if gap.after >= events[0].id - 1),
        unfinished=counter.unfinished,
        failed=counter.failed,
        unknown=counter.unknown,
        unrecorded_breaks=tuple(counter.unrecorded_breaks),
        miscounted=miscounted,
        compared=compared,
        others=_others(history, process),
    )


def of_present_program(history: History, events: list[Event]) -> list[Event]:
    """Return the events from after the last execve, or all where none came after it."""
    record = history.processes.get(events[0].process)
    began = record.programs[-1][0] if record is not None and record.programs else 0
    return [event for event in events if event.id > began] or events


def _others(history: History, process: int) -> tuple[tuple[int, int], ...]:
    counts: dict[int, int] = {}
    for event in history.events:
        if event.process != process:
            counts[event.process] = counts.get(event.process, 0) + 1
    return tuple(counts.items())


def _readings(events: Sequence[Event]) -> Iterator[tuple[Event, Reading]]:
    """Yield malloc's events, with what was read at each."""
    return ((event, event.reading) for event in events if event.reading is not None)


def is_fresh(events: Sequence[Event]) -> bool:
    """Whether malloc had nothing yet when the recording of this program began."""
    first = events[0]
    if first.syscall == "brk" and first.args[0] == 0 and first.requester.kind == "loader":
        return True  # the first thing that any program's loader does
    _, reading = next(_readings(events), (None, None))
    if reading is None or any(event.requester.kind == "malloc" and event.reading is None for event in events):
        return False
    params = reading.state.params
    return params.get("sbrk_base") == 0 and params.get("mmapped_mem") == 0


def _found_at_start(events: Sequence[Event]) -> tuple[int | None, int | None, int | None]:
    """Return the break, where main_arena's memory begins and the bytes in mmapped chunks, before the first event."""
    event, reading = next(_readings(events), (None, None))
    moved = next((other for other in events if other.syscall == "brk"), None)
    program_break = None
    if moved is not None:
        program_break = moved.result if moved.args[0] == 0 else moved.break_before
    if event is None or reading is None:
        return program_break, None, None
    if moved is None:
        program_break = reading.curbrk or None
    params = reading.state.params
    unread = any(other.requester.kind == "malloc" for other in events if other.id < event.id)
    mmapped = None if unread else params.get("mmapped_mem") + _counted_off(event)
    return program_break, params.get("sbrk_base") or None, mmapped


def _counted_off(event: Event) -> int:
    """Return the bytes that malloc no longer counts at a call of munmap, as free subtracts them before it."""
    purpose = event.requester.purpose
    # Without debug symbols nothing tells the chunk, but free has a name, and no heap of an arena is meant.
    freed = purpose == OWN_MAPPING or (purpose == A_MAPPING and gives_back(public_name(event)))
    return whole_pages(event.args[1]) if freed and event.syscall == "munmap" else 0


def _compare(events: Sequence[Event], counter: _Counter) -> tuple[int | None, int | None]:
    """Return the newest event at which malloc's own count of mmapped bytes was read, and by how much it was above ours.

    Mappings that took the place of the break are none of its mmapped chunks.
    """
    newest, reading = next(_readings(events[::-1]), (None, None))
    if newest is None or reading is None or counter.before["mmapped"] is None:
        return None, None
    others = _in_place_of_the_break(events, reading)
    if others is None:
        return None, None
    steps = [step for step in counter.steps["mmapped"] if step.event.id < newest.id and step.event.id not in others]
    ours = counter.before["mmapped"] + sum(step.delta or 0 for step in steps)
    counted = reading.state.params.get("mmapped_mem") + _counted_off(newest) - _drift(events, newest, reading)
    return newest.id, counted - ours


def _drift(events: Sequence[Event], newest: Event, reading: Reading) -> int:
    """Return by how much mmapped_mem is too high at ``newest``, as a known fault of this glibc makes it."""
    moved = [event for event in events if event.syscall == "mremap" and event.requester.kind == "malloc"]
    resized = sum(event.id < newest.id and not event.failed for event in moved)
    return resized * drift_of_a_resize(reading.facts.abi, reading.facts.layout)


def _in_place_of_the_break(events: Sequence[Event], reading: Reading) -> set[int] | None:
    """Return the numbers of malloc's mappings that took the place of the break, None where that cannot be told.

    From glibc 2.35 on a function of its own makes them, which debug symbols name. Else they are known by the refused
    brk right before them, unless malloc never moves the break, as with huge pages.
    """
    found: set[int] = set()
    before: dict[int, Event] = {}
    for event in events:
        if event.requester.kind != "malloc":
            continue
        last = before.get(event.tid)
        before[event.tid] = event
        if event.syscall != "mmap" or event.requester.purpose in (OWN_MAPPING, HEAP_OF_AN_ARENA):
            continue
        if event.requester.purpose == A_MAPPING:
            if reading.state.params.values.get("hp_pagesize"):
                return None
            if last is None or last.syscall != "brk" or last.args[0] in (0, last.result):
                continue
        found.add(event.id)
    return found
