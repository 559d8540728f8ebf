"""A timeline as a drawing and as a picture: exact for known series, never too wide, nothing left out in silence."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdbheap.growth.event import Event, Requester
from gdbheap.growth.history import History
from gdbheap.growth.timeline import timeline
from gdbheap.render.columns import Picture, axis_labels, picture, round_unit, time_text
from gdbheap.render.escape import printable
from gdbheap.render.json_timeline import timeline_object
from gdbheap.render.style import Colour, Plain
from gdbheap.render.svg import timeline_svg
from gdbheap.render.timeline import ASCII, UNICODE, timeline_lines
from tests.support.records import BASE, an_event, frames_of

LOADER = "[ld-linux-x86-64.so.2] __brk <- _dl_sysdep_start <- _dl_start_final"
BRK = "[libc.so.6] __brk <- __sbrk <- sysmalloc <- _int_malloc <- __libc_malloc{bytes=0x64} <- [a.out] main at a.c:3"
CHUNK = BRK.replace("__brk <- __sbrk", "__mmap <- sysmalloc_mmap").replace("a.c:3", "a.c:4")
FREED = "[libc.so.6] __munmap <- munmap_chunk <- __libc_free <- [a.out] main at a.c:5"
KIB = 1024
SVG = "{http://www.w3.org/2000/svg}"


def history_of(breaks: Sequence[int], chunks: Sequence[int] = ()) -> History:
    """Return a recording in which the break area and then the mapped chunks have these sizes, one after another."""
    history = History([an_event("brk", (0,), BASE, LOADER)])

    def add(name: str, args: tuple[int, ...], result: int, stack: str) -> None:
        event = an_event(name, args, result, stack, earlier=history.events)
        history.events.append(event._replace(time=0.25 * len(history.events), break_before=where))

    where = BASE
    for size in breaks:
        add("brk", (BASE + size,), BASE + size, BRK)
        where = BASE + size
    before = 0
    for size in chunks:
        if size > before:
            add("mmap", (0, size - before, 3, 0x22, -1, 0), 0x7F0000000000, CHUNK)
        elif size < before:
            add("munmap", (0x7F0000000000, before - size), 0, FREED)
        before = size
    return history


def drawn(breaks: Sequence[int], chunks: Sequence[int] = (), by: str = "event", rest: bool = False) -> Picture:
    return picture(timeline(history_of(breaks, chunks), 1), by=by, rest=rest)


def lines(shown: Picture, width: int = 40, height: int = 4, count: int = 5, ascii_only: bool = True) -> list[str]:
    return list(timeline_lines(shown, Plain(), width=width, height=height, count=count, ascii_only=ascii_only))


DRAWN = [64 * KIB, 256 * KIB, 100 * KIB]


def test_known_series_in_ascii() -> None:
    assert lines(drawn(DRAWN, [64 * KIB]), width=44, count=1) == [
        "process 1: 4 of 5 events (#1 to #5, 1.000 s)",
        "changed this memory",
        "        |              peak 256 KiB #3",
        "256 KiB +              %%%%%%%",
        "        |              %%%%%%%#4     =======",
        "        |              %%%%%%%%%%%%%%%%%%%%%",
        "        |       %%%%%%%%%%%%%%%%%%%%%%%%%%%%",
        "      0 +-------+------+------+------+------",
        "                #2     #3     #4     #5",
        "                0.250 s              1.000 s",
        "",
        "% brk heap (main_arena): 256 KiB at most,",
        "  100 KiB after #4",
        "= mappings of malloc's own: 64 KiB at most,",
        "  64 KiB after #5",
        "3 growths, +320 KiB in all, the largest:",
        "  #3  +192 KiB  main () at a.c:3 >",
        "                malloc(100)",
        "  and 2 smaller growths, +128 KiB together",
        "1 shrink, -156 KiB in all:",
        "  #4  -156 KiB  main () at a.c:3 >",
        "                malloc(100)",
    ]


def test_blocks_have_eighths() -> None:
    assert lines(drawn(DRAWN, [64 * KIB]), width=44, ascii_only=False)[2:8] == [
        "        │              peak 256 KiB #3",
        "256 KiB ┤              ███████       #5",
        "        │              ███████#4     ▒▒▒▒▒▒▒",
        "        │       #2     ███████▅▅▅▅▅▅▅███████",
        "        │       ████████████████████████████",
        "      0 └───────┴──────┴──────┴──────┴──────",
    ]


def test_columns_that_several_events_share() -> None:
    shown = lines(drawn([size * 4 * KIB for size in (*range(1, 90), 3)]), height=6, ascii_only=False)
    assert shown[2:10] == [
        "        │               peak 356 KiB #90",
        "        │                           │██│",
        "        │                      ████████│",
        "256 KiB ┤                │█████████████│",
        "        │     #16   ███████████████████│",
        "        │#2   │████████████████████████│",
        "        │███████████████████████████████",
        "      0 └┴┴┴┴┴┴┴┴┴┴┴┴┴┴┴┴┴┴┴┴┴┴┴┴┴┴┴┴┴┴┴",
    ]
    assert "A column stands for up to 3 events" in " ".join(shown)


def test_time_has_the_width_that_it_takes() -> None:
    history = history_of([400 * KIB, 0])
    history.events[1] = history.events[1]._replace(time=0.4)
    shown = lines(picture(timeline(history, 1), by="time", rest=False))
    assert [line.strip() for line in shown[7:10]] == ["0 +" + "-" * 24 + "+-----+", "#2   #3", "0.400 s"]


def test_nothing_to_draw() -> None:
    assert "Nothing was drawn" in " ".join(lines(drawn([]), width=200))
    assert "Nothing was drawn" in timeline_svg(drawn([]), 5)


def test_what_is_not_drawn_is_said() -> None:
    history = history_of([64 * KIB])
    own = an_event("mmap", (0, 0x3000, 3, 0x22, -1, 0), 0x7F0000000000, "[libc.so.6] __mmap <- [a.out] main at a.c:9")
    history.events += [own._replace(id=3), own._replace(id=4, result=None), own._replace(id=5, result=-12)]
    line = timeline(history, 1)
    text = " ".join(lines(picture(line, by="event", rest=False), width=200))
    for fact in ("1 event and +12 KiB of address space", "1 call failed", "1 call had not returned"):
        assert fact in text
    assert "not malloc's: 12 KiB" in " ".join(lines(picture(line, by="event", rest=True), width=200))


def test_unit_is_round_and_enough() -> None:
    assert [round_unit(least) for least in (1, 257, 320, 400, 1000, 1025)] == [256, 320, 320, 512, 1024, 1280]


def test_axis_labels_are_exact() -> None:
    assert axis_labels([0, 512 * KIB, 1024 * KIB]) == ["0", "0.5 MiB", "1 MiB"]
    assert axis_labels([0, 1280 * KIB]) == ["0", "1.25 MiB"]
    assert axis_labels([0, 640]) == ["0", "640 bytes"]


def test_times() -> None:
    assert [time_text(time) for time in (0, 9.9994, 12.34, 61, 3700)] == [
        "0.000 s",
        "9.999 s",
        "12.3 s",
        "1 min 1 s",
        "1 h 1 min",
    ]


sizes = st.lists(st.integers(0, 1 << 22).map(lambda pages: pages * 0x1000), max_size=40)


@settings(max_examples=60)
@given(sizes, sizes, st.integers(40, 130), st.integers(4, 30), st.booleans(), st.sampled_from(["event", "time"]))
def test_no_line_is_wider_and_higher_is_higher(
    breaks: list[int], chunks: list[int], width: int, height: int, ascii_only: bool, by: str
) -> None:
    shown = drawn(breaks, chunks, by)
    found = lines(shown, width, height, 5, ascii_only)
    assert max(map(len, found)) <= width
    for plain, painted in zip(
        found, timeline_lines(shown, Colour(), width=width, height=height, count=5, ascii_only=ascii_only)
    ):
        assert re.sub(r"\033\[[0-9;]*m", "", painted).rstrip() == plain
    if not shown.shown:
        return
    signs = ASCII if ascii_only else UNICODE
    floor = next(place for place, line in enumerate(found) if re.match(r" *0 [+└]", line))
    start = found[floor].index("0 ") + 2
    rows = found[next(place for place, line in enumerate(found) if line[start : start + 1] in ("|", "│")) : floor]
    labels = re.compile(r"(peak [^#]*)?#\d+")
    cells = [labels.sub(lambda found: " " * len(found[0]), line[start + 1 :]).ljust(width) for line in rows[::-1]]
    fills = {*signs.fills, *signs.eighths, signs.moved}
    filled = []
    columns = shown.columns(width - start - 1)
    for place in range(len(columns)):
        column = [row[place] in fills for row in cells]
        filled.append(column.index(False) if False in column else len(column))
    for (one, one_cells), (other, other_cells) in zip(zip(columns, filled), list(zip(columns, filled))[1:]):
        if one.high <= other.high:
            assert one_cells <= other_cells
        else:
            assert one_cells >= other_cells
    for total, count in zip((column.high for column in columns), filled):
        assert bool(total) == bool(count)


@settings(max_examples=40)
@given(sizes, sizes, st.integers(1, 90), st.sampled_from(["event", "time"]))
def test_columns_lose_no_extreme(breaks: list[int], chunks: list[int], width: int, by: str) -> None:
    shown = drawn(breaks, chunks, by)
    columns = shown.columns(width)
    assert [level for column in columns for level in column.levels] == list(shown.levels)
    assert max(column.high for column in columns) == shown.highest or not shown.levels[0:1]
    for column in columns:
        assert sum(column.parts) == column.high >= column.low
        if column.levels:
            assert (column.low, column.high) == (
                min(level.total for level in column.levels),
                max(level.total for level in column.levels),
            )


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter() if element.tag in (f"{SVG}text", f"{SVG}title")]


@pytest.mark.parametrize("by", ["event", "time"])
def test_the_picture_has_a_tooltip_for_each_step(by: str) -> None:
    shown = drawn(DRAWN, [64 * KIB, 0], by)
    svg = timeline_svg(shown, 5)
    root = ET.fromstring(svg)
    tips = [element.text or "" for element in root.iterfind(f".//{SVG}rect/{SVG}title")]
    assert [tip.split()[0] for tip in tips] == ["#2", "#3", "#4", "#5", "#6"]
    assert tips[1].splitlines() == [
        "#3 brk +0x30000 (192 KiB) at 0.500 s",
        "main () at a.c:3 > malloc(100)",
        "after it: brk heap (main_arena) 256 KiB",
    ]
    assert "peak 256 KiB #3" in texts(svg)
    assert not re.search(r"<script|href|url\(|@import", svg)


def test_a_long_recording_makes_no_longer_picture() -> None:
    history = history_of([size % 70 * 0x1000 + 0x1000 for size in range(12000)])
    svg = timeline_svg(picture(timeline(history, 1), by="event", rest=False), 5)
    assert len(svg) < 600_000
    assert any("stands for up to 12 events" in text for text in texts(svg))


@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=[]), min_size=1, max_size=300))
def test_hostile_names_stay_text(name: str) -> None:
    hostile = f"</title><script>alert(1)</script>&{name}\033[31m\u202e"
    history = history_of([64 * KIB, 256 * KIB])
    frames = frames_of("[libc.so.6] __brk <- sysmalloc <- __libc_malloc <- [a.out] main at a.c:3")
    user = frames[-1]._replace(function=hostile, file=f"/{hostile}", objfile=f"/{hostile}")
    bad: Event = history.events[1]._replace(frames=(*frames[:-1], user), user=user)
    other = an_event("mmap", (0, 0x3000, 3, 0x22, -1, 0), 0x7F0000000000, "")
    history.events[1] = bad
    history.events.append(other._replace(id=4, requester=Requester("program", hostile)))
    shown = picture(timeline(history, 1), by="event", rest=True)
    svg = timeline_svg(shown, 5)
    svg.encode("utf-8")
    assert "<script" not in svg
    assert "\033" not in svg
    assert "\u202e" not in svg
    ET.fromstring(svg)
    for line in lines(shown, width=60):
        assert printable(line) == line


def test_json_has_all_series_whatever_is_drawn() -> None:
    found = timeline_object(timeline(history_of(DRAWN, [64 * KIB]), 1))
    assert found["peak"] == {"event": 3, "time": 0.5, "total": 256 * KIB}
    assert found["last"] == 164 * KIB
    series = found["series"]
    assert isinstance(series, dict)
    assert list(series) == ["break", "arenas", "mmapped", "rest"]
    assert series["break"]["steps"][0] == {"event": 2, "time": 0.25, "value": 64 * KIB, "delta": 64 * KIB}
