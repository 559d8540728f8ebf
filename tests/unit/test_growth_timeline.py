"""Series of memory over recorded events: what each call changes, and what is said where that is not known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbheap.growth.event import Event, Requester
from gdbheap.growth.gap import GapKind, gap_event
from gdbheap.growth.history import Gap, History, ProcessRecord
from gdbheap.growth.phases import phases
from gdbheap.growth.timeline import OF_MALLOC, SERIES, Series, Timeline, _Ranges, default_process, timeline
from tests.support.records import BASE, ENOMEM, a_reading, an_event, seeds_history

PAGE = 0x1000
WHERE = 0x7FFFF0000000
LOADER = "[ld-linux-x86-64.so.2] __brk <- _dl_sysdep_start <- _dl_start_final"
BRK = "[libc.so.6] __brk <- __sbrk <- __glibc_morecore <- sysmalloc <- _int_malloc <- __libc_malloc <- [a.out] main"
CHUNK = "[libc.so.6] __mmap <- sysmalloc_mmap <- sysmalloc <- _int_malloc <- __libc_malloc <- [a.out] main"
FREED = "[libc.so.6] __munmap <- munmap_chunk <- __libc_free <- [a.out] main"
MOVED = "[libc.so.6] __mremap <- mremap_chunk <- __libc_realloc <- [a.out] main"
HEAP = "[libc.so.6] __mmap <- new_heap <- _int_new_arena <- arena_get2 <- __libc_malloc <- [a.out] work"
GROWN = "[libc.so.6] __mprotect <- grow_heap <- sysmalloc <- _int_malloc <- __libc_malloc <- [a.out] work"
SHRUNK = "[libc.so.6] __mmap <- shrink_heap <- heap_trim <- _int_free <- __libc_free <- [a.out] work"
GONE = "[libc.so.6] __munmap <- heap_trim <- _int_free <- __libc_free <- [a.out] work"
OWN = "[libc.so.6] __mmap <- [a.out] main"


def recorded(*calls: tuple[str, tuple[int, ...], Any, str], **fields: Any) -> History:
    """Return a recording of these calls: name, arguments, result, callers. brk is followed."""
    history = History()
    known = None
    for name, args, result, stack in calls:
        event = an_event(name, args, result, stack, earlier=history.events, time=0.5 * len(history.events), **fields)
        if name == "brk":
            event = event._replace(break_before=known)
            known = result if result is not None else known
        history.events.append(event)
    return history


def begun(*calls: tuple[str, tuple[int, ...], Any, str]) -> Timeline:
    """Return the timeline of a program that was recorded from its first call on."""
    return timeline(recorded(("brk", (0,), BASE, LOADER), *calls), 1)


def series(line: Timeline, name: str) -> Series:
    return line.series[SERIES.index(name)]


def values(line: Timeline, name: str) -> list[tuple[int, int, int | None]]:
    return [(step.event.id, step.value, step.delta) for step in series(line, name).steps]


def to(size: int, stack: str = BRK) -> tuple[str, tuple[int, ...], int, str]:
    return "brk", (BASE + size,), BASE + size, stack


def mapped(where: int, size: int, stack: str = CHUNK) -> tuple[str, tuple[int, ...], int, str]:
    return "mmap", (0, size, 3, 0x22, -1, 0), where, stack


def protected(where: int, size: int, protection: int = 3) -> tuple[str, tuple[int, ...], int, str]:
    return "mprotect", (where, size, protection), 0, GROWN


def test_the_break_from_its_first_place_on() -> None:
    line = begun(
        to(0x21000), to(0x52000), ("brk", (BASE + 0x20000,), BASE + 0x20000, BRK.replace("sysmalloc", "systrim"))
    )
    assert values(line, "break") == [(2, 0x21000, 0x21000), (3, 0x52000, 0x31000), (4, 0x20000, -0x32000)]
    found = series(line, "break")
    assert (found.known, found.begin, found.peak, found.last) == (True, 0, 0x52000, 0x20000)


def test_who_moves_the_break_does_not_matter() -> None:
    line = begun(to(0x21000), to(0x24039, "[libc.so.6] __brk <- __sbrk <- [a.out] main"))
    assert values(line, "break")[-1] == (3, 0x24039, 0x3039)
    assert not values(line, "rest")


def test_calls_that_change_nothing() -> None:
    line = begun(
        to(0x21000),
        ("brk", (BASE + 0x99000,), BASE + 0x21000, BRK),
        ("mmap", (0, PAGE, 3, 0x22, -1, 0), ENOMEM, CHUNK),
        ("mmap", (0, PAGE, 3, 0x22, -1, 0), None, CHUNK),
    )
    assert [len(found.steps) for found in line.series] == [1, 0, 0, 0]
    assert (line.failed, line.unfinished, line.unknown) == (2, 1, 0)


def test_chunks_with_mappings_of_their_own() -> None:
    line = begun(
        mapped(WHERE, 0x101000),
        mapped(WHERE - 0x200000, 0x22000),
        ("mremap", (WHERE, 0x101000, 0x501000, 1), WHERE + 0x10000000, MOVED),
        ("munmap", (WHERE - 0x200000, 0x22000), 0, FREED),
    )
    assert [value for _, value, _ in values(line, "mmapped")] == [0x101000, 0x123000, 0x523000, 0x501000]


def heap_of_an_arena() -> list[tuple[str, tuple[int, ...], int, str]]:
    """Return the calls that make a heap: a reservation, its trimming, and its first bytes."""
    start = 0x7FFFF0000000
    return [
        ("mmap", (0, 0x8000000, 0, 0x4022, -1, 0), start - 0x1000000, HEAP),
        ("munmap", (start - 0x1000000, 0x1000000), 0, HEAP.replace("__mmap", "__munmap")),
        ("munmap", (start + 0x4000000, 0x3000000), 0, HEAP.replace("__mmap", "__munmap")),
        ("mprotect", (start, 0x21000, 3), 0, HEAP.replace("__mmap", "__mprotect")),
    ]


def test_of_a_threads_heap_only_what_is_accessible_counts() -> None:
    line = begun(*heap_of_an_arena(), protected(WHERE + 0x21000, 0x4000))
    assert values(line, "arenas") == [(5, 0x21000, 0x21000), (6, 0x25000, 0x4000)]
    assert not values(line, "mmapped")


def test_a_heap_that_shrinks_and_goes() -> None:
    line = begun(
        *heap_of_an_arena(),
        protected(WHERE + 0x21000, 0x4000),
        ("mmap", (WHERE + 0x20000, 0x5000, 0, 0x32, -1, 0), WHERE + 0x20000, SHRUNK),
        protected(WHERE + 0x20000, 0x1000),
        ("munmap", (WHERE, 0x4000000), 0, GONE),
    )
    assert [delta for _, _, delta in values(line, "arenas")] == [0x21000, 0x4000, -0x5000, 0x1000, -0x21000]
    assert series(line, "arenas").last == 0


def test_what_is_not_mallocs() -> None:
    line = begun(mapped(WHERE, 0x3000, OWN), ("munmap", (WHERE, 0x1000), 0, "[libc.so.6] __munmap <- [a.out] main"))
    assert values(line, "rest") == [(2, 0x3000, 0x3000), (3, 0x2000, -0x1000)]
    assert not series(line, "rest").known
    assert not line.levels(OF_MALLOC)
    assert [level.total for level in line.levels(SERIES)] == [0x3000, 0x2000]


def test_states_are_sums_in_the_order_of_the_events() -> None:
    line = begun(to(0x21000), mapped(WHERE, 0x40000), to(0x42000))
    assert [(level.event.id, level.values, level.total, level.delta) for level in line.levels(OF_MALLOC)] == [
        (2, (0x21000, 0, 0), 0x21000, 0x21000),
        (3, (0x21000, 0, 0x40000), 0x61000, 0x40000),
        (4, (0x42000, 0, 0x40000), 0x82000, 0x21000),
    ]


def test_the_story() -> None:
    line = timeline(seeds_history(), 1)
    assert series(line, "break").known, "main_arena had nothing yet"
    assert values(line, "break") == [(2, 0x21000, 0x21000)]


def attached(*calls: tuple[str, tuple[int, ...], Any, str], **reading: Any) -> Timeline:
    """Return the timeline of a recording that began in the middle; each event of malloc's was read like this."""
    history = recorded(*calls)
    history.events = [
        event._replace(reading=a_reading(**reading)) if event.requester.kind == "malloc" else event
        for event in history.events
    ]
    if history.events[0].syscall == "brk":
        history.events[0] = history.events[0]._replace(break_before=BASE + 0x50000)
    return timeline(history, 1)


