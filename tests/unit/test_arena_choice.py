"""Which arena malloc works on, and why: each branch of arena_get, and what events prove of arenas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gdbheap.growth.arena_reason import ArenaReason, arena_reasons
from gdbheap.growth.event import Event
from gdbheap.growth.reading import ArenaVariables
from gdbheap.simulate.arena_choice import ARENA_REASONS, ArenaFacts, choose_arena
from gdbheap.simulate.calls import Unpredictable
from tests.support.records import MAIN_ARENA, a_reading, an_event

OWN = 0x7FFFF0000030
HEAP = OWN - 0x30
SECOND = 0x7FFFE8000030

#: A thread without an arena, of two that there are, in a process of several threads.
NONE_YET = ArenaFacts(MAIN_ARENA, 8, 0, 8, single=False, thread_arena=0, free_list=0, narenas=2, narenas_limit=0)


def test_one_thread_takes_main_arena_whatever_else_there_is() -> None:
    choice = choose_arena(replace(NONE_YET, single=True, thread_arena=None))
    assert (choice.reason, choice.arena) == ("single-thread", MAIN_ARENA)


def test_a_thread_keeps_its_arena() -> None:
    choice = choose_arena(replace(NONE_YET, thread_arena=OWN, free_list=SECOND))
    assert (choice.reason, choice.arena) == ("thread", OWN)
    assert "several threads" in choice.why[0]
    # up to 2.26 malloc does not ask how many threads there are
    assert "several threads" not in choose_arena(replace(NONE_YET, single=None, thread_arena=OWN)).why[0]


def test_what_an_ended_thread_left_comes_first() -> None:
    choice = choose_arena(replace(NONE_YET, free_list=SECOND, narenas=1, narenas_limit=1))
    assert (choice.reason, choice.arena) == ("left-over", SECOND)


@pytest.mark.parametrize(
    ("facts", "reason", "said"),
    [
        ({"narenas": 8}, "new", "8 arenas exist, main_arena included: not more than arena_test (8)"),
        ({"narenas": 1}, "new", "1 arena exists (main_arena)"),
        ({"narenas": 9, "processors": 2}, "new", "of at most 16: 8 for each of 2 processors"),
        ({"narenas": 9, "processors": 1}, "shared", "of at most 8: 8 for each of 1 processor."),
        ({"narenas": 9, "processors": 0}, "new", "of at most 16"),  # glibc then assumes two
        ({"narenas": 3, "narenas_limit": 4, "word_size": 4}, "new", "of at most 4: 2 for each of 2 processors"),
        ({"narenas": 15, "narenas_limit": 16}, "new", "of at most 16"),
        ({"narenas": 16, "narenas_limit": 16}, "shared", "of at most 16"),
        ({"narenas": 2, "arena_max": 3}, "new", "of at most 3: arena_max (M_ARENA_MAX, glibc.malloc.arena_max) is 3"),
        ({"narenas": 3, "arena_max": 3}, "shared", "of at most 3"),
        ({"narenas": 3, "arena_max": 3, "narenas_limit": 16}, "new", "before arena_max was set to 3"),
        ({"narenas": 3, "narenas_limit": 5}, "new", "before arena_max was set back to 0"),
    ],
)
def test_the_limit_of_arenas(facts: dict[str, int], reason: str, said: str) -> None:
    choice = choose_arena(replace(NONE_YET, **facts))  # type: ignore[arg-type]
    assert (choice.reason, choice.arena) == (reason, None)
    assert any(said in text for text in choice.why), choice.why
    assert "free_list is empty" in choice.why[1]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"thread_arena": None}, "thread_arena"),
        ({"free_list": None}, "free_list"),
        ({"narenas": None}, "narenas"),
        ({"narenas_limit": None}, "narenas_limit"),
        ({"narenas": 9}, "processors"),
    ],
)
def test_what_is_not_known_is_not_guessed(facts: dict[str, None], said: str) -> None:
    with pytest.raises(Unpredictable, match=said):
        choose_arena(replace(NONE_YET, **facts))  # type: ignore[arg-type]


def test_each_reason_of_a_choice_has_a_meaning() -> None:
    choices = [choose_arena(replace(NONE_YET, **facts)) for facts in ({"single": True}, {"thread_arena": OWN}, {})]
    assert {choice.reason for choice in choices} <= set(ARENA_REASONS)


GROWS = (
    "[libc.so.6] mprotect <- grow_heap <- sysmalloc{{nb=0xf010 av={0:#x}}} <- _int_malloc{{av={0:#x} bytes=0xf000}} <- "
)
NEW = "[libc.so.6] mprotect <- alloc_new_heap <- new_heap <- _int_new_arena{size=0x280} <- arena_get2 <- "
MALLOC = "__libc_malloc{bytes=0xf000} <- [a.out] work at a.c:3"


def variables(
    thread_arena: int | None = None,
    *,
    narenas: int = 2,
    limit: int = 0,
    single: bool = False,
    lives: tuple[int, ...] = (),
) -> ArenaVariables:
    """Return what was read; ``lives`` are the numbers of the living threads, each with the tid that an_event gives."""
    first, second, third = [number.to_bytes(8, "little") for number in (narenas, limit, 0)]
    living = tuple((number, 99 + number) for number in lives) or None
    return ArenaVariables(single, first, second, third, thread_arena, living)


def made(number: int, thread_arena: int = 0, narenas: int = 2) -> Event:
    """Return the event in which thread 2 makes an arena's first bytes accessible."""
    choosing = variables(thread_arena, narenas=narenas)
    reading = a_reading(with_arena=False, choosing=choosing, mp={"arena_test": 8})
    return an_event("mprotect", (HEAP, 0x21000, 3), 0, NEW + MALLOC, id=number, thread=2, tid=101, reading=reading)


