"""Promise: a malloc that is not glibc's is recognised and said: nothing of its is called glibc's, or explained as such.

With the real libraries, preloaded and linked, and with a malloc of the program's own.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.debugger import Answers, Gdb, Result
from tests.support.environment import glibc_version, needs, plain_environment
from tests.support.programs import Programs
from tests.support.strace import trace
from tests.support.symbols import WITHOUT, known_to_be, to_the_byte

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
@pytest.mark.parametrize("asked", ["malloc 100", "growth"])
def test_nothing_is_predicted(gdb: Gdb, programs: Programs, name: str, asked: str) -> None:
    """What glibc's malloc would do is not what a call of malloc does there."""
    preload = [f"set environment LD_PRELOAD {library(name)}"]
    result = gdb("break stop_here", "run", f"heap predict {asked}", before=preload, program=programs["growth"])
    result.has_no_internal_error()
    assert result.status == 1
    assert said(result.stderr, name) == result.stderr.count(EMPTY) == 1
    assert "returns" not in result.stdout


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


#: Makes calls of its own beside those of the malloc that a sanitizer brings.
OWN_CALLS = """
#include <stdlib.h>
#include <sys/mman.h>
void *kept;
int main(void)
{
    char *own = mmap(NULL, 0x7000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    kept = malloc(5000000);
    return kept == NULL || munmap(own, 0x3000);
}
"""