def test_malloc_tells_what_it_had_before_the_recording() -> None:
    line = attached(to(0x71000), mp={"mmapped_mem": 0x7000})
    assert values(line, "break") == [(1, 0x71000, 0x21000)]
    assert (series(line, "break").known, series(line, "break").begin) == (True, 0x50000)
    assert (series(line, "mmapped").known, series(line, "mmapped").begin) == (True, 0x7000)
    assert not series(line, "arenas").known
    assert line.miscounted == 0


def test_free_counts_a_mapping_off_before_its_call() -> None:
    line = attached(("munmap", (WHERE, 0x5000), 0, FREED), mp={"mmapped_mem": 0x7000}, curbrk=BASE + 0x1000)
    assert values(line, "mmapped") == [(1, 0x7000, -0x5000)]
    assert (series(line, "mmapped").begin, series(line, "break").begin) == (0xC000, 0x1000)
    assert (line.compared, line.miscounted) == (1, 0)


def test_nothing_can_have_had_less_than_no_bytes() -> None:
    line = timeline(recorded(mapped(WHERE, 0x1000), ("munmap", (WHERE - 0x100000, 0x5000), 0, FREED)), 1)
    found = series(line, "mmapped")
    assert (found.known, found.begin) == (False, 0x4000)
    assert [step.value for step in found.steps] == [0x5000, 0]


