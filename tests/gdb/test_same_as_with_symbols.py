"""Promise: without glibc's debug symbols each figure is the one that they give, or unknown, or a range that has it.

The same program runs twice, at the same addresses, and what is answered in JSON is compared field by field.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.gdb.test_events_strace import one_for_one
from tests.gdb.test_targets import own_libc
from tests.gdb.test_without_symbols import name_of, without_resident
from tests.support.debugger import Answers, Gdb
from tests.support.environment import needs
from tests.support.programs import Programs
from tests.support.strace import trace
from tests.support.symbols import WITHOUT, debug_file, needs_symbols

#: What each command answers is compared as it is. `heap params -how` is about the difference itself.
READING = (
    "heap",
    "heap arenas",
    "heap top",
    "heap params",
    "heap chunks -all",
    "heap bins -all",
    "heap tcache -all",
    "heap map",
    "heap check",
)

#: Purposes that say less than others, and which those are.
VAGUE: Mapping[str, tuple[str, ...]] = {
    "a mapping": (
        "a chunk that is a mapping of its own",
        "main_arena's heap, where the break cannot be moved",
        "the heap of a thread's arena",
    ),
    "the loader's own memory: link maps, search paths, or static TLS": (
        "link maps and search paths (the loader's own malloc)",
        "static TLS and thread control block",
    ),
}
#: Reasons for an arena that "thread" (how the thread came by it is not certain) stands for.
KEPT_BY_THE_THREAD = ("thread", "first-thread", "made-for-thread", "left-over", "shared")
#: What is different in two runs, or what without symbols is said besides.
NOT_COMPARED = frozenset({"frames", "time", "tid", "process", "chunk_size_from", "unpredicted_because"})


def differences(known: Any, found: Any, where: str = "") -> Iterator[str]:
    """Yield where ``found`` says something else than ``known``; what it does not know is None, or an empty list."""
    if found is None or found == [] or known == found:
        return
    if isinstance(known, dict) and isinstance(found, dict) and known.keys() == found.keys():
        for key, value in known.items():
            yield from differences(value, found[key], f"{where}.{key}")
    else:
        yield f"{where}: {known!r}, not {found!r}"


def event_differences(known: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    """Yield what of an event is wrong."""
    where = f"event {known['id']} ({known['syscall']})"
    for key in known.keys() - NOT_COMPARED:
        one, other = known[key], found[key]
        if key == "chunk_size_range" and other is not None:
            low, high = other
            size = known["chunk_size"]
            if size is None or not low <= size <= high or high - low > 0x1000:
                yield f"{where}: chunk_size {size}, not in {other}"
        elif key == "purpose":
            if one != other and one not in VAGUE.get(other, ()):
                yield f"{where}: {one!r}, not {other!r}"
        elif key == "arena_choice" and one is not None and other is not None:
            yield from _choice_differences(one, other, where)
        else:
            yield from differences(one, other, f"{where}.{key}")
    if found["predicted"] is None and not found["unpredicted_because"] and found["kind"] == "malloc":
        yield f"{where}: there is no prediction, and no reason why not"
    # With symbols inlined functions are frames too.
    places = {frame["pc"] for frame in known["frames"]}
    if not known["frames_left_out"]:
        yield from (f"{where}: {frame} is no caller" for frame in found["frames"] if frame["pc"] not in places)


def _choice_differences(known: dict[str, Any], found: dict[str, Any], where: str) -> Iterator[str]:
    same = known["reason"] == found["reason"]
    vaguer = found["reason"] == "thread" and known["reason"] in KEPT_BY_THE_THREAD
    if found["reason"] is not None and not same and not vaguer:
        yield f"{where}.arena_choice: {known['reason']}, not {found['reason']}"
    # What one thread alone makes unimportant is only read where nothing tells that there is one.
    unread = {"thread_arena"} if known["single_thread"] else set()
    for key in known.keys() - {"reason", "why"} - unread:
        yield from differences(known[key], found[key], f"{where}.arena_choice.{key}")


def recorded(gdb: Gdb, folder: Path, program: Path, args: Sequence[str], before: Sequence[str]) -> list[dict[str, Any]]:
    """Return the events of a recorded run to the program's end."""
    folder.mkdir()
    answers = Answers(folder)
    done = gdb(
        "heap catch", "run", f"heap events {answers.into('events')}", "heap why-grow -all",
        program=program, args=args, before=before,
    ).succeeded()  # fmt: skip
    assert "(not exact)" not in done.stdout
    return answers.events("events")


