"""Promise: `heap catch` records what it is asked to, ends when told to, and lives with the user's own catchpoints."""

from __future__ import annotations

import re
from typing import Any

from tests.support.debugger import Answers, Gdb
from tests.support.programs import Programs
from tests.support.symbols import wanted


def recorded(gdb: Gdb, answers: Answers, programs: Programs, *commands: str, program: str = "growth") -> list[Any]:
    """Return the events after these commands."""
    gdb(*commands, f"heap events {answers.into('events')}", program=programs[program]).succeeded()
    return answers.events("events")


def test_only_the_calls_that_are_named(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """A list of system calls narrows the recording."""
    events = recorded(gdb, answers, programs, "heap catch mmap mremap", "run")
    assert {event["syscall"] for event in events} == {"mmap", "mremap"}


def test_only_mallocs(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """-malloc leaves out what others do, and nothing else."""
    events = recorded(gdb, answers, programs, "heap catch", "run")
    wanted = [(event["syscall"], event["args"]) for event in events if event["kind"] == "malloc"]
    answers.path("events").unlink()
    events = recorded(gdb, answers, programs, "heap catch -malloc", "run")
    assert [(event["syscall"], event["args"]) for event in events] == wanted
    assert len(wanted) > 20


def test_off_ends_it_and_keeps_what_there_is(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """After -off nothing more is recorded."""
    events = recorded(
        gdb, answers, programs, "heap catch -malloc", "break stop_here", "run", "heap catch -off", "continue"
    )
    assert [event["syscall"] for event in events][-1] == "mremap", "what came before the breakpoint"


def test_off_without_a_recording(gdb: Gdb, programs: Programs) -> None:
    """There is nothing to end: one sentence, status 1, and the next command works."""
    result = gdb("heap catch -off", "echo after\\n", "heap catch -off", program=programs["growth"])
    result.has_no_internal_error()
    assert result.status == 1
    assert result.stderr.count("Nothing is being recorded") == 2
    assert "after" in result.stdout


def test_a_catchpoint_that_the_user_deleted(gdb: Gdb, programs: Programs) -> None:
    """It is as if it had been switched off; a new one can be set."""
    result = gdb("heap catch", "delete 1", "heap catch -off", "heap catch -malloc", "run", program=programs["seed"])
    result.has_no_internal_error()
    assert "Nothing is being recorded" in result.stderr
    assert re.search(r"brk \+0x2[12]000\b", result.stdout)


def test_two_runs_in_one_session(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The second run is recorded like the first, and numbered on."""
    events = recorded(gdb, answers, programs, "heap catch -malloc", "run", "run")
    half = len(events) // 2
    first, second = events[:half], events[half:]
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    assert first[0]["process"] != second[0]["process"]
    assert [(event["syscall"], event["args"]) for event in first] == [
        (event["syscall"], event["args"]) for event in second
    ]


def test_the_users_own_catchpoints_stop_as_before(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """A user's `catch syscall brk` stops at entry and return; the record has each call once."""
    events = recorded(
        gdb, answers, programs, "heap catch brk", "catch syscall brk", "run", *["continue"] * 5, program="seed"
    )
    assert [(event["syscall"], event["kind"]) for event in events] == [
        ("brk", "loader"),
        ("brk", "program"),
        ("brk", "malloc"),
    ]


def test_lines_come_in_order_and_before_what_follows(gdb: Gdb, programs: Programs) -> None:
    """Each event has its line, in order, and all lines are out when GDB stops."""
    output = (
        gdb("heap catch -malloc", "break stop_here", "run", "echo STOPPED\\n", program=programs["callers"])
        .succeeded()
        .stdout
    )
    before, _, _ = output.partition("STOPPED")
    numbers = [int(line[1:].split()[0]) for line in before.splitlines() if line.startswith("#")]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 400


def test_stop_stops_at_each(gdb: Gdb, programs: Programs) -> None:
    """-stop stops the program inside the call, its result known, and the explanation is there at once."""
    result = gdb("heap catch -malloc -stop", "run", "continue", "heap why-grow", program=programs["cplus"]).succeeded()
    assert "(exact)" in result.stdout or (not wanted() and "that is a range" in result.stdout)
    assert "Catchpoint" in result.stdout
