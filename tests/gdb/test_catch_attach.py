"""Promise: a recording can begin on a process that runs already, and the process lives on after GDB has gone."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import IO

import pytest

from tests.support.debugger import Answers, Gdb, malloc_events
from tests.support.environment import PATIENCE, plain_environment
from tests.support.programs import Programs
from tests.support.symbols import known_to_be, to_the_byte


class Late:
    """A process that waits at its first stop, its heap already there."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.process = process
        self.stdin = stdin
        self.stdout = stdout

    def finish(self) -> bytes:
        """Let it pass its last stop; return what it wrote after that."""
        self.stdin.write(b".")
        self.stdin.close()
        rest = self.stdout.read()
        assert self.process.wait(PATIENCE) == 0
        return rest


@pytest.fixture
def late(programs: Programs) -> Iterator[Late]:
    """Start late.c and wait until it is ready."""
    with subprocess.Popen(
        [str(programs["late"])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=plain_environment()
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield Late(process, process.stdin, process.stdout)
        finally:
            process.kill()


def test_events_after_attaching(gdb: Gdb, answers: Answers, programs: Programs, late: Late) -> None:
    """Each growth after the attachment is recorded and explained; detaching leaves the process to itself."""
    gdb(
        f"attach {late.process.pid}",
        "heap catch",
        "break stop_here",
        "set variable go = 1",
        "continue",
        f"heap events {answers.into('events')}",
        f"heap why-grow -all {answers.into('all')}",
        "detach",
        program=programs["late"],
    ).succeeded()
    assert late.finish() == b"done\n"

    events = answers.events("events")
    assert {event["tid"] for event in events} == {late.process.pid}
    assert {event["kind"] for event in events} == {"malloc"}
    assert {event["syscall"] for event in events} == {"brk", "mmap"}
    for event in events:
        assert known_to_be(event, "predicted", event["args"])
        assert to_the_byte(event)
        assert "main" in [frame["function"] for frame in event["frames"]]
    assert sum(event["delta"] for event in events if event["syscall"] == "brk") >= 200_000
    (mapped,) = [event for event in events if event["syscall"] == "mmap"]
    assert known_to_be(mapped, "request", 1 << 20)
    assert mapped["delta"] == (1 << 20) + 4096
    assert answers.events("all") == list(malloc_events(events))


def test_attached_too_late(gdb: Gdb, answers: Answers, programs: Programs, late: Late) -> None:
    """Where the heap had grown before GDB came, it is explained from its state."""
    result = gdb(
        f"attach {late.process.pid}",
        "heap why-grow",
        f"heap why-grow {answers.into('why')}",
        answers.python("truth", {"base": "number('(long)mp_.sbrk_base')", "top": "number('(long)main_arena.top')"}),
        "detach",
        program=programs["late"],
    ).succeeded()
    assert answers["why"]["events"] == []
    assert f"{answers['truth']['base']:#x}" in result.stdout
    assert "heap catch" in result.stdout
    late.stdin.write(b".")
    late.stdin.flush()
    assert late.finish() == b"done\n"


def test_loading_after_attaching(gdb: Gdb, programs: Programs, late: Late) -> None:
    """gdbheap loads while GDB holds a process that it did not start."""
    result = gdb(f"attach {late.process.pid}", "source gdbheap", "heap top", "detach", load=None).succeeded()
    assert "main_arena" in result.stdout
    late.stdin.write(b".")
    late.stdin.flush()
    assert late.finish() == b"done\n"


def test_detaching_under_a_recording(gdb: Gdb, programs: Programs, late: Late) -> None:
    """A recording that nobody ended does no harm to a process that GDB lets go."""
    gdb(f"attach {late.process.pid}", "heap catch", "detach", program=programs["late"]).succeeded()
    late.stdin.write(b".")
    late.stdin.flush()
    assert late.finish() == b"done\n"
