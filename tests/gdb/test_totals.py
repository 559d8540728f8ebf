"""Promise: the sums agree with what glibc itself says: mallinfo2, malloc_info, its own variables, its own behaviour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb, malloc_events
from tests.support.environment import glibc_version, mmapped_header
from tests.support.mallinfo import FIGURES, ArenaFigures, Sizes, read_malloc_info, without_drift
from tests.support.programs import Programs
from tests.support.symbols import known_to_be, to_the_byte

#: What is free and in a bin of its arena; tcache chunks count as used in mallinfo2 and malloc_info.
IN_BINS = ("unsorted", "small", "large")
MIB = 1 << 20


class Looked:
    """A fixture at stop_here(): gdbheap's answers, and glibc's figures."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        truth = answers["truth"]
        assert truth["before"] == truth["after"], "asking changed the heap: the oracle is broken"
        self.mallinfo: dict[str, int] = truth["before"]
        self.figures = {each.address: each for each in read_malloc_info(truth["xml"], truth["ring"])}
        self.params: dict[str, int] = truth["mp"]
        self.chunks: dict[int, list[dict[str, Any]]] = {
            arena["address"]: arena["chunks"] for arena in answers["chunks"]["arenas"]
        }

    def each_chunk(self, *states: str) -> list[dict[str, Any]]:
        """Return the chunks of all arenas in these states."""
        return [chunk for chunks in self.chunks.values() for chunk in chunks if chunk["state"] in states]

    def by_address(self, name: str) -> dict[int, dict[str, Any]]:
        """Return the arenas of the answer ``name`` by their address."""
        arenas = self.answers[name]["arenas"]
        found = {arena["address"]: arena for arena in arenas}
        assert len(found) == len(arenas), "no arena stands there twice"
        return found


