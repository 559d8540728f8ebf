"""Promise: with several threads stopped, the prediction for one is what it gets when it alone is let run.

And a core file answers what the process did when the core was written.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.environment import glibc_version
from tests.support.programs import Programs
from tests.support.symbols import wanted

SIZES = (24, 100, 600, 1500, 5000, 60000, 100)


@pytest.mark.parametrize("thread", [1, 2, 3])
@pytest.mark.usefixtures("calling")
def test_the_thread_that_alone_runs(gdb: Gdb, answers: Answers, programs: Programs, thread: int) -> None:
    """One call after another, each predicted from the memory before it; GDB then lets the thread call malloc."""
    commands = []
    for place, size in enumerate(SIZES):
        commands += [
            f"heap predict malloc {size} -thread {thread} {answers.into(str(place))}",
            answers.python(
                f"real{place}", {"pointer": f"number('(long) ((void *(*)(unsigned long)) __libc_malloc)({size})')"}
            ),
        ]
    gdb(
        "break stop_here", "run", "set scheduler-locking on", f"thread {thread}", *commands, program=programs["threads"]
    ).succeeded()
    known = 0
    for place, size in enumerate(SIZES):
        answer = answers[str(place)]
        (predicted,) = answer["predictions"]
        assert answer["thread"] == thread
        if predicted["end"] == "unknown" and not wanted():
            continue
        known += 1
        assert predicted["end"] == "chunk"
        assert predicted["result"] == answers[f"real{place}"]["pointer"], f"malloc({size}) in thread {thread}"
        assert any("threads: another one may run first" in text for text in answer["limits"])
    assert known or not wanted()


def test_a_core_file_answers_the_same(gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path) -> None:
    core = tmp_path / "core"
    asked = "malloc 3000; free $1; calloc 7 300; realloc $3 9000; memalign 256 700; malloc 50000; free $4; trim"
    gdb(
        "break stop_here",
        "run",
        f"generate-core-file {core}",
        f"heap predict {asked} {answers.into('live')}",
        f"heap predict growth {answers.into('live_growth')}",
        program=programs["totals"],
    ).succeeded()
    gdb(
        f"core-file {core}",
        f"heap predict {asked} {answers.into('core')}",
        f"heap predict growth {answers.into('core_growth')}",
        program=programs["totals"],
    ).succeeded()
    assert len(answers["live"]["predictions"]) == 8 or not wanted()
    assert answers["core"]["predictions"] == answers["live"]["predictions"]
    assert answers["core_growth"]["growth"] == answers["live_growth"]["growth"]


@pytest.mark.usefixtures("calling")
def test_the_first_malloc_ever(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Before there is a heap: tcache_init, the break, and the chunk are told; then the program does it."""
    gdb(
        "break main",
        "run",
        f"heap predict malloc 1000 {answers.into('predicted')}",
        answers.python("real", {"pointer": "number('(long) ((void *(*)(unsigned long)) __libc_malloc)(1000)')"}),
        answers.python("after", {"brk": "number('(long) ((void *(*)(long)) sbrk)(0)')"}),
        program=programs["seed"],
    ).succeeded()
    (predicted,) = answers["predicted"]["predictions"]
    if predicted["end"] == "unknown" and not wanted():
        assert "SINGLE_THREAD_P" in predicted["message"]  # from glibc 2.36 on a symbol tells
        return
    assert predicted["result"] == answers["real"]["pointer"]
    moved = [call for call in predicted["calls"] if call["syscall"] == "brk" and call["args"] != [0]]
    assert moved[-1]["args"] == [answers["after"]["brk"]]
    assert moved[0]["rounded"] == 0x21000
    assert {value["name"]: value["after"] for value in predicted["values"]}["break"] == answers["after"]["brk"]


def test_a_thread_that_is_inside_malloc(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Stopped at malloc's call of sysmalloc: its arena and its tcache may be between two steps, and that is said."""
    result = gdb(
        "break build",
        "run",
        "break sysmalloc",
        "continue",
        "backtrace 3",
        f"heap predict malloc 100 {answers.into('own')}",
        f"heap predict malloc 100 -thread 1 {answers.into('other')}",
        "delete",
        "break stop_here",
        "continue",
        f"heap predict malloc 100 -thread 2 {answers.into('later')}",
        program=programs["threads"],
    )
    result.succeeded()
    assert "#0  sysmalloc" in result.stdout
    assert answers["own"]["thread"] == 2
    arena, limits = answers["own"]["arena"], answers["own"]["limits"]
    assert arena not in (None, 0)
    assert any("Thread 2 is inside malloc; lists of arena 1 may be between two steps." in text for text in limits)
    assert any("What is predicted may be wrong" in text for text in limits)
    assert answers["other"]["arena"] != arena
    others = answers["other"]["limits"]
    assert not any("What is predicted may be wrong" in text for text in others)
    assert any("Lists of 1 other arena may be between two steps, too" in text for text in others)
    assert not any("between two steps" in text for text in answers["later"]["limits"])


def test_a_program_that_is_inside_malloc(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Of one thread, and in a core file of it."""
    gdb(
        "break main",
        "run",
        "break _int_malloc",
        "continue",
        f"heap predict malloc 100 {answers.into('malloc')}",
        "delete",
        "break _int_free" if glibc_version() < (2, 42) else "break _int_free_chunk",
        "continue",
        f"heap predict free used[0] {answers.into('free')}",
        f"generate-core-file {answers.path('core')}",
        program=programs["totals"],
    ).succeeded()
    gdb(
        f"core-file {answers.path('core')}",
        f"heap predict free used[0] {answers.into('core_free')}",
        program=programs["totals"],
    ).succeeded()
    wanted = re.compile(r"Thread 1 is inside \w+; lists of main_arena may be between two steps\.")
    for name in ("malloc", "free", "core_free"):
        assert any(map(wanted.match, answers[name]["limits"])), (name, answers[name]["limits"])


def test_a_heap_that_malloc_has_found_corrupt(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Its thread will not go on: the lists are taken as they are, and that is said."""
    gdb(
        "run",
        f"heap predict malloc 24 {answers.into('aborted')}",
        program=programs["broken"],
        args=["top-size"],
    ).succeeded()
    limits = answers["aborted"]["limits"]
    assert any("Inside malloc, and not to go on: thread 1." in text for text in limits), limits
