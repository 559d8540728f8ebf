"""Promise: what `heap events` adds up by caller, arena, kind and library is what the kernel gave and took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.environment import needs
from tests.support.procmaps import MAPS, accessible_bytes
from tests.support.programs import Programs
from tests.support.strace import trace

BY = ("caller", "arena", "kind", "library")
FILTERS = {
    "malloc": "-kind malloc",
    "brk": "-syscall brk",
    "large": "-min-size 0x20000 -max-size 1<<20",
    "thread": "-thread 2",
    "of-arena": "-arena 1",
}


@pytest.fixture(scope="module", params=["growth", "threads", "own", "cplus", "/usr/bin/python3"])
def recorded(
    request: pytest.FixtureRequest, gdb: Gdb, programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Answers:
    """Record a program from its first instruction to its end, with the kernel's maps at both ends."""
    answers = Answers(tmp_path_factory.mktemp("groups"))
    own = not request.param.startswith("/")
    gdb(
        "heap catch",
        "starti",
        answers.python("before", {"maps": MAPS}),
        "catch syscall exit_group",
        "continue",
        answers.python("after", {"maps": MAPS}),
        *(f"heap events -by {by} {answers.into(by)}" for by in BY),
        *(f"heap events {option} {answers.into(name)}" for name, option in FILTERS.items()),
        program=programs[request.param] if own else needs(request.param),
        args=() if own else ["-S", "-c", "x=list(map(lambda*n:[n]*99,range(9999)));x=0;y=bytes(9999999)"],
    ).succeeded()
    return answers


def test_all_that_was_got_and_not_given_back_is_mapped(recorded: Answers) -> None:
    """The kernel's map grew by what the groups got less what they gave back; and that is what they hold."""
    grew = accessible_bytes(recorded["after"]["maps"]) - accessible_bytes(recorded["before"]["maps"])
    for by in BY:
        groups = recorded[by]["groups"]
        got, gave_back = (sum(group[key] for group in groups) for key in ("got", "gave_back"))
        assert got - gave_back == grew, by
        assert not any(group["unknown"] for group in groups)
        # What was there at the beginning can be given back too, but only by who did not get it.
        assert sum(group["holds"] for group in groups) >= grew
        assert all(0 <= group["holds"] <= group["got"] for group in groups)


def test_each_event_is_in_one_group(recorded: Answers) -> None:
    for by in BY:
        answer = recorded[by]
        numbers = [number for group in answer["groups"] for number in group["events"]]
        assert sorted(numbers) == [event["id"] for event in answer["events"]]
        assert len({group["name"] for group in answer["groups"]}) == len(answer["groups"])


def test_the_groups_by_caller_name_callers(recorded: Answers) -> None:
    """GDB goes on behind the loader's first function; what is there is the stack's own contents, no caller."""
    frames = [frame for event in recorded["library"]["events"] for frame in event["frames"]]
    assert not [frame for frame in frames if frame["pc"] < 0x1000 or frame["objfile"] == "[stack]"]
    if any("libstdc++.so.6" in str(frame["objfile"]) for frame in frames):
        assert "libstdc++.so.6" in {group["name"] for group in recorded["library"]["groups"]}
    own = {"__glibc_morecore", "sysmalloc", "sysmalloc_mmap"}
    assert not own & {group["name"].split(" ")[0] for group in recorded["caller"]["groups"]}


def test_the_kinds_are_those_of_the_events(recorded: Answers) -> None:
    answer = recorded["kind"]
    kind = {event["id"]: event["kind"] for event in answer["events"]}
    for group in answer["groups"]:
        assert {kind[number] for number in group["events"]} == {group["name"]}


def amount(event: dict[str, Any]) -> int:
    if event["syscall"] in ("mprotect", "madvise"):
        return int(event["args"][1])
    return abs(int(event["delta"]))


def test_filters_leave_out_what_does_not_fit(recorded: Answers) -> None:
    """What fits is picked here from the whole list, by its JSON."""
    everything = recorded["kind"]["events"]
    wanted = {
        "malloc": [event["id"] for event in everything if event["kind"] == "malloc"],
        "brk": [event["id"] for event in everything if event["syscall"] == "brk"],
        "large": [event["id"] for event in everything if 0x20000 <= amount(event) <= 1 << 20],
        "thread": [event["id"] for event in everything if event["thread"] == 2],
    }
    for name, numbers in wanted.items():
        answer = recorded[name]
        assert [event["id"] for event in answer["events"]] == numbers, name
        assert answer["filtered_out"] == len(everything) - len(numbers)
    of_arena = [event["arena"]["name"] for event in recorded["of-arena"]["events"] if event["arena"] is not None]
    assert set(of_arena) <= {"arena 1"}


