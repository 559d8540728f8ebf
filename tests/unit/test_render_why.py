"""Explanations as people read them: the facts that must be there, whatever the wording."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbheap.growth.event import Event, Frame, FreeLists, Requester, Served
from gdbheap.growth.explain import explain, explain_all
from gdbheap.growth.history import Final, History
from gdbheap.growth.initial import Initial
from gdbheap.growth.reading import ArenaVariables, Reading
from gdbheap.growth.shortage import shortage
from gdbheap.ptmalloc.abi import Abi
from gdbheap.ptmalloc.bins import NOTHING_FREE, FreeSummary, ListSummary
from gdbheap.ptmalloc.params import Params
from gdbheap.render.escape import printable
from gdbheap.render.style import Colour, Plain
from gdbheap.render.why import explanation_lines, headline, initial_lines
from gdbheap.simulate.state import TrimWalk
from tests.support.records import (
    AFTER_BUFFER,
    BASE,
    DEFAULTS,
    ENOMEM,
    GROWN,
    a_reading,
    an_arena,
    an_event,
    seeds_history,
)

SOURCE = 'printf("Heap Pointer locataion:\\nBefore:%p", sbrk(0));'
STACK = "[libc.so.6] __brk <- __sbrk <- __glibc_morecore <- sysmalloc{nb=%#x} <- _int_malloc{bytes=%#x} <- "
MAIN = "__libc_malloc{bytes=%#x} <- [a.out] main at a.c:3"
WHERE = 0x7FFFF7D00000


def lines_of(history: History, event: Event, source: str | None = None) -> list[str]:
    return list(explanation_lines(explain(history, event, lambda file, line: source), Plain()))


def text_of(history: History, event: Event, source: str | None = None) -> str:
    return "\n".join(lines_of(history, event, source))


def the_story(history: History | None = None) -> str:
    history = history or seeds_history()
    return text_of(history, history.events[1], SOURCE)


def line_with(text: str, *facts: str) -> str:
    """Return the one line that has all of these facts."""
    found = [line for line in text.splitlines() if all(fact in line for fact in facts)]
    assert len(found) == 1, f"{facts}: {found} in\n{text}"
    return found[0]


def test_the_story_has_each_fact() -> None:
    text = the_story()
    head = text.splitlines()[0]
    for fact in ("brk", "0x21000", "132 KiB", "0x555555559000", "0x55555557a000"):
        assert fact in head
    line_with(text, "main ()", "seed.c:6", SOURCE)
    line_with(text, "printf", "_IO_file_doallocate", "malloc(1024)", "stdout's buffer")
    line_with(text, "malloc(1024)", "tcache_init", "640")
    line_with(text, "640", "0x290", "thread 1", "main_arena", "0x7ffff7fa8c60")
    for number, name in (("0x290", "nb"), ("0x20000", "top_pad"), ("0x20", "MINSIZE"), ("0x0", "old top")):
        line = next(
            line for line in text.splitlines() if re.search(rf"\b{name}\b", line) and re.match(r".*[+ -] 0x", line)
        )
        found = re.search(r"0x[0-9a-f]+", line)
        assert found is not None
        assert int(found[0], 16) == int(number, 16)
    assert "M_TOP_PAD" in text
    assert "glibc.malloc.top_pad" in text
    rounded = line_with(text, "0x202b0")
    assert "0x1000" in rounded
    line_with(text, "0x21000", "135,168")
    line_with(text, "0x55555557a000", "(exact)")
    line_with(text, "0x20d70", "131.4 KiB")
    line_with(text, "malloc(1024)", "0x410")
    assert "no system call" in line_with(text, "malloc(1000)", "seed.c:7", "0x3f0", "0x20570")
    assert "not exact" not in text
    assert "unknown" not in text


def test_the_story_says_that_there_was_no_heap() -> None:
    assert "brk-first" in the_story()
    assert "sysmalloc" in the_story()
    line_with(the_story(), "why not free", "no heap yet")
    history = seeds_history()
    history.events[1] = history.events[1]._replace(free=None)
    assert "why not free" not in the_story(history)


ONE_FASTBIN = ListSummary("fastbin", 3, 2, 0xA0, 0x50)
UNSORTED = ListSummary("unsorted", 1, 3, 0x600, 0x300)
SMALL = ListSummary("small", 5, 1, 0x50, 0x50)


def summary_of(*lists: ListSummary) -> FreeSummary:
    return FreeSummary(
        lists,
        sum(item.chunks for item in lists),
        sum(item.total for item in lists),
        max((item.largest for item in lists), default=0),
        all(item.complete for item in lists),
    )


def a_growth(
    nb: int, free: FreeLists, caller: str = MAIN, mp: Mapping[str, int] | None = None, narenas: int = 1
) -> tuple[Event, str]:
    """Return a growth of main_arena for a chunk of ``nb`` bytes, when 0x100 were left in top, and its explanation."""
    tcache = {"tcache_bins": 64, "tcache_count": 7, "tcache_max_bytes": 1032}
    choosing = ArenaVariables(True, narenas.to_bytes(8, "little"), bytes(8), bytes(8))
    reading = a_reading(GROWN - 0x100, 0x100, curbrk=GROWN, mp={**tcache, **(mp or {})}, choosing=choosing)
    end = GROWN + (nb + 0x20020 - 0x100 + 0xFFF) // 0x1000 * 0x1000
    stack = STACK % (nb, nb - 8) + (caller % (nb - 8) if "%" in caller else caller)
    event = an_event("brk", (end,), end, stack, break_before=GROWN, reading=reading, free=free)
    text = text_of(History([event]), event)
    assert "(exact)" in text
    return event, text


def test_why_nothing_free_served_place_by_place() -> None:
    _, text = a_growth(0x50, FreeLists(0, summary_of(ONE_FASTBIN, UNSORTED, SMALL)))
    assert "empty" in line_with(text, "tcache  ", "0x50")
    line_with(text, "fastbin 3", "2 chunks", "0xa0", "0x50")
    line_with(text, "small bin 5", "(for 0x50)", "1 chunk,")
    line_with(text, "unsorted  ", "3 chunks", "0x600", "0x300")
    line_with(text, "all lists  ", "6 chunks", "0x6f0", "0x300")
    line_with(text, "top  ", "0x100 bytes left", "0x70")
    assert "other arena" not in text
    line_with(a_growth(0x50, FreeLists(0, NOTHING_FREE), narenas=3)[1], "2 other arenas", "not looked at")
    _, text = a_growth(0x2000, FreeLists(None, summary_of(UNSORTED)))
    line_with(text, "tcache  ", "0x2000", "0x410")
    assert "fastbin" not in text
    line_with(text, "large bin 107", "(for 0x2000 to 0x21f0)", "empty")
    assert "no chunk" in line_with(a_growth(0x2000, FreeLists(None, NOTHING_FREE))[1], "bins  ")


def test_fragmentation_is_told_from_need() -> None:
    pieces = ListSummary("large", 100, 40, 0x5000, 0x200)
    event, text = a_growth(0x4000, FreeLists(None, summary_of(pieces)))
    line_with(text, "Fragmentation", "0x5000", "0x4000", "40 pieces", "0x200")
    found = shortage(event, None)
    assert found is not None
    assert found.verdict == "fragmentation"
    event, text = a_growth(0x6000, FreeLists(None, summary_of(pieces)))
    assert "top chunk they" not in line_with(text, "Need", "0x5000", "0x6000")
    assert "Fragmentation" not in text
    line_with(a_growth(0x5080, FreeLists(None, summary_of(pieces)))[1], "Need", "With the top chunk")
    line_with(a_growth(0x5080, FreeLists(None, NOTHING_FREE))[1], "Need", "nothing is free")


def test_no_verdict_where_a_chunk_could_have_served_or_was_not_counted() -> None:
    event, text = a_growth(0x200, FreeLists(0, summary_of(UNSORTED)))
    assert "not known" in line_with(text, "0x300", "why")
    found = shortage(event, None)
    assert found is not None
    assert found.verdict is None
    cut = ListSummary("unsorted", 1, 512, 0x5000, 0x200, False)
    _, text = a_growth(0x4000, FreeLists(None, summary_of(cut)))
    line_with(text, "all lists  ", "at least 512 chunks")
    line_with(text, "Only 512 chunks", "cannot be told")


@pytest.mark.parametrize(
    ("caller", "facts"),
    [
        ("__libc_calloc <- [a.out] main at a.c:3", ("3 chunks", "calloc does not look")),
        ("_int_realloc <- __libc_realloc <- [a.out] main at a.c:3", ("3 chunks", "realloc does not look")),
        ("_int_memalign <- _mid_memalign <- [a.out] main at a.c:3", ("3 chunks", "memalign does not look")),
        (MAIN, ("3 chunks", "not known")),
        ("tcache_init <- __libc_malloc <- [a.out] main at a.c:3", ("none yet", "this request")),
    ],
)
def test_why_a_full_tcache_bin_did_not_serve(caller: str, facts: Sequence[str]) -> None:
    _, text = a_growth(0x290, FreeLists(3, NOTHING_FREE), caller)
    line_with(text, "tcache  ", *facts)


def test_a_glibc_without_a_tcache_or_with_large_bins() -> None:
    _, text = a_growth(0x50, FreeLists(None, NOTHING_FREE), mp={"tcache_count": 0})
    line_with(text, "tcache  ", "could not be read")
    event, _ = a_growth(0x50, FreeLists(None, NOTHING_FREE))
    reading = a_reading(GROWN - 0x100, 0x100, curbrk=GROWN)
    layout = reading.facts.layout
    fields = {name: place for name, place in layout.par.fields.items() if not name.startswith("tcache")}
    facts = replace(reading.facts, layout=replace(layout, par=replace(layout.par, fields=fields)))
    event = event._replace(reading=reading._replace(facts=facts))
    assert "tcache" not in text_of(History([event]), event)
    large = {"tcache_max_bytes": 0x1001, "tcache_count": 16}
    reading = a_reading(GROWN - 0x100, 0x100, curbrk=GROWN, version=(2, 43), layout=("2.43", 64), mp=large)
    event = event._replace(reading=reading)
    text = text_of(History([event]), event)
    line_with(text, "tcache  ", "0x50", "could not be read")
    assert "fastbin" not in text


def test_a_prediction_that_fails_says_so() -> None:
    history = seeds_history()
    history.events[1] = history.events[1]._replace(args=(GROWN + 0x1000,), result=GROWN + 0x1000)
    text = the_story(history)
    line = line_with(text, "not exact")
    assert "0x55555557a000" in line
    assert "0x55555557b000" in line
    assert "(exact)" not in text


def test_what_is_not_known_is_given_its_reason() -> None:
    stack = "[libc.so.6] brk <- sbrk <- ? <- ? <- malloc <- [seed] main at seed.c:6"
    event = an_event("brk", (GROWN,), GROWN, stack, break_before=BASE, reading=a_reading(curbrk=BASE))
    text = text_of(History([event]), event)
    assert "debug symbols" in text
    assert "exact" not in text
    line_with(text, "main ()", "seed.c:6")
    unread = event._replace(reading=None, unread="mp_ cannot be read.")
    text = text_of(History([unread]), unread)
    line_with(text, "unknown")
    line_with(text, "mp_ cannot be read.")
    assert "exact" not in text


def test_served_calls_say_where_from() -> None:
    history = seeds_history()
    first = history.served[0]

    def served(**changes: object) -> str:
        history.served = [first._replace(**changes)]  # type: ignore[arg-type]
        return line_with(the_story(history), "malloc(1000)")

    assert "top" in served()
    from_list = served(source="tcache", top_after=AFTER_BUFFER)
    assert "free list" in from_list
    assert "top" not in from_list
    assert "a system call that was not recorded" in served(source="mapping")
    assert "refused" in served(chunk_size=None, source="")
    assert "cut from top" in served(source="")
    for unseen in (served(source="", top_after=None, left=None), served(source="", top_after=AFTER_BUFFER)):
        assert "0x20570" not in unseen
        assert "where it is from is not known" in unseen
    assert "seed.c" not in served(user=None, caller=Frame("helper", None, None, "/usr/lib/libx.so", 0x10))
    assert "helper" in served(user=None, caller=Frame("helper", None, None, "/usr/lib/libx.so", 0x10))
    assert "0x3f0" in served(user=None, caller=None)


def test_the_end_of_the_process() -> None:
    history = seeds_history()
    assert "0x20570" in line_with(the_story(), "process ended")
    history.finals[1] = Final(an_arena(BASE, None), 2)
    assert "process ended" not in the_story(history)


def test_a_growth_that_used_up_top() -> None:
    # MALLOC_TOP_PAD_=0 and a request that leaves just MINSIZE
    reading = a_reading(curbrk=BASE, mp={"sbrk_base": 0, "top_pad": 0})
    event = an_event(
        "brk",
        (BASE + 0x1000,),
        BASE + 0x1000,
        STACK % (0xFE0, 0xFD0) + MAIN % 0xFD0,
        break_before=BASE,
        reading=reading,
    )
    text = text_of(History([event]), event)
    assert "(exact)" in text
    line = line_with(text, "0x20 bytes left")
    assert "single request" not in line


def test_calls_that_are_not_mallocs() -> None:
    history = seeds_history()
    text = text_of(history, history.events[0], SOURCE)
    line_with(text, "main ()", "seed.c:6")
    line_with(text, "program", "not malloc's")
    assert "exact" not in text
    reads = an_event(
        "mmap", (0, 0x86F3, 1, 2, 3, 0), WHERE, "[ld-linux-x86-64.so.2] __mmap <- _dl_map_object", file="/lib/libm.so.6"
    )
    line_with(text_of(History([reads]), reads), "loader", "/lib/libm.so.6", "not malloc's")


def test_constructors_before_main() -> None:
    stack = (
        "[libc.so.6] __brk <- __sbrk <- sysmalloc{nb=0x290} <- __libc_malloc <- [libstdc++.so.6] pool <- "
        "[ld-linux-x86-64.so.2] call_init <- _dl_init"
    )
    event = an_event("brk", (GROWN,), GROWN, stack, break_before=BASE, reading=a_reading(curbrk=BASE))
    line_with(text_of(History([event]), event), "before main", "libstdc++.so.6")


@pytest.mark.parametrize(
    ("event", "facts"),
    [
        (an_event("brk", (GROWN,), GROWN, break_before=BASE), ("grew", "0x21000", "132 KiB", hex(BASE), hex(GROWN))),
        (an_event("brk", (BASE,), BASE, break_before=GROWN), ("gave back", "0x21000", hex(GROWN), hex(BASE))),
        (an_event("brk", (GROWN,), GROWN), (hex(GROWN), "not known")),
        (an_event("brk", (0,), BASE), (hex(BASE),)),
        (an_event("brk", (GROWN,), None), ("has not returned", "not answered")),
        (an_event("brk", (GROWN,), BASE, break_before=BASE), ("refused", hex(GROWN))),
        (an_event("mmap", (0, 0x21000, 3, 0x22, -1, 0), WHERE), ("0x21000", "132 KiB", "rw-", hex(WHERE))),
        (an_event("mmap", (0, 0x21000, 3, 0x22, -1, 0), ENOMEM), ("refused", "0x21000")),
        (an_event("munmap", (WHERE, 0x21000), 0), ("0x21000", "132 KiB", hex(WHERE))),
        (an_event("mremap", (WHERE, 0x1000, 0x2000, 1), BASE), ("0x1000", "0x2000", hex(WHERE), hex(BASE))),
        (an_event("mprotect", (WHERE, 0x21000, 1), 0), ("0x21000", "r--", hex(WHERE))),
        (an_event("madvise", (WHERE, 0x21000, 4), 0), ("gave back the pages", "0x21000", hex(WHERE), "addresses stay")),
        (an_event("madvise", (WHERE, 0x200000, 14), 0), ("0x200000", hex(WHERE), "MADV_HUGEPAGE")),
        (an_event("madvise", (WHERE, 0x21000, 4), -22), ("refused", "MADV_DONTNEED")),
    ],
)
def test_headlines(event: Event, facts: Sequence[str]) -> None:
    line = headline(event)
    assert event.syscall in line
    assert all(fact in line for fact in facts), line


def test_what_stays_where_pages_go_back() -> None:
    stack = "[libc.so.6] __madvise <- ~mtrim{pad=0x0} <- __malloc_trim{s=0x0} <- [a.out] main at a.c:3"
    walk = TrimWalk(((0x5555555C0D20, 0x19010),))
    reading = a_reading(0x5555557291A0, 0x38E60, number=1, trim=walk)
    event = an_event("madvise", (0x5555555C1000, 0x18000, 4), 0, stack, reading=reading)
    text = text_of(History([event]), event)
    line_with(text, "none: memory goes back", "arena 1")
    line_with(text, "0x5555555c0d20 is free and has 0x19010 bytes")
    line_with(text, "madvise(0x5555555c1000, 0x18000, MADV_DONTNEED)", "(exact)")
    line_with(text, "96 KiB goes back", "stays mapped", "zeros")
    line_with(text, "the chunk is free as before", "break", "system_mem")
    refused = event._replace(result=-22)
    assert "goes back to the system" not in text_of(History([refused]), refused)


def shown_sum(lines: Sequence[str]) -> tuple[int, int]:
    """Return what the shown terms add up to, and the first number that is shown as their sum."""
    terms = [re.match(r"(?:the sum)?\s+([-+ =]) +?(0x[0-9a-f]+)  ", line) for line in lines]
    numbers = [(found[1], int(found[2], 16)) for found in terms if found is not None]
    total = next(value for sign, value in numbers if sign == "=")
    return sum(-value if sign == "-" else value for sign, value in numbers if sign != "="), total


def growths_with_a_sum() -> dict[str, list[Event]]:
    """Return operations by the path of their last call."""

    def operation(nb: int, reading: Reading, *calls: tuple[str, tuple[int, ...], int]) -> list[Event]:
        stack = STACK % (nb, nb - 16) + MAIN % (nb - 16)
        return [
            an_event(name, args, result, stack, id=index, reading=reading, break_before=reading.curbrk)
            for index, (name, args, result) in enumerate(calls, 1)
        ]

    never = {"mmap_threshold": 0x1E00000}
    return {
        "brk-first": operation(0x290, a_reading(curbrk=BASE), ("brk", (GROWN,), GROWN)),
        "brk-extend": operation(
            0x2DC6D0,
            a_reading(BASE + 0x290, 0x20D70, curbrk=GROWN, mp=never),
            ("brk", (0x555555856000,), 0x555555856000),
        ),
        "mmap-chunk": operation(
            0x20000, a_reading(0x555555579280, 0xD80, curbrk=GROWN), ("mmap", (0, 0x21000, 3, 0x22, -1, 0), WHERE)
        ),
        "brk-align": operation(
            0x1F010,
            a_reading(0x5555555782C0, 0x1D40, curbrk=0x55555557B234),
            ("brk", (0x5555555B9234,), 0x5555555B9234),
            ("brk", (0x5555555BB000,), 0x5555555BB000),
        ),
        "mmap-fallback": operation(
            0x2DC6D0,
            a_reading(BASE + 0x290, 0x20D70, curbrk=GROWN, mp=never, version=(2, 34), layout=("2.31", 64)),
            ("brk", (0x555555856000,), GROWN),
            ("mmap", (0, 0x2FD000, 3, 0x22, -1, 0), WHERE),
        ),
    }


@pytest.mark.parametrize("path", ["brk-first", "brk-extend", "mmap-chunk", "brk-align", "mmap-fallback"])
def test_the_sum_that_is_shown_adds_up(path: str) -> None:
    events = growths_with_a_sum()[path]
    explained = explain_all(History(events), events, lambda file, line: None)[-1]
    assert explained.prediction is not None
    assert explained.prediction.call is not None
    call = explained.prediction.call
    assert (call.path, explained.prediction.exact) == (path, True)
    added, total = shown_sum(list(explanation_lines(explained, Plain())))
    assert total == call.total
    assert added == total


def test_colour_changes_nothing_but_colour() -> None:
    history = seeds_history()
    explained = explain(history, history.events[1], lambda file, line: SOURCE)
    coloured = "\n".join(explanation_lines(explained, Colour()))
    assert "\033[" in coloured
    assert re.sub(r"\033\[[0-9;]*m", "", coloured) == "\n".join(explanation_lines(explained, Plain()))


names = st.text(st.characters(exclude_categories=[]), min_size=1, max_size=8)


@given(names, names, names)
def test_nothing_of_the_target_reaches_the_terminal_raw(function: str, file: str, source: str) -> None:
    history = seeds_history()
    hostile = Frame(function, f"/{file}", 6, f"/{file}", 0x5000)
    growth = history.events[1]
    history.events[1] = growth._replace(frames=(*growth.frames[:-1], hostile), user=hostile)
    history.events[0] = history.events[0]._replace(
        syscall="mmap", args=(0, 0x1000, 3, 2, 3, 0), user=hostile, frames=(hostile,), file=file,
        requester=Requester("program", function),
    )  # fmt: skip
    history.served = [Served(2, 1, 10, 0x20, hostile, None, AFTER_BUFFER), history.served[0]._replace(user=hostile)]
    for event in history.events:
        for line in lines_of(history, event, source):
            assert printable(line) == line


def initial(**changes: object) -> Initial:
    params = Params(0, {**DEFAULTS, "n_mmaps": 2, "mmapped_mem": 0x43000})
    arenas = (an_arena(BASE + 0x290, 0x20D70), an_arena(WHERE, 0x730, 1), an_arena(WHERE, 0x730, 2))
    return replace(Initial(Abi(8), params, arenas, False, 0x290, 1), **changes)  # type: ignore[arg-type]


def initial_text(state: Initial, recording: bool = False) -> str:
    return "\n".join(initial_lines(state, recording, Plain()))


def test_what_the_state_alone_tells() -> None:
    text = initial_text(initial())
    line_with(text, "main_arena", "0x21000", "132 KiB", hex(BASE))
    line_with(text, "2 other arenas", "0x42000")
    line_with(text, "2 mmapped chunks", "0x43000", "268 KiB")
    line_with(text, "0x290", "tcache", "thread 1")
    line_with(text, "0x290", "0x20000", "0x20", "0x202b0", "0x21000")
    line_with(text, "main_arena's top", "0x20d70")
    assert "heap catch" in text


def test_what_it_took_or_gave_since() -> None:
    main = initial().main_arena
    grown = initial(arenas=(replace(main, system_mem=0x64000, max_system_mem=0x64000),))
    assert "0x43000 bytes (268 KiB)" in initial_text(grown)
    assert "other arena" not in initial_text(grown)
    assert "took nothing more" in initial_text(initial())
    trimmed = initial_text(initial(arenas=(replace(main, max_system_mem=0x64000),)))
    assert "took nothing more" not in trimmed, "it had more than it has now"
    line_with(trimmed, "gave back", "0x64000 bytes (400 KiB)")
    shrunk = initial(arenas=(replace(main, system_mem=0x8000),))
    line_with(initial_text(shrunk), "gave back", "0x19000")


def test_what_the_state_cannot_tell() -> None:
    no_chunk = initial_text(initial(first_chunk=None))
    assert "0x202b0" not in no_chunk
    line_with(no_chunk, "first", "not known")
    other = initial_text(initial(first_owner=None))
    line_with(other, "0x290", "not known")
    assert "0x202b0" not in other
    assert "tcache" not in other


def test_what_to_do_next_time() -> None:
    core = initial_text(initial(is_core=True)).splitlines()[-1]
    recording = initial_text(initial(), recording=True).splitlines()[-1]
    neither = initial_text(initial()).splitlines()[-1]
    assert "core" in core
    assert "why-grow" in recording
    assert len({core, recording, neither}) == 3


def test_the_chain_is_shown_where_the_inner_request_is_not_known() -> None:
    stack = "[libc.so.6] __brk <- sysmalloc{nb=0x290} <- _int_malloc <- tcache_init <- " + MAIN % 10
    event = an_event("brk", (GROWN,), GROWN, stack, break_before=BASE, reading=a_reading(curbrk=BASE))
    line_with(text_of(History([event]), event), "malloc(10)", "tcache_init")
