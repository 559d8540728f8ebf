"""Promise: `heap timeline` ends where the kernel and glibc say that the program is, and its picture is whole."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.support import procmaps
from tests.support.debugger import Answers, Gdb
from tests.support.environment import mmapped_header
from tests.support.programs import Programs

#: The real program: it has no debug symbols, makes its heap grow and shrink, and is stopped by its own signal.
SCRIPT = """
import os, signal
kept = [[number] * 50 for number in range(20000)]
kept += [bytearray(300000) for number in range(10)]
del kept[5000:15000], kept[-3:]
os.kill(os.getpid(), signal.SIGUSR1)
"""


def series(answer: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the series of that name."""
    found = answer["series"][name]
    assert isinstance(found, dict)
    return found


def break_of(maps: str) -> int:
    """Return the size of the break area as the kernel has it: its whole pages."""
    return sum(part.end - part.start for part in procmaps.parse(maps) if part.name == "[heap]")


@pytest.mark.parametrize("name", ["growth", "threads", "foreign", "totals", "callers"])
@pytest.mark.parametrize("options", ["", " -malloc"])
def test_it_ends_where_the_program_is(gdb: Gdb, answers: Answers, programs: Programs, name: str, options: str) -> None:
    """The break is the kernel's, mapped chunks are malloc's own count, and accessible heaps what heap_info says."""
    gdb(
        f"heap catch{options}",
        "break stop_here",
        "run",
        f"heap timeline {answers.into('line')}",
        f"heap events {answers.into('events')}",
        f"heap arenas {answers.into('arenas')}",
        answers.python("oracle", {"maps": procmaps.MAPS, "mmapped": "number('mp_.mmapped_mem')"}),
        program=programs[name],
    ).succeeded()
    line, oracle = answers["line"], answers["oracle"]
    heap = series(line, "break")
    assert -(-heap["last"] // 0x1000) * 0x1000 == break_of(oracle["maps"])
    # glibc 2.43 counts the header of a chunk once too often each time that the chunk is resized.
    resized = [event for event in answers.events("events") if event["syscall"] == "mremap"]
    mmapped = oracle["mmapped"] - mmapped_header() * len(resized)
    assert series(line, "mmapped")["last"] == mmapped
    accessible = [heap["mprotect_size"] for arena in answers["arenas"]["arenas"] for heap in arena["heaps"]]
    assert series(line, "arenas")["last"] == sum(accessible)
    assert all(series(line, known)["known"] for known in ("break", "arenas", "mmapped"))
    assert line["miscounted"] in (0, None)
    assert line["last"] == heap["last"] + mmapped + sum(accessible)


def test_a_real_program(gdb: Gdb, answers: Answers, tmp_path: Path) -> None:
    """Python itself: each step is an event, each value the sum of the deltas, and the last one the kernel's."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    gdb(
        "heap catch",
        "run",
        f"heap timeline {answers.into('line')}",
        f"heap events {answers.into('events')}",
        answers.python("oracle", {"maps": procmaps.MAPS}),
        program=Path(sys.executable).resolve(),
        args=(str(script),),
    ).has_no_internal_error()
    line = answers["line"]
    heap = series(line, "break")
    assert heap["last"] == break_of(answers["oracle"]["maps"])
    assert len(heap["steps"]) > 5
    deltas = {event["id"]: event["delta"] for event in answers.events("events")}
    for one in line["series"].values():
        value = one["begin"]
        for step in one["steps"]:
            value += step["delta"]
            assert value == step["value"]
            assert step["delta"] == deltas[step["event"]]
    assert any(step["delta"] < 0 for step in series(line, "mmapped")["steps"])


def test_attached(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """From the middle of a program on, what malloc's own variables tell of the time before is counted in."""
    gdb(
        "break stop_here",
        "run",
        "heap catch",
        "continue",
        f"heap timeline {answers.into('line')}",
        answers.python("oracle", {"maps": procmaps.MAPS, "mmapped": "number('mp_.mmapped_mem')"}),
        program=programs["growth"],
    ).succeeded()
    line, oracle = answers["line"], answers["oracle"]
    heap = series(line, "break")
    assert heap["known"]
    assert heap["begin"] > 0
    assert heap["last"] == break_of(oracle["maps"])
    assert series(line, "mmapped")["last"] == oracle["mmapped"]
    assert not series(line, "arenas")["known"]


def test_the_drawing_and_the_picture(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    """No line is wider than asked for, both axes are there, and the file is well-formed and complete."""
    picture = tmp_path / "growth.svg"
    picture.write_text("old")
    for by in ("event", "time"):
        result = gdb(
            "heap catch",
            "run",
            f"heap timeline -by {by} -width 70 -rest -svg {picture} -force",
            program=programs["growth"],
        ).succeeded()
        _, _, drawing = result.stdout.partition("\nprocess ")
        assert drawing
        assert max(map(len, drawing.splitlines())) <= 70
        assert "peak" in drawing
        root = ET.fromstring(picture.read_text(encoding="utf-8"))
        tips = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")]
        assert any("mremap +0x400000 (4 MiB)" in tip and "main () at growth.c" in tip for tip in tips)
        assert list(tmp_path.iterdir()) == [picture]


@pytest.mark.parametrize("charset", ["ASCII", "UTF-8"])
def test_the_charset_decides(gdb: Gdb, programs: Programs, charset: str) -> None:
    """Block characters are only for those who can read them."""
    commands = ("heap catch -malloc", "run", "heap timeline")
    drawing = gdb(f"set host-charset {charset}", *commands, program=programs["seed"]).succeeded().stdout
    assert ("█" in drawing) == (charset == "UTF-8")
    assert ("%%%" in drawing) == (charset == "ASCII")


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("heap timeline -width 7", "-width is a number from 40 to 1,000, not 7."),
        ("heap timeline -height 9999", "-height is a number from 4 to 200, not 9,999."),
        ("heap timeline -by size", "-by is one of event, time, not 'size'."),
        ("heap timeline -process 1", "No event of a process 1 is kept"),
        ("heap timeline -svg", "-svg needs a value"),
        ("heap timeline -svg /nonexistent/a.svg", "Nothing was written to /nonexistent/a.svg"),
        ("heap timeline -svg /dev/null", "is not a regular file"),
        ("heap timeline 7", "takes no argument '7'"),
    ],
)
def test_what_cannot_be_meant(gdb: Gdb, programs: Programs, command: str, sentence: str) -> None:
    """One sentence, and nothing is drawn."""
    result = gdb("heap catch -malloc", "run", command, program=programs["seed"])
    result.has_no_internal_error()
    assert sentence in result.stderr
    assert "process 1:" not in result.stdout
    assert result.status == 1


def test_nothing_recorded(gdb: Gdb, programs: Programs) -> None:
    """It says what `heap events` says."""
    said = [gdb(command, program=programs["seed"]).stderr for command in ("heap events", "heap timeline")]
    assert said[0] == said[1]
    assert "Nothing was recorded" in said[0]


def test_a_process_that_executed_another_program(gdb: Gdb, answers: Answers, tmp_path: Path) -> None:
    """The old program's memory is gone, and is no part of the new one's heap."""
    script = tmp_path / "script.sh"
    script.write_text("exec /bin/true\n")
    into = answers.into("line")
    gdb("heap catch", "run", f"heap timeline {into}", program="/bin/sh", args=(str(script),)).succeeded()
    line = answers["line"]
    assert line["programs_before"] > 0
    assert line["first"] == line["programs_before"] + 1
    assert series(line, "break")["known"]
