"""The shell's command ``gdbheap trace``: a program run to its end under GDB, and then who its memory was for."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

HELP = """\
Usage: gdbheap trace [-o FILE] [-json FILE] [-allocations FILE] [-force] [--] PROGRAM [ARGUMENTS...]

Run PROGRAM to its end, with all the processes that it makes, and record every system call that gives it memory or
takes it back. Then print who the memory was for, and why malloc asked for the largest pieces of it. The program's
input and output are its own; the report goes to the standard error. The exit status is the program's.
Ctrl-C ends the recording: the program is let go with the SIGINT, and what was recorded is printed.

  -o FILE      write the report to FILE
  -json FILE   write one JSON object (docs/json.md) to FILE, beside the report
  -allocations FILE
               write the program's calls of malloc, free and so on to FILE, for 'heap what-if' (docs/operations.md);
               each call then takes about a millisecond
  -force       overwrite FILE where it exists
  -h, --help   print this text

Example: whose memory does a compiler need?

  gdbheap trace -o report.txt -- gcc -c hello.c
"""

#: How many interpreters may stand one behind the other, as Linux allows.
_MOST_INTERPRETERS = 5


#: Variables that a wrapper of GDB may set for GDB's own Python.
_OF_WRAPPERS = ("PYTHONHOME", "PYTHONPATH", "PYTHONNOUSERSITE")


class TraceError(Exception):
    """A command line that cannot be carried out: a full sentence, and the exit status that shells use for it."""

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


class Trace(NamedTuple):
    """What is to be traced, and where to the report goes (empty: the standard error, no JSON, no allocations).

    ``force`` is whether files that exist are overwritten.
    """

    report: str
    json: str
    program: list[str]
    allocations: str = ""
    force: bool = False


def parse(words: Sequence[str]) -> Trace | None:
    """Return what the words after ``trace`` ask for, None where that is the help; raise TraceError."""
    files = {"-o": "", "-json": "", "-allocations": ""}
    rest = list(words)
    force = False
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word in ("-h", "-help", "--help"):
            return None
        if word == "--":
            break
        if word in ("-force", "--force"):
            force = True
            continue
        name = word[1:] if word in ("--json", "--allocations") else word
        if name not in files:
            raise TraceError(f"there is no option {word}: see gdbheap trace --help.")
        if not rest:
            raise TraceError(f"{word} needs the name of a file.")
        files[name] = rest.pop(0)
    if not rest:
        raise TraceError("there is no program to trace: see gdbheap trace --help.")
    return Trace(files["-o"], files["-json"], rest, files["-allocations"], force)


def resolve(program: Sequence[str], path: str) -> list[str]:
    """Return the command line with the program's file in front, for a script its interpreter's; raise TraceError.

    ``path`` are the folders that the shell would search. GDB starts programs of the machine only.
    """
    found = shutil.which(program[0], path=path)
    if found is None:
        status, what = (126, "may not be executed") if os.path.exists(program[0]) else (127, "is no program here")
        raise TraceError(f"'{program[0]}' {what}.", status)
    words = [found, *program[1:]]
    for _ in range(_MOST_INTERPRETERS):
        try:
            with open(words[0], "rb") as file:
                head = file.readline(256)
        except OSError as error:
            raise TraceError(f"'{words[0]}' cannot be read: {error.strerror}.", 126) from None
        if head.startswith(b"\x7fELF"):
            return words
        if not head.startswith(b"#!"):
            break
        words = [*os.fsdecode(head[2:]).strip().split(None, 1), *words]
    raise TraceError(f"'{program[0]}' is neither a program for this machine nor a script that names one.", 126)


def gdb_options(trace: Trace, environment: Mapping[str, str]) -> list[str]:
    """Return GDB's options that trace, ended by the program and its arguments.

    GDB gives its programs the terminal's size in two variables, some wrappers of GDB (gdb-for-pwndbg of PyPI) what its
    Python needs, and the shell by which it starts them has some of its own: they are as they were.
    """
    of_gdb = [name for name in ("LINES", "COLUMNS", *_OF_WRAPPERS) if name not in environment]
    of_shell = [name for name in ("PWD", "OLDPWD", "SHLVL", "_") if name not in environment]
    command = "gdbheap trace"
    if trace.report:
        command += f" -o {shlex.quote(trace.report)}"
    if trace.json:
        command += f" -json {shlex.quote(trace.json)}"
    if trace.allocations:
        command += f" -allocations {shlex.quote(trace.allocations)}"
    if trace.force:
        command += " -force"
    commands = [*(f"unset environment {name}" for name in of_gdb)]
    commands += [f"set environment {name} {environment[name]}" for name in _OF_WRAPPERS if name in environment]
    if of_shell:
        commands.append(f"set exec-wrapper env {' '.join(f'-u {name}' for name in of_shell)}")
    commands += [command, "quit $_gdbheap_status"]
    options = ["--batch-silent", "-nx"]
    for line in commands:
        options += ["-ex", line]
    return [*options, "--args", *trace.program]


def prepare(words: Sequence[str]) -> list[str] | None:
    """Return GDB's options for the words after ``trace``, None where they ask for help; raise TraceError."""
    trace = parse(words)
    if trace is None:
        return None
    for path in (trace.report, trace.json, trace.allocations):
        if path and not Path(path).absolute().parent.is_dir():
            raise TraceError(f"'{path}' cannot be written: there is no such folder.")
        if path and not trace.force and os.path.isfile(path):
            raise TraceError(f"'{path}' exists already: name another file, or add -force.")
    program = resolve(trace.program, os.environ.get("PATH", os.defpath))
    return gdb_options(trace._replace(program=program), os.environ)
