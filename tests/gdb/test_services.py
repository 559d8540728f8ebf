"""Promise: memory that is asked for on the program's behalf is named: whose it is, who the user's own caller was.

c_fixtures/services.c has a mode for each service; strace says which calls there were.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.gdb.test_events_strace import one_for_one
from tests.support.debugger import Answers, Gdb, line_of
from tests.support.environment import glibc_version, plain_environment
from tests.support.procmaps import MAPS, mapped_bytes
from tests.support.programs import Programs
from tests.support.strace import trace
from tests.support.symbols import known_to_be, to_the_byte, wanted

pytestmark = pytest.mark.skipif(glibc_version() == (0, 0), reason="the C library is not glibc 2.34 or later")

GCONV = Path("/usr/lib/x86_64-linux-gnu/gconv/UTF-16.so")
LOCALE = "C.UTF-8"


class Run:
    """One mode, recorded from main on: what was before is the loader's and the same in all of them."""

    def __init__(self, gdb: Gdb, answers: Answers, programs: Programs, mode: str, *file: Path | str) -> None:
        self.source = programs.source("services.c")
        program, args = programs["services"], [mode, *(str(part) for part in file)]
        self.text = (
            gdb(
                "heap catch",
                "starti",
                answers.python("before", {"maps": MAPS}),
                "catch syscall exit_group",
                "continue",
                answers.python("after", {"maps": MAPS}),
                f"heap events -all {answers.into('events')}",
                "echo EXPLAINED\\n",
                "heap why-grow -all",
                before=[f"set environment LC_ALL {LOCALE}"],
                program=program,
                args=args,
            )
            .succeeded()
            .stdout.split("EXPLAINED\n")[1]
        )
        self.all = answers.events("events")
        traced = trace(answers.folder / "strace", program, args, {**plain_environment(), "LC_ALL": LOCALE})
        one_for_one(self.all, traced.of_thread(0) if mode == "popen" else traced.calls)  # popen makes a process
        gained = mapped_bytes(answers["after"]["maps"]) - mapped_bytes(answers["before"]["maps"])
        assert sum(event["delta"] for event in self.all) == gained
        for event in self.all:
            assert to_the_byte(event) if event["kind"] == "malloc" else event["exact"] is None, event
        self.events = [event for event in self.all if self.called_from(event, "main") or event["thread"] > 1]

    def called_from(self, event: dict[str, Any], function: str) -> bool:
        return function in [frame["function"] for frame in event["frames"]]

    def purposes(self, kind: str | None = None) -> list[str]:
        """Return what the events are for, each purpose once, in their order."""
        chosen = [event for event in self.events if kind in (None, event["kind"])]
        return list(dict.fromkeys(event["purpose"] for event in chosen))

    def of_line(self, text: str) -> list[dict[str, Any]]:
        """Return the events among whose callers is the source line that contains ``text``."""
        line = line_of(self.source, text)
        return [
            event
            for event in self.events
            if any(frame["line"] == line and (frame["file"] or "").endswith("services.c") for frame in event["frames"])
        ]

    def chains(self, events: Sequence[dict[str, Any]]) -> str:
        """Return the functions that the events were called through, outermost first."""
        return "\n".join(" ".join(str(frame["function"]) for frame in event["frames"][::-1]) for event in events)


