"""An event with all that is known of it: what came before, what was served after, how the process ended."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gdbheap.growth.event import Event
from gdbheap.growth.explain import Explanation, explain, explain_all, growths, largest_growths, newest_growth
from gdbheap.growth.history import Final, History
from gdbheap.growth.initial import Initial
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.params import Params
from tests.support.records import AFTER_BUFFER, BASE, DEFAULTS, ENOMEM, a_reading, an_arena, an_event, seeds_history

MALLOC = "[libc.so.6] __mmap <- sysmalloc_mmap{nb=0x21010} <- sysmalloc{nb=0x21010} <- __libc_malloc <- [a.out] main"
MINE = "[libc.so.6] __mmap <- [a.out] main at a.c:1"
GROW_HEAP = "[libc.so.6] __mprotect <- grow_heap <- sysmalloc{nb=0x400} <- __libc_malloc <- [a.out] main"


def no_source(file: str, line: int) -> str | None:
    return None


def growth_of(history: History) -> Explanation:
    return explain(history, history.events[1], no_source)


def test_the_growth_of_the_seed_program() -> None:
    history = seeds_history()
    found = explain(history, history.events[1], lambda file, line: f"{file}|{line}")
    assert found.event is history.events[1]
    assert found.requester.kind == "malloc"
    assert found.requested is not None
    assert (found.requested.function, found.requested.request, found.requested.nb) == ("tcache_init", 640, 0x290)
    assert found.prediction is not None
    assert found.prediction.exact
    assert found.source == "/home/me/seed.c|6"
    assert found.constructors_of is None
    assert found.itself == 0x410
    assert found.served == tuple(history.served)
    assert found.final == history.finals[1]


def test_the_programs_own_call_has_no_prediction() -> None:
    history = seeds_history()
    found = explain(history, history.events[0], no_source)
    assert (found.requester.kind, found.requested, found.prediction) == ("program", None, None)
    assert (found.itself, found.served, found.final) == (None, (), None)
    both = explain_all(history, history.events[::-1], no_source)
    assert [item.event.id for item in both] == [2, 1]


def test_the_source_is_asked_for_only_where_a_line_is_known() -> None:
    def refuse(file: str, line: int) -> str:
        raise AssertionError(f"{file}:{line}")

    event = an_event("mmap", (0, 0x1000, 3, 0x22, -1, 0), 0x7FFFF7FC0000, "[libc.so.6] __mmap <- [a.out] main")
    assert event.user is not None
    assert explain(History([event]), event, refuse).source is None
    nobody = event._replace(user=None)
    assert explain(History([nobody]), nobody, refuse).source is None


def test_an_end_after_another_event_is_not_this_ones() -> None:
    history = seeds_history()
    history.finals[1] = replace(history.finals[1], events=3)
    assert growth_of(history).final is None
    history.finals = {2: Final(an_arena(BASE, 0x1000), 2)}
    assert growth_of(history).final is None


def test_itself_needs_all_of_its_evidence() -> None:
    history = seeds_history()
    growth, served = history.events[1], history.served[0]
    assert growth.requested is not None
    assert growth.requested.outer is not None
    # something else was cut from top in between
    history.served = [served._replace(top_before=AFTER_BUFFER + 0x20)]
    assert growth_of(history).itself is None
    history.served = []
    assert growth_of(history).itself is None
    history.served = [served]
    unknown = growth.requested._replace(outer=growth.requested.outer._replace(request=None))
    for changed in (
        growth._replace(requested=unknown),
        growth._replace(requested=growth.requested._replace(outer=None)),
        growth._replace(requested=None),
        growth._replace(reading=None),
        growth._replace(result=None),
    ):
        history.events[1] = changed
        assert growth_of(history).itself is None


@pytest.mark.parametrize(
    ("stack", "library"),
    [
        (
            "[libc.so.6] __brk <- __sbrk <- sysmalloc <- __libc_malloc <- [libstdc++.so.6] pool <- "
            "[ld-linux-x86-64.so.2] call_init <- ~call_init <- _dl_init <- _dl_start_user",
            "/usr/lib/libstdc++.so.6",
        ),
        (
            "[libc.so.6] __brk <- __libc_malloc <- [libplugin.so] start <- [ld-linux-x86-64.so.2] call_init <- "
            "_dl_init <- [libc.so.6] dlopen <- [a.out] main at a.c:1",
            None,
        ),
        ("[libc.so.6] __brk <- __libc_malloc <- [a.out] main at a.c:1", None),
        ("[ld-linux-x86-64.so.2] call_init <- _dl_init", None),
        ("[ld-linux-x86-64.so.2] ~call_init <- call_init <- _dl_init", None),
    ],
)
def test_whose_constructors_run(stack: str, library: str | None) -> None:
    event = an_event("brk", (BASE + 0x21000,), BASE + 0x21000, stack)
    assert explain(History([event]), event, no_source).constructors_of == library


def mapping(stack: str, number: int, result: int | None = 0x7FFFF7D00000) -> Event:
    return an_event("mmap", (0, 0x22000, 3, 0x22, -1, 0), result, stack, id=number)


def test_the_newest_growth_is_mallocs() -> None:
    history = seeds_history()
    assert newest_growth(history) is history.events[1]
    history.events.append(mapping(MALLOC, 3))
    history.events.append(mapping(MINE, 4))
    assert newest_growth(history) is history.events[2]
    assert growths(history) == history.events[1:3]


def test_without_mallocs_it_is_the_programs() -> None:
    events = [mapping(MINE, 1), an_event("munmap", (0x7FFFF7D00000, 0x22000), 0, MINE, id=2)]
    assert growths(History(events)) == []
    assert newest_growth(History(events)) is events[0]
    assert newest_growth(History(events[1:])) is None
    assert newest_growth(History()) is None


@pytest.mark.parametrize(
    ("event", "grew"),
    [
        (mapping(MALLOC, 1, ENOMEM), False),
        (an_event("munmap", (0x7FFFF7D00000, 0x22000), 0, MALLOC), False),
        (an_event("brk", (0,), BASE, MALLOC), False),
        (an_event("brk", (0,), None, MALLOC), False),
        (an_event("brk", (BASE + 0x1000,), None, MALLOC, break_before=BASE), True),
        (an_event("brk", (BASE + 0x1000,), BASE + 0x1000, MALLOC, break_before=BASE), True),
        (an_event("brk", (BASE,), BASE, MALLOC, break_before=BASE + 0x1000), False),
        (an_event("brk", (BASE + 0x1000,), BASE, MALLOC, break_before=BASE), False),
        (an_event("mprotect", (0x7FFFF0021000, 0x1000, 3), 0, GROW_HEAP), True),
        (an_event("mprotect", (0x7FFFF0021000, 0x1000, 3), ENOMEM, GROW_HEAP), False),
        (an_event("mprotect", (0x7FFFF0021000, 0x1000, 0), 0, GROW_HEAP.replace("grow_heap", "shrink_heap")), False),
        (an_event("mremap", (0x7FFFF0000000, 0x1000, 0x3000, 1), 0x7FFFF0000000, MALLOC), True),
    ],
)
def test_what_is_a_growth(event: Event, grew: bool) -> None:
    assert event.requester.kind == "malloc"
    assert growths(History([event])) == ([event] if grew else [])


def test_a_trim_that_has_not_returned_is_no_growth() -> None:
    stack = "[libc.so.6] __brk <- __sbrk <- systrim <- _int_free <- __libc_free <- [a.out] main"
    trim = an_event("brk", (BASE + 0x1000,), None, stack, break_before=BASE + 0x41000)
    assert growths(History([trim])) == []


def test_a_history_finds_events_by_number_and_process() -> None:
    history = seeds_history()
    other = mapping(MINE, 3)._replace(process=2)
    history.events.append(other)
    assert [history.find(number) for number in (0, 1, 3, 4, -1)] == [None, history.events[0], other, None, None]
    assert list(history.of_process(1)) == history.events[:2]
    assert list(history.of_process(2)) == [other]
    assert list(history.of_process(3)) == []
    assert history.grown_since(history.events[0])
    assert not history.grown_since(history.events[1])
    assert not history.grown_since(other)


def an_initial(
    first_chunk: int | None = 0x290, owner: int | None = 1, system_mem: int = 0x21000, top_pad: int = 0x20000
) -> Initial:
    params = Params(0, {**DEFAULTS, "top_pad": top_pad})
    arena = an_arena(BASE + 0x290, 0x20D70, system_mem=system_mem)
    return Initial(Abi(8), params, (arena,), False, first_chunk, owner)


def test_the_first_growth_follows_from_the_first_chunk() -> None:
    initial = an_initial()
    assert (initial.first_total, initial.first_growth, initial.since) == (0x202B0, 0x21000, 0)
    assert initial.main_arena is initial.arenas[0]
    assert an_initial(system_mem=0x64000).since == 0x43000
    assert (an_initial(top_pad=0).first_total, an_initial(top_pad=0).first_growth) == (0x2B0, 0x1000)


def test_the_first_growth_of_a_32_bit_program() -> None:
    """The first chunk is 8 bytes into the memory there, and a second call makes it end on a page again."""
    arena = an_arena(0x56982198, 0x21E68, system_mem=0x22000)
    params = Params(0, {**DEFAULTS, "sbrk_base": 0x56982000})
    initial = Initial(Abi(4), params, (arena,), False, 0x190, 1)
    assert [call.rounded for call in initial.first_calls] == [0x21000, 0x1000]
    assert (initial.first_total, initial.first_growth, initial.since) == (0x201A0, 0x22000, 0)


def test_a_heap_that_gave_back() -> None:
    arena = replace(an_initial().main_arena, system_mem=0x8000)
    assert replace(an_initial(), arenas=(arena,)).since == -0x19000


@pytest.mark.parametrize(("first_chunk", "owner"), [(None, 1), (0x290, None), (None, None)])
def test_a_first_growth_that_cannot_be_told(first_chunk: int | None, owner: int | None) -> None:
    initial = an_initial(first_chunk, owner)
    assert (initial.first_total, initial.first_growth, initial.since) == (None, None, None)


def test_a_first_growth_larger_than_the_arena_ever_was() -> None:
    # top_pad was raised after the first growth
    initial = an_initial(top_pad=0x100000)
    assert initial.first_total == 0x1002B0
    assert (initial.first_growth, initial.since) == (None, None)


def test_a_reading_alone_makes_no_malloc_event() -> None:
    # a library's own arena is none of malloc's business: without malloc's frames there is no request
    event = mapping(MINE, 1)._replace(reading=a_reading(curbrk=BASE))
    found = explain(History([event]), event, no_source)
    assert found.requested is None
    assert found.prediction is not None
    assert found.prediction.call is None


def test_a_history_knows_what_was_recorded_when() -> None:
    history = seeds_history()
    assert "madvise" in history.caught(1)
    history = History()
    history.choose(("brk", "mmap"))
    history.events += seeds_history().events
    history.choose(("madvise",))
    assert [history.caught(number) for number in (1, 2, 3)] == [{"brk", "mmap"}, {"brk", "mmap"}, {"madvise"}]


def test_an_explanation_knows_which_calls_were_not_recorded() -> None:
    advice = an_event(
        "madvise",
        (BASE, 0x200000, 14),
        0,
        "[libc.so.6] __madvise <- ~madvise_thp <- sysmalloc{nb=0x10a0} <- _int_malloc <- __libc_malloc <- [a.out] main",
        reading=a_reading(curbrk=BASE + 0x200000, mp={"thp_pagesize": 0x200000, "sbrk_base": 0}),
    )
    history = History([advice])
    history.choices.append((1, frozenset({"madvise"})))
    prediction = explain(history, advice, no_source).prediction
    assert prediction is not None
    assert (prediction.call, prediction.exact) == (None, None)
    assert "a call of brk," in (prediction.reason or "")
    assert explain_all(history, [advice, advice], no_source)[0].prediction == prediction


def test_the_largest_growths_and_a_return_that_was_not_seen() -> None:
    """What a call without a result asked for counts: of a brk how far, of a mapping how much."""
    brk = an_event("brk", (BASE + 0x30000,), None, MALLOC, break_before=BASE)
    mapped = an_event("mmap", (0, 0x22000, 3, 0x22, -1, 0), 0x7F0000000000, MALLOC, earlier=[brk])
    asked = an_event("mmap", (0, 0x50000, 3, 0x22, -1, 0), None, MALLOC, earlier=[brk, mapped])
    committed = an_event("mprotect", (BASE, 0x21000, 3), 0, GROW_HEAP, earlier=[brk, mapped, asked])
    history = History([brk, mapped, asked, committed])
    assert largest_growths(history, 1, 9) == [asked, brk, mapped, committed]
    assert largest_growths(history, 2, 2) == [asked, mapped]
