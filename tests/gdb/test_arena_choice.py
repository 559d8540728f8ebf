"""Promise: an explanation says why malloc worked on that arena, and why nothing that was free could serve.

What it is compared with is read by GDB from glibc's own variables, is what the test itself set (mallopt in the
fixture, GLIBC_TUNABLES), or is what mallinfo2 says.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gdbheap.simulate.arena_choice import ARENA_REASONS, ArenaFacts, choose_arena
from tests.support.debugger import Answers, Gdb, malloc_events
from tests.support.environment import glibc_version
from tests.support.programs import Programs
from tests.support.symbols import wanted

pytestmark = pytest.mark.skipif(
    glibc_version() == (0, 0), reason="the modes lead to these arenas in glibc 2.35 to 2.41"
)

#: Of each thread that there is, by GDB's number: its thread_arena.
OWN = "{thread.num: (thread.switch(), number('(long)thread_arena'))[1] for thread in gdb.selected_inferior().threads()}"
TRUTH = {
    "own": OWN,
    "ring": "ring()",
    "narenas": "number('narenas')",
    "limit": "number('arena_get2::narenas_limit')",
    "attached": "{arena: number('((struct malloc_state *)%d)->attached_threads' % arena) for arena in ring()}",
}


class Run:
    """A recording of a mode, and what GDB read itself where the program stopped while its threads were there."""

    def __init__(self, gdb: Gdb, answers: Answers, program: Path, mode: str, tunables: str | None = None) -> None:
        self.result = gdb(
            "heap catch -malloc",
            "break stop_here",
            "run",
            answers.python("truth", TRUTH),
            "delete",
            "heap catch -malloc",
            "continue",
            f"heap events {answers.into('events')}",
            "heap why-grow -all",
            before=[] if tunables is None else [f"set environment GLIBC_TUNABLES {tunables}"],
            program=program,
            args=[mode],
        ).succeeded()
        truth = answers["truth"]
        self.own = {int(number): arena for number, arena in truth["own"].items()}
        self.attached = {int(arena): count for arena, count in truth["attached"].items()}
        self.limit: int = truth["limit"]
        self.narenas: int = truth["narenas"]
        self.main: int = truth["ring"][0]
        self.events = [event for event in malloc_events(answers.events("events")) if event["arena_choice"] is not None]

    def of_threads(self, *reasons: str) -> list[dict[str, Any]]:
        """Return the events whose arena was chosen for one of these reasons."""
        return [event for event in self.events if event["arena_choice"]["reason"] in reasons]

    def reasons(self) -> dict[int, list[str]]:
        """Return the reasons of each thread's events in order, each as often as it comes anew."""
        found: dict[int, list[str]] = {}
        for event in self.events:
            mine = found.setdefault(event["thread"], [])
            if mine[-1:] != [event["arena_choice"]["reason"]]:
                mine.append(event["arena_choice"]["reason"])
        return found


def why(event: dict[str, Any]) -> str:
    """Return the sentences of an event's choice."""
    return " ".join(event["arena_choice"]["why"])


def agrees_with_gdb(run: Run) -> None:
    """Fail unless the thread_arena that was read is what GDB reads, and is the arena that the thread worked on."""
    checked = 0
    for event in run.of_threads("first-thread", "made-for-thread", "shared", "left-over", "thread"):
        if event["thread"] in run.own:
            assert event["arena_choice"]["thread_arena"] == run.own[event["thread"]], event["id"]
            assert event["arena"]["address"] == run.own[event["thread"]]
            checked += 1
    assert checked