@pytest.mark.parametrize(
    "options",
    [("address",), ("address", "-static-libasan"), ("thread",), ("thread", "-static-libtsan")],
    ids=["asan", "static asan", "tsan", "static tsan"],
)
def test_a_programs_own_calls_under_a_sanitizer(
    gdb: Gdb, answers: Answers, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """The program's calls are its own though they pass the sanitizer, and none of the sanitizer's are the program's."""
    program, source = tmp_path / "own", tmp_path / "own.c"
    source.write_text(OWN_CALLS)
    line = [needs("gcc"), "-g", f"-fsanitize={options[0]}", *options[1:], "-o", str(program), str(source)]
    if subprocess.run(line, capture_output=True, check=False).returncode:
        pytest.skip("gcc has no such sanitizer here")
    listing = f"heap events {answers.into('events')}"
    before = ["set environment ASAN_OPTIONS detect_leaks=0"]
    gdb("heap catch", "run", listing, before=before, program=program).succeeded()
    events = answers.events("events")
    own = [event for event in events if event["kind"] == "program"]
    assert [(event["syscall"], event["args"][1], event["purpose"]) for event in own] == [
        ("mmap", 0x7000, "the program's own mmap in main"),
        ("munmap", 0x3000, "the program's own munmap in main"),
    ]
    assert any(event["purpose"].startswith("another malloc: ") and event["delta"] > 5000000 for event in events)


SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
void *malloc(size_t size)
{
    static void *(*next)(size_t);
    if (next == NULL) next = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
    return next(size);
}
"""


def test_who_asks_through_a_malloc_that_calls_glibcs(
    gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path
) -> None:
    """What a profiler puts before malloc asks for nothing itself: its caller is who asked, and all is explained."""
    path, source = tmp_path / "libshim.so", tmp_path / "shim.c"
    source.write_text(SHIM)
    subprocess.run([needs("gcc"), "-g", "-shared", "-fPIC", "-o", str(path), str(source), "-ldl"], check=True)
    before = [f"set environment LD_PRELOAD {path}"]
    callers = f"heap events -by caller {answers.into('callers')}"
    listing = f"heap events {answers.into('events')}"
    gdb("heap catch", "run", listing, callers, before=before, program=programs["growth"]).succeeded()
    grown = [event for event in answers.events("events") if event["path"] in ("brk-extend", "mmap-chunk")]
    assert len(grown) > 10
    assert all(to_the_byte(event) for event in grown)
    names = [group["name"] for group in answers["callers"]["groups"]]
    assert any("growth.c" in name for name in names)
    assert not any("shim.c" in name for name in names)
    stop = ("break stop_here", "run", f"heap predict malloc 100 {answers.into('next')}")
    predicted = gdb(*stop, before=before, program=programs["growth"]).succeeded()
    assert said(predicted.stdout, path.name) == 1
    assert answers["next"]["limits"][0].endswith("glibc's is predicted.")


ITS_OWN = """
#include <stddef.h>
%s void *malloc(size_t size)
{
    static char pool[4096];
    return size < sizeof pool ? pool : NULL;
}
void *mine(void) { return malloc(9); }
"""


@pytest.mark.parametrize("kind", ["static", '__attribute__((visibility("hidden")))'], ids=["static", "hidden"])
@pytest.mark.parametrize("linking", [(), ("-shared", "-fPIC")], ids=["program", "library"])
def test_a_malloc_that_a_file_keeps_to_itself(
    gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path, kind: str, linking: tuple[str, ...]
) -> None:
    """The program's malloc is glibc's all the same, unless it is hidden in the program itself, which then calls it."""
    own, program, source = tmp_path / ("own.so" if linking else "own.o"), tmp_path / "uses", tmp_path / "own.c"
    source.write_text(ITS_OWN % kind)
    compiler = [needs("gcc"), "-g", "-w", "-fno-builtin", *(linking or ("-c",))]
    subprocess.run([*compiler, "-o", str(own), str(source)], check=True)
    line = [needs("gcc"), "-g", "-w", "-pthread", "-o", str(program), str(programs.source("growth.c"))]
    subprocess.run([*line, "-Wl,--no-as-needed", str(own)], check=True)
    result, events = recorded(gdb, answers, program)
    if not linking and kind != "static":
        heap = gdb("break stop_here", "run", "heap predict malloc 100", program=program)
        assert said(heap.stdout + heap.stderr, program.name) == 1
        return
    assert "not glibc's" not in result.stdout
    heap = gdb("break stop_here", "run", "heap", "heap predict malloc 100", program=program).succeeded()
    assert "not glibc's" not in heap.stdout
    assert not [event for event in events if event["purpose"].startswith("another malloc")]


LOADS_ANOTHER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
void stop_here(void) {}
void *kept[9];
int main(int argc, char **argv)
{
    for (int i = 0; i < 9; i++) kept[i] = malloc(3000);
    void *library = dlmopen(LM_ID_NEWLM, argv[argc - 1], RTLD_NOW);
    void *(*use)(size_t) = library == NULL ? NULL : (void *(*)(size_t))dlsym(library, "use");
    if (use == NULL || use(40000) == NULL) return 1;
    kept[0] = malloc(500000);
    struct mallinfo now = mallinfo();
    fprintf(stderr, "mallinfo %d %d %d\\n", now.arena, now.keepcost, now.hblkhd);
    stop_here();
    if (argc > 2) read(0, &now, 1);
    return 0;
}
"""
USES_ANOTHER = """
#include <stdlib.h>
void *use(size_t size)
{
    for (int i = 0; i < 50; i++) if (malloc(size) == NULL) return NULL;
    return realloc(malloc(400000), 800000);
}
"""


def loading_another(tmp_path: Path) -> tuple[Path, Path]:
    """Return a program that loads a library with another copy of libc, and that library."""
    program, library = tmp_path / "loads", tmp_path / "uses.so"
    for source, text, line in (
        ("loads.c", LOADS_ANOTHER, ["-o", str(program), "-ldl"]),
        ("uses.c", USES_ANOTHER, ["-shared", "-fPIC", "-o", str(library)]),
    ):
        (tmp_path / source).write_text(text)
        subprocess.run([needs("gcc"), "-g", "-w", str(tmp_path / source), *line], check=True)
    return program, library


@pytest.mark.parametrize("before", [(), WITHOUT], ids=["with", "without"])
def test_attaching_where_there_are_two_copies(
    gdb: Gdb, answers: Answers, tmp_path: Path, before: tuple[str, ...]
) -> None:
    """GDB may list the other's libc first: the loader's own list tells which is the program's."""
    program, library = loading_another(tmp_path)
    process = subprocess.Popen([program, "wait", library], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        counted = re.match(r"mallinfo (\d+) (\d+) (\d+)$", process.stderr.readline())
        assert counted
        asked = (f"heap {answers.into('heap')}", f"heap params -how {answers.into('params')}", "heap check", "detach")
        result = gdb(f"attach {process.pid}", *asked, before=before, program=program).succeeded()
    finally:
        process.kill()
        process.communicate()
    (arena,) = answers["heap"]["arenas"]
    found = [arena["system_mem"], arena["states"]["top"]["bytes"], answers["heap"]["mmapped"]["bytes"]]
    assert found == [int(text) for text in counted.groups()]
    assert arena["unaccounted"] == 0
    assert arena["states"]["used"]["chunks"] > 9
    assert "The heap is corrupt" not in result.stdout


@pytest.mark.parametrize("linking", ["-static", "-static-pie"])
def test_a_static_program_that_loads_a_libc(gdb: Gdb, answers: Answers, tmp_path: Path, linking: str) -> None:
    """As one does that looks up names: its own malloc is the program's, and libc.so.6's is not taken for it."""
    _, library = loading_another(tmp_path)
    program, source = tmp_path / "static", tmp_path / "static.c"
    source.write_text(LOADS_ANOTHER.replace("dlmopen(LM_ID_NEWLM, ", "dlopen("))
    line = [needs("gcc"), "-g", "-w", linking, "-o", str(program), str(source), "-ldl"]
    if subprocess.run(line, capture_output=True, check=False).returncode:
        pytest.skip("gcc cannot build that here")
    asked = (f"heap {answers.into('heap')}", "heap check", "info sharedlibrary")
    result = gdb("break stop_here", "run", *asked, program=program, args=[str(library)])
    result.has_no_internal_error()
    counted = re.search(r"^mallinfo (\d+) (\d+) (\d+)$", result.stdout + result.stderr, re.MULTILINE)
    if counted is None:
        pytest.skip("this libc loads nothing into static programs")
    if not answers.path("heap").exists():  # it is said that it is not known
        assert "cannot be found" in result.stderr, result.describe()
        return
    (arena,) = answers["heap"]["arenas"]
    found = [arena["system_mem"], arena["states"]["top"]["bytes"], answers["heap"]["mmapped"]["bytes"]]
    assert found == [int(text) for text in counted.groups()]
    if "libc.so.6" in result.stdout.split("Shared Object Library")[-1]:
        assert "There are 2 copies of libc" in result.stdout


@pytest.mark.parametrize("before", [(), WITHOUT], ids=["with", "without"])
def test_another_copy_of_glibc(gdb: Gdb, answers: Answers, tmp_path: Path, before: tuple[str, ...]) -> None:
    """dlmopen loads one: the program's own is shown and explained, the other's is not taken for it."""
    program, library = loading_another(tmp_path)
    listing = f"heap events {answers.into('events')}"
    result = gdb(
        "heap catch", "break stop_here", "run", f"heap {answers.into('heap')}", listing, "heap why-grow -all",
        "info sharedlibrary",
        before=before, program=program, args=[str(library)],
    )  # fmt: skip
    result.succeeded()
    counted = re.search(r"^mallinfo (\d+) (\d+) (\d+)$", result.stdout + result.stderr, re.MULTILINE)
    assert counted, result.describe()
    (arena,) = answers["heap"]["arenas"]
    mmapped = answers["heap"]["mmapped"]
    found = [arena["system_mem"], arena["states"]["top"]["bytes"], mmapped["bytes"]]
    assert found == [int(text) for text in counted.groups()]
    if len(re.findall(r"/libc(?:-2\.\d+)?\.so", result.stdout.split("Shared Object Library")[1])) < 2:
        pytest.skip("this GDB does not know what dlmopen has loaded")
    assert "There are 2 copies of libc" in result.stdout
    mine = [event for event in answers.events("events") if event["kind"] == "malloc"]
    foreign = [event for event in mine if any(frame["function"] == "use" for frame in event["frames"])]
    assert len(foreign) > 2
    for event in foreign:
        assert (event["arena"], event["path"], event["predicted"], event["chunk_size_range"]) == (None,) * 4
        assert event["unpredicted_because"].startswith("It is the malloc of another copy of libc (dlmopen loads one)")
    assert foreign[0]["unpredicted_because"] in result.stdout
    assert [event["path"] for event in mine if event not in foreign and event["delta"] > 400000] == ["mmap-chunk"]


@pytest.mark.parametrize("program", ["seed", "cplus", "threads"])
def test_glibcs_own_is_not_taken_for_another(gdb: Gdb, answers: Answers, programs: Programs, program: str) -> None:
    """Nothing is said where the malloc is glibc's."""
    result, events = recorded(gdb, answers, programs[program])
    assert "not glibc's" not in result.stdout
    assert not [event for event in events if event["purpose"].startswith("another malloc")]


def test_what_glibcs_malloc_has_all_the_same(gdb: Gdb, answers: Answers, tmp_path: Path) -> None:
    """A library may call glibc's malloc by its other name: its arenas are shown, and its calls explained."""
    path, program, source = library("libjemalloc.so.2"), tmp_path / "both", tmp_path / "both.c"
    names = subprocess.run([needs("nm"), "-D", str(path)], capture_output=True, text=True, check=True).stdout
    if re.search(r" [A-Z] (__libc_malloc|__malloc_hook)$", names, re.MULTILINE):
        pytest.skip("this jemalloc takes what is called by the other name too")
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
    assert [event["path"] for event in mine] == ["brk-first", "mmap-chunk"]
    assert all(to_the_byte(event) for event in mine)


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
    assert any(known_to_be(event, "chunk_size", 300016) for event in mine)
    assert all(to_the_byte(event) for event in mine)


#: Takes memory in both of musl's ways, and says how much its program has of it.
FOR_MUSL = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
void *kept[100];
void stop_here(void) {}
int main(void)
{
    for (int i = 0; i < 100; i++)
        kept[i] = malloc(100 * i + 1);
    for (int i = 0; i < 100; i += 2)
        free(kept[i]);
    kept[0] = malloc(1 << 20);
    stop_here();
    puts(strerror(kept[0] == NULL));
    return 0;
}
"""
USES_MUSL = "This program uses musl's C library; gdbheap knows glibc's malloc only."
ALL = (*LOOKING, "heap params", "heap bins", "heap tcache", "heap check", "heap map", "heap predict malloc 8")


def with_musl(folder: Path, *linking: str) -> Path:
    """Return a program that was built with musl."""
    source, program = folder / "it.c", folder / "it"
    source.write_text(FOR_MUSL)
    line = [needs("musl-gcc"), "-g", "-O0", *linking, "-o", str(program), str(source)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.parametrize("linking", [(), ("-static",), ("-static", "-s")], ids=["dynamic", "static", "stripped"])
def test_musl(gdb: Gdb, tmp_path: Path, linking: tuple[str, ...]) -> None:
    """Its own texts tell it in a static program without symbols."""
    program = with_musl(tmp_path, *linking)
    stop = "catch syscall exit_group" if "-s" in linking else "break stop_here"
    result = gdb(stop, "run", *ALL, program=program)
    result.has_no_internal_error()
    assert result.status == 1
    assert result.stderr.count(USES_MUSL) == len(ALL), result.describe()


@pytest.mark.parametrize("linking", [(), ("-static",)], ids=["dynamic", "static"])
def test_recording_musl(gdb: Gdb, answers: Answers, tmp_path: Path, linking: tuple[str, ...]) -> None:
    """Its calls are those that strace sees, and none is called glibc's malloc's, or explained."""
    program = with_musl(tmp_path, *linking)
    result, events = recorded(gdb, answers, program)
    assert all(event["kind"] not in ("malloc", "loader") and event["predicted"] is None for event in events)
    calls = trace(tmp_path / "strace", program).calls
    assert [call.syscall for call in calls] == [event["syscall"] for event in events]
    assert any(event["delta"] > 1 << 20 for event in events)
    if not linking:
        assert {event["purpose"].split(":")[0] for event in events[-20:]} == {"musl's C library"}
        assert said(result.stdout.split("rows")[0], "ld-musl-x86_64.so.1") == 1


DEBUGGING = "libc_malloc_debug.so.0"


@pytest.mark.parametrize("how", ["glibc.malloc.check=3", "MALLOC_CHECK_"])
def test_glibcs_debugging_malloc(gdb: Gdb, answers: Answers, programs: Programs, how: str) -> None:
    """From 2.34 on the checks are in a library with a main_arena of its own; what is where is said."""
    if glibc_version() < (2, 34):
        pytest.skip("malloc checks itself there")
    environment = [f"set environment LD_PRELOAD {DEBUGGING}", "set environment MALLOC_CHECK_ 3"]
    if how != "MALLOC_CHECK_":
        environment.append(f"set environment GLIBC_TUNABLES {how}")
    listing = f"heap events {answers.into('events')}"
    result = gdb(
        "heap catch", "break stop_here", "run", *LOOKING[:-1], listing, f"heap params {answers.into('params')}",
        "info sharedlibrary", before=environment, program=programs["growth"],
    )  # fmt: skip
    result.has_no_internal_error()
    if DEBUGGING not in result.stdout.split("Shared Object Library")[-1]:
        pytest.skip(f"{DEBUGGING} is not installed")
    names = {item["name"]: item["value"] for item in answers["params"]["params"]}
    assert names["n_mmaps"] == 0
    assert "tcache_count" in names, "libc's own mp_ has it; the library's has not"
    events = answers.events("events")
    if how != "MALLOC_CHECK_" and said(result.stderr, DEBUGGING):
        nothing_is_glibcs(events, DEBUGGING)
        assert said(result.stderr, DEBUGGING) == len(LOOKING) - 1
        assert "compiled once more with its checks" in result.stderr


def test_glibcs_debugging_malloc_that_checks_nothing(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """It hands everything to glibc's: those arenas are shown, and its calls explained, to the byte."""
    environment = [f"set environment LD_PRELOAD {DEBUGGING}"]
    result = gdb(
        "heap catch", "break stop_here", "run", f"heap {answers.into('heap')}", "heap",
        f"heap events {answers.into('events')}", "info sharedlibrary", before=environment, program=programs["growth"],
    )  # fmt: skip
    if DEBUGGING not in result.stdout.split("Shared Object Library")[-1]:
        pytest.skip(f"{DEBUGGING} is not installed")
    result.succeeded()
    assert said(result.stdout, DEBUGGING)
    assert answers["heap"]["arenas"][0]["states"]["used"]["chunks"] > 40
    grown = [event for event in answers.events("events") if event["path"] == "brk-extend"]
    assert len(grown) > 10
    assert all(to_the_byte(event) for event in grown)
