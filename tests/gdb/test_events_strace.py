"""Promise: what `heap catch` records is what the kernel was asked for. The oracles are strace and the kernel's maps."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb
from tests.support.environment import needs
from tests.support.procmaps import MAPS, mapped_bytes
from tests.support.programs import Programs
from tests.support.strace import Call, Trace, trace

PAGE = 4096
SYSCALLS = ("brk", "mmap", "munmap", "mremap", "mprotect", "madvise")
#: Programs of one thread, or of threads that take turns: each run makes the same calls with the same addresses.
STEADY = ("seed", "cplus", "growth", "own", "totals", "usable", "foreign", "deep", "threads", "nolibc", "ls", "sort")


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a file with lines enough for sort to start a thread."""
    path = tmp_path_factory.mktemp("sort") / "lines"
    path.write_text("".join(f"{number * 7919 % 100:02}\n" for number in range(140_000)))
    return path


def command_line(programs: Programs, name: str, lines: Path) -> tuple[Path, list[str]]:
    """Return the program and its arguments for a name of STEADY."""
    if name == "ls":
        return Path(needs("ls")), ["/"]
    if name == "sort":
        return Path(needs("sort")), ["--parallel=1", str(lines)]
    return programs[name], []


def plain(event: dict[str, Any]) -> tuple[str, tuple[int, ...], int | None]:
    """Return what strace says of a call, from an event's JSON."""
    return event["syscall"], tuple(event["args"]), event["result"]


def seen(call: Call) -> tuple[str, tuple[int, ...], int | None]:
    """Return the same from a call that strace saw."""
    return call.syscall, call.args, call.result


def one_for_one(events: Sequence[dict[str, Any]], calls: Sequence[Call]) -> None:
    """Fail at the first event that is not strace's call of the same place."""
    for event, call in zip(events, calls):
        assert plain(event) == seen(call), f"event {event['id']}"
    assert len(events) == len(calls)


def record(gdb: Gdb, answers: Answers, program: Path, args: Sequence[str], catch: str = "heap catch") -> list[Any]:
    """Run the program to its end under a recording and return the events."""
    gdb(catch, "run", f"heap events {answers.into('events')}", program=program, args=args).succeeded()
    return answers.events("events")


@pytest.mark.parametrize("name", STEADY)
def test_events_are_straces_calls(
    gdb: Gdb, answers: Answers, programs: Programs, lines: Path, tmp_path: Path, name: str
) -> None:
    """Each call, in order, with its arguments and its result: addresses included."""
    program, args = command_line(programs, name, lines)
    events = record(gdb, answers, program, args)
    traced = trace(tmp_path / "strace", program, args)
    one_for_one(events, traced.calls)
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    one_thread_each(events, traced)


def one_thread_each(events: Sequence[dict[str, Any]], traced: Trace) -> None:
    """Fail unless GDB's thread numbers stand for the threads that strace saw, in the order of their making."""
    number = {tid: place for place, tid in enumerate(traced.tids, 1)}
    assert [event["thread"] for event in events] == [number[call.tid] for call in traced.calls]
    tids = defaultdict(set)
    for event in events:
        tids[event["thread"]].add(event["tid"])
    assert all(len(those) == 1 for those in tids.values()), "a thread has one tid"
    assert len(set.union(*tids.values())) == len(tids), "a tid has one thread"


def test_sort_with_a_helper_thread(gdb: Gdb, answers: Answers, programs: Programs, lines: Path, tmp_path: Path) -> None:
    """The main thread's calls agree one for one; whether the helper gets an arena depends on who is faster."""
    program, args = Path(needs("sort")), ["--parallel=2", str(lines)]
    events = record(gdb, answers, program, args)
    traced = trace(tmp_path / "strace", program, args)
    assert len(traced.tids) == 2, "sort starts a thread for this many lines"
    one_for_one([event for event in events if event["thread"] == 1], traced.of_thread(0))
    *helper, end = [event["syscall"] for event in events if event["thread"] == 2]
    assert helper in ([], ["mmap", "munmap", "mprotect"], ["mmap", "munmap", "munmap", "mprotect"])
    assert end == "madvise", "its stack is of no use any more"
    assert {event["thread"] for event in events} <= {1, 2}