def test_each_thread_gets_its_own(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Six threads and no limit yet: seven arenas are fewer than arena_test."""
    run = Run(gdb, answers, programs["paths"], "arenas")
    agrees_with_gdb(run)
    assert set(run.own.values()) == set(run.attached)
    assert (run.narenas, run.limit) == (7, 0)
    for thread in range(2, 8):
        assert run.reasons()[thread] == ["new", "made-for-thread"]
    made = [event for event in run.of_threads("new") if event["path"] == "heap-commit"]
    assert [event["arena_choice"]["narenas"] for event in made] == [2, 3, 4, 5, 6, 7], "each counts itself"
    assert all("arena_test (8)" in why(event) for event in made)
    for event in made:
        later = next(e for e in run.of_threads("made-for-thread") if e["thread"] == event["thread"])
        assert f"event {event['id']}" in why(later)


@pytest.mark.parametrize(
    ("mode", "tunables", "limit"),
    [
        ("arena-max", None, 3),
        ("one-arena", None, 1),
        ("arenas", "glibc.malloc.arena_max=2", 2),
    ],
)
def test_arenas_are_shared_beyond_arena_max(
    gdb: Gdb, answers: Answers, programs: Programs, mode: str, tunables: str | None, limit: int
) -> None:
    """The limit is what mallopt or the tunable set; whose arena is shared, and by how many, is what GDB reads."""
    run = Run(gdb, answers, programs["paths"], mode, tunables)
    agrees_with_gdb(run)
    assert (run.narenas, run.limit) == (limit, limit)
    reasons = run.reasons()
    for thread in range(2, limit + 1):
        assert reasons[thread] == ["new", "made-for-thread"]
    beyond = [thread for thread in run.own if thread > limit]
    assert len(beyond) >= 2
    for thread in beyond:  # who frees a chunk works on that chunk's arena
        assert set(reasons.get(thread, [])) <= {"shared", "chunk"}
    shared = run.of_threads("shared")
    assert {event["thread"] for event in shared} <= set(beyond)
    for event in shared:
        assert event["arena_choice"]["narenas_limit"] == limit
        assert f"of at most {limit}: arena_max" in why(event)
        users = [thread for thread in run.own if run.own[thread] == event["arena"]["address"]]
        assert 2 <= event["arena_choice"]["attached_threads"] <= len(users)
    for arena, count in run.attached.items():
        assert count == len([thread for thread in run.own if run.own[thread] == arena])


def test_the_processors_are_counted(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """With M_ARENA_TEST 1 they are from the second new arena on: eight arenas for each."""
    run = Run(gdb, answers, programs["paths"], "arena-test")
    processors = os.sysconf("SC_NPROCESSORS_ONLN")
    assert run.limit == 8 * processors
    first, second = [event for event in run.of_threads("new") if event["path"] == "heap-commit"][:2]
    assert "no limit yet" in why(first)
    assert f"of at most {8 * processors}: 8 for each of {processors} processor" in why(second)
    assert second["arena_choice"]["narenas_limit"] == run.limit


def test_an_arena_of_an_ended_thread(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The first thread's arena serves the second and the third, each after the one before has ended."""
    run = Run(gdb, answers, programs["paths"], "arena-again")
    agrees_with_gdb(run)
    reasons = run.reasons()
    assert (reasons[2], reasons[3], reasons[4]) == (["new", "made-for-thread"], ["left-over"], ["left-over"])
    assert {event["arena"]["address"] for event in run.of_threads("left-over")} == {run.own[2]}
    assert all(event["arena_choice"]["attached_threads"] == 1 for event in run.of_threads("left-over"))
    assert "get_free_list" in run.result.stdout


def test_another_arena_is_tried(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The thread's arena is refused a mapping, and main_arena serves: both are named."""
    run = Run(gdb, answers, programs["paths"], "arena-retry")
    (event,) = run.of_threads("retry")
    assert event["arena"]["address"] == run.main
    assert event["arena_choice"]["thread_arena"] == run.own[2] != run.main
    assert hex(run.own[2]) in why(event)
    assert event["delta"] > 0
    before = run.events[run.events.index(event) - 1]
    assert before["result"] < 0
    assert before["arena"]["address"] == run.own[2]


def test_main_arena_fails_and_a_new_one_is_tried(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    run = Run(gdb, answers, programs["paths"], "no-data-threads")
    assert run.own[1] == run.main
    assert [event["arena_choice"]["thread_arena"] for event in run.of_threads("first-thread")][:1] == [run.main]
    tried = run.of_threads("new")
    assert tried
    assert all("arena_get_retry" in why(event) and hex(run.main) in why(event) for event in tried)
    assert run.of_threads("none")


def test_free_works_on_the_chunks_arena(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """In arena-max a thread of main_arena frees and trims it; in heaps the thread's own heaps go."""
    for mode, address in (("arena-max", "main"), ("heaps", "own")):
        run = Run(gdb, answers, programs["paths"], mode)
        given = run.of_threads("chunk")
        assert given
        assert all(event["path"] in ("trim", "heap-unmap", "heap-trim") for event in given)
        assert {event["arena"]["address"] for event in given} == {run.main if address == "main" else run.own[2]}
        assert all(event["free_before"] is None for event in given)


#: What decides, read by GDB when a thread begins, by the thread's number.
AT_THE_START = """
import gdb, json
facts = {}
class Start(gdb.Breakpoint):
    def stop(self):
        number = lambda text: int(gdb.parse_and_eval(text))
        facts[gdb.selected_thread().num] = {
            'main_arena': number('(long)&main_arena'), 'word_size': 8,
            'arena_max': number('mp_.arena_max'), 'arena_test': number('mp_.arena_test'),
            'single': bool(number('__libc_single_threaded_internal')), 'thread_arena': number('(long)thread_arena'),
            'free_list': number('(long)free_list'), 'narenas': number('narenas'),
            'narenas_limit': number('arena_get2::narenas_limit'),
        }
        return False
Start('take_turn')
"""


@pytest.mark.skipif(glibc_version() < (2, 36), reason="SINGLE_THREAD_P looks at another variable there")
@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("arenas", ["new"] * 6),
        ("arena-max", ["new", "new", "shared", "shared", "shared", "shared"]),
        ("one-arena", ["shared"] * 3),
        ("arena-again", ["new", "left-over", "left-over"]),
    ],
)
def test_the_choice_is_foreseen(
    gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path, mode: str, expected: Sequence[str]
) -> None:
    """From the variables alone, before a thread's first malloc: what it gets, and where that is certain which one."""
    script = tmp_path / "start.py"
    script.write_text(AT_THE_START)
    file = tmp_path / "facts.json"
    gdb(
        f"source {script}",
        "heap catch -malloc",
        "run",
        f"python json.dump(facts, open({str(file)!r}, 'w'))",
        f"heap events {answers.into('events')}",
        program=programs["paths"],
        args=[mode],
    ).succeeded()
    facts = {int(number): ArenaFacts(**values) for number, values in _json(file).items()}
    processors = os.sysconf("SC_NPROCESSORS_ONLN")
    choices = {
        number: choose_arena(ArenaFacts(**{**found.__dict__, "processors": processors}))
        for number, found in facts.items()
    }
    assert [choices[number].reason for number in sorted(choices)] == list(expected)
    for number, choice in choices.items():
        mine = [event for event in answers.events("events") if event["thread"] == number and event["arena_choice"]]
        assert choice.reason in ARENA_REASONS
        assert all(
            event["arena_choice"]["reason"] in (choice.reason, "made-for-thread" if choice.reason == "new" else "chunk")
            for event in mine
        )
        if choice.arena is not None:
            assert mine
            assert {event["arena"]["address"] for event in mine} == {choice.arena}


def _json(file: Path) -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_fragmentation_and_need(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """mallinfo2 was asked right before each of the two requests: its figures are those that are shown."""
    result = gdb(
        "heap catch -malloc",
        "break stop_here",
        "run",
        answers.python("first", {"totals": "fields('totals_before')"}),
        "continue",
        answers.python("second", {"totals": "fields('totals_before')"}),
        "continue",
        "continue",
        f"heap events {answers.into('events')}",
        "heap why-grow -all",
        program=programs["paths"],
        args=["fragmented"],
    ).succeeded()
    *_, fragmented, need = malloc_events(answers.events("events"))
    for event, name, verdict in ((fragmented, "first", "fragmentation"), (need, "second", "need")):
        free, totals = event["free_before"], answers[name]["totals"]
        assert free["verdict"] == verdict
        assert free["complete"] is True
        assert free["bytes"] == totals["fordblks"] - totals["keepcost"]
        assert free["chunks"] == totals["ordblks"] - 1 + totals["smblks"], "mallinfo2 counts top as one"
        assert free["top"] == totals["keepcost"] < free["top_needed"] == event["chunk_size"] + 32
        assert sum(item["bytes"] for item in free["lists"]) == free["bytes"]
        assert (free["bytes"] >= event["chunk_size"]) is (verdict == "fragmentation")
        assert free["largest"] < event["chunk_size"]
    assert fragmented["free_before"]["largest"] == 4016
    text = result.stdout.replace("\n", " ")
    assert f"Fragmentation: {fragmented['free_before']['bytes']:#x}" in text
    assert f"Need: {need['free_before']['bytes']:#x}" in text


def test_what_is_free_is_told_for_calls_that_get_memory(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Not for those that give it back, and not while there is no arena to look in."""
    gdb(
        "heap catch -malloc",
        "run",
        f"heap events {answers.into('events')}",
        program=programs["paths"],
        args=["foreign-trimmed"],
    ).succeeded()
    for event in malloc_events(answers.events("events")):
        if wanted() or event["chunk_size"] is not None:
            assert (event["free_before"] is None) is (event["path"] == "trim"), event["path"]