def compare(known: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]], share: float) -> None:
    """Fail where an event of ``found`` says something else than that of ``known``, or where too little is known.

    ``share`` is that of the growths of main_arena which must be explained to the byte: it cannot be all where the
    chunk that is returned is not the one that was needed, as with memalign.
    """
    calls = [[(event["thread"], event["syscall"]) for event in events] for events in (known, found)]
    assert calls[0] == calls[1]
    wrong = [text for one, other in zip(known, found) for text in event_differences(one, other)]
    assert not wrong, "\n".join(wrong[:20])
    grown = [
        (one, other)
        for one, other in zip(known, found)
        if one["path"] in ("brk-first", "brk-extend") and one["exact"] and one["delta"] > 0
    ]
    for one, other in grown:
        assert other["arena"] == one["arena"]
        assert other["chunk_size"] or other["chunk_size_range"], (one, other)
    exact = sum(other["exact"] is True for _, other in grown)
    assert exact >= share * len(grown), f"{exact} of {len(grown)}"


#: Fixtures with one thread, or whose threads take turns.
FIXTURES = (
    *(("seed",), ("growth",), ("many",), ("usable",), ("totals",), ("foreign",), ("cplus",), ("callers",), ("deep",)),
    *(("frees",), ("lesson",), ("late",)),
)
#: Modes of c_fixtures/paths.c.
MODES = (
    *("data-limit", "no-data", "no-data-threads", "blocked", "blocked-first", "blocked-large", "top-pad", "threshold"),
    *("fixed-threshold", "mmap-max", "aligned", "callers", "resize", "arenas", "arena-max", "one-arena", "arena-test"),
    *("arena-again", "arena-retry", "heaps", "heaps-of-two", "larger-than-heaps", "larger-than-heaps-mapped"),
    *("no-arena", "one-heap", "second-heap-refused", "trims", "trim-grows", "trim-arenas", "heap-trims"),
    *("foreign-before", "foreign-between", "foreign-trimmed", "foreign-down", "foreign-raw", "impossible"),
    *("impossible-threads", "cross-free", "fragmented", "small"),
)


@pytest.mark.parametrize("line", [*FIXTURES, *(("paths", mode) for mode in MODES)], ids=" ".join)
def test_recorded(gdb: Gdb, programs: Programs, tmp_path: Path, line: tuple[str, ...]) -> None:
    needs_symbols(gdb)
    program, args = programs[line[0]], line[1:]
    known = recorded(gdb, tmp_path / "with", program, args, ())
    found = recorded(gdb, tmp_path / "without", program, args, WITHOUT)
    compare(known, found, 0.9 if line in FIXTURES else 0)


#: Programs that nobody wrote for this, most of them without debug symbols of their own.
ORDINARY = (("ls", "/"), ("sort", "/etc/passwd"), ("perl", "-e", "@a=map{;'x'x$_}1..3000"), ("xz", "--help"))


@pytest.mark.parametrize("line", ORDINARY, ids=" ".join)
def test_recorded_programs(gdb: Gdb, tmp_path: Path, line: tuple[str, ...]) -> None:
    needs_symbols(gdb)
    program = Path(needs(line[0]))
    same = "set environment PERL_HASH_SEED 0"  # perl's heap is another one each time without it
    known = recorded(gdb, tmp_path / "with", program, line[1:], (same,))
    found = recorded(gdb, tmp_path / "without", program, line[1:], (same, *WITHOUT))
    compare(known, found, 0.9)


#: Fixtures that stop in stop_here; their heaps are damaged, large, shared by threads, or full of holes.
STOPPED = ("census", "deep", "foreign", "hostile", "leaky", "many", "threads", "totals", "usable")


@pytest.mark.parametrize("name", STOPPED)
def test_read(gdb: Gdb, programs: Programs, tmp_path: Path, name: str) -> None:
    """The heap, live: every command that reads it."""
    needs_symbols(gdb)
    answers = []
    for folder, before in (("with", ()), ("without", WITHOUT)):
        (tmp_path / folder).mkdir()
        found = Answers(tmp_path / folder)
        commands = [f"{command} {found.into(name_of(command))}" for command in READING]
        done = gdb("break stop_here", "run", *commands, program=programs[name], before=before)
        done.has_no_internal_error()
        answers.append({command: without_resident(found[name_of(command)]) for command in READING})
    known, found_without = answers
    assert known["heap"]["arenas"]
    wrong = [text for command in READING for text in differences(known[command], found_without[command], command)]
    assert not wrong, "\n".join(wrong[:20])