def test_dlopen(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The library's segments, its constructor's malloc, its thread-local variables for each thread, its end."""
    run = Run(gdb, answers, programs, "dlopen", programs["plugin.so"])
    loader = run.purposes("loader")
    for part in ("headers and constants", "code", "data"):
        assert f"maps plugin.so: {part}" in loader
    assert "makes relocated data of plugin.so read-only (RELRO)" in loader
    assert loader[-1] == "unmaps plugin.so"
    mapped = [event for event in run.events if event["kind"] == "malloc" and event["syscall"] == "mmap"]
    asked = [event for event in mapped if event["path"] == "mmap-chunk"]
    # Without a tcache (2.43) the thread has no arena yet, and the new one has room for it.
    assert [event["thread"] for event in asked] == ([1, 1, 2] if glibc_version() < (2, 43) else [1, 1])
    assert all(known_to_be(event, "request", size) for event, size in zip(asked, (150_000, 200_000, 200_000)))
    assert "dlopen" in run.chains(run.of_line("dlopen(file"))
    assert "(thread-local variables of a library)" in run.text
    assert "use_plugin () at plugin.c" in run.text
    assert "(opening a library (dlopen))" in run.text


def test_iconv(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Its list of modules, and the modules that it loads, at the program's own line."""
    if not GCONV.exists():
        pytest.skip("there is no module of iconv's for UTF-16")
    run = Run(gdb, answers, programs, "iconv")
    assert run.of_line("iconv_open(") == run.events
    assert "iconv's list of modules" in run.purposes("other")
    assert "maps UTF-16.so: code" in run.purposes("loader")
    assert "iconv_open" in run.text


def test_locale(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """Each file of the locale, or the archive that has all of them."""
    run = Run(gdb, answers, programs, "locale")
    found = run.purposes("locale")
    assert "locale archive" in found or "locale data, LC_CTYPE" in found
    assert run.of_line("setlocale(LC_ALL") == run.events


def test_getaddrinfo(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The program's first malloc is inside it, and inside that one is the thread's tcache."""
    run = Run(gdb, answers, programs, "resolve")
    (grown,) = [event for event in run.events if event["path"] == "brk-first"]
    assert grown in run.of_line("getaddrinfo(")
    assert re.search(r"getaddrinfo -> .*malloc\(\d+\) +\(getaddrinfo's result\)", run.text)
    if glibc_version() < (2, 43):  # there it is made by the first free
        assert re.search(r"malloc\(\d+\) -> tcache_init -> \d+ bytes +\(the thread's tcache\)", run.text)


def test_streams_and_folders(gdb: Gdb, answers: Answers, programs: Programs, tmp_path: Path) -> None:
    """A long line: fopen's stream is the first, getline's buffer grows by mremap."""
    lines = tmp_path / "lines"
    lines.write_text("short\n" + "x" * 700_000 + "\n")
    run = Run(gdb, answers, programs, "lines", lines)
    assert "(a stdio stream)" in run.text
    grown = run.of_line("while (getline(")
    assert "mremap-chunk" in [event["path"] for event in grown]
    assert "(getline's buffer)" in run.text


def test_a_stream_that_maps_its_file(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """stdio's own mapping of the file, and that it gives it back."""
    file = programs.source("services.c")
    run = Run(gdb, answers, programs, "mapped", file)
    assert run.purposes("stdio") == [f"a stream that reads {file}", "a stream that reads a mapped file"]
    (made, gone) = [event for event in run.events if event["kind"] == "stdio"]
    assert made["delta"] == -gone["delta"]


def test_popen(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """The stack of the child is nobody's malloc; the stream is malloc's."""
    run = Run(gdb, answers, programs, "popen")
    assert run.purposes("other") == ["stack of the child that posix_spawn makes"]
    assert "(a stdio stream to another program)" in run.text
    assert run.of_line('popen("echo') == run.events


@pytest.mark.parametrize(
    ("line", "path", "request_", "name"),
    [
        ("= strdup(text)", "mmap-chunk", 400_000, "strdup"),
        ("= strndup(text", "mmap-chunk", 300_001, "strndup"),
        ("= reallocarray(NULL", "mmap-chunk", 250_000, "malloc"),
        ("= reallocarray(copies", "mremap-chunk", 900_000, "realloc"),
        ("= aligned_alloc(", "mmap-chunk", 528_432, "memalign"),
    ],
)
def test_copies(gdb: Gdb, answers: Answers, programs: Programs, line: str, path: str, request_: int, name: str) -> None:
    """malloc by other names, each at the line that the user wrote: reallocarray itself leaves no frame."""
    run = Run(gdb, answers, programs, "copies")
    (event,) = [event for event in run.of_line(line) if event["path"] == path]
    assert known_to_be(event, "request", request_)
    number = line_of(run.source, line)
    # What leaves no frame is known, if at all, by the name that the program calls it by.
    others = {"memalign": r"(memalign|aligned_alloc|0x\w+ in libc)", "malloc": "(malloc|reallocarray)"}
    alias = name if wanted() else others.get(name, name)
    assert re.search(rf"copy \(\) at services\.c:{number} .*\n +{alias}\b", run.text)


def test_code_of_the_programs_own_making(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """A mapping that can be written and run is the program's, and so is what the code in it maps."""
    run = Run(gdb, answers, programs, "jit")
    (place,) = run.of_line("PROT_READ | PROT_WRITE | PROT_EXEC")
    assert (place["kind"], place["args"][2]) == ("program", 7)
    assert place["purpose"] == "the program's own mmap in make_code"
    (made,) = [event for event in run.all if event["args"][1:3] == [0x5000, 3]]
    assert made["frames"][0]["pc"] in range(place["result"], place["result"] + 4096)
    assert made["kind"] == "program"
    assert {event["kind"] for event in run.events} == {"program"}


def test_stacks_of_threads(gdb: Gdb, answers: Answers, programs: Programs) -> None:
    """A stack with its guard, at the pthread_create that wanted it; no guard where none was wanted."""
    run = Run(gdb, answers, programs, "stacks")
    made = [event for event in run.of_line("pthread_create(&thread, &wish, rest") if event["kind"] == "thread-stack"]
    maps = [event["args"][1] for event in made if event["purpose"] == "stack of a new thread" and event["delta"]]
    # Up to 2.33 a stack of so many bytes that caches would alias gets a page more (MULTI_PAGE_ALIASING).
    small = (64 << 10) + (4096 if glibc_version() < (2, 34) else 0)
    assert [size for size in maps if size > 0] == [small, (1 << 20) + 8192, (64 << 20) + 16384]
    assert "stack of a thread that has ended" in run.purposes("thread-stack")
    (table,) = [event for event in run.events if event["path"] == "brk-first"]
    assert table in run.of_line("pthread_create(&thread, &wish, rest")
    assert "_dl_allocate_tls -> allocate_dtv -> calloc" in run.text