def grown(
    number: int, choosing: ArenaVariables, *, thread: int = 2, arena: int = OWN, attached: int = 1, stack: str = MALLOC
) -> Event:
    """Return the growth of an arena by a thread; process 1 begins with thread 1, whose tid is then 1."""
    reading = a_reading(
        HEAP + 0x1000, 0x1000, number=0 if arena == MAIN_ARENA else 1, address=arena, choosing=choosing,
        mp={"arena_test": 8}, arena={"attached_threads": attached},
    )  # fmt: skip
    text = (GROWS.format(arena) if "<-" not in stack or stack == MALLOC else "") + stack
    tid = 1 if thread == 1 else 99 + thread
    return an_event("mprotect", (HEAP, 0x1000, 3), 0, text, id=number, thread=thread, tid=tid, reading=reading)


def last(*events: Event) -> ArenaReason:
    return arena_reasons(events)[events[-1].id]


def test_a_process_of_one_thread() -> None:
    found = last(grown(1, variables(single=True), thread=1, arena=MAIN_ARENA))
    assert (found.reason, len(found.why)) == ("single-thread", 1)


def test_the_first_thread_keeps_main_arena() -> None:
    found = last(grown(1, variables(MAIN_ARENA), thread=1, arena=MAIN_ARENA, attached=1))
    assert found.reason == "first-thread"
    assert found.attached == 1


def test_an_arena_that_was_made_for_the_thread() -> None:
    found = last(made(1), grown(2, variables(OWN)))
    assert found.reason == "made-for-thread"
    assert "event 1" in " ".join(found.why)
    assert not any("threads use it" in text for text in found.why)
    found = last(made(1), grown(2, variables(OWN), attached=3))
    assert found.reason == "made-for-thread"
    assert "3 threads use it" in found.why[-1]


def test_an_arena_of_an_ended_thread() -> None:
    """No limit was ever reached, so it cannot have been shared."""
    found = last(made(1), grown(2, variables(OWN), thread=3))
    assert found.reason == "left-over"
    text = " ".join(found.why)
    assert "made for thread 2 at event 1" in text
    assert "no limit yet" in text
    assert last(made(1), grown(2, variables(OWN, narenas=15, limit=16), thread=3)).reason == "left-over"
    assert last(grown(1, variables(MAIN_ARENA), thread=3, arena=MAIN_ARENA)).reason == "left-over"


def test_an_arena_that_is_shared() -> None:
    full = variables(OWN, limit=2, lives=(1, 2, 3))
    found = last(made(1), grown(2, full, thread=3, attached=2))
    assert found.reason == "shared"
    assert "of at most 2" in found.why[1]
    assert "2 threads use it" in found.why[-1]


def test_the_first_threads_arena_that_is_shared() -> None:
    full = variables(MAIN_ARENA, narenas=1, limit=1, lives=(2,))._replace(living=((1, 1), (2, 101)))
    assert last(grown(1, full, arena=MAIN_ARENA, attached=2)).reason == "shared"
    gone = full._replace(living=((2, 101), (3, 102)))
    assert last(grown(1, gone, arena=MAIN_ARENA, attached=2)).reason == "thread"


