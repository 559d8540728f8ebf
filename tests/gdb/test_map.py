"""Promise: `heap map` draws what `heap` and mallinfo2 count, word for word what GDB reads, live as in a core file."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.environment import glibc_version, has_fastbins, needs
from tests.support.mallinfo import FIGURES
from tests.support.programs import Programs
from tests.support.symbols import remember

SVG = "{http://www.w3.org/2000/svg}"
FREE = ("tcache", "fastbin", "unsorted", "small", "large", "free")
#: What moves a cursor, turns text around or starts an escape sequence.
HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffd]")


def sums(arena: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the chunks and bytes of each kind in all regions of an arena."""
    found: dict[str, tuple[int, int]] = {}
    for region in arena["regions"]:
        assert sum(kind["bytes"] for kind in region["kinds"]) == region["end"] - region["start"]
        for kind in region["kinds"]:
            chunks, size = found.get(kind["kind"], (0, 0))
            found[kind["kind"]] = (chunks + kind["chunks"], size + kind["bytes"])
    return found


@pytest.mark.parametrize("name", ["totals", "threads", "growth", "foreign", "usable", "crowd"])
def test_the_bytes_are_those_of_heap(gdb: Gdb, answers: Answers, programs: Programs, name: str) -> None:
    """Each state has the chunks and the bytes that `heap` counts, and runs are what `heap chunks` lists."""
    gdb(
        "break stop_here",
        "run",
        f"heap map {answers.into('map')}",
        f"heap {answers.into('heap')}",
        f"heap chunks {answers.into('chunks')}",
        program=programs[name],
    ).succeeded()
    drawn = answers["map"]["arenas"]
    assert [arena["address"] for arena in drawn] == [arena["address"] for arena in answers["heap"]["arenas"]]
    for arena, counted, listed in zip(drawn, answers["heap"]["arenas"], answers["chunks"]["arenas"]):
        found = sums(arena)
        for state, told in counted["states"].items():
            assert found.get(state, (0, 0)) == (told["chunks"], told["bytes"]), state
        assert arena["free"] == counted["free"]
        overhead = sum(found.get(kind, (0, 0))[1] for kind in ("fencepost", "header", "alignment", "foreign"))
        assert overhead == counted["overhead"]
        chunks = {chunk["address"]: chunk for chunk in listed["chunks"]}
        for region in arena["regions"]:
            assert region["runs_left_out"] == 0
            for run in region["runs"]:
                if run["chunks"]:
                    inside = [chunk for address, chunk in chunks.items() if run["start"] <= address < run["end"]]
                    assert len(inside) == run["chunks"]
                    assert {chunk["state"] for chunk in inside} == {run["kind"]}
        free = [chunk for chunk in chunks.values() if chunk["state"] in FREE]
        used = [chunk for chunk in listed["chunks"] if chunk["state"] == "used"]
        largest, last = arena["largest_free"], arena["last_used"]
        assert (largest and largest["size"]) == max((chunk["size"] for chunk in free), default=None)
        assert arena["complete"] == counted["complete"] == (name != "foreign")
        assert (last and last["address"]) == (used[-1]["address"] if used and arena["complete"] else None)


@pytest.mark.parametrize("name", ["totals", "threads"])
def test_the_bytes_are_those_of_mallinfo(gdb: Gdb, answers: Answers, programs: Programs, name: str) -> None:
    """glibc's own figures, which count what is in a tcache as used."""
    gdb(
        "break stop_here",
        "run",
        f"heap map {answers.into('map')}",
        answers.python("figures", FIGURES),
        program=programs[name],
    ).succeeded()
    figures = answers["figures"]["after"]
    found: dict[str, int] = {}
    for arena in answers["map"]["arenas"]:
        for kind, (_, size) in sums(arena).items():
            found[kind] = found.get(kind, 0) + size
    binned = sum(found.get(state, 0) for state in ("unsorted", "small", "large"))
    fast = found.get("fastbin", 0)
    assert fast == figures["fsmblks"]
    assert binned + fast + found["top"] == figures["fordblks"]
    assert sum(found.values()) == figures["arena"]
    assert answers["map"]["mmapped"] == {"chunks": figures["hblks"], "bytes": figures["hblkhd"]}


