"""Events and their callers as lines."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdbheap.growth.event import Event, Frame, Requester
from gdbheap.render.callers import caller_line, frame_text, inner_chain, place_text, public_name, shortened
from gdbheap.render.calls import call_text
from gdbheap.render.escape import printable
from gdbheap.render.events import amount_text, event_line, event_rows, owner_text, protection_text
from gdbheap.render.style import Colour, Plain
from tests.support.records import BASE, ENOMEM, GROWN, a_reading, an_event, frames_of, seeds_history

MAP = "[libc.so.6] __mmap <- sysmalloc_mmap{nb=0x21010} <- sysmalloc{nb=0x21010} <- _int_malloc{bytes=0x21000} <- "
MALLOC = MAP + "__libc_malloc{bytes=0x21000} <- [a.out] main at a.c:3"
MINE = "[libc.so.6] __mmap <- [a.out] main at a.c:1"
WHERE = 0x7FFFF7D00000


def mapped(stack: str = MALLOC, length: int = 0x22000, result: int | None = WHERE) -> Event:
    return an_event("mmap", (0, length, 3, 0x22, -1, 0), result, stack)


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("__printf", "printf"),
        ("_IO_puts", "puts"),
        ("main", "main"),
        ("__vfprintf_internal", "__vfprintf_internal"),
        ("__", "__"),
    ],
)
def test_names_that_programs_use(name: str, public: str) -> None:
    assert public_name(name) == public


def test_a_caller_by_its_best_name() -> None:
    frame = Frame("__GI___libc_malloc", "/src/malloc.c", 3294, "/usr/lib/libc.so.6", 0x1234)
    assert frame_text(frame) == "__libc_malloc"
    assert frame_text(frame._replace(function=None)) == "0x1234 in libc.so.6"
    assert frame_text(frame._replace(function=None, objfile=None)) == "0x1234"


def test_a_place_by_what_is_known() -> None:
    frame = Frame("main", "/home/me/seed.c", 6, "/home/me/seed", 0x1234)
    assert place_text(frame) == "main () at seed.c:6"
    assert place_text(frame._replace(line=None)) == "main () in seed"
    assert place_text(frame._replace(file=None, objfile=None)) == "main ()"
    assert place_text(frame._replace(function=None, file=None)) == "0x1234 in seed"
    assert place_text(frame._replace(function=None)) == "0x1234 at seed.c:6"


def test_the_chain_from_printf_to_the_tcache() -> None:
    chain = inner_chain(seeds_history().events[1])
    assert (chain[0], chain[-2], chain[-1]) == ("printf", "malloc(1024)", "tcache_init")
    assert "_IO_file_doallocate" in chain
    assert len(chain) == len(set(chain))  # an inlined part is not named twice
    assert not {"main", "sysmalloc", "_int_malloc", "__glibc_morecore", "__sbrk", "__brk"} & set(chain)


def test_a_chain_without_a_user_is_whole() -> None:
    event = an_event("brk", (0,), BASE, "[ld-linux-x86-64.so.2] __brk <- _dl_sysdep_start <- _dl_start <- _start")
    assert inner_chain(event) == ["_start", "_dl_start", "_dl_sysdep_start"]
    assert caller_line(event) == "_dl_start > _dl_sysdep_start"
    assert caller_line(event._replace(frames=()))


@pytest.mark.parametrize("count", range(12))
def test_a_long_chain_keeps_its_ends(count: int) -> None:
    names = [f"f{index}" for index in range(count)]
    shown = shortened(names)
    if count <= 6:
        assert shown == names
    else:
        assert len(shown) == 6
        assert shown[0] == names[0]
        assert shown[2:] == names[-4:]
        assert str(count - 5) in shown[1]


def test_a_caller_line_tells_who_and_what() -> None:
    line = caller_line(seeds_history().events[1])
    assert line.startswith("main () at seed.c:6 > printf > ")
    assert line.endswith("malloc(1024) > tcache_init")


def test_lines_are_not_mixed_up() -> None:
    first = mapped()
    other = mapped(MALLOC.replace("__libc_malloc{bytes=0x21000}", "__libc_malloc{bytes=0x21001}"))
    assert "malloc(135168)" in caller_line(first)
    assert "malloc(135169)" in caller_line(other)
    assert "malloc(135168)" in caller_line(first)
    assert caller_line(mapped(MALLOC.replace("main", "other"))) != caller_line(first)


def test_a_rebuilt_program_has_its_own_lines() -> None:
    assert "a.c:3" in caller_line(mapped())
    assert "a.c:4" in caller_line(mapped(MALLOC.replace("a.c:3", "a.c:4")))


@pytest.mark.parametrize("mask", range(8))
def test_protections(mask: int) -> None:
    text = protection_text(mask)
    assert [letter != "-" for letter in text] == [bool(mask & bit) for bit in (1, 2, 4)]
    assert set(text) <= set("rwx-")


@pytest.mark.parametrize(
    ("event", "facts"),
    [
        (an_event("brk", (BASE + 0x21000,), BASE + 0x21000, break_before=BASE), ("+0x21000", "132 KiB")),
        (an_event("brk", (BASE,), BASE, break_before=BASE + 0x21000), ("-0x21000", "132 KiB")),
        (an_event("munmap", (WHERE, 0x22000), 0), ("-0x22000", "136 KiB")),
        (mapped(), ("+0x22000", "136 KiB")),
        (mapped()._replace(mapped_before=0x22000), ("replaces", "0x22000")),
        (mapped(result=ENOMEM), ("refused", "12")),
        (an_event("mmap", (0, 0x8000000, 0, 0x4022, -1, 0), WHERE), ("+0x8000000", "128 MiB", "no access")),
        (an_event("mprotect", (WHERE, 0x21000, 3), 0), ("0x21000", "132 KiB", "rw-")),
        (an_event("mprotect", (WHERE, 0x21000, 3), -13), ("refused", "13")),
        (an_event("madvise", (WHERE, 0x5000, 4), 0), ("0x5000 (20 KiB) DONTNEED", "the addresses stay")),
        (an_event("madvise", (WHERE, 0x200000, 14), 0), ("0x200000 (2 MiB) HUGEPAGE: ",)),
        (an_event("madvise", (WHERE, 0x1000, 1), 0), ("0x1000 (4 KiB) RANDOM",)),
        (an_event("madvise", (WHERE, 0x1000, 4), -22), ("refused", "22")),
        (an_event("brk", (BASE + 0x1000,), BASE, break_before=BASE), ("refused",)),
        (an_event("brk", (BASE + 0x1000,), BASE + 0x1000), ("unknown",)),
        (an_event("brk", (BASE + 0x1000,), None), ("not returned",)),
    ],
)
def test_how_much_moved(event: Event, facts: tuple[str, ...]) -> None:
    text = amount_text(event)
    assert all(fact in text for fact in facts), text


@pytest.mark.parametrize(
    ("syscall", "args", "facts"),
    [
        ("brk", (0,), ["NULL"]),
        ("brk", (GROWN,), [hex(GROWN)]),
        ("munmap", (WHERE, 0x21000), [hex(WHERE), "0x21000"]),
        ("madvise", (WHERE, 0x1000, 4), [hex(WHERE), "0x1000", "MADV_DONTNEED"]),
        ("madvise", (WHERE, 0x1000, 102), [hex(WHERE), "0x1000", "MADV_GUARD_INSTALL"]),
        ("madvise", (WHERE, 0x1000, 77), [hex(WHERE), "0x1000", "77"]),
        ("mprotect", (WHERE, 0x1000, 0), [hex(WHERE), "0x1000", "PROT_NONE"]),
        ("mprotect", (WHERE, 0x1000, 5), [hex(WHERE), "0x1000", "PROT_READ|PROT_EXEC"]),
        (
            "mmap",
            (0, 0x21000, 3, 0x22, -1, 0),
            ["NULL", "0x21000", "PROT_READ|PROT_WRITE", "MAP_PRIVATE|MAP_ANONYMOUS", "-1", "0"],
        ),
        (
            "mmap",
            (WHERE, 0x1000, 1, 0x1000012, 3, 0x2000),
            [hex(WHERE), "0x1000", "PROT_READ", "MAP_PRIVATE|MAP_FIXED|0x1000000", "3", "0x2000"],
        ),
        ("mremap", (WHERE, 0x1000, 0x2000, 1), [hex(WHERE), "0x1000", "0x2000", "MREMAP_MAYMOVE"]),
        ("mremap", (WHERE, 0x1000, 0x2000, 0), [hex(WHERE), "0x1000", "0x2000", "0"]),
    ],
)
def test_a_call_as_c_has_it(syscall: str, args: tuple[int, ...], facts: list[str]) -> None:
    found = re.fullmatch(r"(\w+)\((.*)\)", call_text(syscall, args))
    assert found is not None
    assert (found[1], found[2].split(", ")) == (syscall, facts)


def test_a_query_has_no_amount() -> None:
    assert "0x" not in amount_text(an_event("brk", (0,), BASE, break_before=BASE))


def test_whose_it_is() -> None:
    growth = seeds_history().events[1]
    for fact in ("main_arena", "0x290", "640"):
        assert fact in owner_text(growth)
    for fact in ("mmapped", "0x21010", "135,168"):
        assert fact in owner_text(mapped())
    assert owner_text(mapped(MINE)).startswith("program: ")
    assert "arena 2" in owner_text(
        an_event(
            "mprotect",
            (WHERE, 0x1000, 3),
            0,
            MALLOC.replace("sysmalloc_mmap", "grow_heap"),
            reading=a_reading(number=2),
        )
    )


def test_a_trim_is_told_from_a_growth() -> None:
    stack = "[libc.so.6] __brk <- __sbrk <- systrim <- _int_free <- __libc_free <- [a.out] main"
    trim = an_event("brk", (BASE,), BASE, stack, break_before=BASE + 0x1000, reading=a_reading())
    grown = trim._replace(args=(BASE + 0x2000,), result=BASE + 0x2000)
    assert "main_arena" in owner_text(trim)
    assert "trim" in owner_text(trim)
    assert "trim" not in owner_text(grown)
    unmapped = an_event(
        "munmap", (WHERE, 0x4000000), 0, stack.replace("systrim", "heap_trim"), reading=a_reading(number=2)
    )
    assert "arena 2" in owner_text(unmapped)
    assert "trims its top" not in owner_text(unmapped)
    advised = an_event(
        "madvise", (WHERE, 0x9000, 4), 0, stack.replace("systrim", "heap_trim"), reading=a_reading(number=2)
    )
    assert "arena 2 trims its top" in owner_text(advised)
    inside = an_event("madvise", (WHERE, 0x9000, 4), 0, stack.replace("systrim", "mtrim"), reading=a_reading())
    assert "main_arena trims a free chunk" in owner_text(inside)


def test_malloc_without_symbols_is_still_mallocs() -> None:
    stack = "[libc.so.6] brk <- sbrk <- ? <- ? <- ? <- malloc <- [a.out] main at a.c:3"
    text = owner_text(an_event("brk", (BASE + 0x21000,), BASE + 0x21000, stack, break_before=BASE))
    assert text.startswith("malloc")
    assert "chunk" not in text


def test_one_line_has_all() -> None:
    growth = seeds_history().events[1]
    line = event_line(growth, Plain())
    facts = ("#2", "thread 1", "brk", "+0x21000", "main_arena", "0x290", "main () at seed.c:6", "printf", "tcache_init")
    assert all(fact in line for fact in facts), line
    coloured = event_line(growth, Colour())
    assert coloured != line
    assert "\033[" in coloured


def test_rows_stand_in_columns() -> None:
    events = [*seeds_history().events, mapped()._replace(id=12345, thread=42, time=61.5)]
    header, *rows = event_rows(events, Plain())
    assert len(rows) == 3
    assert [row.split()[:4] for row in rows] == [
        ["1", "0.000", "1", "brk"],
        ["2", "0.000", "1", "brk"],
        ["12345", "61.500", "42", "mmap"],
    ]
    place = header.index("amount")
    assert [row[place - 1] for row in rows] == [" "] * 3
    assert rows[1][place:].startswith("+0x21000")
    assert list(event_rows([], Plain())) == [header]
    several = list(event_rows(events, Plain(), several_processes=True))
    assert [row.split()[2] for row in several] == ["process", "1", "1", "1"]


names = st.text(st.characters(exclude_categories=[]), min_size=1, max_size=12)


@given(names, names, names, names)
def test_nothing_of_the_target_reaches_the_terminal_raw(function: str, file: str, objfile: str, purpose: str) -> None:
    user = Frame(function, f"/{file}", 7, f"/{objfile}", 0x1000)
    unnamed = Frame(None, None, None, f"/lib/{objfile}", 0x2000)
    event = mapped()._replace(
        frames=(unnamed, user), user=user, requester=Requester("program", purpose), requested=None
    )
    for line in (event_line(event, Plain()), *event_rows([event], Plain()), place_text(unnamed)):
        assert printable(line) == line


def test_frames_are_told_apart_by_their_code() -> None:
    one, other = frames_of("[a.out] main at a.c:1"), frames_of("[b.out] main at a.c:1")
    assert place_text(one[0]._replace(line=None)) != place_text(other[0]._replace(line=None))
