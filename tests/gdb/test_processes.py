"""Promise: a recording follows a program through forks, execs and ends, and says what it may have missed.

c_fixtures/family.c has a mode for each way; the oracle for each process's calls is strace.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.gdb.test_events_strace import one_for_one, plain, seen
from tests.support.debugger import Answers, Gdb, Result
from tests.support.programs import Programs
from tests.support.recorded_processes import Pair, pairs, reported, traced
from tests.support.strace_processes import trace_tree
from tests.support.symbols import to_the_byte

#: What happens in each mode of family.c: how the program and its children end.
ONE_THREAD = {
    "grow": ["exited with 0"],
    "fork": ["exited with 0", "exited with 3"],
    "fork-twice": ["exited with 0", "exited with 3", "exited with 3"],
    "fork-exec": ["exited with 0", "exited with 0"],
    "vfork-exec": ["exited with 0", "exited with 0"],
    "spawn": ["exited with 0", "exited with 0"],
    "exec": ["exited with 0"],
    "exec-fails": ["exited with 0"],
    "crash": ["killed by signal 11"],
}


def both_runs(gdb: Gdb, answers: Answers, program: Path, mode: str) -> tuple[dict[str, Any], list[Pair]]:
    """Run a mode under `heap trace` and under strace; return the recording, and both runs process by process."""
    found = traced(gdb, answers, program, [mode])
    root, _ = trace_tree(answers.folder / "strace", program, [mode])
    return found, pairs(found, root)


@pytest.mark.parametrize("mode", list(ONE_THREAD))
def test_each_process_is_recorded(gdb: Gdb, answers: Answers, programs: Programs, mode: str) -> None:
    """Each process made the calls that strace saw of it, ran those programs, and ended so; malloc's are predicted."""
    found, both = both_runs(gdb, answers, programs["family"], mode)
    for pair in both:
        pair.ran_the_same()
        assert pair.recorded.record["recorded"]
        one_for_one(pair.recorded.events, reported(pair, found))
        assert all(to_the_byte(event) for event in pair.recorded.of_malloc)
    assert [pair.recorded.record["end"] for pair in both] == ONE_THREAD[mode]
    assert any(pair.recorded.of_malloc for pair in both)