def test_memory_that_someone_else_split(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Recorded, both regions are drawn with the foreign bytes between; if not, the rest is unknown and said to be."""
    for name, before in (("recorded", ("heap catch",)), ("late", ())):
        result = gdb(
            *before,
            "break stop_here",
            "run",
            f"heap map -ascii {answers.into(name)}",
            answers.python(f"{name}-truth", {"hole": "number('(long)hole')", "top": "number('(long)main_arena.top')"}),
            program=programs["foreign"],
        ).succeeded()
        text = " ".join(result.stdout.split())
        truth = answers[f"{name}-truth"]
        (arena,) = answers[name]["arenas"]
        runs = [run for region in arena["regions"] for run in region["runs"]]
        if name == "recorded":
            (foreign,) = [run for run in runs if run["kind"] == "foreign"]
            assert (foreign["start"], foreign["end"]) == (truth["hole"], truth["hole"] + 12345)
            assert "x foreign 0x3039 (12.1 KiB) (not malloc's)" in text
        else:
            (unknown,) = [run for run in runs if run["kind"] == "unknown"]
            assert (unknown["start"], unknown["end"]) == (truth["hole"], truth["top"])
            assert (arena["last_used"], arena["free_below"]) == (None, None)
            assert "last used not known, because not all of the arena could be walked." in text


def rows_of(text: str) -> list[str]:
    return re.findall(r"^0x[0-9a-f]{12} (.+)$", text, re.MULTILINE)


def test_the_drawing_is_to_scale(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """One row of 64 cells for each page; on a line of 200 characters 128, on one of 40 16; ASCII where asked for."""
    result = gdb(
        "break stop_here", "run",
        "heap map -width 80 -ascii", "echo next\\n", "heap map -width 200", "echo next\\n",
        "heap map -width 40 -rows 6", answers.python("truth", {"top": "number('main_arena.top->mchunk_size') & ~7"}),
        program=programs["totals"],
    ).succeeded()  # fmt: skip
    middle, wide, narrow = result.stdout.split("next\n")
    rows = rows_of(middle)
    assert [len(row) for row in rows] == [64] * 33
    assert middle.isascii()
    assert "a character stands for 64 bytes, a row for 4 KiB" in middle
    cells = "".join(rows)
    assert cells.endswith("." * (answers["truth"]["top"] // 64))
    assert set("#TSUL" + "F" * has_fastbins()) <= set(cells.upper())
    assert len(rows_of(wide)[0]) == 128
    assert len(rows_of(narrow)) <= 6
    assert {len(row) for row in rows_of(narrow)} <= {16, *range(16)}
    assert all(len(line) <= 40 for line in narrow[narrow.index("main_arena") :].splitlines())


@pytest.mark.parametrize("charset", ["ASCII", "UTF-8"])
def test_the_charset_decides(gdb: Gdb, programs: Programs, charset: str) -> None:
    commands = ("break stop_here", "run", "heap map", "heap map -words -count 2")
    text = gdb(f"set host-charset {charset}", *commands, program=programs["totals"]).succeeded().stdout
    assert ("█" in text) == (charset == "UTF-8")
    assert ("┌" in text) == (charset == "UTF-8")


def test_a_part_of_the_arena(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """-start with -size, with -end or alone: the bytes between, and no others."""
    gdb(
        "break stop_here", "run",
        f"heap map -start large[0] -size 0x200 {answers.into('size')}",
        f"heap map -start large[0] -end large[1] {answers.into('end')}",
        f"heap map -start large[0] -count 2 {answers.into('alone')}",
        answers.python("truth", {"first": "number('(long)large[0]')", "second": "number('(long)large[1]')",
                                 "top": "number('(long)main_arena.top')"}),
        program=programs["totals"],
    ).succeeded()  # fmt: skip
    first, second = answers["truth"]["first"], answers["truth"]["second"]
    for name, end in (("size", first + 0x200), ("end", second)):
        (arena,) = answers[name]["arenas"]
        (region,) = arena["regions"]
        assert (region["start"], region["end"]) == (first, end)
    assert sums(answers["size"]["arenas"][0]) == {"large": (1, 0x200)}
    (region,) = answers["alone"]["arenas"][0]["regions"]
    assert region["end"] > answers["truth"]["top"]
    assert len(region["runs"]) == 2
    assert region["runs_left_out"] > 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("-start &main", "is in no region of the arenas that were looked at"),
        ("-start &main -size 16", "There is nothing of the chosen arenas between these addresses"),
        ("-start large[0] -size 0", "nothing is between them"),
        ("-start large[0] -end 16 -size 16", "give one of them"),
        ("-size 16", "-size needs a -start"),
        ("-end 16", "-end needs a -start"),
        ("-start nonsense", "No symbol"),
        ("-width 7", "-width is a number from 40 to 1,000, not 7."),
        ("-rows 0", "-rows is a number from 1 to 1,000, not 0."),
        ("-arena 9", "There is no arena '9'"),
        ("-words -svg /tmp/x.svg", "-svg is for the drawing of an arena, not for -words."),
        ("-words -start &main", "is in no region"),
        ("-svg /nonexistent/a.svg", "Nothing was written to /nonexistent/a.svg"),
        ("-svg /dev/null", "is not a regular file"),
        ("7", "takes no argument '7'"),
    ],
)
def test_what_cannot_be_meant(gdb: Gdb, programs: Programs, options: str, sentence: str) -> None:
    """One sentence, and nothing is drawn."""
    result = gdb("break stop_here", "run", f"heap map {options}", program=programs["totals"])
    result.has_no_internal_error()
    assert sentence in result.stderr
    assert not rows_of(result.stdout)
    assert result.status == 1


def test_before_the_first_malloc(gdb: Gdb, programs: Programs) -> None:
    result = gdb("break main", "run", "heap map", "heap map -words", program=programs["seed"])
    result.has_no_internal_error()
    assert result.stderr.count("there is no heap before the program's first malloc") == 2


def examined(text: str) -> dict[int, int]:
    """Return the words of GDB's own x/gx."""
    found = {}
    for line in re.findall(r"^0x([0-9a-f]+)[^:\n]*:((?:\t0x[0-9a-f]{16})+)$", text, re.MULTILINE):
        for place, word in enumerate(line[1].split()):
            found[int(line[0], 16) + 8 * place] = int(word, 16)
    return found


def test_the_words_are_gdbs(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """All words of many chunks, in the drawing and in the JSON, are what x/gx shows; links lead where glibc's do."""
    result = gdb(
        "break stop_here", "run",
        "echo words\\n", "heap map -words -count 60 -rows 3 -width 80 -ascii", "echo end\\n",
        f"heap map -words -count 60 -rows 3 {answers.into('words')}",
        f"heap chunks -arena 0 -count 60 {answers.into('chunks')}",
        remember(base="(long)mp_.sbrk_base"),
        "x/4000gx $base",
        program=programs["totals"],
    ).succeeded()  # fmt: skip
    truth = examined(result.stdout[result.stdout.index("\nend\n") :])
    assert len(truth) == 4000
    closeup = answers["words"]["closeup"]
    assert [item["chunk"] for item in closeup["chunks"]] == answers["chunks"]["arenas"][0]["chunks"]
    assert closeup["left_out"] == answers["chunks"]["left_out"]
    shown: dict[int, int] = {}
    text = result.stdout[result.stdout.index("words\n") : result.stdout.index("\nend\n")]
    for address, first, second in re.findall(r"(0x[0-9a-f]{12}) ([0-9a-f]{16}). ([0-9a-f]{16})", text):
        shown[int(address, 16)] = int(first, 16)
        shown[int(address, 16) + 8] = int(second, 16)
    told = {}
    for item in closeup["chunks"]:
        chunk, words = item["chunk"], item["words"]
        assert len(words) == min(chunk["size"], 48) // 8
        assert item["bytes_left_out"] == chunk["size"] - 8 * len(words)
        told.update({word["address"]: word["value"] for word in words})
        assert words[1]["role"] == "size"
        assert words[1]["value"] & ~7 == chunk["size"]
        assert (words[0]["role"] == "prev_size") == (not chunk["flags"] & 1)
        assert (item["list"] is None) == (chunk["state"] not in FREE)
        links = [word["role"] for word in words if word["target"] is not None]
        assert not links or chunk["state"] in FREE
    assert shown == told
    assert told.items() <= truth.items()


@pytest.mark.skipif(glibc_version() < (2, 34), reason="tcache_key came with glibc 2.34")
def test_hidden_links_are_decoded(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The three chunks of 0x60 were freed in this order, so each leads to the one before it; the first to none."""
    asked = [f"heap map -words -start part[{place}] -count 1 {answers.into(f'part{place}')}" for place in range(3)]
    gdb(
        "break stop_here", "run", *asked,
        answers.python("truth", {"part": "[int(value('part[%d]' % i)) for i in range(3)]",
                                 "key": "number('tcache_key')"}),
        program=programs["totals"],
    ).succeeded()  # fmt: skip
    part = answers["truth"]["part"]
    for place in range(3):
        (item,) = answers[f"part{place}"]["closeup"]["chunks"]
        following, key = item["words"][2:4]
        assert (following["role"], key["role"], key["value"]) == ("next", "key", answers["truth"]["key"])
        assert following["target"] == (part[place - 1] if place else None)
        assert item["list"] == {"name": "tcache bin 4 of thread 1", "position": 3 - place, "length": 3}


def test_any_address_in_a_chunk_is_enough(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    gdb(
        "break stop_here", "run",
        f"heap map -words -start 'used[9] + 20' -count 1 {answers.into('inside')}",
        answers.python("truth", {"used": "number('(long)used[9]')"}),
        program=programs["totals"],
    ).succeeded()  # fmt: skip
    (item,) = answers["inside"]["closeup"]["chunks"]
    assert item["chunk"]["pointer"] == answers["truth"]["used"]


def test_a_corrupt_heap(gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path) -> None:
    """What lies behind the damage is unknown up to the next chunk on a free list: one that is first or last there."""
    binned = "[number('(long)main_arena.bins[%d]' % place) for place in range(254)]"
    following = f"min(chunk for chunk in {binned} if number('(long)used[40]') < chunk < number('(long)main_arena.top'))"
    result = gdb(
        "break stop_here", "run",
        answers.python("truth", {"broken": "number('(long)used[40] - 16')", "base": "number('(long)mp_.sbrk_base')",
                                 "next": following}),
        "set var ((unsigned long *)used[40])[-1] = 0x4141414141414141",
        f"heap map -ascii -svg {tmp_path / 'map.svg'} {answers.into('map')}",
        f"heap map -words -start used[39] {answers.into('words')}",
        "heap map -words -start used[41]",
        program=programs["totals"],
    )  # fmt: skip
    result.has_no_internal_error()
    truth = answers["truth"]
    (arena,) = answers["map"]["arenas"]
    first, rest = arena["regions"]
    unknown = [run for run in (*first["runs"], *rest["runs"]) if run["kind"] == "unknown"]
    assert [(run["start"], run["end"]) for run in unknown] == [(truth["broken"], truth["next"])]
    assert (first["end"], rest["start"]) == (truth["next"], truth["next"])
    assert (arena["gaps"][0]["start"], arena["gaps"][0]["end"]) == (truth["broken"], truth["next"])
    assert any(f"{truth['broken']:#x}" in problem for problem in arena["problems"])
    cells = "".join(rows_of(result.stdout[: result.stdout.index("used  ")]))
    stops, goes_on = ((truth[name] - truth["base"]) // 64 for name in ("broken", "next"))
    assert "?" not in cells[:stops] + cells[goes_on + 1 :]
    assert set(cells[stops:goes_on]) == {"?"}
    assert "is 0x4141414141414141; the size should be" in " ".join(result.stdout.split())
    assert [item["chunk"]["state"] for item in answers["words"]["closeup"]["chunks"]] == [
        *("used", "large", "used", "used", "top"),
    ]
    assert answers["words"]["problems"]
    assert "is in no chunk that can be found" in result.stderr
    ET.parse(tmp_path / "map.svg")


def test_a_core_file_gives_the_same(gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The drawing, the picture, the words and the JSON."""
    folder = tmp_path_factory.mktemp("core")
    found: list[list[Any]] = []
    for name, before in (
        ("live", ("break stop_here", "run", f"generate-core-file {folder / 'core'}")),
        ("core", (f"core-file {folder / 'core'}",)),
    ):
        answers = Answers(folder)
        result = gdb(
            *before, "echo begin\\n",
            f"heap map -svg {folder / name}.svg {answers.into(name)}",
            f"heap map -words -count 99 {answers.into(f'{name}-words')}",
            program=programs["threads"],
        ).succeeded()  # fmt: skip
        text = result.stdout[result.stdout.index("begin\n") :]
        found.append([text, (folder / f"{name}.svg").read_text(), answers[name], answers[f"{name}-words"]])
    assert len(found[0][2]["arenas"]) == 5
    assert found[0] == found[1]


def texts_of(svg: str) -> Sequence[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_hostile_content(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    """What the program wrote is shown as text, in the terminal and in the picture, and acts on neither."""
    picture = tmp_path / "map.svg"
    result = gdb(
        "break stop_here", "run", "echo begin\\n",
        f"heap map -svg {picture}", "heap map -words -start pointers[0] -count 9",
        program=programs["preview"],
    ).succeeded()  # fmt: skip
    text = result.raw[result.raw.index(b"begin\n") :].decode("utf-8")
    assert not HARMFUL.search(text)
    assert "Its first bytes: a line.and another.over" in " ".join(text.split())
    assert ".]0;a new title\n" in text
    svg = picture.read_text(encoding="utf-8")
    assert not HARMFUL.search(svg)
    assert any("a line.and another.over" in line for line in texts_of(svg))
    assert list(tmp_path.iterdir()) == [picture]


def test_the_picture(gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path) -> None:
    """Well-formed, with every byte of every arena in a tooltip, and nothing from elsewhere."""
    picture = tmp_path / "map.svg"
    picture.write_text("old")
    gdb(
        "break stop_here", "run", f"heap map -svg {picture} -force", f"heap {answers.into('heap')}",
        program=programs["threads"],
    ).succeeded()  # fmt: skip
    svg = picture.read_text(encoding="utf-8")
    told: dict[str, int] = {}
    for cell in ET.fromstring(svg).iter(f"{SVG}g"):
        for line in (cell[0].text or "").split("\n")[1:]:
            match = re.match(r"(\w+) (0x[0-9a-f]+) \(", line)
            assert match is not None, line
            told[match[1]] = told.get(match[1], 0) + int(match[2], 16)
    arenas = answers["heap"]["arenas"]
    for state in ("used", *FREE, "top"):
        assert told.get(state, 0) == sum(arena["states"][state]["bytes"] for arena in arenas), state
    assert told["overhead"] == sum(arena["overhead"] for arena in arenas)
    assert re.findall(r"(?:https?:|href|src)[^\"]*", svg) == ["http://www.w3.org/2000/svg"]


#: Without a shell GDB 10 takes no argument that has a space.
PERL = "$h{$_}='x'x($_%900)for(1..5000);delete(@h{1..2000});exit"


@pytest.mark.parametrize(
    ("program", "args", "stop"),
    [
        ("/bin/ls", ("-la", "/usr/bin"), "exit_group"),
        ("/usr/bin/sort", ("/etc/services", "/etc/passwd"), "exit_group"),
        ("/usr/bin/perl", ("-e", PERL), "exit_group"),
    ],
)
def test_real_programs(gdb: Gdb, answers: Answers, program: str, args: tuple[str, ...], stop: str) -> None:
    """Programs that nobody wrote for this, stopped as they end: the map agrees with `heap`, without a problem."""
    needs(program)
    gdb(
        f"catch syscall {stop}", "run", f"heap map {answers.into('map')}", f"heap {answers.into('heap')}",
        program=program, args=args,
    ).has_no_internal_error()  # fmt: skip
    for arena, counted in zip(answers["map"]["arenas"], answers["heap"]["arenas"]):
        found = sums(arena)
        assert arena["problems"] == counted["problems"] == []
        for state, told in counted["states"].items():
            assert found.get(state, (0, 0)) == (told["chunks"], told["bytes"]), state
        assert sum(size for _, size in found.values()) == counted["system_mem"]
