"""Promise: a long answer can be interrupted, is never shown in part as if it were whole, and tells how far it is."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time

import pytest

from tests.support.debugger import INTERNAL_ERRORS, Answers, Gdb
from tests.support.environment import PATIENCE, ROOT, plain_environment
from tests.support.interrupting import interrupt_at
from tests.support.programs import Programs

CHUNKS = 2_000_000


@pytest.mark.parametrize(
    "command",
    [
        "heap", "heap -json {file}", "heap chunks -json {file}", "heap chunks -all", "heap find -min-size 1",
        "heap map", "heap check -json {file}",
    ],
)  # fmt: skip
def test_interrupted(gdb: Gdb, programs: Programs, answers: Answers, command: str) -> None:
    path = answers.path("interrupted")
    done = gdb(
        "break stop_here",
        "run",
        "heap arenas",  # what is read once a session is read here
        "echo ANSWER\\n",
        interrupt_at(20),
        command.format(file=path),
        "echo AFTERWARDS\\n",
        interrupt_at(0),
        f"heap arenas {answers.into('arenas')}",
        program=programs["many"],
        args=[str(CHUNKS)],
    )
    assert not any(text in done.stdout + done.stderr for text in INTERNAL_ERRORS), done.describe()
    shown, afterwards = done.stdout.split("ANSWER\n")[1].split("AFTERWARDS\n")
    assert "Quit" in done.stdout + done.stderr
    assert not path.exists(), "half an answer was written"
    for whole in ("all arenas", "sum ", "chunks shown", "malloc's, in all"):
        assert whole not in shown
    assert "main_arena" in afterwards
    assert len(answers["arenas"]["arenas"]) == 1


@pytest.mark.parametrize(
    ("command", "begin", "end"),
    [
        ("heap", "arena  ", "sum  "),
        ("heap find", "         size  ", "chunks, "),
        ("heap refs chunks[1]", "chunk 0x", "into it"),
        ("heap map", "main_arena", "stands for"),
        ("heap check", "The heap is sound", "on free lists"),
        ("heap chunks -min-size 100000000", "0 chunks", "shown"),
    ],
)  # fmt: skip
def test_progress_on_a_terminal(programs: Programs, command: str, begin: str, end: str) -> None:
    """There is a line while the heap is read, and it is gone before the answer; without a terminal there is none."""
    leader, terminal = pty.openpty()
    line = [os.environ.get("GDB", "gdb"), "-nx", "-q", "-batch", "-iex", "set debuginfod enabled off"]
    # Reading is made slow enough for the line to appear on any machine.
    slow = "python import gdbheap.debugger.progress as progress; progress._PATIENCE = 0"
    for step in ("source gdbheap", "break stop_here", "run", slow, "echo ANSWER\\n", command):
        line += ["-ex", step]
    process = subprocess.Popen(
        [*line, "--args", str(programs["many"]), "300000"],
        cwd=ROOT,
        env=plain_environment(),
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    output, latest = b"", time.monotonic() + PATIENCE
    while time.monotonic() < latest:
        if select.select([leader], [], [], 1)[0]:
            try:
                data = os.read(leader, 1 << 16)
            except OSError:  # the other side was closed
                break
            if not data:
                break
            output += data
    assert process.wait(PATIENCE) == 0
    os.close(leader)
    answer = output.decode("utf-8", "replace").split("ANSWER")[1]
    before, table = answer.split(begin, 1)
    assert "reading the heap: " in before
    assert before.endswith("\r\x1b[K")
    assert "reading the heap" not in table
    assert end in table