def test_the_phases_go_from_loading_to_the_last_event(recorded: Answers) -> None:
    answer = recorded["kind"]
    phases = answer["phases"]
    malloc = next((group for group in answer["groups"] if group["name"] == "malloc"), {"got": 0, "gave_back": 0})
    names = [phase["name"] for phase in phases]
    assert names[0] == "loading"
    assert names.count("first-heap") == bool(malloc["got"])
    assert phases[0]["first"] == 1
    assert phases[-1]["last"] == answer["events"][-1]["id"]
    assert all(later["first"] == phase["last"] + 1 for phase, later in zip(phases, phases[1:]))
    assert phases[-1]["after"] == malloc["got"] - malloc["gave_back"]


def test_the_first_heap_is_where_strace_sees_the_break_move(
    gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path
) -> None:
    gdb("heap catch", "run", f"heap events {answers.into('events')}", program=programs["growth"]).succeeded()
    calls = trace(tmp_path / "strace", programs["growth"], []).calls
    moved = next(place for place, call in enumerate(calls, 1) if call.syscall == "brk" and call.args[0] and call.result)
    (first,) = (phase for phase in answers["events"]["phases"] if phase["name"] == "first-heap")
    assert first["last"] == moved


def test_a_list_has_its_phases_and_a_table_its_sums(gdb: Gdb, programs: Programs) -> None:
    done = gdb(
        "heap catch",
        "run",
        "echo [list]\\n",
        "heap events -all",
        "echo [few]\\n",
        "heap events -count 3",
        "echo [phases]\\n",
        "heap events -phases",
        "echo [groups]\\n",
        "heap events -by caller -count 2",
        "echo [some]\\n",
        "heap events -kind loader",
        program=programs["growth"],
    ).succeeded()
    parts = dict(part.split("]\n", 1) for part in done.stdout.split("\n[")[1:] if "]\n" in part)
    names = [line.split(":")[0] for line in parts["list"].splitlines() if line.startswith("--")]
    assert names == ["-- loading", "-- first heap", "-- growth", "-- shrinking"]
    assert [line.split(": ")[1] for line in parts["phases"].splitlines()] == [name[3:] for name in names]
    rows = [line for line in parts["few"].splitlines() if line.startswith("   ") and line.strip()[:1].isdigit()]
    assert len(rows) == 3
    assert parts["few"].splitlines()[-1].endswith("left out: 'heap events -all' lists them.")
    table = parts["groups"].splitlines()
    assert table[4].startswith("(")
    assert table[5].startswith("all ")
    assert parts["some"].splitlines()[-1].endswith("other events did not fit the options.")
    assert not any(line.startswith("--") for line in parts["some"].splitlines())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("heap events -by size", "-by is one of caller, arena, kind, library, not 'size'."),
        ("heap events -kind heap", "-kind is one of malloc, loader,"),
        ("heap events -by kind -phases", "give one of them."),
        ("heap events -thread x+", "-thread is a number or an expression that has one"),
        ("heap events -min-size -5", "-min-size is a number that is not negative, not -5."),
    ],
)
def test_wrong_options_are_said(gdb: Gdb, programs: Programs, command: str, said: str) -> None:
    done = gdb("heap catch", "run", command, program=programs["seed"])
    assert done.status == 1
    assert said in done.stderr
    done.has_no_internal_error()


def test_options_are_completed(gdb: Gdb) -> None:
    done = gdb("complete heap events -by ", "complete heap events -kind l", "complete heap events -min").succeeded()
    lines = done.stdout.splitlines()
    for by in BY:
        assert f"heap events -by {by}" in lines
    assert {"heap events -kind loader", "heap events -kind locale", "heap events -min-size"} <= set(lines)


def test_the_trace_has_the_sums_of_its_events(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    done = gdb(f"heap trace -json {path}", program=programs["growth"])
    found = json.loads(path.read_text())
    numbers = [event["id"] for event in found["events"]]
    for key in ("by_kind", "by_caller"):
        assert sorted(number for group in found[key] for number in group["events"]) == numbers
    for group in found["by_kind"]:
        line = next(line for line in done.stderr.splitlines() if line.startswith(f"{group['name']} "))
        assert f"{group['got']:#x}" in line.replace(" 0 ", " 0x0 ")
        assert f" {len(group['events']):,} " in line
    assert "phase 1, #1 to #" in done.stderr
