"""Recorded events chosen, put together by who made them, and divided into phases."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbheap.growth.arena_of import arenas_of
from gdbheap.growth.event import Event
from gdbheap.growth.groups import BY, grouped
from gdbheap.growth.history import History
from gdbheap.growth.phases import phases
from gdbheap.growth.select import Wanted, amount_of, select
from gdbheap.render.groups import group_lines, group_name
from gdbheap.render.phases import phase_lines
from gdbheap.simulate.calls import SYSCALLS
from tests.support.records import BASE, ENOMEM, a_reading, an_event, frames_of

PAGE = 0x1000
WHERE = 0x7FFFF0000000
LOADER = "[ld-linux-x86-64.so.2] __brk <- _dl_sysdep_start <- _dl_start_final"
BRK = "[libc.so.6] __brk <- __sbrk <- __glibc_morecore <- sysmalloc <- _int_malloc <- __libc_malloc <- "
CHUNK = "[libc.so.6] __mmap <- sysmalloc_mmap <- sysmalloc <- _int_malloc <- __libc_malloc <- "
FREED = "[libc.so.6] __munmap <- munmap_chunk <- __libc_free <- "
HEAP = "[libc.so.6] __mmap <- new_heap <- _int_new_arena <- arena_get2 <- __libc_malloc <- [a.out] work at a.c:9"
GROWN = "[libc.so.6] __mprotect <- grow_heap <- sysmalloc <- _int_malloc <- __libc_malloc <- [a.out] work at a.c:9"


def numbered(*events: Event) -> History:
    return History([event._replace(id=number, time=number / 8) for number, event in enumerate(events, 1)])


def asked() -> Event:
    return an_event("brk", (0,), BASE, LOADER)


def broke(to: int, was: int, place: str = "[a.out] main at a.c:3") -> Event:
    return an_event("brk", (BASE + to,), BASE + to, BRK + place, break_before=BASE + was, reading=a_reading())


def chunk(size: int, place: str = "[a.out] main at a.c:4") -> Event:
    return an_event("mmap", (0, size, 3, 0x22, -1, 0), WHERE, CHUNK + place, reading=a_reading())


def freed(size: int, place: str = "[a.out] main at a.c:5") -> Event:
    return an_event("munmap", (WHERE, size), 0, FREED + place, reading=a_reading(with_arena=False))


def library(size: int) -> Event:
    return an_event(
        "mmap", (0, size, 1, 2, 3, 0), WHERE + (1 << 30), "[ld-linux-x86-64.so.2] __mmap <- _dl_map_segments"
    )


def an_arena_is_made(thread: int, heap: int) -> list[Event]:
    reading = a_reading(with_arena=False)
    trimmed, committed = HEAP.replace("mmap", "munmap"), HEAP.replace("mmap", "mprotect")
    return [
        an_event("mmap", (0, 0x8000000, 0, 0x4022, -1, 0), heap, HEAP, thread=thread, reading=reading),
        an_event("munmap", (heap + 0x4000000, 0x4000000), 0, trimmed, thread=thread, reading=reading),
        an_event("mprotect", (heap, 0x21000, 3), 0, committed, thread=thread, reading=reading),
    ]


def grew(thread: int, heap: int, number: int) -> Event:
    reading = a_reading(number=number, address=heap + 0x30)
    return an_event("mprotect", (heap + 0x21000, 0x4000, 3), 0, GROWN, thread=thread, reading=reading)


def everything() -> History:
    return numbered(
        asked(),
        library(9 * PAGE),
        broke(0x21000, 0),
        chunk(0x101000),
        *an_arena_is_made(2, WHERE + (1 << 32)),
        grew(2, WHERE + (1 << 32), 1),
        *an_arena_is_made(3, WHERE + (2 << 32)),
        freed(0x101000),
        broke(0x1000, 0x21000, "[libother.so.1] tidy"),
        an_event("mmap", (0, PAGE, 3, 0x22, -1, 0), ENOMEM, "[libc.so.6] __mmap <- [a.out] main at a.c:8"),
    )


def test_an_arena_is_known_before_it_has_a_number() -> None:
    found = arenas_of(everything().events)
    assert {number: arena.name for number, arena in found.items()} == {
        3: "main_arena",
        **dict.fromkeys((5, 6, 7, 8), "arena 1"),
        **dict.fromkeys((9, 10, 11), f"the arena at {WHERE + (2 << 32) + 0x30:#x}"),
        13: "main_arena",
    }


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (Wanted(), range(1, 15)),
        (Wanted(thread=2), [5, 6, 7, 8]),
        (Wanted(arena=0), [3, 13]),
        (Wanted(arena=1), [5, 6, 7, 8]),
        (Wanted(arena=WHERE + (2 << 32) + 0x30), [9, 10, 11]),
        (Wanted(kind="loader"), [1, 2]),
        (Wanted(syscall="munmap"), [6, 10, 12]),
        (Wanted(min_size=0x101000, max_size=0x4000000), [4, 6, 10, 12]),
        (Wanted(max_size=0), [1, 14]),
        (Wanted(kind="malloc", syscall="brk", min_size=0x21000), [3]),
        (Wanted(process=7), []),
    ],
)
def test_events_that_are_wanted(wanted: Wanted, numbers: Sequence[int]) -> None:
    assert [event.id for event in select(everything().events, wanted)] == list(numbers)


def test_what_a_call_is_about() -> None:
    assert amount_of(an_event("madvise", (WHERE, 0x3000, 4), 0)) == 0x3000
    assert amount_of(freed(0x5000)) == 0x5000
    assert amount_of(an_event("brk", (BASE,), BASE)) is None


def sums(history: History, by: str) -> dict[str, tuple[int, int, int]]:
    return {
        group_name(group): (group.got, group.gave_back, group.holds) for group in grouped(history, history.events, by)
    }


def test_by_caller() -> None:
    assert sums(everything(), "caller") == {
        "main () at a.c:4": (0x101000, 0, 0),
        "work () at a.c:9": (0x46000, 0, 0x46000),
        "main () at a.c:3": (0x21000, 0, 0x1000),
        "the loader, before the program": (9 * PAGE, 0, 9 * PAGE),
        "main () at a.c:5": (0, 0x101000, 0),
        "tidy () in libother.so.1": (0, 0x20000, 0),
        "main () at a.c:8": (0, 0, 0),
    }


def test_by_arena_by_kind_and_by_library() -> None:
    assert sums(everything(), "arena") == {
        "mmapped chunks": (0x101000, 0x101000, 0),
        "arena 1": (0x25000, 0, 0x25000),
        f"the arena at {WHERE + (2 << 32) + 0x30:#x}": (0x21000, 0, 0x21000),
        "main_arena": (0x21000, 0x20000, 0x1000),
        "not malloc's": (9 * PAGE, 0, 9 * PAGE),
    }
    assert sums(everything(), "kind") == {
        "malloc": (0x168000, 0x121000, 0x47000),
        "loader": (9 * PAGE, 0, 9 * PAGE),
        "program": (0, 0, 0),
    }
    assert sums(everything(), "library") == {
        "a.out": (0x168000, 0x101000, 0x47000),
        "ld-linux-x86-64.so.2": (9 * PAGE, 0, 9 * PAGE),
        "libother.so.1": (0, 0x20000, 0),
    }


@pytest.mark.parametrize("by", BY)
def test_groups_divide_the_events(by: str) -> None:
    history = everything()
    groups = grouped(history, history.events, by)
    assert sorted(event.id for group in groups for event in group.events) == list(range(1, 15))
    assert [group.got for group in groups] == sorted((group.got for group in groups), reverse=True)
    for group in groups:
        assert (group.largest is None) == (group.got == 0)


def test_groups_of_some_events_know_what_the_others_gave_back() -> None:
    history = everything()
    (group,) = grouped(history, select(history.events, Wanted(syscall="brk", kind="malloc", min_size=0x21000)), "kind")
    assert (group.got, group.gave_back, group.holds) == (0x21000, 0, 0x1000)


def test_a_table_of_groups_says_what_is_left_out() -> None:
    history = everything()
    groups = grouped(history, history.events, "caller")
    lines = list(group_lines(groups, "caller", SYSCALLS, 2))
    assert [line.split("  ")[0] for line in lines[2:]] == ["main () at a.c:4", "work () at a.c:9", "(5 more)", "all"]
    assert lines[-2].split()[2:4] == ["6", "0x2a000"]
    assert lines[-1].split()[1:3] == ["14", "0x171000"]
    narrowed = list(group_lines(groups, "caller", {"brk", "mmap"}))
    assert narrowed[-1].startswith("Calls of munmap, mremap, mprotect were not recorded")


def test_an_unknown_amount_is_said() -> None:
    history = numbered(an_event("brk", (BASE,), BASE, BRK + "[a.out] main at a.c:3"))
    (group,) = grouped(history, history.events, "kind")
    assert group.unknown == 1
    assert "Of 1 event the amount is not known" in list(group_lines([group], "kind", SYSCALLS))[-1]


def test_what_cannot_be_shown_is_escaped() -> None:
    history = numbered(an_event("mmap", (0, PAGE, 3, 0x22, -1, 0), WHERE)._replace(frames=frames_of("[a\x1b[2J.so] f")))
    assert not any(
        "\x1b" in line for line in group_lines(grouped(history, history.events, "library"), "library", SYSCALLS)
    )


def spans(history: History) -> list[tuple[str, int, int, int, int]]:
    return [(item.name, item.first.id, item.last.id, item.before, item.after) for item in phases(history, 1)]


def test_the_phases_of_a_small_program() -> None:
    """Loading, the first heap, and then only others' mappings, as in ls."""
    query = an_event("brk", (0,), BASE, BRK + "[a.out] main at a.c:3", reading=a_reading())
    history = numbered(
        asked(), library(PAGE), query, broke(0x21000, 0), chunk(PAGE)._replace(result=ENOMEM), library(PAGE)
    )
    assert spans(history) == [
        ("loading", 1, 2, 0, 0),
        ("first-heap", 3, 4, 0, 0x21000),
        ("steady", 5, 6, 0x21000, 0x21000),
    ]
    texts = list(phase_lines(phases(history, 1)))
    assert texts[0] == "phase 1, #1 to #2: loading: 2 calls (loader) in 0.125 s; malloc has nothing yet"
    assert "0 bytes -> 132 KiB" in texts[1]
    assert "steady: 2 calls (malloc 1, loader 1)" in texts[2]


