"""Promise: `heap why-grow` says why, and its sum is the very number that the kernel was asked for."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb, Result, line_of, malloc_events
from tests.support.environment import glibc_version, needs
from tests.support.programs import Programs
from tests.support.symbols import known_to_be, to_the_byte, wanted

#: Whether the first malloc makes the thread's tcache, as the story has it; in 2.43 the first free does.
EAGER = glibc_version() < (2, 43)
#: What the story's growth is for, and what its sum is made of.
REQUEST, CHUNK = (640, 0x290) if EAGER else (4096, 0x1010)
TOP_PAD, MINSIZE = 0x20000, 0x20
SUM = CHUNK + TOP_PAD + MINSIZE
GROWTH = -(-SUM // 0x1000) * 0x1000
#: The function that asked malloc for it.
ASKING = "tcache_init" if EAGER else "_IO_file_doallocate"

pytestmark = pytest.mark.skipif(glibc_version() < (2, 30), reason="the numbers of the story are those of glibc 2.30")


@pytest.fixture(scope="module")
def story(gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Answers]:
    """Run the story's program to its end under a recording, with a pipe for its output."""
    answers = Answers(tmp_path_factory.mktemp("story"))
    result = gdb(
        "heap catch",
        "run",
        "echo ANSWER\\n",
        "heap why-grow",
        f"heap why-grow {answers.into('why')}",
        f"heap events {answers.into('events')}",
        program=programs["seed"],
    )
    return result.succeeded(), answers


@contextmanager
def terminal() -> Iterator[str]:
    """Open a pseudo-terminal and yield its name, for a program that is to write to a terminal."""
    master, slave = pty.openpty()
    try:
        yield os.ttyname(slave)
    finally:
        os.close(slave)
        os.close(master)


def answer(result: Result) -> str:
    """Return what was written after the word ANSWER: the answer to the user's question."""
    return result.stdout.split("ANSWER\n", 1)[1]


def the_growth(answers: Answers, name: str = "why") -> dict[str, Any]:
    """Return the one event that `heap why-grow` explained."""
    events = answers.events(name)
    assert len(events) == 1
    return events[0]


def says(text: str, *patterns: str) -> None:
    """Fail unless the text contains each pattern, whatever the case."""
    for pattern in patterns:
        assert re.search(pattern, text, re.IGNORECASE), f"{pattern!r} is not in:\n{text}"


def is_exact(event: dict[str, Any]) -> None:
    """Fail unless the prediction is the call's arguments, or unknown without debug symbols."""
    assert known_to_be(event, "predicted", event["args"]), event
    assert to_the_byte(event), event
    if event["predicted"] is None:
        return
    assert event["path"], event
    assert event["terms"] or not event["delta"], event


def test_the_story_is_answered(story: tuple[Result, Answers], programs: Programs) -> None:
    """printf, stdout's buffer, tcache_init and its 0x290, the sum, exact; and what malloc(1000) took."""
    text = answer(story[0])
    printf = line_of(programs.source("seed.c"), "Before:%p")
    own = line_of(programs.source("seed.c"), "malloc(1000)")
    says(text, rf"{GROWTH:#x}\b", rf"{GROWTH >> 10} KiB", "printf", "stdout", "buffer", r"malloc\s?\(4096\)", ASKING)
    says(text, rf"\b{REQUEST:,}\b", rf"{CHUNK:#x}\b", rf"{SUM:#x}\b", r"0x0*20000\b", "MINSIZE")
    says(text, "top_pad", "M_TOP_PAD", "glibc.malloc.top_pad")
    says(text, r"\bexact\b", "main_arena", rf"main \(\) at .*seed\.c:{printf}\b", "Heap Pointer locataion")
    says(text, "no system call", rf"malloc\s?\(1000\).*seed\.c:{own}\b.*0x0*3f0\b")