def test_without_any_reading_the_break_counts_from_where_it_was_found() -> None:
    history = recorded(to(0x21000), to(0x42000))
    line = timeline(history, 1)
    assert not series(line, "break").known
    assert values(line, "break") == [(2, 0x21000, 0x21000)]
    assert line.unknown == 1


def test_a_break_that_somebody_moved_unseen() -> None:
    history = recorded(("brk", (0,), BASE, LOADER), to(0x21000), to(0x50000))
    history.events[-1] = history.events[-1]._replace(break_before=BASE + 0x30000)
    line = timeline(history, 1)
    assert values(line, "break")[-1] == (3, 0x50000, 0x20000)
    assert line.unrecorded_breaks == (3,)


def test_calls_that_were_not_recorded_show_in_mallocs_own_count() -> None:
    history = recorded(("brk", (0,), BASE, LOADER), mapped(WHERE, 0x1000), mapped(WHERE + 0x100000, 0x1000))
    history.events[-1] = history.events[-1]._replace(reading=a_reading(mp={"mmapped_mem": 0x9000}))
    line = timeline(history, 1)
    assert (line.compared, line.miscounted) == (3, 0x8000)


def test_only_the_program_that_runs_now() -> None:
    history = recorded(("brk", (0,), BASE, LOADER), to(0x21000), ("brk", (0,), BASE + 7, LOADER), to(0x1007))
    history.processes[1] = ProcessRecord(1, None, 0.0, programs=[(0, "/bin/sh"), (2, "/bin/ls")])
    history.gaps = [Gap(0, "Old."), Gap(3, "New.")]
    history.dropped = 0
    line = timeline(history, 1)
    assert values(line, "break") == [(4, 0x1000, 0x1000)]
    assert (line.programs_before, line.events, line.first.id) == (2, 2, 3)
    assert [gap.reason for gap in line.gaps] == ["New."]


def test_other_processes() -> None:
    history = recorded(("brk", (0,), BASE, LOADER), to(0x21000))
    history.events += [event._replace(id=event.id + 2, process=7) for event in history.events]
    assert timeline(history, 1).others == ((7, 2),)
    assert default_process(history, 1) == 1
    assert default_process(history, 0) == 7


def test_phases_where_only_a_gap_tells_of_the_heap() -> None:
    history = recorded(("brk", (0,), BASE, LOADER), mapped(WHERE, PAGE, OWN))
    history.events.append(gap_event(3, 1, (1, 1), GapKind.OFF, (BASE, BASE + 33 * PAGE), 2.0))
    history.events.append(an_event("mmap", (0, PAGE, 3, 0x22, -1, 0), WHERE, OWN, earlier=history.events))
    found = [(part.name, part.first.id, part.last.id, part.before, part.after) for part in phases(history, 1)]
    assert found == [
        ("loading", 1, 1, 0, 0),
        ("steady", 2, 2, 0, 0),
        ("first-heap", 3, 3, 0, 33 * PAGE),
        ("steady", 4, 4, 33 * PAGE, 33 * PAGE),
    ]


def test_an_amount_that_is_not_known() -> None:
    lost = Event(2, 1, 1, 1, "munmap", (WHERE, 0x1000), (), 0, mapped_before=-1, requester=Requester("program", "own"))
    history = recorded(("brk", (0,), BASE, LOADER))
    history.events.append(lost)
    assert timeline(history, 1).unknown == 1


spans = st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(1, 20)), max_size=40)


@given(spans)
def test_ranges_are_sets_of_bytes(changes: Sequence[tuple[bool, int, int]]) -> None:
    ranges, wanted = _Ranges(), set[int]()
    for adds, start, length in changes:
        part = set(range(start, start + length))
        if adds:
            assert ranges.add(start, start + length) == len(part - wanted)
            wanted |= part
        else:
            assert ranges.remove(start, start + length) == len(part & wanted)
            wanted -= part


@given(st.lists(st.tuples(st.sampled_from(["brk", "map", "free", "own"]), st.integers(1, 50)), max_size=30))
def test_values_follow_from_deltas(changes: Sequence[tuple[str, int]]) -> None:
    calls: list[tuple[str, tuple[int, ...], int, str]] = []
    live: list[tuple[int, int]] = []
    for place, (what, pages) in enumerate(changes):
        where = WHERE + place * 0x1000000
        if what == "brk":
            calls.append(to(pages * PAGE))
        elif what == "free" and live:
            calls.append(("munmap", live.pop(pages % len(live)), 0, FREED))
        else:
            calls.append(mapped(where, pages * PAGE, OWN if what == "own" else CHUNK))
            if what != "own":
                live.append((where, pages * PAGE))
    line = begun(*calls)
    for found in line.series:
        value = found.begin
        for step in found.steps:
            assert step.delta
            value += step.delta
            assert step.value == value >= 0
    assert series(line, "mmapped").last == sum(size for _, size in live)
    for level in line.levels(SERIES):
        assert level.total == sum(level.values)


@pytest.mark.parametrize("names", [OF_MALLOC, SERIES])
def test_a_recording_without_any_change(names: Sequence[str]) -> None:
    line = begun()
    assert line.levels(names) == ()
    assert set(line.begin(names)) == {0}
