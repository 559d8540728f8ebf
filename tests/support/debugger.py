"""Running GDB in batch mode with gdbheap loaded, and reading the JSON that its commands write."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from tests.support import symbols
from tests.support.environment import PATIENCE, ROOT, plain_environment

#: What gives GDB glibc's debug symbols for as long as a test's own reading takes.
ORACLE_SYMBOLS = ROOT / "tests" / "support" / "oracle_symbols.py"

#: GDB's own traces of an error inside Python: none of gdbheap's commands may ever show one.
INTERNAL_ERRORS = ("Traceback (most recent call", "Python Exception", "Error occurred in Python", "Internal error")

#: The program that is debugged gets the environment that GDB got: no shell is in between and GDB adds nothing.
QUIET_START = (
    # GDB has that setting from 12 on.
    "python exec(\"try: gdb.execute('set debuginfod enabled off')\\nexcept gdb.error: pass\")",
    "set startup-with-shell off",
    "set confirm off",
    "unset environment LINES",
    "unset environment COLUMNS",
    # What the PyPI package's wrapper sets for GDB's own Python.
    "unset environment PYTHONHOME",
    "unset environment PYTHONPATH",
    "unset environment PYTHONNOUSERSITE",
)

#: Functions for the expressions of Answers.python: a C expression as a value, an integer or a string; a struct's
#: fields as integers; the addresses of the arenas in the order in which glibc itself visits them. ``symbols()`` is what
#: they need around them, and ``read`` is GDB's parse_and_eval within that.
READING = """
import json, gdb

def value(expression):
    return read(expression)

def number(expression):
    return int(value(expression))

def text(expression):
    return value(expression).string()

def fields(expression):
    struct = value(expression)
    return {field.name: int(struct[field.name]) for field in struct.type.fields()}

def ring():
    arenas = [number('(unsigned long)&main_arena')]
    while len(arenas) < 99:
        arenas.append(number('(unsigned long)((struct malloc_state *)%d)->next' % arenas[-1]))
        if arenas[-1] == arenas[0]:
            return arenas[:-1]
    raise gdb.GdbError('the ring of arenas does not close')
"""


@dataclass(frozen=True)
class Result:
    """What one run of GDB wrote and how it ended."""

    commands: tuple[str, ...]
    raw: bytes
    raw_errors: bytes
    status: int

    @property
    def stdout(self) -> str:
        """Standard output as text: GDB's and the program's."""
        return self.raw.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """Standard error as text."""
        return self.raw_errors.decode("utf-8", "replace")

    def describe(self) -> str:
        """Return everything about the run, for the message of a failed assertion."""
        listed = "\n".join(f"  (gdb) {command}" for command in self.commands)
        return f"{listed}\nstatus {self.status}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"

    def succeeded(self) -> Result:
        """Return the result itself; fail where GDB reported an error."""
        assert self.status == 0, self.describe()
        self.has_no_internal_error()
        return self

    def has_no_internal_error(self) -> None:
        """Fail where Python's own error messages were shown."""
        for text in INTERNAL_ERRORS:
            assert text not in self.stdout + self.stderr, self.describe()


class Gdb:
    """Starts GDB in batch mode with the checkout's gdbheap loaded. The variable GDB chooses which GDB."""

    def __init__(self, path: str | None = None) -> None:
        self.path = path or os.environ.get("GDB", "gdb")

    def __call__(
        self,
        *commands: str,
        program: Path | str | None = None,
        args: Sequence[str] = (),
        before: Sequence[str] = (),
        load: str | None = "source gdbheap",
        stdin: int | IO[Any] = subprocess.DEVNULL,
        cwd: Path = ROOT,
        environment: Mapping[str, str] | None = None,
    ) -> Result:
        """Run ``commands`` one after the other, as -ex options: GDB goes on after one that fails.

        ``before`` are commands that come before anything else (-iex), ``args`` the program's arguments, and
        ``load`` the command that loads gdbheap.
        """
        line = [self.path, "-nx", "-q", "-batch"]
        for command in (*QUIET_START, *(() if symbols.wanted() else symbols.WITHOUT), *before):
            line += ["-iex", command]
        for command in (*([load] if load else ()), *commands):
            line += ["-ex", command]
        if program is not None:
            line += ["--args", str(program), *args]
        done = subprocess.run(
            line,
            cwd=cwd,
            env=dict(environment or plain_environment()),
            stdin=stdin,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        return Result(commands, done.stdout, done.stderr, done.returncode)


def oracle(code: str) -> str:
    """Return Python for GDB: the functions of READING and what they read with, and then ``code``."""
    if symbols.wanted():
        return f"import contextlib, gdb\nread, symbols = gdb.parse_and_eval, contextlib.nullcontext\n{READING}\n{code}"
    if symbols.debug_file() is None:
        pytest.skip("the oracle needs glibc's debug symbols, which are not installed")
    return f"{ORACLE_SYMBOLS.read_text()}\nsymbols = debug_symbols\n{READING}\n{code}"


class Answers:
    """The JSON files of one run of GDB: ``into(name)`` is the option that writes one, ``answers[name]`` reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Return the file of the answer ``name``."""
        return self.folder / f"{name}.json"

    def into(self, name: str) -> str:
        """Return the options that make a command write its JSON into the answer ``name``, over an earlier one."""
        return f"-json {self.path(name)} -force"

    def __getitem__(self, name: str) -> dict[str, Any]:
        path = self.path(name)
        assert path.exists(), f"no command wrote {path.name}"
        answer = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(answer, dict), f"{path.name} holds no JSON object"
        assert answer["schema"] == "gdbheap/1"
        return answer

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of the answer ``name``: there is at least one."""
        events = self[name]["events"]
        assert isinstance(events, list)
        assert events, f"{name}: no event at all"
        return events

    def python(self, name: str, expressions: Mapping[str, str]) -> str:
        """Return a GDB command that evaluates Python ``expressions`` inside GDB into the answer ``name``.

        It is the tests' own reading, made with GDB's values alone: the oracle beside gdbheap's answer. They may use
        the functions of READING. Where the tests run without glibc's debug symbols, GDB has them for this command.
        """
        pairs = ", ".join(f"{key!r}: {expression}" for key, expression in expressions.items())
        line = f"json.dump({{'schema': 'gdbheap/1', {pairs}}}, open({str(self.path(name))!r}, 'w'))"
        if symbols.OF_GLIBC.search(pairs):
            line = f"with symbols(): {line}"
        return f"python exec({oracle(line)!r}, {{}})"


def malloc_events(events: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the events that malloc made."""
    return (event for event in events if event["kind"] == "malloc")


def line_of(source: Path, text: str) -> int:
    """Return the number of the only line of ``source`` that contains ``text``."""
    lines = [number for number, line in enumerate(source.read_text().splitlines(), 1) if text in line]
    assert len(lines) == 1, f"{text!r} stands on lines {lines} of {source.name}"
    return lines[0]