def test_threads_at_the_same_time_are_not_mixed_up(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The program itself wrote down which thread got which mapping; GDB reads that from its memory."""
    field = "[int(value('mappings')[i]['{}']) for i in range(int(value('sizeof mappings / sizeof mappings[0]')))]"
    gdb(
        "heap catch",
        "break stop_here",
        "run",
        f"heap events {answers.into('events')}",
        answers.python("truth", {name: field.format(name) for name in ("tid", "size", "address")}),
        program=programs["race"],
    ).succeeded()
    truth = answers["truth"]
    wanted = Counter(zip(truth["tid"], truth["size"], truth["address"]))
    assert len(wanted) == 80
    assert len(set(truth["tid"])) == 4
    workers = [event for event in answers.events("events") if event["tid"] in truth["tid"]]
    events = [event for event in workers if event["syscall"] != "brk" and event["args"][1] in truth["size"]]
    mapped = [event for event in events if event["syscall"] == "mmap"]
    assert Counter((event["tid"], event["args"][1], event["result"]) for event in mapped) == wanted
    for name in ("mprotect", "munmap"):
        those = [event for event in events if event["syscall"] == name]
        assert Counter((event["tid"], event["args"][1], event["args"][0]) for event in those) == wanted
        assert all(event["result"] == 0 for event in those)
    for event in events:
        assert event["frames"], "each has its callers"
        assert "work" in [frame["function"] for frame in event["frames"]]


@pytest.mark.parametrize("name", STEADY)
def test_deltas_are_what_the_kernel_maps(
    gdb: Gdb, answers: Answers, programs: Programs, lines: Path, name: str
) -> None:
    """From the first instruction to exit_group: the sum of all deltas is the change of /proc/PID/maps."""
    program, args = command_line(programs, name, lines)
    gdb(
        "heap catch",
        "starti",
        answers.python("before", {"maps": MAPS}),
        "catch syscall exit_group",
        "continue",
        answers.python("after", {"maps": MAPS}),
        f"heap events {answers.into('events')}",
        program=program,
        args=args,
    ).succeeded()
    gained = mapped_bytes(answers["after"]["maps"]) - mapped_bytes(answers["before"]["maps"])
    assert gained != 0, "the program changed its mappings"
    events = answers.events("events")
    assert all(event["delta"] is not None for event in events)
    assert sum(event["delta"] for event in events) == gained


def test_delta_of_each_call(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Mapping over a mapping, holes, failures, moves: own.c's comments say what each gives, in pages."""
    pages = [64, 0, -16, 0, -8, 8, 4, 0, 0, 0, 0, 0, 0, -4, -2, 7, 0, 3, -2, 0]
    events = record(gdb, answers, programs["own"], [])[-len(pages) :]
    assert [event["delta"] for event in events] == [count * PAGE for count in pages]
    assert [number for number, event in enumerate(events, 1) if event["result"] < 0] == [9, 10, 11, 12]
    assert {event["kind"] for event in events} == {"program"}
    assert all(event["predicted"] is None and event["exact"] is None for event in events)


@pytest.mark.parametrize("chosen", [("brk",), ("munmap", "mremap"), ("mmap", "mprotect")])
def test_a_list_of_calls_narrows_the_recording(
    gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path, chosen: tuple[str, ...]
) -> None:
    """`heap catch brk` records brk, and only that."""
    program = programs["growth"]
    events = record(gdb, answers, program, [], f"heap catch {' '.join(chosen)}")
    traced = trace(tmp_path / "strace", program)
    one_for_one(events, [call for call in traced.calls if call.syscall in chosen])
    assert {event["syscall"] for event in events} == set(chosen)


def test_malloc_narrows_the_recording(gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path) -> None:
    """`heap catch -malloc` records what the full recording calls malloc's, and nothing else."""
    (tmp_path / "all").mkdir()
    (tmp_path / "malloc").mkdir()
    everything = record(gdb, Answers(tmp_path / "all"), programs["growth"], [])
    narrowed = record(gdb, Answers(tmp_path / "malloc"), programs["growth"], [], "heap catch -malloc")
    assert [plain(event) for event in narrowed] == [plain(e) for e in everything if e["kind"] == "malloc"]
    assert {event["kind"] for event in narrowed} == {"malloc"}
    assert len(narrowed) < len(everything)


def test_off_ends_the_recording(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """After `heap catch -off` nothing is recorded any more, what was recorded stays, and it can begin again."""
    result = gdb(
        "heap catch",
        "break stop_here",
        "run",
        f"heap events {answers.into('first')}",
        "heap catch -off",
        "continue",
        f"heap events {answers.into('second')}",
        "info breakpoints",
        program=programs["growth"],
    ).succeeded()
    assert "catchpoint" not in result.stdout.split("Recording has ended")[-1]
    assert answers.events("first") == answers.events("second")


def test_recording_begins_at_any_later_moment(gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path) -> None:
    """From main on, the events are the last of strace's calls."""
    program = programs["growth"]
    listing = f"heap events {answers.into('events')}"
    gdb("break main", "run", "heap catch", "continue", listing, program=program).succeeded()
    events = answers.events("events")
    traced = trace(tmp_path / "strace", program)
    one_for_one(events, traced.calls[-len(events) :])
    assert events[0]["syscall"] == "brk", "the first after main is libc asking where the break is"
    assert len(events) < len(traced.calls)


def test_a_second_run_is_recorded_too(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The catchpoint outlives the process: running again records the same calls again."""
    program = programs["seed"]
    gdb("heap catch", "run", "run", f"heap events {answers.into('events')}", program=program).succeeded()
    events = answers.events("events")
    half = len(events) // 2
    assert [plain(event) for event in events[half:]] == [plain(event) for event in events[:half]]
    assert len({event["tid"] for event in events}) == 2


def test_each_event_prints_one_line(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Number, thread, call, amount and direction, arena, the chunk and the request, the callers to the user's line."""
    program = programs["growth"]
    listing = f"heap events {answers.into('events')}"
    result = gdb("heap catch -malloc", "run", "echo LISTING\\n", listing, program=program).succeeded()
    events = answers.events("events")
    shown = [line for line in result.stdout.split("LISTING")[0].splitlines() if "growth.c:" in line]
    assert len(shown) == len(events)
    for line, event in zip(shown, events):
        words = line.replace(",", " ").split()
        assert event["syscall"] in line
        assert str(event["id"]) in line
        if event["delta"]:
            assert f"{abs(event['delta']):#x}" in line, line
            assert any(word.startswith("-" if event["delta"] < 0 else "+") for word in words), line
        if event["arena"]:
            assert event["arena"]["name"] in line, line
        if event["chunk_size"] and event["chunk_size_from"] is None:  # or else it was known later only
            assert f"{event['chunk_size']:#x}" in line, line
        mine = next(frame for frame in event["frames"] if (frame["file"] or "").endswith("growth.c"))
        assert f"growth.c:{mine['line']}" in line, line


#: The fields of an event and what each may be, None where it may be null.
FORM: dict[str, tuple[type | None, ...]] = {
    "id": (int,),
    "thread": (int,),
    "tid": (int,),
    "syscall": (str,),
    "args": (list,),
    "result": (int, None),
    "delta": (int, None),
    "kind": (str,),
    "arena": (dict, None),
    "request": (int, None),
    "chunk_size": (int, None),
    "path": (str, None),
    "terms": (list,),
    "predicted": (list, None),
    "exact": (bool, None),
    "frames": (list,),
}
KINDS = {"malloc", "loader", "thread-stack", "locale", "stdio", "program", "other"}


@pytest.mark.parametrize("name", ["ls", "threads", "own"])
def test_the_form_of_an_event(gdb: Gdb, answers: Answers, programs: Programs, lines: Path, name: str) -> None:
    """Every field is there, of its type; null stands only where it may."""
    program, args = command_line(programs, name, lines)
    for event in record(gdb, answers, program, args):
        for field, types in FORM.items():
            found = event[field]
            assert (found is None and None in types) or type(found) in types, f"{field} of {event}"
        assert event["syscall"] in SYSCALLS
        assert event["kind"] in KINDS
        assert event["frames"]
        assert all(type(number) is int for number in event["args"] + (event["predicted"] or []))
        assert all(type(term["name"]) is str and type(term["value"]) is int for term in event["terms"])
        assert event["arena"] is None or set(event["arena"]) == {"name", "address"}
        for frame in event["frames"]:
            assert set(frame) == {"function", "file", "line", "objfile", "pc"}
            assert type(frame["pc"]) is int


def test_json_goes_where_it_is_told_to(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Without a file it is all that the command writes; with one, text for people goes to the terminal as ever."""
    result = gdb(
        "heap catch",
        "run",
        "echo ANSWER\\n",
        "heap events -json",
        "echo ANSWER\\n",
        f"heap events {answers.into('events')}",
        "echo ANSWER\\n",
        "heap events",
        program=programs["deep"],
    ).succeeded()
    _, alone, beside, text = result.stdout.split("ANSWER\n")
    assert json.loads(alone) == answers["events"]
    assert beside == text
    assert "{" not in text
    assert len(text.splitlines()) >= len(answers.events("events"))