@pytest.fixture(scope="module", params=["totals", "threads"])
def looked(
    request: pytest.FixtureRequest, gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Looked:
    """Look at a fixture with every command that tells sums."""
    answers = Answers(tmp_path_factory.mktemp(request.param))
    gdb(
        "break stop_here",
        "run",
        answers.python("truth", {**FIGURES, "mp": "fields('mp_')"}),
        *(f"heap {name} {answers.into(name)}" for name in ("arenas", "top", "params", "chunks")),
        f"heap {answers.into('heap')}",
        program=programs[request.param],
    ).succeeded()
    return Looked(answers)


def sizes(chunks: Iterable[dict[str, Any]]) -> int:
    """Return the sum of the chunks' sizes in bytes."""
    return sum(chunk["size"] for chunk in chunks)


def test_chunks_add_up_to_mallinfo(looked: Looked) -> None:
    """All arenas together."""
    info = looked.mallinfo
    fast, binned, top = looked.each_chunk("fastbin"), looked.each_chunk(*IN_BINS), looked.each_chunk("top")
    assert (len(fast), sizes(fast)) == (info["smblks"], info["fsmblks"])
    assert len(binned) + len(top) == info["ordblks"]
    assert sizes(fast) + sizes(binned) + sizes(top) == info["fordblks"]
    assert len(top) == len(looked.figures)
    # What mallinfo2 calls used is all the rest of system_mem, the arenas' own structs included.
    used = looked.each_chunk("used", "tcache", "fencepost")
    own = info["arena"] - sizes(chunk for chunks in looked.chunks.values() for chunk in chunks)
    assert sizes(used) + own == info["uordblks"]
    assert 0 <= own <= 0x1000 * (len(looked.figures) - 1), "heap_info and malloc_state, and none in main_arena"


def test_chunks_add_up_to_malloc_info(looked: Looked) -> None:
    """Each arena for itself, and each of its bins."""
    assert looked.chunks.keys() == looked.figures.keys()
    for address, chunks in looked.chunks.items():
        figures = looked.figures[address]
        fast = [chunk for chunk in chunks if chunk["state"] == "fastbin"]
        rest = [chunk for chunk in chunks if chunk["state"] in (*IN_BINS, "top")]
        assert (len(fast), sizes(fast)) == (figures.fast_count, figures.fast_size)
        assert len(rest) == figures.rest_count
        # malloc_info adds up size words with their lowest bit, PREV_INUSE, which is set in all but top's.
        assert sizes(rest) + len(rest) - 1 == figures.rest_size
        bins_agree(figures, chunks)


def bins_agree(figures: ArenaFigures, chunks: list[dict[str, Any]]) -> None:
    """Fail unless each list of malloc_info's has as many chunks."""

    def count(those: Iterable[Sizes]) -> int:
        return sum(each.count for each in those)

    words = {state: [c["size"] for c in chunks if c["state"] == state] for state in ("fastbin", *IN_BINS)}
    assert len(words["unsorted"]) == count(figures.unsorted)
    binned = [size | 1 for size in words["small"] + words["large"]]
    assert len(words["fastbin"]) + len(binned) == count(figures.bins)
    for each in figures.bins:
        those = words["fastbin"] if each.high % 2 == 0 else binned  # fastbins are given without PREV_INUSE
        assert sum(each.low <= word <= each.high for word in those) == each.count, each


def test_every_kind_of_chunk_is_there(looked: Looked, request: pytest.FixtureRequest) -> None:
    """The figures that agree are not all zero."""
    states = Counter(chunk["state"] for chunk in looked.each_chunk("used", "tcache", "fastbin", "top", *IN_BINS))
    assert states["tcache"] > 7
    assert states["unsorted"] >= 2
    assert (states["fastbin"] > 0) == (looked.mallinfo["smblks"] > 0)
    if len(looked.figures) == 1:
        assert states["small"] >= 2
        assert states["large"] >= 3
        assert looked.mallinfo["hblks"] == 3
    else:
        assert len(looked.figures) == 5


def test_tcache_chunks_are_those_that_were_freed(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """totals.c's own pointers say which chunks are in the full and in the part full list."""
    arrays = {name: f"[int(value('{name}')[i]) for i in range({count})]" for name, count in (("fast", 9), ("part", 3))}
    gdb(
        "break stop_here",
        "run",
        answers.python("truth", arrays),
        f"heap chunks {answers.into('chunks')}",
        program=programs["totals"],
    ).succeeded()
    states = {c["pointer"]: c["state"] for arena in answers["chunks"]["arenas"] for c in arena["chunks"]}
    truth = answers["truth"]
    assert [states[pointer] for pointer in truth["part"]] == ["tcache"] * 3
    assert [states[pointer] for pointer in truth["fast"][:7]] == ["tcache"] * 7
    assert len({states[pointer] for pointer in truth["fast"][7:]}) == 1
    assert states[truth["fast"][8]] != "used"


def test_arenas_agree_with_malloc_info(looked: Looked) -> None:
    """system_mem, the most there was, the heaps and their sizes."""
    arenas = looked.by_address("arenas")
    assert arenas.keys() == looked.figures.keys()
    assert sum(arena["system_mem"] for arena in arenas.values()) == looked.mallinfo["arena"]
    for address, figures in looked.figures.items():
        arena = arenas[address]
        assert (arena["system_mem"], arena["max_system_mem"]) == (figures.system, figures.system_max)
        assert not arena["locked"]
        assert arena["problem"] is None
        if figures.heaps is None:
            assert (arena["name"], arena["kind"], arena["heaps"]) == ("main_arena", "brk", [])
        else:
            assert len(arena["heaps"]) == figures.heaps
            assert sum(heap["size"] for heap in arena["heaps"]) == figures.heaps_size
            assert sum(heap["mprotect_size"] for heap in arena["heaps"]) == figures.mprotect_size
    assert next(iter(arenas.values()))["name"] == "main_arena"
    assert sum(len(arena["threads"]) for arena in arenas.values()) == len(arenas), "one thread each"


def test_top_agrees_with_mallinfo(looked: Looked) -> None:
    """The size of main_arena's top chunk is keepcost; the other arenas' are the last of their chunks."""
    tops = looked.by_address("top")
    assert tops.keys() == looked.figures.keys()
    (main,) = [each for each in tops.values() if each["name"] == "main_arena"]
    assert main["size"] == looked.mallinfo["keepcost"]
    for address, top in tops.items():
        (chunk,) = [chunk for chunk in looked.chunks[address] if chunk["state"] == "top"]
        assert (chunk["address"], chunk["size"]) == (top["top"], top["size"])


def test_params_are_mp(looked: Looked) -> None:
    """Every field of mp_ that GDB prints, with its value, and no other."""
    params = looked.answers["params"]["params"]
    assert {each["name"]: each["value"] for each in params} == looked.params
    assert len(params) == len(looked.params)
    by_name = {each["name"]: each for each in params}
    assert by_name["n_mmaps"]["value"] == looked.mallinfo["hblks"]
    assert by_name["mmapped_mem"]["value"] == looked.mallinfo["hblkhd"]
    settings = [each for each in params if each["default"] is not None]
    assert len(settings) >= 10
    assert all(each["is_default"] is True and each["value"] == each["default"] for each in settings), "nobody set any"
    assert by_name["top_pad"]["mallopt"] == "M_TOP_PAD"
    assert by_name["top_pad"]["tunable"] == "glibc.malloc.top_pad"


def test_overview_agrees(looked: Looked) -> None:
    """`heap` itself: each arena's memory is divided into used, free, top and malloc's own, and nothing is left."""
    arenas = looked.by_address("heap")
    assert arenas.keys() == looked.figures.keys()
    assert sum(arena["system_mem"] for arena in arenas.values()) == looked.mallinfo["arena"]
    for address, arena in arenas.items():
        chunks = looked.chunks[address]
        assert (arena["system_mem"], arena["max_system_mem"]) == (
            looked.figures[address].system,
            looked.figures[address].system_max,
        )
        parts = [arena[name] for name in ("used", "free", "top", "overhead", "unaccounted")]
        assert sum(parts) == arena["system_mem"]
        assert arena["unaccounted"] == 0
        assert arena["complete"] is True
        assert (arena["problems"], arena["gaps"]) == ([], [])
        assert arena["top"] == sizes(chunk for chunk in chunks if chunk["state"] == "top")
        assert arena["chunks"] == sum(chunk["state"] != "fencepost" for chunk in chunks)
        assert arena["chunks"] > 1
        for state, told in arena["states"].items():
            those = [chunk for chunk in chunks if chunk["state"] == state]
            assert (told["chunks"], told["bytes"]) == (len(those), sizes(those)), state
    overview = looked.answers["heap"]
    assert without_drift(overview["problems"]) == []
    assert overview["mmapped"] == {"chunks": looked.mallinfo["hblks"], "bytes": looked.mallinfo["hblkhd"]}
    own = overview["mallinfo2"]
    assert {name: own[name] for name in own if name in looked.mallinfo} == {n: looked.mallinfo[n] for n in own}
    assert set(own) >= {"arena", "ordblks", "smblks", "hblks", "hblkhd", "fsmblks", "uordblks", "fordblks", "keepcost"}


def test_a_setting_shows_and_counts(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """With another top_pad, params say that it was set and by which name, and the growth's sum is exact with it."""
    gdb(
        "set environment GLIBC_TUNABLES=glibc.malloc.top_pad=1000000",
        "heap catch",
        "break 13",
        "run",
        f"heap params {answers.into('params')}",
        f"heap events {answers.into('events')}",
        program=programs["seed"],
    ).succeeded()
    (top_pad,) = [each for each in answers["params"]["params"] if each["name"] == "top_pad"]
    assert (top_pad["value"], top_pad["is_default"], top_pad["default"]) == (1000000, False, 0x20000)
    # Up to 2.33 the loader moves the break for its copy of the tunables, and malloc a second time to be aligned.
    event = max(malloc_events(answers.events("events")), key=lambda made: made["delta"] or 0)
    assert to_the_byte(event)
    # Without the tcache of 0x290 bytes (2.43), the sum is that of stdout's buffer.
    assert event["delta"] == (0xF5000 if glibc_version() < (2, 43) else 0xF6000)
    assert 1000000 in [term["value"] for term in event["terms"]]


def test_thresholds_that_malloc_moved(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """After free of a mapping of 0x101000 bytes the thresholds are its chunk's size and twice that: malloc's doing."""
    gdb("break stop_here", "run", f"heap params {answers.into('params')}", program=programs["growth"]).succeeded()
    by_name = {each["name"]: each for each in answers["params"]["params"]}
    size = 0x101000 - mmapped_header()
    for name, value in (("mmap_threshold", size), ("trim_threshold", 2 * size)):
        assert by_name[name]["value"] == value
        assert by_name[name]["is_default"] is False
        assert by_name[name]["moved_by_malloc"] is True


def test_top_goes_as_far_as_is_said(gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The largest request that top is said to serve makes malloc ask the kernel for nothing; one byte more does."""

    def events_of(request: int) -> list[Any]:
        answers = Answers(tmp_path_factory.mktemp("top"))
        result = gdb(
            "break stop_here",
            "run",
            "heap catch brk",
            f"print ((long (*)(unsigned long)) __libc_malloc)({request})",
            f"heap events {answers.into('events')}",
            program=programs["foreign"],
        )
        result.has_no_internal_error()
        return answers.events("events") if answers.path("events").exists() else []

    answers = Answers(tmp_path_factory.mktemp("top"))
    gdb("break stop_here", "run", f"heap top {answers.into('top')}", program=programs["foreign"]).succeeded()
    (arena,) = answers["top"]["arenas"]
    largest = arena["largest_request"]
    assert 60_000 < largest < 0x1FFE9, "below the threshold of mmap, or this would show nothing"
    assert events_of(largest) == []
    (event,) = events_of(largest + 1)
    assert event["syscall"] == "brk"
    assert known_to_be(event, "request", largest + 1)
    assert to_the_byte(event)