def test_growth_and_shrinking_turn_where_it_matters() -> None:
    """A mapping of a sixteenth that comes and goes ends no phase; the fall to a quarter does."""
    history = numbered(
        asked(),
        broke(0x21000, 0),
        broke(0x100000, 0x21000),
        chunk(0x10000),
        freed(0x10000),
        broke(0x140000, 0x100000),
        broke(0x100000, 0x140000),
        broke(0x40000, 0x100000),
        broke(0x80000, 0x40000),
    )
    assert spans(history) == [
        ("loading", 1, 1, 0, 0),
        ("first-heap", 2, 2, 0, 0x21000),
        ("growth", 3, 6, 0x21000, 0x140000),
        ("shrinking", 7, 8, 0x140000, 0x40000),
        ("growth", 9, 9, 0x40000, 0x80000),
    ]


def test_a_recording_that_began_late_has_no_first_heap() -> None:
    history = numbered(broke(0x42000, 0x21000), broke(0x84000, 0x42000))
    (item,) = phases(history, 1)
    assert item.name == "growth"
    assert item.after - item.before == 0x63000


@given(st.lists(st.integers(1, 64), min_size=1, max_size=40))
def test_phases_divide_the_events(sizes: Sequence[int]) -> None:
    """Whatever the break does: every event is in one phase, and each begins with what the one before it left."""
    events, was = [asked()], 0
    for size in sizes:
        events.append(broke(size * PAGE, was))
        was = size * PAGE
    history = numbered(*events)
    found = phases(history, 1)
    assert [item.first.id for item in found] == [1, *(item.last.id + 1 for item in found[:-1])]
    assert found[-1].last.id == len(events)
    assert sum(item.events for item in found) == len(events)
    assert all(before.after == after.before for before, after in zip(found, found[1:]))
    assert found[-1].after == was
    for item in found:
        assert (item.after > item.before) == (item.name in ("first-heap", "growth"))
        assert (item.after < item.before) == (item.name == "shrinking")
