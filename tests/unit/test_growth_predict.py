"""Recorded events against the simulated allocator. The numbers are those of real runs, as in test_simulate_oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbheap.growth.event import ChunkHeader, Event
from gdbheap.growth.predict import Prediction, predictions
from gdbheap.growth.reading import Reading
from gdbheap.growth.starts import region_starts
from gdbheap.ptmalloc.heaps import HeapInfo
from gdbheap.simulate.state import OlderHeap, TrimWalk
from tests.support.records import BASE, ENOMEM, a_reading, an_event

HEAP = 0x4000000
FIRST, SECOND, THIRD = 0x7FFFF0000000, 0x7FFFE8000000, 0x7FFFEC000000

SYSMALLOC = "[libc.so.6] __brk <- __sbrk <- __glibc_morecore <- sysmalloc{nb=%#x} <- _int_malloc <- "
MALLOC = "__libc_malloc <- [a.out] main at a.c:3"
NEW_ARENA = "[libc.so.6] __mmap <- ~alloc_new_heap <- new_heap <- ~_int_new_arena{size=0x280} <- arena_get2 <- "
WORKER = "tcache_init <- __libc_malloc <- [a.out] worker at a.c:9"


def asks(nb: int) -> str:
    return SYSMALLOC % nb + MALLOC


Real = tuple[str, tuple[int, ...], int]


def operation(stack: str, reading: Reading, calls: Sequence[Real], first: int = 1, **fields: Any) -> list[Event]:
    """Return the events of one operation, numbered from ``first`` on; all have the ``reading`` of its beginning."""
    return [
        an_event(syscall, args, result, stack, id=first + index, reading=reading, **fields)
        for index, (syscall, args, result) in enumerate(calls)
    ]


def heap(address: int, size: int, prev: int = 0, mprotect_size: int = 0) -> HeapInfo:
    return HeapInfo(address, FIRST + 0x30, prev, size, mprotect_size or size, 0x1000, HEAP)


def only(event: Event) -> Prediction:
    return predictions([event])[event.id]


FOREIGN = operation(  # the program took 0x1234 bytes with sbrk
    asks(0x1F010),
    a_reading(0x5555555782C0, 0x1D40, curbrk=0x55555557B234),
    [("brk", (0x5555555B9234,), 0x5555555B9234), ("brk", (0x5555555BB000,), 0x5555555BB000)],
)
THREAD = operation(  # a thread's first malloc
    NEW_ARENA + WORKER,
    a_reading(0x5555555593B0, 0x20C50, curbrk=0x55555557A000, aligned_heap_area=0),
    [
        ("mmap", (0, 0x8000000, 0, 0x4022, -1, 0), 0x7FFFEF400000),
        ("munmap", (0x7FFFEF400000, 0xC00000), 0),
        ("munmap", (0x7FFFF4000000, 0x3400000), 0),
        ("mprotect", (FIRST, 0x21000, 3), 0),
    ],
    first=11,
    thread=2,
    tid=101,
)
REFUSED = operation(  # malloc(1 << 46)
    asks(0x400000000010),
    a_reading(0x555555559290, 0x20D70, curbrk=0x55555557A000),
    [
        ("mmap", (0, 0x400000001000, 3, 0x22, -1, 0), ENOMEM),
        ("brk", (0x95555557A000,), 0x55555557A000),
        ("mmap", (0, 0x400000100000, 3, 0x22, -1, 0), ENOMEM),
    ],
)


def summary(found: Mapping[int, Prediction], events: Sequence[Event]) -> list[tuple[str | None, bool | None]]:
    predicted = [found[event.id] for event in events]
    return [(item.call.path if item.call else None, item.exact) for item in predicted]


def test_the_calls_of_an_operation_follow_each_other() -> None:
    found = predictions(FOREIGN)
    assert summary(found, FOREIGN) == [("brk-moved", True), ("brk-align", True)]
    assert found[1].outcome is None
    outcome = found[2].outcome
    assert outcome is not None
    assert (outcome.top, outcome.top_size, outcome.system_mem_delta) == (0x55555559A250, 0x20DB0, 0x41000)


def test_three_calls_of_an_i386_program() -> None:
    calls: list[Real] = [
        ("brk", (0,), 0x5655A000),
        ("brk", (0x5657B000,), 0x5657B000),
        ("brk", (0x5657C000,), 0x5657C000),
    ]
    reading = a_reading(0, 0, curbrk=0, layout=("2.36", 32), mp={"sbrk_base": 0})
    events = operation(asks(0x190), reading, calls)
    found = predictions(events)
    assert summary(found, events) == [("brk-query", True), ("brk-first", True), ("brk-align", True)]
    assert [found[number].outcome is not None for number in (1, 2, 3)] == [False, False, True]


def test_a_refusal_leads_to_the_next_branch() -> None:
    found = predictions(REFUSED)
    assert summary(found, REFUSED) == [("mmap-chunk", True), ("brk-extend", True), ("mmap-fallback", True)]
    assert found[3].outcome is not None
    assert found[3].outcome.error is not None


@given(st.lists(st.booleans(), min_size=6, max_size=6))
def test_threads_may_take_turns(turns: list[bool]) -> None:
    one, other = list(FOREIGN), list(THREAD)
    mixed = []
    for turn in turns:
        queue = (one if turn else other) or one or other
        mixed.append(queue.pop(0))
    assert not one
    assert not other
    assert predictions(mixed) == {**predictions(FOREIGN), **predictions(THREAD)}
    assert summary(predictions(mixed), THREAD) == [
        ("heap-reserve", True),
        ("heap-align", True),
        ("heap-align", True),
        ("heap-commit", True),
    ]


def test_the_arena_of_a_thread_is_known_at_its_last_call() -> None:
    outcome = predictions(THREAD)[14].outcome
    assert outcome is not None
    assert (outcome.top, outcome.top_size) == (0x7FFFF00008D0, 0x20730)


def test_processes_are_kept_apart() -> None:
    # Another process's thread has the same number: its call does not go on with this one's operation.
    child = FOREIGN[1]._replace(process=2)
    found = predictions([FOREIGN[0], child])
    assert found[2].exact is False
    assert found[2].call is not None
    assert found[2].call.path == "brk-moved"


def test_events_without_a_state_are_passed_over() -> None:
    between = an_event("mmap", (0, 0x1000, 3, 0x22, -1, 0), 0x7FFFF7FC0000, "[a.out] main at a.c:4", id=99)
    found = predictions([FOREIGN[0], between, FOREIGN[1]])
    assert sorted(found) == [1, 2]
    assert found[2].exact


def test_a_call_that_differs_is_not_exact() -> None:
    other = FOREIGN[0]._replace(args=(0x5555555B9000,), result=0x5555555B9000)
    found = only(other)
    assert found.exact is False
    assert found.call is not None
    assert found.call.args == (0x5555555B9234,)
    mapped = FOREIGN[0]._replace(syscall="mmap", args=(0, 0x21000, 3, 0x22, -1, 0), result=0x7FFFF7D00000)
    assert only(mapped).exact is False
    assert only(FOREIGN[0]._replace(syscall="other")).exact is False  # with the same arguments


def test_a_second_call_that_differs_is_judged_by_its_own_state() -> None:
    events = [FOREIGN[0], FOREIGN[1]._replace(args=(0x5555555BC000,), result=0x5555555BC000)]
    found = predictions(events)
    assert found[1].exact
    assert found[2].exact is False
    # and where a new operation of the same thread begins, it is predicted from its own beginning
    new = REFUSED[0]._replace(id=2)
    assert predictions([FOREIGN[0], new])[2].exact


def test_a_call_that_has_not_returned() -> None:
    waiting = FOREIGN[0]._replace(result=None)
    found = only(waiting)
    assert (found.exact, found.outcome, found.reason) == (True, None, None)
    # nothing is known of the answer, so what follows is not predicted from it
    assert predictions([waiting, FOREIGN[1]])[2].exact is False


MAPPED = {"n_mmaps": 2, "mmapped_mem": 0x116000}
MUNMAP = "[libc.so.6] __munmap <- munmap_chunk <- "
TRIMMED = a_reading(0x5555557291A0, 0x38E60, curbrk=0x555555762000, arena={"system_mem": 0x209000})
TRIM: Real = ("brk", (0x55555574A000,), 0x55555574A000)


@pytest.mark.parametrize(
    ("stack", "reading", "call", "chunk", "path"),
    [
        (
            "[libc.so.6] __brk <- __sbrk <- systrim <- _int_free <- __libc_free <- [a.out] main",
            TRIMMED,
            TRIM,
            None,
            "trim",
        ),
        (
            "[libc.so.6] __brk <- __sbrk <- systrim{pad=0x20000} <- mtrim <- __malloc_trim <- [a.out] main",
            TRIMMED,
            TRIM,
            None,
            "trim",
        ),
        (
            MUNMAP + "__libc_free <- [a.out] main",
            a_reading(0x555555579280, 0xD80, mp=MAPPED, version=(2, 41)),
            ("munmap", (0x7FFFF7DA2000, 0x21000), 0),
            ChunkHeader(0x7FFFF7DA2000, 0, 0x21002),
            "munmap-chunk",
        ),
        (
            "[libc.so.6] __mremap <- ~mremap_chunk{new_size=0x4c5000} <- __libc_realloc{bytes=0x4c4b40} <- "
            "[a.out] main",
            a_reading(0x555555654E30, 0x201D0, mp={"n_mmaps": 1, "mmapped_mem": 0x1E9000}),
            ("mremap", (0x7FFFF7BE9000, 0x1E9000, 0x4C5000, 1), 0x7FFFF7724000),
            ChunkHeader(0x7FFFF7BE9000, 0, 0x1E9002),
            "mremap-chunk",
        ),
        (
            "[libc.so.6] __munmap <- heap_trim <- _int_free <- __libc_free <- [a.out] main",
            a_reading(
                0x7FFFEC000030,
                0x20FD0,
                number=1,
                heap=heap(THIRD, 0x21000, SECOND, 0xF43000),
                older_heaps=(OlderHeap(heap(SECOND, 0x3FE6000, FIRST), 0xF4730),),
                aligned_heap_area=0,
                may_shrink_heap=False,
            ),
            ("munmap", (THIRD, HEAP), 0),
            None,
            "heap-unmap",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and "<-" not in value else "",
)
def test_every_operation_is_found_by_its_frame(
    stack: str, reading: Reading, call: Real, chunk: ChunkHeader | None, path: str
) -> None:
    event = operation(stack, reading, [call], chunk=chunk)[0]
    if path == "mremap-chunk":  # _int_realloc has the chunk's size; here it follows from the bytes
        assert event.requested is not None
        event = event._replace(requested=event.requested._replace(nb=0x4C4B50))
    found = only(event)
    assert found.call is not None
    assert (found.call.path, found.call.args, found.exact) == (path, event.args, True)
    assert (found.outcome is None) == (path == "heap-unmap")  # the end of the heap before it goes next


def test_free_raises_the_threshold_and_realloc_does_not() -> None:
    reading = a_reading(0x555555579280, 0xD80, mp=MAPPED)
    chunk = ChunkHeader(0x7FFFF7DA2000, 0, 0x21002)
    for caller, threshold in (("__libc_free", 0x21000), ("__libc_realloc", 0x20000)):
        stack = MUNMAP + f"{caller} <- [a.out] main"
        found = only(operation(stack, reading, [("munmap", (0x7FFFF7DA2000, 0x21000), 0)], chunk=chunk)[0])
        assert found.outcome is not None
        assert found.outcome.state.params.get("mmap_threshold") == threshold


def test_the_request_stands_in_for_the_size_of_an_arena() -> None:
    without = NEW_ARENA.replace("{size=0x280}", "") + "tcache_init{bytes=0x280} <- __libc_malloc <- [a.out] worker"
    made = an_event(THREAD[0].syscall, THREAD[0].args, THREAD[0].result, without)
    events = [event._replace(frames=made.frames, requested=made.requested) for event in THREAD]
    assert [item.exact for item in predictions(events).values()] == [True] * 4


MTRIM = "[libc.so.6] __GI_madvise <- ~mtrim{pad=0x0} <- __malloc_trim{s=0x0} <- [a.out] main at a.c:3"
#: mtrim in main_arena: its free chunks (address and size), then the calls.
WALK = TrimWalk(((0x5555555C0D20, 0x19010), (0x5555555AC490, 0x5040), (0x5555555B0500, 0xEA70)))
ADVICE: list[Real] = [
    ("madvise", (0x5555555C1000, 0x18000, 4), 0),
    ("madvise", (0x5555555AD000, 0x4000, 4), 0),
    ("madvise", (0x5555555B1000, 0xD000, 4), 0),
]
SYSTRIM = "[libc.so.6] __brk <- __sbrk <- systrim{pad=0x0} <- ~mtrim{pad=0x0} <- __malloc_trim{s=0x0} <- [a.out] main"


def trim_events(number: int = 0, walk: TrimWalk = WALK) -> list[Event]:
    """Return the events of mtrim on one arena; at each, the chunks of the calls before it are done."""
    readings = [
        a_reading(0x5555557291A0, 0x38E60, curbrk=0x555555762000, number=number, trim=replace(walk, done=done))
        for done in range(len(ADVICE))
    ]
    return [operation(MTRIM, reading, [call], 1 + at)[0] for at, (reading, call) in enumerate(zip(readings, ADVICE))]


def test_malloc_trim_advises_chunk_by_chunk_and_then_trims_the_top() -> None:
    events = trim_events()
    brk: Real = ("brk", (0x55555572A000,), 0x55555572A000)
    events += operation(SYSTRIM, a_reading(0x5555557291A0, 0x38E60, curbrk=0x555555762000), [brk], 4)
    found = predictions(events)
    assert summary(found, events) == [("trim-advice", True)] * 3 + [("trim", True)]
    assert [found[number].outcome is not None for number in (1, 2, 3, 4)] == [False, False, False, True]


def test_malloc_trim_ends_with_the_last_chunk_of_another_arena() -> None:
    found = predictions(trim_events(number=1))
    assert [found[number].outcome is not None for number in (1, 2, 3)] == [False, False, True]


def test_each_advice_is_predicted_without_those_before_it() -> None:
    # They may have been dropped from the record, or be more than are gone through.
    for event in trim_events():
        assert only(event).exact


def test_the_same_trim_again_is_another_operation() -> None:
    events = trim_events(number=1)
    again = [event._replace(id=event.id + 3) for event in events]
    assert summary(predictions([*events, *again]), [*events, *again]) == [("trim-advice", True)] * 6


def test_a_recording_that_begins_inside_malloc_trim() -> None:
    event = trim_events()[1]
    assert event.reading is not None
    found = only(event._replace(reading=event.reading._replace(others={"trim": WALK})))
    assert (found.call, found.exact) == (None, None)
    assert "under way" in (found.reason or "")


def test_free_chunks_in_another_order_are_not_exact() -> None:
    first, second, _ = trim_events()
    assert predictions([first, second._replace(args=(0x5555555B2000, 0xC000, 4))])[2].exact is False
    assert only(first._replace(args=(0x5555555C1000, 0x19000, 4))).exact is False


def test_more_free_chunks_than_were_read() -> None:
    walk = replace(WALK, chunks=WALK.chunks[:1], complete=False)
    reading = a_reading(curbrk=BASE, trim=replace(walk, done=1))
    events = trim_events(walk=walk)[:1] + operation(MTRIM, reading, ADVICE[1:], 2)
    found = predictions(events)
    assert summary(found, events) == [("trim-advice", True), (None, None), (None, None)]
    assert "Not all free chunks" in (found[3].reason or "")


#: The first growth with transparent huge pages on glibc 2.36, and, with an address made up, a chunk that is a mapping.
HUGE = [
    *operation(
        asks(0x10A0),
        a_reading(curbrk=0, mp={"thp_pagesize": 0x200000, "sbrk_base": 0}),
        [
            ("brk", (0,), 0x555555559000),
            ("brk", (0x555555759000,), 0x555555759000),
            ("madvise", (0x555555559000, 0x200000, 14), 0),
        ],
    ),
    *operation(
        asks(0x300010),
        a_reading(0x55555555A0A0, 0x1FEF60, curbrk=0x555555759000, mp={"thp_pagesize": 0x200000}),
        [
            ("mmap", (0, 0x301000, 3, 0x22, -1, 0), 0x7FFFF7A00000),
            ("madvise", (0x7FFFF7A00000, 0x301000, 14), 0),
        ],
        4,
    ),
]


def narrowed(events: Sequence[Event], *syscalls: str) -> dict[int, Prediction]:
    """Return the predictions of a recording that had only these calls."""
    return predictions([event for event in events if event.syscall in syscalls], lambda number: syscalls)


def test_advice_about_huge_pages_is_predicted() -> None:
    paths = ["brk-query", "brk-first", "thp-advice", "mmap-chunk", "thp-advice"]
    assert summary(predictions(HUGE), HUGE) == [(path, True) for path in paths]


@pytest.mark.parametrize(
    ("events", "syscalls", "exact"),
    [
        (HUGE, ("brk", "mmap"), (1, 2, 4)),
        (HUGE, ("brk",), (1, 2)),
        (HUGE, ("mmap",), (4,)),
        (HUGE, ("mmap", "madvise"), (4, 5)),
        (FOREIGN, ("brk",), (1, 2)),
        (THREAD, ("mmap", "mprotect"), (11, 14)),
        (THREAD, ("mmap", "munmap"), (11, 12, 13)),
        (trim_events(), ("madvise",), (1, 2, 3)),
    ],
)
def test_calls_that_are_not_caught_are_passed_over(
    events: Sequence[Event], syscalls: tuple[str, ...], exact: tuple[int, ...]
) -> None:
    found = narrowed(events, *syscalls)
    assert [number for number, item in found.items() if item.exact] == list(exact)
    assert all(item.exact is not False for item in found.values())


@pytest.mark.parametrize(
    ("events", "syscalls", "missing"),
    [
        (HUGE, ("madvise",), {3: "brk", 5: "mmap"}),
        (THREAD, ("mprotect",), {14: "mmap"}),
        (THREAD, ("munmap", "mprotect"), {12: "mmap", 13: "mmap", 14: "mmap"}),
        (REFUSED, ("brk",), {2: "mmap"}),
    ],
)
def test_a_call_that_is_not_caught_but_decides_is_named(
    events: Sequence[Event], syscalls: tuple[str, ...], missing: Mapping[int, str]
) -> None:
    found = narrowed(events, *syscalls)
    assert {number for number, item in found.items() if item.exact is None} == set(missing)
    for number, name in missing.items():
        assert found[number].call is None
        assert f"a call of {name}," in (found[number].reason or "")


def test_what_follows_a_decision_that_was_not_caught_is_unknown_or_exact() -> None:
    found = narrowed(REFUSED, "mmap")  # the break that was refused comes between the two
    assert found[1].exact
    assert "a call of brk," in (found[1].reason or "")
    assert (found[3].exact, found[3].reason) == (None, found[1].reason)
    # A new operation from the same place is predicted all the same.
    again = [event._replace(id=event.id + 3) for event in REFUSED]
    assert narrowed([*REFUSED, *again], "mmap")[4].exact


NOWHERE = ("brk", (0x1000,), 0x1000)
ELSEWHERE = ("madvise", (0x1000, 0x1000, 4), 0)


IN_MMAP = "[libc.so.6] __mmap <- sysmalloc_mmap{nb=0x25010} <- sysmalloc{nb=0x25010} <- _int_malloc <- " + MALLOC
MAP = ("mmap", (0, 0x26000, 3, 0x22, -1, 0), 0x7FFFF5000000)


def a_mapping(tid: int, first: int, threshold: int, **mp: int) -> list[Event]:
    values = {"mmap_threshold": threshold, "trim_threshold": 2 * threshold, **mp}
    reading = a_reading(0x5555555593B0, 0x20C50, curbrk=0x55555557A000, mp=values)
    return operation(IN_MMAP, reading, [MAP], first, tid=tid)


def test_a_threshold_that_another_thread_has_raised() -> None:
    """The newest value that leads to the call was in force, and the explanation says so."""
    seen = [a_mapping(1, 1, 0x20000), a_mapping(2, 2, 0x24000), a_mapping(1, 3, 0x26000)]
    found = predictions([event for operation in seen for event in operation])
    assert [found[number].exact for number in (1, 2, 3)] == [True] * 3
    call = found[3].call
    assert call is not None
    assert any("at least mmap_threshold 0x24000" in why for why in call.why)
    assert "mmap_threshold was 0x24000 when malloc looked, and is 0x26000" in call.why[-1]


def test_a_threshold_that_was_never_in_force_explains_nothing() -> None:
    """What another thread had before this one's last call was gone when malloc decided."""
    seen = [a_mapping(2, 1, 0x20000), a_mapping(2, 2, 0x26000), a_mapping(1, 3, 0x26000), a_mapping(1, 4, 0x26000)]
    assert predictions([event for operation in seen for event in operation])[4].exact is False