def test_the_story_in_json(story: tuple[Result, Answers], programs: Programs) -> None:
    """The same facts, for programs."""
    event = the_growth(story[1])
    printf = line_of(programs.source("seed.c"), "Before:%p")
    assert (event["syscall"], event["kind"], event["path"]) == ("brk", "malloc", "brk-first")
    assert event["delta"] == GROWTH
    assert event["result"] == event["args"][0]
    assert (event["request"], event["chunk_size"]) == (REQUEST, CHUNK)
    assert event["arena"]["name"] == "main_arena"
    assert event["thread"] == 1
    is_exact(event)
    values = [term["value"] for term in event["terms"]]
    assert sum(values) == SUM
    assert {CHUNK, TOP_PAD, MINSIZE} <= set(values)
    functions = [frame["function"] for frame in event["frames"]]
    for function in ("sysmalloc", "_int_malloc", ASKING, "_IO_file_doallocate", "main"):
        assert any(function in (name or "") for name in functions), functions
    main = event["frames"][functions.index("main")]
    assert (Path(main["file"]).name, main["line"]) == ("seed.c", printf)
    assert Path(main["objfile"]).name == "seed"
    assert all(isinstance(frame["pc"], int) and frame["pc"] for frame in event["frames"])


def test_the_arenas_address_is_main_arenas(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The address in the JSON is that of GDB's own main_arena."""
    gdb(
        "heap catch -malloc",
        f"break {line_of(programs.source('seed.c'), 'return 0')}",
        "run",
        f"heap why-grow {answers.into('why')}",
        answers.python("truth", {"arena": "number('(long)&main_arena')"}),
        program=programs["seed"],
    ).succeeded()
    assert the_growth(answers)["arena"]["address"] == answers["truth"]["arena"]


def test_the_story_agrees_with_the_list(story: tuple[Result, Answers]) -> None:
    """`heap why-grow -json` and `heap events -json` say the same of the same event."""
    event = the_growth(story[1])
    assert event in story[1].events("events")


def test_the_story_on_a_terminal(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """On a terminal stdout's buffer has 1024 bytes; the growth is the same where it is for the tcache."""
    with terminal() as name:
        result = gdb(
            "heap catch",
            "run",
            "echo ANSWER\\n",
            "heap why-grow",
            f"heap why-grow {answers.into('why')}",
            before=[f"set inferior-tty {name}"],
            program=programs["seed"],
        ).succeeded()
    assert "Before:0x" not in result.stdout, "the program's output went to the terminal"
    request, chunk = (REQUEST, CHUNK) if EAGER else (1024, 0x410)
    total = chunk + TOP_PAD + MINSIZE
    says(answer(result), "stdout", r"malloc\s?\(1024\)", ASKING, rf"{total:#x}\b", r"\bexact\b", r"0x0*3f0\b")
    assert "4096" not in answer(result)
    event = the_growth(answers)
    assert (event["delta"], event["request"], event["chunk_size"]) == (0x21000, request, chunk)
    is_exact(event)


def test_the_answer_by_number_and_of_all(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Every growth, one, and the newest: `-all` is the events that gave malloc memory, in order."""
    program = programs["growth"]
    gdb(
        "heap catch",
        "run",
        f"heap events {answers.into('events')}",
        f"heap why-grow -all {answers.into('all')}",
        f"heap why-grow {answers.into('newest')}",
        program=program,
    ).succeeded()
    growths = answers.events("all")
    numbers = [event["id"] for event in growths]
    assert numbers == sorted(numbers)
    assert len(numbers) > 10
    grown = [e for e in malloc_events(answers.events("events")) if (e["delta"] or 0) > 0]
    assert numbers == [event["id"] for event in grown]
    assert the_growth(answers, "newest") == growths[-1]
    chosen = numbers[3]
    result = gdb(
        "heap catch",
        "run",
        "echo ANSWER\\n",
        f"heap why-grow {chosen}",
        f"heap why-grow {chosen} {answers.into('one')}",
        program=program,
    ).succeeded()
    one = the_growth(answers, "one")
    other_run = {"tid": 0, "process": 0, "time": 0}
    assert {**one, **other_run} == {**growths[3], **other_run}
    says(answer(result), f"{one['delta']:#x}", r"\bexact\b", r"growth\.c:\d+")


@pytest.mark.parametrize(
    "name", ["seed", "growth", "totals", "usable", "cplus", "deep", "foreign", "threads", "ls", "sort"]
)
def test_every_prediction_is_exact(gdb: Gdb, answers: Answers, programs: Programs, name: str) -> None:
    """Wherever a number is predicted it is the right one, and malloc's own growth always is predicted."""
    program, args = programs[name] if name not in ("ls", "sort") else Path(needs(name)), []
    args = {"ls": ["/"], "sort": ["--parallel=1", str(programs.source("growth.c"))]}.get(name, [])
    gdb("heap catch", "run", f"heap events {answers.into('events')}", program=program, args=args).succeeded()
    events = answers.events("events")
    mine = list(malloc_events(events))
    assert mine, "malloc made a call"
    for event in mine:
        if event["predicted"] is not None:
            is_exact(event)
        else:
            assert event["exact"] is None
        assert event["arena"] or event["syscall"] != "brk", event
    for event in mine:
        if (event["delta"] or 0) > 0:
            assert event["predicted"] is not None or not wanted(), event
            assert event["chunk_size"] or event["arena"] is None or event["chunk_size_range"] or not wanted(), event
    for event in events:
        if event["kind"] != "malloc":
            assert event["predicted"] is None, event


def test_each_way_of_one_thread(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """growth.c's lines: which branch malloc took at each."""
    source = programs.source("growth.c")
    gdb("heap catch -malloc", "run", f"heap events {answers.into('events')}", program=programs["growth"]).succeeded()
    events = answers.events("events")
    at: dict[int, list[dict[str, Any]]] = {}
    for event in events:
        mine = next(frame for frame in event["frames"] if (frame["file"] or "").endswith("growth.c"))
        at.setdefault(mine["line"], []).append(event)
    kept = at.pop(line_of(source, "malloc(100000)"))
    mapped = at.pop(line_of(source, "malloc(1 << 20)"))
    (freed,) = at.pop(line_of(source, "free(mapped[0])"))
    (moved,) = at.pop(line_of(source, "realloc(mapped[1]"))
    trimmed = at.pop(line_of(source, "free(kept[i])")) + at.pop(line_of(source, "malloc_trim(0)"))
    assert not at, "no other line made malloc call the kernel"

    grown = [event for event in kept if event["args"] != [0]]
    assert grown[0]["path"] == "brk-first"
    assert {event["path"] for event in grown[1:]} == {"brk-extend"}
    assert all(known_to_be(event, "request", 100000) for event in grown[1:])
    assert {event["chunk_size"] for event in grown[1:]} == {100016}
    assert [event["delta"] for event in mapped] == [0x101000] * 3
    assert {event["path"] for event in mapped} == {"mmap-chunk"}
    assert all(known_to_be(event, "request", 1 << 20) for event in mapped)
    assert all(known_to_be(event, "chunk_size", (1 << 20) + 16) for event in mapped)
    assert freed["delta"] == -0x101000
    assert moved["syscall"] == "mremap"
    assert moved["delta"] == 4 << 20
    assert all(event["delta"] < 0 and event["syscall"] == "brk" for event in trimmed)
    assert len(trimmed) >= 2
    assert {event["path"] for event in trimmed if wanted() or event["path"]} == {"trim"}
    assert (freed["path"], moved["path"]) == ("munmap-chunk", "mremap-chunk")
    for event in events:
        if event["args"] != [0]:
            is_exact(event)


def test_arenas_of_threads(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """A new arena, its heap that grows, and the next heap when 64 MiB are full: each belongs to its thread's arena."""
    gdb("heap catch", "run", f"heap events {answers.into('events')}", program=programs["threads"]).succeeded()
    events = answers.events("events")
    mine = [event for event in malloc_events(events) if event["thread"] != 1]
    assert {event["thread"] for event in mine} == {2, 3, 4, 5}
    grown = [event for event in mine if event["syscall"] == "mprotect" and event["thread"] == 2]
    assert len(grown) > 500
    for event in grown[1:]:
        assert event["arena"], event
        assert event["arena"]["name"] != "main_arena"
        is_exact(event)
    assert len({event["arena"]["address"] for event in grown[1:]}) == 1, "one thread, one arena"
    stacks = [event for event in events if event["kind"] == "thread-stack"]
    guard = "mprotect" if glibc_version() < (2, 42) else "madvise"  # MADV_GUARD_INSTALL, where the kernel has it
    assert [event["syscall"] for event in stacks] == ["mmap", guard] * 4 + ["madvise"] * 4
    assert {event["purpose"] for event in stacks[-4:]} == {"stack of a thread that has ended"}
    assert {event["path"] for event in grown[1:]} == {"heap-grow", "heap-commit"}
    reserved = [event for event in mine if event["syscall"] == "mmap"]
    assert len(reserved) >= 5, "four arenas and a second heap"
    assert {event["path"] for event in reserved} == {"heap-reserve"}
    for event in reserved:
        is_exact(event)
    (gone,) = [event for event in mine if event["path"] == "heap-unmap"]
    assert (gone["thread"], gone["delta"]) == (2, -(64 << 20))


def test_someone_else_moved_the_break(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """foreign.c: the program's own sbrk is the program's, and malloc's next two growths go around the hole."""
    result = gdb(
        "heap catch",
        "run",
        "echo ANSWER\\n",
        "heap why-grow -all",
        f"heap events {answers.into('events')}",
        program=programs["foreign"],
    ).succeeded()
    breaks = [event for event in answers.events("events") if event["syscall"] == "brk" and (event["delta"] or 0) > 0]
    assert [event["kind"] for event in breaks] == ["malloc", "program", "malloc", "malloc"]
    assert breaks[1]["delta"] == 12345
    for event in malloc_events(breaks):
        is_exact(event)
    assert [event["path"] for event in malloc_events(breaks)] == ["brk-first", "brk-moved", "brk-align"]
    says(answer(result), r"foreign\.c:\d+", r"\bexact\b")


def test_a_long_chain_of_callers(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """300 calls deep: the user's line is named, the text stays short, and the JSON reaches the asking line."""
    result = gdb(
        "heap catch",
        "run",
        "echo ANSWER\\n",
        "heap why-grow",
        f"heap why-grow {answers.into('why')}",
        program=programs["deep"],
    ).succeeded()
    line = line_of(programs.source("deep.c"), "kept[depth] = malloc")
    says(answer(result), rf"deep\.c:{line}\b", r"malloc\s?\(100000\)", r"\bexact\b")
    assert len(answer(result).splitlines()) < 60
    event = the_growth(answers)
    is_exact(event)
    mine = next(frame for frame in event["frames"] if (frame["file"] or "").endswith("deep.c"))
    assert (mine["function"], mine["line"]) == ("descend", line)


def test_ls_as_its_strace_reader_sees_it(gdb: Gdb, answers: Answers) -> None:
    """The loader's mappings, then the heap, then locale data; on Debian the heap appears before main."""
    program = needs("ls")
    linked = subprocess.run(["ldd", program], check=True, stdout=subprocess.PIPE, text=True).stdout
    if "libselinux" not in linked:
        pytest.skip("this ls has no libselinux, whose constructor is what allocates first")
    result = gdb(
        "heap catch",
        "run",
        f"heap events {answers.into('events')}",
        "echo ANSWER\\n",
        f"heap why-grow -all {answers.into('all')}",
        "heap why-grow -all",
        program=program,
        args=["/"],
    ).succeeded()
    events = answers.events("events")
    first = {kind: next(e["id"] for e in events if e["kind"] == kind) for kind in ("loader", "malloc", "locale")}
    assert first["loader"] < first["malloc"] < first["locale"]
    growth = answers.events("all")[0]
    assert (growth["syscall"], growth["path"], growth["delta"]) == ("brk", "brk-first", 0x21000)
    is_exact(growth)
    objfiles = [Path(frame["objfile"] or "").name for frame in growth["frames"]]
    assert any(name.startswith("libselinux") for name in objfiles), objfiles
    assert not any(frame["function"] in ("main", "__libc_start_main") for frame in growth["frames"])
    says(answer(result), "libselinux", "before main")
    for event in events:
        if event["kind"] == "locale":
            assert event["syscall"] in ("mmap", "munmap")
        if event["kind"] == "loader":
            assert "ld-linux" in (event["frames"][0]["objfile"] or "ld-linux")


def test_at_a_stop_inside_the_call(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """`heap catch -stop` stops at the growth: it is explained there, a moment later and after the exit alike."""
    result = gdb(
        "heap catch -malloc -stop",
        "run",
        f"heap why-grow {answers.into('inside')}",
        "echo ANSWER\\n",
        "heap why-grow",
        "bt 1",
        "heap catch -off",
        f"break {line_of(programs.source('seed.c'), 'After:%p')}",
        "continue",
        f"heap why-grow {answers.into('later')}",
        "continue",
        f"heap why-grow {answers.into('exited')}",
        program=programs["seed"],
    ).succeeded()
    says(answer(result), rf"{SUM:#x}\b", ASKING, r"\bexact\b")
    says(answer(result), r"#0 .*brk")
    inside = the_growth(answers, "inside")
    is_exact(inside)
    assert inside["delta"] == GROWTH
    assert the_growth(answers, "later") == inside
    assert the_growth(answers, "exited") == inside


def test_at_the_users_own_catchpoint(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Stopped at the entry of the call, when the kernel has not answered yet, the sum is there already."""
    result = gdb(
        "heap catch -malloc",
        "break main",
        "run",
        "catch syscall brk",
        "ignore $bpnum 2",  # entry and return of libc's question where the break is
        "continue",
        "echo ANSWER\\n",
        "heap why-grow",
        f"heap why-grow {answers.into('why')}",
        program=programs["seed"],
    ).succeeded()
    event = the_growth(answers)
    assert event["result"] is None
    assert event["predicted"] == event["args"]
    assert sum(term["value"] for term in event["terms"]) == SUM
    says(answer(result), rf"{SUM:#x}\b", ASKING)


def test_nothing_recorded(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Without a recording: what the state tells, what it can't tell, and how to record it next time."""
    result = gdb(
        "break stop_here",
        "run",
        "echo ANSWER\\n",
        "heap why-grow",
        f"heap why-grow {answers.into('why')}",
        answers.python("truth", {"mem": "number('main_arena.system_mem')", "base": "number('(long)mp_.sbrk_base')"}),
        program=programs["growth"],
    ).succeeded()
    assert answers["why"]["events"] == []
    truth = answers["truth"]
    says(answer(result), "heap catch", f"{truth['mem']:#x}", f"{truth['base']:#x}")
    says(answer(result), "(can.?t|cannot|not) (be )?(know|tell|said|say)|unknown|nothing was recorded")
    assert "exact" not in answer(result)


def test_nothing_recorded_in_a_core(gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path) -> None:
    """The same from a core file, where no process is left to run."""
    core = tmp_path / "core"
    gdb("break stop_here", "run", f"generate-core-file {core}", program=programs["growth"], load=None).succeeded()
    assert core.stat().st_size > 0
    result = gdb(
        f"core-file {core}",
        "echo ANSWER\\n",
        "heap why-grow",
        f"heap why-grow {answers.into('why')}",
        answers.python("truth", {"system_mem": "number('main_arena.system_mem')"}),
        program=programs["growth"],
    ).succeeded()
    assert answers["why"]["events"] == []
    says(answer(result), "heap catch", f"{answers['truth']['system_mem']:#x}")
