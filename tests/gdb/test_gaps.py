"""Promise: what GDB did not report is an event of its own with its bytes, and each byte is counted once."""

from __future__ import annotations

import re

import pytest

from tests.support.debugger import Answers, Gdb, Result
from tests.support.programs import Programs

STEPS = ("break stop_here", "run", "watch wide", "continue", "continue", "delete 3", "continue")


def moved(result: Result, which: str) -> int:
    """Return by how much the program itself saw the break move."""
    found = re.search(rf"ORACLE {which} (0x[0-9a-f]+) (0x[0-9a-f]+)", result.stdout)
    assert found is not None, result.describe()
    return int(found[2], 16) - int(found[1], 16)


@pytest.mark.parametrize(
    ("how", "commands", "kind"),
    [
        ("steps", STEPS, "single-steps"),
        ("vfork", ("break 60 if 0", "run"), "vfork-child"),
        ("clone", ("run",), "unknown"),
    ],
)
def test_a_gap_has_the_bytes(
    how: str, commands: tuple[str, ...], kind: str, gdb: Gdb, answers: Answers, programs: Programs
) -> None:
    result = gdb(
        "heap catch -malloc",
        *commands,
        f"heap events {answers.into('events')}",
        f"heap timeline {answers.into('timeline')}",
        f"heap events -by kind {answers.into('kinds')}",
        program=programs["missed"],
        args=[how],
    )
    result.has_no_internal_error()
    events = answers.events("events")
    gaps = [event for event in events if event["kind"] == "gap"]
    assert {event["gap"] for event in gaps} == {kind}, gaps
    missing = [event for event in gaps if event["args"][0] > 1 << 30]
    assert sum(event["delta"] for event in missing) == moved(result, "meanwhile")
    brks = [event for event in events if event["syscall"] == "brk" and event["id"] > missing[-1]["id"]]
    assert sum(event["delta"] for event in brks) == moved(result, "then")
    assert all(event["exact"] is not False for event in events)
    grown = sum(event["delta"] for event in events if event["syscall"] == "brk" or event in missing)
    series = answers["timeline"]["series"]["break"]
    assert series["last"] - series["begin"] == grown
    (group,) = [item for item in answers["kinds"]["groups"] if item["name"] == "gap"]
    assert group["got"] == sum(event["delta"] for event in gaps)


def test_each_byte_of_shared_memory_is_counted_once(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """A process with the same memory that GDB follows: its own events have the calls."""
    result = gdb(
        "heap catch -malloc -follow both",
        *("run", "inferior 1", "continue"),
        f"heap events {answers.into('events')}",
        f"heap events -by kind {answers.into('kinds')}",
        program=programs["missed"],
        args=["clone"],
    )
    result.has_no_internal_error()
    events = answers.events("events")
    (gap,) = [event for event in events if event["kind"] == "gap"]
    assert gap["gap"] == "shared-memory"
    child = [event for event in events if event["process"] != gap["process"]]
    assert sum(event["delta"] for event in child if event["syscall"] == "brk") == gap["delta"]
    assert gap["delta"] == moved(result, "meanwhile")
    groups = {item["name"]: item["got"] for item in answers["kinds"]["groups"]}
    assert groups["gap"] == 0
    assert groups["malloc"] == sum(event["delta"] for event in events if event["kind"] == "malloc")


def test_single_steps_are_said_at_once(gdb: Gdb, programs: Programs) -> None:
    """GDB sees no system call while a software watchpoint is there; no request is said to have needed none."""
    result = gdb("heap catch -malloc", *STEPS, "heap why-grow 2", program=programs["missed"], args=["steps"])
    before, _, after = result.stdout.partition("Watchpoint 3: wide")
    assert "step by step, and it sees no system call" in after.partition("ORACLE")[0]
    assert "step by step" not in before
    large = [line for line in result.stdout.splitlines() if "malloc(200000)" in line]
    assert large
    assert all("it needed a system call that was not recorded" in line for line in large)


def test_a_request_that_malloc_refuses_stops_nothing(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """It is among the calls that are watched after the first growth; the program runs to its end."""
    result = gdb(
        "heap catch -malloc",
        "run",
        "heap why-grow 2",
        f"heap events {answers.into('events')}",
        program=programs["missed"],
        args=["refused"],
    )
    result.has_no_internal_error()
    assert "exited normally" in result.stdout
    assert moved(result, "then") > 0
    assert f"malloc({(1 << 64) - 1})" in result.stdout
    assert "refused, no chunk can be that large" in result.stdout
    assert answers["events"]["gaps"] == []