def test_the_limit_of_mapped_chunks_is_met_for_a_moment() -> None:
    seen = [a_mapping(tid, tid, 0x20000, n_mmaps=2, n_mmaps_max=2) for tid in (1, 2)]
    found = predictions([event for operation in seen for event in operation])[2]
    assert (found.call, found.exact) == (None, None)
    assert "n_mmaps" in (found.reason or "")


@pytest.mark.parametrize("read", [0x7FFFF0000000, 0x7FFFEC000000])
def test_a_variable_that_another_thread_has_changed(read: int) -> None:
    """malloc saw that there is no hint, and GDB the one that another thread has left since then."""
    other = operation(asks(0x290), a_reading(curbrk=BASE), [("brk", (0x1000,), 0x1000)], tid=100)
    reading = a_reading(0x5555555593B0, 0x20C50, curbrk=0x55555557A000, aligned_heap_area=read)
    raced = [event._replace(reading=reading) for event in THREAD]
    found = predictions([*other, *raced])
    first, *rest = (found[event.id] for event in raced)
    assert (first.call, first.exact) == (None, None)
    assert "another has changed it" in (first.reason or "")
    assert [item.exact for item in rest] == [True] * 3
    # In a program of one thread nobody else can have changed it.
    alone = predictions(raced)[raced[0].id]
    assert alone.exact is False
    assert alone.call is not None
    assert alone.call.args[0] == read


