"""Who got memory and still holds it: against a model that knows each page by itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbheap.growth.event import UNKNOWN_BYTES, Event, Requester
from gdbheap.growth.history import History, ProcessRecord
from gdbheap.growth.holdings import Holding, holdings
from tests.support.records import BASE, ENOMEM, an_event

PAGE = 0x1000
WHERE = 0x7FFFF0000000
LOADER = "[ld-linux-x86-64.so.2] __brk <- _dl_sysdep_start <- _dl_start_final"
GROWN = "[libc.so.6] __mprotect <- grow_heap <- sysmalloc <- _int_malloc <- __libc_malloc <- [a.out] work"
TRIMMED = "[libc.so.6] __munmap <- new_heap <- _int_new_arena <- arena_get2 <- __libc_malloc <- [a.out] work"
OWN = "[libc.so.6] __mmap <- [a.out] main"


def history(*events: Event, fresh: bool = True) -> History:
    """Return a recording of these events, renumbered, behind the loader's first question where it is ``fresh``."""
    first = [an_event("brk", (0,), BASE, LOADER)] if fresh else []
    return History([event._replace(id=number) for number, event in enumerate([*first, *events], 1)])


def mmap(where: int, size: int, protection: int = 3, before: int | None = None, process: int = 1) -> Event:
    args = (0 if before is None else where, size, protection, 0x22, -1, 0)
    return an_event("mmap", args, where, OWN, mapped_before=before, process=process)


def munmap(where: int, size: int, before: int | None = None, stack: str = OWN, process: int = 1) -> Event:
    return an_event("munmap", (where, size), 0, stack, mapped_before=before, process=process)


def mprotect(where: int, size: int, protection: int, stack: str = OWN) -> Event:
    return an_event("mprotect", (where, size, protection), 0, stack)


def of(found: History, number: int) -> tuple[int, int, int]:
    holding = holdings(found)[number]
    assert holding.known
    return holding.got, holding.gave_back, holding.holds


def test_what_one_gets_and_another_gives_back() -> None:
    found = history(mmap(WHERE, 4 * PAGE), munmap(WHERE + PAGE, PAGE))
    assert of(found, 2) == (4 * PAGE, 0, 3 * PAGE)
    assert of(found, 3) == (0, PAGE, 0)


def test_the_break_up_and_down() -> None:
    calls = [(BASE + 3 * PAGE, BASE), (BASE + 5 * PAGE, BASE + 3 * PAGE), (BASE + PAGE, BASE + 5 * PAGE)]
    found = history(*(an_event("brk", (to,), to, OWN, break_before=was) for to, was in calls))
    assert [of(found, number) for number in (2, 3, 4)] == [
        (3 * PAGE, 0, PAGE),
        (2 * PAGE, 0, 0),
        (0, 4 * PAGE, 0),
    ]


def test_reserved_memory_counts_when_it_becomes_accessible() -> None:
    found = history(
        mmap(WHERE, 8 * PAGE, 0),
        munmap(WHERE + 4 * PAGE, 4 * PAGE, stack=TRIMMED),
        mprotect(WHERE, 2 * PAGE, 3, GROWN),
        mprotect(WHERE, 3 * PAGE, 3, GROWN),
        mprotect(WHERE + PAGE, PAGE, 0),
        munmap(WHERE, 4 * PAGE),
    )
    assert [of(found, number) for number in range(2, 8)] == [
        (0, 0, 0),
        (0, 0, 0),
        (2 * PAGE, 0, 0),
        (PAGE, 0, 0),
        (0, PAGE, 0),
        (0, 2 * PAGE, 0),
    ]


def test_a_mapping_that_replaces_one_is_no_gain() -> None:
    found = history(mmap(WHERE, 4 * PAGE), mmap(WHERE + PAGE, PAGE, before=PAGE))
    assert of(found, 2) == (4 * PAGE, 0, 4 * PAGE)
    assert of(found, 3) == (0, 0, 0)


def test_a_mapping_that_moves_keeps_its_owner() -> None:
    moved = an_event("mremap", (WHERE, 2 * PAGE, 5 * PAGE, 1), WHERE + 64 * PAGE, OWN)
    shrunk = an_event("mremap", (WHERE + 64 * PAGE, 5 * PAGE, PAGE, 1), WHERE + 64 * PAGE, OWN)
    assert of(history(mmap(WHERE, 2 * PAGE), moved), 2) == (2 * PAGE, 0, 2 * PAGE)
    assert of(history(mmap(WHERE, 2 * PAGE), moved), 3) == (3 * PAGE, 0, 3 * PAGE)
    found = history(mmap(WHERE, 2 * PAGE), moved, shrunk)
    assert [of(found, number) for number in (2, 3, 4)] == [(2 * PAGE, 0, PAGE), (3 * PAGE, 0, 0), (0, 4 * PAGE, 0)]