@pytest.mark.parametrize(
    ("choosing", "attached"),
    [
        (variables(OWN, limit=2), 1),  # its maker may have ended before, or after it was shared
        (variables(OWN, limit=2, lives=(3, 4)), 2),  # the maker has ended: which of the two came first?
        (variables(OWN)._replace(narenas_limit=b""), 1),
    ],
)
def test_two_ways_that_cannot_be_told_apart_are_both_named(choosing: ArenaVariables, attached: int) -> None:
    found = last(made(1), grown(2, choosing, thread=3, attached=attached))
    assert found.reason == "thread"
    text = " ".join(found.why)
    assert "get_free_list" in text
    assert "reused_arena" in text


def test_what_was_proved_once_stays_true() -> None:
    """The thread took it over before the limit was reached; that others share it now changes nothing."""
    events = [made(1), grown(2, variables(OWN), thread=3), grown(3, variables(OWN, limit=2), thread=3, attached=2)]
    assert last(*events).reason == "left-over"


def test_an_arena_whose_making_was_not_recorded() -> None:
    found = last(grown(1, variables(OWN)))
    assert found.reason == "thread"
    assert "not recorded" in found.why[1]
    assert "reused_arena" not in found.why[1]
    assert "reused_arena" in last(grown(1, variables(OWN, limit=2))).why[1]


def test_another_processs_arena_is_another() -> None:
    assert last(made(1)._replace(process=7), grown(2, variables(OWN))).reason == "thread"


def test_a_new_arena() -> None:
    """narenas counts it already: two were there before."""
    found = last(made(1, narenas=3))
    assert found.reason == "new"
    assert "NULL" in found.why[0]
    assert "2 arenas exist" in found.why[2]
    assert "made" in found.why[-1]


def test_a_new_arena_after_the_threads_own_failed() -> None:
    found = last(made(1, thread_arena=MAIN_ARENA))
    assert found.reason == "new"
    assert "arena_get_retry" in found.why[0]
    assert hex(MAIN_ARENA) in found.why[0]


def test_main_arena_after_the_threads_own_failed() -> None:
    found = last(grown(1, variables(OWN), arena=MAIN_ARENA))
    assert found.reason == "retry"
    assert hex(OWN) in found.why[0]


def test_an_arena_that_nothing_explains() -> None:
    found = last(grown(1, variables(OWN), arena=SECOND))
    assert found.reason is None
    assert "not known" in found.why[0]
    assert last(grown(1, variables(None))).reason is None


@pytest.mark.parametrize(
    ("stack", "reason"),
    [
        ("[libc.so.6] mprotect <- systrim <- _int_free{av=0x10} <- __libc_free <- [a.out] f at a.c:3", "chunk"),
        ("[libc.so.6] munmap <- heap_trim <- _int_free <- [a.out] f at a.c:3", "chunk"),
        (GROWS.format(OWN) + "_int_realloc <- __libc_realloc <- [a.out] f at a.c:3", "chunk"),
        (GROWS.format(OWN) + "tcache_init <- __libc_free <- [a.out] f at a.c:3", "made-for-thread"),
        (GROWS.format(OWN) + "__libc_malloc <- __libc_realloc <- [a.out] f at a.c:3", "made-for-thread"),
        (GROWS.format(OWN) + "_int_memalign <- _mid_memalign <- memalign <- [a.out] f at a.c:3", "made-for-thread"),
        (
            "[libc.so.6] brk <- systrim <- _int_free <- sysmalloc{av=0x10} <- _int_malloc <- " + MALLOC,
            "made-for-thread",
        ),
        ("[libc.so.6] brk <- systrim <- mtrim <- __malloc_trim <- [a.out] f at a.c:3", "all"),
        ("[libc.so.6] mmap <- sysmalloc_mmap <- sysmalloc{nb=0x30 av=0x0} <- _int_malloc <- " + MALLOC, "none"),
    ],
)
def test_what_decides_depends_on_the_function(stack: str, reason: str) -> None:
    found = last(made(1), grown(2, variables(OWN), stack=stack))
    assert found.reason == reason


def test_no_arena_takes_part_in_a_mapping_of_its_own() -> None:
    for name in ("munmap_chunk", "mremap_chunk"):
        event = grown(2, variables(OWN), stack=f"[libc.so.6] munmap <- {name} <- __libc_free <- [a.out] f at a.c:3")
        assert not arena_reasons([made(1), event]).get(2)


def test_events_that_were_not_read() -> None:
    event = grown(1, variables(OWN))
    assert not arena_reasons([event._replace(reading=None)])
    assert event.reading is not None
    assert last(event._replace(reading=event.reading._replace(choosing=None))).reason is None
