"""What strace saw of a program and of each process that it made, as an account that is not gdbheap's own."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.environment import PATIENCE, ROOT, needs, plain_environment
from tests.support.strace import ARGUMENTS, Call, read_call

MAKERS = ("clone", "clone3", "fork", "vfork")

_LINE = re.compile(r"(\d+\.\d+) (\w+)\((.*)\)\s+= (.+)")
_OTHER = re.compile(r"\d+\.\d+ (\+\+\+ .* \+\+\+|--- .* ---|exit_group\(.*)")
_FLAGS = re.compile(r"flags=([A-Z_|0-9a-fx]+)")
_PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')


@dataclass
class Process:
    """One process: its calls in the order in which they were made, what it executed, and whom it made, in order.

    ``moments`` are the times of the calls, in seconds.
    """

    pid: int
    calls: list[Call] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)
    children: list[Process] = field(default_factory=list)
    threads: int = 1
    moments: list[float] = field(default_factory=list)

    def all(self) -> Iterator[Process]:
        """Yield the process and all that came of it, each before those that it made."""
        yield self
        for child in self.children:
            yield from child.all()


@dataclass(frozen=True)
class _Line:
    time: float
    name: str
    args: str
    result: str


def _lines(path: Path) -> Iterator[_Line]:
    for line in path.read_text(errors="replace").splitlines():
        if _OTHER.fullmatch(line):
            continue
        match = _LINE.fullmatch(line)
        assert match, f"a line of strace that is not understood: {line!r}"
        yield _Line(float(match[1]), match[2], match[3], match[4])


def _makes_thread(line: _Line) -> bool:
    if line.name not in ("clone", "clone3"):
        return False
    flags = _FLAGS.search(line.args)
    assert flags, f"{line.name} without flags: {line.args!r}"
    return "CLONE_THREAD" in flags[1].split("|")


def read_tree(folder: Path) -> Process:
    """Read the files, one for each thread, that ``strace -ff -ttt`` wrote into ``folder``."""
    files = {int(path.suffix[1:]): list(_lines(path)) for path in folder.glob("strace.*")}
    made_by: dict[int, tuple[int, bool]] = {}
    for tid, lines in files.items():
        for line in lines:
            if line.name in MAKERS and not line.result.startswith(("-", "?")):
                made_by[int(line.result, 0)] = tid, _makes_thread(line)
    (root,) = [tid for tid in files if tid not in made_by]

    def process(pid: int) -> Process:
        tids, waiting = [], [pid]
        while waiting:
            tid = waiting.pop()
            tids.append(tid)
            waiting += [new for new, (maker, thread) in made_by.items() if thread and maker == tid]
        found = Process(pid, threads=len(tids))
        together = sorted(((line.time, tid, line) for tid in tids for line in files.get(tid, [])), key=lambda e: e[0])
        for moment, tid, line in together:
            if line.name in ARGUMENTS:
                args = line.args.replace(" <unfinished ...>", "")
                found.moments.append(moment)
                found.calls.append(read_call(tid, line.name, args, line.result))
            elif line.name == "execve":
                path = _PATH.match(line.args)
                if line.result == "0" and path:
                    found.programs.append(os.path.realpath(path[1]))
            elif line.name in MAKERS and not line.result.startswith(("-", "?")) and not _makes_thread(line):
                found.children.append(process(int(line.result, 0)))
        return found

    return process(root)


def trace_tree(
    folder: Path, program: Path | str, args: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> tuple[Process, int]:
    """Run ``program`` under strace without address randomisation; return its processes and its exit status."""
    folder.mkdir()
    memory = ",".join(ARGUMENTS)
    watched = ",".join((*ARGUMENTS, *MAKERS, "execve", "exit_group"))
    line = [needs("setarch"), "-R", needs("strace"), "-ff", "-ttt", "-e", f"raw={memory}", "-e", f"trace={watched}"]
    done = subprocess.run(
        [*line, "-o", str(folder / "strace"), str(program), *args],
        cwd=ROOT,
        env=dict(environment or plain_environment()),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    if not any(folder.iterdir()):
        pytest.skip(f"strace can't run here: {done.stderr.decode(errors='replace').strip()}")
    return read_tree(folder), done.returncode
