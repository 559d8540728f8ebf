"""The processes of a recording beside those that strace saw of another run of the same program."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.debugger import Answers, Gdb
from tests.support.strace import Call
from tests.support.strace_processes import Process


@dataclass(frozen=True)
class Recorded:
    """One process of a recording: its record and its events, as JSON has them."""

    record: dict[str, Any]
    events: Sequence[dict[str, Any]]

    @property
    def of_malloc(self) -> list[dict[str, Any]]:
        """The events that malloc made."""
        return [event for event in self.events if event["kind"] == "malloc"]


@dataclass(frozen=True)
class Pair:
    """The same process in both runs: ``place`` says how it came about, as (0, 1): the first child's second child."""

    place: tuple[int, ...]
    recorded: Recorded
    seen: Process

    @property
    def name(self) -> str:
        """The last program that it ran."""
        return os.path.basename(self.programs[-1])

    @property
    def programs(self) -> list[str]:
        """The files that it ran as they were recorded, first the one that it had from its maker."""
        return in_turn([program["file"] for program in self.recorded.record["programs"]])

    def ran_the_same(self) -> None:
        """Fail unless it executed the files that strace saw it execute."""
        assert self.programs == in_turn([self.programs[0], *self.seen.programs])


#: What a recording says where GDB does not tell that a fork has returned, and what the program did next.
LOST = "GDB did not report that a fork had returned"
MAP_STACK = 0x20000


def reported(pair: Pair, answer: dict[str, Any]) -> list[Call]:
    """Return the calls that strace saw of a process, but for those that the recording says it may have missed.

    What follows a fork at once is in posix_spawn, which gives back the stack that it made for the child.
    """
    if not any(LOST in gap["reason"] for gap in answer["gaps"]):
        return list(pair.seen.calls)
    stacks = {call.result for call in pair.seen.calls if call.syscall == "mmap" and call.args[3] & MAP_STACK}
    kept: list[Call] = []
    for call in pair.seen.calls:
        same = [event["syscall"] == call.syscall for event in pair.recorded.events[len(kept) : len(kept) + 1]]
        if call.syscall != "munmap" or call.args[0] not in stacks or same == [True]:
            kept.append(call)
    return kept


def in_turn(files: Sequence[str]) -> list[str]:
    """Return the files without those that follow themselves: GDB may tell of a file twice."""
    real = [os.path.realpath(file) for file in files]
    return [file for place, file in enumerate(real) if not place or real[place - 1] != file]


def traced(gdb: Gdb, answers: Answers, program: Any, args: Sequence[str] = ()) -> dict[str, Any]:
    """Return the JSON of `heap trace` on a program."""
    report = answers.path("report").with_suffix(".txt")
    gdb(f"heap trace -o {report} {answers.into('trace')}", program=program, args=args).succeeded()
    return answers["trace"]


def pairs(answer: dict[str, Any], root: Process) -> list[Pair]:
    """Return each process of a recording with its like; fail unless both runs made the same ones in the same order."""
    records = answer["processes"]

    def below(record: dict[str, Any], seen: Process, place: tuple[int, ...]) -> Iterator[Pair]:
        events = [event for event in answer["events"] if event["process"] == record["process"]]
        yield Pair(place, Recorded(record, events), seen)
        children = [child for child in records if child["made_by"] == record["process"]]
        assert len(children) == len(seen.children), f"children of {record}"
        for number, (child, its) in enumerate(zip(children, seen.children)):
            yield from below(child, its, (*place, number))

    (first,) = [record for record in records if record["made_by"] is None]
    found = list(below(first, root, ()))
    assert len(found) == len(records) == len(list(root.all()))
    return found