def with_names_of_functions(folder: Path) -> Path:
    """Return a folder with a copy of libc that has a table of its functions, as Fedora's has: .gnu_debugdata."""
    for tool in ("nm", "objcopy", "xz"):
        needs(tool)
    libc, debug = own_libc()[0], debug_file()
    if debug is None:
        pytest.skip("libc's debug symbols, which the table is made of, are not installed")

    def names(*line: str) -> set[str]:
        listed = subprocess.run(["nm", "--format=posix", "--defined-only", *line], capture_output=True, text=True)
        return {row.split()[0].split("@")[0] for row in listed.stdout.splitlines() if row.split()[1] in "TtWi"}

    keep, table = folder / "keep", folder / "table"
    keep.write_text("\n".join(sorted(names(str(debug)) - names("-D", str(libc)))))
    subprocess.run(["objcopy", "-S", f"--keep-symbols={keep}", str(debug), str(table)], check=True)
    subprocess.run(["xz", str(table)], check=True)
    place = folder / "lib"
    place.mkdir()
    line = ["objcopy", "--add-section", f".gnu_debugdata={table}.xz", str(libc), str(place / "libc.so.6")]
    subprocess.run(line, check=True, capture_output=True)
    return place


@pytest.mark.parametrize("name", ["growth", "usable", "totals", "foreign"])
def test_names_without_variables(gdb: Gdb, programs: Programs, tmp_path: Path, name: str) -> None:
    """With a table of functions alone: they have names then, and what they were called with is found as without."""
    needs_symbols(gdb)
    place = with_names_of_functions(tmp_path)
    setting = f"set environment LD_LIBRARY_PATH {place}"
    known = recorded(gdb, tmp_path / "with", programs[name], (), (setting,))
    found = recorded(gdb, tmp_path / "without", programs[name], (), (*WITHOUT, setting))
    functions = {frame["function"] for event in found for frame in event["frames"]}
    if not any((function or "").startswith("sysmalloc") for function in functions):
        pytest.skip("this GDB does not read .gnu_debugdata")
    compare(known, found, 0.9)


@pytest.mark.parametrize("linking", [("-static",), ("-static-pie",)])
@pytest.mark.parametrize("name", ["growth", "usable"])
def test_static_programs(gdb: Gdb, programs: Programs, tmp_path: Path, name: str, linking: tuple[str, ...]) -> None:
    """They have no debug symbols of glibc's: what is predicted is what strace sees, growth by growth."""
    program = tmp_path / name
    line = [
        needs("gcc"),
        "-w",
        "-g",
        "-O0",
        "-pthread",
        *linking,
        "-o",
        str(program),
        str(programs.source(f"{name}.c")),
    ]
    subprocess.run(line, check=True)
    found = recorded(gdb, tmp_path / "answers", program, (), ())
    one_for_one(found, trace(tmp_path / "strace", program).calls)
    mine = [event for event in found if event["kind"] == "malloc"]
    grown = [event for event in mine if event["syscall"] == "brk" and event["delta"] > 0]
    assert len(grown) > 15
    assert sum(event["exact"] is True for event in grown) >= 0.9 * len(grown)
    assert all(event["exact"] is not False for event in found)
    assert all(event["exact"] or event["unpredicted_because"] for event in mine)
    assert {event["arena"]["name"] for event in grown} == {"main_arena"}


def test_a_static_program_without_names(gdb: Gdb, programs: Programs, tmp_path: Path) -> None:
    """Nothing tells what of it is the C library: no call is said to be the program's own, or malloc's."""
    program = tmp_path / "growth"
    source = str(programs.source("growth.c"))
    subprocess.run([needs("gcc"), "-w", "-s", "-pthread", "-static", "-o", str(program), source], check=True)
    found = recorded(gdb, tmp_path / "answers", program, (), ())
    one_for_one(found, trace(tmp_path / "strace", program).calls)
    assert {event["kind"] for event in found} == {"other"}
    assert all(event["predicted"] is None for event in found)
    assert any("perhaps of a C library" in event["purpose"] for event in found)
