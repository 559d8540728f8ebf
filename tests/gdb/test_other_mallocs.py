"""Promise: a malloc that is not glibc's is recognised and said: nothing of its is called glibc's, or explained as such.

With the real libraries, preloaded and linked, and with a malloc of the program's own.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb, Result
from tests.support.environment import glibc_version, needs, plain_environment
from tests.support.programs import Programs
from tests.support.strace import trace
from tests.support.symbols import wanted

pytestmark = pytest.mark.skipif(glibc_version() == (0, 0), reason="the C library is not glibc")

#: The libraries' files, from Debian's libjemalloc2, libtcmalloc-minimal4, libgoogle-perftools4 and libmimalloc2.0.
LIBRARIES = ("libjemalloc.so.2", "libtcmalloc_minimal.so.4", "libtcmalloc.so.4", "libmimalloc.so.2")
EMPTY = "glibc's heap is empty"


def library(name: str) -> Path:
    """Return the path of a library, or skip the test."""
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        if line.strip().startswith(f"{name} ") and "x86-64" in line:
            return Path(line.split("=> ")[1])
    pytest.skip(f"{name} is not installed")


def said(text: str, name: str) -> int:
    """Return how often it is said that the program's malloc is that of ``name``."""
    return text.count(f"This program's malloc is that of {name}, not glibc's")


def recorded(
    gdb: Gdb, answers: Answers, program: Path | str, args: Sequence[str] = (), preload: Path | None = None
) -> tuple[Result, list[dict[str, Any]]]:
    """Return what a recorded run to the program's end prints, and its events."""
    before = [] if preload is None else [f"set environment LD_PRELOAD {preload}"]
    listing = f"heap events {answers.into('events')}"
    result = gdb("heap catch", "run", listing, before=before, program=program, args=args).succeeded()
    return result, answers.events("events")


def nothing_is_glibcs(events: Sequence[dict[str, Any]], name: str) -> None:
    """Fail unless the library's calls are there, and none is called glibc's malloc's or predicted."""
    for event in events:
        if event["kind"] == "malloc":  # mimalloc leaves malloc_trim to glibc
            assert any("malloc_trim" in (frame["function"] or "") for frame in event["frames"])
        else:
            assert event["predicted"] is None
    assert any(event["purpose"] == f"another malloc: {name}" and event["delta"] > 0 for event in events)
    assert all(name in event["purpose"] for event in events if event["purpose"].startswith("another malloc"))


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_preloaded_malloc(gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path, name: str) -> None:
    """Every call is recorded as strace sees it; that the malloc is another one is said once."""
    path = library(name)
    result, events = recorded(gdb, answers, programs["growth"], preload=path)
    nothing_is_glibcs(events, name)
    assert said(result.stdout.split("rows")[0], name) == 1
    environment = {**plain_environment(), "LD_PRELOAD": str(path)}
    calls = trace(tmp_path / "strace", programs["growth"], (), environment).calls
    preloads_strace = len(calls) - len(events)
    assert preloads_strace >= 0
    assert [call.syscall for call in calls][-5:] == [event["syscall"] for event in events][-5:]


LOOKING = ("heap", "heap arenas", "heap top", "heap chunks", "heap why-grow")


@pytest.mark.parametrize("name", LIBRARIES)
def test_glibcs_heap_is_empty(gdb: Gdb, programs: Programs, name: str) -> None:
    """It is said whose malloc it is, and not that malloc was not called yet."""
    preload = [f"set environment LD_PRELOAD {library(name)}"]
    result = gdb("break stop_here", "run", *LOOKING, before=preload, program=programs["growth"])
    result.has_no_internal_error()
    assert result.status == 1
    assert said(result.stderr, name) == len(LOOKING)
    assert result.stderr.count(EMPTY) == len(LOOKING)
    assert "has not taken" not in result.stderr


@pytest.mark.parametrize("name", LIBRARIES)
def test_why_grow(gdb: Gdb, answers: Answers, programs: Programs, name: str) -> None:
    """The program's line is shown, and that the allocator is another."""
    preload = [f"set environment LD_PRELOAD {library(name)}"]
    steps = ("break stop_here", "run", f"heap why-grow {answers.into('why')}")
    result = gdb("heap catch", *steps, before=preload, program=programs["growth"]).succeeded()
    (event,) = answers.events("why")
    assert event["kind"] == "other"
    answer = result.stdout.rsplit("stop_here", 1)[1]
    assert f"another malloc: {name} - not glibc's" in answer
    assert "growth.c" in answer


PYTHON = ("/usr/bin/python3", ["-S", "-c", "list(range(99999))"])


@pytest.mark.parametrize(
    ("program", "args", "name"), [*(("ls", ["/"], name) for name in LIBRARIES), (*PYTHON, LIBRARIES[0])]
)
def test_ordinary_programs(gdb: Gdb, answers: Answers, program: str, args: list[str], name: str) -> None:
    """Without symbols of any kind, with constructors that allocate, with libraries that open files."""
    result, events = recorded(gdb, answers, needs(program), args, library(name))
    nothing_is_glibcs(events, name)
    assert said(result.stdout, name) == 1


