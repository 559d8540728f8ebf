"""Promise: what shows the heap says first what may be changing, and who holds or awaits malloc's locks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.programs import Programs

#: Every command that shows the heap, with an argument where it needs one.
COMMANDS = {
    "heap": "heap",
    "arenas": "heap arenas",
    "top": "heap top",
    "bins": "heap bins",
    "tcache": "heap tcache",
    "chunks": "heap chunks",
    "chunk": "heap chunk blocks[3]",
    "map": "heap map",
    "find": "heap find",
    "refs": "heap refs blocks[3]",
    "check": "heap check",
}
#: The stack of each thread as GDB has it: how the oracle tells who is where.
FRAMES = """{str(thread.num): (thread.switch(), [line for line in
    gdb.execute('backtrace', to_string=True).splitlines() if line.startswith('#')])[1]
    for thread in gdb.selected_inferior().threads()}"""


def _stop(mode: str) -> tuple[str, ...]:
    return (
        "handle SIGSEGV nostop noprint pass",
        "set follow-fork-mode child",
        "break stop_here",
        f"run {mode}",
    )


@pytest.mark.parametrize("mode", ["handler", "waiters", "child"])
def test_who_holds_a_lock_and_who_waits(gdb: Gdb, answers: Answers, programs: Programs, mode: str) -> None:
    """The program knows: its main thread holds the lock, itself or others wait; in the child nobody has it."""
    result = gdb(
        *_stop(mode),
        f"heap arenas {answers.into('arenas')}",
        f"heap check {answers.into('check')}",
        answers.python("truth", {"frames": FRAMES, "pids": "[number('tids[%d]' % i) for i in range(2)]"}),
        answers.python("threads", {"tids": "{str(t.num): t.ptid[1] for t in gdb.selected_inferior().threads()}"}),
        program=programs["locks"],
    )
    result.has_no_internal_error()
    (arena,) = [item for item in answers["arenas"]["arenas"] if item["lock"] is not None]
    lock = arena["lock"]
    assert arena["name"] == lock["arena"] == "main_arena"
    assert arena["locked"]
    assert lock["contended"]
    assert lock["known"]
    assert answers["check"]["unsettled"]["locks"] == [lock]
    assert "The lock of main_arena is held" in result.stdout
    tids = answers["threads"]["tids"]
    waiting = {tids[str(item["thread"])] for item in lock["waiting"]}
    if mode == "handler":
        assert waiting == {answers["truth"]["pids"][0]}
        assert lock["holder"]["thread"] == lock["waiting"][0]["thread"]
        assert lock["dead"]
        # The handler's call is newer than the one that it has interrupted.
        assert lock["holder"]["level"] > lock["waiting"][0]["level"]
        assert "waits for it for ever" in result.stdout
    elif mode == "waiters":
        assert waiting == set(answers["truth"]["pids"])
        assert lock["holder"]["thread"] == 1
        assert not lock["dead"]
    else:
        assert lock["holder"] is None
        assert len(waiting) == 1
        assert lock["dead"]
        assert "no thread of this process holds it" in result.stdout
    for item in lock["waiting"]:
        frame = answers["truth"]["frames"][str(item["thread"])][item["level"]]
        assert frame.startswith(f"#{item['level']} ")
        assert (item["function"] or "malloc_trim").replace("__libc_", "") in frame


def test_every_command_says_that_a_thread_is_inside_malloc(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    asked = [f"{command} {answers.into(name)}" for name, command in COMMANDS.items()]
    result = gdb(*_stop("waiters"), *asked, program=programs["locks"])
    result.has_no_internal_error()
    for name in COMMANDS:
        unsettled = answers[name]["unsettled"]
        assert unsettled["running"] == []
        (inside,) = unsettled["inside"]
        assert (inside["thread"], inside["call"]) == (1, "malloc"), name
        assert "main_arena" in inside["arenas"]
        assert not inside["ended"]
    assert not answers["find"]["complete"]
    assert not answers["refs"]["complete"]
    assert result.stdout.count("Thread 1 is inside malloc") == len(COMMANDS)


def test_every_command_says_that_threads_run(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Nothing of a heap that changes meanwhile is a fact, whatever it looks like."""
    asked = [f"{command} {answers.into(name)}" for name, command in COMMANDS.items()]
    asked += [f"heap bins -all {answers.into(f'again{number}')}" for number in range(8)]
    result = gdb("set non-stop on", "break stop_here", "run runs", *asked, program=programs["locks"])
    result.has_no_internal_error()
    said = result.stdout
    for name in (*COMMANDS, *(f"again{number}" for number in range(8))):
        assert answers[name]["unsettled"]["running"] == [2], name
    assert not answers["find"]["complete"]
    assert said.count("Thread 2 is running") == len(asked)
    assert "had freed" not in said
    assert "The heap is corrupt" not in said + result.stderr


def test_a_heap_at_rest(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Stopped where malloc begins, no thread has done a step of it: only a later one counts."""
    result = gdb(
        "break stop_here",
        "run",
        f"heap find {answers.into('rest')}",
        "break malloc",
        "continue",
        f"heap find {answers.into('entry')}",
        program=programs["pointers"],
    )
    result.has_no_internal_error()
    assert answers["rest"]["unsettled"] is None
    assert answers["entry"]["unsettled"] is None
    assert answers["rest"]["complete"]
    assert answers["entry"]["complete"]


def test_the_api_says_it_too(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    facts: dict[str, Any] = {
        "complete": "__import__('gdbheap').heap().complete",
        "inside": "[item.thread for item in __import__('gdbheap').heap().unsettled.inside]",
        "waiting": "[item.thread for item in __import__('gdbheap').heap().unsettled.locks[0].waiting]",
    }
    gdb(*_stop("waiters"), answers.python("api", facts), program=programs["locks"]).has_no_internal_error()
    assert not answers["api"]["complete"]
    assert answers["api"]["inside"] == [1]
    assert len(answers["api"]["waiting"]) == 2