@pytest.mark.parametrize(
    ("stack", "reading", "reason"),
    [
        ("[libc.so.6] brk <- sbrk <- ? <- ? <- malloc <- [a.out] main", a_reading(), "debug symbols"),
        ("[libc.so.6] __brk <- sysmalloc <- [a.out] main", a_reading(), "nb"),
        ("[libc.so.6] __mmap <- _int_new_arena <- arena_get2 <- [a.out] main", a_reading(), "size"),
        ("[libc.so.6] __brk <- systrim <- mtrim <- __malloc_trim <- [a.out] main", TRIMMED, "malloc_trim"),
        ("[libc.so.6] __mmap <- heap_trim <- mtrim <- __malloc_trim <- [a.out] main", TRIMMED, "malloc_trim"),
        ("[libc.so.6] __madvise <- mtrim <- __malloc_trim <- [a.out] main", TRIMMED, "could not be read"),
        ("[libc.so.6] __madvise <- __malloc_trim <- [a.out] main", a_reading(with_arena=False), "which arena"),
        (MUNMAP + "__libc_free <- [a.out] main", a_reading(), "which chunk"),
        ("[libc.so.6] __mremap <- mremap_chunk <- __libc_realloc <- [a.out] main", a_reading(), "which chunk"),
        (
            "[libc.so.6] __madvise <- ~madvise_thp <- mremap_chunk <- __libc_realloc <- [a.out] main",
            a_reading(),
            "mremap",
        ),
        (asks(0x290), a_reading(), "__curbrk"),
        (asks(0x290), a_reading(BASE, None, curbrk=BASE), "top chunk"),
        (asks(0x290), a_reading(curbrk=BASE, with_arena=False), "which arena"),
        (asks(0x290), a_reading(FIRST + 0x8D0, 0x730, number=1), "heap_info"),
        (NEW_ARENA + WORKER, a_reading(), "aligned_heap_area"),
    ],
)
def test_what_cannot_be_predicted_has_a_reason(stack: str, reading: Reading, reason: str) -> None:
    found = only(operation(stack, reading, [ELSEWHERE if "__madvise" in stack else NOWHERE])[0])
    assert (found.call, found.exact, found.outcome) == (None, None, None)
    assert found.reason is not None
    assert reason in found.reason