def test_a_trace_says_it(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The report and its JSON name the library."""
    name = "libjemalloc.so.2"
    report = answers.path("report").with_suffix(".txt")
    gdb(
        f"heap trace -o {report} {answers.into('trace')}",
        before=[f"set environment LD_PRELOAD {library(name)}"],
        program=programs["growth"],
    ).succeeded()
    assert said(report.read_text(), name) == 1
    (process,) = answers["trace"]["processes"]
    assert process["other_malloc"] == name


def test_a_program_that_is_linked_with_one(gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path) -> None:
    """The same where the program itself asks for the library."""
    path, program = library("libjemalloc.so.2"), tmp_path / "linked"
    source = programs.source("growth.c")
    line = [needs("gcc"), "-g", "-pthread", "-o", str(program), str(source), "-Wl,--no-as-needed", str(path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result, events = recorded(gdb, answers, program)
    nothing_is_glibcs(events, path.name)
    assert said(result.stdout, path.name) == 1


def test_a_malloc_of_the_programs_own(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The program's file is named."""
    result, events = recorded(gdb, answers, programs["mine"])
    nothing_is_glibcs(events, "mine")
    assert said(result.stdout, "mine") == 1
    own = [event for event in events if event["purpose"] == "another malloc: mine"]
    assert {(event["syscall"], event["args"][1]) for event in own} == {("mmap", 1 << 20)}
    result = gdb("break stop_here", "run", "heap", program=programs["mine"])
    assert said(result.stderr, "mine") == 1


def test_the_address_sanitizers_malloc(gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path) -> None:
    """Its shadow and its regions are its own; glibc's heap is empty."""
    program = tmp_path / "sanitized"
    line = [needs("gcc"), "-g", "-pthread", "-fsanitize=address", "-o", str(program), str(programs.source("seed.c"))]
    if subprocess.run(line, capture_output=True, check=False).returncode:
        pytest.skip("gcc has no address sanitizer here")
    options = ["set environment ASAN_OPTIONS detect_leaks=0"]
    listing = f"heap events {answers.into('events')}"
    result = gdb("heap catch", "run", listing, before=options, program=program).succeeded()
    events = answers.events("events")
    (name,) = {event["purpose"].split(": ")[1] for event in events if event["purpose"].startswith("another malloc")}
    assert name.startswith("libasan.so")
    nothing_is_glibcs(events, name)
    assert said(result.stdout, name) == 1


@pytest.mark.parametrize("program", ["seed", "cplus", "threads"])
def test_glibcs_own_is_not_taken_for_another(gdb: Gdb, answers: Answers, programs: Programs, program: str) -> None:
    """Nothing is said where the malloc is glibc's."""
    result, events = recorded(gdb, answers, programs[program])
    assert "not glibc's" not in result.stdout
    assert not [event for event in events if event["purpose"].startswith("another malloc")]


def test_what_glibcs_malloc_has_all_the_same(gdb: Gdb, answers: Answers, tmp_path: Path) -> None:
    """A library may call glibc's malloc by its other name: its arenas are shown, and its calls explained."""
    path, program, source = library("libjemalloc.so.2"), tmp_path / "both", tmp_path / "both.c"
    if b"\0__libc_malloc\0" in path.read_bytes():
        pytest.skip("this jemalloc takes the other name too")
    source.write_text(
        "#include <stdlib.h>\nextern void *__libc_malloc(size_t);\nvoid stop_here(void) {}\n"
        "int main(void)\n{\n"
        "    if (malloc(300000) == NULL || __libc_malloc(200) == NULL || __libc_malloc(400000) == NULL)\n"
        "        return 1;\n    stop_here();\n    return 0;\n}\n"
    )
    subprocess.run([needs("gcc"), "-g", "-o", str(program), str(source)], check=True)
    steps = ("heap catch", "break stop_here", "run", "echo HEAP\\n", f"heap {answers.into('heap')}")
    preload = [f"set environment LD_PRELOAD {path}"]
    result = gdb(*steps, f"heap events {answers.into('events')}", before=preload, program=program).succeeded()
    assert said(result.stdout.split("HEAP")[0], path.name) == 1
    assert said(result.stdout.split("HEAP")[1], path.name) == 1
    assert "main_arena" in result.stdout.split("HEAP")[1]
    mine = [event for event in answers.events("events") if event["kind"] == "malloc"]
    # Without debug symbols the size of a chunk with a mapping of its own is known in pages only.
    known = ["brk-first", "mmap-chunk"] if wanted() else ["brk-first", None]
    assert [event["path"] for event in mine] == known
    assert [event["exact"] for event in mine] == [path and True for path in known]


def test_an_allocator_beside_glibcs(gdb: Gdb, answers: Answers, tmp_path: Path) -> None:
    """A program that calls mi_malloc and keeps glibc's malloc: each has its calls, and malloc is still glibc's."""
    path, program, source = library("libmimalloc.so.2"), tmp_path / "beside", tmp_path / "beside.c"
    source.write_text(
        "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <stdlib.h>\n"
        "int main(int argc, char **argv)\n{\n"
        "    void *library = dlopen(argv[argc - 1], RTLD_NOW | RTLD_LOCAL);\n"
        '    void *(*other)(size_t) = (void *(*)(size_t))dlsym(library, "mi_malloc");\n'
        "    return other == NULL || other(3000000) == NULL || malloc(300000) == NULL;\n}\n"
    )
    subprocess.run([needs("gcc"), "-g", "-o", str(program), str(source), "-ldl"], check=True)
    result, events = recorded(gdb, answers, program, [str(path)])
    assert "not glibc's" not in result.stdout
    assert any(event["purpose"] == "another malloc: libmimalloc.so.2" for event in events)
    mine = [event for event in events if event["kind"] == "malloc"]
    assert any(event["request"] == 300000 for event in mine)
    assert all(event["exact"] is True for event in mine)