def test_calls_that_change_nothing_or_are_not_known() -> None:
    found = holdings(
        history(
            an_event("mmap", (0, PAGE, 3, 0x22, -1, 0), ENOMEM, OWN),
            an_event("mmap", (0, PAGE, 3, 0x22, -1, 0), None, OWN),
            an_event("madvise", (WHERE, PAGE, 4), 0, OWN),
            munmap(WHERE, PAGE, UNKNOWN_BYTES),
            mprotect(WHERE, PAGE, 0),
        )
    )
    assert [found[number] for number in range(2, 7)] == [
        Holding(),
        Holding(known=False),
        Holding(),
        Holding(known=False),
        Holding(known=False),
    ]


def test_protection_of_what_was_mapped_before_the_recording() -> None:
    """A new program's own data is accessible; what a program that GDB attached to has may be merely reserved."""
    assert holdings(history(mprotect(WHERE, PAGE, 1)))[2] == Holding()
    assert holdings(history(mprotect(WHERE, PAGE, 1), fresh=False))[1] == Holding(known=False)
    assert holdings(history(mprotect(WHERE, PAGE, 3, GROWN), fresh=False))[1] == Holding(PAGE, 0, PAGE)


def test_each_process_and_each_program_has_a_space_of_its_own() -> None:
    found = history(
        mmap(WHERE, 4 * PAGE),
        munmap(WHERE, PAGE, process=2),
        mmap(WHERE, 2 * PAGE, process=3),
        an_event("brk", (0,), BASE, LOADER),
        mmap(WHERE, 3 * PAGE),
    )
    found.processes = {
        1: ProcessRecord(1, None, 0.0, programs=[(0, "/bin/a"), (4, "/bin/b")]),
        2: ProcessRecord(2, 1, 0.0, programs=[(2, "/bin/a")]),
    }
    assert of(found, 2) == (4 * PAGE, 0, 4 * PAGE), "neither the child nor the next program gave it back"
    assert of(found, 3) == (0, PAGE, 0)
    assert of(found, 4) == (2 * PAGE, 0, 2 * PAGE)
    assert of(found, 6) == (3 * PAGE, 0, 3 * PAGE)


PLACES = st.tuples(st.integers(0, 15), st.integers(1, 8))
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("mmap"), PLACES, st.sampled_from([0, 1, 3])),
        st.tuples(st.just("munmap"), PLACES, st.just(0)),
        st.tuples(st.just("mprotect"), PLACES, st.sampled_from([0, 1, 3])),
        st.tuples(st.just("mremap"), PLACES, st.integers(1, 8)),
    ),
    max_size=30,
)


@given(CALLS)
def test_as_a_model_of_single_pages(calls: Sequence[tuple[str, tuple[int, int], int]]) -> None:
    """Calls that a kernel would allow, on few pages: each page is free, reserved or accessible, and has an owner."""
    pages: dict[int, tuple[int, bool]] = {}  # by page: owner, accessible
    events: list[Event] = []
    wanted: list[tuple[int, int]] = []
    for name, (place, count), extra in calls:
        number = len(events) + 2
        span = range(place, place + count)
        start = WHERE + place * PAGE
        usable = {page for page, (_, accessible) in pages.items() if accessible}
        if name == "mmap":
            before = sum(page in pages for page in span) * PAGE
            events.append(mmap(start, count * PAGE, extra, before))
            for page in span:
                if extra and page in usable:
                    continue
                pages[page] = (number, bool(extra))
        elif name == "munmap":
            before = sum(page in pages for page in span) * PAGE
            events.append(munmap(start, count * PAGE, before))
            for page in span:
                pages.pop(page, None)
        elif name == "mprotect":
            if not all(page in pages for page in span):
                continue
            events.append(mprotect(start, count * PAGE, extra))
            for page in span:
                owner, accessible = pages[page]
                pages[page] = (number if extra and not accessible else owner, bool(extra))
        else:
            to = 40 + 8 * len(events)  # never to where anything is
            if not all(page in usable for page in span):
                continue
            events.append(an_event("mremap", (start, count * PAGE, extra * PAGE, 1), WHERE + to * PAGE, OWN))
            old = [pages.pop(page) for page in span]
            for offset in range(extra):
                pages[to + offset] = old[offset] if offset < count else (number, True)
        now = {page for page, (_, accessible) in pages.items() if accessible}
        if name == "mremap":
            wanted.append((max(0, extra - count) * PAGE, max(0, count - extra) * PAGE))
        else:
            wanted.append((len(now - usable) * PAGE, len(usable - now) * PAGE))
    found = holdings(history(*events))
    held: dict[int, int] = {}
    for owner, accessible in pages.values():
        held[owner] = held.get(owner, 0) + PAGE * accessible
    for number, (got, gave_back) in enumerate(wanted, 2):
        item = found[number]
        assert (item.got, item.gave_back, item.holds, item.known) == (got, gave_back, held.get(number, 0), True)


def test_other_kinds_than_mallocs_are_counted_alike() -> None:
    event = mmap(WHERE, PAGE)._replace(requester=Requester("thread-stack", "stack of a new thread"))
    assert of(history(event), 2) == (PAGE, 0, PAGE)


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_recorded(count: int) -> None:
    assert len(holdings(history(fresh=bool(count)))) == count