def test_realloc_without_its_request() -> None:
    stack = "[libc.so.6] __mremap <- mremap_chunk{new_size=0x4c5000} <- __libc_realloc <- [a.out] main"
    call: Real = ("mremap", (0x7FFFF7BE9000, 0x1E9000, 0x4C5000, 1), 0x7FFFF7724000)
    found = only(operation(stack, a_reading(), [call], chunk=ChunkHeader(0x7FFFF7BE9000, 0, 0x1E9002))[0])
    assert found.call is None
    assert "realloc" in (found.reason or "")


def test_a_state_that_leads_to_no_call() -> None:
    # The heap has 0xf5000 accessible bytes from before it was trimmed: nothing has to be asked for.
    reading = a_reading(
        0x7FFFF0000B60, 0x204A0, number=1, heap=heap(FIRST, 0x21000, mprotect_size=0xF5000),
        mp={"mmap_threshold": 0x1E00000},
    )  # fmt: skip
    found = only(operation(asks(0xF4250), reading, [("mprotect", (FIRST + 0x21000, 0xD4000, 3), 0)])[0])
    assert (found.call, found.exact) == (None, None)
    assert found.reason


def test_an_unpredictable_end_keeps_the_call_that_was_predicted() -> None:
    # What replaces the break differs between the releases, and this one is not known.
    reading = a_reading(curbrk=BASE, mp={"sbrk_base": 0}, version=None)
    found = only(operation(asks(0x290), reading, [("brk", (0x55555557A000,), BASE)])[0])
    assert found.exact
    assert found.outcome is None
    assert "release" in (found.reason or "")


