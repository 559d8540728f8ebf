"""Promise: with several threads stopped, the prediction for one is what it gets when it alone is let run.

And a core file answers what the process did when the core was written.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.programs import Programs
from tests.support.symbols import wanted

SIZES = (24, 100, 600, 1500, 5000, 60000, 100)


@pytest.mark.parametrize("thread", [1, 2, 3])
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