def test_a_thread_that_forks(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The child has one thread, the one that forked, and its arena; what its maker did before is the maker's."""
    _found, both = both_runs(gdb, answers, programs["family"], "thread-fork")
    maker, child = both
    assert maker.seen.threads == 2
    one_for_one(maker.recorded.events, maker.seen.calls)
    one_for_one(child.recorded.events, child.seen.calls)
    assert {event["arena"]["name"] for event in child.recorded.of_malloc} == {"arena 1"}
    assert all(to_the_byte(event) for pair in both for event in pair.recorded.of_malloc)


def test_a_fork_while_another_thread_is_inside_its_call(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The call returns in the process that made it, and is none of the child's."""
    _, (maker, child) = both_runs(gdb, answers, programs["family"], "fork-inside")
    one_for_one(maker.recorded.events, maker.seen.calls)
    one_for_one(child.recorded.events, child.seen.calls)
    (event,) = [event for event in maker.recorded.events if event["args"][1:2] == [1 << 28]]
    assert event["delta"] == 1 << 28
    assert all(to_the_byte(event) for pair in (maker, child) for event in pair.recorded.of_malloc)


def test_events_have_their_time_and_their_process(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Times never go back, and processes begin and end in the order in which they do under strace."""
    found, both = both_runs(gdb, answers, programs["family"], "fork-twice")
    times = [event["time"] for event in found["events"]]
    assert times[0] < 0.1, "from the first event on"
    assert times == sorted(times)
    assert times[-1] <= found["seconds"]
    assert found["largest"]
    order = [call[0] for call in sorted(times_of(both), key=lambda call: call[1])]
    place = {pair.recorded.record["process"]: pair.place for pair in both}
    assert [place[event["process"]] for event in found["events"]] == order


def times_of(both: list[Pair]) -> list[tuple[tuple[int, ...], float]]:
    """Return each call that strace saw, as the place of its process and its time."""
    return [(pair.place, moment) for pair in both for moment in pair.seen.moments]


@pytest.mark.parametrize(("mode", "last"), [("exit-inside", "exited with 7"), ("exec-inside", "exited with 0")])
def test_a_thread_ends_inside_its_call(gdb: Gdb, answers: Answers, programs: Programs, mode: str, last: str) -> None:
    """Its call has no result, as under strace; nothing that comes later is taken for it."""
    _found, (pair,) = both_runs(gdb, answers, programs["family"], mode)
    one_for_one(pair.recorded.events, pair.seen.calls)
    (event,) = [event for event in pair.recorded.events if event["result"] is None]
    assert (event["syscall"], event["args"][1], event["delta"], event["exact"]) == ("mmap", 1 << 30, None, None)
    assert event["thread"] == 2
    assert pair.recorded.record["end"] == last
    assert all(to_the_byte(event) for event in pair.recorded.of_malloc)


def test_a_call_without_a_return_in_the_list(gdb: Gdb, programs: Programs) -> None:
    """The list and the explanation say that it did not return."""
    result = gdb("heap catch", "run", "heap events -all", program=programs["family"], args=["exit-inside"]).succeeded()
    (line,) = [line for line in result.stdout.splitlines() if "not returned" in line]
    assert "the program's own mmap in maps_for_long" in line
    number = line.split()[0]
    result = gdb("heap catch", "run", f"heap why-grow {number}", program=programs["family"], args=["exit-inside"])
    result.succeeded()
    assert f"event {number}: mmap has not returned" in result.stdout


@pytest.mark.parametrize(
    ("follow", "processes"), [("parent", ["parent"]), ("child", ["parent", "child"]), ("both", ["parent", "child"])]
)
def test_following(
    gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path, follow: str, processes: list[str]
) -> None:
    """-follow says whose calls are recorded; with `child` those of the parent up to the fork."""
    result = gdb(
        f"heap catch -follow {follow}",
        "run",
        "inferior 1",
        *(["continue"] if follow == "both" else []),
        f"heap events {answers.into('events')}",
        "heap catch -off",
        "show follow-fork-mode",
        "show detach-on-fork",
        "show schedule-multiple",
        program=programs["family"],
        args=["fork"],
    )
    result.has_no_internal_error()
    root, _ = trace_tree(tmp_path / "strace", programs["family"], ["fork"])
    (child,) = root.children
    events = answers.events("events")
    numbers = list(dict.fromkeys(event["process"] for event in events))
    assert len(numbers) == len(processes)
    mine = [event for event in events if event["process"] == numbers[0]]
    if follow == "child":
        one_for_one(mine, root.calls[: len(mine)])
        assert 0 < len(mine) < len(root.calls)
    else:
        one_for_one(mine, root.calls)
    if len(numbers) > 1:
        one_for_one([event for event in events if event["process"] == numbers[1]], child.calls)
    assert all(to_the_byte(event) for event in events if event["kind"] == "malloc")
    assert '"parent"' in result.stdout, "GDB's own settings are back"
    assert "detach-on-fork" not in result.stderr
    assert re.search(r"detach.* is on\.", result.stdout)
    assert re.search(r"threads of all processes is off\.", result.stdout)


def test_a_child_that_stays(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The program ends before its child: the child is recorded to its own end, an end of file."""
    read, write = os.pipe()
    os.close(write)
    with os.fdopen(read, "rb") as nothing:
        report = answers.path("report").with_suffix(".txt")
        gdb(
            f"heap trace -o {report} {answers.into('trace')}",
            program=programs["family"],
            args=["leave"],
            stdin=nothing,
        ).succeeded()
    found = answers["trace"]
    assert [process["end"] for process in found["processes"]] == ["exited with 0", "exited with 0"]
    assert len({event["process"] for event in found["events"] if event["kind"] == "malloc"}) == 2


def gaps_of(result: Result) -> list[str]:
    """Return the lines of a listing that say that calls may be missing."""
    return [line for line in result.stdout.splitlines() if "calls may be missing" in line]


#: What a user may do to our catchpoint, and what is said then.
MEDDLING = {
    "delete $number": r"Catchpoint \d+ was deleted: 'heap catch' begins anew\.",
    "disable $number": r"Catchpoint \d+ is disabled: 'enable \d+' goes on with the recording\.",
    "condition $number 1 == 0": r"Catchpoint \d+ has another condition than .*, with which it records: ",
    "condition $number": r"Catchpoint \d+ has another condition than .*, with which it records: ",
}
NUMBER = "python gdb.set_convenience_variable('number', gdb.convenience_variable('bpnum'))"


@pytest.mark.parametrize("command", list(MEDDLING))
def test_our_catchpoint_is_not_left_alone(gdb: Gdb, answers: Answers, programs: Programs, command: str) -> None:
    """What is missing from then on is said where the events are listed, in text and in JSON."""
    ours = [f"python gdb.execute('{command}'.replace('$number', str(int(gdb.convenience_variable('number')))))"]
    result = gdb(
        "heap catch",
        NUMBER,
        "break stop_here",
        "run",
        f"heap events {answers.into('first')}",
        *ours,
        "continue",
        *(["continue"] if command == "condition $number" else []),
        "echo LISTING\\n",
        f"heap events -all {answers.into('second')}",
        program=programs["growth"],
    )
    result.has_no_internal_error()
    (line,) = gaps_of(result)
    first = answers["first"]
    assert line.startswith(f"From event {len(first['events']) + 1} on calls may be missing.")
    assert re.search(MEDDLING[command], line)
    assert first["gaps"] == []
    (gap,) = answers["second"]["gaps"]
    assert gap["after"] == len(first["events"])
    assert gap["reason"] in line
    later = answers.events("second")[len(first["events"]) :]
    assert answers.events("second")[: len(first["events"])] == answers.events("first")
    # How much moved meanwhile is seen where the process stops next.
    assert {event["gap"] for event in later} <= {"off"}


def test_a_disabled_catchpoint_goes_on(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """`enable`, as it was said, records again; the gap stays in the record."""
    commands = ("heap catch", NUMBER, "break main", "break stop_here", "run", "disable 1", "continue", "enable 1")
    gdb(*commands, "continue", f"heap events {answers.into('events')}", program=programs["growth"]).succeeded()
    found = answers["events"]
    assert len(found["gaps"]) == 1
    after = [event for event in found["events"] if event["id"] > found["gaps"][0]["after"]]
    assert after
    assert {event["kind"] for event in after if event["gap"] is None} == {"malloc"}
    assert [event["gap"] for event in after if event["gap"] is not None] == ["off"]


def test_an_ignore_count_is_no_gap(gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path) -> None:
    """GDB counts only those stops that a condition asks for: the recording goes on."""
    root, _ = trace_tree(tmp_path / "strace", programs["growth"])
    listing = f"heap events {answers.into('events')}"
    gdb("heap catch", "ignore 1 1000", "run", listing, program=programs["growth"]).succeeded()
    one_for_one(answers.events("events"), root.calls)
    assert answers["events"]["gaps"] == []


def test_the_users_own_catchpoint_stops_as_ever(gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path) -> None:
    """Theirs stops at each entry and return of brk, runs its commands, counts its hits; ours records beside it."""
    root, _ = trace_tree(tmp_path / "strace", programs["growth"])
    brks = sum(call.syscall == "brk" for call in root.calls)
    script = tmp_path / "script"
    script.write_text(
        "heap catch\n"
        "catch syscall brk\n"
        "commands\n  silent\n  echo THEIRS\\n\n  continue\nend\n"
        "run\n"
        "echo PART\\n\n"
        "info breakpoints\n"
        f"heap events {answers.into('events')}\n"
        "heap catch -off\n"
        "info breakpoints\n"
        "echo PART\\n\n"
        "run\n"
    )
    result = gdb(f"source {script}", program=programs["growth"])
    result.has_no_internal_error()
    first, listed, second = result.stdout.split("PART\n")
    assert first.count("THEIRS\n") == 2 * brks
    assert f"already hit {2 * brks} times" in listed
    assert len(re.findall(r'catchpoint .*syscall "brk"', listed)) == 2, "it is there after the recording, too"
    assert second.count("THEIRS\n") == 2 * brks
    one_for_one(answers.events("events"), root.calls)
    assert answers["events"]["gaps"] == []


def test_the_users_own_condition_on_their_catchpoint(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Theirs has a condition of its own and stops where that holds; at that stop ours has recorded the call."""
    result = gdb(
        "heap catch",
        "catch syscall mremap",
        "condition 2 $rax != -38",
        "run",
        "info breakpoints",
        f"heap events {answers.into('events')}",
        "kill",
        program=programs["growth"],
    ).succeeded()
    assert "stop only if $rax != -38" in result.stdout
    assert "returned from syscall mremap" in result.stdout
    last = answers.events("events")[-1]
    assert last["syscall"] == "mremap"
    assert last["result"] is not None
    assert answers["events"]["gaps"] == []


#: Sends GDB a real SIGINT while the recorder is inside a function of its own, at the call of that number.
INTERRUPT = """
import os, signal
from gdbheap.debugger import catch, recorded
owner, name, wanted = {owner}, {name!r}, {number}
inside, calls = getattr(owner, name), 0
def interrupted(*args, **named):
    global calls
    result = inside(*args, **named)
    calls += 1
    if calls == wanted:
        os.kill(os.getpid(), signal.SIGINT)
        for turn in range(1000000):
            pass
    return result
setattr(owner, name, interrupted)
"""


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        ("recorded.SyscallReader", "entry", 3),  # a call of the loader's
        ("recorded.SyscallReader", "entry", 25),  # one of malloc's, from a stack that is known
        ("catch", "read_at_call", 1),  # the first growth, while malloc's state is read
        ("recorded.SyscallReader", "name", 21),  # a return
    ],
)
def test_gdb_is_interrupted_while_it_reads_a_call(
    gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path, owner: str, name: str, number: int
) -> None:
    """GDB stops there and goes on at `continue`; what is missing is one call or its result, and that is said.

    Newer GDBs hand the signal to the program as long as it runs: the recorder is not interrupted, and misses nothing.
    """
    root, _ = trace_tree(tmp_path / "strace", programs["growth"])
    result = gdb(
        "heap catch",
        f"python exec({INTERRUPT.format(owner=owner, name=name, number=number)!r}, {{}})",
        "run",
        "info inferiors",
        "continue",
        f"heap events -all {answers.into('events')}",
        program=programs["growth"],
    )
    assert "Traceback" not in result.stdout + result.stderr, result.describe()
    assert f"process {answers.events('events')[0]['process']}" in result.stdout.split("Num  Description")[1]
    found = answers["events"]
    recorded_calls = Counter(plain(event) for event in found["events"])
    missing = Counter(seen(call) for call in root.calls) - recorded_calls
    if "Program received signal SIGINT" in result.stdout:
        assert not found["gaps"]
        assert not missing
    else:
        (gap,) = found["gaps"]
        assert "interrupted" in gap["reason"]
        assert gaps_of(result)
        assert sum(missing.values()) == 1, missing
    assert abs(len(root.calls) - len(found["events"])) <= 1
    assert all(event["exact"] is not False for event in found["events"])


#: Kills the program while the recorder reads the call of that number.
KILL = INTERRUPT.replace("os.kill(os.getpid(), signal.SIGINT)", "os.kill(gdb.selected_inferior().pid, signal.SIGKILL)")


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [("recorded.SyscallReader", "entry", 3), ("catch", "read_at_call", 2), ("recorded.SyscallReader", "name", 21)],
)
def test_the_program_dies_while_a_call_is_read(
    gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path, owner: str, name: str, number: int
) -> None:
    """What was recorded stays and is right; how the process ended is known; GDB goes on."""
    root, _ = trace_tree(tmp_path / "strace", programs["growth"])
    code = f"import gdb\n{KILL.format(owner=owner, name=name, number=number)}"
    report = answers.path("report").with_suffix(".txt")
    result = gdb(
        f"python exec({code!r}, {{}})",
        f"heap trace -o {report} {answers.into('trace')}",
        "echo went on\\n",
        program=programs["growth"],
    )
    assert "Traceback" not in result.stdout + result.stderr, result.describe()
    assert "went on" in result.stdout
    found = answers["trace"]
    events = found["events"]
    assert 0 < len(events) < len(root.calls)
    one_for_one(events[:-1], root.calls[: len(events) - 1])
    assert events[-1]["result"] in (None, root.calls[len(events) - 1].result)
    assert all(event["exact"] is not False for event in events)
    assert [process["end"] for process in found["processes"]] == ["killed by signal 9"]
    assert (found["status"], found["killed_by"]) == (137, 9)


#: Raises an error, as GDB may, while the recorder reads the call of that number.
FAIL = INTERRUPT.replace("os.kill(os.getpid(), signal.SIGINT)", "raise ValueError('refused')")


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        ("recorded.SyscallReader", "entry", 3),  # a call of the loader's
        ("catch", "read_at_call", 1),  # the first growth, while malloc's state is read
        ("recorded.SyscallReader", "name", 21),  # a return
    ],
)
def test_an_error_while_a_call_is_read_does_not_stop_the_program(
    gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path, owner: str, name: str, number: int
) -> None:
    """The program runs to its end without a stop; all other calls are there, and the gaps name what failed."""
    root, _ = trace_tree(tmp_path / "strace", programs["growth"])
    result = gdb(
        "heap catch",
        f"python exec({FAIL.format(owner=owner, name=name, number=number)!r}, {{}})",
        "run",
        f"heap events -all {answers.into('events')}",
        program=programs["growth"],
    )
    assert "Error in testing" not in result.stdout + result.stderr, result.describe()
    assert "exited normally" in result.stdout, result.describe()
    found = answers["events"]
    assert any("ValueError: refused" in gap["reason"] for gap in found["gaps"]), found["gaps"]
    missing = Counter(seen(call) for call in root.calls) - Counter(plain(event) for event in found["events"])
    assert sum(missing.values()) <= 1, missing