def test_what_follows_an_unpredictable_answer_is_not_called_wrong() -> None:
    reading = a_reading(curbrk=BASE, mp={"sbrk_base": 0}, version=None)
    calls: list[Real] = [("brk", (0x55555557A000,), BASE), ("mmap", (0, 0x100000, 3, 0x22, -1, 0), 0x7FFFF7CD2000)]
    assert predictions(operation(asks(0x290), reading, calls))[2].exact is None


def test_no_event_no_prediction() -> None:
    assert predictions([]) == {}


def with_breaks(events: Sequence[Event], *breaks: int) -> list[Event]:
    return [event._replace(break_before=before) for event, before in zip(events, breaks)]


FALLBACK = operation(  # a mapping is in the way of the break, glibc 2.36
    asks(0x290),
    a_reading(curbrk=BASE, mp={"sbrk_base": 0}),
    [("brk", (0x55555557A000,), BASE), ("mmap", (0, 0x100000, 3, 0x22, -1, 0), 0x7FFFF7CD2000)],
)


def test_a_region_begins_where_someone_else_moved_the_break() -> None:
    assert region_starts(with_breaks(FOREIGN, 0x55555557B234, 0x5555555B9234)) == (0x55555557B234,)
    assert region_starts(FOREIGN) == ()  # where it was before is not known


def test_a_region_begins_where_a_mapping_took_the_breaks_place() -> None:
    assert region_starts(FALLBACK) == (0x7FFFF7CD2000,)
    later = operation(
        asks(0x186B0),
        a_reading(0x7FFFF7DC6570, 0xBA90, curbrk=BASE, arena={"flags": 2}),
        [("brk", (0x555555592000,), BASE), ("mmap", (0, 0x39000, 3, 0x22, -1, 0), 0x7FFFF7C99000)],
        first=3,
    )
    assert region_starts([*FALLBACK, *with_breaks(later, BASE, BASE)]) == (0x7FFFF7CD2000, 0x7FFFF7C99000)


def test_what_begins_no_region() -> None:
    assert region_starts(REFUSED) == ()
    assert region_starts(THREAD) == ()
    assert region_starts([FALLBACK[0], FALLBACK[1]._replace(result=None)]) == ()
    extended = operation(
        asks(0x2DC6D0),
        a_reading(0x555555559290, 0x20D70, curbrk=0x55555557A000, mp={"mmap_threshold": 0x1E00000}),
        [("brk", (0x555555856000,), 0x555555856000)],
        break_before=0x55555557A000,
    )
    assert only(extended[0]).exact
    assert region_starts(extended) == ()
    other = [event._replace(reading=a_reading(0x5555555782C0, 0x1D40, curbrk=0x55555557B234, number=1))
             for event in with_breaks(FOREIGN, 0x55555557B234, 0x5555555B9234)]  # fmt: skip
    assert region_starts(other) == ()


@pytest.mark.parametrize("syscall", ["munmap", "mremap", "madvise"])
def test_a_mapping_of_its_own_without_debug_symbols(syscall: str) -> None:
    """The functions inside malloc have names and no variables, as in a static program: which chunk is not told."""
    inside = "munmap_chunk" if syscall == "munmap" else "mremap_chunk"
    event = operation(f"[libc.so.6] {syscall} <- {inside} <- __libc_realloc <- [a.out] main", a_reading(), [NOWHERE])[0]
    bare = tuple(frame._replace(file=None, line=None, variables={}) for frame in event.frames)
    args = (0x1000, 0x1000, 4, 0, 0, 0)
    found = only(event._replace(syscall=syscall, args=args, frames=bare))
    assert (found.call, found.exact) == (None, None)
    assert inside in (found.reason or "")
